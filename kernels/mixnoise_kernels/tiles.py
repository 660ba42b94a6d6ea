"""Tiles of the similarity matrix: rows, their products, and which of a view's columns are masked.

``unit`` holds both views as normalize.py lays them out. In the plain form its rows carry the root
of log2(e)/t, so that a product is s log2(e); in the running form it is multiplied by ``scale``.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_rows(unit_ptr, base, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr):
    """Whole rows base, base + 1, ..., ``(BLOCK, BLOCK_D)``."""
    row = tl.arange(0, BLOCK)
    column = tl.arange(0, BLOCK_D)
    start = unit_ptr + base.to(tl.int64) * BLOCK_D
    return tl.load(start + row[:, None] * BLOCK_D + column[None, :])


@triton.jit
def held_rows(unit_ptr, base, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr):
    """Rows to be held while others pass, if they are not too long."""
    rows = tl.zeros((BLOCK, 1), tl.float32)
    if BLOCK_K == BLOCK_D:
        rows = load_rows(unit_ptr, base, BLOCK, BLOCK_D)
    return rows


@triton.jit
def products_by_chunks(
    a_ptr,
    a_base,
    b_ptr,
    b_base,
    BLOCK_A: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``(BLOCK_A, BLOCK_B)`` products of rows that are too long to be held."""
    k = tl.arange(0, BLOCK_K)
    a_start = a_ptr + a_base.to(tl.int64) * BLOCK_D
    b_start = b_ptr + b_base.to(tl.int64) * BLOCK_D
    a_offset = tl.arange(0, BLOCK_A)[:, None] * BLOCK_D + k[None, :]
    b_offset = tl.arange(0, BLOCK_B)[:, None] * BLOCK_D + k[None, :]
    s = tl.zeros((BLOCK_A, BLOCK_B), tl.float32)
    for start in tl.range(0, BLOCK_D, BLOCK_K, num_stages=STAGES):
        a = tl.load(a_start + start + a_offset)
        b = tl.load(b_start + start + b_offset)
        s = tl.dot(a, tl.trans(b), s, input_precision=PRECISION)
    return s


@triton.jit
def products_of_tile(
    own,
    own_ptr,
    own_base,
    unit_ptr,
    base,
    keep,
    MASKED: tl.constexpr,
    STAGES: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Products of own rows with rows base, base + 1, ..., and these rows, if own ones are held."""
    other = own
    if BLOCK_K == BLOCK_D:
        other = load_rows(unit_ptr, base, BLOCK_COLUMNS, BLOCK_D)
        s = tl.dot(own, tl.trans(other), input_precision=PRECISION)
    else:
        s = products_by_chunks(
            own_ptr,
            own_base,
            unit_ptr,
            base,
            BLOCK,
            BLOCK_COLUMNS,
            BLOCK_D,
            BLOCK_K,
            STAGES,
            PRECISION,
        )
    if MASKED:
        s = tl.where(keep, s, -float("inf"))
    return s, other


@triton.jit
def tiles_of_view(half, position, n, BLOCK: tl.constexpr, BLOCK_COLUMNS: tl.constexpr):
    """Half of a view's column tiles, as bounds of those to be taken whole and of those masked.

    The columns ``position + 0..BLOCK`` are the rows themselves, or their positives. Those tiles are
    masked, and the last if it has padding.
    """
    n_tiles = tl.cdiv(n, BLOCK_COLUMNS)
    first = position // BLOCK_COLUMNS
    last = tl.minimum(tl.cdiv(position + BLOCK, BLOCK_COLUMNS), n_tiles)
    edge = tl.maximum(n // BLOCK_COLUMNS, last)
    if half == 0:
        start, middle, stop = first * 0, first, last
    else:
        start, middle, stop = last, edge, n_tiles
    return start, middle, stop
