"""What the trainer iterates over: rows in memory, a dataset, or somebody's loader.

Order and randomness of an epoch depend on its seed alone, never on the number of workers, nor on
whether it is gone through from its start.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from mixnoise.checks import check_dense
from mixnoise.seeding import derive_seed, preserved_random_state, seed_globally

# Positional and keyword arguments of the model.
Inputs = tuple[tuple[Any, ...], dict[str, Any]]

_END = object()


class Batches(Protocol):
    """A number of batches in each epoch."""

    @property
    def n_rows(self) -> int | None:
        """How many rows the data have, if that can be told."""

    @property
    def batch_size(self) -> int | None:
        """How many rows this process takes in a step, if that can be told."""

    def __len__(self) -> int: ...

    def epoch(self, seed: int, start: int = 0, number: int = 0) -> Iterator[Any]:
        """The batches of one epoch from number ``start`` on, in the order that the seed decides.

        The number of the epoch is for loaders that want to be told.
        """

    def rows(self, seed: int, batch: int) -> Tensor | None:
        """Which rows of the data a batch of that epoch has, if that can be told."""


class _Order:
    """Which rows this process takes: its share of every batch of all processes."""

    def __init__(self, n_rows: int, batch_size: int, rank: int, n_ranks: int) -> None:
        self.n_rows, self.rank, self.n_ranks = n_rows, rank, n_ranks
        self.step = batch_size * n_ranks
        self.batch_size = min(self.step, n_rows) // n_ranks
        # A last batch that leaves a process a single row, which has no partner, is dropped.
        last_is_used = n_rows % self.step // n_ranks >= 2
        self.n_batches = n_rows // self.step + last_is_used
        if self.n_batches == 0:
            raise ValueError(
                f"data must have at least two rows for each process, got {n_rows} for {n_ranks}"
            )

    def epoch(self, seed: int, start: int = 0) -> Iterator[Tensor]:
        order = torch.randperm(
            self.n_rows, generator=torch.Generator().manual_seed(seed), device="cpu"
        )
        for batch in order.split(self.step)[start : self.n_batches]:
            share = len(batch) // self.n_ranks
            yield batch[self.rank * share : (self.rank + 1) * share]


class Rows:
    """A tensor, kept on the device if it takes at most half of what is free there."""

    def __init__(self, x: Tensor, order: _Order, device: torch.device) -> None:
        self.order, self.device = order, device
        fits = True
        if device.type == "cuda" and not x.is_cuda:
            fits = x.nbytes <= torch.cuda.mem_get_info(device)[0] // 2
        self.x = x.to(device) if fits else x
        self.n_rows, self.batch_size = order.n_rows, order.batch_size

    def __len__(self) -> int:
        return self.order.n_batches

    def epoch(self, seed: int, start: int = 0, number: int = 0) -> Iterator[Tensor]:
        for rows in self.order.epoch(seed, start):
            # Not waited for on CUDA, where indices are copied before the call returns.
            rows = rows.to(self.x.device, non_blocking=self.x.is_cuda)
            yield self.x[rows].to(self.device, non_blocking=True)

    def rows(self, seed: int, batch: int) -> Tensor:
        return next(self.order.epoch(seed, batch))


class CPULoader(DataLoader[Any]):
    """torch's, which would draw its seed and its order on another default device, or fail there."""

    # The base class promises an iterator of a class of torch's own.
    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        return super().__iter__() if torch.get_default_device().type == "cpu" else self._on_cpu()

    def _on_cpu(self) -> Iterator[Any]:
        with torch.device("cpu"):
            batches = super().__iter__()
        while True:
            with torch.device("cpu"):
                batch = next(batches, _END)
            if batch is _END:
                return
            yield batch


