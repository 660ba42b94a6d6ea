"""Tables on the command line: pre-train, embed, probe; settings in files; Ctrl-C."""

import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import typer
from safetensors.torch import load_file
from typer.testing import CliRunner

from mixnoise import __version__
from mixnoise.cli import app, main
from mixnoise.cli.table_files import read_table
from mixnoise.sklearn import DACLEncoder

SCRIPT = str(Path(sys.executable).with_name("mixnoise"))
QUICK = ("--epochs", "2", "--components", "16", "--batch-size", "64")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_trees(file):
    """Two kinds of rows, told by numbers and by categories."""
    rng = np.random.default_rng(0)
    kind = rng.integers(2, size=300)
    frame = pl.DataFrame(
        {
            "id": [f"row {i}" for i in range(300)],
            "size": rng.normal(size=300) + 3 * kind,
            "color": np.where(rng.random(300) < 0.9, kind, 1 - kind).astype(str),
            "class": np.array(["oak", "elm"])[kind],
        }
    ).with_columns(color=pl.col("color").replace({"0": "red", "1": "blue"}))
    frame.write_csv(file)
    return file


@pytest.fixture
def table(folder):
    return write_trees(folder / "trees.csv")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A table and a run on it, which takes seconds: most tests copy them."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert pretrained(write_trees(folder / "trees.csv")).exit_code == 0
    return folder


