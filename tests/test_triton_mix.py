"""The Triton backend of mixing: its accuracy, its memory, its launches and its parts.

What both backends promise is in test_noises.py, test_noise_laws.py, test_noise_domain.py,
test_noise_gradients.py and test_draw_errors.py.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import hypothesis.strategies as st
import noise_oracles as oracles
import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from noise_cases import triton_mix
from nt_xent_cases import DEVICE
from test_dispatch import python
from test_noise_gradients import assert_close_to_oracle as assert_gradient_close_to_oracle
from test_noise_gradients import gradient
from test_noises import FLOATS, SEEDS, assert_close_to_oracle
from torch import Tensor
from torch._subclasses import FakeTensorMode

from mixnoise import Draw, get_noise
from mixnoise._torch import operators as torch_operators
from mixnoise.draw import FUNCTIONS
from mixnoise.ops import mix

pytest.importorskip("triton", reason="the kernels need triton")

import triton
import triton.language as tl
from mixnoise_kernels import mix as host
from mixnoise_kernels import operators
from mixnoise_kernels.blocks import Chip
from mixnoise_kernels.elementary import LOG2_ZERO, log2, normal_pair
from mixnoise_kernels.hash import STREAM_ELEMENT, words
from mixnoise_kernels.rounding import narrow
from mixnoise_kernels.views import quarter_of

pytestmark = pytest.mark.usefixtures("triton_runs")

MIXED = (*oracles.FUNCTIONS, "each")  # the last: a function of each row's own
COLUMNS = st.sampled_from([1, 7, 8, 9, 31, 32, 33, 127, 128, 129, 255, 256, 257])
LAYOUTS = ("plain", "rows", "columns", "transposed", "one row", "one column")


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Results that a kernel has not written are NaN; nothing may be written beside them."""
    margins = []
    plain_new_empty = Tensor.new_empty

    def new_empty(self: Tensor, *shape: object, **options: object) -> Tensor:
        if options:  # Triton's interpreter
            return plain_new_empty(self, *shape, **options)
        shape = torch.empty(*shape, device="meta").shape
        poison = math.nan if self.is_floating_point() or self.is_complex() else 85
        margin = 64 + math.prod(shape[-2:])
        memory = self.new_full((math.prod(shape) + 2 * margin,), poison)
        margins.extend((memory[:margin], memory[-margin:]))
        return memory[margin:-margin].view(shape)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "new_empty", new_empty)
        yield
    assert margins
    for margin in margins:
        assert (margin.isnan() | (margin == 85)).all()


def laid_out(x: Tensor, layout: str) -> Tensor:
    """In other places of memory, with NaN between and around; the last two are broadcast."""
    n_rows, n_columns = x.shape
    if layout == "rows":
        wide = x.new_full((2 * n_rows + 1, n_columns + 3), math.nan)
        wide[1::2, 2:-1] = x
        return wide[1::2, 2:-1]
    if layout == "columns":
        wide = x.new_full((n_rows, 3 * n_columns + 1), math.nan)
        wide[:, 1::3] = x
        return wide[:, 1::3]
    if layout == "transposed":
        return x.T.contiguous().T
    if layout == "one row":
        return x[:1].expand(x.shape)
    return x[:, :1].expand(x.shape) if layout == "one column" else x


def make_problem(
    n_rows: int,
    features: tuple[int, ...],
    views: int,
    dtype: torch.dtype,
    mixed: str,
    low: str = "zero",
    layout: str = "plain",
    per_batch: bool = False,
    seed: int = 0,
) -> tuple[Tensor, Draw]:
    """Any partners, coefficients from 0 to 1 with both ends, zeros among the data."""
    g = torch.Generator().manual_seed(seed)
    scale = (1e-3, 1.0, 300.0)[seed % 3]
    x = torch.randn(n_rows, math.prod(features), generator=g, dtype=torch.float64) * scale
    x[torch.rand(x.shape, generator=g) < 0.1] = 0
    if low == "zero":
        x = x.abs()
    elif low == "number":
        x = x.clamp(min=-0.75)
    x = laid_out(x.to(dtype), layout)
    lows = {"zero": None, "number": torch.tensor(-0.75), "columns": x.amin(0).view(features)}
    coef = (torch.rand(views, n_rows, generator=g) * 1.4 - 0.2).clamp(0, 1)
    draw = Draw(
        seed=torch.tensor(seed),
        partner=torch.randint(n_rows, (n_rows, views), generator=g).T,
        coef=coef[:, :1].expand(coef.shape) if per_batch else coef,
        kind=torch.randint(4, (2 * n_rows,), generator=g).byte()[::2] if mixed == "each" else None,
        low=lows[low],
        function="linear" if mixed == "each" else mixed,
    )
    return x.view(n_rows, *features), draw


