"""NT-Xent by the kernels: the launches, and what lies between them.

With unit rows z_i, positive p(i), temperature t, s_ij = z_i . z_j / t, and n_i the sum of exp(s_ik)
over k != i, p(i):

    loss_i   = softplus(log n_i - s_ip)
    l_i      = n_i + exp(s_ip),  u_i = g_i / l_i  with g_i = dL/dloss_i
    dL/dz_i  = (1/t) [ sum over k != i, p(i) of exp(s_ik) (u_i + u_k) z_k
                       - (g_i n_i/l_i + g_p n_p/l_p) z_p ]
    dL/dt    = -(1/2t) sum_i z_i . dL/dz_i

The sums take each pair once, M^2 D FLOP; the gradient takes rows in turn, 4 M^2 D FLOP. The rows of
one process against those of all processes are the same functions with fewer own rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from mixnoise_kernels import blocks
from mixnoise_kernels.device import chip
from mixnoise_kernels.gradient import gradient_kernel
from mixnoise_kernels.launch import launch
from mixnoise_kernels.loss import loss_kernel, weights_kernel
from mixnoise_kernels.normalize import normalize_backward_kernel
from mixnoise_kernels.rows import rows_kernel
from mixnoise_kernels.triangle import triangle_kernel
from mixnoise_kernels.unit_rows import (
    Temperature,
    normalize,
    operands,
    precision_of_products,
    with_columns_side_by_side,
)

_ROWS_AT_A_TIME = 32


def sums_of_all(unit: Tensor, n: int, temperature: Temperature) -> tuple[Tensor, Tensor]:
    """Sums of exponentials ``(S, 2, padded(N))``, to be added up, and log2 of what divided them."""
    _, n_padded, terms, block_d = unit.shape
    if temperature.forms() == (True,):
        return sums_of_rows(unit, n, 0, unit, n, temperature)
    on = chip(unit.device)
    chosen = blocks.triangle(operands(unit), block_d, on)
    programs = on.multiprocessors * (2 if chosen.warps <= 4 else 1)
    n_programs, n_parts = blocks.split(triton.cdiv(n, chosen.rows), programs)
    zeros = unit.new_zeros(n_programs + 1, 2, n_padded, dtype=torch.float32)
    sums, largest = zeros[:-1], zeros[-1]
    launch(
        triangle_kernel,
        (n_programs,),
        unit,
        sums,
        n=n,
        n_padded=n_padded,
        n_parts=n_parts,
        WARPS=min(chosen.warps, chosen.rows // 16),
        STAGES=chosen.stages,
        BLOCK=chosen.rows,
        BLOCK_D=block_d,
        BLOCK_K=chosen.k,
        TERMS=terms,
        num_warps=chosen.warps,
        **temperature.arguments(unit),
    )
    if temperature.tensor is not None:
        # Only one of the two finds its form; the other leaves everything as it is.
        _launch_rows(True, unit, n, 0, unit, n, sums, largest, temperature)
    return sums, largest


def sums_of_rows(
    own: Tensor,
    n_own: int,
    offset: int,
    unit: Tensor,
    n: int,
    temperature: Temperature,
) -> tuple[Tensor, Tensor]:
    """The same for own rows, laid out alike, which are rows offset ... of either view."""
    sums, largest = own.new_zeros(2, 1, *own.shape[:2], dtype=torch.float32)
    for running in temperature.forms():
        _launch_rows(running, own, n_own, offset, unit, n, sums, largest, temperature)
    return sums, largest


def _launch_rows(
    running: bool,
    own: Tensor,
    n_own: int,
    offset: int,
    unit: Tensor,
    n: int,
    sums: Tensor,
    largest: Tensor,
    temperature: Temperature,
) -> None:
    _, own_padded, terms, block_d = own.shape
    chosen = blocks.rows(operands(own), block_d, running, chip(own.device))
    launch(
        rows_kernel,
        (2 * own_padded // chosen.rows,),
        own,
        unit,
        sums,
        largest,
        n_own=n_own,
        own_padded=own_padded,
        offset=offset,
        n=n,
        n_padded=unit.shape[1],
        RUNNING=running,
        STAGES=chosen.stages,
        BLOCK=chosen.rows,
        BLOCK_COLUMNS=chosen.columns,
        BLOCK_D=block_d,
        BLOCK_K=chosen.k,
        TERMS=terms,
        num_warps=chosen.warps,
        **temperature.arguments(unit),
    )


def losses(
    own: Tensor, n_own: int, sums: Tensor, largest: Tensor, temperature: Temperature
) -> tuple[Tensor, Tensor]:
    """Loss ``(2 n_own,)``, and log2 l and n/l ``(2, 2, padded(n_own))`` in float64."""
    _, own_padded, terms, block_d = own.shape
    loss = own.new_empty(2 * n_own, dtype=torch.float32)
    stats = own.new_empty(2, 2, own_padded, dtype=torch.float64)
    launch(
        loss_kernel,
        (own_padded // _ROWS_AT_A_TIME,),
        own,
        sums,
        largest,
        loss_ptr=loss,
        log2_l_ptr=stats[0],
        share_ptr=stats[1],
        n=n_own,
        n_padded=own_padded,
        n_sums=sums.shape[0],
        BLOCK_ROWS=_ROWS_AT_A_TIME,
        BLOCK_SUMS=16,
        BLOCK_D=block_d,
        BLOCK_K=min(block_d, 64),
        TERMS=terms,
        **temperature.arguments(own),
    )
    return loss, stats


@dataclass(frozen=True)
class Weights:
    """What the gradient takes of the upstream gradient: see loss.weights_kernel."""

    weight: Tensor  # (2, padded(N))
    log2_l: Tensor  # (2, padded(N))
    pull: Tensor  # (padded(N),)
    scale: Tensor  # ()


def weights(
    grad: Tensor,
    grad_largest: Tensor,
    stats: Tensor,
    n: int,
    temperature: Temperature,
    dtype: torch.dtype,
) -> Weights:
    """From the losses' gradient ``(2 N,)`` and its largest magnitude, over all processes."""
    n_padded = stats.shape[2]
    vectors = grad.new_empty(5, n_padded, dtype=torch.float32)
    scale = grad.new_empty((), dtype=torch.float32)
    launch(
        weights_kernel,
        (triton.cdiv(n_padded, 128),),
        grad,
        grad_largest,
        stats[0],
        stats[1],
        weight_ptr=vectors[0],
        rounded_ptr=vectors[2],
        pull_ptr=vectors[4],
        scale_ptr=scale,
        n=n,
        n_padded=n_padded,
        grad_stride=grad.stride(0),
        # In float16 weights of 1/M would be subnormal; none is over 2.
        WEIGHT_SCALE=2.0**14 if dtype == torch.float16 else 1.0,
        BLOCK_ROWS=128,
        **temperature.arguments(vectors),
    )
    return Weights(vectors[:2], vectors[2:4], vectors[4], scale)


