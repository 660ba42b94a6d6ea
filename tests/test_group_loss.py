"""Negatives of all ranks: two and three gloo processes against one process with the whole batch."""

import pickle
import re
from functools import cache

import numpy as np
import oracles
import pytest
import torch
import torch.distributed as dist
from nt_xent_cases import TEMPERATURE_SLACK, make_scene
from ranks import main, run_ranks
from torch import nn

from mixnoise import DACL, NTXentLoss, collectives, get_noise, nt_xent

# Rows of each rank. Tiles of the PyTorch backend are of 512 x 2,048, blocks of the kernels of 128.
COUNTS = {
    "equal": {2: [4, 4], 3: [3, 3, 3]},
    "unequal": {2: [5, 3], 3: [1, 6, 2]},
    "tiles": {2: [515, 1540], 3: [130, 1930, 1]},
}
TEMPERATURES = (0.5, 0.0115, "tensor")
D = 6
SLACK = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 1e-6}


SLOW = {("triton", "tiles"), ("triton", "equal")}  # in the interpreter


def cases(n_ranks):
    """(name, backend, dtype, counts, temperature, scene)"""
    for backend, dtypes in {"torch": [*SLACK], "triton": [torch.float32]}.items():
        for dtype in dtypes:
            for sizes, counts in COUNTS.items():
                if (sizes == "tiles" and dtype != torch.float32) or (backend, sizes) in SLOW:
                    continue
                for t in TEMPERATURES:
                    for scene in ("random", "zero rows") if sizes == "unequal" else ("clustered",):
                        name = f"{backend}-{dtype}-{sizes}-{t}-{scene}"
                        yield name, backend, dtype, counts[n_ranks], t, scene


def batch(counts, dtype, scene):
    """z1, z2 and the weight of each row's loss, ``(2, N)``, of all ranks; unlike on each."""
    n = sum(counts)
    g = torch.Generator().manual_seed(n)
    return *make_scene(scene, n, D, dtype), torch.randn(2, n, generator=g, dtype=torch.float64)


def share(counts, rank):
    return slice(sum(counts[:rank]), sum(counts[: rank + 1]))


def temperature_of(t, dtype):
    dtype = torch.float32 if dtype == torch.bfloat16 else dtype
    return torch.tensor(0.2, dtype=dtype, requires_grad=True) if t == "tensor" else t


def losses_and_gradients(folder):
    rank, n_ranks, found = dist.get_rank(), dist.get_world_size(), {}
    for name, backend, dtype, counts, t, scene in cases(n_ranks):
        z1, z2, w = batch(counts, dtype, scene)
        own = share(counts, rank)
        leaves = [z[own].clone().requires_grad_() for z in (z1, z2)]
        temperature = temperature_of(t, dtype)
        if t == "tensor":
            leaves.append(temperature)
        loss = nt_xent(*leaves[:2], temperature, "none", group="world", backend=backend)
        total = (loss * w[:, own].flatten().to(loss.dtype)).sum()
        found[name] = [loss.detach(), *torch.autograd.grad(total, leaves)]
    torch.save(found, folder / f"{rank}.pt")
    ddp_gradients(folder)


@pytest.fixture(scope="module", params=[2, 3])
def results(request, tmp_path_factory):
    pytest.importorskip("triton", reason="the kernels need triton")
    n, folder = request.param, tmp_path_factory.mktemp("ranks")
    said = run_ranks(__file__, n, folder, "losses_and_gradients")
    assert all("done" in text for text in said), said
    return n, folder


@cache
def true_values(counts, dtype, t, scene):
    z1, z2, w = batch(counts, dtype, scene)
    z1, z2 = z1.double().numpy(), z2.double().numpy()
    number = temperature_of(t, dtype).item() if t == "tensor" else t
    tiny = torch.finfo(dtype).tiny
    loss = oracles.nt_xent(z1, z2, number, "none", tiny)
    return loss, *oracles.nt_xent_gradients(z1, z2, number, w.flatten().numpy(), tiny)