def check(x: Tensor, draw: Draw) -> None:
    memory = x if x._base is None else x._base
    before = memory.clone()
    with poisoned_memory():
        views = triton_mix(x, draw)
    assert_close_to_oracle(x, draw, views)
    if draw.kind is None and draw.function == "binary":
        assert torch.equal(views, mix(x, draw, backend="torch"))
    assert torch.equal(memory.nan_to_num(0.5), before.nan_to_num(0.5))


# Views.


def test_codes_of_functions_are_those_of_draws():
    assert host.FUNCTIONS == FUNCTIONS


@pytest.mark.parametrize("mixed", MIXED)
@settings(max_examples=25, phases=[Phase.generate])
@given(
    n_rows=st.sampled_from([1, 2, 3]) | st.integers(1, 40),
    features=(COLUMNS | st.integers(1, 300)).map(lambda f: (f,))
    | st.tuples(st.integers(1, 6), st.integers(1, 7))
    | st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5)),
    views=st.sampled_from([1, 2, 3, 5]),
    dtype=st.sampled_from(FLOATS),
    low=st.sampled_from(["zero", "number", "columns"]),
    layout=st.sampled_from(LAYOUTS),
    per_batch=st.booleans(),
    seed=SEEDS,
)
def test_views_are_the_oracles(mixed, n_rows, **problem):
    # The interpreter is slow where each row is a program of its own.
    n_rows = min(n_rows, 7) if mixed == "each" else n_rows
    check(*make_problem(n_rows, mixed=mixed, **problem))


@pytest.mark.parametrize("mixed", MIXED)
@pytest.mark.parametrize(("n_columns", "views"), [(1100, 5), (5000, 2)])
def test_long_rows(mixed, n_columns, views):
    check(*make_problem(4, (n_columns,), views, torch.float32, mixed, "columns", "rows", seed=1))


@pytest.mark.parametrize("granularity", ["sample", "batch"])
@pytest.mark.parametrize("name", ["linear", "geometric", "binary", "dacl+"])
def test_views_of_a_noise_are_the_oracles(name, granularity):
    x = torch.randn(20, 33, generator=torch.Generator().manual_seed(0))
    check(x, get_noise(name, granularity=granularity).sample(x, views=3, seed=1))


@pytest.mark.parametrize("mixed", MIXED)
def test_rows_and_functions_that_do_not_exist(mixed, monkeypatch):
    """On a GPU, where looking would wait for it: NaN, and memory of others is never read."""
    monkeypatch.setattr(host, "_check", lambda *_: None)
    whole = torch.full((20, 9), 1e6)
    x = whole[8:12].copy_(torch.rand(4, 9))
    kind = torch.arange(4).byte() if mixed == "each" else None
    function = "linear" if mixed == "each" else mixed
    partner = torch.tensor([[1, 2, 3, 0]])
    draw = Draw(torch.tensor(0), partner, torch.full((1, 4), 0.5), kind, function=function)
    expected = triton_mix(x, draw)
    for row in (4, -1, 2**40, -(2**40)):
        got = triton_mix(x, replace(draw, partner=torch.full((1, 4), row)))
        for i, name in enumerate(oracles.FUNCTIONS if mixed == "each" else [mixed] * 4):
            if name == "gaussian":
                assert torch.equal(got[0, i], expected[0, i])
            elif name == "binary":  # which swaps bits, whatever they mean
                assert ((got[0, i] == x[i]) | (got[0, i] == 0)).all()
            else:
                assert got[0, i].isnan().all()
    if mixed == "each":
        got = triton_mix(x, replace(draw, kind=torch.tensor([0, 4, 2, 255]).byte()))
        assert torch.equal(got[0, ::2], expected[0, ::2])
        assert got[0, 1::2].isnan().all()


@pytest.mark.parametrize("seed", [0, 1, 2**40 + 7, -(2**63), 2**63 - 1])
def test_deviates_are_those_of_pytorch(seed):
    """The bound that docs/reproducibility.md states: absolute, since near 0 the angle's rounding is
    many of a deviate's last bits."""
    rows = torch.arange(64)[None]
    draw = Draw(torch.tensor(seed), rows, torch.ones(1, 64), function="gaussian")
    x = torch.zeros(64, 1024)
    assert (triton_mix(x, draw) - mix(x, draw, backend="torch")).abs().max() < 3e-6


