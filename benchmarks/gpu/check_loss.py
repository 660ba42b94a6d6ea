"""Is NT-Xent right on this device? Against float64, twice with the same bits, compiled, captured.

Memory from the allocator is filled with NaN before every call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from mixnoise_kernels import nt_xent_rows
from torch import Tensor

from benchmarks.gpu import reference
from benchmarks.gpu.bench import Bench, Case
from benchmarks.gpu.problem import Problem
from benchmarks.gpu.timing import capture

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


def poison(device: torch.device, largest: int = 2**28) -> None:
    """Leaves NaN in the blocks that the allocator hands out next, large and small."""
    if device.type != "cuda":
        return
    # No garbage is collected: that takes half a second once a compiler has been imported.
    torch.cuda.empty_cache()
    sizes = [largest, *[2**20] * 64]  # bytes; up to 1 MiB there is a pool of its own
    blocks = [torch.full((size // 4,), math.nan, device=device) for size in sizes]
    del blocks


def relative_error(found: Tensor, true: Tensor, size: Tensor | None = None) -> float:
    """Error of the whole tensor; absolute where the truth is zero, NaN if anything found is NaN."""
    scale = torch.linalg.vector_norm(true if size is None else size)
    error = torch.linalg.vector_norm(found.double() - true)
    return (error / torch.where(scale > 0, scale, 1.0)).item()


def errors(found: tuple[Tensor, ...], truth: reference.Truth) -> dict[str, float]:
    """A gradient is taken times its row's norm: so rows of all sizes count alike."""
    loss, dz1, dz2, *dt = found
    norms1, norms2 = truth.norms[:, None].tensor_split(2)
    result = {
        "loss": relative_error(loss, truth.loss),
        "dz1": relative_error(dz1.double() * norms1, truth.dz1 * norms1),
        "dz2": relative_error(dz2.double() * norms2, truth.dz2 * norms2),
    }
    if dt:
        result["dt"] = relative_error(*dt, truth.dt, truth.dt_size)
    return result


