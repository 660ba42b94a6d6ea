"""Hugging Face Accelerate for the length of one run."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from mixnoise.batches import Loader
from mixnoise.training.progress import warn

if TYPE_CHECKING:
    from accelerate import Accelerator

if dist.is_available():
    # DistributedDataParallel loads it, and the defaults of its functions are the process group that
    # there is by then: it would never be destroyed, and gloo's threads run on while Python ends.
    import torch.distributed.nn.functional


@contextmanager
def accelerator_for(
    precision: str | None, trackers: Sequence[str], events: Path | None
) -> Iterator[Accelerator]:
    """An Accelerator that leaves no global state that was not there before.

    But for the process group of several processes, which is destroyed when the program ends.
    Trackers are used only if there is a folder for their events.

    Raises:
        ImportError: Accelerate or the package of a tracker is missing.
        ValueError: a precision that the device does not have.
    """
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState, PartialState
        from accelerate.tracking import get_available_trackers
        from accelerate.utils import (
            DataLoaderConfiguration,
            InitProcessGroupKwargs,
            LoggerType,
            ProjectConfiguration,
        )
    except ImportError as error:
        raise ImportError("pretrain needs accelerate: pip install 'mixnoise[train]'") from error
    had_state, had_partial = bool(AcceleratorState._shared_state), bool(PartialState._shared_state)
    had_group = dist.is_initialized()
    # Without being told, Accelerate lets each of several processes on CPUs train alone.
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    settings: dict[str, Any] = {"mixed_precision": precision, "cpu": device is None}
    if device is not None and device.type == "cuda":
        settings["dataloader_config"] = DataLoaderConfiguration(non_blocking=True)
        if int(os.environ.get("LOCAL_RANK", -1)) >= 0 and not had_group:
            # gloo besides NCCL, as torch.distributed has it by itself: else the device would be
            # waited for whenever processes tell one another something.
            settings["kwargs_handlers"] = [InitProcessGroupKwargs("cuda:nccl,cpu:gloo")]
    if events is not None and trackers:
        # Accelerate would leave out a tracker whose package is missing.
        absent = set(LoggerType.list()) - {"all"} - {str(t) for t in get_available_trackers()}
        if missing := [t for t in trackers if t in absent]:
            raise ImportError(f"tracker {missing[0]!r} needs its package: pip install {missing[0]}")
        folder = ProjectConfiguration(logging_dir=str(events))
        settings |= {"log_with": list(trackers), "project_config": folder}
    accelerator = None
    try:
        accelerator = Accelerator(**settings)
        if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
            # Accelerate would train in float32, and say nothing.
            raise ValueError("precision must be 'bf16' or 'no' on a CPU, got 'fp16'")
        yield accelerator
        accelerator.wait_for_everyone()
    finally:
        if accelerator is not None:
            for tracker in accelerator.trackers:
                try:
                    tracker.finish()
                except Exception as error:  # as in track, and the run is done
                    warn(f"tracker {tracker.name!r} could not be closed: {error}")
        if dist.is_initialized() and not had_group:
            if accelerator is not None:
                accelerator.free_memory()  # gloo may abort while DDP still holds the group
            # Not now: under torchrun a second run in this program would wait for a second group
            # forever. Not never: gloo aborts if it is still there when Python ends.
            atexit.register(_destroy_process_group)
        if not had_state:
            # Its state is global, and would refuse another precision in the next run.
            AcceleratorState._reset_state(reset_partial_state=not had_partial)


def _destroy_process_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def shared_loader(accelerator: Accelerator, loader: Any) -> Loader:
    """Somebody's loader; of PyTorch's every process gets its share, another shares out itself."""
    from accelerate.data_loader import DataLoaderDispatcher

    prepared = accelerator.prepare(loader)
    return Loader(prepared, shared=isinstance(prepared, DataLoaderDispatcher))


def track(accelerator: Accelerator, values: dict[str, float], step: int) -> None:
    """Tell every tracker; one that fails is told nothing more, and training goes on."""
    for tracker in list(accelerator.trackers):
        try:
            tracker.log(values, step=step)
        except Exception as error:  # whatever somebody's server or a full disk makes of it
            accelerator.trackers.remove(tracker)
            warn(f"tracker {tracker.name!r} failed at step {step} and is left out now: {error}")
