"""The demo at a size that takes seconds."""

import numpy as np
import pytest
import torch

from mixnoise import demo


def test_table(monkeypatch, capsys):
    monkeypatch.setitem(demo.PRETRAIN, "epochs", 1)
    monkeypatch.setattr(demo, "SUPERVISED_EPOCHS", 5)
    table = demo.run(n_seeds=1)
    printed = capsys.readouterr().out
    assert list(table) == [
        "Raw columns (no network)",
        "No pre-training",
        "Gaussian noise",
        "DACL",
        "DACL+",
        "Full supervised",
    ]
    for name, row in table.items():
        few, many = np.mean(row["accuracy"], 0)
        line = next(line for line in printed.splitlines() if line.startswith(f"{name}  "))
        assert f"{few:.1f} ± 0.0" in line
        assert f"{many:.1f} ± 0.0" in line
        assert 10 < few < many


def test_validation_never_sees_the_test_rows():
    final, search = demo.load_digits(), demo.load_digits(validation=True)

    def rows(x):
        return {tuple(row) for row in x.tolist()}

    assert not rows(final.x_test) & rows(torch.cat((search.x_train, search.x_test)))
    assert rows(final.x_train) == rows(torch.cat((search.x_train, search.x_test)))


def test_bad_number_of_seeds(capsys):
    with pytest.raises(SystemExit) as error:
        demo.main(["--seeds", "0"])
    assert error.value.code == 2
    assert "--seeds must be >= 1, got 0" in capsys.readouterr().err
