"""Time and memory of ``mixnoise pretrain`` on large tables: ``python -m benchmarks.large_tables``.

Tables of correlated columns in float32, some outliers among them, in parquet files. Memory is the
peak of the whole process's resident set, above that of the same command on a table of 2,000 rows.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from benchmarks.cells import RESULTS, write
from benchmarks.machine import describe

SMALL, SIZES = (2_000, 50), ((100_000, 100), (1_000_000, 50))
EPOCHS = 2
_FACTORS = 8
# Peak memory of a child, from itself: that of all children is the largest of them.
_MEASURED = """
import json, resource, sys
{work}
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps(peak * 1024), file=sys.stderr)
"""
_PRETRAIN = """
from mixnoise.cli import main
sys.argv = {arguments!r}
try:
    main()
except SystemExit as left:
    assert not left.code, left.code
"""


def make(path: Path, rows: int, columns: int) -> None:
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(rows, _FACTORS)).astype(np.float32)
    loadings = rng.normal(size=(_FACTORS, columns)).astype(np.float32)
    x = factors @ loadings + rng.standard_t(2, size=(rows, columns)).astype(np.float32)
    names = [f"c{i}" for i in range(columns)]
    parquet.write_table(pa.table(dict(zip(names, x.T, strict=True))), path)


def peak(work: str, folder: Path) -> tuple[int, float]:
    """Bytes, and seconds of the whole process."""
    started = time.perf_counter()
    code = _MEASURED.format(work=work)
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    seconds = time.perf_counter() - started
    return int(found.stderr.splitlines()[-1]), seconds


def main() -> None:
    cases: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        baseline = 0
        for rows, columns in (SMALL, *SIZES):
            file = folder / f"{rows}x{columns}.parquet"
            make(file, rows, columns)
            arguments = ["mixnoise", "pretrain", file.name, "--epochs", str(EPOCHS)]
            total, seconds = peak(_PRETRAIN.format(arguments=arguments), folder)
            if (rows, columns) == SMALL:
                baseline = total
                continue
            metrics = (folder / "runs" / file.stem / "metrics.csv").read_text().splitlines()
            last = dict(zip(metrics[0].split(","), metrics[-1].split(","), strict=True))
            case = {
                "rows": rows,
                "columns": columns,
                "data_bytes": 4 * rows * columns,
                "peak_bytes": total,
                "training_seconds": float(last["seconds"]),
                "seconds": round(seconds, 2),
            }
            cases.append(case)
            ratio = (total - baseline) / case["data_bytes"]
            print(json.dumps(case), f"{ratio:.2f} times the data", flush=True)
    content = {
        "command": "python -m benchmarks.large_tables",
        "machine": describe(),
        "epochs": EPOCHS,
        "small_bytes": baseline,
        "cases": cases,
    }
    write(RESULTS / "large-tables.json", content)


if __name__ == "__main__":
    main()
