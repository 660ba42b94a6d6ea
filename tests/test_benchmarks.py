"""The scripts behind README's figures."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import tables
from benchmarks.speed.__main__ import condense
from benchmarks.speed.test_mixing import CASES, agree
from mixnoise import get_noise

ROOT = Path(__file__).parent.parent


def test_condense_compares_within_a_round():
    # In the second round the machine was ten times slower.
    report = {
        "benchmarks": [
            {
                "name": "test_one_view[linear]",
                "stats": {"data": [1.0, 10.0, 1.0]},
                "extra_info": {"rows": 4, "peers": {"eager": [3.0, 30.0, 4.0]}},
            }
        ]
    }
    (case,) = condense(report)
    assert case["ratio"] == {"eager": 3.0}
    assert case["ours"] == {"median": 1.0, "min": 1.0}
    assert case["peers"] == {"eager": {"median": 4.0, "min": 3.0}}
    assert (case["rows"], case["rounds"]) == (4, 3)


def test_fill_replaces_what_stands_between_the_marks(tmp_path):
    machine = {"processor": "P", "threads": 2, "python": "3", "torch": "2", "commit": "c"}
    result = {
        "command": "make demo",
        "machine": {**machine, "date": "d"},
        "encoder": "2 layers of 8",
        "columns": ["few", "many", "kNN"],
        "rows": {
            "DACL": {"values": [[90.0, 95.0, 80.0], [92.0, 97.0, 82.0]], "seconds": 1.4},
            "Full supervised": {"values": [[50.0, 60.0], [50.0, 60.0]], "seconds": 2.0},
        },
    }
    (tmp_path / "demo-digits.json").write_text(json.dumps(result))
    text = "before\n<!-- table:demo-digits -->\nold\n<!-- /table:demo-digits -->\nafter\n"
    filled = tables.fill(text, tmp_path)
    assert "| DACL | 91.0 ± 1.4 | 96.0 ± 1.4 | 81.0 ± 1.4 |" in filled
    assert "| Full supervised | 50.0 ± 0.0 | 60.0 ± 0.0 |  |" in filled
    assert "Encoder: 2 layers of 8. Mean ± standard deviation over 2 seeds, 3 s in all." in filled
    assert "old" not in filled
    assert filled.startswith("before\n<!-- table:demo-digits -->\n|")
    assert filled.endswith("<!-- /table:demo-digits -->\nafter\n")
    assert tables.fill(filled, tmp_path) == filled
    with pytest.raises(ValueError, match="no place for the table 'demo-digits'"):
        tables.fill("nothing", tmp_path)


@pytest.mark.parametrize("name", tables.DOCUMENTS)
def test_documents_are_up_to_date(name):
    document = (ROOT / name).read_text()
    assert tables.fill(document, tables=tables.DOCUMENTS[name]) == document


@pytest.mark.parametrize("name", CASES)
def test_mixing_is_compared_with_a_formula_that_agrees(name):
    x = torch.rand(3000, 200, generator=torch.Generator().manual_seed(0))
    agree(name, get_noise(name, **CASES[name][2]), x)
