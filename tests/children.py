"""What the processes of forked.py do: runs that are killed, stopped or made to fail."""

import itertools
import os
import random
import signal
import sys
import time
from pathlib import Path

import accelerate.data_loader  # noqa: F401 - here once and not in each child, as some others
import numpy as np
import safetensors.torch
import torch
import torch._dynamo
import torch.nn.parallel
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from mixnoise import DACL, get_noise, pretrain
from mixnoise.training.loop import Loop

X = torch.rand(90, 6, generator=torch.Generator().manual_seed(0))
CHECKPOINT_STEPS = 4


class Jitter(nn.Module):
    """Draws from every global generator."""

    def forward(self, x):
        return x * (1 + 0.01 * (np.random.rand() + random.random() + torch.rand(())))  # noqa: NPY002


def make_model(width=24):
    torch.manual_seed(0)
    encoder = nn.Sequential(
        nn.Linear(6, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.2), Jitter()
    )
    projector = nn.Linear(width, 8)
    return DACL(encoder, projector, get_noise("dacl+"), nn.Parameter(torch.tensor(0.5)))


class Noisy(Dataset):
    """Rows with noise from every global generator."""

    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return X[i] + 0.1 * torch.rand(6) * random.random() * np.random.rand()  # noqa: NPY002


def make_data(kind):
    if kind == "rows":
        return X
    if kind == "dataset":
        return Noisy()
    return DataLoader(Noisy(), 18, shuffle=True, generator=torch.Generator().manual_seed(3))


def report_end(self, folder, whole=Loop.report_end):
    """Without the picture, which takes longer than the run."""
    if not self.complete:
        whole(self, folder)


def train(
    folder, data="rows", epochs=20, num_workers=0, kill_at=None, hold_after=None, handler=False
):
    """Train, or go on; log each step.

    SIGKILL at that many events of writing checkpoints. A signal from outside is waited for after
    that many steps of its own, so that none comes too late, however slow the sender is.
    """
    rank = os.environ.get("RANK", "")
    log = os.open(Path(folder) / f"log{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    step, taken = Loop.take_step, itertools.count(1)

    def take_step(self, *args):
        os.write(log, f"{self.step}\n".encode())
        step(self, *args)
        # Of two processes the second one: the first then waits for it in the next step.
        held = next(taken) == hold_after and rank != "0"
        while held and not self.termination.requested:
            time.sleep(0.005)

    if handler:
        signal.signal(signal.SIGTERM, lambda *_: print("handled", flush=True))
    os.write(log, b"start\n")
    Loop.take_step = take_step
    Loop.report_end = report_end
    if kill_at is not None:
        count_down(kill_at)
    model = make_model()
    pretrain(
        model,
        make_data(data),
        epochs=epochs,
        batch_size=18,
        num_workers=num_workers,
        run_dir=Path(folder) / "run",
        resume=True,
        checkpoint_steps=CHECKPOINT_STEPS,
        checkpoint_every=3,
        trackers=(),
        progress=False,
    )
    torch.save(model.state_dict(), Path(folder) / f"weights{rank}.pt")


def count_down(n_events):
    """SIGKILL at the n-th thing that is done to the files of a checkpoint."""
    events = itertools.count(1)

    def event():
        if next(events) == n_events:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(name, args):
        if name in ("os.remove", "os.rmdir") or (
            name in ("open", "os.mkdir", "os.rename") and "checkpoints" in str(args[0])
        ):
            event()

    fsync, save, save_file = os.fsync, torch.save, safetensors.torch.save_file

    def fsync_or_not(descriptor):
        event()
        fsync(descriptor)

    class Torn:
        """A file whose writes come in halves."""

        def __init__(self, file):
            self.file = file

        def write(self, data):
            data = memoryview(data).cast("B")
            self.file.write(data[: len(data) // 2])
            self.file.flush()
            event()
            return len(data) // 2 + self.file.write(data[len(data) // 2 :])

        def flush(self):
            self.file.flush()

    def save_file_torn(tensors, path):
        save_file(tensors, path)
        whole = Path(path).read_bytes()
        os.truncate(path, random.randrange(len(whole)))
        event()
        Path(path).write_bytes(whole)

    os.fsync = fsync_or_not
    torch.save = lambda state, file: save(state, Torn(file) if hasattr(file, "flush") else file)
    safetensors.torch.save_file = save_file_torn
    sys.addaudithook(audit)


class Batches:
    """Five batches, the same in each epoch; of the second process the third one is another."""

    def __init__(self, rank=0, third=None, n_batches=5):
        self.batches = [x[9 * rank : 9 * (rank + 1)] for x in X.split(18)][:n_batches]
        if third is not None:
            self.batches[2] = third(self.batches[2])

    def __len__(self):
        return 5

    def __iter__(self):
        return iter(self.batches)


class Raises(IterableDataset):
    """In the process that reads."""

    def __len__(self):
        return len(X)

    def __iter__(self):
        yield from X[:40]
        raise KeyError("row 40")


class Unreadable(Noisy):
    def __getitem__(self, i):
        if i > 50:
            raise OSError(f"row {i} is gone")
        return X[i]


def fail_at(model, step, fault):
    """Before the forward of a step."""
    steps = itertools.count()

    def hook(module, args):
        if next(steps) == step:
            fault()

    model.encoder.register_forward_pre_hook(hook)


def raise_error():
    raise ArithmeticError("of the model's own")


def raise_in_evaluation(module, args):
    if not module.training:
        raise_error()


def faulty(folder, fault):
    """One of two processes; something is wrong with the second one."""
    second = os.environ["RANK"] == "1"
    model, data, settings = make_model(), X, {}
    if fault == "dies" and second:
        fail_at(model, 3, lambda: os.kill(os.getpid(), signal.SIGKILL))
    elif fault == "model" and second:
        fail_at(model, 3, raise_error)
    elif fault == "evaluation":
        model.encoder.register_forward_pre_hook(raise_in_evaluation)
    elif fault == "row":
        data = Unreadable() if second else Noisy()
    elif fault == "stream":
        data = Raises()
    elif fault == "nan":
        data = X.clone()
        data[33] = torch.nan
    elif fault == "fewer":
        data = Batches(second, n_batches=2 if second else 5)
    elif fault == "run_dir":
        settings = {"run_dir": Path(folder) / os.environ["RANK"], "resume": True, "trackers": ()}
    elif fault in ("columns", "dtype", "text"):
        change = {"columns": lambda x: x[:, :5], "dtype": torch.Tensor.double, "text": str}
        data = Batches(second, change[fault] if second else None)
    elif fault == "same_rows":
        data = Batches()
    if fault == "model":
        settings = {"run_dir": Path(folder) / "run", "trackers": ()}
    try:
        pretrain(model, data, epochs=3, batch_size=9, progress=False, **settings)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", *getattr(error, "__notes__", []), sep="\n")
        if fault == "nan":
            print(error.step, 33 in error.indices)
