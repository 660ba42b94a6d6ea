"""All views of a batch in PyTorch: x+ = mix(x_i, x_j) row by row, forward and backward.

Works through blocks of rows that stay in cache. Memory: the views, and for geometric mixing the
logarithm of x. Arithmetic in float32 for half types; see ``random.py`` for the random bits.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from mixnoise._torch import random
from mixnoise.draw import FUNCTIONS

_BLOCK_ELEMENTS = 2**18
# Stands for log2(0): finite, so that no product with a zero coefficient is NaN, and exp2 of any
# share of it that occurs is 0.
_LOG2_ZERO = -1e30
# Far below the largest number, so that sums of many such terms stay finite, too.
_MAX_EXPONENT = {torch.float32: 96.0, torch.float64: 960.0}
_INTEGER_OF_SIZE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def arithmetic_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 stays, every other floating type is computed in float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _groups(kind: Tensor | None, function: str) -> Iterator[tuple[str, Tensor | None]]:
    """Pairs of a mixing function and the rows it mixes, None for all."""
    if kind is None:
        yield function, None
        return
    n_known = 0
    for code, name in enumerate(FUNCTIONS):
        # On CUDA this is the one place that waits for the device.
        rows = (kind == code).nonzero()[:, 0]
        n_known += rows.numel()
        if rows.numel():
            yield name, rows
    if n_known != kind.numel():
        raise ValueError(f"draw.kind must be in 0..{len(FUNCTIONS) - 1}, got {int(kind.max())}")


def _row_blocks(
    rows: Tensor | None, n_rows: int, n_columns: int, device: torch.device
) -> Iterator[tuple[Tensor, slice | Tensor]]:
    """Blocks of rows as (index tensor, what selects them fastest)."""
    step = max(1, _BLOCK_ELEMENTS // max(1, n_columns))
    for start in range(0, n_rows if rows is None else rows.numel(), step):
        if rows is None:
            stop = min(start + step, n_rows)
            yield torch.arange(start, stop, device=device), slice(start, stop)
        else:
            block = rows[start : start + step]
            yield block, block


def _take(source: Tensor, block: slice | Tensor) -> Tensor:
    return source[block] if isinstance(block, slice) else source.index_select(0, block)


def _put(target: Tensor, block: slice | Tensor, rows: Tensor) -> None:
    if isinstance(block, slice):
        target[block] = rows
    else:
        target.index_copy_(0, block, rows.to(target.dtype))


def _log2(x: Tensor, low: Tensor | None) -> Tensor:
    wide = x.to(arithmetic_dtype(x.dtype))
    shifted = wide.clone() if low is None else wide - low
    return shifted.log2_().clamp_(min=_LOG2_ZERO)


def mix(
    x: Tensor,
    seed: Tensor,
    partner: Tensor,
    coef: Tensor,
    kind: Tensor | None,
    low: Tensor | None,
    function: str,
) -> Tensor:
    """Views ``(V, N, F)`` of x ``(N, F)``; low is None, 0-d or ``(F,)``."""
    n_views, (n_rows, n_columns) = partner.shape[0], x.shape
    _check_partners(partner, n_rows)
    out = x.new_empty(n_views, n_rows, n_columns)
    wide = arithmetic_dtype(x.dtype)
    key_low, key_high = random.keys(seed, random.STREAM_ELEMENT, n_views)
    for name, rows in _groups(kind, function):
        source = _log2(x, low) if name == "geometric" else x
        for v in range(n_views):
            for index, block in _row_blocks(rows, n_rows, n_columns, x.device):
                own, c = _take(source, block), coef[v, block]
                key = key_low[v], key_high[v], index
                if name == "gaussian":
                    deviate = random.normal(*key, n_columns).mul_(c[:, None])
                    _put(out[v], block, own.to(wide) + deviate)
                    continue
                other = source.index_select(0, partner[v, block])
                if name == "binary":
                    mask = random.keep_mask(*key, c, n_columns)
                    _put(out[v], block, _select(mask, own, other))
                    continue
                c = c.to(wide)[:, None]
                mixed = other.to(wide).lerp_(own.to(wide), c)
                if name == "geometric":
                    mixed.exp2_()
                    if low is not None:
                        mixed += low
                # lerp computes x - (x - x_j)(1-c), which loses -0.0 and makes inf NaN at c = 1.
                _put(out[v], block, mixed)
            if name in ("linear", "geometric"):
                _restore_unmixed(out[v], x, coef[v], rows)
    return out


def _check_partners(partner: Tensor, n_rows: int) -> None:
    """On the CPU; elsewhere looking would wait for the device."""
    if partner.is_cpu and partner.numel():
        smallest, largest = (int(value) for value in partner.aminmax())
        if smallest < 0 or largest >= n_rows:
            worst = smallest if smallest < 0 else largest
            raise ValueError(f"draw.partner must be a row in 0..{n_rows - 1}, got {worst}")


def _restore_unmixed(view: Tensor, x: Tensor, coef: Tensor, rows: Tensor | None) -> None:
    """Where the coefficient is 1 the row is x's own, bit for bit."""
    unmixed = coef == 1
    if rows is not None:
        unmixed = unmixed & torch.zeros_like(unmixed).index_fill_(0, rows, True)
    if x.is_cpu:
        index = unmixed.nonzero()[:, 0]
        if index.numel():
            view.index_copy_(0, index, x.index_select(0, index))
    else:
        torch.where(unmixed[:, None], x, view, out=view)


