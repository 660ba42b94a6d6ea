"""Sets of graphs, and the paper's table of them at a size that takes seconds."""

import zipfile

import numpy as np
import pytest
import torch

pytest.importorskip("torch_geometric", reason="graphs need PyTorch Geometric")

from torch_geometric.data import Batch, Data

from benchmarks import cells
from benchmarks.paper import graphs, tables
from benchmarks.paper.graph_networks import GIN, InfoGraph
from mixnoise.datasets import load_tu_graphs, tu_graphs
from mixnoise.datasets.files import folders

FOLDER = next(folders("tu_graphs"))
# A triangle with tags 5, -1, 5; an edge with tags 9, 5.
TEXT = "2\n3 7\n5 2 1 2\n-1 2 0 2\n5 2 0 1\n2 4\n9 1 1\n5 1 0\n"


@pytest.fixture
def zipped(tmp_path, monkeypatch):
    """Writes a set of two graphs as MUTAG is written."""
    monkeypatch.setenv("MIXNOISE_DATA", str(tmp_path))
    monkeypatch.setitem(tu_graphs._KNOWN, "MUTAG", tu_graphs._Known(2, 2, 5, "MUTAG"))
    (tmp_path / "tu_graphs").mkdir()
    path = tmp_path / "tu_graphs" / "MUTAG.zip"

    def write(text, member="MUTAG/MUTAG.txt"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(member, text)
        return path

    return write


def test_tags_edges_and_labels(zipped):
    zipped(TEXT)
    triangle, edge = load_tu_graphs("MUTAG")
    assert triangle.x.tolist() == [[0, 1, 0], [1, 0, 0], [0, 1, 0]]  # of the tags -1, 5, 9
    assert edge.x.tolist() == [[0, 0, 1], [0, 1, 0]]
    assert triangle.edge_index.T.tolist() == [[0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 1]]
    assert edge.edge_index.T.tolist() == [[0, 1], [1, 0]]
    assert (triangle.y.tolist(), edge.y.tolist()) == ([1], [0])  # of the labels 4, 7


def test_nodes_without_tags_are_constant(zipped):
    zipped("2\n1 0\n0 0\n4 1\n0 1 1\n0 1 0\n0 1 3\n0 1 2\n")
    single, pairs = load_tu_graphs("MUTAG")
    assert single.x.tolist() == [[1]]
    assert single.edge_index.shape == (2, 0)
    assert pairs.x.tolist() == [[1]] * 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            TEXT[:-6],
            r"MUTAG\.zip is truncated or was altered at graph 2 \(it ends there\); take",
        ),
        (TEXT.replace("9 1 1", "9 1 2"), r"at graph 2 \(the neighbours of node 0 are not its 1\)"),
        (TEXT.replace("9 1 1", "9 2 1"), r"at graph 2 \(the neighbours of node 0 are not its 2\)"),
        (TEXT.replace("9 1 1", "x 1 1"), r"at graph 2 \(invalid literal for int.*'x'\)"),
        ("", r"was altered \(it ends there\)"),
        ("1\n3 7\n5 0\n5 0\n5 0\n", r"is not MUTAG, which has 2 graphs of 2 .* got 1 of 1 and 3"),
    ],
    ids=["truncated", "no such node", "degree", "no number", "empty", "another set"],
)
def test_altered_text(zipped, text, message):
    zipped(text)
    with pytest.raises(ValueError, match=message):
        load_tu_graphs("MUTAG")


def test_archives_that_are_truncated_or_lack_the_text(zipped):
    zipped(TEXT, "MUTAG/other.txt")
    with pytest.raises(ValueError, match=r"was altered .*no item named 'MUTAG/MUTAG\.txt'"):
        load_tu_graphs("MUTAG")
    path = zipped(TEXT)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"was altered \(File is not a zip file\); take it anew"):
        load_tu_graphs("MUTAG")


