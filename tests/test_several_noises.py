"""Losses of several noises on one batch."""

import copy

import pytest
import torch
import torch.distributed as dist
from ranks import main, run_ranks
from torch import nn

from mixnoise import DACL, get_noise, pretrain

X = torch.randn(24, 10, generator=torch.Generator().manual_seed(0))


def turned(x):
    return torch.where(torch.rand(len(x), 1) < 0.5, x, x.flip(1))


NOISES = {
    "simclr": lambda: get_noise("augment", transform=turned),
    "input": lambda: get_noise("dacl+"),
    "output": lambda: get_noise("hidden", noise="linear"),
    "layer": lambda: get_noise("hidden", noise="dacl+", at="2"),
}
PAIRS = [("simclr", "input"), ("input", "output"), ("layer", "layer"), ("layer", "simclr")]


def encoder(normalization=nn.BatchNorm1d):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 16), normalization(16), nn.ReLU(), nn.Linear(16, 16))


def model(noise, net=None, **kwargs):
    net = encoder() if net is None else net
    torch.manual_seed(1)
    return DACL(net, nn.Linear(16, 8), noise, **kwargs)


def draw_for(noise, x=X, seed=5):
    hidden = torch.empty(len(x), 16) if noise.name == "hidden" else x
    return noise.sample(hidden, views=2, seed=seed)


@pytest.mark.parametrize("names", PAIRS)
@pytest.mark.parametrize("weights", [None, [1.0, 0.25]])
def test_the_sum_is_that_of_models_with_one_noise_each(names, weights):
    noises = [NOISES[name]() for name in names]
    draws = [draw_for(noise, seed=i) for i, noise in enumerate(noises)]
    both = model(noises, weights=weights)
    both(X, draw=draws).backward()
    apart, losses = model(noises[0]), []
    for noise, draw, weight in zip(noises, draws, weights or [1, 1], strict=True):
        one = DACL(apart.encoder, apart.projector, noise)
        losses.append(weight * one(X, draw=draw))
    sum(losses).backward()
    fresh = model(noises, weights=weights)
    torch.testing.assert_close(fresh(X, draw=draws), sum(losses).detach(), rtol=1e-6, atol=0)
    for a, b in zip(both.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-7)
    for a, b in zip(both.encoder.buffers(), apart.encoder.buffers(), strict=True):
        assert torch.equal(a, b)  # running statistics: the same passes in the same order


def test_a_list_of_one_is_that_noise():
    draw = draw_for(NOISES["input"]())
    one, listed = model(NOISES["input"]()), model([NOISES["input"]()])
    assert torch.equal(one(X, draw=draw), listed(X, draw=[draw]))
    assert listed.noises[0].name == "dacl+"
    assert one.noises == (one.noise,)


def test_projections_are_those_of_the_first():
    noises = [NOISES["input"](), NOISES["simclr"]()]
    draws = [draw_for(noise) for noise in noises]
    several, one = model(noises).eval(), model(noises[0]).eval()
    for a, b in zip(several.project(X, draw=draws), one.project(X, draw=draws[0]), strict=True):
        assert torch.equal(a, b)
    z1, z2 = several.project(X, generator=torch.Generator().manual_seed(1))
    assert z1.shape == z2.shape == (24, 8)


def test_the_generator_decides_all_noises():
    several = model([NOISES["simclr"](), NOISES["input"]()]).eval()
    losses = [several(X, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])


