"""Frozen features, and the labelled sets that probes are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Number
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mixnoise.batches import as_rows

Encoder = Callable[[Tensor], Tensor]
LabelledData = tuple[Any, Any]


def features(encoder: Encoder, x: Any, batch_size: int = 4096) -> Tensor:
    """The encoder's output for all rows of x, ``(N, D)`` on the CPU, in evaluation mode.

    Args:
        encoder: a module, whose mode is restored afterwards, or any function of a tensor. A module
            gets the rows on its own device and, if they are floating point, in its own dtype.
        x: rows, a tensor or an array ``(N, *features)``.
        batch_size: rows encoded at a time.

    Raises:
        ValueError: no rows, or the encoder does not return one row of finite features for each.
        TypeError: the encoder is neither a module nor a function, or does not return a tensor of
            real numbers.
    """
    x = as_rows("x", x)
    if x.ndim == 0 or x.shape[0] == 0:
        raise ValueError(f"x must have at least one row, got shape {tuple(x.shape)}")
    with frozen(encoder) as encode:
        return torch.cat([encode(part).cpu() for part in x.split(batch_size)])


def check_finite_rows(name: str, x: Tensor, encoder: Encoder) -> None:
    """Raises if rows have NaN or inf of which the encoder does not make finite features."""
    bad = x[~x.reshape(len(x), x[0].numel()).isfinite().all(1)]
    if len(bad) == 0:
        return
    try:
        features(encoder, bad)  # which may fill in what is missing
    except ValueError as error:
        raise ValueError(
            f"{name} must have finite rows, got NaN or inf in {len(bad)} of {len(x)}"
        ) from error


@contextmanager
def frozen(encoder: Encoder) -> Iterator[Encoder]:
    """The encoder in evaluation mode, as a function from rows to features ``(N, D)``.

    Threads may share an encoder that is in evaluation mode already. The mode of another is switched
    back by the first thread that leaves, while others may be inside.

    Raises:
        TypeError: it is neither a module nor a function.
    """
    if not callable(encoder):
        raise TypeError(
            f"encoder must be a module or a function of rows, got {type(encoder).__name__}"
        )
    device, dtype, modes = None, None, {}
    if isinstance(encoder, nn.Module):
        tensors = [*encoder.parameters(), *encoder.buffers()]
        device = next((t.device for t in tensors), None)
        dtype = next((t.dtype for t in tensors if t.is_floating_point()), None)
        modes = {m: m.training for m in encoder.modules()}
        encoder.eval()

    @torch.no_grad()
    def encode(x: Tensor) -> Tensor:
        h = encoder(x.to(device, dtype if x.is_floating_point() else None))
        if not isinstance(h, Tensor):
            raise TypeError(f"encoder must return a tensor, got {type(h).__name__}")
        if h.is_complex():
            raise TypeError(f"encoder must return real features, got {h.dtype}")
        if h.ndim == 0 or len(h) != len(x) or h.numel() == 0:
            raise ValueError(
                f"encoder must return one row of features for each of {len(x)} rows, got shape "
                f"{tuple(h.shape)}"
            )
        h = h.reshape(len(x), -1)
        if n_bad := int((~h.isfinite()).any(1).sum()):
            raise ValueError(
                f"encoder must return finite features, got NaN or inf in {n_bad} of {len(x)} rows"
            )
        return h

    try:
        yield encode
    finally:
        for module, mode in modes.items():
            module.training = mode


def labelled_rows(name: str, data: Any) -> tuple[Tensor, Any]:
    """Rows as a tensor and labels as an array, as many and at least one."""
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise TypeError(f"{name} must be a pair (rows, labels), got {type(data).__name__}")
    x = as_rows(f"rows of {name}", data[0])
    y = data[1]
    if isinstance(y, Tensor):
        y = y.detach().cpu()
        y = y.float() if y.is_floating_point() and y.itemsize < 4 else y  # numpy has no bfloat16
    y = np.asarray(y)
    n_rows = x.shape[0] if x.ndim else 0
    if y.ndim != 1 or len(y) != n_rows or n_rows == 0:
        raise ValueError(
            f"{name} must have one label per row and at least one row, got rows of shape "
            f"{tuple(x.shape)} and labels of shape {y.shape}"
        )
    return x, y


def check_width(name: str, h: Tensor, width: int) -> None:
    """Raises if the features of these rows are not as many as those of the first ones."""
    if h.shape[1] != width:
        raise ValueError(
            f"features of {name} must be as many as the first of train have, {width}, got "
            f"{h.shape[1]}"
        )


def as_classes(y: Any) -> tuple[Any, Any]:
    """The sorted classes of the training labels, and each label's index among them."""
    try:
        classes, codes = np.unique(y, return_inverse=True)
    except TypeError as error:
        raise TypeError(f"labels must be of one kind and none missing: {error}") from error
    _check_known(classes)
    if len(classes) < 2:
        raise ValueError(f"train must have at least two classes, got only {classes[0]!s}")
    return classes, codes


def as_codes(y: Any, classes: Any) -> Any:
    """Each test label's index among the classes, -1 if it is none of them.

    Raises:
        TypeError: all are of another kind than the classes, such as "1" and 1.
    """
    _check_known(y)
    index = {label: i for i, label in enumerate(classes.tolist())}
    codes = np.array([index.get(label, -1) for label in y.tolist()])
    if (codes < 0).all() and _kinds(y).isdisjoint(_kinds(classes)):
        raise TypeError(
            "labels of test must be of the same kind as those of train, got "
            f"{y.tolist()[0]!r}, and {classes.tolist()[0]!r} in train"
        )
    return codes


def _check_known(labels: Any) -> None:
    kind = labels.dtype.kind
    if (kind == "f" and np.isnan(labels).any()) or (kind in "mM" and np.isnat(labels).any()):
        raise ValueError(f"labels must not be missing, got {'NaN' if kind == 'f' else 'NaT'}")


def _kinds(labels: Any) -> set[type]:
    """All numbers are of one kind: 1, 1.0 and True are the same label."""
    return {Number if isinstance(v, Number) else type(v) for v in labels.tolist()}


def labelled_sets(train: Any, test: Any) -> tuple[Tensor, Any, Tensor, Any, Any]:
    """Rows and label codes of both sets, and the training classes; raises if a rule is broken."""
    x, labels = labelled_rows("train", train)
    x_test, labels_test = labelled_rows("test", test)
    classes, y = as_classes(labels)
    return x, y, x_test, as_codes(labels_test, classes), classes
