"""In which dtype the PyTorch backend computes."""

from __future__ import annotations

import torch


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 stays, every other floating type is computed in float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
