"""Is mixing right on this device? Against float64, twice with the same bits, compiled, captured.

Memory from the allocator is filled with NaN before every call. Views are compared with the truth
rounded to their dtype, in units in its last place (ulp) at the largest of a view's value and what
it is made of, so that what cancels does not count. Half types take the hardware's approximate
functions, which rounding should hide: one ulp at most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.batch import NOISES, Batch, true_views
from benchmarks.gpu.bench import Bench, Case
from benchmarks.gpu.check_loss import (
    BF16,
    FP16,
    FP32,
    as_compiled,
    poison,
    relative_error,
    same_bits,
)
from benchmarks.gpu.timing import capture, release_memory
from mixnoise import Draw
from mixnoise.ops import mix

# In float32: of a sum of two products; of logarithms and powers; of deviates, whose truth is
# float32's and has an angle that was rounded.
_ULPS = {"linear": 4, "geometric": 32, "binary": 0, "gaussian": 32, "dacl+": 32}
_CHECKED_ROWS = 64


def tensors(draw: Draw) -> list[Tensor]:
    return [t for field in fields(draw) if isinstance(t := getattr(draw, field.name), Tensor)]


def judge(
    batch: Batch, found: Tensor, true: Tensor, size: Tensor, gradient: Sequence[Tensor] = ()
) -> dict[str, Any]:
    """Views, and the gradient if it is given as found and as it should be."""
    off, half = (found.double() - true.to(found.dtype).double()).abs(), batch.dtype in (BF16, FP16)
    ulps = off
    if found.is_floating_point():
        kind = torch.finfo(found.dtype)
        exponent = size.clamp(kind.tiny).frexp()[1] - 1
        ulps = off / torch.ldexp(torch.full_like(size, kind.eps), exponent)
    errors, most = {"ulps": ulps.max().item()}, _ULPS[batch.noise]
    tolerance: dict[str, float] = {"ulps": min(1, most) if half else most}
    if gradient:
        errors["gradient"] = relative_error(*gradient)
        tolerance["gradient"] = torch.finfo(batch.dtype).eps * (0.5 if half else 32)
    return {
        "dtype": batch.dtype_name,
        "errors": {name: e if math.isfinite(e) else None for name, e in errors.items()},
        "tolerance": tolerance,
        "share_off": off.ne(0).double().mean().item(),
        "passed": all(e <= tolerance[name] for name, e in errors.items()),
    }


def views_and_gradient(bench: Bench, x: Tensor, draw: Draw, g: Tensor) -> tuple[Tensor, ...]:
    views = bench.mix(x, draw)
    return views.detach(), *torch.autograd.grad(views, x, g)


def accuracy(bench: Bench, batch: Batch) -> dict[str, Any]:
    """The draw is made on the CPU, and has to be the device's own, bit for bit."""
    batch, seed = bench.sized(batch), bench.seed()
    x = batch.inputs(bench.device, seed).requires_grad_()
    g = batch.weights(bench.device, seed + 1)
    drawn = batch.sample(x.detach().cpu(), seed)
    same_draw = same_bits(tensors(drawn), tensors(batch.sample(x, seed).to("cpu")))
    drawn.coef[:, ::7] = 1  # a row that is not mixed, or a deviation of 1
    draw = drawn.to(bench.device)

    poison(bench.device)
    found = views_and_gradient(bench, x, draw, g)
    poison(bench.device)
    again = views_and_gradient(bench, x, draw, g)

    wide = x.detach().double().requires_grad_()
    views, size = true_views(wide, draw, torch.arange(batch.n, device=bench.device))
    gradient = found[1], *torch.autograd.grad(views, wide, g.double())
    result = judge(batch, found[0], views.detach(), size, gradient)
    result |= {"seed": seed, "same_bits": same_bits(found, again), "same_draw": same_draw}
    return result | {"passed": result["passed"] and result["same_bits"] and same_draw}


def any_bits(bench: Bench, batch: Batch) -> dict[str, Any]:
    """Binary mixing of whatever the bits of a dtype mean, NaN as well, is the CPU's."""
    batch, wrong = bench.sized(batch), []
    for dtype in (torch.int8, BF16, FP32, torch.int64, torch.complex128):
        raw = Batch("binary", batch.n, batch.f * dtype.itemsize, torch.int8)
        x = raw.inputs(bench.device, bench.seed()).view(dtype)
        draw = batch.sample(x.cpu(), bench.seed())
        poison(bench.device)
        found = bench.mix(x, draw.to(bench.device)).cpu()
        expected = mix(x.cpu(), draw, backend="torch")
        if not torch.equal(found.view(torch.int8), expected.view(torch.int8)):
            wrong.append(str(dtype))
    return {"wrong": wrong, "passed": not wrong}


