"""Names to noises, and noises of one's own."""

import pytest
import torch

import mixnoise
from mixnoise import Noise, NoisePluginError, get_noise, list_noises, register_noise, registry

BUILT_IN = ["augment", "binary", "dacl+", "gaussian", "geometric", "hidden", "linear"]
NEEDED = {"augment": {"transform": torch.nn.Identity()}}  # arguments without a default


@pytest.fixture(autouse=True)
def own_names(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr(registry, "_registered", {})


class Shift(Noise):
    def __init__(self, by=1.0):
        super().__init__()
        self.by = by

    def sample(self, x, *, views=1, generator=None, seed=None):
        return views

    def apply(self, x, draw):
        return (x + self.by).expand(draw, *x.shape)


# Built-in noises.


def test_names():
    assert list_noises() == BUILT_IN


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_name_makes_a_noise_of_that_name(name):
    noise = get_noise(name, **NEEDED.get(name, {}))
    assert isinstance(noise, Noise)
    assert isinstance(noise, torch.nn.Module)
    assert noise.name == name
    assert noise.config()["name"] == name
    assert noise.api_version == 1
    assert get_noise(name=name, **NEEDED.get(name, {})) is not noise


def test_defaults():
    for name in ("linear", "geometric", "binary", "dacl+"):
        assert get_noise(name).alpha == 0.7
        assert get_noise(name).granularity == "sample"
    assert get_noise("gaussian").sigma == 0.3
    assert get_noise("geometric").low == get_noise("dacl+").low == "auto"
    assert get_noise("hidden").noise.name == "linear"
    assert get_noise("hidden").at is None


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("liner", "did you mean 'linear'\\?"),
        ("Gaussian", "did you mean 'gaussian'\\?"),
        ("LINEAR", "did you mean 'linear' or"),
        ("dacl", "did you mean 'dacl\\+'\\?"),
        ("geometrical", "did you mean 'geometric'\\?"),
    ],
)
def test_unknown_names_get_close_matches(name, hint):
    with pytest.raises(ValueError, match=rf"unknown noise '{name}'; {hint}"):
        get_noise(name)


def test_unknown_names_far_from_any_get_the_list():
    with pytest.raises(
        ValueError, match=r"unknown noise 'xyz'; known: augment, binary, dacl\+, gaussian"
    ):
        get_noise("xyz")
    with pytest.raises(ValueError, match="unknown noise ''"):
        get_noise("")


@pytest.mark.parametrize("name", [None, 3, Shift, ["linear"]], ids=repr)
def test_names_are_strings(name):
    with pytest.raises(TypeError, match=f"name must be a string, got {type(name).__name__}"):
        get_noise(name)
    with pytest.raises(TypeError, match=f"name must be a string, got {type(name).__name__}"):
        register_noise(name)


# Registering.


def test_a_class():
    assert register_noise("shift")(Shift) is Shift
    assert list_noises() == sorted([*BUILT_IN, "shift"])
    noise = get_noise("shift", by=2.0)
    assert isinstance(noise, Shift)
    assert noise.config() == {"name": "shift", "by": 2.0}
    assert repr(noise) == "Shift(name='shift', by=2.0)"
    assert get_noise(**noise.config()).by == 2.0
    assert torch.equal(noise(torch.zeros(3, 2)), torch.full((3, 2), 2.0))


def test_a_function():
    @register_noise("half-linear")
    def half_linear(granularity="sample"):
        return get_noise("linear", alpha=0.5, granularity=granularity)

    assert half_linear().alpha == 0.5  # still a function
    noise = get_noise("half-linear", granularity="batch")
    assert (noise.alpha, noise.granularity, noise.name) == (0.5, "batch", "half-linear")


def test_nothing_is_built_or_called_by_listing():
    called = []
    register_noise("lazy")(lambda: called.append(1))
    assert "lazy" in list_noises()
    assert called == []


def test_registered_names_are_suggested_and_work_in_hidden():
    register_noise("shift")(Shift)
    with pytest.raises(ValueError, match="did you mean 'shift'"):
        get_noise("shft")
    hidden = get_noise("hidden", noise="shift", by=3.0)
    assert torch.equal(hidden(torch.zeros(3, 2)), torch.full((3, 2), 3.0))
    assert hidden.config() == {"name": "hidden", "noise": "shift", "at": None, "by": 3.0}
    assert get_noise(**hidden.config()).noise.by == 3.0


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_names_are_reserved(name):
    with pytest.raises(ValueError, match="already registered"):
        register_noise(name)
    assert type(get_noise(name, **NEEDED.get(name, {}))) is not Shift


def test_a_name_is_registered_once():
    register_noise("shift")(Shift)
    with pytest.raises(ValueError, match="name 'shift' is already registered"):
        register_noise("shift")
    with pytest.raises(ValueError, match="name must not be empty"):
        register_noise("")


def test_a_name_is_registered_once_even_by_two_decorators_made_before():
    first, second = register_noise("shift"), register_noise("shift")
    first(Shift)
    with pytest.raises(ValueError, match="already registered"):
        second(lambda: None)
    assert isinstance(get_noise("shift"), Shift)


class NotANoise(torch.nn.Module):
    pass


@pytest.mark.parametrize("factory", [NotANoise, int, 3, None, "linear", Shift()], ids=str)
def test_what_is_neither_a_noise_class_nor_a_function(factory):
    """An object is none either: modules can be called, and the call would be a forward pass."""
    with pytest.raises(TypeError, match=r"noise 'bad' must be a subclass of .* or a function"):
        register_noise("bad")(factory)
    assert list_noises() == BUILT_IN


@pytest.mark.parametrize("made", [None, 3, torch.nn.Identity(), Shift])
def test_functions_that_return_something_else(made):
    register_noise("broken")(lambda: made)
    with pytest.raises(
        NoisePluginError, match=r"noise 'broken' must be a mixnoise\.Noise.*returned"
    ):
        get_noise("broken")
    assert get_noise("linear").name == "linear"  # no other noise is broken by it


@pytest.mark.parametrize("version", [0, 2, "1"])
def test_other_versions_of_the_plugin_interface(version):
    class Later(Shift):
        api_version = version

    register_noise("later")(Later)
    with pytest.raises(
        NoisePluginError,
        match=f"noise 'later' was made for plugin API version {version!r}, this is 1",
    ):
        get_noise("later")
    assert "later" in list_noises()


def test_errors_of_a_plugins_own_arguments_come_through():
    register_noise("shift")(Shift)
    with pytest.raises(TypeError, match="unexpected keyword argument 'bye'"):
        get_noise("shift", bye=1)


def test_plugin_errors_are_runtime_errors():
    assert issubclass(NoisePluginError, RuntimeError)


def test_public_names():
    names = ("get_noise", "list_noises", "register_noise", "Noise", "Draw", "NoisePluginError")
    for name in names:
        assert name in mixnoise.__all__
        assert hasattr(mixnoise, name)


def test_a_noise_that_two_names_give_out_keeps_its_first():
    shared = Shift()
    register_noise("first")(lambda: shared)
    register_noise("second")(lambda: shared)
    first, second = get_noise("first"), get_noise("second")
    assert (first.name, second.name) == ("first", "second")
    assert get_noise("first").config()["name"] == "first"
