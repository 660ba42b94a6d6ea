"""What PyTorch asks of a function: gradients, compilation, mixed precision."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mixnoise.noises.base import Noise
from mixnoise.testing.compare import describe_error, difference, equal, within
from mixnoise.testing.report import CheckFailed, CheckSkipped
from mixnoise.testing.state import pin
from mixnoise.testing.subject import Subject, as_tensor

#: Traces forward and backward as the default backend does, without its C++ or Triton compiler.
BACKEND = "aot_eager"


def gradients(subject: Subject) -> None:
    """In float64, apply's gradient with respect to x is that of finite differences, and a draw
    made of an x that requires a gradient carries none itself."""
    x = subject.batch_or_skip(torch.float64)
    x = x[x.flatten(1).isfinite().all(1)]
    if len(x) < 2:
        raise CheckSkipped("x has no two rows that are finite")
    # Inside of x's range: at a batch's smallest value, from which a draw may have its lower end of
    # the data, a finite difference would leave the domain.
    inside = x.mean(0) + 0.75 * (x - x.mean(0))
    if not subject.apply(inside.requires_grad_(), subject.sample(x)).requires_grad:
        raise CheckFailed(
            "views of an x that requires a gradient must require one, too; does apply detach x?"
        )
    try:
        torch.autograd.gradcheck(
            lambda leaf: subject.apply(leaf, subject.sample(x)),
            inside.detach().requires_grad_(),
            check_undefined_grad=False,
            fast_mode=True,
        )
    except RuntimeError as error:
        raise CheckFailed(f"gradcheck in float64: {describe_error(error)}") from error

    def gradient(sampled: Callable[[Tensor], Tensor]) -> Tensor:
        leaf = x.clone().requires_grad_()
        views = subject.apply(leaf, subject.sample(sampled(leaf)))
        (got,) = torch.autograd.grad(views.square().sum(), leaf)
        return got

    through, around = gradient(lambda leaf: leaf), gradient(lambda leaf: leaf.detach())
    if not equal(through, around):
        raise CheckFailed(
            "a draw must carry no gradient, so that it can be applied again: detach x in sample; "
            f"gradients with and without x.detach(): {difference(through, around)}"
        )


def torch_compile(subject: Subject) -> None:
    """torch.compile(fullgraph=True) of apply gives the views, and their gradients, of apply."""
    x = subject.batch()
    n_graphs = 0
    traced = torch._dynamo.lookup_backend(BACKEND)

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        nonlocal n_graphs
        n_graphs += 1
        return traced(graph, inputs)

    # Dynamo keeps what it compiled with the code object. A new one each time leaves nothing behind
    # and never meets the limit of recompilations.
    call = types.FunctionType(_call.__code__.replace(), _call.__globals__)
    compiled = torch.compile(call, fullgraph=True, backend=backend)
    try:
        got = _with_gradient(compiled, subject.noise, x, subject.sample(x))
    except Exception as error:  # whatever a noise raises is a result
        raise CheckFailed(
            f"apply must compile with fullgraph=True, got {describe_error(error)}"
        ) from error
    if not n_graphs:
        raise CheckFailed("torch.compile compiled nothing; is it disabled?")
    expected = _with_gradient(_call, subject.noise, x, subject.sample(x))
    for what, a, b in zip(("views", "gradients"), got, expected, strict=False):
        try:
            torch.testing.assert_close(a, b, equal_nan=True)
        except AssertionError as error:
            raise CheckFailed(
                f"compiled {what} must be those of apply: {difference(a, b)}"
            ) from error


def _call(noise: Noise, x: Tensor, draw: Any) -> Tensor:
    return noise.apply(x, draw)


def _with_gradient(
    call: Callable[..., Tensor], noise: Noise, x: Tensor, draw: Any
) -> tuple[Tensor, ...]:
    leaf = x.clone().requires_grad_(x.is_floating_point())
    pin(0)
    views = as_tensor(call(noise, leaf.clone(), draw))
    if not views.requires_grad:
        return (views,)
    return views.detach(), *torch.autograd.grad(views.sum(), leaf)


def autocast(subject: Subject) -> None:
    """Under torch.autocast the views keep x's dtype, float32, and are those of the same draw
    without it within the precision of bfloat16."""
    x = subject.batch_or_skip(torch.float32)
    expected = subject.views(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = subject.views(x)
    if got.dtype != x.dtype:
        raise CheckFailed(f"views of float32 data under autocast must be float32, got {got.dtype}")
    if not within(got, expected, 8 * torch.finfo(torch.bfloat16).eps):
        raise CheckFailed(f"views under autocast: {difference(got, expected)}")
