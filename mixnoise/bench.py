"""Mixing and the loss beside the plain formulas, in a few seconds; both sides in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from mixnoise import get_noise, nt_xent

_ROUNDS = 7
_TEMPERATURE = 0.5


def compare(rows: int, columns: int, device: str) -> Iterator[tuple[str, float, float]]:
    """What was timed, and median seconds of ours and of the plain formula."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(rows, columns, generator=generator).to(device)
    for name, plain in (("linear", _linear), ("geometric", _geometric), ("binary", _binary)):
        noise = get_noise(name, **({"low": 0.0} if name == "geometric" else {}))
        yield f"two views, {name}", *_seconds(partial(noise.views, x, 2), partial(plain, x))
    z = torch.randn(2, rows, columns, generator=generator).to(device).requires_grad_()

    def step(loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        (gradient,) = torch.autograd.grad(loss(z[0], z[1]), z)
        return gradient

    torch.testing.assert_close(step(_ours), step(_plain), rtol=1e-3, atol=1e-7)
    yield "NT-Xent, forward and backward", *_seconds(partial(step, _ours), partial(step, _plain))


def _ours(z1: Tensor, z2: Tensor) -> Tensor:
    return nt_xent(z1, z2, _TEMPERATURE)


def _plain(z1: Tensor, z2: Tensor) -> Tensor:
    z = F.normalize(torch.cat((z1, z2)))
    scores = (z @ z.T / _TEMPERATURE).fill_diagonal_(-torch.inf)
    return F.cross_entropy(scores, torch.arange(len(z), device=z.device).roll(len(z1)))


def _mixed(x: Tensor, mix: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    views = []
    for _ in range(2):
        c = 1 - 0.3 * torch.rand(len(x), 1, device=x.device)
        views.append(mix(x, x[torch.randperm(len(x), device=x.device)], c))
    return torch.stack(views)


def _linear(x: Tensor) -> Tensor:
    return _mixed(x, lambda a, b, c: c * a + (1 - c) * b)


def _geometric(x: Tensor) -> Tensor:
    return _mixed(x, lambda a, b, c: a**c * b ** (1 - c))


def _binary(x: Tensor) -> Tensor:
    return _mixed(x, lambda a, b, c: torch.where(torch.rand_like(a) < c, a, b))


def _seconds(ours: Callable[[], object], plain: Callable[[], object]) -> tuple[float, float]:
    """Median of each, taken in turns; the first round is not counted."""
    times: tuple[list[float], list[float]] = [], []
    for _ in range(_ROUNDS + 1):
        for side, found in zip((ours, plain), times, strict=True):
            _wait()
            started = time.perf_counter()
            side()
            _wait()
            found.append(time.perf_counter() - started)
    return statistics.median(times[0][1:]), statistics.median(times[1][1:])


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
