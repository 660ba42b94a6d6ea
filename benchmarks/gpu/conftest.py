"""Under pytest-benchmark times are those of whole cases, the GPU's are in ``extra_info``."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu.bench import Bench, run_case


@pytest.fixture(scope="session")
def bench():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return Bench(minutes=60)


@pytest.fixture
def check(benchmark, bench):
    """Runs a case, which has to pass."""

    def run(case):
        found = benchmark.pedantic(run_case, (bench, case), rounds=1)
        benchmark.extra_info.update(found)
        assert found["status"] == "passed", found

    return run
