"""The cases of mixing and of a step, for pytest-benchmark; see test_loss.py."""

from __future__ import annotations

import pytest

from benchmarks.gpu.cases import MIXING


@pytest.mark.parametrize("case", MIXING, ids=lambda case: case.name)
def test_mixing(check, case):
    check(case)
