"""Counter-based random numbers: words = hash(seed, stream, view, row, block of columns).

The same integer arithmetic gives the same bits on every device and needs no state, so nothing
of the size of the data is ever stored. The hash is pcg4d (Jarzynski and Olano, "Hash Functions
for GPU Rendering", JCGT 9(3), 2020) on a key from SplitMix64's finaliser (Steele, Lea and Flood,
OOPSLA 2014), which spreads neighbouring seeds, streams and views over all 64 key bits. A last
xorshift repairs pcg4d's lowest bits, in which neighbouring rows were seen to be related.
PyTorch has few unsigned operations, so words are int32 and wrap around.
"""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

STREAM_ROW, STREAM_KIND, STREAM_ELEMENT, N_STREAMS = 0, 1, 2, 4

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MULTIPLIER_1 = 0xBF58476D1CE4E5B9 - 2**64
_MULTIPLIER_2 = 0x94D049BB133111EB - 2**64


def _mix64(k: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64; the masks make the shifts logical."""
    k = (k ^ ((k >> 30) & (2**34 - 1))) * _MULTIPLIER_1
    k = (k ^ ((k >> 27) & (2**37 - 1))) * _MULTIPLIER_2
    return k ^ ((k >> 31) & (2**33 - 1))


def keys(seed: Tensor, stream: int, views: int) -> tuple[Tensor, Tensor]:
    """Two int32 key words for each view: low and high half of a mixed 64-bit key, ``(views,)``."""
    view = torch.arange(views, device=seed.device)
    k = _mix64(_mix64(seed + _GOLDEN) + (view * N_STREAMS + (stream + 1)) * _GOLDEN)
    low, high = k.view(torch.int32).view(views, 2).unbind(1)
    return low, high


def _lcg(v: Tensor) -> Tensor:
    return v * 1664525 + 1013904223


def _fold_(v: Tensor, scratch: Tensor) -> None:
    """v ^= v >> 16, as if v were unsigned."""
    torch.bitwise_right_shift(v, 16, out=scratch)
    v.bitwise_xor_(scratch.bitwise_and_(0xFFFF))


def _rounds(x: Tensor, y: Tensor, z: Tensor, w: Tensor, words: Tensor) -> Tensor:
    """pcg4d after its linear congruential step, into ``words[:4]``; ``words[4:]`` is scratch.

    ``words`` is ``(8, *shape)``. In place, since fresh memory costs more than the arithmetic; but x
    keeps the smaller shape of x, y and w until z, which has the rows, is mixed into it.
    """
    out_x, out_y, out_z, out_w = words[:4].unbind()
    x = torch.addcmul(x, y, w)
    torch.addcmul(y, z, x, out=out_y)
    torch.addcmul(z, x, out_y, out=out_z)
    torch.addcmul(w, out_y, out_z, out=out_w)
    _fold_(x, torch.empty_like(x))
    _fold_(words[1:4], words[4:7])
    torch.addcmul(x, out_y, out_w, out=out_x)
    out_y.addcmul_(out_z, out_x)
    out_z.addcmul_(out_x, out_y)
    out_w.addcmul_(out_y, out_z)
    return words[:4]


def pcg4d(x: Tensor, y: Tensor, z: Tensor, w: Tensor) -> Tensor:
    """Four hashed int32 words from four int32 words of one shape: ``(4, *shape)``."""
    words = torch.empty(8, *x.shape, dtype=torch.int32, device=x.device)
    return _rounds(_lcg(x), _lcg(y), _lcg(z), _lcg(w), words)


def _hash(x: Tensor, y: Tensor, z: Tensor, w: Tensor, words: Tensor) -> Tensor:
    """``_rounds``, and a last fold."""
    hashed = _rounds(x, y, z, w, words)
    _fold_(hashed, words[4:])
    return hashed


def _row_words(seed: Tensor, stream: int, views: int, n_rows: int) -> Tensor:
    """Four int32 words for each view and row, ``(4, views, n_rows)``."""
    low, high = keys(seed, stream, views)
    row = torch.arange(n_rows, dtype=torch.int32, device=seed.device)
    words = torch.empty(8, views, n_rows, dtype=torch.int32, device=seed.device)
    x, y = _lcg(low[:, None]), _lcg(high[:, None])
    return _hash(x, y, _lcg(row), _lcg(torch.zeros_like(row[:1])), words)


def draw_rows(
    seed: Tensor, views: int, n_rows: int, alpha: float, per_batch: bool
) -> tuple[Tensor, Tensor]:
    """Partners, int64, and coefficients, float32 in (alpha, 1], each ``(views, n_rows)``.

    A partner is uniform over the other rows, from 64 bits; a coefficient has 24 bits. With
    ``per_batch`` all rows of a view share row 0's coefficient.
    """
    words = _row_words(seed, STREAM_ROW, views, n_rows)
    # The upper half of the product (w0 w1) * (n_rows - 1): high bits decide, as they are the best.
    high, low = (words[:2].long() & 0xFFFFFFFF) * (n_rows - 1)
    partner = (high + (low >> 32)) >> 32
    partner += partner >= torch.arange(n_rows, device=seed.device)
    word = words[2, :, :1].repeat(1, n_rows) if per_batch else words[2]
    u = ((word >> 8) & 0xFFFFFF).float() * 2.0**-24
    # One float32 above alpha: rounding must not reach alpha itself.
    coef = (1 - u * (1 - alpha)).clamp_(min=min(1.0, alpha * (1 + 2**-23)))
    return partner, coef


def draw_kinds(seed: Tensor, n_rows: int, n_kinds: int, per_batch: bool) -> Tensor:
    """uint8 ``(n_rows,)``, uniform over 0..n_kinds-1; one for all rows with ``per_batch``."""
    word = _row_words(seed, STREAM_KIND, 1, n_rows)[0, 0]
    if per_batch:
        word = word[:1].repeat(n_rows)
    return (((word.long() & 0xFFFFFFFF) * n_kinds) >> 32).to(torch.uint8)


class ElementHash:
    """Random bits for the elements of all views of ``(n_rows, n_columns)``, block by block.

    One hash serves 4 or 8 columns: word q of block b serves neighbouring columns of the q-th
    quarter, so that memory is read and written in runs. A quarter is a multiple of 8 columns, so
    that those runs are aligned to 16 bytes in half precision, too.
    """

    def __init__(self, seed: Tensor, views: int, n_rows: int, n_columns: int) -> None:
        self._seed, self._views, self._n_rows, self._n_columns = seed, views, n_rows, n_columns
        self._w: dict[int, Tensor] = {}
        self._scratch = torch.empty(0, dtype=torch.int32, device=seed.device)

    @cached_property
    def _xyz(self) -> tuple[Tensor, Tensor, Tensor]:
        """Keys of each view and the rows, ready for the rounds; only made where they are used."""
        low, high = keys(self._seed, STREAM_ELEMENT, self._views)
        row = torch.arange(self._n_rows, dtype=torch.int32, device=self._seed.device)
        return _lcg(low), _lcg(high), _lcg(row)[:, None]

    def _words(self, view: int, rows: slice | Tensor, columns_per_hash: int) -> Tensor:
        """int32 ``(4, R, B)``, gone with the next call."""
        x, y, z = self._xyz
        z = z[rows]
        if columns_per_hash not in self._w:
            quarter = math.ceil(self._n_columns / 32) * 8
            n_blocks = quarter * 4 // columns_per_hash
            block = torch.arange(n_blocks, dtype=torch.int32, device=z.device)
            self._w[columns_per_hash] = _lcg(block)
        w = self._w[columns_per_hash]
        size = 8 * z.numel() * w.numel()
        if self._scratch.numel() < size:
            self._scratch = self._scratch.new_empty(size)
        words = self._scratch[:size].view(8, z.numel(), w.numel())
        return _hash(x[view], y[view], z, w, words)

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
