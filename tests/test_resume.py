"""Runs that are killed anywhere, stopped by SIGTERM or left by their data, and resumed."""

import functools
import json
import os
import random
import re
import shutil
import signal
import time

import numpy as np
import pytest
import torch
from children import CHECKPOINT_STEPS, Noisy, X, make_model
from run_records import losses, same, segments, wait_for_step, weights
from torch import nn

from mixnoise import DACL, get_noise, pretrain
from mixnoise.training.checkpoints import Checkpoints, damage
from mixnoise.training.loop import Loop

KILLS = 7  # of each kind of data
# Things done to files while one checkpoint is written, about.
EVENTS = 165


@pytest.fixture(scope="module")
def whole_run(forked, tmp_path_factory):
    """The folder of a run that nothing happened to, for a kind of data."""

    @functools.cache
    def run(data):
        folder = tmp_path_factory.mktemp(data)
        assert forked.run("train", folder / "output", folder=str(folder), data=data) == (0, "")
        return folder

    return run


@pytest.mark.parametrize("data", ["rows", "dataset", "loader"])
def test_killed_anywhere(data, forked, whole_run, tmp_path):
    """From outside at any moment, and from inside between any two things done to files."""
    chance = random.Random(f"{data} 1")
    whole = whole_run(data)
    n_kills, redone = 0, []
    for chain in range(KILLS):
        folder = tmp_path / str(chain)
        folder.mkdir()
        status, n_started = None, 0
        while status != 0:
            inside = chance.random() < 0.5 and n_kills < KILLS
            kill_at = chance.randrange(1, 3 * EVENTS) if inside else None
            output = folder / "output"
            outside = not inside and n_kills < KILLS
            arguments = {"kill_at": kill_at, "hold_after": 60 if outside else None}
            pid = forked.start("train", output, folder=str(folder), data=data, **arguments)
            if outside:
                wait_for_step(folder, n_started)
                time.sleep(chance.uniform(0, 0.15))
                os.kill(pid, signal.SIGKILL)  # one that has ended, but is not waited for, is there
            status = forked.wait(pid)
            assert status in (0, -signal.SIGKILL), output.read_text()
            n_kills += status != 0
            n_started += 1
        taken = segments(folder)
        for i, steps in enumerate(taken):
            before = max((s for part in taken[:i] for s in part), default=-1) + 1
            if steps:
                assert steps == list(range(steps[0], steps[0] + len(steps)))
                redone.append(before - steps[0])
        assert output.read_text() == ""  # and no warning in any of them
        assert same(weights(whole), weights(folder))
        assert losses(folder) == losses(whole)
        assert not list((folder / "run" / "checkpoints").glob("*.part"))
        if n_kills >= KILLS:
            break
    assert n_kills >= KILLS
    assert min(redone) >= 0
    assert 0 < max(redone) <= CHECKPOINT_STEPS


