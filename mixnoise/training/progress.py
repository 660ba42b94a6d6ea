"""Progress on standard error: a bar on a terminal, a line now and then in a log; warnings."""

from __future__ import annotations

import sys
import time
import warnings
from typing import Any

_SECONDS_BETWEEN_LINES = 30.0


def warn(message: str) -> None:
    """A RuntimeWarning that points at the line that called ``pretrain``, however deep we are."""
    level, frame = 2, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_name != "pretrain":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, RuntimeWarning, stacklevel=level)


class Progress:
    """Counts steps; silent unless shown."""

    def __init__(self, shown: bool, n_steps: int, done: int) -> None:
        self.lines = shown and not sys.stderr.isatty()
        self.last_line = -_SECONDS_BETWEEN_LINES
        self.bar: Any = None
        if shown and not self.lines:
            from tqdm import tqdm

            self.bar = tqdm(total=n_steps, initial=done, unit="step", dynamic_ncols=True)

    def advance(self) -> None:
        if self.bar is not None:
            self.bar.update()

    def line(self, where: str, values: dict[str, float], last: bool) -> None:
        """The state after an epoch; of many short ones a log gets a few."""
        text = ", ".join(f"{k} {v:.4g}" for k, v in values.items() if k not in ("epoch", "step"))
        if self.bar is not None:
            self.bar.set_postfix_str(f"{where}, {text}", refresh=False)
        elif self.lines and (last or time.monotonic() - self.last_line >= _SECONDS_BETWEEN_LINES):
            self.last_line = time.monotonic()
            print(f"{where}: {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
