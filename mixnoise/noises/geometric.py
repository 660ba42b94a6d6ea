"""Geometric mixing: a weighted geometric mean."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mixnoise.checks import check_float
from mixnoise.draw import Draw
from mixnoise.noises.base import Mixup, check_sample_arguments


class GeometricLow(Mixup):
    """Base of the noises that mix geometrically, above a lower end ``low`` of the data."""

    def __init__(
        self,
        alpha: float = 0.7,
        low: str | float | Tensor = "auto",
        granularity: str = "sample",
    ) -> None:
        super().__init__(alpha, granularity)
        if isinstance(low, str):
            if low != "auto":
                raise ValueError(f"low must be 'auto', a number or a tensor, got {low!r}")
        elif isinstance(low, Tensor):
            if low.is_complex():
                raise TypeError(f"low must be real, got a tensor of {low.dtype}")
            if not low.is_meta and not low.isfinite().all():
                raise ValueError("low must be finite, got a tensor with NaN or inf")
        elif not math.isfinite(check_float("low", low, "'auto', a finite number or a tensor")):
            raise ValueError(f"low must be 'auto', a finite number or a tensor, got {low}")
        if isinstance(low, Tensor):
            # A copy, here and in each draw: working on one in place must not change the others.
            self.register_buffer("low", low.detach().clone(), persistent=False)
        else:
            self.low = low

    def sample(
        self,
        x: Tensor,
        *,
        views: int = 1,
        generator: torch.Generator | None = None,
        seed: int | Tensor | None = None,
    ) -> Draw:
        # Before the seed is drawn: an error must not move the generator.
        check_sample_arguments(self.name, x, views, min_rows=2)
        self.check_data(x)
        low = self._low(x.detach())
        return replace(super().sample(x, views=views, generator=generator, seed=seed), low=low)

    def _apply(self, fn: Any, recurse: bool = True) -> GeometricLow:
        """Casts and moves: low goes with the model but keeps its dtype and values, since rounded it
        may be above the data."""
        kept = self.low
        super()._apply(fn, recurse)
        if isinstance(kept, Tensor) and not kept.is_meta:
            self.low = kept.to(self.low.device)
        return self

    def _low(self, x: Tensor) -> Tensor | None:
        if isinstance(self.low, str):
            # Values that are not finite must not spread to the rows they are no part of.
            finite = x.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
            return finite.amin(0).clamp_(max=0)
        if not isinstance(self.low, Tensor):
            if abs(self.low) > torch.finfo(x.dtype).max:
                raise _out_of_range(self.low, x.dtype)
            if x.is_cpu:
                self._check_low(x, torch.tensor(float(self.low), dtype=x.dtype, device=x.device))
            if self.low == 0:
                return None
            return torch.full((), float(self.low), dtype=x.dtype, device=x.device)
        low = self.low.to(x, copy=True)
        try:
            low.expand(x.shape[1:])
        except RuntimeError:
            raise ValueError(
                f"low must broadcast to one row {tuple(x.shape[1:])}, got {tuple(low.shape)}"
            ) from None
        if x.is_cpu:
            if low.isinf().any():
                raise _out_of_range(self.low, x.dtype)
            self._check_low(x, low)
        return low

    def _check_low(self, x: Tensor, low: Tensor) -> None:
        if x.numel() == 0:
            return
        smallest = x.amin(0) if low.ndim else x.amin()
        if not (smallest >= low).all():  # NaN also gets here, and is let through
            below = x[x < low]
            if below.numel():
                raise ValueError(
                    f"x must be at least low everywhere, got {below.amin().item():.9g} where low "
                    f"is {_short(self.low)}; low='auto' takes any data"
                )


def _out_of_range(low: object, dtype: torch.dtype) -> ValueError:
    largest = torch.finfo(dtype).max
    return ValueError(
        f"low must be in the range of x's dtype, {dtype} (+-{largest:.4g}), got {_short(low)}"
    )


def _short(low: object) -> str:
    return f"a tensor of shape {tuple(low.shape)}" if isinstance(low, Tensor) else f"{low}"


class Geometric(GeometricLow):
    """x+ = (x - low)^c (x_j - low)^(1-c) + low, with one coefficient per row and view.

    With low = 0 and non-negative data this is the paper's formula. 0^c y^(1-c) is 0, and the
    gradient at x = low is defined as 0, but for c = 1, which leaves rows as they are: there it
    is 1. Computed as a power of two of mixed logarithms: the relative error is up to about 11 ulp
    and grows with the logarithm's magnitude. So columns overflow whose range comes within 1e-5 of
    the largest number, or exceeds it: that of float32, in which half types are computed, or of
    float64.

    Args:
        alpha: lower end of c ~ U(alpha, 1), in [0, 1]; 1 changes nothing.
        low: lower end of the data. "auto" takes min(0, smallest finite value of the batch) for
            every feature, so standardised columns just work; a number or a tensor that broadcasts
            to one row fixes it and saves a pass over x.
        granularity: "sample" draws c per row, "batch" once a view.

    Raises:
        ValueError: from ``sample``, if a value of a CPU tensor is below a fixed low. On CUDA such
            values give NaN instead, since checking would wait for the device.

    Example:
        >>> import torch
        >>> from mixnoise import get_noise
        >>> get_noise("geometric", low=0.0)(torch.rand(256, 28, 28)).shape
        torch.Size([256, 28, 28])

    Source: Verma et al., DACL, arXiv 2011.04419.
    """

    name = "geometric"
    function = "geometric"
