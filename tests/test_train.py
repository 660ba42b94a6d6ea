"""The trainer."""

import csv
import json

import numpy as np
import pytest
import torch
from torch import nn

from mixnoise import DACL, get_noise, linear_probe, pretrain
from mixnoise.demo import fully_connected, load_digits, projector

X = load_digits().x_train[:300]


def small_model(noise="linear", dropout=0.0):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(64, 32), nn.Dropout(dropout), nn.ReLU())
    return DACL(encoder, nn.Linear(32, 16), get_noise(noise))


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_loss_falls_and_features_get_better():
    split = load_digits(validation=True)
    torch.manual_seed(0)
    encoder = fully_connected(64, width=64, depth=4)
    train, test = (split.x_train, split.y_train), (split.x_test, split.y_test)
    before = linear_probe(encoder, train, test, labels_per_class=5).accuracy
    model = DACL(encoder, projector(64, 32), get_noise("dacl+", low=0.0))
    run = pretrain(model, split.x_train, epochs=40, batch_size=256, lr=2e-3)
    after = linear_probe(encoder, train, test, labels_per_class=5).accuracy
    assert len(run.losses) == 40
    assert run.losses[-1] < 0.9 * run.losses[0]
    assert after > before + 0.1


@pytest.mark.parametrize("noise", ["gaussian", "dacl+", "hidden"])
def test_same_seed_same_weights(noise):
    models = [small_model(noise, dropout=0.2) for _ in range(3)]
    for model, seed in zip(models, (7, 7, 8), strict=True):
        torch.rand(5)  # the state outside must not matter
        pretrain(model, X, epochs=2, batch_size=64, seed=seed)
    assert torch.equal(weights(models[0]), weights(models[1]))
    assert not torch.equal(weights(models[0]), weights(models[2]))


def test_global_random_state_and_data_are_left_alone():
    model, x = small_model(dropout=0.2), X.clone()
    state = torch.get_rng_state()
    pretrain(model, x, epochs=1)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(x, X)


def test_arrays_and_odd_last_batches():
    run = pretrain(small_model(), np.asarray(X[:65]), epochs=1, batch_size=64)  # drops one row
    assert np.isfinite(run.losses).all()
    run = pretrain(small_model(), X[:67], epochs=1, batch_size=64)
    assert np.isfinite(run.losses).all()


def test_run_folder(tmp_path):
    run = pretrain(small_model("dacl+"), X, epochs=3, batch_size=64, seed=5, run_dir=tmp_path / "a")
    config = json.loads((run.run_dir / "config.json").read_text())
    assert config["noise"] == {
        "name": "dacl+",
        "alpha": 0.7,
        "low": "auto",
        "granularity": "sample",
    }
    assert (config["epochs"], config["seed"], config["n_rows"]) == (3, 5, 300)
    with (run.run_dir / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == pytest.approx(run.losses)
    assert sorted(p.name for p in run.run_dir.iterdir()) == ["config.json", "metrics.csv"]


def test_loss_that_is_not_finite_stops_the_run():
    x = X.clone()
    x[0] = float("nan")
    with pytest.raises(FloatingPointError, match="the loss became nan at step 0"):
        pretrain(small_model(), x, epochs=3, batch_size=300)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": nn.Identity()}, TypeError, "model must be a mixnoise.DACL, got Identity"),
        ({"data": X[:1]}, ValueError, r"data must have at least two rows, got shape \(1, 64\)"),
        ({"data": torch.tensor(1.0)}, ValueError, r"data must have at least two rows.*\(\)"),
        ({"epochs": 0}, ValueError, "epochs must be an integer >= 1, got 0"),
        ({"epochs": 1.5}, ValueError, "epochs must be an integer >= 1, got 1.5"),
        ({"batch_size": 1}, ValueError, "batch_size must be an integer >= 2, got 1"),
        ({"optimizer": "sgd"}, ValueError, "optimizer must be one of adamw, got 'sgd'"),
        ({"lr": 0.0}, ValueError, "lr must be finite and > 0, got 0.0"),
        ({"lr": float("nan")}, ValueError, "lr must be finite and > 0, got nan"),
        ({"weight_decay": -1.0}, ValueError, "weight_decay must be finite and >= 0, got -1.0"),
    ],
)
def test_bad_arguments(arguments, error, message, tmp_path):
    arguments = {"model": small_model(), "data": X, "run_dir": tmp_path / "run", **arguments}
    with pytest.raises(error, match=message):
        pretrain(**arguments)
    assert not (tmp_path / "run").exists()
