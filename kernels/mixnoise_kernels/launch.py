"""Launches kernels; a second time without what Triton does to find what it has compiled.

Triton's launch looks at the type, the value and the alignment of every argument, and at every
global that a kernel reads: more of the host's time than many a kernel takes. Here a dictionary is
asked with the same properties, and what it holds is launched as in Triton's tutorial on fused
softmax.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from triton.runtime import driver

from mixnoise_kernels.device import INTERPRETED

_ALIGNMENT = 16  # of a pointer in bytes, and a number's divisor: what Triton compiles apart


class _Launcher:
    """Launches one kernel."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self.names: list[str] = kernel.arg_names
        self.constants = [self.names[i] for i in kernel.constexprs]
        self.variables = [name for name in self.names if name not in self.constants]
        self.compiled: dict[tuple[object, ...], Any] = {}

    def launch(self, grid: tuple[int, ...], args: tuple[Any, ...], named: dict[str, Any]) -> None:
        values = dict(zip(self.names, args, strict=False)) | named
        key = [driver.active.get_current_device(), *[values[name] for name in self.constants]]
        key += [option for name, option in named.items() if name not in self.names]
        for name in self.variables:
            value = values[name]
            if isinstance(value, Tensor):
                key += value.dtype, value.data_ptr() % _ALIGNMENT == 0
            elif isinstance(value, int):
                # 1 becomes a constant; what does not fit into 32 bits takes 64.
                key += value == 1, value % _ALIGNMENT == 0, -(2**31) <= value < 2**31
            else:
                key.append(type(value))
        found = tuple(key)
        compiled = self.compiled.get(found)
        if compiled is None:
            self.compiled[found] = self.kernel[grid](*args, **named)
        else:
            compiled[(*grid, 1, 1)[:3]](*[values[name] for name in self.names])


_LAUNCHERS: dict[Any, _Launcher] = {}


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **named: Any) -> None:
    """``kernel[grid](*args, **named)``; options, such as num_warps, come in the same order."""
    if INTERPRETED:
        kernel[grid](*args, **named)
        return
    launcher = _LAUNCHERS.get(kernel)
    if launcher is None:
        launcher = _LAUNCHERS[kernel] = _Launcher(kernel)
    launcher.launch(grid, args, named)
