"""Pre-train on a table in a file, embed its rows, and see whether that helps."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixnoise.atomic import replacing
from mixnoise.cli.interrupts import interruptible
from mixnoise.cli.settings import Config
from mixnoise.cli.text import print_table

if TYPE_CHECKING:
    from mixnoise.cli.table_files import TableFile
    from mixnoise.sklearn import DACLEncoder
    from mixnoise.tabular.columns import Columns

ENCODER, TABLE, REPORT = "encoder.safetensors", "table.json", "report.html"

File = Annotated[
    Path,
    typer.Argument(help="A table: .csv, .tsv, .parquet, .feather, .npy or .npz."),
]
Label = Annotated[
    str | None, typer.Option(help="The column to be told, which is not learned from.")
]
Leave = Annotated[
    list[str] | None,
    typer.Option("--leave", metavar="COLUMN", help="Not learned from, as identifiers; repeatable."),
]
RunOption = Annotated[Path, typer.Option("--run", help="A folder that `pretrain` made.")]
_SHOWN = 40  # columns
_NAMED = 5  # classes, or columns in a message
_ROWS_PICTURED = 1000


def pretrain(
    file: File,
    label: Label = None,
    leave: Leave = None,
    categorical: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Numbers or times that are categories; repeatable."),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Folder for all that is made; default: runs/FILE."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run that was interrupted.")
    ] = False,
    noise: Annotated[
        str, typer.Option(help="What makes positives of numbers; `mixnoise noises` lists them.")
    ] = "dacl+",
    alpha: Annotated[
        float,
        typer.Option(help="Lower end of the share of a row that stays its own.", min=0, max=1),
    ] = 0.7,
    temperature: Annotated[float, typer.Option(help="Of the contrastive loss.")] = 0.5,
    components: Annotated[int, typer.Option(help="Features that come out.", min=1)] = 128,
    layers: Annotated[int, typer.Option(help="Of the network.", min=1)] = 2,
    epochs: Annotated[int, typer.Option(help="Passes over the rows, at most.", min=1)] = 100,
    batch_size: Annotated[int, typer.Option(help="Rows a step.", min=2)] = 512,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3,
    patience: Annotated[
        int,
        typer.Option(
            help="Stop after so many epochs without a lower loss of held-out rows; 0: do not.",
            min=0,
        ),
    ] = 10,
    seed: Annotated[
        int, typer.Option(help="The same one makes the same features.", min=0, max=2**32 - 1)
    ] = 0,
    config: Config = None,
) -> None:
    """Learn features of a table's rows without labels.

    All but the label and what is left out is learned from; of a .npz it is the matrix. Types are
    found out and shown. Ctrl-C saves, and says how to go on.
    """
    from mixnoise.cli.table_files import read_table
    from mixnoise.sklearn import DACLEncoder

    if run == "":  # as of a variable of the shell that is not set
        raise ValueError("--run must name a folder, got ''; '.' is the current one")
    folder = Path("runs") / file.stem if run is None else Path(run)
    table = read_table(file)
    categorical, named = categorical or [], [*([] if label is None else [label]), *(leave or [])]
    table.check_names("--label", [] if label is None else [label])
    table.check_names("--leave", leave or [])
    table.check_names("--categorical", categorical)
    left_out = list(dict.fromkeys((*named, *table.beside)))
    for name in left_out:
        if name in categorical:
            why = "--label or --leave leaves it out" if name in named else "the matrix lacks it"
            raise ValueError(f"--categorical: {name!r} is not learned from, since {why}")
    kept = [name for name in table.names if name not in left_out]
    if not kept:
        raise ValueError(f"{file}: no column is left to learn from besides {', '.join(left_out)}")
    table.check_numbers([*left_out, *categorical])
    table.check_finite([name for name in kept if name not in categorical])
    X = table.without(left_out)
    encoder = DACLEncoder(
        components,
        n_layers=layers,
        noise=noise,
        alpha=alpha,
        temperature=temperature,
        batch_size=batch_size,
        max_iter=epochs,
        learning_rate=lr,
        categorical_features=[kept.index(c) for c in categorical if not table.is_text(c)] or "auto",
        early_stopping=patience > 0,
        n_iter_no_change=max(patience, 1),
        random_state=seed,
        verbose=True,
        run_dir=folder,
        resume=resume,
    )
    typer.echo(f"{file}: {table.n_rows:,} rows")
    for name in left_out:
        typer.echo(f"{name}: not learned from")
    try:
        columns = encoder.inspect_columns(X)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: {error}") from error
    _show(columns, kept)
    command = shlex.join(["mixnoise", *sys.argv[1:]])
    again = command if resume else f"{command} --resume"
    with interruptible(f"interrupted; go on with: {again}"):
        encoder.fit(X)
    encoder.save(folder / ENCODER)
    described = {"file": str(file), "label": label, "left_out": left_out, "command": command}
    with replacing(folder / TABLE) as part:
        part.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    _report(folder, encoder, table, label, left_out, command)
    typer.echo(
        f"{encoder.n_iter_} epochs, {encoder.history_[-1]['seconds']:.0f} s. "
        f"See {folder / REPORT}. Next:\n"
        f"  mixnoise embed {shlex.quote(str(file))} --run {shlex.quote(str(folder))}"
    )
    if label is not None:
        typer.echo(
            f"  mixnoise probe {shlex.quote(str(file))} --label {shlex.quote(label)} "
            f"--run {shlex.quote(str(folder))}"
        )


def embed(
    file: File,
    run: RunOption,
    output: Annotated[
        Path | None,
        typer.Option(
            help="A .parquet, .feather, .csv or .tsv, or a .npy, which has the features alone; "
            "default: FILE-embedded.parquet."
        ),
    ] = None,
    config: Config = None,
) -> None:
    """Write the features of a table's rows, beside the columns that were not learned from."""
    from mixnoise.cli.table_files import check_output, read_table, write_table

    encoder, left_out = _load(run)
    table = read_table(file, _texts(encoder))
    output = output or file.with_name(f"{file.stem}-embedded.parquet")
    beside = {name: table.column(name) for name in left_out if name in table.names}
    names = encoder.get_feature_names_out()
    check_output(output, beside, names)
    if output.resolve() == file.resolve():
        raise ValueError(f"--output: {output} is the table itself; name another file")
    h = encoder.transform(_inputs(table, encoder, left_out))
    write_table(output, beside, h, names)
    typer.echo(f"{output}: {h.shape[0]:,} rows, {h.shape[1]} features")


