"""The reference trainer: Algorithm 1 in a loop on Hugging Face Accelerate."""

from __future__ import annotations

import math
import os
import platform
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mixnoise import metrics
from mixnoise.accelerator import accelerator_for
from mixnoise.batches import Batches, Inputs, Loader, make_batches, model_inputs
from mixnoise.evaluate import knn_probe
from mixnoise.features import LabelledData, labelled_sets
from mixnoise.model import DACL
from mixnoise.noises.hidden import Hidden
from mixnoise.ops import check_choice, check_integer
from mixnoise.optim import OPTIMIZERS, default_lr, make_optimizer, warmup_cosine
from mixnoise.plots import plot_history
from mixnoise.progress import Progress
from mixnoise.run_folder import RunFolder, jsonable
from mixnoise.seeding import derive_seed, preserved_random_state

if TYPE_CHECKING:
    from accelerate import Accelerator

PRECISIONS = ("no", "fp16", "bf16")
# Evaluations and checkpoints in a run, where the user names no interval.
_TIMES_A_RUN = 20
_ROWS_EVALUATED = 512
# RankMe of a line is 1. Only where there was room for more.
_COLLAPSED_RANK, _LEAST_RANK_POSSIBLE = 1.5, 4
# Before that the running statistics of batch norm are those of nothing in particular.
_STEPS_TO_SETTLE = 50


@dataclass(frozen=True)
class Run:
    """What a pre-training left.

    ``history`` has a row for each epoch: epoch, step, loss (mean), lr (last), seconds, and in some
    rows rankme and knn_accuracy. ``run_dir`` is the folder, if there is one.
    """

    history: list[dict[str, float]]
    run_dir: Path | None

    @property
    def losses(self) -> list[float]:
        """Mean loss of each epoch."""
        return [row["loss"] for row in self.history]

    @property
    def seconds(self) -> float:
        """Up to the end of the last epoch, those before an interruption included."""
        return self.history[-1]["seconds"]


