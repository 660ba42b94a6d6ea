"""The paper's table of columns: ``python -m benchmarks.paper.tabular --data letter``.

A fully connected network, images as permuted columns, and the rows of the paper's table; linear
probes with 10 and 100 labels a class and with all. ``--network paper`` has 12 layers, ``best`` what
serves each method best. Settings are chosen by ``--search`` on a validation split of the training
rows; every tried one is kept. Both go on with what is missing when they are interrupted.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader

from benchmarks import cells
from benchmarks.cells import Cell
from benchmarks.machine import describe
from mixnoise import linear_probe
from mixnoise.datasets import Split, load_adult, load_cifar10, load_fashion_mnist, load_keel
from mixnoise.demo import (
    RAW,
    SUPERVISED,
    UNTRAINED,
    Experiment,
    pretrained,
    supervised_accuracy,
    untrained,
)
from mixnoise.features import features

RANDOM = "Random features"  # of one untrained layer
BATCH_NORM = "Batch norm alone"  # an untrained network's, with the statistics of its rows
METHODS = ("Gaussian noise", "DACL", "DACL+")
ROWS = (RAW, RANDOM, UNTRAINED, BATCH_NORM, *METHODS, SUPERVISED)
_RANDOM_FEATURES = 4096
# Searched once, on the validation split.
_SEARCH_SEED = 100
TEMPERATURES = (0.1, 0.5)
STRENGTHS = {
    "Gaussian noise": (0.1, 0.3, 0.6),  # sigma
    "DACL": (0.5, 0.7, 0.9),  # alpha
    "DACL+": (0.5, 0.7, 0.9),  # alpha
}


@dataclass(frozen=True)
class Network:
    depth: int
    width: int


@dataclass(frozen=True)
class Table:
    """A data set, and what a run on two cores has time for."""

    name: str
    load: Callable[..., Split]
    labels_per_class: tuple[int | None, ...]
    label_draws: int  # of few labels; the accuracy of a seed is their mean
    networks: dict[str, tuple[Network, ...]]
    epochs: dict[str, int]  # of pre-training, for either choice of networks; the search has "paper"
    pretrain: dict[str, Any]
    supervised_epochs: int
    classifier: str  # with all labels
    low: float | str  # of geometric mixup
    search_rows: int  # at most, for pre-training and its probes
    folder: str = "paper/tabular"  # of the results


def _pixels(name: str, load: Callable[..., Split], width: int) -> Table:
    return Table(
        name=name,
        load=partial(_permuted, load),
        labels_per_class=(10, 100, None),
        label_draws=1,
        networks={
            "paper": (Network(12, width),),
            "best": (Network(1, 1024), Network(2, 512)),
        },
        epochs={"paper": 10, "best": 20},
        pretrain={"batch_size": 1024, "lr": 2e-3},
        supervised_epochs=5,
        classifier="sgd",
        low=0.0,
        search_rows=20_000,
    )


def _columns(name: str, load: Callable[..., Split], epochs: int) -> Table:
    return Table(
        name=name,
        load=load,
        labels_per_class=(10, 100, None),
        label_draws=10,  # ten labels of Adult, drawn anew, change accuracy by five points
        networks={
            "paper": (Network(12, 128),),
            "best": (Network(1, 512), Network(2, 256)),
        },
        epochs={"paper": epochs, "best": epochs},
        pretrain={"batch_size": 512, "lr": 2e-3},
        supervised_epochs=30,
        classifier="logistic",
        low="auto",
        search_rows=20_000,
    )


def _permuted(load: Callable[..., Split], validation: bool = False) -> Split:
    """Nothing may profit from knowing which pixels are neighbours."""
    split = load(validation)
    order = torch.randperm(split.x_train.shape[1], generator=torch.Generator().manual_seed(0))
    return replace(split, x_train=split.x_train[:, order], x_test=split.x_test[:, order])


TABLES = {
    table.name: table
    for table in (
        _pixels("fashion-mnist", load_fashion_mnist, width=256),
        _pixels("cifar10", load_cifar10, width=256),
        _columns("adult", load_adult, epochs=20),
        _columns("letter", partial(load_keel, "letter"), epochs=30),
        _columns("satimage", partial(load_keel, "satimage"), epochs=60),
    )
}


def pretraining(table: Table, network: str) -> dict[str, Any]:
    return {"epochs": table.epochs[network], **table.pretrain}


def experiment(table: Table, network: Network, pretrain: dict[str, Any]) -> Experiment:
    return Experiment(
        name=table.name,
        load=table.load,
        depth=network.depth,
        width=network.width,
        pretrain=pretrain,
        methods={},
        supervised_epochs=table.supervised_epochs,
        classifier=table.classifier,
    )


def noise(row: str, strength: float, low: float | str) -> dict[str, Any]:
    if row == "Gaussian noise":
        return {"name": "gaussian", "sigma": strength}
    if row == "DACL":
        return {"name": "linear", "alpha": strength}
    return {"name": "dacl+", "alpha": strength, "low": low}


# Search.


@dataclass(frozen=True)
class Choice:
    """What is searched for a method and a number of labels; each method has as many."""

    network: Network
    noise: dict[str, Any]
    temperature: float

    @property
    def name(self) -> str:
        strength = self.noise.get("sigma", self.noise.get("alpha"))
        return f"{self.network.depth}x{self.network.width}-{strength}-{self.temperature}"

    @property
    def method(self) -> dict[str, Any]:
        return {"noise": self.noise, "temperature": self.temperature}


def choices(table: Table, network: str, row: str) -> Iterator[Choice]:
    space = itertools.product(table.networks[network], STRENGTHS[row], TEMPERATURES)
    for chosen, strength, temperature in space:
        yield Choice(chosen, noise(row, strength, table.low), temperature)


def search(table: Table, network: str) -> None:
    """Every choice of every method by its probes on the validation split, with one seed."""
    found = tried(table, network)
    split = table.load(validation=True)
    some = slice(table.search_rows)
    split = replace(split, x_train=split.x_train[some], y_train=split.y_train[some])
    space = {row: [asdict(choice) for choice in choices(table, network, row)] for row in METHODS}
    done = [{key: e[key] for key in ("row", "network", "noise", "temperature")} for e in found]
    pretrain = pretraining(table, "paper")
    settings = {
        "rows": len(split.x_train),
        "label_draws": table.label_draws,
        "pretrain": pretrain,
    }
    for row in METHODS:
        for choice in choices(table, network, row):
            entry = {"row": row, **asdict(choice)}
            if entry in done:
                continue
            trained = experiment(table, choice.network, pretrain)
            encoder, _ = pretrained(trained, split, choice.method, _SEARCH_SEED)
            accuracy = probe(table, encoder, split, _SEARCH_SEED)
            found.append({**entry, "accuracy": accuracy})
            content = {"machine": describe(), "settings": settings, "space": space, "tried": found}
            cells.write(_search_path(table, network), content)
            print(table.name, entry, accuracy, flush=True)


def best(table: Table, network: str, row: str, labels: int | None) -> Choice:
    """The choice of the highest accuracy with so many labels a class, among those tried.

    Raises:
        ValueError: some were not tried.
    """
    found = [entry for entry in tried(table, network) if entry["row"] == row]
    if len(found) < len(list(choices(table, network, row))):
        raise ValueError(
            f"no settings are chosen for {row}: run "
            f"python -m benchmarks.paper.tabular --data {table.name} --network {network} --search"
        )
    column = table.labels_per_class.index(labels)
    entry = max(found, key=lambda e: float(e["accuracy"][column]))
    return Choice(Network(**entry["network"]), entry["noise"], entry["temperature"])


def _search_path(table: Table, network: str) -> Path:
    return cells.RESULTS / f"{table.folder}-search" / f"{table.name}-{network}.json"


def tried(table: Table, network: str) -> list[dict[str, Any]]:
    """Every setting, with its accuracies on the validation rows."""
    path = _search_path(table, network)
    return json.loads(path.read_text())["tried"] if path.exists() else []


# Runs.


def probe(table: Table, encoder: nn.Module, split: Split, seed: int) -> list[float]:
    """Test accuracy in % for each number of labels, mean over their draws."""
    train = features(encoder, split.x_train), split.y_train
    test = features(encoder, split.x_test), split.y_test
    found = []
    for n in table.labels_per_class:
        classifier = table.classifier if n is None else "logistic"
        results = [
            linear_probe(nn.Identity(), train, test, n, seed=draw, classifier=classifier)
            for draw in draws(table, n, seed)
        ]
        found.append(round(100 * float(np.mean([r.accuracy for r in results])), 3))
    return found


def draws(table: Table, labels_per_class: int | None, seed: int) -> range:
    """Seeds for the choice of so many labels; none is drawn for two seeds."""
    if labels_per_class is None:
        return range(seed, seed + 1)
    return range(seed * table.label_draws, (seed + 1) * table.label_draws)


def random_features(n_columns: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(n_columns, _RANDOM_FEATURES), nn.ReLU())


def batch_norm_alone(trained: Experiment, split: Split, seed: int) -> nn.Module:
    """What pre-training does to a network of which it trains nothing.

    Before it, batch norm neither shifts nor scales in evaluation; after it, by its statistics.
    """
    encoder = untrained(trained, split, seed)
    batch_size = trained.pretrain["batch_size"]
    rows: Any = torch.as_tensor(split.x_train)
    update_bn(DataLoader(rows, batch_size, shuffle=True, drop_last=True), encoder)
    return encoder


def chosen(table: Table, network: str, row: str) -> list[Choice]:
    """What is best for some number of labels, for a method; each once."""
    found: list[Choice] = []
    for labels in table.labels_per_class:
        choice = best(table, network, row, labels)
        if choice not in found:
            found.append(choice)
    return found


def cells_of(table: Table, network: str, row: str) -> list[tuple[Cell, Experiment, Choice | None]]:
    """A method's cells, one for each choice; without pre-training, one a network."""
    data = table.name
    common: dict[str, Any] = {
        "data": data,
        "row": row,
        "labels": list(table.labels_per_class),
        "label_draws": table.label_draws,
    }
    pretrain = pretraining(table, network)
    slug = row.lower().replace("+", "-plus").replace(" (no network)", "").replace(" ", "-")
    found: list[tuple[Cell, Experiment, Choice | None]] = []
    if row in (RAW, RANDOM):
        trained = experiment(table, table.networks["paper"][0], pretrain)
        return [(Cell(table.folder, f"{data}-{slug}", common), trained, None)]
    if row in METHODS:
        for choice in chosen(table, network, row):
            settings = {**common, **asdict(choice), "pretrain": pretrain}
            cell = Cell(table.folder, f"{data}-{slug}-{choice.name}", settings)
            found.append((cell, experiment(table, choice.network, pretrain), choice))
        return found
    networks = {choice.network for m in METHODS for choice in chosen(table, network, m)}
    for each in sorted(networks, key=str):
        settings = {**common, "network": asdict(each)}
        if row == SUPERVISED:
            settings["epochs"] = table.supervised_epochs
        cell = Cell(table.folder, f"{data}-{slug}-{each.depth}x{each.width}", settings)
        found.append((cell, experiment(table, each, pretrain), None))
    return found


