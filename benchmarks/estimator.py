"""Does DACLEncoder help with few labels? ``python -m benchmarks.estimator --data adult``.

Logistic regression and gradient boosting on raw columns, on features, and on both, over ten random
splits of the rows. The encoder sees the training rows without their labels; a few of them have
labels for the classifiers. Its settings are the library's defaults, which ``--search`` compared on
other data sets. Both go on with what is missing when they are interrupted.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks import cells
from benchmarks.cells import Cell
from benchmarks.machine import describe
from mixnoise.datasets import load_adult_table, load_keel
from mixnoise.sklearn import DACLEncoder

SPLITS = 10
COLUMNS = ("raw", "features", "both")
CLASSIFIERS = ("logistic regression", "gradient boosting")
_TEST_SHARE = 0.2
_FOLDS = 5
# One setting is changed at a time.
DEVELOPMENT = ("optdigits", "penbased", "texture", "magic")
SPACE: dict[str, tuple[Any, ...]] = {
    "temperature": (0.1, 0.2, 0.5, 1.0),
    "n_layers": (1, 2, 3),
    "n_components": (64, 128, 256, 512),
    "noise": ("dacl+", "linear", "gaussian"),
    "alpha": (0.5, 0.7, 0.9),
}


@dataclass(frozen=True)
class Table:
    """Rows and labels; how many labels the classifiers get, in all or of each class."""

    load: Callable[[], tuple[Any, Any]]
    labels: tuple[int, ...]
    per_class: bool


def _keel(name: str) -> tuple[Any, Any]:
    split = load_keel(name)
    x = np.concatenate((split.x_train.numpy(), split.x_test.numpy()))
    return x, np.concatenate((split.y_train.numpy(), split.y_test.numpy()))


def _adult() -> tuple[Any, Any]:
    columns, y = load_adult_table()
    return pd.DataFrame(columns), y


TABLES = {
    "adult": Table(_adult, (10, 100, 1000), per_class=False),
    "letter": Table(partial(_keel, "letter"), (5, 50), per_class=True),
    "satimage": Table(partial(_keel, "satimage"), (5, 50), per_class=True),
}


def few(y: Any, n: int, per_class: bool, rng: np.random.Generator) -> Any:
    """Which rows have labels: so many of each class, or in all with at least two of each."""
    classes = np.unique(y)
    if per_class:
        chosen = [rng.permutation(np.flatnonzero(y == c))[:n] for c in classes]
    else:
        chosen = [rng.permutation(np.flatnonzero(y == c))[:2] for c in classes]
        left = np.setdiff1d(np.arange(len(y)), np.concatenate(chosen))
        chosen.append(rng.permutation(left)[: n - 2 * len(classes)])
    return np.concatenate(chosen)


def logistic(x: Any, y: Any, x_test: Any, y_test: Any, seed: int) -> float:
    """Its regularisation is chosen by cross-validation of the labelled rows."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, tol=1e-3))
    folds = min(_FOLDS, int(np.unique(y, return_counts=True)[1].min()))
    space = {"logisticregression__C": (0.001, 0.01, 0.1, 1.0, 10.0)}
    model = GridSearchCV(model, space, cv=StratifiedKFold(folds, shuffle=True, random_state=seed))
    return float(model.fit(x, y).score(x_test, y_test))


