"""Noises as modules: compiled, copied, rebuilt, printed, inside other modules."""

import copy
import inspect
import pickle

import pytest
import torch
from torch import Tensor, nn

from mixnoise import Noise, get_noise, register_noise, registry

NOISES = {
    "linear": {"alpha": 0.5},
    "geometric": {"low": -10.0},
    "binary": {"granularity": "batch"},
    "dacl+": {"alpha": 0.2},
    "gaussian": {"sigma": 0.125},
    "hidden": {"noise": "geometric", "at": "1", "alpha": 0.25},
}


@pytest.fixture(params=NOISES)
def noise(request):
    return get_noise(request.param, **NOISES[request.param])


def data(dtype=torch.float32):
    return torch.randn(9, 21, generator=torch.Generator().manual_seed(0)).to(dtype)


# torch.compile and torch.library


@pytest.fixture
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("fresh_dynamo")
def test_compiled_apply_is_apply(noise):
    """Views and gradients, without a graph break."""
    x = data()
    draw = noise.sample(x, views=2, seed=3)
    compiled = torch.compile(noise.apply, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, draw), noise.apply(x, draw))
    grads = []
    for apply in (compiled, noise.apply):
        leaf = x.clone().requires_grad_()
        apply(leaf, draw).square().sum().backward()
        grads.append(leaf.grad)
    assert torch.equal(*grads)


@pytest.mark.usefixtures("fresh_dynamo")
def test_compiled_apply_takes_other_batch_sizes(noise):
    compiled = torch.compile(noise.apply, fullgraph=True, backend="aot_eager", dynamic=True)
    for n_rows in (9, 5, 7):
        x = data()[:n_rows]
        draw = noise.sample(x, views=2, seed=3)
        assert torch.equal(compiled(x, draw), noise.apply(x, draw))


@pytest.mark.usefixtures("fresh_dynamo")
def test_a_step_can_be_compiled_around_a_draw(noise):
    """As a training loop does: the draw is made outside, the model runs inside."""
    net = nn.Linear(21, 3)
    x = data()
    draw = noise.sample(x, views=2)

    def step(x, draw):
        return net(noise.apply(x, draw)).sum()

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, draw), step(x, draw))


@pytest.mark.parametrize("name", ["linear", "geometric", "binary", "gaussian"])
@pytest.mark.parametrize("grad", [False, True])
def test_opcheck(name, grad, opcheck):
    """Schema, fake tensors, autograd registration and tracing with dynamic shapes."""
    x = data(torch.float64).abs().requires_grad_(grad)
    draw = get_noise(name).sample(x, views=2, seed=0)
    fields = (draw.seed, draw.partner, draw.coef, draw.kind, draw.low, name)
    opcheck(torch.ops.mixnoise.mix.default, (x, *fields))


def test_opcheck_with_kinds_and_half_types(opcheck):
    x = data(torch.float16).requires_grad_()
    draw = get_noise("dacl+").sample(x, views=2, seed=0)
    low = draw.low.float()
    fields = (draw.seed, draw.partner, draw.coef, draw.kind, low, draw.function)
    opcheck(torch.ops.mixnoise.mix.default, (x, *fields))


# Copies, and what rebuilds a noise.


def same(a, b):
    x = data()
    return type(a) is type(b) and torch.equal(a.views(x, 2, seed=1), b.views(x, 2, seed=1))


def test_copies_make_the_same_views(noise):
    for copied in (copy.deepcopy(noise), pickle.loads(pickle.dumps(noise))):
        assert copied is not noise
        assert same(copied, noise)
        assert copied.config() == noise.config()
        assert repr(copied) == repr(noise)


def test_config_rebuilds_the_noise(noise):
    config = noise.config()
    rebuilt = get_noise(**config)
    assert same(rebuilt, noise)
    assert rebuilt.config() == config
    assert next(iter(config)) == "name"


def test_config_holds_what_was_given():
    assert get_noise("linear").config() == {"name": "linear", "alpha": 0.7, "granularity": "sample"}
    assert get_noise("gaussian").config() == {"name": "gaussian", "sigma": 0.3}
    dacl = {"name": "dacl+", "alpha": 1, "low": -2, "granularity": "batch"}
    assert get_noise(**dacl).config() == dacl
    assert get_noise("hidden", noise=get_noise("binary", alpha=0.5), at="a.b").config() == {
        "name": "hidden",
        "noise": "binary",
        "at": "a.b",
        "alpha": 0.5,
        "granularity": "sample",
    }


