"""What the runs of children.py leave in their folder."""

import time

import torch


def segments(folder, rank=""):
    """The steps that each process took, in turn."""
    log = folder / f"log{rank}"
    parts = log.read_text().split("start\n")[1:] if log.exists() else []
    return [[int(step) for step in part.split()] for part in parts]


def losses(folder):
    rows = (folder / "run" / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("loss")
    return [row.split(",")[column] for row in rows]


def weights(folder, rank=""):
    return torch.load(folder / f"weights{rank}.pt", weights_only=True)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def wait_for_step(folder, n_before, n_steps=1, rank=""):
    """Until the process after so many others has taken that many, or has none left to take."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if len(found := segments(folder, rank)) > n_before and len(found[n_before]) >= n_steps:
            return
        if (folder / f"weights{rank}.pt").exists():
            return
        time.sleep(0.005)
    raise AssertionError("it takes no step")
