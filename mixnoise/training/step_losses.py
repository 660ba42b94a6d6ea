"""The losses of an epoch's steps, and the error that ends a run when one is not finite."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from accelerate import Accelerator

_ROOM_AT_FIRST = 1024


class LossNotFinite(FloatingPointError):
    """The loss, that of ``validation``, or a parameter became NaN or infinite.

    Attributes:
        step: the first bad one, or the one before the evaluation, counted from 0.
        indices: which rows of the data were in this process's batch of that step; None if only the
            caller's loader can know, or if it was the loss of ``validation``.
    """

    def __init__(self, message: str, step: int = -1, indices: Tensor | None = None) -> None:
        super().__init__(message)
        self.step, self.indices = step, indices


class StepLosses:
    """Kept on the device until somebody looks, for which the device has to be waited for.

    ``means`` are those over all processes, of the epoch's steps up to the last look.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.means = torch.empty(0, device="cpu")
        # All in one tensor, since a small one for each step would stay between the large ones that
        # come and go, and the process would grow with every step.
        self.own = torch.empty(_ROOM_AT_FIRST, device=accelerator.device)
        self.n_own = 0

    def record(self, loss: Tensor) -> None:
        if self.n_own == len(self.own):
            self.own = torch.cat((self.own, torch.empty_like(self.own)))
        self.own[self.n_own] = loss.detach()
        self.n_own += 1

    def look(self, parameters: Iterable[Tensor]) -> tuple[str, int] | None:
        """What is not finite, and after how many of the epoch's steps; None if nothing is.

        The losses are averaged over all processes, so that all of them stop where one has something
        that is not finite.

        Args:
            parameters: those that the losses led to.
        """
        sound = torch.stack([p.isfinite().all() for p in parameters]).all()
        own = self.own[: self.n_own]
        values = torch.cat((own, torch.where(sound, 0.0, math.nan).to(own)[None]))
        values = self.accelerator.reduce(values, "mean").cpu()
        bad = (~values.isfinite()).nonzero()
        if len(bad):
            first = int(bad[0])
            if first == self.n_own:  # after the last step, or the next loss would have told
                return "a parameter became NaN or infinite", len(self.means) + first - 1
            others = self.accelerator.num_processes > 1 and own[first].isfinite()
            whose = "the loss of another process" if others else "the loss"
            return f"{whose} became {values[first].item()}", len(self.means) + first
        self.means = torch.cat((self.means, values[:-1]))
        self.n_own = 0
        return None

    def start_epoch(self) -> None:
        self.means = torch.empty(0, device="cpu")
