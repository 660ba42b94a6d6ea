"""SIGTERM, which schedulers send some seconds before SIGKILL, and Ctrl-C: obeyed after the step."""

from __future__ import annotations

import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Termination:
    """Which signal asks the run to stop, if one does; it came here or to another process."""

    signum: int | None = None

    @property
    def requested(self) -> bool:
        return self.signum is not None


@contextmanager
def deferred_signals(wanted: bool) -> Iterator[Termination]:
    """Notes SIGTERM and Ctrl-C while the block runs, and raises them afterwards for who had them.

    The second Ctrl-C interrupts at once. Nothing is changed unless it is wanted, in the main
    thread, and SIGTERM is not ignored, Ctrl-C still Python's KeyboardInterrupt.
    """
    termination = Termination()
    former: dict[int, Any] = {}

    def note(signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and termination.requested:
            signal.default_int_handler(signum, frame)
        termination.signum = signum
        # Who stops a run often tells its loader's workers, too, and torch would raise an error
        # about them in the middle of a step, whose weights could not be kept then.
        if hasattr(signal, "SIGCHLD") and callable(signal.getsignal(signal.SIGCHLD)):
            former.setdefault(signal.SIGCHLD, signal.signal(signal.SIGCHLD, _ignore))

    if wanted and threading.current_thread() is threading.main_thread():
        # None is a handler that was not set by Python, and could not be set again.
        if signal.getsignal(signal.SIGTERM) not in (None, signal.SIG_IGN):
            former[signal.SIGTERM] = signal.signal(signal.SIGTERM, note)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            former[signal.SIGINT] = signal.signal(signal.SIGINT, note)
    try:
        yield termination
    except BaseException as error:
        if termination.requested and not isinstance(error, KeyboardInterrupt):
            traceback.print_exc()  # nobody else may get to see it
        raise
    finally:
        # SIGCHLD last, so that nothing is added meanwhile.
        for number in sorted(former, key=lambda n: n == getattr(signal, "SIGCHLD", None)):
            signal.signal(number, former[number])
        if termination.signum is not None:
            signal.raise_signal(termination.signum)


def _ignore(signum: int, frame: FrameType | None) -> None:
    """A handler that does nothing: with SIG_IGN the status of a child that ended would be lost."""
