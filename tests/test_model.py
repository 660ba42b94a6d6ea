"""DACL: Algorithm 1, hidden mixing, and the training loops it has to work in."""

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from mixnoise import DACL, Noise, get_noise, nt_xent

X = torch.randn(24, 10, generator=torch.Generator().manual_seed(0))
NOISES = {
    "input": lambda: get_noise("dacl+"),
    "output": lambda: get_noise("hidden", noise="linear"),
    "layer": lambda: get_noise("hidden", noise="dacl+", at="2"),
}


def encoder():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(10, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU()
    )


def model(noise, net=None, **kwargs):
    net = encoder() if net is None else net
    torch.manual_seed(1)
    return DACL(net, nn.Linear(16, 8), noise, **kwargs)


def loss_of(dacl, seed=3):
    return dacl(X, generator=torch.Generator().manual_seed(seed))


def grads(dacl):
    return [p.grad for p in dacl.parameters()]


def test_input_noise_is_algorithm_1():
    dacl = model(get_noise("linear", alpha=0.6), temperature=0.2)
    draw = dacl.noise.sample(X, views=2, seed=5)
    x1, x2 = dacl.noise.apply(X, draw)
    z = dacl.projector(dacl.encoder(torch.cat((x1, x2))))
    assert torch.equal(dacl(X, draw=draw), nt_xent(z[:24], z[24:], 0.2))


def test_hidden_noise_mixes_the_output_of_the_encoder():
    dacl = model(get_noise("hidden", alpha=0.9))
    v = dacl.encoder(X)
    draw = dacl.noise.sample(v, views=2, seed=5)
    v1, v2 = dacl.noise.apply(v, draw)
    z1, z2 = dacl.projector(torch.cat((v1, v2))).chunk(2)
    assert torch.equal(dacl(X, draw=draw), nt_xent(z1, z2))


def test_hidden_noise_mixes_the_output_of_a_layer():
    dacl = model(get_noise("hidden", at="2"))
    v = dacl.encoder[:3](X)
    draw = dacl.noise.sample(v, views=2, seed=5)
    h = dacl.encoder[3:](dacl.noise.apply(v, draw).flatten(0, 1))
    z1, z2 = dacl.projector(h).chunk(2)
    expected = nt_xent(z1, z2)
    assert torch.equal(dacl(X, draw=draw), expected)
    # Only inside the model's own forward: the encoder alone is as it was.
    assert dacl.encoder(X).shape == (24, 16)


def test_head_runs_once_a_sample():
    dacl = model(get_noise("hidden", at="2"))
    rows = []
    dacl.encoder[0].register_forward_hook(lambda m, a, out: rows.append(len(out)))
    dacl.encoder[4].register_forward_hook(lambda m, a, out: rows.append(len(out)))
    loss_of(dacl)
    assert rows == [24, 48]


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
def test_every_parameter_gets_a_gradient(noise):
    dacl = model(noise())
    loss_of(dacl).backward()
    assert all(g is not None and g.isfinite().all() and g.abs().sum() > 0 for g in grads(dacl)[2:])
    assert all(g is not None for g in grads(dacl))


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
def test_generator_decides(noise):
    dacl = model(noise()).eval()
    state = torch.get_rng_state()
    assert torch.equal(loss_of(dacl, 1), loss_of(dacl, 1))
    assert not torch.equal(loss_of(dacl, 1), loss_of(dacl, 2))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_are_independent(noise, clone):
    dacl = model(noise())
    other = clone(dacl)
    assert torch.equal(loss_of(dacl), loss_of(other))
    with torch.no_grad():
        other.encoder[3].weight.zero_()
    assert not torch.equal(loss_of(dacl), loss_of(other))


def test_hidden_noise_takes_any_input():
    class Ragged(nn.Module):
        """Sequences of different lengths, as a dict; mean of embeddings."""

        def __init__(self):
            super().__init__()
            self.embedding = nn.EmbeddingBag(50, 16)

        def forward(self, batch, *, scale):
            return scale * self.embedding(batch["token"], batch["offset"])

    batch = {"token": torch.arange(12), "offset": torch.tensor([0, 3, 4, 9])}
    dacl = DACL(Ragged(), nn.Linear(16, 8), get_noise("hidden"))
    assert dacl(batch, scale=2.0).isfinite()


def test_learned_temperature():
    dacl = model(get_noise("linear"), temperature=nn.Parameter(torch.tensor(0.5)))
    loss_of(dacl).backward()
    assert dacl.loss.temperature.grad.abs() > 0
    assert dict(dacl.named_parameters())["loss.temperature"] is dacl.loss.temperature


