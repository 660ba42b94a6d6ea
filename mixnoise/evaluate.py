"""Probes of a frozen encoder: how much of the labels its features give away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

Encoder = Callable[[Tensor], Tensor]
LabelledData = tuple[Any, Any]

# Weights of neighbours, exp(cosine / 0.07): Wu et al., arXiv 1805.01978.
_KNN_TEMPERATURE = 0.07


@dataclass(frozen=True)
class ProbeResult:
    """Accuracy on the test rows in [0, 1], and how many labels it took."""

    accuracy: float
    n_labels: int


@torch.no_grad()
def features(encoder: Encoder, x: Any, batch_size: int = 4096) -> Tensor:
    """The encoder's output for all rows of x, ``(N, D)`` on the CPU, in evaluation mode.

    Args:
        encoder: a module, whose mode is restored afterwards, or any function of a tensor.
        x: rows, a tensor or an array ``(N, *features)``.
        batch_size: rows encoded at a time.
    """
    x = torch.as_tensor(x)
    if x.ndim == 0 or x.shape[0] == 0:
        raise ValueError(f"x must have at least one row, got shape {tuple(x.shape)}")
    device, modes = None, {}
    if isinstance(encoder, nn.Module):
        tensor = next(iter(encoder.parameters()), None)
        device = None if tensor is None else tensor.device
        modes = {m: m.training for m in encoder.modules()}
        encoder.eval()
    try:
        parts = [encoder(part.to(device)).flatten(1).cpu() for part in x.split(batch_size)]
    finally:
        for module, mode in modes.items():
            module.training = mode
    return torch.cat(parts)


def linear_probe(
    encoder: Encoder,
    train: LabelledData,
    test: LabelledData,
    labels_per_class: int | None = None,
    seed: int = 0,
) -> ProbeResult:
    """Accuracy of logistic regression on frozen, standardised features.

    Args:
        encoder: a module or a function from rows to features; ``nn.Identity()`` probes raw columns.
        train: rows ``(N, *features)`` and labels ``(N,)``, tensors or arrays; labels of any kind.
        test: likewise.
        labels_per_class: use this many labelled training rows of each class; None uses all.
        seed: decides which.

    Returns:
        A result with ``.accuracy`` in [0, 1].

    Raises:
        ValueError: rows and labels of different lengths, an empty set, or fewer than
            ``labels_per_class`` rows of some class.
        ImportError: scikit-learn is not installed.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from mixnoise import linear_probe
        >>> y = torch.arange(100) % 2
        >>> x = torch.randn(100, 3) + 9 * y[:, None]
        >>> linear_probe(nn.Identity(), (x, y), (x, y), labels_per_class=10).accuracy
        1.0
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise ImportError(
            "linear_probe needs scikit-learn: pip install 'mixnoise[sklearn]'"
        ) from error
    x_train, y_train, x_test, y_test = _labelled(train, test)
    if labels_per_class is not None:
        chosen = choose_rows(y_train, labels_per_class, seed)
        x_train, y_train = x_train[chosen], y_train[chosen]
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    classifier.fit(features(encoder, x_train).numpy(), y_train)
    accuracy = classifier.score(features(encoder, x_test).numpy(), y_test)
    return ProbeResult(float(accuracy), len(y_train))


def knn_probe(
    encoder: Encoder, train: LabelledData, test: LabelledData, k: int = 20
) -> ProbeResult:
    """Accuracy of a weighted vote of the k nearest training rows by cosine similarity.

    Args:
        encoder, train, test: as for :func:`linear_probe`.
        k: neighbours that vote, >= 1; all rows vote if there are fewer.

    Returns:
        A result with ``.accuracy`` in [0, 1].

    Raises:
        ValueError: rows and labels of different lengths, an empty set, or k < 1.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from mixnoise import knn_probe
        >>> x, y = torch.eye(4), torch.arange(4)
        >>> knn_probe(nn.Identity(), (x, y), (x, y), k=1).accuracy
        1.0

    Source: Wu et al., arXiv 1805.01978.
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"k must be an integer >= 1, got {k!r}")
    x_train, y_train, x_test, y_test = _labelled(train, test)
    classes, codes = np.unique(y_train, return_inverse=True)
    votes_for = F.one_hot(torch.as_tensor(codes), len(classes)).float()
    bank = F.normalize(features(encoder, x_train).float())
    queries = F.normalize(features(encoder, x_test).float())
    predicted = []
    for block in queries.split(1024):
        similarity, index = (block @ bank.T).topk(min(k, len(bank)), dim=1)
        weight = ((similarity - 1) / _KNN_TEMPERATURE).exp()
        predicted.append((weight[..., None] * votes_for[index]).sum(1).argmax(1))
    accuracy = float(np.mean(classes[torch.cat(predicted).numpy()] == y_test))
    return ProbeResult(accuracy, len(y_train))


def _labelled(train: LabelledData, test: LabelledData) -> tuple[Tensor, Any, Tensor, Any]:
    """Both sets as tensors of rows and arrays of labels."""
    sets: list[Any] = []
    for name, data in (("train", train), ("test", test)):
        if not isinstance(data, (tuple, list)) or len(data) != 2:
            raise TypeError(f"{name} must be a pair (rows, labels), got {type(data).__name__}")
        x = torch.as_tensor(data[0])
        y = np.asarray(data[1].cpu() if isinstance(data[1], Tensor) else data[1])
        n_rows = x.shape[0] if x.ndim else 0
        if y.ndim != 1 or len(y) != n_rows or n_rows == 0:
            raise ValueError(
                f"{name} must have one label per row and at least one row, got rows of shape "
                f"{tuple(x.shape)} and labels of shape {y.shape}"
            )
        sets += [x, y]
    return sets[0], sets[1], sets[2], sets[3]


def choose_rows(y: Any, labels_per_class: int, seed: int) -> Any:
    """Indices of so many rows of each class, drawn without replacement."""
    if isinstance(labels_per_class, bool) or not isinstance(labels_per_class, int):
        raise TypeError(f"labels_per_class must be an integer or None, got {labels_per_class!r}")
    rng = np.random.default_rng(seed)
    chosen = []
    for label in np.unique(y):
        rows = np.flatnonzero(y == label)
        if not 1 <= labels_per_class <= len(rows):
            raise ValueError(
                f"labels_per_class must be in 1..{len(rows)}, the rows of class {label!s} in "
                f"train, got {labels_per_class}"
            )
        chosen.append(rng.choice(rows, labels_per_class, replace=False))
    return np.sort(np.concatenate(chosen))
