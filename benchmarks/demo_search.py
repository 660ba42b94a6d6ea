"""How the demo's settings were chosen: ``python -m benchmarks.demo_search``.

Every method gets the same number of settings, the paper's grid of noise strength times
temperature, and is scored by linear probes on a validation split of the training rows. The test
rows are not touched. Tried settings are kept in the output, and an interrupted search goes on
with the settings that are missing.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np

from mixnoise.demo import load_digits, pretrained, probe

SEEDS = (100, 101)
TEMPERATURES = (0.1, 0.5, 1.0)
STRENGTHS: dict[str, list[dict[str, Any]]] = {
    "Gaussian noise": [{"name": "gaussian", "sigma": s} for s in (0.05, 0.1, 0.3, 0.5)],
    "DACL": [{"name": "linear", "alpha": a} for a in (0.5, 0.7, 0.8, 0.9)],
    "DACL+": [{"name": "dacl+", "alpha": a, "low": 0.0} for a in (0.5, 0.7, 0.8, 0.9)],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/demo-search.json"))
    output: Path = parser.parse_args().output
    tried: list[dict[str, Any]] = json.loads(output.read_text()) if output.exists() else []
    done = [(entry["row"], entry["noise"], entry["temperature"]) for entry in tried]

    split = load_digits(validation=True)
    for row, noises in STRENGTHS.items():
        for noise, temperature in itertools.product(noises, TEMPERATURES):
            if (row, noise, temperature) in done:
                continue
            method = {"noise": noise, "temperature": temperature}
            accuracies = [probe(pretrained(split, method, s), split, s) for s in SEEDS]
            tried.append({"row": row, **method, "accuracy": accuracies})
            output.write_text(json.dumps(tried, indent=1) + "\n")
            print(row, method, np.round(100 * np.mean(accuracies, 0), 1), flush=True)
    for row in STRENGTHS:
        best = max(
            (entry for entry in tried if entry["row"] == row),
            key=lambda entry: float(np.mean(entry["accuracy"])),
        )
        print(f"best for {row}: {best['noise']}, temperature {best['temperature']}")


if __name__ == "__main__":
    main()
