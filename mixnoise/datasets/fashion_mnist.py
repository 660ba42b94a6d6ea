"""Fashion-MNIST, from IDX files or from OpenML."""

from __future__ import annotations

import gzip
import hashlib
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from mixnoise.datasets.files import folders, not_downloaded
from mixnoise.datasets.split import Split, make_split

_HOW_TO_GET_IT = (
    "Debian's package dataset-fashion-mnist has the four files, as has "
    "https://github.com/zalandoresearch/fashion-mnist; without a folder of them they come from "
    "OpenML"
)
# Shape, and MD5 of the content: the compressed files differ from one source to another.
_FILES = {
    "train-images-idx3-ubyte.gz": ((60_000, 28, 28), "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
    "train-labels-idx1-ubyte.gz": ((60_000,), "9018921c3c673c538a1fc5bad174d6f9"),
    "t10k-images-idx3-ubyte.gz": ((10_000, 28, 28), "8181f5470baa50b63fa0f6fddb340f0a"),
    "t10k-labels-idx1-ubyte.gz": ((10_000,), "15d484375f8d13e6eb1aabb0c3f46965"),
}


def load_fashion_mnist(validation: bool = False) -> Split:
    """Fashion-MNIST (Xiao et al., arXiv 1708.07747): 60,000 and 10,000 rows of 784 columns.

    Read from the four IDX files in ``$MIXNOISE_DATA/fashion-mnist``, or where Debian's package
    dataset-fashion-mnist puts them; otherwise scikit-learn downloads and keeps it.

    Args:
        validation: leave the test rows out, and put 10,000 training rows in their place.

    Raises:
        ValueError: a file is missing in the folder, truncated or altered, or cannot be downloaded.

    Example:
        >>> from mixnoise.datasets import load_fashion_mnist
        >>> split = load_fashion_mnist()  # doctest: +SKIP
        >>> split.x_train.shape, split.x_test.shape  # doctest: +SKIP
        (torch.Size([60000, 784]), torch.Size([10000, 784]))
    """
    folder = next((f for f in folders("fashion-mnist") if f.is_dir()), None)
    if folder is None:
        from sklearn.datasets import fetch_openml

        try:
            x, y = fetch_openml("Fashion-MNIST", version=1, return_X_y=True, as_frame=False)
        except OSError as error:
            raise ValueError(
                f"{not_downloaded('fashion-mnist', error)}; {_HOW_TO_GET_IT}"
            ) from error
        parts = [x[:60_000], y[:60_000].astype(np.int64), x[60_000:], y[60_000:].astype(np.int64)]
    else:
        parts = [read_idx(folder / name, *expected) for name, expected in _FILES.items()]
    x_train, y_train, x_test, y_test = parts
    x_train, x_test = (x.reshape(-1, 784).astype(np.float32) / 255 for x in (x_train, x_test))
    return make_split(x_train, y_train, x_test, y_test, 1 / 6 if validation else None)


def read_idx(path: Path, shape: tuple[int, ...], md5: str | None = None) -> Any:
    """An IDX file of unsigned bytes, gzipped, that must hold an array of this shape.

    Raises:
        ValueError: it does not, or the MD5 of its content is another one.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path} is missing or damaged, expected a gzipped IDX file; {_HOW_TO_GET_IT}"
        ) from error
    header = struct.pack(f">I{len(shape)}I", 0x800 + len(shape), *shape)
    size = int(np.prod(shape))
    if not content.startswith(header) or len(content) != len(header) + size:
        raise ValueError(
            f"{path} must hold {shape} unsigned bytes in IDX format ({len(header) + size} bytes), "
            f"got {len(content)} bytes that begin with {content[: len(header)].hex()}; "
            f"{_HOW_TO_GET_IT}"
        )
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if md5 not in (None, found):
        raise ValueError(
            f"{path} was altered: the MD5 of its content must be {md5}, got {found}; "
            f"{_HOW_TO_GET_IT}"
        )
    return np.frombuffer(content, np.uint8, size, len(header)).reshape(shape)
