"""Where the files of a set are, and what is in them."""

from __future__ import annotations

import hashlib
import lzma
import os
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

# What reading a text file or an archive may raise.
_DAMAGED = (
    *(OSError, EOFError, KeyError, UnicodeDecodeError),
    *(tarfile.TarError, lzma.LZMAError, zlib.error),
)


def folders(name: str) -> Iterator[Path]:
    """Where a set may be: the user's data folder, then where Debian's packages put theirs."""
    root = os.environ.get("MIXNOISE_DATA")
    yield (Path(root) if root else Path.home() / ".cache" / "mixnoise") / name
    yield Path("/usr/share/datasets") / name


def not_downloaded(name: str, error: Exception) -> str:
    """The message for a data set that is neither on disk nor downloadable."""
    places = " or ".join(map(str, folders(name)))
    return f"{places} is missing, and the set could not be downloaded ({error})"


def first_that_exists(paths: list[Path], how_to_get_it: str) -> Path:
    """The first of these paths that exists.

    Raises:
        ValueError: there is none.
    """
    for path in paths:
        if path.exists():
            return path
    raise ValueError(f"{' or '.join(map(str, paths))} is missing; {how_to_get_it}")


def read_verified(path: Path, md5: str, how_to_get_it: str) -> bytes:
    """The content of a file that must be what its authors published.

    Raises:
        ValueError: it is missing or has another MD5.
    """
    if first_that_exists([path], how_to_get_it).is_dir():
        raise ValueError(f"{path} is a folder, and must be a file; {how_to_get_it}")
    content = path.read_bytes()
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise ValueError(
            f"{path} is truncated or was altered: its MD5 must be {md5}, got {found} of "
            f"{len(content):,} bytes; {how_to_get_it}"
        )
    return content


def read_lines(path: Path, member: str, how_to_get_it: str) -> list[str]:
    """The lines of a text file, or of a member of a tar archive.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        if path.suffixes[-2:-1] != [".tar"]:
            return path.read_text(encoding="utf-8").splitlines()
        with tarfile.open(path) as archive:
            file = archive.extractfile(member)
            if file is None:
                raise KeyError(member)
            return file.read().decode().splitlines()
    except _DAMAGED as error:
        raise ValueError(
            f"{path} is damaged, or has no {member} ({error}); {how_to_get_it}"
        ) from error


def comma_separated(lines: list[str], source: str, n_rows: int, n_columns: int) -> list[list[str]]:
    """Values separated by commas; lines that are empty or begin with "@" or "|" are skipped.

    Raises:
        ValueError: there are not so many rows, or one has not so many values.
    """
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line[0] in "@|":
            continue
        row = [value.strip() for value in line.split(",")]
        if len(row) != n_columns:
            raise ValueError(f"{source}:{number} must have {n_columns} values, got {len(row)}")
        rows.append(row)
    if len(rows) != n_rows:
        raise ValueError(f"{source} must have {n_rows:,} rows, got {len(rows):,}")
    return rows
