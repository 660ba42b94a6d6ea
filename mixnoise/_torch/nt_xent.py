"""NT-Xent over M = 2N rows in PyTorch, tile by tile: the M x M matrix is never stored.

With unit rows z_i, temperature t, positive p(i) = i +- N and s_ij = z_i . z_j / t:

    n_i    = sum of exp(s_ik) over k != i, p(i)
    loss_i = log(n_i + exp(s_ip)) - s_ip = softplus(log n_i - s_ip)

The positive stays out of the sum, which keeps small losses exact. s is symmetric, so each tile of
the upper triangle serves its rows and its columns: M^2 D FLOP forward, 3 M^2 D backward.
With g_i = dL/dloss_i and l_i = n_i + exp(s_ip):

    dL/dz_i = (1/t) [ sum over k != i, p(i) of exp(s_ik) (g_i/l_i + g_k/l_k) z_k
                      - (g_i n_i/l_i + g_p n_p/l_p) z_p ]
    dL/dt   = -(1/2t) sum_i z_i . dL/dz_i

Everything of length M or M x D that is not inside a matrix product (norms, positives, logarithms)
is computed in float64, where it costs next to nothing. Logarithms are to base 2: exp2 is cheaper.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from mixnoise._torch.dtypes import compute_dtype
from mixnoise._torch.matmul import add_mm_, mm_of_rows, uses_onednn

LOG2_E = math.log2(math.e)
# 512 x 2,048 in float32 is 4 MiB: large enough for the matrix product, small enough for the caches.
# Narrow in rows, since half of each square on the diagonal is computed twice.
TILE_ROWS, TILE_COLUMNS = 512, 2048
_ROWS_PER_BLOCK = 1024  # of either view
# Exponentials kept from the forward for the backward, in elements. It holds all of them up to
# M = 2,280, where it saves a quarter of the time, and is a constant beyond.
_KEPT_EXPONENTIALS = 3 * 2**20
# |s| <= 1/t, so from here on exp(s), its sums and their reciprocals are all normal numbers and no
# maximum has to be subtracted (Milakov and Gimelshein, arXiv 1805.02867, is the other form).
_SMALLEST_PLAIN_TEMPERATURE = {torch.float32: 0.0229, torch.float64: 0.003}
_TINY = torch.finfo(torch.float32).tiny
# Below any s; finite, so that two of them can be subtracted.
NO_MAXIMUM = -1e30


def stats_dtype(device: torch.device) -> torch.dtype:
    """Vectors of length M: float64 where the device has it (MPS has not)."""
    return torch.float32 if device.type == "mps" else torch.float64


def is_running(dtype: torch.dtype, temperature: Tensor | None, fixed_temperature: float) -> bool:
    """Whether the row maximum has to be subtracted."""
    return temperature is not None or fixed_temperature < _SMALLEST_PLAIN_TEMPERATURE[dtype]


def kept_elements(
    dtype: torch.dtype, n: int, temperature: Tensor | None, fixed_temperature: float, keep: bool
) -> int:
    """How many exponentials the forward keeps for the backward; dtype is the compute dtype."""
    if not keep or is_running(dtype, temperature, fixed_temperature):
        return 0
    # Of few rows all, of more no more than three quarters are computed.
    kept: int = torch.sym_min(_KEPT_EXPONENTIALS, 4 * n * n)
    return kept


def _row_blocks(n: int) -> Iterator[slice]:
    for start in range(0, n, _ROWS_PER_BLOCK):
        yield slice(start, min(start + _ROWS_PER_BLOCK, n))


def _tiles(n: int) -> Iterator[tuple[slice, slice]]:
    """Upper triangle as (rows, columns): the square on the diagonal, then what is to its right.

    Rows are of one view, and so are columns; but few rows are one square, since every tile costs a
    dozen calls.
    """
    if 2 * n <= TILE_ROWS:
        yield slice(0, 2 * n), slice(0, 2 * n)
        return
    for view in (0, n):
        for first in range(view, view + n, TILE_ROWS):
            rows = slice(first, min(first + TILE_ROWS, view + n))
            yield rows, rows
            for left, right in ((rows.stop, view + n), (n + view, 2 * n)):
                for start in range(left, right, TILE_COLUMNS):
                    yield rows, slice(start, min(start + TILE_COLUMNS, right))


def leave_out(tile: Tensor, value: float, row: int, column: int, n: int) -> None:
    """Write ``value`` where a row meets itself or its positive; tile[0, 0] is at (row, column).

    Both count through the two views, or both within one: positives are n apart.
    """
    for diagonal in (row - column - n, row - column, row - column + n):
        if -tile.shape[0] < diagonal < tile.shape[1]:
            tile.diagonal(diagonal).fill_(value)


def normalize(z1: Tensor, z2: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
    """Rows ``(2N, D)`` of norm sqrt(log2(e) / t) in the compute dtype, and their former norms.

    The product of two is the exponent of 2, the same in either order, and rounded rows are all
    that it depends on. Rows of 1e20 and 1e-25 are ordinary ones. A row whose norm is below the
    smallest normal number of its dtype becomes zero; NaN and inf become NaN.
    """
    n, d = z1.shape
    wide = stats_dtype(z1.device)
    squares_fit = torch.finfo(z1.dtype).max < math.sqrt(torch.finfo(wide).max)
    z = z1.new_empty(2, n, d, dtype=compute_dtype(z1.dtype))
    norm = z1.new_empty(2, n, dtype=wide)
    for rows in _row_blocks(n):
        x = torch.stack((z1[rows], z2[rows])).to(wide)
        if squares_fit:
            length = former = torch.linalg.vector_norm(x, dim=2)
        else:
            largest = x.abs().amax(2)
            x /= _nonzero(largest)[..., None]
            length = torch.linalg.vector_norm(x, dim=2)
            former = largest * length
        zero = former < torch.finfo(z1.dtype).tiny
        length.masked_fill_(zero, math.inf)
        norm[:, rows] = former.masked_fill_(zero, math.inf)
        z[:, rows] = x.mul_((norm_of_rows(t) / length)[..., None])
    return z.flatten(0, 1), norm.flatten()


def _log2_negatives_plain(z: Tensor, n: int, kept: Tensor) -> Tensor:
    """log2 n_i; fills ``kept`` with the exponentials of as many tiles as fit."""
    total = z.new_zeros(2 * n, dtype=stats_dtype(z.device))
    buffer = z.new_empty(TILE_ROWS * TILE_COLUMNS)
    used = 0
    for rows, columns in _tiles(n):
        size = (rows.stop - rows.start) * (columns.stop - columns.start)
        fits = used + size <= kept.numel()
        s = mm_of_rows(z[rows], z[columns], buffer)
        e = torch.exp2(s, out=kept[used : used + size].view(s.shape) if fits else s)
        used += size if fits else 0
        leave_out(e, 0, rows.start, columns.start, n)
        total[rows] += e.sum(1)
        if columns != rows:
            total[columns] += e.sum(0)
    kept[used:] = 0
    return total.log2_()


def _log2_negatives_running(z: Tensor, n: int) -> Tensor:
    """log2 n_i with a running maximum, for temperatures too small (or unknown) to do without."""
    total = z.new_zeros(2 * n, dtype=stats_dtype(z.device))
    maximum = z.new_full((2 * n,), NO_MAXIMUM)
    buffer = z.new_empty(TILE_ROWS * TILE_COLUMNS)

    def add(block: slice, s: Tensor) -> None:
        former = maximum[block]
        latest = torch.maximum(former, s.amax(1))
        total[block] *= torch.exp2(former - latest)
        total[block] += torch.exp2(s - latest[:, None]).sum(1)
        maximum[block] = latest

    for rows, columns in _tiles(n):
        s = mm_of_rows(z[rows], z[columns], buffer)
        leave_out(s, -math.inf, rows.start, columns.start, n)
        add(rows, s)
        if columns != rows:
            add(columns, s.T)
    return total.log2_() + maximum


def number_or_tensor(
    temperature: Tensor | None, number: float, dtype: torch.dtype
) -> float | Tensor:
    """The temperature; a tensor that is not > 0 is NaN."""
    if temperature is None:
        return number
    t = temperature.to(dtype)
    return t.masked_fill(~(t > 0), math.nan)


def norm_of_rows(t: float | Tensor) -> float | Tensor:
    """The norm that :func:`normalize` gives rows, so that the product of two is s_ik log2(e)."""
    return (LOG2_E / t) ** 0.5


def losses(z1: Tensor, z2: Tensor, log2_n: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """loss_i, log2 l_i and n_i/l_i, each ``(2N,)``, of two views of normalised rows."""
    positive = log2_n.new_empty(z1.shape[0])
    for rows in _row_blocks(z1.shape[0]):
        positive[rows] = (z1[rows].to(log2_n.dtype) * z2[rows].to(log2_n.dtype)).sum(1)
    positive = torch.cat((positive, positive))
    x = (log2_n - positive) / LOG2_E
    loss = F.softplus(x, threshold=40)  # beyond which it is x, to the last bit
    return loss, torch.add(positive, loss, alpha=LOG2_E), x.sigmoid()


def forward(
    z1: Tensor, z2: Tensor, temperature: Tensor | None, fixed_temperature: float, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss per row ``(2N,)``, and what the backward needs.

    The temperature is the tensor, which is never read on the host, or else the number.
    Returns loss, z ``(2N, D)``, stats ``(3, 2N)`` (norm, log2 l, n/l), and exponentials, if they
    are to be kept.
    """
    n = z1.shape[0]
    t = number_or_tensor(temperature, fixed_temperature, stats_dtype(z1.device))
    z, norm = normalize(z1, z2, t)
    kept = z.new_empty(kept_elements(z.dtype, n, temperature, fixed_temperature, keep))
    log2_n = (
        _log2_negatives_running(z, n)
        if is_running(z.dtype, temperature, fixed_temperature)
        else _log2_negatives_plain(z, n, kept)
    )
    loss, log2_l, negative_share = losses(z[:n], z[n:], log2_n)
    return loss.to(z.dtype), z, torch.stack((norm, log2_l, negative_share)), kept


