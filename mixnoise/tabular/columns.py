"""From a table to a matrix that can be mixed: scaled numbers first, then codes of categories.

Missing values and outliers have a policy here, so that what was learned on one table can be told of
another.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import numpy as np

# Enough rows for a median and quartiles of three digits.
_ROWS_FOR_STATISTICS = 100_000
_ROWS_PER_BLOCK = 65_536
# Of a normal distribution: quartiles are so many standard deviations apart.
_QUARTILES_APART = 1.349
# Scaled values tend to this from both sides; within 2 they are changed by less than 8%.
LARGEST = 5.0
_FAR = 1e30  # and its square is finite
MAX_CATEGORIES = 255
OTHER = 0  # the code of values that are rare or were not seen


class Table(Protocol):
    """A number of rows of named columns."""

    n_rows: int
    names: list[str]
    categorical: frozenset[int]  # columns that are said to be categories

    def kind(self, column: int) -> str:
        """ "number", "date", "category", or "empty" where nothing tells."""

    def zoned(self, column: int) -> bool | None:
        """Whether dates have a time zone; None where there are no dates."""

    def numbers(self, column: int, rows: Any) -> Any:
        """Float64 values of some rows; NaN where one is missing."""

    def categories(self, column: int) -> list[str | None]:
        """All values as text; None where one is missing."""


@dataclass
class Number:
    """A numeric column: ``(x - center) / scale``, softly limited to ``LARGEST``.

    Median and quartiles, so that no outlier matters. A missing value is the median; where there
    were some, a further column says so.
    """

    name: str
    center: float
    scale: float
    missing: bool
    kind: str = "number"
    zoned: bool | None = None  # whether dates have a time zone; files of before do not say


@dataclass
class Category:
    """A column of categories: the code of a value is its place among ``values``, counted from 1."""

    name: str
    values: list[str | None]  # None is a category of its own, if it was seen
    kind: str = "category"

    @property
    def holds_numbers(self) -> bool:
        """Whether some are codes in digits or truth values: a new number may be one, too."""
        return any(map(_reads_as_number, self.values))


@dataclass
class Columns:
    """What was learned of a table's columns.

    The matrix that ``transform`` makes has a column for each of ``numbers``, then one for each that
    had missing values, then codes for each of ``categories``.
    """

    names: list[str]
    numbers: list[Number] = field(default_factory=list)
    categories: list[Category] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)  # name to reason
    chosen: list[int] = field(default_factory=list)  # that were said to be categories

    @classmethod
    def of(cls, table: Table, rng: np.random.RandomState) -> Columns:
        """Look at a table.

        Raises:
            ValueError: no column has anything to learn from, or a number is infinite, or numbers
                lie so far apart that float64 cannot hold the distance.
        """
        found = cls(list(table.names), chosen=sorted(table.categorical))
        rows: Any = slice(None)
        if table.n_rows > _ROWS_FOR_STATISTICS:
            rows = np.sort(rng.choice(table.n_rows, _ROWS_FOR_STATISTICS, replace=False))
        for column, name in enumerate(table.names):
            kind = table.kind(column)
            if kind == "category":
                found._add_category(name, table.categories(column))
            else:
                found._add_number(name, kind, table.zoned(column), table.numbers(column, rows))
        if not found.numbers and not found.categories:
            reasons = "; ".join(f"{name!r} {reason}" for name, reason in found.dropped.items())
            raise ValueError(f"no column has anything to learn from: {reasons}")
        return found

    @property
    def n_numbers(self) -> int:
        """Columns of the matrix before the codes."""
        return len(self.numbers) + sum(n.missing for n in self.numbers)

    @property
    def cardinalities(self) -> list[int]:
        """How many codes each category has, that of others included."""
        return [len(c.values) + 1 for c in self.categories]

    def transform(self, table: Table) -> Any:
        """Float32 ``(rows, n_numbers + len(categories))``; memory for little more than that.

        Raises:
            ValueError: a number is infinite, or a column is of another kind than in fit, or only
                then or only now its dates have a time zone.
        """
        out = np.zeros((table.n_rows, self.n_numbers + len(self.categories)), np.float32)
        place = {name: column for column, name in enumerate(self.names)}
        flag = len(self.numbers)
        for i, number in enumerate(self.numbers):
            _check_kind(number.name, number.kind, table.kind(place[number.name]))
            _check_zone(number.name, number.zoned, table.zoned(place[number.name]))
            for rows in _blocks(table.n_rows):
                x = table.numbers(place[number.name], rows)
                _check_finite(number.name, x)
                missing = np.isnan(x)
                with np.errstate(over="ignore"):
                    z = (x - number.center) / number.scale
                z[missing] = 0.0
                z = z.clip(-_FAR, _FAR)
                out[rows, i] = z / np.sqrt(1.0 + np.square(z / LARGEST))
                if number.missing:
                    out[rows, flag] = missing
            flag += number.missing
        for i, category in enumerate(self.categories, self.n_numbers):
            kind = table.kind(place[category.name])
            values = table.categories(place[category.name])
            # A column whose values are all missing may be one of NaN.
            new_numbers = kind == "number" and not category.holds_numbers and any(values)
            if new_numbers or kind == "date":
                _check_kind(category.name, "category", kind)
            code = {value: n for n, value in enumerate(category.values, 1)}
            out[:, i] = [code.get(value, OTHER) for value in values]
        return out

    def one_hot(self, x: Any) -> Any:
        """The matrix with a column of zeros and ones for each code, for linear classifiers."""
        codes = zip(x[:, self.n_numbers :].T.astype(int), self.cardinalities, strict=True)
        ones = [np.eye(size, dtype=np.float32)[code] for code, size in codes]
        return np.hstack((x[:, : self.n_numbers], *ones))

    def original(self, x: Any) -> list[dict[str, str]]:
        """Rows of the matrix in the table's own units, as text; what a mixture means there."""
        rows = []
        for row in np.asarray(x, np.float64):
            found = {}
            flags = iter(row[len(self.numbers) : self.n_numbers])
            for value, number in zip(row, self.numbers, strict=False):
                z = value / math.sqrt(max(1 - (value / LARGEST) ** 2, 1e-9))
                own = number.center + number.scale * z
                found[number.name] = _as_date(own) if number.kind == "date" else f"{own:.6g}"
                if number.missing and next(flags) > 0.5:
                    found[number.name] = "missing"
            for code, category in zip(row[self.n_numbers :], self.categories, strict=True):
                known = category.values[int(code) - 1] if code else "other"
                found[category.name] = "missing" if known is None else known
            rows.append(found)
        return rows

    def as_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Columns:
        return cls(
            found["names"],
            [Number(**n) for n in found["numbers"]],
            [Category(**c) for c in found["categories"]],
            found["dropped"],
            found.get("chosen", []),  # files of before have none
        )

    def _add_number(self, name: str, kind: str, zoned: bool | None, x: Any) -> None:
        _check_finite(name, x)
        missing = np.isnan(x)
        x = x[~missing]
        if not len(x):
            self.dropped[name] = "has no values"
            return
        with np.errstate(over="ignore", invalid="ignore"):
            low, center, high = np.percentile(x, (25, 50, 75))
            # Where most values are the same, quartiles say nothing of the others.
            scale = (high - low) / _QUARTILES_APART or _deviation(x, center) or 1.0
        if not np.isfinite([center, scale]).all():
            raise ValueError(
                f"column {name!r} holds numbers farther apart than float64 can tell, "
                f"{np.finfo(np.float64).max:.2g}: divide the column by something"
            )
        gaps = bool(missing.any())
        self.numbers.append(Number(name, float(center), float(scale), gaps, kind, zoned))

    def _add_category(self, name: str, values: list[str | None]) -> None:
        counts = Counter(values)
        kept = [value for value, n in counts.most_common(MAX_CATEGORIES) if n > 1]
        if counts.keys() <= {None}:
            self.dropped[name] = "has no values"
        elif len(counts) < 2:
            self.dropped[name] = "has one value"
        elif not kept:
            self.dropped[name] = "has no value twice, as names or identifiers"
        else:
            # By name, so that codes do not depend on who came first.
            kept.sort(key=lambda value: (value is None, value))
            self.categories.append(Category(name, kept))


