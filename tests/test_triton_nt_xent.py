"""The Triton backend of NT-Xent: its accuracy, its tiles, and its parts, one process's or many's.

What both backends promise is in test_nt_xent.py and test_nt_xent_contract.py.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import oracles
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from mixnoise_kernels import blocks
from nt_xent_cases import (
    DEVICE,
    SCENES,
    TEMPERATURES,
    check_errors,
    make_scene,
    make_weights,
    oracle,
)
from torch import Tensor

from mixnoise import nt_xent

host = pytest.importorskip("mixnoise_kernels.nt_xent", reason="the kernels need triton")
unit_rows = pytest.importorskip("mixnoise_kernels.unit_rows")
pytestmark = pytest.mark.usefixtures("triton_runs")

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Unit rows of a half type are rounded to it: each element by this part of it at most.
ROUNDING = {torch.float32: 0.0, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
# Of a product of unit rows: that of the second of two terms, at most 2^-9 of a row each.
LEFT_OUT = {"bf16x3": 2.0**-18}
EPS = 2.0**-23
# As SLACK. Unit rows are rounded to float32 before they are multiplied.
SLACK = (5e-6, 8e-6)
PLAIN, RUNNING = 0.1, 0.01
FORMS = pytest.mark.parametrize(
    "temperature",
    [PLAIN, RUNNING, torch.tensor(PLAIN), torch.tensor(RUNNING)],
    ids=["plain", "running", "plain from a tensor", "running from a tensor"],
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """For matrices this small, threads cost more than they give."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def to_device(*values: object) -> list:
    return [x.to(DEVICE) if isinstance(x, Tensor) else x for x in values]


def as_temperature(temperature: float | Tensor) -> object:
    if isinstance(temperature, Tensor):
        return unit_rows.Temperature(temperature.to(DEVICE), float("nan"))
    return unit_rows.Temperature(None, temperature)


def solve(
    z1: Tensor, z2: Tensor, temperature: float | Tensor, weights: Tensor, precision: str = "ieee"
) -> tuple[Tensor, Tensor]:
    """Loss ``(2N,)`` and gradients of both views, stacked; the views keep their strides."""
    z1, z2, temperature, weights = to_device(z1, z2, temperature, weights.float())
    z1, z2 = (z.detach().requires_grad_() for z in (z1, z2))
    loss = nt_xent(z1, z2, temperature, "none", precision, backend="triton")
    gradients = torch.autograd.grad(loss, (z1, z2), weights)
    return loss.detach().cpu(), torch.cat(gradients).cpu()


# Accuracy. There are two truths. The first is the oracle's. The second starts from the very unit
# rows that the kernels multiply, rounded to their dtype: what is left is float32's error, and the
# rounding of weights and results to a half type.


def unit_rows_and_similarities(
    z1: Tensor, z2: Tensor, temperature: float | Tensor, precision: str = "ieee"
) -> tuple[np.ndarray, np.ndarray]:
    """What the kernels multiply ``(2N, D)``, and exact similarities of that."""
    n, d = z1.shape
    precision = unit_rows.precision_of_products(precision, z1.dtype)
    unit, _ = unit_rows.normalize(*to_device(z1, z2), as_temperature(temperature), precision)
    assert unit[:, n:].eq(0).all()
    assert unit[..., d:].eq(0).all()
    rows = unit[:, :n, :, :d].double().sum(2).flatten(0, 1).cpu().numpy()
    if np.float32(temperature) >= np.float32(0.0229):  # they carry the root of log2(e) / t
        return rows / np.sqrt(np.log2(np.e) / float(temperature)), rows @ rows.T * np.log(2)
    return rows, rows @ rows.T / float(temperature)


