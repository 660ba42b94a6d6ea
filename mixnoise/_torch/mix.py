"""All views of a batch in PyTorch: x+ = mix(x_i, x_j) row by row, forward and backward.

Works through blocks of rows that stay in cache, so it needs little memory beyond the views.
Arithmetic in float32 for half types; see ``element_random.py`` for the random bits.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from mixnoise._torch import logarithm
from mixnoise._torch.dtypes import compute_dtype
from mixnoise._torch.element_random import ElementHash
from mixnoise.draw import FUNCTIONS

_BLOCK_ELEMENTS = 2**19
_COLUMN_GROUP_ELEMENTS = 2**22
# Stands for log2(0): finite, so that no product with a zero coefficient is NaN, and exp2 of any
# share of it that occurs is 0.
_LOG2_ZERO = -1e30
# Far below the largest number, so that sums of many such terms stay finite, too.
_MAX_EXPONENT = {torch.float32: 96.0, torch.float64: 960.0}
# FBGEMM has embedding bags of float32. Without it they are slower than gathering and lerp.
_HAS_FBGEMM = "fbgemm" in torch.backends.quantized.supported_engines
_GRAIN_SIZE = 32768  # elements of each thread, where PyTorch uses several
_INTEGER_OF_SIZE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


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


def _row_blocks(rows: Tensor | None, n_rows: int, n_columns: int) -> Iterator[slice | Tensor]:
    """Blocks of rows; a slice where they are neighbours, which is faster."""
    step = max(1, _BLOCK_ELEMENTS // max(1, n_columns))
    for start in range(0, n_rows if rows is None else rows.numel(), step):
        if rows is None:
            yield slice(start, min(start + step, n_rows))
        else:
            yield rows[start : start + step]


def _take(source: Tensor, block: slice | Tensor) -> Tensor:
    return source[block] if isinstance(block, slice) else source.index_select(0, block)


def _put(target: Tensor, block: slice | Tensor, rows: Tensor) -> None:
    if isinstance(block, slice):
        target[block] = rows
    else:
        target.index_copy_(0, block, rows.to(target.dtype))


def _log2(x: Tensor, low: Tensor | None) -> Tensor:
    return logarithm.log2(x if low is None else x - low).clamp_(min=_LOG2_ZERO)


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
    if x.is_cpu:  # elsewhere looking would wait for the device
        _check_draw(partner, coef, kind, function, n_rows)
    if function == "linear" and kind is None and _embedding_bag_is_faster(x):
        out = _sums_of_pairs(x, torch.arange(n_rows), partner, coef)
        _restore_unmixed(out, x, coef, None)
        return out
    out = x.new_empty(n_views, n_rows, n_columns)
    wide = compute_dtype(x.dtype)
    bits = ElementHash(seed, n_views, n_rows, n_columns)
    for name, rows in _groups(kind, function):
        if name == "linear":
            _mix_linear(x, partner, coef, rows, out)
            _restore_unmixed(out, x, coef, rows)
            continue
        if name == "geometric":
            _mix_geometric(x, partner, coef, rows, low, out)
            continue
        for block in _row_blocks(rows, n_rows, bits.n_hashed):
            own = _take(x, block)
            for v in range(n_views):
                c = coef[v, block, None]
                # Straight into the result where its rows are neighbours.
                direct = isinstance(block, slice)
                if name == "gaussian":
                    deviate = bits.normal(v, block).mul_(c)
                    if direct and x.dtype == deviate.dtype:
                        torch.add(own, deviate, out=out[v, block])
                    else:
                        _put(out[v], block, own.to(wide) + deviate)
                    continue
                other = torch.index_select(
                    x, 0, partner[v, block], out=out[v, block] if direct else None
                )
                mixed = _select(bits.keep_mask(v, block, c), own, other)
                if not direct:
                    _put(out[v], block, mixed)
    return out


def _mix_linear(x: Tensor, partner: Tensor, coef: Tensor, rows: Tensor | None, out: Tensor) -> None:
    """c x_i + (1-c) x_j, into ``out``."""
    if rows is not None and _embedding_bag_is_faster(x):
        x = x.contiguous()
        for some in rows.split(max(1, _BLOCK_ELEMENTS // x.shape[1])):
            for view, j, c in zip(out, partner[:, some], coef[:, some], strict=True):
                view.index_copy_(0, some, _sums_of_pairs(x, some, j, c))
        return
    wide = compute_dtype(x.dtype)
    for block in _row_blocks(rows, *x.shape):
        own = _take(x, block).to(wide)
        for view, j, c in zip(out, partner[:, block], coef[:, block], strict=True):
            # Straight into the result where it can hold what is computed.
            direct = isinstance(block, slice) and x.dtype == wide
            other = torch.index_select(x, 0, j, out=view[block] if direct else None)
            # lerp computes x - (x - x_j)(1-c), which loses -0.0 and makes inf NaN at c = 1.
            mixed = other.to(wide).lerp_(own, c[:, None].to(wide))
            if not direct:
                _put(view, block, mixed)


def _embedding_bag_is_faster(x: Tensor) -> bool:
    return _HAS_FBGEMM and x.is_cpu and x.dtype == torch.float32 and x.numel() > 0


def _sums_of_pairs(x: Tensor, own: Tensor, partner: Tensor, coef: Tensor) -> Tensor:
    """c x_i + (1-c) x_j as embedding bags of two rows, which are gathered and added in one pass.

    ``(..., R, F)`` of indices own ``(R,)`` and partner ``(..., R)``.
    """
    bags = torch.stack((own.expand_as(partner), partner), -1).view(-1, 2)
    weights = torch.stack((coef, 1 - coef), -1).view(-1, 2)
    sums = F.embedding_bag(bags, x.contiguous(), mode="sum", per_sample_weights=weights)
    # FBGEMM leaves the upper halves of the vector registers in use. Until any other vectorised
    # operation has run on the same thread, MKL's logarithm, for one, takes three times as long.
    torch.empty(torch.get_num_threads() * _GRAIN_SIZE, dtype=torch.int8).add_(1)
    # Not a view for autograd: what an operator returns may be changed in place by the next layer.
    views: Tensor = torch.ops.aten._unsafe_view(sums, [*partner.shape, x.shape[1]])
    return views


def _mix_geometric(
    x: Tensor,
    partner: Tensor,
    coef: Tensor,
    rows: Tensor | None,
    low: Tensor | None,
    out: Tensor,
) -> None:
    """exp2(c log2(x - low) + (1-c) log2(x_j - low)) + low, into ``out``.

    One logarithm an element, whatever the number of views, and column by column group, since the
    logarithms of all rows are needed at once but should stay in cache.
    """
    n_rows, n_columns = x.shape
    wide = compute_dtype(x.dtype)
    width = max(16, _COLUMN_GROUP_ELEMENTS // n_rows)
    for start in range(0, n_columns, width):
        columns = slice(start, start + width)
        floor = low if low is None or low.ndim == 0 else low[columns]
        logarithms = _log2(x[:, columns].to(wide), floor)
        for block in _row_blocks(rows, n_rows, logarithms.shape[1]):
            own = _take(logarithms, block)
            for v in range(partner.shape[0]):
                mixed = logarithms.index_select(0, partner[v, block])
                mixed.lerp_(own, coef[v, block, None].to(wide))
                if isinstance(block, slice) and floor is None and x.dtype == wide:
                    torch.exp2(mixed, out=out[v, block, columns])
                    continue
                mixed.exp2_()
                if floor is not None:
                    mixed += floor
                _put(out[v, :, columns], block, mixed)
    _restore_unmixed(out, x, coef, rows)


def _check_draw(
    partner: Tensor, coef: Tensor, kind: Tensor | None, function: str, n_rows: int
) -> None:
    """Raise if a partner is no row, or a share is beyond [0, 1]."""
    if partner.numel() == 0:
        return
    smallest, largest = (int(value) for value in partner.aminmax())
    if smallest < 0 or largest >= n_rows:
        worst = smallest if smallest < 0 else largest
        raise ValueError(f"draw.partner must be a row in 0..{n_rows - 1}, got {worst}")
    # Not of Gaussian rows, whose coef is a standard deviation.
    if kind is not None:
        coef = coef.masked_fill(kind == FUNCTIONS.index("gaussian"), 1)
    elif function == "gaussian":
        return
    low, high = (float(value) for value in coef.aminmax())  # NaN if there is one
    if not (low >= 0 and high <= 1):
        raise ValueError(f"draw.coef must be in [0, 1], got {high if low >= 0 else low}")


def _restore_unmixed(views: Tensor, x: Tensor, coef: Tensor, rows: Tensor | None) -> None:
    """Where the coefficient is 1 the row is x's own, bit for bit."""
    for view, c in zip(views, coef, strict=True):
        unmixed = c == 1
        if rows is not None:
            unmixed = unmixed & torch.zeros_like(unmixed).index_fill_(0, rows, True)
        if x.is_cpu:
            index = unmixed.nonzero()[:, 0]
            if index.numel():
                view.index_copy_(0, index, x.index_select(0, index))
        else:
            torch.where(unmixed[:, None], x, view, out=view)


