"""Compile the kernels of many cases in processes side by side, into the caches on disk.

``python -m benchmarks.gpu.compile_ahead NAME IS_SWEEP INDEX COUNT`` is one of them. What fails
here fails again when it is measured, and is reported then.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.cases import matching

_MOST_PROCESSES = 12
_LONGEST_SECONDS = 150


def start(name: str, *, is_sweep: bool) -> None:
    """For all cases that match; returns when they are compiled, or when it takes too long."""
    count = min(_MOST_PROCESSES, os.cpu_count() or 1)
    command = [sys.executable, "-m", "benchmarks.gpu.compile_ahead", name, str(int(is_sweep))]
    processes = [
        subprocess.Popen(
            [*command, str(index), str(count)],
            env=os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "1"},  # else each starts a pool
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for index in range(count)
    ]
    deadline = time.monotonic() + _LONGEST_SECONDS * (2 if is_sweep else 1)
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main() -> None:
    name, (is_sweep, index, count) = sys.argv[1], map(int, sys.argv[2:])
    bench = Bench()
    ahead = dict.fromkeys(w for case in matching(name, is_sweep=bool(is_sweep)) for w in case.ahead)
    for work in list(ahead)[index::count]:
        with contextlib.suppress(Exception):
            work.warm_up(bench)


if __name__ == "__main__":
    main()