def test_sets_that_are_not_there_come_from_pytorch_geometric(tmp_path, monkeypatch):
    import torch_geometric.datasets

    monkeypatch.setenv("MIXNOISE_DATA", str(tmp_path))
    monkeypatch.setitem(tu_graphs._KNOWN, "MUTAG", tu_graphs._Known(2, 2, 5, "MUTAG"))
    asked = []

    def download(root, name):
        asked.append((root, name))
        edge_index = torch.tensor([[0, 1], [1, 0]])
        tagged = Data(x=torch.eye(3)[:2], edge_index=edge_index, y=torch.tensor([1]))
        return [tagged, Data(x=torch.eye(3), edge_index=edge_index, y=torch.tensor([0]))]

    monkeypatch.setattr(torch_geometric.datasets, "TUDataset", download)
    first, second = load_tu_graphs("MUTAG")
    assert asked == [(str(tmp_path / "tu"), "MUTAG")]
    assert torch.equal(first.x, torch.eye(3)[:2])
    assert torch.equal(second.x, torch.eye(3))


def test_unknown_set():
    with pytest.raises(ValueError, match=r"name must be one of MUTAG, .*, got 'ENZYMES'"):
        load_tu_graphs("ENZYMES")


needs_graphs = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="needs the zips of text in $MIXNOISE_DATA/tu_graphs"
)


@needs_graphs
@pytest.mark.parametrize(
    ("name", "n_graphs", "n_features"),
    [("MUTAG", 188, 7), ("PTC_MR", 344, 18), ("IMDB-MULTI", 1500, 1)],
)
def test_real_sets(name, n_graphs, n_features):
    found = load_tu_graphs(name)
    assert len(found) == n_graphs
    assert {graph.x.shape[1] for graph in found} == {n_features}
    assert all(graph.is_undirected() for graph in found[:50])
    assert all(graph.x.sum(1).eq(1).all() for graph in found)


# The table.


def ring(n, label):
    there = torch.arange(1, n + 1) % n
    edges = torch.stack((torch.arange(n), there))
    return Data(
        x=torch.ones(n, 1), edge_index=torch.cat((edges, edges.flip(0)), 1), y=torch.tensor([label])
    )


def test_output_of_the_encoder_is_of_graphs():
    """In whatever batch a graph is, and in whatever order its nodes are."""
    torch.manual_seed(0)
    encoder = GIN(1, 4, 3).eval()
    one, other = ring(5, 0), ring(7, 1)
    both = encoder(Batch.from_data_list([one, other]))
    assert both.shape == (2, 12)
    torch.testing.assert_close(both[1:], encoder(Batch.from_data_list([other])))
    assert not torch.allclose(both[0], both[1])


def test_infograph_is_the_bound_of_its_scores():
    torch.manual_seed(0)
    model = InfoGraph(GIN(1, 4, 2)).eval()
    batch = Batch.from_data_list([ring(3, 0), ring(4, 1)])
    nodes = model.of_nodes(model.encoder.nodes(batch)).detach().double()
    sums = model.of_graphs(model.encoder(batch)).detach().double()
    own, foreign = [], []
    for i, node in enumerate(nodes):
        for j, graph in enumerate(sums):
            score = float(node @ graph)
            if (i >= 3) == (j == 1):
                own.append(np.log1p(np.exp(-score)))
            else:
                foreign.append(np.log1p(np.exp(score)))
    expected = np.mean(own) + np.mean(foreign)
    assert model(batch).item() == pytest.approx(expected, rel=1e-5)


def test_the_plain_classifier_learns_what_a_line_can_part():
    y = np.arange(200) % 2
    h = np.random.default_rng(0).normal(size=(200, 3)) + 6 * y[:, None] - 3
    tested, foretold = graphs.plain(h, y, 0)
    assert tested == [100.0] * 10
    assert min(foretold) > 98
    assert graphs.plain(h, y, 0) == graphs.plain(h, y, 0)
    tested, foretold = graphs.plain(h, np.random.default_rng(1).permutation(y), 0)
    assert 30 < np.mean(tested) < 70
    assert 30 < np.mean(foretold) < 70


def test_test_graphs_have_no_part_in_the_choice():
    y = np.arange(60) % 2
    for train, test in graphs.folds(y, 0):
        for fit, held_out in graphs.inner_folds(y, train, 0):
            assert set(fit) | set(held_out) == set(train)
            assert not set(fit) & set(held_out)
            assert not set(train) & set(test)