def one_process(counts, dtype, t, scene):
    z1, z2, w = batch(counts, dtype, scene)
    leaves = [z.requires_grad_() for z in (z1, z2)]
    loss = nt_xent(*leaves, temperature_of(t, dtype), "none", backend="torch")
    total = (loss * w.flatten().to(loss.dtype)).sum()
    return loss.detach(), *torch.autograd.grad(total, leaves)


def error(got, true):
    """Of the largest value."""
    return np.abs(got.double().numpy() - true).max() / np.abs(true).max()


def test_losses_and_gradients_are_those_of_the_whole_batch(results):
    """No farther from the truth than those of one process in the same dtype, but for the slack."""
    n_ranks, folder = results
    found = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(n_ranks)]
    checked = 0
    for name, _, dtype, counts, t, scene in cases(n_ranks):
        case = (tuple(counts), dtype, t, scene)
        *true, true_t = true_values(*case)
        loss = torch.cat([f[name][0].view(2, -1) for f in found], dim=1).flatten()
        got = [loss, *(torch.cat([f[name][i] for f in found]) for i in (1, 2))]
        for ours, alone, wanted in zip(got, one_process(*case), true, strict=True):
            # A similarity of 87 is wrong by as many units in its last place, whoever computes it.
            slack = SLACK[dtype] * (10 if t == 0.0115 else 1)
            assert error(ours, wanted) <= error(alone, wanted) + slack, name
        if t == "tensor":
            ours_t = sum(f[name][3].item() for f in found)
            terms = batch(counts, dtype, scene)[2].abs().sum().item() / 0.2**2
            slack = TEMPERATURE_SLACK[torch.float64 if dtype == torch.float64 else torch.float32]
            assert abs(ours_t - true_t) <= slack * terms, name
        checked += 1
    assert checked == len(list(cases(n_ranks))) >= 25


# In a model: gradients that DistributedDataParallel averages are those of one process.

X = torch.randn(24, 6, generator=torch.Generator().manual_seed(1)) ** 3
MODEL_COUNTS = {2: [17, 7], 3: [4, 12, 8]}


def make_model(gather, dtype=torch.float32):
    torch.manual_seed(0)
    temperature = nn.Parameter(torch.tensor(0.3))
    encoder = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 5))
    model = DACL(encoder, nn.Linear(5, 4), get_noise("linear"), temperature, gather=gather)
    return model.to(dtype)


def views_of_rank(counts, rank, dtype=torch.float32):
    """Rows and a draw within the rank: partners are local."""
    x = X[share(counts, rank)].to(dtype)
    return x, get_noise("linear").sample(x, views=2, seed=rank)


def ddp_gradients(folder):
    rank, n = dist.get_rank(), dist.get_world_size()
    counts, model = MODEL_COUNTS[n], make_model(gather=True)
    ddp = nn.parallel.DistributedDataParallel(model)
    x, draw = views_of_rank(counts, rank)
    for micro_batch in (None, 5):
        ddp.zero_grad()
        loss = ddp(x, draw=draw, micro_batch=micro_batch)
        loss.backward()
        value = loss.detach().clone()
        dist.all_reduce(value)
        found = [value / n, *(p.grad for p in model.parameters())]
        torch.save(found, folder / f"{rank}-{micro_batch}.pt")
    dist.barrier()
    del ddp  # or gloo may abort


