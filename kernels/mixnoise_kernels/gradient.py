"""The gradient of unit rows, a block of rows at a time: no atomics, the same bits every time."""

from __future__ import annotations

import triton
import triton.language as tl

from mixnoise_kernels.normalize import PLAIN_FROM, factor_of_products, temperature_of
from mixnoise_kernels.tiles import (
    dot,
    held_rows,
    load_chunk,
    products_of_tile,
    split,
    tiles_of_view,
)


@triton.jit
def _gradient_tile(
    acc,
    own,
    own_ptr,
    own_base,
    own_weight,
    own_log2_l,
    unit_ptr,
    base,
    weight_ptr,
    log2_l_ptr,
    scale,
    keep,
    MASKED: tl.constexpr,
    RUNNING: tl.constexpr,
    STAGES: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    TERMS: tl.constexpr,
):
    index = base + tl.arange(0, BLOCK_COLUMNS)
    weight = tl.load(weight_ptr + index)[None, :]
    s, other = products_of_tile(
        own, own_ptr, own_base, unit_ptr, base, keep,
        MASKED, STAGES, BLOCK, BLOCK_COLUMNS, BLOCK_D, BLOCK_K, TERMS,
    )  # fmt: skip
    if RUNNING:
        s *= scale
        # Each no larger than its weight, whatever the temperature.
        log2_l = tl.load(log2_l_ptr + index)[None, :]
        w = tl.exp2(s - own_log2_l) * own_weight + tl.exp2(s - log2_l) * weight
    else:
        w = tl.exp2(s) * (own_weight + weight)
    if BLOCK_K != BLOCK_D or BLOCK_OUT != BLOCK_D:
        first = tl.program_id(1) * BLOCK_OUT
        other = load_chunk(unit_ptr, base, first, BLOCK_COLUMNS, BLOCK_D, BLOCK_OUT, TERMS)
    return dot(split(w, other[0].dtype, TERMS), other, acc)


@triton.jit(do_not_specialize=["n_own", "offset", "n"])
def gradient_kernel(
    own_ptr,  # (2 own_padded, TERMS, BLOCK_D): the rows
    own_weight_ptr,  # (2 own_padded,), float32
    own_log2_l_ptr,  # (2 own_padded,), float32
    unit_ptr,  # (2 n_padded, TERMS, BLOCK_D): the columns, own rows among them
    weight_ptr,  # (2 n_padded,), float32
    log2_l_ptr,  # (2 n_padded,), float32
    negatives_ptr,  # (PARTS, 2 own_padded, BLOCK_D), float32
    temperature_ptr,
    temperature,
    n_own,
    own_padded,
    offset,  # of own rows among the columns of either view
    n,
    n_padded,
    FROM_TENSOR: tl.constexpr,
    RUNNING: tl.constexpr,
    STAGES: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    TERMS: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Sums of exp(s_ik) (u_i + u_k) z_k over k != i, p(i), BLOCK_OUT columns a program.

    It takes all k or, if there are 2 PARTS, those of one view.
    """
    t = temperature_of(temperature_ptr, temperature, FROM_TENSOR)
    if FROM_TENSOR:  # noqa: SIM102 - compiled away, with what is below
        # The host does not know which form it will be, and launches both.
        if (t >= PLAIN_FROM) != (not RUNNING):
            return
    scale = factor_of_products(t)
    own_base = tl.program_id(0) * BLOCK
    position = own_base % own_padded
    if position >= n_own:
        return
    row = tl.arange(0, BLOCK)
    column = tl.arange(0, BLOCK_COLUMNS)
    own = held_rows(own_ptr, own_base, BLOCK, BLOCK_D, BLOCK_K, TERMS)
    own_weight = tl.load(own_weight_ptr + own_base + row)[:, None]
    own_log2_l = tl.load(own_log2_l_ptr + own_base + row)[:, None]
    acc = tl.zeros((BLOCK, BLOCK_OUT), tl.float32)
    part = tl.program_id(2)
    for quarter in range(4 // PARTS * part, 4 // PARTS * (part + 1)):
        view = quarter // 2
        bounds = tiles_of_view(quarter % 2, offset + position, n, BLOCK, BLOCK_COLUMNS)
        for MASKED in tl.static_range(2):
            for tile in tl.range(
                bounds[MASKED], bounds[MASKED + 1], num_stages=1 if MASKED else STAGES
            ):
                in_view = tile * BLOCK_COLUMNS + column[None, :]
                keep = (in_view < n) & (in_view != (offset + position + row)[:, None])
                acc = _gradient_tile(
                    acc, own, own_ptr, own_base, own_weight, own_log2_l,
                    unit_ptr, view * n_padded + tile * BLOCK_COLUMNS, weight_ptr, log2_l_ptr,
                    scale, keep, MASKED == 1, RUNNING, STAGES,
                    BLOCK, BLOCK_COLUMNS, BLOCK_D, BLOCK_K, BLOCK_OUT, TERMS,
                )  # fmt: skip
    out_row = part.to(tl.int64) * 2 * own_padded + own_base + row
    place = negatives_ptr + out_row[:, None] * BLOCK_D
    tl.store(place + tl.program_id(1) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)[None, :], acc)
