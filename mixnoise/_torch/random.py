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


def pcg4d(x: Tensor, y: Tensor, z: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four hashed int32 words from four int32 words that broadcast against each other."""
    x, y, z, w = (v * 1664525 + 1013904223 for v in (x, y, z, w))
    x = torch.addcmul(x, y, w)
    y = torch.addcmul(y, z, x)
    z = torch.addcmul(z, x, y)
    w = torch.addcmul(w, y, z)
    x, y, z, w = (v ^ ((v >> 16) & 0xFFFF) for v in (x, y, z, w))
    x = torch.addcmul(x, y, w)
    y = torch.addcmul(y, z, x)
    z = torch.addcmul(z, x, y)
    w = torch.addcmul(w, y, z)
    return x, y, z, w


def _fold(word: Tensor) -> Tensor:
    return word ^ ((word >> 16) & 0xFFFF)


def _row_words(seed: Tensor, stream: int, views: int, n_rows: int) -> tuple[Tensor, ...]:
    """Four int32 words for each view and row, each ``(views, n_rows)``."""
    low, high = keys(seed, stream, views)
    row = torch.arange(n_rows, dtype=torch.int32, device=seed.device)
    words = pcg4d(low[:, None], high[:, None], row, torch.zeros_like(row[:1]))
    return tuple(_fold(word) for word in words)


def draw_rows(
    seed: Tensor, views: int, n_rows: int, alpha: float, per_batch: bool
) -> tuple[Tensor, Tensor]:
    """Partners, int64, and coefficients, float32 in (alpha, 1], each ``(views, n_rows)``.

    A partner is uniform over the other rows, from 64 bits; a coefficient has 24 bits. With
    ``per_batch`` all rows of a view share row 0's coefficient.
    """
    w0, w1, w2, _ = _row_words(seed, STREAM_ROW, views, n_rows)
    # The upper half of the product (w0 w1) * (n_rows - 1): high bits decide, as they are the best.
    high, low = ((w.long() & 0xFFFFFFFF) * (n_rows - 1) for w in (w0, w1))
    partner = (high + (low >> 32)) >> 32
    partner += partner >= torch.arange(n_rows, device=seed.device)
    if per_batch:
        w2 = w2[:, :1].repeat(1, n_rows)
    u = ((w2 >> 8) & 0xFFFFFF).float() * 2.0**-24
    # One float32 above alpha: rounding must not reach alpha itself.
    coef = (1 - u * (1 - alpha)).clamp_(min=min(1.0, alpha * (1 + 2**-23)))
    return partner, coef


def draw_kinds(seed: Tensor, n_rows: int, n_kinds: int, per_batch: bool) -> Tensor:
    """uint8 ``(n_rows,)``, uniform over 0..n_kinds-1; one for all rows with ``per_batch``."""
    word = _row_words(seed, STREAM_KIND, 1, n_rows)[0][0]
    if per_batch:
        word = word[:1].repeat(n_rows)
    return (((word.long() & 0xFFFFFFFF) * n_kinds) >> 32).to(torch.uint8)


def _element_words(low: Tensor, high: Tensor, row: Tensor, n_columns: int, lanes: int) -> Tensor:
    """Words for a block of rows, int32 ``(R, 4, B)``; one hash serves ``lanes`` columns.

    Word q of block b serves neighbouring columns of the q-th quarter, so that memory is read and
    written in runs. B is a multiple of 4, so that those runs are aligned to 16 bytes.
    """
    n_blocks = math.ceil(n_columns / lanes / 4) * 4
    block = torch.arange(n_blocks, dtype=torch.int32, device=row.device)
    words = torch.stack(pcg4d(low, high, row.int()[:, None], block), dim=1)
    return words.bitwise_xor_((words >> 16).bitwise_and_(0xFFFF))


def keep_mask(low: Tensor, high: Tensor, row: Tensor, coef: Tensor, n_columns: int) -> Tensor:
    """Bernoulli(coef) per element as int32 ``(R, n_columns)``: -1 keeps, 0 swaps.

    16 bits an element: coef ``(R,)`` is rounded to 2^-16, and 1 keeps everything. The mask comes
    from a subtraction and a shift because comparisons to bool are several times slower on CPU.
    """
    words = _element_words(low, high, row, n_columns, lanes=8)
    lane = words.view(torch.int16).flatten(1).to(torch.int32)[:, :n_columns]
    threshold = (coef * 65536).round().to(torch.int32) - 32768  # lanes are signed
    return (lane - threshold[:, None]).bitwise_right_shift_(31)


def normal(low: Tensor, high: Tensor, row: Tensor, n_columns: int) -> Tensor:
    """Standard normal deviates by Box and Muller, float32 ``(R, n_columns)``.

    The radius has 31 bits, exact towards zero, and so reaches 6.6 standard deviations.
    """
    words = _element_words(low, high, row, n_columns, lanes=4)
    radius = (words[:, :2] & 0x7FFFFFFF).float().add_(0.5).mul_(2.0**-31)
    radius.log_().mul_(-2.0).sqrt_()
    angle = words[:, 2:].float().mul_(math.pi * 2.0**-31)
    return torch.cat((angle.cos().mul_(radius), angle.sin_().mul_(radius)), 1).flatten(1)[
        :, :n_columns
    ]
