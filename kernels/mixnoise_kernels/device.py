"""What the kernels run on."""

from __future__ import annotations

from functools import lru_cache

import torch
import triton
from torch import Tensor

from mixnoise_kernels.blocks import Chip

# With TRITON_INTERPRET=1, set before this is imported, kernels run on the CPU, for tests.
INTERPRETED: bool = triton.knobs.runtime.interpret

# The interpreter stands for a Hopper with few multiprocessors, so that each gets several blocks.
_INTERPRETER = Chip(9, 227 * 1024, 2)


@lru_cache
def chip(device: torch.device) -> Chip:
    if device.type != "cuda":
        return _INTERPRETER
    p = torch.cuda.get_device_properties(device)
    shared_memory: int = p.shared_memory_per_block_optin  # type: ignore[attr-defined] # no stub
    return Chip(p.major, shared_memory, p.multi_processor_count)


def current(x: Tensor) -> torch.cuda.device:
    """Makes the device of x the current one, on which kernels are launched; -1 leaves it."""
    return torch.cuda.device(x.device if x.is_cuda else -1)
