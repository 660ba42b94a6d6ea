"""Runs a function of a test file in several gloo processes on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch.distributed as dist
import torch.distributed.nn.functional  # noqa: F401  (before there is a group: accelerator.py)

TIMEOUT = 240


def run_ranks(file: str, n: int, folder: Path, function: str, *arguments: str) -> list[str]:
    """``function(folder, *arguments)`` of the file in n processes; what each of them said.

    Their errors are not raised, but said: a test that expects none looks for "done".
    """
    processes = [
        subprocess.Popen(
            [sys.executable, file, function, str(folder), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=Path(__file__).parent,
            env={
                **os.environ,
                "RANK": str(rank),
                "WORLD_SIZE": str(n),
                "OMP_NUM_THREADS": "1",
                # On the CPU, also where there is one GPU, which two processes cannot share.
                "CUDA_VISIBLE_DEVICES": "",
                "TRITON_INTERPRET": "1",
                # Other distributions, such as old ones of pyarrow, bring a "benchmarks", too.
                "PYTHONPATH": str(Path(__file__).parent.parent),
            },
        )
        for rank in range(n)
    ]
    try:
        return [process.communicate(timeout=TIMEOUT)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()  # one that has ended does not mind


def main(functions: dict[str, Callable[..., None]]) -> None:
    """What such a file does when it is run."""
    _, function, folder, *arguments = sys.argv
    if find_spec("triton"):
        import triton_interpreter

        triton_interpreter.install()
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
    )
    try:
        functions[function](Path(folder), *arguments)
        # gloo may abort where a rank ends early.
        dist.barrier()
        print("done")
    finally:
        dist.destroy_process_group()