def test_mean_over_ranks_is_one_process_with_all_rows(results):
    n, folder = results
    counts = MODEL_COUNTS[n]
    model = make_model(gather=False, dtype=torch.float64)
    views = [
        get_noise("linear").apply(x, draw)
        for x, draw in (views_of_rank(counts, rank, torch.float64) for rank in range(n))
    ]
    z1, z2 = model.projector(model.encoder(torch.cat(views, dim=1)))
    loss = nt_xent(z1, z2, model.loss.temperature)
    loss.backward()
    true = [loss.detach(), *(p.grad for p in model.parameters())]
    largest = max(t.abs().max() for t in true)
    for micro_batch in (None, 5):
        for rank in range(n):
            found = torch.load(folder / f"{rank}-{micro_batch}.pt", weights_only=True)
            for got, wanted in zip(found, true, strict=True):
                assert (got.double() - wanted).abs().max() <= 1e-6 * largest


# What goes wrong in one process is known to all.


def bad_inputs():
    rank = dist.get_rank()
    z = torch.randn(4, 3)
    model = DACL(nn.Identity(), nn.Identity(), get_noise("linear"), gather=True)

    def attempt(name, run):
        try:
            run()
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {error}", flush=True)
        else:
            print(f"{name}: fine", flush=True)

    def loss(z, *arguments, **settings):
        return lambda: nt_xent(z, z.flip(0), *arguments, group="world", **settings)

    odd = rank == 1
    attempt("rank", loss(z[0] if odd else z))
    attempt("nothing", loss(z[:0] if odd else z))
    attempt("columns", loss(z[:, :2] if odd else z))
    attempt("dtype", loss(z.double() if odd else z))
    attempt("temperature", loss(z, 0.1 if odd else 0.5))
    attempt("kind of temperature", loss(z, torch.tensor(0.5) if odd else 0.5))
    attempt("reduction", loss(z, 0.5, "sum" if odd else "mean"))
    attempt("gradient", loss(z.clone().requires_grad_(odd)))
    attempt("encoder", lambda: model(z[:1] if odd else z))
    attempt("no number", loss(z.fill_(torch.nan) if odd else z))
    attempt("after all", loss(torch.randn(4, 3)))


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """What two processes say in several functions, one after the other, by the function's name."""
    said = run_ranks(__file__, 2, tmp_path_factory.mktemp("ranks"), "several")
    assert all(text.endswith("done\n") for text in said), said
    parts = [re.split(r"^== (\w+)\n", text.removesuffix("done\n"), flags=re.M) for text in said]
    return {name: [p[i + 1] for p in parts] for i, name in enumerate(parts[0]) if i % 2}


def test_every_rank_raises(two_ranks):
    first, second = two_ranks["bad_inputs"]
    other = "RuntimeError: rank 1 failed before the loss; the error there says why"
    assert first.splitlines() == [
        f"rank: {other}",
        f"nothing: {other}",
        "columns: ValueError: the number of columns of z1 must be the same on all ranks, got 3 on "
        "rank 0, 2 on rank 1",
        "dtype: ValueError: the dtype of z1 must be the same on all ranks, got torch.float32 on "
        "rank 0, torch.float64 on rank 1",
        "temperature: ValueError: temperature must be the same on all ranks, got 0.5 on rank 0, "
        "0.1 on rank 1",
        "kind of temperature: ValueError: temperature must be the same on all ranks, got 0.5 on "
        "rank 0, a tensor on rank 1",
        "reduction: ValueError: reduction must be the same on all ranks, got mean on rank 0, sum "
        "on rank 1",
        "gradient: ValueError: whether a gradient is needed must be the same on all ranks, got "
        "False on rank 0, True on rank 1",
        f"encoder: {other}",
        "no number: fine",
        "after all: fine",
    ]
    own = second.splitlines()
    assert own[0] == "rank: ValueError: z1 must have shape (N, D), got (3,)"
    assert own[1].startswith("nothing: ValueError: z1 must have at least one row")
    assert own[2:8] == first.splitlines()[2:8]
    assert own[8].startswith("encoder: ValueError: linear noise mixes each row with another one")
    assert own[9:] == ["no number: fine", "after all: fine"]


