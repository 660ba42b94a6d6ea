"""The data sets of the demo."""

import gzip
import hashlib
import io
import pickle
import tarfile
import urllib.error

import numpy as np
import pytest
import torch

from mixnoise.datasets import (
    ImageFolder,
    cifar,
    fashion_mnist,
    files,
    load_adult,
    load_cifar10,
    load_cifar100,
    load_digits,
    load_fashion_mnist,
    load_keel,
)
from mixnoise.datasets.fashion_mnist import read_idx
from mixnoise.datasets.files import folders, read_lines


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


def flipped(content):
    """With one byte changed, at any of some places."""
    for place in range(12, len(content) - 8, 7):
        yield content[:place] + bytes([content[place] ^ 0x5A]) + content[place + 1 :]


def test_idx_of_damaged_compression(tmp_path):
    content = idx((40, 10), np.random.default_rng(0).integers(0, 256, 400, np.uint8).tobytes())
    for damaged in flipped(content):
        (tmp_path / "a.gz").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.gz (is missing or damaged|must hold)"):
            read_idx(tmp_path / "a.gz", (40, 10), "0")


def test_archives_of_damaged_compression(tmp_path):
    with tarfile.open(tmp_path / "a.tar.xz", "w:xz") as archive:
        archive.addfile(member := tarfile.TarInfo("t"), io.BytesIO(b""))
        member.size, member.name = 400, "u"
        content = np.random.default_rng(0).integers(0, 256, 400, np.uint8).tobytes()
        archive.addfile(member, io.BytesIO(content))
    for damaged in flipped((tmp_path / "a.tar.xz").read_bytes()):
        (tmp_path / "b.tar.xz").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"(?s)b\.tar\.xz is damaged, .*; as you like"):
            read_lines(tmp_path / "b.tar.xz", "u", "as you like")


def test_a_download_that_fails_says_what_is_missing(data_folder, monkeypatch):
    def offline(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("sklearn.datasets.fetch_openml", offline)
    monkeypatch.setattr(files, "folders", lambda name: iter([data_folder / name]))
    monkeypatch.setattr(fashion_mnist, "folders", files.folders)
    message = r"fashion-mnist is missing, and the set could not be downloaded .*no network.*; "
    with pytest.raises(ValueError, match=message):
        load_fashion_mnist()


def test_altered_idx(tmp_path):
    (tmp_path / "a.gz").write_bytes(idx((2, 3)))
    md5 = hashlib.md5(gzip.decompress(idx((2, 3)))).hexdigest()
    assert read_idx(tmp_path / "a.gz", (2, 3), md5).shape == (2, 3)
    (tmp_path / "a.gz").write_bytes(idx((2, 3), bytes(6)))
    with pytest.raises(ValueError, match=f"was altered: the MD5 .* must be {md5}, .*; Debian's"):
        read_idx(tmp_path / "a.gz", (2, 3), md5)


def test_data_folder_comes_first(tmp_path, monkeypatch):
    (tmp_path / "fashion-mnist").mkdir()
    monkeypatch.setenv("MIXNOISE_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz is missing or damaged"):
        load_fashion_mnist()


# Tables.

TABULAR = next(folders("tabular"))
needs_tables = pytest.mark.skipif(
    not TABULAR.is_dir(), reason="needs adult and KEEL's sets in $MIXNOISE_DATA/tabular"
)


@pytest.fixture
def data_folder(tmp_path, monkeypatch):
    """An empty folder of data."""
    monkeypatch.setenv("MIXNOISE_DATA", str(tmp_path))
    return tmp_path


@needs_tables
def test_adult():
    split = load_adult()
    assert split.x_train.shape == (32_561, 6)
    assert split.x_test.shape == (16_281, 6)
    assert split.y_train.bincount().tolist() == [24_720, 7_841]
    assert split.x_train.mean(0).abs().max() < 1e-5
    assert (split.x_train.std(0) - 1).abs().max() < 1e-3
    validation = load_adult(validation=True)
    assert len(validation.x_train) + len(validation.x_test) == 32_561


@needs_tables
@pytest.mark.parametrize(("name", "rows", "columns", "classes"), [("satimage", 6435, 36, 6)])
def test_keel(name, rows, columns, classes):
    split = load_keel(name)
    assert split.x_train.shape == (rows - (rows + 3) // 4, columns)
    assert len(split.x_test) == (rows + 3) // 4
    assert split.y_train.unique().tolist() == list(range(classes))
    search = load_keel(name, validation=True)
    assert len(search.x_train) + len(search.x_test) == len(split.x_train)


def test_unknown_table():
    with pytest.raises(ValueError, match=r"name must be one of letter, satimage, .*, got 'iris'"):
        load_keel("iris")


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (load_adult, r"adult\.data or .*adult\.tar\.xz is missing; put adult\.data and"),
        (lambda: load_keel("magic"), r"magic\.dat or .* is missing; put magic\.dat of https"),
        (load_cifar10, r"cifar-10-batches-py or .*cifar10 is missing; unpack https"),
    ],
    ids=["adult", "keel", "cifar10"],
)
def test_missing_files_say_how_to_get_them(data_folder, load, message):
    with pytest.raises(ValueError, match=message):
        load()