# Gradients.


@pytest.mark.parametrize("mixed", MIXED)
@settings(max_examples=6, phases=[Phase.generate])
@given(
    n_rows=st.integers(1, 4),
    features=(st.sampled_from([1, 7, 8, 9, 31, 32, 33, 65]) | st.integers(1, 70)).map(
        lambda f: (f,)
    ),
    views=st.integers(1, 3),
    dtype=st.sampled_from(FLOATS),
    low=st.sampled_from(["zero", "number", "columns"]),
    layout=st.sampled_from(LAYOUTS),
    upstream=st.sampled_from(LAYOUTS),
    seed=SEEDS,
)
def test_gradients_are_the_oracles(mixed, upstream, **problem):
    x, draw = make_problem(mixed=mixed, **problem)
    g = torch.Generator().manual_seed(1)
    shape = (len(draw.partner), *x.shape)
    grad = torch.randn(shape, generator=g).to(x.dtype).flatten(0, 1)
    grad = laid_out(grad, upstream).view(shape)
    with poisoned_memory():
        got = gradient(triton_mix, x, draw, grad)
    assert_gradient_close_to_oracle(x, draw, grad, got)


@pytest.mark.parametrize("name", [*oracles.FUNCTIONS, "dacl+"])
def test_gradcheck(name):
    x = torch.rand(3, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.5
    noise = get_noise(name, **({"low": 0.0} if name in ("geometric", "dacl+") else {}))
    draw = noise.sample(x, views=2, seed=4)
    if name == "dacl+":
        draw = replace(draw, kind=torch.arange(3).byte())
    leaf = x.requires_grad_()
    assert torch.autograd.gradcheck(lambda leaf: triton_mix(leaf, draw), leaf, fast_mode=True)


@pytest.mark.parametrize("mixed", MIXED)
def test_gradients_are_the_same_bits_every_time(mixed):
    """Also those of a row that most others drew."""
    x, draw = make_problem(5, (40,), 3, torch.float32, mixed, "columns", "rows", seed=1)
    draw.partner[:, ::2] = 3
    grad = torch.randn(3, 5, 40, generator=torch.Generator().manual_seed(0))
    first = gradient(triton_mix, x, draw, grad)
    assert_gradient_close_to_oracle(x, draw, grad, first)
    assert torch.equal(gradient(triton_mix, x, draw, grad), first)


# Memory.

# Every argument ends right before a page that may not be touched.
GUARDED = """
import ctypes, mmap, os
os.environ["TRITON_INTERPRET"] = "1"
import numpy, torch
from mixnoise import Draw
from mixnoise.draw import FUNCTIONS
from mixnoise.ops import mix

SIZE = 16 * mmap.PAGESIZE
pages = []

def guarded(x):
    memory = mmap.mmap(-1, 2 * SIZE)
    end = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + SIZE
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(end), SIZE, 0) == 0
    pages.append(memory)
    offset = SIZE - x.numel() * x.itemsize
    placed = torch.frombuffer(memory, dtype=x.dtype, count=x.numel(), offset=offset)
    return placed.copy_(x.flatten()).view(x.shape)

numpy.seterr(all="ignore")
for n_columns in (33, 1100):
    low, coef = guarded(torch.zeros(n_columns)), guarded(torch.rand(3, 3))
    partner = guarded(torch.tensor([[2, 0, 1]]).repeat(3, 1))
    kind, seed = guarded(torch.tensor([1, 2, 3]).byte()), guarded(torch.tensor(3))
    for function in ("linear", "geometric", "binary", "gaussian", None):
        x = guarded(torch.rand(3, n_columns)).requires_grad_()
        draw = Draw(seed, partner, coef, None if function else kind, low, function or "linear")
        views = mix(x, draw, backend="triton")
        if n_columns == 33:
            views.backward(guarded(torch.ones_like(views)))
print("untouched")
"""


def test_nothing_is_read_beyond_the_end():
    assert python(GUARDED) == ["untouched"]


# Launches.


@pytest.mark.parametrize("element_bytes", [1, 2, 4, 8])
@pytest.mark.parametrize("of_each_row", [False, True])
def test_programs_cover_every_column(of_each_row, element_bytes):
    for n_columns in range(1, 5001):
        quarter, block = host._quarter(n_columns), host.block_of(n_columns)
        rows, warps = host.rows_and_warps(block, element_bytes, of_each_row)
        assert quarter % 8 == 0
        assert n_columns <= 4 * quarter < n_columns + 32
        assert block in (8, 16, 32, 64, 128, 256)
        assert quarter <= block < 2 * quarter or (quarter > block == 256)
        assert rows == 1 or not of_each_row
        # A thread never has more than 16 bytes of a quarter in one piece.
        assert rows * block * element_bytes <= 16 * 32 * warps


@pytest.mark.parametrize("dtype", [*FLOATS, torch.int64], ids=str)
def test_auto_takes_triton_for_cuda_tensors(dtype, monkeypatch):
    """Fake tensors tell without a GPU."""
    called, kernels = [], operators.mix_views

    def spy(x, *fields):
        called.append(x.device)
        return kernels(x, *fields)

    monkeypatch.setattr(operators, "chip", lambda _: Chip(8, 0, 1))
    monkeypatch.setattr(operators, "mix_views", spy)
    with FakeTensorMode():
        for device, backend in (("cpu", "auto"), ("cuda", "torch"), ("cuda", "auto")):
            x, partner = torch.zeros(3, 9, device=device), torch.zeros(1, 3, device=device)
            seed = torch.zeros((), dtype=torch.int64, device=device)
            draw = Draw(seed, partner.long(), partner, function="binary")
            assert mix(x.to(dtype), draw, backend=backend).shape == (1, 3, 9)
    assert called == [torch.device("cuda", 0)]


EDGES = [f for power in (32, 64, 128, 256, 512, 1024) for f in (power, power + 1)] + [2049]


@pytest.mark.parametrize("n_columns", EDGES)
def test_where_blocks_change(n_columns):
    """Every column is written once, in views and gradients; with numbers that are not rounded."""
    x = torch.arange(2.0 * n_columns).view(2, n_columns)
    draw = Draw(torch.tensor(1), torch.tensor([[1, 0]]), torch.tensor([[0.75, 0.5]]))
    grad = 4 * x.flip(1)[None]
    for function in ("linear", "binary"):
        each = replace(draw, function=function)
        with poisoned_memory():
            views, got = triton_mix(x, each), gradient(triton_mix, x, each, grad)
        assert torch.equal(views, mix(x, each, backend="torch"))
        assert torch.equal(got, gradient(mix, x, each, grad))


# torch.library and torch.compile.


def operator_arguments(mixed: str, dtype: torch.dtype = torch.float32) -> list:
    x, draw = make_problem(3, (9,), 2, dtype, mixed, "columns", "columns")
    low = draw.low.double() if dtype == torch.float64 else draw.low.float()
    fields = [x, draw.seed, draw.partner, draw.coef, draw.kind, low]
    return [None if f is None else f.to(DEVICE) for f in fields] + [draw.function]


@pytest.mark.parametrize("mixed", MIXED)
@pytest.mark.parametrize("grad", [False, True])
def test_operator_is_registered_well(mixed, grad, opcheck):
    x, *fields = operator_arguments(mixed, torch.float64)
    operator = torch.ops.mixnoise.triton_mix.default
    opcheck(operator, (x.requires_grad_(grad), *fields))


@pytest.mark.parametrize("mixed", MIXED)
def test_backward_operator_is_registered_well(mixed, opcheck):
    x, *fields = operator_arguments(mixed, torch.bfloat16)
    grad = torch.ones(1, 3, 9, dtype=x.dtype, device=DEVICE).expand(2, 3, 9)
    opcheck(torch.ops.mixnoise.triton_mix_backward.default, (grad, x, *fields))


@pytest.fixture
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("mixed", MIXED)
def test_compiled_without_graph_breaks(mixed):
    x, draw = make_problem(3, (9,), 2, torch.float32, mixed, "number")
    compiled = torch.compile(triton_mix, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, draw), triton_mix(x, draw))
    grad = torch.rand(2, 3, 9)
    assert torch.equal(gradient(compiled, x, draw, grad), gradient(triton_mix, x, draw, grad))


