"""The demo's table with what it was measured on: ``python -m benchmarks.demo``."""

from __future__ import annotations

import json

from benchmarks.machine import describe
from benchmarks.tables import RESULTS
from mixnoise.demo import METHODS, PRETRAIN, run


def main() -> None:
    result = {
        "command": "make demo",
        "machine": describe(),
        "pretrain": PRETRAIN,
        "methods": METHODS,
        "rows": run(),
    }
    (RESULTS / "demo.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
