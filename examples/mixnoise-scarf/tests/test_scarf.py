"""What the conformance kit cannot know: how often, and from where, elements are redrawn."""

import pytest
import torch
from mixnoise_scarf import Scarf

from mixnoise import get_noise, list_noises
from mixnoise.testing import parametrize_noise_checks


@parametrize_noise_checks([Scarf(), Scarf(rate=0.05), Scarf(rate=1.0)])
def test_conformance(check):
    check()


def test_it_is_found():
    assert "scarf" in list_noises()
    assert isinstance(get_noise("scarf", rate=0.3), Scarf)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.6, 1.0])
@pytest.mark.parametrize("shape", [(4, 3), (100, 7), (64, 5, 4)])
def test_the_rate_is_right(rate, shape):
    """Every value is unlike the others, so all that is redrawn shows."""
    x = torch.arange(torch.Size(shape).numel()).view(shape)
    views = Scarf(rate).views(x, 2000, seed=0)
    changed = (views != x).double().mean(0)  # of each element
    sigma = (rate * (1 - rate) / len(views)) ** 0.5
    assert (changed - rate).abs().max() <= 5 * sigma
    assert abs(changed.mean() - rate) <= 5 * sigma / x.numel() ** 0.5


def test_values_come_from_the_other_rows_of_the_column_alike():
    n_rows, n_views = 6, 30_000
    x = torch.arange(n_rows)[:, None] + torch.tensor([0, 100])
    views = Scarf(rate=1.0).views(x, n_views, seed=0) - torch.tensor([0, 100])
    expected = n_views / (n_rows - 1)
    for row in range(n_rows):
        for column in range(2):
            count = torch.bincount(views[:, row, column], minlength=n_rows).double()
            assert count[row] == 0
            others = count[torch.arange(n_rows) != row]
            chi_square = ((others - expected) ** 2 / expected).sum()
            assert chi_square < 30  # 4 degrees of freedom: one in 200,000


def test_columns_are_redrawn_apart():
    x = torch.arange(200)[:, None].expand(200, 2)
    first, second = Scarf(rate=0.5).views(x, 50, seed=0).ne(x).double().unbind(-1)
    correlation = torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]
    assert abs(correlation) < 5 / first.numel() ** 0.5


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_rates_out_of_range(rate):
    with pytest.raises(ValueError, match=r"rate must be in \[0, 1\], got"):
        Scarf(rate)


def test_a_single_row_has_no_other():
    with pytest.raises(ValueError, match=r"at least 2 rows.*got \(1, 3\)"):
        Scarf()(torch.zeros(1, 3))