def _select(mask: Tensor, own: Tensor, other: Tensor) -> Tensor:
    """own where mask is -1, other where it is 0, on the bits of any dtype."""
    dtype, width = own.dtype, own.dtype.itemsize
    if width == 16:
        mask, width = mask.repeat_interleave(2, dim=1), 8
    integer = _INTEGER_OF_SIZE[width]
    own, other = own.contiguous().view(integer), other.view(integer)
    difference = (own ^ other).bitwise_and_(mask.to(integer))
    return difference.bitwise_xor_(other).view(dtype)


def mix_backward(
    grad: Tensor,
    x: Tensor,
    seed: Tensor,
    partner: Tensor,
    coef: Tensor,
    kind: Tensor | None,
    low: Tensor | None,
    function: str,
) -> Tensor:
    """Gradient of x ``(N, F)`` from that of its views ``(V, N, F)``.

    Each row receives from itself and from every row that drew it. Those are gathered in a fixed
    order (partners sorted once), so the result is the same bits every time.
    """
    n_views, n_rows, n_columns = grad.shape
    wide = arithmetic_dtype(x.dtype)
    own_grad = grad.new_zeros(n_rows, n_columns, dtype=wide)
    other_grad = grad.new_zeros(n_views, n_rows, n_columns, dtype=wide)
    key_low, key_high = random.keys(seed, random.STREAM_ELEMENT, n_views)
    for name, rows in _groups(kind, function):
        source = _log2(x, low) if name == "geometric" else None
        for v in range(n_views):
            for index, block in _row_blocks(rows, n_rows, n_columns, x.device):
                g = grad[v, block].to(wide)
                c = coef[v, block, None].to(wide)
                if name == "gaussian":
                    own_grad[block] += g
                    continue
                if name == "binary":
                    mask = random.keep_mask(
                        key_low[v], key_high[v], index, coef[v, block], n_columns
                    )
                    to_own = g * -mask
                    to_other = g - to_own
                elif name == "linear":
                    to_own, to_other = g * c, g * (1 - c)
                else:
                    assert source is not None
                    to_own, to_other = _geometric_backward(
                        g, c, source[block], source.index_select(0, partner[v, block])
                    )
                # An unmixed row is the identity, also where geometric's derivative is not.
                unmixed = c == 1
                own_grad[block] += torch.where(unmixed, g, to_own)
                other_grad[v, block] = to_other.masked_fill(unmixed, 0)
    if function != "gaussian" or kind is not None:
        drawn, order = partner.flatten().sort(stable=True)
        starts = torch.searchsorted(drawn, torch.arange(n_rows, device=x.device))
        own_grad += F.embedding_bag(order, other_grad.flatten(0, 1), starts, mode="sum")
    if kind is not None or function == "geometric":
        # Finite for any finite data, also in float16; an inf that came from above stays one, since
        # loss scaling looks for it.
        largest = torch.finfo(x.dtype).max
        own_grad = own_grad.where(own_grad.isinf(), own_grad.clamp(-largest, largest))
    return own_grad.to(x.dtype)


def _geometric_backward(g: Tensor, c: Tensor, own: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """own, other: log2 of the two values. d/dx x^c y^(1-c) = c (y/x)^(1-c), and 0 at x = 0."""
    largest = _MAX_EXPONENT[own.dtype]
    difference = other - own
    to_own = c * (difference * (1 - c)).clamp_(max=largest).exp2_()
    to_other = (1 - c) * (difference * -c).clamp_(max=largest).exp2_()
    return (
        g * to_own.masked_fill_(own == _LOG2_ZERO, 0),
        g * to_other.masked_fill_(other == _LOG2_ZERO, 0),
    )
