"""The command line, as it is called by its own script."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import mixnoise
from mixnoise import Noise, register_noise, registry
from mixnoise.cli import app

BUILT_IN = ["augment", "binary", "dacl+", "gaussian", "geometric", "hidden", "linear"]


@pytest.fixture(autouse=True)
def own_names(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.setenv("MIXNOISE_DISABLE_PLUGINS", "1")


def run(*arguments: str):
    return CliRunner().invoke(app, arguments)


def test_the_installed_script():
    script = Path(sys.executable).with_name("mixnoise")
    found = subprocess.run([script, "noises"], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.split("\n")[0].split() == [
        "name", "distribution", "version", "state", "description",
    ]  # fmt: skip


def test_noises():
    found = run("noises")
    assert found.exit_code == 0
    rows = [line.split() for line in found.stdout.splitlines()[1:]]
    assert ["linear", "mixnoise", mixnoise.__version__, "built", "in", "x+", "="] in [
        row[:7] for row in rows
    ]


def test_noises_as_json():
    register_noise("mine")(lambda: None)
    entries = json.loads(run("noises", "--json").stdout)
    assert [entry["name"] for entry in entries] == sorted([*BUILT_IN, "mine"])
    by_name = {entry["name"]: entry for entry in entries}
    assert by_name["linear"] == {
        "name": "linear",
        "distribution": "mixnoise",
        "version": mixnoise.__version__,
        "state": "built in",
        "description": "x+ = c x + (1-c) x_j, with one coefficient per row and view.",
    }
    assert by_name["mine"]["state"] == "registered"


def test_check():
    found = run("check", "linear", "alpha=0.5", "granularity=batch")
    assert found.exit_code == 0, found.output
    assert "alpha=0.5" in found.stdout
    assert "granularity='batch'" in found.stdout
    assert "passed" in found.stdout


def test_check_as_json():
    report = json.loads(run("check", "gaussian", "--json").stdout)
    assert report["passed"]
    assert report["executed"] == len(report["results"]) - report["skipped"]
    assert report["executed"] > 20
    assert {"name", "description", "status", "message"} == set(report["results"][0])


def test_check_of_a_noise_that_fails():
    @register_noise("in-place")
    class InPlace(Noise):
        def sample(self, x, *, views=1, generator=None, seed=None):
            return views

        def apply(self, x, draw):
            return x.add_(1).expand(draw, *x.shape)

    found = run("check", "in-place")
    assert found.exit_code == 1
    assert "FAILED" in found.stdout
    assert not json.loads(run("check", "in-place", "--json").stdout)["passed"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["liner"], "unknown noise 'liner'; did you mean 'linear'?"),
        (["linear", "alpha=2"], "alpha must be in [0, 1], got 2"),
        (["linear", "alpha"], "arguments must look like KEY=VALUE, got 'alpha'"),
        (["linear", "beta=0.5"], "unexpected keyword argument 'beta'"),
    ],
)
def test_check_of_what_cannot_be_built(arguments, message):
    found = run("check", *arguments)
    assert found.exit_code == 2
    assert message in found.stderr
    assert found.stdout == ""


@pytest.mark.parametrize("error", [KeyError, RuntimeError, ZeroDivisionError])
def test_check_of_a_noise_whose_constructor_fails(error):
    @register_noise(f"fails-with-{error.__name__}")
    def fail():
        raise error("k")

    found = run("check", f"fails-with-{error.__name__}")
    assert found.exit_code == 2
    assert f"cannot be built: {error.__name__}('k')" in found.stderr


def test_help_names_the_commands():
    found = run("--help")
    assert found.exit_code == 0
    assert "noises" in found.stdout
    assert "check" in found.stdout
    assert run("check").exit_code == 2  # NAME is missing


def test_without_typer():
    code = "import sys; sys.modules['typer'] = None; import mixnoise.cli"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert found.returncode == 1
    assert "pip install 'mixnoise[cli]'" in found.stderr
