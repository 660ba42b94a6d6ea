"""Probes of a frozen encoder: how much of the labels its features give away."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    SubsetRandomSampler,
    TensorDataset,
)

from mixnoise.metrics import unit_rows
from mixnoise.ops import check_choice
from mixnoise.seeding import derive_seed, preserved_random_state, seed_globally

Encoder = Callable[[Tensor], Tensor]
LabelledData = tuple[Any, Any]
Stream = Dataset[Any] | DataLoader[Any]
Rows = tuple[Any, Any]  # indices of the training rows and of the test rows of a split

CLASSIFIERS = ("logistic", "sgd")

# On standardised features scikit-learn's solver takes tens to hundreds of iterations. Should one
# not converge, its ConvergenceWarning goes to the user.
_LOGISTIC_ITERATIONS = 10_000
# Divided by the root of the number of features: Adam moves every weight by as much.
_SGD_LR = 0.25
# 640,000 rows or so in all: 10 epochs of large sets, 100 of small ones.
_SGD_ROWS_SEEN, _SGD_FEWEST_EPOCHS, _SGD_MOST_EPOCHS = 640_000, 10, 100
# A step takes at least so many rows, if there are, however small the batches that come in.
_SGD_ROWS = 128
_ROWS_ENCODED = 256

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


def features(encoder: Encoder, x: Any, batch_size: int = 4096) -> Tensor:
    """The encoder's output for all rows of x, ``(N, D)`` on the CPU, in evaluation mode.

    Args:
        encoder: a module, whose mode is restored afterwards, or any function of a tensor. A module
            gets the rows on its own device and, if they are floating point, in its own dtype.
        x: rows, a tensor or an array ``(N, *features)``.
        batch_size: rows encoded at a time.

    Raises:
        ValueError: no rows, or the encoder does not return one row of finite features for each.
        TypeError: the encoder does not return a tensor.
    """
    x = _rows(x)
    if x.ndim == 0 or x.shape[0] == 0:
        raise ValueError(f"x must have at least one row, got shape {tuple(x.shape)}")
    with _frozen(encoder) as encode:
        return torch.cat([encode(part).cpu() for part in x.split(batch_size)])


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
            ``labels_per_class`` rows of some class, features that are NaN or inf, or an argument
            out of its range.
        TypeError: data or features of the wrong kind.
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
    _check_integer("n_splits", n_splits, 1)
    _check_integer("seed", seed, 0)
    share = test if isinstance(test, (int, float)) else None
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
        loaders = _loader("train", train), _loader("test", test)
        return _sgd_probe(encoder, [loaders] * n_splits, seed)

    x, labels = _pair("train", train)
    classes, y = _classes(labels)
    x_test, y_test = x, y
    if share is None:
        x_test, labels_test = _pair("test", test)
        y_test = _codes(labels_test, classes)
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
    return _sgd_probe(
        encoder, [(_subset(x, y, a), _subset(x_test, y_test, b)) for a, b in splits], seed
    )


def knn_probe(
    encoder: Encoder, train: LabelledData, test: LabelledData, k: int = 20
) -> ProbeResult:
    """Accuracy of a weighted vote of the k nearest training rows by cosine similarity.

    Of equally near training rows the first ones vote, of classes with equal votes the first one in
    sorted order wins.

    Args:
        encoder, train, test: as for :func:`linear_probe`; both sets are pairs.
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
    _check_integer("k", k, 1)
    x, labels = _pair("train", train)
    x_test, labels_test = _pair("test", test)
    classes, y = _classes(labels)
    y_test = _codes(labels_test, classes)
    # In float64: of nearly parallel rows, as deep untrained networks make, cosines in float32 are
    # all 1, and neighbours drawn by rounding.
    bank = unit_rows(features(encoder, x).double())
    queries = unit_rows(features(encoder, x_test).double())
    k, codes, predicted = min(k, len(bank)), torch.as_tensor(y), []
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
        h_test = features(encoder, x_test).double().numpy()
    accuracies = []
    for chosen, held_out in splits:
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=_LOGISTIC_ITERATIONS))
        model.fit(h[np.searchsorted(used, chosen)], y[chosen])
        predicted = model.predict(h_test[np.searchsorted(used_test, held_out)])
        accuracies.append(float(np.mean(predicted == y_test[held_out])))
    return _result(accuracies, len(splits[0][0]))


def _sgd_probe(
    encoder: Encoder, splits: list[tuple[DataLoader[Any], DataLoader[Any]]], seed: int
) -> ProbeResult:
    accuracies = []
    # That inference mode is off also means that gradients are on, whatever the caller's mode.
    with preserved_random_state(), torch.inference_mode(False), _frozen(encoder) as encode:
        for i, (train, test) in enumerate(splits):
            seed_globally(derive_seed(seed, "probe", i))  # loaders draw their order from it
            y = torch.cat([y for _, y in _batches("train", train)])
            n_test = sum(len(y) for _, y in _batches("test", test))
            classes, _ = _classes(y.numpy())
            head = _fit_head(encode, train, torch.as_tensor(classes), len(y))
            n_right = 0
            for h, y_test in _encoded("test", encode, test):
                n_right += int(np.sum(classes[head(h).argmax(1).cpu()] == y_test.numpy()))
            accuracies.append(n_right / n_test)
    return _result(accuracies, len(y))