def boosting(
    x: Any, y: Any, x_test: Any, y_test: Any, seed: int, categorical: list[int] | None
) -> float:
    """scikit-learn's, whose leaves may be small where labels are few."""
    model = HistGradientBoostingClassifier(
        min_samples_leaf=min(20, max(1, len(y) // 20)),
        categorical_features=categorical or None,
        random_state=seed,
    )
    return float(model.fit(x, y).score(x_test, y_test))


def run(table: Table, data: tuple[Any, Any], split: int) -> dict[str, Any]:
    """Accuracies in %: number of labels, classifier, columns."""
    x, y = data
    rows = train_test_split(
        np.arange(len(y)), test_size=_TEST_SHARE, stratify=y, random_state=split
    )
    train, test = (x.iloc[r] if isinstance(x, pd.DataFrame) else x[r] for r in rows)
    encoder = DACLEncoder(random_state=split).fit(train)
    assert encoder.columns_ is not None
    matrices = [encoder.matrix(part) for part in (train, test)]
    found: dict[str, Any] = {"epochs": encoder.n_iter_}
    features = [encoder.transform(part) for part in (train, test)]
    one_hot = [encoder.columns_.one_hot(m) for m in matrices]
    codes = list(range(encoder.columns_.n_numbers, matrices[0].shape[1]))
    for n in table.labels:
        rng = np.random.default_rng([split, n])
        labelled = few(y[rows[0]], n, table.per_class, rng)
        labels = y[rows[0]][labelled], y[rows[1]]
        accuracies: dict[str, list[float]] = {c: [] for c in CLASSIFIERS}
        for raw, classifier in zip((one_hot, matrices), CLASSIFIERS, strict=True):
            both = [np.hstack(pair) for pair in zip(raw, features, strict=True)]
            for name, (inputs, held_out) in zip(COLUMNS, (raw, features, both), strict=True):
                arguments = inputs[labelled], labels[0], held_out, labels[1], split
                if classifier == CLASSIFIERS[0]:
                    score = logistic(*arguments)
                else:
                    score = boosting(*arguments, None if name == "features" else codes)
                accuracies[classifier].append(round(100 * score, 3))
        found[str(n)] = accuracies
    return found


def cell(data: str) -> Cell:
    parameters = DACLEncoder().get_params()
    left_out = ("random_state", "verbose", "run_dir", "resume")
    settings = {k: v for k, v in parameters.items() if k not in left_out}
    labels = list(TABLES[data].labels)
    return Cell("estimator", data, {"data": data, "labels": labels, "encoder": settings})


def search() -> None:
    """Each setting of ``SPACE`` with the others at their defaults, on the development sets."""
    path = cells.RESULTS / "estimator-search.json"
    tried = json.loads(path.read_text())["tried"] if path.exists() else []
    defaults = DACLEncoder().get_params()
    for name, values in SPACE.items():
        for value in values:
            setting = {k: defaults[k] for k in SPACE} | {name: value}
            if setting in [t["setting"] for t in tried]:
                continue
            accuracies = {data: _tried(data, setting) for data in DEVELOPMENT}
            mean = round(float(np.mean(list(accuracies.values()))), 3)
            tried.append({"setting": setting, "mean": mean, "accuracies": accuracies})
            space = {k: list(v) for k, v in SPACE.items()}
            cells.write(path, {"machine": describe(), "space": space, "tried": tried})
            print(setting, mean, accuracies, flush=True)


def _tried(data: str, setting: dict[str, Any]) -> list[float]:
    """Logistic regression on features, with 5 and 50 labels a class."""
    x, y = _keel(data)
    rows = train_test_split(np.arange(len(y)), test_size=_TEST_SHARE, stratify=y, random_state=0)
    encoder = DACLEncoder(**setting, max_iter=50, random_state=0).fit(x[rows[0]])
    h = [encoder.transform(x[r]) for r in rows]
    found = []
    for n in (5, 50):
        scores = []
        for seed in range(5):
            labelled = few(y[rows[0]], n, True, np.random.default_rng([seed, n]))
            scores.append(logistic(h[0][labelled], y[rows[0]][labelled], h[1], y[rows[1]], seed))
        found.append(round(100 * float(np.mean(scores)), 3))
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.estimator", description=__doc__)
    parser.add_argument("--data", choices=TABLES, nargs="+", default=list(TABLES))
    parser.add_argument("--splits", type=int, default=SPLITS)
    parser.add_argument("--search", action="store_true", help="compare settings, then stop")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", message="the representation has collapsed")
    if options.search:
        search()
        return
    for data in options.data:
        table, found = TABLES[data], cell(data)
        found.fill(range(options.splits), partial(run, table, table.load()))
        for n in table.labels:
            for classifier in CLASSIFIERS:
                means = np.mean([r[str(n)][classifier] for r in found.runs()], 0)
                columns = dict(zip(COLUMNS, np.round(means, 2).tolist(), strict=True))
                print(data, n, classifier, columns, flush=True)


if __name__ == "__main__":
    main()
