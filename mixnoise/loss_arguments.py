"""What NT-Xent takes: checks for one process and for a group of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mixnoise.backends import BACKENDS
from mixnoise.checks import check_alike, check_choice, check_float, check_float_tensor

REDUCTIONS = ("mean", "sum", "none")
PRECISIONS = ("auto", "ieee", "bf16x6", "bf16x3")


def check_nt_xent(
    z1: Tensor,
    z2: Tensor,
    temperature: float | Tensor,
    reduction: str,
    precision: str,
    backend: str,
) -> tuple[Tensor | None, float]:
    """The temperature as a tensor and NaN, or as None and a number."""
    check_float_tensor("z1", z1)
    check_float_tensor("z2", z2)
    if z1.ndim != 2:
        raise ValueError(f"z1 must have shape (N, D), got {tuple(z1.shape)}")
    check_alike(z1, z2)
    if z1.shape[0] == 0 or z1.shape[1] == 0:
        raise ValueError(
            f"z1 must have at least one row and one column, got an empty batch {tuple(z1.shape)}"
        )
    tensor = temperature if isinstance(temperature, Tensor) else None
    if tensor is not None and (tensor.ndim != 0 or tensor.device != z1.device):
        raise ValueError(
            f"temperature must be a 0-d tensor on {z1.device}, got shape {tuple(tensor.shape)} "
            f"on {tensor.device}"
        )
    return tensor, check_settings(temperature, reduction, precision, backend)


def check_settings(
    temperature: float | Tensor, reduction: str, precision: str, backend: str
) -> float:
    """What can be checked without rows. The temperature as a number, NaN if it is a tensor."""
    check_choice("reduction", reduction, REDUCTIONS)
    check_choice("precision", precision, PRECISIONS)
    check_choice("backend", backend, BACKENDS)
    if isinstance(temperature, Tensor):
        check_float_tensor("temperature", temperature)
        if temperature.ndim != 0:
            raise ValueError(
                f"temperature must be a 0-d tensor, got shape {tuple(temperature.shape)}"
            )
        return math.nan
    number = check_float("temperature", temperature, "a number > 0 or a 0-d tensor")
    if not 0 < number < math.inf:
        raise ValueError(f"temperature must be finite and > 0, got {number}")
    return number


def check_torch_precision(precision: str, device: torch.device) -> None:
    if precision == "auto":
        return
    # Of a CPU, too, whose libraries may take bfloat16 where they are allowed to.
    if precision == "ieee" and torch.get_float32_matmul_precision() == "highest":
        return
    raise ValueError(
        f"precision={precision!r} cannot be had from the PyTorch backend on {device} with "
        f"torch.get_float32_matmul_precision() == {torch.get_float32_matmul_precision()!r}; "
        "use 'auto'"
    )
