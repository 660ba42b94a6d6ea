"""What the noises cost a linear model, to second order (arXiv 2011.04419, theory section).

For f(x) = w.x and l(f) = log(1 + e^f) - y f, noise in x adds to the mean loss, to second order,

    Gaussian   l''/2 sigma^2 |w|^2
    linear     l' (1-alpha)/2 w.E[x~ - x]  +  l''/2 (1-alpha)^2/3 w.E[(x~ - x)(x~ - x)']w

so directions orthogonal to the data cost Gaussian noise sigma^2/2 and mixup exactly nothing.
"""

import pytest
import torch

from mixnoise import get_noise

N_ROWS, SIGNAL, TOTAL = 20_000, 4, 10
SIGMA = 0.2


def loss(f, y):
    return torch.nn.functional.softplus(f) - y * f


@pytest.fixture(scope="module")
def problem():
    """Data in the first coordinates; weights inside that subspace, and orthogonal to it."""
    g = torch.Generator().manual_seed(0)
    x = torch.zeros(N_ROWS, TOTAL, dtype=torch.float64)
    x[:, :SIGNAL] = torch.randn(N_ROWS, SIGNAL, generator=g, dtype=torch.float64)
    inside = torch.zeros(TOTAL, dtype=torch.float64)
    inside[:SIGNAL] = torch.tensor([0.2, -0.1, 0.15, 0.1])
    across = torch.zeros(TOTAL, dtype=torch.float64)
    across[SIGNAL:] = torch.linspace(0.2, 0.4, TOTAL - SIGNAL)
    return x, inside, across


def added_loss(noise, x, w, y, repeats=5):
    """Monte Carlo of E[l(f(x+)) - l(f(x))], mean over rows, 20 views at a time."""
    f = torch.stack([noise.views(x, 20, seed=seed) @ w for seed in range(repeats)])
    return (loss(f, y) - loss(x @ w, y)).mean().item()


def second_derivative(f):
    return torch.sigmoid(f) * (1 - torch.sigmoid(f))


def mixup_prediction(x, w, y, alpha):
    """The two terms of the formula, with partners uniform over the other rows."""
    f = x @ w
    others = N_ROWS - 1  # the row itself would add nothing to either sum
    mean = N_ROWS * (f.mean() - f) / others
    square = N_ROWS * ((f - f.mean()).square().mean() + (f.mean() - f).square()) / others
    first = (torch.sigmoid(f) - y) * (1 - alpha) / 2 * mean
    second = second_derivative(f) / 2 * (1 - alpha) ** 2 / 3 * square
    return first.mean().item(), second.mean().item()


def test_mixup_pays_exactly_nothing_across_the_data(problem):
    x, inside, across = problem
    y = (x @ inside > 0).double()
    noise = get_noise("linear", alpha=0.9)
    views = noise.views(x, 2, seed=0)
    assert (views @ across == 0).all()
    assert torch.equal(views @ (inside + 100 * across), views @ inside)
    assert added_loss(noise, x, across, y, repeats=1) == 0


def test_mixup_pays_nothing_across_a_rotated_subspace(problem):
    x, _, across = problem
    g = torch.Generator().manual_seed(1)
    rotation, _ = torch.linalg.qr(torch.randn(TOTAL, TOTAL, generator=g, dtype=torch.float64))
    f = get_noise("linear", alpha=0.1).views(x @ rotation, 2, seed=0) @ (across @ rotation)
    assert f.abs().max() < 1e-14


def test_gaussian_noise_pays_for_directions_across_the_data(problem):
    """sigma^2/2 l'' |w|^2 for them, on top of what it pays inside."""
    x, inside, across = problem
    y = torch.sigmoid(x @ inside)  # no first derivative, so that little is left to chance
    noise = get_noise("gaussian", sigma=SIGMA)
    share = SIGMA**2 / 2 * second_derivative(x @ inside).mean().item()
    both = added_loss(noise, x, inside + across, y)
    extra = both - added_loss(noise, x, inside, y)
    assert extra == pytest.approx(share * across.square().sum().item(), rel=0.01)
    assert both == pytest.approx(share * (inside + across).square().sum().item(), rel=0.01)


def test_mixup_inside_the_subspace_is_the_formulas(problem):
    """With labels, where the first-order term leads."""
    x, inside, _ = problem
    y = (x @ inside > 0).double()
    first, second = mixup_prediction(x, inside, y, alpha=0.9)
    got = added_loss(get_noise("linear", alpha=0.9), x, inside, y)
    assert got == pytest.approx(first + second, rel=0.01)


def test_mixups_second_order_term_alone(problem):
    """With y = sigmoid(f) the first derivative vanishes and only the curvature is paid for."""
    x, inside, _ = problem
    y = torch.sigmoid(x @ inside)
    first, second = mixup_prediction(x, inside, y, alpha=0.9)
    assert first == 0
    got = added_loss(get_noise("linear", alpha=0.9), x, inside, y)
    assert got == pytest.approx(second, rel=0.01)
