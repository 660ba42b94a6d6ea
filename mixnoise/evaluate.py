"""Probes of a frozen encoder: how much of the labels its features give away."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mixnoise.checks import check_choice, check_integer
from mixnoise.features import (
    Encoder,
    LabelledData,
    as_classes,
    as_codes,
    check_width,
    features,
    labelled_rows,
    labelled_sets,
)
from mixnoise.metrics import unit_rows
from mixnoise.sgd_probe import as_loader, batches_of, sgd_probe

Stream = Dataset[Any] | DataLoader[Any]
Rows = tuple[Any, Any]  # indices of the training rows and of the test rows of a split

CLASSIFIERS = ("logistic", "sgd")

# On standardised features scikit-learn's solver takes tens to hundreds of iterations. Should one
# not converge, its ConvergenceWarning goes to the user.
_LOGISTIC_ITERATIONS = 10_000
# Weights of neighbours, exp(cosine / 0.07): Wu et al., arXiv 1805.01978.
_KNN_TEMPERATURE = 0.07
_KNN_SIMILARITIES = 1 << 24  # in memory at a time


@dataclass(frozen=True)
class ProbeResult:
    """Test accuracy, and how many labels it took.

    Attributes:
        accuracy: mean over the splits, in [0, 1].
        std: sample standard deviation over the splits, 0.0 for a single one.
        accuracies: one for each split.
        n_labels: labelled training rows in each split.
    """

    accuracy: float
    std: float
    accuracies: tuple[float, ...]
    n_labels: int


def linear_probe(
    encoder: Encoder,
    train: LabelledData | Stream,
    test: LabelledData | Stream | float,
    labels_per_class: int | None = None,
    seed: int = 0,
    n_splits: int = 1,
    classifier: str = "logistic",
) -> ProbeResult:
    """Accuracy of a linear classifier on frozen, standardised features.

    Args:
        encoder: a module or a function from rows to features; ``nn.Identity()`` probes raw columns.
        train: rows ``(N, *features)`` and labels ``(N,)``, tensors or arrays; labels of any kind.
            With "sgd" also a Dataset of (row, integer label), or a DataLoader of batches of them,
            which should shuffle.
        test: likewise. Or a share in (0, 1): each class of ``train`` gives this share of its rows
            to the test set, at least one row and never all.
        labels_per_class: use this many labelled training rows of each class; None uses all.
        seed: decides, with a split's index, all that is drawn for the split; >= 0.
        n_splits: repetitions, >= 1.
        classifier: "logistic" is scikit-learn's LogisticRegression and holds all features. "sgd" is
            the same model as batch norm and a linear layer, trained by Adam; it holds the features
            of a batch, so the encoder runs over ``train`` in each of its 10 to 100 epochs.

    Returns:
        A result with ``.accuracy``, ``.std`` and ``.accuracies`` over the splits, and
        ``.n_labels``. Test rows of a class that is not in ``train`` count as wrong.

    Raises:
        ValueError: rows and labels of different lengths, an empty set, a single class, fewer than
            ``labels_per_class`` rows of some class, features that are NaN or inf or not as many in
            ``test`` as in ``train``, or an argument out of its range.
        TypeError: data or features of the wrong kind, or test labels of another kind than those of
            ``train``.
        ImportError: "logistic" without scikit-learn.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from mixnoise import linear_probe
        >>> y = torch.arange(100) % 2
        >>> x = torch.randn(100, 3) + 9 * y[:, None]
        >>> linear_probe(nn.Identity(), (x, y), (x, y), labels_per_class=10).accuracy
        1.0
        >>> linear_probe(nn.Identity(), (x, y), 0.2, n_splits=3).accuracies
        (1.0, 1.0, 1.0)
    """
    check_choice("classifier", classifier, CLASSIFIERS)
    check_integer("n_splits", n_splits, 1)
    check_integer("seed", seed, 0)
    share = test if isinstance(test, Real) else None
    if share is not None and not 0 < share < 1:
        raise ValueError(f"test must be a share in (0, 1) or labelled data, got {test!r}")
    streams = [type(s).__name__ for s in (train, test) if isinstance(s, (Dataset, DataLoader))]
    if streams:
        if classifier != "sgd" or labels_per_class is not None or share is not None:
            raise ValueError(
                "train must be a pair (rows, labels), and test a pair or a share, unless "
                "classifier='sgd' takes all labels of two fixed sets, "
                f"got {' and '.join(streams)}"
            )
        sets = as_loader("train", train), as_loader("test", test)
        return _result(*sgd_probe(encoder, [sets] * n_splits, seed))

    x, labels = labelled_rows("train", train)
    classes, y = as_classes(labels)
    x_test, y_test = x, y
    if share is None:
        x_test, labels_test = labelled_rows("test", test)
        y_test = as_codes(labels_test, classes)
        if labels_per_class is None and n_splits > 1 and classifier == "logistic":
            raise ValueError(
                "n_splits must be 1 with all labels and a fixed test set, where splits would not "
                f"differ, got {n_splits}; give labels_per_class, or a share as test"
            )
    splits: list[Rows] = []
    for i in range(n_splits):
        chosen, held_out = np.arange(len(y)), np.arange(len(y_test))
        if share is not None:
            chosen, held_out = _split(labels, share, (seed, i, 1))
        if labels_per_class is not None:
            chosen = chosen[choose_rows(labels[chosen], labels_per_class, (seed, i))]
        splits.append((chosen, held_out))
    if classifier == "logistic":
        return _logistic_probe(encoder, (x, y), (x_test, y_test), splits)
    loaders = [(batches_of(x, y, a), batches_of(x_test, y_test, b)) for a, b in splits]
    return _result(*sgd_probe(encoder, loaders, seed))


def knn_probe(
    encoder: Encoder, train: LabelledData, test: LabelledData, k: int = 20
) -> ProbeResult:
    """Accuracy of a weighted vote of the k nearest training rows by cosine similarity.

    Of equally near training rows the first ones vote, of classes with equal votes the first one in
    sorted order wins.

    Args:
        encoder: as for :func:`linear_probe`.
        train: a pair of rows and labels.
        test: another.
        k: neighbours that vote, >= 1; all rows vote if there are fewer.

    Returns:
        A result with ``.accuracy`` in [0, 1].

    Raises:
        ValueError, TypeError: as for :func:`linear_probe`, or k < 1.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from mixnoise import knn_probe
        >>> x, y = torch.eye(4), torch.arange(4)
        >>> knn_probe(nn.Identity(), (x, y), (x, y), k=1).accuracy
        1.0

    Source: Wu et al., arXiv 1805.01978.
    """
    check_integer("k", k, 1)
    x, y, x_test, y_test, classes = labelled_sets(train, test)
    # In float64: of nearly parallel rows, as deep untrained networks make, cosines in float32 are
    # all 1, and neighbours drawn by rounding.
    bank = unit_rows(features(encoder, x).double())
    queries = unit_rows(features(encoder, x_test).double())
    check_width("test", queries, bank.shape[1])
    k, codes, predicted = min(k, len(bank)), torch.as_tensor(y, device="cpu"), []
    for block in queries.split(max(1, _KNN_SIMILARITIES // len(bank))):
        similarity = block @ bank.T
        nearest, index = similarity.topk(k, dim=1)
        # topk takes any of equals; where they compete for the last places, a stable sort decides.
        torn = (similarity >= nearest[:, -1:]).sum(1) > k
        index[torn] = similarity[torn].argsort(dim=1, descending=True, stable=True)[:, :k]
        weight = ((nearest - 1) / _KNN_TEMPERATURE).exp()
        votes = weight.new_zeros(len(block), len(classes))
        predicted.append(votes.scatter_add_(1, codes[index], weight).argmax(1))
    return _result([float(np.mean(torch.cat(predicted).numpy() == y_test))], len(y))


def choose_rows(y: Any, labels_per_class: int, seed: int | tuple[int, ...]) -> Any:
    """Indices of so many rows of each class, drawn without replacement."""
    if isinstance(labels_per_class, bool) or not isinstance(labels_per_class, Integral):
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


def _split(y: Any, share: float, seed: tuple[int, ...]) -> Rows:
    rng = np.random.default_rng(seed)
    train, test = [], []
    for label in np.unique(y):
        rows = rng.permutation(np.flatnonzero(y == label))
        if len(rows) < 2:
            raise ValueError(
                f"train must have at least two rows of each class when test is a share, got one of "
                f"class {label!s}"
            )
        n_test = min(max(1, round(share * len(rows))), len(rows) - 1)
        test.append(rows[:n_test])
        train.append(rows[n_test:])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(test))


def _logistic_probe(
    encoder: Encoder, train: tuple[Tensor, Any], test: tuple[Tensor, Any], splits: list[Rows]
) -> ProbeResult:
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise ImportError(
            "linear_probe needs scikit-learn: pip install 'mixnoise[sklearn]'"
        ) from error
    (x, y), (x_test, y_test) = train, test
    # Each row that some split uses is encoded once. In float64, because columns may lie far from
    # zero, and numpy has no bfloat16.
    used, used_test = (np.unique(np.concatenate(rows)) for rows in zip(*splits, strict=True))
    if x_test is x:
        used = used_test = np.union1d(used, used_test)
    h = h_test = features(encoder, x[used]).double().numpy()
    if x_test is not x:
        tested = features(encoder, x_test)
        check_width("test", tested, h.shape[1])
        h_test = tested.double().numpy()
    accuracies = []
    for chosen, held_out in splits:
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=_LOGISTIC_ITERATIONS))
        model.fit(h[np.searchsorted(used, chosen)], y[chosen])
        predicted = model.predict(h_test[np.searchsorted(used_test, held_out)])
        accuracies.append(float(np.mean(predicted == y_test[held_out])))
    return _result(accuracies, len(splits[0][0]))


def _result(accuracies: list[float], n_labels: int) -> ProbeResult:
    std = float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else 0.0
    return ProbeResult(float(np.mean(accuracies)), std, tuple(accuracies), n_labels)
