"""Which backend runs an operation."""

from __future__ import annotations

from types import ModuleType

from torch import Tensor

BACKENDS = ("auto", "torch", "triton")


def kernels_for(operation: str, backend: str, x: Tensor) -> ModuleType | None:
    """The kernels, if they are to be used; raises if they were demanded and cannot be."""
    if backend == "torch" or (backend == "auto" and not x.is_cuda):
        return None
    try:
        from mixnoise_kernels import operators
    except ImportError as error:
        if error.name != "triton":
            raise
        reason: str | None = "triton is not installed: pip install 'mixnoise[triton]'"
    else:
        reason = operators.why_not(operation, x)
        if reason is None:
            return operators
    if backend == "triton":
        raise RuntimeError(f"backend='triton' cannot run {operation}: {reason}")
    return None
