"""Noise for numbers and codes of categories side by side."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mixnoise.checks import check_integer
from mixnoise.draw import Draw
from mixnoise.noises.base import Noise
from mixnoise.noises.binary import Binary

# Else the masks of codes would be those of the numbers that are mixed by masks, too.
_OF_CODES = 0x5851F42D4C957F2D


class TableNoise(Noise):
    """Mixes numbers by any noise, and swaps categories, which have nothing in between.

    Where the numbers of a row are mixed with those of another row, its categories are swapped with
    those of the same one, each with the same probability 1 - c as the numbers' share. Else, as with
    Gaussian noise, partners and c ~ U(alpha, 1) are drawn for them alone.

    Args:
        numbers: the noise of the first ``n_numbers`` columns.
        n_numbers: the columns after these are codes, >= 0.
        alpha: lower end of the share of categories that are kept, in [0, 1], where it is not that
            of the numbers.
    """

    name = "table"

    def __init__(self, numbers: Noise, n_numbers: int, alpha: float = 0.7) -> None:
        super().__init__()
        check_integer("n_numbers", n_numbers, 0)
        self.numbers, self.n_numbers, self.alpha = numbers, n_numbers, alpha
        self.swap = Binary(alpha)

    def sample(
        self,
        x: Tensor,
        *,
        views: int = 1,
        generator: torch.Generator | None = None,
        seed: int | Tensor | None = None,
    ) -> tuple[Any, Draw | None]:
        numbers, codes = self._split(x)
        draw = None
        if self.n_numbers:
            draw = self.numbers.sample(numbers, views=views, generator=generator, seed=seed)
        if not codes.shape[1]:
            return draw, None
        if isinstance(draw, Draw) and draw.function != "gaussian":
            shared = replace(draw, seed=draw.seed ^ _OF_CODES, kind=None, low=None)
            return draw, replace(shared, function="binary")
        swap = self.swap.sample(codes, views=views, generator=generator, seed=seed)
        return draw, replace(swap, seed=swap.seed ^ _OF_CODES)

    # Not nn.Module's apply(fn), which Noise hides and passes on to.
    def apply(self, x: Tensor, draw: tuple[Any, Draw | None]) -> Tensor:  # type: ignore[override]
        """Views ``(views, N, columns)`` of x: a pure function of x and draw."""
        numbers, codes = self._split(x)
        of_numbers, of_codes = draw
        if of_codes is None:
            return self.numbers.apply(numbers, of_numbers)
        swapped = self.swap.apply(codes, of_codes)
        if not self.n_numbers:
            return swapped
        return torch.cat((self.numbers.apply(numbers, of_numbers), swapped), dim=2)

    def config(self) -> dict[str, Any]:
        return {**super().config(), "numbers": self.numbers.config()}

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x[:, : self.n_numbers], x[:, self.n_numbers :]
