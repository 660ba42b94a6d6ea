"""The paper's table of images at a size that takes seconds: networks, rows, resuming, commands."""

import json
import math
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("kornia", reason="SimCLR's augmentations are kornia's")
pytest.importorskip("torch_geometric", reason="the paper's tables need PyTorch Geometric")

from benchmarks import cells
from benchmarks.markdown import fill_one, table
from benchmarks.paper import image_costs, image_step, images, tables
from benchmarks.paper.image_networks import ResNet, projector
from mixnoise.datasets import Split, cifar
from mixnoise.datasets.files import folders
from mixnoise.training.loop import Loop

ARCHIVE = next(folders("cifar10")) / "cifar10_jpeg75_test.npz"
SMALL = ["--data", "cifar10", "--width", "0.125", "--batch-size", "64", "--lr", "3e-3"]


# Networks.


@pytest.mark.parametrize(
    ("depth", "width", "small", "parameters"),
    [  # torchvision's, without their last layer; SimCLR says 24, 94 and 375 million
        (18, 1, False, 11_689_512 - 513_000),
        (50, 1, False, 25_557_032 - 2_049_000),
        # A first convolution of 3 x 3 instead of 7 x 7.
        (18, 1, True, 11_689_512 - 513_000 - 64 * 3 * (49 - 9)),
        (50, 2, False, 93_907_072),
        (50, 4, False, 375_378_176),
    ],
)
def test_parameters(depth, width, small, parameters):
    with torch.device("meta"):
        network = ResNet(depth, width, small)
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize(("small", "pixels", "map_size"), [(True, 32, 4), (False, 64, 2)])
def test_shapes(small, pixels, map_size):
    network = ResNet(50, 0.125, small)
    x = torch.rand(2, 3, pixels, pixels)
    assert network(x).shape == (2, network.out_features)
    assert network.out_features == 256
    features = network.layers(x)
    assert features.shape[2:] == (map_size, map_size)
    assert projector(256)(network(x)).shape == (2, 128)


def test_costs_are_those_of_the_literature():
    costs = image_costs.count(50, 1, 224)
    assert costs.operations / 2 == pytest.approx(4.09e9, rel=0.01)  # multiply-adds
    assert image_costs.count(18, 1, 32).operations / 2 == pytest.approx(0.56e9, rel=0.01)
    wide = image_costs.count(50, 2, 224)
    assert wide.kept == pytest.approx(2 * costs.kept, rel=0.01)


def test_kept_bytes_are_those_of_a_step():
    network, found = ResNet(18, 0.25, small=True), {}

    def keep(tensor):
        if tensor.shape[:1] == (4,):
            found[tensor.untyped_storage().data_ptr()] = tensor.numel() * 2
            alive.append(tensor)
        return tensor

    alive = []
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(torch.rand(4, 3, 32, 32))
    assert sum(found.values()) / 4 == pytest.approx(image_costs.count(18, 0.25, 32).kept, rel=0.01)


def test_the_document_is_up_to_date():
    document = image_costs.DOCUMENT.read_text()
    made = table(image_costs.HEAD, image_costs.rows(image_costs.PEAK, image_costs.SHARE))
    assert fill_one(document, "image-costs", made) == document


def test_the_documented_commands_are_understood():
    text = image_costs.DOCUMENT.read_text().replace("\\\n", " ")
    commands = re.findall(r"^torchrun .*-m benchmarks\.paper\.images (.*)$", text, re.M)
    assert len(commands) == 2
    for command in commands:
        given = images.make_parser().parse_args(shlex.split(command))
        assert given.epochs == 1000
        assert given.width == 4
        processes = 4096 // given.batch_size
        assert f"--nproc-per-node {min(processes, 8)} " in text


# Rows.


