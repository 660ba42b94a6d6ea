"""How fast is NT-Xent, forward and backward apart? Beside its limits and what people use today.

The forward takes each pair once, M^2 D FLOP and M^2 / 2 exponentials; the backward 4 M^2 D FLOP.
The limit is the larger of what these take at the rates measured in the same run.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu import reference
from benchmarks.gpu.bench import Bench, Case
from benchmarks.gpu.check_loss import accuracy, relative_error
from benchmarks.gpu.peers import COMPILED, PEERS, Loss
from benchmarks.gpu.problem import Problem, matmul_precision
from benchmarks.gpu.timing import capture, extra_bytes, measure, measure_once, release_memory
from benchmarks.speed.peers import nt_xent as eager

_CHECKED_ROWS = 1024


def limits(problem: Problem, rates: dict[str, float]) -> dict[str, float]:
    """Seconds."""
    pairs = problem.rows**2
    if problem.dtype != torch.float32:
        flop_rate = rates["bf16_flop"]
    else:
        flop_rate = {
            "bf16x3": rates["bf16_flop"] / 3,
            "bf16x6": rates["bf16_flop"] / 6,
            "ieee": rates["ieee_flop"],
        }[problem.precision]
    return {
        "forward": max(pairs * problem.d / flop_rate, pairs / 2 / rates["exp2"]),
        "backward": 4 * pairs * problem.d / flop_rate,
    }


def both(loss: Loss, z1: Tensor, z2: Tensor, t: float) -> tuple[Tensor, ...]:
    value = loss(z1, z2, t)
    return value.detach(), *torch.autograd.grad(value, (z1, z2))


def side(loss: Loss, z1: Tensor, z2: Tensor, t: float) -> dict[str, Any]:
    device = z1.device
    memory = extra_bytes(lambda: both(loss, z1, z2, t), device)
    forward = measure(lambda: loss(z1, z2, t), device)
    value = loss(z1, z2, t)
    backward = measure(lambda: torch.autograd.grad(value, (z1, z2), retain_graph=True), device)
    return {"forward": forward, "backward": backward, "extra_bytes": memory}


def replayed(loss: Loss, z1: Tensor, z2: Tensor, t: float) -> dict[str, float]:
    """Forward and backward in a CUDA graph: without the gaps between launches."""
    graph, _ = capture(lambda: both(loss, z1, z2, t))
    return measure(graph.replay, z1.device)


def peer(
    make: Callable[[torch.device], Loss], z1: Tensor, z2: Tensor, problem: Problem, expected: float
) -> dict[str, Any]:
    """Timed only if it computes the same loss."""
    loss, t = make(z1.device), problem.temperature
    value = both(loss, z1, z2, t)[0].item()  # compiles the backward, too
    if not abs(value - expected) <= problem.tolerance_of_peers * abs(expected):
        raise ValueError(f"another loss: {value} instead of {expected}")
    return {"loss": value, **side(loss, z1, z2, t)}


def ratios(ours: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """How many times longer the other takes."""
    seconds = [[each[part]["median"] for part in ("forward", "backward")] for each in (ours, other)]
    (forward, backward), (other_forward, other_backward) = seconds
    return {
        "forward": other_forward / forward,
        "backward": other_backward / backward,
        "both": (other_forward + other_backward) / (forward + backward),
    }


def timed(bench: Bench, problem: Problem) -> dict[str, Any]:
    problem = bench.sized(problem)
    result = accuracy(bench, problem)
    release_memory(bench.device)
    z1, z2 = problem.inputs(bench.device, bench.seed())

    def loss(z1: Tensor, z2: Tensor, t: float) -> Tensor:
        return bench.loss(problem, z1, z2, t, "mean")

    with matmul_precision(problem.matmul):
        expected = loss(z1, z2, problem.temperature).item()
        ours = side(loss, z1, z2, problem.temperature)
        if not bench.smoke:
            ours["replayed"] = replayed(loss, z1, z2, problem.temperature)
        peers = {
            name: bench.peer(partial(peer, make, z1, z2, problem, expected))
            for name, make in PEERS.items()
        }
    limit = limits(problem, bench.rates)
    return result | {
        "rows": problem.rows,
        "d": problem.d,
        "products": problem.products,
        "temperature": problem.temperature,
        "loss": expected,
        "limit": limit,
        "fraction_of_limit": {part: limit[part] / ours[part]["median"] for part in limit},
        "ours": ours,
        "peers": peers,
        "ratio": {name: ratios(ours, found) for name, found in peers.items() if "forward" in found},
    }


def compiled(bench: Bench, problem: Problem) -> dict[str, Any]:
    """Forward and backward together, ours and the plain formula, each as two modes compile it.

    Where there are few rows the host is what both wait for; "reduce-overhead" is CUDA graphs.
    """
    problem = bench.sized(problem)
    release_memory(bench.device)
    z1, z2 = problem.inputs(bench.device, bench.seed())

    def ours(z1: Tensor, z2: Tensor, t: float) -> Tensor:
        return bench.loss(problem, z1, z2, t, "mean")

    expected = ours(z1, z2, problem.temperature).item()

    def time(plain: Loss, mode: str) -> dict[str, Any]:
        loss, t = COMPILED[mode](plain, bench.device), problem.temperature
        value = both(loss, z1, z2, t)[0].item()
        if not abs(value - expected) <= problem.tolerance_of_peers * abs(expected):
            raise ValueError(f"another loss: {value} instead of {expected}")
        return measure(lambda: both(loss, z1, z2, t), bench.device)

    times = {
        mode: {
            "ours": time(ours, mode),
            "plain": bench.peer(partial(time, eager, mode)),
        }
        for mode in COMPILED
    }
    return {
        "rows": problem.rows,
        "d": problem.d,
        "products": problem.products,
        "compiled": times,
        "ratio": {
            mode: found["plain"]["median"] / found["ours"]["median"]
            for mode, found in times.items()
            if "median" in found["plain"]
        },
    }


def largest(bench: Bench, problem: Problem) -> dict[str, Any]:
    """Forward and backward once after a warm-up; some of the losses are checked."""
    problem, seed = bench.sized(problem), bench.seed()
    z1, z2 = problem.inputs(bench.device, seed)
    weights = torch.full((problem.rows,), 1 / problem.rows, device=bench.device)

    def run() -> tuple[Tensor, ...]:
        return bench.value_and_grads(problem, (z1, z2), weights)

    found = run()
    with torch.no_grad():
        unit, _ = reference.unit_rows(torch.cat((z1, z2)).double(), torch.finfo(z1.dtype).tiny)
        rows = torch.randint(problem.rows, (_CHECKED_ROWS,), device=bench.device)
        parts = [reference.losses(unit, part, problem.temperature)[0] for part in rows.split(64)]
        true = torch.cat(parts)
    error = relative_error(found[0][rows], true)
    finite = all(bool(x.isfinite().all()) for x in found)
    del found, unit
    release_memory(bench.device)
    return {
        "seed": seed,
        "rows": problem.rows,
        "d": problem.d,
        "products": problem.products,
        "errors": {"loss": error},
        "tolerance": problem.tolerance,
        "extra_bytes": extra_bytes(run, bench.device),
        "seconds_of_both": measure_once(run, bench.device),
        "limit": sum(limits(problem, bench.rates).values()),
        "passed": finite and error <= problem.tolerance,
    }


_TIMED = [
    *[Problem(m // 2, 128, temperature=0.5) for m in (16384, 65536, 4096)],
    Problem(8192, 128, torch.float32, 0.5, precision="bf16x6"),
    Problem(8192, 128, torch.float32, 0.5, precision="bf16x3", matmul="high"),
    *[Problem(m // 2, d, temperature=0.5) for d in (64, 256, 512) for m in (16384, 65536, 4096)],
]
_LARGEST = Problem(2**19, 128, temperature=0.5)

_AS_CALLED = [  # without CUDA all sizes are tiny
    Case(f"time {p.name}", partial(timed, problem=p), (p,), p.rows != _TIMED[0].rows)
    for p in _TIMED
]
_OTHERWISE = [
    Case(f"time {_LARGEST.name}", partial(largest, problem=_LARGEST)),
    *[
        Case(f"time compiled {p.name}", partial(compiled, problem=p), (), p != _TIMED[0])
        for p in _TIMED[:3]
    ],
]
# The FIRST are the ones that matter most, should time be short.
CASES = [*_AS_CALLED[:3], *_OTHERWISE, *_AS_CALLED[3:]]
FIRST = 3 + len(_OTHERWISE)
