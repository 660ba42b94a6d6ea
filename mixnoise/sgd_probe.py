"""A linear probe by mini-batches, for data whose features do not fit in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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

from mixnoise.batches import CPULoader
from mixnoise.features import Encoder, as_classes, check_width, frozen, labelled_rows
from mixnoise.seeding import derive_seed, preserved_random_state, seed_globally

# Divided by the root of the number of features: Adam moves every weight by as much.
_LR = 0.25
# 640,000 rows or so in all: 10 epochs of large sets, 100 of small ones.
_ROWS_SEEN, _FEWEST_EPOCHS, _MOST_EPOCHS = 640_000, 10, 100
# A step takes at least so many rows, if there are, however small the batches that come in.
_ROWS_PER_STEP = 128
_ROWS_ENCODED = 256


def sgd_probe(
    encoder: Encoder, splits: list[tuple[DataLoader[Any], DataLoader[Any]]], seed: int
) -> tuple[list[float], int]:
    """Test accuracy for each split, and the number of training labels."""
    accuracies = []
    # Leaving inference mode also turns gradients on, which the head needs even under no_grad.
    with preserved_random_state(), torch.inference_mode(False), frozen(encoder) as encode:
        for i, (train, test) in enumerate(splits):
            seed_globally(derive_seed(seed, "probe", i))  # loaders draw their order from it
            y = torch.cat([y for _, y in _batches("train", train)])
            n_test = sum(len(y) for _, y in _batches("test", test))
            classes, _ = as_classes(y.numpy())
            head = _fit_head(encode, train, torch.as_tensor(classes, device="cpu"), len(y))
            n_right, weight = 0, head.get_parameter("1.weight")
            for h, y_test in _encoded("test", encode, test, weight.shape[1]):
                predicted = classes[head(h.to(weight.dtype)).argmax(1).cpu()]
                n_right += int(np.sum(predicted == y_test.numpy()))
            accuracies.append(n_right / n_test)
    return accuracies, len(y)


def _fit_head(encode: Encoder, train: DataLoader[Any], classes: Tensor, n_rows: int) -> nn.Module:
    n_epochs = max(_FEWEST_EPOCHS, min(_MOST_EPOCHS, _ROWS_SEEN // n_rows))
    h, _ = next(_steps(_encoded("train", encode, train)))
    # The features stay the same, so that the mean over all steps estimates their moments best.
    eps = max(1e-8 * float(h.var(0, correction=0).mean()), torch.finfo(h.dtype).tiny)
    norm = nn.BatchNorm1d(h.shape[1], eps=eps, momentum=None, affine=False, device="cpu")
    # On the CPU, as it draws a weight, and the order of rows would be another on another device.
    linear = nn.Linear(h.shape[1], len(classes), device="cpu")
    # From zero: the weights of columns that are constant in training stay there.
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    head = nn.Sequential(norm, linear).to(h)
    # LogisticRegression's penalty: |weight|^2 / 2 against the sum, not the mean, of the losses.
    groups: list[dict[str, Any]] = [
        {"params": [linear.weight], "weight_decay": 1 / n_rows},
        {"params": [linear.bias]},
    ]
    adam = torch.optim.Adam(groups, _LR / h.shape[1] ** 0.5)
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
    h = y = torch.empty(0, device="cpu")
    for h_next, y_next in batches:
        h, y = (torch.cat((h, h_next)), torch.cat((y, y_next))) if len(y) else (h_next, y_next)
        while len(y) >= 2 * _ROWS_PER_STEP:
            yield h[:_ROWS_PER_STEP], y[:_ROWS_PER_STEP]
            h, y = h[_ROWS_PER_STEP:], y[_ROWS_PER_STEP:]
    yield h, y


def _encoded(
    name: str, encode: Encoder, loader: DataLoader[Any], width: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Features and labels of each batch; all must be as wide as they are to be, or the first is."""
    for x, y in _batches(name, loader):
        h = encode(x)
        width = width or h.shape[1]
        check_width(name, h, width)
        yield h if h.dtype == torch.float64 else h.float(), y


def _batches(name: str, loader: DataLoader[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    n_rows = 0
    for batch in loader:
        x, y = labelled_rows(f"every batch of {name}", batch)
        n_rows += len(y)
        yield x, _integers(name, y)
    if n_rows == 0:
        raise ValueError(f"{name} must have at least one row in every pass over it, got none")


def _integers(name: str, y: Any) -> Tensor:
    if y.dtype.kind not in "iub":
        raise ValueError(f"{name} must have integer labels, got {y.dtype}")
    return torch.as_tensor(y.astype(np.int64), device="cpu")


def as_loader(name: str, data: Any) -> DataLoader[Any]:
    if isinstance(data, DataLoader):
        return data
    if isinstance(data, IterableDataset):
        return CPULoader(data, _ROWS_ENCODED)
    if isinstance(data, Dataset):
        # torch gives Dataset no __len__, though its map-style ones have one.
        rows = SubsetRandomSampler(range(len(data)))  # type: ignore[arg-type]
        return CPULoader(data, _ROWS_ENCODED, sampler=rows)
    x, y = labelled_rows(name, data)
    return batches_of(x, _integers(name, y), np.arange(len(y)))


def batches_of(x: Tensor, y: Any, rows: Any) -> DataLoader[Any]:
    """Batches of these rows in random order, made by indexing once for each batch."""
    batches = BatchSampler(SubsetRandomSampler(rows), _ROWS_ENCODED, drop_last=False)
    data = TensorDataset(x, torch.as_tensor(y, device="cpu"))
    return CPULoader(data, sampler=batches, batch_size=None)