MAGIC = [f"{i % 7},{i % 5},1,2,3,4,5,6,7,8,{'gh'[i % 2]}" for i in range(19_020)]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (MAGIC[:-1], r"magic\.dat of .* must have 19,020 rows, got 19,019"),
        ([*MAGIC[:2], "1,2,g", *MAGIC[3:]], r"magic\.dat of .*:3 must have 11 values, got 3"),
        (["x" + MAGIC[0], *MAGIC[1:]], r"altered: could not convert string to float: 'x0'; put"),
        ([MAGIC[0][:-1] + "q", *MAGIC[1:]], r"altered: it must have 2 classes, got 3; put"),
        (["nan" + MAGIC[0][1:], *MAGIC[1:]], r"altered: a number is NaN or beyond float32; put"),
        (["1e60" + MAGIC[0][1:], *MAGIC[1:]], r"altered: a number is NaN or beyond float32; put"),
    ],
    ids=["truncated", "short row", "not a number", "another class", "NaN", "too large"],
)
def test_altered_tables(data_folder, lines, message):
    (data_folder / "tabular").mkdir()
    path = data_folder / "tabular" / "magic.dat"
    path.write_text("@relation magic\n@data\n" + "\n".join(MAGIC) + "\n")
    split = load_keel("magic")
    assert split.x_train.shape == (14_265, 10)
    assert split.x_train[:, 2:].eq(0).all()  # constant columns
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=message):
        load_keel("magic")


def test_archives_that_are_truncated_or_lack_a_member(data_folder):
    path = data_folder / "tabular" / "keel_numeric6.tar.xz"
    path.parent.mkdir()
    with tarfile.open(path, "w:xz") as archive:
        content = "\n".join(MAGIC).encode()
        member = tarfile.TarInfo("magic.dat")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    assert load_keel("magic").x_test.shape == (4_755, 10)
    with pytest.raises(ValueError, match=r"has no letter\.dat .*; put letter\.dat"):
        load_keel("letter")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"keel_numeric6\.tar\.xz is damaged, .*; put magic"):
        load_keel("magic")


def test_altered_adult(data_folder):
    (data_folder / "tabular").mkdir()
    row = "39, State-gov, 77516, Bachelors, 13, Never-married, A, N, White, Male, 1, 0, 40, US, "
    lines = [row + (">50K" if i < 7_841 else "<=50K") for i in range(32_561)]
    (data_folder / "tabular" / "adult.data").write_text("\n".join(lines))
    lines = ["|1x3 Cross validator", *[row + "<=50K." for _ in range(16_281)]]
    (data_folder / "tabular" / "adult.test").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"adult\.test was altered: 3,846 of its test rows .* 0; "):
        load_adult()
    for altered in ("nan", "-inf", "-5"):
        lines[-1] = row.replace(" 40,", f" {altered},") + "<=50K."
        (data_folder / "tabular" / "adult.test").write_text("\n".join(lines))
        message = f"adult.test was altered: .* must be finite and not negative, got {altered}; put"
        with pytest.raises(ValueError, match=message):
            load_adult()


# CIFAR-10.