def _reads_as_number(value: str | None) -> bool:
    try:
        float(value or "")
    except ValueError:
        return value in ("True", "False")
    return True


def _check_kind(name: str, then: str, now: str) -> None:
    words = {"number": "numbers", "date": "dates", "category": "text"}
    if now not in (then, "empty"):
        raise ValueError(f"column {name!r} held {words[then]} in fit, and now holds {words[now]}")


def _check_zone(name: str, then: bool | None, now: bool | None) -> None:
    """Dates without a zone would be taken for UTC, and shift by hours."""
    if {then, now} == {True, False}:
        words = {True: "with a time zone", False: "without a time zone"}
        raise ValueError(
            f"column {name!r} held dates {words[bool(then)]} in fit, and now holds dates "
            f"{words[bool(now)]}: give them a zone in both, or in neither"
        )


def _blocks(n_rows: int) -> Iterator[slice]:
    for start in range(0, n_rows, _ROWS_PER_BLOCK):
        yield slice(start, start + _ROWS_PER_BLOCK)


def _deviation(x: Any, center: float) -> float:
    """Standard deviation, where its square might overflow, too."""
    x = x - center
    largest = abs(x).max()
    return float(largest * (x / largest).std()) if largest else 0.0


def _as_date(milliseconds: float) -> str:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    try:
        return f"{epoch + timedelta(milliseconds=milliseconds):%Y-%m-%d %H:%M}"
    except OverflowError:
        return f"{milliseconds:.4g}"


def _check_finite(name: str, x: Any) -> None:
    if np.isinf(x).any():
        raise ValueError(
            f"column {name!r} contains infinity: values must be finite, or missing (NaN)"
        )
