"""Slow references in float64 NumPy, written from the equations: they share no code with a backend.

NT-Xent over M = 2N unit rows z_i with temperature t, positive p(i) = i +- N, upstream weights g_i:

    s_ik   = z_i . z_k / t
    loss_i = softplus(log sum over k != i, p(i) of exp(s_ik - s_ip))
    P_ik   = exp(s_ik - s_ip - loss_i), the softmax over k != i;  1 - P_ip = 1 - exp(-loss_i)
    dL/ds_ik = g_i P_ik for negatives, -g_i (1 - P_ip) for the positive
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def unit_rows(x: Array, smallest_normal: float) -> tuple[Array, Array]:
    """Unit rows and their former norms; a row with a norm below ``smallest_normal`` becomes 0."""
    unit, norms = np.zeros_like(x), np.zeros(len(x))
    for i, row in enumerate(x):
        largest = np.abs(row).max()
        if largest > 0:  # scaled by it, no square overflows or underflows
            length = np.sqrt(np.sum((row / largest) ** 2))
            if largest * length >= smallest_normal:
                unit[i], norms[i] = row / largest / length, largest * length
    return unit, norms


def _negatives(i: int, m: int) -> NDArray[np.bool_]:
    mask = np.ones(m, dtype=bool)
    mask[[i, (i + m // 2) % m]] = False
    return mask


def _row_loss(s: Array, i: int) -> float:
    """Loss of row i; the positive stays out of the sum, so that small losses are not 1 - 1."""
    m = len(s)
    if m == 2:
        return 0.0
    a = s[i, _negatives(i, m)] - s[i, (i + m // 2) % m]
    x = a.max() + np.log(np.sum(np.exp(a - a.max())))
    return float(max(x, 0.0) + np.log1p(np.exp(-abs(x))))


def losses(s: Array) -> Array:
    """Of each row, from all similarities ``(2N, 2N)``."""
    return np.array([_row_loss(s, i) for i in range(len(s))])


def losses_gradient(s: Array, g: Array) -> Array:
    """dL/ds_ik for L = sum_i g_i loss_i, as if s_ik and s_ki were independent."""
    m = len(s)
    ds = np.zeros((m, m))
    for i in range(m):
        loss, p, negative = _row_loss(s, i), (i + m // 2) % m, _negatives(i, m)
        ds[i, negative] = g[i] * np.exp(s[i, negative] - s[i, p] - loss)
        ds[i, p] = g[i] * np.expm1(-loss)
    return ds


def nt_xent(
    z1: Array,
    z2: Array,
    temperature: float,
    reduction: str = "none",
    smallest_normal: float = np.finfo(np.float64).tiny,
) -> Array:
    """NT-Xent of two views ``(N, D)``; ``smallest_normal`` is that of the input's own dtype."""
    z, _ = unit_rows(np.concatenate([z1, z2]), smallest_normal)
    loss = losses(z @ z.T / temperature)
    return {"none": loss, "sum": loss.sum(), "mean": loss.mean()}[reduction]


def nt_xent_gradients(
    z1: Array,
    z2: Array,
    temperature: float,
    g: Array,
    smallest_normal: float = np.finfo(np.float64).tiny,
) -> tuple[Array, Array, float]:
    """Gradients of sum_i g_i loss_i with respect to z1, z2 ``(N, D)`` and the temperature."""
    z, norms = unit_rows(np.concatenate([z1, z2]), smallest_normal)
    n, row = len(z1), np.arange(len(z))
    cosine = z @ z.T
    s = cosine / temperature
    ds = losses_gradient(s, g)
    # sum over k of ds_ik is 0, so s_ip may be taken from every s_ik: less cancels.
    above_positive = s - s[row, (row + n) % len(z), None]
    d_temperature = -np.sum(ds * above_positive) / temperature

    dx = np.zeros_like(z)
    for i in np.flatnonzero(norms):
        # Only the part of z_k at right angles to z_i counts. Taking +-z_i away first leaves it
        # unchanged and keeps its digits where rows nearly agree (cosine 0: nothing to take).
        away = z - np.sign(cosine[i])[:, None] * z[i]
        away -= (away @ z[i])[:, None] * z[i]
        dx[i] = (ds[i] + ds[:, i]) @ away / (temperature * norms[i])
    return dx[:n], dx[n:], float(d_temperature)
