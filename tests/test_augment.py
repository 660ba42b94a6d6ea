"""A transform as a noise."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from mixnoise import DACL, get_noise, nt_xent, pretrain
from mixnoise.testing import check_noise


def flip(x):
    """Half of the rows backwards, in place: what it gets is its own."""
    some = torch.rand(len(x), device=x.device) < 0.5
    x[some] = x[some].flip(-1)
    return x


class Scale(nn.Module):
    """Draws from every global generator."""

    def forward(self, x):
        return x * (torch.rand(()) + np.random.rand() + random.random())  # noqa: NPY002 - numpy's global state


X = torch.rand(16, 3, 8, generator=torch.Generator().manual_seed(0))


def test_views_are_those_of_the_transform():
    views = get_noise("augment", transform=flip).views(X, 3, seed=1)
    assert views.shape == (3, 16, 3, 8)
    turned = (views == X.flip(-1)).flatten(2).all(2)
    assert ((views == X).flatten(2).all(2) ^ turned).all()
    assert 0.2 < turned.float().mean() < 0.8
    assert not turned[0].equal(turned[1])


def test_conforms_but_for_compiling_as_one_graph():
    report = check_noise(get_noise("augment", transform=flip))
    assert [r.name for r in report.results if r.status == "failed"] == ["torch_compile"]


def test_all_global_generators_are_seeded_and_left_alone():
    noise = get_noise("augment", transform=Scale())
    torch.manual_seed(5), np.random.seed(5), random.seed(5)  # noqa: NPY002 - numpy's global state
    expected = torch.rand(2), np.random.rand(2), random.random()  # noqa: NPY002 - numpy's global state
    torch.manual_seed(5), np.random.seed(5), random.seed(5)  # noqa: NPY002 - numpy's global state
    first = noise(X, seed=9)
    found = torch.rand(2), np.random.rand(2), random.random()  # noqa: NPY002 - numpy's global state
    assert torch.equal(found[0], expected[0])
    assert (found[1] == expected[1]).all()
    assert found[2] == expected[2]
    assert torch.equal(noise(X, seed=9), first)
    assert not torch.equal(noise(X, seed=10), first)


def test_seeds_of_any_kind():
    noise = get_noise("augment", transform=flip)
    of_tensor = noise.views(X, seed=torch.tensor(-3))
    assert torch.equal(noise.views(X, seed=-3), of_tensor)
    generators = [torch.Generator().manual_seed(4) for _ in range(2)]
    one, other = (noise.views(X, generator=g) for g in generators)
    assert torch.equal(one, other)
    assert not torch.equal(noise.views(X, generator=generators[0]), one)


def test_rows_may_change_their_shape():
    noise = get_noise("augment", transform=lambda x: x[..., :5])
    assert noise.views(X).shape == (2, 16, 3, 5)
    assert noise(X[:1]).shape == (1, 3, 5)


def test_the_model_is_simclr():
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(24, 8), nn.BatchNorm1d(8))
    model = DACL(encoder, nn.Linear(8, 4), get_noise("augment", transform=flip), temperature=0.1)
    draw = model.noise.sample(X, views=2, seed=3)
    x1, x2 = model.noise.apply(X, draw)
    z1, z2 = model.projector(encoder(torch.cat((x1, x2)))).chunk(2)
    assert torch.equal(model(X, draw=draw), nt_xent(z1, z2, 0.1))


@pytest.mark.parametrize("transform", [flip, Scale()], ids=["function", "module"])
def test_a_run_is_resumed(transform, tmp_path):
    def model():
        torch.manual_seed(0)
        noise = get_noise("augment", transform=transform)
        return DACL(nn.Sequential(nn.Flatten(), nn.Linear(24, 8)), nn.Linear(8, 4), noise)

    settings = {"batch_size": 8, "run_dir": tmp_path / "run", "progress": False, "trackers": ()}
    whole, half = model(), model()
    pretrain(whole, X, epochs=3, **(settings | {"run_dir": None}))
    run = pretrain(half, X, epochs=3, **settings)
    assert len(run.history) == 3
    later = model()
    pretrain(later, X, epochs=3, resume=True, **settings)
    for a, b, c in zip(*(m.parameters() for m in (whole, half, later)), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
    other = DACL(later.encoder, later.projector, get_noise("augment", transform=nn.Identity()))
    with pytest.raises(ValueError, match="holds another run: its noise is"):
        pretrain(other, X, epochs=3, resume=True, **settings)


@pytest.mark.parametrize(
    ("transform", "error", "message"),
    [
        (lambda x: x[:1], ValueError, r"as many rows as it got, 32, got shape \(1, 3, 8\)"),
        (lambda x: x.sum(), ValueError, r"as many rows as it got, 32, got shape \(\)"),
        (lambda x: None, TypeError, "must return a tensor, got NoneType"),
    ],
)
def test_transforms_that_lose_rows(transform, error, message):
    with pytest.raises(error, match=message):
        get_noise("augment", transform=transform).views(X)


def test_train_and_eval_mode_do_not_matter():
    x, noise = torch.randn(8, 6), get_noise("augment", transform=nn.Dropout(0.5))
    expected = noise.views(x, seed=0)
    model = DACL(nn.Linear(6, 4), nn.Identity(), noise).eval()
    assert not noise.training
    assert torch.equal(model.noise.views(x, seed=0), expected)
    assert not torch.equal(expected[0], x)


def test_misuse():
    with pytest.raises(TypeError, match="transform must be a function or a module, got str"):
        get_noise("augment", transform="flip")
    with pytest.raises(TypeError, match="transform"):
        get_noise("augment")
    with pytest.raises(TypeError, match="draw must be what sample returned, got int"):
        get_noise("augment", transform=flip).apply(X, 3)


def test_kornia():
    augmentation = pytest.importorskip("kornia.augmentation", reason="needs kornia")
    transform = nn.Sequential(
        augmentation.RandomResizedCrop((24, 24), scale=(0.3, 1.0)),
        augmentation.RandomHorizontalFlip(),
        augmentation.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
    )
    noise, x = get_noise("augment", transform=transform), torch.rand(6, 3, 32, 32)
    views = noise.views(x, seed=1)
    assert views.shape == (2, 6, 3, 24, 24)
    assert torch.equal(noise.views(x, seed=1), views)
    # Rows that are the same are cropped in ways of their own.
    crops = noise.views(x[:1].expand(6, -1, -1, -1)).flatten(0, 1).flatten(1)
    assert torch.pdist(crops).min() > 0.1