def test_a_rank_that_is_gone_hides_no_error_here(monkeypatch):
    def gone(*_):
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(collectives, "_exchange", gone)
    with pytest.raises(ZeroDivisionError) as raised, collectives.failing_together(None):
        _ = 1 / 0
    assert raised.value.__notes__ == [
        "The other ranks could not be told of it: Connection closed by peer"
    ]


def nan_everywhere():
    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    z[0, 0] = torch.nan if dist.get_rank() == 1 else 1.0
    print(nt_xent(z, z.flip(0), group="world").item(), flush=True)


def test_nan_in_one_rank_is_nan_in_all(two_ranks):
    assert two_ranks["nan_everywhere"] == ["nan\n", "nan\n"]


def subgroups():
    """Two groups of one process each, and one of both in the other order of creation."""
    rank = dist.get_rank()
    alone = [dist.new_group([r]) for r in (0, 1)][rank]
    both = dist.new_group([0, 1])
    z1, z2 = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(rank))
    assert torch.equal(nt_xent(z1, z2, group=alone), nt_xent(z1, z2))
    assert torch.equal(nt_xent(z1, z2, group=both), nt_xent(z1, z2, group="world"))
    assert not torch.equal(nt_xent(z1, z2, group=both), nt_xent(z1, z2))
    compiled = torch.compile(NTXentLoss(group="world"), backend="eager")
    assert torch.equal(compiled(z1, z2), nt_xent(z1, z2, group="world"))
    leaf = z1.clone().requires_grad_()
    (grad,) = torch.autograd.grad(nt_xent(leaf, z2, group="world"), leaf, create_graph=False)
    assert grad.abs().sum() > 0
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(nt_xent(leaf, z2, group="world"), leaf, create_graph=True)
    expected = nt_xent(z1, z2, group="world")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nt_xent(z1, z2, group="world"), expected)
        assert torch.equal(torch.autograd.grad(nt_xent(leaf, z2, group="world"), leaf)[0], grad)
    print("all hold", flush=True)


def freed():
    """What the backward needs goes with the graph, though the loss is still there."""
    z1, z2 = torch.randn(2, 3, 5, requires_grad=True)
    for n_backward in (1, 2):
        loss = nt_xent(z1, z2, group="world", reduction="none")
        for i in range(n_backward):
            loss.sum().backward(retain_graph=i + 1 < n_backward)
        with pytest.raises(RuntimeError, match="a second time"):
            _ = loss.grad_fn.saved_tensors
        assert not any(
            isinstance(value, torch.Tensor) for value in vars(loss.grad_fn.rest).values()
        )
    print("freed", flush=True)


def test_nothing_stays_in_memory_after_the_backward(two_ranks):
    assert two_ranks["freed"] == ["freed\n", "freed\n"]


def test_groups(two_ranks):
    assert two_ranks["subgroups"] == ["all hold\n", "all hold\n"]


def several(folder):
    for function in (bad_inputs, nan_everywhere, subgroups, freed):
        print(f"== {function.__name__}", flush=True)
        function()


def test_alone_nothing_changes():
    """Without processes "world" is oneself; the module can be pickled."""
    z1, z2 = torch.randn(2, 4, 3)
    loss = pickle.loads(pickle.dumps(NTXentLoss(group="world")))
    assert torch.equal(loss(z1, z2), nt_xent(z1, z2))
    x = torch.randn(8, 6)
    draw = get_noise("linear").sample(x, views=2, seed=0)
    assert torch.equal(make_model(True)(x, draw=draw), make_model(False)(x, draw=draw))


@pytest.mark.parametrize(
    ("group", "error"), [(3, TypeError), ("everybody", ValueError), (nn.Identity(), TypeError)]
)
def test_what_is_no_group(group, error):
    with pytest.raises(error, match="group must be None, 'world' or a process group, got"):
        nt_xent(torch.randn(4, 3), torch.randn(4, 3), group=group)


if __name__ == "__main__":
    main({f.__name__: f for f in (losses_and_gradients, several)})