def _fit_head(encode: Encoder, train: DataLoader[Any], classes: Tensor, n_rows: int) -> nn.Module:
    n_epochs = max(_SGD_FEWEST_EPOCHS, min(_SGD_MOST_EPOCHS, _SGD_ROWS_SEEN // n_rows))
    h, _ = next(_steps(_encoded("train", encode, train)))
    # The features stay the same, so that the mean over all steps estimates their moments best.
    eps = max(1e-8 * float(h.var(0, correction=0).mean()), torch.finfo(h.dtype).tiny)
    norm = nn.BatchNorm1d(h.shape[1], eps=eps, momentum=None, affine=False)
    linear = nn.Linear(h.shape[1], len(classes))
    # From zero: the weights of columns that are constant in training stay there.
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    head = nn.Sequential(norm, linear).to(h)
    # LogisticRegression's penalty: |weight|^2 / 2 against the sum, not the mean, of the losses.
    groups: list[dict[str, Any]] = [
        {"params": [linear.weight], "weight_decay": 1 / n_rows},
        {"params": [linear.bias]},
    ]
    adam = torch.optim.Adam(groups, _SGD_LR / h.shape[1] ** 0.5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, n_epochs)
    for _ in range(n_epochs):
        for h, y in _steps(_encoded("train", encode, train)):
            F.cross_entropy(head(h), torch.searchsorted(classes, y).to(h.device)).backward()
            adam.step()
            adam.zero_grad()
        schedule.step()
    return head.eval()


def _steps(batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches joined and cut so that each suits batch norm: never a last one of a few rows."""
    h = y = torch.empty(0)
    for h_next, y_next in batches:
        h, y = (torch.cat((h, h_next)), torch.cat((y, y_next))) if len(y) else (h_next, y_next)
        while len(y) >= 2 * _SGD_ROWS:
            yield h[:_SGD_ROWS], y[:_SGD_ROWS]
            h, y = h[_SGD_ROWS:], y[_SGD_ROWS:]
    yield h, y


def _encoded(
    name: str, encode: Encoder, loader: DataLoader[Any]
) -> Iterator[tuple[Tensor, Tensor]]:
    encoded = ((encode(x), y) for x, y in _batches(name, loader))
    return ((h if h.dtype == torch.float64 else h.float(), y) for h, y in encoded)


def _batches(name: str, loader: DataLoader[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    n_rows = 0
    for batch in loader:
        x, y = _pair(f"every batch of {name}", batch)
        n_rows += len(y)
        yield x, _integers(name, y)
    if n_rows == 0:
        raise ValueError(f"{name} must have at least one row in every pass over it, got none")


def _integers(name: str, y: Any) -> Tensor:
    if y.dtype.kind not in "iub":
        raise ValueError(f"{name} must have integer labels, got {y.dtype}")
    return torch.as_tensor(y.astype(np.int64))


def _loader(name: str, data: Any) -> DataLoader[Any]:
    if isinstance(data, DataLoader):
        return data
    if isinstance(data, IterableDataset):
        return DataLoader(data, _ROWS_ENCODED)
    if isinstance(data, Dataset):
        rows = SubsetRandomSampler(range(len(data)))  # type: ignore[arg-type]
        return DataLoader(data, _ROWS_ENCODED, sampler=rows)
    x, y = _pair(name, data)
    return _subset(x, _integers(name, y), np.arange(len(y)))


def _subset(x: Tensor, y: Any, rows: Any) -> DataLoader[Any]:
    """Batches of these rows in random order, made by indexing once for each batch."""
    batches = BatchSampler(SubsetRandomSampler(rows), _ROWS_ENCODED, drop_last=False)
    return DataLoader(TensorDataset(x, torch.as_tensor(y)), sampler=batches, batch_size=None)


@contextmanager
def _frozen(encoder: Encoder) -> Iterator[Encoder]:
    """The encoder in evaluation mode, as a function from rows to features ``(N, D)``."""
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


def _pair(name: str, data: Any) -> tuple[Tensor, Any]:
    """Rows as a tensor and labels as an array, as many and at least one."""
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise TypeError(f"{name} must be a pair (rows, labels), got {type(data).__name__}")
    x = _rows(data[0])
    y = np.asarray(data[1].cpu() if isinstance(data[1], Tensor) else data[1])
    n_rows = x.shape[0] if x.ndim else 0
    if y.ndim != 1 or len(y) != n_rows or n_rows == 0:
        raise ValueError(
            f"{name} must have one label per row and at least one row, got rows of shape "
            f"{tuple(x.shape)} and labels of shape {y.shape}"
        )
    return x, y


def _rows(x: Any) -> Tensor:
    # A copy where torch cannot share an array's memory, as with those that pandas locks.
    return x if isinstance(x, Tensor) else torch.as_tensor(np.require(x, requirements=["C", "W"]))


def _classes(y: Any) -> tuple[Any, Any]:
    """The sorted classes of the training labels, and each label's index among them."""
    try:
        classes, codes = np.unique(y, return_inverse=True)
    except TypeError as error:
        raise TypeError(f"labels must be of one kind and none missing: {error}") from error
    if classes.dtype.kind == "f" and np.isnan(classes[-1]):
        raise ValueError("labels must not be missing, got NaN")
    if len(classes) < 2:
        raise ValueError(f"train must have at least two classes, got only {classes[0]!s}")
    return classes, codes


def _codes(y: Any, classes: Any) -> Any:
    """Each label's index among the classes, -1 if it is none of them."""
    index = {label: i for i, label in enumerate(classes.tolist())}
    return np.array([index.get(label, -1) for label in y.tolist()])


def _check_integer(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an integer >= {least}, got {value!r}")


def _result(accuracies: list[float], n_labels: int) -> ProbeResult:
    std = float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else 0.0
    return ProbeResult(float(np.mean(accuracies)), std, tuple(accuracies), n_labels)
