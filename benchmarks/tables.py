"""README's tables, out of benchmarks/results: ``python -m benchmarks.tables [--check]``.

A table NAME stands between ``<!-- table:NAME -->`` and ``<!-- /table:NAME -->``.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def source(result: dict[str, Any]) -> str:
    machine = result["machine"]
    return (
        f"`{result['command']}`, {machine['processor']}, {machine['threads']} threads, torch "
        f"{machine['torch']}, Python {machine['python']}, commit {machine['commit']}, "
        f"{machine['date']}."
    )


def demo(result: dict[str, Any]) -> str:
    def cell(values: list[float]) -> str:
        return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"

    rows = []
    for name, row in result["rows"].items():
        cells = [cell(list(column)) for column in zip(*row["values"], strict=True)]
        rows.append([name, *cells, *[""] * (len(result["columns"]) - len(cells))])
    n_seeds = len(result["rows"]["DACL"]["values"])
    head = ["Test accuracy in %", *result["columns"]]
    seconds = sum(row["seconds"] for row in result["rows"].values())
    note = (
        f"Encoder: {result['encoder']}. Mean ± standard deviation over {n_seeds} seeds, "
        f"{seconds:.0f} s in all. {source(result)}"
    )
    return f"{table(head, rows)}\n\n{note}"


def _named(result: dict[str, Any], prefix: str) -> list[dict[str, Any]]:
    return [case for case in result["cases"] if case["name"].startswith(prefix)]


def _kept_memory(result: dict[str, Any]) -> str:
    kept = result["environment"]["MALLOC_MMAP_THRESHOLD_"]
    return f", with glibc told on all sides to keep freed blocks up to {int(kept) >> 20} MiB"


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.1f} ms" if seconds < 0.1 else f"{1000 * seconds:,.0f} ms"


def speed_loss(result: dict[str, Any]) -> str:
    rows = []
    for case in _named(result, "test_forward_and_backward"):
        ratio = case["ratio"]
        cells = [_milliseconds(case["ours"]["median"])]
        cells += [f"{ratio['eager']:.1f}x", f"{ratio['compiled']:.1f}x"]
        rows.append([f"{case['rows']:,}", *cells])
    memory = []
    for case in _named(result, "test_memory"):
        peak = {name: f"{size / 2**20:,.0f} MiB" for name, size in case["peak_bytes"].items()}
        against = f" (plain PyTorch: {peak['eager']})" if "eager" in peak else ""
        memory.append(f"{case['rows']:,} rows {peak['ours']}{against}")
    return (
        f"{table(['rows, D = 128', 'time', 'against eager', 'against compiled'], rows)}\n\n"
        "Forward and backward in float32 on a CPU, median; how many times faster than the plain "
        "formula (normalise, matrix product, cross entropy), timed in turns in the same run, with "
        f"equal loss and gradients{_kept_memory(result)}. "
        f"Peak memory above the start: {'; '.join(memory)}.\n"
        f"{source(result)}"
    )


def speed_mixing(result: dict[str, Any]) -> str:
    rows = []
    for case in _named(result, "test_one_view"):
        ratio = case["ratio"]
        name = re.fullmatch(r"test_one_view\[(.*)\]", case["name"])
        assert name
        cells = [_milliseconds(case["ours"]["median"]), f"{1 / ratio['copy']:.1f}"]
        cells += [f"{ratio['eager']:.1f}x", f"{ratio['compiled']:.1f}x"]
        rows.append([f"`{name[1]}`", *cells])
    head = ["one view of 4,096 x 784", "time", "copies of x", "against eager", "against compiled"]
    (step,) = _named(result, "test_dacl_step")
    share = step["ratio"]["mixing and loss"]
    return (
        f"{table(head, rows)}\n\n"
        f"Drawing and mixing in float32 on a CPU, median{_kept_memory(result)}; "
        "in copies of x into a warm buffer, and how many times faster than the usual formula. In "
        "one DACL+ step of a 12-layer, 512-wide network (batch 1,024, 784 columns) mixing and loss "
        "take "
        f"{100 * share:.1f}%.\n"
        f"{source(result)}"
    )


def speed_trainer(result: dict[str, Any]) -> str:
    (case,) = _named(result, "test_trainer")
    ratio = 1 / case["ratio"]["bare loop"]
    return (
        f"`pretrain` takes {ratio:.2f} times as long as a bare loop with the same steps, order and "
        "noise, and the same weights at the end (12 layers of 512, 784 columns, batch 1,024, "
        f"{case['steps']} steps and all that a run leaves in its folder). {source(result)}"
    )


#: Name in README: results file, and what makes the table of it.
TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "demo-digits": ("demo-digits.json", demo),
    "demo-fashion-mnist": ("demo-fashion-mnist.json", demo),
    "speed-loss": ("speed-cpu.json", speed_loss),
    "speed-trainer": ("trainer-cpu.json", speed_trainer),
    "speed-mixing": ("speed-cpu.json", speed_mixing),
}


def fill(text: str, results: Path = RESULTS) -> str:
    """The text with every table made anew; one without a results file is left as it is."""
    for name, (file, make) in TABLES.items():
        if not (results / file).exists():
            continue
        marked = re.compile(rf"(<!-- table:{name} -->\n).*?(<!-- /table:{name} -->)", re.S)
        if not marked.search(text):
            raise ValueError(f"the text has no place for the table {name!r}")
        content = make(json.loads((results / file).read_text()))
        text = marked.sub(lambda m, c=content: f"{m[1]}{c}\n{m[2]}", text)
    return text


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if out of date")
    readme = ROOT / "README.md"
    before = readme.read_text()
    after = fill(before)
    if parser.parse_args().check:
        return int(before != after)
    readme.write_text(after)
    return 0


if __name__ == "__main__":
    sys.exit(main())
