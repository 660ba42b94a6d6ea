"""Label-free metrics against their definitions and known values."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mixnoise import metrics


def sphere(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_alignment_is_the_mean_squared_distance_on_the_sphere():
    z1, z2 = sphere(50, 7), sphere(50, 7, seed=1)
    expected = (F.normalize(z1) - F.normalize(z2)).norm(dim=1).pow(2).mean().item()
    assert metrics.alignment(z1, z2) == pytest.approx(expected, rel=1e-5)
    assert metrics.alignment(z1, 3 * z1) == pytest.approx(0, abs=1e-12)


def test_uniformity_is_the_log_mean_kernel_over_pairs():
    # More rows than one block has, so that the diagonal is left out in every block.
    z = sphere(1500, 5)
    expected = torch.pdist(F.normalize(z.double())).pow(2).mul(-2).exp().mean().log().item()
    assert metrics.uniformity(z) == pytest.approx(expected, rel=1e-5)


def test_uniformity_of_a_collapsed_representation_is_0():
    assert metrics.uniformity(torch.ones(10, 3)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("t", [0.5, 2.0])
def test_uniformity_of_points_spread_evenly_on_a_circle(t):
    """On S^1 the mean of exp(-t |u-v|^2) is exp(-2t) I_0(2t)."""
    angle = torch.arange(4000) * (2 * math.pi / 4000)
    z = torch.stack((angle.cos(), angle.sin()), 1)
    n = len(z)
    mean = math.exp(-2 * t) * np.i0(2 * t)
    without_itself = (mean * n - 1) / (n - 1)
    assert metrics.uniformity(z, t=t) == pytest.approx(math.log(without_itself), rel=1e-5)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_rankme_of_a_matrix_with_equal_singular_values_is_its_rank(rank):
    q, _ = torch.linalg.qr(sphere(40, 8).double())
    basis, _ = torch.linalg.qr(sphere(8, 8, seed=1).double())
    z = q[:, :rank] @ basis[:rank]
    assert metrics.rankme(z) == pytest.approx(rank, rel=2e-4)


def test_rankme_is_exp_of_the_entropy_of_the_singular_values():
    z = torch.diag(torch.tensor([4.0, 2.0, 2.0]))
    assert metrics.rankme(z) == pytest.approx(math.exp(1.5 * math.log(2)), rel=1e-5)


def test_rankme_of_zeros_is_finite():
    assert math.isfinite(metrics.rankme(torch.zeros(4, 3)))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: metrics.alignment([1], torch.eye(2)), TypeError, "z1 must be a floating-point"),
        (lambda: metrics.alignment(torch.eye(2), torch.eye(3)), ValueError, "the same shape"),
        (lambda: metrics.uniformity(torch.eye(2).long()), TypeError, "z must be .* torch.int64"),
        (lambda: metrics.uniformity(torch.ones(1, 2)), ValueError, r"N >= 2.*got \(1, 2\)"),
        (lambda: metrics.uniformity(torch.eye(2), t=0), ValueError, "t must be > 0, got 0"),
        (lambda: metrics.rankme(torch.ones(3)), ValueError, r"shape \(N, D\).*got \(3,\)"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