def some_images(n_train=192, n_test=200):
    pixels, labels = cifar.read_jpegs(ARCHIVE, 10_000)
    x = torch.tensor(pixels[: n_train + n_test].astype(np.float32) / 255)
    y = torch.tensor(labels[: n_train + n_test])
    return Split(x[:n_train], y[:n_train], x[n_train:], y[n_train:])


needs_images = pytest.mark.skipif(
    not ARCHIVE.exists(), reason="needs the archive of JPEGs in $MIXNOISE_DATA/cifar10"
)


@pytest.fixture(scope="module")
def split():
    return some_images()


@pytest.fixture
def few_images(split, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cells, "RESULTS", tmp_path)
    monkeypatch.setattr(images, "load_cifar10", lambda validation: split)
    return tmp_path


def cell_of(folder, row, results="images"):
    path = folder / "paper" / results / f"cifar10-18x0.125-{images.slug(row)}.json"
    return json.loads(path.read_text())


@needs_images
def test_every_row_learns(few_images, capsys):
    images.main([*SMALL, "--epochs", "6"])
    for row in images.ROWS:
        made = cell_of(few_images, row)
        assert made["settings"]["row"] == row
        (run,) = made["runs"]
        assert 5 < run["accuracy"] <= 100
        if row in images.NOTHING_TRAINED:
            assert "epochs" not in made["settings"]
            continue
        assert len(run["losses"]) == 6
        assert run["losses"][-1] < run["losses"][0] - 0.05
        assert run["images_per_second"] > 0
    assert capsys.readouterr().out.count("cifar10-18x0.125-") == len(images.ROWS)
    made = tables.image_sets()
    assert made.startswith(
        "| Test accuracy in % | cifar10, ResNet18 (0.125x) | CIFAR-10, the paper |"
    )
    accuracy = cell_of(few_images, images.PLUS)["runs"][0]["accuracy"]
    assert f"\n| DACL+ | {accuracy:.1f} | 83.8 | 52.7 |  |\n" in made
    nothing, statistics = (
        cell_of(few_images, row)["runs"][0]["accuracy"] for row in images.NOTHING_TRAINED
    )
    assert nothing != statistics
    assert f"\n| Batch norm alone | {statistics:.1f} |  |  |  |\n" in made
    before = cell_of(few_images, images.SIMCLR)
    images.main([*SMALL, "--epochs", "6"])  # all is there
    assert cell_of(few_images, images.SIMCLR) == before
    with pytest.raises(ValueError, match="was made with other settings"):
        images.main([*SMALL, "--epochs", "7", "--rows", "SimCLR"])


@needs_images
def test_an_interrupted_row_goes_on(few_images, monkeypatch):
    command = [*SMALL, "--epochs", "3", "--rows", "SimCLR+DACL"]
    images.main([*command, "--results", "whole"])
    take_step, steps = Loop.take_step, []

    def interrupted(self, *arguments):
        if len(steps) == 4:  # of 9, in the second epoch
            raise KeyboardInterrupt
        steps.append(self.step)
        take_step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "take_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            images.main([*command, "--results", "half"])
    assert not (few_images / "paper" / "half").exists()
    images.main([*command, "--results", "half"])
    (whole,), (half,) = (
        cell_of(few_images, images.BOTH, results)["runs"] for results in ("whole", "half")
    )
    assert half["losses"] == whole["losses"]
    assert half["accuracy"] == whole["accuracy"]


@needs_images
def test_compiled_and_in_bfloat16(few_images, monkeypatch):
    compiled, compile_ = [], torch.compile

    def without_a_compiler(module):
        compiled.append(compile_(module, backend="aot_eager"))
        return compiled[-1]

    monkeypatch.setattr(torch, "compile", without_a_compiler)
    rows = ["--rows", images.BOTH, "--compile", "--precision", "bf16"]
    images.main([*SMALL, "--epochs", "2", *rows])
    made = cell_of(few_images, images.BOTH)
    assert made["settings"]["precision"] == "bf16"
    assert len(compiled) == 1
    assert np.isfinite(made["runs"][0]["losses"]).all()


