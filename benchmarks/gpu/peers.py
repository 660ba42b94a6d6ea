"""What people compute NT-Xent and mix batches with on a GPU today.

PEERS are makers of functions of z1, z2 and t, MIX_PEERS of functions that return the views of x.
A maker raises ImportError if its package is not there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch._functorch import config as functorch_config
from torch.nn import functional as F

from benchmarks.speed.peers import nt_xent as eager
from mixnoise import Draw

Loss = Callable[[Tensor, Tensor, float], Tensor]
Views = Callable[[], tuple[Tensor, ...]]


def _compiled(loss: Loss, device: torch.device, mode: str | None = None) -> Loss:
    torch.compiler.reset()  # else the second size would be compiled for all sizes
    # Else a compiled backward may overwrite what was saved for it, and run only once.
    functorch_config.donated_buffer = False
    if device.type != "cuda":
        return torch.compile(loss, backend="eager", dynamic=False)
    return torch.compile(loss, mode=mode, dynamic=False)


COMPILED: dict[str, Callable[[Loss, torch.device], Loss]] = {
    "default": _compiled,
    "reduce-overhead": partial(_compiled, mode="reduce-overhead"),
}


def _lightly(device: torch.device) -> Loss:
    from lightly.loss import NTXentLoss

    return lambda z1, z2, t: NTXentLoss(temperature=t)(z1, z2)


def _inf_cl(device: torch.device) -> Loss:
    """Made for CLIP; over both views at once it differs by one negative in 2N, the row itself."""
    from inf_cl import cal_flash_loss

    def loss(z1: Tensor, z2: Tensor, t: float) -> Tensor:
        z = F.normalize(torch.cat((z1, z2)), dim=1)
        positive = torch.arange(len(z), device=z.device).roll(len(z1))
        return cal_flash_loss(z, z, positive, 1 / t, head_dim=z.shape[1]).mean()

    return loss


PEERS: dict[str, Callable[[torch.device], Loss]] = {
    "eager": lambda device: eager,
    "compiled": partial(_compiled, eager),
    "lightly": _lightly,
    "inf_cl": _inf_cl,
}


def _formula(noise: str, x: Tensor, other: Tensor, c: Tensor, kind: Tensor | None) -> Tensor:
    if noise == "linear":
        return c * x + (1 - c) * other
    if noise == "geometric":
        return x**c * other ** (1 - c)
    if noise == "binary":
        return torch.where(torch.rand_like(x) < c, x, other)
    if noise == "gaussian":
        return x + c * torch.randn_like(x)
    linear, geometric, binary = (
        _formula(each, x, other, c, kind) for each in ("linear", "geometric", "binary")
    )
    return torch.where(kind == 0, linear, torch.where(kind == 1, geometric, binary))


def _formulas(
    noise: str, x: Tensor, partner: Tensor, coef: Tensor, kind: Tensor | None
) -> tuple[Tensor, ...]:
    each = zip(partner, coef, strict=True)
    return tuple(_formula(noise, x, x[p], c, kind) for p, c in each)


def _bound(formulas: Callable[..., tuple[Tensor, ...]], noise: str, x: Tensor, draw: Draw) -> Views:
    kind = None if draw.kind is None else draw.kind[:, None]
    return partial(formulas, noise, x, draw.partner, draw.coef[..., None].to(x.dtype), kind)


def eager_views(noise: str, x: Tensor, draw: Draw) -> Views:
    return _bound(_formulas, noise, x, draw)


def compiled_views(noise: str, x: Tensor, draw: Draw) -> Views:
    torch.compiler.reset()  # as above
    backend = "inductor" if x.is_cuda else "eager"
    return _bound(torch.compile(_formulas, backend=backend, dynamic=False), noise, x, draw)


def _torchvision(noise: str, x: Tensor, draw: Draw) -> Views:
    """One coefficient a batch; partners are neighbours."""
    from torchvision.transforms.v2 import MixUp

    mixup, labels = MixUp(num_classes=2), torch.zeros(len(x), dtype=torch.int64, device=x.device)
    return lambda: tuple(mixup(x[:, None, None], labels)[0][:, 0, 0] for _ in draw.partner)


def _kornia(noise: str, x: Tensor, draw: Draw) -> Views:
    from kornia.augmentation import RandomMixUpV2

    mixup = RandomMixUpV2(p=1.0, data_keys=["input", "class"])
    labels = torch.zeros(len(x), device=x.device)
    return lambda: tuple(mixup(x[:, None, None], labels)[0][:, 0, 0] for _ in draw.partner)


MIX_PEERS: dict[str, Callable[[str, Tensor, Draw], Views]] = {
    "eager": eager_views,
    "compiled": compiled_views,
    "torchvision": _torchvision,
    "kornia": _kornia,
}
# They draw as well, and mix in one way only.
LIBRARIES = ("torchvision", "kornia")
