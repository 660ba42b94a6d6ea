"""A demonstration on real data, and how fast this machine is."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mixnoise.cli.settings import Config
from mixnoise.cli.text import print_table


class Data(StrEnum):
    """What the demonstration can run on."""

    digits = "digits"
    fashion_mnist = "fashion-mnist"


def demo(
    data: Annotated[
        Data, typer.Option(help="digits comes with scikit-learn; fashion-mnist must be there.")
    ] = Data.digits,
    seeds: Annotated[int, typer.Option(help="Repetitions.", min=1)] = 3,
    output: Annotated[Path | None, typer.Option(help="A new folder; default: in runs/.")] = None,
    config: Config = None,
) -> None:
    """Pre-train and probe on images as mere columns: the table of the paper, in minutes."""
    from mixnoise import demo as demonstration

    arguments = ["--data", data.value, "--seeds", str(seeds)]
    demonstration.main([*arguments, *(["--output", str(output)] if output else [])])


def bench(
    rows: Annotated[int, typer.Option(help="Rows of a batch.", min=2)] = 4096,
    columns: Annotated[int, typer.Option(help="Of the data, and D of the loss.", min=1)] = 128,
    config: Config = None,
) -> None:
    """Time mixing and the loss beside the plain formulas in PyTorch, on this machine."""
    import torch

    from mixnoise.bench import compare

    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = (
        torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
    )
    typer.echo(f"{rows:,} x {columns} float32 on {device} ({name}), torch {torch.__version__}")
    found = [("", "mixnoise", "plain PyTorch", "")]
    for what, ours, plain in compare(rows, columns, device):
        found.append(
            (what, f"{1e3 * ours:.2f} ms", f"{1e3 * plain:.2f} ms", f"{plain / ours:.1f}x")
        )
    print_table(found)
