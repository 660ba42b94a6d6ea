"""Label-free metrics against their definitions and known values."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch.nn import functional as F

from mixnoise import metrics


def sphere(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def rotation(d, seed=5):
    return torch.linalg.qr(sphere(d, d, seed).double())[0]


def test_alignment_is_the_mean_squared_distance_on_the_sphere():
    z1, z2 = sphere(50, 7), sphere(50, 7, seed=1)
    expected = (F.normalize(z1) - F.normalize(z2)).norm(dim=1).pow(2).mean().item()
    assert metrics.alignment(z1, z2) == pytest.approx(expected, rel=1e-5)
    assert metrics.alignment(z1, 3 * z1) == pytest.approx(0, abs=1e-12)


def test_alignment_of_known_views():
    z = sphere(2000, 512)
    lengths = torch.rand(2000, 1, generator=torch.Generator().manual_seed(2)) + 0.1
    assert metrics.alignment(z, lengths * z) == pytest.approx(0, abs=1e-12)
    assert metrics.alignment(z, -lengths * z) == pytest.approx(4, abs=1e-6)
    # Of independent views the cosine has mean 0 and variance 1/D: 2 within five standard errors.
    error = 2 / math.sqrt(512 * 2000)
    assert metrics.alignment(z, sphere(2000, 512, seed=1)) == pytest.approx(2, abs=5 * error)
    # A right angle, and 60 degrees.
    x, y = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 0.1]])
    assert metrics.alignment(x, y) == pytest.approx(2, rel=1e-6)
    assert metrics.alignment(x, x / 3 + 10 * math.sqrt(3) * y) == pytest.approx(1, rel=1e-6)


def test_uniformity_is_the_log_mean_kernel_over_pairs():
    # More rows than one block has, so that the diagonal is left out in every block.
    z = sphere(1500, 5)
    expected = torch.pdist(F.normalize(z.double())).pow(2).mul(-2).exp().mean().log().item()
    assert metrics.uniformity(z) == pytest.approx(expected, rel=1e-5)


def test_uniformity_of_a_collapsed_representation_is_0():
    assert metrics.uniformity(torch.ones(10, 3)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("n", [2, 3, 1023, 1024, 1025, 2049])
def test_uniformity_does_not_depend_on_blocks(n, monkeypatch):
    z = sphere(n, 4)
    expected = torch.pdist(F.normalize(z.double())).pow(2).mul(-2).exp().mean().log().item()
    assert metrics.uniformity(z) == pytest.approx(expected, rel=2e-6)
    for rows in (7, n - 1, n, n + 1):
        monkeypatch.setattr(metrics, "_ROWS_PER_BLOCK", rows)
        assert metrics.uniformity(z.double()) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "z", [torch.zeros(10, 3), torch.full((10, 3), 1e-30), -7 * torch.ones(9, 2)]
)
def test_uniformity_of_one_point_is_0(z):
    """A dead encoder's zeros are collapsed too, though they are not on the sphere."""
    assert metrics.uniformity(z) == pytest.approx(0, abs=1e-6)


def test_uniformity_neither_underflows_nor_overflows():
    opposite = torch.tensor([[1.0, 0.0], [-2.0, 0.0]])
    assert metrics.uniformity(opposite, t=1e4) == pytest.approx(-4e4, rel=1e-6)
    z = sphere(50, 4)
    for scale in (1e-30, 1e30):
        assert metrics.uniformity(scale * z) == pytest.approx(metrics.uniformity(z), rel=1e-5)
        assert metrics.alignment(z, scale * z) == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("t", [0.5, 2.0, 3.0])
@pytest.mark.parametrize("n", [2, 5, 12, 1500])
def test_uniformity_of_a_regular_polygon(n, t):
    angle = 0.3 + torch.arange(n).double() * (2 * math.pi / n)
    z = torch.stack((angle.cos(), angle.sin()), 1)
    others = [math.exp(-2 * t * (1 - math.cos(2 * math.pi * k / n))) for k in range(1, n)]
    expected = math.log(math.fsum(others) / (n - 1))
    assert metrics.uniformity(z, t=t) == pytest.approx(expected, abs=1e-12)
    assert metrics.uniformity(z.float(), t=t) == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("t", [1.0, 2.0])
@pytest.mark.parametrize("d", [2, 3, 8, 64])
def test_uniformity_of_random_points_is_the_integral_over_the_sphere(d, t):
    """The angle a in (0, pi) between two of them has a density proportional to sin(a)^(d-2)."""

    def moment(power):
        def integrand(a):
            return math.exp(-2 * t * power * (1 - math.cos(a))) * math.sin(a) ** (d - 2)

        return (
            quad(integrand, 0, math.pi)[0] / quad(lambda a: math.sin(a) ** (d - 2), 0, math.pi)[0]
        )

    n = 3000
    # The kernels of different pairs are uncorrelated on a sphere, so n (n - 1) / 2 of them count.
    error = math.sqrt((moment(2) / moment(1) ** 2 - 1) / (n * (n - 1) / 2))
    assert metrics.uniformity(sphere(n, d), t=t) == pytest.approx(
        math.log(moment(1)), abs=5 * error
    )


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


