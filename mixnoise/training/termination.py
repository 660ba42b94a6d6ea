"""SIGTERM, which schedulers send some seconds before SIGKILL: noted at once, obeyed at the end."""

from __future__ import annotations

import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Termination:
    """Whether SIGTERM has come, here or to another process of the run."""

    requested = False


@contextmanager
def deferred_sigterm(wanted: bool) -> Iterator[Termination]:
    """Notes SIGTERM while the block runs, and raises it again afterwards for the handler before.

    Nothing is changed unless it is wanted, in the main thread, and the signal is not ignored.
    """
    termination = Termination()
    former: dict[int, Any] = {}

    def note(signum: int, frame: FrameType | None) -> None:
        termination.requested = True
        # Who stops a run often tells its loader's workers, too, and torch would raise an error
        # about them in the middle of a step, whose weights could not be kept then.
        if hasattr(signal, "SIGCHLD") and callable(signal.getsignal(signal.SIGCHLD)):
            former.setdefault(signal.SIGCHLD, signal.signal(signal.SIGCHLD, _ignore))

    wanted = wanted and threading.current_thread() is threading.main_thread()
    # None is a handler that was not set by Python, and could not be set again.
    if wanted and signal.getsignal(signal.SIGTERM) not in (None, signal.SIG_IGN):
        former[signal.SIGTERM] = signal.signal(signal.SIGTERM, note)
    try:
        yield termination
    except BaseException:
        if termination.requested:
            traceback.print_exc()  # nobody else may get to see it
        raise
    finally:
        for number in sorted(former):  # SIGTERM before SIGCHLD, so that nothing is added meanwhile
            signal.signal(number, former[number])
        if termination.requested:
            signal.raise_signal(signal.SIGTERM)


def _ignore(signum: int, frame: FrameType | None) -> None:
    """A handler that does nothing: with SIG_IGN the status of a child that ended would be lost."""
