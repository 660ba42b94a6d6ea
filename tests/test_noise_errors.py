"""Bad input to the noises: an error that names the argument, the rule and the value."""

import re
from fractions import Fraction

import pytest
import torch

from mixnoise import Noise, get_noise

MIXING = ("linear", "geometric", "binary", "dacl+")
NOISES = (*MIXING, "gaussian", "hidden")
FLOAT_ONLY = ("linear", "geometric", "dacl+", "gaussian", "hidden")


def raises(error, message):
    """The error, whose message holds this text word for word."""
    return pytest.raises(error, match=re.escape(message))


def data(n_rows=4):
    return torch.rand(n_rows, 3)


# Arguments of the constructors.


@pytest.mark.parametrize("name", [*MIXING, "hidden"])
@pytest.mark.parametrize("alpha", [-0.1, 1.0000001, 2, float("inf"), -float("inf"), float("nan")])
def test_alpha_outside_0_to_1(name, alpha):
    with raises(ValueError, f"alpha must be in [0, 1], got {alpha}"):
        get_noise(name, alpha=alpha)


@pytest.mark.parametrize("sign", [1, -1])
def test_numbers_beyond_every_float(sign):
    for number in (sign * 10**400, sign * Fraction(10**400)):
        with raises(ValueError, f"alpha must be in [0, 1], got {number}"):
            get_noise("linear", alpha=number)
        with raises(ValueError, f"sigma must be finite and >= 0, got {number}"):
            get_noise("gaussian", sigma=number)


@pytest.mark.parametrize("name", MIXING)
@pytest.mark.parametrize("alpha", [True, "0.5", None, 0.5j, [0.5], torch.tensor(0.5)], ids=repr)
def test_alpha_of_another_type(name, alpha):
    kind = type(alpha).__name__
    with raises(TypeError, f"alpha must be a number in [0, 1], got {kind} {alpha!r}"):
        get_noise(name, alpha=alpha)


@pytest.mark.parametrize("sigma", [-0.1, -float("inf"), float("inf"), float("nan")])
def test_sigma_below_0_or_not_finite(sigma):
    with raises(ValueError, f"sigma must be finite and >= 0, got {sigma}"):
        get_noise("gaussian", sigma=sigma)


def test_sigma_beyond_float32():
    with raises(ValueError, "sigma must be in the range of float32, got 1e+39"):
        get_noise("gaussian", sigma=1e39)


@pytest.mark.parametrize("sigma", [False, "0.5", None])
def test_sigma_of_another_type(sigma):
    with raises(TypeError, f"sigma must be a finite number >= 0, got {type(sigma).__name__}"):
        get_noise("gaussian", sigma=sigma)


@pytest.mark.parametrize("name", MIXING)
@pytest.mark.parametrize("granularity", ["rows", "", None, 1])
def test_granularity(name, granularity):
    with raises(ValueError, f"granularity must be one of sample, batch, got {granularity!r}"):
        get_noise(name, granularity=granularity)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("name", NOISES)
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_data(name, layout):
    rows = torch.nested.nested_tensor([torch.rand(2, 3), torch.rand(4, 3)], layout=layout)
    with raises(TypeError, "x must be a dense tensor, got a nested one; pad its rows"):
        get_noise(name)(rows)


@pytest.mark.parametrize("name", NOISES)
def test_the_default_device_is_not_that_of_the_data(name):
    with torch.device("meta"):
        noise = get_noise(name, low=0.0) if name in ("geometric", "dacl+") else get_noise(name)
        assert noise(torch.rand(4, 3, device="cpu")).is_cpu


@pytest.mark.parametrize("name", ["geometric", "dacl+"])
@pytest.mark.parametrize(
    ("low", "error", "message"),
    [
        ("min", ValueError, "low must be 'auto', a number or a tensor, got 'min'"),
        (float("nan"), ValueError, "low must be 'auto', a finite number or a tensor, got nan"),
        (-float("inf"), ValueError, "low must be 'auto', a finite number or a tensor, got -inf"),
        (torch.tensor([0.0, torch.nan]), ValueError, "low must be finite, got a tensor with NaN"),
        (None, TypeError, "low must be 'auto', a finite number or a tensor, got NoneType None"),
        (True, TypeError, "low must be 'auto', a finite number or a tensor, got bool True"),
        ([0.0], TypeError, "low must be 'auto', a finite number or a tensor, got list [0.0]"),
    ],
)
def test_low(name, low, error, message):
    with raises(error, message):
        get_noise(name, low=low)


@pytest.mark.parametrize("name", ["geometric", "dacl+"])
@pytest.mark.parametrize("shape", [(4,), (2, 3), (1, 1, 3)], ids=str)
def test_low_of_another_shape(name, shape):
    noise = get_noise(name, low=torch.zeros(shape))
    with raises(ValueError, f"low must broadcast to one row (3,), got {shape}"):
        noise.sample(data())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"noise": 3}, TypeError, "noise must be a name or a Noise, got int"),
        ({"noise": "liner"}, ValueError, "unknown noise 'liner'; did you mean 'linear'"),
        ({"noise": "hidden"}, ValueError, "noise must not be another hidden noise"),
        ({"at": 3}, TypeError, "at must be None or the name of a submodule, got 3"),
        ({"sigma": 0.1}, TypeError, "sigma"),
    ],
)
def test_hidden(arguments, error, message):
    with raises(error, message):
        get_noise("hidden", **arguments)


def test_hidden_takes_no_arguments_beside_an_object():
    with raises(TypeError, "noise is an object, so it takes no further arguments, got ['alpha']"):
        get_noise("hidden", noise=get_noise("linear"), alpha=0.5)


