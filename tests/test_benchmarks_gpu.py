"""The GPU benchmark, tried on a CPU: every case runs, and computes what it should."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="the kernels need triton")

from benchmarks.gpu.cases import CASES

ROOT = Path(__file__).parent.parent


def run(output, *options):
    subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--smoke", "--output", str(output), *options],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        check=True,
    )
    result = json.loads(output.read_text())
    assert result["command"].startswith("python -m benchmarks.gpu --smoke")
    assert {"torch", "commit", "date"} <= result["machine"].keys()
    cases = {case["name"]: case for case in result["cases"]}
    assert len(cases) == len(result["cases"])
    for name, case in cases.items():
        assert case["status"] == "passed" or case["message"] == "needs CUDA", (name, case)
    return cases


def first(cases, start):
    return next(case for name, case in cases.items() if name.startswith(start))


def test_smoke_run(tmp_path):
    cases = run(tmp_path / "gpu.json")
    assert min(cases["ceilings"]["rates"].values()) > 0

    timed = first(cases, "time 16384x")
    assert timed["ours"]["forward"]["median"] > 0
    assert timed["ratio"].keys() >= {"eager", "compiled"}
    assert timed["limit"].keys() == timed["fraction_of_limit"].keys() == {"forward", "backward"}
    assert max(timed["errors"].values()) <= timed["tolerance"]
    assert cases["time 1048576x128 bfloat16 t=0.5"]["seconds_of_both"] > 0
    assert 30 < len(cases) < len(CASES)  # one of each kind

    for noise, shares in (("linear", {"3", "5"}), ("gaussian", {"3"})):
        timed = first(cases, f"time {noise} ")
        assert timed["share_of_copy"].keys() == shares
        assert timed["ratio"].keys() >= {"eager", "compiled"}
    assert first(cases, "accuracy dacl+ ")["same_draw"]
    assert cases["time DACL step"]["ratio"].keys() == {"torch"}
    assert cases["time backward linear 4096x2048 bfloat16"]["ratio"].keys() == {"eager"}


def test_what_passed_is_kept(tmp_path):
    output = tmp_path / "gpu.json"
    first_run = run(output, "-k", "^ceilings|^binary")
    again = run(output, "-k", "^ceilings", "--resume")
    assert again["ceilings"].pop("commit")
    assert again == {"ceilings": first_run["ceilings"]}
    changed = json.loads(output.read_text())
    changed["kernels"]["sources"] = "others"
    output.write_text(json.dumps(changed))
    assert run(output, "-k", "^ceilings", "--resume") != again


def test_smoke_sweep(tmp_path):
    cases = run(tmp_path / "sweep.json", "--sweep")
    assert {case["group"].split()[0] for case in cases.values()} == {"forward", "backward", "mix"}
    assert all(case["time"]["median"] > 0 for case in cases.values())
