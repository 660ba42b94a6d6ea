"""Loss of rows that are not trained on, and stopping by it."""

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from mixnoise import DACL, get_noise, pretrain
from mixnoise.datasets import load_digits
from mixnoise.train import LossNotFinite
from mixnoise.training.validation import Validation, no_longer_improves

X = load_digits().x_train[:300]
SETTINGS = {"batch_size": 100, "progress": False}


def model(noise="linear", **settings):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3))
    return DACL(encoder, nn.Linear(32, 16), get_noise(noise, **settings))


def with_nan(x):
    x = x.clone()
    x[3, 2] = torch.nan
    return x


def test_it_is_the_loss_of_the_model_in_evaluation_mode_with_fixed_noise():
    net = model().eval()
    held_out = Validation(X[:120], 50, seed=3, rank=0, n_ranks=1)
    cpu = torch.device("cpu"), torch.float32
    assert [len(batch) for batch in held_out.batches()] == [50, 50]  # 20 rows are left out
    loss = held_out.loss(net, *cpu)
    assert loss == held_out.loss(net, *cpu)
    assert loss != Validation(X[:120], 50, seed=4, rank=0, n_ranks=1).loss(net, *cpu)
    noise = get_noise("linear")
    z = [net.projector(net.encoder(v)) for v in noise.views(X[:50], 2, seed=0)]
    one = net.loss(*z).item()
    assert loss.item() == pytest.approx(one, rel=0.2)  # other noise, and half of the rows
    assert not loss.requires_grad


@pytest.mark.parametrize(
    ("n_rows", "size", "sizes"),
    [
        (150, 100, [100, 50]),  # exactly half stays
        (149, 100, [100]),
        (13, 5, [5, 5, 3]),
        (12, 5, [5, 5]),
        (5, 2, [2, 2]),  # a single row has no partner
        (2, 2, [2]),
        (3, 9, [3]),
    ],
)
def test_which_last_batches_are_left_out(n_rows, size, sizes):
    held_out = Validation(X[:n_rows], size, seed=0, rank=0, n_ranks=1)
    assert [len(batch) for batch in held_out.batches()] == sizes


def test_small_sets_are_one_batch_and_uneven_ones_are_weighted():
    held_out = Validation(X[:30], 50, seed=0, rank=0, n_ranks=1)
    assert [len(batch) for batch in held_out.batches()] == [30]
    held_out = Validation(X[:80], 50, seed=0, rank=0, n_ranks=1)
    assert [len(batch) for batch in held_out.batches()] == [50, 30]
    calls = []

    class Rows(nn.Module):
        def forward(self, x, generator):
            calls.append(len(x))
            return torch.tensor(float(len(x)))

    loss = held_out.loss(Rows(), torch.device("cpu"), torch.float32)
    assert calls == [50, 30]
    assert loss.item() == pytest.approx((50 * 50 + 30 * 30) / 80)


def test_ranks_share_the_rows():
    shares = [Validation(X[:101], 100, seed=0, rank=r, n_ranks=2).x for r in range(2)]
    assert torch.equal(torch.cat(shares), X[:100])
    with pytest.raises(ValueError, match=r"two rows for each process, got shape \(3, 64\) for 2"):
        Validation(X[:3], 100, seed=0, rank=0, n_ranks=2)


@pytest.mark.parametrize(
    ("losses", "patience", "stops"),
    [
        ([], 1, False),
        ([3.0], 1, False),
        ([3.0, 2.0], 1, False),
        ([3.0, 3.0], 1, True),
        ([3.0, 2.9999], 1, True),  # too little
        ([3.0, 3.0, 2.0], 2, False),
        ([3.0, 2.0, 2.5, 1.9], 2, False),
        ([3.0, 2.0, 2.5, 2.1], 2, True),
        ([3.0, float("nan"), float("nan")], 2, True),
    ],
)
def test_when_it_stops(losses, patience, stops):
    history = [{"loss": 1.0}, *({"loss": 1.0, "validation_loss": v} for v in losses)]
    assert no_longer_improves(history, patience) == stops


