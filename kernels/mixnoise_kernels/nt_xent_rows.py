"""NT-Xent of some rows against all by the kernels: those of one process against every one's.

The same functions as nt_xent.py launches, with fewer own rows; see there for the mathematics.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mixnoise_kernels import nt_xent
from mixnoise_kernels.device import current
from mixnoise_kernels.unit_rows import Temperature, normalize, padded, precision_of_products


@dataclass(frozen=True)
class Saved:
    """What the backward needs of the forward."""

    unit: Tensor  # (2, padded(N), terms, D')
    own: Tensor  # (2, padded(N_own), terms, D')
    inverse_norm: Tensor  # (2, padded(N_own))
    stats: Tensor  # (2, 2, padded(N_own))
    n: int
    offset: int


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
    n_own, n = z1.shape[0], rows.shape[1]
    t, precision = Temperature(temperature, number), precision_of_products(precision, z1.dtype)
    with current(z1):
        unit, _ = normalize(rows[0], rows[1], t, precision)
        own, inverse_norm = normalize(z1, z2, t, precision)
        sums, largest = nt_xent.sums_of_rows(own, n_own, offset, unit, n, t)
        loss, stats = nt_xent.losses(own, n_own, sums, largest, t)
    return loss, Saved(unit, own, inverse_norm, stats, n, offset)


def _weights(
    grad: Tensor, grad_largest: Tensor, saved: Saved, n_own: int, t: Temperature
) -> nt_xent.Weights:
    with current(grad):
        return nt_xent.weights(grad, grad_largest, saved.stats, n_own, t, saved.unit.dtype)


def weights(
    grad: Tensor, grad_largest: Tensor, saved: Saved, temperature: Tensor | None, number: float
) -> Tensor:
    """What other processes need of this one's rows, ``(K, N_own)`` float32.

    u of either view and, where it may be the running form, the rounded log2 l that it goes with.

    Args:
        grad: dL/dloss ``(2 N_own,)``.
        grad_largest: its largest magnitude, over all processes.
    """
    n_own, t = grad.shape[0] // 2, Temperature(temperature, number)
    own = _weights(grad, grad_largest, saved, n_own, t)
    vectors = (own.weight, own.log2_l) if True in t.forms() else (own.weight,)
    return torch.cat(vectors)[:, :n_own]


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
    n_own, n = z1.shape[0], saved.n
    t = Temperature(temperature, number)
    own = _weights(grad, grad_largest, saved, n_own, t)
    vectors = all_weights.new_zeros(4, padded(n))
    vectors[: len(all_weights), :n] = all_weights
    every = replace(own, weight=vectors[:2], log2_l=vectors[2:])
    kept = saved.own, saved.inverse_norm
    with current(z1):
        dz1, dz2, along = nt_xent.gradient(
            z1, z2, *kept, own, saved.offset, saved.unit, n, every, t
        )
    return dz1, dz2, nt_xent.temperature_gradient(along, n_own, t)
