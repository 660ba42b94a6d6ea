"""The conformance kit: what it passes, what it finds, and how it reports."""

import ast
import copy
import doctest
import inspect
import json
import random
import sys
import types
import warnings
from pathlib import Path

import broken_noises
import numpy as np
import pytest
import torch
from broken_noises import BROKEN, Columns, Crashes, InARow, Jitter, Learned, Mix, RefusesAll, Tokens

from mixnoise import Noise, get_noise, register_noise, registry
from mixnoise.testing import (
    Report,
    Result,
    Status,
    check_noise,
    kit,
    noise_checks,
    parametrize_noise_checks,
    pytorch,
)
from mixnoise.testing.kit import CHECKS, describe_noise

pytest_plugins = "pytester"

NAMES = [
    "interface",
    "shape",
    "dtype",
    "device",
    "config",
    "pickling",
    "input_untouched",
    "stateless",
    "train_mode",
    "identity",
    "non_contiguous",
    "same_draw_same_views",
    "seed",
    "different_seeds",
    "generator",
    "default_generator",
    "independent_views",
    "batch_permutation",
    "odd_batches",
    "single_row",
    "empty_batch",
    "nan_policy",
    "gradients",
    "torch_compile",
    "autocast",
]


BACKEND = pytorch.BACKEND


@pytest.fixture(autouse=True)
def faster_compilation(monkeypatch):
    """The same graph in half the time; the kit's own backend only where noises have to pass."""
    monkeypatch.setattr(pytorch, "BACKEND", "eager")


def statuses(report):
    return {result.name: result.status for result in report.results}


class Holder:
    """Equal by comparing tensors."""

    def __init__(self):
        self.held = torch.ones(3)

    def __eq__(self, other):
        return self.held == other.held

    def __hash__(self):
        return 0


class Filled(Jitter):
    """With an argument of any kind."""

    def __init__(self, scale=0.5, fill=None):
        super().__init__(scale)
        self.fill = fill


# Noises that keep the contract.

BUILT_IN = [
    ("binary", {}),
    ("dacl+", {}),
    ("gaussian", {}),
    ("geometric", {}),
    ("linear", {}),
    ("linear", {"alpha": 0, "granularity": "batch"}),
    ("geometric", {"low": 0.0}),
    ("hidden", {"noise": "binary", "at": "layer3", "alpha": 0.2, "granularity": "batch"}),
]


@pytest.mark.parametrize(("name", "arguments"), BUILT_IN, ids=str)
def test_built_in_noises_pass_every_check(name, arguments, monkeypatch):
    monkeypatch.setattr(pytorch, "BACKEND", BACKEND)
    noise = get_noise(name, **arguments) if arguments else name
    report = check_noise(noise)
    assert report.passed, report
    assert [result.name for result in report.results] == NAMES
    assert (report.executed, report.skipped) == (25, 0)
    assert set(statuses(report).values()) == {Status.PASSED}


