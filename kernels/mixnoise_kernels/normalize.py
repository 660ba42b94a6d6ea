"""Unit rows and back: what happens to each row on its own, before and after the M x M kernels.

Both views of N rows are laid out one after the other, each padded with rows of zeros to a multiple
of every block size, and each row with zeros to a power of two, so that the M x M kernels load
without masks. Row r of view v is row ``v * n_padded + r``. It is stored as it is or, where float32
is to be multiplied as bfloat16, as two or three terms, one after the other.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mixnoise_kernels.rounding import narrow
from mixnoise_kernels.tiles import split, sum_of_terms

LOG2_E = tl.constexpr(1.4426950408889634)
# |s| <= 1/t, so from here on exp(s), its sums and their reciprocals are normal float32 numbers, and
# no row maximum has to be subtracted: the plain form. Below is the running form.
PLAIN_FROM = tl.constexpr(0.0229)


@triton.jit
def temperature_of(pointer, number, FROM_TENSOR: tl.constexpr):
    """The temperature in float32; one on the device is never read by the host. NaN if not > 0."""
    t = number
    if FROM_TENSOR:
        t = tl.load(pointer).to(tl.float32)
    return tl.where(t > 0, t, float("nan"))


@triton.jit
def factor_of_rows(t):
    """Unit rows are multiplied by it. In the plain form a product is then s log2(e) as it comes."""
    return tl.where(t >= PLAIN_FROM, tl.sqrt_rn(1.0 / t * LOG2_E), 1.0)


@triton.jit
def factor_of_products(t):
    """What makes s log2(e) of a product; in the running form rows times a root might overflow."""
    return tl.where(t >= PLAIN_FROM, 1.0, 1.0 / t * LOG2_E)


@triton.jit
def _normalize(
    z_ptr,
    stride,
    unit_ptr,
    inverse_norm_ptr,
    t,
    n,
    d,
    TINY: tl.constexpr,
    ROUND: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    TERMS: tl.constexpr,
):
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    wide_row = row.to(tl.int64)[:, None]
    column = tl.arange(0, BLOCK_D)[None, :]
    inside = (row < n)[:, None] & (column < d)
    x = tl.load(z_ptr + wide_row * stride + column, mask=inside, other=0.0).to(tl.float32)

    # A power of two, so that neither squares overflow nor all of them underflow.
    largest = tl.max(tl.abs(x), 1)
    scale = tl.where(largest > 2.0**50, 2.0**-100, tl.where(largest < 2.0**-45, 2.0**100, 1.0))
    x *= scale[:, None]
    norm = tl.sqrt_rn(tl.sum(x * x, 1))
    is_zero = norm < TINY * scale
    norm = tl.where(is_zero, 1.0, norm)

    unit = tl.div_rn(x, norm[:, None] + tl.zeros_like(x)) * factor_of_rows(t)
    unit = tl.where(is_zero[:, None], 0.0, unit)
    if ROUND:
        unit = narrow(unit, tl.bfloat16).to(tl.float32)
    place = unit_ptr + wide_row * (BLOCK_D * TERMS) + column
    terms = split(unit, unit_ptr.dtype.element_ty, TERMS)
    for term in tl.static_range(TERMS):
        tl.store(place + term * BLOCK_D, terms[term])
    tl.store(inverse_norm_ptr + row, tl.where(is_zero, 0.0, scale / norm))


@triton.jit(do_not_specialize=["n"])
def normalize_kernel(
    z1_ptr,  # (n, d), any row stride
    z2_ptr,
    unit_ptr,  # (2 n_padded, TERMS, BLOCK_D)
    inverse_norm_ptr,  # (2 n_padded,), float32; 0 for rows of zeros
    temperature_ptr,
    temperature,
    n,
    d,
    n_padded,
    stride1,
    stride2,
    TINY: tl.constexpr,  # smallest normal number of the input's dtype
    FROM_TENSOR: tl.constexpr,
    ROUND: tl.constexpr,  # to bfloat16, but stored in float32
    BLOCK_ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    TERMS: tl.constexpr,
):
    t = temperature_of(temperature_ptr, temperature, FROM_TENSOR)
    # Known at compile time: a choice of pointers would lose what is known of their alignment.
    for view in tl.static_range(2):
        if tl.program_id(1) == view:
            _normalize(
                (z1_ptr, z2_ptr)[view],
                (stride1, stride2)[view],
                unit_ptr + tl.cast(n_padded, tl.int64) * (view * BLOCK_D * TERMS),
                inverse_norm_ptr + view * n_padded,
                t, n, d, TINY, ROUND, BLOCK_ROWS, BLOCK_D, TERMS,
            )  # fmt: skip


@triton.jit
def _normalize_backward(
    z_ptr,
    stride,
    own_ptr,
    positive_ptr,
    inverse_norm_ptr,
    pull_ptr,
    scale_ptr,
    dz_ptr,
    along_ptr,
    n,
    d,
    part_stride,
    PARTS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    TERMS: tl.constexpr,
):
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    wide_row = row.to(tl.int64)[:, None]
    column = tl.arange(0, BLOCK_D)[None, :]
    inside = (row < n)[:, None] & (column < d)
    x = tl.load(z_ptr + wide_row * stride + column, mask=inside, other=0.0).to(tl.float32)
    inverse_norm = tl.load(inverse_norm_ptr + row)[:, None]
    # From x, since the stored unit rows are rounded: at right angles to them is not to x.
    unit = x * inverse_norm

    place = wide_row * BLOCK_D + column
    pull = tl.load(pull_ptr + row)[:, None]
    positive = ()
    for term in tl.static_range(TERMS):
        start = positive_ptr + wide_row * (BLOCK_D * TERMS) + term * BLOCK_D
        positive += (tl.load(start + column),)
    dz = -pull * sum_of_terms(positive)
    for part in tl.static_range(PARTS):
        dz += tl.load(own_ptr + part * part_stride + place)
    dz *= tl.load(scale_ptr)
    along = tl.sum(unit * dz, 1)
    dx = (dz - unit * along[:, None]) * inverse_norm
    tl.store(dz_ptr + wide_row * d + column, narrow(dx, dz_ptr.dtype.element_ty), mask=inside)
    tl.store(along_ptr + row, along)


@triton.jit(do_not_specialize=["n"])
def normalize_backward_kernel(
    z1_ptr,  # (n, d), any row stride
    z2_ptr,
    unit_ptr,  # (2 n_padded, TERMS, BLOCK_D)
    inverse_norm_ptr,
    negatives_ptr,  # (PARTS, 2 n_padded, BLOCK_D), float32: weighted sums of the negatives' rows
    pull_ptr,  # (n_padded,), float32: weight of the positive's row
    scale_ptr,  # (), float32: what the sums lack
    dz1_ptr,  # (n, d), contiguous
    dz2_ptr,
    along_ptr,  # (2 n_padded,), float32: z . dz, of which the temperature's gradient is made
    n,
    d,
    n_padded,
    stride1,
    stride2,
    PARTS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    TERMS: tl.constexpr,
):
    second = tl.cast(n_padded, tl.int64) * BLOCK_D
    for view in tl.static_range(2):
        if tl.program_id(1) == view:
            _normalize_backward(
                (z1_ptr, z2_ptr)[view],
                (stride1, stride2)[view],
                negatives_ptr + view * second,
                unit_ptr + (1 - view) * second * TERMS,
                inverse_norm_ptr + view * n_padded,
                pull_ptr,
                scale_ptr,
                (dz1_ptr, dz2_ptr)[view],
                along_ptr + view * n_padded,
                n, d, 2 * second, PARTS, BLOCK_ROWS, BLOCK_D, TERMS,
            )  # fmt: skip
