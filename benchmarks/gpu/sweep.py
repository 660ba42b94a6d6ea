"""Block sizes of the kernels, tried one by one beside those chosen: a mode of its own, ``--sweep``.

What does not compile or needs more shared memory than there is, is an error among the results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any
from unittest import mock

import torch
from mixnoise_kernels import nt_xent
from mixnoise_kernels.blocks import Blocks
from mixnoise_kernels.unit_rows import Temperature
from torch import Tensor

from benchmarks.gpu.batch import NOISES, Batch
from benchmarks.gpu.bench import Bench, Case
from benchmarks.gpu.check_loss import BF16, FP32, relative_error
from benchmarks.gpu.problem import Problem
from benchmarks.gpu.timing import capture, measure, release_memory

_CLOSE = 1e-2


@dataclass(frozen=True)
class Variant:
    """What ``choices`` of the kernels' modules return; none: what they choose themselves."""

    part: str  # forward or backward of the loss, or mix
    work: Problem | Batch
    choices: tuple[tuple[str, Any], ...] = ()
    label: str = "as chosen"

    @property
    def group(self) -> str:
        return f"{self.part} {self.work.name}"

    def warm_up(self, bench: Bench) -> None:
        self.runner(bench)()

    def runner(self, bench: Bench) -> Callable[[], tuple[Tensor, ...]]:
        """Runs the part; the inputs are the same every time."""
        work = bench.sized(self.work)
        inputs = work.inputs(bench.device, 0)
        if isinstance(work, Batch):
            draw = work.sample(inputs, 0)
            return self.with_choices(lambda: (bench.mix(inputs, draw),))
        z, t = [x.detach() for x in inputs], Temperature(None, work.temperature)
        if self.part == "forward":
            return self.with_choices(lambda: nt_xent.forward(*z, t, work.precision)[:1])
        _, *kept = nt_xent.forward(*z, t, work.precision)
        g = work.weights(bench.device, 0)
        return self.with_choices(lambda: nt_xent.backward(g, *z, *kept, t)[:2])

    def with_choices(self, run: Callable[[], Any]) -> Callable[[], Any]:
        for function, value in self.choices:
            run = mock.patch(f"mixnoise_kernels.{function}", partial(_constant, value))(run)
        return run


def _constant(value: object, *arguments: Any) -> object:
    if isinstance(value, Blocks):  # of the element's bytes and the row's length
        longest = arguments[1]
        return replace(value, k=min(value.k, longest), out=min(value.out, longest))
    return value


def tried(bench: Bench, variant: Variant) -> dict[str, Any]:
    """Replayed from a CUDA graph, without the gaps between launches."""
    release_memory(bench.device)
    run = variant.runner(bench)
    true = replace(variant, choices=(), label="").runner(bench)()
    error = max(relative_error(a, b.double()) for a, b in zip(run(), true, strict=True))
    del true
    result = {"group": variant.group, "variant": variant.label, "error": error}
    if not error <= _CLOSE:
        return result | {"passed": False}
    if not bench.smoke:
        graph, _ = capture(run)
        run = graph.replay
    return result | {"time": measure(run, bench.device)}


def loss_variants(d: int) -> Iterator[Variant]:
    problem = Problem(8192, d, temperature=0.5)
    squares = [(rows, rows, k, 0) for k in sorted({d, min(d, 128), 64}) for rows in (128, 64)]
    others = [
        (rows, columns, k, min(d, 256))
        for k in sorted({d, min(d, 128)})
        for rows in (128, 64)
        for columns in (128, 64)
    ]
    for part, tiles in (("forward", squares), ("backward", others)):
        yield Variant(part, problem)
        for tile, warps, stages in product(tiles, (4, 8), (2, 3, 1)):
            rows, columns, k, out = tile
            label = f"{rows}x{columns} k={k} out={out} {warps} warps {stages} stages"
            chosen = Blocks(*tile, warps, stages)
            choices = (("blocks.triangle", chosen), ("blocks.rows", chosen))
            yield Variant(part, problem, choices, label)


def mix_variants(dtype: torch.dtype) -> Iterator[Variant]:
    for noise in NOISES:
        batch = Batch(noise, 8192, 3072, dtype)
        yield Variant("mix", batch)
        for block in (128, 256, 512):
            for rows, warps in ((1, 1), (1, 2), (1, 4), (2, 4), (4, 4), (8, 4)):
                if rows > 1 and noise == "dacl+":  # each row has a function of its own
                    continue
                chosen = (("mix.block_of", block), ("mix.rows_and_warps", (rows, warps)))
                yield Variant("mix", batch, chosen, f"{rows}x{block} {warps} warps")


def variants() -> Iterator[Variant]:
    for d in (128, 64, 256, 512):
        yield from loss_variants(d)
    for dtype in (BF16, FP32):
        yield from mix_variants(dtype)


CASES = [Case(f"{v.group} {v.label}", partial(tried, variant=v), (v,)) for v in variants()]
