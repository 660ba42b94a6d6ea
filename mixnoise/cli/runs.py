"""What a run is, and how far it came."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from mixnoise.cli.tables import ENCODER
from mixnoise.cli.text import print_table


def info(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show settings, progress and the last figures of a run."""
    try:
        settings, found, last = _figures(run)
    except (csv.Error, LookupError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"{run}: config.json or metrics.csv is damaged: {error!r}") from error
    if as_json:
        content = {"run": str(run), **found, "last": last, "settings": settings}
        typer.echo(json.dumps(content, indent=2))
        return
    print_table(
        [
            ("run", str(run)),
            *found.items(),
            *((key, value) for key, value in last.items() if key != "epoch"),
            *((key, json.dumps(value)) for key, value in settings["arguments"].items()),
            ("noise", json.dumps(settings["noise"])),
            *((k, str(settings[k])) for k in ("mixnoise", "torch", "python", "threads")),
        ]
    )


def _figures(run: Path) -> tuple[dict[str, Any], dict[str, str], dict[str, str]]:
    """The settings of a run, how far it came, and its last figures."""
    from mixnoise.training.run_folder import RunFolder

    folder = RunFolder(run)
    settings = folder.config()
    if settings is None:
        raise ValueError(f"{run} is no folder of a run: it has no config.json")
    metrics = run / "metrics.csv"
    history = []
    if metrics.is_file():
        with metrics.open(encoding="utf-8", newline="") as file:
            history = list(csv.DictReader(file))
    last = {key: value for key, value in (history[-1] if history else {}).items() if value}
    checkpoint = folder.checkpoints.newest()
    found = {
        "epochs": f"{len(history)} of at most {settings['arguments']['epochs']}",
        "checkpoint": "none" if checkpoint is None else str(checkpoint),
        "encoder": str(run / ENCODER) if (run / ENCODER).is_file() else "none",
    }
    return settings, found, last
