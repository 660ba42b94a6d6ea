"""The folder of a run: config.json, metrics.csv, checkpoints. No reader ever meets half a file."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mixnoise.atomic import replacing
from mixnoise.training.checkpoints import Checkpoints


class RunFolder:
    """A run's folder: everything is written beside its place and renamed."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.checkpoints = Checkpoints(self.path / "checkpoints")
        self.events = self.path / "events"  # of TensorBoard and other trackers
        self.began = False  # whether the config is that of the run that has this object

    @property
    def came_to_nothing(self) -> bool:
        """Whether no run has finished an epoch in it, or left a checkpoint."""
        return not (self.checkpoints.finished() or (self.path / "metrics.csv").exists())

    def config(self) -> dict[str, Any] | None:
        """The config that an earlier run left, if any did.

        Raises:
            ValueError: the file is damaged.
        """
        file = self.path / "config.json"
        if not file.is_file():
            return None
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:  # bytes that are no UTF-8, too
            raise ValueError(f"{file} is damaged, and no valid JSON: {error}") from error
        if not isinstance(config, dict):
            raise ValueError(f"{file} is damaged: it must hold an object, got {config!r:.80}")
        return config

    def write_config(self, config: dict[str, Any]) -> None:
        """Begins a run.

        Raises:
            FileExistsError: another one has begun in this folder.
        """
        with replacing(self.path / "config.json", flushed=True, new=True) as part:
            part.write_text(json.dumps(jsonable(config), indent=2) + "\n", encoding="utf-8")
        self.began = True

    def abandon(self) -> None:
        """Frees the folder for another run."""
        (self.path / "config.json").unlink(missing_ok=True)
        shutil.rmtree(self.events, ignore_errors=True)
        self.began = False

    def write_metrics(self, history: list[dict[str, float]]) -> None:
        """Writes one row an epoch; empty where a value was not taken in that epoch."""
        columns = list(dict.fromkeys(key for row in history for key in row))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {k: f"{v:.9g}" if isinstance(v, float) else v for k, v in row.items()}
            for row in history
        )
        with replacing(self.path / "metrics.csv") as part:
            part.write_text(text.getvalue(), encoding="utf-8", newline="")


def jsonable(config: dict[str, Any]) -> dict[str, Any]:
    """The same as JSON gives it back.

    Tensors become lists, functions their names, and whatever else JSON does not know its text.
    """
    plain: dict[str, Any] = json.loads(json.dumps(config, default=_plain))
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return value.tolist()
    if name := getattr(value, "__qualname__", None):
        return f"{value.__module__}.{name}"
    # Of a partial or a callable object it may have addresses, which differ from process to process.
    return re.sub(r" at 0x[0-9a-fA-F]+", "", str(value))
