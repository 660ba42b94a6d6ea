"""The noises against the oracle, over shapes, dtypes and memory layouts."""

import math

import hypothesis.strategies as st
import noise_oracles as oracles
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from mixnoise import Draw, get_noise, ops

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
MIXING = ("linear", "geometric", "binary", "dacl+")
NOISES = (*MIXING, "gaussian")
INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)
FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
COMPLEX = (torch.complex64, torch.complex128)

# Ranks 1 to 4; feature counts odd, and around the multiples of 8, 16 and 32 that hashes serve.
FEATURES = (
    st.sampled_from([1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65]).map(lambda f: (f,))
    | st.just(())
    | st.tuples(st.integers(1, 5), st.integers(1, 7))
    | st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4))
)
SEEDS = st.integers(-(2**63), 2**63 - 1)


def wide(x):
    """A tensor as float64 in numpy, ``(..., N, F)`` flattened to the last two axes."""
    return x.detach().double().numpy()


def rows_of(x):
    return wide(x).reshape(x.shape[0], math.prod(x.shape[1:]))


def oracle_arguments(draw, features):
    """The fields of a draw as the oracle takes them."""
    low = draw.low
    if low is not None and low.ndim:
        low = low.expand(features).flatten()
    return {
        "seed": draw.seed.item(),
        "partner": draw.partner.numpy(),
        "coef": draw.coef.numpy(),
        "kind": None if draw.kind is None else draw.kind.numpy(),
        "low": None if low is None else wide(low),
        "function": draw.function,
    }


def assert_close_to_oracle(x, draw, views):
    arguments = oracle_arguments(draw, x.shape[1:])
    expected = oracles.mix(rows_of(x), **arguments)
    dtype = str(x.dtype).removeprefix("torch.")
    bound = oracles.slack(dtype, rows_of(x), expected, **arguments)
    assert views.dtype == x.dtype
    assert views.shape == (len(draw.partner), *x.shape)
    error = np.abs(wide(views).reshape(expected.shape) - expected)
    assert (error <= bound).all(), f"error {error.max()}, {(error / bound).max()} of the slack"


@pytest.mark.parametrize("name", NOISES)
@settings(max_examples=40)
@given(
    n_rows=st.integers(2, 6),
    features=FEATURES,
    views=st.integers(1, 3),
    dtype=st.sampled_from(FLOATS),
    level=st.floats(0, 1),
    scale=st.sampled_from([1e-4, 1.0, 300.0]),
    seed=SEEDS,
)
def test_noise_is_the_oracles(name, n_rows, features, views, dtype, level, scale, seed):
    noise = get_noise(name, **{"sigma" if name == "gaussian" else "alpha": level})
    g = torch.Generator().manual_seed(seed)
    x = (torch.randn(n_rows, *features, generator=g, dtype=torch.float64) * scale).to(dtype)
    draw = noise.sample(x, views=views, seed=seed)
    assert_close_to_oracle(x, draw, noise.apply(x, draw))


@pytest.mark.parametrize("low", [None, 0.0, -0.75])
@settings(max_examples=25)
@given(
    n_rows=st.integers(1, 5),
    n_columns=st.integers(1, 35),
    views=st.integers(1, 3),
    dtype=st.sampled_from(FLOATS),
    seed=SEEDS,
)
def test_a_draw_of_ones_own_is_the_oracles(low, n_rows, n_columns, views, dtype, seed):
    """Any partners, coefficients from 0 to 1 with both ends, all four functions side by side."""
    g = torch.Generator().manual_seed(seed)
    x = (torch.rand(n_rows, n_columns, generator=g, dtype=torch.float64) * 1e3).to(dtype)
    x[torch.rand(x.shape, generator=g) < 0.1] = 0  # where low is 0, logarithms of 0
    shape = (views, n_rows)
    draw = Draw(
        seed=torch.tensor(seed),
        partner=torch.randint(n_rows, shape, generator=g),
        coef=(torch.rand(shape, generator=g) * 1.4 - 0.2).clamp(0, 1),
        kind=torch.randint(4, (n_rows,), generator=g).to(torch.uint8),
        low=None if low is None else torch.tensor(low),
    )
    assert_close_to_oracle(x, draw, ops.mix(x, draw))


