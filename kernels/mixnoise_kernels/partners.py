"""Kernels of a draw: partners, coefficients and kinds, the same bits as on any other device."""

from __future__ import annotations

import triton
import triton.language as tl

from mixnoise_kernels.hash import STREAM_KIND, STREAM_ROW, words


@triton.jit(do_not_specialize=["n_rows"])
def draw_rows_kernel(
    seed_ptr,  # (), int64
    partner_ptr,  # (V, N), int64
    coef_ptr,  # (V, N), float32
    n_rows,
    width,  # of the interval of coefficients
    least,  # coefficient
    PER_BATCH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A partner is one of the other rows; a coefficient has 24 bits, all rows' own or row 0's."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    view = tl.program_id(1)
    high, low, word, _ = words(seed_ptr, STREAM_ROW, view, row, row * 0)
    # The upper half of the product of 64 bits and n_rows - 1: high bits decide.
    others = tl.cast(n_rows - 1, tl.uint64)
    product = high.to(tl.uint64) * others + ((low.to(tl.uint64) * others) >> 32)
    partner = (product >> 32).to(tl.int64)
    partner += (partner >= row).to(tl.int64)
    if PER_BATCH:
        _, _, word, _ = words(seed_ptr, STREAM_ROW, view, row * 0, row * 0)
    u = (word >> 8).to(tl.int32).to(tl.float32) * 2.0**-24
    coef = tl.maximum(1.0 - u * width, least)
    place = view.to(tl.int64) * n_rows + row
    tl.store(partner_ptr + place, partner, mask=row < n_rows)
    tl.store(coef_ptr + place, coef, mask=row < n_rows)


@triton.jit(do_not_specialize=["n_rows", "n_kinds"])
def draw_kinds_kernel(
    seed_ptr,  # (), int64
    kind_ptr,  # (N,), uint8
    n_rows,
    n_kinds,
    PER_BATCH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    word, _, _, _ = words(seed_ptr, STREAM_KIND, 0, row * 0 if PER_BATCH else row, row * 0)
    kind = (word.to(tl.uint64) * tl.cast(n_kinds, tl.uint64)) >> 32
    tl.store(kind_ptr + row, kind.to(tl.uint8), mask=row < n_rows)
