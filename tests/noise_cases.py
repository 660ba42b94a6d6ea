"""Mixing by the kernels, for tests."""

from __future__ import annotations

from nt_xent_cases import DEVICE
from torch import Tensor

from mixnoise import Draw, ops


def triton_mix(x: Tensor, draw: Draw) -> Tensor:
    """On DEVICE, from and to wherever x lies; gradients come back, too."""
    return ops.mix(x.to(DEVICE), draw.to(DEVICE), backend="triton").to(x.device)
