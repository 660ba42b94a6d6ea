"""What launch.py launches is what Triton would, on a GPU that need not be there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="the kernels need triton")


def test_the_kernel_that_is_launched_is_the_one_triton_finds():
    # Interpreted kernels are not compiled.
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    script = Path(__file__).parent / "launches.py"
    run = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-4000:]
    n_cases, n_compiled = map(int, run.stdout.split())
    assert 12 < n_compiled < n_cases
