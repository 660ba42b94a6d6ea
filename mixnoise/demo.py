"""DACL end to end on real data: ``python -m mixnoise.demo``, or ``make demo``.

Eight-by-eight images of handwritten digits as 64 columns (scikit-learn's copy of the UCI set), a
12-layer fully connected encoder as in the paper's tables, and the rows of those tables: what a
linear probe makes of the raw columns and of encoders pre-trained in different ways, with 5 labels
a class and with all of them; and the same network trained on those labels.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixnoise import DACL, get_noise, linear_probe, pretrain
from mixnoise.evaluate import choose_rows

LABELS_PER_CLASS = (5, None)
WIDTH, DEPTH, PROJECTION = 256, 12, 128

# Chosen on a validation split of the training rows by `python -m benchmarks.demo_search`; the
# settings that were tried and their accuracies are in benchmarks/results/demo-search.json.
PRETRAIN: dict[str, Any] = {"epochs": 60, "batch_size": 512, "lr": 2e-3}
SUPERVISED_EPOCHS = 100
METHODS: dict[str, dict[str, Any]] = {
    "Gaussian noise": {"noise": {"name": "gaussian", "sigma": 0.3}, "temperature": 0.5},
    "DACL": {"noise": {"name": "linear", "alpha": 0.5}, "temperature": 0.5},
    "DACL+": {"noise": {"name": "dacl+", "alpha": 0.8, "low": 0.0}, "temperature": 0.5},
}
RAW, UNTRAINED, SUPERVISED = "Raw columns (no network)", "No pre-training", "Full supervised"


@dataclass(frozen=True)
class Split:
    """Rows ``(N, 64)`` in [0, 1] and labels ``(N,)``."""

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor


def load_digits(validation: bool = False) -> Split:
    """1,347 training and 450 test rows, stratified, always the same.

    With ``validation`` the test rows are left out altogether and a quarter of the training rows
    stands in for them: what hyper-parameters are chosen on.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    parts = train_test_split(x, y, test_size=450, stratify=y, random_state=0)
    if validation:
        x_train, _, y_train, _ = parts
        parts = train_test_split(x_train, y_train, test_size=0.25, stratify=y_train, random_state=1)
    x_train, x_test, y_train, y_test = (torch.as_tensor(part) for part in parts)
    return Split(x_train, y_train, x_test, y_test)


def fully_connected(n_columns: int, width: int = WIDTH, depth: int = DEPTH) -> nn.Sequential:
    """``depth`` layers of linear map, batch norm and ReLU: ``(N, n_columns)`` to ``(N, width)``."""
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Linear(width if i else n_columns, width), nn.BatchNorm1d(width), nn.ReLU()]
    return nn.Sequential(*layers)


def projector(width: int = WIDTH, out: int = PROJECTION) -> nn.Sequential:
    """Three layers, thrown away after pre-training."""
    return nn.Sequential(fully_connected(width, width, depth=2), nn.Linear(width, out))


def pretrained(split: Split, method: dict[str, Any], seed: int, **settings: Any) -> nn.Module:
    """The encoder after pre-training on the training rows, without labels."""
    torch.manual_seed(seed)
    encoder = fully_connected(split.x_train.shape[1])
    model = DACL(encoder, projector(), get_noise(**method["noise"]), method["temperature"])
    pretrain(model, split.x_train, seed=seed, **{**PRETRAIN, **settings})
    return encoder


def supervised_accuracy(split: Split, labels_per_class: int | None, seed: int) -> float:
    """Test accuracy of the same network trained on the labels."""
    x, y = split.x_train, split.y_train
    if labels_per_class is not None:
        chosen = torch.as_tensor(choose_rows(y.numpy(), labels_per_class, seed))
        x, y = x[chosen], y[chosen]
    torch.manual_seed(seed)
    model = nn.Sequential(fully_connected(x.shape[1]), nn.Linear(WIDTH, 10))
    steps_per_epoch = max(1, len(x) // 128)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, SUPERVISED_EPOCHS * steps_per_epoch
    )
    for _ in range(SUPERVISED_EPOCHS):
        for batch in torch.randperm(len(x)).tensor_split(steps_per_epoch):
            loss = F.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        right: Tensor = model(split.x_test).argmax(1) == split.y_test
    return right.float().mean().item()


def probe(encoder: nn.Module, split: Split, seed: int) -> list[float]:
    """Linear-probe accuracy for each number of labels a class."""
    train, test = (split.x_train, split.y_train), (split.x_test, split.y_test)
    return [
        linear_probe(encoder, train, test, labels_per_class=n, seed=seed).accuracy
        for n in LABELS_PER_CLASS
    ]


def table_row(name: str, split: Split, seed: int) -> list[float]:
    """Test accuracy for each number of labels a class."""
    if name == SUPERVISED:
        return [supervised_accuracy(split, n, seed) for n in LABELS_PER_CLASS]
    if name == RAW:
        return probe(nn.Identity(), split, seed)
    if name == UNTRAINED:
        torch.manual_seed(seed)
        return probe(fully_connected(split.x_train.shape[1]), split, seed)
    return probe(pretrained(split, METHODS[name], seed), split, seed)


def run(n_seeds: int = 3) -> dict[str, dict[str, Any]]:
    """Print the table row by row; returns accuracies in % ``(seeds, labels)`` and seconds."""
    split = load_digits()
    print(
        f"Digits: {len(split.x_train)} training and {len(split.x_test)} test rows, 64 columns. "
        f"Encoder: {DEPTH} layers of {WIDTH}.\nTest accuracy in %, mean ± standard deviation "
        f"over {n_seeds} seeds.\n"
    )
    print(f"{'':<26}{'5 labels a class':>18}{'all labels':>18}{'seconds':>10}")
    table = {}
    for name in (RAW, UNTRAINED, *METHODS, SUPERVISED):
        started = time.perf_counter()
        values = 100 * np.array([table_row(name, split, seed) for seed in range(n_seeds)])
        seconds = time.perf_counter() - started
        mean, std = values.mean(0), values.std(0, ddof=1 if n_seeds > 1 else 0)
        few, many = (f"{m:.1f} ± {s:.1f}" for m, s in zip(mean, std, strict=True))
        print(f"{name:<26}{few:>18}{many:>18}{seconds:>10.1f}", flush=True)
        table[name] = {"accuracy": values.round(4).tolist(), "seconds": round(seconds, 2)}
    return table


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m mixnoise.demo", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="repetitions (default 3)")
    options = parser.parse_args(arguments)
    if options.seeds < 1:
        parser.error(f"--seeds must be >= 1, got {options.seeds}")
    started = time.perf_counter()
    run(options.seeds)
    print(f"\n{time.perf_counter() - started:.0f} seconds in all.")


if __name__ == "__main__":
    main()
