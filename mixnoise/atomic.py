"""Files that are whole or not there: written beside their place and renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def replacing(path: Path, flushed: bool = False, new: bool = False) -> Iterator[Path]:
    """A path in the same folder and with the same suffix, whose file takes the place of ``path``.

    It is another one for everybody who writes, so of several at a time the last one wins, or with
    ``new`` the first one. Nothing of it is left where an error is raised. The folder is made if it
    is missing.

    Raises:
        FileExistsError: it was to be new, and there is such a file now.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"part-{uuid4().hex[:8]}-{path.name}")
    try:
        yield part
        if flushed:
            flush(part)
        if new:
            _appear(part, path)
        else:
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _appear(part: Path, path: Path) -> None:
    """Gives part the name of path, unless it is taken: a link fails then, a rename does not."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if path.exists():
            raise FileExistsError(f"{path} exists") from None
        part.replace(path)


def flush(path: Path) -> None:
    """Forces a file, or the names in a folder, onto the disk."""
    if path.is_dir() and not hasattr(os, "O_DIRECTORY"):
        return  # Windows
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
