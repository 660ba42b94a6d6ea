"""How fast is mixing, beside a copy and what people use today? And what is it of a whole step?

The fewest bytes of V views, in units of x: x once, V for the partners' rows, and V to write. Where
x stays in the L2 cache the partners' rows come from there, and Gaussian noise has none: 1 + V. The
share of the copy's rate is given for both; ``units`` says which of the two is due.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from mixnoise_kernels import operators
from torch import Tensor, nn

from benchmarks.gpu.batch import NOISES, Batch
from benchmarks.gpu.bench import Bench, Case
from benchmarks.gpu.check_loss import BF16, FP32, relative_error
from benchmarks.gpu.peers import LIBRARIES, MIX_PEERS, compiled_views, eager_views
from benchmarks.gpu.timing import capture, device_seconds, measure, release_memory
from mixnoise import DACL, Draw, get_noise
from mixnoise.networks import fully_connected

_SIZES = [(8192, 3072), (65536, 784)]
_CLOSE = 2e-2  # the usual formulas round at every step


@dataclass(frozen=True)
class CompiledPeer:
    """Inductor keeps what it compiled on disk, as Triton does."""

    batch: Batch

    def warm_up(self, bench: Bench) -> None:
        x = self.batch.inputs(bench.device, 0)
        compiled_views(self.batch.noise, x, self.batch.sample(x))()


def shares(bench: Bench, batch: Batch, x: Tensor, seconds: float) -> dict[str, Any]:
    """Shares of the copy's rate, by the number of units."""
    cached, fetched = 1 + batch.views, 1 + 2 * batch.views
    cache = 0 if bench.smoke else torch.cuda.get_device_properties().L2_cache_size
    numbers = [cached] if batch.noise == "gaussian" else [cached, fetched]
    rates = {str(n): n * x.nbytes / seconds for n in numbers}
    units = str(numbers[0 if x.nbytes <= cache else -1])
    return {
        "units": units,
        "bytes_per_second": rates[units],
        "share_of_copy": {n: rate / bench.rates["copy_bytes"] for n, rate in rates.items()},
    }


def alike(views: Tensor, theirs: Tensor, x: Tensor) -> bool:
    """Whether views of other random bits have the same mean, and as many changed elements."""
    slack = 0.05 + 5 / views.numel() ** 0.5
    ours, other = (
        torch.stack([v.double().mean(), v.ne(x).double().mean()]) for v in (views, theirs)
    )
    return bool((ours - other).abs().max() <= slack)


def peer(name: str, batch: Batch, x: Tensor, draw: Draw, views: Tensor) -> dict[str, Any]:
    """Timed only if it makes the same views, or such as might have been."""
    run = MIX_PEERS[name](batch.noise, x, draw)
    theirs = torch.stack(run())
    if name not in LIBRARIES and batch.noise in ("linear", "geometric"):
        same = relative_error(theirs, views.double()) <= _CLOSE
    else:
        same = alike(views, theirs, x)
    if not same:
        raise ValueError("other views")
    del theirs
    return measure(run, x.device)


def timed(bench: Bench, batch: Batch) -> dict[str, Any]:
    batch = bench.sized(batch)
    release_memory(bench.device)
    x = batch.inputs(bench.device, bench.seed())
    draw = batch.sample(x)

    def run() -> Tensor:
        return bench.mix(x, draw)

    views = run()
    ours = {
        "mixing": measure(run, bench.device),
        "drawing and mixing": measure(lambda: bench.mix(x, batch.sample(x)), bench.device),
    }
    if not bench.smoke:
        graph, _ = capture(lambda: (run(),))
        ours["replayed"] = measure(graph.replay, bench.device)
        del graph
    found = {
        name: bench.peer(partial(peer, name, batch, x, draw, views))
        for name in MIX_PEERS
        if name not in LIBRARIES or batch.noise == "linear"
    }
    return {
        "noise": batch.noise,
        "rows": batch.n,
        "columns": batch.f,
        "dtype": batch.dtype_name,
        **shares(bench, batch, x, ours.get("replayed", ours["mixing"])["median"]),
        "mixing": ours,
        "peers": found,
        "ratio": {
            name: other["median"]
            / ours["drawing and mixing" if name in LIBRARIES else "mixing"]["median"]
            for name, other in found.items()
            if "median" in other
        },
    }


