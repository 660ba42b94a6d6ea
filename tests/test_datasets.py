"""The data sets of the demo."""

import gzip

import numpy as np
import pytest
import torch

from mixnoise.datasets import folders, load_digits, load_fashion_mnist, read_idx


def idx(shape, content=None):
    header = b"\x00\x00\x08" + bytes([len(shape)]) + np.array(shape, ">u4").tobytes()
    return gzip.compress(header + (bytes(range(np.prod(shape))) if content is None else content))


def test_digits():
    split = load_digits()
    assert split.x_train.shape == (1347, 64)
    assert split.x_test.shape == (450, 64)
    assert split.x_train.min() == 0
    assert split.x_train.max() == 1
    assert split.y_test.bincount().min() >= 43  # stratified


def test_validation_never_sees_the_test_rows():
    final, search = load_digits(), load_digits(validation=True)

    def rows(x):
        return {tuple(row) for row in x.tolist()}

    assert not rows(final.x_test) & rows(torch.cat((search.x_train, search.x_test)))
    assert rows(final.x_train) == rows(torch.cat((search.x_train, search.x_test)))


@pytest.mark.skipif(
    not any(folder.is_dir() for folder in folders("fashion-mnist")),
    reason="needs Debian's dataset-fashion-mnist, or its files in $MIXNOISE_DATA/fashion-mnist",
)
def test_fashion_mnist():
    split = load_fashion_mnist()
    assert split.x_train.shape == (60_000, 784)
    assert split.x_test.shape == (10_000, 784)
    assert split.y_train.bincount().tolist() == [6000] * 10
    assert split.y_test.bincount().tolist() == [1000] * 10
    # As its authors give them: mean and standard deviation of the training pixels.
    assert split.x_train.mean().item() == pytest.approx(0.2860, abs=1e-4)
    assert split.x_train.std().item() == pytest.approx(0.3530, abs=1e-4)
    validation = load_fashion_mnist(validation=True)
    assert validation.x_train.shape == (50_000, 784)
    assert validation.y_test.bincount().tolist() == [1000] * 10


def test_idx(tmp_path):
    (tmp_path / "a.gz").write_bytes(idx((2, 3)))
    assert read_idx(tmp_path / "a.gz", (2, 3)).tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is missing or damaged, expected a gzipped IDX file"),
        (b"not gzip", "is missing or damaged"),
        (idx((2, 3))[:-12], "is missing or damaged"),
        (
            idx((3, 2)),
            r"must hold \(2, 3\) unsigned bytes in IDX format \(18 bytes\), got 18 bytes",
        ),
        (idx((2, 3), bytes(5)), "got 17 bytes that begin with 00000802"),
        (idx((2, 3), bytes(7)), "got 19 bytes"),
    ],
    ids=["missing", "not gzip", "truncated gzip", "other shape", "too short", "too long"],
)
def test_damaged_idx(tmp_path, content, message):
    if content is not None:
        (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_idx(tmp_path / "a.gz", (2, 3))


def test_data_folder_comes_first(tmp_path, monkeypatch):
    (tmp_path / "fashion-mnist").mkdir()
    monkeypatch.setenv("MIXNOISE_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz is missing or damaged"):
        load_fashion_mnist()
