"""The views of a batch: every noise in one kernel, each element read once a view and written once.

A row is cut into four quarters, as one hash serves neighbouring columns of each: position p of
quarter q is column ``q * quarter + p``. The length of a quarter is a multiple of what 16 bytes
hold, so that memory is read and written in such runs. A program has the same positions of all
quarters, of some rows; where every row has a mixing function of its own, of one row.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mixnoise_kernels.elementary import log2, normal_pair
from mixnoise_kernels.hash import STREAM_ELEMENT, words
from mixnoise_kernels.rounding import narrow

LINEAR = tl.constexpr(0)
GEOMETRIC = tl.constexpr(1)
BINARY = tl.constexpr(2)
GAUSSIAN = tl.constexpr(3)


@triton.jit
def quarter_of(n_columns):
    """Columns in a quarter: a hash of four words serves 4 columns, or 8 with 16 bits for each."""
    return tl.multiple_of(tl.cast(tl.cdiv(n_columns, 32) * 8, tl.int32), 8)


@triton.jit
def keep_masks(seed_ptr, view, row, first, coef, BLOCK: tl.constexpr):
    """Bernoulli(coef) for each element of four quarters, coef rounded to 2^-16."""
    block = first // 2 + tl.arange(0, BLOCK // 2)[None, :]
    x, y, z, w = words(seed_ptr, STREAM_ELEMENT, view, row, block)
    scaled = coef.to(tl.float32) * 65536.0  # in which the next line rounds
    threshold = ((scaled + 8388608.0) - 8388608.0).to(tl.int32)  # to the nearest even
    return (
        _lanes(x) < threshold,
        _lanes(y) < threshold,
        _lanes(z) < threshold,
        _lanes(w) < threshold,
    )


@triton.jit
def _lanes(word):
    """Two 16-bit numbers of each word, ``(R, B)`` to ``(R, 2B)``; as PyTorch's they are signed."""
    word ^= 0x80008000
    return tl.interleave(word & 0xFFFF, word >> 16).to(tl.int32)


@triton.jit
def load_low(low_ptr, column, mask, LOW: tl.constexpr):
    """The lower end of the data: 0, a number for all columns, or one for each."""
    if LOW == "number":
        low = tl.load(low_ptr)
    elif LOW == "columns":
        low = tl.load(low_ptr + column, mask=mask, other=0.0)
    else:
        low = 0.0
    return low


