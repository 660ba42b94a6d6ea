"""The speed figures on a CPU: ``python -m benchmarks.speed``.

Runs this folder's pytest-benchmark cases and condenses their JSON to what the tables need.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.machine import describe

FOLDER = Path(__file__).parent

# glibc returns freed memory and faults it in again, page by page, or not, depending on what the
# heap happens to look like; that can double the time of an operation, on either side. So here no
# side returns it. Above 32 MiB every tensor is mapped afresh, as without these settings.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**40)}


def condense(report: dict[str, Any]) -> list[dict[str, Any]]:
    """One object a case: median and best seconds of all sides, and the peers' ratios to ours.

    A ratio is the median over rounds of the two times of one round, so that what slows the machine
    for a while slows both sides of it.
    """
    cases = []
    for case in report["benchmarks"]:
        info, ours = dict(case["extra_info"]), case["stats"]["data"]
        peers = info.pop("peers", {})
        cases.append(
            {
                "name": case["name"],
                **info,
                "rounds": len(ours),
                "ours": _summary(ours),
                "peers": {name: _summary(times) for name, times in peers.items()},
                "ratio": {
                    name: statistics.median(t / o for t, o in zip(times, ours, strict=True))
                    for name, times in peers.items()
                },
            }
        )
    return cases


def _summary(times: list[float]) -> dict[str, float]:
    return {"median": statistics.median(times), "min": min(times)}


def pytest_command(*arguments: str) -> list[str]:
    """The project's own options skip benchmarks and turn warnings into errors, so without them."""
    own = ["-o", "addopts=", "-o", "filterwarnings=", "--import-mode=importlib", "-q"]
    return [sys.executable, "-m", "pytest", *own, *arguments]


def tests(matching: str) -> list[str]:
    """Names of this folder's cases, as pytest takes them."""
    command = pytest_command("--collect-only", "-k", matching, str(FOLDER))
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [line for line in listing.splitlines() if "::" in line]


def measure(test: str) -> list[dict[str, Any]]:
    """One case in a process of its own, so that no other has shaped its heap."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = pytest_command("--benchmark-only", f"--benchmark-json={report}", test)
        subprocess.run(command, env=os.environ | ALLOCATOR, check=True)
        return condense(json.loads(report.read_text()))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--output", type=Path, default=FOLDER.parent / "results" / "speed-cpu.json")
    parser.add_argument("-k", default="", help="only the cases that match, as in pytest")
    options = parser.parse_args()
    cases = [case for test in tests(options.k) for case in measure(test)]
    result = {
        "command": f"python -m benchmarks.speed -k '{options.k}'",
        "machine": describe(),
        "environment": ALLOCATOR,
        "cases": cases,
    }
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    for case in cases:
        print(case["name"], {name: round(ratio, 2) for name, ratio in case["ratio"].items()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
