"""The tables of docs/paper.md, docs/images.md and docs/choosing.md, out of the cells.

``python -m benchmarks.paper.tables`` writes them and draws docs/paper-epochs.png; ``--check``
only says whether they are up to date. What nobody ran stays empty.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import cells as results
from benchmarks.cells import Cell
from benchmarks.markdown import fill_one, table
from benchmarks.paper import graphs, images
from benchmarks.paper.tabular import (
    METHODS,
    ROWS,
    SUPERVISED,
    TABLES,
    UNTRAINED,
    Choice,
    best,
    cells_of,
    tried,
)
from benchmarks.tables import ROOT

DOCUMENT = ROOT / "docs" / "paper.md"
CHOOSING = ROOT / "docs" / "choosing.md"
IMAGES = ROOT / "docs" / "images.md"
PICTURE = ROOT / "docs" / "paper-epochs.png"
NETWORKS = ("paper", "best")
# Verma et al., ICML 2021: a linear classifier with all labels.
PAPER = {
    "fashion-mnist": dict(
        zip((UNTRAINED, *METHODS, SUPERVISED), (66.6, 75.8, 81.4, 82.4, 79.1), strict=True)
    ),
    "cifar10": dict(
        zip((UNTRAINED, *METHODS, SUPERVISED), (26.8, 27.4, 37.6, 39.7, 35.2), strict=True)
    ),
}
# The same for images, with ResNet50(4x): CIFAR-10, CIFAR-100, ImageNet.
IMAGES_IN_PAPER = dict(
    zip(
        [row for row in images.ROWS if row != images.BATCH_NORM],
        (
            *((43.1, 18.1, 4.1), (56.1, 29.8, 10.2), (81.3, 46.5, 24.6)),
            *((83.8, 52.7, None), (93.4, 73.8, 73.4), (94.3, 75.5, 74.4)),
        ),
        strict=True,
    )
)
# The same for graphs.
GRAPH_BASELINES = graphs.UNTRAINED, graphs.BATCH_NORM
GRAPH_ROWS_IN_PAPER = graphs.UNTRAINED, graphs.INFOGRAPH, graphs.LINEAR
GRAPHS_IN_PAPER = {
    "MUTAG": (81.7, 86.74, 85.31),
    "PTC_MR": (53.07, 57.09, 59.24),
    "IMDB-BINARY": (52.67, 63.97, 64.71),
    "IMDB-MULTI": (33.72, 39.28, 40.16),
    "REDDIT-BINARY": (55.13, 63.52, 66.92),
    "REDDIT-MULTI-5K": (24.27, 42.89, 42.86),
}


def cells(data: str, network: str, row: str) -> list[tuple[Cell, Choice | None]]:
    """Those of the row that have runs; none while settings are not chosen."""
    try:
        found = cells_of(TABLES[data], network, row)
    except ValueError:
        return []
    return [(cell, choice) for cell, _, choice in found if cell.path.exists()]


def _spread(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def _columns(cell: Cell) -> list[str]:
    """Mean and spread over its seeds, for each number of labels."""
    return [_spread(list(c)) for c in zip(*(run["accuracy"] for run in cell.runs()), strict=True)]


def _network(settings: dict[str, Any]) -> str:
    return "{depth} x {width}".format(**settings["network"])


def _settings(row: str, chosen: list[Choice], network: str) -> str:
    """What was chosen for each column, in their order."""
    strength = "sigma" if "sigma" in chosen[0].noise else "alpha"
    found = {"layers": [_network(asdict(c)) for c in chosen]} if network == "best" else {}
    found[strength] = [str(c.noise[strength]) for c in chosen]
    found["temperature"] = [str(c.temperature) for c in chosen]
    each = [f"{key} {', '.join(values)}" for key, values in found.items()]
    return f"{row}: {'; '.join(each)}."


def tabular(data: str, network: str) -> str:
    """A row for each cell, and what they were made with."""
    if network == "best" and not any(cells(data, network, row) for row in METHODS):
        return _source(data, network, [])
    labels = TABLES[data].labels_per_class
    head = ["Test accuracy in %", *(f"{n} labels a class" if n else "all labels" for n in labels)]
    paper = PAPER.get(data, {}) if network == "paper" else {}
    head += ["paper, all labels"] if paper else []
    lines, used, settings = [], [], []
    for row in ROWS:
        reported = [f"{paper[row]:.1f}" if row in paper else ""] if paper else []
        found = cells(data, network, row)
        used += [cell for cell, _ in found]
        if row in METHODS and found:
            best_of = [best(TABLES[data], network, row, n) for n in labels]
            run = {choice.name: _columns(cell) for cell, choice in found if choice}
            empty = [""] * len(labels)
            values = [run.get(choice.name, empty)[i] for i, choice in enumerate(best_of)]
            lines.append([row, *values, *reported])
            settings.append(_settings(row, best_of, network))
            continue
        for cell, _ in found:
            several = network == "best" and "network" in cell.settings
            name = f"{row} ({_network(cell.settings)})" if several else row
            lines.append([name, *_columns(cell), *reported])
        if not found:
            lines.append([row, *[""] * len(labels), *reported])
    chosen = "Chosen for each number of labels: " + " ".join(settings) if settings else ""
    return "\n\n".join(filter(None, (table(head, lines), chosen, _source(data, network, used))))


def _source(data: str, network: str, used: list[Cell]) -> str:
    command = f"python -m benchmarks.paper.tabular --data {data}"
    command += " --network best" if network == "best" else ""
    if not used:
        return f"Not run yet: `{command} --search`, then `{command}`."
    chosen, runs = TABLES[data], [run for cell in used for run in cell.runs()]
    encoder = ""
    if network == "paper":
        encoder = f"Encoder: 12 layers of {chosen.networks['paper'][0].width}. "
    counts = sorted({len(cell.runs()) for cell in used})
    counts = counts if len(counts) < 3 else [counts[0], counts[-1]]
    draws = ""
    if chosen.label_draws > 1:
        draws = f", each the mean of {chosen.label_draws} draws of the labels where they are few"
    return (
        f"{encoder}{chosen.epochs[network]} epochs of pre-training, batches of "
        f"{chosen.pretrain['batch_size']:,}, "
        f"AdamW. Mean ± standard deviation over {' to '.join(map(str, counts))} seeds"
        f"{draws}. "
        f"`{command}`, {machines(runs)}."
    )


def chosen() -> str:
    """What was best on the validation rows, and how much the worst setting loses."""
    lines = []
    for data, table_of in TABLES.items():
        for network in NETWORKS:
            found = tried(table_of, network)
            if any(len([e for e in found if e["row"] == row]) < 6 for row in METHODS):
                continue
            for column in (0, len(table_of.labels_per_class) - 1):
                n = table_of.labels_per_class[column]
                labels = f"{n} labels a class" if n else "all labels"
                layers = " or ".join(str(n.depth) for n in table_of.networks[network])
                cells_of_row = [_best_and_worst(found, row, column) for row in METHODS]
                lines.append([f"{data}, {layers} layers, {labels}", *cells_of_row])
    return table(["Validation accuracy in %", *METHODS], lines)


def _best_and_worst(found: list[dict[str, Any]], row: str, column: int) -> str:
    entries = sorted((e for e in found if e["row"] == row), key=lambda e: e["accuracy"][column])
    worst, best_one = entries[0], entries[-1]
    noise = best_one["noise"]
    strength = f"sigma {noise['sigma']}" if "sigma" in noise else f"alpha {noise['alpha']}"
    best_of, worst_of = best_one["accuracy"][column], worst["accuracy"][column]
    return f"{best_of:.1f} ({strength}, t {best_one['temperature']}), worst {worst_of:.1f}"


def machines(runs: list[dict[str, Any]]) -> str:
    """Processors, versions, commits and dates of some runs; each once."""

    def each(key: str) -> str:
        values = {str(run["machine"][key]) for run in runs if key in run["machine"]}
        return ", ".join(sorted(values))

    threads = "1 thread" if each("threads") == "1" else f"{each('threads')} threads"
    gpu = f"{each('gpu')}, " if any("gpu" in run["machine"] for run in runs) else ""
    return (
        f"{gpu}{each('processor')}, {threads}, torch {each('torch')}, Python "
        f"{each('python')}, commit {each('commit')}, {each('date')}"
    )


def graph_sets(classifier: str) -> str:
    """A row for each set, ours over the paper's figures."""
    columns = list(itertools.product((graphs.LINEAR, graphs.PLUS), GRAPH_BASELINES))
    gains_of = [f"{row} over {before.lower()}" for row, before in columns]
    lines, used = [], []
    for data, size in graphs.SIZES.items():
        ours = {row: graphs.cell(data, row, size) for row in graphs.ROWS}
        by_seed = {  # mean over the folds
            row: {run["seed"]: statistics.mean(run[classifier]) for run in cell.runs()}
            for row, cell in ours.items()
        }
        used += [run for cell in ours.values() for run in cell.runs()]
        line = [_spread(list(by_seed[row].values())) if by_seed[row] else "" for row in graphs.ROWS]
        for row, before in columns:
            seeds = [seed for seed in by_seed[row] if seed in by_seed[before]]
            line.append(_gain([by_seed[row][seed] - by_seed[before][seed] for seed in seeds]))
        n_seeds = min(map(len, by_seed.values()))
        size_of = f"{size.depth} x {size.width}, {size.epochs} epochs, {n_seeds} seeds"
        lines.append([f"{data} ({size_of})" if n_seeds else data, *line])
        reported = dict(zip(GRAPH_ROWS_IN_PAPER, GRAPHS_IN_PAPER[data], strict=True))
        line = [f"{reported[row]:.1f}" if row in reported else "" for row in graphs.ROWS]
        for row, before in columns:
            both = row in reported and before in reported
            line.append(f"{reported[row] - reported[before]:+.1f}" if both else "")
        lines.append(["as the paper has it", *line])
    return (
        f"{table(['Accuracy in %', *graphs.ROWS, *gains_of], lines)}\n\n"
        "Mean over ten folds, and over seeds with their standard deviation; gains are of the same "
        "seeds and folds, with the standard error over seeds. "
        f"`python -m benchmarks.paper.graphs`, {machines(used)}."
    )