def _backward_negatives(
    z: Tensor, g: Tensor, log2_l: Tensor, kept: Tensor, running: bool
) -> Tensor:
    """sum over k of exp(s_ik) (g_i/l_i + g_k/l_k) z_k, ``(2N, D)``."""
    n = z.shape[0] // 2
    dz = torch.zeros_like(z)
    # oneDNN takes a transposed second factor as it is, but copies a transposed first one: with it,
    # what a tile gives to its columns is summed transposed. A single tile gives all to its rows.
    transposed = uses_onednn(z) and 2 * n > TILE_ROWS
    dz_t = z.new_zeros(z.shape[1], z.shape[0] if transposed else 0)
    buffer, weights = z.new_empty(2, TILE_ROWS * TILE_COLUMNS)
    # In the plain form e and u = g/l stay normal numbers. In the running form e_ik/l_i <= 1, and u
    # takes what is lost where log2 l, which is large at small temperatures, is rounded.
    rounded = log2_l.to(z.dtype)
    u = (g * torch.exp2((rounded if running else 0) - log2_l)).to(z.dtype)
    log2_l = rounded
    used = 0
    for rows, columns in _tiles(n):
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        size = shape[0] * shape[1]
        w = weights[:size].view(shape)
        if running:
            s = mm_of_rows(z[rows], z[columns], buffer)
            torch.sub(s, log2_l[rows, None], out=w).exp2_().mul_(u[rows, None])
            w.addcmul_(s.sub_(log2_l[columns]).exp2_(), u[columns])
        else:
            torch.add(u[rows, None], u[columns], out=w)
            if used + size <= kept.numel():
                w *= kept[used : used + size].view(shape)
                used += size
            else:
                w *= mm_of_rows(z[rows], z[columns], buffer).exp2_()
        leave_out(w, 0, rows.start, columns.start, n)
        # By views: a square of few rows holds both, and longer sums would be less exact.
        for start in range(0, shape[1], n):
            some = w[:, start : start + n]
            first = columns.start + start
            add_mm_(dz[rows], some, z[first : first + some.shape[1]])
        if columns == rows:  # the first tile of each block of rows
            own = z[rows].T.contiguous() if transposed else z[rows]
        elif transposed:
            add_mm_(dz_t[:, columns], own, w)
        else:
            add_mm_(dz[columns], w.T, own)
    return dz.add_(dz_t.T) if transposed else dz