def test_training_takes_the_same_steps_with_it():
    nets = [model(), model()]
    plain = pretrain(nets[0], X[:200], epochs=3, seed=5, **SETTINGS)
    seen = pretrain(nets[1], X[:200], epochs=3, seed=5, validation=X[200:], **SETTINGS)
    assert all(map(torch.equal, nets[0].parameters(), nets[1].parameters()))
    assert plain.losses == seen.losses
    assert "validation_loss" not in plain.history[0]
    assert all(row["validation_loss"] > 0 for row in seen.history)


def test_a_run_stops_and_stays_stopped(tmp_path):
    arguments = {
        "epochs": 40,
        "lr": 1e-9,  # nothing changes but the batch norm's statistics
        "validation": X[200:],
        "patience": 2,
        "run_dir": tmp_path / "run",
        "trackers": (),
        **SETTINGS,
    }
    run = pretrain(model(), X[:200], **arguments)
    assert 3 <= len(run.history) < 40
    assert no_longer_improves(run.history, 2)
    assert not no_longer_improves(run.history[:-1], 2)
    assert "rankme" in run.history[-1]
    # The last checkpoint is that of the end, and there is nothing left to do.
    again = pretrain(model(), X[:200], resume=True, **arguments)
    assert again.history == run.history
    with pytest.raises(ValueError, match="holds another run: its arguments is"):
        pretrain(model(), X[:200], resume=True, **{**arguments, "patience": 3})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patience": 0, "validation": X}, "patience must be an integer >= 1, got 0"),
        ({"patience": 2}, "patience needs the rows of validation to look at, got None"),
        ({"validation": X[:1]}, r"validation must have at least two rows .* got shape \(1, 64\)"),
        (
            {"validation": X[:, :5]},
            r"validation must have rows of the same shape as data, \(64,\), got \(5,\)",
        ),
        ({"validation": X.int()}, r"validation must have a dtype like data, torch.float32, got"),
        (
            {"validation": X.int(), "data": TensorDataset(X)},
            r"noise 'linear' cannot mix validation: x must have one of",
        ),
        ({"validation": TensorDataset(X)}, "validation must be a tensor or an array .* got Tensor"),
        ({"validation": (X, X)}, "validation must be a tensor or an array of rows, got tuple"),
        (
            {"validation": with_nan(X[:60])},
            "validation must have finite rows, got NaN or inf in 1 of 60",
        ),
        (
            {"validation": X - 1, "model": model("geometric", low=0.0)},
            "noise 'geometric' cannot mix validation: x must be at least low everywhere, got -1",
        ),
    ],
)
def test_bad_arguments(arguments, message, tmp_path):
    """Before anything is done."""
    arguments = {"model": model(), "data": X, "run_dir": tmp_path / "run", **arguments}
    with pytest.raises((ValueError, TypeError), match=message):
        pretrain(**arguments, trackers=())
    assert not (tmp_path / "run").exists()


def test_an_encoder_may_take_validation_rows_with_missing_values():
    class Filled(nn.Linear):
        def forward(self, x):
            return super().forward(x.nan_to_num())

    net = DACL(Filled(64, 8), nn.Linear(8, 4), get_noise("binary"))
    run = pretrain(net, X, epochs=1, validation=with_nan(X[:60]), **SETTINGS)
    assert run.history[0]["validation_loss"] > 0


@pytest.mark.parametrize("noise", ["linear", "hidden"])
def test_a_validation_loss_that_is_not_finite_ends_the_run(noise, tmp_path):
    """Only these rows overflow within the encoder; else patience would stop it without a word."""
    arguments = {"validation": torch.full((40, 64), 3e38), "patience": 2, "run_dir": tmp_path}
    message = "the validation loss became nan after step 2; there is no checkpoint yet"
    with pytest.raises(LossNotFinite, match=message) as raised:
        pretrain(model(noise), X, epochs=6, trackers=(), **arguments, **SETTINGS)
    assert (raised.value.step, raised.value.indices) == (2, None)
