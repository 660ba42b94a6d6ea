"""Tiles of the similarity matrix: rows, their products, and which of a view's columns are masked.

``unit`` holds both views as normalize.py lays them out, each row as one term, or as two or three
that add up to it. In the plain form rows carry the root of log2(e)/t, so that a product is
s log2(e); in the running form it is multiplied by ``scale``.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mixnoise_kernels.rounding import narrow


@triton.jit
def load_rows(unit_ptr, base, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr, TERMS: tl.constexpr):
    """Whole rows base, base + 1, ...: ``(BLOCK, BLOCK_D)`` for each term."""
    return load_chunk(unit_ptr, base, 0, BLOCK, BLOCK_D, BLOCK_D, TERMS)


@triton.jit
def load_chunk(
    unit_ptr,
    base,
    first,
    BLOCK: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,
    TERMS: tl.constexpr,
):
    """The same of BLOCK_K columns."""
    row = tl.arange(0, BLOCK)
    column = tl.arange(0, BLOCK_K)
    start = unit_ptr + base.to(tl.int64) * (BLOCK_D * TERMS) + first
    place = start + row[:, None] * (BLOCK_D * TERMS) + column[None, :]
    terms = ()
    for term in tl.static_range(TERMS):
        terms += (tl.load(place + term * BLOCK_D),)
    return terms


@triton.jit
def held_rows(
    unit_ptr,
    base,
    BLOCK: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,
    TERMS: tl.constexpr,
):
    """Rows to be held while others pass, if they are not too long."""
    rows = (tl.zeros((BLOCK, 1), tl.float32),)
    if BLOCK_K == BLOCK_D:
        rows = load_rows(unit_ptr, base, BLOCK, BLOCK_D, TERMS)
    return rows


@triton.jit
def split(x, DTYPE: tl.constexpr, TERMS: tl.constexpr):
    """Terms of a dtype, whose sum is x: three of bfloat16 have float32's 24 bits, two have 16."""
    terms = ()
    for _ in tl.static_range(TERMS - 1):
        term = narrow(x, tl.bfloat16)
        terms += (term.to(DTYPE),)
        x -= term.to(tl.float32)
    last: tl.constexpr = tl.bfloat16 if TERMS > 1 else DTYPE
    terms += (narrow(x, last).to(DTYPE),)
    return terms


@triton.jit
def sum_of_terms(terms):
    """The sum in float32, exact if they are all terms of a float32 number."""
    total = terms[len(terms) - 1].to(tl.float32)
    for i in tl.static_range(1, len(terms)):
        total += terms[len(terms) - 1 - i].to(tl.float32)
    return total


@triton.jit
def dot(a, b, acc):
    """acc + a b; of several terms the products that count in as many bits, the least first."""
    if len(a) == 3:
        acc = tl.dot(a[2], b[0], acc, input_precision="ieee")
        acc = tl.dot(a[1], b[1], acc, input_precision="ieee")
        acc = tl.dot(a[0], b[2], acc, input_precision="ieee")
    if len(a) > 1:
        acc = tl.dot(a[1], b[0], acc, input_precision="ieee")
        acc = tl.dot(a[0], b[1], acc, input_precision="ieee")
    return tl.dot(a[0], b[0], acc, input_precision="ieee")


@triton.jit
def dot_transposed(a, b, acc):
    """acc + a b'."""
    transposed = ()
    for i in tl.static_range(len(b)):
        transposed += (tl.trans(b[i]),)
    return dot(a, transposed, acc)


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
    TERMS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """``(BLOCK_A, BLOCK_B)`` products of rows that are too long to be held."""
    s = tl.zeros((BLOCK_A, BLOCK_B), tl.float32)
    for first in tl.range(0, BLOCK_D, BLOCK_K, num_stages=STAGES):
        a = load_chunk(a_ptr, a_base, first, BLOCK_A, BLOCK_D, BLOCK_K, TERMS)
        b = load_chunk(b_ptr, b_base, first, BLOCK_B, BLOCK_D, BLOCK_K, TERMS)
        s = dot_transposed(a, b, s)
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
    TERMS: tl.constexpr,
):
    """Products of own rows with rows base, base + 1, ..., and these rows, if own ones are held."""
    other = own
    if BLOCK_K == BLOCK_D:
        other = load_rows(unit_ptr, base, BLOCK_COLUMNS, BLOCK_D, TERMS)
        s = dot_transposed(own, other, tl.zeros((BLOCK, BLOCK_COLUMNS), tl.float32))
    else:
        s = products_by_chunks(
            own_ptr, own_base, unit_ptr, base,
            BLOCK, BLOCK_COLUMNS, BLOCK_D, BLOCK_K, TERMS, STAGES,
        )  # fmt: skip
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