def check_loss_of_unit_rows(
    loss: Tensor, s: np.ndarray, temperature: float, precision: str = "ieee"
) -> None:
    # A similarity of 1/t is a sum in float32, and the sum of exponentials is another.
    allowed = 4 * EPS * max(1, 1 / temperature) + 4 * LEFT_OUT.get(precision, 0) / temperature
    assert np.abs(loss.double().numpy() - oracles.losses(s)).max() <= allowed


def check_gradient_of_unit_rows(
    gradient: Tensor,
    x: np.ndarray,
    rows: np.ndarray,
    s: np.ndarray,
    temperature: float,
    weights: Tensor,
    precision: str = "ieee",
) -> None:
    u, limits = ROUNDING[gradient.dtype], torch.finfo(gradient.dtype)
    left_out = LEFT_OUT.get(precision, 0)
    ds = oracles.losses_gradient(s, weights.numpy())
    ds += ds.T
    dz = ds @ rows / temperature
    unit, norms = oracles.unit_rows(x, limits.tiny)
    inverse = np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)
    dx = (dz - unit * np.sum(unit * dz, 1)[:, None]) * inverse[:, None]
    # What is added up are rows of length 1. A similarity's error is one of its softmax, too.
    size = np.abs(ds).sum(1) / temperature * inverse
    u += 8 * left_out / temperature + left_out  # of similarities, and of weights times rows
    allowed = (u + 4 * EPS * max(1, 1 / temperature)) * size + u * np.abs(dx).max(1)
    found = np.abs(gradient.double().numpy() - dx).max(1)
    assert (found <= allowed + limits.tiny * limits.eps).all()


def check_rounded(
    loss: Tensor,
    gradient: Tensor,
    z1: Tensor,
    z2: Tensor,
    temperature: float,
    weights: Tensor,
    u: float,
) -> None:
    """Against the oracle. Rows rounded by u make a similarity wrong by 2u/t at most.

    The loss depends on differences of two of them, so it is wrong by 4u/t; a softmax then is by a
    factor of exp(8u/t).
    """
    true_loss, true_gradient, norms, _ = oracle(z1, z2, temperature, weights)
    found = np.abs(loss.double().numpy() - true_loss).max()
    assert found <= (4 * u + 2 * u * u + 8 * EPS) / temperature

    tiny = torch.finfo(z1.dtype).tiny
    unit, _ = oracles.unit_rows(torch.cat([z1, z2]).double().numpy(), tiny)
    ds = np.abs(oracles.losses_gradient(unit @ unit.T / temperature, weights.numpy()))
    size = (ds + ds.T).sum(1)[:, None] / temperature
    allowed = (np.expm1(8 * u / temperature) + 3 * u + 8 * EPS / temperature) * size
    found = np.abs(gradient.double().numpy() - true_gradient) * norms
    assert (found <= allowed + tiny * norms).all()


def check(z1: Tensor, z2: Tensor, temperature: float | Tensor, precision: str = "ieee") -> None:
    weights = make_weights(len(z1))
    loss, gradient = solve(z1, z2, temperature, weights, precision)
    assert loss.dtype == torch.float32
    assert gradient.dtype == z1.dtype
    rows, s = unit_rows_and_similarities(z1, z2, temperature, precision)
    t, x = float(temperature), torch.cat([z1, z2]).double().numpy()
    check_loss_of_unit_rows(loss, s, t)
    check_gradient_of_unit_rows(gradient, x, rows, s, t, weights)
    if z1.dtype != torch.float32:
        check_rounded(loss, gradient, z1, z2, t, weights, ROUNDING[z1.dtype])
    elif z1.shape[1] > 1:  # else the true gradient is 0, and no error is small beside it
        check_errors(loss, gradient, z1, z2, t, weights, SLACK)


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize(
    ("dtype", "temperature"),
    [(torch.float32, t) for t in TEMPERATURES]
    + [(torch.float16, 0.0228), (torch.float16, 0.0229), (torch.bfloat16, 0.5)],
    ids=str,
)
def test_accuracy(dtype: torch.dtype, temperature: float, scene: str) -> None:
    check(*make_scene(scene, 20, 17, dtype), temperature)


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_accuracy_of_three_terms(temperature: float, scene: str) -> None:
    """Six products of bfloat16 are as good as float32's own."""
    check(*make_scene(scene, 20, 17, torch.float32), temperature, "bf16x6")


