"""Laws that hold for any data: identity, bounds, permutations, rows that stay apart."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp

from mixnoise import Draw, get_noise, ops
from mixnoise.draw import FUNCTIONS

MIXING = ("linear", "geometric", "binary", "dacl+")
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def same_bits(a, b):
    return torch.equal(a.view(BITS[a.dtype.itemsize]), b.view(BITS[b.dtype.itemsize]))


def difficult_rows(dtype, n_rows=8, n_columns=21):
    """Zeros of both signs, infinities, NaNs with payloads, subnormals, the largest numbers."""
    width = BITS[dtype.itemsize]
    x = torch.randn(n_rows, n_columns, generator=torch.Generator().manual_seed(0)).to(dtype)
    info = torch.finfo(dtype)
    special = [0.0, -0.0, torch.inf, -torch.inf, info.max, info.min, info.smallest_normal / 4]
    x[1, : len(special)] = torch.tensor(special, dtype=torch.float64).to(dtype)
    x[2] = 0
    x[3] = torch.inf
    quiet_nan = torch.tensor(torch.nan, dtype=dtype).view(width)
    x[4] = (quiet_nan + torch.arange(n_columns).to(width)).view(dtype)
    x[5, ::2] = -0.0
    return x


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", MIXING)
def test_alpha_1_is_the_identity_bit_for_bit(mix, name, dtype):
    x = difficult_rows(dtype)
    for view in mix(x, get_noise(name, alpha=1.0).sample(x, views=3)):
        assert same_bits(view, x)


@pytest.mark.parametrize("low", [None, 0.0, -1e6])
@pytest.mark.parametrize("function", ["linear", "geometric", "binary", "dacl+"])
def test_rows_of_coefficient_1_are_kept_among_others(mix, function, low):
    """Also where the partner is zero, infinite or NaN."""
    x = difficult_rows(torch.float32)
    coef = torch.full((2, 8), 0.75)
    coef[0, ::2] = coef[1, 1::2] = 1
    kind = torch.arange(8).to(torch.uint8) % 3
    draw = Draw(
        seed=torch.tensor(1),
        partner=torch.tensor([[4, 4, 3, 2, 1, 2, 3, 4], [2, 2, 4, 4, 3, 4, 2, 2]]),
        coef=coef,
        kind=kind if function == "dacl+" else None,
        low=None if low is None else torch.tensor(low),
        function="linear" if function == "dacl+" else function,
    )
    views = mix(x, draw)
    for v in range(2):
        assert same_bits(views[v, coef[v] == 1], x[coef[v] == 1])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_sigma_0_changes_nothing(mix, dtype):
    x = torch.randn(7, 30).to(dtype)
    assert torch.equal(mix(x, get_noise("gaussian", sigma=0.0).sample(x))[0], x)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@settings(max_examples=60)
@given(data=st.data(), seed=st.integers(0, 2**63 - 1), alpha=st.floats(0, 1))
def test_linear_stays_between_the_two_values(dtype, data, seed, alpha):
    """Any finite numbers whose difference does not overflow; equal ones stay exactly equal."""
    limit = torch.finfo(dtype).max / 2
    values = st.floats(-limit, limit) | st.sampled_from([0.0, -0.0, 1.0, limit, -limit, 1e-40])
    numbers = data.draw(hnp.arrays(np.float64, (4, 9), elements=values))
    x = torch.from_numpy(numbers).to(dtype)
    noise = get_noise("linear", alpha=alpha)
    draw = noise.sample(x, views=2, seed=seed)
    views = noise.apply(x, draw)
    own, other = x.expand(2, -1, -1), x[draw.partner]
    assert (views >= torch.minimum(own, other)).all()
    assert (views <= torch.maximum(own, other)).all()
    assert (views == own)[own == other].all()


@settings(max_examples=60)
@given(
    numbers=hnp.arrays(np.float64, (5, 7), elements=st.floats(0, 1e300)),
    seed=st.integers(0, 2**63 - 1),
    alpha=st.floats(0, 1),
)
def test_geometric_stays_between_the_two_values(numbers, seed, alpha):
    """Up to rounding, which the logarithm magnifies; and zero wins over everything."""
    x = torch.from_numpy(numbers)
    noise = get_noise("geometric", alpha=alpha, low=0.0)
    draw = noise.sample(x, views=2, seed=seed)
    views = noise.apply(x, draw)
    own, other = x.expand(2, -1, -1), x[draw.partner]
    relative = 2.0**-52 * 3 * 1074
    assert (views >= torch.minimum(own, other) * (1 - relative)).all()
    assert (views <= torch.maximum(own, other) * (1 + relative)).all()
    mixed = (draw.coef < 1)[..., None] & ((own == 0) | (other == 0))
    assert (views[mixed] == 0).all()


@settings(max_examples=30)
@given(
    n_rows=st.integers(2, 7),
    n_columns=st.integers(1, 40),
    seed=st.integers(0, 2**63 - 1),
    alpha=st.floats(0, 1),
)
def test_binary_takes_every_element_from_one_of_two_rows(n_rows, n_columns, seed, alpha):
    x = torch.arange(n_rows * n_columns).reshape(n_rows, n_columns)
    noise = get_noise("binary", alpha=alpha)
    draw = noise.sample(x, views=2, seed=seed)
    views = noise.apply(x, draw)
    assert ((views == x) | (views == x[draw.partner])).all()


@pytest.mark.parametrize("name", MIXING)
@settings(max_examples=20)
@given(n_rows=st.integers(2, 300), views=st.integers(1, 4), seed=st.integers(-(2**63), 2**63 - 1))
def test_no_row_is_its_own_partner(name, n_rows, views, seed):
    draw = get_noise(name).sample(torch.zeros(n_rows, 1), views=views, seed=seed)
    assert draw.partner.shape == (views, n_rows)
    assert ((draw.partner >= 0) & (draw.partner < n_rows)).all()
    assert (draw.partner != torch.arange(n_rows)).all()


def permuted(draw, order):
    """The draw in which row i takes the part that row order[i] has in this one."""
    return Draw(
        seed=draw.seed,
        partner=order.argsort()[draw.partner[:, order]],
        coef=draw.coef[:, order],
        kind=None if draw.kind is None else draw.kind[order],
        low=draw.low,
        function=draw.function,
    )


@pytest.mark.parametrize("function", ["linear", "geometric", "both"])
def test_permuting_the_rows_permutes_the_views(function):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(50, 33, generator=g)
    draw = get_noise("dacl+").sample(x, views=2, seed=4)
    kind = draw.kind % 2 if function == "both" else torch.full_like(draw.kind, 0)
    if function == "geometric":
        kind = kind + 1
    draw = Draw(draw.seed, draw.partner, draw.coef, kind, draw.low)
    order = torch.randperm(50, generator=g)
    got, expected = ops.mix(x[order], permuted(draw, order)), ops.mix(x, draw)[:, order]
    # exp2 in PyTorch's vector loop and in its remainder may differ by the last bit.
    torch.testing.assert_close(got, expected, rtol=0, atol=2**-22 * x.abs().max().item())
    linear = kind[order] == 0
    assert torch.equal(got[:, linear], expected[:, linear])


@pytest.mark.parametrize("name", ["binary", "gaussian"])
def test_random_elements_belong_to_the_place_not_to_the_row(name):
    """Of binary, partners and coefficients permute; masks, like deviates, stay where they are."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(50, 33, generator=g, dtype=torch.float64)
    noise = get_noise(name) if name == "gaussian" else get_noise(name, granularity="batch")
    draw = noise.sample(x, views=2, seed=4)
    order = torch.randperm(50, generator=g)
    moved = noise.apply(x[order], permuted(draw, order))
    if name == "gaussian":
        torch.testing.assert_close(moved - x[order], noise.apply(x, draw) - x, rtol=0, atol=1e-14)
    else:
        assert torch.equal(moved == x[order], noise.apply(x, draw) == x)
        assert ((moved == x[order]) | (moved == x[draw.partner[:, order]])).all()


