"""NT-Xent of some rows against all, in PyTorch: those of one process against those of every one.

The mathematics are those of nt_xent.py. A process has N_own rows of either view, which are the rows
offset, offset + 1, ... of all N; i is one of its own 2 N_own, k any of the 2 N. An exponential
serves one row here: 2 (2 N_own) (2 N) D FLOP forward, and twice that backward. Of the other
processes' rows the backward needs u = g/l beside z, which :func:`weights` makes there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mixnoise._torch.matmul import add_mm_, mm_of_rows
from mixnoise._torch.nt_xent import (
    NO_MAXIMUM,
    TILE_COLUMNS,
    TILE_ROWS,
    finish_gradient,
    is_running,
    leave_out,
    losses,
    normalize,
    number_or_tensor,
    scaled_gradient,
    stats_dtype,
)


@dataclass(frozen=True)
class Saved:
    """What the backward needs of the forward."""

    z: Tensor  # (2, N, D): normalised rows
    own: Tensor  # (2, N_own, D)
    stats: Tensor  # (3, 2 N_own): norm, log2 l, n/l
    offset: int
    running: bool


def forward(
    z1: Tensor,
    z2: Tensor,
    rows: Tensor,
    offset: int,
    temperature: Tensor | None,
    number: float,
    precision: str,
) -> tuple[Tensor, Saved]:
    """Loss ``(2 N_own,)`` of own rows z1, z2, among all rows ``(2, N, D)``, not yet normalised."""
    n_own, (_, n, d) = z1.shape[0], rows.shape
    t = number_or_tensor(temperature, number, stats_dtype(z1.device))
    z, norm = normalize(rows[0], rows[1], t)
    z, norm = z.view(2, n, d), norm.view(2, n)
    own = z[:, offset : offset + n_own].contiguous()
    running = is_running(z.dtype, temperature, number)
    log2_n = _log2_negatives(own, z, offset, norm.dtype, running)
    loss, log2_l, share = losses(own[0], own[1], log2_n)
    own_norm = norm[:, offset : offset + n_own].flatten()
    stats = torch.stack((own_norm, log2_l, share))
    return loss.to(z.dtype), Saved(z, own, stats, offset, running)


def _blocks(n: int, step: int) -> Iterator[tuple[int, slice]]:
    """Blocks of rows of both views, as (view, rows)."""
    for view in range(2):
        for start in range(0, n, step):
            yield view, slice(start, min(start + step, n))


def _log2_negatives(
    own: Tensor, z: Tensor, offset: int, wide: torch.dtype, running: bool
) -> Tensor:
    """log2 n_i ``(2 N_own,)`` over the rows of all processes."""
    n_own, n = own.shape[1], z.shape[1]
    log2_n = z.new_empty(2, n_own, dtype=wide)
    buffer = z.new_empty(TILE_ROWS * TILE_COLUMNS)
    for view, rows in _blocks(n_own, TILE_ROWS):
        block = own[view, rows]
        total = z.new_zeros(len(block), dtype=wide)
        maximum = z.new_full((len(block),), NO_MAXIMUM if running else 0)
        for other_view, columns in _blocks(n, TILE_COLUMNS):
            s = mm_of_rows(block, z[other_view, columns], buffer)
            if running:
                leave_out(s, -math.inf, offset + rows.start, columns.start, n)
                former, maximum = maximum, torch.maximum(maximum, s.amax(1))
                total *= torch.exp2(former - maximum)
                s -= maximum[:, None]
            e = s.exp2_()
            if not running:
                leave_out(e, 0, offset + rows.start, columns.start, n)
            total += e.sum(1)
        log2_n[view, rows] = total.log2_() + maximum
    return log2_n.flatten()


def weights(
    grad: Tensor, grad_largest: Tensor, saved: Saved, temperature: Tensor | None, number: float
) -> Tensor:
    """What other processes need of this one's rows, ``(K, N_own)``, in z's dtype.

    u of either view and, in the running form, the rounded log2 l that it goes with.

    Args:
        grad: dL/dloss ``(2 N_own,)``.
        grad_largest: its largest magnitude, over all processes.
    """
    _, log2_l, _ = saved.stats
    g = scaled_gradient(grad, grad_largest, log2_l.dtype)
    rounded = log2_l.to(saved.z.dtype)
    u = g * torch.exp2((rounded if saved.running else 0) - log2_l)
    kept = (u, rounded) if saved.running else (u,)
    return torch.cat([vector.to(saved.z.dtype).view(2, -1) for vector in kept])


def _backward_negatives(saved: Saved, own: Tensor, every: Tensor) -> Tensor:
    """sum over k of exp(s_ik) (u_i + u_k) z_k, ``(2 N_own, D)``; own and every are weights."""
    z, running = saved.z, saved.running
    n = z.shape[1]
    dz = torch.zeros_like(saved.own)
    buffer, weight_buffer = z.new_empty(2, TILE_ROWS * TILE_COLUMNS)
    for view, rows in _blocks(saved.own.shape[1], TILE_ROWS):
        block, u = saved.own[view, rows], own[view, rows, None]
        for other_view, columns in _blocks(n, TILE_COLUMNS):
            s = mm_of_rows(block, z[other_view, columns], buffer)
            w = weight_buffer[: s.numel()].view(s.shape)
            u_k = every[other_view, columns]
            if running:
                log2_l, log2_l_k = own[2 + view, rows, None], every[2 + other_view, columns]
                torch.sub(s, log2_l, out=w).exp2_().mul_(u)
                w.addcmul_(s.sub_(log2_l_k).exp2_(), u_k)
            else:
                torch.add(u, u_k, out=w).mul_(s.exp2_())
            leave_out(w, 0, saved.offset + rows.start, columns.start, n)
            add_mm_(dz[view, rows], w, z[other_view, columns])
    return dz.flatten(0, 1)


def backward(
    grad: Tensor,
    grad_largest: Tensor,
    z1: Tensor,
    z2: Tensor,
    all_weights: Tensor,
    saved: Saved,
    temperature: Tensor | None,
    number: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of this process's z1 and z2, and its share of the temperature's.

    They are those of the sum of all processes' losses, weighted by ``grad`` of each.

    Args:
        all_weights: ``(K, N)``, the weights of all processes.
    """
    norm, _, share = saved.stats
    t = number_or_tensor(temperature, number, norm.dtype)
    own = slice(saved.offset, saved.offset + z1.shape[0])
    dz = _backward_negatives(saved, all_weights[:, own], all_weights)
    g = scaled_gradient(grad, grad_largest, norm.dtype)
    return finish_gradient(dz, saved.own.flatten(0, 1), norm, g * share, grad_largest, t, z1.dtype)
