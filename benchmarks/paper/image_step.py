"""What a step of SimCLR costs beside its encoder: ``python -m benchmarks.paper.image_step``.

In turns, on random images: the whole step, and its parts, each forward and backward on what it
would get: augmenting, the encoder on both views, projector and loss. The step and its last part
also with the loss of lightly, or with the plain formula where lightly is not installed. Medians go
into benchmarks/results/image-step-<device>.json, one entry for each batch size.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks import cells
from benchmarks.machine import describe
from benchmarks.paper.image_networks import BLOCKS
from benchmarks.paper.images import SIMCLR, Settings, encoder, model
from benchmarks.speed.peers import nt_xent as plain_formula

_WARM_UP, _ROUNDS = 3, 10
Loss = Callable[[Tensor, Tensor], Tensor]


def other_loss(temperature: float) -> tuple[str, Loss]:
    try:
        from lightly.loss import NTXentLoss
    except ImportError:
        return "plain formula", lambda z1, z2: plain_formula(z1, z2, temperature)
    return "lightly", NTXentLoss(temperature=temperature)


def sides(
    settings: Settings, compiled: bool, device: torch.device
) -> dict[str, Callable[[], Tensor]]:
    """The losses, or what stands for one, of each way; gradients are made and thrown away."""
    network = encoder(settings, seed=0)
    ours = model(SIMCLR, settings, network, compiled).to(device)
    pixels = 32 if settings.data.startswith("cifar") else 224
    generator = torch.Generator(device).manual_seed(0)
    x = torch.rand(settings.batch_size, 3, pixels, pixels, device=device, generator=generator)
    augment = ours.noises[0]
    views = augment.views(x, seed=0).flatten(0, 1)
    features = ours.encoder(views).detach().requires_grad_()
    name, other = other_loss(settings.temperature)

    def projector_and(loss: Loss) -> Tensor:
        return loss(*ours.projector(features).chunk(2))

    return {
        "step": lambda: ours(x),
        f"step with {name}": lambda: other(*ours.project(x)),
        "augmenting": lambda: augment.views(x).sum(),
        "encoder": lambda: ours.encoder(views).float().sum(),
        "projector and loss": lambda: projector_and(ours.loss),
        f"projector and {name}": lambda: projector_and(other),
    }


def measure(
    settings: Settings, compiled: bool, device: torch.device, rounds: int = _ROUNDS
) -> dict[str, Any]:
    """Median seconds of each, the share outside the encoder, and images a second."""
    ways = sides(settings, compiled, device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16")
    times: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(min(_WARM_UP, rounds) + rounds):
        for name, way in ways.items():
            seconds = _seconds(way, autocast, device)
            if i >= min(_WARM_UP, rounds):
                times[name].append(seconds)
    median = {name: statistics.median(found) for name, found in times.items()}
    return {
        "seconds": median,
        "outside_encoder": 1 - median["encoder"] / median["step"],
        "images_per_second": settings.batch_size / median["step"],
    }


def _seconds(way: Callable[[], Tensor], autocast: Any, device: torch.device) -> float:
    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    wait()
    started = time.perf_counter()
    with autocast:
        loss = way()
    if loss.requires_grad:
        loss.backward()
    wait()
    return time.perf_counter() - started


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper.image_step", description=__doc__
    )
    parser.add_argument("--data", choices=("cifar10", "imagenet"), default="cifar10")
    parser.add_argument("--depth", type=int, choices=BLOCKS, default=18)
    parser.add_argument("--width", type=float, default=1)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--compile", action="store_true", help="the encoder")
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings = Settings(
        data=options.data,
        depth=options.depth,
        width=options.width,
        batch_size=options.batch_size,
        precision="bf16" if device.type == "cuda" else "no",
    )
    found = measure(settings, options.compile, device, options.rounds)
    path = cells.RESULTS / f"image-step-{device.type}.json"
    machine, entries = describe(), []
    if path.exists():
        entries = json.loads(path.read_text())["entries"]
    given = vars(options)
    entries = [entry for entry in entries if entry["settings"] != given]
    entries.append({"machine": machine, "settings": given, **found})
    cells.write(path, {"entries": entries})
    print(found)


if __name__ == "__main__":
    main()
