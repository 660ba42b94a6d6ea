"""Tables in text files: Arrow reads them, and what is wrong is said with its line."""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

_KNOWN_SEPARATORS = ",;\t|"
_BLOCK = 2**20  # bytes, at least
_BYTES_OF_A_CHARACTER = 4  # at most, in UTF-8
NUMBER = r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?"
_NULLS = ["", "?", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "null", "NULL", "None"]


def read_text(path: Path, separator: str, texts: Collection[str]) -> tuple[dict[str, Any], bool]:
    """Arrow columns by name, and whether the first line has the names; ``texts`` stay text."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    first, n_lines, following = _first_row(path, separator)
    has_names = not any(map(_is_number, first))
    if has_names and not following:  # names at most, which Arrow cannot skip without an end of line
        return {}, True
    names = [name.strip() for name in first] if has_names else [f"x{i}" for i in range(len(first))]
    check_unique(f"{path}:1", names)

    _check_quotes(path, separator)
    # Arrow reads blocks of bytes, of which each must hold a whole row.
    block = max(_BLOCK, _BYTES_OF_A_CHARACTER * (len("".join(first)) + len(first) + len(following)))
    skipped = n_lines if has_names else 0
    try:
        table = arrow_csv.read_csv(
            path,
            arrow_csv.ReadOptions(column_names=names, skip_rows=skipped, block_size=block),
            # Else cells of several lines are an error in files of more than a block.
            # A blank line is a missing value where there is one column only.
            arrow_csv.ParseOptions(
                delimiter=separator, newlines_in_values=True, ignore_empty_lines=len(names) > 1
            ),
            arrow_csv.ConvertOptions(
                null_values=[*_NULLS, *(f" {n}" for n in _NULLS)],
                strings_can_be_null=True,
                column_types={name: pa.string() for name in texts if name in names},
            ),
        )
    except pa.ArrowInvalid as error:
        raise ValueError(_text_error(path, separator, len(names), str(error))) from error
    columns = {}
    for name, column in zip(names, table.columns, strict=True):
        if pa.types.is_binary(column.type):
            raise ValueError(f"{path}: column {name!r} is not UTF-8 text; convert the file")
        text = pa.types.is_string(column.type)
        columns[name] = _trimmed(column, name in texts) if text else column
    # The index of a data frame. Not of two columns: blank lines, which are no rows of two, would be
    # rows of the one that is left.
    if has_names and names[0] == "" and len(names) > 2 and _counts(columns[""]):
        del columns[""]
    return columns, has_names


def _counts(column: Any) -> bool:
    """Whether it holds integers that only rise."""
    import pyarrow as pa

    if not pa.types.is_integer(column.type) or column.null_count:
        return False
    return bool((np.diff(column.to_numpy()) > 0).all())


def _trimmed(column: Any, stays_text: bool) -> Any:
    """Text without blanks around it; where nothing but missing values in blanks made it text, the
    numbers that it holds."""
    import pyarrow as pa
    import pyarrow.compute as pc

    trimmed = pc.utf8_trim_whitespace(column)
    missing = pc.is_in(trimmed, pa.array(_NULLS))
    if not pc.any(missing).as_py():
        return trimmed
    found = pc.if_else(missing, pa.scalar(None, pa.string()), trimmed)
    with suppress(pa.ArrowInvalid):
        return found if stays_text else found.cast(pa.float64())
    return found


def _check_quotes(path: Path, separator: str) -> None:
    """Raise if a quote is left open: what follows it would all be one cell."""
    with path.open("rb") as file:
        n_quotes = sum(part.count(b'"') for part in iter(partial(file.read, _BLOCK), b""))
    if n_quotes % 2 == 0:
        return
    line = 1
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        rows = csv.reader(file, delimiter=separator, strict=True)
        try:
            for _ in rows:
                line = rows.line_num + 1
        except csv.Error as error:
            raise ValueError(f"{path}:{line}: {error}; is a quote not closed?") from error


def _first_row(path: Path, separator: str) -> tuple[list[str], int, str]:
    """The fields of the first row, how many lines there are up to its end, and the next line."""
    # With surrogates for what is not UTF-8, of which those of later rows are no matter here.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        rows = csv.reader(file, delimiter=separator, skipinitialspace=True)
        try:
            first = next(filter(None, rows), [])
            "".join(first).encode()
        except csv.Error as error:
            raise ValueError(f"{path}:1: {error}; is a quote not closed?") from error
        except UnicodeEncodeError as error:
            raise ValueError(f"{path}:1: this is not UTF-8 text; convert the file") from error
        following = next(file, "")
    # As often in the next line: a lone column may have one in its name.
    for other in _KNOWN_SEPARATORS.replace(separator, ""):
        if len(first) == 1 and 0 < first[0].count(other) == following.count(other):
            raise ValueError(
                f"{path}:1: one column, {first[0]!r}; is {other!r} the separator? It must be "
                f"{separator!r} in {path.suffix} files"
            )
    return first, rows.line_num, following


def _text_error(path: Path, separator: str, n_columns: int, message: str) -> str:
    """The line of the first ragged row, which Arrow with threads does not tell, or its message."""
    for line, row in rows_of_text(path, separator, n_columns):
        if (len(row) or 1) != n_columns:
            got = f"{len(row)} field" + "s" * (len(row) != 1)
            return f"{path}:{line}: {got} in a table of {n_columns} columns"
    return f"{path}: {message}"


def rows_of_text(path: Path, separator: str, n_columns: int) -> Iterator[tuple[int, list[str]]]:
    """Rows, as Arrow counts them, each with the line that it begins at.

    Blank lines are rows below the first of a single column. Ends before a cell of more than
    ``csv.field_size_limit()``.
    """
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        rows, line, begun = csv.reader(file, delimiter=separator), 1, False
        with suppress(csv.Error):
            for row in rows:
                if row or (begun and n_columns == 1):
                    yield line, row
                    begun = True
                line = rows.line_num + 1


def check_unique(where: str | Path, names: Sequence[str]) -> None:
    """Raise if two columns share a name: of those only the last would be kept."""
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{where}: two columns are called {twice!r}; rename one")


def _is_number(field: str) -> bool:
    return re.fullmatch(NUMBER, field.strip()) is not None
