"""Bad draws: an error that names the field, the rule and the value."""

import re
from dataclasses import replace

import pytest
import torch
from test_dispatch import python

from mixnoise import get_noise, ops
from mixnoise.draw import FUNCTIONS

NOISES = ("linear", "geometric", "binary", "dacl+", "gaussian", "hidden")
BACKENDS = pytest.mark.parametrize("backend", ["auto", "torch", "triton"])
# Where looking would wait for a GPU, the kernels do not look; see test_triton_mix.py.
ON_THE_CPU = pytest.mark.skipif(torch.cuda.is_available(), reason="Triton runs on the GPU")


def raises(error, message):
    """The error, whose message holds this text word for word."""
    return pytest.raises(error, match=re.escape(message))


def data(n_rows=4):
    return torch.rand(n_rows, 3)


def plus_draw():
    return get_noise("dacl+").sample(data(), views=2, seed=0)


@pytest.mark.parametrize("name", NOISES)
@pytest.mark.parametrize("draw", [None, 3, (1, 2)], ids=repr)
def test_draw_of_another_type(name, draw):
    message = f"draw must be a mixnoise.Draw, got {type(draw).__name__}"
    with raises(TypeError, message):
        get_noise(name).apply(data(), draw)
    for backend in ("auto", "torch", "triton"):
        with raises(TypeError, message):
            ops.mix(data(), draw, backend=backend)


@BACKENDS
@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "seed",
            torch.tensor([0]),
            "draw.seed must be torch.int64 of shape () on cpu, got torch.int64 of shape (1,) on",
        ),
        (
            "seed",
            torch.tensor(0.0),
            "draw.seed must be torch.int64 of shape () on cpu, got torch.float32 of shape () on",
        ),
        (
            "partner",
            torch.zeros(4, dtype=torch.int64),
            "draw.partner must have shape (views, N), got (4,)",
        ),
        (
            "partner",
            torch.zeros(2, 5, dtype=torch.int64),
            "draw.partner must be torch.int64 of shape (2, 4) on cpu, got torch.int64 of",
        ),
        (
            "partner",
            torch.zeros(2, 4, dtype=torch.int32),
            "draw.partner must be torch.int64 of shape (2, 4) on cpu, got torch.int32 of shape",
        ),
        (
            "coef",
            torch.ones(1, 4),
            "draw.coef must be torch.float32 of shape (2, 4) on cpu, got torch.float32 of",
        ),
        (
            "coef",
            torch.ones(2, 4, dtype=torch.float64),
            "draw.coef must be torch.float32 of shape (2, 4) on cpu, got torch.float64 of shape",
        ),
        (
            "kind",
            torch.zeros(2, 4, dtype=torch.uint8),
            "draw.kind must be torch.uint8 of shape (4,) on cpu, got torch.uint8 of shape (2, 4)",
        ),
        (
            "kind",
            torch.zeros(4, dtype=torch.int64),
            "draw.kind must be torch.uint8 of shape (4,) on cpu, got torch.int64 of shape (4,)",
        ),
        (
            "low",
            torch.zeros(4),
            "draw.low must broadcast to one row (3,), got (4,)",
        ),
        (
            "function",
            "cubic",
            "draw.function must be one of linear, geometric, binary, gaussian, got 'cubic'",
        ),
        (
            "coef",
            torch.ones(2, 4, device="meta"),
            "draw.coef must be torch.float32 of shape (2, 4) on cpu, "
            "got torch.float32 of shape (2, 4) on meta",
        ),
    ],
)
def test_fields_of_a_draw(backend, field, value, message):
    with raises(ValueError, message):
        ops.mix(data(), replace(plus_draw(), **{field: value}), backend=backend)


@BACKENDS
def test_a_draw_for_another_batch(backend):
    with raises(ValueError, "draw.partner must be torch.int64 of shape (2, 6) on cpu, got"):
        ops.mix(data(6), plus_draw(), backend=backend)


@BACKENDS
@pytest.mark.parametrize(
    ("field", "value"),
    [("seed", 0), ("partner", [[1, 0, 3, 2]] * 2), ("coef", 0.7), ("kind", [0] * 4), ("low", 0.0)],
)
def test_fields_of_a_draw_that_are_no_tensors(backend, field, value):
    """Easily done in a draw of one's own, such as Draw(0, partner, coef)."""
    with pytest.raises(TypeError, match=f"draw.{field} must be a tensor, got"):
        ops.mix(data(), replace(plus_draw(), **{field: value}), backend=backend)


@BACKENDS
@pytest.mark.parametrize("x", [data(0), torch.tensor(1.0), [[1.0]], torch.ones(4, 3).long()])
def test_data(backend, x):
    with pytest.raises((TypeError, ValueError), match="x must "):
        ops.mix(x, plus_draw(), backend=backend)


@ON_THE_CPU
@pytest.mark.parametrize("row", [4, -1])
def test_partners_that_are_no_rows(mix, row):
    """-1 is not the last row here."""
    draw = plus_draw()
    draw.partner[1, 2] = row
    for each in (draw, *(replace(draw, kind=None, function=name) for name in FUNCTIONS)):
        with raises(ValueError, f"draw.partner must be a row in 0..3, got {row}"):
            mix(data(), each)


@ON_THE_CPU
@pytest.mark.parametrize("share", [-0.5, 1.5, float("nan"), float("inf")])
def test_shares_beyond_0_and_1(mix, share):
    """They would leave the data's range; NaN would keep every row of binary mixing."""
    draw = plus_draw()
    draw.kind[:] = torch.tensor([0, 1, 2, 0])
    draw.coef[1, 2] = share
    for each in (draw, *(replace(draw, kind=None, function=name) for name in FUNCTIONS[:3])):
        with raises(ValueError, f"draw.coef must be in [0, 1], got {share}"):
            mix(data(), each)
    draw.kind[2] = FUNCTIONS.index("gaussian")
    draw.coef[1, 2] = 1.5  # a standard deviation
    assert mix(data(), draw).isfinite().all()
    assert mix(data(), replace(draw, kind=None, function="gaussian")).isfinite().all()


@ON_THE_CPU
def test_kinds_that_are_no_functions(mix):
    """Never memory that nothing was written to."""
    draw = plus_draw()
    draw.kind[2] = 7
    with raises(ValueError, "draw.kind must be in 0..3, got 7"):
        mix(data(), draw)


# Backends.


def test_backends():
    x, draw = data(), plus_draw()
    with raises(ValueError, "backend must be one of auto, torch, triton, got 'cuda'"):
        ops.mix(x, draw, backend="cuda")
    assert torch.equal(ops.mix(x, draw, backend="torch"), ops.mix(x, draw))


ON_A_CPU = """
import torch
from mixnoise import get_noise
from mixnoise.ops import mix

x = torch.rand(4, 3)
draw = get_noise("dacl+").sample(x)
mix(x, draw)
try:
    mix(x, draw, backend="triton")
except RuntimeError as error:
    print(error)
"""


def test_triton_on_a_cpu():
    """An explicit choice never falls back; test_dispatch.py has more about it."""
    pytest.importorskip("triton", reason="the kernels need triton")
    assert python(ON_A_CPU) == [
        "backend='triton' cannot run mix: it needs CUDA tensors, these are on cpu "
        "(TRITON_INTERPRET=1, set before Python starts, runs kernels on the CPU, for tests)"
    ]
