"""The trainer's loop: what ``pretrain`` does once it has looked at its arguments."""

from __future__ import annotations

import itertools
import math
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mixnoise.batches import Batches, Inputs, Loader, model_inputs
from mixnoise.model import DACL
from mixnoise.plots import plot_history
from mixnoise.seeding import derive_seed, seed_globally
from mixnoise.training.accelerator import track
from mixnoise.training.agreement import Agreement
from mixnoise.training.monitor import Monitor
from mixnoise.training.optim import warmup_cosine
from mixnoise.training.progress import Progress, warn
from mixnoise.training.run_folder import RunFolder
from mixnoise.training.step_losses import LossNotFinite, StepLosses
from mixnoise.training.termination import Termination
from mixnoise.training.validation import Validation, no_longer_improves

if TYPE_CHECKING:
    from accelerate import Accelerator

_INDICES_NAMED = 8
_END = object()


@dataclass
class Loop:
    """A run, from a checkpoint or from the start.

    Nothing that a step draws depends on the steps before it: each has seeds of its own, made of the
    run's seed and the step's number. So a checkpoint needs no random states.
    """

    accelerator: Accelerator
    agreement: Agreement | None  # None: this process is alone
    termination: Termination
    model: DACL
    dtype: torch.dtype  # of the model
    batches: Batches
    optimizer: torch.optim.Optimizer
    epochs: int
    micro_batch: int | None
    lr: float
    clip_norm: float | None
    seed: int
    folder: RunFolder | None
    checkpoint_every: int
    checkpoint_steps: int | None
    evaluate_every: int
    monitor: Monitor
    validation: Validation | None
    patience: int | None
    progress: bool

    def __post_init__(self) -> None:
        self.history: list[dict[str, float]] = []
        self.step = self.saved_step = 0
        self.losses = StepLosses(self.accelerator)
        self.stop = False  # what all processes have agreed on
        self.rows_compared = False
        self.unsaved: OSError | None = None  # why the last checkpoint could not be written
        self.takes_anything = self.model.takes_anything
        # Their owner put them into evaluation mode, and there is nothing in them to train.
        self.frozen = [part for part in self.model.modules() if _is_frozen(part)]
        self.is_main = self.accelerator.is_main_process

    def run(self, checkpoint: Path | None) -> None:
        """Train to the end of the last epoch, or until SIGTERM or Ctrl-C."""
        accelerator = self.accelerator
        own_forward = "forward" in vars(self.model)
        module = accelerator.prepare(self.model)
        optimizer = accelerator.prepare(self.optimizer)
        try:
            if checkpoint is not None:
                # Not before: to prepare an optimiser moves all of its state to the device, and
                # AdamW waits for the device wherever its count of steps lies there.
                self.restore(checkpoint)
            optimizer.zero_grad()
            before = self.history[-1]["seconds"] if self.history else 0.0
            self.started = time.perf_counter() - before
            shown = Progress(self.progress, self.epochs * len(self.batches), self.step)
            with closing(shown) as progress:
                while not self.complete and not self.stop:
                    inputs = self.train_epoch(module, optimizer, progress)
                    if inputs is not None:
                        self.finish_epoch(optimizer, inputs, progress)
        finally:
            accelerator.unwrap_model(module, keep_fp32_wrapper=False)
            if not own_forward:
                vars(self.model).pop("forward", None)  # the method, which Accelerate put back there
            self.train_mode()
        self.raise_together(self.unsaved, "could not write the last checkpoint")
        if self.stop and not self.termination.requested:
            self.termination.signum = signal.SIGTERM  # another process was told
        if self.folder is not None and self.is_main:
            self.report_end(self.folder)

    def train_mode(self) -> None:
        self.model.train()
        for part in self.frozen:
            part.eval()

    def raise_together(self, error: Exception | None, what: str) -> None:
        """Raises it, and in the other processes one that says what this one did."""
        if self.agreement is not None:
            self.agreement.together(error, what)
        elif error is not None:
            raise error

    @property
    def complete(self) -> bool:
        """Whether it ran to its end, which may be an early one."""
        if self.patience is not None and no_longer_improves(self.history, self.patience):
            return True
        return len(self.history) == self.epochs

    def train_epoch(self, module: Any, optimizer: Any, progress: Progress) -> Inputs | None:
        """Takes an epoch's steps; returns the inputs of the last, None if the run stops before."""
        self.train_mode()
        number, done = len(self.history), len(self.losses.means)
        # The last batch before the checkpoint is loaded again: it is what is evaluated if no other
        # follows.
        start, inputs = max(done - 1, 0), None
        batches = self.batches.epoch(self.epoch_seed(), start, number)
        for batch in itertools.count(start):
            where = f"batch {batch + 1} of epoch {number + 1}, step {self.step}"
            following, ended, error = self.next_inputs(batches, where)
            if not ended and (self.stop or self.checkpoint_is_due()):
                self.check_finite()
                self.save(optimizer)
            if error is not None:
                raise error
            if ended:
                self.check_length(number, batch)
                break
            if self.stop:
                return None
            assert following is not None
            inputs = following
            if batch >= done:
                self.take_step(module, optimizer, inputs)
                progress.advance()
        if inputs is None:
            raise ValueError("data must have batches of at least two rows, got none in an epoch")
        return inputs

    def check_length(self, epoch: int, taken: int) -> None:
        """Warns of data whose batches are not as many as they said, which shifts the schedule."""
        announced = len(self.batches)
        # Fewer by one if the last batch was a single row, and dropped.
        if epoch == 0 and self.is_main and not announced - 1 <= taken <= announced:
            warn(
                f"the data said that they have {announced} batches in an epoch and gave {taken}, "
                f"so the learning rate {'is 0 too early' if taken > announced else 'stays high'}; "
                "does each worker of an IterableDataset yield its own share?"
            )

    def next_inputs(
        self, batches: Iterator[Any], where: str
    ) -> tuple[Inputs | None, bool, Exception | None]:
        """Loads the next batch; returns it, whether there was none, and an error to be raised."""
        from accelerate.utils import send_to_device

        inputs, ended, error = None, False, None
        shared = isinstance(self.batches, Loader) and self.batches.shared
        # When a run is stopped its loader's workers may be gone; but who shares must not stay away.
        if shared or not self.termination.requested:
            try:
                batch = next(batches, _END)
                ended = batch is _END
                if not ended:
                    # From pinned memory this goes on while the device works, and the next step
                    # is launched meanwhile. Elsewhere than on CUDA it may be read too early.
                    device = self.accelerator.device
                    batch = send_to_device(batch, device, non_blocking=device.type == "cuda")
                    inputs = model_inputs(batch, self.takes_anything)
            except Exception as raised:  # whatever it is, it is told to the others and raised
                if shared or not self.termination.requested:
                    raised.add_note(f"Raised by the data at {where}{self.newest_checkpoint()}.")
                    error = raised
                if shared:
                    raise  # the others wait inside their loaders, where nothing can be told
        if self.agreement is None:
            self.stop = self.termination.requested
        else:
            x = None if inputs is None or self.takes_anything else inputs[0][0]
            error, ended, self.stop = self.agreement.before_step(
                where, x, ended, error, self.termination.requested
            )
            if error is None and not ended and not self.stop and not self.rows_compared:
                self.rows_compared = True
                self.compare_rows(where, x)
        if inputs is not None and not self.takes_anything:
            inputs = (self.in_model_dtype(inputs[0][0]),), {}
        return inputs, ended, error

    def in_model_dtype(self, x: Any) -> Any:
        """NumPy's floats are of 64 bits, and so are the rows of many datasets."""
        return x.to(self.dtype) if isinstance(x, Tensor) and x.is_floating_point() else x

    def compare_rows(self, where: str, x: Any) -> None:
        """Warns of processes that train on the same rows, which costs accuracy and is not seen."""
        assert self.agreement is not None
        repeated = self.agreement.repeated(x)
        if repeated and self.is_main:
            ranks = ", ".join(map(str, repeated))
            warn(
                f"{where} has the same rows on rank {ranks} as on one before: of a loader that is "
                "not torch's DataLoader each process takes all, so it must yield each one its own"
            )

    def take_step(self, module: Any, optimizer: Any, inputs: Inputs) -> None:
        accelerator, (args, kwargs) = self.accelerator, inputs
        rank = accelerator.process_index
        seed_globally(derive_seed(self.seed, f"dropout/{rank}", self.step))
        # On the CPU, so that the views are the same on every device.
        generator = torch.Generator()
        generator.manual_seed(derive_seed(self.seed, f"noise/{rank}", self.step))
        rate = self.lr * warmup_cosine(self.step, self.epochs * len(self.batches))
        for group in optimizer.param_groups:
            group["lr"] = rate
        if self.micro_batch is not None:
            kwargs = {**kwargs, "micro_batch": self.micro_batch}
        try:
            loss = module(*args, generator=generator, **kwargs)
        except TypeError as error:
            if self.takes_anything and len(args) > 1:
                error.add_note(
                    f"With hidden noise the encoder gets all {len(args)} items of a batch, labels, "
                    "too: leave out of the data what it does not take."
                )
            raise
        accelerator.backward(loss)
        if self.clip_norm is not None:
            accelerator.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        self.losses.record(loss)
        self.step += 1

    def check_finite(self) -> None:
        """Raises if a loss since the last check, or a parameter that they led to, is not finite.

        That happens before every checkpoint, so that none is bad.
        """
        found = self.losses.look(self.model.parameters())
        if found is None:
            return
        what, batch = found
        step = self.step - (len(self.losses.means) + self.losses.n_own) + batch
        indices = self.batches.rows(self.epoch_seed(), batch)
        rows = ""
        if indices is not None:
            named = ", ".join(map(str, indices[:_INDICES_NAMED].tolist()))
            more = ", ..." if len(indices) > _INDICES_NAMED else ""
            rows = f", with rows {named}{more} in the batch (all are in the error's indices)"
        message = f"{what} at step {step}{rows}{self.newest_checkpoint()}"
        if self.dtype == torch.float16:
            message += (
                "; the model is in float16, which optimisers' steps overflow: leave it in float32, "
                "and let precision='fp16' compute in half, on a GPU"
            )
        raise LossNotFinite(message, step, indices)

    def finish_epoch(self, optimizer: Any, inputs: Inputs, progress: Progress) -> None:
        self.check_finite()
        number = len(self.history) + 1
        evaluated = number == self.epochs or number % self.evaluate_every == 0
        row = {
            "epoch": number,
            "step": self.step,
            "loss": self.losses.means.mean().item(),
            "lr": optimizer.param_groups[0]["lr"],
            "seconds": time.perf_counter() - self.started,
        }
        if evaluated:
            self.model.eval()
            row |= self.validate()
            error = None
            if self.is_main:
                try:
                    autocast = self.accelerator.autocast()
                    row |= self.monitor.evaluate(self.model, inputs, self.step, autocast)
                except Exception as raised:  # the others would wait for this process
                    error = raised
            self.raise_together(error, f"failed to evaluate the model after step {self.step - 1}")
        self.history.append(row)
        last = self.complete
        self.losses.start_epoch()
        track(self.accelerator, row, self.step)
        progress.line(f"epoch {number}/{self.epochs}", row, last)
        if self.folder is not None and self.is_main:
            try:
                self.folder.write_metrics(self.history)
            except OSError as error:
                warn(f"metrics.csv could not be written, training goes on: {error}")
        if last or number % self.checkpoint_every == 0 or self.stop or self.checkpoint_is_due():
            self.save(optimizer, last)

    def validate(self) -> dict[str, float]:
        """The loss is the mean over all processes, so that all of them stop by it, or none."""
        if self.validation is None:
            return {}
        dtype = next(p.dtype for p in self.model.parameters() if p.is_floating_point())
        with self.accelerator.autocast():
            loss = self.validation.loss(self.model, self.accelerator.device, dtype)
        value = self.accelerator.reduce(loss, "mean").item()
        if not math.isfinite(value):
            step = self.step - 1
            raise LossNotFinite(
                f"the validation loss became {value} after step {step}{self.newest_checkpoint()}",
                step,
            )
        return {"validation_loss": value}

    def epoch_seed(self) -> int:
        return derive_seed(self.seed, "epoch", len(self.history))

    def checkpoint_is_due(self) -> bool:
        """Whether ``checkpoint_steps`` asks for a checkpoint after this step."""
        every = self.checkpoint_steps
        return every is not None and self.step % every == 0 and self.step != self.saved_step

    def save(self, optimizer: Any, last: bool = False) -> None:
        self.saved_step = self.step
        if self.folder is None or not self.is_main:
            return
        scaler = self.accelerator.scaler
        state = {
            "step": self.step,
            "history": self.history,
            "losses": self.losses.means,
            "collapse_seen": self.monitor.collapse_seen,
            "optimizer": optimizer.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
        }
        try:
            self.folder.checkpoints.save(self.step, self.model, state)
        except OSError as error:
            what = f"checkpoint of step {self.step} could not be written: "
            what += f"{error.strerror or error}{self.newest_checkpoint()}"
            if last:
                text = f"the last {what}; the trained weights are in the model, save them elsewhere"
                self.unsaved = OSError(error.errno, text)
            else:
                warn(f"the {what}" + ("" if self.stop else "; training goes on"))

    def restore(self, checkpoint: Path) -> None:
        assert self.folder is not None
        state = self.folder.checkpoints.load(checkpoint, self.model)
        self.step = self.saved_step = state["step"]
        self.history, self.losses.means = state["history"], state["losses"]
        self.monitor.collapse_seen = state["collapse_seen"]
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def newest_checkpoint(self) -> str:
        """A clause for messages that names the checkpoint to go on from."""
        if self.folder is None:
            return ""
        checkpoint = self.folder.checkpoints.newest(self.step)
        if checkpoint is None:
            return "; there is no checkpoint yet"
        return f"; the newest good checkpoint is {str(checkpoint)!r}"

    def report_end(self, folder: RunFolder) -> None:
        """Draws the picture of a whole run, or says where to go on with half of one."""
        if not self.complete:
            steps = f"{self.step} of {self.epochs * len(self.batches)} steps"
            name = "Ctrl-C" if self.termination.signum == signal.SIGINT else "SIGTERM"
            text = f"{name}: stopped after {steps}{self.newest_checkpoint()}, resume=True goes on"
            print(text, file=sys.stderr, flush=True)
        elif find_spec("matplotlib"):
            try:
                plot_history({"run": self.history}, folder.path / "plots" / "history.png")
            except OSError as error:
                warn(f"the picture of the run could not be written: {error}")


def _is_frozen(module: nn.Module) -> bool:
    """Whether it is in evaluation mode and has parameters, none of which asks for a gradient."""
    if module.training:
        return False
    asks = [parameter.requires_grad for parameter in module.parameters()]
    return bool(asks) and not any(asks)
