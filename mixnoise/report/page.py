"""What is on the page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mixnoise._version import __version__
from mixnoise.atomic import replacing
from mixnoise.noises.base import Noise
from mixnoise.registry import get_noise
from mixnoise.report.figures import curves, projection
from mixnoise.tabular.columns import Columns
from mixnoise.tabular.noise import TableNoise

if TYPE_CHECKING:
    from mixnoise.sklearn import DACLEncoder

_ROWS_MIXED, _NUMBERS_SHOWN, _CATEGORIES_SHOWN = 5, 5, 3
_MIXING = ("linear", "geometric", "binary", "dacl+")
_OF_THE_RUN = ("run_dir", "resume", "verbose")


def write_report(
    path: Path, encoder: DACLEncoder, X: Any, n_rows: int, title: str, command: str, labels: Any
) -> None:
    """Write a self-contained HTML file: nothing is fetched when it is opened.

    Args:
        path: where it goes.
        encoder: a fitted one, on a dense table.
        X: some rows of the table that it was trained on, at least five.
        n_rows: how many there are in all.
        title: of the page.
        command: what makes the run again.
        labels: one for each row of X to colour it by, or None.
    """
    from jinja2 import Environment, PackageLoader

    noise = encoder.model_.noise
    assert encoder.columns_ is not None
    assert isinstance(noise, TableNoise)
    matrix = encoder.matrix(X)
    pictures = [
        projection("Columns, before", encoder.columns_.one_hot(matrix), labels),
        projection("Features, after", encoder.transform(X), labels),
    ]
    environment = Environment(
        loader=PackageLoader("mixnoise", "report"), autoescape=True, trim_blocks=True
    )
    text = environment.get_template("page.html.jinja").render(
        title=title,
        command=command,
        last=encoder.history_[-1],
        epochs=encoder.n_iter_,
        rows=n_rows,
        columns=encoder.columns_,
        curves=curves(encoder.history_),
        pictures=pictures,
        examples=examples(encoder.columns_, matrix, noise.numbers, encoder.alpha),
        settings={k: v for k, v in encoder.get_params().items() if k not in _OF_THE_RUN},
        versions=f"mixnoise {__version__}, torch {torch.__version__}",
    )
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def examples(
    columns: Columns, matrix: Any, own: Noise, alpha: float
) -> dict[str, list[dict[str, str]]]:
    """Five rows as they are, and a positive of each by several noises, in the table's own units.

    The one that was trained with comes first.
    """
    named = {own.name or type(own).__name__: own}
    for name in _MIXING:
        named.setdefault(name, get_noise(name, alpha=alpha))
    named.setdefault("gaussian", get_noise("gaussian"))
    names = [number.name for number in columns.numbers[:_NUMBERS_SHOWN]]
    names += [category.name for category in columns.categories[:_CATEGORIES_SHOWN]]
    x = torch.from_numpy(matrix)
    found = {"the rows themselves": x[:_ROWS_MIXED]}
    for name, each in named.items():
        views = TableNoise(each, columns.n_numbers, alpha).views(x, 1, seed=0)[0]
        found[name] = views[:_ROWS_MIXED]
    return {
        name: [{n: row[n] for n in names} for row in columns.original(rows.numpy())]
        for name, rows in found.items()
    }