def backward(
    grad: Tensor,
    z: Tensor,
    stats: Tensor,
    kept: Tensor,
    temperature: Tensor | None,
    fixed_temperature: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of z1, z2 ``(N, D)`` in ``dtype``, and of the temperature (0-d, float64)."""
    norm, log2_l, negative_share = stats
    t = number_or_tensor(temperature, fixed_temperature, stats.dtype)
    running = is_running(z.dtype, temperature, fixed_temperature)
    largest = grad.abs().amax()
    g = scaled_gradient(grad, largest, stats.dtype)
    dz = _backward_negatives(z, g, log2_l, kept, running)
    return finish_gradient(dz, z, norm, g * negative_share, largest, t, dtype)


def scaled_gradient(grad: Tensor, largest: Tensor, dtype: torch.dtype) -> Tensor:
    """g of 1 at most: a mean over many rows cannot push u below the normal numbers then."""
    return grad.to(dtype) / _nonzero(largest.to(dtype))


def _nonzero(largest: Tensor) -> Tensor:
    return largest.masked_fill(largest == 0, 1.0)


def finish_gradient(
    dz: Tensor,
    z: Tensor,
    norm: Tensor,
    pull: Tensor,
    largest: Tensor,
    t: float | Tensor,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of z1, z2 ``(N, D)`` in ``dtype``, and of the temperature.

    Args:
        dz: what the negatives give, ``(2N, D)``, for g scaled by ``largest``; overwritten.
        z, norm: what :func:`normalize` made.
        pull: g n/l of each row.
    """
    wide, (m, columns) = norm.dtype, z.shape
    n = m // 2
    z, dz, norm = z.view(2, n, columns), dz.view(2, n, columns), norm.view(2, n)
    pull = pull.view(2, n).sum(0)
    # 1/t, and less by what the rows are longer than unit ones.
    scale = _nonzero(largest.to(wide)) / (t * norm_of_rows(t))
    dz1, dz2 = (z.new_empty(n, columns, dtype=dtype) for _ in range(2))
    z_dot_dz = norm.new_zeros(())
    for rows in _row_blocks(n):
        own = z[:, rows].to(wide)
        d = dz[:, rows].to(wide).addcmul_(own.flip(0), pull[rows, None], value=-1).mul_(scale)
        # Not by the norm they were meant to have, so that single columns give 0 exactly.
        unit = own / torch.linalg.vector_norm(own, dim=2, keepdim=True).clamp_(min=_TINY)
        along = (unit * d).sum(2, keepdim=True)
        z_dot_dz += along.sum()
        d.addcmul_(unit, along, value=-1).div_(norm[:, rows, None])
        dz1[rows], dz2[rows] = d.unbind()
    return dz1, dz2, -z_dot_dz / (2 * t)