def same_bits(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def accuracy(bench: Bench, problem: Problem) -> dict[str, Any]:
    problem, seed = bench.sized(problem), bench.seed()
    leaves, weights = problem.inputs(bench.device, seed), problem.weights(bench.device, seed)
    t = float(torch.tensor(problem.temperature)) if len(leaves) == 3 else problem.temperature
    truth = reference.nt_xent(*leaves[:2], t, weights)
    poison(bench.device)
    found = bench.value_and_grads(problem, leaves, weights)
    poison(bench.device)
    again = bench.value_and_grads(problem, leaves, weights)

    error = errors(found, truth)
    result: dict[str, Any] = {
        "seed": seed,
        "tolerance": problem.tolerance,
        "errors": {name: e if math.isfinite(e) else None for name, e in error.items()},
        "finite": all(bool(x.isfinite().all()) for x in found),
        "same_bits": same_bits(found, again),
    }
    close = all(e <= problem.tolerance for e in error.values())
    passed = close and result["finite"] and result["same_bits"]
    if problem.scene == "zero rows":
        result["zero_gradients"] = all(
            torch.equal(dz.eq(0).all(1), z.eq(0).all(1))
            for z, dz in zip(leaves[:2], found[1:3], strict=True)
        )
        passed = passed and result["zero_gradients"]
    return result | {"passed": passed}


def in_shares(bench: Bench, problem: Problem) -> dict[str, Any]:
    """What processes with unlike numbers of rows compute of each other's, in one process."""
    problem, seed = bench.sized(problem), bench.seed()
    leaves, grad = problem.inputs(bench.device, seed), problem.weights(bench.device, seed)
    z1, z2, *learned = (leaf.detach() for leaf in leaves)
    temperature = (learned[0], math.nan) if learned else (None, problem.temperature)
    t = float(torch.tensor(problem.temperature)) if learned else problem.temperature
    truth = reference.nt_xent(*leaves[:2], t, grad)
    poison(bench.device)
    rows, largest, n = torch.stack((z1, z2)), grad.abs().amax(), len(z1)
    losses, processes, start = [], [], 0
    for count in (1, n // 3, n - 1 - n // 3):
        share = z1[start : start + count], z2[start : start + count]
        loss, saved = nt_xent_rows.forward(*share, rows, start, *temperature, "auto")
        own_grad = grad.view(2, n)[:, start : start + count].flatten()
        weights = nt_xent_rows.weights(own_grad, largest, saved, *temperature)
        losses.append(loss.view(2, count))
        processes.append((own_grad, share, saved, weights))
        start += count
    of_all = torch.cat([weights for *_, weights in processes], dim=1)
    found = []
    for own_grad, share, saved, _ in processes:
        found.append(nt_xent_rows.backward(own_grad, largest, *share, of_all, saved, *temperature))
    dz1, dz2, dt = zip(*found, strict=True)
    gradients = (torch.cat(dz1), torch.cat(dz2), *([torch.stack(dt).sum()] if learned else []))
    error = errors((torch.cat(losses, dim=1).flatten(), *gradients), truth)
    passed = all(e <= problem.tolerance for e in error.values())
    return {"seed": seed, "tolerance": problem.tolerance, "errors": error, "passed": passed}


def nan_in_nan_out(bench: Bench, problem: Problem) -> dict[str, Any]:
    problem = bench.sized(problem)
    wrong = []
    for value, row in ((math.nan, 0), (math.inf, problem.n - 1), (-math.inf, 0)):
        z1, z2 = (z.detach() for z in problem.inputs(bench.device, bench.seed()))
        z2[row, 1] = value
        poison(bench.device)
        each = bench.loss(problem, z1, z2, problem.temperature)
        mean = bench.loss(problem, z1, z2, problem.temperature, "mean")
        if not (each.isnan().all() and mean.isnan()):
            wrong.append(f"{value} in row {row}")
    return {"wrong": wrong, "passed": not wrong}


def subnormal_is_zero(bench: Bench, problem: Problem) -> dict[str, Any]:
    """A row with a norm below the smallest normal number of its dtype is a row of zeros."""
    problem = bench.sized(problem)
    z1, z2 = problem.inputs(bench.device, bench.seed())
    weights = problem.weights(bench.device, bench.seed())
    found = []
    for first in (0.0, torch.finfo(problem.dtype).tiny / 2):
        with torch.no_grad():
            z1[0] = 0
            z1[0, 0] = first
        found.append(bench.value_and_grads(problem, (z1, z2), weights))
    return {"passed": same_bits(*found) and bool(found[1][1][0].eq(0).all())}


def as_compiled(
    bench: Bench,
    function: Callable[..., Tensor],
    inputs: Sequence[Any],
    leaves: Sequence[Tensor],
    weights: Tensor,
) -> dict[str, Any]:
    """It compiles without a graph break, and gives the bits of eager mode."""
    torch.compiler.reset()
    backend = "aot_eager" if bench.smoke else "inductor"
    found = []
    for each in (function, torch.compile(function, fullgraph=True, backend=backend)):
        poison(bench.device)
        value = each(*inputs)
        found.append((value.detach(), *torch.autograd.grad(value, leaves, weights)))
    return {"passed": same_bits(*found)}


def compiled(bench: Bench, problem: Problem) -> dict[str, Any]:
    problem, seed = bench.sized(problem), bench.seed()
    leaves, weights = problem.inputs(bench.device, seed), problem.weights(bench.device, seed)

    def scaled_loss(z1: Tensor, z2: Tensor, temperature: float | Tensor) -> Tensor:
        return bench.loss(problem, 2 * z1, z2 / 4, temperature)  # powers of two are exact

    inputs = *leaves[:2], problem.temperature_of(leaves)
    return as_compiled(bench, scaled_loss, inputs, leaves, weights)


def captured(bench: Bench, problem: Problem) -> dict[str, Any]:
    """Forward and backward in one CUDA graph, replayed on other data, and at a temperature that
    takes the other form where it is a tensor."""
    leaves = problem.inputs(bench.device, bench.seed())
    weights = problem.weights(bench.device, bench.seed())
    graph, outputs = capture(lambda: bench.value_and_grads(problem, leaves, weights))
    same = []
    for temperature in (problem.temperature, problem.temperature / 10):
        other = replace(problem, temperature=temperature).inputs(bench.device, bench.seed())
        with torch.no_grad():
            for leaf, new in zip(leaves, other, strict=True):
                leaf.copy_(new)
        graph.replay()
        torch.cuda.synchronize()
        replayed = tuple(x.clone() for x in outputs)
        same.append(same_bits(replayed, bench.value_and_grads(problem, leaves, weights)))
    return {"replays_with_same_bits": same, "passed": all(same)}


_DTYPES = [(BF16, "highest"), (FP32, "highest"), (FP16, "highest"), (FP32, "high")]
_ACCURACY = [
    *[
        Problem(1000, 128, dtype, temperature, matmul=matmul)
        for temperature in (0.05, 0.5, 0.005)
        for dtype, matmul in _DTYPES
    ],
    *[Problem(n, 128, BF16, 0.5) for n in (1, 129, 2048)],
    Problem(129, 128, FP32, 0.5),
    *[Problem(2048, d, BF16) for d in (64, 256, 512)],
    *[Problem(129, d, BF16) for d in (100, 700)],
    *[Problem(2048, d, FP32) for d in (64, 256, 512)],
    *[Problem(129, d, FP32) for d in (100, 700)],
    Problem(2048, 512, FP16),
    Problem(2048, 256, FP32, matmul="high"),
    *[Problem(1000, 128, FP32, precision=precision) for precision in ("ieee", "bf16x3")],
    Problem(2048, 512, BF16, 0.005),
    *[Problem(1000, 128, BF16, t, learns_temperature=True) for t in (0.5, 0.05, 0.005)],
    *[Problem(1000, 128, FP32, t, learns_temperature=True) for t in (0.05, 0.005)],
    *[Problem(129, 128, dtype, scene="zero rows") for dtype in (BF16, FP16, FP32)],
    *[Problem(129, 128, dtype, scene="scaled") for dtype in (BF16, FP32)],
]
_IN_SHARES = [
    *[Problem(1000, 128, dtype, t) for dtype in (BF16, FP32) for t in (0.5, 0.005)],
    *[Problem(1000, 128, BF16, t, learns_temperature=True) for t in (0.5, 0.005)],
]
_SMALL = [Problem(129, 128, dtype) for dtype in (BF16, FP16, FP32)]
_FORMS = [
    Problem(2048, 128),
    Problem(2048, 128, FP32),
    Problem(2048, 128, learns_temperature=True),
]

CASES = [
    *[Case(f"accuracy {p.name}", partial(accuracy, problem=p), (p,)) for p in _ACCURACY],
    *[Case(f"in shares {p.name}", partial(in_shares, problem=p), (p,)) for p in _IN_SHARES],
    *[Case(f"NaN {p.name}", partial(nan_in_nan_out, problem=p), (p,)) for p in _SMALL],
    *[Case(f"subnormal {p.name}", partial(subnormal_is_zero, problem=p), (p,)) for p in _SMALL],
    *[Case(f"captured {p.name}", partial(captured, problem=p), (p,), True) for p in _FORMS],
    *[Case(f"compiled {p.name}", partial(compiled, problem=p), (p,)) for p in _FORMS],
]
