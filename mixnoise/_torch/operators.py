"""The PyTorch backend as operators of ``torch.library``: fake tensors and autograd.

So compiling a model neither unrolls the tiles, nor meets the choices that depend on the data, nor
changes a bit of the integer arithmetic behind a draw.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mixnoise._torch import host_random as _host_random
from mixnoise._torch import mix as _mix
from mixnoise._torch import nt_xent as _nt_xent
from mixnoise._torch import random as _random
from mixnoise._torch.dtypes import compute_dtype


@torch.library.custom_op("mixnoise::nt_xent", mutates_args=())
def nt_xent_rows(
    z1: Tensor, z2: Tensor, temperature: Tensor | None, fixed_temperature: float, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    with torch.autocast(z1.device.type, enabled=False):
        return _nt_xent.forward(z1, z2, temperature, fixed_temperature, keep)


@nt_xent_rows.register_fake
def _(
    z1: Tensor, z2: Tensor, temperature: Tensor | None, fixed_temperature: float, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, d = z1.shape
    loss = z1.new_empty(2 * n, dtype=compute_dtype(z1.dtype))
    stats = z1.new_empty(3, 2 * n, dtype=_nt_xent.stats_dtype(z1.device))
    kept = _nt_xent.kept_elements(loss.dtype, n, temperature, fixed_temperature, keep)
    return loss, loss.new_empty(2 * n, d), stats, loss.new_empty(kept)


@torch.library.custom_op("mixnoise::nt_xent_backward", mutates_args=())
def nt_xent_backward(
    grad: Tensor,
    z: Tensor,
    stats: Tensor,
    kept: Tensor,
    temperature: Tensor | None,
    fixed_temperature: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    with torch.autocast(z.device.type, enabled=False):
        return _nt_xent.backward(grad, z, stats, kept, temperature, fixed_temperature, dtype)


@nt_xent_backward.register_fake
def _(grad: Tensor, z: Tensor, stats: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    *_, dtype = rest
    n, d = z.shape[0] // 2, z.shape[1]
    return z.new_empty(n, d, dtype=dtype), z.new_empty(n, d, dtype=dtype), stats.new_empty(())


def _nt_xent_setup(ctx: Any, inputs: Any, output: Any) -> None:
    z1, _, temperature, fixed_temperature, _ = inputs
    _, z, stats, kept = output
    ctx.mark_non_differentiable(z, stats, kept)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(z, stats, kept, temperature)
    ctx.fixed_temperature, ctx.dtype = fixed_temperature, z1.dtype


def _nt_xent_grad(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if grad is None:
        return None, None, None, None, None
    if torch.is_grad_enabled():
        # With create_graph=True the result would carry no graph, and a penalty on it would vanish.
        raise RuntimeError("nt_xent has no second derivative: do not use create_graph=True")
    z, stats, kept, temperature = ctx.saved_tensors
    dz1, dz2, dt = nt_xent_backward(
        grad, z, stats, kept, temperature, ctx.fixed_temperature, ctx.dtype
    )
    dt = dt.to(temperature.dtype) if ctx.needs_input_grad[2] else None
    return dz1, dz2, dt, None, None


nt_xent_rows.register_autograd(_nt_xent_grad, setup_context=_nt_xent_setup)


@torch.library.custom_op("mixnoise::mix", mutates_args=())
def mix_views(
    x: Tensor,
    seed: Tensor,
    partner: Tensor,
    coef: Tensor,
    kind: Tensor | None,
    low: Tensor | None,
    function: str,
) -> Tensor:
    return _mix.mix(x, seed, partner, coef, kind, low, function)


@mix_views.register_fake
def _(x: Tensor, seed: Tensor, partner: Tensor, *_: Any) -> Tensor:
    return x.new_empty(partner.shape[0], *x.shape)


@torch.library.custom_op("mixnoise::mix_backward", mutates_args=())
def mix_backward(
    grad: Tensor,
    x: Tensor | None,
    seed: Tensor,
    partner: Tensor,
    coef: Tensor,
    kind: Tensor | None,
    low: Tensor | None,
    function: str,
) -> Tensor:
    return _mix.mix_backward(grad, x, seed, partner, coef, kind, low, function)


@mix_backward.register_fake
def _(grad: Tensor, *_: Any) -> Tensor:
    return grad.new_empty(grad.shape[1:])


def _mix_setup(ctx: Any, inputs: Any, output: Any) -> None:
    x, seed, partner, coef, kind, low, ctx.function = inputs
    if ctx.function != "geometric" and kind is None:
        x = None  # the gradient is that of any x, which may be changed in place
    ctx.save_for_backward(x, seed, partner, coef, kind, low)


def _mix_grad(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, seed, partner, coef, kind, low = ctx.saved_tensors
    if ctx.function == "gaussian" and kind is None:
        return grad.sum(0), None, None, None, None, None, None
    dx = mix_backward(grad, x, seed, partner, coef, kind, low, ctx.function)
    return dx, None, None, None, None, None, None


def _mix_second_grad(ctx: Any, grad: Tensor) -> None:
    raise RuntimeError("mix has no second derivative: do not use create_graph=True")


mix_views.register_autograd(_mix_grad, setup_context=_mix_setup)
mix_backward.register_autograd(_mix_second_grad)


@torch.library.custom_op("mixnoise::draw_rows", mutates_args=())
def draw_rows(
    seed: Tensor, views: int, n_rows: int, alpha: float, per_batch: bool
) -> tuple[Tensor, Tensor]:
    draw = _host_random.draw_rows if seed.is_cpu else _random.draw_rows
    return draw(seed, views, n_rows, alpha, per_batch)


@draw_rows.register_fake
def _(
    seed: Tensor, views: int, n_rows: int, alpha: float, per_batch: bool
) -> tuple[Tensor, Tensor]:
    partner = seed.new_empty(views, n_rows)
    return partner, torch.empty_like(partner, dtype=torch.float32)


@torch.library.custom_op("mixnoise::draw_kinds", mutates_args=())
def draw_kinds(seed: Tensor, n_rows: int, n_kinds: int, per_batch: bool) -> Tensor:
    draw = _host_random.draw_kinds if seed.is_cpu else _random.draw_kinds
    return draw(seed, n_rows, n_kinds, per_batch)


@draw_kinds.register_fake
def _(seed: Tensor, n_rows: int, n_kinds: int, per_batch: bool) -> Tensor:
    return seed.new_empty(n_rows, dtype=torch.uint8)
