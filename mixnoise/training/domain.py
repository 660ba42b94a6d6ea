"""Whether rows are what a model's noises mix, asked before anything is begun."""

from __future__ import annotations

import torch
from torch import Tensor

from mixnoise.model import DACL
from mixnoise.noises.hidden import Hidden


def check_domain(name: str, batch: Tensor, model: DACL) -> None:
    """Raises if a noise cannot draw for a batch of the argument of that name.

    Raises:
        TypeError, ValueError: as the noise has it.
    """
    for noise in model.noises:
        if isinstance(noise, Hidden):  # it mixes what the encoder makes of them
            continue
        tensors = (*noise.parameters(), *noise.buffers())
        device = next((t.device for t in tensors), batch.device)
        try:
            noise.sample(batch.to(device), views=2, generator=torch.Generator())
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"noise {noise.name!r} cannot mix {name}: {error}") from error