def test_three_terms_are_the_row() -> None:
    z1, z2 = make_scene("scattered", 300, 33, torch.float32)
    t = as_temperature(RUNNING)
    terms, _ = unit_rows.normalize(*to_device(z1, z2), t, "bf16x6")
    whole, _ = unit_rows.normalize(*to_device(z1, z2), t, "ieee")
    assert torch.equal(terms.double().sum(2), whole.double()[:, :, 0])


def test_forms_change_where_float32_says_so() -> None:
    """Here, at the largest number below 0.0229, which float32 does not tell from it."""
    check(*make_scene("scattered", 5, 3, torch.float32), float(np.nextafter(0.0229, 0)))


EDGES = [
    (1, 1, torch.float32, PLAIN),
    (2, 16, torch.float16, RUNNING),
    (16, 15, torch.float32, torch.tensor(PLAIN)),
    (63, 17, torch.float32, RUNNING),
    (64, 31, torch.float16, PLAIN),
    (65, 33, torch.bfloat16, torch.tensor(RUNNING)),
    (127, 63, torch.bfloat16, PLAIN),
    (128, 100, torch.float32, PLAIN),
    (129, 127, torch.float16, RUNNING),
    (129, 128, torch.float32, torch.tensor(RUNNING)),
    (255, 32, torch.float32, PLAIN),
    (256, 129, torch.float16, torch.tensor(PLAIN)),
    (257, 65, torch.float32, RUNNING),
]


@pytest.mark.parametrize(("n", "d", "dtype", "temperature"), EDGES, ids=str)
def test_around_the_edges_of_blocks(
    n: int, d: int, dtype: torch.dtype, temperature: float | Tensor
) -> None:
    check(*make_scene("clustered", n, d, dtype), temperature)


LONG_ROWS = [
    (256, torch.float32, PLAIN),
    (300, torch.float16, RUNNING),
    (512, torch.bfloat16, torch.tensor(PLAIN)),
    (600, torch.float16, PLAIN),
    (1000, torch.float32, RUNNING),
    (1024, torch.float16, torch.tensor(PLAIN)),
]


@pytest.mark.parametrize(("d", "dtype", "temperature"), LONG_ROWS, ids=str)
def test_long_rows(d: int, dtype: torch.dtype, temperature: float | Tensor) -> None:
    check(*make_scene("clustered", 20, d, dtype), temperature)


def as_it_is(z: Tensor) -> Tensor:
    return z


def transposed(z: Tensor) -> Tensor:
    return z.T.contiguous().T


def every_other(z: Tensor) -> Tensor:
    wide = z.new_full((2 * z.shape[0], 3 * z.shape[1]), float("nan"))
    wide[::2, ::3] = z
    return wide[::2, ::3]


def part_of_longer_rows(z: Tensor) -> Tensor:
    wide = z.new_full((z.shape[0], z.shape[1] + 5), float("nan"))
    wide[:, 3:-2] = z
    return wide[:, 3:-2]


ROWS = (1, 2, 16, 63, 64, 65, 127, 128, 129, 255, 256, 257)
COLUMNS = (1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 127, 128, 129)


