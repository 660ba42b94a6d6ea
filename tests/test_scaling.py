"""The formulas of benchmarks/scaling.py, against what several gloo processes really do."""

import json
import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.distributed as dist
from ranks import main, run_ranks
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import scaling, tables
from benchmarks.distributed import gather_with_gradient
from benchmarks.scaling import Problem, Rates
from mixnoise import nt_xent

N, D = 6, 5
RANKS = (2, 3, 4)
DTYPES = ("float32", "bfloat16")
TEMPERATURES = {"number": 0.5, "small": 0.0115, "tensor": None}
# What goes with a sample in the backward.
VECTORS = {"number": 2, "small": 4, "tensor": 4}


def counts(n_ranks, sizes):
    return [N] * n_ranks if sizes == "equal" else [N - rank % 3 for rank in range(n_ranks)]


# In the processes.


def _tensors(*arguments):
    flat = [t for a in arguments for t in (a if isinstance(a, (list, tuple)) else [a])]
    return sum(t.numel() * t.element_size() for t in flat if isinstance(t, torch.Tensor))


def _of_all_gather(output, own, group):
    assert _tensors(output) == _tensors(own) * group.size()
    return _tensors(output) - _tensors(own)


def _of_scatter(output, parts, source, group):
    return 0 if source == dist.get_rank() else _tensors(output)


def _of_all_reduce(x, operation=None, *, group):
    """What no algorithm can do without: own part of the others, then their parts."""
    return math.ceil(2 * (group.size() - 1) * x.numel() / group.size()) * x.element_size()


RECEIVED = {
    "all_gather": _of_all_gather,
    "all_gather_single": _of_all_gather,
    "all_gather_into_tensor": _of_all_gather,
    "scatter": _of_scatter,
    "all_reduce": _of_all_reduce,
}
# Whatever else of torch.distributed moves tensors.
MOVES = ("all_gather", "all_reduce", "all_to_all", "broadcast", "gather", "irecv", "isend", "recv")
MOVES += ("reduce", "scatter", "send", "batch_isend")


class Received:
    """Bytes that this process has received by the functions of torch.distributed since asked."""

    def __init__(self):
        self.bytes = 0
        for name in [name for name in dir(dist) if name.startswith(MOVES)]:
            if name in RECEIVED:
                of = RECEIVED[name]
                setattr(dist, name, partial(self._counted, getattr(dist, name), of))
            else:
                setattr(dist, name, partial(self._refused, name))

    def _counted(self, collective, of, *arguments, **settings):
        self.bytes += of(*arguments, **settings)
        return collective(*arguments, **settings)

    def _refused(self, name, *_, **__):
        raise AssertionError(f"{name} is not counted")

    def take(self):
        found, self.bytes = self.bytes, 0
        return found


class Products(TorchDispatchMode):
    """FLOP of matrix products."""

    flop = 0

    def __torch_dispatch__(self, function, types, arguments=(), settings=None):
        aten = torch.ops.aten
        if function.overloadpacket in (aten.mm, aten.addmm, aten.addmm_):
            a, b = arguments[-2:]
            self.flop += 2 * a.shape[0] * a.shape[1] * b.shape[1]
        elif str(function.overloadpacket) == "mkldnn._linear_pointwise":
            x, weight = arguments[:2]
            self.flop += 2 * x.shape[0] * x.shape[1] * weight.shape[0]
        assert function.overloadpacket not in (aten.bmm, aten.baddbmm, aten.matmul)
        return function(*arguments, **(settings or {}))


class _SummedByAllReduce(torch.autograd.Function):
    """A gather whose backward sums the gradients of all rows, and throws all but its own away."""

    @staticmethod
    def forward(ctx, x, group):
        every = [torch.empty_like(x) for _ in range(group.size())]
        dist.all_gather(every, x, group=group)
        ctx.group = group
        return tuple(every)

    @staticmethod
    def backward(ctx, *gradients):
        summed = torch.stack(gradients)
        dist.all_reduce(summed, group=ctx.group)
        return summed[dist.get_rank()], None


LOSSES = {
    "ours": nt_xent,
    "scattered": gather_with_gradient,
    "all-reduced": partial(gather_with_gradient, gather=_SummedByAllReduce.apply),
}


def cases():
    """(name, loss, dtype, temperature, sizes)"""
    for dtype in DTYPES:
        for loss in LOSSES:
            for temperature in TEMPERATURES:
                for sizes in ("equal", "unequal") if loss == "ours" else ("equal",):
                    name = f"{loss}-{dtype}-{temperature}-{sizes}"
                    yield name, loss, dtype, temperature, sizes


def count(folder):
    """In groups of the first two, three and four."""
    rank, received = dist.get_rank(), Received()
    groups = {n: dist.new_group(range(n)) for n in RANKS}
    found = {
        n: {case[0]: count_case(received, group, *case[1:]) for case in cases()}
        for n, group in groups.items()
        if rank < n
    }
    (folder / f"{rank}.json").write_text(json.dumps(found))


