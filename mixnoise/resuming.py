"""Opening a run's folder: of a new run, or to go on with the very run that it holds."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mixnoise.agreement import Agreement
from mixnoise.model import DACL
from mixnoise.progress import warn
from mixnoise.run_folder import RunFolder, jsonable

if TYPE_CHECKING:
    from accelerate import Accelerator


def open_run(
    folder: RunFolder,
    config: dict[str, Any],
    resume: bool,
    accelerator: Accelerator,
    agreement: Agreement | None,
    model: DACL,
) -> Path | None:
    """The checkpoint to go on from; the folder of a new run gets its config."""
    former = folder.config()
    accelerator.wait_for_everyone()  # nobody writes before all have looked
    if former is not None and not resume:
        raise ValueError(
            f"run_dir {str(folder.path)!r} already holds a run: go on with resume=True, or name "
            "another folder"
        )
    if former is not None:
        for key, value in jsonable(config).items():
            if former.get(key) != value:
                raise ValueError(
                    f"run_dir {str(folder.path)!r} holds another run: its {key} is "
                    f"{former.get(key)}, this one's {value}"
                )
    elif folder.checkpoints.finished():
        raise ValueError(
            f"run_dir {str(folder.path)!r} holds checkpoints but no config.json that says of what: "
            "bring it back, or name another folder"
        )
    checkpoint, damaged = folder.checkpoints.to_resume()
    if agreement is not None:
        # Counted from 1, since step 0 has none.
        step = 0 if checkpoint is None else int(checkpoint.name.removeprefix("step-"))
        agreement.same(step, "run_dir must hold the same newest checkpoint for all processes")
    if accelerator.is_main_process:
        for text in damaged:
            warn(f"{text}; going on from the one before")
        folder.checkpoints.remove_unfinished()
        now = _versions()
        if former is None:
            folder.write_config({**config, **now, "model": str(model).splitlines()})
        elif changed := [
            f"{k} {former.get(k)}, now {v}" for k, v in now.items() if former.get(k) != v
        ]:
            warn(f"the run began with {'; '.join(changed)}: the last bits may differ")
    accelerator.init_trackers("mixnoise")
    return checkpoint


def _versions() -> dict[str, Any]:
    """What else decides the last bit."""
    from mixnoise import __version__

    return {
        "mixnoise": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
    }
