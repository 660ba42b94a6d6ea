"""Large batches in the memory of small ones: the same step, a micro-batch at a time."""

import pytest
import torch
from torch import nn

from mixnoise import DACL, get_noise
from mixnoise.micro_batches import in_micro_batches

X = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))


def make_model(noise="linear", *, dropout=0.0, normalization=nn.LayerNorm, dtype=torch.float32):
    torch.manual_seed(0)
    encoder = nn.Sequential(
        nn.Linear(6, 32), normalization(32), nn.GELU(), nn.Dropout(dropout), nn.Linear(32, 16)
    )
    projector = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 8))
    noise = get_noise(noise) if isinstance(noise, str) else noise
    temperature = nn.Parameter(torch.tensor(0.4))
    return DACL(encoder, projector, noise, temperature).to(dtype)


def loss_and_gradients(model, x=X, *, seed=0, **settings):
    draw = model.noise.sample(x, views=2, seed=seed)
    model.zero_grad()
    loss = model(x, draw=draw, **settings)
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters())]


@pytest.mark.parametrize("size", [1, 7, 50, 64, 99, 100, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_same_step(size, dtype):
    """Sizes that divide the 100 rows of both views and that do not; one that is all of them."""
    model, x = make_model(dtype=dtype), X.to(dtype)
    expected = loss_and_gradients(model, x)
    got = loss_and_gradients(model, x, micro_batch=size)
    limit = {torch.float32: 1e-6, torch.float64: 1e-14}[dtype]
    largest = max(e.abs().max() for e in expected)
    for a, b in zip(got, expected, strict=True):
        assert (a - b).abs().max() <= limit * largest


def test_hidden_noise_at_the_encoders_output():
    model = make_model(get_noise("hidden", noise="linear"))
    draw = model.noise.sample(torch.randn(50, 16), views=2, seed=0)
    found = []
    for size in (None, 9):
        model.zero_grad()
        loss = model(X, draw=draw, micro_batch=size)
        loss.backward()
        found.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_dropout_is_the_same_in_both_passes():
    """Its gradient is that of the loss that was returned: by finite differences in float64."""
    model = make_model(dropout=0.5, dtype=torch.float64)
    x = X.double()

    def loss():
        torch.manual_seed(5)
        draw = model.noise.sample(x, views=2, seed=1)
        return model(x, draw=draw, micro_batch=16)

    torch.manual_seed(5)
    value = loss()
    assert not torch.equal(model(x, draw=model.noise.sample(x, views=2, seed=1)), value)
    torch.rand(3)  # the backward must not depend on the state that it meets
    value.backward()
    weight = model.encoder[0].weight
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(2)).double()
    step = 1e-5
    with torch.no_grad():
        weight += step * direction
        above = loss()
        weight -= 2 * step * direction
        below = loss()
    numeric = (above - below) / (2 * step)
    torch.testing.assert_close((weight.grad * direction).sum(), numeric, rtol=1e-6, atol=0)


def test_random_state_after_the_step_is_that_after_the_forward():
    model = make_model(dropout=0.5)
    torch.manual_seed(0)
    loss = model(X, micro_batch=16)
    state = torch.get_rng_state()
    loss.backward()
    assert torch.equal(torch.get_rng_state(), state)


def test_autocast_is_the_same_in_both_passes():
    model = make_model()
    seen = []
    model.encoder[0].register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(X, micro_batch=40)
    assert loss.dtype == torch.float32
    loss.backward()
    assert seen == [torch.bfloat16] * 6  # 100 rows in three parts, twice


def kept_bytes(model, **settings):
    """By the graph for the backward; parameters are kept in any case."""
    parameters = {p.data_ptr() for p in model.parameters()}
    kept = {}

    def pack(tensor):
        if tensor.data_ptr() not in parameters:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    x = torch.randn(4096, 6)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(x, **settings)
    loss.backward()
    return sum(kept.values())


def test_activations_are_not_kept():
    model = make_model()
    inputs_and_projections = 2 * 4096 * 4 * (6 + 5 * 8)
    assert kept_bytes(model, micro_batch=64) < inputs_and_projections < kept_bytes(model) / 2


def test_no_more_rows_at_a_time():
    model, sizes = make_model(), []
    model.encoder.register_forward_hook(lambda module, args, out: sizes.append(len(out)))
    model(X, micro_batch=32).backward()
    assert sorted(sizes) == sorted(2 * [32, 32, 32, 4])  # 100 rows, twice


@pytest.mark.parametrize("value", [0, -1, 2.0, True, "8"])
def test_sizes_that_are_none(value):
    with pytest.raises(ValueError, match=f"micro_batch must be an integer >= 1, got {value!r}"):
        make_model()(X, micro_batch=value)


def test_batch_norm_is_refused_while_it_trains():
    model = make_model(normalization=nn.BatchNorm1d)
    message = (
        r"batch norm in training mode, 'encoder\.1': .* whole batch; use LayerNorm or GroupNorm"
    )
    with pytest.raises(ValueError, match=message):
        model(X, micro_batch=8)
    model.eval()
    assert model(X, micro_batch=8).isfinite()


def test_hidden_noise_in_the_middle_is_refused():
    model = make_model(get_noise("hidden", noise="linear", at="1"))
    with pytest.raises(ValueError, match="micro_batch must be None for hidden noise at '1'"):
        model(X, micro_batch=8)


def test_other_inputs_are_refused():
    model = make_model(get_noise("hidden", noise="linear"))
    with pytest.raises(TypeError, match="micro_batch cuts one tensor of rows"):
        model({"x": X}, micro_batch=8)


def test_whatever_module_in_micro_batches():
    rows = in_micro_batches(lambda x: 2 * x, (X,), 8)
    assert torch.equal(rows, 2 * X)
    assert torch.equal(in_micro_batches(torch.add, (X, X), None), 2 * X)