def probe(
    file: File,
    label: Annotated[str, typer.Option(help="The column to be told from the others.")],
    run: RunOption,
    labels_per_class: Annotated[
        int | None,
        typer.Option(help="So many labels of each class are known; default: all.", min=1),
    ] = None,
    splits: Annotated[
        int, typer.Option(help="Random splits, a fifth of the rows for tests.", min=1)
    ] = 5,
    seed: Annotated[int, typer.Option(help="The same one makes the same splits.", min=0)] = 0,
    config: Config = None,
) -> None:
    """Is it better? A linear classifier on raw columns, and on features before and after.

    Accuracy in %, mean and standard deviation over random splits.
    """
    import numpy as np
    from torch import nn

    from mixnoise.cli.table_files import read_table
    from mixnoise.evaluate import linear_probe

    encoder, left_out = _load(run)
    table = read_table(file, _texts(encoder))
    table.check_names("--label", [label])
    columns = _columns(encoder)
    if label not in (*_unused(table, encoder, left_out), *columns.dropped):
        raise ValueError(
            f"--label: {label!r} was among the columns that were learned from, so that features "
            f"know it; pre-train with --label {label}"
        )
    X = _inputs(table, encoder, left_out)
    y = np.asarray(table.values(label))
    known = np.array([value is not None and value == value for value in y.tolist()])
    if not known.all():
        typer.echo(f"{(~known).sum():,} rows without a label are left out")
    y = y.astype(str)
    classes, code, n_rows = np.unique(y[known], return_inverse=True, return_counts=True)
    if len(classes) and n_rows.max() == 1:
        raise ValueError(
            f"--label: {label!r} has {len(classes):,} values, each of them once, so it is no class"
        )
    if (n_rows == 1).any():
        alone = classes[n_rows == 1]
        typer.echo(f"classes of a single row are left out: {_first(alone)}")
        known[known] = n_rows[code] > 1
    if not known.any():
        raise ValueError(f"--label: no row of {label!r} has a value")
    raw, h = columns.one_hot(encoder.matrix(X)), encoder.transform(X)
    sets = {
        "Raw columns": raw,
        "Network before training": encoder.untrained().transform(X),
        "Network after training": h,
        "Raw columns and network": np.hstack((raw, h)),
    }
    rows = [("", "accuracy in %")]
    for name, features in sets.items():
        found = linear_probe(
            nn.Identity(),
            (features[known], y[known]),
            0.2,
            labels_per_class=labels_per_class,
            seed=seed,
            n_splits=splits,
        )
        rows.append((name, f"{100 * found.accuracy:.2f} ± {100 * found.std:.2f}"))
    print_table(rows)


