"""Running the checks."""

from __future__ import annotations

import difflib
import unittest
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from torch import Tensor

from mixnoise.noises.base import Noise
from mixnoise.registry import get_noise
from mixnoise.testing import interface, purity, pytorch, randomness, rows
from mixnoise.testing.compare import describe_error
from mixnoise.testing.data import Rows, copy_of, find_rows, given_rows
from mixnoise.testing.report import CheckFailed, CheckSkipped, Report, Result, Status
from mixnoise.testing.state import isolated
from mixnoise.testing.subject import Subject

CHECKS: dict[str, Callable[[Subject], None]] = {
    check.__name__: check
    for check in (
        interface.interface,
        interface.shape,
        interface.dtype,
        interface.device,
        interface.config,
        interface.pickling,
        purity.input_untouched,
        purity.stateless,
        purity.train_mode,
        purity.identity,
        purity.non_contiguous,
        randomness.same_draw_same_views,
        randomness.seed,
        randomness.different_seeds,
        randomness.generator,
        randomness.default_generator,
        randomness.independent_views,
        rows.batch_permutation,
        rows.odd_batches,
        rows.single_row,
        rows.empty_batch,
        rows.nan_policy,
        pytorch.gradients,
        pytorch.torch_compile,
        pytorch.autocast,
    )
}


@dataclass(frozen=True)
class NoiseCheck:
    """One check of one noise.

    ``run`` returns how it ended. Calling it raises AssertionError instead if the law does not hold,
    or ``unittest.SkipTest``, which pytest knows too, if it says nothing about the noise.
    """

    name: str
    noise: Noise = field(repr=False)
    rows: Callable[[], Rows] = field(repr=False)
    expected_failure: str | None = None

    @property
    def description(self) -> str:
        return " ".join((CHECKS[self.name].__doc__ or "").split())

    def run(self) -> Result:
        """Never raises."""
        return self._run()[0]

    def __call__(self) -> None:
        result, error = self._run()
        if result.is_failure:
            raise AssertionError(f"{self.name}: {self.description}\n{result.message}") from error
        if result.status == Status.SKIPPED:
            raise unittest.SkipTest(result.message)

    def _run(self) -> tuple[Result, Exception | None]:
        result = Result(self.name, self.description, Status.PASSED)
        caught: Exception | None = None
        try:
            with isolated():
                CHECKS[self.name](Subject(self.noise, self.rows))
        except CheckSkipped as skip:
            return replace(result, status=Status.SKIPPED, message=str(skip)), None
        except CheckFailed as error:
            caught, message = error, str(error)
        except Exception as error:  # whatever a noise raises is a result
            caught, message = error, describe_error(error)
        if self.expected_failure is None:
            if caught is not None:
                result = replace(result, status=Status.FAILED, message=message)
        elif caught is not None:
            message = f"{self.expected_failure} ({message})"
            result = replace(result, status=Status.EXPECTED_FAILURE, message=message)
        else:
            message = f"expected to fail ({self.expected_failure}), but passed; no longer expect it"
            result = replace(result, status=Status.UNEXPECTED_PASS, message=message)
        return result, caught


def noise_checks(
    noise: Noise | str,
    *,
    expected_failures: Mapping[str, str] | None = None,
    x: Tensor | None = None,
) -> list[NoiseCheck]:
    """The checks of a noise, not yet run; arguments as for :func:`check_noise`.

    Example:
        >>> from mixnoise.testing import noise_checks
        >>> first, *_ = noise_checks("linear")
        >>> first.name, first.run().status.value
        ('interface', 'passed')
    """
    expected = check_expected_failures(expected_failures)
    if isinstance(noise, str):
        noise = get_noise(noise)
    elif not isinstance(noise, Noise):
        raise TypeError(
            f"noise must be a mixnoise.Noise or a name that get_noise finds, got {noise!r}"
        )
    subject, given = noise, None if x is None else given_rows(x)

    @cache
    def find() -> Rows:
        return find_rows(copy_of(subject)) if given is None else given

    return [NoiseCheck(name, noise, find, expected.get(name)) for name in CHECKS]


def check_expected_failures(expected_failures: Mapping[str, str] | None) -> dict[str, str]:
    """A copy, after checking that names are known and reasons written."""
    expected = dict(expected_failures or {})
    for name, reason in expected.items():
        if name not in CHECKS:
            close = difflib.get_close_matches(str(name), CHECKS, n=3)
            hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
            raise ValueError(
                f"expected_failures names the unknown check {name!r}; {hint}known: "
                f"{', '.join(CHECKS)}"
            )
        if not isinstance(reason, str) or not reason.strip():
            raise ValueError(
                f"expected_failures[{name!r}] must be a written reason, got {reason!r}"
            )
    return expected


def check_noise(
    noise: Noise | str,
    *,
    expected_failures: Mapping[str, str] | None = None,
    x: Tensor | None = None,
) -> Report:
    """Run the conformance kit on a noise: everything that the library relies on.

    A failing check never raises; look at the report. Neither the noise nor any global state
    (random generators, warnings, compiled code) is changed.

    Args:
        noise: the noise, or a name that :func:`mixnoise.get_noise` finds.
        expected_failures: names of checks that this noise cannot pass, each with a written reason.
            One that passes all the same is a failure.
        x: at least 32 rows ``(N, *features)`` that the noise takes. Needed only where the kit finds
            none itself: it tries normal numbers, numbers in (0, 1), integers and bool, with one
            to three feature dimensions, until ``sample`` does not raise ValueError or TypeError.

    Returns:
        A report that prints as a table. ``report.passed`` says whether nothing failed and more than
        half of the checks passed; ``report.executed`` counts the checks that were not skipped. A
        check is skipped only where the noise declares that it does not apply (no ``identity``, or
        ``sample`` refuses floating-point data), with the reason in its result.

    Raises:
        ValueError, TypeError: an argument breaks its rule.

    Example:
        >>> import torch
        >>> from mixnoise import Noise, get_noise
        >>> from mixnoise.testing import check_noise
        >>> check_noise(get_noise("geometric", low=0.0)).raise_if_failed()
        >>> class Shift(Noise):
        ...     def sample(self, x, *, views=1, generator=None, seed=None):
        ...         return torch.rand(views, 1, generator=generator)
        ...     def apply(self, x, draw):
        ...         return x + draw.view(-1, *[1] * x.ndim)
        >>> report = check_noise(Shift())
        >>> {"dtype", "device", "seed"} <= {result.name for result in report.failures}
        True
    """
    checks = noise_checks(noise, expected_failures=expected_failures, x=x)
    return Report(describe_noise(checks[0].noise), tuple(check.run() for check in checks))


def describe_noise(noise: Noise) -> str:
    """Class and arguments in few words."""
    try:
        arguments = {name: value for name, value in noise.config().items() if name != "name"}
    except Exception:  # "config" reports it
        arguments = {}
    return f"{type(noise).__name__}({', '.join(f'{k}={_short(v)}' for k, v in arguments.items())})"


def _short(value: Any) -> str:
    text = f"tensor{tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
    text = " ".join(text.split())
    return text if len(text) <= 30 else f"{text[:27]}..."
