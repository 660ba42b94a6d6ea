"""The gradient of a batch from that of its views.

A row receives from itself and from every row that drew it. Those are gathered in a fixed order, so
the result is the same bits every time. A program has some positions of one quarter of one row.
(Gaussian noise alone needs no kernel: its gradient is the sum over views.)
"""

from __future__ import annotations

import triton
import triton.language as tl

from mixnoise_kernels.elementary import LOG2_ZERO, log2
from mixnoise_kernels.rounding import narrow
from mixnoise_kernels.views import BINARY, GEOMETRIC, LINEAR, keep_masks, load_low, quarter_of


@triton.jit
def _keep_mask(seed_ptr, view, row, first, coef, quarter_index, BLOCK: tl.constexpr):
    a, b, c, d = keep_masks(seed_ptr, view, row, first, coef, BLOCK)
    return tl.where(
        quarter_index < 2,
        tl.where(quarter_index == 0, a, b),
        tl.where(quarter_index == 2, c, d),
    )


@triton.jit
def _power(logarithm, weight, WIDE: tl.constexpr):
    """exp2(logarithm * weight), cut off where sums of many such terms might not be finite."""
    largest: tl.constexpr = 960.0 if tl.float64 == WIDE else 96.0
    return tl.exp2(tl.minimum(logarithm * weight, largest, propagate_nan=tl.PropagateNan.ALL))


