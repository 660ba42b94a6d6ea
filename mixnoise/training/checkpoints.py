"""Checkpoints: whole ones or none are written, and only whole ones are loaded."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mixnoise.atomic import flush

_KEPT = 2
_WEIGHTS, _STATE, _SUMS = "model.safetensors", "trainer.pt", "checksums.json"


class Checkpoints:
    """The folder of a run's checkpoints, each a folder of three files.

    Weights are safetensors; the trainer's state is plain containers of tensors and numbers, read
    with ``weights_only=True``, so that nothing is ever unpickled; the third file has the SHA-256 of
    both. A folder is written beside its place, flushed to the disk and renamed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def finished(self, up_to: int | None = None) -> list[Path]:
        """The checkpoints of steps up to a given one, whole or damaged since, the oldest first."""
        found = sorted(p for p in self.path.glob("step-*") if p.suffix != ".part")
        return [p for p in found if up_to is None or p.name <= _name(up_to)]

    def newest(self, up_to: int | None = None) -> Path | None:
        """The newest checkpoint that is whole."""
        whole = (c for c in reversed(self.finished(up_to)) if damage(c) is None)
        return next(whole, None)

    def to_resume(self) -> tuple[Path | None, list[str]]:
        """The newest checkpoint that is whole, and what is wrong with newer ones.

        Raises:
            ValueError: there are some, but none is whole.
        """
        wrong: list[str] = []
        for checkpoint in reversed(self.finished()):
            reason = damage(checkpoint)
            if reason is None:
                return checkpoint, wrong
            wrong.append(f"checkpoint {str(checkpoint)!r} is damaged: {reason}")
        if wrong:
            raise ValueError(
                f"no checkpoint can be loaded: {'; '.join(wrong)}. Bring one back from a copy, or "
                "start again in another folder"
            )
        return None, wrong

    def remove_unfinished(self) -> None:
        """Removes what a run left that was killed while it was writing."""
        for folder in self.path.glob("step-*.part"):
            shutil.rmtree(folder, ignore_errors=True)

    def save(self, step: int, model: nn.Module, state: dict[str, Any]) -> None:
        """Writes a checkpoint and removes all but the last two; a whole one of that step stays.

        Raises:
            OSError: it could not be written; nothing of it is left, and the others are.
        """
        final = self.path / _name(step)
        if final.exists() and damage(final) is None:
            return
        beside = final.with_suffix(".part")
        shutil.rmtree(beside, ignore_errors=True)
        try:
            beside.mkdir(parents=True)
            _write(beside, model, state)
            shutil.rmtree(final, ignore_errors=True)
            beside.rename(final)
            flush(self.path)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
        for old in self.finished(step)[:-_KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def load(self, checkpoint: Path, model: nn.Module) -> dict[str, Any]:
        """Loads the weights into the model and returns the trainer's state.

        Raises:
            ValueError: the model is another one; it is left as it was.
        """
        from safetensors.torch import load_file

        tensors = load_file(checkpoint / _WEIGHTS)
        if different := _first_difference(model.state_dict(), tensors):
            raise ValueError(f"checkpoint {str(checkpoint)!r} is of another model: {different}")
        state: dict[str, Any] = torch.load(
            checkpoint / _STATE, map_location="cpu", weights_only=True
        )
        model.load_state_dict(tensors, strict=False)  # of tied tensors one is in the file
        return state


def damage(checkpoint: Path) -> str | None:
    """Which file of a checkpoint is not as it was written, and why; None if all are."""
    try:
        expected = json.loads((checkpoint / _SUMS).read_bytes())
        found = {name: _sha256(checkpoint / name) for name in (_WEIGHTS, _STATE)}
    except OSError as error:
        return f"a file cannot be read: {error}"
    except ValueError:
        return f"{_SUMS} is not JSON"
    if expected == found:
        return None
    if isinstance(expected, dict) and expected.keys() == found.keys():
        different = " and ".join(name for name in found if expected[name] != found[name])
        return f"the SHA-256 of {different} is not what {_SUMS} says"
    return f"{_SUMS} does not name the other two files"


def _name(step: int) -> str:
    return f"step-{step:09d}"


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def check_can_be_saved(model: nn.Module) -> None:
    """Raise a ValueError if the state of a model holds what a checkpoint cannot."""
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"run_dir: {name!r} of the model's state is no tensor but {type(value).__name__}, "
                "as get_extra_state returns it, which checkpoints cannot hold"
            )


def _write(folder: Path, model: nn.Module, state: dict[str, Any]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = model.state_dict()
    # Copies, since safetensors refuses views of one buffer, which cuDNN's recurrent layers have.
    weights = {
        name: tensors[name].to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, *_ in _tied(tensors).values()
    }
    try:
        save_file(weights, str(folder / _WEIGHTS))
        with (folder / _STATE).open("wb") as file:
            torch.save(state, file)
    except (SafetensorError, RuntimeError) as error:
        # What the system said is in the text of the one, and behind the other.
        if code := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(code[1]), os.strerror(int(code[1])), str(folder)) from error
        if isinstance(behind := error.__context__, OSError):
            raise OSError(behind.errno, behind.strerror, str(folder)) from error
        raise
    sums = {name: _sha256(folder / name) for name in (_WEIGHTS, _STATE)}
    (folder / _SUMS).write_text(json.dumps(sums, indent=2) + "\n", encoding="utf-8")
    for path in (*folder.iterdir(), folder):
        flush(path)


def _first_difference(model: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> str | None:
    """The first tensor, in the model's order, that one of them has and the other has not."""
    tied = _tied(model)
    for name, tensor in model.items():
        others = [n for n in tied[_memory(tensor) or name] if n != name and n in saved]
        if name not in saved:
            if not others:
                return f"tensor {name!r} is not in the checkpoint"
        elif others:
            return (
                f"tensors {name!r} and {others[0]!r} are tied in the model, not in the checkpoint"
            )
        elif saved[name].shape != tensor.shape:
            shapes = tuple(saved[name].shape), tuple(tensor.shape)
            return f"tensor {name!r} has shape {shapes[0]}, in the model {shapes[1]}"
        elif saved[name].dtype != tensor.dtype:
            return f"tensor {name!r} is {saved[name].dtype}, in the model {tensor.dtype}"
    return next(
        (f"tensor {name!r} is not in the model" for name in saved if name not in model), None
    )


def _tied(tensors: Mapping[str, Tensor]) -> dict[Any, list[str]]:
    """Names by the memory that their tensors take; each is in one list."""
    names: dict[Any, list[str]] = {}
    for name, tensor in tensors.items():
        names.setdefault(_memory(tensor) or name, []).append(name)
    return names


def _memory(tensor: Tensor) -> tuple[Any, ...] | None:
    """Tied tensors share it, different parts of one storage do not; an empty one has none."""
    if not tensor.numel():
        return None
    place = tensor.device, tensor.data_ptr()
    return (*place, tensor.dtype, tensor.shape, tensor.stride())
