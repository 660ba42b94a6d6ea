"""Mixing of a hidden representation instead of the input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mixnoise.noises.base import Noise
from mixnoise.registry import get_noise


class Hidden(Noise):
    """Any noise, applied to a fixed-length hidden representation: v+ = mix(v, v_j).

    On a tensor of representations it acts like the inner noise. :class:`mixnoise.DACL` owns the
    split of the encoder: the part before ``at`` runs once a sample, all views are mixed from the
    same v, and the rest runs on all of them. That is how data mix that cannot be added, such as
    graphs or token ids. A part of the encoder that holds ``at`` cannot be run again in the
    backward, as activation checkpointing does, for nothing is mixed then; parts before and after it
    can.

    Args:
        noise: the inner noise, by name, as an object or as what its ``config`` gives.
        at: None mixes the encoder's output (as the paper does for graphs); the name of a submodule
            of the encoder mixes that submodule's output, whose first dimension must be that of the
            samples.
        **kwargs: passed to the inner noise if it is given by name.

    Raises:
        TypeError, ValueError: the inner noise is none, or gets arguments that it does not take;
            from :class:`mixnoise.DACL`, if ``at`` names no submodule.

    Example:
        >>> import torch
        >>> from mixnoise import get_noise
        >>> noise = get_noise("hidden", noise="linear", alpha=0.9)
        >>> noise(torch.randn(64, 512)).shape
        torch.Size([64, 512])

    Source: Verma et al., DACL, arXiv 2011.04419, section on hidden-state mixup.
    """

    name = "hidden"

    def __init__(
        self,
        noise: str | Noise | Mapping[str, Any] = "linear",
        at: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        if at is not None and not isinstance(at, str):
            raise TypeError(f"at must be None or the name of a submodule, got {at!r}")
        if isinstance(noise, Mapping):
            noise = get_noise(**noise)
        if isinstance(noise, Noise) and kwargs:
            raise TypeError(
                f"noise is an object, so it takes no further arguments, got {sorted(kwargs)}"
            )
        if not isinstance(noise, (str, Noise)):
            raise TypeError(f"noise must be a name or a Noise, got {type(noise).__name__}")
        inner = noise if isinstance(noise, Noise) else get_noise(noise, **kwargs)
        if isinstance(inner, Hidden):
            raise ValueError("noise must not be another hidden noise")
        self.noise = inner
        self.at = at

    @property
    def identity(self) -> Mapping[str, Any] | None:  # type: ignore[override] # of each object
        """Arguments of the inner noise."""
        return self.noise.identity

    def sample(
        self,
        x: Tensor,
        *,
        views: int = 1,
        generator: torch.Generator | None = None,
        seed: int | Tensor | None = None,
    ) -> Any:
        return self.noise.sample(x, views=views, generator=generator, seed=seed)

    def apply(self, x: Tensor, draw: Any) -> Tensor:  # type: ignore[override]
        """Views ``(views, N, *features)`` of x: a pure function of x and draw."""
        return self.noise.apply(x, draw)

    def config(self) -> dict[str, Any]:
        """What rebuilds this noise; the inner noise's arguments stand beside ``noise``.

        If one of them is called as an argument of this noise, all stand within.
        """
        inner = self.noise.config()
        if inner.keys() & {"noise", "at"}:
            return {"name": self.name, "noise": inner, "at": self.at}
        return {"name": self.name, "noise": inner.pop("name"), "at": self.at, **inner}
