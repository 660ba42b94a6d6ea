"""Gaussian noise, the baseline of the paper."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from mixnoise.checks import check_float, check_float_tensor
from mixnoise.draw import Draw
from mixnoise.noises.base import Noise, check_sample_arguments, mix_with, seed_tensor


class Gaussian(Noise):
    """x+ = x + sigma eps, with eps ~ N(0, 1) per element.

    The one noise that needs no partner, and so also takes a batch of one row. The deviates are
    float32 with 31 bits in the radius, which reaches 6.6 standard deviations.

    Args:
        sigma: standard deviation of the noise, >= 0, in x's units.

    Raises:
        TypeError, ValueError: sigma is negative or not finite in float32; from ``sample``, if x
            is not floating point or has no rows.

    Example:
        >>> import torch
        >>> from mixnoise import get_noise
        >>> x = torch.zeros(1000, 100)
        >>> round(get_noise("gaussian", sigma=0.3)(x, seed=0).std().item(), 2)
        0.3

    Source: the baseline of Verma et al., DACL, arXiv 2011.04419; Box and Muller (1958).
    """

    name = "gaussian"
    identity: ClassVar = {"sigma": 0.0}

    def __init__(self, sigma: float = 0.3) -> None:
        super().__init__()
        value = check_float("sigma", sigma, "a finite number >= 0")
        if not 0 <= value < math.inf:
            raise ValueError(f"sigma must be finite and >= 0, got {sigma}")
        if value > torch.finfo(torch.float32).max:
            raise ValueError(f"sigma must be in the range of float32, got {sigma}")
        self.sigma = sigma

    def sample(
        self,
        x: Tensor,
        *,
        views: int = 1,
        generator: torch.Generator | None = None,
        seed: int | Tensor | None = None,
    ) -> Draw:
        check_sample_arguments(self.name, x, views, min_rows=1)
        check_float_tensor("x", x)
        shape = (views, x.shape[0])
        return Draw(
            seed=seed_tensor(x.device, generator, seed),
            partner=torch.arange(x.shape[0], device=x.device).repeat(views, 1),
            coef=torch.full(shape, float(self.sigma), dtype=torch.float32, device=x.device),
            function="gaussian",
        )

    def apply(self, x: Tensor, draw: Draw) -> Tensor:  # type: ignore[override]
        """Views ``(views, N, *features)`` of x: a pure function of x and draw."""
        return mix_with("gaussian", x, draw)
