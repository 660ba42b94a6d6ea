"""What a result was measured with."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from pathlib import Path

import torch

from mixnoise.training.resuming import processor


def describe() -> dict[str, str | int]:
    """Processor, GPU, versions, date and commit, to stand beside every figure."""
    return {
        "processor": processor(torch.device("cpu")),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **_gpu(),
        "date": datetime.date.today().isoformat(),
        "commit": _commit(),
    }


def _gpu() -> dict[str, str | int]:
    if not torch.cuda.is_available():
        return {}
    import triton

    return {
        "gpu": torch.cuda.get_device_name(),
        "gpu_bytes": torch.cuda.get_device_properties().total_memory,
        "cuda": torch.version.cuda or "unknown",
        "triton": triton.__version__,
    }


def _commit() -> str:
    """The commit, with a "+" if the tree had changes beyond it.

    Where the tree has come without git, MIXNOISE_COMMIT names it.
    """
    if named := os.environ.get("MIXNOISE_COMMIT"):
        return named
    root = Path(__file__).parent
    git = ["git", "-C", str(root)]
    try:
        head = subprocess.run(
            [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True
        )
        dirty = subprocess.run(
            [*git, "status", "--porcelain", "--", "../mixnoise", "../kernels"],
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        return "unknown"
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "") or "unknown"
