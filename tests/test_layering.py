"""Imports go one way, and importing mixnoise costs little."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mixnoise

PACKAGE = Path(mixnoise.__file__).parent
KERNELS = PACKAGE.parent / "kernels" / "mixnoise_kernels"

# A module may import mixnoise modules from layers below its own, or from its own layer.
LAYERS = [
    [
        "mixnoise.checks",
        "mixnoise.draw",
        "mixnoise.atomic",
        "mixnoise.seeding",
        "mixnoise.networks",
        "mixnoise._version",
    ],
    [
        f"mixnoise.training.{name}"
        for name in ("checkpoints", "progress", "step_losses", "termination")
    ],
    ["mixnoise._torch", "mixnoise.collectives", "mixnoise.training.agreement"],
    ["mixnoise.backends"],
    ["mixnoise.loss_arguments"],
    ["mixnoise.group_loss"],
    ["mixnoise.ops"],
    ["mixnoise.noises", "mixnoise.plugins", "mixnoise.registry", "mixnoise.losses"],
    ["mixnoise.model", "mixnoise.hidden_site", "mixnoise.micro_batches", "mixnoise.testing"],
    ["mixnoise.batches", "mixnoise.metrics"],
    ["mixnoise.features"],
    ["mixnoise.sgd_probe"],
    ["mixnoise.evaluate"],
    [f"mixnoise.training.{name}" for name in ("accelerator", "domain", "optim", "run_folder")],
    [
        "mixnoise.plots",
        *(f"mixnoise.training.{name}" for name in ("monitor", "validation", "resuming")),
    ],
    ["mixnoise.training.loop"],
    ["mixnoise.train", "mixnoise.training", "mixnoise.datasets", "mixnoise.tabular"],
    [
        *("mixnoise.__init__", "mixnoise.demo", "mixnoise.bench", "mixnoise.sklearn"),
        *("mixnoise.report", "mixnoise.cli", "mixnoise.__main__"),
    ],
]


def layer(module: str) -> int:
    for i, names in enumerate(LAYERS):
        if any(module == name or module.startswith(name + ".") for name in names):
            return i
    raise AssertionError(f"{module} stands in no layer")


def imported_modules(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {path}"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def module_name(path: Path) -> str:
    name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    return name if name == "mixnoise.__init__" else name.removesuffix(".__init__")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=module_name)
def test_imports_go_down(path):
    module = module_name(path)
    for imported in imported_modules(path):
        if imported == "mixnoise" or imported.startswith("mixnoise."):
            assert layer_of_attribute(imported) <= layer(module), f"{module} imports {imported}"


def layer_of_attribute(name: str) -> int:
    """Layer of "mixnoise.noises.base.Noise" and the like; the top package's are on top."""
    try:
        return layer(name)
    except AssertionError:
        return len(LAYERS) - 1


@pytest.mark.parametrize("path", sorted(KERNELS.rglob("*.py")), ids=lambda p: p.stem)
def test_kernels_never_import_mixnoise(path):
    assert not any(name.split(".")[0] == "mixnoise" for name in imported_modules(path))


def test_kernels_folder_is_no_package():
    assert not (KERNELS.parent / "__init__.py").exists()


def test_import_leaves_optional_packages_alone():
    code = (
        "import sys, mixnoise; mixnoise.get_noise('dacl+'); "
        "print([m for m in ('triton', 'sklearn', 'scipy', 'accelerate', 'matplotlib', "
        "'tensorboard', 'safetensors', 'pytorch_optimizer', 'mixnoise_kernels', "
        "'mixnoise.testing', "
        "'importlib.metadata') if m in sys.modules])"
    )
    # importlib.metadata comes with torch itself, so it is measured against a bare import.
    bare = "import sys, torch; print('importlib.metadata' in sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    torch_has_it = subprocess.run(
        [sys.executable, "-c", bare], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert out == ("['importlib.metadata']" if torch_has_it == "True" else "[]")


def test_public_names():
    assert set(mixnoise.__all__) == {
        "DACL",
        "Draw",
        "NTXentLoss",
        "Noise",
        "NoisePluginError",
        "get_noise",
        "knn_probe",
        "linear_probe",
        "list_noises",
        "metrics",
        "nt_xent",
        "pretrain",
        "register_noise",
    }
    assert all(hasattr(mixnoise, name) for name in mixnoise.__all__)