def test_autocast():
    dacl = model(get_noise("dacl+"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(dacl)
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(g.isfinite().all() for g in grads(dacl))


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
@pytest.mark.parametrize("fullgraph", [False, True])
def test_compiled_model_is_the_same_model(noise, fullgraph):
    dacl = model(noise())
    v = dacl.encoder[:3](X) if dacl.noise.name == "hidden" else X
    draw = dacl.noise.sample(v, views=2, seed=5)
    dacl(X, draw=draw).backward()
    expected = [g.clone() for g in grads(dacl)]
    value = dacl(X, draw=draw)
    dacl.zero_grad()
    torch.compiler.reset()
    compiled = torch.compile(dacl, backend="aot_eager", fullgraph=fullgraph)
    loss = compiled(X, draw=draw)
    loss.backward()
    torch.testing.assert_close(loss, value)
    # The first layer's bias has no gradient but rounding, as batch norm follows: hence atol.
    torch.testing.assert_close(grads(dacl), expected, rtol=1e-4, atol=1e-6)
    assert not torch.equal(compiled(X), compiled(X))  # fresh draws inside the graph


@pytest.mark.parametrize("compile_first", [False, True])
def test_compiled_encoder(compile_first):
    plain = model(get_noise("hidden", at="2"))
    draw = plain.noise.sample(torch.randn(24, 16), views=2, seed=5)
    torch.compiler.reset()
    compiled = torch.compile(encoder(), backend="aot_eager")
    if compile_first:
        compiled(X)
    dacl = model(get_noise("hidden", at="2"), compiled)
    if compile_first:
        # PyTorch ignores hooks added to code that is already compiled: strangers would be paired.
        with pytest.raises(
            ValueError, match=r"'2' must run exactly once a step.*0 times.*compiled"
        ):
            dacl(X, draw=draw)
    else:
        torch.testing.assert_close(dacl(X, draw=draw), plain(X, draw=draw))
        assert dacl.encoder(X).shape == (24, 16)
        torch.testing.assert_close(dacl(X, draw=draw), plain(X, draw=draw))


def test_compiled_submodule_is_found_by_its_plain_name():
    net = encoder()
    net[0] = torch.compile(net[0], backend="eager")
    net(X)
    dacl = DACL(net, nn.Linear(16, 8), get_noise("hidden", at="0"))
    assert loss_of(dacl).isfinite()


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(10, 10)

    def forward(self, x):
        return self.layer(self.layer(x))


class Tuple(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(10, 10)

    def forward(self, x):
        return self.rnn(x)[0]


class Rows(nn.Module):
    """Loses every other row after its layer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(10, 10)

    def forward(self, x):
        return self.layer(x)[::2]


@pytest.mark.parametrize(
    ("net", "at", "error", "message"),
    [
        (Twice(), "layer", ValueError, "'layer' must run exactly once a step.*2 times"),
        (Tuple(), "rnn", TypeError, "output of submodule 'rnn' must be a tensor.*tuple"),
        (Rows(), "layer", ValueError, r"one row per sample and view, 48, got shape \(24, 10\)"),
    ],
    ids=["twice", "tuple", "rows"],
)
def test_misuse_of_a_layer(net, at, error, message):
    dacl = DACL(net, nn.Linear(10, 8), get_noise("hidden", at=at))
    with pytest.raises(error, match=message):
        dacl(X)
    # The site is closed again after the error.
    assert not dacl._sites[0].active


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((lambda x: x, nn.Identity(), get_noise("linear")), TypeError, "encoder must be a Module"),
        ((nn.Identity(), None, get_noise("linear")), TypeError, "projector must be a Module, got"),
        ((nn.Identity(), nn.Identity(), "linear"), TypeError, "noise must be a Noise, got str"),
        (
            (nn.Identity(), nn.Identity(), get_noise("linear"), 0.0),
            ValueError,
            "temperature must be finite and > 0, got 0.0",
        ),
        (
            (nn.Identity(), nn.Identity(), get_noise("linear"), 0.5, False, 2.0),
            TypeError,
            "weights must be a list of 1 numbers, got 2.0",
        ),
        (
            (encoder(), nn.Identity(), get_noise("hidden", at="layer3")),
            ValueError,
            "at must name a submodule of the encoder, got 'layer3'",
        ),
    ],
)
def test_bad_construction(arguments, error, message):
    with pytest.raises(error, match=message):
        DACL(*arguments)


def test_unknown_layer_gets_close_matches():
    net = nn.ModuleDict({"layer2": nn.Linear(2, 2)})
    with pytest.raises(ValueError, match="did you mean 'layer2'"):
        DACL(net, nn.Identity(), get_noise("hidden", at="layer3"))


def test_input_noise_takes_one_tensor():
    dacl = model(get_noise("linear"))
    with pytest.raises(TypeError, match="takes one tensor, got 2 positional and 0 keyword"):
        dacl(X, X)
    with pytest.raises(TypeError, match="takes one tensor, got 1 positional and 1 keyword"):
        dacl(X, mask=None)
    with pytest.raises(TypeError, match="x must be a tensor to be mixed, got list"):
        dacl([X])


@pytest.mark.parametrize("noise", ["input", "output"])
@pytest.mark.parametrize("views", [1, 3, 4])
def test_draws_of_other_than_two_views_are_refused(noise, views):
    """Cut in two, they would pair each row with a stranger."""
    dacl = model(NOISES[noise]())
    width = 10 if noise == "input" else 16
    draw = dacl.noise.sample(torch.ones(len(X), width), views=views)
    with pytest.raises(ValueError, match=rf"two views of each row, \(2, 24, ...\), got \({views}"):
        dacl(X, draw=draw)


class Shrinking(Noise):
    """A noise with a bug: it loses rows."""

    def sample(self, x, *, views=1, generator=None, seed=None):
        return views

    def apply(self, x, draw):
        return x.expand(draw, *x.shape)[:, :7]


def test_noises_that_lose_rows_are_refused():
    with pytest.raises(ValueError, match=r"two views of each row, \(2, 24, ...\), got \(2, 7, 10"):
        model(Shrinking())(X)


@pytest.mark.parametrize("method", ["forward", "project"])
def test_several_noises_need_several_draws(method):
    dacl = model([get_noise("linear"), get_noise("gaussian")])
    draw = get_noise("linear").sample(X, views=2)
    with pytest.raises(TypeError, match=r"list of 2 draws, one for each noise, got Draw$"):
        getattr(dacl, method)(X, draw=draw)


def test_numpy_integers_are_integers():
    dacl = model(get_noise("gaussian"), nn.Linear(10, 16))
    draw = dacl.noise.sample(X, views=np.int64(2), seed=0)
    whole = dacl(X, draw=draw)
    torch.testing.assert_close(dacl(X, draw=draw, micro_batch=np.int64(10)), whole)


def test_encoder_must_keep_rows():
    dacl = DACL(nn.Flatten(0), nn.Identity(), get_noise("linear"))
    with pytest.raises(ValueError, match=r"one row per sample and view, 48, got shape \(480,\)"):
        dacl(X)


def test_initialising_weights_walks_through_the_noise():
    dacl = model(get_noise("hidden", noise="dacl+", at="2"))
    seen = []
    dacl.apply(seen.append)
    assert {dacl, dacl.encoder, dacl.noise, dacl.noise.noise} <= set(seen)
    seen.clear()
    dacl.noise.noise.apply(fn=seen.append)
    assert seen == [dacl.noise.noise]


class Residual(nn.Module):
    """What goes past the mixed layer has a row a sample, and not two."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(10, 10)

    def forward(self, x):
        return x + self.inner(x)


def test_what_goes_past_the_mixed_layer_is_named():
    dacl = DACL(Residual(), nn.Linear(10, 4), get_noise("hidden", at="inner"))
    with pytest.raises(RuntimeError) as caught:
        dacl(X)
    assert "behind the submodule 'inner', whose output is mixed, there are two" in str(
        caught.value.__notes__
    )


class TimeFirst(nn.Module):
    """Of (N, T, 10): its submodule's rows are steps of time."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(10, 16)

    def forward(self, x):
        return self.inner(x.transpose(0, 1)).mean(0)


@pytest.mark.parametrize("steps", [12, 11])
def test_rows_that_are_steps_of_time_are_not_paired(steps):
    """24 samples are two views of 12 steps, and would pass for them."""
    dacl = DACL(TimeFirst(), nn.Identity(), get_noise("hidden", at="inner"))
    expected = "is time the first dimension there" if steps == 12 else "one row per sample and view"
    with pytest.raises(ValueError, match=expected):
        dacl(torch.randn(24, steps, 10))


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
def test_export_with_any_number_of_rows(noise):
    dacl = model(noise()).eval()
    rows = {0: torch.export.Dim("n", min=2)}
    exported = torch.export.export(dacl, (X,), dynamic_shapes={"inputs": (rows,)}).module()
    for x in (X, X[:7]):
        assert exported(x).isfinite()


@pytest.mark.parametrize("change", [lambda n: n.append(get_noise("gaussian")), lambda n: n.pop(0)])
def test_noises_that_come_or_go_need_another_model(change):
    dacl = model([get_noise("linear"), get_noise("gaussian")], weights=[1.0, 2.0])
    change(dacl.noise)
    with pytest.raises(RuntimeError, match=r"made with 2 noises and has [13] now: make another"):
        dacl(X)


def test_threads_that_mix_at_one_site_are_told_so():
    class Waits(nn.Module):
        def forward(self, x):
            inside.set()
            assert go_on.wait(30)
            return x

    inside, go_on = threading.Event(), threading.Event()
    dacl = DACL(
        nn.Sequential(nn.Linear(10, 8), Waits()), nn.Identity(), get_noise("hidden", at="0")
    )
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(dacl, X, generator=torch.Generator().manual_seed(0))
        assert inside.wait(30)
        with pytest.raises(RuntimeError, match="'0' is mixed for another thread now"):
            dacl(X)
        go_on.set()
        assert torch.equal(first.result(), dacl(X, generator=torch.Generator().manual_seed(0)))


def test_a_submodule_is_found_by_each_of_its_names():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = self.alias = nn.Linear(10, 8)

        def forward(self, x):
            return self.alias(x)

    seed = torch.Generator().manual_seed
    torch.manual_seed(0)
    by_name = [DACL(Shared(), nn.Identity(), get_noise("hidden", at=n)) for n in ("first", "alias")]
    by_name[1].load_state_dict(by_name[0].state_dict())
    a, b = (dacl(X, generator=seed(0)) for dacl in by_name)
    assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("at", "new"),
    [
        ("0", get_noise("linear")),
        ("0", get_noise("hidden")),
        ("0", get_noise("hidden", at="0")),
        (None, get_noise("hidden", at="0")),
    ],
)
def test_a_noise_that_mixes_elsewhere_cannot_replace_another(at, new):
    dacl = model(get_noise("hidden", at=at))
    dacl.noise = new
    with pytest.raises(RuntimeError, match=r"noise was replaced .* make another DACL"):
        dacl(X)


def test_a_noise_that_mixes_at_the_same_place_can_replace_another():
    seed = torch.Generator().manual_seed
    dacl = model(get_noise("linear", alpha=0.9))
    expected = model(get_noise("gaussian"))(X, generator=seed(0))
    dacl.noise = get_noise("gaussian")
    assert torch.equal(dacl(X, generator=seed(0)), expected)


def test_hooks_go_when_the_model_goes():
    encoder = nn.Sequential(nn.Linear(10, 16))
    for _ in range(3):
        dacl = DACL(encoder, nn.Identity(), get_noise("hidden", at="0"))
    assert len(encoder[0]._forward_hooks) == 1
    dacl(X).backward()
    del dacl
    assert not encoder[0]._forward_hooks


class Views(Noise):
    """Makes views in a form of its own."""

    name = "views"

    def __init__(self, form):
        super().__init__()
        self.form = form

    def sample(self, x, *, views=1, generator=None, seed=None):
        return views

    def apply(self, x, draw):
        return self.form([x] * draw)


@pytest.mark.parametrize("at", ["the input", None, "0"])
@pytest.mark.parametrize(
    ("form", "error", "message"),
    [
        (lambda views: torch.stack(views, 1), ValueError, r"\(2, 24, \.\.\.\), got \(24, 2, "),
        (torch.cat, ValueError, r"\(2, 24, \.\.\.\), got \(48, "),
        (tuple, TypeError, "noise '(views|hidden)' must make a tensor, got tuple"),
    ],
)
def test_noises_that_make_no_two_views_of_each_row_are_refused(at, form, error, message):
    noise = Views(form)
    if at != "the input":
        noise = get_noise("hidden", noise=noise, at=at)
    with pytest.raises(error, match=message):
        model(noise)(X)


@pytest.mark.parametrize("noise", ["linear", "hidden"])
@pytest.mark.parametrize(
    ("output", "error", "message"),
    [
        (lambda z: (z, z), TypeError, "the projector must return a tensor, got tuple"),
        (lambda z: z[1:], ValueError, "the projector must return one row per sample and view, 48"),
        (
            lambda z: z.unflatten(1, (-1, 2)),
            ValueError,
            r"the projector must return shape \(rows, D\), got \(48, ",
        ),
    ],
)
def test_projectors_that_lose_rows_are_refused(noise, output, error, message):
    dacl = model(get_noise(noise))
    dacl.projector.register_forward_hook(lambda module, args, z: output(z))
    with pytest.raises(error, match=message):
        dacl(X)
