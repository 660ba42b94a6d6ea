"""One noise, size and dtype of a batch to be mixed, and its views in float64 from the equations.

    linear     c x + (1 - c) y
    geometric  (x - low)^c (y - low)^(1 - c) + low, with no gradient where a factor is 0
    binary     x or y, element by element
    gaussian   x + c d

y is the partner's row; where c is 1 a view is x itself, but for gaussian. What binary keeps and the
normal deviates d come from the PyTorch backend on the CPU: d is float32's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mixnoise import Draw, Noise, get_noise
from mixnoise._torch.element_random import ElementHash
from mixnoise.draw import FUNCTIONS

if TYPE_CHECKING:
    from benchmarks.gpu.bench import Bench

NOISES = ("linear", "geometric", "binary", "gaussian", "dacl+")
_LOW = {"zero": 0.0, "number": -8.0, "columns": "auto"}


@dataclass(frozen=True)
class Batch:
    """``low`` is that of geometric mixing: zero, some number, or the least value of each column."""

    noise: str
    n: int
    f: int
    dtype: torch.dtype = torch.float32
    low: str = "zero"
    views: int = 2
    strided: bool = False

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    @property
    def name(self) -> str:
        low = "" if self.low == "zero" else f" low={self.low}"
        views = "" if self.views == 2 else f" {self.views} views"
        strided = " strided" if self.strided else ""
        return f"{self.noise} {self.n}x{self.f} {self.dtype_name}{low}{views}{strided}"

    @property
    def module(self) -> Noise:
        has_low = self.noise in ("geometric", "dacl+")
        return get_noise(self.noise, **({"low": _LOW[self.low]} if has_low else {}))

    @property
    def kind(self) -> object:
        """What takes other lines of the benchmark's code."""
        return self.noise, self.dtype.is_floating_point, self.strided

    def shrunk(self) -> Batch:
        return replace(self, n=min(self.n, 4), f=min(self.f, 9))

    def inputs(self, device: torch.device, seed: int) -> Tensor:
        """x: within [0, 1), zeros among it, where low is 0; any bits where they are integers."""
        generator = torch.Generator(device).manual_seed(seed)
        like = {"dtype": self.dtype, "device": device, "generator": generator}
        if not self.dtype.is_floating_point:
            return torch.randint(-128, 128, (self.n, self.f), **like)
        positive = self.noise in ("geometric", "dacl+") and self.low == "zero"
        x = (torch.rand if positive else torch.randn)(self.n, self.f, **like)
        return spread(x) if self.strided else x

    def weights(self, device: torch.device, seed: int) -> Tensor:
        """Gradients that arrive at the views."""
        generator = torch.Generator(device).manual_seed(seed)
        shape = (self.views, self.n, self.f)
        g = torch.randn(shape, dtype=self.dtype, device=device, generator=generator)
        return spread(g) if self.strided else g

    def sample(self, x: Tensor, seed: int | None = None) -> Draw:
        return self.module.sample(x, views=self.views, seed=seed)

    def warm_up(self, bench: Bench) -> None:
        x = self.inputs(bench.device, 0).requires_grad_()
        views = bench.mix(x, self.sample(x))
        torch.autograd.grad(views, x, self.weights(bench.device, 0))


def spread(x: Tensor) -> Tensor:
    """The same values with gaps between them."""
    wide = x.new_zeros(*x.shape[:-1], 2 * x.shape[-1] + 1)
    wide[..., 1::2] = x
    return wide[..., 1::2]


def true_views(x: Tensor, draw: Draw, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Views ``(V, R, F)`` of some rows, and the largest of the magnitudes that they are made of."""
    n_views, (n_rows, n_columns) = len(draw.partner), x.shape
    bits, on_cpu = ElementHash(draw.seed.cpu(), n_views, n_rows, n_columns), rows.cpu()
    low = torch.zeros((), device=x.device) if draw.low is None else draw.low.double()
    views, sizes = [], []
    for v in range(n_views):
        coef = draw.coef[v, rows, None]
        keep = (bits.keep_mask(v, on_cpu, coef.cpu()) < 0).to(x.device)
        deviate = bits.normal(v, on_cpu).to(x.device).double()
        c, own, other = coef.double(), x[rows].double(), x[draw.partner[v, rows]].double()
        each = {
            "linear": c * own + (1 - c) * other,
            "geometric": _power_mean(own - low, other - low, c) + low,
            "binary": torch.where(keep, own, other),
        }
        each = {name: torch.where(c == 1, own, view) for name, view in each.items()}
        each["gaussian"] = own + c * deviate
        view = each[draw.function]
        if draw.kind is not None:
            for code, name in enumerate(FUNCTIONS):
                view = torch.where(draw.kind[rows, None] == code, each[name], view)
        floor = c if draw.function == "gaussian" else low
        views.append(view)
        sizes.append(torch.stack([t.detach().abs() for t in (view, own, other)]).amax(0))
        sizes[-1] = torch.maximum(sizes[-1], floor.abs())
    return torch.stack(views), torch.stack(sizes)


def _power_mean(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    inside = (a > 0) & (b > 0)
    a, b = (torch.where(inside, t, 1.0) for t in (a, b))
    return torch.where(inside, a**c * b ** (1 - c), 0.0)
