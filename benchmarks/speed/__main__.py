"""The speed figures on a CPU: ``python -m benchmarks.speed``.

Runs this folder's pytest-benchmark cases and condenses their JSON to what the tables need.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from benchmarks.machine import describe

FOLDER = Path(__file__).parent


def condense(report: dict[str, Any]) -> list[dict[str, Any]]:
    """One object a case: our median and best seconds, the peers', and the ratios of medians."""
    cases = []
    for case in report["benchmarks"]:
        stats, info = case["stats"], dict(case["extra_info"])
        peers = info.pop("peers", {})
        cases.append(
            {
                "name": case["name"],
                **info,
                "rounds": stats["rounds"],
                "ours": {"median": stats["median"], "min": stats["min"]},
                "peers": peers,
                "ratio": {name: peer["median"] / stats["median"] for name, peer in peers.items()},
            }
        )
    return cases


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--output", type=Path, default=FOLDER.parent / "results" / "speed-cpu.json")
    parser.add_argument("-k", default="", help="only the cases that match, as in pytest")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # The project's own options skip benchmarks and turn warnings into errors.
        own = ["-o", "addopts=", "-o", "filterwarnings=", "--import-mode=importlib", "-q"]
        report = Path(folder) / "report.json"
        ask = ["--benchmark-only", f"--benchmark-json={report}", "-k", options.k, str(FOLDER)]
        status = pytest.main(own + ask)
        if status:
            return int(status)
        cases = condense(json.loads(report.read_text()))
    result = {"command": "make bench", "machine": describe(), "cases": cases}
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    for case in cases:
        print(case["name"], {name: round(ratio, 2) for name, ratio in case["ratio"].items()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
