"""A full disk, a loss that is not finite, data that raise."""

import re
import resource
import subprocess

import pytest
import torch
from children import X, make_model
from torch import nn
from torch.utils.data import DataLoader, Dataset

from mixnoise import DACL, get_noise, pretrain
from mixnoise.train import LossNotFinite
from mixnoise.training.checkpoints import damage
from mixnoise.training.loop import Loop

ARGUMENTS = {"epochs": 4, "batch_size": 18, "trackers": (), "progress": False}


class SmallDisk:
    """Of a megabyte."""

    def __init__(self, path):
        self.path = path
        self.ballast = path / "ballast"

    def fill(self):
        with self.ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1000))
            except OSError:
                pass

    def free(self):
        self.ballast.unlink(missing_ok=True)

    reason = r"No space left on device"


class SizeLimit:
    """No file may be larger than 5 kB: for those who may not mount."""

    def __init__(self, path):
        self.path = path
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, self.before[1]))

    def free(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)

    reason = r"File too large"


@pytest.fixture
def small_disk(tmp_path):
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("only root may mount a small disk; another test limits the size of files")
    yield SmallDisk(path)
    # Lazily, since a thread of a tracker that failed on it may still hold a file.
    subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture(params=["small_disk", "size_limit"])
def disk(request, tmp_path):
    """Something to write to that can be filled, and freed again."""
    limited = request.param == "size_limit"
    disk = SizeLimit(tmp_path) if limited else request.getfixturevalue("small_disk")
    yield disk
    disk.free()


@pytest.fixture
def before_step(monkeypatch):
    """Calls functions before steps, once."""

    def register(functions):
        take_step = Loop.take_step

        def step(loop, *arguments):
            functions.pop(loop.step, lambda: None)()
            take_step(loop, *arguments)

        monkeypatch.setattr(Loop, "take_step", step)

    return register


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def names(run):
    return sorted(p.name for p in (run / "checkpoints").iterdir())


def wide_model():
    """Whose checkpoints are larger than all else that a run writes."""
    return make_model(width=200)


def test_full_disk(disk, before_step):
    """Training goes on, and so does checkpointing once there is room again."""
    run = disk.path / "run"
    before_step({7: disk.fill, 17: disk.free})
    model, whole = wide_model(), wide_model()
    with pytest.warns(RuntimeWarning) as caught:
        pretrain(model, X, run_dir=run, **ARGUMENTS)
    disk.free()
    texts = [str(w.message) for w in caught if "checkpoint of" in str(w.message)]
    assert texts == [
        f"the checkpoint of step {step} could not be written: {disk.reason}; the newest good "
        f"checkpoint is '{run / 'checkpoints' / 'step-000000005'}'; training goes on"
        for step in (10, 15)
    ]
    assert {w.filename for w in caught} == {__file__}
    assert names(run) == ["step-000000005", "step-000000020"]
    assert damage(run / "checkpoints" / "step-000000020") is None
    assert (run / "metrics.csv").read_text().count("\n") == 5
    pretrain(whole, X, **ARGUMENTS)
    assert same(model, whole)


@pytest.mark.filterwarnings("ignore:metrics.csv could not", "ignore:the picture of the run could")
def test_full_disk_at_the_end(disk, before_step):
    run = disk.path / "run"
    before_step({17: disk.fill})
    model, whole = wide_model(), wide_model()
    message = (
        rf"the last checkpoint of step 20 could not be written: {disk.reason}; the newest good "
        r"checkpoint is '.*step-000000015'; the trained weights are in the model, save them"
    )
    with pytest.raises(OSError, match=message) as raised:
        pretrain(model, X, run_dir=run, **ARGUMENTS)
    disk.free()
    assert raised.value.errno
    assert names(run) == ["step-000000010", "step-000000015"]
    pretrain(whole, X, **ARGUMENTS)
    assert same(model, whole)
    again = wide_model()
    pretrain(again, X, run_dir=run, resume=True, **ARGUMENTS)
    assert same(again, whole)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_full_disk_for_metrics_and_events(small_disk, before_step):
    run = small_disk.path / "run"
    before_step({7: small_disk.fill, 197: small_disk.free})
    arguments = ARGUMENTS | {"epochs": 40, "trackers": ["tensorboard"]}
    with pytest.warns(RuntimeWarning) as caught:
        pretrain(make_model(), X, run_dir=run, **arguments)
    texts = {re.sub(r"step \d+", "step n", str(w.message)) for w in caught}
    reason = "[Errno 28] No space left on device"
    assert f"tracker 'tensorboard' failed at step n and is left out now: {reason}" in texts
    assert f"metrics.csv could not be written, training goes on: {reason}" in texts
    assert (run / "metrics.csv").read_text().count("\n") == 41
    assert not list(run.glob("part-*"))


