"""Matrix products, by the faster of the two libraries that PyTorch has for them on a CPU.

``torch.mm`` goes to MKL, which uses AVX-512 on Intel's processors only. oneDNN, which compiled
models call for their linear layers, uses it on every processor that has it. With AVX2 there is
little to gain, and oneDNN has no float64. ``torch.backends.mkldnn.enabled = False`` turns it off
here, too.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _onednn_is_faster() -> bool:
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


_ONEDNN_IS_FASTER = _onednn_is_faster()
# Elements of a tile; with fewer, MKL is done before oneDNN has begun.
_SMALLEST = 2**15


def uses_onednn(a: Tensor) -> bool:
    """Whether products of this device and dtype go to oneDNN, unless they are small."""
    return (
        _ONEDNN_IS_FASTER
        and a.is_cpu
        and a.dtype == torch.float32
        and bool(torch.backends.mkldnn.enabled)
    )


def _by_onednn(a: Tensor, n_elements: int) -> bool:
    return n_elements >= _SMALLEST and uses_onednn(a)


def _linear(x: Tensor, weight: Tensor) -> Tensor:
    """x @ weight.T, of a contiguous x and a weight that is contiguous or the transpose of such.

    A transposed x would be copied; a weight with gaps is a thousand times slower.
    """
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return product


def mm_of_rows(a: Tensor, b: Tensor, buffer: Tensor) -> Tensor:
    """a @ b.T, every row with every row; in the buffer's memory if the library can write there."""
    if _by_onednn(a, len(a) * len(b)):
        return _linear(a, b)
    return torch.mm(a, b.T, out=buffer[: len(a) * len(b)].view(len(a), len(b)))


def add_mm_(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b, one of them a tile; b contiguous if they go to oneDNN."""
    if _by_onednn(a, max(a.numel(), b.numel())):
        total += _linear(a.contiguous(), b.T)
    else:
        total.addmm_(a, b)