def count_case(received, group, loss, dtype, kind, sizes):
    generator = torch.Generator().manual_seed(dist.get_rank())
    n = counts(group.size(), sizes)[dist.get_rank()]
    z = torch.randn(2, n, D, generator=generator).to(getattr(torch, dtype))
    leaves, temperature = [each.clone().requires_grad_() for each in z], TEMPERATURES[kind]
    if temperature is None:
        temperature = torch.tensor(0.5, requires_grad=True)
        leaves.append(temperature)
    with Products() as products:
        value = LOSSES[loss](*leaves[:2], temperature, group=group)
        forward = received.take()
        gradients = torch.autograd.grad(value, leaves)
    return {
        "received": [forward, received.take()],
        "flop": products.flop,
        "loss": value.item(),
        "gradients": [g.double().flatten().tolist() for g in gradients],
    }


# What they have found.


@pytest.fixture(scope="module")
def of_groups(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    said = run_ranks(__file__, max(RANKS), folder, "count")
    assert all(text.endswith("done\n") for text in said), said
    ranks = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(max(RANKS))]
    return {n: [rank[str(n)] for rank in ranks[:n]] for n in RANKS}


@pytest.fixture(params=RANKS)
def found(request, of_groups):
    """By rank and name of the case."""
    return of_groups[request.param]


def problem(n_ranks, dtype, temperature):
    return Problem(n_ranks, N, D, scaling.DTYPES[dtype], VECTORS[temperature])


def test_bytes_received_are_those_of_the_formulas(found):
    formulas = {
        "ours": scaling.received_by_ours,
        "scattered": scaling.received_by_gather_with_gradient,
        "all-reduced": partial(scaling.received_by_gather_with_gradient, all_reduce=True),
    }
    for name, loss, dtype, temperature, _ in cases():
        expected = formulas[loss](problem(len(found), dtype, temperature))
        for rank in found:
            assert tuple(rank[name]["received"]) == expected, name


def test_flop_are_those_of_the_formulas(found):
    for name, loss, dtype, temperature, sizes in cases():
        if sizes == "unequal":
            continue  # those of the longest are a bound
        formula = scaling.flop_of_ours if loss == "ours" else scaling.flop_of_gather_with_gradient
        expected = formula(problem(len(found), dtype, temperature))
        assert all(rank[name]["flop"] == expected for rank in found), name


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_what_is_compared_is_the_same_loss(found, temperature):
    """In float32, where they round alike."""
    of_loss = {
        loss: [rank[f"{loss}-float32-{temperature}-equal"] for rank in found] for loss in LOSSES
    }
    losses = {loss: [rank["loss"] for rank in ranks] for loss, ranks in of_loss.items()}
    assert len(set(losses["ours"])) == len(found)  # each rank has its own
    gradients = {}
    for loss, ranks in of_loss.items():
        parts = list(zip(*(rank["gradients"] for rank in ranks), strict=True))
        # Of the temperature only the sum over ranks is the same: each has another share.
        summed = [sum(share for (share,) in part) for part in parts[2:]]
        gradients[loss] = np.concatenate([np.ravel(parts[:2]), summed])
    largest = np.abs(gradients["ours"]).max()
    for loss in LOSSES:
        np.testing.assert_allclose(losses[loss], losses["ours"], rtol=1e-5)
        assert np.abs(gradients[loss] - gradients["ours"]).max() <= 1e-5 * largest


# The tables.


def test_alone_nothing_is_received():
    p = Problem(1, N, D, 4)
    for form in scaling.FORMS.values():
        assert form.received(p) == (0, 0)
        assert form.step(p, Rates())["receiving"] == 0


def test_a_block_from_another_machine_comes_once_by_all_network_cards():
    rates = Rates(flop=1, inside=100, between=2, gpus=4)
    assert rates.receiving(300, 4) == 3  # at 100 a second
    assert rates.receiving(7, 8) == pytest.approx(4 / (4 * 2))  # 4 of 7 blocks are the others'
    assert Rates(1, 100, 2, gpus=1).receiving(7, 8) == pytest.approx(7 / 2)


@pytest.mark.parametrize("ranks", [2, 1024])
@pytest.mark.parametrize("d", [16, 512])
def test_balance_depends_on_neither_ranks_nor_columns(ranks, d):
    n = scaling.balance(2, 1e12, 1e9)
    p = Problem(ranks, round(n), d, 2)
    gathered = p.others * p.block / 1e9
    assert gathered == pytest.approx(6 * p.own * p.own * p.others * d / 1e12, rel=1e-2)


def test_as_many_ranks_fit_as_are_said_to():
    p = Problem(1, 1024, 128, 2)
    n = scaling.ranks_that_fit(p, 8e9)
    kept = [scaling.kept_by_ours(Problem(ranks, 1024, 128, 2)) for ranks in (n, n + 1)]
    assert kept[0] <= 8e9 < kept[1]


def test_results_and_page_are_up_to_date():
    published = json.loads((tables.RESULTS / "scaling.json").read_text())
    settings = {key: published[key] for key in ("samples", "d", "dtype", "limit")}
    assert scaling.compute(rates=Rates(**published["rates"]), **settings) == published
    for name, of_document in tables.DOCUMENTS.items():
        text = (tables.ROOT / name).read_text()
        assert tables.fill(text, tables=of_document) == text


if __name__ == "__main__":
    main({"count": count})
