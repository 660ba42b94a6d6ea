"""The paper's table of images: ``python -m benchmarks.paper.images --data cifar10``.

A residual network, pre-trained without labels in the ways of the paper's rows, each for as many
epochs, then a linear classifier on its frozen features with all labels. Goes on where it was
interrupted, also within a run. Under ``torchrun`` every process has a share of each batch and all
rows are contrasted with each other. docs/images.md has the commands for the paper's sizes.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from kornia import augmentation
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, Dataset, random_split

from benchmarks.cells import Cell
from benchmarks.paper.image_networks import BLOCKS, ResNet, projector
from mixnoise import DACL, Noise, get_noise, linear_probe, pretrain
from mixnoise.datasets import ImageFolder, load_cifar10, load_cifar100
from mixnoise.features import features

UNTRAINED, BATCH_NORM, GAUSSIAN, LINEAR, PLUS, SIMCLR, BOTH = ROWS = (
    *("No pre-training", "Batch norm alone", "Gaussian noise", "DACL"),
    *("DACL+", "SimCLR", "SimCLR+DACL"),
)
NOTHING_TRAINED = UNTRAINED, BATCH_NORM
PIXELS = {"cifar10": 32, "cifar100": 32, "imagenet": 224}
_HELD_OUT = 0.1  # of ImageNet's training images, for --validation
Images = Tensor | Dataset[Any]


@dataclass(frozen=True)
class Settings:
    """All that a row's accuracy depends on, but for the seed.

    Strengths and temperature are assumed, for the paper does not say; --validation tries others.
    """

    data: str
    depth: int = 18
    width: float = 1
    epochs: int = 10
    batch_size: int = 512  # of a process
    processes: int = 1
    optimizer: str = "adamw"
    lr: float | None = None
    weight_decay: float = 1e-4
    precision: str = "no"
    temperature: float = 0.5
    sigma: float = 0.1
    alpha: float = 0.9
    images: int | None = None  # so many of the training images, None: all
    validation: bool = False


# Data.


def load(settings: Settings, folder: Path | None) -> tuple[Images, Any, Any]:
    """Images to pre-train on, and the sets of a linear probe."""
    if settings.data == "imagenet":
        if folder is None:
            raise ValueError("imagenet needs --folder, with a train and a val of class folders")
        train: Any = ImageFolder(folder / "train")
        test: Any = ImageFolder(folder / "val")
        if settings.validation:
            n_test = round(_HELD_OUT * len(train))
            cut = [len(train) - n_test, n_test]
            train, test = random_split(train, cut, torch.Generator().manual_seed(1))
        loader = partial(DataLoader, batch_size=256, num_workers=os.cpu_count() or 1)
        return train, loader(train, shuffle=True), loader(test)
    split = {"cifar10": load_cifar10, "cifar100": load_cifar100}[settings.data](settings.validation)
    some = slice(settings.images)
    x_train, x_test = (x.unflatten(1, (3, 32, 32)) for x in (split.x_train, split.x_test))
    return x_train[some], (x_train[some], split.y_train[some]), (x_test, split.y_test)


# Rows.


def simclr(pixels: int) -> nn.Module:
    """Chen et al.'s augmentations: for small images half the change of colour, and no blur."""
    small = pixels < 64
    s = 0.4 if small else 0.8
    transforms: list[nn.Module] = [
        # "resample" crops all images at once; the result is that of the default, image by image.
        augmentation.RandomResizedCrop(
            (pixels, pixels), scale=(0.08, 1.0), cropping_mode="resample"
        ),
        augmentation.RandomHorizontalFlip(),
        augmentation.ColorJitter(s, s, s, s / 4, p=0.8),
        augmentation.RandomGrayscale(p=0.2),
    ]
    if not small:
        size = pixels // 10 | 1  # a tenth of the side, and odd
        transforms.append(augmentation.RandomGaussianBlur((size, size), (0.1, 2.0), p=0.5))
    return nn.Sequential(*transforms)


def noise(row: str, settings: Settings) -> Noise | list[Noise]:
    alpha = settings.alpha
    if row == GAUSSIAN:
        return get_noise("gaussian", sigma=settings.sigma)
    if row == LINEAR:
        return get_noise("linear", alpha=alpha)
    if row == PLUS:
        return get_noise("dacl+", alpha=alpha, low=0.0)
    augment = get_noise("augment", transform=simclr(PIXELS[settings.data]))
    return augment if row == SIMCLR else [augment, get_noise("linear", alpha=alpha)]


def encoder(settings: Settings, seed: int) -> ResNet:
    torch.manual_seed(seed)
    small = PIXELS[settings.data] < 64
    network = ResNet(settings.depth, settings.width, small)
    return network.to(memory_format=torch.channels_last)


def model(row: str, settings: Settings, network: ResNet, compiled: bool = False) -> DACL:
    head = projector(network.out_features)
    body: Any = torch.compile(network) if compiled else network
    return DACL(body, head, noise(row, settings), settings.temperature, gather=True)


