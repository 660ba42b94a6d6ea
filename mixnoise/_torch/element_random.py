"""Random bits for single elements, of the hash in ``random.py``."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

from mixnoise._torch import host_random, random
from mixnoise._torch.random import STREAM_ELEMENT, hash_words, lcg


class ElementHash:
    """Random bits for the elements of all views of ``(n_rows, n_columns)``, block by block.

    One hash serves 4 or 8 columns: word q of block b serves neighbouring columns of the q-th
    quarter, so that memory is read and written in runs. A quarter is a multiple of 8 columns, so
    that those runs are aligned to 16 bytes in half precision, too.
    """

    def __init__(self, seed: Tensor, views: int, n_rows: int, n_columns: int) -> None:
        self._seed, self._views, self._n_rows, self._n_columns = seed, views, n_rows, n_columns
        self.n_hashed = 32 * math.ceil(n_columns / 32)  # columns of the four quarters
        self._w: dict[int, Tensor] = {}
        self._scratch = torch.empty(0, dtype=torch.int32, device=seed.device)

    @cached_property
    def _xyz(self) -> tuple[Tensor, Tensor, Tensor]:
        """Keys of each view and the rows, ready for the rounds; only made where they are used."""
        keys = host_random.keys if self._seed.is_cpu else random.keys
        low, high = keys(self._seed, STREAM_ELEMENT, self._views)
        row = torch.arange(self._n_rows, dtype=torch.int32, device=self._seed.device)
        return lcg(low), lcg(high), lcg(row)[:, None]

    def _words(self, view: int, rows: slice | Tensor, columns_per_hash: int) -> Tensor:
        """int32 ``(4, R, B)``, gone with the next call."""
        x, y, z = self._xyz
        z = z[rows]
        if columns_per_hash not in self._w:
            n_blocks = self.n_hashed // columns_per_hash
            block = torch.arange(n_blocks, dtype=torch.int32, device=z.device)
            self._w[columns_per_hash] = lcg(block)
        w = self._w[columns_per_hash]
        size = 8 * z.numel() * w.numel()
        if self._scratch.numel() < size:
            self._scratch = self._scratch.new_empty(size)
        words = self._scratch[:size].view(8, z.numel(), w.numel())
        return hash_words(x[view], y[view], z, w, words)

    def keep_mask(self, view: int, rows: slice | Tensor, coef: Tensor) -> Tensor:
        """Bernoulli(coef) per element as int32 ``(R, n_columns)``: -1 keeps, 0 swaps.

        16 bits an element: coef ``(R, 1)`` is rounded to 2^-16, and 1 keeps everything. The mask
        comes from a subtraction and a shift because comparisons to bool are several times slower
        on a CPU.
        """
        lane = self._words(view, rows, 8).view(torch.int16).transpose(0, 1)  # (R, 4, 2B)
        mask = torch.empty(lane.shape, dtype=torch.int32, device=lane.device).copy_(lane)
        threshold = (coef * 65536).round().to(torch.int32) - 32768  # lanes are signed
        mask.sub_(threshold[..., None]).bitwise_right_shift_(31)
        return mask.flatten(1)[:, : self._n_columns]

    def normal(self, view: int, rows: slice | Tensor) -> Tensor:
        """Standard normal deviates by Box and Muller, float32 ``(R, n_columns)``.

        The radius has 31 bits, exact towards zero, and so reaches 6.6 standard deviations.
        """
        words = self._words(view, rows, 4)
        radius = (words[:2] & 0x7FFFFFFF).float().add_(0.5).mul_(2.0**-31)
        radius.log_().mul_(-2.0).sqrt_()
        angle = words[2:].float().mul_(math.pi * 2.0**-31)
        deviate = radius.new_empty(radius.shape[1], 4, radius.shape[2])
        quarters = deviate.transpose(0, 1)
        torch.mul(angle.cos(), radius, out=quarters[:2])
        torch.mul(angle.sin_(), radius, out=quarters[2:])
        return deviate.flatten(1)[:, : self._n_columns]
