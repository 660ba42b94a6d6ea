"""Adult: who earns more than 50,000 dollars a year, from the United States' census of 1994."""

from __future__ import annotations

from typing import Any

import numpy as np

from mixnoise.datasets.files import comma_separated, first_that_exists, folders, read_lines
from mixnoise.datasets.split import Split, make_split, standardised

_HOW_TO_GET_IT = (
    "put adult.data and adult.test of https://archive.ics.uci.edu/dataset/2/adult into "
    "$MIXNOISE_DATA/tabular (by default ~/.cache/mixnoise/tabular)"
)
_N_VALUES = 15
_NAMES = (
    *("age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation"),
    *("relationship", "race", "sex", "capital-gain", "capital-loss", "hours-per-week"),
    "native-country",
)
_NUMERIC = (0, 2, 4, 10, 11, 12)
_SKEWED = (3, 4)  # of these, capital gain and loss: 0 for nine in ten, up to 99,999
_FILES = {"train": ("adult.data", 32_561), "test": ("adult.test", 16_281)}
_ABOVE_50K = {"train": 7841, "test": 3846}


def load_adult(validation: bool = False) -> Split:
    """The numeric columns of UCI's Adult (Kohavi, 1996): 32,561 and 16,281 rows of 6 columns.

    Capital gain and loss as log(1 + x), and all standardised by the training rows. The label is
    1 above 50,000 dollars. Read from adult.data and adult.test, or from adult.tar.xz with
    adult-train.csv and adult-test.csv, in ``$MIXNOISE_DATA/tabular``.

    Args:
        validation: leave the test rows out, and put a quarter of the training rows in their place.

    Raises:
        ValueError: a file is missing, truncated or altered.

    Example:
        >>> from mixnoise.datasets import load_adult
        >>> split = load_adult()  # doctest: +SKIP
        >>> split.x_train.shape, split.x_test.shape  # doctest: +SKIP
        (torch.Size([32561, 6]), torch.Size([16281, 6]))
    """
    x_train, y_train = _numeric("train")
    x_test, y_test = _numeric("test")
    return standardised(make_split(x_train, y_train, x_test, y_test, 0.25 if validation else None))


def load_adult_table() -> tuple[dict[str, Any], Any]:
    """All 14 columns of Adult as they are, of all 48,842 rows: the training rows, then the others.

    Read from the same files as :func:`load_adult`.

    Returns:
        Names to arrays, float64 or of text with None where a value is missing; the labels, 1 above
        50,000 dollars.

    Raises:
        ValueError: a file is missing, truncated or altered.

    Example:
        >>> from mixnoise.datasets import load_adult_table
        >>> columns, labels = load_adult_table()  # doctest: +SKIP
        >>> len(columns), len(labels)  # doctest: +SKIP
        (14, 48842)
    """
    rows, labels = zip(_read("train"), _read("test"), strict=True)
    columns: dict[str, Any] = {}
    for i, name in enumerate(_NAMES):
        values = [row[i] for part in rows for row in part]
        if i in _NUMERIC:
            columns[name] = np.array(values, np.float64)
        else:
            columns[name] = np.array([None if v == "?" else v for v in values], object)
    return columns, np.concatenate(labels)


def _numeric(part: str) -> tuple[Any, Any]:
    rows, y = _read(part)
    x = np.array([[row[i] for i in _NUMERIC] for row in rows], np.float32)
    x[:, _SKEWED] = np.log1p(x[:, _SKEWED])
    return x, y


def _read(part: str) -> tuple[list[list[str]], Any]:
    """The rows of a part as text, and its labels."""
    plain, n_rows = _FILES[part]
    folder = next(folders("tabular"))
    path = first_that_exists([folder / plain, folder / "adult.tar.xz"], _HOW_TO_GET_IT)
    lines = read_lines(path, f"adult-{part}.csv", _HOW_TO_GET_IT)
    rows = comma_separated(lines, str(path), n_rows, _N_VALUES)
    try:
        for row in rows:
            for i in _NUMERIC:
                if not 0 <= float(row[i]) < np.inf:
                    raise ValueError(f"{_NAMES[i]} must be finite and not negative, got {row[i]}")
    except ValueError as error:
        raise ValueError(f"{path} was altered: {error}; {_HOW_TO_GET_IT}") from error
    y = np.array([row[-1].startswith(">50K") for row in rows], np.int64)
    if y.sum() != _ABOVE_50K[part]:
        raise ValueError(
            f"{path} was altered: {_ABOVE_50K[part]:,} of its {part} rows must be above 50K, got "
            f"{y.sum():,}; {_HOW_TO_GET_IT}"
        )
    return rows, y