@pytest.mark.parametrize("name", NOISES)
def test_unknown_arguments(name):
    with raises(TypeError, "alhpa"):
        get_noise(name, alhpa=0.5)


# Data.


@pytest.mark.parametrize("name", FLOAT_ONLY)
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64], ids=str)
def test_data_that_are_not_floating_point(name, dtype):
    allowed = "float16, bfloat16, float32, float64"
    message = f"x must have one of the dtypes {allowed}, got {dtype}"
    x = torch.ones(4, 3, dtype=dtype)
    noise = get_noise(name)
    with raises(TypeError, message):
        noise(x)
    draw = noise.sample(data())
    with raises(TypeError, message):
        noise.apply(x, draw)


@pytest.mark.parametrize("name", MIXING)
def test_one_row_has_no_partner(name):
    with raises(
        ValueError,
        f"{name} noise mixes each row with another one, so x must have at least 2 rows, got 1; "
        "use a larger batch, drop the last one, or use 'gaussian'",
    ):
        get_noise(name)(data(1))


def test_gaussian_and_hidden_gaussian_take_one_row():
    for noise in (get_noise("gaussian"), get_noise("hidden", noise="gaussian")):
        assert noise.views(data(1), 3).shape == (3, 1, 3)


@pytest.mark.parametrize("name", NOISES)
def test_shapes_and_types_of_x(name):
    noise = get_noise(name)
    draw = noise.sample(data())
    for call in (noise, noise.views, noise.sample, lambda x: noise.apply(x, draw)):
        with raises(ValueError, "x must have at least one row, got an empty batch (0, 3)"):
            call(data(0))
        with raises(ValueError, "x must have shape (N, *features), got a 0-d tensor"):
            call(torch.tensor(1.0))
        with raises(TypeError, "x must be a tensor, got list"):
            call([[1.0, 2.0]])
        with raises(TypeError, "x must be a tensor, got ndarray"):
            call(data().numpy())


@pytest.mark.parametrize("name", NOISES)
def test_views(name):
    noise = get_noise(name)
    for call in (noise.views, lambda x, views: noise.sample(x, views=views)):
        for views in (0, -1):
            with raises(ValueError, f"views must be an integer >= 1, got {views}"):
                call(data(), views)
        for views in (True, 2.0, "2", None):
            with raises(TypeError, f"views must be an integer >= 1, got {views!r}"):
                call(data(), views)


# Seeds and generators.


@pytest.mark.parametrize("name", NOISES)
def test_generator_and_seed_exclude_each_other(name):
    noise = get_noise(name)
    for call in (noise, noise.views, noise.sample):
        with raises(ValueError, "generator and seed exclude each other, got both"):
            call(data(), generator=torch.Generator(), seed=0)


@pytest.mark.parametrize("name", NOISES)
@pytest.mark.parametrize("seed", [1.0, "1", True, [1], float("nan")], ids=repr)
def test_seed_of_another_type(name, seed):
    with raises(TypeError, f"seed must be an integer or a 0-d int64 tensor, got {seed!r}"):
        get_noise(name)(data(), seed=seed)


@pytest.mark.parametrize("seed", [2**63, -(2**63) - 1, 2**64])
def test_seed_out_of_range(seed):
    with raises(ValueError, f"seed must be in [-2^63, 2^63), got {seed}"):
        get_noise("linear")(data(), seed=seed)


@pytest.mark.parametrize(
    "seed",
    [torch.tensor([1]), torch.tensor(1, dtype=torch.int32), torch.tensor(1.0), torch.tensor(True)],
    ids=str,
)
def test_seed_tensor_of_another_shape_or_dtype(seed):
    with raises(
        ValueError,
        "seed must be an integer or a 0-d int64 tensor, "
        f"got {seed.dtype} of shape {tuple(seed.shape)}",
    ):
        get_noise("linear")(data(), seed=seed)


@pytest.mark.parametrize("generator", [0, "cpu", torch.Generator], ids=repr)
def test_generator_of_another_type(generator):
    with raises(TypeError, "generator must be"):
        get_noise("linear")(data(), generator=generator)


@pytest.mark.parametrize(
    ("noise", "x"),
    [
        (get_noise("linear"), torch.ones(4, 3, dtype=torch.int64)),
        (get_noise("binary"), torch.ones(1, 3)),
        (get_noise("gaussian"), torch.ones(4, 3, dtype=torch.int64)),
        (get_noise("geometric", low=0.0), -torch.ones(4, 3)),
        (get_noise("dacl+", low=torch.zeros(4)), torch.ones(4, 3)),
    ],
    ids=["linear", "binary", "gaussian", "below low", "shape of low"],
)
def test_nothing_is_drawn_before_an_error(noise, x):
    """A refused call leaves the global generator where it was."""
    before = torch.get_rng_state()
    with pytest.raises((TypeError, ValueError)):
        noise(x)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", NOISES)
def test_sparse_data(name):
    with raises(TypeError, "x must be a dense tensor, got one with layout torch.sparse_coo"):
        get_noise(name)(data().to_sparse())


@pytest.mark.parametrize("name", ["geometric", "dacl+"])
def test_low_that_is_not_real(name):
    with raises(TypeError, "low must be real, got a tensor of torch.complex64"):
        get_noise(name, low=torch.tensor(1j))


def test_a_noise_that_does_not_keep_an_argument():
    class Forgetful(Noise):
        def __init__(self, strength=1.0):
            super().__init__()

    with raises(AttributeError, "Forgetful must keep its argument 'strength' in an attribute"):
        repr(Forgetful())
