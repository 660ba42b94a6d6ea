"""Keys and draws of rows on a CPU, in NumPy: the same bits as ``random.py``'s.

A draw is some sixty operations on a few thousand numbers, each of which NumPy begins sooner than
PyTorch; and its unsigned integers need no masks.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mixnoise._torch.random import (
    GOLDEN,
    MULTIPLIER_1,
    MULTIPLIER_2,
    N_STREAMS,
    STREAM_KIND,
    STREAM_ROW,
)

_64_BITS, _HALF = 2**64 - 1, np.uint64(32)
Words = npt.NDArray[np.uint32]


def _mix64(k: int) -> int:
    """SplitMix64's finaliser."""
    k = ((k ^ (k >> 30)) * MULTIPLIER_1) & _64_BITS
    k = ((k ^ (k >> 27)) * MULTIPLIER_2) & _64_BITS
    return k ^ (k >> 31)


def _lcg(v: Words) -> Words:
    return v * np.uint32(1664525) + np.uint32(1013904223)


def _fold(v: Words) -> Words:
    return v ^ (v >> np.uint32(16))


def keys(seed: Tensor, stream: int, views: int) -> tuple[Tensor, Tensor]:
    """As ``random.keys``."""
    low, high = _keys(seed, stream, views)
    return torch.from_numpy(low.view(np.int32)), torch.from_numpy(high.view(np.int32))


def _keys(seed: Tensor, stream: int, views: int) -> tuple[Words, Words]:
    start = _mix64((int(seed) + GOLDEN) & _64_BITS)
    counts = (view * N_STREAMS + stream + 1 for view in range(views))
    k = np.array([_mix64((start + count * GOLDEN) & _64_BITS) for count in counts], np.uint64)
    return k.astype(np.uint32), (k >> _HALF).astype(np.uint32)


def _row_words(seed: Tensor, stream: int, views: int, n_rows: int) -> tuple[Words, Words, Words]:
    """The first three words of each view and row, ``(views, n_rows)``."""
    low, high = _keys(seed, stream, views)
    x, y = _lcg(low[:, None]), _lcg(high[:, None])
    z, w = _lcg(np.arange(n_rows, dtype=np.uint32)), _lcg(np.zeros(1, np.uint32))
    x = x + y * w
    y = y + z * x
    z = z + x * y
    w = w + y * z
    x, y, z, w = _fold(x), _fold(y), _fold(z), _fold(w)
    x = x + y * w
    y = y + z * x
    z = z + x * y
    return _fold(x), _fold(y), _fold(z)


def draw_rows(
    seed: Tensor, views: int, n_rows: int, alpha: float, per_batch: bool
) -> tuple[Tensor, Tensor]:
    """As ``random.draw_rows``."""
    high, low, word = _row_words(seed, STREAM_ROW, views, n_rows)
    n_others = np.uint64(n_rows - 1)
    partner = ((high * n_others + ((low * n_others) >> _HALF)) >> _HALF).view(np.int64)
    partner += partner >= np.arange(n_rows)
    u = (word >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)
    if per_batch:
        u[:] = u[:, :1]
    coef = 1 - u * np.float32(1 - alpha)
    np.maximum(coef, np.float32(min(1.0, alpha * (1 + 2**-23))), out=coef)
    return torch.from_numpy(partner), torch.from_numpy(coef)


def draw_kinds(seed: Tensor, n_rows: int, n_kinds: int, per_batch: bool) -> Tensor:
    """As ``random.draw_kinds``."""
    word, *_ = _row_words(seed, STREAM_KIND, 1, n_rows)
    kind = ((word[0] * np.uint64(n_kinds)) >> _HALF).astype(np.uint8)
    if per_batch:
        kind[:] = kind[0]
    return torch.from_numpy(kind)
