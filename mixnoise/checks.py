"""Checks of arguments, with messages that say the rule and what was given."""

from __future__ import annotations

import math
from numbers import Integral, Real

import torch
from torch import Tensor

FLOAT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def check_integer(name: str, value: object, least: int) -> int:
    """An integer of any library as Python's; not a bool."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} must be an integer >= {least}, got {value!r}")
    return int(value)


def check_float(name: str, value: object, rule: str) -> float:
    """A real number as a float; NaN and infinity are left to the caller's rule."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be {rule}, got {type(value).__name__} {value!r}")
    try:
        return float(value)
    except OverflowError:  # an integer or fraction beyond every float
        return -math.inf if value < 0 else math.inf


def check_float_tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    check_dense(name, value)
    if value.dtype not in FLOAT_DTYPES:
        allowed = ", ".join(str(d).removeprefix("torch.") for d in FLOAT_DTYPES)
        raise TypeError(f"{name} must have one of the dtypes {allowed}, got {value.dtype}")


def check_batch(name: str, x: object) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(x).__name__}")
    check_dense(name, x)
    if x.ndim == 0:
        raise ValueError(f"{name} must have shape (N, *features), got a 0-d tensor")
    if x.shape[0] == 0:
        raise ValueError(f"{name} must have at least one row, got an empty batch {tuple(x.shape)}")


def check_dense(name: str, x: Tensor) -> None:
    if x.is_nested:
        raise TypeError(f"{name} must be a dense tensor, got a nested one; pad its rows")
    if x.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got one with layout {x.layout}")


def check_alike(z1: Tensor, z2: Tensor) -> None:
    """Raises unless two views of a batch have one shape, dtype and device."""
    for attribute in ("shape", "dtype", "device"):
        first, second = getattr(z1, attribute), getattr(z2, attribute)
        if first != second:
            if attribute == "shape":
                first, second = tuple(first), tuple(second)
            raise ValueError(f"z1 and z2 must have the same {attribute}, got {first} and {second}")
