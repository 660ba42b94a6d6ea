"""Casts that round to the nearest."""

from __future__ import annotations

import triton
import triton.language as tl

from mixnoise_kernels.device import INTERPRETED

_INTERPRETED = tl.constexpr(INTERPRETED)


@triton.jit
def narrow(x, DTYPE: tl.constexpr):
    """x in a dtype that may be narrower: the interpreter would cut bfloat16 off."""
    if _INTERPRETED and tl.bfloat16 == DTYPE and x.dtype == tl.float32:
        bits = x.to(tl.uint32, bitcast=True)
        to_even = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        # A NaN whose bits are all below the cut would become inf.
        narrowed = tl.where(x == x, to_even, 0x7FC0).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        narrowed = x.to(DTYPE)
    return narrowed
