"""The checks as pytest's tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from mixnoise.noises.base import Noise
from mixnoise.testing.kit import check_expected_failures, describe_noise, noise_checks

if TYPE_CHECKING:
    import pytest


def parametrize_noise_checks(
    noises: Iterable[Noise | str],
    *,
    expected_failures: Mapping[str, str] | None = None,
    x: Tensor | None = None,
) -> pytest.MarkDecorator:
    """Make one test for each noise and check out of a test function with the argument ``check``.

    Checks that are expected to fail are marked as strict xfails. They hold for all the noises
    given; decorate another function for those with other ones.

    Args:
        noises: noises, or names that :func:`mixnoise.get_noise` finds; at least one.
        expected_failures: as for :func:`mixnoise.testing.check_noise`.
        x: as for :func:`mixnoise.testing.check_noise`.

    Raises:
        ValueError, TypeError: an argument breaks its rule.

    Example:
        >>> from mixnoise import get_noise
        >>> from mixnoise.testing import parametrize_noise_checks
        >>> @parametrize_noise_checks(["linear", get_noise("gaussian", sigma=0.1)])
        ... def test_conformance(check):
        ...     check()
    """
    import pytest

    if isinstance(noises, (str, Noise)):
        raise TypeError(f"noises must be a list of noises or names, got {noises!r}")
    expected = check_expected_failures(expected_failures)
    parameters = []
    for noise in noises:
        for check in noise_checks(noise, x=x):
            reason = expected.get(check.name)
            marks = () if reason is None else pytest.mark.xfail(reason=reason, strict=True)
            name = f"{describe_noise(check.noise)}-{check.name}"
            parameters.append(pytest.param(check, marks=marks, id=name))
    if not parameters:
        # pytest would skip the test, and nothing would have been checked.
        raise ValueError("noises must hold at least one noise, got none")
    return pytest.mark.parametrize("check", parameters)
