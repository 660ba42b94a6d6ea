"""The machine code that Triton makes of the kernels, for GPUs that need not be there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="the kernels need triton")

from mixnoise_kernels import aot, blocks, mix

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results" / "machine-code.json"
PAIRS = ("triangle", "rows", "gradient")
DRAWING = ("draw_rows", "draw_kinds")  # touches no data, so has no dtype
OPERANDS = {1: "half", 2: "bf16x3", 3: "bf16x6"}  # by the terms of a row
MATRIX_INSTRUCTION = {80: "HMMA", 90: "HGMMA", 100: "UTC"}


def compiled(*options: str) -> list[dict]:
    command = [sys.executable, "-m", "mixnoise_kernels.aot", "--json", *options]
    # Interpreted kernels cannot be compiled.
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-4000:]
    return json.loads(run.stdout)


@pytest.fixture(scope="module")
def reports() -> list[dict]:
    """Of everything; minutes of compiling, if the kernels or Triton are not those of the results.

    If they are, what is kept there must be what some of it gives when it is compiled again.
    """
    kept = json.loads(RESULTS.read_text())
    if kept["compiler"] != aot.compiler():
        return compiled()
    again = compiled("--dtype", "bf16", "--rows", "128")
    assert {r["kernel"] for r in again} == aot.KERNELS.keys()
    assert {r["arch"] for r in again} == set(aot.CHIPS)
    assert [r for r in again if r not in kept["reports"]] == []
    return kept["reports"]


def where(report: dict) -> str:
    return f"{report['kernel']} on sm_{report['arch']}, {report['dtype']}, {report['config']}"


def test_every_kernel_is_compiled(reports):
    of_no_length = ("weights", "draw_rows", "draw_kinds", "views", "views_gradient")
    per_row = {k: set() for k in aot.KERNELS}
    for report in reports:
        length = report["config"].get("BLOCK_D", 0)
        per_row[report["kernel"]].add((report["arch"], report["dtype"], length))
    for kernel, found in per_row.items():
        mixes = kernel.startswith("views")
        dtypes = ("bf16", "fp32") if mixes else ("bf16", "fp32", "bf16x3")
        for arch in (80, 90, 100):
            for dtype in ("",) if kernel in DRAWING else dtypes:
                for length in (0,) if kernel in of_no_length else (64, 128, 256, 512):
                    assert (arch, dtype, length) in found, f"{kernel} sm_{arch} D={length}"


def test_no_register_is_spilled_in_a_loop(reports):
    spilled = [where(r) for r in reports if r["loop_spills"]]
    assert not spilled
    # Kernels without such a loop do not spill at all, but for two pointers of the loss's.
    outside = [r for r in reports if r["loop_spills"] is None and r["spill_bytes"] > 16]
    assert not [where(r) for r in outside]


def test_pairs_go_through_the_tensor_cores(reports):
    for r in reports:
        if r["kernel"] in PAIRS:
            names = r["tensor_core_instructions"]
            assert names, where(r)
            assert all(n.startswith(MATRIX_INSTRUCTION[r["arch"]]) for n in names), where(r)


def test_shared_memory_is_within_the_chips(reports):
    for r in reports:
        assert r["shared_bytes"] <= aot.CHIPS[r["arch"]].shared_memory, where(r)
        # What the fifth generation of tensor cores keeps there besides is not estimated.
        if r["kernel"] in PAIRS and r["arch"] < 100:
            c, operands = r["config"], OPERANDS[r["config"]["TERMS"]]
            columns = c.get("BLOCK_COLUMNS", c["BLOCK"])
            shape = (c["BLOCK"], columns, c["BLOCK_K"], c.get("BLOCK_OUT", 0))
            chosen = blocks.Blocks(*shape, c["num_warps"], c["STAGES"])
            assert r["shared_bytes"] <= chosen.shared_bytes(operands, c["BLOCK_D"]), where(r)


def test_what_is_written_twice_is_written_by_one_thread(reports):
    """Else the order, and with it sums of floats or the row that stays, would be chance."""
    for r in reports:
        if r["kernel"] in ("triangle", "views"):
            assert r["layouts_written"] == 1, where(r)


def test_one_exponential_for_each_product(reports):
    """Of the triangle, whose products serve two rows each, one for each pair."""
    for r in reports:
        if r["kernel"] in PAIRS:
            limit = 1.0
            if r["config"].get("RUNNING"):
                # The rows' maximum changes once a tile; both rows' own l are subtracted.
                limit = 2.0 if r["kernel"] == "gradient" else 1.15
            assert r["exponentials_per_element"] <= limit, where(r)


def test_main_loops_are_short(reports):
    limits = {"triangle": 4.5, "gradient": 6.0}
    found = set()
    for r in reports:
        plain = r["kernel"] in limits and not r["config"].get("RUNNING")
        if plain and (r["arch"], r["dtype"], r["config"]["BLOCK_D"]) == (90, "bf16", 128):
            assert r["instructions_per_element"] <= limits[r["kernel"]], where(r)
            found.add(r["kernel"])
    assert found == set(limits)


def test_views_take_few_instructions_and_wide_ones(reports):
    """Two views of bfloat16, for each element of the batch."""
    limits = {"linear": 20, "geometric": 45, "binary": 35, "gaussian": 60}
    found = set()
    for r in reports:
        if r["kernel"] != "views" or r["config"]["FUNCTION"] < 0:
            continue
        if (r["arch"], r["dtype"]) == (90, "bf16"):
            name = mix.FUNCTIONS[r["config"]["FUNCTION"]]
            assert r["instructions_per_element"] <= limits[name], where(r)
            found.add(name)
        # Coefficients and partners are single numbers for a row; data come by 16 bytes.
        memory = r["memory_instructions"]
        wide = sum(n for name, n in memory.items() if name.endswith(".128"))
        n_loads = 1 if r["config"]["FUNCTION"] == mix.FUNCTIONS.index("gaussian") else 3
        low = 4 * 2 if r["config"]["LOW"] == "columns" else 0
        assert wide >= (n_loads + 2) * 4 + low, (where(r), memory)  # one of each quarter
        assert not [name for name in memory if name.startswith("STG") and "128" not in name]
    assert found == set(limits)