def pretrain(
    model: DACL,
    data: Any,
    *,
    epochs: int = 100,
    batch_size: int = 1024,
    optimizer: str = "adamw",
    lr: float | None = None,
    weight_decay: float = 1e-4,
    clip_norm: float | None = None,
    precision: str | None = None,
    seed: int = 0,
    num_workers: int = 0,
    run_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    checkpoint_every: int | None = None,
    evaluate_every: int | None = None,
    probe: tuple[LabelledData, LabelledData] | None = None,
    trackers: Sequence[str] = ("tensorboard",),
    progress: bool = True,
) -> Run:
    """Pre-train a model in place.

    The learning rate rises linearly over the first twentieth of the steps and then falls to zero
    by a cosine. Order, noise and dropout depend on ``seed`` alone: the same seed gives the same
    weights, bit for bit, on the same machine with the same number of threads, whatever
    ``num_workers`` is and however often the run was resumed. The global random states are left as
    they were. Under ``torchrun`` or ``accelerate launch`` every process takes its share of each
    batch, and contrasts its rows among themselves.

    Args:
        model: moved to Accelerate's device (a GPU if there is one) and left in training mode.
        data: rows ``(N, *features)`` as a tensor or an array, N >= 2, kept on the device if they
            fit (floating-point values in the model's dtype); or a map-style dataset of samples; or
            a loader of batches with a length, used as it is. Of a batch that is a tuple the model
            takes the first tensor; with "hidden" noise the encoder gets everything in the tuple or
            mapping. A last batch of a single row is dropped.
        epochs: passes over the data, >= 1.
        batch_size: rows per step and process, >= 2; at most N are used. A loader has its own.
        optimizer: "adamw", or "lars" for batches of thousands.
        lr: peak learning rate, > 0; default 1e-3 for AdamW, 0.3 for every 256 rows for LARS.
        weight_decay: >= 0, of matrices only, not of vectors such as biases.
        clip_norm: largest norm of the gradient, > 0; None does not clip.
        precision: "no", "fp16" or "bf16" autocast; None takes Accelerate's own setting ("no").
        seed: an integer.
        num_workers: processes that load a dataset, >= 0.
        run_dir: folder for config.json, metrics.csv, checkpoints, TensorBoard events and, where
            matplotlib is installed, plots; made if it is missing.
        resume: go on from the newest checkpoint in ``run_dir``, or start if there is none.
        checkpoint_every: epochs between checkpoints, >= 1; default: 20 a run. The last two are
            kept.
        evaluate_every: epochs between evaluations (RankMe of up to 512 rows, and the probe), >= 1;
            default: 20 a run. A representation that has collapsed is warned of.
        probe: labelled (train, test) sets for a kNN probe at every evaluation; labels are used for
            nothing else.
        trackers: names of Accelerate's trackers, used if there is a ``run_dir``.
        progress: a bar on a terminal, lines in a log, both on standard error.

    Returns:
        A :class:`Run` with the history of every epoch.

    Raises:
        ValueError, TypeError: an argument breaks its rule, or ``run_dir`` holds another run.
        FloatingPointError: the loss became NaN or inf; the message names the step.
        ImportError: an optional package is not installed; the message names it.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from mixnoise import DACL, get_noise, pretrain
        >>> model = DACL(nn.Linear(8, 16), nn.Linear(16, 16), get_noise("linear"))
        >>> run = pretrain(model, torch.randn(64, 8), epochs=2, batch_size=32, progress=False)
        >>> len(run.losses)
        2
    """
    _check(model, optimizer, lr, weight_decay, clip_norm, precision, seed, trackers)
    check_integer("epochs", epochs, 1)
    every = max(1, epochs // _TIMES_A_RUN)
    checkpoint_every = every if checkpoint_every is None else checkpoint_every
    evaluate_every = every if evaluate_every is None else evaluate_every
    check_integer("batch_size", batch_size, 2)
    check_integer("num_workers", num_workers, 0)
    check_integer("checkpoint_every", checkpoint_every, 1)
    check_integer("evaluate_every", evaluate_every, 1)
    if resume and run_dir is None:
        raise ValueError("resume needs the run_dir to resume from, got None")
    if probe is not None:
        labelled_sets(*probe)  # rather now than at the first evaluation
    folder = None if run_dir is None else RunFolder(run_dir)
    events = None if folder is None else folder.path / "events"
    with accelerator_for(precision, trackers, events) as accelerator, preserved_random_state():
        batches = make_batches(
            data,
            batch_size,
            accelerator.device,
            next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32),
            num_workers,
            accelerator.process_index,
            accelerator.num_processes,
        )
        if isinstance(batches, Loader) and accelerator.num_processes > 1:
            batches = Loader(accelerator.prepare(batches.loader))
        if lr is None:
            lr = default_lr(optimizer, batch_size * accelerator.num_processes)
        made_optimizer = make_optimizer(optimizer, model, lr, weight_decay)
        config = {
            "arguments": {
                "epochs": epochs,
                "batch_size": batch_size,
                "optimizer": optimizer,
                "lr": lr,
                "weight_decay": weight_decay,
                "clip_norm": clip_norm,
                "precision": accelerator.mixed_precision,
                "seed": seed,
            },
            "noise": model.noise.config(),
            "steps_per_epoch": len(batches),
            "processes": accelerator.num_processes,
        }
        checkpoint = None if folder is None else _open(folder, config, resume, accelerator, model)
        loop = _Loop(
            accelerator=accelerator,
            model=model,
            batches=batches,
            optimizer=made_optimizer,
            epochs=epochs,
            lr=lr,
            clip_norm=clip_norm,
            seed=seed,
            folder=folder,
            checkpoint_every=checkpoint_every,
            evaluate_every=evaluate_every,
            probe=probe,
            progress=progress and accelerator.is_main_process,
        )
        loop.run(checkpoint)
    return Run(loop.history, None if folder is None else folder.path)


