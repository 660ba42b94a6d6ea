"""The scale of a sparse matrix's columns: their largest magnitude, so that zero stays zero."""

from __future__ import annotations

from typing import Any

import numpy as np

from mixnoise.tabular.rows import SparseRows

# Scaled values up to here have squares, which batch norm sums, that are finite in float32.
_FAR = 1e18


def scale_of(matrix: Any) -> Any:
    """A divisor for each column, float64; 1 for those of zeros.

    Raises:
        ValueError: a value is NaN.
    """
    largest = _largest(matrix)
    return np.where(largest > 0, largest, 1.0)


def scaled_rows(matrix: Any, scale: Any) -> SparseRows:
    """The rows of a CSR matrix, divided by the scale of this one or of another.

    Raises:
        ValueError: a value is NaN, or so large that the network would overflow.
    """
    largest = _largest(matrix)
    with np.errstate(over="ignore"):
        far = np.flatnonzero(largest / scale > _FAR)
    if len(far):
        raise ValueError(
            f"column 'x{far[0]}' contains {largest[far[0]]:g}, and its largest magnitude in fit "
            f"was {scale[far[0]]:g}: values must not be more than {_FAR:g} times that"
        )
    return SparseRows(matrix, scale)


def _largest(matrix: Any) -> Any:
    # In float64: what is finite or not zero there may be neither in float32.
    largest = abs(matrix).max(axis=0).toarray().ravel().astype(np.float64)
    missing = np.flatnonzero(np.isnan(largest))
    if len(missing):
        raise ValueError(
            f"column 'x{missing[0]}' contains NaN: values of a sparse matrix must be finite; in "
            "dense arrays and data frames they may be missing"
        )
    return largest
