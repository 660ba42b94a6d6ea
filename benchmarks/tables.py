"""The documents' tables, out of benchmarks/results: ``python -m benchmarks.tables [--check]``.

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

from benchmarks.gpu import tables as gpu
from benchmarks.markdown import fill_one, table

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def source(result: dict[str, Any]) -> str:
    machine = result["machine"]
    threads = "1 thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
    return (
        f"`{result['command']}`, {machine['processor']}, {threads}, torch "
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


def speed_loss_faster(result: dict[str, Any]) -> str:
    case = _named(result, "test_forward_and_backward")[-1]
    ratio = case["ratio"]
    return (
        "How many times faster depends on the machine. On a faster one, at an earlier commit, "
        f"{case['rows']:,} rows took {_milliseconds(case['ours']['median'])}, "
        f"{ratio['eager']:.1f}x against eager and {ratio['compiled']:.1f}x against compiled: "
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


def _mib(size: float) -> str:
    return f"{size / 2**20:,.0f} MiB"


def _setting(result: dict[str, Any]) -> str:
    rows = 2 * result["samples"]
    return (
        f"{result['ranks']} {result['backend']} processes of one thread, {rows:,} rows of "
        f"{result['d']} columns in {result['dtype']} each"
    )


def distributed(result: dict[str, Any]) -> str:
    rows = [
        [
            name if name == "ours" else f"{name}, dense matrix",
            _milliseconds(side["median"]),
            _mib(side["peak_bytes"]),
        ]
        for name, side in result["sides"].items()
    ]
    return (
        f"{table(['negatives of all processes', 'time', 'peak memory'], rows)}\n\n"
        f"Forward and backward on a CPU: {_setting(result)}. Time is that of the slowest process, "
        f"median of {result['rounds']} rounds of both sides in turns{_kept_memory(result)}; in a "
        f"round ours is {result['ratio']:.1f} times faster (median). Memory is that of a process, "
        f"above its start. Losses and gradients are equal. {source(result)}"
    )


def distributed_sentence(result: dict[str, Any]) -> str:
    other, ours = result["sides"]["gather with gradient"], result["sides"]["ours"]
    return (
        f"On a CPU, {_setting(result)}: {result['ratio']:.1f} times faster than a gather with "
        f"gradient and a dense matrix, and {_mib(ours['peak_bytes'])} of memory a process instead "
        f"of {_mib(other['peak_bytes'])}, with equal losses and gradients. {source(result)}"
    )


_FORMS = ("ours", "gather with gradient", "ring")


def _published(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in result["rows"] if row["ranks"] in (1, 8, 32, 128, 1024)]


def scaling(result: dict[str, Any]) -> str:
    def mib(row: dict[str, Any], what: str) -> list[str]:
        return [f"{row[form][what] / 2**20:,.1f}" for form in _FORMS]

    rows = [
        [
            f"{row['ranks']:,}",
            f"{row['all_rows']:,}",
            *mib(row, "received"),
            f"{row['ours']['flop'] / 1e9:,.0f}",
            *mib(row, "kept"),
        ]
        for row in _published(result)
    ]
    head = ["ranks", "rows of all", "received: ours", "gather with gradient", "ring"]
    head += ["GFLOP", "kept: ours", "gather with gradient", "ring"]
    return (
        f"{table(head, rows)}\n\n"
        f"Of a rank and step, in MiB: {result['samples']:,} samples a rank, so "
        f"{2 * result['samples']:,} rows of {result['d']} columns, in {result['dtype']}. "
        f"`{result['command']}`."
    )


def scaling_times(result: dict[str, Any]) -> str:
    def ms(seconds: float) -> str:
        return f"{1000 * seconds:,.2f}"

    rows = [
        [
            f"{row['ranks']:,}",
            ms(row["ours"]["computing"]),
            *(ms(row[form]["receiving"]) for form in _FORMS),
            *(ms(row[form]["seconds"]) for form in _FORMS),
        ]
        for row in _published(result)
    ]
    head = ["ranks", "products", "receiving: ours", "gather with gradient", "ring"]
    head += ["step: ours", "gather with gradient", "ring"]
    rates, at = result["rates"], result["balance"]
    return (
        f"{table(head, rows)}\n\n"
        "In ms, of the same step. **The rates are assumptions**: "
        f"{rates['flop'] / 1e12:,.0f} TFLOP/s of products, {rates['inside'] / 1e9:,.0f} GB/s "
        f"received by a GPU inside a machine of {rates['gpus']}, and from other machines "
        f"{rates['between'] / 1e9:,.0f} GB/s by each of its {rates['gpus']} network cards. With "
        "them the gather takes as long as the products at "
        f"{at['inside']:,.0f} samples a rank inside a machine, at {at['between']:,.0f} between "
        f"machines, and at {at['one card']:,.0f} where a machine has one network card; with fewer "
        f"samples it takes longer, with more it matters less. `{result['command']}`."
    )


def scaling_limit(result: dict[str, Any]) -> str:
    ranks = result["ranks_that_fit"]
    forward, backward = (f"{1e6 * seconds:.1f}" for seconds in result["block_seconds"])
    return (
        f"With {result['samples']:,} samples a rank, {result['d']} columns and {result['dtype']}, "
        f"the loss keeps {result['limit'] / 1e9:,.0f} GB at {ranks:,} ranks, which is "
        f"{2 * result['samples'] * ranks / 1e6:,.1f} million rows; and the products with a block "
        f"of a ring last {forward} µs forward and {backward} µs backward, at the rate above. "
        f"`{result['command']}`."
    )


def large_tables(result: dict[str, Any]) -> str:
    rows = []
    for case in result["cases"]:
        above = case["peak_bytes"] - result["small_bytes"]
        cells = [
            _mib(case["data_bytes"]),
            f"{case['training_seconds'] / result['epochs']:.1f} s",
            _mib(above),
            f"{above / case['data_bytes']:.1f}",
        ]
        rows.append([f"{case['rows']:,} x {case['columns']}", *cells])
    head = ["float32 from parquet", "data", "an epoch", "peak memory", "times the data"]
    return (
        f"{table(head, rows)}\n\n"
        "`mixnoise pretrain` with its defaults. Memory is the peak of the process above that of "
        f"the same command on 2,000 rows, which takes {_mib(result['small_bytes'])}, most of it "
        f"libraries. {source(result)}"
    )


def estimator(result: dict[str, Any]) -> str:
    """A data set's table: a line for each number of labels and classifier."""
    runs, rows = result["runs"], []
    for n in result["settings"]["labels"]:
        for classifier in runs[0][str(n)]:
            columns = list(zip(*(run[str(n)][classifier] for run in runs), strict=True))
            cells = [f"{statistics.mean(c):.1f} ± {statistics.stdev(c):.1f}" for c in columns]
            gains = [both - raw for raw, _, both in zip(*columns, strict=True)]
            error = statistics.stdev(gains) / len(gains) ** 0.5
            gain = f"{statistics.mean(gains):+.1f} ± {error:.1f}"
            rows.append([f"{n:,}, {classifier}", *cells, gain])
    labels = "labels in all" if result["settings"]["data"] == "adult" else "labels a class"
    head = [labels, "raw columns", "features", "raw and features", "gain of both over raw"]
    machine = runs[-1]["machine"]
    commits = ", ".join(sorted({run["machine"]["commit"] for run in runs}))
    return (
        f"{table(head, rows)}\n\n"
        f"Test accuracy in %, mean ± standard deviation over {len(runs)} splits; gains are paired, "
        "with their standard error. "
        f"`python -m benchmarks.estimator --data {result['settings']['data']}`, "
        f"{machine['processor']}, {machine['threads']} thread, torch {machine['torch']}, Python "
        f"{machine['python']}, commit {commits}, {machine['date']}."
    )


