"""What the representation is like while it is trained."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from mixnoise import metrics
from mixnoise.batches import Inputs
from mixnoise.evaluate import knn_probe
from mixnoise.features import LabelledData, check_finite_rows, labelled_sets
from mixnoise.micro_batches import in_micro_batches
from mixnoise.model import DACL
from mixnoise.training.progress import warn

_ROWS = 512
# RankMe of a line is 1. Only where there was room for more.
_COLLAPSED_RANK, _LEAST_RANK_POSSIBLE = 1.5, 4
# Before that the running statistics of batch norm are those of nothing in particular.
_STEPS_TO_SETTLE = 50


@dataclass
class Monitor:
    """What can be said of a batch without labels, and a kNN probe.

    RankMe is that of the encoder's output, and a collapse is warned of once. Alignment and
    uniformity are those of the projections, which the loss acts on, with noise of their own.

    Args:
        one_tensor: whether the encoder takes one tensor of rows, so that some of them are enough.
        probe: labelled (train, test) sets, if there are any.
        micro_batch: rows that the network takes at a time; None: all.
    """

    one_tensor: bool
    probe: tuple[LabelledData, LabelledData] | None
    micro_batch: int | None = None
    collapse_seen: bool = False

    @torch.no_grad()
    def evaluate(
        self, model: DACL, inputs: Inputs, step: int, autocast: AbstractContextManager[None]
    ) -> dict[str, float]:
        """The values that the history gets of a model in evaluation mode."""
        args, kwargs = inputs
        encoder = _InMicroBatches(model.encoder, self.micro_batch)
        if self.one_tensor:
            args = (args[0][:_ROWS],)
        with autocast:
            h = encoder(*args, **kwargs)[:_ROWS].flatten(1)
            z1, z2 = model.project(
                *args,
                **kwargs,
                generator=torch.Generator().manual_seed(step),
                micro_batch=self.micro_batch,
            )
        if not h.isfinite().all():
            return {"rankme": math.nan}  # and no reason for a probe
        z1, z2 = z1[:_ROWS], z2[:_ROWS]
        values = {
            "rankme": metrics.rankme(h),
            "alignment": metrics.alignment(z1, z2),
            "uniformity": metrics.uniformity(z1),
        }
        can_tell = step >= _STEPS_TO_SETTLE and min(h.shape) >= _LEAST_RANK_POSSIBLE
        if can_tell and values["rankme"] < _COLLAPSED_RANK and not self.collapse_seen:
            self.collapse_seen = True
            warn(
                f"the representation has collapsed: RankMe is {values['rankme']:.2f} of at most "
                f"{min(h.shape)} at step {step}; try a lower lr, a stronger noise or normalisation "
                "layers"
            )
        if self.probe is not None:
            values["knn_accuracy"] = self.probe_accuracy(encoder, step)
        return values

    def probe_accuracy(self, encoder: nn.Module, step: int) -> float:
        assert self.probe is not None
        try:
            return knn_probe(encoder, *self.probe).accuracy
        except Exception as error:  # it is only looked at, and other processes would wait for this
            warn(f"the probe failed at step {step}, its accuracy is NaN in the history: {error}")
            return math.nan


class _InMicroBatches(nn.Module):
    """An encoder that gets so many rows at a time; a module, so that its device can be told."""

    def __init__(self, encoder: nn.Module, size: int | None) -> None:
        super().__init__()
        self.encoder, self.size = encoder, size

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        return in_micro_batches(partial(self.encoder, **kwargs), inputs, self.size)


def check_probe(probe: Any, encoder: nn.Module) -> None:
    """Raises if the probe breaks a rule, which else the first evaluation would find."""
    if not isinstance(probe, (tuple, list)) or len(probe) != 2:
        size = f" of {len(probe)}" if isinstance(probe, (tuple, list)) else ""
        raise TypeError(
            f"probe must be a pair (train, test) of labelled sets, got {type(probe).__name__}{size}"
        )
    train, _, test, *_ = labelled_sets(*probe)
    for name, x in (("train", train), ("test", test)):
        check_finite_rows(f"{name} of probe", x, encoder)
