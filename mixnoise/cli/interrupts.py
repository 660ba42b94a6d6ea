"""Ctrl-C as what a scheduler's SIGTERM is: the step is finished, a checkpoint written."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


class Interrupted(BaseException):
    """Somebody pressed Ctrl-C or sent SIGTERM; the message says what to do about it."""


@contextmanager
def interruptible(advice: str) -> Iterator[None]:
    """Either signal raises :class:`Interrupted` with some advice, the second Ctrl-C at once."""

    def stop(signum: int, frame: FrameType | None) -> NoReturn:
        raise Interrupted(advice)

    def ask(signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.raise_signal(signal.SIGTERM)

    former = [signal.signal(signal.SIGTERM, stop), signal.signal(signal.SIGINT, ask)]
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former[0])
        signal.signal(signal.SIGINT, former[1])
