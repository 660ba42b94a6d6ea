"""One size, dtype and temperature of NT-Xent, and inputs for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from benchmarks.gpu.bench import Bench

# Relative error, ||found - true|| / ||true||, of losses and of gradients.
_HALF, _TF32, _16_BITS, _FLOAT32 = 2e-2, 2e-3, 1e-4, 1e-5
# Below it the tolerance grows as 1/t. Unit rows are rounded to the operands' type (bfloat16,
# float16, 16 bits, or float32 as it is), which moves a cosine by some unit in the last place, the
# similarity by that over t, and every exponential, so every gradient, by as much in proportion.
_TOLERANT_BELOW = 0.05


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@dataclass(frozen=True)
class Problem:
    """``precision`` is nt_xent's; ``matmul`` is that of torch.set_float32_matmul_precision."""

    n: int
    d: int
    dtype: torch.dtype = torch.bfloat16
    temperature: float = 0.05
    precision: str = "auto"
    matmul: str = "highest"
    learns_temperature: bool = False
    scene: str = "scattered"

    @property
    def rows(self) -> int:
        return 2 * self.n

    @property
    def products(self) -> str:
        """What the products are taken in, for names and tables."""
        if self.dtype != torch.float32:
            return str(self.dtype).removeprefix("torch.")
        if self.precision != "auto":
            return self.precision
        return {"highest": "float32", "high": "float32 (high)"}[self.matmul]

    @property
    def name(self) -> str:
        scene = "" if self.scene == "scattered" else f" {self.scene}"
        learnt = " learnt" if self.learns_temperature else ""
        return f"{self.rows}x{self.d} {self.products} t={self.temperature}{learnt}{scene}"

    @property
    def tolerance(self) -> float:
        has_16_bits = self.precision == "bf16x3" or (
            self.precision == "auto" and self.matmul == "high"
        )
        base = _HALF if self.dtype != torch.float32 else _16_BITS if has_16_bits else _FLOAT32
        return base * max(1.0, _TOLERANT_BELOW / self.temperature)

    @property
    def tolerance_of_peers(self) -> float:
        """Relative, of their loss: theirs may be from products in TF32."""
        return max(self.tolerance, _TF32 if self.matmul == "high" else 0.0)

    @property
    def kind(self) -> object:
        """What takes other lines of the benchmark's code."""
        return self.dtype, self.learns_temperature

    def shrunk(self) -> Problem:
        return replace(self, n=min(self.n, 21), d=min(self.d, 20))

    def warm_up(self, bench: Bench) -> None:
        leaves, weights = self.inputs(bench.device, 0), self.weights(bench.device, 0)
        bench.value_and_grads(self, leaves, weights)

    def inputs(self, device: torch.device, seed: int) -> tuple[Tensor, ...]:
        """z1, z2 and, if it is to be learnt, the temperature: leaves that require gradients.

        Every other row is near its positive, the rest are not: small losses and large ones.
        """
        generator = torch.Generator(device).manual_seed(seed)
        z1, z2 = torch.randn(2, self.n, self.d, device=device, generator=generator)
        index = torch.arange(self.n, device=device)[:, None]
        z2 = torch.where(index % 2 == 0, z1 + z2, z2)
        if self.scene == "zero rows":  # on their own, and both of a pair
            z1, z2 = z1 * (index % 5 > 0), z2 * (index > 0)
        elif self.scene == "scaled":
            size = torch.tensor([1.0, 1e20, 1e-25], device=device)
            z1, z2 = z1 * size[index % 3], z2 * size[index // 3 % 3]
        views = tuple(z.to(self.dtype).requires_grad_() for z in (z1, z2))
        if not self.learns_temperature:
            return views
        return *views, torch.tensor(self.temperature, device=device, requires_grad=True)

    def weights(self, device: torch.device, seed: int) -> Tensor:
        """Gradients that arrive at the losses, of both signs."""
        generator = torch.Generator(device).manual_seed(seed)
        return 2 * torch.rand(self.rows, device=device, generator=generator) - 1

    def temperature_of(self, leaves: tuple[Tensor, ...]) -> float | Tensor:
        return leaves[2] if self.learns_temperature else self.temperature
