"""Counter-based random numbers: words = hash(seed, stream, view, row, block of columns).

The same integer arithmetic gives the same bits on every device and needs no state, so nothing
of the size of the data is ever stored. The hash is pcg4d (Jarzynski and Olano, "Hash Functions
for GPU Rendering", JCGT 9(3), 2020) on a key from SplitMix64's finaliser (Steele, Lea and Flood,
OOPSLA 2014), which spreads neighbouring seeds, streams and views over all 64 key bits. A last
xorshift repairs pcg4d's lowest bits, in which neighbouring rows were seen to be related.
PyTorch has few unsigned operations, so words are int32 and wrap around.

This is for any device. On a CPU keys and rows are drawn by ``host_random.py``, which is quicker.
"""

from __future__ import annotations

import torch
from torch import Tensor

STREAM_ROW, STREAM_KIND, STREAM_ELEMENT, N_STREAMS = 0, 1, 2, 4

GOLDEN = 0x9E3779B97F4A7C15 - 2**64
MULTIPLIER_1 = 0xBF58476D1CE4E5B9 - 2**64
MULTIPLIER_2 = 0x94D049BB133111EB - 2**64


def _mix64(k: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64; the masks make the shifts logical."""
    k = (k ^ ((k >> 30) & (2**34 - 1))) * MULTIPLIER_1
    k = (k ^ ((k >> 27) & (2**37 - 1))) * MULTIPLIER_2
    return k ^ ((k >> 31) & (2**33 - 1))


def keys(seed: Tensor, stream: int, views: int) -> tuple[Tensor, Tensor]:
    """Two int32 key words for each view: low and high half of a mixed 64-bit key, ``(views,)``."""
    view = torch.arange(views, device=seed.device)
    k = _mix64(_mix64(seed + GOLDEN) + (view * N_STREAMS + (stream + 1)) * GOLDEN)
    low, high = k.view(torch.int32).view(views, 2).unbind(1)
    return low, high


def lcg(v: Tensor) -> Tensor:
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
    return _rounds(lcg(x), lcg(y), lcg(z), lcg(w), words)


def hash_words(x: Tensor, y: Tensor, z: Tensor, w: Tensor, words: Tensor) -> Tensor:
    """``_rounds``, and a last fold."""
    hashed = _rounds(x, y, z, w, words)
    _fold_(hashed, words[4:])
    return hashed


def _row_words(seed: Tensor, stream: int, views: int, n_rows: int) -> Tensor:
    """Four int32 words for each view and row, ``(4, views, n_rows)``."""
    low, high = keys(seed, stream, views)
    row = torch.arange(n_rows, dtype=torch.int32, device=seed.device)
    words = torch.empty(8, views, n_rows, dtype=torch.int32, device=seed.device)
    x, y = lcg(low[:, None]), lcg(high[:, None])
    return hash_words(x, y, lcg(row), lcg(torch.zeros_like(row[:1])), words)


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
