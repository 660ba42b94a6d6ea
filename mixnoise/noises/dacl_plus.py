"""DACL+: one of three mixing functions per sample."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from mixnoise.draw import Draw
from mixnoise.noises.geometric import GeometricLow
from mixnoise.ops import draw_kinds, mix


class DaclPlus(GeometricLow):
    """Linear, geometric or binary mixing, drawn per sample with equal probability.

    The same function makes all of a sample's views; coefficients and partners are drawn per view.

    Args:
        alpha: lower end of c ~ U(alpha, 1) for each function, in [0, 1]; 1 changes nothing.
        low: lower end of the data for geometric mixing, as for "geometric".
        granularity: "sample" draws function and c per row; "batch" one function for the whole
            batch and one c a view.

    Raises:
        TypeError, ValueError: as for "geometric".

    Example:
        >>> import torch
        >>> from mixnoise import get_noise
        >>> x1, x2 = get_noise("dacl+").views(torch.randn(256, 30), 2)

    Source: Verma et al., DACL, arXiv 2011.04419 (probabilities are not stated there; equal here).
    """

    name = "dacl+"

    def sample(
        self,
        x: Tensor,
        *,
        views: int = 1,
        generator: torch.Generator | None = None,
        seed: int | Tensor | None = None,
    ) -> Draw:
        draw = super().sample(x, views=views, generator=generator, seed=seed)
        # Linear, geometric and binary are the first of FUNCTIONS, so a choice is a code.
        kind = draw_kinds(draw.seed, x.shape[0], 3, self.granularity == "batch")
        return replace(draw, kind=kind)

    def apply(self, x: Tensor, draw: Draw) -> Tensor:  # type: ignore[override]
        """Views ``(views, N, *features)`` of x: a pure function of x and draw."""
        return mix(x, draw)
