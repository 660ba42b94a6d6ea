"""Partners, coefficients and kinds of a draw by the kernels: the launches."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from mixnoise_kernels.launch import launch
from mixnoise_kernels.partners import draw_kinds_kernel, draw_rows_kernel

_BLOCK = 256


def draw_rows(
    seed: Tensor, views: int, n_rows: int, alpha: float, per_batch: bool
) -> tuple[Tensor, Tensor]:
    """Partners, int64, and coefficients, float32 in (alpha, 1], each ``(views, n_rows)``."""
    partner = seed.new_empty(views, n_rows)
    coef = torch.empty_like(partner, dtype=torch.float32)
    launch(
        draw_rows_kernel,
        (triton.cdiv(n_rows, _BLOCK), views),
        seed,
        partner,
        coef,
        n_rows,
        1 - alpha,
        # One float32 above alpha: rounding must not reach alpha itself.
        min(1.0, alpha * (1 + 2**-23)),
        PER_BATCH=per_batch,
        BLOCK=_BLOCK,
        enable_fp_fusion=False,  # would round once where others round twice
    )
    return partner, coef


def draw_kinds(seed: Tensor, n_rows: int, n_kinds: int, per_batch: bool) -> Tensor:
    """uint8 ``(n_rows,)``, uniform over 0..n_kinds-1; one for all rows with ``per_batch``."""
    kind = seed.new_empty(n_rows, dtype=torch.uint8)
    launch(
        draw_kinds_kernel,
        (triton.cdiv(n_rows, _BLOCK),),
        seed,
        kind,
        n_rows,
        n_kinds,
        PER_BATCH=per_batch,
        BLOCK=_BLOCK,
    )
    return kind