def _check(
    model: DACL,
    optimizer: str,
    lr: float | None,
    weight_decay: float,
    clip_norm: float | None,
    precision: str | None,
    seed: int,
    trackers: Sequence[str],
) -> None:
    if not isinstance(model, DACL):
        raise TypeError(f"model must be a mixnoise.DACL, got {type(model).__name__}")
    check_choice("optimizer", optimizer, OPTIMIZERS)
    if precision is not None:
        check_choice("precision", precision, PRECISIONS)
    for name, number in (("lr", lr), ("clip_norm", clip_norm)):
        if number is not None and not 0 < number < math.inf:
            raise ValueError(f"{name} must be finite and > 0, got {number}")
    if not 0 <= weight_decay < math.inf:
        raise ValueError(f"weight_decay must be finite and >= 0, got {weight_decay}")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed must be an integer, got {seed!r}")
    if isinstance(trackers, str):
        raise TypeError(f"trackers must be a sequence of names, got the string {trackers!r}")


def _open(
    folder: RunFolder,
    config: dict[str, Any],
    resume: bool,
    accelerator: Accelerator,
    model: DACL,
) -> Path | None:
    """The checkpoint to go on from; the folder of a new run gets its config."""
    former = folder.config()
    accelerator.wait_for_everyone()  # nobody writes before all have looked
    if former is not None and not resume:
        raise ValueError(
            f"run_dir {str(folder.path)!r} already holds a run: go on with resume=True, or name "
            "another folder"
        )
    if former is not None:
        for key, value in jsonable(config).items():
            if former.get(key) != value:
                raise ValueError(
                    f"run_dir {str(folder.path)!r} holds another run: its {key} is "
                    f"{former.get(key)}, this one's {value}"
                )
    elif accelerator.is_main_process:
        folder.write_config({**config, **_versions(), "model": str(model).splitlines()})
    accelerator.init_trackers("mixnoise")
    return next(reversed(folder.checkpoints()), None)


def _versions() -> dict[str, Any]:
    """What else decides the last bit."""
    from mixnoise import __version__

    return {
        "mixnoise": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
    }


