"""NT-Xent is as accurate as its dtype allows, and obeys the laws of its equation."""

from collections.abc import Callable, Iterator
from decimal import Decimal, localcontext
from functools import partial

import numpy as np
import oracles
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from nt_xent_cases import (
    CEILING,
    SCENES,
    TEMPERATURE_SLACK,
    TEMPERATURES,
    check_accuracy,
    error,
    make_scene,
    make_weights,
    oracle,
    plain_nt_xent,
    solve,
    torch_rows,
    triton_nt_xent,
)
from torch import Tensor

import mixnoise
from mixnoise._torch import matmul
from mixnoise._torch import nt_xent as torch_backend

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """For matrices this small, threads cost more than they give."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def rows_nt_xent(nt_xent: Callable) -> Callable:
    return partial(nt_xent, reduction="none")


# The oracle itself


def decimal_loss(rows: list[list[Decimal]], temperature: Decimal) -> list[Decimal]:
    """The definition as it stands, in the current context's precision."""
    unit = []
    for row in rows:
        norm = sum(v * v for v in row).sqrt()
        unit.append([v / norm for v in row])
    losses = []
    for i, zi in enumerate(unit):
        e = [(sum(a * b for a, b in zip(zi, zk, strict=True)) / temperature).exp() for zk in unit]
        positive = e[(i + len(e) // 2) % len(e)]
        losses.append(-(positive / sum(e[:i] + e[i + 1 :])).ln())
    return losses


@pytest.mark.parametrize("temperature", [0.005, 0.1, 2.0])
@pytest.mark.parametrize("spread", [1.0, 0.1], ids=["scattered", "near-duplicates"])
def test_oracle_equals_the_definition_in_100_digits(temperature: float, spread: float) -> None:
    generator = np.random.default_rng(3)
    x = np.array([1.0, -2.0, 0.5]) * (spread < 1) + spread * generator.standard_normal((6, 3))
    weights = np.array([1.0, -0.5, 0.25, 2.0, 0.0, 1.5])
    loss = oracles.nt_xent(x[:3], x[3:], temperature)
    *dx, dt = oracles.nt_xent_gradients(x[:3], x[3:], temperature, weights)

    with localcontext(prec=100):
        t, step = Decimal(temperature), Decimal("1e-30")
        exact = [[Decimal(v) for v in row] for row in x.tolist()]
        g = [Decimal(w) for w in weights.tolist()]

        def weighted(rows: list[list[Decimal]], temperature: Decimal) -> Decimal:
            losses = decimal_loss(rows, temperature)
            return sum(w * value for w, value in zip(g, losses, strict=True))

        def moved(i: int, j: int, by: Decimal) -> list[list[Decimal]]:
            rows = [list(row) for row in exact]
            rows[i][j] += by
            return rows

        true_loss = [float(v) for v in decimal_loss(exact, t)]
        true_dx = [
            [
                float((weighted(moved(i, j, step), t) - weighted(moved(i, j, -step), t)) / 2 / step)
                for j in range(3)
            ]
            for i in range(6)
        ]
        true_dt = float((weighted(exact, t + step) - weighted(exact, t - step)) / 2 / step)

    np.testing.assert_allclose(loss, true_loss, rtol=1e-12)
    scale = np.abs(true_dx).max()
    np.testing.assert_allclose(np.concatenate(dx), true_dx, rtol=0, atol=1e-12 * scale)
    np.testing.assert_allclose(dt, true_dt, rtol=1e-12)


def test_oracle_equals_plain_pytorch_in_float64() -> None:
    z1, z2 = make_scene("scattered", 9, 5, torch.float64)
    weights = make_weights(9)
    loss, gradient, _, _ = oracle(z1, z2, 0.5, weights)
    plain_loss, plain_gradient = solve(plain_nt_xent, z1, z2, 0.5, weights)
    np.testing.assert_allclose(loss, plain_loss.numpy(), rtol=1e-13)
    np.testing.assert_allclose(gradient, plain_gradient.numpy(), rtol=0, atol=1e-13)


# Accuracy; that of the Triton backend is in test_triton_nt_xent.py


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_accuracy(dtype: torch.dtype, temperature: float, scene: str) -> None:
    for n, d in ((2, 3), (5, 1), (20, 17), (9, 128)):
        check_accuracy(torch_rows, *make_scene(scene, n, d, dtype), temperature, make_weights(n))


@pytest.fixture(params=[False, True], ids=["MKL", "oneDNN"])
def _library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Either one, whatever is faster on this processor."""
    # Builds for x86, as in CI, have it; those for macOS have not, and never take that path.
    if request.param and not torch.backends.mkldnn.is_available():
        pytest.skip("this PyTorch was built without oneDNN")
    monkeypatch.setattr(matmul, "_ONEDNN_IS_FASTER", request.param)


@pytest.mark.usefixtures("_library")
@pytest.mark.parametrize("temperature", [0.0228, 0.5], ids=["running maximum", "fixed maximum"])
@pytest.mark.parametrize(
    ("n", "d", "dtype"),
    [
        (256, 17, torch.float32),
        (257, 17, torch.float32),
        (511, 3, torch.float32),
        (512, 17, torch.float32),
        (513, 17, torch.float32),
        (513, 128, torch.bfloat16),
        (2561, 5, torch.float32),
    ],
    ids=str,
)
def test_accuracy_around_a_tile_edge(
    n: int, d: int, dtype: torch.dtype, temperature: float
) -> None:
    check_accuracy(torch_rows, *make_scene("clustered", n, d, dtype), temperature, make_weights(n))


def test_onednn_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Tensor) -> Tensor:
        raise AssertionError("a product went to oneDNN")

    monkeypatch.setattr(matmul, "_ONEDNN_IS_FASTER", True)
    monkeypatch.setattr(matmul, "_linear", refuse)
    z1, z2 = make_scene("clustered", 300, 64, torch.float32)
    with pytest.raises(AssertionError, match="oneDNN"):
        torch_rows(z1, z2, 0.5)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    assert torch_rows(z1, z2, 0.5).isfinite().all()


@pytest.mark.parametrize(
    ("n", "temperature"), [(32, 0.05), (32, 0.07), (2, 0.1)], ids=lambda v: str(v)
)
@pytest.mark.parametrize("form", [float, torch.tensor], ids=["fixed maximum", "running maximum"])
def test_small_losses_keep_their_digits(
    rows_nt_xent: Callable, n: int, temperature: float, form: Callable
) -> None:
    generator = torch.Generator().manual_seed(0)
    z1 = torch.eye(n, 40) + 1e-3 * torch.randn(n, 40, generator=generator)
    z2 = z1 + 1e-3 * torch.randn(n, 40, generator=generator)
    weights = torch.ones(2 * n).double()
    true_loss, true_gradient, norms, _ = oracle(z1, z2, temperature, weights)
    assert true_loss.max() < 1e-4
    loss, gradient = solve(rows_nt_xent, z1, z2, form(temperature), weights)
    np.testing.assert_allclose(loss.double().numpy(), true_loss, rtol=1e-5)
    # The kernels round unit rows, sums and gradients to float32 in between, PyTorch's keep float64.
    limit = 2e-5 if rows_nt_xent.func is triton_nt_xent else 1e-5
    assert error(gradient, true_gradient, norms) < limit


@pytest.mark.parametrize("form", [float, torch.tensor], ids=["fixed maximum", "running maximum"])
def test_opposite_positive_among_close_negatives(rows_nt_xent: Callable, form: Callable) -> None:
    # exp(s_ip) underflows beside the negatives; log1p(n / exp(s_ip)) is inf here.
    generator = torch.Generator().manual_seed(0)
    z1 = torch.ones(16, 8) + 1e-2 * torch.randn(16, 8, generator=generator)
    z2 = -torch.ones(16, 8) + 1e-2 * torch.randn(16, 8, generator=generator)
    weights = torch.ones(32).double()
    true_loss, true_gradient, norms, _ = oracle(z1, z2, 0.023, weights)
    loss, gradient = solve(rows_nt_xent, z1, z2, form(0.023), weights)
    assert true_loss.min() > 88
    np.testing.assert_allclose(loss.double().numpy(), true_loss, rtol=1e-6)
    assert error(gradient, true_gradient, norms) < 1e-5


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(
    ("nt_xent", "dtype"),
    [("torch", torch.float64), ("torch", torch.float32), ("triton", torch.float32)],
    indirect=["nt_xent"],
    ids=str,
)
def test_temperature_gradient(
    rows_nt_xent: Callable, dtype: torch.dtype, temperature: float, scene: str
) -> None:
    z1, z2 = make_scene(scene, 20, 17, dtype)
    weights = make_weights(20).abs()  # of one sign: else the sum itself would cancel
    t = torch.tensor(temperature, dtype=dtype)
    true_loss, true_gradient, norms, true_dt = oracle(z1, z2, t.item(), weights)

    def solve_with_t(function: Callable[..., Tensor]) -> tuple[Tensor, Tensor, float]:
        t.grad = None
        loss, gradient = solve(function, z1, z2, t.requires_grad_(), weights)
        terms = weights.sum().item() / t.item() ** 2
        return loss, gradient, abs(t.grad.item() - true_dt) / terms

    *_, plain = solve_with_t(plain_nt_xent)
    loss, gradient, ours = solve_with_t(rows_nt_xent)
    assert error(loss, true_loss) <= CEILING[dtype][0]
    assert error(gradient, true_gradient, norms) <= CEILING[dtype][1]
    assert ours <= plain + TEMPERATURE_SLACK[dtype]


def test_more_rows_than_exponentials_are_kept() -> None:
    z1, z2 = make_scene("clustered", 1300, 5, torch.float64)  # kept whole up to 1,100 or so
    weights = make_weights(1300)
    loss, gradient = solve(torch_rows, z1, z2, 0.5, weights)
    plain_loss, plain_gradient = solve(plain_nt_xent, z1, z2, 0.5, weights)
    assert error(loss, plain_loss.numpy()) < 1e-13
    assert error(gradient, plain_gradient.numpy()) < 1e-13


@pytest.mark.parametrize("kept", [0, 300_000], ids=["none kept", "some tiles kept"])
def test_kept_exponentials_change_nothing(monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    z1, z2 = make_scene("clustered", 513, 5, torch.float64)
    weights = make_weights(513)
    loss, gradient = solve(torch_rows, z1, z2, 0.5, weights)
    monkeypatch.setattr(torch_backend, "_KEPT_EXPONENTIALS", kept)
    loss_2, gradient_2 = solve(torch_rows, z1, z2, 0.5, weights)
    assert error(loss_2, loss.numpy()) < 1e-14
    assert error(gradient_2, gradient.numpy()) < 1e-14


FORMS = pytest.mark.parametrize(
    "temperature",
    [0.5, 0.002, torch.tensor(0.5, dtype=torch.float64)],
    ids=["fixed maximum", "running maximum", "tensor"],
)


@FORMS
def test_gradcheck(temperature: float | Tensor) -> None:
    z1, z2 = make_scene("clustered", 3, 4, torch.float64)
    if isinstance(temperature, Tensor):
        temperature = temperature.clone().requires_grad_()
    inputs = (z1.requires_grad_(), z2.requires_grad_(), temperature)
    assert torch.autograd.gradcheck(torch_rows, inputs)


@pytest.mark.parametrize("form", [float, torch.tensor], ids=["fixed maximum", "running maximum"])
@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_upstream_weights_neither_underflow_nor_overflow(
    rows_nt_xent: Callable, factor: float, form: Callable
) -> None:
    z1, z2 = make_scene("clustered", 20, 17, torch.float32)
    t = form(0.0229)  # exp(1/t) is 1e19: dividing 1e-30 by sums of it leaves float32's range
    _, gradient = solve(rows_nt_xent, z1, z2, t, make_weights(20))
    _, scaled = solve(rows_nt_xent, z1, z2, t, make_weights(20) * factor)
    assert error(scaled, gradient.double().numpy() * factor) < 1e-6


# Laws


def test_rows_of_the_first_view_come_first(nt_xent: Callable) -> None:
    z1 = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    z2 = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    e = np.e
    by_hand = np.log([2 + 1 / e, 1 + 2 * e, 2 + 1 / e, 3])
    np.testing.assert_allclose(nt_xent(z1, z2, 1.0, "none").numpy(), by_hand, rtol=1e-6)


@st.composite
def batches(draw: st.DrawFn, dtype: torch.dtype) -> tuple[Tensor, Tensor, float, torch.Generator]:
    """Views ``(N, D)``, a temperature, and a generator for whatever else is needed."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.integers(1, 24)), draw(st.integers(1, 9))
    z1, z2 = torch.randn(2, *shape, generator=generator, dtype=torch.float64).to(dtype)
    return z1, z2, draw(st.sampled_from((0.002, *TEMPERATURES))), generator


def law(check: Callable) -> Callable:
    """Each backend obeys, in its best dtype; the interpreter is slow, so it is asked less often."""
    usual = settings(max_examples=40, database=None)
    # No shrinking, which would take minutes.
    quick = settings(usual, max_examples=5, phases=[Phase.generate])

    def test(nt_xent: Callable) -> None:
        in_torch = nt_xent is mixnoise.nt_xent

        @(usual if in_torch else quick)
        @given(batches(torch.float64 if in_torch else torch.float32))
        def holds(batch: tuple) -> None:
            check(nt_xent, *batch)

        holds()

    test.__name__ = check.__name__
    return test


def solve_scaled(
    nt_xent: Callable, z1: Tensor, z2: Tensor, temperature: float | Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Loss, and the gradients per relative change of a row, so that all rows count alike."""
    loss, gradient = solve(partial(nt_xent, reduction="none"), z1, z2, temperature, weights)
    norms = torch.cat([z1, z2]).double().norm(dim=1, keepdim=True)
    return loss, (gradient * norms * float(temperature)).to(loss.dtype)


def assert_same(
    found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], temperature: float
) -> None:
    """Up to some units in the last place of a similarity."""
    eps = torch.finfo(found[0].dtype).eps
    torch.testing.assert_close(found, expected, rtol=0, atol=16 * eps * max(1, 1 / temperature))


@law
def test_any_shape_equals_the_oracle(
    nt_xent: Callable, z1: Tensor, z2: Tensor, temperature: float, *_: object
) -> None:
    weights = make_weights(len(z1))
    true_loss, true_gradient, norms, _ = oracle(z1, z2, temperature, weights)
    expected = torch.from_numpy(true_loss), torch.from_numpy(true_gradient * norms * temperature)
    found = solve_scaled(nt_xent, z1, z2, temperature, weights)
    assert_same(found, tuple(x.to(z1.dtype) for x in expected), temperature)


@law
def test_symmetric_in_its_views(
    nt_xent: Callable, z1: Tensor, z2: Tensor, temperature: float, *_: object
) -> None:
    n, weights = len(z1), make_weights(len(z1))
    loss, gradient = solve_scaled(nt_xent, z1, z2, temperature, weights)
    swapped = solve_scaled(nt_xent, z2, z1, temperature, weights.roll(n))
    assert_same(swapped, (loss.roll(n), gradient.roll(n, 0)), temperature)


@law
def test_blind_to_positive_scaling_of_a_row(
    nt_xent: Callable, z1: Tensor, z2: Tensor, temperature: float, generator: torch.Generator
) -> None:
    weights = make_weights(len(z1))
    largest = 40 if z1.dtype == torch.float64 else 20
    exponents = 2 * torch.rand(2, len(z1), 1, generator=generator, dtype=z1.dtype) - 1
    a, b = 10 ** (largest * exponents)
    scaled = solve_scaled(nt_xent, a * z1, b * z2, temperature, weights)
    assert_same(scaled, solve_scaled(nt_xent, z1, z2, temperature, weights), temperature)


@law
def test_permuting_rows_permutes_the_loss(
    nt_xent: Callable, z1: Tensor, z2: Tensor, temperature: float, generator: torch.Generator
) -> None:
    n, weights = len(z1), make_weights(len(z1))
    order = torch.randperm(n, generator=generator)
    both = torch.cat([order, order + n])
    loss, gradient = solve_scaled(nt_xent, z1, z2, temperature, weights)
    permuted = solve_scaled(nt_xent, z1[order], z2[order], temperature, weights[both])
    assert_same(permuted, (loss[both], gradient[both]), temperature)


@law
def test_sum_and_mean_reduce_the_rows(
    nt_xent: Callable, z1: Tensor, z2: Tensor, temperature: float, *_: object
) -> None:
    z1.requires_grad_()
    rows = nt_xent(z1, z2, temperature, "none")
    for reduced in ("sum", "mean"):
        loss = nt_xent(z1, z2, temperature, reduction=reduced)
        expected = getattr(rows, reduced)()
        assert torch.equal(loss, expected)
        x1, x2 = z1.detach().double().numpy(), z2.double().numpy()
        true_loss = oracles.nt_xent(x1, x2, temperature, reduced)
        np.testing.assert_allclose(loss.item(), true_loss, rtol=64 * torch.finfo(z1.dtype).eps)
        (gradient,) = torch.autograd.grad(loss, z1)
        (expected_gradient,) = torch.autograd.grad(expected, z1, retain_graph=True)
        assert torch.equal(gradient, expected_gradient)


@law
def test_tensor_temperature_equals_float_temperature(
    nt_xent: Callable, z1: Tensor, z2: Tensor, temperature: float, *_: object
) -> None:
    weights = make_weights(len(z1))
    t = torch.tensor(temperature, dtype=torch.float64)
    found = solve_scaled(nt_xent, z1, z2, t, weights)
    assert_same(found, solve_scaled(nt_xent, z1, z2, temperature, weights), temperature)


@pytest.mark.parametrize(
    "view",
    [
        lambda z: z[:6, :4].T,
        lambda z: z[1::2, ::3],
        lambda z: z[3:7, 2:5],
        lambda z: z[:1].expand(4, -1),
    ],
    ids=["transposed", "strided", "a window", "expanded"],
)
def test_memory_layout_does_not_matter(
    rows_nt_xent: Callable, view: Callable[[Tensor], Tensor]
) -> None:
    generator = torch.Generator().manual_seed(0)
    base1, base2 = torch.randn(2, 9, 9, generator=generator).unbind()
    weights = torch.ones(2 * len(view(base1)))

    def as_it_lies(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
        return rows_nt_xent(view(z1), view(z2), temperature)

    def contiguous(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
        return rows_nt_xent(view(z1).contiguous(), view(z2).contiguous(), temperature)

    loss, gradient = solve(as_it_lies, base1, base2, 0.5, weights)
    expected_loss, expected_gradient = solve(contiguous, base1, base2, 0.5, weights)
    assert torch.equal(loss, expected_loss)
    assert torch.equal(gradient, expected_gradient)
