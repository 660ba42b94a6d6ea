"""The paper's table of graphs: ``python -m benchmarks.paper.graphs --data MUTAG``.

GIN is pre-trained on all graphs of a set without their labels, in several ways, and linear
classifiers on its frozen output are trained and tested in ten folds: logistic regression on
standardised features, regularised as suits it, and the plain one that is usual in this literature.
Settings are chosen within each fold and for each classifier, by its own cross-validation of the
training graphs, among as many for each method; what each of them gave is kept. Goes on with the
seeds that are missing when it is interrupted.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader

from benchmarks.cells import Cell
from benchmarks.paper.graph_networks import GIN, InfoGraph, projector
from mixnoise import DACL, get_noise
from mixnoise.datasets import load_tu_graphs
from mixnoise.datasets.tu_graphs import NAMES

UNTRAINED, BATCH_NORM, INFOGRAPH, LINEAR, PLUS = ROWS = (
    *("No pre-training", "Batch norm alone"),
    *("InfoGraph", "DACL", "DACL+"),
)
CLASSIFIERS = ("plain", "tuned")
_ALPHA = 0.9  # perhaps the paper's
_FOLDS = 10
_REGULARISATION = (0.01, 0.1, 1.0)  # C of the classifier
_INNER_FOLDS = 5


@dataclass(frozen=True)
class Size:
    width: int = 32
    depth: int = 4
    epochs: int = 20
    batch_size: int = 128


# REDDIT-BINARY has 45 times the nodes of the others.
SIZES = {name: Size(epochs=5) if name.startswith("REDDIT") else Size() for name in NAMES}


def space(row: str) -> list[dict[str, float]]:
    """Four settings for each method; InfoGraph has none of its own but the learning rate."""
    if row in (UNTRAINED, BATCH_NORM):
        return [{}]
    if row == INFOGRAPH:
        return [{"lr": lr} for lr in (1e-4, 1e-3, 3e-3, 1e-2)]
    return [{"lr": lr, "temperature": t} for lr in (1e-4, 1e-3) for t in (0.1, 1.0)]


def pretrained(
    row: str, setting: dict[str, float], graphs: list[Data], size: Size, seed: int
) -> GIN:
    """The encoder; without pre-training, at the initial weights of the others.

    With batch norm alone, those weights, and the statistics that pre-training would have taken.
    """
    torch.manual_seed(seed)
    encoder = GIN(graphs[0].x.shape[1], size.width, size.depth)
    if row == UNTRAINED:
        return encoder
    loader = DataLoader(graphs, size.batch_size, shuffle=True)
    if row == BATCH_NORM:
        update_bn(loader, encoder)
        return encoder
    model: nn.Module
    if row == INFOGRAPH:
        model = InfoGraph(encoder)
    else:
        mixed = {"noise": "linear"} if row == LINEAR else {"noise": "dacl+", "low": "auto"}
        noise = get_noise("hidden", alpha=_ALPHA, **mixed)
        model = DACL(encoder, projector(encoder.out_features), noise, setting["temperature"])
    optimizer = torch.optim.Adam(model.parameters(), lr=setting["lr"])
    for _ in range(size.epochs):
        for batch in loader:
            if batch.num_graphs < 2:
                continue
            optimizer.zero_grad()
            model(batch).backward()
            optimizer.step()
    return encoder


@torch.no_grad()
def encode(encoder: GIN, graphs: list[Data], batch_size: int) -> Any:
    """Float64 ``(graphs, D)``."""
    encoder.eval()
    return torch.cat([encoder(b) for b in DataLoader(graphs, batch_size)]).double().numpy()


def folds(y: Any, seed: int) -> list[tuple[Any, Any]]:
    """Training and test graphs of each."""
    return list(StratifiedKFold(_FOLDS, shuffle=True, random_state=seed).split(y, y))


def inner_folds(y: Any, train: Any, seed: int) -> list[tuple[Any, Any]]:
    """Folds of a fold's training graphs, for the choice of a setting."""
    split = StratifiedKFold(_INNER_FOLDS, shuffle=True, random_state=seed).split(train, y[train])
    return [(train[fit], train[held_out]) for fit, held_out in split]


def tuned(h: Any, y: Any, seed: int) -> tuple[list[float], list[float]]:
    """For each fold, in %: accuracy on it, and what its training graphs foretold."""
    tested, foretold = [], []
    for train, test in folds(y, seed):
        classifier = GridSearchCV(
            make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000, tol=1e-3)),
            {"logisticregression__C": _REGULARISATION},
            cv=StratifiedKFold(_INNER_FOLDS, shuffle=True, random_state=seed),
        ).fit(h[train], y[train])
        tested.append(round(100 * classifier.score(h[test], y[test]), 3))
        foretold.append(round(100 * classifier.best_score_, 3))
    return tested, foretold


