"""From sums to the loss of each row, and from its gradient to the weights of the backward.

Vectors of length M cost next to nothing, so here everything is float64.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mixnoise_kernels.normalize import (
    LOG2_E,
    PLAIN_FROM,
    factor_of_products,
    factor_of_rows,
    temperature_of,
)
from mixnoise_kernels.tiles import sum_of_terms

_LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _softplus(x):
    """log(1 + exp(x)), to the last digits also where it is small."""
    y = tl.exp(-tl.abs(x))
    w = 1.0 + y
    # What rounding took from y in w, it took from the logarithm, too (Higham, 2002, problem 1.5).
    small = tl.where(w == 1.0, y, tl.log(w) * (y / tl.where(w == 1.0, 1.0, w - 1.0)))
    return tl.maximum(x, 0.0) + small


@triton.jit(do_not_specialize=["n", "n_sums"])
def loss_kernel(
    unit_ptr,  # (2 n_padded, TERMS, BLOCK_D)
    sums_ptr,  # (n_sums, 2 n_padded), float32
    largest_ptr,  # (2 n_padded,), float32: log2 of what the sums were divided by
    temperature_ptr,
    temperature,
    loss_ptr,  # (2 n,)
    log2_l_ptr,  # (2 n_padded,), float64: log2 of negatives and positive
    share_ptr,  # (2 n_padded,), float64: the negatives' share of that
    n,
    n_padded,
    n_sums,
    FROM_TENSOR: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_SUMS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,
    TERMS: tl.constexpr,
):
    """loss_i = softplus(log n_i - s_ip), where n_i is the sum."""
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    k = tl.arange(0, BLOCK_K)
    start = unit_ptr + row.to(tl.int64)[:, None] * (BLOCK_D * TERMS) + k[None, :]
    other_view = tl.cast(n_padded, tl.int64) * (BLOCK_D * TERMS)
    product = tl.zeros((BLOCK_ROWS,), tl.float64)
    for chunk in range(0, BLOCK_D, BLOCK_K):
        z1, z2 = (), ()
        for term in tl.static_range(TERMS):
            z1 += (tl.load(start + term * BLOCK_D + chunk),)
            z2 += (tl.load(start + other_view + term * BLOCK_D + chunk),)
        product += tl.sum(sum_of_terms(z1).to(tl.float64) * sum_of_terms(z2).to(tl.float64), 1)
    # The factors are rounded to float32, here as for the negatives: the loss is that of a
    # temperature some 1e-7 away, and small losses keep their digits.
    t = temperature_of(temperature_ptr, temperature, FROM_TENSOR)
    positive = product * factor_of_products(t)

    each_sum = tl.arange(0, BLOCK_SUMS)
    for view in range(2):
        place = view * n_padded + row
        total = tl.zeros((BLOCK_ROWS,), tl.float64)
        for first in range(0, n_sums, BLOCK_SUMS):
            which = first + each_sum
            pointer = sums_ptr + which.to(tl.int64)[:, None] * 2 * n_padded + place[None, :]
            part = tl.load(pointer, mask=(which < n_sums)[:, None], other=0.0)
            total += tl.sum(part.to(tl.float64), 0)
        log2_n = tl.log2(total) + tl.load(largest_ptr + place).to(tl.float64)
        x = (log2_n - positive) * _LN_2
        loss = _softplus(x)
        tl.store(loss_ptr + view * n + row, loss.to(tl.float32), mask=row < n)
        tl.store(log2_l_ptr + place, positive + loss * LOG2_E)
        tl.store(share_ptr + place, 1.0 / (1.0 + tl.exp(-x)))


@triton.jit(do_not_specialize=["n"])
def weights_kernel(
    grad_ptr,  # (2 n,), any stride
    grad_largest_ptr,  # (): largest magnitude in grad
    log2_l_ptr,
    share_ptr,
    temperature_ptr,
    temperature,
    weight_ptr,  # (2 n_padded,), float32
    rounded_ptr,  # (2 n_padded,), float32
    pull_ptr,  # (n_padded,), float32
    scale_ptr,  # (), float32
    n,
    n_padded,
    grad_stride,
    WEIGHT_SCALE: tl.constexpr,
    FROM_TENSOR: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
):
    """What gradient_kernel takes: u = g/l in the plain form.

    In the running form u = g exp2(rounded - log2 l), with log2 l rounded to float32: it takes what
    is lost there. g is scaled to 1 at most, since a mean over many rows would make u subnormal.
    """
    largest = tl.load(grad_largest_ptr).to(tl.float64)
    largest = tl.where(largest == 0, 1.0, largest)
    t = temperature_of(temperature_ptr, temperature, FROM_TENSOR)
    if tl.program_id(0) == 0:
        tl.store(scale_ptr, (largest / WEIGHT_SCALE / (t * factor_of_rows(t))).to(tl.float32))
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    inside = row < n
    pull = tl.zeros((BLOCK_ROWS,), tl.float64)
    for view in range(2):
        place = view * n_padded + row
        g = tl.load(grad_ptr + (view * n + row).to(tl.int64) * grad_stride, mask=inside, other=0.0)
        g = g.to(tl.float64) / largest * WEIGHT_SCALE
        log2_l = tl.load(log2_l_ptr + place, mask=inside, other=0.0)
        rounded = log2_l.to(tl.float32)
        weight = g * tl.exp2(tl.where(t >= PLAIN_FROM, 0.0, rounded.to(tl.float64)) - log2_l)
        tl.store(weight_ptr + place, weight.to(tl.float32))
        tl.store(rounded_ptr + place, rounded)
        pull += g * tl.load(share_ptr + place, mask=inside, other=0.0)
    tl.store(pull_ptr + row, pull.to(tl.float32))