@pytest.mark.parametrize("shape", [(60, 9), (9, 60), (9, 9)])
@pytest.mark.parametrize("values", [[1.0], [5, 3, 1, 0.2], [10 ** (-k / 2) for k in range(9)]])
def test_rankme_of_given_singular_values(shape, values):
    """Equation 1, in numpy: exp(-sum p log p) with p = sigma / sum(sigma) + 1e-7."""
    n, d = shape
    sigma = np.zeros(9)
    sigma[: len(values)] = values
    z = rotation(n)[:, :9] * torch.as_tensor(sigma) @ rotation(d, seed=6)[:9]
    p = sigma / sigma.sum() + 1e-7
    assert metrics.rankme(z) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-8)
    q = sigma[sigma > 0] / sigma.sum()
    assert metrics.rankme(z) == pytest.approx(np.exp(-(q * np.log(q)).sum()), rel=1e-4)
    assert metrics.rankme(z.float()) == pytest.approx(metrics.rankme(z), rel=1e-4)


def test_rankme_is_not_of_the_centred_rows():
    """One point far from the origin has rank 1, and stays so when its cloud is centred out."""
    z = 1e3 + sphere(200, 6)
    sigma = np.linalg.svd(z.double().numpy(), compute_uv=False)
    p = sigma / sigma.sum()
    assert metrics.rankme(z) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-4)
    assert metrics.rankme(z) < 1.1
    assert metrics.rankme(z - z.mean(0)) > 5.5


def test_metrics_are_invariant():
    z1, z2, q = sphere(300, 12).double(), sphere(300, 12, seed=1).double(), rotation(12)
    z1 = z1 * torch.linspace(0.1, 3, 12)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    for change in (lambda z: z @ q, lambda z: 17 * z, lambda z: -z, lambda z: z[order]):
        a, b = change(z1), change(z2)
        assert metrics.alignment(a, b) == pytest.approx(metrics.alignment(z1, z2), rel=1e-10)
        assert metrics.uniformity(a) == pytest.approx(metrics.uniformity(z1), rel=1e-10)
        assert metrics.rankme(a) == pytest.approx(metrics.rankme(z1), rel=1e-10)
    # Those of points on the sphere do not see the rows' lengths; RankMe, of rows as they are, does.
    lengths = torch.logspace(-2, 2, 300)[:, None]
    assert metrics.uniformity(lengths * z1) == pytest.approx(metrics.uniformity(z1), rel=1e-10)
    assert metrics.rankme(lengths * z1) != pytest.approx(metrics.rankme(z1), rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_that_of_the_input_alone(dtype):
    z1, z2 = sphere(1500, 16).to(dtype), sphere(1500, 16, seed=1).to(dtype)
    assert metrics.alignment(z1, z2) == metrics.alignment(z1.float(), z2.float())
    assert metrics.uniformity(z1) == metrics.uniformity(z1.float())
    assert metrics.rankme(z1) == metrics.rankme(z1.float())


def test_nan_in_means_nan_out():
    z = sphere(1100, 3)
    z[1050, 1] = torch.nan
    assert math.isnan(metrics.alignment(z, torch.ones(1100, 3)))
    assert math.isnan(metrics.uniformity(z))
    assert math.isnan(metrics.rankme(z))
    z[1050, 1] = torch.inf
    assert math.isnan(metrics.alignment(z, torch.ones(1100, 3)))
    assert math.isnan(metrics.uniformity(z))
    assert math.isnan(metrics.rankme(z))


def test_metrics_leave_their_input_and_its_gradient_alone():
    z = sphere(1100, 3).requires_grad_()
    before = z.detach().clone()
    assert isinstance(metrics.alignment(z, z), float)
    assert isinstance(metrics.uniformity(z), float)
    assert isinstance(metrics.rankme(z), float)
    assert z.grad is None
    assert torch.equal(z, before)


@pytest.mark.parametrize("scale", [1e308, 1e150, 1e-150, 1e-307])
def test_rankme_neither_overflows_nor_underflows(scale):
    z = (sphere(50, 4).double() / 10).clamp(-1, 1)
    assert metrics.rankme(scale * z) == pytest.approx(metrics.rankme(z), rel=1e-12)


def test_rankme_of_zeros_is_finite():
    assert metrics.rankme(torch.zeros(4, 3)) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: metrics.alignment([1], torch.eye(2)), TypeError, "z1 must be a floating-point"),
        (lambda: metrics.alignment(torch.eye(2), torch.eye(3)), ValueError, "the same shape"),
        (
            lambda: metrics.alignment(torch.eye(2), torch.eye(2).double()),
            ValueError,
            "z1 and z2 must have the same dtype, got torch.float32 and torch.float64",
        ),
        (
            lambda: metrics.alignment(torch.eye(2), torch.eye(2, device="meta")),
            ValueError,
            "z1 and z2 must have the same device, got cpu and meta",
        ),
        (lambda: metrics.uniformity(torch.eye(2).long()), TypeError, "z must be .* torch.int64"),
        (lambda: metrics.uniformity(torch.ones(1, 2)), ValueError, r"N >= 2.*got \(1, 2\)"),
        (lambda: metrics.uniformity(torch.eye(2), t=0), ValueError, "t must be > 0, got 0"),
        (lambda: metrics.uniformity(torch.eye(2), t="2"), TypeError, "t must be > 0, got str '2'"),
        (lambda: metrics.rankme(torch.ones(3)), ValueError, r"shape \(N, D\).*got \(3,\)"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    "metric", [lambda z: metrics.alignment(z, z), metrics.uniformity, metrics.rankme]
)
def test_tensors_without_dense_values(metric):
    with pytest.raises(TypeError, match=r"z1? must be a dense tensor, got .* torch\.sparse_coo"):
        metric(torch.eye(2).to_sparse())
    with pytest.raises(TypeError, match=r"z1? must be a dense tensor, got a nested one"):
        metric(torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged))
    with pytest.raises(ValueError, match=r"z1? must have values, got a tensor on the device meta"):
        metric(torch.eye(2, device="meta"))
