"""Training and test rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Rows ``(N, F)`` float32, pixels in [0, 1] or standardised columns; labels ``(N,)`` int64."""

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor


def make_split(
    x_train: Any, y_train: Any, x_test: Any, y_test: Any, held_out: float | None
) -> Split:
    """A Split of arrays.

    With ``held_out``, that share of the training rows replaces the test rows.
    """
    if held_out is not None:
        x_train, y_train, x_test, y_test = stratified(x_train, y_train, held_out, seed=1)
    x = [torch.as_tensor(part) for part in (x_train, x_test)]
    y = [torch.as_tensor(np.asarray(part, np.int64)) for part in (y_train, y_test)]
    return Split(x[0], y[0], x[1], y[1])


def stratified(x: Any, y: Any, test_size: float | int, seed: int) -> tuple[Any, Any, Any, Any]:
    """x_train, y_train, x_test, y_test, with each class's share of the rows."""
    from sklearn.model_selection import train_test_split

    x_train, x_test, y_train, y_test = train_test_split(
        x, y, test_size=test_size, stratify=y, random_state=seed
    )
    return x_train, y_train, x_test, y_test


def standardised(split: Split) -> Split:
    """Columns of mean 0 and standard deviation 1 over the training rows; constant ones are 0."""
    mean, std = split.x_train.double().mean(0), split.x_train.double().std(0, correction=0)
    std[std == 0] = 1
    x_train, x_test = (((x.double() - mean) / std).float() for x in (split.x_train, split.x_test))
    return Split(x_train, split.y_train, x_test, split.y_test)
