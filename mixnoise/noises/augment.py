"""Augmentations that know the domain, where somebody knows some."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mixnoise.noises.base import Noise, check_sample_arguments, seed_tensor
from mixnoise.seeding import preserved_random_state, seed_globally


@dataclass(frozen=True)
class AugmentDraw:
    """What decides all that a transform draws: the global random states that it finds."""

    seed: int
    views: int


class Augment(Noise):
    """x+ = t(x), with t any random transform of a batch, such as SimCLR's.

    :class:`mixnoise.DACL` with this noise is SimCLR; in a list with a mixing noise it is the
    paper's SimCLR+DACL. Rows of one batch must be drawn for independently, as kornia's
    augmentations do by default. The transform may draw from the global generators of torch, numpy
    and random: they are seeded for it by the draw, and are afterwards as they were. So views depend
    on the seed alone, but on another device a transform may draw other numbers.

    Those generators are the process's: threads that augment at once disturb one another.

    Under ``torch.compile`` the transform runs between the graphs of what comes before and after,
    since global generators cannot be traced; so ``fullgraph=True`` is not possible.

    Args:
        transform: from rows ``(N, *features)`` to as many rows, of any shape; an ``nn.Module``
            moves with the noise, and stays in the mode, training or evaluation, in which it was
            given. It gets a copy, all views one below the other, and may change it.

    Raises:
        TypeError, ValueError: the transform is not callable; from ``apply``, if it does not return
            a row for each of its rows.

    Example:
        >>> import torch
        >>> from mixnoise import get_noise
        >>> def flip(x):
        ...     return torch.where(torch.rand(len(x), 1) < 0.5, x, x.flip(1))
        >>> get_noise("augment", transform=flip).views(torch.randn(8, 32), seed=0).shape
        torch.Size([2, 8, 32])

    Source: Chen et al., SimCLR, arXiv 2002.05709; transforms for images: kornia.augmentation.
    """

    name = "augment"

    def __init__(self, transform: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        if not callable(transform):
            raise TypeError(
                f"transform must be a function or a module, got {type(transform).__name__}"
            )
        self.transform = transform

    def train(self, mode: bool = True) -> Augment:
        """The transform stays as it was given: noise belongs to the method, not to a phase."""
        self.training = mode
        return self

    @torch.compiler.disable
    def sample(
        self,
        x: Tensor,
        *,
        views: int = 1,
        generator: torch.Generator | None = None,
        seed: int | Tensor | None = None,
    ) -> AugmentDraw:
        check_sample_arguments(self.name, x, views, min_rows=1)
        # On the CPU: seeding needs a number, which a GPU would have to be waited for.
        device = torch.device("cpu") if generator is None else generator.device
        return AugmentDraw(int(seed_tensor(device, generator, seed)) % 2**63, views)

    @torch.compiler.disable
    def apply(self, x: Tensor, draw: AugmentDraw) -> Tensor:
        """Views ``(views, N, *features)`` of x: a function of x and draw."""
        if not isinstance(draw, AugmentDraw):
            raise TypeError(f"draw must be what sample returned, got {type(draw).__name__}")
        copies = x.repeat(draw.views, *[1] * (x.ndim - 1))
        with preserved_random_state():
            seed_globally(draw.seed)
            views: Any = self.transform(copies)
        n_rows = len(copies)
        if not isinstance(views, Tensor):
            raise TypeError(f"the transform must return a tensor, got {type(views).__name__}")
        if views.ndim == 0 or len(views) != n_rows:
            raise ValueError(
                f"the transform must return as many rows as it got, {n_rows}, got shape "
                f"{tuple(views.shape)}"
            )
        return views.reshape(draw.views, len(x), *views.shape[1:])
