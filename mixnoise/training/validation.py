"""A label-free reason to stop: the loss on rows that are not trained on."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mixnoise.batches import as_rows
from mixnoise.features import check_finite_rows
from mixnoise.model import DACL
from mixnoise.seeding import derive_seed
from mixnoise.training.domain import check_domain

# Less than this share is no improvement.
_LEAST_IMPROVEMENT = 1e-3


class Validation:
    """Held-out rows, in batches as large as those of training, so that losses can be compared.

    Every process has its share of the rows, and each batch the same noise at every evaluation.
    The network takes as many rows at a time as in training.

    Raises:
        ValueError: fewer than two rows for each process.
    """

    def __init__(
        self,
        x: Any,
        batch_size: int,
        seed: int,
        rank: int,
        n_ranks: int,
        micro_batch: int | None = None,
    ) -> None:
        if not isinstance(x, Tensor) and not hasattr(x, "__array__"):
            raise TypeError(
                f"validation must be a tensor or an array of rows, got {type(x).__name__}"
            )
        x = as_rows("validation", x)
        if x.ndim == 0 or len(x) < 2 * n_ranks:
            raise ValueError(
                "validation must have at least two rows for each process, got shape "
                f"{tuple(x.shape)} for {n_ranks}"
            )
        share = len(x) // n_ranks
        self.all, self.x = x, x[rank * share : (rank + 1) * share]
        self.batch_size, self.seed, self.rank = batch_size, seed, rank
        self.settings = {} if micro_batch is None else {"micro_batch": micro_batch}

    def check(self, model: DACL, data: Tensor | None, dtype: torch.dtype) -> None:
        """Raises if the rows break a rule, which else the first evaluation would find.

        Of all processes' rows, so that they raise together.

        Args:
            model: that is trained.
            data: the rows that it is trained on, if they are a tensor.
            dtype: the model's, which floating-point rows become.
        """
        x = self.all
        if data is not None and x.shape[1:] != data.shape[1:]:
            raise ValueError(
                f"validation must have rows of the same shape as data, {tuple(data.shape[1:])}, "
                f"got {tuple(x.shape[1:])}"
            )
        if data is not None and x.is_floating_point() != data.is_floating_point():
            raise TypeError(f"validation must have a dtype like data, {data.dtype}, got {x.dtype}")
        check_finite_rows("validation", x, model.encoder)
        for batch in x.split(self.batch_size):
            if len(batch) > 1:
                batch = batch.to(dtype) if x.is_floating_point() else batch
                check_domain("validation", batch, model)

    def config(self) -> dict[str, Any]:
        """Which rows they are, of all processes."""
        content = self.all.cpu().contiguous().view(torch.uint8).numpy()
        return {"rows": len(self.all), "sha256": hashlib.sha256(content).hexdigest()}

    @torch.no_grad()
    def loss(self, model: nn.Module, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Mean over the rows of this process, of a model in evaluation mode."""
        losses, weights = [], []
        for i, batch in enumerate(self.batches()):
            generator = torch.Generator()
            generator.manual_seed(derive_seed(self.seed, f"validation/{self.rank}", i))
            x = batch.to(device, dtype if batch.is_floating_point() else None)
            losses.append(model(x, generator=generator, **self.settings).float())
            weights.append(len(batch))
        share = torch.tensor(weights, device=device, dtype=torch.float32) / sum(weights)
        return (torch.stack(losses) * share).sum()

    def batches(self) -> Iterator[Tensor]:
        """A last one of less than half the size has an easier task and is left out.

        So is a single row, which has no partner; a set smaller than a batch is one batch.
        """
        least = min(len(self.x), max(2, math.ceil(self.batch_size / 2)))
        yield from (batch for batch in self.x.split(self.batch_size) if len(batch) >= least)


def no_longer_improves(history: Sequence[Mapping[str, float]], patience: int) -> bool:
    """Whether the last so many evaluations were all no better than the best before."""
    best, since = math.inf, 0
    for loss in (row["validation_loss"] for row in history if "validation_loss" in row):
        if loss < best * (1 - _LEAST_IMPROVEMENT):
            best, since = loss, 0
        else:
            since += 1
    return since >= patience