@pytest.fixture
def trained(finished, folder):
    shutil.copytree(finished, folder, dirs_exist_ok=True)
    return folder / "trees.csv"


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def fails(*arguments):
    """What is said on standard error, with exit status 2."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mixnoise", *map(str, arguments)])
        patch.setattr(sys, "stderr", said)
        with pytest.raises(SystemExit) as raised:
            main()
    assert raised.value.code == 2
    return said.getvalue()


def pretrained(table, *more):
    return run("pretrain", table.name, "--label", "class", *QUICK, *more)


def test_from_a_file_to_features(table, folder):
    found = pretrained(table)
    assert found.exit_code == 0
    lines = [re.sub(r"  +", "|", line) for line in found.stdout.splitlines()]
    assert lines[:2] == ["trees.csv: 300 rows", "class: not learned from"]
    assert lines[2] == "column|taken for"
    assert lines[3] == "id|left out|has no value twice, as names or identifiers"
    assert lines[4].startswith("size|number|median 1.")
    assert lines[5] == "color|category|2 values"
    assert "mixnoise probe trees.csv --label class --run runs/trees" in found.stdout
    made = {path.name for path in (folder / "runs" / "trees").iterdir()}
    assert {"config.json", "metrics.csv", "encoder.safetensors", "report.html"} <= made

    found = run("embed", "trees.csv", "--run", "runs/trees")
    assert found.stdout == "trees-embedded.parquet: 300 rows, 16 features\n"
    frame = pl.read_parquet(folder / "trees-embedded.parquet")
    assert frame.columns == ["class", *(f"daclencoder{i}" for i in range(16))]
    assert frame["class"].to_list() == pl.read_csv(table)["class"].to_list()
    encoder = DACLEncoder.load(folder / "runs" / "trees" / "encoder.safetensors")
    expected = encoder.transform(pl.read_csv(table).drop("class"))
    np.testing.assert_allclose(frame.drop("class").to_numpy(), expected, atol=1e-6)

    found = run("probe", "trees.csv", "--label", "class", "--run", "runs/trees", "--splits", "2")
    rows = [re.split(r"  +", line) for line in found.stdout.splitlines()[1:]]
    assert [row[0] for row in rows] == [
        "Raw columns",
        "Network before training",
        "Network after training",
        "Raw columns and network",
    ]
    assert all(80 < float(row[1].split(" ± ")[0]) <= 100 for row in rows)


def test_the_same_seed_makes_the_same_features(trained, folder):
    for name, seed in (("b", 0), ("c", 1)):
        pretrained(trained, "--run", name, "--seed", seed)
    names = ("runs/trees", "b", "c")
    a, b, c = (load_file(folder / name / "encoder.safetensors") for name in names)
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["projector.1.weight"], c["projector.1.weight"])


def test_new_rows_in_another_kind_of_file(trained, folder):
    # Another order of columns, no label, values that were never seen.
    new = pl.DataFrame({"color": ["red", "green"], "size": [1.0, None], "id": ["x", "y"]})
    new.write_ipc(folder / "new.feather")
    run("embed", "new.feather", "--run", "runs/trees", "--output", "h.npy")
    h = np.load(folder / "h.npy")
    assert h.shape == (2, 16)
    assert np.isfinite(h).all()
    new.drop("size").write_parquet(folder / "less.parquet")
    assert "less.parquet has no column 'size'" in fails(
        "embed", "less.parquet", "--run", "runs/trees"
    )


def test_a_matrix(folder):
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=200)
    np.savez(folder / "m.npz", X=rng.normal(size=(200, 4)) + y[:, None], y=y)
    found = run("pretrain", "m.npz", "--label", "y", "--leave", "x3", *QUICK)
    assert "y: not learned from\nx3: not learned from" in found.stdout
    run("embed", "m.npz", "--run", "runs/m", "--output", "m.csv")
    frame = pl.read_csv(folder / "m.csv")
    assert frame.columns[:3] == ["y", "x3", "daclencoder0"]
    found = run("probe", "m.npz", "--label", "y", "--run", "runs/m", "--labels-per-class", "5")
    assert "Network after training" in found.stdout


def test_arrays_beside_a_matrix_are_not_learned_from(folder):
    rng = np.random.default_rng(0)
    y, weight = rng.integers(2, size=100), rng.random(100)
    np.savez(folder / "m.npz", X=rng.normal(size=(100, 2)), y=y, weight=weight)
    found = run("pretrain", "m.npz", "--categorical", "x1", *QUICK)
    assert "y: not learned from\nweight: not learned from" in found.stdout
    assert re.search(r"x0 +number.*\nx1 +left out", found.stdout)
    run("embed", "m.npz", "--run", "runs/m")
    frame = pl.read_parquet(folder / "m-embedded.parquet")
    assert frame.columns[:3] == ["y", "weight", "daclencoder0"]
    assert "Network" in run("probe", "m.npz", "--label", "y", "--run", "runs/m").stdout


def test_a_matrix_for_an_encoder_of_a_file_without_names(folder):
    x = np.random.default_rng(0).normal(size=(100, 3))
    np.savetxt(folder / "t.csv", x, delimiter=",")
    np.save(folder / "t.npy", x)
    run("pretrain", "t.csv", "--leave", "x1", *QUICK)
    for name in ("t.csv", "t.npy"):
        run("embed", name, "--run", "runs/t", "--output", f"of-{name}.npy")
    of_text, of_matrix = np.load(folder / "of-t.csv.npy"), np.load(folder / "of-t.npy.npy")
    np.testing.assert_allclose(of_text, of_matrix, atol=1e-6)


def test_a_file_with_names_for_an_encoder_of_a_matrix(folder):
    x = np.random.default_rng(0).normal(size=(100, 3))
    np.save(folder / "m.npy", x)
    run("pretrain", "m.npy", *QUICK)
    frame = pl.DataFrame(x, ["a", "b", "c"]).with_columns(c=pl.when(pl.col("a") > 0).then("c"))
    frame.write_csv(folder / "t.csv")
    run("embed", "m.npy", "--run", "runs/m", "--output", "of-m.npy")
    run("embed", "t.csv", "--run", "runs/m", "--output", "of-t.npy")
    missing = np.isnan(pl.read_csv(folder / "t.csv")["c"].to_numpy())
    of_matrix, of_text = np.load(folder / "of-m.npy"), np.load(folder / "of-t.npy")
    np.testing.assert_allclose(of_text[~missing], of_matrix[~missing], atol=1e-6)
    frame.with_columns(b=pl.lit("u"), d=1).write_csv(folder / "t.csv")
    assert fails("embed", "t.csv", "--run", "runs/m") == (
        "mixnoise: t.csv: the run was made of a matrix, 3 columns of numbers without names, and "
        "this file has 4: a (number), b (category), c (number), d (number)\n"
    )


def test_values_of_another_kind_are_told_with_file_and_line(trained):
    lines = trained.read_text().splitlines()
    size = lines[0].split(",").index("size")
    for row in (7, 4):
        cells = lines[row].split(",")
        lines[row] = ",".join([*cells[:size], f"about {row}", *cells[size + 1 :]])
    trained.write_text("\n".join(lines))
    said = fails("embed", "trees.csv", "--run", "runs/trees")
    assert said == (
        "mixnoise: trees.csv:5: column 'size': 'about 4' is not a number, as the run had there; "
        "correct it or leave it empty\n"
    )
    pl.DataFrame({"id": "x", "size": [1.0, 2.0], "color": [3, 4]}).write_csv("new.csv")
    said = fails("embed", "new.csv", "--run", "runs/trees")
    assert said == "mixnoise: new.csv: column 'color' held text in the run, and now holds numbers\n"


def test_options_that_leave_a_column_out_and_use_it(table, folder):
    for option in ("--label", "--leave"):
        said = fails("pretrain", "trees.csv", option, "color", "--categorical", "color")
        assert "--categorical: 'color' is not learned from, since --label or --leave" in said
    np.savez(folder / "m.npz", X=np.ones((9, 2)), y=np.ones(9))
    said = fails("pretrain", "m.npz", "--categorical", "y")
    assert "--categorical: 'y' is not learned from, since the matrix lacks it" in said


def test_nothing_but_a_label(folder):
    (folder / "t.csv").write_text("y\na\nb\n")
    np.save(folder / "m.npy", np.ones((9, 1)))
    for name, label in (("t.csv", "y"), ("m.npy", "x0")):
        said = fails("pretrain", name, "--label", label)
        assert f"{name}: no column is left to learn from besides {label}\n" in said


def test_rows_without_a_label_are_not_probed(folder):
    lines = ["a,b,y", *(f"{i},{i % 7},{'uv'[i % 2] if i % 5 else ''}" for i in range(100))]
    (folder / "t.csv").write_text("\n".join(lines))
    run("pretrain", "t.csv", "--label", "y", *QUICK)
    found = run("probe", "t.csv", "--label", "y", "--run", "runs/t")
    assert "20 rows without a label are left out" in found.stdout


@pytest.mark.parametrize("suffix", [".parquet", ".feather", ".csv", ".tsv"])
def test_columns_that_were_left_out_are_written_as_they_are(folder, suffix):
    """Identifiers above 2**53 are no doubles."""
    ids = [9007199254740993, 9007199254740994, None] * 10
    frame = pl.DataFrame({"id": ids, "name": ["a", None, "c"] * 10, "size": range(30)})
    frame.write_ipc(folder / "t.feather")
    run("pretrain", "t.feather", "--leave", "id", "--leave", "name", *QUICK)
    run("embed", "t.feather", "--run", "runs/t", "--output", f"h{suffix}")
    read = {".parquet": pl.read_parquet, ".feather": pl.read_ipc, ".csv": pl.read_csv}
    path = folder / f"h{suffix}"
    found = pl.read_csv(path, separator="\t") if suffix == ".tsv" else read[suffix](path)
    assert found["id"].to_list() == ids
    assert found["name"].to_list() == frame["name"].to_list()


def test_outputs_are_refused_before_any_work(trained, folder, monkeypatch):
    frame = pl.read_csv(trained).rename({"id": "daclencoder0"})
    frame.write_csv(folder / "named.csv")
    run("pretrain", "named.csv", "--leave", "daclencoder0", *QUICK)
    monkeypatch.setattr(DACLEncoder, "transform", None)
    said = fails("embed", "trees.csv", "--run", "runs/trees", "--output", "new/h.txt")
    assert "--output: features are written to .csv, .tsv, " in said
    assert not (folder / "new").exists()
    said = fails("embed", "trees.csv", "--run", "runs/trees", "--output", "./trees.csv")
    assert "--output: trees.csv is the table itself; name another file" in said
    said = fails("embed", "named.csv", "--run", "runs/named")
    assert "column 'daclencoder0' is called as a feature is; rename it" in said


def test_a_label_that_was_learned_from_is_not_probed(table, folder):
    run("pretrain", "trees.csv", *QUICK)
    said = fails("probe", "trees.csv", "--label", "class", "--run", "runs/trees")
    assert "--label: 'class' was among the columns that were learned from" in said
    assert "pre-train with --label class" in said
    # A label that was left out by another option is none that was learned from.
    run("pretrain", "trees.csv", *QUICK, "--leave", "class", "--run", "left")
    probed = ("probe", "trees.csv", "--run", "left", "--splits", "1", "--label")
    assert "Network after training" in run(*probed, "class").stdout
    assert "'color' was among the columns" in fails(*probed, "color")
    # And in a matrix.
    rng = np.random.default_rng(0)
    np.savez(folder / "m.npz", X=rng.integers(2, size=(100, 4)), y=rng.integers(2, size=100))
    run("pretrain", "m.npz", "--label", "y", *QUICK)
    assert "'x3' was among" in fails("probe", "m.npz", "--label", "x3", "--run", "runs/m")


def test_codes_of_categories(folder):
    lines = ["code,size", *(f"{i % 4},{i}" for i in range(60))]
    (folder / "t.csv").write_text("\n".join(lines))
    found = run("pretrain", "t.csv", "--categorical", "code", *QUICK)
    assert re.search(r"code +category +4 values", found.stdout)


def test_times_and_dates_that_are_categories(folder):
    lines = ["day,at,size", *(f"2020-01-0{i % 3 + 1},1{i % 4}:05,{i}" for i in range(60))]
    (folder / "t.csv").write_text("\n".join(lines))
    said = fails("pretrain", "t.csv", *QUICK)
    assert said.startswith("mixnoise: t.csv: column 'at': ")
    assert said.endswith("got time; pre-train with --categorical or --leave\n")
    chosen = ("--categorical", "day", "--categorical", "at")
    found = run("pretrain", "t.csv", *chosen, *QUICK)
    assert re.search(r"day +category +3 values\nat +category +4 values", found.stdout)
    # What is written is what training saw: times, whose text has seconds, and not the file's text.
    run("embed", "t.csv", "--run", "runs/t")
    encoder = DACLEncoder.load("runs/t/encoder.safetensors")
    expected = encoder.transform(read_table("t.csv").without([]))
    np.testing.assert_array_equal(pl.read_parquet("t-embedded.parquet").to_numpy(), expected)


def test_info(trained, folder):
    text = run("info", "runs/trees").stdout
    assert re.search(r"epochs +2 of at most 2", text)
    assert re.search(r"validation_loss +\d", text)
    found = json.loads(run("info", "runs/trees", "--json").stdout)
    assert found["settings"]["arguments"]["batch_size"] == 64
    assert found["settings"]["noise"]["numbers"]["name"] == "dacl+"
    assert "is no folder of a run" in fails("info", ".")


def test_errors_have_one_line_and_status_2(trained, folder):
    assert fails("pretrain", "no.csv") == "mixnoise: no.csv: no such file\n"
    installed = subprocess.run([SCRIPT, "pretrain", "no.csv"], capture_output=True, text=True)
    assert (installed.returncode, installed.stderr) == (2, "mixnoise: no.csv: no such file\n")
    assert "has no column 'clas'; did you mean 'class'?" in fails(
        "pretrain", "trees.csv", "--label", "clas"
    )
    assert "did you mean 'linear'" in fails("pretrain", "trees.csv", "--noise", "liner")
    (folder / "bad.csv").write_text("a,b\n1,2\n3\n")
    assert "mixnoise: bad.csv:3: 1 field in a table of 2 columns" in fails("pretrain", "bad.csv")
    assert "runs/none is no folder that `mixnoise pretrain` made" in fails(
        "embed", "trees.csv", "--run", "runs/none"
    )
    assert "Missing argument" in fails("pretrain")
    assert "epochs" in fails("pretrain", "trees.csv", "--epochs", "many")
    assert fails("pretrain", "trees.csv") == (
        "mixnoise: --run 'runs/trees' already holds a run: go on with --resume, or name another "
        "folder\n"
    )


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--components", 0), ("--layers", 0), ("--epochs", 0), ("--batch-size", 1), ("--lr", 0),
        ("--lr", "nan"), ("--patience", -1), ("--seed", -1), ("--seed", 2**32), ("--alpha", 1.1),
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused_by_the_name_of_their_option(table, folder, option, value):
    said = fails("pretrain", "trees.csv", option, value)
    assert option in said
    assert "trees.csv" not in said
    assert not (folder / "runs").exists()


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"left_out": 3}', None])
def test_a_run_that_is_damaged(trained, folder, content):
    described = folder / "runs" / "trees" / "table.json"
    described.unlink() if content is None else described.write_text(content)
    said = fails("embed", "trees.csv", "--run", "runs/trees")
    assert "--run: runs/trees/table.json is damaged (" in said
    assert "`mixnoise pretrain ... --resume` makes it again" in said
    pretrained(trained, "--resume")
    assert "300 rows, 16 features" in run("embed", "trees.csv", "--run", "runs/trees").stdout


def test_infinite_numbers_are_told_with_their_line(trained, folder):
    lines = trained.read_text().splitlines()
    size = lines[0].split(",").index("size")
    for row, value in ((7, "inf"), (4, "-1e999")):
        lines[row] = ",".join([*lines[row].split(",")[:size], value, "red", "oak"])
    trained.write_text("\n".join(lines))
    expected = "mixnoise: trees.csv:5: column 'size': -inf is not finite; correct it, or make it a "
    for command in (("pretrain", "--run", "new"), ("embed", "--run", "runs/trees")):
        assert fails(command[0], "trees.csv", *command[1:]).startswith(expected)


def test_probes_out_of_range(trained):
    probe = ("probe", "trees.csv", "--label", "class", "--run", "runs/trees")
    for option, value in (
        ("--splits", 0), ("--seed", -1), ("--labels-per-class", 0), ("--labels-per-class", 1000),
    ):  # fmt: skip
        assert option in fails(*probe, option, value)


def test_a_loss_that_is_not_finite_is_told_in_a_line(table, folder):
    said = fails("pretrain", "trees.csv", *QUICK, "--lr", "1e30")
    assert re.fullmatch(r"mixnoise: the loss became (nan|inf) at step \d+, with rows .*\n", said)
    assert not (folder / "runs" / "trees" / "config.json").exists()  # it is free for another run


# Settings in files.


def test_settings_out_of_a_file(table, folder):
    settings = "label: class\nepochs: 1  # a comment\nbatch-size: 64\nleave: [id]\ncomponents: 8\n"
    (folder / "s.yaml").write_text(settings)
    found = run("pretrain", "trees.csv", "--config", "s.yaml", "--epochs", "2")
    assert "class: not learned from\nid: not learned from" in found.stdout
    config = json.loads((folder / "runs/trees/config.json").read_text())
    assert config["arguments"]["epochs"] == 2  # the command line wins
    assert config["arguments"]["batch_size"] == 64
    # The text is taken as it is written: `no` is a name here, not False.
    (folder / "t.csv").write_text("no,yes,on\n" + "\n".join(f"{i},{-i},{i}" for i in range(20)))
    (folder / "t.yaml").write_text("label: no\nleave: yes\nepochs: 1\ncomponents: 8\n")
    found = run("pretrain", "t.csv", "--config", "t.yaml")
    assert "no: not learned from\nyes: not learned from" in found.stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "epochs: 1\nepoch: 2\n",
            "s.yaml:2:1: pretrain has no option 'epoch'; did you mean 'epochs'",
        ),
        ("epochs: many\n", "s.yaml:1:9: epochs: "),
        ("seed: 1\nepochs:\n", "s.yaml:2:8: epochs: has no value"),
        ("epochs: [1, 2]\n", "s.yaml:1:9: epochs: takes one value, got a list"),
        ("leave: [{a: b}]\n", "s.yaml:1:8: leave: must be a list of values"),
        ("epochs: 1\n\nepochs: 2\n", "s.yaml:3:1: 'epochs' stands here twice"),
        ("epochs: 1\n label: [\n", "s.yaml:2:7: "),
        ("- epochs\n", "s.yaml:1:1: there must be lines such as `epochs: 50`"),
        ("config: other.yaml\n", "s.yaml:1:1: pretrain has no option 'config'"),
    ],
)
def test_mistakes_in_settings_are_told_with_line_and_column(table, folder, text, message):
    (folder / "s.yaml").write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        run("pretrain", "trees.csv", "--config", "s.yaml")


def test_every_option_of_every_command_can_stand_in_a_file(folder):
    from mixnoise.cli.settings import read_settings

    group = typer.main.get_command(app)
    for name, command in group.commands.items():
        options = {p.name: p for p in command.params if p.opts[0].startswith("--")}
        if "config" not in options:
            assert name in ("info", "noises", "check")  # which have nothing but --json
            continue
        for option in options.values():
            if option.name in ("config", "help"):
                continue
            flag = option.opts[0].removeprefix("--")
            texts = ["true", "3", "0.5", "digits"]
            read = []
            for text in texts:
                (folder / "s.yaml").write_text(f"{flag}: {text}\n")
                try:
                    context = typer.Context(command, info_name=name)
                    read.append(read_settings(folder / "s.yaml", context))
                except ValueError:
                    pass
            assert read, flag
            assert all(found.keys() == {option.name} for found in read)


def test_settings_that_are_not_there(table):
    assert "--config: none.yaml: No such file" in fails(
        "pretrain", "trees.csv", "--config", "none.yaml"
    )


# Interruptions.


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_says_how_to_go_on(table, folder, signum):
    arguments = ["pretrain", "trees.csv", "--label", "class", *QUICK, "--patience", "0"]
    arguments[arguments.index("--epochs") + 1] = "40"
    # It waits in the middle for the signal.
    code = (
        "import sys, time, mixnoise.training.loop as loop\n"
        "whole = loop.Loop.take_step\n"
        "def take_step(self, *args):\n"
        "    whole(self, *args)\n"
        "    while self.step == 20 and not self.termination.requested:\n"
        "        time.sleep(0.01)\n"
        "loop.Loop.take_step = take_step\n"
        f"sys.argv = {['mixnoise', *arguments, '--run', 'cut']!r}\n"
        "from mixnoise.cli import main\n"
        "main()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not (folder / "cut" / "metrics.csv").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(process.pid, signum)
        text = process.communicate(timeout=120)[1]
    finally:
        process.kill()
    assert process.returncode == 130, text
    assert "Traceback" not in text
    advice = re.search(r"interrupted; go on with: mixnoise (pretrain .* --resume)\n", text)
    assert advice, text
    assert not (folder / "cut" / "encoder.safetensors").exists()
    found = fails("embed", "trees.csv", "--run", "cut")
    assert "cut has not come to its end: `mixnoise pretrain ... --resume`" in found
    if signum == signal.SIGTERM:
        return
    # In this process, with as many threads.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    run(*arguments, "--run", "whole")
    run(*shlex.split(advice[1]))
    files = (folder / name / "encoder.safetensors" for name in ("whole", "cut"))
    encoders = [DACLEncoder.load(file) for file in files]
    X = pl.read_csv(table).drop("class")
    np.testing.assert_array_equal(*(encoder.transform(X) for encoder in encoders))


# Others.


def test_bench_compares_in_turns():
    found = run("bench", "--rows", "64", "--columns", "8")
    lines = found.stdout.splitlines()
    assert lines[0].startswith("64 x 8 float32 on ")
    assert [re.split("  +", line)[0] for line in lines[2:]] == [
        "two views, linear",
        "two views, geometric",
        "two views, binary",
        "NT-Xent, forward and backward",
    ]
    assert all(re.search(r"[\d.]+ ms +[\d.]+ ms +[\d.]+x$", line) for line in lines[2:])


def test_demo_is_the_demonstration(monkeypatch):
    from mixnoise import demo

    called = []
    monkeypatch.setattr(demo, "main", called.append)
    run("demo", "--data", "fashion-mnist", "--seeds", "1", "--output", "a")
    assert called == [["--data", "fashion-mnist", "--seeds", "1", "--output", "a"]]


def test_help_teaches():
    text = run("--help").stdout
    assert "mixnoise pretrain TABLE.csv --label COLUMN" in text
    for command in ("pretrain", "embed", "probe", "info", "demo", "bench", "noises", "check"):
        assert run(command, "--help").exit_code == 0
        assert command in text


def test_a_label_that_was_dropped_was_not_learned_from(trained):
    said = fails("probe", "trees.csv", "--label", "id", "--run", "runs/trees")
    assert said == (
        "mixnoise: --label: 'id' has 300 values, each of them once, so it is no class\n"
    )


def test_labels_of_few_rows(folder):
    rng = np.random.default_rng(0)
    rows = [f"{i % 2 + rng.normal():.3f},{rng.normal():.3f},{'ab'[i % 2]}," for i in range(60)]
    rows[7] = rows[7].replace(",b,", ",rare,")
    (folder / "few.csv").write_text("\n".join(["x,y,kind,none", *rows]))
    options = ("--label", "kind", "--leave", "none", "--epochs", "1")
    assert run("pretrain", "few.csv", *options).exit_code == 0
    said = run("probe", "few.csv", "--label", "kind", "--run", "runs/few")
    assert "classes of a single row are left out: rare\n" in said.stdout
    assert "Network after training" in said.stdout
    said = fails("probe", "few.csv", "--label", "none", "--run", "runs/few")
    assert "mixnoise: --label: no row of 'none' has a value" in said


def test_a_folder_without_a_name(folder):
    (folder / "t.csv").write_text("x,y\n1,2\n3,4\n5,7\n")
    assert fails("pretrain", "t.csv", "--run", "").startswith("mixnoise: --run must name a folder")
    assert not (folder / "config.json").exists()


def test_python_dash_m():
    command = [sys.executable, "-m", "mixnoise", "--version"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said == f"mixnoise {__version__}\n"


@pytest.mark.parametrize("more", [(), ("--categorical", "kind")])
def test_text_stays_text_in_another_file(folder, more):
    kinds = ["true", "false", "unknown"]
    lines = ["kind,size", *(f"{kinds[i % 3]},{i}" for i in range(60))]
    (folder / "t.csv").write_text("\n".join(lines))
    run("pretrain", "t.csv", *QUICK, *more)
    run("embed", "t.csv", "--run", "runs/t")
    some = [line for line in lines[1:] if "unknown" not in line]
    (folder / "u.csv").write_text("\n".join([lines[0], *some]))
    run("embed", "u.csv", "--run", "runs/t")
    of_all = pl.read_parquet(folder / "t-embedded.parquet").to_numpy()
    chosen = [i for i, line in enumerate(lines[1:]) if line in some]
    of_some = pl.read_parquet(folder / "u-embedded.parquet").to_numpy()
    np.testing.assert_allclose(of_some, of_all[chosen], atol=1e-6)


def test_a_label_without_a_name_is_refused(table, folder):
    assert "has no column ''" in fails("pretrain", "trees.csv", "--label", "", *QUICK)
    assert not (folder / "runs").exists()


DAMAGED = {"config.json": [b"{}", b"[]", b"\xff"], "metrics.csv": [b"\xff"]}


@pytest.mark.parametrize(
    ("file", "content"),
    [(file, b) for file, contents in DAMAGED.items() for b in contents],
)
def test_information_on_a_run_that_is_damaged(trained, folder, file, content):
    (folder / "runs" / "trees" / file).write_bytes(content)
    message = r"runs/trees(/|: )config\.json( or metrics\.csv)? is damaged"
    assert re.search(message, fails("info", "runs/trees"))