def _select(mask: Tensor, own: Tensor, other: Tensor) -> Tensor:
    """own where mask is -1, other where it is 0, on the bits of any dtype, in place of other."""
    integer = _INTEGER_OF_SIZE[own.dtype.itemsize]
    bits = other.view(integer)
    # other - (other - own) * mask, exact since integers wrap around; one pass fewer than by xor.
    torch.addcmul(bits, bits - own.contiguous().view(integer), mask.to(integer), out=bits)
    return other


def mix_backward(
    grad: Tensor,
    x: Tensor | None,
    seed: Tensor,
    partner: Tensor,
    coef: Tensor,
    kind: Tensor | None,
    low: Tensor | None,
    function: str,
) -> Tensor:
    """Gradient of x ``(N, F)``, which only geometric mixing needs, from that of the views.

    It is ``(V, N, F)``. Each row receives from itself and from every row that drew it. Those are
    gathered in a fixed order (partners sorted once), so the result is the same bits every time.
    """
    n_views, n_rows, n_columns = grad.shape
    wide = compute_dtype(grad.dtype)
    own_grad = grad.new_zeros(n_rows, n_columns, dtype=wide)
    other_grad = grad.new_zeros(n_views, n_rows, n_columns, dtype=wide)
    bits = ElementHash(seed, n_views, n_rows, n_columns)
    for name, rows in _groups(kind, function):
        for block in _row_blocks(rows, n_rows, n_columns):
            if name == "geometric":
                assert x is not None
                own = _log2(_take(x, block).to(wide), low)
            for v in range(n_views):
                g = _take(grad[v], block).to(wide)
                c = coef[v, block, None].to(wide)
                if name == "gaussian":
                    own_grad[block] += g
                    continue
                if name == "binary":
                    to_own = g * -bits.keep_mask(v, block, coef[v, block, None])
                    to_other = g - to_own
                elif name == "linear":
                    to_own, to_other = g * c, g * (1 - c)
                else:
                    assert x is not None
                    drawn = x.index_select(0, partner[v, block]).to(wide)
                    to_own, to_other = _geometric_backward(g, c, own, _log2(drawn, low))
                # An unmixed row is the identity, also where geometric's derivative is not.
                unmixed = c == 1
                own_grad[block] += torch.where(unmixed, g, to_own)
                other_grad[v, block] = to_other.masked_fill(unmixed, 0)
    drawn, order = partner.flatten().sort(stable=True)
    starts = torch.searchsorted(drawn, torch.arange(n_rows, device=grad.device))
    own_grad += F.embedding_bag(order, other_grad.flatten(0, 1), starts, mode="sum")
    if kind is not None or function == "geometric":
        # Finite for any finite data, also in float16; an inf that came from above stays one, since
        # loss scaling looks for it.
        largest = torch.finfo(grad.dtype).max
        own_grad = own_grad.where(own_grad.isinf(), own_grad.clamp(-largest, largest))
    return own_grad.to(grad.dtype)


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
