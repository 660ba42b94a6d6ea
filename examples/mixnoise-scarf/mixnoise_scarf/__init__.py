"""SCARF's corruption as a noise of mixnoise."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from mixnoise import Noise

__all__ = ["Scarf"]


class Scarf(Noise):
    """Redraw each element with probability ``rate`` from the same column of another row.

    With x_kf a value of column f, k uniform over the other rows and drawn anew for each element:

        x+_if = x_kf with probability rate, else x_if

    So every column keeps its distribution, and columns lose what they have to do with each other.
    Any dtype, integers and codes of categories too: values are moved, never computed.

    SCARF corrupts exactly floor(rate F) of F columns, which for few columns is less than the rate
    (2 of 4 at 0.6). Here each element has its own chance, so that the rate is right for any F. It
    also corrupts one view only; ``noise.views`` corrupts all that are asked for.

    Args:
        rate: probability that an element is redrawn, in [0, 1]; 0 changes nothing.

    Example:
        >>> import torch
        >>> from mixnoise import get_noise
        >>> ages_and_codes = torch.tensor([[31, 0], [47, 2], [58, 1]])
        >>> get_noise("scarf", rate=0.5)(ages_and_codes).shape
        torch.Size([3, 2])

    Source: Bahri et al., SCARF, arXiv 2106.15147.
    """

    name = "scarf"
    identity: ClassVar = {"rate": 0.0}

    def __init__(self, rate: float = 0.6) -> None:
        super().__init__()
        if not 0 <= rate <= 1:
            raise ValueError(f"rate must be in [0, 1], got {rate}")
        self.rate = rate

    def sample(
        self,
        x: Tensor,
        *,
        views: int = 1,
        generator: torch.Generator | None = None,
        seed: int | Tensor | None = None,
    ) -> Tensor:
        """Which row each element is taken from, ``(views, N, *features)`` int64."""
        if x.ndim < 1 or x.shape[0] < 2:
            raise ValueError(
                f"x must have at least 2 rows, as values come from other rows, got {tuple(x.shape)}"
            )
        if seed is not None:
            generator = torch.Generator(x.device).manual_seed(int(seed))
        device = x.device if generator is None else generator.device
        shape = (views, *x.shape)
        own = torch.arange(x.shape[0], device=device).view(-1, *[1] * (x.ndim - 1))
        other = torch.randint(x.shape[0] - 1, shape, generator=generator, device=device)
        other += other >= own  # the row itself is left out
        redrawn = torch.rand(shape, generator=generator, device=device) < self.rate
        return torch.where(redrawn, other, own).to(x.device)

    def apply(self, x: Tensor, draw: Tensor) -> Tensor:  # type: ignore[override] # nn.Module's
        """Views ``(views, N, *features)`` of x: a pure function of x and draw."""
        return x.expand(draw.shape[0], *x.shape).gather(1, draw)
