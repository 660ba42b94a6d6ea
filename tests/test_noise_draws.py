"""Where randomness comes from, and what a draw is."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from mixnoise import Draw, get_noise
from mixnoise.draw import FUNCTIONS

MIXING = ("linear", "geometric", "binary", "dacl+")
NOISES = (*MIXING, "gaussian", "hidden")


def data(n_rows=12):
    return torch.randn(n_rows, 20, generator=torch.Generator().manual_seed(0))


def equal_draws(a, b):
    return all(
        torch.equal(u, v) if isinstance(u, torch.Tensor) else u == v
        for u, v in zip(vars(a).values(), vars(b).values(), strict=True)
    )


# Sources of seeds.


@pytest.mark.parametrize("name", NOISES)
def test_a_generator_reproduces_and_leaves_the_global_one_alone(name):
    x, noise = data(), get_noise(name)
    before = torch.get_rng_state()
    g = torch.Generator().manual_seed(5)
    first, second = noise.views(x, 2, generator=g), noise.views(x, 2, generator=g)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first, second)
    g.manual_seed(5)
    assert torch.equal(noise.apply(x, noise.sample(x, views=2, generator=g)), first)
    assert torch.equal(noise(x, generator=g.manual_seed(5)), first[0])


@pytest.mark.parametrize("name", NOISES)
def test_without_a_generator_the_global_one_decides(name):
    x, noise = data(), get_noise(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        before = torch.get_rng_state()
        first, second = noise(x), noise(x)
        assert not torch.equal(torch.get_rng_state(), before)
        assert not torch.equal(first, second)
        torch.manual_seed(6)
        assert torch.equal(noise(x), first)
        assert torch.equal(noise(x), second)


@pytest.mark.parametrize("name", NOISES)
def test_a_seed_touches_no_generator(name):
    x, noise = data(), get_noise(name)
    before = torch.get_rng_state()
    assert torch.equal(noise.views(x, 2, seed=7), noise.views(x, 2, seed=7))
    assert torch.equal(torch.get_rng_state(), before)


def test_applying_draws_no_random_number():
    x = data()
    for name in NOISES:
        noise = get_noise(name)
        draw = noise.sample(x)
        before = torch.get_rng_state()
        first = noise.apply(x, draw)
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(noise.apply(x, draw), first)


@pytest.mark.parametrize(
    "seed", [torch.tensor(7), np.int64(7), np.uint8(7)], ids=["tensor", "int64", "uint8"]
)
def test_a_seed_may_be_a_tensor_or_a_numpy_integer(seed):
    noise = get_noise("dacl+")
    assert equal_draws(noise.sample(data(), seed=seed), noise.sample(data(), seed=7))


@pytest.mark.parametrize("name", NOISES)
def test_different_seeds_and_different_views_differ(name):
    x, noise = data(), get_noise(name)
    seeds = [0, 1, -1, 2**32, 2**63 - 1, -(2**63)]
    made = [view for seed in seeds for view in noise.views(x, 2, seed=seed)]
    for i, a in enumerate(made):
        assert not torch.equal(a, x)
        for b in made[:i]:
            assert not torch.equal(a, b)


def test_seeds_differ_in_all_of_a_draw():
    """Nothing is left over from a seed in that of a neighbour."""
    noise = get_noise("dacl+")
    a, b = (noise.sample(torch.zeros(1000, 1), views=2, seed=s) for s in (0, 1))
    assert (a.partner == b.partner).float().mean() < 0.01
    assert (a.coef == b.coef).float().mean() < 0.01
    assert 0.2 < (a.kind == b.kind).float().mean() < 0.5


def test_a_draw_outlives_changes_to_the_tensor_its_seed_came_from():
    """Its partners are those of the old seed, so its masks have to be as well."""
    seed = torch.tensor(3)
    draw = get_noise("binary").sample(data(), seed=seed)
    seed += 1
    assert draw.seed.item() == 3


@pytest.mark.parametrize("name", ["geometric", "dacl+"])
def test_noise_and_draws_outlive_changes_to_each_others_low(name):
    low = torch.full((20,), -9.0)
    noise = get_noise(name, low=low)
    first, second = noise.sample(data()), noise.sample(data())
    low.zero_()
    first.low.add_(1)
    for kept in (second.low, noise.low, noise.sample(data()).low):
        assert (kept == -9).all()


# The draw itself.


@pytest.mark.parametrize("name", MIXING)
def test_fields_of_a_draw(name):
    draw = get_noise(name).sample(data(), views=3)
    assert (draw.seed.shape, draw.seed.dtype) == ((), torch.int64)
    assert (draw.partner.shape, draw.partner.dtype) == ((3, 12), torch.int64)
    assert (draw.coef.shape, draw.coef.dtype) == ((3, 12), torch.float32)
    if name == "dacl+":
        assert (draw.kind.shape, draw.kind.dtype) == ((12,), torch.uint8)
    else:
        assert draw.kind is None
        assert draw.function == name
    assert (draw.low is not None) == (name in ("geometric", "dacl+"))


def test_gaussian_draw_holds_sigma_and_no_partner():
    draw = get_noise("gaussian", sigma=0.25).sample(data(), views=2)
    assert (draw.coef == 0.25).all()
    assert (draw.partner == torch.arange(12)).all()


def test_a_draw_is_frozen():
    draw = get_noise("linear").sample(data())
    for field in dataclasses.fields(draw):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(draw, field.name, None)


def test_to_moves_every_tensor_and_nothing_else():
    draw = get_noise("dacl+").sample(data())
    moved = draw.to("meta")
    assert isinstance(moved, Draw)
    for field in ("seed", "partner", "coef", "kind", "low"):
        assert getattr(moved, field).device.type == "meta"
        assert getattr(draw, field).device.type == "cpu"
    linear = get_noise("linear").sample(data()).to("meta")
    assert (linear.kind, linear.low, linear.function) == (None, None, "linear")
    assert equal_draws(draw.to("cpu"), draw)


@pytest.mark.parametrize("name", NOISES)
def test_a_draw_can_be_kept(name, tmp_path):
    """Copied, or saved and loaded without unpickling code."""
    x, noise = data(), get_noise(name)
    draw = noise.sample(x, views=2)
    expected = noise.apply(x, draw)
    assert torch.equal(noise.apply(x, copy.deepcopy(draw)), expected)
    torch.save(vars(draw), tmp_path / "draw.pt")
    loaded = Draw(**torch.load(tmp_path / "draw.pt", weights_only=True))
    assert torch.equal(noise.apply(x, loaded), expected)


def test_a_draw_of_ones_own():
    """Partners and coefficients may come from anywhere, such as an average of neighbours."""
    x = torch.tensor([[0.0, 8.0], [4.0, 0.0], [1.0, 1.0]])
    draw = Draw(torch.tensor(0), torch.tensor([[1, 1, 0]]), torch.tensor([[0.5, 0.25, 1.0]]))
    expected = torch.tensor([[[2.0, 4.0], [4.0, 0.0], [1.0, 1.0]]])
    assert torch.equal(get_noise("linear").apply(x, draw), expected)
    assert get_noise("binary").apply(x, draw).shape == (1, 3, 2)
    assert get_noise("geometric").apply(x, draw)[0, 0].tolist() == [0.0, 0.0]


def test_a_noise_of_one_function_ignores_the_one_a_draw_names():
    x = data().abs()
    draw = get_noise("dacl+").sample(x, views=2, seed=1)
    for name in ("linear", "geometric", "binary"):
        plain = dataclasses.replace(draw, kind=None, function=name)
        assert torch.equal(get_noise(name).apply(x, draw), get_noise(name).apply(x, plain))


# Granularity, dacl+ and hidden.


@pytest.mark.parametrize("name", MIXING)
def test_one_coefficient_a_view_for_the_whole_batch(name):
    draw = get_noise(name, granularity="batch", alpha=0.0).sample(data(50), views=4, seed=2)
    assert (draw.coef == draw.coef[:, :1]).all()
    assert draw.coef[:, 0].unique().numel() == 4
    assert (draw.partner != torch.arange(50)).all()
    assert draw.partner[0].unique().numel() > 10
    if name == "dacl+":
        assert draw.kind.unique().numel() == 1
    per_row = get_noise(name, alpha=0.0).sample(data(50), views=4, seed=2)
    assert torch.equal(draw.partner, per_row.partner)
    assert per_row.coef.unique().numel() > 190


@pytest.mark.parametrize("granularity", ["sample", "batch"])
def test_dacl_plus_rows_are_those_of_the_single_noises(granularity):
    """With one kind a row, in every view."""
    x = data(60)
    noise = get_noise("dacl+", granularity=granularity)
    for seed in range(4):
        draw = noise.sample(x, views=3, seed=seed)
        views = noise.apply(x, draw)
        for code, name in enumerate(FUNCTIONS[:3]):
            rows = draw.kind == code
            single = get_noise(name).apply(x, draw)[:, rows]
            # exp2 in PyTorch's vector loop and in its remainder may differ by the last bit.
            tolerance = 2**-22 * x.abs().max().item() if name == "geometric" else 0
            torch.testing.assert_close(views[:, rows], single, rtol=0, atol=tolerance)
        if granularity == "sample":
            assert draw.kind.unique().tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", [*MIXING, "gaussian"])
def test_hidden_is_its_inner_noise(name):
    x = data()
    inner = get_noise(name)
    for hidden in (get_noise("hidden", noise=name), get_noise("hidden", noise=inner, at="2")):
        assert equal_draws(hidden.sample(x, views=2, seed=1), inner.sample(x, views=2, seed=1))
        assert torch.equal(hidden.views(x, 2, seed=1), inner.views(x, 2, seed=1))
        assert torch.equal(hidden(x, seed=1), inner(x, seed=1))