def batch_of_noise(path):
    """A batch as its authors' are, and its MD5."""
    pixels = np.random.default_rng(0).integers(0, 256, (cifar._IN_BATCH, 3072), np.uint8)
    labels = [i % 10 for i in range(len(pixels))]
    path.write_bytes(pickle.dumps({b"data": pixels, b"labels": labels}, protocol=4))
    return pixels, hashlib.md5(path.read_bytes()).hexdigest()


def test_batches_of_cifar10(data_folder, monkeypatch):
    monkeypatch.setattr(cifar, "_IN_BATCH", 100)
    folder = data_folder / "cifar-10-batches-py"
    folder.mkdir()
    pixels, md5 = batch_of_noise(folder / "data_batch_1")
    batch_of_noise(folder / "test_batch")
    monkeypatch.setattr(cifar, "_TRAIN", {"data_batch_1": md5})
    monkeypatch.setattr(cifar, "_TEST", {"test_batch": md5})
    split = load_cifar10()
    assert torch.equal(split.x_train, torch.tensor(pixels) / 255)
    assert split.y_test.tolist() == [i % 10 for i in range(100)]
    assert load_cifar10(validation=True).x_test.shape == (20, 3072)

    whole = (folder / "data_batch_1").read_bytes()
    (folder / "data_batch_1").write_bytes(whole[:-1])
    message = f"data_batch_1 is truncated or was altered: its MD5 must be {md5}, got .*; unpack"
    with pytest.raises(ValueError, match=message):
        load_cifar10()
    (folder / "data_batch_1").unlink()
    with pytest.raises(ValueError, match=r"data_batch_1 is missing; unpack https"):
        load_cifar10()
    (folder / "data_batch_1").mkdir()
    with pytest.raises(ValueError, match=r"data_batch_1 is a folder, and must be a file; unpack"):
        load_cifar10()


def test_batches_of_cifar100(data_folder, monkeypatch):
    with pytest.raises(ValueError, match=r"train is missing; unpack .*/cifar-100-python\.tar\.gz"):
        load_cifar100()
    folder = data_folder / "cifar-100-python"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (200, 3072), np.uint8)
    fine = [i % 100 for i in range(200)]
    batch = {b"data": pixels, b"fine_labels": fine, b"coarse_labels": [0] * 200}
    for name, constant in (("train", "_TRAIN_100"), ("test", "_TEST_100")):
        (folder / name).write_bytes(pickle.dumps(batch, protocol=4))
        md5 = hashlib.md5((folder / name).read_bytes()).hexdigest()
        monkeypatch.setattr(cifar, constant, {name: md5})
    split = load_cifar100()
    assert torch.equal(split.x_test, torch.tensor(pixels) / 255)
    assert split.y_train.tolist() == fine
    (folder / "test").write_bytes(b"else")
    with pytest.raises(ValueError, match=r"test is truncated or was altered: its MD5 must be"):
        load_cifar100()


# Folders of images.


def test_image_folder(tmp_path):
    image = pytest.importorskip("PIL.Image")
    sizes = {"cat": (40, 20), "dog": (16, 64)}
    for i, (name, size) in enumerate(sizes.items()):
        (tmp_path / name / "deeper").mkdir(parents=True)
        image.new("L" if i else "RGB", size, 200 if i else (255, 0, 0)).save(
            tmp_path / name / "deeper" / "a.PNG"
        )
    (tmp_path / "dog" / "notes.txt").write_text("no image")
    images = ImageFolder(tmp_path, size=14)
    assert images.classes == ["cat", "dog"]
    assert len(images) == 2
    cat, label = images[0]
    assert label == 0
    assert cat.shape == (3, 14, 14)
    assert cat.dtype == torch.float32
    assert torch.equal(cat, torch.tensor([1.0, 0, 0])[:, None, None].expand(3, 14, 14))
    grey, label = images[1]
    assert label == 1
    assert torch.allclose(grey, torch.tensor(200 / 255))

    (tmp_path / "cat" / "bad.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"bad\.jpg cannot be read as an image"):
        list(ImageFolder(tmp_path, size=14))
    with pytest.raises(ValueError, match="is missing or has no folders of images, one a class"):
        ImageFolder(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty has no images"):
        ImageFolder(tmp_path)


def test_image_folder_crops_the_middle(tmp_path):
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "a").mkdir()
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[:, 32:96, 1] = 255  # the middle square is green
    image.fromarray(pixels).save(tmp_path / "a" / "a.png")
    found, _ = ImageFolder(tmp_path, size=56)[0]
    assert torch.equal(found[1], torch.ones(56, 56))
    assert found[0].max() == 0


def test_batches_run_no_code(tmp_path):
    class Bad:
        def __reduce__(self):
            return exec, ("raise SystemExit('run')",)

    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps({b"data": Bad(), b"labels": []}, protocol=4))
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    with pytest.raises(pickle.UnpicklingError, match=r"exec has no place"):
        cifar.read_batch(path, md5)


