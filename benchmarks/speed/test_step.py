"""What mixing and loss cost in a whole step, and what the import costs."""

from __future__ import annotations

import statistics
import subprocess
import sys

import torch

from benchmarks.speed.interleave import interleave
from mixnoise import DACL, get_noise, nt_xent
from mixnoise.networks import fully_connected

BATCH, COLUMNS, WIDTH = 1024, 784, 512


def test_dacl_step(benchmark):
    """12 layers of 512: the step, and the same network on 2 x 1,024 ready-made rows."""
    x = torch.rand(BATCH, COLUMNS, generator=torch.Generator().manual_seed(0))
    encoder, projector = fully_connected(COLUMNS, WIDTH, 12), torch.nn.Linear(WIDTH, 128)
    model = DACL(encoder, projector, get_noise("dacl+", low=0.0))
    rows = torch.cat((x, x.flip(0)))
    z1, z2 = torch.randn(2, BATCH, 128).requires_grad_().unbind()

    def step():
        model.zero_grad()
        model(x).backward()

    def network_alone():
        model.zero_grad()
        projector(encoder(rows)).square().mean().backward()

    def mixing_and_loss():
        model.noise.views(x, 2)
        torch.autograd.grad(nt_xent(z1, z2), (z1, z2))

    peers = {"network alone": network_alone, "mixing and loss": mixing_and_loss}
    interleave(benchmark, step, peers, rounds=15)


def test_import(benchmark):
    code = (
        "import time, torch; t = time.perf_counter(); import mixnoise; "
        "print(time.perf_counter() - t)"
    )

    def seconds():
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        return float(out.stdout)

    times = []
    benchmark.pedantic(lambda: times.append(seconds()), rounds=7)
    benchmark.extra_info["import_seconds"] = statistics.median(times)
