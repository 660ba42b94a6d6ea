"""NT-Xent's promises beside its numbers: odd rows, bad input, autograd, compilation, memory."""

import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from nt_xent_cases import DEVICE, triton_nt_xent
from torch import Tensor, nn

import mixnoise
from mixnoise import NTXentLoss

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
DTYPES_OF = {"torch": DTYPES, "triton": DTYPES[1:]}
BACKENDS_AND_DTYPES = pytest.mark.parametrize(
    ("nt_xent", "dtype"),
    [(backend, dtype) for backend, dtypes in DTYPES_OF.items() for dtype in dtypes],
    indirect=["nt_xent"],
    ids=str,
)
FORMS = pytest.mark.parametrize(
    "temperature",
    [0.5, 0.002, torch.tensor(0.5)],
    ids=["fixed maximum", "running maximum", "tensor"],
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """For matrices this small, threads cost more than they give."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_views(n: int, d: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    views = torch.randn(2, n, d, generator=torch.Generator().manual_seed(n)).to(dtype)
    return [z.clone().requires_grad_() for z in views]


def run(
    function: Callable[..., Tensor], z1: Tensor, z2: Tensor, *args: object
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and gradients of its sum."""
    loss = function(z1, z2, *args)
    return loss.detach(), *torch.autograd.grad(loss.sum(), (z1, z2))


def assert_same_bits(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


# Rows that are not ordinary


@FORMS
@BACKENDS_AND_DTYPES
def test_one_pair_has_no_negatives(
    nt_xent: Callable, dtype: torch.dtype, temperature: float | Tensor
) -> None:
    z1, z2 = make_views(1, 7, dtype)
    if isinstance(temperature, Tensor):
        temperature = temperature.clone().requires_grad_()
    rows = nt_xent(z1, z2, temperature, "none")
    assert torch.equal(rows, torch.zeros_like(rows))
    rows.sum().backward()
    for leaf in (z1, z2, temperature):
        if isinstance(leaf, Tensor):
            assert torch.equal(leaf.grad, torch.zeros_like(leaf))


@FORMS
@BACKENDS_AND_DTYPES
def test_zero_rows_have_no_gradient(
    nt_xent: Callable, dtype: torch.dtype, temperature: float | Tensor
) -> None:
    z1, z2 = make_views(6, 4, dtype)
    with torch.no_grad():
        z1[1], z1[4], z2[4] = 0, 0, 0  # one of a pair, and a whole pair
    loss, *gradients = run(nt_xent, z1, z2, temperature, "none")
    assert loss.isfinite().all()
    for z, gradient in zip((z1, z2), gradients, strict=True):
        assert gradient.isfinite().all()
        assert torch.equal(gradient.eq(0).all(1), z.eq(0).all(1))


@BACKENDS_AND_DTYPES
def test_a_norm_below_the_smallest_normal_number_is_zero(
    nt_xent: Callable, dtype: torch.dtype
) -> None:
    z1, z2 = make_views(4, 3, dtype)
    tiny = torch.finfo(dtype).tiny

    def with_first_row(first: float) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            z1[0] = torch.tensor([first, 0, 0], dtype=dtype)
        return run(nt_xent, z1, z2, 0.5, "none")[:2]

    zero_loss, _ = with_first_row(0.0)
    below_loss, below_gradient = with_first_row(tiny / 2)
    assert torch.equal(below_loss, zero_loss)
    assert torch.equal(below_gradient[0], torch.zeros(3, dtype=dtype))
    at_loss, _ = with_first_row(tiny)
    unit_loss, _ = with_first_row(1.0)
    assert torch.equal(at_loss, unit_loss)


@FORMS
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(
    ("nt_xent", "n", "view", "row"),
    [
        ("torch", 1, 0, 0),
        ("torch", 5, 0, 0),
        ("torch", 5, 1, 4),
        ("torch", 513, 1, 512),
        ("triton", 1, 0, 0),
        ("triton", 129, 1, 128),
    ],
    indirect=["nt_xent"],
    ids=str,
)
def test_nan_and_inf_are_never_a_number(
    request: pytest.FixtureRequest,
    nt_xent: Callable,
    n: int,
    view: int,
    row: int,
    value: float,
    temperature: float | Tensor,
) -> None:
    for dtype in DTYPES_OF[request.node.callspec.params["nt_xent"]]:
        views = [z.detach() for z in make_views(n, 3, dtype)]
        views[view][row, 1] = value
        assert nt_xent(*views, temperature, "none").isnan().all()


# Bad input


def both(z: Tensor) -> dict[str, object]:
    return {"z1": z, "z2": z}


FLOATS = "must have one of the dtypes float16, bfloat16, float32, float64, got torch"
SAME = "z1 and z2 must have the same"
NOT_EMPTY = "z1 must have at least one row and one column, got an empty batch"
NUMBER = "temperature must be a number > 0 or a 0-d tensor, got"
POSITIVE = "temperature must be finite and > 0, got"
SCALAR = "temperature must be a 0-d tensor on cpu, got shape"
BAD_INPUT = {
    "list": ({"z1": [[1.0]]}, TypeError, "z1 must be a tensor, got list"),
    "second is None": ({"z2": None}, TypeError, "z2 must be a tensor, got NoneType"),
    "integers": (both(torch.ones(3, 2).long()), TypeError, f"z1 {FLOATS}.int64"),
    "bool": ({"z2": torch.ones(3, 2).bool()}, TypeError, f"z2 {FLOATS}.bool"),
    "complex": (both(torch.ones(3, 2) * 1j), TypeError, "got torch.complex64"),
    "rank 1": (both(torch.ones(3)), ValueError, "z1 must have shape (N, D), got (3,)"),
    "rank 3": (both(torch.ones(3, 2, 1)), ValueError, "z1 must have shape (N, D), got (3, 2, 1)"),
    "shapes": ({"z2": torch.ones(4, 2)}, ValueError, f"{SAME} shape, got (3, 2) and (4, 2)"),
    "ranks": ({"z2": torch.ones(2)}, ValueError, f"{SAME} shape, got (3, 2) and (2,)"),
    "dtypes": (
        {"z2": torch.ones(3, 2).double()},
        ValueError,
        f"{SAME} dtype, got torch.float32 and torch.float64",
    ),
    "devices": (
        {"z2": torch.ones(3, 2, device="meta")},
        ValueError,
        f"{SAME} device, got cpu and meta",
    ),
    "no rows": (both(torch.ones(0, 2)), ValueError, f"{NOT_EMPTY} (0, 2)"),
    "no columns": (both(torch.ones(3, 0)), ValueError, f"{NOT_EMPTY} (3, 0)"),
    "temperature 0": ({"temperature": 0}, ValueError, f"{POSITIVE} 0.0"),
    "temperature -1": ({"temperature": -1.0}, ValueError, f"{POSITIVE} -1.0"),
    "temperature nan": ({"temperature": math.nan}, ValueError, f"{POSITIVE} nan"),
    "temperature inf": ({"temperature": math.inf}, ValueError, f"{POSITIVE} inf"),
    "temperature bool": ({"temperature": True}, TypeError, f"{NUMBER} bool True"),
    "temperature string": ({"temperature": "0.5"}, TypeError, f"{NUMBER} str '0.5'"),
    "temperature None": ({"temperature": None}, TypeError, f"{NUMBER} NoneType None"),
    "temperature (1,)": ({"temperature": torch.ones(1)}, ValueError, f"{SCALAR} (1,)"),
    "temperature integers": (
        {"temperature": torch.tensor(1)},
        TypeError,
        f"temperature {FLOATS}.int64",
    ),
    "temperature meta": (
        {"temperature": torch.ones((), device="meta")},
        ValueError,
        f"{SCALAR} () on meta",
    ),
    "reduction": (
        {"reduction": "max"},
        ValueError,
        "reduction must be one of mean, sum, none, got 'max'",
    ),
    "reduction None": (
        {"reduction": None},
        ValueError,
        "reduction must be one of mean, sum, none, got None",
    ),
    "precision": (
        {"precision": "fp8"},
        ValueError,
        "precision must be one of auto, ieee, bf16x6, bf16x3, got 'fp8'",
    ),
    "backend": (
        {"backend": "jax"},
        ValueError,
        "backend must be one of auto, torch, triton, got 'jax'",
    ),
    "group": ({"group": object()}, TypeError, "group must be None, 'world' or a process group"),
}


@pytest.mark.parametrize(("changes", "exception", "message"), BAD_INPUT.values(), ids=BAD_INPUT)
@pytest.mark.parametrize("backend", ["auto", "torch", "triton"])
def test_bad_input(backend: str, changes: dict, exception: type[Exception], message: str) -> None:
    with pytest.raises(exception, match=re.escape(message)) as raised:
        mixnoise.nt_xent(**{**both(torch.ones(3, 2)), "backend": backend, **changes})
    assert raised.type is exception


def test_precisions_that_the_torch_backend_has_not() -> None:
    for precision in ("bf16x3", "bf16x6"):
        with pytest.raises(ValueError, match=f"precision='{precision}' cannot be had"):
            mixnoise.nt_xent(*make_views(3, 2), precision=precision, backend="torch")


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_tensor_temperature_that_is_not_positive_gives_nan(
    nt_xent: Callable, temperature: float
) -> None:
    z1, z2 = make_views(3, 2)
    assert nt_xent(z1, z2, torch.tensor(temperature)).isnan()


def test_any_real_number_is_a_temperature(nt_xent: Callable) -> None:
    z1, z2 = make_views(3, 2)
    assert nt_xent(z1, z2, Fraction(1, 2)) == nt_xent(z1, z2) == nt_xent(z1, z2, temperature=0.5)
    assert nt_xent(z1, z2, 1) == nt_xent(z1, z2, 1.0)


def test_how_small_a_temperature_may_be(nt_xent: Callable) -> None:
    z1, z2 = make_views(8, 4)
    assert nt_xent(z1, z2, 1e-35).isfinite()
    assert nt_xent(z1, z2, torch.tensor(1e-39)).isnan()
    nt_xent(z1, z1.detach(), 1e-9).backward()
    assert z1.grad.isfinite().all()


@BACKENDS_AND_DTYPES
def test_dtypes_of_the_results(nt_xent: Callable, dtype: torch.dtype) -> None:
    z1, z2 = make_views(3, 2, dtype)
    loss, *gradients = run(nt_xent, z1, z2)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert loss.shape == ()
    assert [g.dtype for g in gradients] == [dtype, dtype]
    assert nt_xent(z1, z2, reduction="none").shape == (6,)


# Autograd


@FORMS
def test_upstream_weights_of_zero(nt_xent: Callable, temperature: float | Tensor) -> None:
    z1, z2 = make_views(5, 3)
    nt_xent(z1, z2, temperature, "none").backward(torch.zeros(10))
    for z in (z1, z2):
        assert torch.equal(z.grad, torch.zeros(5, 3))


def test_gradients_only_for_who_asks(nt_xent: Callable) -> None:
    z1, z2 = make_views(5, 3)
    t = torch.tensor(0.1, requires_grad=True)
    expected = torch.autograd.grad(nt_xent(z1, z2, t), (z1, z2, t))
    for i, leaf in enumerate((z1, z2, t)):
        inputs = [x if j == i else x.detach() for j, x in enumerate((z1, z2, t))]
        loss = nt_xent(*inputs)
        assert torch.equal(torch.autograd.grad(loss, leaf)[0], expected[i])
    with torch.no_grad():
        assert not nt_xent(z1, z2, t).requires_grad


def test_a_view_used_twice(nt_xent: Callable) -> None:
    z = make_views(5, 3)[0]
    (gradient,) = torch.autograd.grad(nt_xent(z, z), z)
    z1, z2 = (z.detach().clone().requires_grad_() for _ in range(2))
    _, *expected = run(nt_xent, z1, z2)
    assert torch.equal(gradient, sum(expected))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # in functorch
def test_forward_mode_raises(nt_xent: Callable) -> None:
    """Its tangent would be zero without a word."""
    z, tangent = (z.detach() for z in make_views(5, 3))
    with pytest.raises(RuntimeError, match="no forward-mode derivative"):
        torch.func.jvp(lambda z: nt_xent(z, z.flip(1)), (z,), (tangent,))
    with pytest.raises(RuntimeError, match="no forward-mode derivative"):
        torch.func.jvp(lambda t: nt_xent(z, z.flip(1), t), (z.norm(),), (z.norm(),))


@FORMS
@pytest.mark.parametrize("penalty_alone", [True, False], ids=["alone", "added to the loss"])
def test_second_derivatives_raise(
    nt_xent: Callable, penalty_alone: bool, temperature: float | Tensor
) -> None:
    # Above all, a gradient penalty must not drop out of its sum with the loss in silence.
    z1, z2 = make_views(5, 3)
    loss = nt_xent(z1, z2, temperature)

    def backward_twice() -> None:
        (gradient,) = torch.autograd.grad(loss, z1, create_graph=True)
        penalty = gradient.square().sum()
        (penalty if penalty_alone else loss + penalty).backward()

    with pytest.raises(RuntimeError, match="second derivative"):
        backward_twice()


@FORMS
@pytest.mark.parametrize(("nt_xent", "n"), [("torch", 700), ("triton", 150)], indirect=["nt_xent"])
def test_every_run_gives_the_same_bits(
    nt_xent: Callable, n: int, temperature: float | Tensor
) -> None:
    torch.set_num_threads(2)  # sums must keep their order, whoever adds
    z1, z2 = make_views(n, 17)
    first = run(nt_xent, z1, z2, temperature, "none")
    for _ in range(2):
        assert_same_bits(run(nt_xent, z1, z2, temperature, "none"), first)


def test_autocast_changes_nothing(nt_xent: Callable) -> None:
    z1, z2 = make_views(40, 17)
    expected = run(nt_xent, z1, z2)
    device = DEVICE if nt_xent is triton_nt_xent else "cpu"
    with torch.autocast(device, dtype=torch.bfloat16):
        assert_same_bits(run(nt_xent, z1, z2), expected)


# torch.library and torch.compile


def sample_inputs() -> dict[str, tuple]:
    t = torch.tensor(0.5, requires_grad=True)
    z1, z2 = make_views(6, 4)
    transposed = [z.detach().T.requires_grad_() for z in (z1, z2)]
    return {
        "float32": (z1, z2, None, 0.5, True),
        "running maximum": (z1, z2, None, 0.002, True),
        "tensor temperature": (z1, z2, t, math.nan, True),
        "bfloat16": (*make_views(6, 4, torch.bfloat16), None, 0.5, True),
        "float64, nothing kept": (*make_views(6, 4, torch.float64), None, 0.5, False),
        "several tiles": (*make_views(300, 4), None, 0.5, True),
        "one pair": (*make_views(1, 1), None, 0.5, True),
        "transposed": (*transposed, None, 0.5, True),
    }


@pytest.mark.parametrize("name", sample_inputs())
def test_operator_is_registered_well(name: str, opcheck: Callable) -> None:
    opcheck(torch.ops.mixnoise.nt_xent.default, sample_inputs()[name])


def on_device(arguments: tuple) -> list:
    return [
        x.detach().to(DEVICE).requires_grad_(x.requires_grad) if isinstance(x, Tensor) else x
        for x in arguments
    ]


@pytest.mark.usefixtures("triton_runs")
@pytest.mark.parametrize("name", [name for name in sample_inputs() if "float64" not in name])
def test_triton_operator_is_registered_well(name: str, opcheck: Callable) -> None:
    import mixnoise_kernels.operators  # noqa: F401 - registers it

    *arguments, _ = sample_inputs()[name]
    opcheck(torch.ops.mixnoise.triton_nt_xent.default, (*on_device(arguments), "auto"))


TEMPERATURE_ARGUMENTS = pytest.mark.parametrize(
    "temperature", [None, torch.tensor(0.5)], ids=["number", "tensor"]
)


@TEMPERATURE_ARGUMENTS
def test_backward_operator_is_registered_well(
    temperature: Tensor | None, opcheck: Callable
) -> None:
    z1, z2 = (z.detach() for z in make_views(6, 4, torch.bfloat16))
    loss, z, stats, kept = torch.ops.mixnoise.nt_xent(z1, z2, temperature, 0.5, True)
    arguments = (torch.ones_like(loss), z, stats, kept, temperature, 0.5, torch.bfloat16)
    opcheck(torch.ops.mixnoise.nt_xent_backward.default, arguments)


@pytest.mark.usefixtures("triton_runs")
@TEMPERATURE_ARGUMENTS
def test_triton_backward_operator_is_registered_well(
    temperature: Tensor | None, opcheck: Callable
) -> None:
    import mixnoise_kernels.operators  # noqa: F401 - registers it

    z1, z2, t = on_device((*(z.detach() for z in make_views(6, 4)), temperature))
    loss, *saved = torch.ops.mixnoise.triton_nt_xent(z1, z2, t, 0.5, "ieee")
    arguments = (torch.ones_like(loss), z1, z2, *saved, t, 0.5)
    opcheck(torch.ops.mixnoise.triton_nt_xent_backward.default, arguments)


def projected(nt_xent: Callable) -> Callable:
    def projected_loss(
        z1: Tensor, z2: Tensor, temperature: float | Tensor, reduction: str
    ) -> Tensor:
        return nt_xent(2 * z1, z2.tanh(), temperature, reduction)

    return projected_loss


@FORMS
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_compiled_without_graph_breaks(
    nt_xent: Callable, reduction: str, temperature: float | Tensor
) -> None:
    projected_loss = projected(nt_xent)
    torch.compiler.reset()
    compiled = torch.compile(projected_loss, fullgraph=True, backend="aot_eager")
    z1, z2 = make_views(20, 5)
    expected = run(projected_loss, z1, z2, temperature, reduction)
    assert_same_bits(run(compiled, z1, z2, temperature, reduction), expected)


@pytest.mark.parametrize(
    ("nt_xent", "largest"), [("torch", 600), ("triton", 150)], indirect=["nt_xent"]
)
def test_compiled_once_for_many_batch_sizes(nt_xent: Callable, largest: int) -> None:
    projected_loss = projected(nt_xent)
    torch.compiler.reset()
    compiled = torch.compile(projected_loss, fullgraph=True, backend="aot_eager", dynamic=True)
    run(compiled, *make_views(5, 4), 0.5, "mean")
    with torch.compiler.set_stance("fail_on_recompile"):
        for n in (7, largest):
            views = make_views(n, 4)
            expected = run(projected_loss, *views, 0.5, "mean")
            assert_same_bits(run(compiled, *views, 0.5, "mean"), expected)


@pytest.mark.skipif(not shutil.which("g++"), reason="Inductor needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Inductor's own import of torch.jit
def test_compiled_by_inductor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # A cache from before would be used without a look at what the operator now returns.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    projected_loss = projected(mixnoise.nt_xent)
    torch.compiler.reset()
    compiled = torch.compile(projected_loss, fullgraph=True)
    views = make_views(20, 5)
    # Inductor's tanh is not eager's to the bit.
    torch.testing.assert_close(
        run(compiled, *views, 0.5, "mean"),
        run(projected_loss, *views, 0.5, "mean"),
        rtol=1e-6,
        atol=1e-7,
    )


# Memory

# One thread, so that a busy machine does not make it slow. VmHWM is the peak of this process alone.
PEAK_OF_32768_ROWS = """
import re, torch
from mixnoise import nt_xent

def kib(field):
    return int(re.search(field + r":\\s+(\\d+)", open("/proc/self/status").read())[1])

torch.set_num_threads(1)
nt_xent(*torch.randn(2, 64, 32, requires_grad=True)).backward()
z = torch.randn(2, 16384, 32, requires_grad=True)
before = kib("VmRSS")
nt_xent(*z).backward()
print((kib("VmHWM") - before) / 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
def test_memory_is_linear_in_the_rows() -> None:
    child = subprocess.run(
        [sys.executable, "-c", PEAK_OF_32768_ROWS], capture_output=True, text=True, check=True
    )
    assert float(child.stdout) < 200  # MiB; the matrix of similarities alone would take 4096


# The module


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_module_equals_the_function(reduction: str) -> None:
    z1, z2 = make_views(5, 3)
    expected = mixnoise.nt_xent(z1, z2, 0.1, reduction)
    assert torch.equal(NTXentLoss(0.1, reduction)(z1, z2), expected)
    assert torch.equal(NTXentLoss()(z1, z2), mixnoise.nt_xent(z1, z2, 0.5, "mean"))


@pytest.mark.parametrize(
    ("settings", "exception", "message"),
    [
        ({"temperature": -1.0}, ValueError, "temperature"),
        ({"reduction": "max"}, ValueError, "reduction"),
        ({"precision": "fp8"}, ValueError, "precision"),
        ({"backend": "jax"}, ValueError, "backend"),
        ({"group": object()}, TypeError, "group"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_module_passes_every_setting_on(
    settings: dict, exception: type[Exception], message: str
) -> None:
    with pytest.raises(exception, match=message):
        NTXentLoss(**settings)(*make_views(5, 3))


@pytest.mark.parametrize(
    ("settings", "exception", "message"),
    [
        ({"temperature": 0}, ValueError, "temperature must be finite and > 0, got 0.0"),
        ({"temperature": "warm"}, TypeError, "temperature must be a number > 0 or a 0-d tensor"),
        ({"temperature": torch.ones(2)}, ValueError, r"a 0-d tensor, got shape \(2,\)"),
        ({"reduction": "max"}, ValueError, "reduction"),
        ({"precision": "fp8"}, ValueError, "precision"),
        ({"backend": "jax"}, ValueError, "backend"),
        ({"group": "wrld"}, ValueError, "group must be None, 'world' or a process group, got 'wr"),
        ({"group": 3}, TypeError, "group must be None, 'world' or a process group, got int 3"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_module_is_not_made_of_bad_settings(
    settings: dict, exception: type[Exception], message: str
) -> None:
    """Not only when it is called, after an hour of preparations."""
    with pytest.raises(exception, match=message):
        NTXentLoss(**settings)


def test_module_on_no_device_can_be_shown() -> None:
    temperature = nn.Parameter(torch.tensor(0.5, device="meta"))
    assert repr(NTXentLoss(temperature)) == "NTXentLoss(temperature=?, reduction='mean')"


def test_module_trains_its_temperature() -> None:
    module = NTXentLoss(nn.Parameter(torch.tensor(0.5)))
    assert list(module.parameters()) == [module.temperature]
    views = make_views(20, 5)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    before = module(*views)
    before.backward()
    optimizer.step()
    assert module(*views) < before


def test_module_shows_its_settings() -> None:
    assert repr(NTXentLoss(0.1, "sum")) == "NTXentLoss(temperature=0.1, reduction='sum')"


def test_ieee_is_what_pytorch_may_compute() -> None:
    """Where oneDNN is allowed bfloat16 it cannot be promised, on a CPU either."""
    z1, z2 = make_views(6, 4)
    expected = mixnoise.nt_xent(z1, z2, precision="ieee")
    assert torch.equal(expected, mixnoise.nt_xent(z1, z2))
    torch.set_float32_matmul_precision("medium")
    try:
        with pytest.raises(ValueError, match="precision='ieee' cannot be had from the PyTorch"):
            mixnoise.nt_xent(z1, z2, precision="ieee")
    finally:
        torch.set_float32_matmul_precision("highest")


def test_sparse_rows_are_refused() -> None:
    z = torch.eye(4).to_sparse()
    with pytest.raises(TypeError, match=r"z1 must be a dense tensor, got .* torch\.sparse_coo"):
        mixnoise.nt_xent(z, z)