def run(
    row: str,
    settings: Settings,
    data: tuple[Images, Any, Any],
    compiled: bool,
    run_dir: str,
    seed: int,
) -> dict[str, Any]:
    """Accuracy in %, and with pre-training what it took; accuracy from the first process alone."""
    images, train, test = data
    network, took = encoder(settings, seed), {}
    num_workers = 0 if isinstance(images, Tensor) else os.cpu_count() or 1
    if row not in NOTHING_TRAINED:
        made = pretrain(
            model(row, settings, network, compiled),
            images,
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            optimizer=settings.optimizer,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            precision=settings.precision,
            seed=seed,
            num_workers=num_workers,
            run_dir=f"{run_dir}-{seed}",
            resume=True,
            trackers=(),
        )
        rate = settings.epochs * len(images) / made.seconds
        took = {"images_per_second": round(rate, 1), "losses": made.losses}
    if rank() != 0:
        return {}
    # Also where nothing was trained; builds for CUDA name it where there is none, too.
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    network.to(device)
    if row == BATCH_NORM:
        given: Any = images
        batch_size = min(settings.batch_size, len(given))
        loader = DataLoader(
            given, batch_size, shuffle=True, drop_last=True, num_workers=num_workers
        )
        update_bn(loader, network, device)
    if isinstance(images, Tensor):
        train, test = ((features(network, x, 512), y) for x, y in (train, test))
        found = linear_probe(nn.Identity(), train, test, seed=seed, classifier="sgd")
    else:
        found = linear_probe(network, train, test, seed=seed, classifier="sgd")
    return {"accuracy": round(100 * found.accuracy, 3), **took}


def slug(row: str) -> str:
    return row.lower().replace("dacl+", "dacl-plus").replace("+", "-").replace(" ", "-")


def cell(row: str, settings: Settings, folder: str) -> Cell:
    common = asdict(settings)
    if row in NOTHING_TRAINED:
        kept = ["data", "depth", "width", "images", "validation"]
        kept += ["batch_size"] if row == BATCH_NORM else []
        common = {name: common[name] for name in kept}
    size = f"{settings.depth}x{settings.width:g}"
    return Cell(f"paper/{folder}", f"{settings.data}-{size}-{slug(row)}", {**common, "row": row})


def fill(cell: Cell, seeds: range, run: Callable[[int], dict[str, Any]]) -> None:
    """The first process writes; the others only take part."""
    if rank() == 0:
        cell.fill(seeds, run)
        return
    for seed in cell.missing(seeds):
        run(seed)


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paper.images", description=__doc__)
    parser.add_argument("--data", choices=PIXELS, required=True)
    parser.add_argument("--folder", type=Path, help="of imagenet's train and val")
    parser.add_argument("--rows", choices=ROWS, nargs="+", default=list(ROWS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--depth", type=int, choices=BLOCKS, default=18)
    parser.add_argument("--width", type=float, default=1, help="of all channels; the paper's is 4")
    parser.add_argument("--epochs", type=int, default=10, help="the paper has 1000 for CIFAR")
    parser.add_argument("--batch-size", type=int, default=512, help="of a process")
    parser.add_argument("--optimizer", default="adamw", help="the paper has lars")
    parser.add_argument("--lr", type=float)
    parser.add_argument("--weight-decay", type=float, default=1e-4)
    parser.add_argument("--temperature", type=float, default=0.5)
    parser.add_argument("--sigma", type=float, default=0.1, help="of Gaussian noise")
    parser.add_argument("--alpha", type=float, default=0.9, help="of mixing")
    parser.add_argument("--precision", choices=("no", "bf16", "fp16"))
    parser.add_argument("--images", type=int, help="only so many for training; CIFAR")
    parser.add_argument("--validation", action="store_true", help="on training images held out")
    parser.add_argument("--compile", action="store_true", help="the encoder")
    parser.add_argument("--results", default="images", help="folder in benchmarks/results/paper")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="for checkpoints")
    return parser


def main(arguments: list[str] | None = None) -> None:
    given = vars(make_parser().parse_args(arguments))
    folder, rows, seeds, compiled, results, runs = (
        given.pop(name) for name in ("folder", "rows", "seeds", "compile", "results", "runs")
    )
    precision = given.pop("precision") or ("bf16" if torch.cuda.is_available() else "no")
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    settings = replace(Settings(**given), precision=precision, processes=processes)
    own_group = processes > 1 and not dist.is_initialized()
    if own_group:
        # The others wait while the first one probes.
        device = int(os.environ.get("LOCAL_RANK", "0"))
        if torch.cuda.is_available():
            torch.cuda.set_device(device)
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=timedelta(hours=12))
    data = load(settings, folder)
    for row in rows:
        started, found = time.perf_counter(), cell(row, settings, results)
        run_dir = str(runs / results / found.name)
        fill(found, range(seeds), partial(run, row, settings, data, compiled, run_dir))
        if rank() == 0:
            accuracy = np.mean([each["accuracy"] for each in found.runs()])
            print(f"{found.name}: {accuracy:.2f} ({time.perf_counter() - started:.0f} s)")
    if own_group:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
