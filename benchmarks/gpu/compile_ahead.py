"""Compile the kernels of many cases in processes side by side, into the caches on disk.

``python -m benchmarks.gpu.compile_ahead IS_SWEEP INDEX COUNT`` is one of them, with the names of
the cases on standard input. What fails here fails again when it is measured, and is reported then.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.cases import matching

_MOST_PROCESSES = 12
_LONGEST_SECONDS = 150


def start(names: list[str], *, is_sweep: bool) -> None:
    """For the cases of these names; returns when they are compiled, or when it takes too long.

    Processes say on standard error what they could not compile.
    """
    count = min(_MOST_PROCESSES, os.cpu_count() or 1)
    command = [sys.executable, "-m", "benchmarks.gpu.compile_ahead", str(int(is_sweep))]
    processes = []
    for index in range(count):
        process = subprocess.Popen(
            [*command, str(index), str(count)],
            env=os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "1"},  # else each starts a pool
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        if process.stdin is not None:
            process.stdin.write("\n".join(names))
            process.stdin.close()
        processes.append(process)
    deadline = time.monotonic() + _LONGEST_SECONDS * (2 if is_sweep else 1)
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main() -> None:
    is_sweep, index, count = map(int, sys.argv[1:])
    names, bench = set(sys.stdin.read().splitlines()), Bench()
    cases = [case for case in matching("", is_sweep=bool(is_sweep)) if case.name in names]
    ahead = dict.fromkeys(work for case in cases for work in case.ahead)
    for work in list(ahead)[index::count]:
        try:
            work.warm_up(bench)
        except Exception as error:  # will be met again, and reported
            print(f"not compiled ahead: {work}: {error}"[:300], file=sys.stderr)


if __name__ == "__main__":
    main()