def gradient(
    z1: Tensor,
    z2: Tensor,
    own: Tensor,
    inverse_norm: Tensor,
    own_weights: Weights,
    offset: int,
    unit: Tensor,
    n: int,
    all_weights: Weights,
    temperature: Temperature,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of own views z1 and z2, and z . dL/dz of each row ``(2, padded(n_own))``."""
    z1, z2 = with_columns_side_by_side(z1), with_columns_side_by_side(z2)
    n_own, d = z1.shape
    _, own_padded, terms, block_d = own.shape
    on = chip(own.device)
    chosen = blocks.rows(operands(own), block_d, False, on)
    n_programs = 2 * own_padded // chosen.rows * (block_d // chosen.out)
    # Halves of the columns, where there are too few rows to keep all multiprocessors busy.
    parts = 2 if n_programs < 2 * on.multiprocessors else 1
    negatives = own.new_empty(parts, 2, own_padded, block_d, dtype=torch.float32)
    for running in temperature.forms():
        chosen = blocks.rows(operands(own), block_d, running, on)
        launch(
            gradient_kernel,
            (2 * own_padded // chosen.rows, block_d // chosen.out, parts),
            own,
            own_weights.weight,
            own_weights.log2_l,
            unit,
            all_weights.weight,
            all_weights.log2_l,
            negatives,
            n_own=n_own,
            own_padded=own_padded,
            offset=offset,
            n=n,
            n_padded=unit.shape[1],
            RUNNING=running,
            STAGES=chosen.stages,
            BLOCK=chosen.rows,
            BLOCK_COLUMNS=chosen.columns,
            BLOCK_D=block_d,
            BLOCK_K=chosen.k,
            BLOCK_OUT=chosen.out,
            TERMS=terms,
            PARTS=parts,
            num_warps=chosen.warps,
            **temperature.arguments(own),
        )
    dz1, dz2 = (z.new_empty(z.shape) for z in (z1, z2))
    along = own.new_empty(2, own_padded, dtype=torch.float32)
    rows = blocks.rows_at_a_time(block_d)
    launch(
        normalize_backward_kernel,
        (own_padded // rows, 2),
        z1,
        z2,
        own,
        inverse_norm,
        negatives,
        own_weights.pull,
        own_weights.scale,
        dz1,
        dz2,
        along,
        n=n_own,
        d=d,
        n_padded=own_padded,
        stride1=z1.stride(0),
        stride2=z2.stride(0),
        PARTS=parts,
        BLOCK_ROWS=rows,
        BLOCK_D=block_d,
        TERMS=terms,
    )
    return dz1, dz2, along


def forward(
    z1: Tensor, z2: Tensor, temperature: Temperature, precision: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss ``(2N,)``, and unit rows, 1 / norm and stats for the backward."""
    n = z1.shape[0]
    precision = precision_of_products(precision, z1.dtype)
    unit, inverse_norm = normalize(z1, z2, temperature, precision)
    sums, largest = sums_of_all(unit, n, temperature)
    loss, stats = losses(unit, n, sums, largest, temperature)
    return loss, unit, inverse_norm, stats


def backward(
    grad: Tensor,
    z1: Tensor,
    z2: Tensor,
    unit: Tensor,
    inverse_norm: Tensor,
    stats: Tensor,
    temperature: Temperature,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of z1 and z2, and of the temperature (float64) if it is a tensor."""
    n = z1.shape[0]
    largest = torch.linalg.vector_norm(grad, float("inf"))
    own = weights(grad, largest, stats, n, temperature, unit.dtype)
    dz1, dz2, along = gradient(z1, z2, unit, inverse_norm, own, 0, unit, n, own, temperature)
    return dz1, dz2, temperature_gradient(along, n, temperature)


def temperature_gradient(along: Tensor, n: int, temperature: Temperature) -> Tensor:
    """float64, from the last result of ``gradient``; empty if the temperature is a number."""
    if temperature.tensor is None:
        return along.new_empty(0, dtype=torch.float64)
    return along[:, :n].sum(dtype=torch.float64) / (-2 * temperature.tensor.double())