def test_killed_while_the_third_checkpoint_is_written(forked, tmp_path):
    """Whatever it was doing to files, the newest that has its name is whole."""
    two = tmp_path / "two"
    two.mkdir()
    arguments = {"folder": str(two), "kill_at": 5 * EVENTS // 2}
    assert forked.run("train", two / "output", **arguments) == (-signal.SIGKILL, "")
    newest, unfinished = [], 0
    for kill_at in (*range(1, EVENTS - 40, 25), *range(EVENTS - 40, EVENTS + 12, 4)):
        folder = tmp_path / str(kill_at)
        shutil.copytree(two, folder)
        arguments = {"folder": str(folder), "kill_at": kill_at}
        assert forked.run("train", folder / "output", **arguments) == (-signal.SIGKILL, "")
        checkpoints = Checkpoints(folder / "run" / "checkpoints")
        checkpoint, damaged = checkpoints.to_resume()
        assert damaged == []
        newest.append(checkpoint.name)
        unfinished += len(list(checkpoints.path.glob("*.part")))
    assert set(newest) == {"step-000000008", "step-000000012"}
    assert newest == sorted(newest)
    assert 5 < unfinished < len(newest)


class Stopped(Exception):
    pass


@pytest.fixture
def stop(monkeypatch):
    """Raises before a step."""

    def stop_at(number):
        take_step = Loop.take_step

        def step(loop, *arguments):
            if loop.step == number:
                raise Stopped
            take_step(loop, *arguments)

        monkeypatch.setattr(Loop, "take_step", step)

    return stop_at


@pytest.mark.parametrize("step", [3, 5, 6, 9, 10, 11])
def test_the_history_of_a_half_epoch_goes_on(step, stop, monkeypatch, tmp_path):
    """Also where the epoch's end came between the last step and the checkpoint after it."""
    settings = {"epochs": 3, "batch_size": 18, "progress": False, "trackers": ()}
    expected = pretrain(make_model(), X, **settings)
    settings |= {"run_dir": tmp_path, "checkpoint_steps": 3, "checkpoint_every": 99}
    with monkeypatch.context():
        stop(step)
        with pytest.raises(Stopped):
            pretrain(make_model(), X, **settings)
    monkeypatch.undo()
    found = pretrain(make_model(), X, resume=True, **settings)
    keys = ("epoch", "step", "loss", "lr", "rankme")
    assert [[row.get(k) for k in keys] for row in found.history] == [
        [row.get(k) for k in keys] for row in expected.history
    ]


def test_a_collapse_is_not_warned_of_again(tmp_path):
    model = make_model()
    settings = {"epochs": 12, "batch_size": 18, "lr": 1e-9, "run_dir": tmp_path, "trackers": ()}
    nn.init.zeros_(model.encoder[0].weight)
    nn.init.zeros_(model.encoder[1].weight)
    with pytest.warns(RuntimeWarning, match="has collapsed"):
        pretrain(model, X, **settings)
    for extra in (tmp_path / "checkpoints").glob("step-000000060"):
        shutil.rmtree(extra)
    pretrain(model, X, resume=True, **settings)


def test_another_machine_is_warned_of(tmp_path):
    settings = {"epochs": 1, "batch_size": 18, "run_dir": tmp_path, "trackers": ()}
    pretrain(make_model(), X, **settings)
    config = json.loads((tmp_path / "config.json").read_text())
    former = {"torch": "1.0", "threads": 999, "processor": "i386"}
    (tmp_path / "config.json").write_text(json.dumps(config | former))
    now = re.escape(torch.__version__), torch.get_num_threads(), re.escape(config["processor"])
    message = "the run began with torch 1.0, now {}; threads 999, now {}; processor i386, now {}: "
    with pytest.warns(RuntimeWarning, match=message.format(*now)) as w:
        pretrain(make_model(), X, resume=True, **settings)
    assert w[0].filename == __file__
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"holds checkpoints but no config\.json"):
        pretrain(make_model(), X, resume=True, **settings)


def linear_model(temperature=0.5):
    torch.manual_seed(0)
    return DACL(nn.Linear(6, 8), nn.Linear(8, 4), get_noise("linear"), temperature)


SHORT = {"epochs": 2, "batch_size": 18, "trackers": (), "progress": False}


@pytest.mark.parametrize(
    ("then", "now", "message"),
    [
        (0.5, 0.05, r"its temperature is 0\.5, this one's 0\.05"),
        (0.5, torch.tensor(0.5), r"its temperature is 0\.5, this one's a tensor"),
        (nn.Parameter(torch.tensor(0.5)), 0.5, r"its temperature is a tensor, this one's 0\.5"),
    ],
)
def test_another_temperature_is_another_run(then, now, message, tmp_path):
    pretrain(linear_model(then), X, run_dir=tmp_path, **SHORT)
    with pytest.raises(ValueError, match=f"holds another run: {message}"):
        pretrain(linear_model(now), X, run_dir=tmp_path, resume=True, **SHORT)
    pretrain(linear_model(then), X, run_dir=tmp_path, resume=True, **SHORT)


@pytest.mark.parametrize("resume", [False, True])
def test_of_two_runs_that_begin_at_once_one_has_the_folder(resume, monkeypatch, tmp_path):
    looked = Checkpoints.remove_unfinished

    def meet(checkpoints):
        """Another run begins after this one has looked into the folder."""
        monkeypatch.setattr(Checkpoints, "remove_unfinished", looked)
        pretrain(linear_model(0.1), X, run_dir=tmp_path, **SHORT)

    monkeypatch.setattr(Checkpoints, "remove_unfinished", meet)
    with pytest.raises(ValueError, match=r"already holds a run: go on with resume=True, or name"):
        pretrain(linear_model(0.5), X, run_dir=tmp_path, resume=resume, **SHORT)
    assert json.loads((tmp_path / "config.json").read_text())["temperature"] == 0.1
    assert not list(tmp_path.glob("part-*"))


def test_other_numbers_of_rows_are_another_run(tmp_path):
    """Though they make as many steps."""
    pretrain(linear_model(), X, run_dir=tmp_path, **SHORT)
    with pytest.raises(ValueError, match="holds another run: its rows is 90, this one's 89"):
        pretrain(linear_model(), X[:89], run_dir=tmp_path, resume=True, **SHORT)


