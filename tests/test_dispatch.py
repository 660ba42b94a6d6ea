"""Which backend runs, and what is said where the one asked for cannot."""

import os
import re
import subprocess
import sys

import pytest
import torch
from nt_xent_cases import DEVICE
from torch import Tensor
from torch._subclasses import FakeTensorMode

import mixnoise


def python(code: str) -> list[str]:
    """Lines that a fresh Python prints, without Triton's interpreter."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    ).stdout.splitlines()


ON_A_CPU = """
import sys, torch
from mixnoise import nt_xent
z = torch.ones(3, 2)
nt_xent(z, z)
nt_xent(z, z, backend="torch")
print("mixnoise_kernels" in sys.modules)
try:
    nt_xent(z, z, backend="triton")
except RuntimeError as error:
    print(error)
"""


def test_tensors_on_a_cpu_never_meet_triton() -> None:
    pytest.importorskip("triton", reason="the kernels need triton")
    imported, message = python(ON_A_CPU)
    assert imported == "False"
    assert message == (
        "backend='triton' cannot run nt_xent: it needs CUDA tensors, these are on cpu "
        "(TRITON_INTERPRET=1, set before Python starts, runs kernels on the CPU, for tests)"
    )


def test_without_triton_the_message_says_how_to_install_it() -> None:
    imported, message = python(
        ON_A_CPU.replace("import sys, torch", "import sys, torch; sys.modules['triton'] = None")
    )
    assert imported == "False"
    assert message == (
        "backend='triton' cannot run nt_xent: triton is not installed: "
        "pip install 'mixnoise[triton]'"
    )


def refused(z: Tensor) -> str:
    with pytest.raises(RuntimeError, match=r"^backend='triton' cannot run nt_xent: ") as raised:
        mixnoise.nt_xent(z, z, backend="triton")
    return str(raised.value)


@pytest.mark.usefixtures("triton_runs")
def test_what_the_kernels_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    from mixnoise_kernels import blocks, operators

    z = torch.ones(2, 1025, device=DEVICE)
    assert "there is no kernel for torch.float64" in refused(z[:, :4].double())
    assert "rows may have 1024 columns at most, these have 1025" in refused(z)
    assert mixnoise.nt_xent(z[:, :4], z[:, :4], backend="triton").isfinite()

    monkeypatch.setattr(operators, "chip", lambda _: blocks.Chip(7, 0, 1))
    assert "compute capability 8.0 or higher" in refused(z[:, :4])


@pytest.mark.usefixtures("triton_runs")
def test_auto_takes_triton_for_cuda_tensors_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake tensors tell without a GPU."""
    from mixnoise_kernels import blocks, operators

    called = []
    kernels = operators.nt_xent_rows

    def spy(*arguments: object) -> tuple[Tensor, ...]:
        called.append(arguments)
        return kernels(*arguments)

    monkeypatch.setattr(operators, "nt_xent_rows", spy)

    def runs_on_triton(
        dtype: torch.dtype = torch.float32,
        d: int = 4,
        device: str = "cuda",
        major: int = 9,
        backend: str = "auto",
    ) -> bool:
        monkeypatch.setattr(operators, "chip", lambda _: blocks.Chip(major, 0, 1))
        called.clear()
        with FakeTensorMode():
            z = torch.ones(3, d, dtype=dtype, device=device)
            assert mixnoise.nt_xent(z, z, backend=backend).device.type == device
        return bool(called)

    assert runs_on_triton()
    assert runs_on_triton(torch.float16)
    assert runs_on_triton(torch.bfloat16, major=8)
    assert runs_on_triton(d=1024)
    assert not runs_on_triton(backend="torch")
    assert not runs_on_triton(torch.float64)
    assert not runs_on_triton(d=1025)
    assert not runs_on_triton(major=7)
    assert not runs_on_triton(device="cpu")


def test_a_mistake_in_the_kernels_is_not_taken_for_a_missing_triton(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "mixnoise_kernels.operators", None)
    monkeypatch.delattr("mixnoise_kernels.operators", raising=False)
    z = torch.ones(3, 2)
    with pytest.raises(ImportError, match=re.escape("mixnoise_kernels.operators")):
        mixnoise.nt_xent(z, z, backend="triton")
