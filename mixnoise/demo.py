"""DACL end to end on real data: ``python -m mixnoise.demo``, or ``make demo``.

A fully connected encoder on images as mere columns, and the rows of the paper's tables: what
linear and nearest-neighbour probes make of the raw columns and of encoders pre-trained in different
ways, with 5 labels a class and with all of them; and the same network trained on those labels.
The default is scikit-learn's copy of the UCI digits; ``--data fashion-mnist`` takes a quarter of an
hour. Everything that is made goes into a folder: the table as JSON, the runs of the first seed,
and, with matplotlib, pictures of the losses and of the embeddings.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixnoise import DACL, get_noise, knn_probe, linear_probe, metrics, pretrain
from mixnoise.atomic import replacing
from mixnoise.datasets import Split, load_digits, load_fashion_mnist
from mixnoise.evaluate import choose_rows
from mixnoise.features import features
from mixnoise.networks import fully_connected, projector
from mixnoise.plots import plot_embeddings, plot_history
from mixnoise.train import Run

LABELS_PER_CLASS = (5, None)
COLUMNS = ("5 labels a class", "all labels", "kNN", "RankMe")
RAW, UNTRAINED, SUPERVISED = "Raw columns (no network)", "No pre-training", "Full supervised"
_ROWS_PICTURED = 1000


@dataclass(frozen=True)
class Experiment:
    """A data set, the network that suits it, and settings chosen on a validation split.

    ``python -m benchmarks.demo_search`` chose them; what was tried, and the accuracies, are in
    benchmarks/results/demo-search-*.json.
    """

    name: str
    load: Callable[..., Split]
    depth: int
    width: int
    pretrain: dict[str, Any]
    methods: dict[str, dict[str, Any]]
    supervised_epochs: int
    classifier: str


EXPERIMENTS = {
    "digits": Experiment(
        name="UCI digits",
        load=load_digits,
        depth=12,
        width=256,
        pretrain={"epochs": 60, "batch_size": 512, "lr": 2e-3},
        methods={
            "Gaussian noise": {"noise": {"name": "gaussian", "sigma": 0.3}, "temperature": 0.5},
            "DACL": {"noise": {"name": "linear", "alpha": 0.5}, "temperature": 0.5},
            "DACL+": {"noise": {"name": "dacl+", "alpha": 0.8, "low": 0.0}, "temperature": 0.5},
        },
        supervised_epochs=100,
        classifier="logistic",
    ),
    "fashion-mnist": Experiment(
        name="Fashion-MNIST",
        load=load_fashion_mnist,
        depth=2,
        width=512,
        pretrain={"epochs": 6, "batch_size": 1024, "lr": 1e-3},
        methods={
            "Gaussian noise": {"noise": {"name": "gaussian", "sigma": 0.3}, "temperature": 0.1},
            "DACL": {"noise": {"name": "linear", "alpha": 0.7}, "temperature": 0.2},
            "DACL+": {"noise": {"name": "dacl+", "alpha": 0.5, "low": 0.0}, "temperature": 0.2},
        },
        supervised_epochs=5,
        classifier="sgd",
    ),
}


def untrained(experiment: Experiment, split: Split, seed: int) -> nn.Module:
    """The encoder at its initial weights, the same that pre-training starts from."""
    torch.manual_seed(seed)
    return fully_connected(split.x_train.shape[1], experiment.width, experiment.depth)


def pretrained(
    experiment: Experiment, split: Split, method: dict[str, Any], seed: int, **settings: Any
) -> tuple[nn.Module, Run]:
    """The encoder after pre-training on the training rows, without labels."""
    encoder = untrained(experiment, split, seed)
    noise = get_noise(**method["noise"])
    model = DACL(encoder, projector(experiment.width), noise, method["temperature"])
    settings = {**experiment.pretrain, "progress": False, **settings}
    return encoder, pretrain(model, split.x_train, seed=seed, **settings)


def supervised_accuracy(
    experiment: Experiment, split: Split, labels_per_class: int | None, seed: int
) -> float:
    """Test accuracy in % of the same network trained on the labels."""
    x, y = split.x_train, split.y_train
    if labels_per_class is not None:
        chosen = torch.as_tensor(choose_rows(y.numpy(), labels_per_class, seed))
        x, y = x[chosen], y[chosen]
    n_classes = int(split.y_train.max()) + 1
    head = nn.Linear(experiment.width, n_classes)
    model = nn.Sequential(untrained(experiment, split, seed), head)
    steps_per_epoch = max(1, len(x) // 128)
    # A few labels make an epoch of a single step.
    epochs = experiment.supervised_epochs if labels_per_class is None else 100
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps_per_epoch)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).tensor_split(steps_per_epoch):
            loss = F.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        right: Tensor = model(split.x_test).argmax(1) == split.y_test
    return 100 * right.float().mean().item()


def probe(experiment: Experiment, encoder: nn.Module, split: Split, seed: int) -> list[float]:
    """A value for each of COLUMNS; accuracies in %."""
    train = features(encoder, split.x_train), split.y_train
    test = features(encoder, split.x_test), split.y_test
    found = []
    for n in LABELS_PER_CLASS:
        classifier = experiment.classifier if n is None else "logistic"
        result = linear_probe(
            nn.Identity(), train, test, labels_per_class=n, seed=seed, classifier=classifier
        )
        found.append(100 * result.accuracy)
    found.append(100 * knn_probe(nn.Identity(), train, test).accuracy)
    return [*found, metrics.rankme(test[0][:_ROWS_PICTURED])]


def table_row(
    experiment: Experiment, split: Split, name: str, seed: int, run_dir: Path | None = None
) -> tuple[list[float], nn.Module, Run | None]:
    """A value for each of COLUMNS, as many as the row has, the encoder, and its pre-training."""
    if name == SUPERVISED:
        accuracies = [supervised_accuracy(experiment, split, n, seed) for n in LABELS_PER_CLASS]
        return accuracies, nn.Identity(), None
    encoder: nn.Module = nn.Identity()
    pretraining = None
    if name == UNTRAINED:
        encoder = untrained(experiment, split, seed)
    elif name != RAW:
        method = experiment.methods[name]
        encoder, pretraining = pretrained(experiment, split, method, seed, run_dir=run_dir)
    return probe(experiment, encoder, split, seed), encoder, pretraining


def run(experiment: Experiment, n_seeds: int, folder: Path | None = None) -> dict[str, Any]:
    """Print the table row by row, and leave what was made in the folder.

    Returns:
        For each row ``values``, a list of COLUMNS for each seed, and ``seconds``.
    """
    split = experiment.load()
    print(
        f"{experiment.name}: {len(split.x_train):,} training and {len(split.x_test):,} test rows, "
        f"{split.x_train.shape[1]} columns. Encoder: {experiment.depth} layers of "
        f"{experiment.width}.\nTest accuracy in % and RankMe, mean ± standard deviation over "
        f"{n_seeds} seeds.\n"
    )
    print(f"{'':<26}" + "".join(f"{c:>18}" for c in COLUMNS) + f"{'seconds':>9}")
    table: dict[str, Any] = {}
    encoders: dict[str, nn.Module] = {}  # of the first seed, as are the runs
    histories: dict[str, list[dict[str, float]]] = {}
    for name in (RAW, UNTRAINED, *experiment.methods, SUPERVISED):
        started = time.perf_counter()
        values = []
        for seed in range(n_seeds):
            run_dir = folder / name.lower().replace(" ", "-") if folder and seed == 0 else None
            row, encoder, pretraining = table_row(experiment, split, name, seed, run_dir)
            values.append(row)
            encoders.setdefault(name, encoder)
            if pretraining is not None:
                histories.setdefault(name, pretraining.history)
        seconds = time.perf_counter() - started
        mean, std = np.mean(values, 0), np.std(values, 0, ddof=1 if n_seeds > 1 else 0)
        cells = [f"{m:.1f} ± {s:.1f}" for m, s in zip(mean, std, strict=True)]
        cells += [""] * (len(COLUMNS) - len(cells))
        print(f"{name:<26}" + "".join(f"{c:>18}" for c in cells) + f"{seconds:>9.1f}", flush=True)
        table[name] = {"values": np.round(values, 4).tolist(), "seconds": round(seconds, 2)}
    if folder is not None:
        with replacing(folder / "table.json") as part:
            part.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
        if find_spec("matplotlib"):
            x, y = split.x_test[:_ROWS_PICTURED], split.y_test[:_ROWS_PICTURED]
            panels = {"Raw columns": RAW, "Before": UNTRAINED, "After DACL+": "DACL+"}
            embeddings = {panel: features(encoders[name], x) for panel, name in panels.items()}
            plot_history(histories, folder / "training.png")
            plot_embeddings(embeddings, y, folder / "embeddings.png")
    return table


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m mixnoise.demo", description=__doc__)
    parser.add_argument("--data", choices=EXPERIMENTS, default="digits", help="default: digits")
    parser.add_argument("--seeds", type=int, default=3, help="repetitions (default 3)")
    parser.add_argument("--output", type=Path, help="a new folder (default runs/DATA-TIME)")
    options = parser.parse_args(arguments)
    if options.seeds < 1:
        parser.error(f"--seeds must be >= 1, got {options.seeds}")
    folder = options.output or Path("runs") / f"{options.data}-{time.strftime('%Y%m%d-%H%M%S')}"
    if folder.exists():
        parser.error(f"--output must be a folder that does not exist yet, got {folder}")
    started = time.perf_counter()
    run(EXPERIMENTS[options.data], options.seeds, folder)
    print(f"\n{time.perf_counter() - started:.0f} seconds in all. See {folder}.")


if __name__ == "__main__":
    main()