def test_micro_batches():
    noises = [NOISES["simclr"](), NOISES["input"]()]
    draws = [draw_for(noise) for noise in noises]
    whole = model(noises, encoder(nn.LayerNorm))
    small = copy.deepcopy(whole)
    loss = whole(X, draw=draws)
    loss.backward()
    in_parts = small(X, draw=draws, micro_batch=5)
    in_parts.backward()
    torch.testing.assert_close(in_parts, loss)
    for a, b in zip(whole.parameters(), small.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


# Where graphs break, Dynamo looks at .grad of what goes between them, and hides the warning, but
# not from a filter that raises it.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("names", [("input", "output"), ("layer", "input"), ("simclr", "input")])
def test_compiled(names):
    several = model([NOISES[name]() for name in names])
    draws = [draw_for(noise) for noise in several.noises]
    several(X, draw=draws).backward()
    expected = [p.grad.clone() for p in several.parameters()]
    value = several(X, draw=draws)
    several.zero_grad()
    torch.compiler.reset()
    n_graphs = 0

    def backend(graph, inputs):
        nonlocal n_graphs
        n_graphs += 1
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    compiled = torch.compile(several, backend=backend, fullgraph="simclr" not in names)
    loss = compiled(X, draw=draws)
    loss.backward()
    assert n_graphs >= 1
    torch.testing.assert_close(loss, value)
    torch.testing.assert_close(
        [p.grad for p in several.parameters()], expected, rtol=1e-4, atol=1e-6
    )


def test_trained_resumed_and_told_apart(tmp_path):
    def fresh(names=("simclr", "input"), weights=None):
        return model([NOISES[name]() for name in names], weights=weights)

    settings = {"epochs": 4, "batch_size": 8, "progress": False, "trackers": ()}
    run = pretrain(fresh(), X, run_dir=tmp_path / "run", **settings)
    assert run.losses[-1] < run.losses[0]
    resumed = fresh()
    assert pretrain(resumed, X, run_dir=tmp_path / "run", resume=True, **settings).losses == (
        run.losses
    )
    for other in (fresh(weights=[1.0, 2.0]), fresh(("input", "simclr")), model(NOISES["input"]())):
        with pytest.raises(ValueError, match=r"holds another run: its (noise|weights) is"):
            pretrain(other, X, run_dir=tmp_path / "run", resume=True, **settings)


def test_inputs_that_only_hidden_noises_take():
    x = X.numpy().tolist()
    takes_lists = type("Lists", (nn.Module,), {"forward": lambda self, x: torch.tensor(x)})()
    hidden = DACL(takes_lists, nn.Linear(10, 4), [NOISES["output"](), NOISES["output"]()])
    assert hidden.takes_anything
    assert hidden(x).isfinite()
    mixed = DACL(takes_lists, nn.Linear(10, 4), [NOISES["output"](), NOISES["input"]()])
    assert not mixed.takes_anything
    with pytest.raises(TypeError, match="x must be a tensor to be mixed, got list"):
        mixed(x)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"noise": []}, ValueError, "noise must be a Noise, got an empty list"),
        ({"noise": ["linear"]}, TypeError, "noise must be a Noise, got str"),
        ({"noise": "linear"}, TypeError, "noise must be a Noise, got str; several go in a list"),
        ({"weights": [1.0]}, ValueError, r"weights must be 2 finite numbers > 0, .* got \[1.0\]"),
        ({"weights": [1.0, 0.0]}, ValueError, r"weights must be 2 finite numbers > 0"),
        ({"weights": [1.0, float("nan")]}, ValueError, r"weights must be 2 finite numbers > 0"),
        ({"weights": [1.0, "1"]}, TypeError, "weights must be finite numbers > 0, got str '1'"),
    ],
)
def test_bad_construction(arguments, error, message):
    noises = [NOISES["input"](), NOISES["output"]()]
    with pytest.raises(error, match=message):
        model(**{"noise": noises, **arguments})


def test_draws_that_are_not_one_for_each_noise():
    several = model([NOISES["input"](), NOISES["input"]()])
    draw = draw_for(several.noises[0])
    for wrong in (draw, [draw], [draw] * 3):
        with pytest.raises(TypeError, match="draw must be a list of 2 draws, one for each noise"):
            several(X, draw=wrong)


# Two processes.


def ddp_gradients(folder):
    rank, n_ranks = dist.get_rank(), dist.get_world_size()
    several = model([NOISES["simclr"](), NOISES["input"]()], encoder(nn.LayerNorm), gather=True)
    own = X[rank * 12 : (rank + 1) * 12]
    draws = [draw_for(noise, own, seed=rank) for noise in several.noises]
    parallel = nn.parallel.DistributedDataParallel(several)
    for _ in range(2):  # the second step after a synchronised first
        several.zero_grad()
        loss = parallel(own, draw=draws)
        loss.backward()
    assert n_ranks == 2
    torch.save(
        {"loss": loss.detach(), "grads": [p.grad for p in several.parameters()], "draws": draws},
        folder / f"{rank}.pt",
    )


def test_ddp_gradients_are_those_of_one_process(tmp_path):
    said = run_ranks(__file__, 2, tmp_path, "ddp_gradients")
    assert all(text.endswith("done\n") for text in said), said
    found = [torch.load(tmp_path / f"{r}.pt", weights_only=False) for r in range(2)]
    several = model([NOISES["simclr"](), NOISES["input"]()], encoder(nn.LayerNorm))
    total = 0
    for i, noise in enumerate(several.noises):
        views = torch.cat(
            [noise.apply(X[r * 12 : (r + 1) * 12], found[r]["draws"][i]) for r in range(2)],
            dim=1,
        )
        z1, z2 = (several.projector(several.encoder(v)) for v in views)
        total = total + several.loss(z1, z2)
    total.backward()
    mean = sum(f["loss"] for f in found) / 2
    torch.testing.assert_close(mean, total.detach(), rtol=1e-5, atol=0)
    for r in range(2):
        torch.testing.assert_close(
            found[r]["grads"], [p.grad for p in several.parameters()], rtol=1e-4, atol=1e-6
        )


if __name__ == "__main__":
    main({"ddp_gradients": ddp_gradients})
