"""A case, what it is run with, and what is kept of it."""

from __future__ import annotations

import secrets
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu import ceilings
from benchmarks.gpu.problem import Problem, matmul_precision
from benchmarks.gpu.timing import release_memory
from mixnoise import Draw, nt_xent
from mixnoise.ops import mix

_LONGEST_TRACEBACK = 2000


@dataclass(frozen=True)
class Case:
    """``run`` returns what goes into the results; "passed": False among it is a wrong result.

    ``ahead``: hashable, and their ``warm_up(bench)`` is worth doing in time, as it compiles.
    """

    name: str
    run: Callable[[Bench], dict[str, Any]]
    ahead: tuple[Any, ...] = ()
    needs_cuda: bool = False


class Bench:
    """The device and the time left. Kernels are named, so that nothing else can be measured.

    A smoke run is the same on a CPU, with tiny problems in Triton's interpreter: it shows that the
    cases run, and times nothing.
    """

    def __init__(self, *, smoke: bool = False, minutes: float = 7.5) -> None:
        self.smoke = smoke
        self.device = torch.device("cpu" if smoke else "cuda")
        self.deadline = time.monotonic() + 60 * minutes
        self.device_is_lost = False

    @cached_property
    def rates(self) -> dict[str, float]:
        """What the device can do, per second, measured when first asked for."""
        return ceilings.measure_rates(self.device, smoke=self.smoke)

    def why_stop(self) -> str:
        """Why no case may be begun any more; empty if one may."""
        if self.device_is_lost:
            return "the device is lost after an error"
        return "no time left" if time.monotonic() > self.deadline else ""

    def seed(self) -> int:
        """Fresh inputs each time, on a GPU."""
        return 0 if self.smoke else secrets.randbits(31)

    def sized(self, work: Any) -> Any:
        """A Problem or a Batch, tiny in a smoke run."""
        return work.shrunk() if self.smoke else work

    def peer(self, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What run finds of a peer, if that is installed, fits into memory and has no trouble."""
        if reason := self.why_stop():
            return {"not_timed": reason}
        release_memory(self.device)
        try:
            return run()
        except ImportError:
            return {"not_timed": "not installed"}
        except torch.OutOfMemoryError:
            return {"not_timed": "out of memory"}
        except Exception as error:  # a peer's trouble is not ours
            return {"not_timed": f"{type(error).__name__}: {str(error)[-500:]}"}

    def mix(self, x: Tensor, draw: Draw) -> Tensor:
        return mix(x, draw, backend="triton")

    def loss(
        self,
        problem: Problem,
        z1: Tensor,
        z2: Tensor,
        temperature: float | Tensor,
        reduction: str = "none",
    ) -> Tensor:
        return nt_xent(z1, z2, temperature, reduction, problem.precision, backend="triton")

    def value_and_grads(
        self, problem: Problem, leaves: tuple[Tensor, ...], weights: Tensor
    ) -> tuple[Tensor, ...]:
        """Loss of each row, and gradients of their weighted sum, of z1, z2 and a tensor's t."""
        with matmul_precision(problem.matmul):
            loss = self.loss(problem, *leaves[:2], problem.temperature_of(leaves))
            return loss.detach(), *torch.autograd.grad(loss, leaves, weights)


def run_case(bench: Bench, case: Case) -> dict[str, Any]:
    """Its name, its status (passed, failed, error or skipped), and its results or the reason."""
    reason = "needs CUDA" if case.needs_cuda and bench.smoke else bench.why_stop()
    if reason:
        return {"name": case.name, "status": "skipped", "message": reason}
    started = time.perf_counter()
    try:
        found = case.run(bench)
        status = "passed" if found.pop("passed", True) else "failed"
    except Exception as error:  # is what the case found
        message, trace = f"{type(error).__name__}: {error}", traceback.format_exc()
        found = {"message": message, "traceback": trace[-_LONGEST_TRACEBACK:]}
        status = "error"
    seconds = round(time.perf_counter() - started, 3)
    return {"name": case.name, "status": status, "seconds": seconds, **found}
