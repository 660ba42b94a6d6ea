"""Comparing values, and saying how they differ."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def equal(a: Any, b: Any) -> bool:
    """Same values; tensors also in shape, dtype and device, and NaN equals NaN.

    Of objects that only equal themselves, such as modules, a copy's class is all that can be asked.
    """
    if type(a) is not type(b) and isinstance(a, Tensor | np.ndarray):
        return False
    if isinstance(a, Tensor):
        if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device:
            return False
        return bool(((a == b) | ((a != a) & (b != b))).all())
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b, equal_nan=a.dtype.kind in "fc" and b.dtype.kind in "fc")
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    if type(a).__eq__ is object.__eq__:  # type: ignore[comparison-overlap] # not of Any
        return type(a) is type(b)
    try:
        return bool(a == b) or bool(a != a and b != b)
    except (RuntimeError, ValueError):  # it holds tensors or arrays, whose == is no truth value
        return type(a) is type(b)


def within(a: Tensor, b: Tensor, slack: float) -> bool:
    """Whether they differ by no more than that share of a value, and of the largest finite one."""
    finite = b[b.isfinite()].abs()
    largest = float(finite.amax()) if finite.numel() else 0.0
    return torch.allclose(a, b, rtol=slack, atol=slack * largest, equal_nan=True)


def difference(got: Tensor, expected: Tensor) -> str:
    """How far two tensors are apart, in words."""
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return (
            f"expected {expected.dtype} of shape {tuple(expected.shape)}, got {got.dtype} of "
            f"shape {tuple(got.shape)}"
        )
    wide_got, wide_expected = got.detach().double(), expected.detach().double()
    differs = ~((wide_got == wide_expected) | (wide_got.isnan() & wide_expected.isnan()))
    if not differs.any():
        return "they are equal"
    at = tuple(int(i) for i in differs.nonzero()[0])
    return (
        f"{int(differs.sum())} of {differs.numel()} elements differ, the first at {at}: expected "
        f"{expected[at].item():.6g}, got {got[at].item():.6g}"
    )


def describe_error(error: BaseException | None) -> str:
    """Type and message in one line; torch's can have dozens."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message[:400]}{'...' if len(message) > 400 else ''}"