def compiled(bench: Bench, batch: Batch) -> dict[str, Any]:
    batch, seed = bench.sized(batch), torch.tensor(bench.seed(), device=bench.device)
    x = batch.inputs(bench.device, bench.seed()).requires_grad_()
    g, noise = batch.weights(bench.device, bench.seed()), batch.module

    def draw_and_mix(x: Tensor, seed: Tensor) -> Tensor:
        x = 2 * x
        return bench.mix(x, noise.sample(x, views=batch.views, seed=seed)) / 4

    return as_compiled(bench, draw_and_mix, (x, seed), (x,), g)


def captured(bench: Bench, batch: Batch, gradient: bool) -> dict[str, Any]:
    """A CUDA graph, replayed with fresh data and a fresh draw in the places of the old ones."""
    x, fresh_x = (batch.inputs(bench.device, bench.seed()).requires_grad_() for _ in range(2))
    draw, fresh = batch.sample(x), batch.sample(fresh_x)
    g = batch.weights(bench.device, bench.seed())

    def run() -> tuple[Tensor, ...]:
        if gradient:
            return views_and_gradient(bench, x, draw, g)
        return (bench.mix(x.detach(), draw),)

    graph, outputs = capture(run)
    with torch.no_grad():
        for old, new in zip([x, *tensors(draw)], [fresh_x, *tensors(fresh)], strict=True):
            old.copy_(new)
    graph.replay()
    torch.cuda.synchronize()
    replayed = [output.clone() for output in outputs]
    return {"passed": same_bits(replayed, run())}


def large(bench: Bench, batch: Batch) -> dict[str, Any]:
    """More than 2^31 elements, of which some rows are checked, the last one among them."""
    batch, seed = bench.sized(batch), bench.seed()
    release_memory(bench.device)
    x = batch.inputs(bench.device, seed)
    x.requires_grad_(x.is_floating_point())
    draw = batch.sample(x.detach(), seed)
    generator = torch.Generator(bench.device).manual_seed(seed)
    rows = torch.randint(batch.n, (_CHECKED_ROWS,), device=bench.device, generator=generator)
    rows[0] = batch.n - 1
    poison(bench.device, x.nbytes)
    views = bench.mix(x, draw)
    gradient: tuple[Tensor, ...] = ()
    if x.requires_grad:
        g = batch.weights(bench.device, seed + 1)
        poison(bench.device, x.nbytes)
        (dx,) = torch.autograd.grad(views, x, g)
        gradient = dx[rows], linear_gradient(g[0], draw, rows)
    truth = true_views(x.detach(), draw, rows)
    return {"seed": seed, **judge(batch, views.detach()[:, rows], *truth, gradient)}


def linear_gradient(g: Tensor, draw: Draw, rows: Tensor) -> Tensor:
    """The gradient of some rows, from that of one view."""
    c, total = draw.coef[0, :, None].double(), []
    for row in rows:
        drew = (draw.partner[0] == row).nonzero()[:, 0]
        total.append(c[row] * g[row].double() + ((1 - c[drew]) * g[drew].double()).sum(0))
    return torch.stack(total)


_ANYWHERE = [
    *[Batch(noise, 1000, 784) for noise in NOISES],
    Batch("dacl+", 33, 9001, BF16, "columns", views=3),
    Batch("dacl+", 129, 100, torch.float64, "number", strided=True),
]
_ON_A_GPU = [
    *[Batch(noise, 1000, 784, dtype) for noise in NOISES for dtype in (BF16, FP16)],
    *[
        Batch(noise, 1000, 784, dtype, low)
        for noise in ("geometric", "dacl+")
        for low in ("number", "columns")
        for dtype in (FP32, BF16, FP16)
    ],
    *[Batch(noise, 77, 1, dtype, views=3) for noise in NOISES for dtype in (FP32, BF16)],
    *[Batch(noise, 129, 333, dtype, strided=True) for noise in NOISES for dtype in (FP32, BF16)],
    Batch("linear", 2, 9001, FP16, views=1),
]
_FORMS = [Batch("dacl+", 4096, 784, dtype, "columns") for dtype in (FP32, BF16)]
_LARGE = [
    Batch("binary", 2**16, 40_000, torch.int8, views=1),
    Batch("linear", 2**16, 40_000, BF16, views=1),
]

CASES = [
    *[Case(f"accuracy {b.name}", partial(accuracy, batch=b), (b,)) for b in _ANYWHERE],
    *[Case(f"accuracy {b.name}", partial(accuracy, batch=b), (b,), True) for b in _ON_A_GPU],
    Case("binary, any bits", partial(any_bits, batch=Batch("binary", 129, 333, views=3))),
    *[
        Case(f"{name} {b.name}", partial(captured, batch=b, gradient=gradient), (b,), True)
        for b in _FORMS
        for name, gradient in (("captured", False), ("captured with gradient", True))
    ],
    *[Case(f"compiled {b.name}", partial(compiled, batch=b), (b,), b != _FORMS[0]) for b in _FORMS],
    *[Case(f"large {b.name}", partial(large, batch=b)) for b in _LARGE],
]
