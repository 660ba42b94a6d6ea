"""What the processes of a group tell each other: that all is well, and rows, however many each has.

Everybody calls a collective or everybody waits. So whatever can go wrong in one process is told to
the others in the place of what they wait for: :func:`exchange` comes first, with a status.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

_FINE, _FAILED = 0, 1
_MAX_WORDS = 8


def resolve(group: object) -> dist.ProcessGroup | None:
    """The group, or None where there is nobody else; "world" is everybody there is, if anybody."""
    check_group(group)
    if group is None:
        return None
    if group == "world":
        if not dist.is_available() or not dist.is_initialized():
            return None
        group = dist.group.WORLD
    assert isinstance(group, dist.ProcessGroup)
    return group if group.size() > 1 else None


def check_group(group: object) -> None:
    """Raises if it is no group, nor a name of one; whether there are other processes is no matter.

    Raises:
        ValueError: text other than "world".
        TypeError: another object that is no process group.
    """
    rule = "group must be None, 'world' or a process group"
    if isinstance(group, str):
        if group != "world":
            raise ValueError(f"{rule}, got {group!r}")
    elif group is not None and not (dist.is_available() and isinstance(group, dist.ProcessGroup)):
        raise TypeError(f"{rule}, got {type(group).__name__} {group!r}")


def _device_of_words(group: dist.ProcessGroup) -> torch.device:
    """The CPU, if the group can do without the GPU: then nothing waits for it."""
    if "cpu" in dist.get_backend_config(group):
        return torch.device("cpu")
    return torch.device(torch.accelerator.current_accelerator() or "cpu")


def gather_words(words: Sequence[int], group: dist.ProcessGroup) -> list[list[int]]:
    """Each rank's integers, as many from each, on the host."""
    own = torch.tensor(words, dtype=torch.int64, device=_device_of_words(group))
    of_ranks: list[list[int]] = _all_gather(own, group).tolist()
    return of_ranks


def exchange(words: Sequence[int], group: dist.ProcessGroup) -> list[list[int]]:
    """Each rank's integers, at most eight; raises if a rank fails instead."""
    return _exchange(_FINE, words, group)


def _exchange(status: int, words: Sequence[int], group: dist.ProcessGroup) -> list[list[int]]:
    padded = [status, *words, *[0] * (_MAX_WORDS - len(words))]
    of_ranks = [row[: 1 + len(words)] for row in gather_words(padded, group)]
    failed = [rank for rank, (status, *_) in enumerate(of_ranks) if status != _FINE]
    if failed and status == _FINE:
        raise RuntimeError(
            f"{_ranks(failed, group)} failed before the loss; the error there says why"
        )
    return [rest for _, *rest in of_ranks]


def _ranks(ranks: Sequence[int], group: dist.ProcessGroup) -> str:
    names = [str(dist.get_global_rank(group, rank)) for rank in ranks]
    return f"rank{'s' if len(names) > 1 else ''} {', '.join(names)}"


@contextmanager
def failing_together(group: dist.ProcessGroup) -> Iterator[None]:
    """What is raised inside by one process is raised by all others in their next ``exchange``."""
    try:
        yield
    except Exception as error:  # whatever it is, it is told and goes on
        try:
            _exchange(_FAILED, (), group)
        except Exception as lost:  # a rank that is gone must not hide what is wrong here
            error.add_note(f"The other ranks could not be told of it: {lost}")
        raise


def check_same(name: str, values: Sequence[object], group: dist.ProcessGroup) -> None:
    """Raise, in every process alike, unless all ranks have the same."""
    if len(set(values)) > 1:
        got = ", ".join(f"{value} on {_ranks([rank], group)}" for rank, value in enumerate(values))
        raise ValueError(f"{name} must be the same on all ranks, got {got}")


def gather_rows(x: Tensor, counts: Sequence[int], group: dist.ProcessGroup) -> Tensor:
    """``(K, N, *features)`` from every rank's ``(K, n, *features)``: its rows after those before.

    Args:
        counts: n of every rank.
    """
    longest, n = max(counts), x.shape[1]
    if n < longest:  # collectives take as much from each
        x = torch.cat((x, x.new_zeros(x.shape[0], longest - n, *x.shape[2:])), dim=1)
    every = _all_gather(x.contiguous(), group)
    return torch.cat([each[:, :count] for each, count in zip(every, counts, strict=True)], dim=1)


def _all_gather(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """``(ranks, *shape)`` of tensors of one shape."""
    every = x.new_empty(group.size(), *x.shape)
    # The name since PyTorch 2.13, where the other is deprecated.
    all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    all_gather(every.view(-1), x.view(-1), group=group)
    return every


def largest(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The largest over all ranks, of each element."""
    x = x.clone()
    dist.all_reduce(x, dist.ReduceOp.MAX, group=group)
    return x
