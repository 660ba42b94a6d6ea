"""The recipes run, for a few epochs; what they claim about their data is checked."""

import ast
import importlib.util
import inspect
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from threadpoolctl import threadpool_limits
from torch import nn
from torch.nn import functional as F

from mixnoise import DACL, get_noise
from mixnoise.datasets import load_digits

ROOT = Path(__file__).parent.parent
NAMES = ("own_loop", "lightning_module", "distributed", "graphs", "sequences")
NEEDS = {"lightning_module": "lightning", "graphs": "torch_geometric"}
X = load_digits().x_train[:20]
# Lightning 2.6 makes a LeafSpec of torch's pytree, which torch 2.13 deprecates.
LIGHTNING_USES_A_DEPRECATED_CLASS = pytest.mark.filterwarnings(
    r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning"
)


@pytest.fixture(autouse=True)
def one_thread():
    """Networks this small gain nothing from more, and lose where other programs run."""
    with threadpool_limits(1):
        yield


def recipe(name):
    """The script as a module."""
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    spec = importlib.util.spec_from_file_location(name, ROOT / "recipes" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def features(name, module, encoder):
    encoder.eval()
    with torch.no_grad():
        if name == "graphs":
            return module.encode(encoder, [module.graph(row) for row in X])
        if name == "sequences":
            return module.encode(encoder, [module.sequence(row) for row in X])
        return encoder(X)


def test_every_recipe_is_here_and_says_how_to_run_it():
    scripts = {path.stem: path.read_text() for path in (ROOT / "recipes").glob("*.py")}
    assert set(scripts) == set(NAMES)
    for name, text in scripts.items():
        command = "torchrun --nproc-per-node 2" if name == "distributed" else "python"
        assert f"\n    {command} recipes/{name}.py\n" in ast.get_docstring(ast.parse(text), False)


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("own_loop", 256),
        pytest.param("lightning_module", 256, marks=LIGHTNING_USES_A_DEPRECATED_CLASS),
        ("distributed", 256),
        ("graphs", 192),
        ("sequences", 64),
    ],
)
def test_recipe(name, width, tmp_path, monkeypatch, capsys):
    module = recipe(name)
    monkeypatch.chdir(tmp_path)
    result = module.main(epochs=4)
    assert not list(tmp_path.iterdir())  # nothing is written

    losses, n = result["losses"], len(result["losses"]) // 4
    assert n >= 1
    assert all(math.isfinite(loss) for loss in losses)
    assert sum(losses[-n:]) < sum(losses[:n])
    after, before = result["encoder"], result["untrained"]
    for p, q in zip(after.parameters(), before.parameters(), strict=True):
        assert not torch.equal(p, q)
    for net in (after, before):
        h = features(name, module, net)
        assert h.shape == (20, width)
        assert h.isfinite().all()

    printed = capsys.readouterr().out
    for label in ("Pre-trained", "Untrained"):
        few, many = result[label]
        assert 0.1 < few < many < 1
        assert f"{label}: {few:.1%} with 5 labels a class, {many:.1%} with all." in printed


def test_the_training_part_of_your_own_loop_is_ten_lines():
    (body,) = (
        node.body
        for node in ast.parse(inspect.getsource(recipe("own_loop"))).body
        if isinstance(node, ast.FunctionDef) and node.name == "train"
    )
    assert body[-1].end_lineno - body[0].lineno + 1 <= 10


