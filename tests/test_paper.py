"""The paper's tables: cells, a search and runs at a size that takes seconds, the document."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("torch_geometric", reason="the paper's tables need PyTorch Geometric")

from benchmarks import cells
from benchmarks.cells import Cell
from benchmarks.markdown import fill_one
from benchmarks.paper import tables, tabular
from mixnoise.datasets import load_digits


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    """An empty folder of results, but for the test of the document."""
    monkeypatch.setattr(cells, "RESULTS", tmp_path)
    return tmp_path


def test_a_cell_goes_on_with_the_seeds_that_are_missing(results):
    cell, asked = Cell("table", "name", {"width": 4}), []

    def run(seed):
        asked.append(seed)
        if seed == 2:
            raise KeyboardInterrupt
        return {"accuracy": [seed]}

    with pytest.raises(KeyboardInterrupt):
        cell.fill([1, 0, 2, 3], run)
    assert [found["seed"] for found in cell.runs()] == [0, 1]
    cell.fill(range(5), lambda seed: asked.append(seed) or {"accuracy": [seed]})
    assert asked == [1, 0, 2, 2, 3, 4]
    content = json.loads((results / "table" / "name.json").read_text())
    assert content["settings"] == {"width": 4}
    assert [run["accuracy"] for run in content["runs"]] == [[0], [1], [2], [3], [4]]
    assert content["runs"][0].keys() == {"seed", "accuracy", "seconds", "machine"}
    assert [path.name for path in results.rglob("*.json*")] == ["name.json"]  # nothing half-made


def test_a_cell_of_other_settings_is_not_mixed_with():
    Cell("table", "name", {"width": 4}).fill([0], lambda _: {})
    with pytest.raises(ValueError, match=r"name\.json was made with other settings; delete it"):
        Cell("table", "name", {"width": 8}).fill([1], lambda _: {})


@pytest.fixture
def digits(monkeypatch):
    """A table that takes seconds, with a search of two settings a method and network."""
    table = replace(
        tabular.TABLES["satimage"],
        load=load_digits,
        networks={
            "paper": (tabular.Network(3, 16),),
            "best": (tabular.Network(1, 16), tabular.Network(2, 16)),
        },
        labels_per_class=(5, None),
        label_draws=2,
        name="digits",
        epochs={"paper": 2, "best": 3},
        pretrain={"batch_size": 256},
        supervised_epochs=20,
        search_rows=300,
    )
    monkeypatch.setattr(tabular, "TABLES", {"digits": table})
    monkeypatch.setattr(tables, "TABLES", {"digits": table})
    monkeypatch.setattr(tabular, "TEMPERATURES", (0.5,))
    monkeypatch.setattr(tabular, "STRENGTHS", dict.fromkeys(tabular.METHODS, (0.5, 0.7)))
    monkeypatch.setattr(tabular, "_RANDOM_FEATURES", 64)


@pytest.mark.usefixtures("digits")
def test_search_and_every_row(results, monkeypatch):
    with pytest.raises(
        ValueError, match=r"no settings are chosen for DACL: run python .* --search"
    ):
        tabular.best(tabular.TABLES["digits"], "paper", "DACL", None)

    # Interrupted after three settings of six.
    real, probed = tabular.probe, []

    def probe(table, encoder, split, seed):
        if len(probed) == 3:
            raise KeyboardInterrupt
        assert len(split.x_train) == 300
        probed.append(real(table, encoder, split, seed))
        return probed[-1]

    with monkeypatch.context() as patch:
        patch.setattr(tabular, "probe", probe)
        with pytest.raises(KeyboardInterrupt):
            tabular.main(["--data", "digits", "--search"])
    tabular.main(["--data", "digits", "--search"])
    kept = json.loads((results / "paper" / "tabular-search" / "digits-paper.json").read_text())
    assert [entry["row"] for entry in kept["tried"]] == [m for m in tabular.METHODS for _ in "ab"]
    assert [entry["accuracy"] for entry in kept["tried"]][:3] == probed
    assert kept["space"].keys() == set(tabular.METHODS)
    for row in tabular.METHODS:
        first, second = (e["accuracy"] for e in kept["tried"] if e["row"] == row)
        for column, labels in enumerate((5, None)):
            chosen = tabular.best(tabular.TABLES["digits"], "paper", row, labels)
            expected = int(second[column] > first[column])
            assert chosen.noise == kept["space"][row][expected]["noise"]

    tabular.main(["--data", "digits", "--seeds", "2"])
    made = {
        path.stem: json.loads(path.read_text())
        for path in (results / "paper" / "tabular").iterdir()
    }
    chosen = [
        f"digits-{slug}-{choice.name}"
        for row, slug in zip(tabular.METHODS, ("gaussian-noise", "dacl", "dacl-plus"), strict=True)
        for choice in tabular.chosen(tabular.TABLES["digits"], "paper", row)
    ]
    assert len(chosen) >= 3
    assert made.keys() == {
        "digits-raw-columns",
        "digits-random-features",
        "digits-no-pre-training-3x16",
        "digits-batch-norm-alone-3x16",
        *chosen,
        "digits-full-supervised-3x16",
    }
    for cell in made.values():
        assert all(10 < few < many <= 100 for few, many in (r["accuracy"] for r in cell["runs"]))
    assert all([e for e, _ in made[name]["runs"][0]["knn"]] == [1, 2] for name in chosen)

    text = tables.tabular("digits", "paper")
    assert text.startswith("| Test accuracy in % | 5 labels a class | all labels |\n| --- |")
    for row in tabular.ROWS:
        assert f"\n| {row}" in text
    assert "Mean ± standard deviation over 2 seeds" in text
    for row in tabular.METHODS:  # a column comes from the setting that was chosen for it
        line = next(line for line in text.splitlines() if line.startswith(f"| {row} |"))
        for column, labels in enumerate((5, None)):
            name = tabular.best(tabular.TABLES["digits"], "paper", row, labels).name
            cell = next(
                c for stem, c in made.items() if stem.endswith(name) and c["settings"]["row"] == row
            )
            mean = np.mean([run["accuracy"][column] for run in cell["runs"]])
            assert line.split("|")[2 + column].strip().startswith(f"{mean:.1f} ± ")
    assert tables.tabular("digits", "best").startswith("Not run yet: `python -m")
    tables.plot_epochs(results / "epochs.png")
    assert (results / "epochs.png").stat().st_size > 1000


@pytest.mark.usefixtures("digits")
def test_each_best_network_stands_beside_itself_untrained(results):
    tabular.main(["--data", "digits", "--search", "--network", "best"])
    tabular.main(["--data", "digits", "--seeds", "1", "--network", "best"])
    table = tabular.TABLES["digits"]
    chosen = {c.network for row in tabular.METHODS for c in tabular.chosen(table, "best", row)}
    untrained = {path.stem for path in (results / "paper" / "tabular").glob("*no-pre-training*")}
    assert untrained == {f"digits-no-pre-training-{n.depth}x{n.width}" for n in chosen}
    text = tables.tabular("digits", "best")
    assert all(f"| No pre-training ({n.depth} x {n.width}) |" in text for n in chosen)


@pytest.mark.usefixtures("digits")
def test_batch_norm_alone_is_the_untrained_network_with_statistics():
    table = tabular.TABLES["digits"]
    split, network = table.load(), tabular.Network(3, 16)
    trained = tabular.experiment(table, network, tabular.pretraining(table, "paper"))
    untrained = tabular.untrained(trained, split, 1)
    found = tabular.batch_norm_alone(trained, split, 1)
    for weight, other in zip(untrained.parameters(), found.parameters(), strict=True):
        assert torch.equal(weight, other)
    first = torch.nn.Sequential(*list(found)[:2]).eval()
    mean, scale = (f(first(split.x_train), 0) for f in (torch.mean, torch.std))
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=0.2)
    assert 0.8 < scale.median() < 1.2
    assert torch.nn.Sequential(*list(untrained)[:2]).eval()(split.x_train).std(0).median() < 0.8


@pytest.mark.usefixtures("digits")
def test_another_size_has_results_of_its_own(results, capsys):
    size = ["--data", "digits", "--width", "8", "--epochs", "1", "--optimizer", "lars"]
    with pytest.raises(SystemExit):
        tabular.main(size)
    assert "another size needs a --folder of its own" in capsys.readouterr().err
    tabular.main([*size, "--folder", "small", "--search"])
    tabular.main([*size, "--folder", "small", "--rows", "DACL", "--seeds", "1"])
    assert {path.name for path in (results / "paper").iterdir()} == {"small-search", "small"}
    (made,) = (results / "paper" / "small").glob("digits-dacl-*.json")
    settings = json.loads(made.read_text())["settings"]
    assert settings["network"] == {"depth": 12, "width": 8}
    assert settings["pretrain"] == {"epochs": 1, "batch_size": 256, "optimizer": "lars"}


def test_pixels_are_permuted_and_stay_the_same_pixels():
    plain, permuted = load_digits(), tabular._permuted(load_digits)
    assert not permuted.x_train.equal(plain.x_train)
    assert permuted.x_train.sort(1).values.equal(plain.x_train.sort(1).values)
    back = tabular._permuted(load_digits, validation=True)
    assert len(back.x_train) < len(permuted.x_train)


def test_the_document_is_up_to_date(monkeypatch):
    monkeypatch.undo()
    document = tables.DOCUMENT.read_text()
    assert tables.fill(document) == document
    pictures = tables.IMAGES.read_text()
    assert fill_one(pictures, "images", tables.image_sets()) == pictures
    choosing = tables.CHOOSING.read_text()
    assert fill_one(choosing, "chosen", tables.chosen()) == choosing
