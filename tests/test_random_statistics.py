"""Draws follow the distributions they state, and nothing in them depends on anything else.

Seeds are fixed, so every test either passes or fails for good. What happens by chance less often
than once in a thousand times counts as a failure; where a statistic is computed many times, its
own distribution is tested too.
"""

import noise_oracles as oracles
import numpy as np
import pytest
import torch
from scipy import stats

from mixnoise import get_noise

ALPHAS = (0.0, 0.3, 0.7, 0.99)


def assert_uniform(p_values):
    """Many p-values: none too small for their number, and all of them spread evenly."""
    p_values = np.asarray(p_values)
    assert p_values.min() > 1e-3 / len(p_values), p_values.min()
    assert stats.kstest(p_values, "uniform").pvalue > 1e-3


def assert_standard_normal(z):
    """Many z-scores: none too large for their number, and all of them normal."""
    z = np.asarray(z)
    largest = stats.norm.isf(1e-3 / len(z) / 2)
    assert np.abs(z).max() < largest, f"|z| {np.abs(z).max():.2f} in {len(z)}"
    assert stats.kstest(z, "norm").pvalue > 1e-3, f"mean {z.mean():.3f}, std {z.std():.3f}"


def sample(name, n_rows, views=1, seed=0, **kwargs):
    return get_noise(name, **kwargs).sample(torch.zeros(n_rows, 1), views=views, seed=seed)


# Rows: coefficients, partners, kinds.


@pytest.mark.parametrize("alpha", ALPHAS)
def test_coefficients_are_uniform(alpha):
    p_values = []
    for seed in range(60):
        coef = sample("linear", 10_000, seed=seed, alpha=alpha).coef[0].double().numpy()
        p_values.append(stats.kstest(coef, "uniform", (alpha, 1 - alpha)).pvalue)
    assert_uniform(p_values)


@pytest.mark.parametrize("alpha", [*ALPHAS, 1.0, 1 - 2**-24, 1e-30])
def test_coefficients_are_above_alpha_and_at_most_1(alpha):
    coef = sample("linear", 2**17, views=8, alpha=alpha).coef.double()
    assert coef.max() <= 1
    assert alpha == 1 or coef.min() > alpha
    if alpha == 1:
        assert coef.min() == 1


def test_one_coefficient_a_batch_is_uniform_over_views_and_seeds():
    coef = sample("linear", 2, views=5000, alpha=0.5, granularity="batch").coef
    assert torch.equal(coef[:, 0], coef[:, 1])
    assert stats.kstest(coef[:, 0].numpy(), "uniform", (0.5, 0.5)).pvalue > 1e-3
    coef = [sample("linear", 2, seed=s, alpha=0.5, granularity="batch").coef for s in range(1000)]
    assert stats.kstest(torch.cat(coef)[:, 0].numpy(), "uniform", (0.5, 0.5)).pvalue > 1e-3


@pytest.mark.parametrize("n_rows", [2, 3, 4, 8, 17, 33])
def test_partners_are_uniform_over_the_other_rows(n_rows):
    views = 300 * n_rows
    partner = sample("linear", n_rows, views).partner.numpy()
    counts = np.stack([np.bincount(column, minlength=n_rows) for column in partner.T])
    assert (counts.diagonal() == 0).all()
    if n_rows > 2:
        others = counts[~np.eye(n_rows, dtype=bool)].reshape(n_rows, n_rows - 1)
        assert_uniform(stats.chisquare(others, axis=1).pvalue)


@pytest.mark.parametrize("n_rows", [256, 257, 1000])
def test_partners_of_large_batches_are_uniform_and_never_the_row(n_rows):
    p_values = []
    for seed in range(40):
        partner = sample("linear", n_rows, views=32, seed=seed).partner
        offset = (partner - torch.arange(n_rows)) % n_rows
        counts = np.bincount(offset.flatten().numpy(), minlength=n_rows)
        assert counts[0] == 0
        p_values.append(stats.chisquare(counts[1:]).pvalue)
    assert_uniform(p_values)


# Odd batch sizes matter: N - 1 is even there, so its remainders lean on a word's last bits.
@pytest.mark.parametrize("n_rows", [256, 257, 1000, 1001])
def test_partners_of_neighbouring_rows_are_independent(n_rows):
    """Parities and halves of the range, for rows 1, 2 and 4 apart and for two views."""
    z = []
    for seed in range(60):
        partner = sample("linear", n_rows, views=2, seed=seed).partner.numpy()
        rank = partner - (partner > np.arange(n_rows))  # uniform over 0..N-2
        half = (n_rows - 1) // 2
        for is_one, share in ((rank % 2, half / (n_rows - 1)), (rank < half, half / (n_rows - 1))):
            a, b = (is_one - share) / np.sqrt(share * (1 - share))
            z += [(a[lag:] * a[:-lag]).sum() / np.sqrt(n_rows - lag) for lag in (1, 2, 4)]
            z.append((a * b).sum() / np.sqrt(n_rows))
    assert_standard_normal(z)