@triton.jit
def _mix_rows(
    x_ptr,
    views_ptr,
    seed_ptr,
    partner_ptr,
    coef_ptr,
    low_ptr,
    row,
    n_rows,
    n_columns,
    row_stride,
    column_stride,
    view_stride,
    out_row_stride,
    out_column_stride,
    first_view,
    n_views,
    first,
    is_known,
    FUNCTION: tl.constexpr,
    LOW: tl.constexpr,
    VIEWS: tl.constexpr,
    WIDE: tl.constexpr,
    APPROXIMATE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    quarter = quarter_of(n_columns)
    position = first + tl.arange(0, BLOCK)[None, :]
    in_row = row < n_rows
    own_start = x_ptr + row.to(tl.int64) * row_stride
    owns, logarithms = (), ()
    for q in tl.static_range(4):
        column = q * quarter + position
        mask = in_row & (position < quarter) & (column < n_columns)
        own = tl.load(own_start + column.to(tl.int64) * column_stride, mask=mask, other=0)
        owns += (own,)
        if FUNCTION == GEOMETRIC:
            low = load_low(low_ptr, column, mask, LOW)
            logarithms += (log2(own.to(WIDE) - low, APPROXIMATE),)
    for v in tl.static_range(VIEWS):
        view = first_view + v
        if view < n_views:
            place = view.to(tl.int64) * n_rows + row
            coef = tl.load(coef_ptr + place, mask=in_row, other=1.0)
            coef = tl.where(is_known, coef, float("nan"))
            if FUNCTION == GAUSSIAN:
                a, b, c, d = words(seed_ptr, STREAM_ELEMENT, view, row, position)
                deviate_0, deviate_2 = normal_pair(a, c, APPROXIMATE)
                deviate_1, deviate_3 = normal_pair(b, d, APPROXIMATE)
                deviates = (deviate_0, deviate_1, deviate_2, deviate_3)
            else:
                partner = tl.load(partner_ptr + place, mask=in_row, other=0)
                in_batch = in_row & (partner >= 0) & (partner < n_rows)
                other_start = x_ptr + partner * row_stride
                if FUNCTION == BINARY:
                    keep = keep_masks(seed_ptr, view, row, first, coef, BLOCK)
            out_start = views_ptr + view.to(tl.int64) * view_stride
            out_start += row.to(tl.int64) * out_row_stride
            for q in tl.static_range(4):
                column = q * quarter + position
                mask = in_row & (position < quarter) & (column < n_columns)
                offset = column.to(tl.int64) * column_stride
                own = owns[q]
                if FUNCTION == GAUSSIAN:
                    mixed = own.to(WIDE) + deviates[q] * coef
                elif FUNCTION == BINARY:
                    other = tl.load(other_start + offset, mask=mask & in_batch, other=0)
                    mixed = tl.where(keep[q], own, other)
                else:
                    # A partner that is no row of the batch gives NaN.
                    other = tl.load(other_start + offset, mask=mask & in_batch, other=float("nan"))
                    if FUNCTION == GEOMETRIC:
                        low = load_low(low_ptr, column, mask, LOW)
                        a, b = logarithms[q], log2(other.to(WIDE) - low, APPROXIMATE)
                    else:
                        a, b = own.to(WIDE), other.to(WIDE)
                    mixed = b + coef.to(WIDE) * (a - b)
                    if FUNCTION == GEOMETRIC:
                        mixed = tl.exp2(mixed) + low
                target = out_start + column.to(tl.int64) * out_column_stride
                tl.store(target, narrow(mixed, views_ptr.dtype.element_ty), mask=mask)
                if FUNCTION != BINARY and FUNCTION != GAUSSIAN:
                    # Where the coefficient is 1 the row is x's own, bit for bit. It so rarely is
                    # that a store which is hardly ever done costs less than a choice. It is the
                    # same thread's, since both have one layout (tests/test_aot.py looks).
                    tl.store(target, own, mask=mask & (coef == 1.0))


@triton.jit(do_not_specialize=["n_rows", "n_views"])
def views_kernel(
    x_ptr,  # (N, F), any strides
    views_ptr,  # (V, N, F), any strides
    seed_ptr,  # (), int64
    partner_ptr,  # (V, N), int64
    coef_ptr,  # (V, N), float32
    kind_ptr,  # (N,), uint8
    low_ptr,  # () or (F,)
    n_rows,
    n_columns,
    n_views,
    row_stride,
    column_stride,
    view_stride,
    out_row_stride,
    out_column_stride,
    FUNCTION: tl.constexpr,  # -1: of each row
    LOW: tl.constexpr,  # "", "number" or "columns"
    VIEWS: tl.constexpr,
    WIDE: tl.constexpr,
    APPROXIMATE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """x+ = mix(x_i, x_j) for VIEWS of the views."""
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    first = tl.program_id(1) * BLOCK
    first_view = tl.program_id(2) * VIEWS
    # A kind that does not exist is a GAUSSIAN of NaN.
    function = FUNCTION
    if FUNCTION < 0:
        function = tl.load(kind_ptr + tl.program_id(0)).to(tl.int32)
    for each in tl.static_range(4):
        if each == FUNCTION or (FUNCTION < 0 and tl.minimum(function, GAUSSIAN) == each):
            _mix_rows(
                x_ptr, views_ptr, seed_ptr, partner_ptr, coef_ptr, low_ptr,
                row, n_rows, n_columns, row_stride, column_stride,
                view_stride, out_row_stride, out_column_stride, first_view, n_views, first,
                function <= GAUSSIAN, each, LOW, VIEWS, WIDE, APPROXIMATE, BLOCK,
            )  # fmt: skip
