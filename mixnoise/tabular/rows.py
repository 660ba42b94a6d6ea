"""Rows to train on, of a dense matrix or a sparse one, and some of them held out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

_ROWS_AT_A_TIME = 4096


class SparseRows(Dataset[Tensor]):
    """Rows of a CSR matrix, scaled and dense, made as they are asked for."""

    def __init__(self, matrix: Any, scale: Any) -> None:
        self.matrix, self.scale = matrix, scale

    def __len__(self) -> int:
        n_rows: int = self.matrix.shape[0]
        return n_rows

    def __getitem__(self, rows: Any) -> Tensor:
        dense = self.matrix[np.asarray(rows)].toarray() / self.scale
        return torch.from_numpy(dense.astype(np.float32))

    def __getitems__(self, rows: list[int]) -> list[Tensor]:
        return list(self[rows])


Rows = Tensor | SparseRows


def parts(x: Rows) -> Iterator[Tensor]:
    """All rows in their order, some thousands at a time."""
    for rows in torch.arange(len(x), device="cpu").split(_ROWS_AT_A_TIME):
        yield x[rows]


def held_out(x: Rows, n: int, generator: torch.Generator) -> tuple[Rows, Tensor]:
    """The rows to train on, and n others chosen at random.

    Those of a tensor are moved to its end, in place, so that nothing is copied.
    """
    order = torch.randperm(len(x), generator=generator, device="cpu")
    if isinstance(x, SparseRows):
        kept = np.sort(order[n:].numpy())
        return SparseRows(x.matrix[kept], x.scale), x[order[:n]]
    first = len(x) - n
    chosen = order[:n].sort().values
    # Those that are at the end already stay, and the others change places with what is there.
    tail = torch.arange(first, len(x), device="cpu")
    out_of, into = chosen[chosen < first], tail[~torch.isin(tail, chosen)]
    x[into], x[out_of] = x[out_of], x[into]
    return x[:first], x[first:]
