"""The domain of geometric mixing: its lower end, and what happens there."""

import math

import pytest
import torch

from mixnoise import Draw, get_noise

LOW_NOISES = ("geometric", "dacl+")


def pair(mix, a, b, coef, low=None, dtype=torch.float64):
    """The first of two rows [a] and [b], mixed geometrically."""
    draw = Draw(
        seed=torch.tensor(0),
        partner=torch.tensor([[1, 0]]),
        coef=torch.tensor([[coef, coef]]),
        low=None if low is None else torch.tensor(low, dtype=dtype),
        function="geometric",
    )
    return mix(torch.tensor([[a], [b]], dtype=dtype), draw)[0, 0, 0].item()


def test_the_papers_formula(mix):
    assert pair(mix, 4.0, 16.0, 0.5) == pytest.approx(8.0, rel=1e-14)
    assert pair(mix, 1.0, 32.0, 0.8125) == pytest.approx(32**0.1875, rel=1e-14)
    assert pair(mix, 3.0, 15.0, 0.5, low=-1.0) == pytest.approx(7.0, rel=1e-14)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("coef", [2**-20, 0.3, 0.7, 1 - 2**-24])
def test_zero_to_any_power_is_zero(mix, dtype, coef):
    largest = torch.finfo(dtype).max
    for other in (0.0, 1.0, 1e-7, largest):
        assert pair(mix, 0.0, other, coef, dtype=dtype) == 0
        assert pair(mix, other, 0.0, coef, dtype=dtype) == 0
    assert pair(mix, -2.0, 5.0, coef, low=-2.0, dtype=dtype) == -2
    assert pair(mix, 5.0, -2.0, coef, low=-2.0, dtype=dtype) == -2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_whole_range_of_numbers(mix, dtype):
    """Subnormals against numbers near the largest, whose own logarithm may round up to overflow."""
    info = torch.finfo(dtype)
    tiny, large = info.smallest_normal * info.eps, info.max / 2
    for a, b in ((tiny, large), (large, tiny), (tiny, tiny), (large, large)):
        for coef in (0.25, 0.5, 0.75):
            log = coef * math.log2(a) + (1 - coef) * math.log2(b)
            got = pair(mix, a, b, coef, dtype=dtype)
            assert got == pytest.approx(2**log, rel=info.eps * (2 + abs(math.log2(tiny))))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
def test_a_range_just_below_the_largest_number(mix, dtype):
    largest = (1 - 1e-5) * torch.finfo(dtype).max
    for a, low in ((largest, 0.0), (largest / 2, -largest / 2)):
        assert pair(mix, a, a, 0.7, low=low, dtype=dtype) == pytest.approx(a, rel=1e-3)


# low = "auto"


@pytest.mark.parametrize("name", LOW_NOISES)
def test_auto_is_the_smallest_value_of_each_feature_or_zero(name):
    x = torch.tensor([[[-2.0, 3.0], [0.5, 0.0]], [[1.0, 4.0], [-0.25, 9.0]]])
    draw = get_noise(name).sample(x)
    assert draw.low.tolist() == [[-2.0, 0.0], [-0.25, 0.0]]
    leaf = x.clone().requires_grad_()
    assert not get_noise(name).sample(leaf).low.requires_grad


def test_auto_leaves_non_negative_data_to_the_papers_formula():
    x = torch.rand(30, 8, generator=torch.Generator().manual_seed(0))
    automatic = get_noise("geometric").views(x, 2, seed=1)
    torch.testing.assert_close(automatic, get_noise("geometric", low=0.0).views(x, 2, seed=1))
    assert (get_noise("geometric").sample(x).low == 0).all()


@pytest.mark.parametrize("name", LOW_NOISES)
@pytest.mark.parametrize("shape", [(20,), (20, 3), (20, 2, 3)], ids=str)
def test_auto_takes_negative_data(name, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) - 3
    views = get_noise(name, alpha=0.1).views(x, 4, seed=0)
    low = x.amin(0)
    assert views.isfinite().all()
    assert (views >= low).all()
    assert (views <= x.amax(0).clamp(min=0) + 1e-5).all()


def test_auto_looks_at_finite_values_only():
    x = torch.tensor([[torch.nan, -torch.inf], [-1.0, -3.0], [5.0, torch.inf]])
    assert get_noise("geometric").sample(x).low.tolist() == [-1.0, -3.0]
    nothing = torch.full((2, 2), torch.nan)
    assert get_noise("geometric").sample(nothing).low.tolist() == [0.0, 0.0]


def test_the_draw_keeps_low():
    """Applied to other data, the batch's low is that of the draw."""
    x = torch.rand(6, 4) - 0.5
    noise = get_noise("geometric")
    draw = noise.sample(x)
    shifted = noise.apply(x + 3, draw)
    expected = noise.apply(x + 3, Draw(draw.seed, draw.partner, draw.coef, low=draw.low))
    assert torch.equal(shifted, expected)
    assert not torch.equal(shifted, noise.apply(x + 3, Draw(draw.seed, draw.partner, draw.coef)))


