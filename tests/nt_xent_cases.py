"""What the tests of NT-Xent share: scenes, how errors are measured, and how large they may be."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import oracles
import torch
import torch.nn.functional as F
from torch import Tensor

from mixnoise import nt_xent

# What the Triton backend is tested on; a CPU means Triton's interpreter, see conftest.py.
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

# The sums of exp(1/t) overflow in float32 at 0.0115; at 0.0229 the two forms change over.
TEMPERATURES = (0.005, 0.0115, 0.0228, 0.0229, 0.05, 0.1, 0.5, 2.0)

# error(ours) <= error(plain PyTorch in the same dtype) + slack, both against the oracle and
# relative to the largest value: (loss, gradient). A similarity of 1/0.005 carries an error of
# 200 units in the last place, whoever computes it. Half types are computed in float32; their
# gradients are then rounded to the input's dtype, by half a unit in its last place.
SLACK = {
    torch.float64: (5e-14, 5e-14),
    torch.float32: (5e-6, 5e-6),
    torch.float16: (5e-6, 2**-11),
    torch.bfloat16: (5e-6, 2**-8),
}
# The temperature's gradient, relative to the size of the terms it sums, sum of |g| / t^2.
TEMPERATURE_SLACK = {torch.float64: 5e-15, torch.float32: 5e-7}
# Where plain PyTorch is far off, or not finite, the rule above proves nothing: this holds as well.
CEILING = {
    torch.float64: (2e-13, 2e-13),
    torch.float32: (3e-5, 3e-5),
    torch.float16: (3e-5, 2**-11 + 3e-5),
    torch.bfloat16: (3e-5, 2**-8 + 3e-5),
}


def torch_rows(z1: Tensor, z2: Tensor, temperature: float | Tensor) -> Tensor:
    return nt_xent(z1, z2, temperature, reduction="none", backend="torch")


def triton_nt_xent(
    z1: Tensor, z2: Tensor, temperature: float | Tensor = 0.5, *args: object, **settings: object
) -> Tensor:
    """On DEVICE, from and to wherever the arguments lie; gradients come back, too."""
    if isinstance(temperature, Tensor):
        temperature = temperature.to(DEVICE)
    on_device = (z1.to(DEVICE), z2.to(DEVICE), temperature)
    return nt_xent(*on_device, *args, backend="triton", **settings).to(z1.device)


def plain_nt_xent(z1: Tensor, z2: Tensor, temperature: float | Tensor) -> Tensor:
    n = z1.shape[0]
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    s = z @ z.T / temperature
    s = s.masked_fill(torch.eye(2 * n, dtype=torch.bool), -torch.inf)
    return F.cross_entropy(s, torch.arange(2 * n).roll(n), reduction="none")


def make_scene(name: str, n: int, d: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 * n + d)
    z1, z2, centers = torch.randn(3, n, d, generator=generator, dtype=torch.float64)
    index = torch.arange(n)
    if name == "clustered":
        z1, z2 = (centers[index % 3 % n] + 0.1 * z for z in (z1, z2))
    elif name == "near-duplicates":
        z1, z2 = (centers[0] + 0.01 * z for z in (z1, z2))
    elif name == "opposite":  # each row's positive is its worst match, its negatives its best
        z1, z2 = centers[0] + 0.1 * z1, -centers[0] + 0.1 * z2
    elif name == "scaled":
        sizes = (1.0, 1e3, 1e-2) if dtype == torch.float16 else (1.0, 1e20, 1e-25)
        size = torch.tensor(sizes, dtype=torch.float64)
        z1, z2 = z1 * size[index % 3, None], z2 * size[index // 3 % 3, None]
    elif name == "zero rows":
        z1, z2 = z1 * (index % 5 > 0)[:, None], z2 * (index > 0)[:, None]
    return z1.to(dtype), z2.to(dtype)


SCENES = ("scattered", "clustered", "near-duplicates", "opposite", "scaled", "zero rows")


def make_weights(n: int) -> Tensor:
    """Upstream gradients for 2n rows, some 0, some negative, exact in every dtype."""
    eighths = torch.randint(-8, 9, (2 * n,), generator=torch.Generator().manual_seed(n))
    return eighths.double() / 8


def solve(
    function: Callable[..., Tensor], z1: Tensor, z2: Tensor, temperature: float, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Loss ``(2N,)`` and gradients of both views, stacked."""
    z1, z2 = (z.detach().clone().requires_grad_() for z in (z1, z2))
    loss = function(z1, z2, temperature)
    loss.backward(weights.to(loss.dtype))
    return loss.detach(), torch.cat([z1.grad, z2.grad])


def oracle(
    z1: Tensor, z2: Tensor, temperature: float, weights: Tensor
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Loss, gradients of both views, stacked, the rows' norms, the temperature's gradient."""
    x1, x2, tiny = z1.double().numpy(), z2.double().numpy(), torch.finfo(z1.dtype).tiny
    loss = oracles.nt_xent(x1, x2, temperature, "none", tiny)
    *dz, dt = oracles.nt_xent_gradients(x1, x2, temperature, weights.numpy(), tiny)
    _, norms = oracles.unit_rows(np.concatenate([x1, x2]), tiny)
    return loss, np.concatenate(dz), norms[:, None], dt


def error(value: Tensor, truth: np.ndarray, size: np.ndarray | float = 1.0) -> float:
    """Largest error relative to the largest true value; infinite for anything not finite.

    ``size`` makes rows of all magnitudes comparable. Below the smallest normal number of its
    dtype, a value need not have relative accuracy.
    """
    found = value.double().numpy()
    if not np.isfinite(found).all():
        return np.inf
    floor = torch.finfo(value.dtype).tiny * (np.max(size) or 1.0)
    return np.abs((found - truth) * size).max() / max(np.abs(truth * size).max(), floor)


def check_accuracy(
    rows_nt_xent: Callable[..., Tensor],
    z1: Tensor,
    z2: Tensor,
    temperature: float,
    weights: Tensor,
) -> None:
    loss, gradient = solve(rows_nt_xent, z1, z2, temperature, weights)
    check_errors(loss, gradient, z1, z2, temperature, weights)


def check_errors(
    loss: Tensor,
    gradient: Tensor,
    z1: Tensor,
    z2: Tensor,
    temperature: float,
    weights: Tensor,
    slack: tuple[float, float] | None = None,
) -> None:
    """Both errors obey SLACK, or another one, and CEILING."""
    true_loss, true_gradient, norms, _ = oracle(z1, z2, temperature, weights)
    plain_loss, plain_gradient = solve(plain_nt_xent, z1, z2, temperature, weights)
    assert gradient.dtype == z1.dtype
    for what, ours, plain, more, ceiling in zip(
        ("loss", "gradient"),
        (error(loss, true_loss), error(gradient, true_gradient, norms)),
        (error(plain_loss, true_loss), error(plain_gradient, true_gradient, norms)),
        slack or SLACK[z1.dtype],
        CEILING[z1.dtype],
        strict=True,
    ):
        assert ours <= min(plain + more, ceiling), (
            f"{what} of {tuple(z1.shape)}: error {ours:.2e}, plain PyTorch {plain:.2e}"
        )
