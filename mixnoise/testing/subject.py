"""A noise under test."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mixnoise.noises.base import Noise
from mixnoise.testing.compare import describe_error, equal
from mixnoise.testing.data import N_ROWS, Rows, copy_of
from mixnoise.testing.report import CheckFailed, CheckSkipped
from mixnoise.testing.state import pin


class Subject:
    """What a check gets: a fresh copy of the noise, data, and calls with pinned global states.

    Before each call the global generators are seeded with ``pin_``, so that a noise that wrongly
    uses them fails the check for that, and not all others. x is cloned, for the same reason.
    """

    def __init__(self, noise: Noise, rows: Callable[[], Rows]) -> None:
        self.original = noise
        self.noise = copy_of(noise)
        self._find = rows

    @cached_property
    def rows(self) -> Rows:
        return self._find()

    def batch(
        self, n_rows: int = N_ROWS, *, dtype: torch.dtype | None = None, start: int = 0
    ) -> Tensor:
        return self.rows.batch(n_rows, dtype, start)

    def batches(self) -> list[Tensor]:
        """An ordinary batch, then others whose rows have 0 to 4 dimensions."""
        shapes: list[tuple[int, ...]] = [(), (3, 4), (2, 3, 4), (2, 2, 2, 3)]
        others = [] if self.rows.given else [self.rows.of_shape(shape) for shape in shapes]
        return [self.batch(), *others]

    def sample(self, x: Tensor, views: int = 2, pin_: int = 0, **sources: Any) -> Any:
        pin(pin_)
        return self.noise.sample(x.clone(), views=views, **sources)

    def apply(self, x: Tensor, draw: Any, pin_: int = 0) -> Tensor:
        pin(pin_)
        return as_tensor(self.noise.apply(x.clone(), draw))

    def views(self, x: Tensor, views: int = 2, pin_: int = 0, **sources: Any) -> Tensor:
        """``(views, N, *features)``."""
        return self.apply(x, self.sample(x, views, pin_, **sources), pin_)

    def refusal(self, x: Tensor) -> Exception | None:
        """The ValueError or TypeError by which ``sample`` refuses x, if it does."""
        try:
            self.sample(x)
        except (TypeError, ValueError) as error:
            return error
        return None

    def batch_or_skip(self, dtype: torch.dtype) -> Tensor:
        """A batch of this type; the check is skipped where the noise refuses such."""
        x = self.batch(dtype=dtype)
        refusal = self.refusal(x)
        if refusal is not None:
            raise CheckSkipped(f"sample refuses {dtype}: {describe_error(refusal)}")
        return x

    @property
    def is_identity(self) -> bool:
        """Whether the noise's own arguments are those with which it declares to change nothing."""
        declared = self.noise.identity
        if not declared:
            return False
        try:
            config = self.noise.config()
        except Exception:  # "config" reports it
            return False
        return all(name in config and equal(config[name], declared[name]) for name in declared)


def as_tensor(views: object) -> Tensor:
    if not isinstance(views, Tensor):
        raise CheckFailed(f"apply must return a tensor, got {type(views).__name__}")
    return views


def expect_shape(views: Tensor, n_views: int, x: Tensor) -> None:
    expected = (n_views, *x.shape)
    if views.shape != expected:
        raise CheckFailed(
            f"{n_views} views of x {tuple(x.shape)} must have shape {expected}, got "
            f"{tuple(views.shape)}"
        )
