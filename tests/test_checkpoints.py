"""Checkpoints that are damaged, of another model, or evil."""

import json
import os
import pickle
import re
import shutil

import pytest
import torch
from children import X, make_model
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_model
from torch import nn

from mixnoise import DACL, get_noise, pretrain
from mixnoise.training.checkpoints import Checkpoints, damage

FILES = ["model.safetensors", "trainer.pt", "checksums.json"]
ARGUMENTS = {"epochs": 3, "batch_size": 18, "trackers": (), "progress": False}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run, and its weights."""
    model, folder = make_model(), tmp_path_factory.mktemp("finished")
    pretrain(model, X, run_dir=folder / "run", **ARGUMENTS)
    return folder / "run", model.state_dict()


@pytest.fixture
def run(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    return tmp_path / "run"


def newest(run):
    return run / "checkpoints" / "step-000000015"


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def flip(file, bit):
    content = bytearray(file.read_bytes())
    content[bit // 8 % len(content)] ^= 1 << bit % 8
    file.write_bytes(content)


def json_or_none(content):
    try:
        return json.loads(content)
    except ValueError:
        return None


@pytest.mark.parametrize("name", FILES)
@given(place=st.floats(0, 1, exclude_max=True), cut=st.booleans())
@settings(max_examples=60)
def test_every_damage_is_seen(name, place, cut, finished):
    checkpoint = newest(finished[0])
    file = checkpoint / name
    content = file.read_bytes()
    try:
        if cut:
            os.truncate(file, int(place * len(content)))
        else:
            flip(file, int(place * len(content) * 8))
        if name == "checksums.json" and json_or_none(file.read_bytes()) == json.loads(content):
            assert damage(checkpoint) is None  # nothing but white space is another
        else:
            assert name in damage(checkpoint)
    finally:
        file.write_bytes(content)
    assert damage(checkpoint) is None


@pytest.mark.parametrize("how", ["cut", "flip", "missing"])
@pytest.mark.parametrize("name", FILES)
def test_the_one_before_is_taken(name, how, run, finished):
    file = newest(run) / name
    if how == "cut":
        os.truncate(file, file.stat().st_size // 2)
    elif how == "flip":
        flip(file, 8 * (file.stat().st_size // 2))
    else:
        file.unlink()
    model = make_model()
    message = (
        rf"{re.escape(str(newest(run)))}' is damaged: .*{name}.*; going on from the one before"
    )
    with pytest.warns(RuntimeWarning, match=message) as caught:
        found = pretrain(model, X, run_dir=run, resume=True, **ARGUMENTS)
    assert [w.filename for w in caught] == [__file__]
    assert same(model.state_dict(), finished[1])
    assert [row["step"] for row in found.history] == [5, 10, 15]
    assert damage(newest(run)) is None  # written again


def test_nothing_whole_is_left(run):
    for checkpoint in (run / "checkpoints").iterdir():
        flip(checkpoint / "trainer.pt", 800)
    model = make_model()
    message = (
        r"no checkpoint can be loaded: .*15' is damaged: .*; checkpoint .*10' is damaged: .* "
        r"SHA-256 of trainer\.pt .*start again in another folder"
    )
    with pytest.raises(ValueError, match=message):
        pretrain(model, X, run_dir=run, resume=True, **ARGUMENTS)


def test_unfinished_ones_do_not_disturb(run, finished):
    shutil.copytree(newest(run), newest(run).with_suffix(".part"))
    shutil.rmtree(newest(run))
    (run / "part-0123abcd-metrics.csv").write_text("epo")
    model = make_model()
    pretrain(model, X, run_dir=run, resume=True, **ARGUMENTS)
    assert same(model.state_dict(), finished[1])
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == [
        "step-000000010",
        "step-000000015",
    ]


def test_a_whole_one_is_not_written_again(run, finished):
    checkpoints = Checkpoints(run / "checkpoints")
    before = {name: (newest(run) / name).read_bytes() for name in FILES}
    checkpoints.save(15, nn.Linear(1, 1), {})
    assert before == {name: (newest(run) / name).read_bytes() for name in FILES}
    flip(newest(run) / "model.safetensors", 0)
    checkpoints.save(15, nn.Linear(1, 1), {})
    assert damage(newest(run)) is None
    assert before != {name: (newest(run) / name).read_bytes() for name in FILES}


def changed(change):
    def make():
        model = make_model()
        change(model)
        return model

    return make


def tie(model):
    model.encoder[1].bias = model.encoder[1].weight


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: make_model(width=32),
            r"tensor 'encoder\.0\.weight' has shape \(24, 6\), in the model \(32, 6\)",
        ),
        (
            changed(lambda m: setattr(m, "projector", nn.Linear(24, 8, bias=False))),
            r"tensor 'projector\.bias' is not in the model",
        ),
        (
            changed(lambda m: m.encoder.append(nn.Linear(24, 24))),
            r"tensor 'encoder\.5\.weight' is not in the checkpoint",
        ),
        (
            changed(lambda m: m.encoder[0].double()),
            r"tensor 'encoder\.0\.weight' is torch\.float32, in the model torch\.float64",
        ),
        (
            changed(tie),
            r"tensors 'encoder\.1\.weight' and 'encoder\.1\.bias' are tied in the model, not in",
        ),
    ],
    ids=["shape", "additional", "missing", "dtype", "tied"],
)
def test_another_model(make, message, run):
    model = make()
    before = state_of(model)
    with pytest.raises(ValueError, match=rf"step-000000015' is of another model: {message}"):
        pretrain(model, X, run_dir=run, resume=True, **ARGUMENTS)
    assert same(before, model.state_dict())
    assert (run / "metrics.csv").read_text().count("\n") == 4


class Tied(nn.Module):
    """Two layers with the same weights."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 6)
        self.last.weight = self.first.weight

    def forward(self, x):
        return self.last(self.first(x).relu())