def test_config_holds_every_constructor_argument(noise):
    """scikit-learn's convention: under its own name, as an attribute too."""
    for parameter in list(inspect.signature(type(noise).__init__).parameters.values())[1:]:
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            assert hasattr(noise, parameter.name)
            assert parameter.name in noise.config()


def test_arguments_without_names_need_a_config(monkeypatch):
    """What is kept of them in an attribute would rebuild another noise."""

    class Powers(Noise):
        def __init__(self, *args):
            super().__init__()
            self.args = args

    class PassesOn(type(get_noise("linear"))):
        def __init__(self, **kwargs: float):
            super().__init__(**kwargs)
            self.kwargs = kwargs

    class SaysHow(PassesOn):
        def config(self):
            return {"name": self.name, "alpha": self.alpha}

    with pytest.raises(AttributeError, match=r"Powers must name .* \*args, or define config\(\)"):
        Powers(1, 2).config()
    with pytest.raises(AttributeError, match=r"PassesOn must name .* \*\*kwargs, or define"):
        PassesOn(alpha=0.5).config()
    monkeypatch.setattr(registry, "_registered", {})
    noise = register_noise("says-how")(SaysHow)(alpha=0.5)
    assert get_noise(**noise.config()).alpha == 0.5


@pytest.mark.parametrize("outer", [{}, {"noise": "dacl+"}])
def test_config_with_a_tensor(outer):
    low = torch.full((21,), -20.0)
    name = "hidden" if outer else "geometric"
    noise = get_noise(name, **outer, low=low)
    rebuilt = get_noise(**noise.config())
    assert torch.equal(rebuilt.config()["low"], low)
    assert same(rebuilt, noise)
    assert same(copy.deepcopy(noise), noise)
    assert same(pickle.loads(pickle.dumps(noise)), noise)


def test_a_tensor_low_moves_with_the_module_but_is_no_state():
    noise = get_noise("geometric", low=torch.zeros(3))
    assert noise.state_dict() == {}
    assert noise.to("meta").low.device.type == "meta"


def test_a_tensor_low_is_not_rounded_with_the_model():
    """The data's smallest values would be below it."""
    low = torch.tensor([-0.1, -0.3, -0.7])
    noise = get_noise("geometric", low=low)
    x = torch.stack((low, torch.ones(3)))
    expected = noise(x, seed=0)
    assert torch.equal(noise.to(torch.bfloat16).float()(x, seed=0), expected)
    assert torch.equal(noise.to_empty(device="cpu")(x, seed=0), expected)
    with torch.device("meta"):
        get_noise("geometric", low=torch.zeros(3))


def test_a_subclass_is_not_rebuilt_as_its_base():
    class Renamed(type(get_noise("linear"))):
        pass

    assert Renamed().config() == {"name": "", "alpha": 0.7, "granularity": "sample"}


def test_a_step_with_a_seed_compiles_once():
    noise, x = get_noise("linear"), torch.randn(16, 6)
    compiled = torch.compile(
        lambda seed: noise.views(x, 2, seed=seed), fullgraph=True, backend="aot_eager"
    )
    for seed in (0, 1, -5, 2**62):
        assert torch.equal(compiled(seed), noise.views(x, 2, seed=seed))


def test_repr_names_class_and_arguments():
    assert repr(get_noise("linear", alpha=0.25)) == (
        "Linear(name='linear', alpha=0.25, granularity='sample')"
    )
    text = repr(nn.Sequential(get_noise("hidden", noise="binary", alpha=0.125)))
    assert "Hidden" in text
    assert "alpha=0.125" in text


# Inside other modules.


def test_initialising_weights_walks_past_a_noise(noise):
    """Module.apply(fn) visits all modules, though a noise's own apply takes data."""
    net = nn.Sequential(nn.Linear(21, 4), noise, nn.Sequential(nn.Linear(4, 2)))
    visited = []

    def initialise(module):
        visited.append(module)
        if isinstance(module, nn.Linear):
            nn.init.constant_(module.weight, 0.5)

    assert net.apply(initialise) is net
    assert set(visited) == set(net.modules())
    assert (net[0].weight == 0.5).all()
    assert (net[2][0].weight == 0.5).all()
    assert noise.apply(initialise) is noise