@settings(max_examples=16, database=None, phases=[Phase.generate])
@given(
    n=st.sampled_from(ROWS) | st.integers(1, 300),
    d=st.sampled_from(COLUMNS) | st.integers(1, 130),
    dtype=st.sampled_from(DTYPES),
    temperature=st.sampled_from(TEMPERATURES),
    form=st.sampled_from([float, torch.tensor]),
    scene=st.sampled_from(SCENES),
    layouts=st.tuples(
        *[st.sampled_from([as_it_is, transposed, every_other, part_of_longer_rows])] * 2
    ),
)
def test_accuracy_of_any_batch(
    n: int,
    d: int,
    dtype: torch.dtype,
    temperature: float,
    form: Callable,
    scene: str,
    layouts: tuple[Callable, Callable],
) -> None:
    views = make_scene(scene, n, d, dtype)
    check(*(lay(z) for lay, z in zip(layouts, views, strict=True)), form(temperature))


@pytest.mark.parametrize("d", [3, 1024])
def test_rows_of_any_size_count_alike(d: int) -> None:
    """No square overflows, no sum of squares does, and they do not underflow."""
    powers = torch.tensor([-125, -100, -46, -45, -41, 0, 40, 49, 50, 127])
    signs = torch.randn(2, 10, d, generator=torch.Generator().manual_seed(d)).sign()
    # Just below a power of two, where the kernel's own scale changes.
    sizes = torch.ldexp(torch.full((10,), 1.999), powers)
    loss, gradient = solve(*signs * sizes[:, None], 0.5, torch.ones(20))
    expected_loss, expected_gradient = solve(*signs, 0.5, torch.ones(20))
    torch.testing.assert_close(loss, expected_loss, rtol=1e-6, atol=0)
    # Of the largest rows, gradients are subnormal numbers.
    inside = powers.repeat(2) <= 100
    found = gradient.double() * sizes.double().repeat(2)[:, None]
    torch.testing.assert_close(
        found[inside], expected_gradient.double()[inside], rtol=1e-4, atol=1e-6
    )


# Precision of the products


@pytest.mark.parametrize(("precision", "bits"), [("bf16x3", 16), ("bf16x6", 24)])
def test_terms_of_unit_rows_add_up(precision: str, bits: int) -> None:
    """Rows in terms of bfloat16 are those of float32, to so many significant bits."""
    generator = torch.Generator().manual_seed(0)
    mantissa = torch.randint(2**23, (2, 300, 15), generator=generator, dtype=torch.int32)
    mantissa[:, :50] |= 0x7FE000  # a carry into the exponent
    exponent = torch.randint(16, 40, mantissa.shape, generator=generator)
    values = (1 + mantissa.double() / 2**23) * 2.0**-exponent
    values *= torch.randint(2, mantissa.shape, generator=generator) * 2 - 1
    # Beside a 1 they are too small to count in the norm, so the unit rows are these very numbers.
    z = torch.cat([torch.ones(2, 300, 1), values.float()], 2)

    unit, _ = unit_rows.normalize(*to_device(*z), as_temperature(RUNNING), precision)
    terms = unit[:, :300].cpu().double()
    assert torch.equal(terms.to(torch.bfloat16).double(), terms)
    error = (terms.sum(2) - z.double()).abs()
    assert (error <= 2.0**-bits * z.double().abs()).all()
    assert (precision == "bf16x6") == error.eq(0).all()


@pytest.mark.parametrize("temperature", [0.005, 0.02, 0.5])
def test_accuracy_of_three_products(temperature: float) -> None:
    """Rows and weights have 16 bits, and the product of their second terms is left out."""
    z1, z2 = make_scene("scattered", 65, 33, torch.float32)
    weights = make_weights(65)
    loss, gradient = solve(z1, z2, temperature, weights, "bf16x3")
    check_rounded(loss, gradient, z1, z2, temperature, weights, 2**-16)


@pytest.fixture
def set_precision() -> Iterator[Callable[[str], None]]:
    before = torch.get_float32_matmul_precision()
    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision(before)


