"""Unit rows, as the kernels over pairs take them: their layout, precision and normalisation."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from mixnoise_kernels import blocks
from mixnoise_kernels.device import INTERPRETED
from mixnoise_kernels.launch import launch
from mixnoise_kernels.normalize import PLAIN_FROM, normalize_kernel

# Of bfloat16 for a number of float32, by the products of these that count.
_TERMS = {"bf16x3": 2, "bf16x6": 3}


def padded(n: int) -> int:
    """Rows that a view of n rows takes."""
    return -(-n // blocks.ALIGNMENT) * blocks.ALIGNMENT


def precision_of_products(precision: str, dtype: torch.dtype) -> str:
    """ "auto" follows PyTorch's own setting for float32."""
    if dtype != torch.float32:
        return "ieee"  # products of half types are exact, and summed in float32
    if precision != "auto":
        return precision
    return "bf16x6" if torch.get_float32_matmul_precision() == "highest" else "bf16x3"


def empty_unit(z: Tensor, n: int, precision: str) -> Tensor:
    """Room for unit rows, ``(2, padded(N), terms, D')``, of the input's dtype in one term.

    Products of bfloat16 are of rows in some terms of it, cut once and not in every tile.
    """
    terms = _TERMS.get(precision, 1)
    dtype = torch.bfloat16 if terms > 1 else z.dtype
    if INTERPRETED and dtype == torch.bfloat16:
        dtype = torch.float32  # the interpreter's products of bfloat16 are wrong
    return z.new_empty(2, padded(n), terms, blocks.row_length(z.shape[1]), dtype=dtype)


def operands(unit: Tensor) -> str:
    """What is multiplied, by the name in blocks.py; what stands for bfloat16 has its blocks."""
    terms = unit.shape[2]
    if terms > 1:
        return next(name for name, n in _TERMS.items() if n == terms)
    return "half" if unit.element_size() == 2 else "float32"


@dataclass(frozen=True)
class Temperature:
    """A tensor on the device, which the host never reads, or a number."""

    tensor: Tensor | None
    number: float

    def arguments(self, like: Tensor) -> dict[str, object]:
        # A pointer has to be given in any case.
        tensor = like if self.tensor is None else self.tensor
        return {
            "temperature_ptr": tensor,
            "temperature": self.number,
            "FROM_TENSOR": self.tensor is not None,
        }

    def forms(self) -> tuple[bool, ...]:
        """RUNNING of the kernels to be launched: both, where only the device can tell."""
        if self.tensor is not None:
            return (False, True)
        # As the kernels see it.
        number, plain_from = (ctypes.c_float(t).value for t in (self.number, PLAIN_FROM.value))
        return (not number >= plain_from,)


def with_columns_side_by_side(z: Tensor) -> Tensor:
    """z itself, as nearly always, or a copy if its columns do not lie side by side."""
    return z if z.stride(1) == 1 else z.contiguous()


def normalize(
    z1: Tensor, z2: Tensor, temperature: Temperature, precision: str
) -> tuple[Tensor, Tensor]:
    """Unit rows, see empty_unit, times the form's factor, and 1 / norm ``(2, padded(N))``."""
    z1, z2 = with_columns_side_by_side(z1), with_columns_side_by_side(z2)
    n, d = z1.shape
    unit = empty_unit(z1, n, precision)
    _, n_padded, terms, block_d = unit.shape
    inverse_norm = z1.new_empty(2, n_padded, dtype=torch.float32)
    rows = blocks.rows_at_a_time(block_d)
    launch(
        normalize_kernel,
        (n_padded // rows, 2),
        z1,
        z2,
        unit,
        inverse_norm,
        n=n,
        d=d,
        n_padded=n_padded,
        stride1=z1.stride(0),
        stride2=z2.stride(0),
        TINY=torch.finfo(z1.dtype).tiny,
        ROUND=z1.dtype == torch.bfloat16 and INTERPRETED,
        BLOCK_ROWS=rows,
        BLOCK_D=block_d,
        TERMS=terms,
        **temperature.arguments(unit),
    )
    return unit, inverse_norm
