"""A minimal trainer: Algorithm 1 over data that fit in memory."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixnoise.model import DACL

OPTIMIZERS = ("adamw",)
_WARMUP_SHARE = 0.05


@dataclass(frozen=True)
class Run:
    """What a pre-training left: mean loss of each epoch, seconds, and the folder, if any."""

    losses: list[float]
    seconds: float
    run_dir: Path | None


def pretrain(
    model: DACL,
    data: Any,
    *,
    epochs: int = 100,
    batch_size: int = 1024,
    optimizer: str = "adamw",
    lr: float = 1e-3,
    weight_decay: float = 1e-4,
    seed: int = 0,
    run_dir: str | os.PathLike[str] | None = None,
) -> Run:
    """Pre-train a model in place.

    AdamW with a linear warm-up over the first twentieth of the steps and cosine decay to zero.
    Batches are a new permutation every epoch, a last batch of a single row is dropped. Draws and
    order depend on ``seed`` alone, so the same seed gives the same weights on the same machine
    with the same number of threads; the global random state is left as it was.

    Args:
        model: left in training mode, on its own device.
        data: rows ``(N, *features)``, a tensor or an array, N >= 2; moved to the model's device.
        epochs: passes over the data, >= 1.
        batch_size: rows per step, >= 2; at most N are used.
        optimizer: "adamw".
        lr: peak learning rate, > 0.
        weight_decay: decoupled weight decay, >= 0.
        seed: an integer.
        run_dir: folder for config.json and metrics.csv, made if it is missing.

    Returns:
        A :class:`Run` with the mean loss of every epoch.

    Raises:
        ValueError, TypeError: an argument breaks its rule.
        FloatingPointError: the loss became NaN or inf; the message names the step.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from mixnoise import DACL, get_noise, pretrain
        >>> model = DACL(nn.Linear(8, 16), nn.Linear(16, 16), get_noise("linear"))
        >>> run = pretrain(model, torch.randn(64, 8), epochs=2, batch_size=32)
        >>> len(run.losses)
        2
    """
    if not isinstance(model, DACL):
        raise TypeError(f"model must be a mixnoise.DACL, got {type(model).__name__}")
    x = torch.as_tensor(data)
    if x.ndim == 0 or x.shape[0] < 2:
        raise ValueError(f"data must have at least two rows, got shape {tuple(x.shape)}")
    for name, value, least in (("epochs", epochs, 1), ("batch_size", batch_size, 2)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an integer >= {least}, got {value!r}")
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {optimizer!r}")
    if not 0 < lr < math.inf:
        raise ValueError(f"lr must be finite and > 0, got {lr}")
    if not 0 <= weight_decay < math.inf:
        raise ValueError(f"weight_decay must be finite and >= 0, got {weight_decay}")
    x = x.to(next(model.parameters()).device)

    folder = None if run_dir is None else Path(run_dir)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "noise": model.noise.config(),
            "n_rows": x.shape[0],
            "epochs": epochs,
            "batch_size": batch_size,
            "optimizer": optimizer,
            "lr": lr,
            "weight_decay": weight_decay,
            "seed": seed,
        }
        _write(folder / "config.json", json.dumps(config, indent=2, default=str) + "\n")

    started = time.perf_counter()
    with torch.random.fork_rng():
        losses = _train(model, x, epochs, batch_size, lr, weight_decay, seed, folder)
    return Run(losses, time.perf_counter() - started, folder)


def _train(
    model: DACL,
    x: Tensor,
    epochs: int,
    batch_size: int,
    lr: float,
    weight_decay: float,
    seed: int,
    folder: Path | None,
) -> list[float]:
    n_rows = x.shape[0]
    starts = [s for s in range(0, n_rows, batch_size) if s + 1 < n_rows]
    n_steps = epochs * len(starts)
    warmup = max(1, round(_WARMUP_SHARE * n_steps))
    adamw = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        adamw,
        lambda step: min(
            (step + 1) / warmup,
            0.5 * (1 + math.cos(math.pi * max(0, step - warmup) / max(1, n_steps - warmup))),
        ),
    )
    losses: list[float] = []
    table = [("epoch", "loss", "seconds")]
    started = time.perf_counter()
    model.train()
    for epoch in range(epochs):
        torch.manual_seed(derive_seed(seed, "epoch", epoch))  # dropout, and the order
        order = torch.randperm(n_rows).to(x.device)
        step_losses = []
        for i, start in enumerate(starts):
            generator = torch.Generator()
            generator.manual_seed(derive_seed(seed, "step", epoch * len(starts) + i))
            loss = model(x[order[start : start + batch_size]], generator=generator)
            adamw.zero_grad()
            loss.backward()
            adamw.step()
            schedule.step()
            step_losses.append(loss.detach())
        per_step = torch.stack(step_losses).cpu()
        if not per_step.isfinite().all():
            step = epoch * len(starts) + int((~per_step.isfinite()).nonzero()[0])
            raise FloatingPointError(f"the loss became {per_step.sum().item()} at step {step}")
        losses.append(per_step.mean().item())
        if folder is not None:
            table.append((str(epoch), f"{losses[-1]:.9g}", f"{time.perf_counter() - started:.3f}"))
            _write(folder / "metrics.csv", table)
    return losses


def derive_seed(seed: int, purpose: str, index: int) -> int:
    """An unrelated 63-bit seed for each purpose and index."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _write(path: Path, content: str | list[tuple[str, str, str]]) -> None:
    """Written beside and renamed, so that no reader ever meets half a file."""
    beside = path.with_name(path.name + ".part")
    with beside.open("w", newline="", encoding="utf-8") as file:
        if isinstance(content, str):
            file.write(content)
        else:
            csv.writer(file).writerows(content)
    beside.replace(path)