def plain(h: Any, y: Any, seed: int) -> tuple[list[float], list[float]]:
    """The same of a linear layer on the output as it is, by 100 steps of Adam."""
    split = folds(y, seed)
    tested = plain_accuracy(h, y, split, seed)
    inner = [pair for train, _ in split for pair in inner_folds(y, train, seed)]
    foretold = np.reshape(plain_accuracy(h, y, inner, seed), (_FOLDS, _INNER_FOLDS)).mean(1)
    return tested, foretold.round(3).tolist()


def plain_accuracy(h: Any, y: Any, split: list[tuple[Any, Any]], seed: int) -> list[float]:
    """Accuracies in %, of a layer for each pair of training and test graphs.

    All layers at once: Adam changes each number by its own gradients alone.
    """
    torch.manual_seed(seed)
    x, labels = torch.as_tensor(h).float(), torch.as_tensor(y)
    shape = x.shape[1], int(y.max()) + 1
    weight = torch.stack([nn.init.xavier_uniform_(torch.empty(shape)) for _ in split])
    weight.requires_grad_()
    bias = torch.zeros(len(split), 1, weight.shape[2], requires_grad=True)
    optimizer = torch.optim.Adam([weight, bias], lr=0.01)
    for _ in range(100):
        scores = x @ weight + bias
        losses = [F.cross_entropy(s[t], labels[t]) for s, (t, _) in zip(scores, split, strict=True)]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()
    right = ((x @ weight + bias).argmax(2) == labels).float()
    found = [100 * r[test].mean().item() for r, (_, test) in zip(right, split, strict=True)]
    return [round(accuracy, 3) for accuracy in found]


def run(row: str, graphs: list[Data], size: Size, seed: int) -> dict[str, Any]:
    """The accuracy of what the training graphs speak for, for each classifier and fold."""
    y = torch.cat([g.y for g in graphs]).numpy()
    tried: list[dict[str, Any]] = []
    for setting in space(row):
        encoder = pretrained(row, setting, graphs, size, seed)
        h = encode(encoder, graphs, size.batch_size)
        found: dict[str, Any] = {"setting": setting}
        for classifier, judge in (("plain", plain), ("tuned", tuned)):
            tested, foretold = judge(h, y, seed)
            found[classifier] = {"tested": tested, "foretold": foretold}
        tried.append(found)
    result: dict[str, Any] = {"tried": tried, "chosen": {}}
    for classifier in CLASSIFIERS:
        chosen = np.array([each[classifier]["foretold"] for each in tried]).argmax(0).tolist()
        result["chosen"][classifier] = chosen
        result[classifier] = [tried[s][classifier]["tested"][f] for f, s in enumerate(chosen)]
    return result


def cell(data: str, row: str, size: Size) -> Cell:
    slug = row.lower().replace("+", "-plus").replace(" ", "-")
    settings = {
        "data": data,
        "row": row,
        "width": size.width,
        "depth": size.depth,
        "epochs": size.epochs,
        "batch_size": size.batch_size,
        "space": space(row),
        "chosen": "for each classifier, by its own cross-validation",
    }
    if row in (LINEAR, PLUS):
        settings["alpha"] = _ALPHA
    return Cell("paper/graphs", f"{data}-{size.depth}x{size.width}-{size.epochs}-{slug}", settings)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paper.graphs", description=__doc__)
    parser.add_argument("--data", choices=NAMES, nargs="+", default=list(NAMES))
    parser.add_argument("--rows", choices=ROWS, nargs="+", default=list(ROWS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--width", type=int, help="of a layer; the paper's is 512")
    parser.add_argument("--depth", type=int, help="layers")
    parser.add_argument("--epochs", type=int, help="of pre-training")
    options = parser.parse_args(arguments)
    for data in options.data:
        given = {k: v for k in ("width", "depth", "epochs") if (v := getattr(options, k))}
        size = Size(**{**SIZES[data].__dict__, **given})
        graphs = load_tu_graphs(data)
        for row in options.rows:
            made: Callable[[int], dict[str, Any]] = partial(run, row, graphs, size)
            found = cell(data, row, size)
            found.fill(range(options.seeds), made)
            means = {c: round(float(np.mean([r[c] for r in found.runs()])), 2) for c in CLASSIFIERS}
            print(found.name, means, flush=True)


if __name__ == "__main__":
    main()
