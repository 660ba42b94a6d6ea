"""What pyproject.toml promises to those who install."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

import mixnoise

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]


def test_the_version_that_is_installed_is_that_of_the_package():
    file = ROOT / PYPROJECT["tool"]["hatch"]["version"]["path"]
    assert f'__version__ = "{mixnoise.__version__}"' in file.read_text().splitlines()


def test_lower_bounds_are_those_that_are_tested():
    asked = list(PROJECT["dependencies"])
    for requirements in PROJECT["optional-dependencies"].values():
        asked += requirements
    bounds = {}
    for requirement in map(Requirement, asked):
        if requirement.name not in ("mixnoise", "torch", "triton"):
            (bound,) = requirement.specifier
            assert bound.operator == ">="
            bounds[requirement.name] = Version(bound.version)
    lines = (ROOT / "constraints-lowest.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    tested = {pin.name: Version(next(iter(pin.specifier)).version) for pin in pins}
    assert bounds == {name: tested[name] for name in bounds}
    assert tested.keys() - bounds.keys() == {"torch", "triton", "pyparsing", "scipy"}