@pytest.mark.parametrize("dtype", [*INTEGERS, *UNSIGNED, *FLOATS, *FLOAT8, *COMPLEX], ids=str)
@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0])
def test_binary_takes_any_dtype_bit_for_bit(mix, dtype, alpha):
    """On random bytes, so also NaNs with payloads; bool holds 0 and 1 only."""
    n_rows, n_columns, width = 7, 37, dtype.itemsize
    g = torch.Generator().manual_seed(width)
    raw = torch.randint(256, (n_rows, n_columns * width), generator=g, dtype=torch.uint8)
    x = raw.bool() if dtype == torch.bool else raw.view(dtype)
    draw = get_noise("binary", alpha=alpha).sample(x, views=2, seed=5)
    views = mix(x, draw)
    assert views.dtype == dtype
    elements = raw.numpy().reshape(n_rows, n_columns, width)
    if dtype == torch.bool:
        elements = x.view(torch.uint8).numpy()[..., None]
    for v in range(2):
        keep = oracles.keep(5, v, draw.coef[v].numpy(), n_columns)[..., None]
        expected = np.where(keep, elements, elements[draw.partner[v].numpy()])
        got = views[v].contiguous().view(torch.uint8).numpy().reshape(expected.shape)
        assert (got == expected).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_masks_of_coefficients_that_a_number_just_reaches(mix, dtype):
    """Coefficients are rounded to multiples of 2^-16, halves to the even one, in gradients too."""
    row, n_columns = torch.arange(80), 36
    x = row[:, None].expand(80, n_columns).to(dtype).requires_grad_()
    numbers = torch.from_numpy(oracles.lanes(7, 0, 80, n_columns))[row, row % n_columns]
    coef = ((numbers + row % 5 / 4) / 65536).clamp(max=1).float()
    draw = Draw(torch.tensor(7), row.roll(1)[None], coef[None], function="binary")
    expected = oracles.keep(7, 0, coef.numpy(), n_columns)
    views = mix(x, draw)[0]
    assert ((views == x).numpy() == expected).all()
    kept = torch.from_numpy(expected).to(dtype)
    weights = torch.arange(1.0, 81, dtype=dtype)[:, None]
    (grad,) = torch.autograd.grad((views * weights).sum(), x)
    # Row i gives its weight to itself where it is kept, and else to the row that it drew, i - 1.
    assert torch.equal(grad, kept * weights + ((1 - kept) * weights).roll(-1, 0))


@pytest.mark.parametrize("shape", [(300, 1000), (3, 2**18 + 5), (70_000, 5)], ids=str)
@pytest.mark.parametrize("name", ["linear", "binary"])
def test_nothing_changes_at_the_edges_of_row_blocks(name, shape):
    """Large enough to be worked through in several blocks of rows."""
    x = torch.arange(math.prod(shape), dtype=torch.float64).reshape(shape)
    noise = get_noise(name, alpha=0.2)
    draw = noise.sample(x, seed=9)
    own, other, c = x, x[draw.partner[0]], draw.coef[0].double()[:, None]
    if name == "binary":
        keep = torch.from_numpy(oracles.keep(9, 0, draw.coef[0].numpy(), shape[1]))
        torch.testing.assert_close(noise.apply(x, draw)[0], own.where(keep, other), rtol=0, atol=0)
    else:
        expected = c * own + (1 - c) * other
        torch.testing.assert_close(noise.apply(x, draw)[0], expected, rtol=1e-15, atol=1e-9)


def layouts(base):
    """The same ``(6, 4, 10)`` numbers with other strides."""
    yield "transposed", base.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    strided = base.new_zeros(12, 4, 30)
    strided[::2, :, 1::3] = base
    yield "strided", strided[::2, :, 1::3]
    yield "offset", torch.cat((base[:1], base))[1:]


@pytest.mark.parametrize("name", NOISES)
def test_strides_do_not_matter(mix, name):
    base = torch.randn(6, 4, 10, generator=torch.Generator().manual_seed(0))
    noise = get_noise(name)
    draw = noise.sample(base, views=2, seed=1)
    expected = mix(base, draw)
    for layout, x in layouts(base):
        assert torch.equal(x, base), layout
        assert torch.equal(noise.sample(x, views=2, seed=1).coef, draw.coef), layout
        assert torch.equal(mix(x, draw), expected), layout


@pytest.mark.parametrize("function", oracles.FUNCTIONS)
def test_rows_that_share_memory_are_rows_like_others(mix, function):
    """Broadcast rows and a draw made of broadcast tensors."""
    x = torch.rand(1, 9).expand(5, 9)
    row = torch.tensor([[1, 2, 3, 4, 0]])
    coef = torch.full((1, 1), 0.8)
    draw = Draw(torch.tensor(3), row.expand(2, 5), coef.expand(2, 5), function=function)
    copied = Draw(torch.tensor(3), row.repeat(2, 1), coef.repeat(2, 5), function=function)
    assert torch.equal(mix(x, draw), mix(x.clone(), copied))


@pytest.mark.parametrize("name", NOISES)
@pytest.mark.parametrize("shape", [(5,), (5, 0), (5, 2, 0), (2, 1), (5, 1, 3, 2)], ids=str)
def test_any_rank_and_no_features_at_all(mix, name, shape):
    x = torch.rand(shape)
    noise = get_noise(name)
    assert noise(x).shape == shape
    assert mix(x, noise.sample(x, views=3)).shape == (3, *shape)


@pytest.mark.parametrize("name", NOISES)
def test_rank_does_not_matter(mix, name):
    """Features are counted in memory order, whatever their shape."""
    flat = torch.randn(6, 24, generator=torch.Generator().manual_seed(0))
    noise, x = get_noise(name), flat.reshape(6, 2, 3, 4)
    views = mix(x, noise.sample(x, views=2, seed=3))
    assert torch.equal(views.flatten(2), mix(flat, noise.sample(flat, views=2, seed=3)))


@pytest.mark.parametrize("name", NOISES)
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_input_is_neither_changed_nor_returned(mix, name, level):
    x = torch.rand(8, 12)
    before = x.clone()
    noise = get_noise(name, **{"sigma" if name == "gaussian" else "alpha": level})
    views = mix(x, noise.sample(x, views=2))
    views.zero_()
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", NOISES)
def test_forward_is_the_first_view(name):
    x = torch.rand(8, 12)
    noise = get_noise(name)
    assert torch.equal(noise(x, seed=4), noise.views(x, 1, seed=4)[0])
    assert torch.equal(noise.views(x, seed=4), noise.views(x, 2, seed=4))
