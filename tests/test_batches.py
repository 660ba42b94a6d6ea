"""What the trainer accepts as data."""

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, TensorDataset

from mixnoise import DACL, get_noise, knn_probe, pretrain
from mixnoise.batches import make_batches, model_inputs
from mixnoise.seeding import preserved_random_state, seed_globally

X = torch.rand(65, 8, generator=torch.Generator().manual_seed(0))
CPU = torch.device("cpu")


def batches(data, size=16, num_workers=0, rank=0, n_ranks=1):
    return make_batches(data, size, CPU, torch.float32, num_workers, rank, n_ranks)


def model(noise="linear", encoder=None):
    torch.manual_seed(0)
    return DACL(encoder() if encoder else nn.Linear(8, 6), nn.Linear(6, 4), get_noise(noise))


class Countless(IterableDataset):
    def __iter__(self):
        return iter(X)


class Counted(Countless):
    def __len__(self):
        return 65


class LazyRows:
    """No torch class at all, and made a batch at a time."""

    def __len__(self):
        return 65

    def __getitem__(self, i):
        raise AssertionError("__getitems__ is faster")

    def __getitems__(self, rows):
        return [X[i] for i in rows]


@pytest.mark.parametrize(
    ("data", "n_batches"),
    [
        (X, 4),  # the 65th row would be alone
        (X[:34], 3),
        (X.double().numpy(), 4),
        (X.half(), 4),
        (TensorDataset(X), 4),
        (LazyRows(), 4),
        (DataLoader(TensorDataset(X), 16, shuffle=True), 5),
        (Counted(), 5),
    ],
    ids=["tensor", "odd", "float64 array", "half", "dataset", "lazy", "loader", "iterable"],
)
def test_kinds_of_data(data, n_batches):
    made = batches(data)
    assert len(made) == n_batches
    seen = list(made.epoch(0))
    rows = torch.cat([b[0] if isinstance(b, (list, tuple)) else b for b in seen])
    assert rows.dtype == torch.float32
    assert len(seen) == (4 if n_batches == 5 else n_batches)  # never a single row
    distance = torch.cdist(rows, X[:34] if n_batches == 3 else X).min(1)
    assert (distance.values < 2e-3).all()
    assert len(distance.indices.unique()) == len(rows)  # each row at most once
    assert torch.isfinite(
        torch.tensor(pretrain(model(), data, epochs=1, batch_size=16).losses)
    ).all()


def test_pandas(recwarn):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X.numpy())
    torch.testing.assert_close(torch.cat(list(batches(frame, 65).epoch(0))).sum(), X.sum())
    with pytest.raises(TypeError, match="data must be numeric, got an array of dtype object"):
        batches(frame.astype(object))


def test_integers_stay_integers():
    tokens = torch.arange(64).reshape(16, 4)
    assert next(iter(batches(tokens).epoch(0))).dtype == torch.int64