@pytest.mark.parametrize(
    ("noise", "skipped"),
    [
        (Jitter(), set()),
        (Mix(), set()),
        (Learned(), set()),
        (broken_noises.RollColumns(), {"identity"}),
        (InARow(Jitter(), Mix()), {"identity"}),
        (Tokens(), {"identity", "nan_policy", "gradients", "autocast"}),
        (Jitter(scale=0.0), {"different_seeds", "independent_views"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_noises_of_ones_own_skip_only_what_they_rule_out(noise, skipped):
    """Draws that are tensors, tuples or objects; parameters; integers only; no noise at all."""
    report = check_noise(noise)
    assert report.passed, report
    assert {name for name, s in statuses(report).items() if s == Status.SKIPPED} == skipped
    assert report.executed == 25 - len(skipped)
    for result in report.results:
        assert bool(result.message) == (result.name in skipped)


def test_data_that_the_kit_cannot_guess():
    report = check_noise(Columns())
    assert not report.passed
    assert len(report.failures) == 25
    assert "pass x= with rows it takes" in report.failures[0].message
    assert "x must have 30 columns, got (16, 8)" in report.failures[0].message
    x = torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
    report = check_noise(Columns(), x=x)
    assert report.passed, report
    assert report.executed == 25


def test_other_domains_are_found():
    assert check_noise(Mix(), x=torch.rand(32, 3, 5)).passed
    with pytest.raises(ValueError, match=r"x must have at least 32 rows, got shape \(31, 3\)"):
        check_noise("linear", x=torch.rand(31, 3))
    with pytest.raises(TypeError, match=r"x must be a tensor of rows .* got list"):
        check_noise("linear", x=[1.0])


# Noises that do not.


@pytest.mark.parametrize(
    ("check", "noise"), BROKEN, ids=[f"{type(noise).__name__}-{check}" for check, noise in BROKEN]
)
def test_a_broken_noise_fails_the_check_meant_for_it_and_no_other(check, noise):
    left_out = set()
    if type(noise).apply in (Jitter.apply, Mix.apply):
        left_out = {"torch_compile"}  # it takes longest, and compiles what Jitter and Mix compile
    results = [c.run() for c in noise_checks(noise) if c.name not in left_out]
    assert [r.name for r in results if r.status == Status.FAILED] == [check], "\n".join(
        f"{r.name}: {r.message}" for r in results if r.is_failure
    )


def test_every_check_has_a_broken_noise():
    assert {check for check, _ in BROKEN} == set(NAMES) == set(CHECKS)


def test_a_noise_that_always_crashes_is_a_report_not_a_crash():
    report = check_noise(Crashes())
    assert not report.passed
    assert report.executed == 24
    assert {r.status for r in report.results if r.name != "identity"} == {Status.FAILED}
    assert "RuntimeError: out of order" in report.failures[0].message


def test_a_noise_that_refuses_all_data_is_not_skipped():
    report = check_noise(RefusesAll())
    assert not report.passed
    assert report.executed == 24
    assert "The first refusal was ValueError: x must be something else" in str(report.failures[0])


@pytest.mark.parametrize("noise", [None, 3, Jitter, torch.nn.Identity()], ids=str)
def test_what_is_no_noise(noise):
    with pytest.raises(TypeError, match=r"noise must be a mixnoise\.Noise or a name"):
        check_noise(noise)


def test_names_are_looked_up(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})
    with pytest.raises(ValueError, match="did you mean 'linear'"):
        check_noise("liner")
    register_noise("jitter")(type("Registered", (Jitter,), {"__module__": __name__}))
    assert statuses(check_noise("jitter"))["config"] == Status.PASSED


# Expected failures.


def test_an_expected_failure_passes_with_its_reason():
    report = check_noise(broken_noises.QuietInEval(), expected_failures={"train_mode": "by design"})
    assert report.passed, report
    assert report.executed == 25
    assert report.failures == []
    (result,) = [r for r in report.results if r.status == Status.EXPECTED_FAILURE]
    assert result.name == "train_mode"
    assert result.message.startswith("by design (views in eval mode must be")


def test_an_expected_failure_that_passes_fails():
    report = check_noise(Jitter(), expected_failures={"train_mode": "by design"})
    assert not report.passed
    assert [(r.name, r.status) for r in report.failures] == [("train_mode", Status.UNEXPECTED_PASS)]
    assert "expected to fail (by design), but passed" in report.failures[0].message
    with pytest.raises(AssertionError, match="UNEXPECTED PASS"):
        report.raise_if_failed()


def test_an_expected_failure_that_is_skipped_stays_skipped():
    report = check_noise(broken_noises.RollColumns(), expected_failures={"identity": "has none"})
    assert statuses(report)["identity"] == Status.SKIPPED


@pytest.mark.parametrize("call", [check_noise, noise_checks])
@pytest.mark.parametrize("reason", ["", "  ", None, True])
def test_an_expected_failure_needs_a_reason(call, reason):
    with pytest.raises(ValueError, match=r"expected_failures\['seed'\] must be a written reason"):
        call("linear", expected_failures={"seed": reason})


def test_an_expected_failure_needs_a_known_check():
    with pytest.raises(ValueError, match="unknown check 'gradient'; did you mean 'gradients'"):
        check_noise("linear", expected_failures={"gradient": "no"})
    with pytest.raises(ValueError, match="unknown check 'xyz'; known: interface, shape"):
        parametrize_noise_checks(["linear"], expected_failures={"xyz": "no"})


def test_expecting_everything_to_fail_is_not_success():
    report = check_noise(Crashes(), expected_failures=dict.fromkeys(NAMES, "broken"))
    assert report.failures == []
    assert report.executed == 24
    assert not report.passed
    assert "too little was checked" in str(report)


# The report.


def result(name, status, message=""):
    return Result(name, f"What {name} asks for.", status, message)


def test_a_report_of_nothing_has_not_passed():
    assert not Report("Noise()", ()).passed
    assert not Report("Noise()", [result("shape", Status.SKIPPED)]).passed
    assert Report("Noise()", [result("shape", Status.PASSED)]).passed


def test_a_report_counts_and_prints():
    results = [
        result("shape", Status.PASSED),
        result("dtype", Status.PASSED),
        result("seed", Status.SKIPPED, "it has none"),
        result("device", Status.FAILED, "expected cpu, got meta"),
    ]
    report = Report("Noise(rate=0.5)", results)
    assert (report.executed, report.skipped, report.passed) == (3, 1, False)
    assert report.failures == [results[-1]]
    lines = str(report).splitlines()
    assert lines[0] == "Noise(rate=0.5): FAILED; 3 checks executed (2 passed, 1 failed, 1 skipped)"
    assert lines[1].split() == ["passed", "shape"]
    assert [line.strip() for line in lines[-3:]] == [
        "FAILED            device",
        "What device asks for.",
        "expected cpu, got meta",
    ]
    plain = json.loads(json.dumps(report.as_dict()))
    assert plain["noise"] == "Noise(rate=0.5)"
    assert (plain["passed"], plain["executed"], plain["skipped"]) == (False, 3, 1)
    assert plain["failures"] == ["device"]
    assert plain["results"][2] == {
        "name": "seed",
        "description": "What seed asks for.",
        "status": "skipped",
        "message": "it has none",
    }
    with pytest.raises(AssertionError, match="expected cpu, got meta"):
        report.raise_if_failed()


def test_every_check_is_described_in_a_sentence():
    for check in noise_checks("linear"):
        assert 20 < len(check.description) < 300, check.name
        assert check.description.endswith(".")
        assert ". " not in check.description
        assert inspect.getdoc(CHECKS[check.name])


def test_the_report_names_the_noise_and_its_arguments():
    x = torch.zeros(8)
    noise = get_noise("geometric", alpha=0.5, low=x)
    assert describe_noise(noise) == "Geometric(alpha=0.5, low=tensor(8,), granularity='sample')"
    assert describe_noise(get_noise("hidden", at="a" * 99)) == (
        "Hidden(noise='linear', at='aaaaaaaaaaaaaaaaaaaaaaaaaa..., alpha=0.7, granularity='sample')"
    )
    assert check_noise(Crashes()).noise == "Crashes()"
    nameless = broken_noises.ArgumentUnderAnotherName()
    assert describe_noise(nameless) == "ArgumentUnderAnotherName()"


# What is left as it was.


def test_global_states_are_left_alone():
    torch.manual_seed(1)
    np.random.seed(2)  # noqa: NPY002
    random.seed(3)

    def states():
        return (
            torch.get_rng_state().tolist(),
            np.random.get_state()[1].tolist(),  # noqa: NPY002
            random.getstate(),
            list(warnings.filters),
            torch.is_autocast_enabled("cpu"),
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            dict(torch._dynamo.config.get_config_copy()),
        )

    before = states()
    for noise in (broken_noises.SeedsGlobally(), Crashes()):
        check_noise(noise)
        assert states() == before


@pytest.mark.parametrize(
    "around",
    [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", dtype=torch.bfloat16)],
    ids=["no_grad", "inference_mode", "autocast"],
)
def test_the_modes_around_the_kit_do_not_matter(around):
    with around():
        report = check_noise(Jitter())
    assert report.passed, report


def test_compiled_code_of_the_user_is_left_alone():
    compilations = []

    def backend(graph, inputs):
        compilations.append(graph)
        return graph.forward

    noise = Jitter()
    x = torch.randn(8, 8)
    draw = noise.sample(x)
    compiled = torch.compile(noise.apply, backend=backend, fullgraph=True)
    compiled(x, draw)
    (check,) = [c for c in noise_checks(noise) if c.name == "torch_compile"]
    with torch._dynamo.config.patch(recompile_limit=1):
        for _ in range(3):
            assert check.run().status == Status.PASSED
    compiled(x, draw)
    assert len(compilations) == 1


def test_the_noise_itself_is_left_alone():
    noise = broken_noises.FitsItsFirstBatch().eval()
    before = copy.deepcopy(vars(noise))
    check_noise(noise)
    assert vars(noise) == before
    assert noise.unit is None
    assert not noise.training


def test_pytest_is_imported_by_the_decorator_alone():
    """The library does not depend on it."""
    for path in Path(kit.__file__).parent.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            assert not isinstance(node, ast.Import) or node.names[0].name != "pytest", path
            assert not isinstance(node, ast.ImportFrom) or node.module != "pytest", path


# Under pytest.


@parametrize_noise_checks([Jitter()])
def test_conformance(check):
    check()


def test_ids_name_noise_and_check():
    mark = parametrize_noise_checks(["linear", Jitter(scale=0.25)])
    ids = [parameter.id for parameter in mark.args[1]]
    assert len(ids) == len(set(ids)) == 50
    assert ids[0] == "Linear(alpha=0.7, granularity='sample')-interface"
    assert ids[-1] == "Jitter(scale=0.25)-autocast"


def test_no_noises_are_an_error():
    with pytest.raises(ValueError, match="noises must hold at least one noise"):
        parametrize_noise_checks([])
    with pytest.raises(TypeError, match="noises must be a list of noises or names, got 'linear'"):
        parametrize_noise_checks("linear")


def test_outcomes_under_pytest(pytester, monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(
        """
        from broken_noises import QuietInEval, Tokens, Jitter
        from mixnoise.testing import parametrize_noise_checks

        CHEAP = ("train_mode", "identity", "shape")

        @parametrize_noise_checks([QuietInEval(), Tokens()])
        def test_plain(check):
            if check.name in CHEAP:
                check()

        @parametrize_noise_checks(
            [QuietInEval(), Jitter()], expected_failures={"train_mode": "wanted so"}
        )
        def test_expected(check):
            if check.name in CHEAP:
                check()
        """
    )
    outcome = pytester.runpytest_inprocess("-rA")
    # Failing: train_mode of QuietInEval; and of Jitter, which was expected to fail and passes.
    outcome.assert_outcomes(passed=50 - 2 + 50 - 2, failed=2, skipped=1, xfailed=1)
    outcome.stdout.fnmatch_lines(
        [
            "*AssertionError: train_mode: train() and eval() change nothing*",
            "*views in eval mode must be those of train mode: 256 of 256 elements differ*",
            "*[[]XPASS(strict)[]] wanted so*",
        ]
    )


@pytest.mark.parametrize(
    "value",
    [float("nan"), np.array([1, np.nan]), np.array(["a"]), torch.tensor([torch.nan]), Holder()],
    ids=lambda value: type(value).__name__,
)
def test_arguments_that_equal_nothing(value):
    """Not even themselves, or not by a truth value."""
    report = check_noise(Filled(fill=value))
    assert report.passed, report


@pytest.mark.parametrize("hole", [float("nan"), float("inf")])
def test_missing_values_are_the_callers(hole):
    x = torch.randn(32, 4)
    x[5, 3] = x[20, 1] = hole
    for name in ("linear", "dacl+"):
        report = check_noise(name, x=x)
        assert report.passed, report


@pytest.mark.parametrize("documented", [Noise, register_noise])
def test_noises_of_docstrings_pass(documented, monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})
    (example,) = doctest.DocTestFinder(recurse=False).find(documented)
    module = types.ModuleType("of_a_docstring")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # for pickle
    example.globs = names = vars(module)
    doctest.DocTestRunner().run(example, clear_globs=False)
    (noise,) = (n for n in names.values() if isinstance(n, type) and n is not Noise)
    report = check_noise(noise())
    assert report.passed, report


def test_data_beyond_half_precision_are_the_callers():
    for name in ("linear", "binary"):
        assert check_noise(get_noise(name), x=torch.randn(32, 4) * 1e6).passed
