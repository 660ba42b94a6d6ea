"""The command ``mixnoise``."""

from __future__ import annotations

import sys
from typing import Annotated

try:
    import typer
except ModuleNotFoundError as error:
    raise SystemExit(f"mixnoise: {error}; pip install 'mixnoise[cli]'") from error

from mixnoise._version import __version__
from mixnoise.cli.interrupts import Interrupted
from mixnoise.cli.measure import bench, demo
from mixnoise.cli.noises import check, noises
from mixnoise.cli.runs import info
from mixnoise.cli.tables import embed, pretrain, probe
from mixnoise.plugins import NoisePluginError

app = typer.Typer(
    name="mixnoise",
    help="Contrastive pre-training by mixup noise: better features for tables, without labels.\n\n"
    "Start with `mixnoise pretrain TABLE.csv --label COLUMN`, then `mixnoise probe` says whether "
    "it helps, and `mixnoise embed` writes the features.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mixnoise {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Say it and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    pass


for _command in (pretrain, embed, probe, info, demo, bench, noises, check):
    app.command()(_command)


# Errors that the library raises about arguments, files, data, installed packages and plugins.
_OF_THE_USER = (
    *(ValueError, TypeError, OSError, ImportError),
    *(FloatingPointError, NoisePluginError),  # the first: a loss that is not finite
)

# What the library calls otherwise than the command line, in messages of what no option can check.
_AS_OPTIONS = {
    "run_dir ": "--run ",
    "resume=True": "--resume",
    "name it in categorical_features, or leave it out": "pre-train with --categorical or --leave",
    "learning_rate must": "--lr must",
    "labels_per_class must": "--labels-per-class must",
}


def main() -> None:
    """What is wrong with arguments, files or data is said in a line, with exit status 2."""
    try:
        app()
    except Interrupted as interrupted:
        print(f"mixnoise: {interrupted}", file=sys.stderr)
        raise SystemExit(130) from None
    except _OF_THE_USER as error:
        message = str(error)
        for argument, option in _AS_OPTIONS.items():
            message = message.replace(argument, option)
        print(f"mixnoise: {message}", file=sys.stderr)
        raise SystemExit(2) from error
