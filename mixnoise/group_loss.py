"""NT-Xent with the negatives of every process of a group.

The rows are gathered once, in their own dtype, and kept. In the backward only g/l of each row is
gathered (and, at temperatures that are small or tensors, log2 l), M numbers: with it every process
computes the exact gradient of its own rows, and nothing has to be sent back.
"""

from __future__ import annotations

import struct
from dataclasses import fields, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mixnoise._torch import nt_xent_rows
from mixnoise.backends import kernels_for
from mixnoise.checks import FLOAT_DTYPES
from mixnoise.collectives import check_same, exchange, failing_together, gather_rows, largest
from mixnoise.loss_arguments import (
    PRECISIONS,
    REDUCTIONS,
    check_nt_xent,
    check_torch_precision,
)


@torch.compiler.disable(recursive=True)  # how many rows the others have is seen only when it runs
def nt_xent_over_group(
    z1: Tensor,
    z2: Tensor,
    temperature: float | Tensor,
    reduction: str,
    precision: str,
    backend: str,
    group: dist.ProcessGroup,
) -> Tensor:
    """:func:`mixnoise.nt_xent` with the negatives of more than one rank."""
    module: Any = nt_xent_rows
    with failing_together(group):
        tensor, number = check_nt_xent(z1, z2, temperature, reduction, precision, backend)
        if kernels_for("nt_xent", backend, z1):
            from mixnoise_kernels import nt_xent_rows as module
        else:
            check_torch_precision(precision, z1.device)
    needs_gradient = torch.is_grad_enabled() and any(
        t.requires_grad for t in (z1, z2, tensor) if t is not None
    )
    words = (
        z1.shape[0],
        z1.shape[1],
        FLOAT_DTYPES.index(z1.dtype),
        _bits(number),
        REDUCTIONS.index(reduction),
        PRECISIONS.index(precision),
        needs_gradient,
    )
    counts, *others = zip(*exchange(words, group), strict=True)
    columns, dtypes, temperatures, reductions, precisions, gradients = others
    check_same("the number of columns of z1", columns, group)
    check_same("the dtype of z1", [FLOAT_DTYPES[i] for i in dtypes], group)
    check_same("temperature", [_number(bits) for bits in temperatures], group)
    check_same("reduction", [REDUCTIONS[i] for i in reductions], group)
    check_same("precision", [PRECISIONS[i] for i in precisions], group)
    check_same("whether a gradient is needed", [bool(i) for i in gradients], group)
    offset = sum(counts[: dist.get_rank(group)])
    rows: Tensor = _Rows.apply(z1, z2, tensor, module, number, precision, group, counts, offset)
    if reduction == "mean":
        scale: float = group.size() / (2 * sum(counts))
        return rows.sum() * scale
    return rows.sum() if reduction == "sum" else rows


def _bits(number: float) -> int:
    """The float's bits as an integer, so that NaN, which stands for a tensor, equals itself."""
    return int.from_bytes(struct.pack("<d", number), "little", signed=True)


def _number(bits: int) -> float | str:
    number = struct.unpack("<d", bits.to_bytes(8, "little", signed=True))[0]
    return "a tensor" if number != number else float(number)


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        z1: Tensor,
        z2: Tensor,
        temperature: Tensor | None,
        backend: Any,
        number: float,
        precision: str,
        group: dist.ProcessGroup,
        counts: tuple[int, ...],
        offset: int,
    ) -> Tensor:
        rows = gather_rows(torch.stack((z1, z2)), counts, group)
        loss: Tensor
        with torch.autocast(z1.device.type, enabled=False):
            loss, saved = backend.forward(z1, z2, rows, offset, temperature, number, precision)
        # By PyTorch, so that they are freed with the graph and not with the loss.
        found = {f.name: getattr(saved, f.name) for f in fields(saved)}
        ctx.names = [name for name, value in found.items() if isinstance(value, Tensor)]
        ctx.save_for_backward(z1, z2, temperature, *(found[name] for name in ctx.names))
        ctx.rest = replace(saved, **dict.fromkeys(ctx.names))
        ctx.settings = backend, number, group, counts
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            # With create_graph=True the result would carry no graph.
            raise RuntimeError("nt_xent has no second derivative: do not use create_graph=True")
        z1, z2, temperature, *tensors = ctx.saved_tensors
        saved = replace(ctx.rest, **dict(zip(ctx.names, tensors, strict=True)))
        backend, number, group, counts = ctx.settings
        grad_largest = largest(grad.abs().amax(), group)
        own = backend.weights(grad, grad_largest, saved, temperature, number)
        every = gather_rows(own, counts, group)
        with torch.autocast(z1.device.type, enabled=False):
            dz1, dz2, dt = backend.backward(
                grad, grad_largest, z1, z2, every, saved, temperature, number
            )
        dt = dt.to(temperature.dtype) if ctx.needs_input_grad[2] else None
        return dz1, dz2, dt, *[None] * 6
