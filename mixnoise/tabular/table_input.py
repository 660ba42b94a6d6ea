"""What DACLEncoder is given: arrays, data frames and sparse matrices, and their columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import narwhals as nw
import numpy as np
from scipy.sparse import issparse
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data

from mixnoise.tabular.columns import Columns
from mixnoise.tabular.tables import (
    ArrayTable,
    FrameTable,
    array_names,
    as_frame,
    columns_named,
)


def validated(estimator: BaseEstimator, X: Any, reset: bool, least_rows: int) -> Any:
    """An array of numbers or a CSR matrix, as scikit-learn has it; a frame stays a frame.

    Raises:
        ValueError: too few rows, no column, or other columns than the estimator was fitted with;
            integers are masked.
        TypeError: X is a frame whose rows are not there yet.
    """
    if nw.dependencies.is_polars_lazyframe(X):
        raise TypeError("X must be a data frame with its rows, got a LazyFrame: collect() it")
    frame = as_frame(X)
    if frame is None:
        if np.ma.isMaskedArray(X):
            X = _unmasked(X)
        return validate_data(
            estimator,
            X,
            reset=reset,
            accept_sparse="csr",
            dtype=(np.float64, np.float32),
            ensure_all_finite="allow-nan",
            ensure_min_samples=least_rows,
        )
    if not frame.columns:
        raise ValueError("X must have at least one column, got a data frame with 0 feature(s)")
    # By this scikit-learn before 1.9 asks for the names, and polars 2 no longer has it.
    named = X if hasattr(X, "__dataframe__") else _without_rows(frame.columns)
    validate_data(estimator, named, reset=reset, skip_check_array=True)
    if not reset:
        _check_names(estimator, frame.columns)
    if len(X) < least_rows:
        raise ValueError(f"X must have at least {least_rows} rows, got {len(X)} sample(s)")
    return X


def _unmasked(X: Any) -> Any:
    """A masked array as a plain one: the values under the mask are not to be looked at."""
    if X.dtype.kind == "f":
        return X.filled(np.nan)
    if np.ma.getmaskarray(X).any():
        raise ValueError(
            f"X must have no masked values: fill them, or make them floating-point, got {X.dtype}"
        )
    return X.data


def _check_names(estimator: Any, names: Sequence[Any]) -> None:
    """Raise where scikit-learn does not: it compares names only if all of them are text."""
    columns: Columns | None = estimator.columns_
    if columns is None:
        return
    fitted_on_array = columns.names == array_names(len(columns.names))
    if hasattr(estimator, "feature_names_in_") or not fitted_on_array:
        seen = BaseEstimator()  # so that the message is scikit-learn's
        seen.feature_names_in_ = np.array(columns.names, dtype=object)
        validate_data(seen, _without_rows(map(str, names)), reset=False, skip_check_array=True)


def _without_rows(names: Iterable[str]) -> Any:
    import pyarrow as pa

    return pa.table({name: [] for name in names})


def table_of(X: Any, categorical: Sequence[int]) -> ArrayTable | FrameTable:
    """A table of a validated X that is not sparse; some columns are categories."""
    if as_frame(X) is not None:
        return FrameTable(X, categorical)
    return ArrayTable(X, _names(X), categorical)


def columns_of(X: Any, categorical: Any, rng: np.random.RandomState) -> Columns | None:
    """What the columns of a validated X are taken for; None for sparse matrices.

    Raises:
        ValueError: categorical does not fit X, or there is nothing to learn from, or a number is
            infinite, or numbers lie so far apart that float64 cannot hold the distance.
        TypeError: categorical is no collection of columns.
    """
    if not isinstance(categorical, Iterable):
        raise TypeError(
            f"categorical_features must be 'auto' or columns, got {categorical!r}; [] if only text "
            "is categories"
        )
    if issparse(X):
        if columns_named(categorical, range(X.shape[1])):
            raise ValueError(
                "categorical_features must be 'auto' for a sparse matrix, whose columns are all "
                f"numbers, got {categorical!r}; give a dense array or a data frame"
            )
        return None
    return Columns.of(table_of(X, columns_named(categorical, _names(X))), rng)


def _names(X: Any) -> list[Any]:
    frame = as_frame(X)
    return array_names(X.shape[1]) if frame is None else frame.columns