@pytest.mark.usefixtures("fresh_dynamo")
def test_compiled_once_for_many_batch_sizes():
    compiled = torch.compile(triton_mix, fullgraph=True, backend="aot_eager", dynamic=True)
    compiled(*make_problem(5, (9,), 2, torch.float32, "each"))
    with torch.compiler.set_stance("fail_on_recompile"):
        for n_rows in (3, 8):
            x, draw = make_problem(n_rows, (9,), 2, torch.float32, "each")
            assert torch.equal(compiled(x, draw), triton_mix(x, draw))


# The parts.


def on_device(numbers: np.ndarray) -> Tensor:
    return torch.from_numpy(numbers).to(DEVICE)


@triton.jit
def _quarter_kernel(n_columns_ptr, quarter_ptr):
    i = tl.program_id(0)
    tl.store(quarter_ptr + i, quarter_of(tl.load(n_columns_ptr + i)))


def test_quarters_are_those_of_the_launch():
    n_columns = torch.tensor([*EDGES, 1, 7, 8, 9, 31, 5000, 2**20 + 40], dtype=torch.int32)
    quarter = torch.zeros_like(n_columns, device=DEVICE)
    _quarter_kernel[(len(n_columns),)](n_columns.to(DEVICE), quarter)
    assert quarter.tolist() == [host._quarter(f) for f in n_columns.tolist()]


