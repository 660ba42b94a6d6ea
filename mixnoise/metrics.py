"""What can be said of a representation without labels."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from mixnoise.checks import check_alike, check_dense, check_float

_ROWS_PER_BLOCK = 1024


def _check(name: str, z: Tensor, min_rows: int) -> None:
    if isinstance(z, Tensor):
        check_dense(name, z)
    if not isinstance(z, Tensor) or not z.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor, got {_kind(z)}")
    if z.ndim != 2 or z.shape[0] < min_rows or z.shape[1] == 0:
        raise ValueError(
            f"{name} must have shape (N, D) with N >= {min_rows} and D >= 1, got {tuple(z.shape)}"
        )


def _values(name: str, z: Tensor) -> Tensor:
    if z.is_meta:
        raise ValueError(f"{name} must have values, got a tensor on the device meta")
    return z.detach() if z.dtype == torch.float64 else z.detach().float()


def _kind(value: object) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__


def unit_rows(z: Tensor) -> Tensor:
    """Rows of length 1 without overflow or underflow on the way; a row of zeros stays zero."""
    largest = z.abs().amax(1, keepdim=True).clamp(min=torch.finfo(z.dtype).tiny)
    return F.normalize(z / largest)


def alignment(z1: Tensor, z2: Tensor) -> float:
    """Mean squared distance of positives on the unit sphere, in [0, 4]; lower is closer.

    Args:
        z1: the representations of one view, ``(N, D)``, not yet normalised.
        z2: those of the other, in the same order.

    Returns:
        The mean; NaN if there is NaN or inf in z1 or z2.

    Raises:
        ValueError: z1 or z2 is not a matrix with at least one row and one column, their shapes,
            dtypes or devices differ, or they are on the device meta.
        TypeError: z1 or z2 is not a dense floating-point tensor.

    Example:
        >>> import torch
        >>> from mixnoise import metrics
        >>> metrics.alignment(torch.eye(3), -torch.eye(3))
        4.0

    Source: Wang and Isola, arXiv 2005.10242, with their exponent 2.
    """
    _check("z1", z1, 1)
    _check("z2", z2, 1)
    check_alike(z1, z2)
    z1, z2 = _values("z1", z1), _values("z2", z2)
    return (unit_rows(z1) - unit_rows(z2)).square().sum(1).mean().item()


def uniformity(z: Tensor, t: float = 2.0) -> float:
    """How evenly rows cover the unit sphere: log mean exp(-t |z_i - z_j|^2) over pairs of them.

    In [-4t, 0]: 0 for a collapsed representation, lower is more even. A row makes no pair with
    itself. Memory is linear in N.

    Args:
        z: representations, ``(N, D)`` with N >= 2, not yet normalised.
        t: scale of the Gaussian kernel, > 0.

    Returns:
        The logarithm; NaN if there is NaN or inf in z.

    Raises:
        ValueError: z is not a matrix with at least two rows and one column, or on the device meta;
            or t is not > 0.
        TypeError: z is not a dense floating-point tensor, or t not a number.

    Example:
        >>> import torch
        >>> from mixnoise import metrics
        >>> round(metrics.uniformity(torch.tensor([[1.0, 0.0], [-2.0, 0.0]])), 4)
        -8.0

    Source: Wang and Isola, arXiv 2005.10242.
    """
    _check("z", z, 2)
    z = unit_rows(_values("z", z))
    if not check_float("t", t, "> 0") > 0:
        raise ValueError(f"t must be > 0, got {t}")
    n, square = z.shape[0], z.square().sum(1)
    rows = []
    for start in range(0, n, _ROWS_PER_BLOCK):
        block = slice(start, start + _ROWS_PER_BLOCK)
        # -t |z_i - z_j|^2 by the squares, which are 0 and not 1 for rows of zeros.
        exponent = (2 * z[block] @ z.T - square[block, None] - square).mul_(t)
        exponent.diagonal(start).fill_(-math.inf)
        rows.append(exponent.logsumexp(1).double())
    return torch.cat(rows).logsumexp(0).item() - math.log(n * (n - 1))


def rankme(z: Tensor) -> float:
    """Effective rank: exp of the entropy of the singular values, from 1 to min(N, D).

    Near 1 the representation has collapsed to a line. The source's epsilon may carry it above
    min(N, D) by some 1e-4 of it.

    Args:
        z: representations, ``(N, D)``, as they come from the encoder (neither centred nor
            normalised).

    Returns:
        The effective rank; NaN if there is NaN or inf in z.

    Raises:
        ValueError: z is not a matrix with at least one row and one column, or on the device meta.
        TypeError: z is not a dense floating-point tensor.

    Example:
        >>> import torch
        >>> from mixnoise import metrics
        >>> round(metrics.rankme(torch.eye(8)), 2)
        8.0

    Source: Garrido et al., RankMe, arXiv 2210.02885, equation 1 with epsilon = 1e-7.
    """
    _check("z", z, 1)
    z = _values("z", z).double()
    if not z.isfinite().all():
        return math.nan  # the singular values of such a matrix do not converge
    # Their sum may overflow where no value does.
    singular = torch.linalg.svdvals(z / z.abs().amax().clamp(min=torch.finfo(z.dtype).tiny))
    p = singular / singular.sum().clamp(min=torch.finfo(torch.float64).tiny) + 1e-7
    return torch.exp(-(p * p.log()).sum()).item()
