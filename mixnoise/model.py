"""DACL as a module: encoder, projector, noise and loss, in any training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mixnoise.checks import check_float, check_integer
from mixnoise.collectives import failing_together, resolve
from mixnoise.hidden_site import HiddenSite, check_rows, check_site, site_of, two_views
from mixnoise.losses import NTXentLoss
from mixnoise.micro_batches import in_micro_batches
from mixnoise.noises.base import Noise
from mixnoise.noises.hidden import Hidden


class DACL(nn.Module):
    """Domain-agnostic contrastive learning, Algorithm 1 of the paper: ``loss = model(x)``.

    Two positives of each row are made by ``noise``, encoded and projected together (so batch
    statistics see both), and contrasted by NT-Xent. Throw the projector away afterwards and use
    ``model.encoder``.

    Args:
        encoder: what is to be pre-trained; returns one row per input row.
        projector: from the encoder's output to ``(rows, D)``.
        noise: from :func:`mixnoise.get_noise`, or a list of several. With "hidden" noise the inputs
            go to the encoder untouched, whatever they are, and its representation is mixed: the
            encoder's output, or that of the submodule ``at``. The part of the encoder before ``at``
            sees N rows, the rest 2N; make such an encoder before compiling it, not after.
            The losses of several noises on the same batch are added, as in SimCLR+DACL. Each makes
            two views of its own, which the encoder sees apart from those of the others: the sum is
            that of the losses of models with one noise each, batch norm included.
        temperature: a number > 0, or a 0-d tensor; a ``nn.Parameter`` is learned. If it changes
            during training, a tensor: ``torch.compile`` compiles for each number anew.
        gather: contrast each row with those of all processes, not only of its own. Partners of
            mixing stay in the process. The loss is scaled such that the mean over processes, which
            ``DistributedDataParallel`` takes of gradients, is that of one process with all rows;
            see ``group`` of :func:`mixnoise.nt_xent`. With one process nothing changes.
        weights: of the losses of several noises, each finite and > 0; default: 1 each.

    Shape:
        Input ``(N, *features)``, N >= 2 for mixing noises; output 0-d.

    Raises:
        TypeError, ValueError: an argument breaks its rule; ``at`` names no submodule (the message
            has close matches), its output is not a tensor, or it did not run exactly once.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from mixnoise import DACL, get_noise
        >>> encoder = nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 64))
        >>> model = DACL(encoder, nn.Linear(64, 32), get_noise("dacl+"), temperature=0.5)
        >>> loss = model(torch.randn(128, 30))
        >>> loss.backward()

    Source: Verma et al., arXiv 2011.04419.
    """

    def __init__(
        self,
        encoder: nn.Module,
        projector: nn.Module,
        noise: Noise | Sequence[Noise],
        temperature: float | Tensor = 0.5,
        gather: bool = False,
        weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        several = [noise] if isinstance(noise, Noise) else _listed(noise)
        for name, module, kind in (
            ("encoder", encoder, nn.Module),
            ("projector", projector, nn.Module),
            *(("noise", each, Noise) for each in several),
        ):
            if not isinstance(module, kind):
                raise TypeError(f"{name} must be a {kind.__name__}, got {type(module).__name__}")
        self.encoder = encoder
        self.projector = projector
        self.noise = noise if isinstance(noise, Noise) else nn.ModuleList(several)
        self.weights = _weights(weights, len(several))
        self.loss = NTXentLoss(temperature, group="world" if gather else None)
        self._sites = [site_of(self, encoder, each) for each in several]

    @property
    def noises(self) -> tuple[Noise, ...]:
        """All of them, also if there is one."""
        found: Any = (self.noise,) if isinstance(self.noise, Noise) else self.noise
        return tuple(found)

    @property
    def takes_anything(self) -> bool:
        """Whether inputs go to the encoder untouched, whatever they are."""
        return all(isinstance(noise, Hidden) for noise in self.noises)

    def forward(
        self,
        *inputs: Any,
        generator: torch.Generator | None = None,
        draw: Any = None,
        micro_batch: int | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Loss of one batch.

        Args:
            *inputs: one tensor ``(N, *features)``; with "hidden" noise whatever the encoder takes.
            generator: source of the noise's randomness; default: the device's own.
            draw: a draw of two views made earlier, instead of a fresh one; a list of them for
                several noises.
            micro_batch: rows that encoder and projector take at a time, >= 1; None: all. What they
                keep for the backward is computed again there, a micro-batch at a time, with the
                same dropout. So memory is that of a micro-batch, and loss and gradient are those
                of the whole batch, for a second forward. Not for layers that look at the whole
                batch, such as batch norm in training mode, nor for "hidden" noise at a submodule.
            **kwargs: with "hidden" noise passed to the encoder.

        Returns:
            0-d, in float32 (float64 for float64 projections).

        Raises:
            TypeError, ValueError: the inputs are not what the noise mixes or the encoder's output
                has other rows; the draw is not of two views; ``micro_batch`` cannot be used.
        """
        group = resolve(self.loss.group)
        with nullcontext() if group is None else failing_together(group):
            pairs = [
                self._pair(i, inputs, kwargs, generator, each, micro_batch)
                for i, each in enumerate(self._draws(draw))
            ]
        losses = [self.loss(z1, z2) for z1, z2 in pairs]
        if self.weights is not None:
            losses = [w * loss for w, loss in zip(self.weights, losses, strict=True)]
        return torch.stack(losses).sum() if len(losses) > 1 else losses[0]

    def project(
        self,
        *inputs: Any,
        generator: torch.Generator | None = None,
        draw: Any = None,
        micro_batch: int | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """What the loss contrasts: the projections of two views, ``(N, D)`` each.

        Arguments as for :meth:`forward`. Of several noises, those of the first.
        """
        return self._pair(0, inputs, kwargs, generator, self._draws(draw)[0], micro_batch)

    def _draws(self, draw: Any) -> Sequence[Any]:
        """One for each noise; None: to be drawn."""
        if len(self.noises) != len(self._sites):
            raise RuntimeError(
                f"the model was made with {len(self._sites)} noises and has {len(self.noises)} "
                "now: make another DACL"
            )
        if isinstance(self.noise, Noise):
            return [draw]
        n = len(self.noises)
        if draw is None:
            return [None] * n
        if not isinstance(draw, Sequence) or len(draw) != n:
            got = f"{len(draw)}" if isinstance(draw, Sequence) else type(draw).__name__
            raise TypeError(f"draw must be a list of {n} draws, one for each noise, got {got}")
        return draw

    def _pair(
        self,
        index: int,  # of the noise
        inputs: tuple[Any, ...],
        kwargs: dict[str, Any],
        generator: torch.Generator | None,
        draw: Any,
        micro_batch: int | None,
    ) -> tuple[Tensor, Tensor]:
        """The projections of two views, ``(N, D)`` each."""
        noise, site = self.noises[index], self._sites[index]
        check_site(site, noise)
        if micro_batch is not None:
            micro_batch = check_integer("micro_batch", micro_batch, 1)
            self._check_micro_batches(inputs, kwargs, site)
        rest: Callable[[Tensor], Tensor] = self._project
        if site is not None:
            h = site.run(self.encoder, inputs, kwargs, generator, draw)  # (2N, ...)
        elif isinstance(noise, Hidden):
            v = in_micro_batches(partial(self.encoder, **kwargs), inputs, micro_batch)  # (N, ...)
            h = two_views(noise, v, "the encoder's output", generator, draw)
        else:
            if len(inputs) != 1 or kwargs:
                raise TypeError(
                    f"noise {noise.name!r} mixes the input, so the model takes one tensor, "
                    f"got {len(inputs)} positional and {len(kwargs)} keyword arguments; "
                    "'hidden' noise takes any input"
                )
            h, rest = two_views(noise, inputs[0], "x", generator, draw), self._encode_and_project
        z = in_micro_batches(rest, (h,), micro_batch)
        z1, z2 = z.unflatten(0, (2, -1)).unbind(0)  # chunk would fix N in torch.export
        return z1, z2

    def _encode_and_project(self, x: Tensor) -> Tensor:
        h = self.encoder(x)
        check_rows("encoder", h, x.shape[0])
        return self._project(h)

    def _project(self, h: Tensor) -> Tensor:
        z: Tensor = self.projector(h)
        check_rows("projector", z, h.shape[0])
        if z.ndim != 2:
            raise ValueError(f"the projector must return shape (rows, D), got {tuple(z.shape)}")
        return z

    def _check_micro_batches(
        self, inputs: tuple[Any, ...], kwargs: dict[str, Any], site: HiddenSite | None
    ) -> None:
        if site is not None:
            raise ValueError(
                f"micro_batch must be None for hidden noise at {site.noise.at!r}, in the "
                "middle of the encoder: the rows that are mixed there are those of the whole batch"
            )
        if kwargs or len(inputs) != 1 or not isinstance(inputs[0], Tensor):
            raise TypeError("micro_batch cuts one tensor of rows, and the model got other inputs")
        for name, module in self.named_modules():
            # SyncBatchNorm and those that are lazy are among them.
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
                raise ValueError(
                    f"micro_batch must be None for a model with batch norm in training mode, "
                    f"{name!r}: its statistics are those of the whole batch; use LayerNorm or "
                    "GroupNorm"
                )


def _listed(noises: Any) -> list[Noise]:
    if not isinstance(noises, Sequence) or isinstance(noises, str):
        raise TypeError(f"noise must be a Noise, got {type(noises).__name__}; several go in a list")
    if not noises:
        raise ValueError("noise must be a Noise, got an empty list")
    return list(noises)


def _weights(weights: Sequence[float] | None, n_noises: int) -> list[float] | None:
    if weights is None:
        return None
    if not isinstance(weights, Sequence):
        raise TypeError(f"weights must be a list of {n_noises} numbers, got {weights!r}")
    values = [check_float("weights", w, "finite numbers > 0") for w in weights]
    if len(values) != n_noises or not all(0 < w < math.inf for w in values):
        raise ValueError(
            f"weights must be {n_noises} finite numbers > 0, one for each noise, got {weights}"
        )
    return values
