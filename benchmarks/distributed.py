"""Negatives of two processes, ours and the usual way: ``python -m benchmarks.distributed``.

Two gloo processes of one thread on this machine, without a network. Both sides are timed in turns,
and a round takes as long as its slowest process. Memory is measured in processes of its own, where
the other side has left nothing.
"""

# Predicted before the first run, at the sizes below:
# Time, 3.5x (3 to 5). A process has 2^27 pairs of rows; either side does 6 D FLOP for each, 1.3 s
# at some 80 GFLOP/s of one core. Ours adds two exponentials a pair within the caches, 0.3 s. The
# other one adds about ten passes over a matrix of 512 MiB, which is mapped afresh each time, 4 s:
# in one process of twice the pairs and threads it took 6.0 s, ours 0.95 s with
# two thirds of the FLOP. What is sent, 8 MiB and 4 MiB, is nothing beside that.
# Peak memory, 1,700 MiB against 45 MiB: 3.3 matrices, as in one process, and gathered rows twice.

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather
from torch.nn import functional as F

from benchmarks.machine import describe
from benchmarks.speed.__main__ import ALLOCATOR
from benchmarks.tables import RESULTS
from mixnoise import nt_xent

RANKS, SAMPLES, D, TEMPERATURE, ROUNDS = 2, 4096, 128, 0.5, 7
_KIB = 1024

Loss = Callable[[Tensor, Tensor, float], Tensor]


def gather_with_gradient(
    z1: Tensor,
    z2: Tensor,
    temperature: float | Tensor,
    group: dist.ProcessGroup | None = None,
    gather: Callable[..., Sequence[Tensor]] = all_gather,
) -> Tensor:
    """What people write: gather unit rows, a dense matrix of own rows x all, cross entropy.

    Args:
        group: None: all processes.
        gather: from a tensor and a group to the tensors of its processes, with a gradient.
    """
    unit = F.normalize(torch.stack((z1, z2)), dim=2)  # (2, N_own, D)
    with warnings.catch_warnings():
        # PyTorch 2.13 has another name for it, which earlier versions lack.
        warnings.simplefilter("ignore", FutureWarning)
        every = torch.cat(tuple(gather(unit, group or dist.group.WORLD)), dim=1)  # (2, N, D)
    n_own, n = unit.shape[1], every.shape[1]
    similarity = unit.flatten(0, 1) @ every.flatten(0, 1).T / temperature  # (2 N_own, 2 N)
    position = torch.arange(n_own, device=z1.device) + dist.get_rank(group) * n_own
    itself = torch.zeros(similarity.shape, dtype=torch.bool, device=z1.device)
    itself.scatter_(1, torch.cat((position, position + n))[:, None], True)
    positive = torch.cat((position + n, position))
    return F.cross_entropy(similarity.masked_fill(itself, float("-inf")), positive)


def ours(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    return nt_xent(z1, z2, temperature, group="world")


SIDES: dict[str, Loss] = {"gather with gradient": gather_with_gradient, "ours": ours}


def inputs(samples: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(dist.get_rank())
    return [torch.randn(samples, D, generator=generator, requires_grad=True) for _ in range(2)]


def value_and_grads(loss: Loss, z1: Tensor, z2: Tensor) -> tuple[Tensor, ...]:
    value = loss(z1, z2, TEMPERATURE)
    return value.detach(), *torch.autograd.grad(value, (z1, z2))


def agree(z1: Tensor, z2: Tensor) -> None:
    """Losses and gradients of both sides, or the figures would mean nothing."""
    found = [value_and_grads(loss, z1, z2) for loss in SIDES.values()]
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-9)


def of_the_slowest(value: float) -> float:
    """The largest of all processes."""
    found = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return found.item()


def times(rounds: int, samples: int) -> dict[str, list[float]]:
    """Seconds of each side in each round."""
    z1, z2 = inputs(samples)
    agree(z1, z2)
    found: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(rounds):
        for side, loss in SIDES.items():
            dist.barrier()
            started = time.perf_counter()
            value_and_grads(loss, z1, z2)
            found[side].append(of_the_slowest(time.perf_counter() - started))
    return found


def peak(side: str, samples: int) -> int:
    """Bytes above the start that one forward and backward takes."""
    value_and_grads(SIDES[side], *inputs(64))  # loads what is loaded once
    z1, z2 = inputs(samples)
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    value_and_grads(SIDES[side], z1, z2)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start
    return int(of_the_slowest(grown)) * _KIB


def work(task: str, samples: int, output: Path) -> None:
    """One of the processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    try:
        found = times(ROUNDS, samples) if task == "times" else peak(task, samples)
        if dist.get_rank() == 0:
            output.write_text(json.dumps({"found": found, "machine": describe()}))
        dist.barrier()  # gloo may abort where a process ends early
    finally:
        dist.destroy_process_group()


def in_processes(task: str, samples: int, **environment: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "found.json"
        subprocess.run(
            [
                *(sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={RANKS}"),
                *("--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"),
                *("-m", "benchmarks.distributed", f"--task={task}", f"--samples={samples}"),
                f"--output={output}",
            ],
            check=True,
            env=os.environ | environment | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        )
        found: dict[str, Any] = json.loads(output.read_text())
        return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distributed", description=__doc__)
    parser.add_argument("--samples", type=int, default=SAMPLES, help="of each process")
    parser.add_argument("--output", type=Path, default=RESULTS / "distributed-cpu.json")
    parser.add_argument("--task", choices=("times", *SIDES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task is not None:
        return work(options.task, options.samples, options.output)
    timed = in_processes("times", options.samples, **ALLOCATOR)
    seconds = timed["found"]
    peaks = {side: in_processes(side, options.samples)["found"] for side in SIDES}
    other, own = (seconds[side] for side in SIDES)
    result = {
        "command": "python -m benchmarks.distributed",
        "machine": timed["machine"],
        "environment": ALLOCATOR,
        "backend": "gloo",
        "ranks": RANKS,
        "samples": options.samples,
        "d": D,
        "dtype": "float32",
        "temperature": TEMPERATURE,
        "rounds": ROUNDS,
        "sides": {
            side: {
                "median": statistics.median(seconds[side]),
                "min": min(seconds[side]),
                "peak_bytes": peaks[side],
            }
            for side in SIDES
        },
        # Within a round, so that what slows the machine for a while slows both sides of it.
        "ratio": statistics.median(a / b for a, b in zip(other, own, strict=True)),
    }
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: result[key] for key in ("sides", "ratio")}, indent=1))
    return None


if __name__ == "__main__":
    main()
