"""Mixing on each backend, for tests of what both of them promise."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from nt_xent_cases import DEVICE
from torch import Tensor

from mixnoise import Draw, ops


def triton_mix(x: Tensor, draw: Draw) -> Tensor:
    """On DEVICE, from and to wherever x lies; gradients come back, too."""
    return ops.mix(x.to(DEVICE), draw.to(DEVICE), backend="triton").to(x.device)


@pytest.fixture(name="mix", params=["torch", "triton"])
def each_mix(request: pytest.FixtureRequest) -> Callable[[Tensor, Draw], Tensor]:
    """The function on each of its backends."""
    if request.param == "torch":
        return partial(ops.mix, backend="torch")
    request.getfixturevalue("triton_runs")
    return triton_mix
