"""What the device can do, measured in the same run as everything that is compared with it."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from benchmarks.gpu.problem import matmul_precision
from benchmarks.gpu.timing import measure

_BLOCK = 1024


@triton.jit
def _exp2_kernel(x_ptr, steps, BLOCK: tl.constexpr):
    """x = exp2(-x), again and again: nothing but exponentials, and none of them subnormal."""
    pointer = x_ptr + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(pointer)
    for _ in range(steps):
        x = tl.exp2(-x)
    tl.store(pointer, x)


def measure_rates(device: torch.device, *, smoke: bool) -> dict[str, float]:
    """Per second: FLOP of square products, bytes read and written by a copy, exponentials."""
    size = 64 if smoke else 8192
    return {
        "bf16_flop": _product(size, torch.bfloat16, "highest", device),
        "tf32_flop": _product(size, torch.float32, "high", device),
        "ieee_flop": _product(size, torch.float32, "highest", device),
        "copy_bytes": _copy(2**10 if smoke else 2**31, device),
        "exp2": _exp2(2 if smoke else 2**14, 3 if smoke else 2**10, device),
    }


def _product(size: int, dtype: torch.dtype, precision: str, device: torch.device) -> float:
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    out = torch.empty_like(a)
    with matmul_precision(precision):
        seconds = measure(lambda: torch.mm(a, b, out=out), device)["median"]
    return 2 * size**3 / seconds


def _copy(size: int, device: torch.device) -> float:
    source = torch.rand(size // 4, device=device)
    target = torch.empty_like(source)
    return 2 * size / measure(lambda: target.copy_(source), device)["median"]


def _exp2(programs: int, steps: int, device: torch.device) -> float:
    x = torch.rand(programs * _BLOCK, device=device)
    seconds = measure(lambda: _exp2_kernel[programs,](x, steps, BLOCK=_BLOCK), device)["median"]
    return len(x) * steps / seconds