def run(
    table: Table, row: str, trained: Experiment, choice: Choice | None, split: Split, seed: int
) -> dict[str, Any]:
    """Accuracies in %, and with pre-training those of a vote of neighbours on the way."""
    if row == SUPERVISED:
        accuracies = [
            np.mean([supervised_accuracy(trained, split, n, d) for d in draws(table, n, seed)])
            for n in table.labels_per_class
        ]
        return {"accuracy": [round(float(a), 3) for a in accuracies]}
    if choice is not None:
        some = slice(5000), slice(2000)  # enough to see a curve
        neighbours = (
            (split.x_train[some[0]], split.y_train[some[0]]),
            (split.x_test[some[1]], split.y_test[some[1]]),
        )
        encoder, made = pretrained(trained, split, choice.method, seed, probe=neighbours)
        curve = [
            [step["epoch"], round(100 * step["knn_accuracy"], 2)]
            for step in made.history
            if "knn_accuracy" in step
        ]
        return {"accuracy": probe(table, encoder, split, seed), "knn": curve}
    encoder = nn.Identity()
    if row == RANDOM:
        encoder = random_features(split.x_train.shape[1], seed)
    elif row == UNTRAINED:
        encoder = untrained(trained, split, seed)
    elif row == BATCH_NORM:
        encoder = batch_norm_alone(trained, split, seed)
    return {"accuracy": probe(table, encoder, split, seed)}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paper.tabular", description=__doc__)
    parser.add_argument("--data", choices=TABLES, nargs="+", default=list(TABLES))
    parser.add_argument("--network", choices=("paper", "best"), default="paper")
    parser.add_argument("--rows", choices=ROWS, nargs="+", default=list(ROWS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--search", action="store_true", help="choose settings, then stop")
    other = parser.add_argument_group("another size, as the paper's, with results of its own")
    other.add_argument("--folder", help="of the results, beside tabular")
    other.add_argument("--width", type=int, help="of the 12 layers")
    other.add_argument("--epochs", type=int, help="of pre-training; the paper has 1000")
    other.add_argument("--batch-size", type=int, help="the paper has 4096")
    other.add_argument("--optimizer", help="the paper has lars")
    other.add_argument("--lr", type=float)
    options = parser.parse_args(arguments)
    names = ("batch_size", "optimizer", "lr")
    changed = {name: value for name in names if (value := getattr(options, name)) is not None}
    if (changed or options.epochs or options.width) and not options.folder:
        parser.error("another size needs a --folder of its own")
    for data in options.data:
        table = TABLES[data]
        table = replace(
            table,
            pretrain={**table.pretrain, **changed},
            folder=f"paper/{options.folder}" if options.folder else table.folder,
        )
        if options.epochs:
            table = replace(table, epochs=dict.fromkeys(table.epochs, options.epochs))
        if options.width:
            table = replace(table, networks={"paper": (Network(12, options.width),)})
        if options.search:
            search(table, options.network)
            continue
        split = table.load()
        for row in options.rows:
            for cell, trained, choice in cells_of(table, options.network, row):
                cell.fill(range(options.seeds), partial(run, table, row, trained, choice, split))
                accuracies = [found["accuracy"] for found in cell.runs()]
                print(cell.name, np.round(np.mean(accuracies, 0), 2), flush=True)


if __name__ == "__main__":
    main()
