"""Tables in files: csv, tsv, parquet, feather, npy, npz. What is wrong with one is said with its
line and column."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from mixnoise.atomic import replacing
from mixnoise.batches import native
from mixnoise.cli.csv_files import NUMBER, check_unique, read_text, rows_of_text

SEPARATORS = {".csv": ",", ".tsv": "\t"}
FEATHER = (".feather", ".arrow", ".ipc")
SUFFIXES = (*SEPARATORS, ".parquet", *FEATHER, ".npy", ".npz")
WRITTEN = (*SEPARATORS, ".parquet", *FEATHER, ".npy")
# Where so many values of a column are numbers, the others are mistakes.
_MOSTLY = 0.9
_COLUMNS_AT_A_TIME = 8
_ROWS_AT_A_TIME = 4096
_MARKED_NUMBER = r"^[-+]?[$€£]?(\d{1,3}(,\d{3})+(\.\d+)?|\d+([.,]\d+)?)[%$€£]?$"
_NOT_FINITE = "is not finite; correct it, or make it a missing value"
_INDEX = r"__index_level_\d+__"  # pandas's


@dataclass
class TableFile:
    """What is in a file: columns of an Arrow table, or a matrix with other columns beside it.

    ``has_names`` says of a text file whether its first line has the names of the columns.
    """

    path: Path
    columns: dict[str, Any]  # name to Arrow column or array
    matrix: Any = None
    has_names: bool | None = None

    @property
    def names(self) -> list[str]:
        matrix = [] if self.matrix is None else [f"x{i}" for i in range(self.matrix.shape[1])]
        return [*matrix, *self.columns]

    @property
    def beside(self) -> list[str]:
        """Arrays of one value a row beside a matrix, as labels are."""
        return [] if self.matrix is None else list(self.columns)

    @property
    def n_rows(self) -> int:
        if self.matrix is not None:
            return len(self.matrix)
        return len(next(iter(self.columns.values())))

    def check_names(self, option: str, names: Sequence[str]) -> None:
        """Raise a ValueError if a column that an option names is not there."""
        import difflib

        for name in names:
            if name not in self.names:
                close = difflib.get_close_matches(name, self.names, 3)
                hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
                if self.has_names is False:
                    hint = (
                        "; there is a number in its first line, which was taken for data, and "
                        "columns are called x0, x1 and so on"
                    )
                raise ValueError(f"{option}: {self.path} has no column {name!r}{hint}")

    def column(self, name: str) -> Any:
        """A column as the file has it: Arrow's, or an array."""
        return self.columns[name] if name in self.columns else self.matrix[:, int(name[1:])]

    def is_text(self, name: str) -> bool:
        """Whether a column holds text; one of a matrix, or beside it, does not."""
        import pyarrow as pa

        kind = getattr(self.column(name), "type", None)
        return kind in (pa.string(), pa.large_string())

    def values(self, name: str) -> Any:
        """A column as an array; what is missing is None or NaN."""
        column = self.column(name)
        return column if isinstance(column, np.ndarray) else column.to_numpy(zero_copy_only=False)

    def without(self, names: Sequence[str]) -> Any:
        """What an estimator takes: a matrix, or an Arrow table."""
        import pyarrow as pa

        if self.matrix is None:
            return pa.table({k: v for k, v in self.columns.items() if k not in names})
        kept = [i for i in range(self.matrix.shape[1]) if f"x{i}" not in names]
        return self.matrix if len(kept) == self.matrix.shape[1] else self.matrix[:, kept]

    def check_numbers(self, besides: Sequence[str]) -> None:
        """Raise a ValueError at the first value that is no number in a column of numbers.

        In columns of text that are not named, of which at least nine tenths are numbers, or would
        be but for marks of thousands, money and per cent, or a decimal comma.
        """
        import pyarrow.compute as pc

        for name, column in self.columns.items():
            if name in besides or not self.is_text(name):
                continue
            wrong = pc.invert(pc.match_substring_regex(column, f"^{NUMBER}$"))
            n_wrong, n = pc.sum(wrong).as_py() or 0, len(column) - column.null_count
            marked = pc.match_substring_regex(column, _MARKED_NUMBER)
            if 0 < n_wrong <= (1 - _MOSTLY) * n:
                rule = (
                    f"a number, as {n - n_wrong:,} of {n:,} values are; correct it, leave it empty"
                )
            elif n_wrong and pc.sum(marked).as_py() >= _MOSTLY * n:
                rule = "a plain number; write digits with a decimal point alone"
            else:
                continue
            row = pc.index(wrong, True).as_py()
            what = f"{column[row].as_py()!r} is not {rule}, or say --categorical {name}"
            self._raise_at(row, name, what)

    def check_kinds(self, numbers: Collection[str], texts: Collection[str]) -> None:
        """Raise a ValueError where a column of text is of another kind than in the run.

        At the first value that is no number in columns that held such, truth values among them; and
        if all values are numbers in columns that held text.
        """
        import pyarrow.compute as pc

        for name, column in self.columns.items():
            if not self.is_text(name):
                continue
            pattern = f"^{NUMBER}$" if name in texts else f"(?i)^({NUMBER}|true|false)$"
            row = pc.index(pc.match_substring_regex(column, pattern), False).as_py()
            if name in numbers and row >= 0:
                rule = "a number, as the run had there; correct it or leave it empty"
                self._raise_at(row, name, f"{column[row].as_py()!r} is not {rule}")
            if name in texts and row < 0 and column.null_count < len(column):
                raise ValueError(
                    f"{self.path}: column {name!r} held text in the run, and now holds numbers"
                )

    def check_finite(self, names: Collection[str]) -> None:
        """Raise a ValueError at the first infinite value of some columns."""
        import pyarrow as pa
        import pyarrow.compute as pc

        for name, column in self.columns.items():
            if name in names and pa.types.is_floating(getattr(column, "type", pa.null())):
                row = pc.index(pc.is_inf(column), True).as_py()
                if row >= 0:
                    self._raise_at(row, name, f"{column[row]} {_NOT_FINITE}")
        matrix = np.empty((0, 0)) if self.matrix is None else self.matrix
        for start in range(0, len(matrix), _ROWS_AT_A_TIME):
            rows = matrix[start : start + _ROWS_AT_A_TIME]
            for row, column in np.argwhere(np.isinf(rows)):
                if f"x{column}" in names:
                    what = f"{rows[row, column]} {_NOT_FINITE}"
                    self._raise_at(start + row, f"x{column}", what)

    def _raise_at(self, row: int, name: str, what: str) -> NoReturn:
        raise ValueError(f"{self.path}:{self._where(row)}: column {name!r}: {what}")

    def _where(self, row: int) -> str:
        """A row's line in a text file, where there are blank lines and cells of several lines."""
        if self.has_names is not None:
            separator = SEPARATORS[self.path.suffix.lower()]
            rows = rows_of_text(self.path, separator, len(self.columns))
            for line, _ in islice(rows, row + self.has_names, None):
                return str(line)
        return f"row {row + 1}"


