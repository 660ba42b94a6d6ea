"""The site builds without a warning, and every block of code on it runs, in order."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from mixnoise import datasets, registry
from mixnoise.cli import main
from mixnoise.datasets import load_tu_graphs

ROOT = Path(__file__).parent.parent
PAGES = sorted(path.name for path in (ROOT / "docs").glob("*.md"))
# What is run elsewhere, or needs another machine, or is no program.
NOT_RUN = {"scaling.md": "commands for several machines; what they do is in tests/test_scaling.py"}


def blocks(page):
    text = (ROOT / "docs" / page).read_text()
    return re.findall(r"^```(python|bash)\n(.*?)^```", text, re.M | re.S)


# Lightning 2.6 makes a LeafSpec of torch's pytree, which torch 2.13 deprecates.
@pytest.mark.filterwarnings(
    r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning"
)
@pytest.mark.parametrize("page", PAGES)
def test_code_runs(page, monkeypatch, tmp_path):
    if page in NOT_RUN:
        assert blocks(page)
        return
    if page == "graphs.md":
        pytest.importorskip("torch_geometric")
        try:
            load_tu_graphs("MUTAG")
        except (ValueError, OSError) as missing:  # neither at hand nor to be fetched
            pytest.skip(str(missing))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_registered", {})
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    module = ModuleType("page")  # or its classes could not be pickled
    monkeypatch.setitem(sys.modules, "page", module)
    for language, code in blocks(page):
        if code.startswith("torchrun"):  # tests/test_images.py reads them
            continue
        if language == "python":
            exec(compile(code, page, "exec"), vars(module))
            continue
        for line in code.splitlines():
            monkeypatch.setattr(sys, "argv", shlex.split(line, comments=True))
            assert sys.argv[0] == "mixnoise"
            with pytest.raises(SystemExit) as left:
                main()
            assert left.value.code == 0, line
    torch.random.set_rng_state(state)


def test_each_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    assert all(f": {page}\n" in navigation for page in PAGES)


def test_the_api_page_has_everything_public():
    import mixnoise

    page = (ROOT / "docs" / "api.md").read_text()
    for name in set(mixnoise.__all__) - {"__version__", "metrics"}:
        assert f"::: mixnoise.{name}\n" in page, name


def test_everything_public_has_an_example():
    import mixnoise

    public = [getattr(part, name) for part in (mixnoise, datasets) for name in part.__all__]
    functions = [each for each in public if callable(each)]
    without = {each.__name__ for each in functions if "Example:\n" not in (each.__doc__ or "")}
    assert without == {"NoisePluginError", "Split"}  # which nobody makes


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    found = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert found.returncode == 0, found.stderr
    assert "WARNING" not in found.stderr
    page = (tmp_path / "site" / "api" / "index.html").read_text()
    for name in ("mixnoise.DACL", "mixnoise.sklearn.DACLEncoder", "mixnoise.nt_xent"):
        assert f'id="{name}"' in page
    assert "Raises" in page
    shutil.rmtree(tmp_path / "site")