def test_every_row_and_going_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cells, "RESULTS", tmp_path)
    rings = [ring(3 + i % 2 + i // 30, i % 2) for i in range(60)]
    monkeypatch.setattr(graphs, "load_tu_graphs", lambda _: [g.clone() for g in rings])
    monkeypatch.setattr(graphs, "_INNER_FOLDS", 2)
    monkeypatch.setattr(graphs, "_REGULARISATION", (1.0,))
    small = graphs.Size(width=4, depth=2, epochs=1, batch_size=32)
    monkeypatch.setattr(graphs, "SIZES", {"MUTAG": small})
    graphs.main(["--data", "MUTAG", "--seeds", "1"])
    first = {path.name: path.read_text() for path in (tmp_path / "paper" / "graphs").iterdir()}
    assert len(first) == len(graphs.ROWS)
    graphs.main(["--data", "MUTAG", "--seeds", "2", "--rows", "DACL"])
    for name, text in first.items():
        now = (tmp_path / "paper" / "graphs" / name).read_text()
        assert (now == text) == ("-dacl." not in name)

    one, two = graphs.cell("MUTAG", "DACL", small).runs()
    assert (one["seed"], two["seed"]) == (0, 1)
    assert len(one["tried"]) == len(graphs.space("DACL")) == 4
    for classifier in graphs.CLASSIFIERS:
        of_settings = [tried[classifier] for tried in one["tried"]]
        for fold, setting in enumerate(one["chosen"][classifier]):
            foretold = [each["foretold"][fold] for each in of_settings]
            assert foretold[setting] == max(foretold)
            assert one[classifier][fold] == of_settings[setting]["tested"][fold]

    again = graphs.run("DACL", [g.clone() for g in rings], small, 0)
    assert again["tuned"] == one["tuned"]
    assert again["plain"] == one["plain"]
    text = tables.graph_sets("plain")
    assert "| MUTAG (2 x 4, 1 epochs, 1 seeds) |" in text
    assert "| as the paper has it | 81.7 |  | 86.7 | 85.3 |  | +3.6 |  |  |  |" in text


def test_batch_norm_alone_is_the_untrained_network_with_statistics():
    some = [ring(3 + i % 5, i % 2) for i in range(40)]
    for graph in some:
        graph.x = torch.rand(graph.x.shape)
    size = graphs.Size(width=4, depth=2, batch_size=len(some))
    untrained = graphs.pretrained(graphs.UNTRAINED, {}, some, size, 1)
    found = graphs.pretrained(graphs.BATCH_NORM, {}, some, size, 1)
    for weight, other in zip(untrained.parameters(), found.parameters(), strict=True):
        assert torch.equal(weight, other)
    nodes = Batch.from_data_list(some)
    kept = found.eval()(nodes)
    # All graphs are one batch, so its own statistics are those kept; variance over n, or n - 1.
    torch.testing.assert_close(kept, found.train()(nodes), rtol=0.05, atol=0.05)
    assert not torch.allclose(untrained.eval()(nodes), kept, rtol=0.2)


def test_a_zip_of_damaged_compression(zipped):
    path = zipped(TEXT)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("MUTAG/MUTAG.txt", TEXT * 9)
    content = path.read_bytes()
    start = content.index(b"MUTAG.txt") + len("MUTAG.txt")
    places = range(start, content.index(b"PK\x01\x02"))
    noticed = 0
    for place in places:
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x5A]) + content[place + 1 :])
        try:
            load_tu_graphs("MUTAG")
        except ValueError as error:
            noticed += "MUTAG.zip is truncated or was altered" in str(error)
    assert noticed >= len(places) - 1  # the last byte may be padding


def test_a_download_that_fails_says_what_is_missing(tmp_path, monkeypatch):
    import torch_geometric.datasets

    def offline(*_):
        raise OSError("no network")

    monkeypatch.setenv("MIXNOISE_DATA", str(tmp_path))
    monkeypatch.setattr(torch_geometric.datasets, "TUDataset", offline)
    message = r"tu_graphs is missing, and the set could not be downloaded \(no network\); put .*zip"
    with pytest.raises(ValueError, match=message):
        load_tu_graphs("MUTAG")
