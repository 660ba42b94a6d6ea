"""Files that are whole or not there: written beside their place and renamed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """A path in the same folder and with the same suffix, whose file takes the place of ``path``.

    Nothing of it is left where an error is raised. The folder is made if it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"part-{path.name}")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
