"""Gradients reach a row from itself and from every row that drew it."""

from dataclasses import replace

import hypothesis.strategies as st
import noise_oracles as oracles
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from test_noises import FLOATS, NOISES, oracle_arguments, rows_of, wide

from mixnoise import Draw, get_noise, ops

# Terms of linear, binary and gaussian are products of two numbers; those of geometric go through
# a logarithm, which the oracle's size of a term counts.
TERM_SLACK = 4


def gradient(mix, x, draw, grad):
    leaf = x.clone().requires_grad_()
    mix(leaf, draw).backward(grad)
    return leaf.grad


def assert_close_to_oracle(x, draw, grad, got):
    arguments = oracle_arguments(draw, x.shape[1:])
    expected, size = oracles.mix_gradient(wide(grad), rows_of(x), **arguments)
    dtype = str(x.dtype).removeprefix("torch.")
    bound = TERM_SLACK * oracles.arithmetic_eps(dtype) * size + oracles.TINY[dtype]
    bound = bound + oracles.EPS[dtype] / 2 * np.abs(expected)
    assert (got.dtype, got.shape) == (x.dtype, x.shape)
    error = np.abs(rows_of(got) - expected)
    assert (error <= bound).all(), f"{(error / bound).max()} of the slack"


@pytest.mark.parametrize("low", [None, -0.5])
@settings(max_examples=40)
@given(
    n_rows=st.integers(2, 6),
    n_columns=st.integers(1, 35),
    views=st.integers(1, 3),
    dtype=st.sampled_from(FLOATS),
    function=st.sampled_from([*oracles.FUNCTIONS, "all"]),
    seed=st.integers(0, 2**63 - 1),
)
def test_gradient_is_the_oracles(low, n_rows, n_columns, views, dtype, function, seed):
    """Any partners and coefficients, zeros among the data."""
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(n_rows, n_columns, generator=g, dtype=torch.float64).to(dtype)
    x[torch.rand(x.shape, generator=g) < 0.1] = 0
    shape = (views, n_rows)
    draw = Draw(
        seed=torch.tensor(seed),
        partner=torch.randint(n_rows, shape, generator=g),
        coef=(torch.rand(shape, generator=g) * 1.4 - 0.2).clamp(0.01, 1),
        kind=torch.randint(4, (n_rows,), generator=g).byte() if function == "all" else None,
        low=None if low is None else torch.tensor(low),
        function="linear" if function == "all" else function,
    )
    grad = torch.randn(*shape, n_columns, generator=g).to(dtype)
    assert_close_to_oracle(x, draw, grad, gradient(ops.mix, x, draw, grad))


