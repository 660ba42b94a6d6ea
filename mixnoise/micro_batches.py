"""Large batches in the memory of small ones: activations are computed twice instead of kept.

The loss needs the projections of all rows at once, and no more of the network than that. So every
micro-batch is a checkpoint of its own: its forward keeps only its input, and the backward, which
then knows the gradient of all projections, repeats it. That is the gradient cache of Gao et al.
(arXiv 2101.06983) without its loops, so that one ``loss.backward()`` does everything, and hooks on
gradients, as those of ``DistributedDataParallel``, run once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def in_micro_batches(
    module: Callable[..., Tensor], inputs: tuple[Any, ...], size: int | None
) -> Tensor:
    """``module(*inputs)``; with a size, of one tensor, so many rows at a time.

    Random states and autocast are the same in both passes.
    """
    if size is None:
        return module(*inputs)
    parts = inputs[0].split(size)
    return torch.cat([checkpoint(module, part, use_reentrant=False) for part in parts])
