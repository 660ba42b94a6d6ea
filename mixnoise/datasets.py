"""Real data for the demo and the benchmarks, split the same way every time."""

from __future__ import annotations

import gzip
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Rows ``(N, F)`` float32 in [0, 1] and labels ``(N,)`` int64."""

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor


def load_digits(validation: bool = False) -> Split:
    """Eight-by-eight images of handwritten digits: scikit-learn's copy of the UCI set.

    1,347 training and 450 test rows of 64 columns, stratified.

    Args:
        validation: leave the test rows out altogether and put a quarter of the training rows in
            their place: what hyper-parameters are chosen on.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(
        (x / 16).astype(np.float32), y, test_size=450, stratify=y, random_state=0
    )
    return _split(x_train, y_train, x_test, y_test, 0.25 if validation else None)


def load_fashion_mnist(validation: bool = False) -> Split:
    """Fashion-MNIST (Xiao et al., arXiv 1708.07747): 60,000 and 10,000 rows of 784 columns.

    Read from the four IDX files in ``$MIXNOISE_DATA/fashion-mnist``, or where Debian's package
    dataset-fashion-mnist puts them; otherwise scikit-learn downloads and keeps it.

    Args:
        validation: leave the test rows out, and put 10,000 training rows in their place.
    """
    folder = next((f for f in folders("fashion-mnist") if f.is_dir()), None)
    if folder is None:
        from sklearn.datasets import fetch_openml

        x, y = fetch_openml("Fashion-MNIST", version=1, return_X_y=True, as_frame=False)
        parts = [x[:60_000], y[:60_000].astype(np.int64), x[60_000:], y[60_000:].astype(np.int64)]
    else:
        parts = [
            read_idx(folder / f"{part}-{kind}-ubyte.gz", shape)
            for part, n_rows in (("train", 60_000), ("t10k", 10_000))
            for kind, shape in (("images-idx3", (n_rows, 28, 28)), ("labels-idx1", (n_rows,)))
        ]
    x_train, y_train, x_test, y_test = parts
    x_train, x_test = (x.reshape(-1, 784).astype(np.float32) / 255 for x in (x_train, x_test))
    return _split(x_train, y_train, x_test, y_test, 1 / 6 if validation else None)


def read_idx(path: Path, shape: tuple[int, ...]) -> Any:
    """An IDX file of unsigned bytes, gzipped, that must hold an array of this shape."""
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise ValueError(f"{path} is missing or damaged, expected a gzipped IDX file") from error
    header = struct.pack(f">I{len(shape)}I", 0x800 + len(shape), *shape)
    size = int(np.prod(shape))
    if not content.startswith(header) or len(content) != len(header) + size:
        raise ValueError(
            f"{path} must hold {shape} unsigned bytes in IDX format ({len(header) + size} bytes), "
            f"got {len(content)} bytes that begin with {content[: len(header)].hex()}"
        )
    return np.frombuffer(content, np.uint8, size, len(header)).reshape(shape)


def folders(name: str) -> Iterator[Path]:
    """Where a set may be: the user's own data folder, then where Debian's packages put theirs."""
    if root := os.environ.get("MIXNOISE_DATA"):
        yield Path(root) / name
    yield Path("/usr/share/datasets") / name


def _split(x_train: Any, y_train: Any, x_test: Any, y_test: Any, held_out: float | None) -> Split:
    if held_out is not None:
        from sklearn.model_selection import train_test_split

        x_train, x_test, y_train, y_test = train_test_split(
            x_train, y_train, test_size=held_out, stratify=y_train, random_state=1
        )
    x = [torch.as_tensor(part) for part in (x_train, x_test)]
    y = [torch.as_tensor(np.asarray(part, np.int64)) for part in (y_train, y_test)]
    return Split(x[0], y[0], x[1], y[1])