@pytest.mark.parametrize("function", oracles.FUNCTIONS[:3])
def test_rows_drawn_by_all_and_by_none(mix, function):
    g = torch.Generator().manual_seed(0)
    x = torch.rand(9, 20, generator=g, dtype=torch.float64)
    partner = torch.zeros(2, 9, dtype=torch.int64)
    partner[:, 0] = 1
    coef = torch.rand(2, 9, generator=g)
    draw = Draw(torch.tensor(1), partner, coef, function=function)
    grad = torch.randn(2, 9, 20, generator=g, dtype=torch.float64)
    got = gradient(mix, x, draw, grad)
    assert_close_to_oracle(x, draw, grad, got)
    if function == "linear":  # rows 2 to 8 are drawn by none
        own = (coef.double()[..., None] * grad).sum(0)
        torch.testing.assert_close(got[2:], own[2:], rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("name", NOISES)
def test_gradcheck(name):
    x = torch.rand(4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.5
    # With "auto" the smallest value is low itself, where geometric mixing has no derivative.
    noise = get_noise(name, **({"low": 0.0} if name in ("geometric", "dacl+") else {}))
    draw = noise.sample(x, views=2, seed=3)
    if name == "dacl+":
        assert draw.kind.unique().numel() == 3
    assert torch.autograd.gradcheck(lambda leaf: noise.apply(leaf, draw), x.requires_grad_())


@pytest.mark.parametrize("name", NOISES)
def test_gradients_flow_from_views_and_forward(name):
    x = torch.rand(6, 2, 5, requires_grad=True)
    noise = get_noise(name)
    for views in (noise.views(x, 2), noise(x)):
        assert views.requires_grad
        (g,) = torch.autograd.grad(views.square().sum(), x)
        assert g.shape == x.shape
        assert g.abs().sum() > 0


def test_no_gradient_for_who_does_not_ask(mix):
    x = torch.rand(3, 5)
    draw = get_noise("dacl+").sample(x, views=2)
    assert not mix(x, draw).requires_grad
    with torch.no_grad():
        assert not mix(x.requires_grad_(), draw).requires_grad


@pytest.mark.parametrize("name", ["linear", "binary", "gaussian"])
def test_a_batch_may_be_changed_in_place_once_it_is_mixed(mix, name):
    """Only geometric mixing needs its values for the gradient."""
    x = torch.randn(8, 5, requires_grad=True)
    batch = x * 1
    draw = get_noise(name).sample(batch, views=2, seed=0)
    views, upstream = mix(batch, draw), torch.randn(2, 8, 5)
    batch.add_(1)
    views.backward(upstream)
    torch.testing.assert_close(x.grad, gradient(mix, x.detach(), draw, upstream), rtol=0, atol=0)


@pytest.mark.parametrize("name", NOISES)
def test_gradient_bits_are_the_same_every_time(name):
    """Large enough for several blocks and threads, with rows that hundreds of others drew."""
    g = torch.Generator().manual_seed(0)
    x = torch.rand(3000, 200, generator=g)
    noise = get_noise(name)
    draw = noise.sample(x, views=2, seed=1)
    draw.partner[:, ::2] = 5
    grad = torch.randn(2, 3000, 200, generator=g)
    leaf = x.requires_grad_()
    first, *others = (torch.autograd.grad(noise.apply(leaf, draw), leaf, grad)[0] for _ in range(3))
    assert all(torch.equal(other, first) for other in others)


@pytest.mark.parametrize("name", ["linear", "geometric", "binary", "dacl+"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_gradient_through_alpha_1_is_the_identity(mix, name, dtype):
    """Also at x = low, where geometric mixing's own gradient is 0, and of what is not finite."""
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    x[0, ::2], x[1, ::3], x[2] = torch.inf, torch.nan, 0
    draw = get_noise(name, alpha=1.0).sample(x, views=2, seed=0)
    grad = torch.randn(2, 3, 8).to(dtype)
    grad[0, :, 1] = torch.inf
    got = gradient(mix, x, draw, grad)
    assert torch.equal(got, (grad[0].double() + grad[1].double()).to(dtype))


@pytest.mark.parametrize("name", NOISES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_types_get_gradients_of_their_own_type(mix, name, dtype):
    leaf = torch.rand(2, 8).to(dtype).requires_grad_()
    mix(leaf, get_noise(name).sample(leaf)).sum().backward()
    assert leaf.grad.dtype == dtype


@pytest.mark.parametrize("name", NOISES)
def test_strides_of_the_incoming_gradient_do_not_matter(mix, name):
    x = torch.rand(2, 10)
    draw = get_noise(name).sample(x, views=2, seed=0)
    base = torch.randn(10, 2, 2).permute(2, 1, 0)
    wide = torch.full((4, 4, 30), torch.nan)
    wide[1:3, ::2, 1::3] = base
    for grads in ([torch.ones(()).expand(2, 2, 10)], [base, wide[1:3, ::2, 1::3]]):
        plain = gradient(mix, x, draw, grads[0].contiguous())
        for grad in grads:
            assert torch.equal(gradient(mix, x, draw, grad), plain)
    transposed = x.t().contiguous().t().requires_grad_()
    (strided,) = torch.autograd.grad(mix(transposed, draw), transposed, base)
    assert torch.equal(strided, plain)


# The edge of geometric mixing's domain.


@pytest.mark.parametrize("coef", [0.01, 0.5, 0.7, 1 - 2**-24])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_gradient_at_low_is_0(mix, coef, dtype):
    x = torch.tensor([[0.0], [0.0], [3.0]]).to(dtype)
    partner = torch.tensor([[1, 2, 0]])
    draw = Draw(torch.tensor(0), partner, torch.full((1, 3), coef), function="geometric")
    # Row 2 gets 0 as well: its derivative is c (0/3)^(1-c), and (1-c) (0/3)^c from row 1.
    assert gradient(mix, x, draw, torch.ones(1, 3, 1).to(dtype)).tolist() == [[0.0]] * 3


@pytest.mark.parametrize("name", ["geometric", "dacl+"])
def test_the_row_that_auto_takes_low_from_gets_no_geometric_gradient(mix, name):
    x = torch.randn(8, 30, generator=torch.Generator().manual_seed(0))
    noise = get_noise(name)
    draw = noise.sample(x, views=2, seed=0)
    if name == "dacl+":
        draw = replace(draw, kind=torch.ones_like(draw.kind))  # geometric everywhere
    got = gradient(mix, x, draw, torch.ones(2, 8, 30))
    assert (got[x == draw.low] == 0).all()
    assert (got[x > draw.low] > 0).all()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_gradients_are_finite_for_any_finite_data(mix, dtype):
    """Zeros, subnormals and the largest numbers beside each other, so ratios of any size."""
    info = torch.finfo(dtype)
    tiny = info.smallest_normal * info.eps
    values = [0.0, tiny, info.smallest_normal, 1e-3, 1.0, 1e3, info.max]
    pairs = torch.tensor([[a, b] for a in values for b in values], dtype=torch.float64)
    x = pairs.T.to(dtype)
    # A view each: their sum, of what is positive, is finite only where all of them are.
    coef = torch.tensor([2**-24, 0.01, 0.3, 0.5, 0.7, 0.99, 1 - 2**-24])[:, None].expand(7, 2)
    partner = torch.tensor([[1, 0]]).expand(7, 2)
    draw = Draw(torch.tensor(0), partner, coef, function="geometric")
    got = gradient(mix, x, draw, torch.ones(7, 2, 49, dtype=dtype))
    assert x.T[~got.isfinite().all(0)].tolist() == []


def test_second_derivatives_are_refused(mix):
    """They are not defined, and a penalty on gradients must not silently train on nothing."""
    leaf = torch.rand(2, 3, requires_grad=True)
    draw = get_noise("geometric", low=0.0).sample(leaf.detach(), seed=0)
    loss = mix(leaf, draw).pow(3).sum()
    (first,) = torch.autograd.grad(loss, leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(first.square().sum(), leaf)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_complex_gradients_keep_their_imaginary_part(mix, dtype):
    g = torch.Generator().manual_seed(0)
    x, grad = torch.randn(8, 3, dtype=dtype, generator=g), torch.randn(1, 8, 3, dtype=dtype)
    draw = get_noise("binary", alpha=0.0).sample(x, seed=1)
    # The derivative of a selection: what each row kept, and what others took of it.
    rows = torch.arange(8.0)[:, None].expand(8, 3)
    taken = mix(rows.contiguous(), draw)[0].long()
    expected = torch.zeros_like(x).scatter_add_(0, taken, grad[0])
    torch.testing.assert_close(gradient(mix, x, draw, grad), expected)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # in functorch
def test_forward_mode_is_refused(mix):
    """Its tangent would be zero without a word."""
    x = torch.rand(4, 3)
    draw = get_noise("linear").sample(x, seed=0)
    with pytest.raises(RuntimeError, match="no forward-mode derivative"):
        torch.func.jvp(lambda x: mix(x, draw), (x,), (x,))
