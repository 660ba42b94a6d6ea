"""The demo's table and pictures for README: ``python -m benchmarks.demo [--data fashion-mnist]``.

The JSON says what they were measured on; the pictures go into docs/.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

from benchmarks.machine import describe
from benchmarks.tables import RESULTS, ROOT
from mixnoise.demo import COLUMNS, EXPERIMENTS, run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description=__doc__)
    parser.add_argument("--data", choices=EXPERIMENTS, default="digits")
    data: str = parser.parse_args().data
    experiment = EXPERIMENTS[data]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "run"
        rows = run(experiment, 3, folder)
        result = {
            "command": "make demo" + ("" if data == "digits" else f" DATA={data}"),
            "machine": describe(),
            "encoder": f"{experiment.depth} layers of {experiment.width}",
            "pretrain": experiment.pretrain,
            "methods": experiment.methods,
            "columns": COLUMNS,
            "rows": rows,
        }
        for picture in ("training", "embeddings"):
            shutil.copy(folder / f"{picture}.png", ROOT / "docs" / f"{data}-{picture}.png")
    (RESULTS / f"demo-{data}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
