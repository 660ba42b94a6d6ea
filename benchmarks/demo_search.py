"""How the demo's settings were chosen: ``python -m benchmarks.demo_search [--data ...]``.

Every method gets the same number of settings, noise strength times temperature, and is scored by
the demo's linear probes on a validation split of the training rows. The test rows are not touched.
Tried settings are kept in the output, and an interrupted search goes on with what is missing.
"""

from __future__ import annotations

import argparse
import itertools
import json
from typing import Any

import numpy as np

from benchmarks.tables import RESULTS
from mixnoise.demo import EXPERIMENTS, pretrained, probe

SEEDS = {"digits": (100, 101), "fashion-mnist": (100,)}
TEMPERATURES = {"digits": (0.1, 0.5, 1.0), "fashion-mnist": (0.1, 0.2)}
SIGMAS = {"digits": (0.05, 0.1, 0.3, 0.5), "fashion-mnist": (0.1, 0.3, 0.5)}
ALPHAS = {"digits": (0.5, 0.7, 0.8, 0.9), "fashion-mnist": (0.3, 0.5, 0.7)}


def noises(data: str) -> dict[str, list[dict[str, Any]]]:
    return {
        "Gaussian noise": [{"name": "gaussian", "sigma": s} for s in SIGMAS[data]],
        "DACL": [{"name": "linear", "alpha": a} for a in ALPHAS[data]],
        "DACL+": [{"name": "dacl+", "alpha": a, "low": 0.0} for a in ALPHAS[data]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo_search", description=__doc__)
    parser.add_argument("--data", choices=EXPERIMENTS, default="digits")
    data: str = parser.parse_args().data
    output = RESULTS / f"demo-search-{data}.json"
    tried: list[dict[str, Any]] = json.loads(output.read_text()) if output.exists() else []
    done = [(entry["row"], entry["noise"], entry["temperature"]) for entry in tried]

    experiment = EXPERIMENTS[data]
    split = experiment.load(validation=True)
    for row, strengths in noises(data).items():
        for noise, temperature in itertools.product(strengths, TEMPERATURES[data]):
            if (row, noise, temperature) in done:
                continue
            method = {"noise": noise, "temperature": temperature}
            accuracies = []
            for seed in SEEDS[data]:
                encoder, _ = pretrained(experiment, split, method, seed)
                few, many, *_ = probe(experiment, encoder, split, seed)
                accuracies.append([few, many])
            tried.append({"row": row, **method, "accuracy": accuracies})
            output.write_text(json.dumps(tried, indent=1) + "\n")
            print(row, method, np.round(np.mean(accuracies, 0), 1), flush=True)
    for row in noises(data):
        best = max(
            (entry for entry in tried if entry["row"] == row),
            key=lambda entry: float(np.mean(entry["accuracy"])),
        )
        print(f"best for {row}: {best['noise']}, temperature {best['temperature']}")


if __name__ == "__main__":
    main()