def image_sets() -> str:
    """A column for each set and size that was run, beside the paper's."""
    folder, command = results.RESULTS / "paper" / "images", "python -m benchmarks.paper.images"
    found = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    columns: dict[str, dict[str, list[dict[str, Any]]]] = {}
    commands: dict[str, str] = {}
    for cell in found.values():
        s = cell["settings"]
        size = f"{s['data']}, ResNet{s['depth']} ({s['width']:g}x)"
        columns.setdefault(size, {})[s["row"]] = cell["runs"]
        if "epochs" in s:
            names = ("data", "depth", "width", "images", "epochs", "batch_size")
            given = [f"--{n.replace('_', '-')} {s[n]}" for n in names if s[n] is not None]
            commands[size] = f"`{command} {' '.join(given)}`, seeds: {len(cell['runs'])}"
    paper = [f"{name}, the paper" for name in ("CIFAR-10", "CIFAR-100", "ImageNet")]
    lines = []
    for row in images.ROWS:
        ours = [
            _spread([run["accuracy"] for run in by_row[row]]) if row in by_row else ""
            for by_row in columns.values()
        ]
        reported = IMAGES_IN_PAPER.get(row, (None,) * len(paper))
        theirs = ["" if v is None else f"{v:.1f}" for v in reported]
        lines.append([row, *ours, *theirs])
    made = table(["Test accuracy in %", *columns, *paper], lines)
    notes = []
    for size, by_row in columns.items():
        runs = [run for runs in by_row.values() for run in runs]
        notes.append(f"{size}: {commands.get(size, command)}. {machines(runs)}.")
    source = "\n\n".join(notes) if notes else f"Not run yet: `{command}`."
    return f"{made}\n\n{source}"


