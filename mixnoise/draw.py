"""The record of every random decision a noise makes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

#: The mixing functions, in the order of the codes that ``Draw.kind`` holds.
FUNCTIONS = ("linear", "geometric", "binary", "gaussian")


@dataclass(frozen=True, eq=False)
class Draw:
    """Every random decision behind a set of views; applying it is deterministic.

    A noise's ``sample`` makes one, its ``apply`` uses it. You can also make your own, with
    partners of your choosing, or keep one to replay the same views later or elsewhere.
    Masks and normal deviates are not stored: they are functions of ``seed``, view, row and column.

    Args:
        seed: 0-d int64 tensor that all element-wise randomness grows from.
        partner: ``(views, N)`` int64, the row that each row is mixed with.
        coef: ``(views, N)`` float32, the share that the row itself keeps, in [0, 1];
            for Gaussian noise its standard deviation.
        kind: ``(N,)`` uint8, a mixing function per row as an index into :data:`FUNCTIONS`;
            None where every row is mixed by ``function``.
        low: lower end of the data for geometric mixing, 0-d or shaped like one row; None is 0.
        function: the mixing function of all rows where ``kind`` is None. A built-in noise with
            a single function sets its own, whatever stands here.

    Example:
        >>> import torch
        >>> from mixnoise import Draw, get_noise
        >>> draw = Draw(torch.tensor(0), torch.tensor([[1, 0]]), torch.tensor([[0.75, 1.0]]))
        >>> get_noise("linear").apply(torch.tensor([[0.0], [4.0]]), draw)
        tensor([[[1.],
                 [4.]]])
    """

    seed: Tensor
    partner: Tensor
    coef: Tensor
    kind: Tensor | None = None
    low: Tensor | None = None
    function: str = "linear"

    def to(self, device: torch.device | str) -> Draw:
        """The same draw with every tensor on ``device``."""
        moved: dict[str, Any] = {
            f.name: v.to(device) if isinstance(v := getattr(self, f.name), Tensor) else v
            for f in fields(self)
        }
        return Draw(**moved)
