"""The benchmarks of DACLEncoder, at a size that takes seconds."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from benchmarks import cells, estimator, large_tables, tables
from mixnoise.datasets import load_digits


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "RESULTS", tmp_path)
    return tmp_path


@pytest.mark.parametrize(("n", "per_class"), [(3, True), (10, False)])
def test_few_labels(n, per_class):
    y = np.repeat([0, 1, 2], (100, 10, 5))
    chosen = estimator.few(y, n, per_class, np.random.default_rng(0))
    assert len(set(chosen)) == len(chosen) == (9 if per_class else 10)
    counts = np.bincount(y[chosen])
    assert counts.tolist() == [3, 3, 3] if per_class else counts.min() >= 2
    assert not np.array_equal(chosen, estimator.few(y, n, per_class, np.random.default_rng(1)))


def mixed():
    """Digits with a category, so that raw columns are one-hot for the one, codes for the other."""
    split = load_digits()
    x, y = split.x_train[:300].numpy(), split.y_train[:300].numpy()
    frame = pd.DataFrame(x, columns=[f"pixel {i}" for i in range(64)])
    return frame.assign(kind=np.where(y % 2, "odd", "even")), y


def test_a_run_and_its_table(results, monkeypatch):
    table = replace(estimator.TABLES["adult"], load=mixed, labels=(30, 60))
    monkeypatch.setattr(estimator, "TABLES", {"adult": table})
    estimator.main(["--data", "adult", "--splits", "2"])
    found = json.loads((results / "estimator" / "adult.json").read_text())
    assert found["settings"]["encoder"]["temperature"] == 0.5
    for run in found["runs"]:
        for n in ("30", "60"):
            for classifier in estimator.CLASSIFIERS:
                assert all(20 < accuracy <= 100 for accuracy in run[n][classifier])
    text = tables.estimator(found)
    for line in ("| 30, logistic regression |", "| 60, gradient boosting |", "over 2 splits"):
        assert line in text


def test_memory_is_that_of_the_command(results, monkeypatch):
    monkeypatch.setattr(large_tables, "RESULTS", results)
    monkeypatch.setattr(large_tables, "SMALL", (300, 4))
    monkeypatch.setattr(large_tables, "SIZES", ((400, 4),))
    large_tables.main()
    found = json.loads((results / "large-tables.json").read_text())
    (case,) = found["cases"]
    assert case["data_bytes"] == 4 * 400 * 4
    assert case["peak_bytes"] > 100 * 2**20
    assert found["small_bytes"] > 100 * 2**20
    assert 0 < case["training_seconds"] < case["seconds"]
    assert "| 400 x 4 |" in tables.large_tables(found)
