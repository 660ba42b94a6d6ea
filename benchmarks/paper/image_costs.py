"""Memory and time of the paper's image runs: ``python -m benchmarks.paper.image_costs``.

Computed, not measured. Operations and what is kept for the backward are counted on PyTorch's meta
device, layer by layer, for one image and the network as it is trained; the rest is arithmetic, with
rates that are assumed (the options). The table goes into docs/images.md.

- Weights, gradients and AdamW's two moments are float32.
- Activations are those that autograd keeps under bfloat16 autocast, of two views of each image of a
  process. SimCLR+DACL has four views, so it needs twice these activations, and twice the time.
- Time is that of the encoder, forward and backward, at a tenth of the peak of an H100: an
  assumption, near what narrow residual networks reach. Wide ones do better. Augmentations, mixing
  and the loss come on top: ``image_step`` measures how much, and how fast yours is.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.markdown import fill_one, table
from benchmarks.paper.image_networks import ResNet
from benchmarks.tables import ROOT

DOCUMENT = ROOT / "docs" / "images.md"
PEAK, SHARE = 989e12, 0.1  # bfloat16 operations a second of an H100, and what is reached of them
_BACKWARD = 2  # as many operations as the forward, for inputs and for weights


@dataclass(frozen=True)
class Run:
    """One of the paper's; ``batch`` is that of all processes."""

    name: str
    depth: int
    width: int
    pixels: int
    images: int
    epochs: int
    batch: int
    processes: int


RUNS = [
    Run("CIFAR, ResNet18", 18, 1, 32, 50_000, 1000, 4096, 1),
    Run("CIFAR, ResNet50", 50, 1, 32, 50_000, 1000, 4096, 2),
    Run("CIFAR, ResNet50(4x), the paper's", 50, 4, 32, 50_000, 1000, 4096, 8),
    Run("ImageNet, ResNet50", 50, 1, 224, 1_281_167, 1000, 4096, 8),
    Run("ImageNet, ResNet50(4x), the paper's", 50, 4, 224, 1_281_167, 1000, 4096, 32),
]


@dataclass(frozen=True)
class Costs:
    """Parameters of a network; for one image, operations of a forward and bytes that are kept."""

    parameters: int
    operations: int
    kept: int


def count(depth: int, width: float, pixels: int) -> Costs:
    with torch.device("meta"):
        network = ResNet(depth, width, small=pixels < 64)
        x = torch.empty(2, 3, pixels, pixels)  # batch norm needs two
    kept: dict[int, int] = {}
    alive: list[torch.Tensor] = []  # so that no other storage has the place of one

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.shape[:1] == x.shape[:1]:  # not weights, nor statistics of channels
            kept[tensor.untyped_storage()._cdata] = tensor.numel() * _bytes(tensor)
            alive.append(tensor)
        return tensor

    operations = FlopCounterMode(display=False)
    with operations, saved_tensors_hooks(keep, lambda tensor: tensor):
        network(x)
    return Costs(
        parameters=sum(p.numel() for p in network.parameters()),
        operations=operations.get_total_flops() // 2,
        kept=sum(kept.values()) // 2,
    )


def _bytes(tensor: torch.Tensor) -> int:
    """Under autocast floating-point activations are bfloat16."""
    return 2 if tensor.is_floating_point() else tensor.element_size()


def rows(peak: float, share: float) -> list[list[str]]:
    found = []
    for run in RUNS:
        costs = count(run.depth, run.width, run.pixels)
        views = 2 * run.batch // run.processes
        state = costs.parameters * 4 * 4  # weights, gradients, two moments
        memory = state + costs.kept * views
        operations = run.epochs * run.images * 2 * costs.operations * (1 + _BACKWARD)
        hours = operations / (peak * share) / 3600
        found.append(
            [
                run.name,
                f"{costs.parameters / 1e6:.0f} M",
                f"{costs.operations / 2e9:.2f} G",
                f"{costs.kept / 1e6:.1f} MB",
                f"{run.processes}",
                f"{memory / 1e9:.0f} GB",
                f"{hours:,.0f}",
                f"{hours / run.processes:,.1f}",
            ]
        )
    return found


HEAD = [
    *(
        "1,000 epochs, batches of 4,096",
        "parameters",
        "multiply-adds an image",
        "kept for an image",
    ),
    *("GPUs", "memory of each", "GPU hours", "hours"),
]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper.image_costs", description=__doc__
    )
    parser.add_argument("--peak", type=float, default=PEAK, help="operations a second, bfloat16")
    parser.add_argument("--share", type=float, default=SHARE, help="of the peak that is reached")
    options = parser.parse_args(arguments)
    made = table(HEAD, rows(options.peak, options.share))
    print(made)
    if (options.peak, options.share) == (PEAK, SHARE):
        DOCUMENT.write_text(fill_one(DOCUMENT.read_text(), "image-costs", made))


if __name__ == "__main__":
    main()
