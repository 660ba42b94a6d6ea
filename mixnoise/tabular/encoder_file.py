"""The file of an encoder for tables: safetensors, whose header has in JSON what is no tensor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from mixnoise.atomic import replacing

_FORMAT = "mixnoise.sklearn.DACLEncoder/1"


def write(path: Path, content: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """It is written beside its place and renamed.

    Raises:
        ValueError: JSON has no form for a parameter.
    """
    from safetensors.torch import save_file

    for name, value in content["parameters"].items():
        try:
            json.dumps(value)
        except TypeError as error:
            raise ValueError(f"{name} {value!r} cannot be saved: {error}") from error
    header = json.dumps(content)
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with replacing(path) as part:
        save_file(contiguous, part, {"format": _FORMAT, "encoder": header})


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What write was given.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not one of these files, or not whole.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(f"no such file: {str(path)!r}")
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            # Not a dict: safe_open has keys(), and cannot be iterated over.
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{str(path)!r} is not a whole safetensors file: {error}") from error
    if header.get("format") != _FORMAT:
        raise ValueError(
            f"{str(path)!r} was not written by DACLEncoder.save: its format is "
            f"{header.get('format')!r}, not {_FORMAT!r}"
        )
    return json.loads(header["encoder"]), tensors
