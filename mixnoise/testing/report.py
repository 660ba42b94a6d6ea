"""How checks end, and what came of those of one noise."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class CheckFailed(AssertionError):
    """A law that does not hold; the message says what was expected and what came."""


class CheckSkipped(Exception):
    """A law that says nothing about this noise; the message says why."""


class Status(StrEnum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    EXPECTED_FAILURE = "expected failure"
    UNEXPECTED_PASS = "unexpected pass"


@dataclass(frozen=True)
class Result:
    """How one check ended.

    Args:
        name: of the check.
        description: what the check asks for, in a sentence.
        status: how it ended.
        message: what was expected and what came, or why it was skipped; empty where it passed.
    """

    name: str
    description: str
    status: Status
    message: str = ""

    @property
    def is_failure(self) -> bool:
        """An expected failure that passes is one, too: its reason no longer holds."""
        return self.status in (Status.FAILED, Status.UNEXPECTED_PASS)

    def as_dict(self) -> dict[str, str]:
        return {
            "name": self.name,
            "description": self.description,
            "status": str(self.status),
            "message": self.message,
        }


@dataclass(frozen=True)
class Report:
    """The results of a noise's checks; printing it gives a table.

    Args:
        noise: the noise, in words.
        results: one for each check, in order.

    Example:
        >>> from mixnoise.testing import Result, check_noise
        >>> report = check_noise("linear")
        >>> report.passed, report.executed, report.skipped
        (True, 25, 0)
        >>> report.results[1].name, report.results[1].status.value
        ('shape', 'passed')
    """

    noise: str
    results: Sequence[Result]

    def count(self, status: Status) -> int:
        return sum(result.status == status for result in self.results)

    @property
    def executed(self) -> int:
        """How many checks ran to an end, good or bad."""
        return len(self.results) - self.skipped

    @property
    def skipped(self) -> int:
        return self.count(Status.SKIPPED)

    @property
    def failures(self) -> list[Result]:
        """Checks that failed without a reason given, and expected failures that passed."""
        return [result for result in self.results if result.is_failure]

    @property
    def passed(self) -> bool:
        """Whether nothing failed and more than half of the checks passed.

        So neither skipping everything nor expecting everything to fail looks like success.
        """
        return not self.failures and 2 * self.count(Status.PASSED) > len(self.results)

    def as_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON."""
        return {
            "noise": self.noise,
            "passed": self.passed,
            "executed": self.executed,
            "skipped": self.skipped,
            "failures": [result.name for result in self.failures],
            "results": [result.as_dict() for result in self.results],
        }

    def raise_if_failed(self) -> None:
        """Raise AssertionError with the table unless the report passed."""
        if not self.passed:
            raise AssertionError(str(self))

    def __str__(self) -> str:
        verdict = "passed" if self.passed else "FAILED"
        counts = ", ".join(f"{n} {status}" for status in Status if (n := self.count(status)))
        lines = [f"{self.noise}: {verdict}; {self.executed} checks executed ({counts or 'none'})"]
        if not self.passed and not self.failures:
            lines.append("  fewer than half of the checks passed: too little was checked")
        for result in self.results:
            status = result.status.upper() if result.is_failure else result.status
            lines.append(f"  {status:<18}{result.name}")
            if result.status != Status.PASSED:
                for text in (result.description, result.message):
                    lines += textwrap.wrap(
                        text, 100, initial_indent=" " * 20, subsequent_indent=" " * 20
                    )
        return "\n".join(lines)
