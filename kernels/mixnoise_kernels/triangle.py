"""For each row the sum of exp(s_ik) over k != i, p(i): each pair of rows is computed once."""

from __future__ import annotations

import triton
import triton.language as tl

from mixnoise_kernels.normalize import PLAIN_FROM, temperature_of
from mixnoise_kernels.tiles import dot_transposed, held_rows, load_rows, products_by_chunks


@triton.jit
def _triangle_tile(
    own,
    own_base,
    unit_ptr,
    sums_ptr,
    other_base,
    keep,
    is_other,
    MASKED: tl.constexpr,
    WARPS: tl.constexpr,
    STAGES: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,
    TERMS: tl.constexpr,
):
    """Adds the other block's sums in memory; returns the own block's, ``(WARPS, 8, BLOCK)``.

    They are not yet summed over what different threads hold: in the tensor cores' layout a row is
    ((repeat * WARPS + warp) * 2 + half) * 8 + lane, of which a thread has all repeats and halves.
    """
    if BLOCK_K == BLOCK_D:
        other = load_rows(unit_ptr, other_base, BLOCK, BLOCK_D, TERMS)
        s = dot_transposed(other, own, tl.zeros((BLOCK, BLOCK), tl.float32))
    else:
        s = products_by_chunks(
            unit_ptr, other_base, unit_ptr, own_base, BLOCK, BLOCK, BLOCK_D, BLOCK_K, TERMS, STAGES
        )
    if MASKED:
        s = tl.where(keep, s, -float("inf"))
    e = tl.exp2(s)
    # No other program adds to these sums, and all additions to a row are one thread's, here and at
    # the end, since they have one layout (tests/test_aot.py looks): they keep their order, and so
    # the sums their bits. An atomic addition does not wait for what was there.
    pointer = sums_ptr + other_base + tl.arange(0, BLOCK)
    if MASKED:
        tl.atomic_add(pointer, tl.sum(e, 1), mask=is_other, sem="relaxed", scope="cta")
    else:
        tl.atomic_add(pointer, tl.sum(e, 1), sem="relaxed", scope="cta")
    by_thread = tl.reshape(e, (BLOCK // (16 * WARPS), WARPS, 2, 8, BLOCK))
    return tl.sum(tl.sum(by_thread, 2), 0)


@triton.jit(do_not_specialize=["n", "n_parts"])
def triangle_kernel(
    unit_ptr,  # (2 n_padded, TERMS, BLOCK_D)
    sums_ptr,  # (programs, 2 n_padded), float32, zeros
    temperature_ptr,
    temperature,
    n,
    n_padded,
    n_parts,
    FROM_TENSOR: tl.constexpr,
    WARPS: tl.constexpr,  # how many of them share the rows of a tile
    STAGES: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,
    TERMS: tl.constexpr,
):
    """Sums of exp(s_ik) over k != i, p(i), in the plain form: each pair is computed once.

    Both views are cut into blocks alike: 2b blocks in a ring. Block i meets blocks i, i + 1, ...,
    i + b - 1 and, if i < b, i + b: each two blocks meet once, and every i has as much to do. A row
    meets itself only in the first tile and its positive only in the tile i + b, both times on the
    diagonal. Those tiles and the ones with padding are masked, the others are not.

    An item of work is one of ``n_parts`` parts of a block's tiles. Each program adds to sums of its
    own, which are added up afterwards in a fixed order.
    """
    if FROM_TENSOR:  # noqa: SIM102 - compiled away, with what is below
        # The host does not know which form it will be, and launches both.
        if not (temperature_of(temperature_ptr, temperature, True) >= PLAIN_FROM):
            return
    n_blocks = tl.cdiv(n, BLOCK)
    has_edge = (n % BLOCK != 0).to(tl.int32)
    sums_ptr += tl.program_id(0).to(tl.int64) * 2 * n_padded
    index = tl.arange(0, BLOCK)
    for item in range(tl.program_id(0), 2 * n_blocks * n_parts, tl.num_programs(0)):
        i = item % (2 * n_blocks)
        part = item // (2 * n_blocks)
        in_first_view = (i < n_blocks).to(tl.int32)
        position = i - n_blocks * (1 - in_first_view)
        is_edge = has_edge * (position == n_blocks - 1).to(tl.int32)
        to_edge = n_blocks - 1 - position
        # Masked tiles first: itself, the edge of a view, the positives; or all if it is an edge.
        n_tiles = n_blocks + in_first_view
        n_masked = tl.where(is_edge == 1, n_tiles, 1 + has_edge + in_first_view)
        start = part * n_tiles // n_parts
        stop = (part + 1) * n_tiles // n_parts

        own_base = (1 - in_first_view) * n_padded + position * BLOCK
        own = held_rows(unit_ptr, own_base, BLOCK, BLOCK_D, BLOCK_K, TERMS)
        total = tl.zeros((WARPS, 8, BLOCK), tl.float32)
        for q in tl.range(start, tl.minimum(stop, n_masked), num_stages=1):
            step = tl.where((q == 1) & (has_edge == 1), to_edge, n_blocks)
            step = tl.where((is_edge == 1) | (q == 0), q, step)
            j = (i + step) % (2 * n_blocks)
            other_view = (j >= n_blocks).to(tl.int32)
            other_position = j - other_view * n_blocks
            keep_other = other_position * BLOCK + index < n
            keep_own = position * BLOCK + index < n
            off_diagonal = (index[:, None] != index[None, :]) | (step % n_blocks != 0)
            total += _triangle_tile(
                own, own_base, unit_ptr, sums_ptr, other_view * n_padded + other_position * BLOCK,
                keep_other[:, None] & keep_own[None, :] & off_diagonal, step != 0,
                True, WARPS, STAGES, BLOCK, BLOCK_D, BLOCK_K, TERMS,
            )  # fmt: skip
        for q in tl.range(tl.maximum(start, n_masked), stop, num_stages=STAGES):
            step = q - n_masked + 1
            step += has_edge * (step >= to_edge).to(tl.int32)
            j = i + step
            j = tl.where(j >= 2 * n_blocks, j - 2 * n_blocks, j)
            other_view = (j >= n_blocks).to(tl.int32)
            total += _triangle_tile(
                own, own_base, unit_ptr, sums_ptr,
                other_view * (n_padded - n_blocks * BLOCK) + j * BLOCK, True, True,
                False, WARPS, STAGES, BLOCK, BLOCK_D, BLOCK_K, TERMS,
            )  # fmt: skip
        # At once: one sum after the other does not compile for sm_100 with Triton 3.8.0.
        own_sums = tl.sum(tl.reshape(total, (WARPS * 8, BLOCK)), 0)
        tl.atomic_add(sums_ptr + own_base + index, own_sums, sem="relaxed", scope="cta")