def archive_of_jpegs(path, n_images=3):
    image = pytest.importorskip("PIL.Image")
    files = []
    for i in range(n_images):
        file = io.BytesIO()
        image.new("RGB", (32, 32), (80 * i, 0, 255)).save(file, "JPEG", quality=95)
        files.append(file.getvalue())
    offset = np.cumsum([0, *map(len, files)])
    jpeg = np.frombuffer(b"".join(files), np.uint8)
    np.savez(path, jpeg=jpeg, offset=offset, label=np.arange(n_images, dtype=np.uint8))


def test_jpegs(tmp_path):
    archive_of_jpegs(tmp_path / "a.npz")
    pixels, labels = cifar.read_jpegs(tmp_path / "a.npz", 3)
    assert labels.tolist() == [0, 1, 2]
    planes = pixels.reshape(3, 3, 32 * 32).astype(int)
    expected = np.array([[80 * i, 0, 255] for i in range(3)])[:, :, None]
    assert abs(planes - expected).max() <= 3
    with pytest.raises(ValueError, match=r"a\.npz is damaged, expected 4 JPEGs .* 3 labels"):
        cifar.read_jpegs(tmp_path / "a.npz", 4)
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"a\.npz is damaged, .*; unpack https"):
        cifar.read_jpegs(tmp_path / "a.npz", 3)


@pytest.mark.skipif(
    not next(folders("cifar10")).is_dir(),
    reason="needs the archive of JPEGs in $MIXNOISE_DATA/cifar10",
)
def test_cifar10_of_jpegs():
    pixels, labels = cifar.read_jpegs(next(folders("cifar10")) / "cifar10_jpeg75_test.npz", 10_000)
    assert pixels.shape == (10_000, 3072)
    assert np.bincount(labels).tolist() == [1000] * 10
    # Means of the colours, as published for the original images: 0.49, 0.48, 0.45.
    means = pixels.reshape(10_000, 3, -1).mean((0, 2)) / 255
    assert means == pytest.approx([0.494, 0.485, 0.450], abs=0.005)


@pytest.mark.parametrize(
    ("size", "label", "message"),
    [
        ((32, 1), 1, r"image 0 has \(32, 1\) pixels"),
        ((32, 32), 0.5, "labels must be integers from 0 to 9"),
        ((32, 32), -1, "labels must be integers from 0 to 9"),
    ],
)
def test_jpegs_of_another_size_or_label(tmp_path, size, label, message):
    image, file = pytest.importorskip("PIL.Image"), io.BytesIO()
    image.new("RGB", size).save(file, "JPEG")
    jpeg = np.frombuffer(file.getvalue(), np.uint8)
    np.savez(tmp_path / "a.npz", jpeg=jpeg, offset=[0, len(jpeg)], label=np.array([label]))
    with pytest.raises(ValueError, match=rf"a\.npz is damaged, .*{message}; unpack"):
        cifar.read_jpegs(tmp_path / "a.npz", 1)


def test_image_folder_refuses_sizes_and_bombs(tmp_path, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "cat").mkdir()
    image.new("RGB", (30, 20)).save(tmp_path / "cat" / "a.png")
    for size in (0, 8.5):
        with pytest.raises(ValueError, match=f"size must be an integer >= 1, got {size}"):
            ImageFolder(tmp_path, size)
    monkeypatch.setattr(image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match=r"a\.png cannot be read as an image"):
        ImageFolder(tmp_path, 8)[0]
