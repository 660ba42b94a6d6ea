"""Residual networks for images, large and small."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}
_WIDTH = 64  # channels of the first stage


def _convolution(n_in: int, n_out: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, size, stride, padding=size // 2, bias=False)


def _layers(widths: list[int], sizes: list[int], strides: list[int]) -> Iterator[nn.Module]:
    """Convolutions, each with batch norm, and ReLU between them."""
    for i, (size, stride) in enumerate(zip(sizes, strides, strict=True)):
        if i:
            yield nn.ReLU(inplace=True)
        yield _convolution(widths[i], widths[i + 1], size, stride)
        yield nn.BatchNorm2d(widths[i + 1])


class _Block(nn.Module):
    """Two 3 x 3 convolutions, or a bottleneck of three, beside the identity."""

    def __init__(self, n_in: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        n_out = 4 * width if bottleneck else width
        if bottleneck:  # the stride is in the middle, as in everything that came after the paper
            layers = _layers([n_in, width, width, n_out], [1, 3, 1], [1, stride, 1])
        else:
            layers = _layers([n_in, width, n_out], [3, 3], [stride, 1])
        self.residual = nn.Sequential(*layers)
        same = stride == 1 and n_in == n_out
        self.shortcut = (
            nn.Identity() if same else nn.Sequential(*_layers([n_in, n_out], [1], [stride]))
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.residual(x) + self.shortcut(x))


class ResNet(nn.Module):
    """Images ``(N, 3, H, W)`` to ``(N, out_features)``.

    Args:
        depth: 18 or 50.
        width: multiplies all channels, > 0; the paper has up to 4.
        small: for images of 32 pixels: the first convolution is 3 x 3 and nothing is pooled.

    He et al., CVPR 2016; wide and for small images as in Chen et al., SimCLR, arXiv 2002.05709.
    """

    def __init__(self, depth: int, width: float = 1, small: bool = False) -> None:
        super().__init__()
        n = round(_WIDTH * width)
        first = [_convolution(3, n, 3)] if small else [_convolution(3, n, 7, stride=2)]
        layers: list[nn.Module] = [*first, nn.BatchNorm2d(n), nn.ReLU(inplace=True)]
        layers += [] if small else [nn.MaxPool2d(3, stride=2, padding=1)]
        bottleneck = depth >= 50
        for stage, n_blocks in enumerate(BLOCKS[depth]):
            channels = round(_WIDTH * width) * 2**stage
            for block in range(n_blocks):
                stride = 2 if stage and not block else 1
                layers.append(_Block(n, channels, stride, bottleneck))
                n = 4 * channels if bottleneck else channels
        self.layers = nn.Sequential(*layers)
        self.out_features = n
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        # What tensor cores are fastest with; a copy only where it is not so already.
        x = x.contiguous(memory_format=torch.channels_last)
        return self.layers(x).mean((2, 3))


def projector(width: int, out: int = 128) -> nn.Sequential:
    """SimCLR's, with batch norm between its two layers; thrown away after pre-training."""
    return nn.Sequential(
        nn.Linear(width, width, bias=False),
        nn.BatchNorm1d(width),
        nn.ReLU(inplace=True),
        nn.Linear(width, out),
    )
