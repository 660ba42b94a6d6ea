"""NT-Xent in float64 from its definition, some rows at a time; gradients are autograd's.

    loss_i = log sum over k != i of exp(s_ik) - s_ip,  s_ik = z_i . z_k / t,  p = i + N modulo 2N

It shares nothing with the library, and subtracts what the library takes care not to subtract: in
float64 that is accurate enough to judge float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_ELEMENTS_AT_A_TIME = 2**26


@dataclass(frozen=True)
class Truth:
    """``dt_size``: the sum of the magnitudes of what ``dt`` is the sum of."""

    loss: Tensor
    dz1: Tensor
    dz2: Tensor
    dt: Tensor
    dt_size: Tensor
    norms: Tensor


def unit_rows(x: Tensor, smallest_normal: float) -> tuple[Tensor, Tensor]:
    """Rows of a norm below the smallest normal number of their dtype become zeros."""
    norms = torch.linalg.vector_norm(x, dim=1)
    is_zero = norms < smallest_normal
    unit = x / norms.masked_fill(is_zero, 1.0)[:, None]
    return unit.masked_fill(is_zero[:, None], 0.0), norms.detach()


def losses(z: Tensor, rows: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Losses of some of the unit rows z ``(2N, D)``, and their derivatives by the temperature."""
    m = len(z)
    s = z[rows] @ z.T / temperature
    itself = rows[:, None] == torch.arange(m, device=z.device)
    positive = s.gather(1, ((rows + m // 2) % m)[:, None])[:, 0]
    s = s.masked_fill(itself, -math.inf)
    loss = torch.logsumexp(s, 1) - positive
    with torch.no_grad():
        mean = (s.softmax(1) * s.masked_fill(itself, 0.0)).sum(1)
    return loss, (positive.detach() - mean) / temperature


def nt_xent(z1: Tensor, z2: Tensor, temperature: float, weights: Tensor) -> Truth:
    """Losses, and gradients of their weighted sum."""
    n, weights = len(z1), weights.double()
    x = torch.cat((z1, z2)).detach().double().requires_grad_()
    unit, norms = unit_rows(x, torch.finfo(z1.dtype).tiny)
    z = unit.detach().requires_grad_()
    parts = []
    index = torch.arange(2 * n, device=z.device)
    for rows in index.split(max(1, _ELEMENTS_AT_A_TIME // (2 * n))):
        loss, dt = losses(z, rows, temperature)
        (loss * weights[rows]).sum().backward()  # adds to z.grad
        parts.append((loss.detach(), dt))
    loss, dt = (torch.cat(part) for part in zip(*parts, strict=True))
    (dx,) = torch.autograd.grad(unit, x, z.grad)
    dt = dt * weights
    return Truth(loss, dx[:n], dx[n:], dt.sum(), dt.abs().sum(), norms)
