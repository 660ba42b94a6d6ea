"""Opening a run's folder: of a new run, or to go on with the very run that it holds."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mixnoise._version import __version__
from mixnoise.model import DACL
from mixnoise.training.agreement import Agreement
from mixnoise.training.progress import warn
from mixnoise.training.run_folder import RunFolder, jsonable

if TYPE_CHECKING:
    from accelerate import Accelerator


@contextmanager
def freed_if_nothing_comes_of_it(folder: RunFolder | None) -> Iterator[None]:
    """Makes the folder usable for a corrected run if its own fails before it has left anything.

    Config and events are removed, if this very run wrote them: others may be those of a process
    which is still in its first epoch.
    """
    try:
        yield
    except BaseException:
        if folder is not None and folder.began and folder.came_to_nothing:
            folder.abandon()
        raise


def open_run(
    folder: RunFolder,
    config: dict[str, Any],
    resume: bool,
    accelerator: Accelerator,
    agreement: Agreement | None,
    model: DACL,
) -> Path | None:
    """Returns the checkpoint to go on from, if any; writes the config of a new run."""
    if folder.path.exists() and not folder.path.is_dir():
        raise ValueError(f"run_dir must name a folder, got the file {str(folder.path)!r}")
    former = folder.config()
    taken = (
        f"run_dir {str(folder.path)!r} already holds a run: go on with resume=True, or name "
        "another folder"
    )
    hint = ""
    if former is not None and folder.came_to_nothing:
        hint = (
            "; it has finished no epoch: unless it is still running, remove "
            f"{folder.path / 'config.json'}"
        )
    accelerator.wait_for_everyone()  # nobody writes before all have looked
    if former is not None and not resume:
        raise ValueError(f"{taken}{hint}")
    if former is not None:
        for key, value in jsonable(config).items():
            # What an older version did not write is not known, and nobody can be held to it.
            if key in former and (different := _difference(former[key], value)):
                raise ValueError(
                    f"run_dir {str(folder.path)!r} holds another run: its {key} is "
                    f"{different[0]}, this one's {different[1]}{hint}"
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
        now = _machine(accelerator.device)
        if former is None:
            try:
                folder.write_config({**config, **now, "model": str(model).splitlines()})
            except FileExistsError:  # it was begun at the same time as this one
                raise ValueError(taken) from None
        elif changed := [
            f"{k} {former[k]}, now {v}" for k, v in now.items() if former.get(k, v) != v
        ]:
            warn(f"the run began with {'; '.join(changed)}: the last bits may differ")
    accelerator.init_trackers("mixnoise")
    return checkpoint


def _difference(former: Any, value: Any) -> tuple[Any, Any] | None:
    """How two values of configs differ, mappings only in keys that both have; None: they do not."""
    if not (isinstance(former, dict) and isinstance(value, dict)):
        return None if former == value else (former, value)
    both = {k: d for k in value if k in former and (d := _difference(former[k], value[k]))}
    before, now = ({k: d[i] for k, d in both.items()} for i in (0, 1))
    return (before, now) if both else None


def _machine(device: torch.device) -> dict[str, Any]:
    """The versions, the settings and the processor that decide the last bits."""
    return {
        "mixnoise": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "processor": processor(device),
    }


def processor(device: torch.device) -> str:
    """The name of the GPU, or of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")  # of Linux, where platform knows none
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