def test_order_depends_on_the_epochs_seed_alone():
    a, b, c = (torch.cat(list(batches(X).epoch(seed))) for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize("n_rows", [64, 65, 67, 79])
@pytest.mark.parametrize("kind", [lambda x: x, TensorDataset])
def test_processes_share_each_batch(n_rows, kind):
    """As many steps everywhere, equal shares, no row twice, and one process's order."""
    x = torch.arange(n_rows, dtype=torch.float32)[:, None].expand(-1, 8)
    parts = [[*batches(kind(x), 8, 0, rank, 3).epoch(5)] for rank in range(3)]
    parts = [[b[0] if isinstance(b, list) else b for b in part] for part in parts]
    assert len({len(part) for part in parts}) == 1
    whole = [*batches(kind(x), 24).epoch(5)]
    whole = [b[0] if isinstance(b, list) else b for b in whole]
    for shares, expected in zip(zip(*parts, strict=True), whole, strict=False):
        assert len({len(share) for share in shares}) == 1
        assert len(shares[0]) >= 2
        together = torch.cat(shares)
        assert torch.equal(together, expected[: len(together)])


@pytest.mark.parametrize("start", [0, 1, 3, 4])
@pytest.mark.parametrize(
    ("data", "num_workers"),
    [
        (X, 0),
        (TensorDataset(X), 0),
        (TensorDataset(X), 1),
        (DataLoader(TensorDataset(X), 16, shuffle=True), 0),
        (DataLoader(TensorDataset(X), 16, shuffle=True, generator=torch.Generator()), 0),
        (
            DataLoader(TensorDataset(X), 16, sampler=RandomSampler(X, generator=torch.Generator())),
            0,
        ),
    ],
    ids=["tensor", "dataset", "worker", "loader", "generator", "sampler"],
)
def test_an_epoch_from_the_middle(data, num_workers, start):
    made = batches(data, num_workers=num_workers)
    whole, rest = [*made.epoch(5)], [*made.epoch(5, start)]
    whole, rest = ([b if isinstance(b, torch.Tensor) else b[0] for b in e] for e in (whole, rest))
    assert len(whole) == 4
    assert len(rest) == 4 - start
    assert all(torch.equal(a, b) for a, b in zip(whole[start:], rest, strict=True))
    for i, batch in enumerate(whole):
        rows = made.rows(5, i)
        assert rows is None if isinstance(data, DataLoader) else torch.equal(X[rows], batch)


def test_what_is_skipped_is_not_loaded():
    loaded = []

    class Recorded(LazyRows):
        def __getitems__(self, rows):
            loaded.append(len(rows))
            return super().__getitems__(rows)

    assert len([*batches(Recorded()).epoch(0, 3)]) == 1
    assert loaded == [16]


class Loop:
    """The least a loader can be."""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


def test_skipping_in_a_loader_does_not_count_what_is_dropped():
    made = batches(Loop(X.split([1, 4, 1, 60 - 1])))
    assert [len(b) for b in made.epoch(0)] == [4, 59]
    assert [len(b) for b in made.epoch(0, 1)] == [59]


class Told(Loop):
    def set_epoch(self, number):
        self.told.append(number)


def test_a_loader_is_told_the_epoch(tmp_path):
    loader = Told(X.split(13))
    loader.told = []
    pretrain(model(), loader, epochs=3, run_dir=tmp_path, trackers=())
    assert loader.told == [0, 1, 2]


def test_seeding_is_that_of_torch():
    with preserved_random_state():
        torch.manual_seed(3)
        expected = torch.get_rng_state()
        torch.rand(3)
        seed_globally(3)
        assert torch.equal(torch.get_rng_state(), expected)


class FakeAccelerator:
    """torch.mps or torch.xpu, as far as random states go."""

    def __init__(self, kind, usable):
        self.state, self.usable = "before", usable
        if kind == "xpu":
            self.is_initialized = lambda: usable
            self.get_rng_state_all, self.set_rng_state_all = self.get, self.set
        else:
            self._is_in_bad_fork = lambda: not usable
            self.get_rng_state, self.set_rng_state = self.get, self.set

    def get(self):
        assert self.usable, "asked in a worker, or before anything runs there"
        return self.state

    def set(self, state):
        self.state = state


@pytest.mark.parametrize("usable", [True, False])
@pytest.mark.parametrize("kind", ["mps", "xpu"])
def test_the_random_state_of_an_accelerator_is_kept(kind, usable, monkeypatch):
    fake = FakeAccelerator(kind, usable)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(kind))
    monkeypatch.setattr(torch, "get_device_module", lambda device: fake)
    with preserved_random_state():
        fake.state = "seeded"
    assert fake.state == ("before" if usable else "seeded")


def test_what_the_model_gets():
    x, y = torch.zeros(2, 3), torch.zeros(2)
    assert model_inputs((x, y), takes_anything=False) == ((x,), {})
    assert model_inputs([x, y], takes_anything=True) == ((x, y), {})
    assert model_inputs({"a": x, "b": y}, takes_anything=True) == ((), {"a": x, "b": y})
    assert model_inputs(x, takes_anything=True) == ((x,), {})