def read_table(path: str | Path, texts: Collection[str] = ()) -> TableFile:
    """Read a file; the kind is decided by its suffix.

    In text files the first line has the names, unless there is a number among them; then columns
    are called x0, x1 and so on. Empty fields, "?", "NA", "null" and the like are missing values.
    The index of a data frame is no column: one that pandas calls so, or in text files a first one
    without a name whose integers only rise.

    Args:
        texts: columns of a text file that are text, whatever the values of this file look like.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is of no known kind, empty, ragged, truncated, or not a table; the message
            has the line where there is one.
    """
    path = Path(path)
    if path.is_dir() or not path.exists():
        what = "is a folder, not a file" if path.is_dir() else "no such file"
        raise FileNotFoundError(f"{path}: {what}")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(
            f"{path}: tables are read from {', '.join(SUFFIXES)} files, got {suffix or 'no suffix'}"
        )
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty")
    try:
        if suffix in SEPARATORS:
            columns, has_names = read_text(path, SEPARATORS[suffix], texts)
            found = TableFile(path, columns, has_names=has_names)
        elif suffix in (".npy", ".npz"):
            found = _read_numpy(path)
        else:
            found = _read_arrow(path, suffix)
    except ImportError as error:
        raise ImportError(f"{path}: {error}; pip install 'mixnoise[tables]'") from error
    if not found.names or found.n_rows == 0:
        raise ValueError(f"{path}: the table has {found.n_rows if found.names else 0} rows")
    return found


def check_output(path: Path, beside: Iterable[str], names: Sequence[str]) -> None:
    """What write_table would refuse, known before there is anything to write.

    Raises:
        ValueError: no such kind can be written, or a column beside the features is called as one.
    """
    if path.suffix.lower() not in WRITTEN:
        raise ValueError(f"--output: features are written to {', '.join(WRITTEN)}, got {path}")
    for name in beside:
        if name in names:
            raise ValueError(f"column {name!r} is called as a feature is; rename it")


