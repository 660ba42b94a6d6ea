"""The kernels as operators of ``torch.library``: fake tensors and autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mixnoise_kernels import blocks, draw, mix, nt_xent
from mixnoise_kernels.device import INTERPRETED, chip, current
from mixnoise_kernels.unit_rows import Temperature, empty_unit, precision_of_products

_LIBRARY = torch.library.Library("mixnoise", "FRAGMENT")


def _operator(name: str) -> Callable[[Callable[..., Any]], Any]:
    """Makes a function an operator of PyTorch.

    As ``torch.library.custom_op`` does, without what that checks at every call: with few rows the
    host's time is what counts.
    """

    def register(function: Callable[..., Any]) -> Any:
        schema = torch.library.infer_schema(function, mutates_args=())
        _LIBRARY.define(name + schema, tags=torch.Tag.pt2_compliant_tag)
        # What runs inside a compiled function must not be compiled itself.
        _LIBRARY.impl(name, torch.compiler.disable(function), "CompositeExplicitAutograd")
        return getattr(torch.ops.mixnoise, name).default

    return register


def why_not(operation: str, z: Tensor) -> str | None:
    """What keeps the kernels of an operation from running on such a tensor, or None."""
    if z.device.type != "cuda" and not (INTERPRETED and z.device.type == "cpu"):
        return (
            f"it needs CUDA tensors, these are on {z.device} (TRITON_INTERPRET=1, set before "
            "Python starts, runs kernels on the CPU, for tests)"
        )
    if operation == "nt_xent":
        if z.dtype not in (torch.float16, torch.bfloat16, torch.float32):
            return f"there is no kernel for {z.dtype}"
        if z.shape[1] > blocks.LONGEST_ROW:
            return f"rows may have {blocks.LONGEST_ROW} columns at most, these have {z.shape[1]}"
    if torch.version.hip is not None:
        return "it is made for NVIDIA GPUs"
    if _major(z.device) < 8:
        return "it needs a GPU of compute capability 8.0 or higher"
    return None


@torch.compiler.assume_constant_result
def _major(device: torch.device) -> int:
    return chip(device).major


@_operator("triton_nt_xent")
def nt_xent_rows(
    z1: Tensor, z2: Tensor, temperature: Tensor | None, number: float, precision: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    with current(z1):
        return nt_xent.forward(z1, z2, Temperature(temperature, number), precision)


@torch.library.register_fake("mixnoise::triton_nt_xent", lib=_LIBRARY)
def _(
    z1: Tensor, z2: Tensor, temperature: Tensor | None, number: float, precision: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n = z1.shape[0]
    unit = empty_unit(z1, n, precision_of_products(precision, z1.dtype))
    inverse_norm = z1.new_empty(unit.shape[:2], dtype=torch.float32)
    stats = z1.new_empty(2, *unit.shape[:2], dtype=torch.float64)
    return z1.new_empty(2 * n, dtype=torch.float32), unit, inverse_norm, stats


@_operator("triton_nt_xent_backward")
def nt_xent_backward(
    grad: Tensor,
    z1: Tensor,
    z2: Tensor,
    unit: Tensor,
    inverse_norm: Tensor,
    stats: Tensor,
    temperature: Tensor | None,
    number: float,
) -> tuple[Tensor, Tensor, Tensor]:
    t = Temperature(temperature, number)
    with current(z1):
        return nt_xent.backward(grad, z1, z2, unit, inverse_norm, stats, t)


@torch.library.register_fake("mixnoise::triton_nt_xent_backward", lib=_LIBRARY)
def _(grad: Tensor, z1: Tensor, z2: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    _, _, stats, temperature, _ = rest
    dz1, dz2 = (torch.empty_like(z, memory_format=torch.contiguous_format) for z in (z1, z2))
    return dz1, dz2, stats.new_empty(0 if temperature is None else ())


def _nt_xent_setup(ctx: Any, inputs: Any, output: Any) -> None:
    z1, z2, temperature, number, _ = inputs
    _, unit, inverse_norm, stats = output
    ctx.mark_non_differentiable(unit, inverse_norm, stats)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(z1, z2, unit, inverse_norm, stats, temperature)
    ctx.number = number


def _nt_xent_grad(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if grad is None:
        return None, None, None, None, None
    if torch.is_grad_enabled():
        # With create_graph=True the result would carry no graph, and a penalty on it would vanish.
        raise RuntimeError("nt_xent has no second derivative: do not use create_graph=True")
    *tensors, temperature = ctx.saved_tensors
    dz1, dz2, dt = nt_xent_backward(grad, *tensors, temperature, ctx.number)
    dt = dt.to(temperature.dtype) if ctx.needs_input_grad[2] else None
    return dz1, dz2, dt, None, None


torch.library.register_autograd(
    "mixnoise::triton_nt_xent", _nt_xent_grad, setup_context=_nt_xent_setup, lib=_LIBRARY
)


@_operator("triton_mix")
def mix_views(
    x: Tensor,
    seed: Tensor,
    partner: Tensor,
    coef: Tensor,
    kind: Tensor | None,
    low: Tensor | None,
    function: str,
) -> Tensor:
    with current(x):
        return mix.mix(x, seed, partner, coef, kind, low, function)


@torch.library.register_fake("mixnoise::triton_mix", lib=_LIBRARY)
def _(x: Tensor, seed: Tensor, partner: Tensor, *_: Any) -> Tensor:
    return x.new_empty(partner.shape[0], *x.shape)


@_operator("triton_mix_backward")
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
    with current(grad):
        return mix.mix_backward(grad, x, seed, partner, coef, kind, low, function)


@torch.library.register_fake("mixnoise::triton_mix_backward", lib=_LIBRARY)
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
    # Without a formula PyTorch takes it for zero, and warns at most.
    raise RuntimeError("mix has no second derivative: do not use create_graph=True")


torch.library.register_autograd(
    "mixnoise::triton_mix", _mix_grad, setup_context=_mix_setup, lib=_LIBRARY
)
torch.library.register_autograd("mixnoise::triton_mix_backward", _mix_second_grad, lib=_LIBRARY)


@_operator("triton_draw_rows")
def draw_rows(
    seed: Tensor, views: int, n_rows: int, alpha: float, per_batch: bool
) -> tuple[Tensor, Tensor]:
    with current(seed):
        return draw.draw_rows(seed, views, n_rows, alpha, per_batch)


@torch.library.register_fake("mixnoise::triton_draw_rows", lib=_LIBRARY)
def _(
    seed: Tensor, views: int, n_rows: int, alpha: float, per_batch: bool
) -> tuple[Tensor, Tensor]:
    partner = seed.new_empty(views, n_rows)
    return partner, torch.empty_like(partner, dtype=torch.float32)


@_operator("triton_draw_kinds")
def draw_kinds(seed: Tensor, n_rows: int, n_kinds: int, per_batch: bool) -> Tensor:
    with current(seed):
        return draw.draw_kinds(seed, n_rows, n_kinds, per_batch)


@torch.library.register_fake("mixnoise::triton_draw_kinds", lib=_LIBRARY)
def _(seed: Tensor, n_rows: int, n_kinds: int, per_batch: bool) -> Tensor:
    return seed.new_empty(n_rows, dtype=torch.uint8)