# Rows that do not touch a broken row must not know about it.


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", [*MIXING, "gaussian"])
def test_broken_rows_stay_apart(mix, name, broken):
    x = torch.randn(16, 24, generator=torch.Generator().manual_seed(0))
    x[7] = 0  # a number that cannot be the smallest of its column
    bad = x.clone()
    bad[7, ::2] = broken
    noise = get_noise(name)
    draw = noise.sample(x, views=2, seed=3)
    expected, got = mix(x, draw), mix(bad, noise.sample(bad, views=2, seed=3))
    touched = (draw.partner == 7) | (torch.arange(16) == 7)
    assert touched.any(1).all()
    assert torch.equal(got[~touched], expected[~touched])
    assert not torch.equal(got[:, 7], expected[:, 7])


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", [*MIXING, "gaussian"])
def test_gradients_of_other_rows_do_not_see_broken_rows(name, broken):
    x = torch.randn(40, 24, generator=torch.Generator().manual_seed(0))
    x[7] = 0
    bad = x.clone()
    bad[7, ::2] = broken
    noise = get_noise(name)
    draw = noise.sample(x, views=2, seed=3)
    grads = []
    for data in (x, bad):
        leaf = data.clone().requires_grad_()
        noise.apply(leaf, draw).sum().backward()
        grads.append(leaf.grad)
    touched = (draw.partner == 7).any(0)  # rows that drew row 7
    touched[draw.partner[:, 7]] = True  # and those it drew
    touched[7] = True
    assert not touched.all()
    assert torch.equal(grads[0][~touched], grads[1][~touched])


def test_functions_are_numbered_as_documented():
    """Draws that users keep hold these codes."""
    assert FUNCTIONS == ("linear", "geometric", "binary", "gaussian")
