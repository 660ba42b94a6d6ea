"""For some of the rows the sum of exp(s_ik) over k != i, p(i)."""

from __future__ import annotations

import triton
import triton.language as tl

from mixnoise_kernels.normalize import PLAIN_FROM, factor_of_products, temperature_of
from mixnoise_kernels.tiles import held_rows, products_of_tile, tiles_of_view

# Below any s, but finite: -inf may be subtracted by it.
_NO_MAXIMUM = tl.constexpr(-1e30)


@triton.jit
def _rows_tile(
    own,
    own_ptr,
    own_base,
    largest,
    total,
    unit_ptr,
    base,
    scale,
    keep,
    MASKED: tl.constexpr,
    RUNNING: tl.constexpr,
    STAGES: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,
    TERMS: tl.constexpr,
):
    s, _ = products_of_tile(
        own, own_ptr, own_base, unit_ptr, base, keep,
        MASKED, STAGES, BLOCK, BLOCK_COLUMNS, BLOCK_D, BLOCK_K, TERMS,
    )  # fmt: skip
    if RUNNING:
        s *= scale
        latest = tl.maximum(largest, tl.max(s, 1))
        total *= tl.exp2(largest - latest)
        largest = latest
        s -= latest[:, None]
    return largest, total + tl.sum(tl.exp2(s), 1)


@triton.jit(do_not_specialize=["n_own", "offset", "n"])
def rows_kernel(
    own_ptr,  # (2 own_padded, TERMS, BLOCK_D): the rows
    unit_ptr,  # (2 n_padded, TERMS, BLOCK_D): the columns, own rows among them
    sums_ptr,  # (2 own_padded,), float32
    largest_ptr,  # (2 own_padded,), float32: log2 of what the sums are divided by
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
    TERMS: tl.constexpr,
):
    """The triangle's sums, of some of the rows over all columns: two exponentials for two rows."""
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
    largest = tl.full((BLOCK,), _NO_MAXIMUM if RUNNING else 0.0, tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for quarter in range(4):
        view = quarter // 2
        bounds = tiles_of_view(quarter % 2, offset + position, n, BLOCK, BLOCK_COLUMNS)
        for MASKED in tl.static_range(2):
            for tile in tl.range(
                bounds[MASKED], bounds[MASKED + 1], num_stages=1 if MASKED else STAGES
            ):
                in_view = tile * BLOCK_COLUMNS + column[None, :]
                keep = (in_view < n) & (in_view != (offset + position + row)[:, None])
                largest, total = _rows_tile(
                    own, own_ptr, own_base, largest, total,
                    unit_ptr, view * n_padded + tile * BLOCK_COLUMNS, scale, keep,
                    MASKED == 1, RUNNING, STAGES, BLOCK, BLOCK_COLUMNS, BLOCK_D, BLOCK_K, TERMS,
                )  # fmt: skip
    tl.store(sums_ptr + own_base + row, total)
    tl.store(largest_ptr + own_base + row, largest)
