"""CIFAR-10 and CIFAR-100, from their authors' Python batches; the first from JPEGs, too."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from mixnoise.datasets.files import first_that_exists, folders, read_verified
from mixnoise.datasets.split import Split, make_split

_HOW_TO_GET_IT = (
    "unpack https://www.cs.toronto.edu/~kriz/cifar-{classes}-python.tar.gz in $MIXNOISE_DATA "
    "(by default ~/.cache/mixnoise)"
)
_HOW_TO_GET_10 = _HOW_TO_GET_IT.format(classes=10)
_HOW_TO_GET_100 = _HOW_TO_GET_IT.format(classes=100)
_TRAIN = {  # MD5
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
}
_TEST = {"test_batch": "40351d587109b95175f43aff81a1287e"}
_IN_BATCH = 10_000
_TRAIN_100 = {"train": "16019d7e3df5f24257cddd939b257f8d"}
_TEST_100 = {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"}


def load_cifar10(validation: bool = False) -> Split:
    """CIFAR-10 (Krizhevsky, 2009): 50,000 and 10,000 rows of 3 x 32 x 32 columns, planes of colour.

    Read from the Python batches in ``$MIXNOISE_DATA/cifar-10-batches-py``, whose MD5 is checked, or
    from cifar10_jpeg75_train.npz and cifar10_jpeg75_test.npz in ``$MIXNOISE_DATA/cifar10``: the
    same images in the same order as JPEG, so that figures differ from those of the original.

    Args:
        validation: leave the test rows out, and put 10,000 training rows in their place.

    Raises:
        ValueError: a file is missing, truncated or altered.
        ImportError: JPEGs without Pillow.

    Example:
        >>> from mixnoise.datasets import load_cifar10
        >>> split = load_cifar10()  # doctest: +SKIP
        >>> split.x_train.shape, split.x_test.shape  # doctest: +SKIP
        (torch.Size([50000, 3072]), torch.Size([10000, 3072]))
    """
    batches, archives = (next(folders(name)) for name in ("cifar-10-batches-py", "cifar10"))
    if first_that_exists([batches, archives], _HOW_TO_GET_10) == batches:
        x_train, y_train = _read_batches(batches, _TRAIN)
        x_test, y_test = _read_batches(batches, _TEST)
    else:
        x_train, y_train = read_jpegs(archives / "cifar10_jpeg75_train.npz", 5 * _IN_BATCH)
        x_test, y_test = read_jpegs(archives / "cifar10_jpeg75_test.npz", _IN_BATCH)
    x_train, x_test = (x.astype(np.float32) / 255 for x in (x_train, x_test))
    return make_split(x_train, y_train, x_test, y_test, 0.2 if validation else None)


def load_cifar100(validation: bool = False) -> Split:
    """CIFAR-100 (Krizhevsky, 2009), as :func:`load_cifar10`, with the 100 fine labels.

    Read from the Python batches in ``$MIXNOISE_DATA/cifar-100-python``, whose MD5 is checked.

    Args:
        validation: leave the test rows out, and put 10,000 training rows in their place.

    Raises:
        ValueError: a file is missing, truncated or altered.

    Example:
        >>> from mixnoise.datasets import load_cifar100
        >>> split = load_cifar100()  # doctest: +SKIP
        >>> split.x_train.shape, split.x_test.shape  # doctest: +SKIP
        (torch.Size([50000, 3072]), torch.Size([10000, 3072]))
    """
    folder = next(folders("cifar-100-python"))
    fine = {"labels": b"fine_labels", "how_to_get_it": _HOW_TO_GET_100}
    (x_train, y_train), (x_test, y_test) = (
        _read_batches(folder, md5, **fine) for md5 in (_TRAIN_100, _TEST_100)
    )
    x_train, x_test = (x.astype(np.float32) / 255 for x in (x_train, x_test))
    return make_split(x_train, y_train, x_test, y_test, 0.2 if validation else None)


def _read_batches(folder: Path, md5: dict[str, str], **settings: Any) -> tuple[Any, Any]:
    batches = (read_batch(folder / name, md5[name], **settings) for name in md5)
    pixels, labels = zip(*batches, strict=True)
    return np.concatenate(pixels), np.concatenate(labels)


class _ArraysOnly(pickle.Unpickler):
    """Makes NumPy arrays, and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if name == "_reconstruct" and module in (
            "numpy.core.multiarray",
            "numpy._core.multiarray",
        ):
            return np.ndarray.__reduce__(np.empty(0))[0]
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a batch of images")


def read_batch(
    path: Path, md5: str, labels: bytes = b"labels", how_to_get_it: str = _HOW_TO_GET_10
) -> tuple[Any, Any]:
    """Pixels ``(N, 3072)`` uint8 and labels ``(N,)`` of a Python batch.

    Raises:
        ValueError: it is not the file with this MD5.
    """
    content = read_verified(path, md5, how_to_get_it)
    batch = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
    return batch[b"data"], np.asarray(batch[labels])


def read_jpegs(path: Path, n_images: int) -> tuple[Any, Any]:
    """Pixels ``(n_images, 3072)`` uint8, planes of colour, and labels ``(n_images,)``.

    Args:
        path: an npz of ``jpeg``, the files one after the other; ``offset``, where each begins and
            the last one ends; ``label``.
        n_images: so many must be there.

    Raises:
        ValueError: they are not, or something in it cannot be read.
        ImportError: without Pillow.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("reading JPEGs needs Pillow: pip install 'mixnoise[data]'") from error
    first_that_exists([path], _HOW_TO_GET_10)
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as archive:
            jpeg, offset, label = (archive[name] for name in ("jpeg", "offset", "label"))
        if len(label) != n_images or len(offset) != n_images + 1:
            raise ValueError(f"{len(label):,} labels and {len(offset):,} offsets")
        pixels = np.empty((n_images, 3, 32, 32), np.uint8)
        for i, image in enumerate(pixels):
            file = io.BytesIO(jpeg[offset[i] : offset[i + 1]].tobytes())
            found = Image.open(file)
            if found.size != (32, 32):
                raise ValueError(f"image {i} has {found.size} pixels")
            image[:] = np.asarray(found.convert("RGB")).transpose(2, 0, 1)
        if label.dtype.kind not in "iu" or not ((label >= 0) & (label < 10)).all():
            raise ValueError("labels must be integers from 0 to 9")
    except Exception as error:
        raise ValueError(
            f"{path} is damaged, expected {n_images:,} JPEGs of 32 x 32 pixels and their labels: "
            f"{error}; {_HOW_TO_GET_10}"
        ) from error
    return pixels.reshape(n_images, -1), label.astype(np.int64)
