"""Base-2 logarithms, by the faster of the two libraries at hand on a CPU.

Two fifths of geometric mixing would be ``torch.log2``: MKL's, on AMD's processors no faster
with AVX-512 than without. On one thread NumPy's takes a quarter of that where it has Intel's short
vector library: on Linux, for processors with AVX-512. Threads of its own would have to wait for
PyTorch's, which spin. It errs by 2 ulp at most, MKL by 0.7; that the logarithm is rounded to
float32 at all costs a power more than either.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from torch import Tensor

_ENOUGH_THREADS = 4  # of PyTorch, to be as fast


def _numpy_has_vectors() -> bool:
    if sys.platform != "linux":
        return False
    loops = np.lib.introspect.opt_func_info(func_name="^log2$", signature="float32")["log2"]
    return not any(loop["current"].startswith("baseline") for loop in loops.values())


_NUMPY_HAS_VECTORS = _numpy_has_vectors()


def log2(x: Tensor) -> Tensor:
    """log2(x) of each element, contiguous; -inf at 0 and NaN below."""
    if (
        _NUMPY_HAS_VECTORS
        and x.is_cpu
        and x.dtype == torch.float32
        and torch.get_num_threads() < _ENOUGH_THREADS
    ):
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        with np.errstate(all="ignore"):
            np.log2(x.numpy(), out=out.numpy())
        return out
    # PyTorch's is several times slower on rows with gaps between them.
    return x.contiguous().log2()
