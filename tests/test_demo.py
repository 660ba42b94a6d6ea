"""The demo at a size that takes seconds."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from mixnoise import demo

DIGITS = demo.EXPERIMENTS["digits"]
ROWS = [
    "Raw columns (no network)",
    "No pre-training",
    "Gaussian noise",
    "DACL",
    "DACL+",
    "Full supervised",
]


@pytest.mark.parametrize("classifier", ["logistic", "sgd"])
def test_table_and_folder(capsys, tmp_path, classifier):
    experiment = replace(
        DIGITS,
        depth=4,
        width=64,
        pretrain={**DIGITS.pretrain, "epochs": 2},
        supervised_epochs=5,
        classifier=classifier,
    )
    table = demo.run(experiment, 1, tmp_path / "run")
    printed = capsys.readouterr().out
    assert list(table) == ROWS
    for name, row in table.items():
        few, many, *others = np.mean(row["values"], 0)
        line = next(line for line in printed.splitlines() if line.startswith(f"{name}  "))
        assert all(f"{value:.1f} ± 0.0" in line for value in (few, many, *others))
        assert 10 < few < many <= 100
        assert len(others) == (0 if name == "Full supervised" else 2)
        if others:
            assert 10 < others[0] <= 100
            assert 1 <= others[1] <= 64
    assert json.loads((tmp_path / "run" / "table.json").read_text()) == table
    for run in ("gaussian-noise", "dacl", "dacl+"):
        assert (tmp_path / "run" / run / "metrics.csv").exists()
    pytest.importorskip("matplotlib")
    for picture in ("training.png", "embeddings.png"):
        assert (tmp_path / "run" / picture).read_bytes().startswith(b"\x89PNG")


def test_pretraining_starts_from_the_untrained_row():
    split = DIGITS.load()
    method = DIGITS.methods["DACL"]
    encoder, _ = demo.pretrained(DIGITS, split, method, seed=1, epochs=1, lr=1e-30, weight_decay=0)
    start = demo.untrained(DIGITS, split, seed=1)
    for a, b in zip(encoder.parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-20)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0"], "--seeds must be >= 1, got 0"),
        (["--data", "mnist"], "invalid choice: 'mnist'"),
        (["--output", "."], "--output must be a folder that does not exist yet, got ."),
    ],
)
def test_bad_arguments(capsys, arguments, message):
    with pytest.raises(SystemExit) as error:
        demo.main(arguments)
    assert error.value.code == 2
    assert message in capsys.readouterr().err