Tables = dict[str, tuple[str, Callable[[dict[str, Any]], str]]]

#: Name in the document: results file, and what makes the table of it.
TABLES: Tables = {
    "demo-digits": ("demo-digits.json", demo),
    "demo-fashion-mnist": ("demo-fashion-mnist.json", demo),
    "speed-loss": ("speed-cpu.json", speed_loss),
    "speed-loss-faster": ("speed-cpu-faster.json", speed_loss_faster),
    "speed-trainer": ("trainer-cpu.json", speed_trainer),
    "speed-mixing": ("speed-cpu.json", speed_mixing),
    "distributed": ("distributed-cpu.json", distributed_sentence),
    "gpu-loss": ("gpu-h100.json", gpu.loss),
    "gpu-mixing": ("gpu-h100.json", gpu.mixing),
}
SCALING_TABLES: Tables = {
    "scaling": ("scaling.json", scaling),
    "scaling-times": ("scaling.json", scaling_times),
    "scaling-limit": ("scaling.json", scaling_limit),
}
FRONT_DOOR_TABLES: Tables = {
    "large-tables": ("large-tables.json", large_tables),
    "estimator-adult": ("estimator/adult.json", estimator),
    "estimator-letter": ("estimator/letter.json", estimator),
    "estimator-satimage": ("estimator/satimage.json", estimator),
}
DOCUMENTS = {
    "docs/tables.md": FRONT_DOOR_TABLES,
    "README.md": TABLES,
    "docs/scaling.md": SCALING_TABLES | {"distributed": ("distributed-cpu.json", distributed)},
}


def fill(text: str, results: Path = RESULTS, tables: Tables = TABLES) -> str:
    """The text with every table made anew; one without a results file is left as it is."""
    for name, (file, make) in tables.items():
        if not (results / file).exists():
            continue
        text = fill_one(text, name, make(json.loads((results / file).read_text())))
    return text


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if out of date")
    check, out_of_date = parser.parse_args().check, False
    for name, tables in DOCUMENTS.items():
        before = (ROOT / name).read_text()
        after = fill(before, tables=tables)
        out_of_date |= before != after
        if not check:
            (ROOT / name).write_text(after)
    return int(check and out_of_date)


if __name__ == "__main__":
    sys.exit(main())