class Halve(Noise):
    """A noise of a plugin's own, with a draw of its own kind."""

    def __init__(self, factor=0.5):
        super().__init__()
        self.factor = factor

    def sample(self, x, *, views=1, generator=None, seed=None):
        return views

    def apply(self, x, draw):
        return (self.factor * x).expand(draw, *x.shape)


class HalveAgain(Halve):
    """Inherits apply, or overrides it on top of an override."""


class Quarter(Halve):
    def apply(self, x, draw):
        return super().apply(x, draw) / 2


@pytest.mark.parametrize(("cls", "factor"), [(Halve, 0.5), (HalveAgain, 0.5), (Quarter, 0.25)])
def test_a_plugin_writes_sample_and_apply_and_nothing_more(cls, factor):
    x = data()
    made = cls()
    assert torch.equal(made(x), factor * x)
    assert torch.equal(made.views(x, 3), (factor * x).expand(3, 9, 21))
    assert torch.equal(made.apply(x=x, draw=1)[0], factor * x)
    assert made.config()["factor"] == 0.5
    assert made.api_version == 1
    visited = []
    nn.Sequential(made, nn.ReLU()).apply(visited.append)
    assert len(visited) == 3


def test_a_noise_without_sample_or_apply_says_so():
    class Nothing(Noise):
        pass

    with pytest.raises(NotImplementedError, match="Nothing must define sample"):
        Nothing()(data())
    with pytest.raises(NotImplementedError, match="Nothing must define apply"):
        Nothing().apply(data(), None)


def test_noises_do_not_look_at_train_or_eval_mode(noise):
    x = data()
    trained = noise.train().views(x, 2, seed=1)
    assert torch.equal(noise.eval().views(x, 2, seed=1), trained)
    assert not torch.equal(trained[0], x)


def test_noises_have_no_parameters_or_state(noise):
    assert list(noise.parameters()) == []
    assert noise.state_dict() == {}


def test_autocast_changes_nothing(noise):
    x = data()
    expected = noise.views(x, 2, seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        views = noise.views(x, 2, seed=1)
    assert torch.equal(views, expected)


def test_no_grad_and_inference_mode(noise):
    leaf = data().requires_grad_()
    expected = noise.views(leaf, 2, seed=1)
    with torch.no_grad():
        views = noise.views(leaf, 2, seed=1)
    assert not views.requires_grad
    assert torch.equal(views, expected)
    with torch.inference_mode():
        assert torch.equal(noise.views(data(), 2, seed=1), expected)


# What an operator returns is the caller's.


@pytest.mark.parametrize("of", [Tensor.mul_, nn.ReLU(inplace=True)], ids=["mul_", "ReLU"])
def test_views_can_be_changed_in_place(noise, of):
    h = data().clone().requires_grad_()
    arguments = (2,) if of is Tensor.mul_ else ()
    of(noise.views(h * 1, seed=0), *arguments).sum().backward()
    expected = torch.autograd.grad(of(noise.views(h, seed=0).clone(), *arguments).sum(), h)[0]
    assert torch.equal(h.grad, expected)


def test_the_default_dtype_does_not_matter(noise):
    x = data()
    expected = noise.views(x, seed=0)
    leaf = x.clone().requires_grad_()
    torch.set_default_dtype(torch.float64)
    try:
        views = noise.views(leaf, seed=0)
        views.sum().backward()
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(views, expected)
    assert leaf.grad.dtype == torch.float32


class Wrap(Noise):
    """Another noise, under an argument that is called as one of hidden's."""

    def __init__(self, noise="linear", at=3):
        super().__init__()
        self.noise, self.at = noise, at

    def sample(self, x, **kwargs):
        return get_noise(self.noise).sample(x, **kwargs)

    def apply(self, x, draw):
        return get_noise(self.noise).apply(x, draw)


def test_hidden_is_rebuilt_with_a_noise_of_like_arguments(monkeypatch):
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    register_noise("wrap-another")(Wrap)
    hidden = get_noise("hidden", noise=get_noise("wrap-another", noise="gaussian"), at="1")
    config = hidden.config()
    inner = {"name": "wrap-another", "noise": "gaussian", "at": 3}
    assert config == {"name": "hidden", "noise": inner, "at": "1"}
    rebuilt = get_noise(**config)
    assert type(rebuilt.noise) is Wrap
    assert rebuilt.config() == config
    x = data()
    assert torch.equal(rebuilt(x, seed=0), hidden(x, seed=0))
