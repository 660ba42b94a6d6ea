"""Random bits are those of the published hash, in the documented layout."""

import noise_oracles as oracles
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mixnoise import get_noise
from mixnoise._torch import host_random, random
from mixnoise._torch.random import pcg4d

SEEDS = (0, 1, 2, -1, 123456789, 2**32, -(2**63), 2**63 - 1)

# Worked out with Python's integers from the listing in the paper.
PCG4D = {
    (0, 0, 0, 0): (251852841, 760645481, 850445371, 3542436074),
    (1, 2, 3, 4): (908250390, 4044648920, 3775961919, 45698095),
    (4294967295, 4294967295, 4294967295, 4294967295): (
        2538526866,
        3222658151,
        2677364576,
        2713428488,
    ),
    (2147483648, 2147483647, 12345, 3735928559): (81936742, 1806599630, 2828544955, 4192540691),
}


def signed(words):
    return [torch.from_numpy(np.array([w], np.uint32).view(np.int32)) for w in words]


@pytest.mark.parametrize(("words", "answer"), PCG4D.items(), ids=str)
def test_pcg4d_known_answers(words, answer):
    assert [w.item() % 2**32 for w in pcg4d(*signed(words))] == list(answer)
    assert [w.item() for w in oracles.pcg4d(*words)] == list(answer)


def test_oracle_keys_known_answers():
    """The first numbers of SplitMix64 with seed 1234567, as published for it."""
    stream = [oracles.mix64((1234567 + i * oracles.GOLDEN) & oracles.MASK64) for i in (1, 2, 3)]
    assert stream == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(
    seed=st.integers(-(2**63), 2**63 - 1) | st.sampled_from(SEEDS),
    views=st.integers(1, 5),
    n_rows=st.integers(1, 300),
    alpha=st.floats(0, 1) | st.sampled_from([0, 1]),
    per_batch=st.booleans(),
)
def test_numpy_on_the_cpu_draws_what_pytorch_draws_elsewhere(seed, views, n_rows, alpha, per_batch):
    seed = torch.tensor(seed)
    for stream in (random.STREAM_ROW, random.STREAM_KIND, random.STREAM_ELEMENT):
        found = torch.stack(host_random.keys(seed, stream, views))
        assert torch.equal(found, torch.stack(random.keys(seed, stream, views)))
    partner, coef = host_random.draw_rows(seed, views, n_rows, alpha, per_batch)
    expected_partner, expected_coef = random.draw_rows(seed, views, n_rows, alpha, per_batch)
    assert torch.equal(partner, expected_partner)
    assert torch.equal(coef, expected_coef)
    kinds = host_random.draw_kinds(seed, n_rows, 3, per_batch)
    assert torch.equal(kinds, random.draw_kinds(seed, n_rows, 3, per_batch))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n_rows", [2, 3, 4, 33, 1000])
def test_partners_and_kinds_are_the_oracles(seed, n_rows):
    draw = get_noise("dacl+").sample(torch.rand(n_rows, 1), views=3, seed=seed)
    assert (draw.partner.numpy() == oracles.partners(seed, 3, n_rows)).all()
    assert (draw.kind.numpy() == oracles.kinds(seed, n_rows)).all()
    assert draw.seed.item() == seed


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("alpha", [0, 1e-9, 0.3, 0.7, 0.99, 1 - 2**-30, 1])
@pytest.mark.parametrize("granularity", ["sample", "batch"])
def test_coefficients_are_the_oracles(seed, alpha, granularity):
    noise = get_noise("linear", alpha=alpha, granularity=granularity)
    coef = noise.sample(torch.rand(501, 1), views=3, seed=seed).coef
    expected = oracles.coefficients(seed, 3, 501, alpha, granularity == "batch")
    assert (coef.numpy() == expected).all()


@pytest.mark.parametrize("n_columns", [1, 7, 8, 9, 31, 32, 33, 64, 100])
def test_masks_are_the_oracles(n_columns):
    x = torch.arange(50)[:, None].expand(50, n_columns)
    noise = get_noise("binary", alpha=0.1)
    for seed in SEEDS:
        draw = noise.sample(x, views=3, seed=seed)
        kept = noise.apply(x, draw) == x  # a partner's number is always another one
        for v in range(3):
            expected = oracles.keep(seed, v, draw.coef[v].numpy(), n_columns)
            assert (kept[v].numpy() == expected).all()


@pytest.mark.parametrize("n_columns", [1, 7, 8, 9, 31, 32, 33, 64, 100])
def test_normals_are_the_oracles_within_a_few_ulp(n_columns):
    """In units of the radius' last bit: the angle's own rounding is of that size."""
    for seed in SEEDS:
        views = get_noise("gaussian", sigma=1.0).views(torch.zeros(50, n_columns), 3, seed=seed)
        for v in range(3):
            expected, radius = oracles.normals(seed, v, 50, n_columns)
            assert (np.abs(views[v].numpy() - expected) <= 4 * 2.0**-23 * radius).all()


@pytest.mark.parametrize("name", ["dacl+", "binary", "gaussian"])
def test_a_view_does_not_depend_on_how_many_there_are(name):
    x = torch.rand(20, 30)
    noise = get_noise(name)
    assert torch.equal(noise.views(x, 3, seed=1)[:2], noise.views(x, 2, seed=1))


def test_a_row_does_not_depend_on_how_many_there_are():
    """Only its partner does, which is drawn from all of them."""
    many, few = (get_noise("dacl+").sample(torch.rand(n, 1), views=2, seed=1) for n in (90, 40))
    assert torch.equal(many.coef[:, :40], few.coef)
    assert torch.equal(many.kind[:40], few.kind)
    x = torch.zeros(90, 30)
    noise = get_noise("gaussian")
    assert torch.equal(noise.views(x, 2, seed=1)[:, :40], noise.views(x[:40], 2, seed=1))


def test_columns_beyond_sixteen_bits_of_blocks():
    """Rows wide enough for the block's index to leave the low half of its word."""
    n_columns = 2**20 + 40
    x = torch.arange(2)[:, None].expand(2, n_columns)
    noise = get_noise("binary", alpha=0.5)
    draw = noise.sample(x, seed=3)
    expected = oracles.keep(3, 0, draw.coef[0].numpy(), n_columns)
    assert ((noise.apply(x, draw)[0] == x).numpy() == expected).all()
