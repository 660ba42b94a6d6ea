"""What people write today, to be timed beside mixnoise."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def nt_xent(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    z = F.normalize(torch.cat((z1, z2)), dim=1)
    m = len(z)
    similarity = z @ z.T / temperature
    itself = torch.eye(m, dtype=torch.bool, device=z.device)
    positive = torch.arange(m, device=z.device).roll(m // 2)
    return F.cross_entropy(similarity.masked_fill(itself, float("-inf")), positive)


def draw(x: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Partners (a row may draw itself, which is common practice and cheaper) and coefficients."""
    n = len(x)
    return torch.randint(n, (n,)), alpha + (1 - alpha) * torch.rand(n, 1)


def linear(x: Tensor, alpha: float) -> Tensor:
    partner, c = draw(x, alpha)
    return c * x + (1 - c) * x[partner]


def geometric(x: Tensor, alpha: float) -> Tensor:
    partner, c = draw(x, alpha)
    return x**c * x[partner] ** (1 - c)


def binary(x: Tensor, alpha: float) -> Tensor:
    partner, c = draw(x, alpha)
    return torch.where(torch.rand_like(x) < c, x, x[partner])


def gaussian(x: Tensor, sigma: float) -> Tensor:
    return x + sigma * torch.randn_like(x)
