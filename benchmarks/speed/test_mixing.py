"""One view of 4,096 x 784 float32 values, drawn and mixed, beside the formula people write."""

from __future__ import annotations

import pytest
import torch

from benchmarks.speed import peers
from benchmarks.speed.interleave import interleave
from mixnoise import get_noise

N, F = 4096, 784
CASES = {
    "linear": (peers.linear, 0.7, {"alpha": 0.7}),
    "geometric": (peers.geometric, 0.7, {"alpha": 0.7, "low": 0.0}),
    "binary": (peers.binary, 0.7, {"alpha": 0.7}),
    "gaussian": (peers.gaussian, 0.3, {"sigma": 0.3}),
}


def agree(name, noise, x):
    """The same views from the same draw; for masks and deviates, the same distribution."""
    draw = noise.sample(x, seed=0)
    ours, c, other = noise.apply(x, draw)[0], draw.coef[0, :, None], x[draw.partner[0]]
    if name == "linear":
        torch.testing.assert_close(ours, c * x + (1 - c) * other)
    elif name == "geometric":
        torch.testing.assert_close(ours, x**c * other ** (1 - c), rtol=1e-5, atol=1e-6)
    elif name == "binary":
        kept = ours == x
        assert (kept | (ours == other)).all()
        assert abs(kept.float().mean() - c.mean()) < 2e-3
    else:
        deviates = (ours - x) / 0.3
        assert abs(deviates.mean()) < 3e-3
        assert abs(deviates.std() - 1) < 3e-3


@pytest.mark.parametrize("name", CASES)
def test_one_view(benchmark, name):
    eager, strength, arguments = CASES[name]
    x = torch.rand(N, F, generator=torch.Generator().manual_seed(0))
    noise, warm = get_noise(name, **arguments), torch.empty_like(x)
    agree(name, noise, x)
    torch.compiler.reset()
    compiled = torch.compile(eager)
    benchmark.extra_info.update(rows=N, columns=F)
    interleave(
        benchmark,
        lambda: noise(x),
        {
            "eager": lambda: eager(x, strength),
            "compiled": lambda: compiled(x, strength),
            "copy": lambda: warm.copy_(x),  # last, so that neither it nor ours finds x in cache
        },
        rounds=60,
    )


def test_dacl_plus(benchmark):
    x = torch.rand(N, F, generator=torch.Generator().manual_seed(0))
    noise, warm = get_noise("dacl+", low=0.0), torch.empty_like(x)
    benchmark.extra_info.update(rows=N, columns=F)
    interleave(benchmark, lambda: noise(x), {"copy": lambda: warm.copy_(x)}, rounds=60)