def test_two_processes_end_with_the_same_weights():
    module = recipe("distributed")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"),
            *("--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"),
            str(ROOT / "recipes" / "distributed.py"),
        ],
        check=True,
        timeout=240,
        capture_output=True,
        text=True,
        # On the CPU, also where there is one GPU, which two processes cannot share.
        # Unbuffered, as in many containers, where lines of two processes mix most easily.
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONUNBUFFERED": "1",
        },
    )
    pattern = (
        r"^Rank (\d): (\d+) steps, loss ([\d.]+) in the first epoch "
        r"and ([\d.]+) in the last, weights (\w{8})\.$"
    )
    ranks = sorted(re.findall(pattern, done.stdout, re.MULTILINE))
    assert [rank for rank, *_ in ranks] == ["0", "1"]
    assert ranks[0][1:] == ranks[1][1:]
    _, steps, first, last, _ = ranks[0]
    assert float(last) < float(first)
    # Not two processes that know nothing of each other: together they step over 512 of 1,347 rows.
    assert int(steps) == 3 * inspect.signature(module.main).parameters["epochs"].default
    assert done.stdout.count("Pre-trained: ") == done.stdout.count("Untrained: ") == 1


def test_digest_sees_every_bit():
    module = recipe("distributed")
    net = nn.Linear(3, 2)
    before = module.digest(net)
    assert before == module.digest(net)
    with torch.no_grad():
        net.bias[1] = torch.nextafter(net.bias[1], torch.tensor(9.0))
    assert module.digest(net) != before


def test_graph():
    row = torch.zeros(64)
    row[0], row[9], row[10], row[47] = 0.25, 0.5, 0.75, 1.0  # (0, 0), (1, 1), (1, 2), (5, 7)
    graph = recipe("graphs").graph(row)
    place = torch.tensor([[0, 0], [1, 1], [1, 2], [5, 7]])
    ink = torch.tensor([[0.25], [0.5], [0.75], [1.0]])
    assert torch.equal(graph.x, torch.cat((ink, place / 7), 1))
    assert sorted(graph.edge_index.T.tolist()) == [[0, 1], [1, 0], [1, 2], [2, 1]]


def test_features_of_a_graph_do_not_depend_on_its_batch():
    module = recipe("graphs")
    torch.manual_seed(0)
    encoder = module.Encoder()
    graphs = [module.graph(row) for row in X]
    encoder(next(iter(module.DataLoader(graphs, batch_size=20))))  # statistics of the batch norms
    together = module.encode(encoder, graphs)
    alone = torch.cat([module.encode(encoder, [graph]) for graph in graphs])
    torch.testing.assert_close(alone, together)
    assert not torch.allclose(together[0], together[1])


def test_sequence():
    image = torch.zeros(8, 8)
    image[3, 2], image[5, 4] = 0.5, 1.0
    expected = torch.zeros(3, 8)
    expected[0, 3], expected[2, 5] = 0.5, 1.0
    assert torch.equal(recipe("sequences").sequence(image.flatten()), expected)


def test_padding_does_not_influence_the_features():
    module = recipe("sequences")
    torch.manual_seed(0)
    encoder = module.Encoder()
    sequences = [module.sequence(row) for row in X]
    x, padding = module.collate(sequences)
    assert padding.any()
    assert [int(n) for n in (~padding).sum(1)] == [len(s) for s in sequences]
    more = F.pad(x, (0, 0, 0, 5), value=9.0), F.pad(padding, (0, 5), value=True)
    for mode in (True, False):
        encoder.train(mode)
        torch.testing.assert_close(encoder(*more), encoder(x, padding))
    alone = torch.cat([module.encode(encoder, [s]) for s in sequences])
    torch.testing.assert_close(alone, module.encode(encoder, sequences))


def test_sequences_can_only_be_mixed_after_the_pooling():
    module = recipe("sequences")
    batch = module.collate([module.sequence(row) for row in X])
    rows = []
    for at in ("pool", "layers"):
        encoder = module.Encoder()
        encoder.layers.register_forward_hook(lambda m, args, out: rows.append(len(out)))
        model = DACL(encoder, nn.Identity(), get_noise("hidden", at=at))
        if at == "pool":
            assert model(*batch).isfinite()
            assert rows == [20]
        else:
            with pytest.raises(RuntimeError, match=r"size of tensor a \(40\) must match .* b \(20"):
                model(*batch)
