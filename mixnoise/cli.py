"""The command ``mixnoise``."""

from __future__ import annotations

import ast
import json
from dataclasses import asdict, astuple
from typing import Annotated, Any

try:
    import typer
except ModuleNotFoundError as error:
    raise SystemExit(f"mixnoise: {error}; pip install 'mixnoise[cli]'") from error

from mixnoise.plugins import NoisePluginError
from mixnoise.registry import get_noise, noise_entries

app = typer.Typer(
    name="mixnoise",
    help="Contrastive pre-training by mixup noise.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback()
def _commands() -> None:
    """Only commands: without this, typer would take a single command for the whole."""


@app.command()
def noises(as_json: AsJson = False) -> None:
    """List all noises: those of mixnoise and of other installed distributions.

    Nothing of theirs is imported, so a noise that is listed may still turn out to be broken:
    `mixnoise check NAME` tells.
    """
    entries = noise_entries()
    if as_json:
        typer.echo(json.dumps([asdict(entry) for entry in entries], indent=2))
        return
    header = ("name", "distribution", "version", "state", "description")
    table = [header, *(astuple(entry) for entry in entries)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        typer.echo("  ".join(cells).rstrip())


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="As `mixnoise noises` gives it.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Arguments of the noise, such as alpha=0.5."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run the conformance kit on a noise.

    The exit status is 0 if it passed, 1 if it failed, and 2 if there is no such noise or it cannot
    be built.
    """
    from mixnoise.testing import check_noise

    try:
        noise = get_noise(name, **dict(map(_argument, arguments or [])))
    except (NoisePluginError, TypeError, ValueError) as error:
        typer.echo(f"mixnoise: {error}", err=True)
        raise typer.Exit(2) from error
    report = check_noise(noise)
    typer.echo(json.dumps(report.as_dict(), indent=2) if as_json else str(report))
    raise typer.Exit(0 if report.passed else 1)


def _argument(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise ValueError(f"arguments must look like KEY=VALUE, got {text!r}")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value  # a word
