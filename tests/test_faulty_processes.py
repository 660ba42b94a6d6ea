"""Two gloo processes of which one fails, dies or is stopped: both raise, and none waits."""

import os
import random
import re
import signal
import time

import pytest
import torch
from children import CHECKPOINT_STEPS
from run_records import losses, same, segments, wait_for_step, weights

LOST = (
    "RuntimeError: this process lost contact with another one of the run, which was killed, raised "
    "an error of its own (its output says which), or kept the others waiting for longer than the "
    "process group's timeout; "
)
THIRD = "batch 3 of epoch 1, step 2"
DIFFERENT = f"ValueError: rows of {THIRD} must have one shape and dtype in all processes, got rank"


@pytest.mark.parametrize(
    ("fault", "first", "second"),
    [
        ("dies", LOST, ""),
        ("model", LOST, "ArithmeticError: of the model's own"),
        (
            "evaluation",
            "ArithmeticError: of the model's own",
            "RuntimeError: rank 0 failed to evaluate the model after step 4, see its own error",
        ),
        (
            "row",
            r"RuntimeError: rank 1 failed to load batch 1 of epoch 1, step 0, see its own error: "
            r"OSError: row \d+ is gone",
            r"OSError: row \d+ is gone\nRaised by the data at batch 1 of epoch 1, step 0\.",
        ),
        ("stream", "KeyError: 'row 40'\nRaised by the data at batch 2 of epoch 1, step 1", LOST),
        (
            "nan",
            r"LossNotFinite: the loss became nan at step 4, with rows .*\n4 True",
            r"LossNotFinite: the loss of another process became nan at step 4, .*\n4 False",
        ),
        (
            "fewer",
            f"ValueError: all processes must have {THIRD}, got rank 0: one; rank 1: none",
            None,
        ),
        ("columns", rf"{DIFFERENT} 0: \(N, 6\) float32; rank 1: \(N, 5\) float32", None),
        ("dtype", rf"{DIFFERENT} 0: \(N, 6\) float32; rank 1: \(N, 6\) float64", None),
        ("text", rf"{DIFFERENT} 0: \(N, 6\) float32; rank 1: a str", None),
    ],
)
def test_both_raise(fault, first, second, forked, tmp_path):
    statuses, outputs = forked.run_ranks("faulty", tmp_path, folder=str(tmp_path), fault=fault)
    assert statuses == [0, -signal.SIGKILL if fault == "dies" else 0]
    for found, expected in zip(outputs, (first, first if second is None else second), strict=True):
        assert re.match(expected if "\\" in expected else re.escape(expected), found), found
    if fault == "dies":
        assert outputs[1] == ""
    if fault == "model":  # before anything was saved
        assert (tmp_path / "run").exists()
        assert not (tmp_path / "run" / "config.json").exists()


def test_the_same_rows_in_both(forked, tmp_path):
    statuses, outputs = forked.run_ranks(
        "faulty", tmp_path, folder=str(tmp_path), fault="same_rows"
    )
    assert statuses == [0, 0]
    warning = (
        "RuntimeWarning: batch 1 of epoch 1, step 0 has the same rows on rank 1 as on one before"
    )
    assert outputs[0].count(warning) == 1
    assert outputs[1] == ""


def test_different_checkpoints(forked, tmp_path):
    """Where each machine has a disk of its own."""
    statuses, outputs = forked.run_ranks("faulty", tmp_path, folder=str(tmp_path), fault="run_dir")
    assert (statuses, outputs) == ([0, 0], ["", ""])
    statuses, outputs = forked.run_ranks("faulty", tmp_path, folder=str(tmp_path), fault="run_dir")
    message = "ValueError: run_dir must hold the same newest checkpoint for all processes, got rank"
    assert outputs == [f"{message} 0: 15; rank 1: 0\n"] * 2


@pytest.fixture(params=["rows", "loader"])
def whole(request, forked, tmp_path):
    """A run that nothing happened to, and its kind of data."""
    folder = tmp_path / "whole"
    folder.mkdir()
    arguments = {"folder": str(folder), "data": request.param, "epochs": 12}
    assert forked.run_ranks("train", folder, **arguments) == ([0, 0], ["", ""])
    first, second = weights(folder, 0), weights(folder, 1)
    own = {name for name in first if not torch.equal(first[name], second[name])}
    assert own == {"encoder.1.running_mean", "encoder.1.running_var"}  # batch norm's
    return folder, request.param


def test_killed_and_stopped(whole, forked, tmp_path):
    """Both killed, and then SIGTERM to one of them: they stop after the same step."""
    whole, data = whole
    folder = tmp_path / "run"
    folder.mkdir()
    chance = random.Random(data)
    arguments = {"folder": str(folder), "data": data, "epochs": 12}
    for i in range(3):
        pids = forked.start_ranks("train", folder, hold_after=10, **arguments)
        wait_for_step(folder, i, chance.randrange(1, 10), rank=1)
        time.sleep(chance.uniform(0, 0.02))
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        assert forked.wait_ranks(pids, folder)[0] == [-signal.SIGKILL] * 2
    pids = forked.start_ranks("train", folder, hold_after=4, **arguments)
    wait_for_step(folder, 3, 3, rank=1)
    os.kill(pids[1], signal.SIGTERM)
    statuses, outputs = forked.wait_ranks(pids, folder)
    assert statuses == [-signal.SIGTERM] * 2
    assert re.fullmatch(r"SIGTERM: stopped after \d+ of \d+ steps; .*\n", outputs[0])
    assert outputs[1] == ""
    taken = segments(folder, 0)
    assert taken[3] == segments(folder, 1)[3]
    assert forked.run_ranks("train", folder, **arguments) == ([0, 0], [outputs[0], ""])
    for before, after in zip(taken, segments(folder, 0)[1:], strict=True):
        assert 0 <= max(before, default=-1) + 1 - after[0] <= CHECKPOINT_STEPS
    assert segments(folder, 0)[4][0] == taken[3][-1] + 1
    for rank in range(2):
        assert same(weights(whole, rank), weights(folder, rank))
    assert losses(whole) == losses(folder)