def test_hidden_noise_takes_tuples_and_mappings():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 6)

        def forward(self, x, mask):
            return self.linear(x * mask)

    rows = list(X[:32].split(8))
    tuples = pretrain(model("hidden", Encoder), Loop([(x, x > 0.5) for x in rows]), epochs=2)
    mappings = Loop([{"x": x, "mask": x > 0.5} for x in rows])
    assert pretrain(model("hidden", Encoder), mappings, epochs=2).losses == tuples.losses


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (X[:1], ValueError, r"data must have at least two rows, got shape \(1, 8\)"),
        (TensorDataset(X[:1]), ValueError, "at least two rows for each process, got 1 for 1"),
        (Countless(), ValueError, "data must have a length, since the schedule"),
        (iter(X), ValueError, "data must have a length, since the schedule .* got .* without one"),
        (Loop([]), ValueError, "data must have at least one batch, got an empty loader"),
        ([1.0, 2.0], TypeError, "data must be a tensor, an array, a dataset or a loader.*got list"),
        ({"x": X}, TypeError, "got dict"),
        ("rows.csv", TypeError, "got str"),
        (None, TypeError, "got NoneType"),
        (np.array(["a", "b"]), TypeError, "data must be numeric, got an array of dtype <U1"),
    ],
)
def test_bad_data(data, error, message):
    with pytest.raises(error, match=message):
        pretrain(model(), data, epochs=1)


def test_large_data_keep_off_the_device(monkeypatch):
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (X.nbytes, X.nbytes))
    moved = []
    original = torch.Tensor.to

    def to(tensor, *args, **kwargs):
        if args and args[0] == cuda:
            moved.append(tensor.shape)
            return tensor
        return original(tensor, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", to)
    made = make_batches(X, 16, cuda, torch.float32, 0, 0, 1)
    assert moved == []  # all of X would take more than half of what is free
    next(iter(made.epoch(0)))
    assert moved == [(16, 8)]


def test_rows_that_require_a_gradient_are_left_alone():
    leaf = X.clone().requires_grad_()
    for data in (leaf, leaf * 1):
        assert len(pretrain(model(), data, epochs=2, batch_size=16).losses) == 2
    assert leaf.grad is None
    labelled = leaf, torch.arange(len(X)) % 2
    assert 0 <= knn_probe(nn.Identity(), labelled, labelled).accuracy <= 1


@pytest.mark.parametrize("dtype", [">f4", ">i2", "longdouble"])
def test_arrays_of_other_byte_orders_and_widths(dtype):
    array = np.arange(64).reshape(16, 4).astype(dtype)
    assert next(iter(batches(array, 16).epoch(0))).sum().item() == array.sum()


def test_rows_that_are_not_all_there():
    with pytest.raises(TypeError, match=r"data must be a dense tensor, got .* torch\.sparse_coo"):
        batches(X.to_sparse())
    masked = np.ma.masked_greater(X.numpy(), 0)
    with pytest.raises(ValueError, match="data must have no masked values"):
        batches(masked)
    assert len(batches(np.ma.masked_greater(X.numpy(), 1e9))) == 4


@pytest.mark.parametrize("form", ["csr_matrix", "csr_array", "coo_array"])
def test_sparse_matrices_are_not_taken(form):
    rows = getattr(scipy.sparse, form)(X.numpy())
    with pytest.raises(TypeError, match=rf"data must be dense, got {form}; .*DACLEncoder takes"):
        batches(rows)


@pytest.mark.parametrize("kind", [torch.clone, torch.Tensor.numpy, TensorDataset])
def test_the_default_device_does_not_matter(kind, tmp_path):
    arguments = {"data": kind(X), "epochs": 2, "batch_size": 16}
    expected = pretrain(model(), **arguments).losses
    made = model()
    with torch.device("meta"):
        assert pretrain(made, **arguments, run_dir=tmp_path / "r").losses == expected
