"""Seconds, bytes and CUDA graphs. On a CPU the functions work, and what they return means little.

Times are those of CUDA events around one call, with the L2 cache flushed before it.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from triton.testing import do_bench

_WARM_UP_MS, _REPEAT_MS = 25, 200
_LONG = 0.1  # seconds of a call that the host's clock measures well enough


def measure(run: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Median, 20th and 80th percentile in seconds, and how many calls they are of."""
    if device.type != "cuda":
        seconds = [measure_once(run, device)]
    else:
        run()  # whatever comes with a first call
        seconds = [measure_once(run, device)]
        if seconds[0] > _LONG:
            seconds += [measure_once(run, device) for _ in range(2)]
        else:
            milliseconds = do_bench(run, _WARM_UP_MS, _REPEAT_MS, return_mode="all")
            seconds = [ms / 1000 for ms in milliseconds]
    fifths = statistics.quantiles(seconds, n=5) if len(seconds) > 1 else seconds
    return {
        "median": statistics.median(seconds),
        "p20": fifths[0],
        "p80": fifths[-1],
        "rounds": len(seconds),
    }


def measure_once(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of one long call, by the host's clock."""
    synchronize(device)
    started = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - started


def device_seconds(
    run: Callable[[], object], device: torch.device, rounds: int = 5
) -> float | None:
    """Seconds of the kernels of one call, whatever the host takes to launch them."""
    if device.type != "cuda":
        return None
    run()
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        for _ in range(rounds):
            run()
        torch.cuda.synchronize()
    kernels = [
        event
        for event in recorded.key_averages()
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    ]
    return sum(event.self_device_time_total for event in kernels) / 1e6 / rounds


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def release_memory(device: torch.device) -> None:
    """What earlier cases left may neither be measured nor be in the way."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


def extra_bytes(run: Callable[[], object], device: torch.device) -> int | None:
    """Peak of allocated memory above what was allocated before; results count."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    kept = run()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    del kept
    return peak - before


def capture(run: Callable[[], tuple[Tensor, ...]]) -> tuple[Any, tuple[Tensor, ...]]:
    """A CUDA graph of the call, and the tensors that each replay writes."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # compiles and initialises outside the capture
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = run()
    return graph, found
