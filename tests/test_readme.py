"""README's code runs, in order, as one program."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from mixnoise import registry

ROOT = Path(__file__).parent.parent


def code_blocks(name):
    return re.findall(r"^```python\n(.*?)^```", (ROOT / name).read_text(), re.M | re.S)


def test_readme_runs(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_registered", {})
    torch.manual_seed(0)
    # A module like any other, or its classes could not be pickled.
    module = ModuleType("readme")
    monkeypatch.setitem(sys.modules, "readme", module)
    namespace = vars(module)
    blocks = code_blocks("README.md")
    assert len(blocks) >= 6
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)
    assert namespace["features"].shape == (4096, 128)
    assert namespace["loss"].isfinite()
    assert namespace["report"].passed
    assert namespace["x_plus"].shape == namespace["x"].shape


@pytest.mark.parametrize("target", ["demo", "test", "bench"])
def test_readme_and_makefile_name_the_same_commands(target):
    assert f"make {target}" in (ROOT / "README.md").read_text()
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)


def test_ci_runs_readmes_test_command():
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("make test")


def test_version_is_in_the_changelog():
    import mixnoise

    assert f"## {mixnoise.__version__}" in (ROOT / "CHANGELOG.md").read_text()
