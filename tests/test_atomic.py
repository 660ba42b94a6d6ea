"""Files that are whole or not there."""

import os

import pytest

from mixnoise.atomic import replacing


def test_the_new_file_takes_the_place_of_the_old_one(tmp_path):
    path = tmp_path / "new folder" / "a.csv"
    for text in ("old", "new"):
        with replacing(path) as part:
            assert part.suffix == ".csv"
            part.write_text(text)
            assert not path.exists() or path.read_text() == "old"
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("old")

    def fail():
        with replacing(path) as part:
            part.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_that_write_at_the_same_time(tmp_path):
    path = tmp_path / "a.csv"
    with replacing(path) as first:
        first.write_text("first, which is longer")
        with replacing(path) as second:
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first, which is longer"


@pytest.mark.parametrize("links", [True, False])
def test_a_new_file_takes_the_place_of_none(links, monkeypatch, tmp_path):
    def refuse(*_):
        raise PermissionError("this file system has no links")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "a.json"
    with replacing(path, new=True) as part:
        part.write_text("first")

    def write():
        with replacing(path, new=True) as part:
            part.write_text("second")

    with pytest.raises(FileExistsError):
        write()
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]
