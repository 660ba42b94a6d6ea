"""Logarithms are the same whichever library computes them."""

import warnings

import pytest
import torch

from mixnoise import get_noise
from mixnoise._torch import logarithm

# On processors without AVX-512, and on other systems than Linux, there is nothing to compare.
HAS_BOTH = pytest.mark.skipif(
    not logarithm._NUMPY_HAS_VECTORS, reason="NumPy has no vectors here and is not used"
)
LIBRARIES = [pytest.param(True, id="numpy", marks=HAS_BOTH), pytest.param(False, id="torch")]


@pytest.fixture(params=LIBRARIES)
def library(request, monkeypatch):
    monkeypatch.setattr(logarithm, "_NUMPY_HAS_VECTORS", request.param)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("columns", [slice(None), slice(3, 20)])
def test_within_two_ulp(columns):
    generator = torch.Generator().manual_seed(0)
    exponents = torch.empty(1000, 33).uniform_(-148, 128, generator=generator)
    exponents[:200] /= 1000  # about 1, where the logarithm is small
    x = exponents.double().exp2().float()[:, columns]
    expected = x.double().log2()
    error = (logarithm.log2(x).double() - expected).abs()
    unit = torch.ldexp(torch.ones_like(expected), torch.frexp(expected).exponent - 24)
    assert (error <= 2.2 * unit).all()


@pytest.mark.usefixtures("library")
def test_ends_of_the_domain():
    x = torch.tensor([0.0, -0.0, 1.0, float("inf"), -1.0, -float("inf"), float("nan")])
    with warnings.catch_warnings(action="error"):
        result = logarithm.log2(x.repeat(40))
    infinity, nan = float("inf"), float("nan")
    expected = torch.tensor([-infinity, -infinity, 0.0, infinity, nan, nan, nan])
    torch.testing.assert_close(result, expected.repeat(40), equal_nan=True, rtol=0, atol=0)


@pytest.mark.usefixtures("library")
def test_geometric_views_by_either():
    x = torch.rand(300, 40, generator=torch.Generator().manual_seed(0))
    noise = get_noise("geometric", low=0.0)
    torch.testing.assert_close(
        noise.views(x, 2, seed=0), noise.views(x.double(), 2, seed=0).float(), rtol=3e-6, atol=0
    )


@HAS_BOTH
def test_many_threads_go_to_torch():
    """With four it is as fast, and with more faster."""
    x = torch.rand(5000, generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        by_numpy = logarithm.log2(x)
        torch.set_num_threads(4)
        by_torch = logarithm.log2(x)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(by_torch, x.log2())
    assert not torch.equal(by_numpy, by_torch)