def backward(bench: Bench, batch: Batch) -> dict[str, Any]:
    batch = bench.sized(batch)
    x = batch.inputs(bench.device, bench.seed()).requires_grad_()
    g, draw = batch.weights(bench.device, bench.seed()), batch.sample(x)
    sides = {"ours": bench.mix(x, draw), "eager": torch.stack(eager_views(batch.noise, x, draw)())}
    true, other = (torch.autograd.grad(v, x, g, retain_graph=True)[0] for v in sides.values())
    times = {
        name: measure(partial(torch.autograd.grad, v, x, g, retain_graph=True), bench.device)
        for name, v in sides.items()
    }
    error = relative_error(other, true.double())
    return {
        "backward": times,
        "ratio": {"eager": times["eager"]["median"] / times["ours"]["median"]},
        "errors": {"eager": error},
        "passed": error <= _CLOSE,
    }


def dacl_step(bench: Bench) -> dict[str, Any]:
    """What mixing and loss cost in a training step of a wide network, dacl+ noise, fused AdamW.

    bfloat16 is autocast's; rows and parameters are float32. Beside it are the same step with the
    PyTorch backend, and the network alone on ready-made rows. The share of mixing and loss is of
    the time in kernels: the host launches them while earlier ones run.
    """
    batch, columns, width, depth = (8, 9, 16, 2) if bench.smoke else (4096, 784, 2048, 12)
    release_memory(bench.device)
    x = torch.rand(batch, columns, device=bench.device)
    rows = torch.cat((x, x.flip(0)))
    encoder, projector = fully_connected(columns, width, depth), nn.Linear(width, 128)
    model = DACL(encoder, projector, get_noise("dacl+", low=0.0)).to(bench.device)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step(loss: Callable[[], Tensor]) -> None:
        optimizer.zero_grad()
        with torch.autocast(bench.device.type, torch.bfloat16):
            value = loss()
        value.backward()
        optimizer.step()

    def network_alone() -> Tensor:
        return projector(encoder(rows)).float().square().mean()

    def time(loss: Callable[[], Tensor], kernels: ModuleType | None) -> dict[str, Any]:
        # "auto" is what a model asks for; here it may not choose.
        with mock.patch("mixnoise.ops.kernels_for", return_value=kernels):
            run = partial(step, loss)
            return measure(run, bench.device) | {"in_kernels": device_seconds(run, bench.device)}

    times = {
        "step": time(partial(model, x), operators),
        "network alone": time(network_alone, operators),
        "step with backend='torch'": time(partial(model, x), None),
    }
    seconds = [each["median"] for each in times.values()]
    in_kernels = [each["in_kernels"] or each["median"] for each in times.values()]
    return {
        "batch": batch,
        "columns": columns,
        "width": width,
        "depth": depth,
        "precision": "bf16 autocast",
        "step": times,
        "share_of_mixing_and_loss": 1 - in_kernels[1] / in_kernels[0],
        "ratio": {"torch": seconds[2] / seconds[0]},
    }


_TIMED = [
    Batch(noise, n, f, dtype) for dtype in (BF16, FP32) for n, f in _SIZES for noise in NOISES
]
_HIDDEN = Batch("linear", 4096, 2048, BF16)

CASES = [
    Case("time DACL step", dacl_step),
    Case(f"time backward {_HIDDEN.name}", partial(backward, batch=_HIDDEN), (_HIDDEN,)),
    *[  # without CUDA both sizes are tiny
        Case(f"time {b.name}", partial(timed, batch=b), (b, CompiledPeer(b)), b.f != _SIZES[0][1])
        for b in _TIMED
    ],
]
