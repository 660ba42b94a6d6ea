"""NT-Xent, forward and backward, beside the plain formula and its compiled form."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from benchmarks.speed import peers
from benchmarks.speed.interleave import interleave
from mixnoise import nt_xent

D, TEMPERATURE = 128, 0.5


def inputs(rows):
    generator = torch.Generator().manual_seed(rows)
    return [torch.randn(rows // 2, D, generator=generator, requires_grad=True) for _ in range(2)]


def value_and_grads(loss, z1, z2):
    value = loss(z1, z2, TEMPERATURE)
    return value.detach(), *torch.autograd.grad(value, (z1, z2))


@pytest.mark.parametrize(("rows", "rounds"), [(1024, 60), (4096, 20), (16384, 7)])
def test_forward_and_backward(benchmark, rows, rounds):
    z1, z2 = inputs(rows)
    torch.compiler.reset()
    compiled = torch.compile(peers.nt_xent)
    ours, plain = value_and_grads(nt_xent, z1, z2), value_and_grads(peers.nt_xent, z1, z2)
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(value_and_grads(compiled, z1, z2), plain, rtol=1e-4, atol=1e-9)
    benchmark.extra_info.update(rows=rows, d=D)
    interleave(
        benchmark,
        lambda: value_and_grads(nt_xent, z1, z2),
        {
            "eager": lambda: value_and_grads(peers.nt_xent, z1, z2),
            "compiled": lambda: value_and_grads(compiled, z1, z2),
        },
        rounds,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize("rows", [16384, 131072])
def test_memory(benchmark, rows):
    def peak(which):
        command = [sys.executable, "-m", "benchmarks.speed.memory", which, str(rows)]
        return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)

    benchmark.extra_info.update(rows=rows, d=D)
    benchmark.extra_info["peak_bytes"] = {"eager": peak("eager")} if rows == 16384 else {}
    benchmark.extra_info["peak_bytes"]["ours"] = benchmark.pedantic(peak, ("ours",), rounds=1)
