"""The cases of the loss: ``pytest -o addopts= --import-mode=importlib benchmarks/gpu``."""

from __future__ import annotations

import pytest

from benchmarks.gpu.cases import LOSS


@pytest.mark.parametrize("case", LOSS, ids=lambda case: case.name)
def test_loss(check, case):
    check(case)