def test_kinds_are_uniform():
    p_values = []
    for seed in range(100):
        kind = sample("dacl+", 3000, seed=seed).kind.numpy()
        p_values.append(stats.chisquare(np.bincount(kind, minlength=3)).pvalue)
    assert_uniform(p_values)


def test_one_kind_a_batch_is_uniform_over_seeds():
    kinds = [sample("dacl+", 2, seed=s, granularity="batch").kind for s in range(1500)]
    assert all(kind[0] == kind[1] for kind in kinds)
    counts = np.bincount(torch.stack(kinds)[:, 0].numpy(), minlength=3)
    assert stats.chisquare(counts).pvalue > 1e-3


# Elements: masks and normal deviates.


def mask(n_rows, n_columns, views=1, seed=0, coef=None, alpha=0.0):
    """What binary keeps, bool ``(V, N, F)``, and each row's coefficient as it is rounded."""
    x = torch.arange(n_rows, dtype=torch.int32)[:, None].expand(n_rows, n_columns)
    noise = get_noise("binary", alpha=alpha)
    draw = noise.sample(x, views=views, seed=seed)
    if coef is not None:
        draw.coef.fill_(coef)
    kept = (noise.apply(x, draw) == x).numpy()
    return kept, np.rint(draw.coef.double().numpy() * 65536) / 65536


def normal(n_rows, n_columns, views=1, seed=0):
    noise = get_noise("gaussian", sigma=1.0)
    return noise.views(torch.zeros(n_rows, n_columns), views, seed=seed).numpy()


def test_masks_keep_the_share_c_of_every_row_column_and_lane():
    (kept,), (p,) = mask(2000, 2048, seed=1)
    centred = kept - p[:, None]
    variance = p * (1 - p)
    usable = variance * 2048 > 40  # else the count is not close to normal
    assert usable.mean() > 0.9
    assert_standard_normal(centred.sum(1)[usable] / np.sqrt(variance * 2048)[usable])
    assert_standard_normal(centred.sum(0) / np.sqrt(variance.sum()))
    # Four words, whose two halves serve neighbouring columns.
    lanes = centred.reshape(2000, 4, 256, 2).sum((0, 2)).flatten()
    assert_standard_normal(lanes / np.sqrt(variance.sum() * 256))


@pytest.mark.parametrize("c", [1e-3, 0.05, 0.5, 0.9, 0.999, 1 - 2**-16])
def test_masks_keep_the_share_c_over_seeds(c):
    z = []
    for seed in range(50):
        kept, p = mask(64, 1024, seed=seed, coef=c)
        assert abs(p[0, 0] - c) <= 2**-17
        n = kept.size
        z.append((kept.sum() - n * p[0, 0]) / np.sqrt(n * p[0, 0] * (1 - p[0, 0])))
    # Of the last one only about one element a mask is swapped: that is no normal variable.
    if c < 0.9999:
        assert_standard_normal(z)
    else:
        swapped = round(50 * n * 2**-16 - sum(z) * np.sqrt(n * 2**-16))
        assert stats.poisson.cdf(swapped, 50) > 1e-3
        assert stats.poisson.sf(swapped, 50) > 1e-3


@pytest.mark.parametrize("word", range(4))
@pytest.mark.parametrize("half", range(2))
def test_lane_values_are_uniform(word, half):
    """The 16-bit numbers behind the masks, which tests/test_random.py shows to be the oracle's."""
    whole, upper, lower = 0, [], []
    for seed in range(30):
        lane = oracles.lanes(seed, 0, 512, 1024)[:, word * 256 + half : (word + 1) * 256 : 2]
        counts = np.bincount(lane.ravel(), minlength=2**16)
        whole = whole + counts
        upper.append(stats.chisquare(counts.reshape(256, 256).sum(1)).pvalue)
        lower.append(stats.chisquare(counts.reshape(256, 256).sum(0)).pvalue)
    assert stats.chisquare(whole).pvalue > 1e-3
    assert_uniform(upper)
    assert_uniform(lower)


def test_normals_are_normal():
    (x,) = normal(1000, 2048, seed=2).astype(np.float64)
    assert stats.kstest(x.ravel(), "norm").pvalue > 1e-3
    assert_standard_normal(x.mean(1) * np.sqrt(2048))
    assert_standard_normal(x.mean(0) * np.sqrt(1000))
    assert_uniform(stats.chi2.cdf((x**2).sum(1), 2048))
    assert_uniform(stats.chi2.cdf((x**2).sum(0), 1000))
    assert_standard_normal([(x**3).sum() / np.sqrt(15 * x.size)])
    assert_standard_normal([((x**4).mean() - 3) * np.sqrt(x.size / 96)])