def write_table(path: Path, beside: dict[str, Any], features: Any, names: Sequence[str]) -> None:
    """Features and other columns; the kind is decided by the suffix. Written beside and renamed.

    A .npy holds one matrix, and has the features alone.

    Raises:
        ValueError: see check_output; or such a file cannot hold one of the columns.
    """
    import pyarrow as pa
    from pyarrow import csv as arrow_csv
    from pyarrow import feather, parquet

    check_output(path, beside, names)
    suffix = path.suffix.lower()
    with replacing(path) as part:
        if suffix == ".npy":
            with part.open("wb") as file:  # by name it would append a suffix of its own
                np.save(file, features)
            return
        table = pa.table({**beside, **dict(zip(names, features.T, strict=True))})
        try:
            if suffix == ".parquet":
                parquet.write_table(table, part)
            elif suffix in FEATHER:
                feather.write_feather(table, part)
            else:
                options = arrow_csv.WriteOptions(delimiter=SEPARATORS[suffix])
                arrow_csv.write_csv(table, part, options)
        except pa.ArrowException as error:
            raise ValueError(f"--output: {path}: {error}; write a .parquet file") from error


def _read_arrow(path: Path, suffix: str) -> TableFile:
    import pyarrow as pa
    from pyarrow import feather, parquet

    try:
        if suffix == ".parquet":
            return TableFile(path, _read_parquet(path, parquet.ParquetFile(path)))
        table = feather.read_table(path)
    except (pa.ArrowException, OSError) as error:
        kind = "parquet" if suffix == ".parquet" else "feather"
        raise ValueError(f"{path}: not a whole {kind} file: {error}") from error
    check_unique(path, table.column_names)
    columns = zip(table.column_names, map(_without_views, table.columns), strict=True)
    return TableFile(path, {k: v for k, v in columns if not re.fullmatch(_INDEX, k)})


def _without_views(column: Any) -> Any:
    """Text and bytes may be views, of which Arrow can neither take rows nor write them to csv."""
    import pyarrow as pa

    kind = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}.get(column.type)
    if kind is None:
        return column
    # By way of numpy, since not all versions can cast them.
    values = (pa.array(c.to_numpy(zero_copy_only=False), kind) for c in column.chunks)
    return pa.chunked_array(values, kind)


def _read_parquet(path: Path, file: Any) -> dict[str, Any]:
    """Some columns at a time: all at once would take the memory of the table twice."""
    names: list[str] = file.schema_arrow.names
    check_unique(path, names)
    names = [name for name in names if not re.fullmatch(_INDEX, name)]
    columns: dict[str, Any] = {}
    for start in range(0, len(names), _COLUMNS_AT_A_TIME):
        some = file.read(names[start : start + _COLUMNS_AT_A_TIME])
        columns.update(zip(some.column_names, map(_without_views, some.columns), strict=True))
    return columns


def _read_numpy(path: Path) -> TableFile:
    """The matrix, and arrays of one value a row beside it, as labels are."""
    try:
        if path.suffix.lower() == ".npy":
            arrays = {"": np.load(path, mmap_mode="r", allow_pickle=False)}
        else:
            with path.open("rb") as file:
                loaded = np.load(file, allow_pickle=False)
                arrays = {name: loaded[name] for name in loaded}
    except Exception as error:  # zipfile's, numpy's and the system's own
        raise ValueError(f"{path}: not a whole file of numpy arrays: {error}") from error
    matrices = {k: a for k, a in arrays.items() if a.ndim == 2}
    if len(matrices) != 1:
        shapes = ", ".join(f"{k or 'array'} {a.shape}" for k, a in arrays.items())
        raise ValueError(f"{path}: there must be one matrix of shape (rows, columns), got {shapes}")
    ((name, matrix),) = matrices.items()
    if matrix.dtype.kind not in "biuf":
        raise ValueError(f"{path}: {name or 'the array'} must hold numbers, got {matrix.dtype}")
    others = {k: native(a) for k, a in arrays.items() if a.ndim == 1 and len(a) == len(matrix)}
    for k, a in others.items():
        if a.dtype.kind not in "biufUM":
            raise ValueError(f"{path}: {k} must hold numbers, text or dates, got {a.dtype}")
    found = TableFile(path, others, native(matrix))
    check_unique(path, found.names)
    return found
