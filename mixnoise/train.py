"""The reference trainer: Algorithm 1 in a loop on Hugging Face Accelerate."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from mixnoise.batches import Batches, Loader, Rows, make_batches
from mixnoise.checks import check_choice, check_float, check_integer
from mixnoise.collectives import resolve
from mixnoise.features import LabelledData
from mixnoise.model import DACL
from mixnoise.noises.base import Noise
from mixnoise.seeding import preserved_random_state
from mixnoise.training.accelerator import accelerator_for, shared_loader
from mixnoise.training.agreement import Agreement, lost_contact_explained
from mixnoise.training.checkpoints import check_can_be_saved
from mixnoise.training.domain import check_domain
from mixnoise.training.loop import Loop
from mixnoise.training.monitor import Monitor, check_probe
from mixnoise.training.optim import OPTIMIZERS, default_lr, make_optimizer
from mixnoise.training.resuming import freed_if_nothing_comes_of_it, open_run
from mixnoise.training.run_folder import RunFolder
from mixnoise.training.step_losses import LossNotFinite
from mixnoise.training.termination import deferred_signals
from mixnoise.training.validation import Validation

__all__ = ["LossNotFinite", "Run", "pretrain"]

PRECISIONS = ("no", "fp16", "bf16")
# Accelerate's state and the global generators are the process's: threads train one after another.
_ONE_AT_A_TIME = threading.RLock()
# Evaluations and checkpoints in a run, where the user names no interval.
_TIMES_A_RUN = 20


@dataclass(frozen=True)
class Run:
    """The result of :func:`pretrain`.

    ``history`` has a row for each epoch: epoch, step, loss (mean), lr (last), seconds, and in some
    rows validation_loss, rankme, alignment, uniformity and knn_accuracy. ``run_dir`` is the folder,
    if there is one.
    """

    history: list[dict[str, float]]
    run_dir: Path | None

    @property
    def losses(self) -> list[float]:
        """Mean loss of each epoch."""
        return [row["loss"] for row in self.history]

    @property
    def seconds(self) -> float:
        """Seconds up to the end of the last epoch, those before an interruption included."""
        return self.history[-1]["seconds"]


def pretrain(
    model: DACL,
    data: Any,
    *,
    epochs: int = 100,
    batch_size: int = 1024,
    micro_batch: int | None = None,
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
    checkpoint_steps: int | None = None,
    evaluate_every: int | None = None,
    probe: tuple[LabelledData, LabelledData] | None = None,
    validation: Any = None,
    patience: int | None = None,
    trackers: Sequence[str] = ("tensorboard",),
    progress: bool = True,
) -> Run:
    """Pre-train a model in place.

    The learning rate rises linearly over the first twentieth of the steps and then falls to zero
    by a cosine. Order, noise and dropout depend on ``seed`` alone: the same seed gives the same
    weights, bit for bit, on the same machine with the same number of threads, however often the run
    was killed and resumed and, but for an IterableDataset, whatever ``num_workers`` is. So that
    this holds for data and models that draw from the global generators of torch, numpy and random,
    these are seeded before each batch and each step, and a loader's own ones before each epoch
    (not those of workers that persist from epoch to epoch); on return the global ones are as they
    were. Under ``torchrun`` or ``accelerate launch`` every process takes
    its share of each batch, and contrasts its rows among themselves, or with all if the model has
    ``gather=True``.

    Threads that call it wait for one another.

    SIGTERM and Ctrl-C, in a run with a ``run_dir`` in the main thread, are obeyed after the step
    that is running and a checkpoint, a second Ctrl-C at once. If one of several processes fails,
    all of them raise.

    Args:
        model: moved to Accelerate's device (a GPU if there is one) and left in training mode.
            Frozen parts, in evaluation mode and with no parameter that asks for a gradient, stay
            as they are.
        data: rows ``(N, *features)`` as a tensor or an array, N >= 2, kept on the device if they
            fit; or a map-style dataset of samples, or an IterableDataset with a length, whose
            workers must yield each its own; or a loader of batches with a length, used as it is (of
            several processes each takes its share of a torch DataLoader; any other must yield each
            one its own, and there is a RuntimeWarning if their first batches are equal). Of a
            batch that is a tuple the model takes the first tensor, floating-point values in its own
            dtype; with "hidden" noise the encoder gets everything in the tuple or mapping. A last
            batch of a single row is dropped.
        epochs: passes over the data, >= 1.
        batch_size: rows per step and process, >= 2; at most N are used. A loader has its own, in
            its attribute of this name, or else this is what LARS and ``validation`` go by.
        micro_batch: rows of both views that the network takes at a time, >= 1, for batches that do
            not fit into memory, also where it is evaluated; the step is that of the whole batch,
            see ``DACL.forward``.
        optimizer: "adamw", or "lars" for batches of thousands.
        lr: peak learning rate, > 0; default 1e-3 for AdamW, 0.3 for every 256 rows for LARS.
        weight_decay: >= 0, of matrices only, not of vectors such as biases.
        clip_norm: largest norm of the gradient, > 0; None does not clip.
        precision: "no", "bf16" or, not on a CPU, "fp16" autocast; None takes Accelerate's own
            setting ("no").
        seed: an integer.
        num_workers: processes that load a dataset, >= 0.
        run_dir: folder for config.json, metrics.csv, checkpoints, TensorBoard events and, where
            matplotlib is installed, plots; made if it is missing. A run that raises before it has
            finished an epoch or left a checkpoint takes its config.json with it, so that another
            one can have the folder.
        resume: go on from the newest checkpoint in ``run_dir``, or start if there is none. One
            that is damaged is warned of, and the one before is taken.
        checkpoint_every: epochs between checkpoints, >= 1; default: 20 a run. The last two are
            kept.
        checkpoint_steps: steps between further checkpoints, >= 1, also within an epoch: no more
            than these are lost when a run is killed. None makes none. A loader of the caller's own
            draws the batches of a half epoch again and throws them away.
        evaluate_every: epochs between evaluations (RankMe, alignment and uniformity of up to 512
            rows, and the probe), >= 1; default: 20 a run. A representation that has collapsed is
            warned of.
        probe: labelled (train, test) sets for a kNN probe at every evaluation; labels are used for
            nothing else. A probe that fails is warned of, and its accuracy is NaN.
        validation: rows ``(N, *features)`` like those of ``data``, a tensor or an array, that are
            not trained on: their loss, always with the same noise, is in the history of every
            evaluation.
        patience: stop after so many evaluations without a lower loss of ``validation``, >= 1; None
            goes on to the last epoch. The learning rate falls as if the run would do so, too.
        trackers: names of Accelerate's trackers, used if there is a ``run_dir``.
        progress: a bar on a terminal, lines in a log, both on standard error.

    Returns:
        A :class:`Run` with the history of every epoch.

    Raises:
        ValueError, TypeError: an argument breaks its rule; ``run_dir`` holds another run, or
            checkpoints of which none is whole or that are of another model (the message names the
            first tensor that differs, and ``model`` is as it was); or the processes' batches differ
            in shape, dtype or number.
        LossNotFinite: a FloatingPointError: the loss, or that of ``validation``, became NaN or inf.
            It has ``step``, and ``indices`` of the rows in the batch; nothing was saved after that
            step.
        RuntimeError: another process of the run failed or is gone; the message says which and why,
            as far as that can be known.
        OSError: the last checkpoint could not be written. The weights are in ``model``. That of
            earlier ones, metrics or events is only warned of.
        ImportError: an optional package is not installed; the message names it.
        Exception: whatever ``data`` raises, with a note that names epoch and batch.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from mixnoise import DACL, get_noise, pretrain
        >>> model = DACL(nn.Linear(8, 16), nn.Linear(16, 16), get_noise("linear"))
        >>> run = pretrain(model, torch.randn(64, 8), epochs=2, batch_size=32, progress=False)
        >>> len(run.losses)
        2
    """
    _check(model, optimizer, lr, weight_decay, clip_norm, precision, seed, run_dir, trackers)
    seed = int(seed)
    epochs = check_integer("epochs", epochs, 1)
    every = max(1, epochs // _TIMES_A_RUN)
    checkpoint_every = every if checkpoint_every is None else checkpoint_every
    evaluate_every = every if evaluate_every is None else evaluate_every
    batch_size = check_integer("batch_size", batch_size, 2)
    num_workers = check_integer("num_workers", num_workers, 0)
    checkpoint_every = check_integer("checkpoint_every", checkpoint_every, 1)
    evaluate_every = check_integer("evaluate_every", evaluate_every, 1)
    if micro_batch is not None:
        micro_batch = check_integer("micro_batch", micro_batch, 1)
    if checkpoint_steps is not None:
        checkpoint_steps = check_integer("checkpoint_steps", checkpoint_steps, 1)
    if resume and run_dir is None:
        raise ValueError("resume needs the run_dir to resume from, got None")
    if patience is not None:
        patience = check_integer("patience", patience, 1)
        if validation is None:
            raise ValueError("patience needs the rows of validation to look at, got None")
    if probe is not None:
        check_probe(probe, model.encoder)
    folder = None if run_dir is None else RunFolder(run_dir)
    events = None if folder is None else folder.events
    with (
        _ONE_AT_A_TIME,
        torch.inference_mode(False),  # which turns gradients on, also under no_grad
        deferred_signals(folder is not None) as termination,
        lost_contact_explained(),
        accelerator_for(precision, trackers, events) as accelerator,
        preserved_random_state(),
        freed_if_nothing_comes_of_it(folder),
    ):
        rank, n_ranks = accelerator.process_index, accelerator.num_processes
        group = resolve("world")
        agreement = None if group is None else Agreement(group)
        dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
        batches = make_batches(
            data, batch_size, accelerator.device, dtype, num_workers, rank, n_ranks
        )
        rows_per_step = batches.batch_size or batch_size
        if isinstance(batches, Loader) and n_ranks > 1:
            batches = shared_loader(accelerator, batches.loader)
        if isinstance(batches, Rows):  # of others, a batch may be dear, and to be had only once
            check_domain("data", batches.x[:rows_per_step], model)
        held_out = None
        if validation is not None:
            held_out = Validation(validation, rows_per_step, seed, rank, n_ranks, micro_batch)
            held_out.check(model, batches.x if isinstance(batches, Rows) else None, dtype)
        if lr is None:
            lr = default_lr(optimizer, rows_per_step * n_ranks)
        made_optimizer = make_optimizer(optimizer, model, lr, weight_decay)
        checkpoint = None
        if folder is not None:
            check_can_be_saved(model)
            config = _config(
                model,
                batches,
                # Without patience they decide nothing that a step depends on.
                None if patience is None else held_out,
                n_ranks,
                epochs=epochs,
                batch_size=batch_size,
                micro_batch=micro_batch,
                optimizer=optimizer,
                lr=lr,
                weight_decay=weight_decay,
                clip_norm=clip_norm,
                precision=accelerator.mixed_precision,
                seed=seed,
                patience=patience,
                evaluate_every=None if patience is None else evaluate_every,
            )
            checkpoint = open_run(folder, config, resume, accelerator, agreement, model)
        loop = Loop(
            accelerator=accelerator,
            agreement=agreement,
            termination=termination,
            model=model,
            dtype=dtype,
            batches=batches,
            optimizer=made_optimizer,
            epochs=epochs,
            micro_batch=micro_batch,
            lr=lr,
            clip_norm=clip_norm,
            seed=seed,
            folder=folder,
            checkpoint_every=checkpoint_every,
            checkpoint_steps=checkpoint_steps,
            evaluate_every=evaluate_every,
            monitor=Monitor(not model.takes_anything, probe, micro_batch),
            validation=held_out,
            patience=patience,
            progress=progress and accelerator.is_main_process,
        )
        loop.run(checkpoint)
    if not loop.complete:
        sys.exit(128 + signal.SIGTERM)  # the caller's own handler of the signal has returned
    return Run(loop.history, None if folder is None else folder.path)


def _check(
    model: DACL,
    optimizer: str,
    lr: float | None,
    weight_decay: float,
    clip_norm: float | None,
    precision: str | None,
    seed: int,
    run_dir: str | os.PathLike[str] | None,
    trackers: Sequence[str],
) -> None:
    if not isinstance(model, DACL):
        hint = ""
        if isinstance(getattr(model, "_orig_mod", None), DACL):
            hint = "; model.compile() compiles it in place, or compile the encoder alone"
        raise TypeError(f"model must be a mixnoise.DACL, got {type(model).__name__}{hint}")
    if any(is_lazy(parameter) for parameter in model.parameters()):
        raise ValueError(
            "model must have no lazy parameters, whose shapes the optimiser and checkpoints need: "
            "run a batch through it first"
        )
    check_choice("optimizer", optimizer, OPTIMIZERS)
    if precision is not None:
        check_choice("precision", precision, PRECISIONS)
    for name, number in (("lr", lr), ("clip_norm", clip_norm)):
        if number is not None and not 0 < check_float(name, number, "finite and > 0") < math.inf:
            raise ValueError(f"{name} must be finite and > 0, got {number}")
    if not 0 <= check_float("weight_decay", weight_decay, "finite and >= 0") < math.inf:
        raise ValueError(f"weight_decay must be finite and >= 0, got {weight_decay}")
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise TypeError(f"seed must be an integer, got {seed!r}")
    if run_dir is not None and not isinstance(run_dir, (str, os.PathLike)):
        raise TypeError(f"run_dir must be a path, got {type(run_dir).__name__}")
    if run_dir == "":
        raise ValueError("run_dir must name a folder, got ''; '.' is the current one")
    if isinstance(trackers, str):
        raise TypeError(f"trackers must be a sequence of names, got the string {trackers!r}")


def _config(
    model: DACL, batches: Batches, held_out: Validation | None, n_ranks: int, **arguments: Any
) -> dict[str, Any]:
    """What makes a run this very run: a folder's can only be gone on with if it has the same."""
    noises, temperature = [noise.config() for noise in model.noises], model.loss.temperature
    return {
        "arguments": arguments,
        "noise": noises[0] if isinstance(model.noise, Noise) else noises,
        "weights": model.weights,
        "steps_per_epoch": len(batches),
        "processes": n_ranks,
        "gather": model.loss.group is not None,
        # A tensor is in the checkpoints, learned or not; a number is nowhere else.
        "temperature": "a tensor" if isinstance(temperature, Tensor) else temperature,
        "rows": batches.n_rows,
        "validation": None if held_out is None else held_out.config(),
    }