def _report(
    run: Path,
    encoder: DACLEncoder,
    table: TableFile,
    label: str | None,
    left_out: list[str],
    command: str,
) -> None:
    """Write the report, with up to 1,000 random rows."""
    import numpy as np

    from mixnoise.report import write_report

    n = min(table.n_rows, _ROWS_PICTURED)
    chosen = np.sort(np.random.default_rng(0).choice(table.n_rows, n, replace=False))
    X = table.without(left_out)
    write_report(
        run / REPORT,
        encoder,
        X[chosen] if isinstance(X, np.ndarray) else X.take(chosen),
        table.n_rows,
        title=f"Pre-training on {table.path.name}",
        command=command,
        labels=None if label is None else table.values(label)[chosen],
    )


def _load(run: Path) -> tuple[DACLEncoder, list[str]]:
    """The encoder of a run, and the columns that were left out."""
    from mixnoise.sklearn import DACLEncoder

    if not (run / ENCODER).is_file():
        interrupted = (run / "config.json").is_file()
        why = (
            "has not come to its end: `mixnoise pretrain ... --resume`"
            if interrupted
            else "is no folder that `mixnoise pretrain` made"
        )
        raise ValueError(f"--run: {run} {why}")
    try:
        left_out = json.loads((run / TABLE).read_text(encoding="utf-8"))["left_out"]
        left_out = list(map(str, left_out))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"--run: {run / TABLE} is damaged ({error!r}): "
            "`mixnoise pretrain ... --resume` makes it again"
        ) from error
    return DACLEncoder.load(run / ENCODER), left_out


def _texts(encoder: DACLEncoder) -> list[str]:
    """Columns that were taken for categories since they held text."""
    columns = _columns(encoder)
    chosen = {columns.names[i] for i in columns.chosen}
    return [c.name for c in columns.categories if c.name not in chosen]


def _columns(encoder: DACLEncoder) -> Columns:
    assert encoder.columns_ is not None  # no file holds a sparse matrix
    return encoder.columns_


def _unused(table: TableFile, encoder: DACLEncoder, left_out: list[str]) -> list[str]:
    """The columns that the encoder was not trained with."""
    used = getattr(encoder, "feature_names_in_", None)
    if used is None:  # a matrix
        return [n for n in table.names if n in left_out or n in table.beside]
    return [n for n in table.names if n not in set(used)]


def _inputs(table: TableFile, encoder: DACLEncoder, left_out: list[str]) -> Any:
    """The columns that the encoder was trained with, in their order."""
    import pyarrow as pa

    columns = _columns(encoder)
    table.check_finite([number.name for number in columns.numbers])
    names = getattr(encoder, "feature_names_in_", None)
    if names is None:
        X = table.without(_unused(table, encoder, left_out))
        return X if table.matrix is not None else _as_matrix(table.path, X, encoder.n_features_in_)
    table.check_kinds(
        [number.name for number in columns.numbers if number.kind == "number"],
        [category.name for category in columns.categories if not category.holds_numbers],
    )
    table.check_names("columns of the run", names)
    return pa.table({name: table.column(name) for name in names})


def _as_matrix(path: Path, X: Any, n_columns: int) -> Any:
    """An Arrow table for an encoder of a matrix, where the names of columns tell nothing."""
    import numpy as np

    from mixnoise.tabular.tables import FrameTable

    frame = FrameTable(X)
    if len(frame.names) != n_columns or not {*frame.kinds} <= {"number", "empty"}:
        found = [f"{n} ({kind})" for n, kind in zip(frame.names, frame.kinds, strict=True)]
        raise ValueError(
            f"{path}: the run was made of a matrix, {n_columns} columns of numbers without names, "
            f"and this file has {len(found)}: {_first(found)}"
        )
    return np.column_stack([frame.numbers(i, slice(None)) for i in range(n_columns)])


def _first(names: Sequence[str]) -> str:
    return f"{', '.join(names[:_NAMED])}{', ...' if len(names) > _NAMED else ''}"


def _show(columns: Columns | None, names: list[str]) -> None:
    """What the columns were taken for."""
    assert columns is not None  # no file holds a sparse matrix
    found = {n.name: (n.kind, _of_number(n)) for n in columns.numbers}
    for category in columns.categories:
        missing = ", missing ones among them" if None in category.values else ""
        found[category.name] = ("category", f"{len(category.values)} values{missing}")
    found |= {name: ("left out", reason) for name, reason in columns.dropped.items()}
    rows = [(name, *found[own]) for name, own in zip(names, columns.names, strict=True)]
    print_table([("column", "taken for", ""), *rows[:_SHOWN]])
    if len(rows) > _SHOWN:
        typer.echo(f"and {len(rows) - _SHOWN} more: {len(columns.numbers)} numbers in all")


def _of_number(number: Any) -> str:
    if number.kind == "date":
        return "some are missing" if number.missing else ""
    median = f"median {number.center:.4g}"
    return f"{median}, some are missing" if number.missing else median
