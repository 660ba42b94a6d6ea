"""The folder of a run: config.json, metrics.csv, checkpoints. No reader ever meets half a file."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_CHECKPOINTS_KEPT = 2
_WEIGHTS, _STATE = "model.safetensors", "trainer.pt"


class RunFolder:
    """Writes everything beside its place and renames it.

    Weights are safetensors; the trainer's state is plain containers of tensors and numbers, read
    with ``weights_only=True``. Nothing is ever unpickled.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def config(self) -> dict[str, Any] | None:
        """What an earlier run left, if any did."""
        file = self.path / "config.json"
        if not file.is_file():
            return None
        try:
            config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{file} is not valid JSON: {error}") from error
        return config

    def write_config(self, config: dict[str, Any]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        self._write("config.json", json.dumps(jsonable(config), indent=2) + "\n")

    def write_metrics(self, history: list[dict[str, float]]) -> None:
        """One row an epoch; empty where a value was not taken in that epoch."""
        columns = list(dict.fromkeys(key for row in history for key in row))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {k: f"{v:.9g}" if isinstance(v, float) else v for k, v in row.items()}
            for row in history
        )
        self._write("metrics.csv", text.getvalue())

    def _write(self, name: str, text: str) -> None:
        beside = self.path / f"{name}.part"
        beside.write_text(text, encoding="utf-8", newline="")
        beside.replace(self.path / name)

    def checkpoints(self) -> list[Path]:
        """Finished ones, the oldest first."""
        found = (self.path / "checkpoints").glob("step-*")
        return sorted(p for p in found if p.suffix != ".part")

    def save(self, step: int, model: nn.Module, state: dict[str, Any]) -> None:
        """A checkpoint; the last two are kept."""
        from safetensors.torch import save_model

        final = self.path / "checkpoints" / f"step-{step:09d}"
        beside = final.with_suffix(".part")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        save_model(model, str(beside / _WEIGHTS))
        torch.save(state, beside / _STATE)
        for file in beside.iterdir():
            with file.open("rb") as written:
                os.fsync(written.fileno())
        shutil.rmtree(final, ignore_errors=True)
        beside.rename(final)
        for old in self.checkpoints()[:-_CHECKPOINTS_KEPT]:
            shutil.rmtree(old)

    def load(self, checkpoint: Path, model: nn.Module) -> dict[str, Any]:
        """Weights into the model; returns the trainer's state."""
        from safetensors.torch import load_model

        load_model(model, str(checkpoint / _WEIGHTS))
        state: dict[str, Any] = torch.load(
            checkpoint / _STATE, map_location="cpu", weights_only=True
        )
        return state


def jsonable(config: dict[str, Any]) -> dict[str, Any]:
    """The same as JSON gives it back; a tensor becomes a list, what JSON does not know its name."""
    text = json.dumps(config, default=lambda v: v.tolist() if isinstance(v, Tensor) else str(v))
    plain: dict[str, Any] = json.loads(text)
    return plain