# A fixed low.


@pytest.mark.parametrize("name", LOW_NOISES)
@pytest.mark.parametrize(
    "low",
    [-5.0, -5, torch.tensor(-5.0), torch.full((3,), -5), torch.full((2, 3), -5.0).double()],
    ids=["float", "int", "0-d", "per feature, integer", "per feature, float64"],
)
def test_kinds_of_low(name, low):
    x = torch.randn(10, 2, 3, generator=torch.Generator().manual_seed(0))
    draw = get_noise(name).sample(x, views=2, seed=1)
    same = Draw(draw.seed, draw.partner, draw.coef, draw.kind, torch.tensor(-5.0), draw.function)
    noise = get_noise(name, low=low)
    torch.testing.assert_close(noise.views(x, 2, seed=1), noise.apply(x, same))


def test_low_differs_per_feature():
    x = torch.tensor([[1.0, 2.0], [5.0, 20.0]])
    draw = Draw(torch.tensor(0), torch.tensor([[1, 0]]), torch.full((1, 2), 0.5))
    low = torch.tensor([-3.0, 0.0])
    sampled = get_noise("geometric", low=low).sample(x)
    views = get_noise("geometric").apply(
        x, Draw(draw.seed, draw.partner, draw.coef, None, sampled.low)
    )
    expected = torch.tensor([math.sqrt(4 * 8) - 3, math.sqrt(40)]).expand(1, 2, 2)
    torch.testing.assert_close(views, expected)


@pytest.mark.parametrize("name", LOW_NOISES)
@pytest.mark.parametrize(
    ("low", "said"),
    [
        (0.0, "low is 0.0"),
        (-1.0, "low is -1.0"),
        (torch.tensor([0.0, -1.0]), r"low is a tensor of shape \(2,\)"),
    ],
    ids=["zero", "number", "tensor"],
)
def test_values_below_a_fixed_low_are_refused(name, low, said):
    x = torch.tensor([[0.5, 3.0], [-1.25, -2.5], [0.0, torch.nan]])
    with pytest.raises(ValueError, match=rf"x must be at least low.*got -2\.5 where {said}"):
        get_noise(name, low=low).sample(x)


def test_only_what_is_below_its_own_low_is_named():
    x = torch.tensor([[-2.0, 0.5], [-3.0, 0.25]])
    noise = get_noise("geometric", low=torch.tensor([-4.0, 0.375]))
    with pytest.raises(ValueError, match=r"got 0\.25 where"):
        noise.sample(x)


@pytest.mark.parametrize(
    ("dtype", "low"),
    [
        (torch.float16, -1e5),
        (torch.float32, -1e39),
        (torch.bfloat16, -1e39),
        (torch.float16, torch.tensor([0.0, -1e5, 0.0])),
    ],
)
def test_a_low_out_of_range_is_refused(dtype, low):
    noise = get_noise("geometric", low=low)
    with pytest.raises(ValueError, match="low must be in the range of x's dtype"):
        noise.sample(torch.ones(4, 3, dtype=dtype))


@pytest.mark.parametrize("low", ["auto", 0.0, -1.0, torch.tensor(0.0)], ids=str)
def test_no_columns(low):
    assert get_noise("geometric", low=low).views(torch.ones(4, 0), 2).shape == (2, 4, 0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("low", [0.1, -0.1, 1 / 3, -2.7, 1e-3])
def test_values_equal_to_a_fixed_low_are_not_below_it(dtype, low):
    """A column that was clipped at low, as exactly as the data's dtype can."""
    smallest = torch.tensor(low, dtype=dtype)
    if smallest.item() < low:  # rounded downwards
        smallest += smallest.abs() * torch.finfo(dtype).eps
    assert low <= smallest.item() <= low + 2 * abs(low) * torch.finfo(dtype).eps
    x = smallest.repeat(4, 3)
    x[::2] += 1
    assert get_noise("geometric", low=low).views(x, 2).isfinite().all()


def test_nan_is_let_through_a_fixed_low():
    x = torch.tensor([[1.0], [torch.nan], [2.0], [3.0]])
    views = get_noise("geometric", low=0.0).views(x, 2, seed=0)
    assert views[:, 1].isnan().all()
    assert not views.isnan().all()


def test_applying_below_low_gives_nan(mix):
    """As documented for CUDA, where sample does not look."""
    assert math.isnan(pair(mix, -1.0, 4.0, 0.5))
    assert math.isnan(pair(mix, 4.0, -1.0, 0.5))


def test_infinity_of_a_row_is_never_a_silent_number(mix):
    """Infinite rows may become infinite or NaN, not anything finite."""
    for coef in (0.25, 0.75):
        for other in (2.0, math.inf):
            assert not math.isfinite(pair(mix, math.inf, other, coef))
            assert not math.isfinite(pair(mix, other, math.inf, coef))