def test_tied_tensors(tmp_path):
    def make():
        torch.manual_seed(0)
        return DACL(Tied(), nn.Linear(6, 4), get_noise("linear"))

    whole, resumed = make(), make()
    pretrain(whole, X, run_dir=tmp_path, **ARGUMENTS)
    shutil.rmtree(newest(tmp_path))
    pretrain(resumed, X, run_dir=tmp_path, resume=True, **ARGUMENTS)
    assert same(whole.state_dict(), resumed.state_dict())
    assert resumed.encoder.first.weight is resumed.encoder.last.weight
    untied = make()
    untied.encoder.last.weight = nn.Parameter(torch.zeros(6, 6))
    with pytest.raises(
        ValueError, match=r"tensor 'encoder\.last\.weight' is not in the checkpoint"
    ):
        pretrain(untied, X, run_dir=tmp_path, resume=True, **ARGUMENTS)


def packed(recurrent):
    """As cuDNN has it: all weights are views of one flat buffer."""
    weights = list(recurrent.parameters())
    buffer = torch.empty(1 + sum(w.numel() for w in weights))  # with something that is nobody's
    start = 1
    for weight in weights:
        part = buffer[start : start + weight.numel()].view_as(weight)
        start += weight.numel()
        part.copy_(weight.detach())
        weight.data = part
    return recurrent


class Sequences(nn.Module):
    def __init__(self, layers=1):
        super().__init__()
        self.recurrent = packed(nn.GRU(6, 8, num_layers=layers, batch_first=True))

    def forward(self, x):
        return self.recurrent(x[:, None].expand(-1, 3, -1))[1][-1]


def test_views_of_one_buffer_are_not_tied(tmp_path):
    def make(layers=1):
        torch.manual_seed(0)
        return DACL(Sequences(layers), nn.Linear(8, 4), get_noise("linear"))

    whole, resumed = make(), make()
    pretrain(whole, X, run_dir=tmp_path, **ARGUMENTS)
    assert damage(newest(tmp_path)) is None
    shutil.rmtree(newest(tmp_path))
    for parameter in resumed.parameters():
        nn.init.zeros_(parameter)
    pretrain(resumed, X, run_dir=tmp_path, resume=True, **ARGUMENTS)
    assert same(whole.state_dict(), resumed.state_dict())
    message = r"tensor 'encoder\.recurrent\.weight_ih_l1' is not in the checkpoint"
    with pytest.raises(ValueError, match=message):
        pretrain(make(layers=2), X, run_dir=tmp_path, resume=True, **ARGUMENTS)


class Overlapping(nn.Module):
    """A matrix, its transpose, and its first row and column, all of one memory."""

    def __init__(self, value):
        super().__init__()
        matrix = torch.full((3, 3), float(value))
        for name, view in {
            "matrix": matrix,
            "transpose": matrix.T,
            "row": matrix[0],
            "column": matrix[:, 0],
            "same": matrix,
        }.items():
            self.register_buffer(name, view)


def test_what_is_saved_once(tmp_path):
    model, checkpoints = Overlapping(1), Checkpoints(tmp_path)
    model.matrix.copy_(torch.arange(9.0).view(3, 3))
    checkpoints.save(1, model, {})
    (checkpoint,) = checkpoints.finished()
    assert load_file(checkpoint / "model.safetensors").keys() == {
        "matrix",
        "transpose",
        "row",
        "column",
    }
    loaded = Overlapping(0)
    checkpoints.load(checkpoint, loaded)
    assert same(loaded.state_dict(), model.state_dict())


def test_files_that_save_model_wrote_are_loaded(tmp_path):
    """As earlier versions did; of tied tensors they have the one that comes first by name."""

    class Reversed(nn.Module):
        def __init__(self, value):
            super().__init__()
            self.b = nn.Parameter(torch.full((3, 2), float(value)))
            self.a = self.b

    model, checkpoints = Reversed(7), Checkpoints(tmp_path)
    checkpoints.save(1, model, {})
    (checkpoint,) = checkpoints.finished()
    save_model(model, str(checkpoint / "model.safetensors"))
    assert load_file(checkpoint / "model.safetensors").keys() == {"a"}
    loaded = Reversed(0)
    checkpoints.load(checkpoint, loaded)
    assert same(loaded.state_dict(), model.state_dict())


class Evil:
    def __reduce__(self):
        return os.mkdir, (os.environ["EVIL"],)


def test_nothing_is_unpickled(run, tmp_path, monkeypatch):
    """Even if somebody has made the checksums fit."""
    from hashlib import sha256

    monkeypatch.setenv("EVIL", str(tmp_path / "evil"))
    file, sums = newest(run) / "trainer.pt", newest(run) / "checksums.json"
    torch.save({"step": Evil()}, file)
    fitting = {**json.loads(sums.read_text()), "trainer.pt": sha256(file.read_bytes()).hexdigest()}
    sums.write_text(json.dumps(fitting))
    assert damage(newest(run)) is None
    model = make_model()
    before = state_of(model)
    with pytest.raises(pickle.UnpicklingError, match="Weights only"):
        pretrain(model, X, run_dir=run, resume=True, **ARGUMENTS)
    assert not (tmp_path / "evil").exists()
    assert same(before, model.state_dict())