@triton.jit
def _own_share(
    g, own_log2, other_log2, coef, seed_ptr, view, row, first, quarter_index,
    FUNCTION: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """What a row's own view gives it."""
    if FUNCTION == LINEAR:
        share = g * coef
    elif FUNCTION == GEOMETRIC:
        # d/dx x^c y^(1-c) = c (y/x)^(1-c), and 0 at x = 0.
        factor = coef * _power(other_log2 - own_log2, 1.0 - coef, WIDE)
        share = g * tl.where(own_log2 == LOG2_ZERO, 0.0, factor)
        # A row that is not mixed is the identity, also where that derivative is not.
        share = tl.where(coef == 1.0, g, share)
    elif FUNCTION == BINARY:
        keep = _keep_mask(seed_ptr, view, row, first, coef, quarter_index, BLOCK)
        share = tl.where(keep, g, 0.0)
    else:
        share = g
    return share


@triton.jit
def _other_share(
    g, own_log2, other_log2, coef, seed_ptr, view, row, first, quarter_index,
    FUNCTION: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """What the view of another row, which drew this one, gives it; other is that row."""
    if FUNCTION == LINEAR:
        share = g * (1.0 - coef)
    elif FUNCTION == GEOMETRIC:
        factor = (1.0 - coef) * _power(own_log2 - other_log2, -coef, WIDE)
        share = g * tl.where(own_log2 == LOG2_ZERO, 0.0, factor)
    else:
        keep = _keep_mask(seed_ptr, view, row, first, coef, quarter_index, BLOCK)
        share = tl.where(keep, 0.0, g)
    # If that row is not mixed, nothing, even of what is not finite.
    return tl.where(coef == 1.0, 0.0, share)


@triton.jit(do_not_specialize=["n_rows", "n_views"])
def views_gradient_kernel(
    grad_ptr,  # (V, N, F), any strides
    x_ptr,  # (N, F), any strides
    dx_ptr,  # (N, F), contiguous
    seed_ptr,  # (), int64
    partner_ptr,  # (V, N), int64
    coef_ptr,  # (V, N), float32
    kind_ptr,  # (N,), uint8
    low_ptr,  # () or (F,)
    order_ptr,  # (V N,), int64: places in partner, sorted by what stands there
    start_ptr,  # (N + 1,), int64: where each row's begin in order
    n_rows,
    n_columns,
    n_views,
    grad_view_stride,
    grad_row_stride,
    grad_column_stride,
    row_stride,
    column_stride,
    FUNCTION: tl.constexpr,  # -1: of each row
    LOW: tl.constexpr,  # "", "number" or "columns"
    WIDE: tl.constexpr,
    LARGEST: tl.constexpr,  # of x's dtype
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0)
    first = tl.program_id(1) * BLOCK
    quarter_index = tl.program_id(2)
    quarter = quarter_of(n_columns)
    position = first + tl.arange(0, BLOCK)[None, :]
    column = quarter_index * quarter + position
    mask = (position < quarter) & (column < n_columns)
    x_start = x_ptr + column.to(tl.int64) * column_stride
    grad_start = grad_ptr + column.to(tl.int64) * grad_column_stride
    low = load_low(low_ptr, column, mask, LOW)

    function = FUNCTION
    if FUNCTION < 0:
        function = tl.load(kind_ptr + row).to(tl.int32)
    own_log2 = tl.zeros((1, BLOCK), WIDE)
    if FUNCTION == GEOMETRIC or FUNCTION < 0:
        x = tl.load(x_start + row.to(tl.int64) * row_stride, mask=mask, other=0)
        own_log2 = log2(x.to(WIDE) - low, False)

    total = tl.zeros((1, BLOCK), WIDE)
    for view in range(n_views):
        place = tl.cast(view, tl.int64) * n_rows + row
        start = grad_start + tl.cast(view, tl.int64) * grad_view_stride
        g = tl.load(start + row.to(tl.int64) * grad_row_stride, mask=mask, other=0.0).to(WIDE)
        coef = tl.load(coef_ptr + place).to(WIDE)
        partner_log2 = own_log2
        if FUNCTION == GEOMETRIC or FUNCTION < 0:
            partner = tl.load(partner_ptr + place)
            in_batch = (partner >= 0) & (partner < n_rows)
            y = tl.load(x_start + partner * row_stride, mask=mask & in_batch, other=float("nan"))
            partner_log2 = log2(y.to(WIDE) - low, False)
        for each in tl.static_range(4):
            if each == FUNCTION or (FUNCTION < 0 and tl.minimum(function, 3) == each):
                total += _own_share(
                    g, own_log2, partner_log2, coef, seed_ptr, view, row, first, quarter_index,
                    each, WIDE, BLOCK,
                )  # fmt: skip

    for i in range(tl.load(start_ptr + row), tl.load(start_ptr + row + 1)):
        other_place = tl.load(order_ptr + i)
        other_view = other_place // n_rows
        other = other_place - other_view * n_rows
        other_start = grad_start + other_view * grad_view_stride + other * grad_row_stride
        other_g = tl.load(other_start, mask=mask, other=0.0).to(WIDE)
        other_coef = tl.load(coef_ptr + other_place).to(WIDE)
        other_log2 = own_log2
        if FUNCTION == GEOMETRIC or FUNCTION < 0:
            z = tl.load(x_start + other * row_stride, mask=mask, other=0)
            other_log2 = log2(z.to(WIDE) - low, False)
        other_function = FUNCTION
        if FUNCTION < 0:
            other_function = tl.load(kind_ptr + other).to(tl.int32)
        for each in tl.static_range(3):
            if each == FUNCTION or (FUNCTION < 0 and other_function == each):
                total += _other_share(
                    other_g, own_log2, other_log2, other_coef, seed_ptr, other_view,
                    other.to(tl.int32), first, quarter_index, each, WIDE, BLOCK,
                )  # fmt: skip

    if FUNCTION == GEOMETRIC or FUNCTION < 0:
        # Finite for any finite data, also in float16; an inf that came from above stays one, since
        # loss scaling looks for it.
        is_finite = tl.abs(total) < float("inf")
        total = tl.where(is_finite & (total > LARGEST), LARGEST, total)
        total = tl.where(is_finite & (total < -LARGEST), -LARGEST, total)
    target = dx_ptr + row.to(tl.int64) * n_columns + column
    tl.store(target, narrow(total, dx_ptr.dtype.element_ty), mask=mask)
