"""Hugging Face Accelerate for the length of one run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from accelerate import Accelerator


@contextmanager
def accelerator_for(
    precision: str | None, trackers: Sequence[str], events: Path | None
) -> Iterator[Accelerator]:
    """An Accelerator that leaves no process group and no global state that was not there before.

    Trackers are used only if there is a folder for their events.
    """
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState, PartialState
        from accelerate.tracking import get_available_trackers
        from accelerate.utils import LoggerType, ProjectConfiguration
    except ImportError as error:
        raise ImportError("pretrain needs accelerate: pip install 'mixnoise[train]'") from error
    had_state, had_partial = bool(AcceleratorState._shared_state), bool(PartialState._shared_state)
    had_group = dist.is_initialized()
    # Without being told, Accelerate lets each of several processes on CPUs train alone.
    cpu = not torch.accelerator.is_available()
    settings: dict[str, Any] = {"mixed_precision": precision, "cpu": cpu}
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
        yield accelerator
        accelerator.wait_for_everyone()
    finally:
        if accelerator is not None:
            for tracker in accelerator.trackers:
                tracker.finish()
        if dist.is_initialized() and not had_group:
            # Or gloo aborts when the program ends; it also may while DDP still holds the group.
            if accelerator is not None:
                accelerator.free_memory()
            dist.destroy_process_group()
        if not had_state:
            # Its state is global, and would refuse another precision in the next run.
            AcceleratorState._reset_state(reset_partial_state=not had_partial)