@dataclass
class _Loop:
    accelerator: Accelerator
    model: DACL
    batches: Batches
    optimizer: torch.optim.Optimizer
    epochs: int
    lr: float
    clip_norm: float | None
    seed: int
    folder: RunFolder | None
    checkpoint_every: int
    evaluate_every: int
    probe: tuple[LabelledData, LabelledData] | None
    progress: bool

    def __post_init__(self) -> None:
        self.history: list[dict[str, float]] = []
        self.step = 0
        self.collapse_seen = False
        self.takes_anything = isinstance(self.model.noise, Hidden)

    def run(self, checkpoint: Path | None) -> None:
        """Train from the checkpoint, or from the start, to the last epoch."""
        accelerator = self.accelerator
        own_forward = "forward" in vars(self.model)
        if checkpoint is not None:
            self.restore(checkpoint)
        module = accelerator.prepare(self.model)
        optimizer = accelerator.prepare(self.optimizer)
        optimizer.zero_grad()
        before = self.history[-1]["seconds"] if self.history else 0.0
        started = time.perf_counter()
        progress = Progress(self.progress, self.epochs * len(self.batches), self.step)
        try:
            for epoch in range(len(self.history), self.epochs):
                loss, inputs = self.train_epoch(module, optimizer, epoch, progress)
                row = {
                    "epoch": epoch + 1,
                    "step": self.step,
                    "loss": loss,
                    "lr": optimizer.param_groups[0]["lr"],
                    "seconds": before + time.perf_counter() - started,
                }
                last = epoch + 1 == self.epochs
                if accelerator.is_main_process and (last or (epoch + 1) % self.evaluate_every == 0):
                    row |= self.evaluate(inputs)
                self.history.append(row)
                accelerator.log(row, step=self.step)
                progress.line(f"epoch {epoch + 1}/{self.epochs}", row, last)
                if self.folder is not None and accelerator.is_main_process:
                    self.folder.write_metrics(self.history)
                    if last or (epoch + 1) % self.checkpoint_every == 0:
                        self.save(optimizer)
        finally:
            progress.close()
            accelerator.unwrap_model(module, keep_fp32_wrapper=False)
            if not own_forward:
                vars(self.model).pop("forward", None)  # the method, which Accelerate put back there
            self.model.train()
        if self.folder is not None and accelerator.is_main_process and find_spec("matplotlib"):
            plot_history({"run": self.history}, self.folder.path / "plots" / "history.png")

    def train_epoch(
        self, module: Any, optimizer: Any, epoch: int, progress: Progress
    ) -> tuple[float, Inputs]:
        """Mean loss, and the inputs of the last step."""
        from accelerate.utils import send_to_device

        accelerator, losses = self.accelerator, []
        self.model.train()
        for batch in self.batches.epoch(derive_seed(self.seed, "epoch", epoch)):
            batch = send_to_device(batch, accelerator.device)
            args, kwargs = model_inputs(batch, self.takes_anything)
            rank = accelerator.process_index
            torch.manual_seed(derive_seed(self.seed, f"dropout/{rank}", self.step))
            # On the CPU, so that the views are the same on every device.
            generator = torch.Generator()
            generator.manual_seed(derive_seed(self.seed, f"noise/{rank}", self.step))
            rate = self.lr * warmup_cosine(self.step, self.epochs * len(self.batches))
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = module(*args, generator=generator, **kwargs)
            accelerator.backward(loss)
            if self.clip_norm is not None:
                accelerator.clip_grad_norm_(self.model.parameters(), self.clip_norm)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
            self.step += 1
            progress.advance()
        if not losses:
            raise ValueError("data must have batches of at least two rows, got none in an epoch")
        # Over all processes, so that all of them stop where the loss of one is not finite.
        per_step = accelerator.reduce(torch.stack(losses).float(), "mean").cpu()
        if not per_step.isfinite().all():
            step = self.step - len(losses) + int((~per_step.isfinite()).nonzero()[0])
            raise FloatingPointError(f"the loss became {per_step.sum().item()} at step {step}")
        return per_step.mean().item(), (args, kwargs)

    @torch.no_grad()
    def evaluate(self, inputs: Inputs) -> dict[str, float]:
        """RankMe of the encoder's output for a batch, and the probe."""
        args, kwargs = inputs
        if not self.takes_anything:
            args = (args[0][:_ROWS_EVALUATED],)
        self.model.eval()
        with self.accelerator.autocast():
            h = self.model.encoder(*args, **kwargs)[:_ROWS_EVALUATED].flatten(1)
        if not h.isfinite().all():
            return {"rankme": math.nan}  # and no reason for a probe
        values = {"rankme": metrics.rankme(h)}
        can_tell = self.step >= _STEPS_TO_SETTLE and min(h.shape) >= _LEAST_RANK_POSSIBLE
        if can_tell and values["rankme"] < _COLLAPSED_RANK and not self.collapse_seen:
            self.collapse_seen = True
            warnings.warn(
                f"the representation has collapsed: RankMe is {values['rankme']:.2f} of at most "
                f"{min(h.shape)} at step {self.step}; try a lower lr, a stronger noise or "
                "normalisation layers",
                RuntimeWarning,
                stacklevel=5,  # no_grad, run, pretrain, and who called that
            )
        if self.probe is not None:
            values["knn_accuracy"] = knn_probe(self.model.encoder, *self.probe).accuracy
        return values

    def save(self, optimizer: Any) -> None:
        assert self.folder is not None
        scaler = self.accelerator.scaler
        state = {
            "step": self.step,
            "history": self.history,
            "optimizer": optimizer.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
        }
        self.folder.save(self.step, self.model, state)

    def restore(self, checkpoint: Path) -> None:
        assert self.folder is not None
        state = self.folder.load(checkpoint, self.model)
        self.step, self.history = state["step"], state["history"]
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
