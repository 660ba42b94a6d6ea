"""The trainer."""

import copy
import csv
import json
import random
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from mixnoise import DACL, get_noise, linear_probe, pretrain
from mixnoise.datasets import load_digits
from mixnoise.networks import fully_connected, projector
from mixnoise.training.accelerator import accelerator_for
from mixnoise.training.validation import Validation

X = load_digits().x_train[:300]


def small_model(noise="linear", dropout=0.0):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(64, 32), nn.Dropout(dropout), nn.ReLU())
    return DACL(encoder, nn.Linear(32, 16), get_noise(noise))


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def normalized_model():
    """With batch statistics, dropout and a learned temperature."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2))
    return DACL(encoder, nn.Linear(32, 16), get_noise("dacl+"), nn.Parameter(torch.tensor(0.5)))


def same_state(a, b):
    a, b = a.state_dict(), b.state_dict()
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)


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


def test_threads_train_one_after_another():
    """What they share would be pulled out from under each other, and spoil later runs."""
    models = [small_model(dropout=0.2) for _ in range(6)]

    def train(model):
        pretrain(model, X, epochs=1, batch_size=64, progress=False)

    train(models[0])
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(train, models[1:-1]))
    train(models[-1])
    for model in models[1:]:
        assert torch.equal(weights(model), weights(models[0]))


class Doubles(Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return X[i].double().numpy()


@pytest.mark.parametrize("data", [Doubles(), DataLoader(Doubles(), 50)], ids=["dataset", "loader"])
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_rows_of_64_bits_in_any_mode(data, mode):
    model = small_model()
    before = weights(model)
    with mode():
        pretrain(model, data, epochs=1, batch_size=50, progress=False)
    assert not torch.equal(weights(model), before)


class Announces(IterableDataset):
    """So many rows, and has others."""

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __iter__(self):
        yield from X


@pytest.mark.parametrize(
    ("n", "effect"), [(100, "10 .* gave 30, .* is 0 too early"), (500, "50 .* 30, .* stays high")]
)
def test_data_that_have_not_what_they_say(n, effect):
    # The loader warns by itself, too, where there is more.
    with pytest.warns(Warning) as warnings:  # noqa: PT030 - one of several
        pretrain(small_model(), Announces(n), epochs=2, batch_size=10, progress=False)
    ours = [str(w.message) for w in warnings if w.filename == __file__]
    assert len(ours) == 1
    assert re.search(f"have {effect}", ours[0])


def test_a_model_that_was_compiled_outside():
    with pytest.raises(TypeError, match=r"got OptimizedModule; model\.compile\(\) compiles it in"):
        pretrain(torch.compile(small_model(), backend="eager"), X, epochs=1)


def test_a_file_is_no_run_dir(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="run_dir must name a folder, got the file"):
        pretrain(small_model(), X, epochs=1, run_dir=tmp_path / "file", trackers=())


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
    pretrain(model, x, epochs=1, progress=False)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(x, X)


class Interrupted(Exception):
    pass


class InterruptedLoader:
    """Batches of X in an order of its own; stops the run in an epoch, counted from 1."""

    def __init__(self, epoch=None, batch=2):
        self.stop_at, self.batch, self.epoch = epoch, batch, 0

    def __len__(self):
        return 5

    def __iter__(self):
        self.epoch += 1
        for i, rows in enumerate(torch.randperm(300).split(60)):
            if (self.epoch, i) == (self.stop_at, self.batch):
                raise Interrupted
            yield X[rows]


@pytest.mark.parametrize("epoch", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"optimizer": "lars", "lr": 0.05, "clip_norm": 0.5, "checkpoint_every": 2},
        {"precision": "bf16"},
    ],
    ids=["adamw", "lars", "bf16"],
)
def test_resumed_run_is_bit_identical(settings, epoch, tmp_path):
    settings = {"epochs": 5, "seed": 3, "checkpoint_every": 1, **settings}
    whole, stopped = normalized_model(), normalized_model()
    expected = pretrain(whole, InterruptedLoader(), **settings)
    with pytest.raises(Interrupted):
        pretrain(stopped, InterruptedLoader(epoch), run_dir=tmp_path / "run", **settings)
    resumed = normalized_model()
    if (tmp_path / "run" / "checkpoints").exists():
        for p in resumed.parameters():
            nn.init.normal_(p)  # what it starts from must not matter
    found = pretrain(
        resumed, InterruptedLoader(), run_dir=tmp_path / "run", resume=True, **settings
    )
    assert same_state(whole, resumed)
    assert found.losses == expected.losses
    assert [row["epoch"] for row in found.history] == [1, 2, 3, 4, 5]


def test_resuming_a_tensor_run_and_a_finished_one(tmp_path):
    whole = normalized_model()
    expected = pretrain(whole, X, epochs=3, batch_size=64, run_dir=tmp_path / "run")
    again = normalized_model()
    found = pretrain(again, X, epochs=3, batch_size=64, run_dir=tmp_path / "run", resume=True)
    assert same_state(whole, again)
    assert found.history == expected.history
    with pytest.raises(ValueError, match=r"run_dir .* already holds a run: go on with resume=True"):
        pretrain(again, X, epochs=3, batch_size=64, run_dir=tmp_path / "run")
    with pytest.raises(ValueError, match=r"holds another run: its arguments is .*'seed': 0.*: 1"):
        pretrain(again, X, epochs=3, batch_size=64, run_dir=tmp_path / "run", resume=True, seed=1)
    with pytest.raises(ValueError, match="holds another run: its noise is"):
        pretrain(small_model(), X, epochs=3, batch_size=64, run_dir=tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "metrics.csv").read_text().count("\n") == 4


class NoisyDigits(Dataset):
    """Augments by every global random state that people use."""

    def __len__(self):
        return 300

    def __getitem__(self, i):
        from_numpy = np.random.rand()  # noqa: NPY002 - what many datasets draw from
        return X[i] + 0.1 * torch.rand(64) * random.random() * from_numpy, i % 10


def test_number_of_workers_does_not_matter():
    models = [normalized_model() for _ in range(4)]
    for model, num_workers in zip(models, (0, 1, 2, 0), strict=True):
        seed = 1 if model is models[3] else 0
        pretrain(model, NoisyDigits(), epochs=2, batch_size=64, num_workers=num_workers, seed=seed)
    assert same_state(models[0], models[1])
    assert same_state(models[0], models[2])
    assert not same_state(models[0], models[3])


def test_shuffling_loader_is_seeded_whatever_its_workers():
    models = [normalized_model() for _ in range(3)]
    for model, num_workers in zip(models, (0, 0, 2), strict=True):
        torch.rand(7)
        data = [(row, 0) for row in X]
        pretrain(model, DataLoader(data, 64, shuffle=True, num_workers=num_workers), epochs=2)
    assert same_state(models[0], models[1])
    assert same_state(models[0], models[2])


def test_run_folder(tmp_path):
    model = small_model("dacl+")
    labels = X.sum(1) > 20
    run = pretrain(
        model,
        X,
        epochs=3,
        batch_size=64,
        seed=5,
        run_dir=tmp_path / "a",
        evaluate_every=2,
        probe=((X[:200], labels[:200]), (X[200:], labels[200:])),
    )
    config = json.loads((run.run_dir / "config.json").read_text())
    assert config["noise"]["name"] == "dacl+"
    with (run.run_dir / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == pytest.approx(run.losses)
    assert [int(row["step"]) for row in rows] == [5, 10, 15]
    assert [bool(row["rankme"]) for row in rows] == [False, True, True]
    assert all(0.4 < float(row["knn_accuracy"]) <= 1 for row in rows[1:])
    names = {p.name for p in run.run_dir.iterdir()}
    assert names - {"plots"} == {"config.json", "metrics.csv", "checkpoints", "events"}
    kept = sorted(p.name for p in (run.run_dir / "checkpoints").iterdir())
    assert kept == ["step-000000010", "step-000000015"]
    # What the folder says is enough to do it again.
    again = small_model("dacl+")
    assert get_noise(**config["noise"]).config() == again.noise.config()
    pretrain(again, X, **config["arguments"])
    assert same_state(model, again)


def with_nan(x):
    x = x.clone()
    x[3, 5] = torch.nan
    return x


@pytest.mark.parametrize("which", ["train", "test"])
def test_a_probe_that_is_not_finite_is_refused_before_training(which, tmp_path):
    sets = {"train": X[:100], "test": X[100:150]}
    sets[which] = with_nan(sets[which])
    probe = [(x, torch.arange(len(x)) % 2) for x in sets.values()]
    message = rf"{which} of probe must have finite rows, got NaN or inf in 1 of {len(sets[which])}"
    with pytest.raises(ValueError, match=message):
        pretrain(small_model(), X, epochs=1, probe=probe, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Imputed(nn.Linear):
    def forward(self, x):
        return super().forward(x.nan_to_num())


def test_an_encoder_that_takes_missing_values_is_probed_with_them():
    model = DACL(Imputed(64, 8), nn.Linear(8, 4), get_noise("binary"))
    labelled = with_nan(X), torch.arange(300) % 2
    run = pretrain(model, with_nan(X), epochs=1, probe=(labelled, labelled))
    assert 0 < run.history[0]["knn_accuracy"] <= 1


def test_a_probe_that_fails_does_not_end_the_run(tmp_path):
    """Its rows are much larger than those of the data, and overflow within the encoder."""
    model = small_model()
    labelled = torch.full((40, 64), 3e38), torch.arange(40) % 2
    message = (
        r"the probe failed at step \d+, its accuracy is NaN in the history: encoder must return"
    )
    with pytest.warns(RuntimeWarning, match=message) as w:
        run = pretrain(
            model, X, epochs=2, batch_size=60, probe=(labelled, labelled), run_dir=tmp_path
        )
    assert {warning.filename for warning in w} == {__file__}
    assert np.isnan([row["knn_accuracy"] for row in run.history]).all()
    assert model.training
    again = pretrain(
        small_model(), X, epochs=2, batch_size=60, run_dir=tmp_path, resume=True, progress=False
    )
    assert again.losses == run.losses


def test_tensorboard_events(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = pretrain(small_model(), X, epochs=3, batch_size=64, run_dir=tmp_path)
    events = EventAccumulator(str(tmp_path / "events" / "mixnoise"))
    events.Reload()
    assert [e.value for e in events.Scalars("loss")] == pytest.approx(run.losses)
    assert [e.step for e in events.Scalars("rankme")] == [5, 10, 15]


def test_other_trackers_by_name(tmp_path):
    pretrain(small_model(), X, epochs=1, run_dir=tmp_path / "a", trackers=())
    assert not (tmp_path / "a" / "events").exists()
    with pytest.raises(ValueError, match="Unsupported logging capability: nobody"):
        pretrain(small_model(), X, epochs=1, run_dir=tmp_path / "b", trackers=["nobody"])


def test_picture_of_the_run(tmp_path):
    pytest.importorskip("matplotlib")
    pretrain(small_model(), X, epochs=2, run_dir=tmp_path)
    assert (tmp_path / "plots" / "history.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("precision", ["no", "bf16", None])
def test_precision_and_nothing_left_behind(precision):
    from accelerate.state import AcceleratorState, PartialState

    model = small_model()
    seen = []
    model.projector.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    pretrain(model, X, epochs=1, precision=precision)
    assert set(seen) == {torch.bfloat16 if precision == "bf16" else torch.float32}
    assert model.training
    assert "forward" not in vars(model)  # what Accelerate wraps around it
    assert not AcceleratorState._shared_state
    assert not PartialState._shared_state


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a GPU, which has fp16")
@pytest.mark.parametrize("by_accelerate", [False, True])
def test_a_cpu_has_no_fp16(by_accelerate, monkeypatch, tmp_path):
    from accelerate.state import AcceleratorState

    precision = "fp16"
    if by_accelerate:  # as "accelerate launch --mixed_precision fp16" does
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
        precision = None
    with pytest.raises(ValueError, match="precision must be 'bf16' or 'no' on a CPU, got 'fp16'"):
        pretrain(small_model(), X, epochs=1, precision=precision, run_dir=tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()
    assert not AcceleratorState._shared_state


def test_an_accelerator_of_the_callers_own_stays():
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    try:
        mine = Accelerator(mixed_precision="bf16")
        pretrain(small_model(), X, epochs=1)
        assert AcceleratorState._shared_state
        assert mine.mixed_precision == "bf16"
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def test_clipping():
    start = weights(small_model())
    free, clipped = small_model(), small_model()
    pretrain(free, X, epochs=1, weight_decay=0.0)
    # AdamW divides by the gradient's size, but for an epsilon of 1e-8.
    pretrain(clipped, X, epochs=1, weight_decay=0.0, clip_norm=1e-10)
    assert (weights(clipped) - start).norm() < 0.02 * (weights(free) - start).norm()


def test_collapse_is_warned_of_once():
    model = small_model()
    nn.init.zeros_(model.encoder[0].weight)
    nn.init.ones_(model.encoder[0].bias)
    message = r"has collapsed: RankMe is 1\.\d+ of at most 32 at step 50; try a lower lr"
    with pytest.warns(RuntimeWarning, match=message) as w:
        pretrain(model, X, epochs=20, batch_size=60, lr=1e-9)
    assert len(w) == 1
    assert w[0].filename == __file__  # it points at the caller's line


def test_progress_in_a_log(capsys):
    pretrain(small_model(), X, epochs=20, batch_size=64)
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert captured.out == ""
    assert len(lines) == 2  # 20 epochs take no time
    assert lines[0].startswith("epoch 1/20: loss ")
    assert lines[1].startswith("epoch 20/20: loss ")
    assert "rankme" in lines[1]
    pretrain(small_model(), X, epochs=2, batch_size=64, progress=False)
    assert capsys.readouterr().err == ""


def test_progress_on_a_terminal(capsys, monkeypatch):
    import sys

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    pretrain(small_model(), X, epochs=2, batch_size=64)
    err = capsys.readouterr().err
    assert "10/10" in err
    assert "epoch 2/2" in err


def test_rows_that_require_no_gradient_are_refused():
    model = small_model().requires_grad_(False)
    with pytest.raises(ValueError, match="model must have parameters that require a gradient"):
        pretrain(model, X, epochs=1)


def test_loss_that_is_not_finite_stops_the_run():
    x = X.clone()
    x[0] = float("nan")
    with pytest.raises(FloatingPointError, match="the loss became nan at step 0"):
        pretrain(small_model(), x, epochs=3, batch_size=300)


def test_micro_batches_take_the_same_steps(tmp_path):
    whole, parts, resumed = (small_model(dropout=0.0) for _ in range(3))
    pretrain(whole, X, epochs=2, batch_size=100)
    pretrain(parts, X, epochs=2, batch_size=100, micro_batch=64)
    torch.testing.assert_close(weights(parts), weights(whole), rtol=1e-4, atol=1e-6)
    settings = {"batch_size": 100, "micro_batch": 64, "run_dir": tmp_path / "run"}
    with pytest.raises(RuntimeError, match="interrupted"):
        pretrain(resumed, InterruptedAt(X, 4), epochs=2, checkpoint_steps=1, **settings)
    pretrain(resumed, X, epochs=2, resume=True, **settings)
    assert torch.equal(weights(resumed), weights(parts))


@pytest.mark.parametrize("noise", ["linear", "hidden"])
def test_micro_batches_are_those_of_validation_and_evaluation_too(noise):
    model, rows = small_model(noise), []
    model.encoder.register_forward_hook(lambda module, args, output: rows.append(len(output)))
    held_out, labelled = X[200:], (X[:90], torch.arange(90) % 2)
    settings = {"epochs": 1, "batch_size": 100, "validation": held_out, "probe": [labelled] * 2}
    parts = pretrain(model, X[:200], micro_batch=16, **settings)
    assert max(rows) == 16
    whole = pretrain(small_model(noise), X[:200], **settings)
    values = {k: v for k, v in whole.history[0].items() if k != "seconds"}
    assert values == pytest.approx({k: parts.history[0][k] for k in values}, rel=1e-4)


def test_integers_of_numpy_are_integers(tmp_path):
    settings = {"epochs": 2, "batch_size": 64, "seed": 7, "micro_batch": 32, "num_workers": 0}
    settings |= {"checkpoint_every": 1, "checkpoint_steps": 2, "evaluate_every": 1, "patience": 5}
    models = small_model(), small_model()
    for model, kind in zip(models, (int, np.int64), strict=True):
        arguments = {name: kind(number) for name, number in settings.items()}
        pretrain(model, X, validation=X[:50], run_dir=tmp_path, resume=kind is not int, **arguments)
    assert same_state(*models)
    arguments = json.loads((tmp_path / "config.json").read_text())["arguments"]
    assert type(arguments["seed"]) is int


class InterruptedAt(Dataset):
    """Raises when a batch of that number is loaded."""

    def __init__(self, x, number):
        self.x, self.left = x, number

    def __len__(self):
        return len(self.x)

    def __getitems__(self, rows):
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("interrupted")
        return [self.x[row] for row in rows]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": nn.Identity()}, TypeError, "model must be a mixnoise.DACL, got Identity"),
        ({"data": X[:1]}, ValueError, r"data must have at least two rows, got shape \(1, 64\)"),
        ({"data": torch.tensor(1.0)}, ValueError, r"data must have at least two rows.*\(\)"),
        ({"epochs": 0}, ValueError, "epochs must be an integer >= 1, got 0"),
        ({"epochs": 1.5}, ValueError, "epochs must be an integer >= 1, got 1.5"),
        ({"batch_size": 1}, ValueError, "batch_size must be an integer >= 2, got 1"),
        ({"micro_batch": 0}, ValueError, "micro_batch must be an integer >= 1, got 0"),
        ({"checkpoint_steps": 0}, ValueError, "checkpoint_steps must be an integer >= 1, got 0"),
        ({"optimizer": "sgd"}, ValueError, "optimizer must be one of adamw, lars, got 'sgd'"),
        ({"lr": 0.0}, ValueError, "lr must be finite and > 0, got 0.0"),
        ({"lr": float("nan")}, ValueError, "lr must be finite and > 0, got nan"),
        ({"clip_norm": 0.0}, ValueError, "clip_norm must be finite and > 0, got 0.0"),
        ({"precision": "int8"}, ValueError, "precision must be one of no, fp16, bf16, got 'int8'"),
        ({"clip_norm": "a"}, TypeError, "clip_norm must be finite and > 0, got str 'a'"),
        ({"lr": "a"}, TypeError, "lr must be finite and > 0, got str 'a'"),
        ({"weight_decay": "a"}, TypeError, "weight_decay must be finite and >= 0, got str 'a'"),
        ({"run_dir": ""}, ValueError, "run_dir must name a folder, got ''; '.' is the current one"),
        ({"run_dir": 5}, TypeError, "run_dir must be a path, got int"),
        ({"seed": 1.5}, TypeError, "seed must be an integer, got 1.5"),
        ({"seed": True}, TypeError, "seed must be an integer, got True"),
        ({"epochs": True}, ValueError, "epochs must be an integer >= 1, got True"),
        ({"seed": np.float64(1)}, TypeError, r"seed must be an integer, got np\.float64\(1\.0\)"),
        ({"seed": None}, TypeError, "seed must be an integer, got None"),
        ({"num_workers": -1}, ValueError, "num_workers must be an integer >= 0, got -1"),
        ({"checkpoint_every": 0}, ValueError, "checkpoint_every must be an integer >= 1, got 0"),
        ({"evaluate_every": 0}, ValueError, "evaluate_every must be an integer >= 1, got 0"),
        ({"resume": True, "run_dir": None}, ValueError, "resume needs the run_dir to resume from"),
        ({"trackers": "wandb"}, TypeError, "trackers must be a sequence of names, got the string"),
        ({"probe": ((X, X[:9, 0]), (X, X[:, 0]))}, ValueError, "train must have one label per row"),
        (
            {"probe": 5},
            TypeError,
            r"probe must be a pair \(train, test\) of labelled sets, got int",
        ),
        ({"probe": ((X, X[:, 0]),)}, TypeError, "probe must be a pair .*, got tuple of 1"),
        ({"trackers": ["wandb"]}, ImportError, "tracker 'wandb' needs its package: pip install"),
        ({"weight_decay": -1.0}, ValueError, "weight_decay must be finite and >= 0, got -1.0"),
    ],
)
def test_bad_arguments(arguments, error, message, tmp_path):
    arguments = {"model": small_model(), "data": X, "run_dir": tmp_path / "run", **arguments}
    with pytest.raises(error, match=message):
        pretrain(**arguments)
    assert not (tmp_path / "run").exists()


class WithExtraState(nn.Linear):
    def get_extra_state(self):
        return {"a": 1}

    def set_extra_state(self, state):
        pass


def test_a_model_that_checkpoints_cannot_hold_is_refused_before_training(tmp_path):
    model = DACL(WithExtraState(64, 8), nn.Linear(8, 4), get_noise("linear"))
    with pytest.raises(
        ValueError, match=r"'encoder\._extra_state' of the model's state is no tensor"
    ):
        pretrain(model, X, epochs=1, batch_size=64, run_dir=tmp_path / "run")
    assert len(pretrain(model, X, epochs=1, batch_size=64).losses) == 1


def batch_sampled():
    sampler = torch.utils.data.BatchSampler(torch.utils.data.RandomSampler(X), 50, False)
    return DataLoader(X, batch_sampler=sampler)


@pytest.mark.parametrize(
    ("data", "rows"),
    [(X, 64), (X[:40], 40), (DataLoader(X, 100), 100), (batch_sampled(), 50)],
    ids=["rows", "fewer", "loader", "batch sampler"],
)
def test_what_goes_by_the_rows_of_a_step(data, rows, tmp_path, monkeypatch):
    """The default rate of LARS, and the batches of validation: not by what a loader never sees."""
    sizes = []
    whole = Validation.batches

    def batches(self):
        found = list(whole(self))
        sizes.extend(map(len, found))
        return found

    monkeypatch.setattr(Validation, "batches", batches)
    settings = {"optimizer": "lars", "validation": X[:200], "trackers": (), "progress": False}
    pretrain(small_model(), data, epochs=1, batch_size=64, run_dir=tmp_path, **settings)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["arguments"]["lr"] == pytest.approx(0.3 * rows / 256)
    assert sizes[0] == rows


class OwnShares(IterableDataset):
    """Each worker has every n-th row."""

    def __len__(self):
        return 49

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        yield from X[worker.id : 49 : worker.num_workers]


@pytest.mark.filterwarnings("error:the data said")
def test_workers_that_each_end_with_a_batch_of_their_own():
    """Four batches of 49 rows, two of each worker, where all in one row would be three."""
    run = pretrain(small_model(), OwnShares(), epochs=3, batch_size=18, num_workers=2)
    assert [row["step"] for row in run.history] == [4, 8, 12]
    assert run.history[-2]["lr"] > 0


def test_frozen_parts_stay_in_evaluation_mode():
    frozen = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.Dropout()).eval()
    frozen.requires_grad_(False)
    rest = nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32))
    model = DACL(nn.Sequential(frozen, rest), nn.Linear(32, 16), get_noise("linear"))
    rest.eval()  # as before features were taken, and no reason not to train it
    before = copy.deepcopy(frozen.state_dict())
    pretrain(model, X + 5, epochs=2, batch_size=64, progress=False)
    assert not any(part.training for part in frozen.modules())
    assert all(part.training for part in rest.modules())
    assert all(torch.equal(before[name], value) for name, value in frozen.state_dict().items())
    assert rest[1].running_mean.abs().sum() > 0


def test_data_that_the_noise_cannot_mix_are_refused_before_training(tmp_path):
    settings = {"epochs": 1, "run_dir": tmp_path, "progress": False}
    with pytest.raises(TypeError, match=r"noise 'linear' cannot mix data: x must have one of"):
        pretrain(small_model(), X.long(), **settings)
    model = DACL(nn.Linear(64, 8), nn.Linear(8, 4), get_noise("geometric", low=0.0))
    with pytest.raises(ValueError, match=r"noise 'geometric' cannot mix data: x must be at least"):
        pretrain(model, X - 5, **settings)
    assert not list(tmp_path.iterdir())


def test_a_run_that_comes_to_nothing_leaves_no_events(tmp_path):
    class Integers(Dataset):
        def __len__(self):
            return 8

        def __getitem__(self, i):
            return X[i].long()

    with pytest.raises(TypeError, match="x must have one of the dtypes"):
        pretrain(small_model(), Integers(), epochs=1, run_dir=tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


def test_lazy_parameters_are_refused_until_they_are_made():
    encoder = nn.Sequential(nn.LazyLinear(16), nn.ReLU(), nn.LazyLinear(8))
    model = DACL(encoder, nn.Linear(8, 4), get_noise("linear"))
    with pytest.raises(ValueError, match="model must have no lazy parameters"):
        pretrain(model, X, epochs=1)
    model(X)
    pretrain(model, X, epochs=1, progress=False)


def test_labels_beside_hidden_noise():
    model = DACL(nn.Linear(64, 8), nn.Linear(8, 4), get_noise("hidden"))
    data = torch.utils.data.TensorDataset(X, torch.zeros(len(X)))
    with pytest.raises(TypeError) as caught:
        pretrain(model, data, epochs=1, progress=False)
    assert "the encoder gets all 2 items of a batch, labels, too" in caught.value.__notes__[0]


def test_an_evaluation_that_fails_is_the_runs_error():
    class OnlyInTraining(nn.Linear):
        def forward(self, x):
            if not self.training:
                raise ArithmeticError("not in evaluation mode")
            return super().forward(x)

    model = DACL(OnlyInTraining(64, 8), nn.Linear(8, 4), get_noise("linear"))
    with pytest.raises(ArithmeticError, match="not in evaluation mode"):
        pretrain(model, X, epochs=1, progress=False)


@pytest.mark.parametrize(
    ("device", "rank", "backend"),
    [("cuda", "0", "cuda:nccl,cpu:gloo"), ("cuda", None, None), ("mps", "0", None)],
)
def test_processes_on_gpus_have_gloo_beside_nccl(device, rank, backend, monkeypatch):
    """Or every word of one to the others would wait for the GPU."""
    given = {}

    class Stop(Exception):
        pass

    def accelerator(**settings):
        given.update(settings)
        raise Stop

    monkeypatch.setattr("accelerate.Accelerator", accelerator)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda: torch.device(device))
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    with pytest.raises(Stop), accelerator_for(None, (), None):
        pass
    handlers = given.get("kwargs_handlers", [])
    assert [handler.backend for handler in handlers] == [backend] * (backend is not None)
