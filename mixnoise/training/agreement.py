"""What the processes of a run tell one another before each step, so that all take it or none.

A process that raised alone would leave the others waiting inside a collective operation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mixnoise.collectives import gather_words

_READY, _ENDED, _FAILED = range(3)
_TEXT_BYTES = 400


class Agreement:
    """One of several processes; every method must be called by all of them."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group

    def before_step(
        self, where: str, x: Any, ended: bool, error: Exception | None, stop: bool
    ) -> tuple[Exception | None, bool, bool]:
        """What all make of what each has.

        Args:
            where: names the batch, for messages.
            x: what this process will mix, of which all but the number of rows must agree; None if
                that is nobody's business.
            ended: whether it has no more batches in this epoch.
            error: why it could not load the batch, if it could not.
            stop: whether it wants to stop.

        Returns:
            An error that this process must raise, or None; whether the epoch has ended; whether
            they all stop.
        """
        state = _FAILED if error is not None else _ENDED if ended else _READY
        described = "" if x is None or state != _READY else _describe(x)
        everyones = gather_words([state, stop, _hash(described.encode())], self.group)
        states, stops, fingerprints = (list(column) for column in zip(*everyones, strict=True))
        if _FAILED in states:
            told = self._texts("" if error is None else f"{type(error).__name__}: {error}")
            if error is None:
                rank = states.index(_FAILED)
                error = RuntimeError(
                    f"rank {rank} failed to load {where}, see its own error: {told[rank]}"
                )
            return error, False, False
        if any(stops):
            return None, _READY not in states, True
        if len(set(states)) > 1:
            found = {rank: "none" if s == _ENDED else "one" for rank, s in enumerate(states)}
            return (
                ValueError(f"all processes must have {where}, got {_by_rank(found)}"),
                False,
                False,
            )
        if len(set(fingerprints)) > 1:
            found = dict(enumerate(self._texts(described)))
            rule = f"rows of {where} must have one shape and dtype in all processes"
            return ValueError(f"{rule}, got {_by_rank(found)}"), False, False
        return None, ended, False

    def repeated(self, x: Any) -> list[int]:
        """Ranks whose rows are those of an earlier rank; none where they cannot be compared."""
        dense = isinstance(x, Tensor) and x.layout == torch.strided and not x.is_nested
        words = [row[0] for row in gather_words([_hash(_bytes(x)) if dense else -1], self.group)]
        return [rank for rank, word in enumerate(words) if word != -1 and word in words[:rank]]

    def together(self, error: Exception | None, what: str) -> None:
        """Raise in every process if there is an error in one."""
        failed = [row[0] for row in gather_words([error is not None], self.group)]
        if error is not None:
            raise error
        if any(failed):
            raise RuntimeError(f"rank {failed.index(1)} {what}, see its own error")

    def same(self, number: int, what: str) -> None:
        """Raise in every process if they do not have the same number."""
        found = {rank: str(row[0]) for rank, row in enumerate(gather_words([number], self.group))}
        if len(set(found.values())) > 1:
            raise ValueError(f"{what}, got {_by_rank(found)}")

    def _texts(self, mine: str) -> list[str]:
        """Everybody's, by rank; as numbers, since nothing is to be unpickled."""
        words = mine.encode(errors="replace")[:_TEXT_BYTES].ljust(_TEXT_BYTES, b"\0")
        return [
            bytes(row).rstrip(b"\0").decode(errors="ignore")
            for row in gather_words(list(words), self.group)
        ]


@contextmanager
def lost_contact_explained() -> Iterator[None]:
    """Says what a connection that was closed, or an operation that timed out, most likely means."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, getattr(dist, "DistError", ())) and "gloo" not in str(error):
            raise
        raise RuntimeError(
            "this process lost contact with another one of the run, which was killed, raised an "
            "error of its own (its output says which), or kept the others waiting for longer than "
            f"the process group's timeout; after all of them are started again, resume=True goes "
            f"on from the last checkpoint: {error}"
        ) from error


def _describe(x: Any) -> str:
    """A batch but for its number of rows."""
    if not isinstance(x, Tensor):
        return f"a {type(x).__name__}"
    return f"({', '.join(['N', *map(str, x.shape[1:])])}) {str(x.dtype).removeprefix('torch.')}"


def _bytes(x: Tensor) -> bytes:
    return x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _hash(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest()) >> 1


def _by_rank(found: dict[int, str]) -> str:
    """Who has what; of many ranks each kind once."""
    groups: dict[str, list[int]] = {}
    for rank, what in found.items():
        groups.setdefault(what, []).append(rank)
    return "; ".join(f"rank {', '.join(map(str, ranks))}: {what}" for what, ranks in groups.items())
