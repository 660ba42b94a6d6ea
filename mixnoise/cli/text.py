"""Tables in plain text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import typer


def print_table(rows: Iterable[Sequence[str]]) -> None:
    """Left-aligned columns, two spaces apart; the first row is the head."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        typer.echo("  ".join(cells).rstrip())