def test_when_patience_looks_is_part_of_the_run(tmp_path):
    settings = {**SHORT, "validation": X[:20], "patience": 9, "resume": True}
    pretrain(linear_model(), X, run_dir=tmp_path / "a", evaluate_every=1, **settings)
    message = r"its arguments is {'evaluate_every': 1}, this one's {'evaluate_every': 2}"
    with pytest.raises(ValueError, match=f"holds another run: {message}"):
        pretrain(linear_model(), X, run_dir=tmp_path / "a", evaluate_every=2, **settings)
    settings["patience"] = None  # and then nothing depends on it
    pretrain(linear_model(), X, run_dir=tmp_path / "b", evaluate_every=1, **settings)
    pretrain(linear_model(), X, run_dir=tmp_path / "b", evaluate_every=2, **settings)


@pytest.mark.parametrize(
    ("other", "what"), [(X[:19], r"'rows': 20, 'sha256'"), (X[1:21], r"'sha256'")]
)
def test_other_validation_rows_are_another_run(other, what, tmp_path):
    """Where they decide when it stops."""
    settings = {**SHORT, "run_dir": tmp_path / "a", "resume": True}
    pretrain(linear_model(), X, validation=X[:20], patience=9, **settings)
    with pytest.raises(ValueError, match=f"holds another run: its validation is {{{what}"):
        pretrain(linear_model(), X, validation=other, patience=9, **settings)
    pretrain(linear_model(), X, validation=X[:20].clone(), patience=9, **settings)
    settings["run_dir"] = tmp_path / "b"
    pretrain(linear_model(), X, validation=X[:20], **settings)
    pretrain(linear_model(), X, validation=other, **settings)


def test_a_folder_of_an_older_version_goes_on(tmp_path):
    """Its config.json says less, and nothing is known of the rest."""
    settings = {**SHORT, "validation": X[:20], "patience": 9, "run_dir": tmp_path}
    pretrain(linear_model(), X, **settings)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["temperature"], config["rows"], config["arguments"]["evaluate_every"]
    del config["validation"], config["processor"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    pretrain(linear_model(), X, resume=True, **settings)
    with pytest.raises(
        ValueError, match=r"arguments is {'patience': 9}, this one's {'patience': 8}"
    ):
        pretrain(linear_model(), X, resume=True, **{**settings, "patience": 8})


def augmentation(kind, p=0.9):
    """A transform at another address each time, as in another process."""

    def flip(x, p):
        return torch.where(torch.rand(len(x), 1) < p, x.flip(1), x)

    class Flip:
        def __call__(self, x):
            return flip(x, p)

    class Wraps(nn.Module):
        """Its text has that of what is in it."""

        def forward(self, x):
            return flip(x, p)

        def extra_repr(self):
            return f"p={p}, {flip}"

    kinds = {
        "partial": functools.partial(flip, p=p),
        "callable object": Flip(),
        "partial of an object": functools.partial(Flip().__call__),
        "module": Wraps(),
    }
    return DACL(
        nn.Linear(6, 8), nn.Linear(8, 4), get_noise("augment", transform=kinds[kind])
    ), kinds


@pytest.mark.parametrize("kind", ["partial", "callable object", "partial of an object", "module"])
def test_addresses_are_not_part_of_the_run(kind, tmp_path):
    first, kept = augmentation(kind)
    pretrain(first, X, run_dir=tmp_path, **SHORT)
    assert "0x" not in json.dumps(json.loads((tmp_path / "config.json").read_text())["noise"])
    again, _ = augmentation(kind)
    pretrain(again, X, run_dir=tmp_path, resume=True, **SHORT)
    assert kept  # or the second one may get its address
    if kind in ("partial", "module"):
        other, _ = augmentation(kind, p=0.1)
        with pytest.raises(ValueError, match=r"holds another run: its noise is .*0\.9.*0\.1"):
            pretrain(other, X, run_dir=tmp_path, resume=True, **SHORT)


def test_numbers_of_numpy_are_numbers_in_the_config(tmp_path):
    pretrain(linear_model(np.float32(0.5)), X, lr=np.float32(0.25), run_dir=tmp_path, **SHORT)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["temperature"], config["arguments"]["lr"]) == (0.5, 0.25)