def test_precision_follows_the_setting_of_pytorch(set_precision: Callable[[str], None]) -> None:
    z1, z2 = make_scene("scattered", 20, 17, torch.float32)
    weights = make_weights(20)
    by_name = {p: solve(z1, z2, 0.5, weights, p) for p in ("ieee", "bf16x6", "bf16x3")}
    assert not torch.equal(by_name["bf16x3"][0], by_name["ieee"][0])
    for setting, name in (("highest", "bf16x6"), ("high", "bf16x3"), ("medium", "bf16x3")):
        set_precision(setting)
        for found, expected in zip(solve(z1, z2, 0.5, weights, "auto"), by_name[name], strict=True):
            assert torch.equal(found, expected)
        half = make_scene("scattered", 20, 17, torch.float16)
        loss, _ = solve(*half, 0.5, weights, "auto")
        _, s = unit_rows_and_similarities(*half, 0.5)
        check_loss_of_unit_rows(loss, s, 0.5)


# Memory that nothing was written to


@pytest.mark.parametrize(
    ("n", "d", "dtype"),
    [
        (1, 1, torch.float32),
        (65, 17, torch.float16),
        (130, 33, torch.float32),
        (5, 100, torch.float16),  # a block of padding alone, which no program computes
        (5, 130, torch.bfloat16),
    ],
    ids=str,
)
@FORMS
def test_nothing_is_read_before_it_is_written(
    fill_with_nan: Callable[[], None],
    n: int,
    d: int,
    dtype: torch.dtype,
    temperature: float | Tensor,
) -> None:
    z1, z2, temperature = to_device(*make_scene("zero rows", n, d, dtype), temperature)
    inputs = [z1.requires_grad_(), z2.requires_grad_()]
    if isinstance(temperature, Tensor):
        inputs.append(temperature.clone().requires_grad_())
        temperature = inputs[-1]

    def run() -> list[Tensor]:
        loss = nt_xent(z1, z2, temperature, "none", backend="triton")
        return [loss.detach(), *torch.autograd.grad(loss.sum(), inputs)]

    expected = run()
    fill_with_nan()
    assert torch.zeros(1).new_empty(3, device=DEVICE).isnan().all()
    for found, value in zip(run(), expected, strict=True):
        assert value.isfinite().all()
        assert torch.equal(found, value)


# Parts: some rows against all, as where every process has its own


def join(parts: list[Tensor], sizes: tuple[int, ...]) -> Tensor:
    """Of all processes: ``(2, padded(n), ...)`` from ``(2, padded(n_own), ...)``."""
    joined = torch.cat([part[:, :n] for part, n in zip(parts, sizes, strict=True)], 1)
    whole = joined.new_zeros(2, unit_rows.padded(sum(sizes)), *joined.shape[2:])
    whole[:, : sum(sizes)] = joined
    return whole


def solve_on_ranks(
    sizes: tuple[int, ...],
    z1: Tensor,
    z2: Tensor,
    temperature: float | Tensor,
    weights: Tensor,
    precision: str = "ieee",
) -> tuple[Tensor, Tensor, float | None]:
    """As solve, but each rank has some rows only; the temperature's gradient, too, if a tensor."""
    t, n = as_temperature(temperature), sum(sizes)
    z1, z2, g = to_device(z1, z2, weights.float())
    own_views = list(zip(z1.split(sizes), z2.split(sizes), strict=True))
    own_g = [torch.cat(both) for both in zip(g[:n].split(sizes), g[n:].split(sizes), strict=True)]
    units, inverse_norms = zip(
        *(unit_rows.normalize(*z, t, precision) for z in own_views), strict=True
    )
    unit = join(units, sizes)
    offsets = [sum(sizes[:rank]) for rank in range(len(sizes))]

    losses, own_weights = [], []
    for own, n_own, offset, grad in zip(units, sizes, offsets, own_g, strict=True):
        sums, largest = host.sums_of_rows(own, n_own, offset, unit, n, t)
        loss, stats = host.losses(own, n_own, sums, largest, t)
        losses.append(loss.view(2, n_own))
        largest_grad = g.abs().max()
        own_weights.append(host.weights(grad, largest_grad, stats, n_own, t, own.dtype))
    all_weights = replace(
        own_weights[0],
        weight=join([w.weight for w in own_weights], sizes),
        log2_l=join([w.log2_l for w in own_weights], sizes),
    )

    gradients, dt = [], 0.0
    for rank, (own, n_own) in enumerate(zip(units, sizes, strict=True)):
        dz1, dz2, along = host.gradient(
            *own_views[rank],
            own,
            inverse_norms[rank],
            own_weights[rank],
            offsets[rank],
            unit,
            n,
            all_weights,
            t,
        )
        gradients.append(torch.stack([dz1, dz2]))
        if t.tensor is not None:
            dt += host.temperature_gradient(along, n_own, t).item()
    return torch.cat(losses, 1).flatten().cpu(), torch.cat(gradients, 1).flatten(0, 1).cpu(), dt


