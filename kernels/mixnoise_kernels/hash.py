"""The counter-based random words of mixnoise: the same bits as on any other device.

words = hash(seed, stream, view, row, block of columns): pcg4d (Jarzynski and Olano, JCGT 2020) on a
key from SplitMix64's finaliser (Steele, Lea and Flood, OOPSLA 2014), and a last xorshift.
"""

from __future__ import annotations

import triton
import triton.language as tl

STREAM_ROW = tl.constexpr(0)
STREAM_KIND = tl.constexpr(1)
STREAM_ELEMENT = tl.constexpr(2)
_N_STREAMS = tl.constexpr(4)
_GOLDEN = tl.constexpr(0x9E3779B97F4A7C15)
_MULTIPLIER_1 = tl.constexpr(0xBF58476D1CE4E5B9)
_MULTIPLIER_2 = tl.constexpr(0x94D049BB133111EB)


@triton.jit
def _mix64(k):
    k = (k ^ (k >> 30)) * _MULTIPLIER_1
    k = (k ^ (k >> 27)) * _MULTIPLIER_2
    return k ^ (k >> 31)


@triton.jit
def _lcg(v):
    return v * 1664525 + 1013904223


@triton.jit
def words(seed_ptr, STREAM: tl.constexpr, view, row, block):
    """Four uint32 words for each row (int32) and block of columns (int32), which broadcast."""
    seed = tl.load(seed_ptr).to(tl.uint64, bitcast=True)
    stream = tl.cast(view, tl.uint64) * _N_STREAMS + (STREAM + 1)
    key = _mix64(_mix64(seed + _GOLDEN) + stream * _GOLDEN)
    x = _lcg(key.to(tl.uint32))
    y = _lcg((key >> 32).to(tl.uint32))
    z = _lcg(row.to(tl.uint32, bitcast=True))
    w = _lcg(block.to(tl.uint32, bitcast=True))
    x += y * w
    y += z * x
    z += x * y
    w += y * z
    x ^= x >> 16
    y ^= y >> 16
    z ^= z >> 16
    w ^= w >> 16
    x += y * w
    y += z * x
    z += x * y
    w += y * z
    return x ^ (x >> 16), y ^ (y >> 16), z ^ (z >> 16), w ^ (w >> 16)