def signalled(forked, folder, steps, group=False, signum=signal.SIGTERM, **arguments):
    """Exit status and output of a run that got a signal after some steps."""
    output = folder / "output"
    pid = forked.start("train", output, folder=str(folder), **arguments)
    wait_for_step(folder, 0, steps)
    (os.killpg if group else os.kill)(pid, signum)
    return forked.wait(pid), output.read_text()


@pytest.mark.parametrize("workers", [0, 1], ids=["process", "its workers, too"])
def test_sigterm(workers, forked, whole_run, tmp_path):
    whole, folder = whole_run("dataset"), tmp_path
    arguments = {"data": "dataset", "num_workers": workers}
    status, text = signalled(forked, folder, 6, group=workers > 0, hold_after=50, **arguments)
    assert status == -signal.SIGTERM
    step = segments(folder)[-1][-1] + 1
    path = folder / "run" / "checkpoints" / f"step-{step:09d}"
    assert text == (
        f"SIGTERM: stopped after {step} of 100 steps; the newest good checkpoint is '{path}', "
        "resume=True goes on\n"
    )
    assert damage(path) is None
    arguments |= {"folder": str(folder)}
    assert forked.run("train", folder / "output", **arguments) == (0, text)
    assert same(weights(whole), weights(folder))
    assert losses(folder) == losses(whole)
    assert segments(folder)[1][0] == step  # nothing is done twice


@pytest.mark.parametrize("workers", [0, 1], ids=["process", "its workers, too"])
def test_ctrl_c(workers, forked, whole_run, tmp_path):
    """As SIGTERM, and then KeyboardInterrupt."""
    whole, folder = whole_run("dataset"), tmp_path
    arguments = {"data": "dataset", "num_workers": workers}
    signum = {"group": workers > 0, "signum": signal.SIGINT}
    status, text = signalled(forked, folder, 6, hold_after=50, **signum, **arguments)
    assert status == 1
    step = segments(folder)[-1][-1] + 1
    assert text.startswith(f"Ctrl-C: stopped after {step} of 100 steps; the newest good checkpoint")
    assert text.rstrip().endswith("KeyboardInterrupt")
    assert damage(folder / "run" / "checkpoints" / f"step-{step:09d}") is None
    assert forked.run("train", folder / "output", folder=str(folder), **arguments)[0] == 0
    assert same(weights(whole), weights(folder))
    assert segments(folder)[1][0] == step  # nothing is done twice


@pytest.fixture
def keyboard_interrupts():
    """Ctrl-C is ignored by what a shell runs in its background."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@pytest.mark.usefixtures("keyboard_interrupts")
def test_the_second_ctrl_c_does_not_wait(tmp_path):
    steps = []

    class Pressed(type(make_model().noise)):
        def sample(self, *args, **kwargs):
            steps.append(None)
            for _ in range(2):
                signal.raise_signal(signal.SIGINT)
            return super().sample(*args, **kwargs)

    model = make_model()
    model.noise.__class__ = Pressed
    with pytest.raises(KeyboardInterrupt):
        pretrain(model, Noisy(), epochs=1, batch_size=45, run_dir=tmp_path, trackers=())
    assert len(steps) == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_sigterm_with_a_handler_of_the_callers_own(forked, tmp_path):
    """It is called after the checkpoint; if it returns, pretrain does not return half a run."""
    status, text = signalled(forked, tmp_path, 6, hold_after=50, handler=True)
    assert status == 128 + signal.SIGTERM
    assert re.fullmatch(r"SIGTERM: stopped after \d+ of 100 steps; .*\nhandled\n", text)


def test_sigterm_is_left_alone(tmp_path):
    """Where it is ignored, where nothing could be saved, and in the end."""
    handlers = []

    class Asked(type(make_model().noise)):
        def sample(self, *args, **kwargs):
            handlers.append(signal.getsignal(signal.SIGTERM))
            return super().sample(*args, **kwargs)

    model = make_model()
    model.noise.__class__ = Asked
    own = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        pretrain(model, X, epochs=1, batch_size=45, run_dir=tmp_path / "a", trackers=())
        assert handlers == [signal.SIG_IGN] * 4  # a look at the data, two steps, an evaluation
        signal.signal(signal.SIGTERM, own)
        pretrain(model, X, epochs=1, batch_size=45)
        assert handlers[4:] == [own] * 4
        pretrain(model, X, epochs=1, batch_size=45, run_dir=tmp_path / "b", trackers=())
        assert own not in handlers[8:]
        assert signal.getsignal(signal.SIGTERM) == own
    finally:
        signal.signal(signal.SIGTERM, own)
