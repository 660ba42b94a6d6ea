"""Which noises there are, and whether one is sound."""

from __future__ import annotations

import ast
import json
from dataclasses import asdict, astuple
from typing import Annotated, Any

import typer

from mixnoise.cli.text import print_table
from mixnoise.plugins import NoisePluginError
from mixnoise.registry import get_noise, noise_entries

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


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
    print_table([header, *(astuple(entry) for entry in entries)])


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
    except Exception as error:  # a constructor is anybody's code, and raises what it likes
        typer.echo(f"mixnoise: {name} cannot be built: {error!r}", err=True)
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
