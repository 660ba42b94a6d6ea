"""Arrays and data frames as tables; a frame of any library that narwhals knows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import narwhals as nw
import numpy as np

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ArrayTable:
    """A matrix of numbers, some of whose columns may be codes of categories."""

    def __init__(self, x: Any, names: Sequence[str], categorical: Sequence[int] = ()) -> None:
        self.x, self.names, self.n_rows = x, list(names), len(x)
        self.categorical = frozenset(categorical)

    def kind(self, column: int) -> str:
        return "category" if column in self.categorical else "number"

    def zoned(self, column: int) -> None:
        return None

    def numbers(self, column: int, rows: Any) -> Any:
        return self.x[rows, column].astype(np.float64)

    def categories(self, column: int) -> list[str | None]:
        return [_text(value) for value in self.x[:, column].tolist()]


class FrameTable:
    """A data frame: numbers, booleans, dates and durations are numbers, text is categories.

    The kind of a column is "number", "date", "category", or "empty" where nothing tells.

    Args:
        categorical: indices of columns that are categories, whatever they hold.

    Raises:
        TypeError: another column holds what is neither text nor a number.
    """

    def __init__(self, frame: Any, categorical: Sequence[int] = ()) -> None:
        self.frame = nw.from_native(frame, eager_only=True)
        self.names, self.n_rows = list(map(str, self.frame.columns)), len(self.frame)
        self.categorical = frozenset(categorical)
        self.kinds = [
            "category" if i in self.categorical else _kind(self.frame[:, i])
            for i in range(len(self.names))
        ]

    def kind(self, column: int) -> str:
        return self.kinds[column]

    def zoned(self, column: int) -> bool | None:
        if self.kinds[column] != "date":
            return None
        series = self.frame[:, column]
        if series.null_count() == len(series):
            return None
        if series.dtype in (nw.Date, nw.Datetime):
            return getattr(series.dtype, "time_zone", None) is not None
        return any(getattr(v, "tzinfo", None) is not None for v in series.to_list())

    def numbers(self, column: int, rows: Any) -> Any:
        series = self.frame[rows if isinstance(rows, slice) else rows.tolist(), column]
        kind, dtype = self.kinds[column], series.dtype
        if kind == "empty":
            return np.full(len(series), math.nan)
        if dtype == nw.Date:
            series = series.cast(nw.Datetime("ms"))
        if dtype in (nw.Date, nw.Datetime):
            series = series.dt.timestamp("ms")
        elif dtype == nw.Duration:
            series = series.dt.total_milliseconds()
        elif dtype in (nw.Boolean, nw.Int128, nw.UInt128):
            # numpy has no missing booleans, and no integers of 128 bits
            series = series.cast(nw.Float64)
        elif not dtype.is_numeric():  # Python's objects
            number = _milliseconds if kind == "date" else _number
            values = series.to_list()
            return np.array([math.nan if _missing(v) else number(v) for v in values])
        # By numpy, since Arrow refuses to round integers above 2^53.
        return np.array(series.to_numpy(), np.float64)

    def categories(self, column: int) -> list[str | None]:
        return [_text(value) for value in self.frame[:, column].to_list()]


def as_frame(x: Any) -> Any:
    """A narwhals frame, or None if it is not one of any library."""
    frame = nw.from_native(x, eager_only=True, pass_through=True)
    return frame if isinstance(frame, nw.DataFrame) else None


def array_names(n_columns: int) -> list[str]:
    """What the columns of an array are called."""
    return [f"x{i}" for i in range(n_columns)]


def columns_named(chosen: Any, names: Sequence[Any]) -> list[int]:
    """Which columns are meant by "auto" (none), by names, by positions or by a mask.

    An integer is a position, also among names that are integers.

    Raises:
        ValueError: there is no such column, or the mask has another length.
    """
    if isinstance(chosen, str):
        if chosen == "auto":
            return []
        raise ValueError(f"categorical_features must be 'auto' or columns, got {chosen!r}")
    chosen = np.asarray(chosen).tolist()
    if chosen and all(isinstance(c, bool) for c in chosen):
        if len(chosen) != len(names):
            raise ValueError(
                f"categorical_features, a mask, must be as long as there are columns, "
                f"{len(names)}, got {len(chosen)}"
            )
        return [i for i, c in enumerate(chosen) if c]
    found = []
    for column in chosen:
        if isinstance(column, int) and 0 <= column < len(names):
            found.append(column)
        elif not isinstance(column, int) and column in names:
            found.append(list(names).index(column))
        else:
            positions = isinstance(column, int)
            rule = f"be positions from 0 to {len(names) - 1}" if positions else "name columns"
            raise ValueError(f"categorical_features must {rule}, got {column!r}")
    return found


def _kind(series: Any) -> str:
    dtype = series.dtype
    if dtype in (nw.Date, nw.Datetime):
        return "date"
    if dtype.is_numeric() or dtype in (nw.Boolean, nw.Duration):
        return "number"
    if dtype in (nw.String, nw.Categorical, nw.Enum):
        return "empty" if series.null_count() == len(series) else "category"
    values = [v for v in series.to_list() if not _missing(v)]
    if not values:
        return "empty"
    if all(isinstance(v, date) for v in values):  # datetime is one, too
        return "date"
    if all(isinstance(v, (int, float)) or hasattr(v, "__float__") for v in values):
        return "number"
    for value in values:
        if not isinstance(value, (str, int, float, np.number, np.bool_)):
            raise TypeError(
                f"column {series.name!r}: argument must be a string or a number, got "
                f"{type(value).__name__}; name it in categorical_features, or leave it out"
            )
    return "category"


def _missing(value: Any) -> bool:
    # pandas.NA is not equal to itself either, but says so with a value that is no truth value.
    differs = value != value
    return value is None or not isinstance(differs, (bool, np.bool_)) or bool(differs)


def _number(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer of hundreds of digits
        return math.inf


def _milliseconds(day: date) -> float:
    """Since 1970, in UTC if the time says no zone."""
    moment = day if isinstance(day, datetime) else datetime(day.year, day.month, day.day)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) / timedelta(milliseconds=1)


def _text(value: Any) -> str | None:
    """3.0 and 3 are one category: a frame has the one as soon as a value is missing."""
    if _missing(value):
        return None
    if isinstance(value, (float, np.floating)) and value.is_integer():
        value = int(value)
    return str(value)