class Samples:
    """A map-style dataset, collated by torch's DataLoader."""

    def __init__(self, dataset: Any, order: _Order, device: torch.device, num_workers: int) -> None:
        self.sampler = _SeededSampler(order)
        self.loader = CPULoader(
            _SeededItems(dataset),
            batch_sampler=self.sampler,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # else it would draw from the global one
        )
        self.n_rows, self.batch_size = order.n_rows, order.batch_size

    def __len__(self) -> int:
        return self.sampler.order.n_batches

    def epoch(self, seed: int, start: int = 0, number: int = 0) -> Iterator[Any]:
        self.sampler.seed, self.sampler.start = seed, start
        yield from self.loader

    def rows(self, seed: int, batch: int) -> Tensor:
        return next(self.sampler.order.epoch(seed, batch))


class _SeededSampler(Sampler[list[tuple[int, int]]]):
    """Batches of pairs (the batch's seed, index)."""

    def __init__(self, order: _Order) -> None:
        self.order, self.seed, self.start = order, 0, 0

    def __len__(self) -> int:
        return self.order.n_batches

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for i, rows in enumerate(self.order.epoch(self.seed, self.start), self.start):
            seed = derive_seed(self.seed, f"batch/{self.order.rank}", i)
            yield [(seed, index) for index in rows.tolist()]


