"""Numeric tables of the KEEL repository."""

from __future__ import annotations

import numpy as np

from mixnoise.checks import check_choice
from mixnoise.datasets.files import comma_separated, first_that_exists, folders, read_lines
from mixnoise.datasets.split import Split, make_split, standardised, stratified

_HOW_TO_GET_IT = (
    "put {name}.dat of https://sci2s.ugr.es/keel/datasets.php into $MIXNOISE_DATA/tabular (by "
    "default ~/.cache/mixnoise/tabular)"
)
# Rows, columns and classes.
_SIZES = {
    "letter": (20_000, 16, 26),
    "satimage": (6_435, 36, 6),
    "optdigits": (5_620, 64, 10),
    "penbased": (10_992, 16, 10),
    "texture": (5_500, 40, 11),
    "magic": (19_020, 10, 2),
}


def load_keel(name: str, validation: bool = False) -> Split:
    """A numeric table of KEEL (Alcala-Fdez et al., 2011), standardised by its training rows.

    A quarter of the rows, stratified and always the same ones, is the test set. Read from
    NAME.dat, or from keel_numeric6.tar.xz with such files, in ``$MIXNOISE_DATA/tabular``.

    Args:
        name: "letter" (20,000 rows of 16 columns, 26 classes), "satimage" (6,435 x 36, 6),
            "optdigits" (5,620 x 64, 10), "penbased" (10,992 x 16, 10), "texture" (5,500 x 40, 11)
            or "magic" (19,020 x 10, 2).
        validation: leave the test rows out, and put a quarter of the training rows in their place.

    Raises:
        ValueError: a name that is none of these; a file that is missing, truncated or altered.

    Example:
        >>> from mixnoise.datasets import load_keel
        >>> split = load_keel("letter")  # doctest: +SKIP
        >>> split.x_train.shape, split.x_test.shape  # doctest: +SKIP
        (torch.Size([15000, 16]), torch.Size([5000, 16]))
    """
    check_choice("name", name, tuple(_SIZES))
    n_rows, n_columns, n_classes = _SIZES[name]
    how = _HOW_TO_GET_IT.format(name=name)
    folder = next(folders("tabular"))
    path = first_that_exists([folder / f"{name}.dat", folder / "keel_numeric6.tar.xz"], how)
    lines = read_lines(path, f"{name}.dat", how)
    rows = comma_separated(lines, f"{name}.dat of {path}", n_rows, n_columns + 1)
    classes, y = np.unique([row[-1] for row in rows], return_inverse=True)
    try:
        with np.errstate(over="ignore"):
            x = np.array([row[:-1] for row in rows], np.float64).astype(np.float32)
        if not np.isfinite(x).all():
            raise ValueError("a number is NaN or beyond float32")
    except ValueError as error:
        raise ValueError(f"{name}.dat of {path} was altered: {error}; {how}") from error
    if len(classes) != n_classes:
        raise ValueError(
            f"{name}.dat of {path} was altered: it must have {n_classes} classes, got "
            f"{len(classes)}; {how}"
        )
    parts = stratified(x, y, 0.25, seed=0)
    return standardised(make_split(*parts, 0.25 if validation else None))