class Numbered(Dataset):
    """Of some rows a value is not finite."""

    def __init__(self, bad, value):
        self.x = X.clone()
        self.x[bad, 2] = value

    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return self.x[i]


@pytest.mark.parametrize("kind", ["rows", "dataset", "loader"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_loss_that_is_not_finite(kind, value, tmp_path):
    numbered = Numbered(50, value)
    data = {"rows": numbered.x, "dataset": numbered, "loader": DataLoader(numbered, 18)}[kind]
    with pytest.raises(LossNotFinite, match=r"the loss became nan at step \d") as raised:
        pretrain(make_model(), data, run_dir=tmp_path, checkpoint_steps=1, **ARGUMENTS)
    error = raised.value
    checkpoints = sorted((tmp_path / "checkpoints").iterdir())
    assert [int(c.name[5:]) for c in checkpoints] == [error.step - 1, error.step][-error.step :]
    assert str(error).endswith(f"; the newest good checkpoint is '{checkpoints[-1]}'")
    for checkpoint in checkpoints:
        assert damage(checkpoint) is None
    if kind == "loader":
        assert (error.indices, error.step) == (None, 2)
    else:
        assert 50 in error.indices
        assert len(error.indices) == 18
        first = ", ".join(str(i) for i in error.indices[:8].tolist())
        assert f" with rows {first}, ... in the batch" in str(error)


def test_nothing_is_saved_after_a_loss_that_is_not_finite(tmp_path):
    """Though it is looked at only when a checkpoint is due."""
    with pytest.raises(LossNotFinite) as raised:
        pretrain(
            make_model(),
            Numbered(50, torch.nan).x,
            run_dir=tmp_path,
            checkpoint_steps=5,
            **ARGUMENTS,
        )
    assert raised.value.step < 5
    assert not (tmp_path / "checkpoints").exists()
    assert str(raised.value).endswith("; there is no checkpoint yet")


def test_parameters_that_are_not_finite(before_step, tmp_path):
    """The gradient overflows in the step before a checkpoint, whose loss was still finite."""
    model = make_model()

    def spoil():
        model.projector.weight.register_hook(lambda grad: grad * torch.inf)

    before_step({9: spoil})
    message = "a parameter became NaN or infinite at step 9, with rows .*step-000000005'$"
    with pytest.raises(FloatingPointError, match=message) as raised:
        pretrain(model, X, run_dir=tmp_path, **ARGUMENTS)
    assert len(raised.value.indices) == 18
    assert names(tmp_path) == ["step-000000005"]


def test_weights_in_float16_are_named_as_what_may_be_wrong():
    model = DACL(nn.Linear(6, 8), nn.Linear(8, 4), get_noise("linear")).half()
    with pytest.raises(LossNotFinite, match=r"the model is in float16, .* leave it in float32"):
        pretrain(model, X, **ARGUMENTS)


class BreaksInTheFirstEpoch(Dataset):
    def __len__(self):
        return len(X)

    def __getitems__(self, rows):
        raise LookupError("the first batch is gone")


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("data", [X[:, :5], BreaksInTheFirstEpoch()], ids=["columns", "data"])
def test_a_folder_of_a_run_that_came_to_nothing_is_free_again(data, resume, tmp_path):
    with pytest.raises((RuntimeError, LookupError), match=r"cannot be multiplied|is gone"):
        pretrain(make_model(), data, run_dir=tmp_path, resume=resume, **ARGUMENTS)
    other, expected = make_model(), make_model()
    pretrain(other, X, run_dir=tmp_path, resume=resume, **ARGUMENTS | {"batch_size": 30})
    pretrain(expected, X, **ARGUMENTS | {"batch_size": 30})
    assert same(other, expected)


def test_a_run_that_came_to_something_stays(tmp_path):
    """Though its only checkpoint has yet to be written: there are metrics of an epoch."""
    arguments = ARGUMENTS | {"checkpoint_every": 4}
    with pytest.raises(LookupError):
        pretrain(make_model(), BreaksInTheSecondEpoch(), run_dir=tmp_path, **arguments)
    assert not (tmp_path / "checkpoints").exists()
    with pytest.raises(ValueError, match="already holds a run: go on with resume=True"):
        pretrain(make_model(), X, run_dir=tmp_path, **arguments)


@pytest.mark.parametrize("content", [b"{", b"[]", b"5", b"\xff"])
def test_a_config_that_is_damaged(content, tmp_path):
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{re.escape(str(file))} is damaged"):
        pretrain(make_model(), X, run_dir=tmp_path, resume=True, **ARGUMENTS)
    assert file.read_bytes() == content


def test_a_folder_of_a_run_that_may_still_be_running(tmp_path):
    """Of another process that is in its first epoch, or was killed there."""
    seen = []

    class Beside(Dataset):
        def __len__(self):
            return len(X)

        def __getitem__(self, i):
            if not seen:
                for settings in ({}, {"resume": True, "seed": 1}):
                    with pytest.raises(ValueError, match="holds a") as raised:
                        pretrain(make_model(), X, run_dir=tmp_path, **ARGUMENTS | settings)
                    seen.append(str(raised.value))
            return X[i]

    pretrain(make_model(), Beside(), run_dir=tmp_path, **ARGUMENTS)
    hint = (
        f"; it has finished no epoch: unless it is still running, remove {tmp_path / 'config.json'}"
    )
    assert [text.endswith(hint) for text in seen] == [True, True]
    assert "already holds a run: go on with resume=True" in seen[0]
    assert "holds another run: its arguments is {'seed': 0}" in seen[1]
    assert len(names(tmp_path)) == 2


class Breaks(Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        if i == 50:
            raise LookupError("row 50 is gone")
        return X[i]


class BreaksInTheSecondEpoch:
    epoch = 0

    def __len__(self):
        return 5

    def __iter__(self):
        self.epoch += 1
        for i, rows in enumerate(X.split(18)):
            if (self.epoch, i) == (2, 3):
                raise LookupError("a shard is gone")
            yield rows


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_dataset_that_raises(num_workers):
    with pytest.raises(LookupError, match="row 50 is gone") as raised:
        pretrain(make_model(), Breaks(), num_workers=num_workers, **ARGUMENTS)
    (note,) = raised.value.__notes__
    assert note.startswith("Raised by the data at batch ")
    assert " of epoch 1, step " in note


def test_a_loader_that_raises(tmp_path):
    with pytest.raises(LookupError, match="a shard is gone") as raised:
        pretrain(
            make_model(),
            BreaksInTheSecondEpoch(),
            run_dir=tmp_path,
            checkpoint_steps=4,
            **ARGUMENTS,
        )
    (note,) = raised.value.__notes__
    assert note == (
        "Raised by the data at batch 4 of epoch 2, step 8; the newest good checkpoint is "
        f"'{tmp_path / 'checkpoints' / 'step-000000005'}'."
    )
    # That of the eighth step was due, and is written nevertheless.
    assert names(tmp_path) == ["step-000000005", "step-000000008"]


def test_a_tracker_that_fails(tmp_path, monkeypatch):
    from accelerate.tracking import TensorBoardTracker

    def fail(*arguments, **named):
        raise ConnectionError("nobody there")

    monkeypatch.setattr(TensorBoardTracker, "log", fail)
    message = "tracker 'tensorboard' failed at step 5 and is left out now: nobody there"
    with pytest.warns(RuntimeWarning, match=message) as caught:
        pretrain(make_model(), X, run_dir=tmp_path, **ARGUMENTS | {"trackers": ["tensorboard"]})
    assert len(caught) == 1
    monkeypatch.undo()
    monkeypatch.setattr(TensorBoardTracker, "finish", fail)
    message = "tracker 'tensorboard' could not be closed: nobody there"
    with pytest.warns(RuntimeWarning, match=message):
        pretrain(
            make_model(), X, run_dir=tmp_path / "b", **ARGUMENTS | {"trackers": ["tensorboard"]}
        )