class _SeededItems(Dataset[Any]):
    """A dataset that seeds itself for each batch, so that it matters not which worker loads it.

    By batch and not by item, since seeding takes longer than taking an item often does.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitems__(self, batch: list[tuple[int, int]]) -> list[Any]:
        rows = [index for _, index in batch]
        with preserved_random_state():
            seed_globally(batch[0][0])
            if hasattr(self.dataset, "__getitems__"):
                items: list[Any] = self.dataset.__getitems__(rows)
                return items
            return [self.dataset[index] for index in rows]


class Loader:
    """The caller's own loader, whose random numbers are seeded and which is not changed otherwise.

    Before each batch the global random states are set to what the seed and the batch's number say,
    and before the first one the loader's own generators. So the batches before ``start`` are drawn
    and thrown away, and the rest is as if they had been trained on; workers that persist from epoch
    to epoch and draw random numbers are beyond that. Every process draws the same, since they may
    have to agree on an order before each takes its share.
    """

    n_rows = None

    def __init__(self, loader: Any, shared: bool = False, n_batches: int | None = None) -> None:
        self.n_batches = _length(loader) if n_batches is None else n_batches
        if self.n_batches == 0:
            raise ValueError("data must have at least one batch, got an empty loader")
        self.loader = loader
        self.shared = shared  # whether one process loads for all of them
        sizes = (getattr(part, "batch_size", None) for part in _and_samplers(loader))
        self.batch_size: int | None = next((s for s in sizes if isinstance(s, int)), None)

    def __len__(self) -> int:
        return self.n_batches

    def epoch(self, seed: int, start: int = 0, number: int = 0) -> Iterator[Any]:
        if hasattr(self.loader, "set_epoch"):
            self.loader.set_epoch(number)  # those of Accelerate would count epochs anew
        for part in _and_samplers(self.loader):
            generator = getattr(part, "generator", None)
            if isinstance(generator, torch.Generator):
                generator.manual_seed(seed)
        # Not again before the first batch: with workers a sampler draws now, without them then.
        seed_globally(derive_seed(seed, "batch", 0))
        batches = iter(self.loader)
        for i in itertools.count(1):
            batch = next(batches, _END)
            if batch is _END:
                return
            if _n_rows(batch) != 1:
                if start == 0:
                    yield batch
                else:
                    start -= 1
            seed_globally(derive_seed(seed, "batch", i))

    def rows(self, seed: int, batch: int) -> None:
        return None


def _and_samplers(loader: Any) -> Iterator[Any]:
    """A loader, its samplers, and theirs."""
    yield loader
    for name in ("sampler", "batch_sampler"):
        sampler = getattr(loader, name, None)
        if isinstance(sampler, Sampler):
            yield from _and_samplers(sampler)


def _n_rows(batch: Any) -> int | None:
    """How many samples a batch has, if that can be told."""
    if isinstance(batch, Mapping):
        batch = next(iter(batch.values()), None)
    elif isinstance(batch, (tuple, list)) and batch:
        batch = batch[0]
    n_graphs = getattr(batch, "num_graphs", None)  # torch-geometric
    if n_graphs is not None:
        return int(n_graphs)
    return batch.shape[0] if isinstance(batch, Tensor) and batch.ndim else None


def make_batches(
    data: Any,
    batch_size: int,
    device: torch.device,
    dtype: torch.dtype,
    num_workers: int,
    rank: int,
    n_ranks: int,
) -> Batches:
    """Makes batches of whatever the user has; floating-point arrays become ``dtype``."""
    if isinstance(data, Tensor) or hasattr(data, "__array__"):
        x = as_rows("data", data)
        if x.ndim == 0 or x.shape[0] < 2:
            raise ValueError(f"data must have at least two rows, got shape {tuple(x.shape)}")
        x = x.to(dtype) if x.is_floating_point() else x
        return Rows(x, _Order(x.shape[0], batch_size, rank, n_ranks), device)
    if isinstance(data, IterableDataset):
        loader = DataLoader(data, batch_size, num_workers=num_workers)
        # Each worker ends with a batch of its own, of which the loader's length knows nothing.
        n_rows, n_workers = _length(data), max(1, num_workers)
        shares = (len(range(worker, n_rows, n_workers)) for worker in range(n_workers))
        return Loader(loader, n_batches=sum(-(-share // batch_size) for share in shares))
    if isinstance(data, DataLoader):
        return Loader(data)
    if hasattr(data, "tocsr"):
        raise TypeError(
            f"data must be dense, got {type(data).__name__}; mixnoise.sklearn.DACLEncoder takes "
            "sparse matrices"
        )
    if isinstance(data, (list, tuple, Mapping, str, bytes)) or not (
        hasattr(data, "__getitem__") or hasattr(data, "__iter__")
    ):
        raise TypeError(
            "data must be a tensor, an array, a dataset or a loader of batches, got "
            f"{type(data).__name__}"
        )
    if not hasattr(data, "__getitem__"):
        return Loader(data)
    order = _Order(_length(data), batch_size, rank, n_ranks)
    return Samples(data, order, device, num_workers)


def _length(data: Any) -> int:
    try:
        return len(data)
    except TypeError as error:
        raise ValueError(
            "data must have a length, since the schedule of the learning rate needs the number of "
            f"steps, got {type(data).__name__} without one"
        ) from error


def as_rows(name: str, x: Any) -> Tensor:
    """A tensor without its graph, an array or what becomes one as a tensor."""
    if isinstance(x, Tensor):
        check_dense(name, x)
        return x.detach()  # the caller's gradients are not ours
    if np.ma.isMaskedArray(x) and np.ma.getmaskarray(x).any():
        raise ValueError(f"{name} must have no masked values: fill them")
    # A copy where torch cannot share the memory, as of reversed arrays and those that pandas locks.
    try:
        array = np.require(x, requirements=["C", "W"])
    except ValueError as error:  # no array, or rows of several lengths
        raise TypeError(f"{name} must be an array of rows: {error}") from error
    if array.dtype.kind not in "biufc":
        raise TypeError(f"{name} must be numeric, got an array of dtype {array.dtype}")
    return torch.as_tensor(native(array), device="cpu")


def native(array: Any) -> Any:
    """The array in a byte order and a floating type that torch and Arrow have."""
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        return array.astype(np.float64)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def model_inputs(batch: Any, takes_anything: bool) -> Inputs:
    """What a batch gives the model.

    A model that mixes its input takes one tensor, and gets the first of a tuple, whose others are
    labels. One that mixes a hidden representation gets a tuple's and a mapping's items as they are.
    """
    if not takes_anything:
        return ((batch[0] if isinstance(batch, (tuple, list)) else batch,), {})
    if isinstance(batch, Mapping):
        return (), dict(batch)
    return (tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)), {}
