"""Fully connected networks, on columns of numbers and on codes of categories beside them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_LARGEST_EMBEDDING = 16


def fully_connected(n_columns: int, width: int, depth: int) -> nn.Sequential:
    """``depth`` layers of linear map, batch norm and ReLU: ``(N, n_columns)`` to ``(N, width)``."""
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Linear(width if i else n_columns, width), nn.BatchNorm1d(width), nn.ReLU()]
    return nn.Sequential(*layers)


def projector(width: int, out: int = 128) -> nn.Sequential:
    """Three layers, thrown away after pre-training."""
    return nn.Sequential(fully_connected(width, width, depth=2), nn.Linear(width, out))


class TableEncoder(nn.Module):
    """Numbers and embedded codes of categories, through fully connected layers.

    Args:
        n_numbers: columns of numbers, >= 0; those after them are codes.
        cardinalities: how many codes each further column has; 0 is the code of what is rare or
            unknown, and its embedding starts at zero.
        width: of each layer and the output.
        depth: layers, >= 1.

    Shape:
        ``(N, n_numbers + len(cardinalities))`` to ``(N, width)``.
    """

    def __init__(
        self, n_numbers: int, cardinalities: Sequence[int], width: int, depth: int
    ) -> None:
        super().__init__()
        self.n_numbers = n_numbers
        sizes = [min(_LARGEST_EMBEDDING, 1 + n // 2) for n in cardinalities]
        self.embeddings = nn.ModuleList(map(nn.Embedding, cardinalities, sizes))
        for embedding in self.embeddings:
            assert isinstance(embedding, nn.Embedding)
            nn.init.zeros_(embedding.weight[0])
        self.layers = fully_connected(n_numbers + sum(sizes), width, depth)

    def forward(self, x: Tensor) -> Tensor:
        codes = x[:, self.n_numbers :].long().unbind(1)
        embedded = [embed(c) for embed, c in zip(self.embeddings, codes, strict=True)]
        h: Tensor = self.layers(torch.cat((x[:, : self.n_numbers], *embedded), dim=1))
        return h