@triton.jit
def _words_kernel(seed_ptr, view_ptr, row_ptr, block_ptr, words_ptr, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    row, block = tl.load(row_ptr + i), tl.load(block_ptr + i)
    a, b, c, d = words(seed_ptr, STREAM_ELEMENT, tl.load(view_ptr), row, block)
    tl.store(words_ptr + i, a.to(tl.int32, bitcast=True))
    tl.store(words_ptr + SIZE + i, b.to(tl.int32, bitcast=True))
    tl.store(words_ptr + 2 * SIZE + i, c.to(tl.int32, bitcast=True))
    tl.store(words_ptr + 3 * SIZE + i, d.to(tl.int32, bitcast=True))


@settings(max_examples=50)
@given(seed=SEEDS | st.sampled_from([-1, 0, 2**63 - 1, -(2**63)]), view=st.integers(0, 2**20))
def test_words_are_the_oracles(seed, view):
    random = np.random.default_rng(seed % 2**64)
    row, block = random.integers(0, 2**31 - 1, (2, 256), dtype=np.int32)
    row[:4], block[:4] = (0, 1, 0, 2**31 - 1), (0, 0, 1, 2**31 - 1)
    found = torch.zeros(4, 256, dtype=torch.int32, device=DEVICE)
    view_number = torch.tensor(view, dtype=torch.int32, device=DEVICE)
    inputs = torch.tensor(seed, device=DEVICE), view_number, on_device(row), on_device(block)
    _words_kernel[(1,)](*inputs, found, SIZE=256)
    expected = oracles.hash4(*oracles.key(seed, oracles.ELEMENT, view), row, block)
    assert (found.cpu().numpy().view(np.uint32) == np.stack(expected)).all()


@settings(max_examples=50)
@given(
    seed=SEEDS | st.sampled_from([-1, 0, 2**63 - 1, -(2**63)]),
    views=st.integers(1, 3),
    n_rows=st.integers(2, 20) | st.sampled_from([255, 256, 257, 1000]),
    alpha=st.floats(0, 1, exclude_max=True),
    per_batch=st.booleans(),
)
def test_draws_are_those_of_the_cpu_bit_for_bit(seed, views, n_rows, alpha, per_batch):
    here = torch.tensor(seed)
    there = here.to(DEVICE)
    drawn = operators.draw_rows(there, views, n_rows, alpha, per_batch)
    for found, expected in zip(
        drawn, torch_operators.draw_rows(here, views, n_rows, alpha, per_batch), strict=True
    ):
        assert torch.equal(found.cpu(), expected)
    assert (drawn[0].cpu().numpy() == oracles.partners(seed, views, n_rows)).all()
    kinds = operators.draw_kinds(there, n_rows, 3, per_batch)
    assert (kinds.cpu().numpy() == oracles.kinds(seed, n_rows, per_batch)).all()


def test_draws_of_cuda_seeds_are_the_kernels(monkeypatch):
    """Fake tensors tell without a GPU, and have the shapes and dtypes of real ones."""
    monkeypatch.setattr(operators, "chip", lambda _: Chip(8, 0, 1))
    called = []
    for name in ("draw_rows", "draw_kinds"):
        kernels = getattr(operators, name)
        spy = partial(lambda kernels, *a: called.append(kernels) or kernels(*a), kernels)
        monkeypatch.setattr(operators, name, spy)
    with FakeTensorMode():
        for device in ("cpu", "cuda"):
            draw = get_noise("dacl+").sample(torch.zeros(3, 9, device=device), views=2, seed=0)
            assert (draw.partner.shape, draw.partner.dtype) == ((2, 3), torch.int64)
            assert (draw.coef.shape, draw.coef.dtype) == ((2, 3), torch.float32)
            assert (draw.kind.shape, draw.kind.dtype) == ((3,), torch.uint8)
            assert len(called) == (2 if device == "cuda" else 0)


def every_kind_of_bits(size: int) -> np.ndarray:
    """Patterns of float32: random ones, both ends of each exponent, and those next to 1."""
    exponent = (np.arange(512, dtype=np.uint32) << 23)[:, None]
    ends = exponent + np.array([0, 1, 2, 2**22, 2**23 - 2, 2**23 - 1], np.uint32)
    near_1 = np.arange(0x3F800000 - 2000, 0x3F800000 + 2000, dtype=np.uint32)
    known = np.concatenate((ends.ravel(), near_1))
    rest = np.random.default_rng(0).integers(0, 2**32, size - len(known), dtype=np.uint32)
    return np.concatenate((known, rest))


@triton.jit
def _log2_kernel(x_ptr, y_ptr, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    tl.store(y_ptr + i, log2(tl.load(x_ptr + i), False))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log2_errs_by_two_units_in_the_last_place(dtype):
    size = 2**17
    between_roots = np.geomspace(0.7, 1.42, size, dtype=np.float32)
    for numbers in (every_kind_of_bits(size).view(np.float32), between_roots):
        x = on_device(numbers.astype(dtype))
        y = torch.zeros_like(x)
        _log2_kernel[(1,)](x, y, SIZE=size)
        got, exact = y.double().cpu().numpy(), np.log2(numbers.astype(np.float64))
        exact[numbers == 0] = np.float32(LOG2_ZERO.value)
        assert (np.isnan(got) == np.isnan(exact)).all()
        assert (got[np.isinf(exact)] == np.inf).all()
        finite = np.isfinite(exact)
        error = np.abs(got[finite] - exact[finite])
        # Two units in the last place, if that is only half filled, are one part in 2^22.
        assert (error <= 1.6 * np.finfo(dtype).eps * np.abs(exact[finite])).all()


@triton.jit
def _normal_kernel(radius_ptr, angle_ptr, cos_ptr, sin_ptr, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    radius = tl.load(radius_ptr + i).to(tl.uint32, bitcast=True)
    angle = tl.load(angle_ptr + i).to(tl.uint32, bitcast=True)
    cosine, sine = normal_pair(radius, angle, False)
    tl.store(cos_ptr + i, cosine)
    tl.store(sin_ptr + i, sine)


def test_normal_pairs_are_box_and_mullers():
    """Within two units in the last place of the radius; at all multiples of an eighth turn."""
    size = 2**17
    radius, angle = np.random.default_rng(0).integers(0, 2**32, (2, size), dtype=np.uint32)
    radius[:4] = 0, 2**31 - 1, 2**31, 2**32 - 1
    around = np.arange(8, dtype=np.uint32)[:, None] << 29
    turns = (around + np.arange(-3, 4).astype(np.uint32)).ravel()
    angle[: len(turns)] = turns
    cosine, sine = torch.zeros(2, size, device=DEVICE)
    words = on_device(radius.view(np.int32)), on_device(angle.view(np.int32))
    _normal_kernel[(1,)](*words, cosine, sine, SIZE=size)
    # float32 here is part of the definition: close to 1 it decides how small a radius can be.
    u = ((radius % np.uint32(2**31)).astype(np.float32) + np.float32(0.5)).astype(np.float64)
    length, turn = np.sqrt(-2 * np.log(u * 2.0**-31)), angle.view(np.int32) * (np.pi / 2**31)
    for got, exact in ((cosine, length * np.cos(turn)), (sine, length * np.sin(turn))):
        assert (np.abs(got.double().cpu().numpy() - exact) <= 2 * 2.0**-23 * length).all()


@triton.jit
def _narrow_kernel(x_ptr, y_ptr, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    tl.store(y_ptr + i, narrow(tl.load(x_ptr + i), y_ptr.dtype.element_ty))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_narrow_rounds_like_torch(dtype):
    size = 2**17
    bits = every_kind_of_bits(size)
    bits[-(2**16) :] = bits[-(2**16) :] & 0xFFFF0000 | 0x8000  # ties
    x = on_device(bits.view(np.float32))
    y = torch.zeros(size, dtype=dtype, device=DEVICE)
    _narrow_kernel[(1,)](x, y, SIZE=size)
    # Payloads of NaN may differ.
    torch.testing.assert_close(y, x.to(dtype), rtol=0, atol=0, equal_nan=True)