@FORMS
@pytest.mark.parametrize("sizes", [(65, 65), (1, 130, 70)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_ranks_together_give_what_one_process_does(
    dtype: torch.dtype, sizes: tuple[int, ...], temperature: float | Tensor
) -> None:
    z1, z2 = make_scene("clustered", sum(sizes), 17, dtype)
    weights = make_weights(sum(sizes))
    loss, gradient, dt = solve_on_ranks(sizes, z1, z2, temperature, weights)
    rows, s = unit_rows_and_similarities(z1, z2, temperature)
    t = float(temperature)
    check_loss_of_unit_rows(loss, s, t)
    x = torch.cat([z1, z2]).double().numpy()
    check_gradient_of_unit_rows(gradient, x, rows, s, t, weights)
    if isinstance(temperature, Tensor):
        true_dt = -np.sum(oracles.losses_gradient(s, weights.numpy()) * s) / t
        terms = weights.abs().sum().item() / t**2
        assert abs(dt - true_dt) <= (4 * EPS + ROUNDING[dtype]) * terms


# Blocks of any shape


def shapes(table: dict) -> list[tuple[torch.dtype, str, int, blocks.Blocks]]:
    """Each entry once, for rows long enough to be taken in parts, if they may be."""
    kinds = {
        "half": (torch.float16, "ieee"),
        "float32": (torch.float32, "ieee"),
        "bf16x3": (torch.float32, "bf16x3"),
        "bf16x6": (torch.float32, "bf16x6"),
    }
    found = {}
    for (_, operands), by_length in table.items():
        for longest, entries in by_length.items():
            for entry in entries:
                length = min(longest, 2 * max(entry.k, entry.out))
                cut = replace(entry, k=min(entry.k, length), out=min(entry.out, length))
                found[*kinds[operands], length, cut] = None
    return list(found)


def use_blocks(monkeypatch: pytest.MonkeyPatch, chosen: blocks.Blocks) -> None:
    monkeypatch.setattr(blocks, "triangle", lambda *_: chosen)
    monkeypatch.setattr(blocks, "rows", lambda *_: chosen)


@pytest.mark.parametrize(
    ("dtype", "precision", "row_length", "chosen"), shapes(blocks._TRIANGLE), ids=str
)
def test_any_blocks_of_the_triangle(
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    precision: str,
    row_length: int,
    chosen: blocks.Blocks,
) -> None:
    use_blocks(monkeypatch, chosen)
    n = 2 * chosen.rows + 44
    z1, z2 = make_scene("clustered", n, row_length - 3, dtype)
    t = as_temperature(PLAIN)
    loss, *_ = host.forward(*to_device(z1, z2), t, precision)
    _, s = unit_rows_and_similarities(z1, z2, PLAIN, precision)
    check_loss_of_unit_rows(loss.cpu(), s, PLAIN, precision)


@pytest.mark.parametrize("temperature", [PLAIN, RUNNING], ids=["plain", "running"])
@pytest.mark.parametrize(
    ("dtype", "precision", "row_length", "chosen"),
    shapes(blocks._ROWS) + shapes(blocks._RUNNING),
    ids=str,
)
def test_any_blocks_of_rows(
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    precision: str,
    row_length: int,
    chosen: blocks.Blocks,
    temperature: float,
) -> None:
    use_blocks(monkeypatch, chosen)
    n = chosen.rows + 76
    z1, z2 = make_scene("clustered", n, row_length - 3, dtype)
    weights = make_weights(n)
    loss, gradient, _ = solve_on_ranks((n,), z1, z2, temperature, weights, precision)
    rows, s = unit_rows_and_similarities(z1, z2, temperature, precision)
    check_loss_of_unit_rows(loss, s, temperature, precision)
    x = torch.cat([z1, z2]).double().numpy()
    check_gradient_of_unit_rows(gradient, x, rows, s, temperature, weights, precision)


@pytest.mark.parametrize("temperature", [PLAIN, RUNNING], ids=["plain", "running"])
@pytest.mark.parametrize("multiprocessors", [1, 1000])
def test_any_number_of_multiprocessors(
    monkeypatch: pytest.MonkeyPatch, multiprocessors: int, temperature: float
) -> None:
    """With many, the columns of a gradient are cut in two."""
    monkeypatch.setattr(host, "chip", lambda _: blocks.Chip(9, 227 * 1024, multiprocessors))
    check(*make_scene("clustered", 130, 17, torch.float16), temperature)


@pytest.mark.parametrize("programs", [1, 2, 5, 33])
@pytest.mark.parametrize("n", [1, 17, 40, 64, 113])
def test_the_triangle_takes_each_pair_once(
    monkeypatch: pytest.MonkeyPatch, n: int, programs: int
) -> None:
    use_blocks(monkeypatch, blocks.Blocks(16, 16, 16, 0, 8, 1))
    monkeypatch.setattr(host, "chip", lambda _: blocks.Chip(9, 0, programs))
    t = as_temperature(PLAIN)
    unit = torch.zeros(2, unit_rows.padded(n), 1, 16, device=DEVICE)

    def sums() -> np.ndarray:
        parts, _ = host.sums_of_all(unit, n, t)
        assert len(parts) <= programs
        return parts.double().sum(0)[:, :n].flatten().cpu().numpy()

    unit[:, :n, 0, 0] = 1  # each exponential is exp2(1)
    assert (sums() == 2 * (2 * n - 2)).all()

    rows = torch.randn(2, n, 16, generator=torch.Generator().manual_seed(n)) / 2
    unit[:, :n, 0] = rows
    flat = rows.flatten(0, 1).double().numpy()
    e = np.exp2(flat @ flat.T)
    index = np.arange(2 * n)
    e[index, index] = e[index, (index + n) % (2 * n)] = 0
    np.testing.assert_allclose(sums(), e.sum(1), rtol=1e-5)


def test_split() -> None:
    def tiles_of_the_busiest(n_blocks: int, programs: int, parts: int) -> int:
        # Blocks of the first view have a tile more, the one of the positives.
        tiles = [n_blocks + 1] * n_blocks + [n_blocks] * n_blocks
        work = [
            1 + (part + 1) * n // parts - part * n // parts for part in range(parts) for n in tiles
        ]
        return max(sum(work[program::programs]) for program in range(programs))

    for n_blocks in range(1, 40):
        for wanted in (1, 2, 3, 8, 16, 132, 264, 1000):
            programs, parts = blocks.split(n_blocks, wanted)
            assert 1 <= programs <= wanted
            assert programs <= 2 * n_blocks * parts, "some have nothing to do"
            assert 1 <= parts <= n_blocks + 1, "some parts are empty"
            undivided = tiles_of_the_busiest(n_blocks, wanted, 1)
            assert tiles_of_the_busiest(n_blocks, programs, parts) <= undivided