@needs_images
def test_simclr_and_dacl_are_added(split):
    settings = images.Settings("cifar10", width=0.125)
    x = split.x_train[:32].unflatten(1, (3, 32, 32))
    both = images.model(images.BOTH, settings, images.encoder(settings, seed=0))
    draws = [noise.sample(x, views=2, seed=i) for i, noise in enumerate(both.noises)]
    losses = []
    for row, draw in ((images.SIMCLR, draws[0]), (images.LINEAR, draws[1])):
        torch.manual_seed(0)
        one = images.model(row, settings, images.encoder(settings, seed=0))
        one.projector.load_state_dict(both.projector.state_dict())
        losses.append(one(x, draw=draw))
    torch.testing.assert_close(both(x, draw=draws), sum(losses), rtol=1e-5, atol=0)


@needs_images
def test_validation_images_are_training_images(monkeypatch, split):
    asked = []
    monkeypatch.setattr(
        images, "load_cifar10", lambda validation: asked.append(validation) or split
    )
    some, (x, y), _ = images.load(images.Settings("cifar10", images=10, validation=True), None)
    assert asked == [True]
    assert some.shape == x.shape == (10, 3, 32, 32)
    assert len(y) == 10


def test_imagenet_is_a_folder(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(10):
                image.new("RGB", (40, 30), (25 * i, 0, 0)).save(tmp_path / part / name / f"{i}.png")
    settings = images.Settings("imagenet")
    with pytest.raises(ValueError, match="imagenet needs --folder"):
        images.load(settings, None)
    train, _, test = images.load(settings, tmp_path)
    assert len(train) == 20
    assert test.dataset[0][0].shape == (3, 224, 224)
    held_out, _, test = images.load(images.Settings("imagenet", validation=True), tmp_path)
    assert (len(held_out), len(test.dataset)) == (18, 2)


def test_augmentations_for_large_images():
    transforms = images.simclr(224)
    kernel = transforms[-1].flags["kernel_size"]
    assert kernel == (23, 23)
    views = transforms(torch.rand(2, 3, 224, 224))
    assert views.shape == (2, 3, 224, 224)
    assert len(images.simclr(32)) == len(transforms) - 1


def test_time_of_a_step(tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "RESULTS", tmp_path)
    image_step.main(["--width", "0.125", "--batch-size", "8", "--rounds", "2"])
    image_step.main(["--width", "0.125", "--batch-size", "8", "--rounds", "1"])
    found = json.loads((tmp_path / "image-step-cpu.json").read_text())
    assert [entry["settings"]["rounds"] for entry in found["entries"]] == [2, 1]
    for entry in found["entries"]:
        assert {"step", "encoder", "augmenting", "projector and loss"} < entry["seconds"].keys()
        assert entry["outside_encoder"] < 1
        assert math.isclose(entry["images_per_second"], 8 / entry["seconds"]["step"])


# Two processes.


def two_processes(folder):
    cells.RESULTS = Path(folder)
    images.load_cifar10 = lambda validation: some_images(128, 50)
    runs = str(Path(folder) / "runs")
    images.main(
        [*SMALL, "--epochs", "2", "--rows", *images.NOTHING_TRAINED, "SimCLR+DACL", "--runs", runs]
    )


@needs_images
def test_two_processes(tmp_path):
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__]
    subprocess.run(
        [sys.executable, *command, str(tmp_path)],
        check=True,
        cwd=Path(__file__).parent,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONPATH": str(Path(__file__).parent.parent),
        },
        timeout=240,
    )
    made = cell_of(tmp_path, images.BOTH)
    assert made["settings"]["processes"] == 2
    assert len(made["runs"]) == 1
    assert len(made["runs"][0]["losses"]) == 2
    assert all(len(cell_of(tmp_path, row)["runs"]) == 1 for row in images.NOTHING_TRAINED)


if __name__ == "__main__":
    two_processes(sys.argv[1])
