"""Fixtures of several test files."""

import os
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from forked import Forked
from hypothesis import settings
from noise_cases import triton_mix
from nt_xent_cases import triton_nt_xent

import mixnoise.ops

# The same examples everywhere, however slow the machine is.
settings.register_profile("mixnoise", deadline=None, derandomize=True)
settings.load_profile("mixnoise")

if os.environ.get("TRITON_INTERPRET") == "1" and find_spec("triton"):
    import triton_interpreter

    triton_interpreter.install()


@pytest.fixture
def triton_runs() -> Iterator[None]:
    """Skips where Triton is missing; NumPy, in the interpreter, keeps quiet about log2(0)."""
    pytest.importorskip("triton", reason="the kernels need triton")
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice encountered", RuntimeWarning)
        yield


@pytest.fixture
def fill_with_nan() -> Iterator[Callable[[], None]]:
    """PyTorch fills what torch.empty and its kin allocate, where it is to be deterministic."""
    yield partial(torch.use_deterministic_algorithms, True)
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def opcheck(fill_with_nan: Callable[[], None]) -> Iterator[Callable]:
    """torch.library's, where an operator's output that is never written is noticed each time."""
    fill_with_nan()
    with warnings.catch_warnings():
        # Since PyTorch 2.14 opcheck warns of what it does itself.
        warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
        yield torch.library.opcheck


@pytest.fixture(scope="session")
def forked() -> Iterator[Forked]:
    """Starts processes that train."""
    if not hasattr(os, "fork"):
        pytest.skip("this system cannot fork")
    forked = Forked()
    yield forked
    forked.close()


@pytest.fixture(params=["torch", "triton"])
def nt_xent(request: pytest.FixtureRequest) -> Callable:
    """The function on each of its backends."""
    if request.param == "torch":
        return mixnoise.nt_xent
    request.getfixturevalue("triton_runs")
    return triton_nt_xent


@pytest.fixture(params=["torch", "triton"])
def mix(request: pytest.FixtureRequest) -> Callable:
    """The function on each of its backends."""
    if request.param == "torch":
        return partial(mixnoise.ops.mix, backend="torch")
    request.getfixturevalue("triton_runs")
    return triton_mix
