"""Logarithms and normal deviates, which the compiler's own make dear.

``APPROXIMATE`` takes the hardware's instructions, for data of half precision, whose rounding hides
them: lg2 errs by 2^-22, sin and cos by 2^-20.9 (PTX ISA, floating point instructions). Inline
assembly cannot be interpreted, so tests on the CPU never run it; benchmarks/gpu checks it.
Without it the polynomials here err by two units in the last place of float32. Their coefficients
interpolate at Chebyshev nodes.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Stands for log2(0): finite, so that no product with a zero coefficient is NaN, and exp2 of any
# share of it that occurs is 0.
LOG2_ZERO = tl.constexpr(-1e30)


@triton.jit
def log2(x, APPROXIMATE: tl.constexpr):
    """log2 of float32 or float64; LOG2_ZERO for 0, NaN for what is below."""
    if x.dtype == tl.float64:
        y = tl.log2(x)
    elif APPROXIMATE:
        y = tl.inline_asm_elementwise(
            "lg2.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        y = _log2_float32(x)
    return tl.maximum(y, LOG2_ZERO, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _log2_float32(x):
    is_subnormal = x < 2.0**-126
    bits = tl.where(is_subnormal, x * 2.0**24, x).to(tl.int32, bitcast=True)
    # x = 2^exponent (1 + f) with 1 + f from root 1/2 to root 2.
    exponent = (bits - 0x3F3504F3) >> 23
    f = (bits - (exponent << 23)).to(tl.float32, bitcast=True) - 1.0
    p = 0.12310968 * f - 0.20586188
    p = p * f + 0.21607822
    p = p * f - 0.23916988
    p = p * f + 0.28790325
    p = p * f - 0.36069328
    p = p * f + 0.48091075
    p = p * f - 0.72134745
    p = p * f + 1.442695
    y = p * f + (exponent - tl.where(is_subnormal, 24, 0)).to(tl.float32)
    special = tl.where(x < 0, float("nan"), tl.where(x == 0, LOG2_ZERO, x))
    return tl.where((x > 0) & (x < float("inf")), y, special)


@triton.jit
def normal_pair(radius_word, angle_word, APPROXIMATE: tl.constexpr):
    """Two standard normal deviates by Box and Muller, float32, from two uint32 words.

    The radius has 31 bits, exact towards zero, and so reaches 6.6 standard deviations.
    """
    u = ((radius_word & 0x7FFFFFFF).to(tl.int32).to(tl.float32) + 0.5) * 2.0**-31
    if APPROXIMATE:
        angle = angle_word.to(tl.int32, bitcast=True).to(tl.float32) * (3.14159265 * 2.0**-31)
        cosine = tl.inline_asm_elementwise(
            "cos.approx.f32 $0, $1;", "=f,f", [angle], dtype=tl.float32, is_pure=True, pack=1
        )
        sine = tl.inline_asm_elementwise(
            "sin.approx.f32 $0, $1;", "=f,f", [angle], dtype=tl.float32, is_pure=True, pack=1
        )
        # Near 1 the logarithm may err to above 0.
        radius = tl.sqrt(tl.maximum(log2(u, True) * -1.3862944, 0.0))
    else:
        cosine, sine = _cosine_and_sine(angle_word.to(tl.int32, bitcast=True))
        radius = tl.sqrt_rn(log2(u, False) * -1.3862944)
    return cosine * radius, sine * radius


@triton.jit
def _cosine_and_sine(turns):
    """cos and sin of pi turns / 2^31; turns is an int32."""
    quarter = (turns >> 30) + ((turns >> 29) & 1)
    x = (turns - (quarter << 30)).to(tl.float32) * (3.14159265 * 2.0**-31)
    z = x * x
    sine = x + x * z * ((-0.00019587891 * z + 0.008332748) * z - 0.16666664)
    cosine = 1.0 - 0.5 * z + z * z * ((2.4547942e-05 * z - 0.0013888302) * z + 0.041666664)
    is_odd = (quarter & 1) != 0
    c, s = tl.where(is_odd, sine, cosine), tl.where(is_odd, cosine, sine)
    # cos: + - - + in the quarters 0, 1, 2, 3; sin: + + - -.
    return tl.where(((quarter + 1) & 2) != 0, -c, c), tl.where((quarter & 2) != 0, -s, s)
