"""The loss as a module."""

from __future__ import annotations

from torch import Tensor, nn

from mixnoise.collectives import check_group
from mixnoise.loss_arguments import check_settings
from mixnoise.ops import nt_xent


class NTXentLoss(nn.Module):
    """:func:`mixnoise.nt_xent` with its settings, as a module.

    Args:
        temperature: as for :func:`mixnoise.nt_xent`. A ``nn.Parameter`` becomes a parameter of this
            module, another tensor a buffer.
        reduction: as there.
        precision: as there.
        group: as there. "world" is looked up when the module is called, so that it may be made
            before the processes know of each other.
        backend: as there.

    Shape:
        Two views ``(N, D)`` of one floating dtype; output 0-d, or ``(2N,)`` for "none".

    Raises:
        TypeError, ValueError: an argument breaks its rule.

    Example:
        >>> import torch
        >>> from mixnoise import NTXentLoss
        >>> z1, z2 = torch.randn(2, 256, 128)
        >>> loss = NTXentLoss(temperature=0.5)(z1, z2)
    """

    def __init__(
        self,
        temperature: float | Tensor = 0.5,
        reduction: str = "mean",
        precision: str = "auto",
        group: object = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_settings(temperature, reduction, precision, backend)
        check_group(group)
        if isinstance(temperature, Tensor) and not isinstance(temperature, nn.Parameter):
            self.register_buffer("temperature", temperature)
        else:
            self.temperature = temperature
        self.reduction = reduction
        self.precision = precision
        self.group = group
        self.backend = backend

    def forward(self, z1: Tensor, z2: Tensor) -> Tensor:
        """Loss of two views ``(N, D)``, not yet normalised."""
        return nt_xent(
            z1, z2, self.temperature, self.reduction, self.precision, self.group, self.backend
        )

    def extra_repr(self) -> str:
        t = self.temperature
        known = not (isinstance(t, Tensor) and t.is_meta)
        value = f"{float(t.detach() if isinstance(t, Tensor) else t):g}" if known else "?"
        return f"temperature={value}, reduction={self.reduction!r}"