def image_step() -> str:
    """A line for each part of a step that was timed on a GPU."""
    path = results.RESULTS / "image-step-cuda.json"
    entries = json.loads(path.read_text())["entries"]
    head = [f"batch of {entry['settings']['batch_size']:,}" for entry in entries]
    lines = [
        [part, *(f"{1000 * entry['seconds'][part]:.1f} ms" for entry in entries)]
        for part in entries[0]["seconds"]
    ]
    lines.append(["images a second", *(f"{e['images_per_second']:,.0f}" for e in entries)])
    lines.append(["outside the encoder", *(f"{e['outside_encoder']:.0%}" for e in entries)])
    made = table(["median", *head], lines)
    return f"{made}\n\n`python -m benchmarks.paper.image_step`, {machines(entries)}."


def _gain(gains: list[float]) -> str:
    if not gains:
        return ""
    error = f" ± {statistics.stdev(gains) / len(gains) ** 0.5:.1f}" if len(gains) > 1 else ""
    return f"{statistics.mean(gains):+.1f}{error}"


def plot_epochs(path: Path) -> None:
    """kNN accuracy on the way, mean over seeds: a panel for each data set that was run.

    With the settings that are chosen for all labels.
    """
    from matplotlib.figure import Figure

    curves: dict[str, dict[str, Any]] = {}
    for data in TABLES:
        for row in METHODS:
            for cell, choice in cells(data, "paper", row):
                if choice == best(TABLES[data], "paper", row, None):
                    found = np.array([run["knn"] for run in cell.runs()])
                    curves.setdefault(data, {})[row] = found.mean(0)
    if not curves:
        return
    figure = Figure(figsize=(3.6 * len(curves), 3.2), layout="constrained")
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for axes, (data, by_row) in zip(panels, curves.items(), strict=True):
        for row, points in by_row.items():
            axes.plot(*points.T, label=row, linewidth=1.5)
        axes.set_title(data, fontsize=10)
        axes.set_xlabel("epochs of pre-training")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("kNN accuracy in %")
    panels[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def fill(text: str) -> str:
    """The document with every table made anew."""
    for data in TABLES:
        for network in NETWORKS:
            text = fill_one(text, f"{data}-{network}", tabular(data, network))
    for classifier in graphs.CLASSIFIERS:
        text = fill_one(text, f"graphs-{classifier}", graph_sets(classifier))
    return text


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paper.tables", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if out of date")
    check = parser.parse_args().check
    paths = DOCUMENT, CHOOSING, IMAGES
    before = [path.read_text() for path in paths]
    after = [
        fill(before[0]),
        fill_one(before[1], "chosen", chosen()),
        fill_one(fill_one(before[2], "images", image_sets()), "image-step", image_step()),
    ]
    if check:
        return int(before != after)
    for path, text in zip(paths, after, strict=True):
        path.write_text(text)
    plot_epochs(PICTURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