def test_normals_of_one_radius_are_independent():
    """cos and sin columns of one hash: the sum of their squares is exponential."""
    (x,) = normal(500, 1024, seed=3).astype(np.float64)
    square = (x[:, :512] ** 2 + x[:, 512:] ** 2) / 2
    assert stats.kstest(square.ravel(), "expon").pvalue > 1e-3


def test_normals_have_tails():
    """16 bits in the radius would stop at 4.8 standard deviations, 24 bits at 5.9."""
    n, beyond, largest = 0, np.zeros(3), 0.0
    for seed in range(10):
        x = np.abs(normal(1000, 4096, seed=seed))
        n += x.size
        beyond += [(x > limit).sum() for limit in (4.0, 4.8, 5.2)]
        largest = max(largest, x.max())
    for count, limit in zip(beyond, (4.0, 4.8, 5.2), strict=True):
        expected = n * 2 * stats.norm.sf(limit)
        assert stats.poisson.cdf(count, expected) > 1e-3, (limit, count, expected)
        assert stats.poisson.sf(count - 1, expected) > 1e-3, (limit, count, expected)
    assert 5.2 < largest < 6.67


def pairs(a, next_seed):
    """Pairs that must be independent, out of the ``(2, R, C)`` of one seed and of the next."""
    first, second = a
    for lag in (1, 2, 3, 4, 8, 16, 64, 128, 256):  # 128 columns a word: 256 pairs cos with sin
        yield f"columns {lag}", first[:, lag:], first[:, :-lag]
    for lag in (1, 2, 4, 16, 64):
        yield f"rows {lag}", first[lag:], first[:-lag]
    yield "rows and columns", first[1:, 1:], first[:-1, :-1]
    yield "transposed", *(np.triu(m, 1) for m in (first[:, :128], first[:, :128].T))
    yield "views", first, second
    yield "seeds", first, next_seed[0]
    yield "seeds and views", first, next_seed[1]


@pytest.mark.parametrize("what", ["masks", "normals", "squares"])
def test_no_correlation_between_elements(what):
    """Neighbouring columns, rows, views and seeds, and the lanes of one hash."""

    def numbers(seed):
        if what == "masks":
            return mask(128, 512, 2, seed, coef=0.5)[0] * 2.0 - 1
        x = normal(128, 512, 2, seed)
        return x if what == "normals" else (x**2 - 1) / np.sqrt(2)

    names, z = [], []
    for seed in range(0, 40_000, 1000):
        for name, a, b in pairs(numbers(seed), numbers(seed + 1)):
            n = a.size if name != "transposed" else 128 * 127 // 2
            names.append(name)
            z.append((a * b).sum(dtype=np.float64) / np.sqrt(n))
    assert len(z) >= 700
    assert_standard_normal(z)
    # Every kind of pair on its own: the sum of 40 squares is chi-square.
    z = np.reshape(z, (40, -1))
    p_values = stats.chi2.sf((z**2).sum(0), 40)
    worst = names[p_values.argmin()]
    assert p_values.min() > 1e-3 / len(p_values), f"{worst}: p {p_values.min():.1e}"


def test_no_correlation_between_streams():
    """Coefficients, partners, kinds, elements: of one row, the next one, and the next seed."""
    z = []
    n = 4096
    for seed in range(0, 40_000, 1000):
        draw = sample("dacl+", n, views=2, seed=seed, alpha=0.0)
        offset = (draw.partner - torch.arange(n)) % n  # uniform over 1..N-1
        coef = (draw.coef.numpy() - 0.5) * np.sqrt(12)
        partner = (offset.numpy() / n - 0.5) * np.sqrt(12)
        kind = (draw.kind.numpy() - 1.0) * np.sqrt(1.5)
        following = sample("dacl+", n, views=2, seed=seed + 1, alpha=0.0)
        element = normal(n, 1, views=2, seed=seed)[..., 0]
        kept = mask(n, 1, views=2, seed=seed, coef=0.5)[0][..., 0] * 2 - 1
        next_coef = (following.coef.numpy() - 0.5) * np.sqrt(12)
        next_kind = (following.kind.numpy() - 1.0) * np.sqrt(1.5)
        independent = [
            (coef[0], partner[0]),
            (coef[0], coef[1]),
            (coef[0], np.roll(coef[0], 1)),
            (coef[0], next_coef[0]),
            (partner[0], partner[1]),
            (partner[0], np.roll(partner[0], 1)),
            (kind, coef[0]),
            (kind, partner[0]),
            (kind, np.roll(kind, 1)),
            (kind, next_kind),
            (kind, element[0]),
            (coef[0], element[0]),
            (coef[0], element[1]),
            (coef[0], kept[0]),
            (partner[0], kept[0]),
            (element[0], kept[0]),
        ]
        z += [(a * b).sum() / np.sqrt(n) for a, b in independent]
    assert_standard_normal(z)
