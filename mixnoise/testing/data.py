"""Data that a noise takes."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mixnoise.noises.base import Noise
from mixnoise.testing.compare import describe_error
from mixnoise.testing.report import CheckFailed

#: Rows of an ordinary batch, even: batches of odd size have a check of their own.
N_ROWS = 16
#: Rows there must be to choose from.
N_POOL = 32


@dataclass(frozen=True)
class Rows:
    """Rows that a noise takes.

    Args:
        pool: ``(N, *features)``, at least N_POOL rows.
        given: whether the user gave them; then no other shapes are tried.
    """

    pool: Tensor
    given: bool = False

    def batch(self, n_rows: int, dtype: torch.dtype | None, start: int) -> Tensor:
        return self.pool[start : start + n_rows].to(dtype or self.pool.dtype, copy=True)

    def of_shape(self, features: tuple[int, ...]) -> Tensor:
        """A batch of the same values in another shape."""
        index = torch.arange(N_ROWS * math.prod(features), device="cpu") % self.pool.numel()
        return self.pool.flatten()[index].reshape(N_ROWS, *features)


def _kinds(shape: tuple[int, ...]) -> list[Tensor]:
    """Data of several dtypes, from what most noises take to what few do."""
    g = torch.Generator().manual_seed(20)
    normal = torch.randn(shape, generator=g, dtype=torch.float64, device="cpu")
    return [
        normal.float(),
        normal.sigmoid().float(),
        (normal.sigmoid() * 10).long(),
        normal > 0,
    ]


def find_rows(noise: Noise) -> Rows:
    """Data that ``noise.sample`` does not refuse by ValueError or TypeError.

    Standard normal numbers are tried first, then numbers in (0, 1), integers in [0, 10) and bool,
    each in several shapes.
    """
    first_error: Exception | None = None
    for features in ((8,), (5, 4), (3, 8, 8)):
        for pool in _kinds((N_POOL, *features)):
            try:
                copy_of(noise).sample(pool[:N_ROWS].clone(), views=2)
            except (TypeError, ValueError) as error:
                first_error = first_error or error
                continue
            except Exception:  # not a refusal but a crash: the checks will report it
                pass
            return Rows(pool)
    raise CheckFailed(
        f"sample refused {N_ROWS} rows of any data that the kit knows (normal, in (0, 1), "
        "integers, bool; 1 to 3 feature dimensions); pass x= with rows it takes. The first refusal "
        f"was {describe_error(first_error)}"
    ) from first_error


def given_rows(x: object) -> Rows:
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a tensor of rows that the noise takes, got {type(x).__name__}")
    if x.ndim == 0 or x.shape[0] < N_POOL:
        raise ValueError(f"x must have at least {N_POOL} rows, got shape {tuple(x.shape)}")
    return Rows(x.detach().cpu().contiguous(), given=True)


def copy_of(noise: Noise) -> Noise:
    """So that a check leaves the user's noise, and other checks, alone."""
    try:
        return copy.deepcopy(noise)
    except Exception:  # "pickling" reports it
        return noise
