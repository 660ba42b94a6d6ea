"""Optimisers by name, and the learning rate's schedule."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

OPTIMIZERS = ("adamw", "lars")
_WARMUP_SHARE = 0.05


def make_optimizer(
    name: str, model: nn.Module, lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Makes AdamW, or LARS with momentum 0.9 (You et al., arXiv 1708.03888).

    Vectors and scalars (biases, scales of normalisation, a learned temperature) are not decayed,
    and LARS does not adapt their rate either.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("model must have parameters that require a gradient, got none")
    if name == "lars":
        try:
            from pytorch_optimizer import LARS
        except ImportError as error:
            raise ImportError(
                "optimizer 'lars' needs pytorch-optimizer: pip install 'mixnoise[train]'"
            ) from error
        lars: torch.optim.Optimizer = LARS(parameters, lr=lr, weight_decay=weight_decay)
        return lars
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=lr)


def default_lr(name: str, rows_per_step: int) -> float:
    """The peak rate where none is given.

    1e-3 for AdamW; for LARS 0.3 for every 256 rows, as in SimCLR (arXiv 2002.05709).
    """
    return 1e-3 if name == "adamw" else 0.3 * rows_per_step / 256


def warmup_cosine(step: int, n_steps: int) -> float:
    """The share of the peak rate at a step: linear up over a twentieth, then a cosine to 0.

    It stays at 0 after the last step, since a loader may yield more batches than it has announced.
    """
    warmup = max(1, round(_WARMUP_SHARE * n_steps))
    progress = min(1, max(0, step - warmup) / max(1, n_steps - warmup))
    return min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * progress)))
