"""Probes of a frozen encoder."""

import random
import re
import sys

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from mixnoise import evaluate, knn_probe, linear_probe, sgd_probe
from mixnoise.datasets import load_digits
from mixnoise.evaluate import choose_rows
from mixnoise.features import features

SPLIT = load_digits()
TRAIN, TEST = (SPLIT.x_train, SPLIT.y_train), (SPLIT.x_test, SPLIT.y_test)
PROBES = {"linear": linear_probe, "knn": knn_probe}
WAYS = {**PROBES, "sgd": lambda *args: linear_probe(*args, classifier="sgd")}
SMALL = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3
every_way = pytest.mark.parametrize("probe", WAYS.values(), ids=WAYS)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """On these small products threads gain nothing, and wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(before)


@pytest.fixture
def three_epochs(monkeypatch):
    monkeypatch.setattr(sgd_probe, "_MOST_EPOCHS", 3)
    monkeypatch.setattr(sgd_probe, "_FEWEST_EPOCHS", 3)


def blobs(n_rows, n_classes=3, seed=0):
    """Classes that lie well apart, in random order."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n_rows) % n_classes)
    x = 8 * np.eye(n_classes)[y] + rng.standard_normal((n_rows, n_classes))
    return torch.as_tensor(x, dtype=torch.float32), torch.as_tensor(y)


def never(x):
    raise AssertionError("encoded before the arguments were checked")


class Counted(nn.Module):
    """An encoder that keeps the size of each batch, and whether any was to be trained on."""

    def __init__(self):
        super().__init__()
        self.batches, self.trained = [], False

    def forward(self, x):
        self.batches.append(len(x))
        self.trained |= self.training or x.requires_grad
        return x


class Stream(IterableDataset):
    def __init__(self, x, y, passes=None):
        self.x, self.y, self.passes = x, y, passes

    def __iter__(self):
        if self.passes is not None:
            self.passes -= 1
            if self.passes < 0:
                return iter(())
        return zip(self.x, self.y, strict=True)


def test_linear_probe_is_logistic_regression_on_standardised_features():
    from sklearn.linear_model import LogisticRegression

    mean, std = SPLIT.x_train.mean(0), SPLIT.x_train.std(0, correction=0)
    std[std == 0] = 1
    classifier = LogisticRegression(max_iter=1000)
    classifier.fit(((SPLIT.x_train - mean) / std).numpy(), SPLIT.y_train.numpy())
    expected = classifier.score(((SPLIT.x_test - mean) / std).numpy(), SPLIT.y_test.numpy())
    assert linear_probe(nn.Identity(), TRAIN, TEST).accuracy == pytest.approx(expected, abs=0.005)


def test_knn_probe_agrees_with_scikit_learn():
    from sklearn.neighbors import KNeighborsClassifier

    classifier = KNeighborsClassifier(20, metric="cosine", weights=lambda d: np.exp(-d / 0.07))
    classifier.fit(SPLIT.x_train.numpy(), SPLIT.y_train.numpy())
    expected = classifier.score(SPLIT.x_test.numpy(), SPLIT.y_test.numpy())
    assert knn_probe(nn.Identity(), TRAIN, TEST, k=20).accuracy == pytest.approx(
        expected, abs=0.003
    )


def test_labels_per_class():
    few = linear_probe(nn.Identity(), TRAIN, TEST, labels_per_class=2, seed=0)
    again = linear_probe(nn.Identity(), TRAIN, TEST, labels_per_class=2, seed=0)
    other = linear_probe(nn.Identity(), TRAIN, TEST, labels_per_class=2, seed=1)
    assert few == again
    assert few != other
    assert few.n_labels == 20
    assert few.accuracy < linear_probe(nn.Identity(), TRAIN, TEST).accuracy


@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
def test_labels_and_rows_of_any_kind(probe):
    names = np.array(["zero", "one", *"abcdefgh"])
    as_text = (SPLIT.x_train.numpy(), names[SPLIT.y_train]), (SPLIT.x_test, names[SPLIT.y_test])
    assert probe(nn.Identity(), *as_text) == probe(nn.Identity(), TRAIN, TEST)
    assert probe(lambda x: x.view(-1, 8, 8), TRAIN, TEST) == probe(nn.Identity(), TRAIN, TEST)


def test_features_are_made_in_evaluation_mode_and_the_mode_is_restored():
    frozen = nn.BatchNorm1d(64).eval()
    encoder = nn.Sequential(nn.Linear(64, 64), nn.Dropout(), frozen).train()
    frozen.eval()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    h = features(encoder, SPLIT.x_train, batch_size=100)
    assert torch.equal(h, features(encoder, SPLIT.x_train, batch_size=100))
    assert not h.requires_grad
    assert encoder.training
    assert encoder[1].training
    assert not frozen.training
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())


def test_mode_is_restored_after_an_error():
    encoder = nn.Linear(3, 3)
    with pytest.raises(RuntimeError):
        features(encoder, SPLIT.x_train)
    assert encoder.training


@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
@pytest.mark.parametrize(
    ("train", "error", "message"),
    [
        (
            (SPLIT.x_train, SPLIT.y_train[:-1]),
            ValueError,
            r"train must have one label per row.*134",
        ),
        ((SPLIT.x_train[:0], SPLIT.y_train[:0]), ValueError, "at least one row"),
        ((SPLIT.x_train, SPLIT.y_train[:, None]), ValueError, r"labels of shape \(1347, 1\)"),
        (SPLIT.x_train, TypeError, r"train must be a pair \(rows, labels\), got Tensor"),
    ],
)
def test_bad_data(probe, train, error, message):
    with pytest.raises(error, match=message):
        probe(nn.Identity(), train, TEST)


@pytest.mark.parametrize(("n", "error"), [(0, ValueError), (1000, ValueError), (2.0, TypeError)])
def test_bad_labels_per_class(n, error):
    with pytest.raises(error, match="labels_per_class must be"):
        linear_probe(nn.Identity(), TRAIN, TEST, labels_per_class=n)


@pytest.mark.parametrize("classifier", ["logistic", "sgd"])
def test_numbers_of_numpy(classifier, three_epochs):
    train, settings = blobs(90), {"classifier": classifier}
    expected = linear_probe(nn.Identity(), train, 0.25, 5, **settings)
    assert linear_probe(nn.Identity(), train, np.float32(0.25), np.int64(5), **settings) == expected
    with pytest.raises(TypeError, match="labels_per_class must be an integer or None, got True"):
        linear_probe(never, train, 0.25, True)
    with pytest.raises(ValueError, match=r"test must be a share in \(0, 1\) .*got np.float32"):
        linear_probe(never, train, np.float32(2))


@pytest.mark.parametrize("k", [0, -1, 1.5, True])
def test_bad_k(k):
    with pytest.raises(ValueError, match="k must be an integer >= 1, got"):
        knn_probe(nn.Identity(), TRAIN, TEST, k=k)


# ---- splits


def test_a_share_as_test_is_drawn_from_each_class():
    y = np.repeat([3, 5, 9], [100, 40, 2])
    train, test = evaluate._split(y, 0.25, (0, 0, 1))
    assert np.array_equal(np.sort(np.concatenate((train, test))), np.arange(142))
    assert dict(zip(*np.unique(y[test], return_counts=True), strict=True)) == {3: 25, 5: 10, 9: 1}
    again, other = (evaluate._split(y, 0.25, (0, i, 1))[1] for i in (0, 1))
    assert np.array_equal(test, again)
    assert not np.array_equal(test, other)
    # A class never gives its last row away.
    train, _ = evaluate._split(y, 0.99, (0, 0, 1))
    assert dict(zip(*np.unique(y[train], return_counts=True), strict=True)) == {3: 1, 5: 1, 9: 1}


@pytest.mark.parametrize("classifier", ["logistic", "sgd"])
def test_no_test_row_of_a_share_is_trained_on(classifier):
    """Random labels can be memorised in 400 columns, and not be foretold."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(200, 400, generator=g), torch.randint(2, (200,), generator=g)
    assert linear_probe(nn.Identity(), (x, y), (x, y), classifier=classifier).accuracy == 1
    result = linear_probe(nn.Identity(), (x, y), 0.5, n_splits=4, classifier=classifier)
    assert 0.35 < result.accuracy < 0.65


@pytest.mark.parametrize("classifier", ["logistic", "sgd"])
@pytest.mark.parametrize(("test", "n"), [(0.3, None), (0.3, 3), (TEST, 3)])
def test_splits(test, n, classifier, three_epochs):
    def probe(seed, n_splits):
        return linear_probe(nn.Identity(), TRAIN, test, n, seed, n_splits, classifier)

    result = probe(4, 3)
    assert len(set(result.accuracies)) > 1
    assert result.accuracy == pytest.approx(np.mean(result.accuracies), abs=1e-12)
    assert result.std == pytest.approx(np.std(result.accuracies, ddof=1), abs=1e-12)
    assert result == probe(4, 3)
    assert result.accuracies != probe(5, 3).accuracies
    one = probe(4, 1)
    assert one.accuracies == (one.accuracy,) == result.accuracies[:1]
    assert one.std == 0
    if n is None:
        y = SPLIT.y_train.numpy()
        assert result.n_labels == sum(len(y[y == c]) - round(0.3 * sum(y == c)) for c in range(10))
    else:
        assert result.n_labels == 30


def test_a_split_with_a_share_is_the_probe_of_its_two_parts():
    x, y = SPLIT.x_train, SPLIT.y_train
    parts = [evaluate._split(y.numpy(), 0.25, (7, i, 1)) for i in range(2)]
    each = [linear_probe(nn.Identity(), (x[a], y[a]), (x[b], y[b])).accuracy for a, b in parts]
    result = linear_probe(nn.Identity(), TRAIN, 0.25, seed=7, n_splits=2)
    assert result.accuracies == pytest.approx(each, abs=0.004)


def test_the_first_split_has_the_rows_that_choose_rows_gives_the_seed():
    y = SPLIT.y_train.numpy()
    rows = choose_rows(y, 5, seed=3)
    assert np.array_equal(rows, choose_rows(y, 5, (3, 0)))
    assert not np.array_equal(rows, choose_rows(y, 5, (3, 1)))
    assert np.array_equal(np.unique(y[rows], return_counts=True)[1], np.full(10, 5))
    few = linear_probe(nn.Identity(), (SPLIT.x_train[rows], SPLIT.y_train[rows]), TEST).accuracy
    assert linear_probe(nn.Identity(), TRAIN, TEST, 5, seed=3).accuracy == few


@pytest.mark.parametrize(
    ("test", "n", "n_splits", "most"),
    [
        (TEST, None, 1, 1347 + 450),
        (TEST, 2, 1, 20 + 450),
        (TEST, 2, 5, 100 + 450),
        (0.5, 9, 5, 1347),
    ],
)
def test_rows_are_encoded_once(test, n, n_splits, most):
    encoder = Counted()
    linear_probe(encoder, TRAIN, test, n, n_splits=n_splits)
    assert most * 0.8 < sum(encoder.batches) <= most


# ---- logistic


@pytest.mark.parametrize("n", [5, None])
@pytest.mark.parametrize(("classifier", "slack"), [("logistic", 0.004), ("sgd", 0.01)])
def test_constant_columns_do_not_matter(classifier, slack, n):
    """Dead ReLUs, some of which live again in the test rows."""
    dead, live = torch.zeros(1347, 5), 100 * torch.rand(450, 5)
    constant = torch.tensor([0.1, 1e4 / 3, -7.3])
    train = torch.cat((SPLIT.x_train, dead, constant.expand(1347, 3)), 1), SPLIT.y_train
    test = torch.cat((SPLIT.x_test, live, constant.expand(450, 3)), 1), SPLIT.y_test
    accuracy = linear_probe(nn.Identity(), TRAIN, TEST, n, classifier=classifier).accuracy
    widened = linear_probe(nn.Identity(), train, test, n, classifier=classifier).accuracy
    assert widened == pytest.approx(accuracy, abs=slack)


@pytest.mark.parametrize("classifier", ["logistic", "sgd"])
def test_columns_far_from_zero(classifier):
    """Seconds since 1970 in float64: in float32 they would be 128 apart."""
    (x, y), (x_test, y_test) = blobs(90), blobs(30, seed=1)
    train, test = (x.double() + 1.7e9, y), (x_test.double() + 1.7e9, y_test)
    assert linear_probe(nn.Identity(), train, test, classifier=classifier).accuracy > 0.95


@pytest.mark.parametrize("classifier", ["logistic", "sgd"])
@pytest.mark.parametrize("scale", [1e-6, 1e4])
def test_the_scale_of_features_does_not_matter(classifier, scale):
    """Nor is there a warning on the way: here they are errors."""
    expected = linear_probe(nn.Identity(), TRAIN, TEST, 20, classifier=classifier).accuracy
    result = linear_probe(lambda x: scale * x, TRAIN, TEST, 20, classifier=classifier)
    assert result.accuracy == pytest.approx(expected, abs=0.01)


def test_logistic_regression_converges_on_columns_that_are_nearly_dependent():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(600, 4, generator=g) @ torch.randn(4, 100, generator=g)
    x += 1e-4 * torch.randn(600, 100, generator=g)
    y = (x @ torch.randn(100, 3, generator=g)).argmax(1)
    assert linear_probe(nn.Identity(), (x, y), 0.5).accuracy > 0.95


def test_no_convergence_is_told(monkeypatch):
    from sklearn.exceptions import ConvergenceWarning

    monkeypatch.setattr(evaluate, "_LOGISTIC_ITERATIONS", 1)
    with pytest.warns(ConvergenceWarning):
        linear_probe(nn.Identity(), TRAIN, TEST)


# ---- sgd


@pytest.mark.parametrize(("n", "n_splits"), [(5, 3), (None, 1)])
@pytest.mark.parametrize(("depth", "width"), [(0, 64), (12, 128), (1, 1024)])
def test_sgd_and_logistic_agree(depth, width, n, n_splits):
    """On raw columns, and on those of untrained networks: of 12 layers they are near 1e-5."""
    torch.manual_seed(0)
    layers = []
    for i in range(depth):
        layers += [nn.Linear(width if i else 64, width), nn.ReLU()]
    encoder = nn.Sequential(*layers)
    settings = {"labels_per_class": n, "n_splits": n_splits}
    logistic = linear_probe(encoder, TRAIN, TEST, **settings)
    sgd = linear_probe(encoder, TRAIN, TEST, **settings, classifier="sgd")
    assert sgd.accuracy == pytest.approx(logistic.accuracy, abs=0.02)
    assert sgd.n_labels == logistic.n_labels


@pytest.mark.parametrize(
    ("source", "n_rows"),
    [
        ("pair", 257),
        ("dataset", 257),
        ("iterable", 257),
        ("loader of 300", 257),
        ("loader of 16", 257),
        ("loader of 1", 40),
    ],
)
def test_sources(source, n_rows):
    """257 rows: the last of the batches of 16, and of those of 256, has a single row."""
    train, test = blobs(n_rows), blobs(100, seed=1)
    expected = linear_probe(nn.Identity(), train, test).accuracy
    dataset = TensorDataset(*train)
    if source == "dataset":
        train = dataset
    elif source == "iterable":
        train = Stream(*train)
    elif source != "pair":
        train = DataLoader(dataset, int(source.split()[-1]), shuffle=True)
    for test_source in (test, TensorDataset(*test), DataLoader(TensorDataset(*test), 33)):
        result = linear_probe(nn.Identity(), train, test_source, classifier="sgd")
        assert result.accuracy == pytest.approx(expected, abs=0.02)
        assert result.accuracy > 0.95
        assert result.n_labels == n_rows


@pytest.mark.parametrize("source", [lambda x, y: (x, y), TensorDataset], ids=["pair", "dataset"])
def test_rows_sorted_by_class_are_shuffled(source):
    order = SPLIT.y_train.argsort()
    train = source(SPLIT.x_train[order], SPLIT.y_train[order])
    assert linear_probe(nn.Identity(), train, TEST, classifier="sgd").accuracy > 0.95


def test_classes_of_a_loader_need_not_count_from_0():
    (x, y), (x_test, y_test) = blobs(90), blobs(30, seed=1)
    names = torch.tensor([-5, 7, 10**12])
    train = DataLoader(TensorDataset(x, names[y]), 32, shuffle=True)
    test = DataLoader(TensorDataset(x_test, names[y_test]), 32)
    assert linear_probe(nn.Identity(), train, test, classifier="sgd").accuracy == 1


@pytest.mark.parametrize("n_rows", [*range(2, 12), 255, 256, 257, 384])
@pytest.mark.parametrize("size", [1, 7, 128, 200, 1000])
def test_steps_suit_batch_norm(n_rows, size):
    """Every row once, in order, and never fewer than 128 at a time if there are as many."""
    rows = torch.arange(n_rows)
    batches = [(part[:, None].float(), part) for part in rows.split(size)]
    steps = list(sgd_probe._steps(batches))
    assert torch.equal(torch.cat([y for _, y in steps]), rows)
    assert torch.equal(torch.cat([h for h, _ in steps])[:, 0], rows.float())
    assert all(len(h) == len(y) >= min(128, n_rows) for h, y in steps)
    assert max(len(y) for _, y in steps) < 256


def test_sgd_draws_from_its_seed_alone(three_epochs):
    class Noisy(Dataset):
        """Draws from every global generator."""

        def __init__(self):
            self.x, self.y = blobs(200)
            self.drawn = []

        def __len__(self):
            return 200

        def __getitem__(self, i):
            noise = torch.randn(3).numpy() + np.random.randn(3) + random.random()  # noqa: NPY002 - the legacy global state is tested
            self.drawn.append(noise.sum())
            return self.x[i] + torch.as_tensor(noise).float(), self.y[i]

    def state():
        from_numpy = str(np.random.get_state())  # noqa: NPY002 - as above
        return torch.get_rng_state().tolist(), from_numpy, random.getstate()

    def probe(seed):
        data = Noisy()
        before = state()
        linear_probe(nn.Identity(), DataLoader(data, 200, True), blobs(50), None, seed, 1, "sgd")
        assert state() == before
        return data.drawn

    first = probe(0)
    torch.manual_seed(9)
    np.random.seed(9)  # noqa: NPY002 - as above
    assert probe(0) == first
    assert probe(1) != first


def test_sgd_repeats_with_other_seeds_where_nothing_else_differs():
    x, y = SPLIT.x_train[:300], SPLIT.y_train[:300]
    result = linear_probe(nn.Identity(), (x, y), TEST, n_splits=3, classifier="sgd")
    assert 0 < result.std < 0.02


def test_sgd_holds_a_batch_at_a_time_and_leaves_the_encoder_alone():
    encoder = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(), counted := Counted())
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    x, y = blobs(1000)
    linear_probe(encoder, (x, y), (x, y), classifier="sgd")
    assert max(counted.batches) == 256
    assert sum(counted.batches) == 256 + 101 * 1000
    assert not counted.trained
    assert encoder.training
    assert encoder[1].training
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())
    assert all(p.grad is None for p in encoder.parameters())


def test_sgd_ends_on_small_steps(monkeypatch, three_epochs):
    """Cosine schedule, epoch by epoch."""
    rates = []

    class Adam(torch.optim.Adam):
        def step(self):
            rates.extend(group["lr"] for group in self.param_groups)
            super().step()

    monkeypatch.setattr(torch.optim, "Adam", Adam)
    linear_probe(lambda x: x.repeat(1, 3), blobs(90), blobs(30), classifier="sgd")
    first = 0.25 / 3
    assert rates == pytest.approx(np.repeat([first, 0.75 * first, 0.25 * first], 2))


def test_sgd_under_another_default_dtype(three_epochs):
    torch.set_default_dtype(torch.float64)
    try:
        assert linear_probe(nn.Identity(), blobs(90), blobs(30), classifier="sgd").accuracy > 0.9
    finally:
        torch.set_default_dtype(torch.float32)


@every_way
@pytest.mark.parametrize("kind", [torch.clone, torch.Tensor.numpy])
def test_the_default_device_does_not_matter(probe, kind, three_epochs):
    data = tuple(map(kind, SMALL))
    expected = probe(nn.Identity(), data, SMALL)
    with torch.device("meta"):
        assert probe(nn.Identity(), data, SMALL) == expected


def test_the_default_device_does_not_matter_to_datasets(three_epochs):
    data = TensorDataset(*SMALL)
    expected = linear_probe(nn.Identity(), data, data, classifier="sgd")
    with torch.device("meta"):
        assert linear_probe(nn.Identity(), data, data, classifier="sgd") == expected


def test_large_sets_get_fewer_epochs(monkeypatch):
    monkeypatch.setattr(sgd_probe, "_ROWS_SEEN", 90 * 30)
    encoder = Counted()
    linear_probe(encoder, blobs(90), blobs(10), classifier="sgd")
    assert sum(encoder.batches) == 90 + 30 * 90 + 10


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@every_way
def test_probes_work_where_gradients_are_off(probe, mode):
    with mode():
        x, y = blobs(90)
        assert probe(nn.Linear(3, 8), (x, y), (x, y)).accuracy > 0.95


# ---- what goes in


class Frame:
    """Like pandas: an array on demand, which must not be written to."""

    def __init__(self, values):
        self.values = np.array(values)
        self.values.flags.writeable = False

    def __array__(self, dtype=None, copy=None):
        return self.values


@every_way
@pytest.mark.parametrize(
    "kind", [list, Frame, lambda v: np.asfortranarray(v)[::-1][::-1], lambda v: list(map(tuple, v))]
)
def test_rows_of_any_kind(probe, kind):
    (x, y), (x_test, y_test) = blobs(60), blobs(30, seed=1)
    torch.manual_seed(0)
    encoder = nn.Linear(3, 8)
    expected = probe(encoder, (x, y), (x_test, y_test))
    assert probe(encoder, (kind(x.double().numpy()), y), (kind(x_test.numpy()), y_test)) == expected


@every_way
@pytest.mark.parametrize(
    "kind",
    [
        list,
        Frame,
        lambda y: np.array(["b", "c", "a"])[y],
        lambda y: np.array(["b", "c", "a"], dtype=object)[y],
        lambda y: y - 7.5,
        lambda y: y.astype(np.uint8),
        lambda y: torch.as_tensor(y).int(),
    ],
)
def test_labels_of_any_kind(probe, kind):
    (x, y), (x_test, y_test) = blobs(60), blobs(30, seed=1)
    train, test = (x, kind(y.numpy())), (x_test, kind(y_test.numpy()))
    assert probe(nn.Identity(), train, test).accuracy == 1


@every_way
@pytest.mark.parametrize("x_test", [SMALL[0][:, :3], torch.ones(60, 5)])
def test_other_numbers_of_features(probe, x_test):
    message = f"features of test must be as many as .* 4, got {x_test.shape[1]}"
    with pytest.raises(ValueError, match=message):
        probe(nn.Identity(), SMALL, (x_test, SMALL[1]))


def test_batches_with_other_numbers_of_features(three_epochs):
    batches = [(SMALL[0], SMALL[1]), (SMALL[0][:, :3], SMALL[1])]
    with pytest.raises(ValueError, match=r"features of train must be as many as .* 4, got 3"):
        linear_probe(nn.Identity(), DataLoader(batches, None), SMALL, classifier="sgd")


@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
def test_labels_of_any_tensor(probe):
    (x, y), test = blobs(60), blobs(30, seed=1)
    for labels in (y.bfloat16(), y.half(), y.double().requires_grad_()):
        assert probe(nn.Identity(), (x, labels), test).accuracy == 1


@every_way
def test_classes_that_are_not_in_train_count_as_wrong(probe):
    x, y = blobs(90)
    unseen = y.clone()
    unseen[y == 0] = 3
    assert probe(nn.Identity(), (x, y), (x, unseen)).accuracy == pytest.approx(2 / 3)
    names = np.array(["a", "b", "c", "d"])
    assert probe(nn.Identity(), (x, names[y]), (x, names[unseen])).accuracy == pytest.approx(2 / 3)


@every_way
@pytest.mark.parametrize(
    ("train_labels", "test_labels", "got"),
    [
        (np.array([0, 1, 2]), np.array(["0", "1", "2"]), "got '0', and 0 in train"),
        (np.array(["0", "1", "2"]), np.array([0, 1, 2]), "got 0, and '0' in train"),
        (np.array([0, 1, 2]), np.array(["0", "1", "2"], object), "got '0', and 0 in train"),
        (np.array(["a", "b", "c"]), np.array([b"a", b"b", b"c"]), "got b'a', and 'a' in train"),
    ],
)
def test_labels_of_two_kinds(probe, train_labels, test_labels, got):
    """Else no row could be right, and the accuracy be 0 without a word."""
    y = SMALL[1].numpy()
    with pytest.raises(TypeError, match=f"labels of test must be of the same kind.*{got}"):
        probe(never, (SMALL[0], train_labels[y]), (SMALL[0], test_labels[y]))


@every_way
def test_labels_that_are_equal_are_of_one_kind(probe):
    x, y = blobs(90, 2)
    for other in (y.bool(), y.double()):
        assert probe(nn.Identity(), (x, y), (x, other)).accuracy == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_features_casts_to_the_encoders_dtype(dtype):
    encoder = nn.Linear(4, 2).to(dtype)
    for x in (SMALL[0], SMALL[0].numpy().astype(np.float64)):
        h = features(encoder, x)
        assert h.dtype == dtype
        assert torch.equal(h, encoder(SMALL[0].to(dtype)))
    # Integers stay what they are, and a module may have buffers only, or a function neither.
    assert features(nn.Embedding(9, 2).to(dtype), np.arange(9)).dtype == dtype
    norm = nn.BatchNorm1d(4, affine=False).to(dtype)
    assert features(norm, SMALL[0].double()).dtype == dtype
    assert features(torch.square, SMALL[0].double()).dtype == torch.float64


@every_way
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_probes_of_encoders_in_other_dtypes(probe, dtype):
    train, test = blobs(90), blobs(30, seed=1)
    torch.manual_seed(0)
    assert probe(nn.Linear(3, 8).to(dtype), train, test).accuracy > 0.95


def test_rows_go_to_the_encoders_device():
    class Elsewhere(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1, device="meta"))
            self.devices = set()

        def forward(self, x):
            self.devices.add(x.device.type)
            return torch.arange(len(x))

    encoder = Elsewhere()
    assert features(encoder, SMALL[0]).shape == (60, 1)
    assert encoder.devices == {"meta"}


# ---- errors


@every_way
@pytest.mark.parametrize(
    ("train", "test", "error", "message"),
    [
        (SMALL, (SMALL[0], SMALL[1][1:]), ValueError, r"test must have one label per row.*\(59,\)"),
        (SMALL, (SMALL[0][:0], []), ValueError, "test must have .* at least one row"),
        ((SMALL[0], [4] * 60), SMALL, ValueError, "at least two classes, got only 4"),
        ((SMALL[0], ["x"] * 60), SMALL, ValueError, "at least two classes, got only x"),
        ((SMALL[0], [1.0, 2.0, np.nan] * 20), SMALL, ValueError, "missing, got NaN"),
        ((SMALL[0], ["a", "b", None] * 20), SMALL, TypeError, "one kind and none missing"),
        (None, SMALL, TypeError, r"train must be a pair \(rows, labels\), got NoneType"),
    ],
)
def test_bad_sets_are_told_before_rows_are_encoded(probe, train, test, error, message):
    with pytest.raises(error, match=message):
        probe(never, train, test)


@pytest.mark.parametrize("classifier", ["logistic", "sgd"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"test": 0.0}, r"test must be a share in \(0, 1\) or labelled data, got 0.0"),
        ({"test": 1}, r"test must be a share in \(0, 1\) or labelled data, got 1"),
        ({"test": -0.1}, r"test must be a share in \(0, 1\)"),
        ({"test": float("nan")}, r"test must be a share in \(0, 1\)"),
        ({"train": (SMALL[0], [7] + [1, 2] * 29 + [1]), "test": 0.5}, "got one of class 7"),
        ({"labels_per_class": 21}, r"labels_per_class must be in 1..20.*class 0.*got 21"),
        ({"labels_per_class": 11, "test": 0.5}, r"labels_per_class must be in 1..10.*got 11"),
        ({"n_splits": 0}, "n_splits must be an integer >= 1, got 0"),
        ({"n_splits": 2.0}, "n_splits must be an integer >= 1, got 2.0"),
        ({"n_splits": True}, "n_splits must be an integer >= 1, got True"),
        ({"seed": -1}, "seed must be an integer >= 0, got -1"),
        ({"seed": None}, "seed must be an integer >= 0, got None"),
    ],
)
def test_bad_arguments_are_told_before_rows_are_encoded(arguments, message, classifier):
    arguments = {"train": SMALL, "test": SMALL, "classifier": classifier, **arguments}
    with pytest.raises(ValueError, match=message):
        linear_probe(never, **arguments)


def test_classifiers_are_listed():
    with pytest.raises(ValueError, match="classifier must be one of logistic, sgd, got 'svm'"):
        linear_probe(never, SMALL, SMALL, classifier="svm")


def test_splits_that_would_not_differ():
    with pytest.raises(ValueError, match="n_splits must be 1 with all labels and a fixed test set"):
        linear_probe(never, SMALL, SMALL, n_splits=3)


LOADER = DataLoader(TensorDataset(*SMALL), 16, shuffle=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classifier": "logistic"}, "classifier='sgd'.*got DataLoader"),
        ({"test": 0.5}, "got DataLoader"),
        ({"labels_per_class": 3}, "all labels of two fixed sets, got DataLoader"),
        ({"train": SMALL, "test": LOADER, "labels_per_class": 3}, "got DataLoader"),
        ({"train": TensorDataset(SMALL[0], SMALL[1] / 2)}, "train must have integer labels.*float"),
        ({"test": (SMALL[0], SMALL[1] / 2)}, "test must have integer labels, got float32"),
        ({"test": (SMALL[0], ["a"] * 60)}, "test must have integer labels, got <U1"),
        ({"train": TensorDataset(SMALL[0][:0], SMALL[1][:0])}, "train must have at least one row"),
        ({"test": Stream([], [])}, "test must have at least one row"),
        ({"train": TensorDataset(SMALL[0], 0 * SMALL[1])}, "at least two classes, got only 0"),
        ({"train": DataLoader(TensorDataset(*SMALL), None)}, "every batch of train must have one"),
    ],
)
def test_bad_streams_are_told_before_rows_are_encoded(arguments, message):
    arguments = {"train": LOADER, "test": SMALL, "classifier": "sgd", **arguments}
    with pytest.raises(ValueError, match=message):
        linear_probe(never, **arguments)


def test_streams_that_yield_no_pairs():
    rows = [{"x": row} for row in SMALL[0]]
    with pytest.raises(TypeError, match=r"every batch of train must be a pair .*got dict"):
        linear_probe(never, DataLoader(rows, 16), SMALL, classifier="sgd")


def test_streams_that_run_dry():
    with pytest.raises(ValueError, match="train must have at least one row in every pass"):
        linear_probe(nn.Identity(), Stream(*SMALL, passes=4), SMALL, classifier="sgd")


@every_way
@pytest.mark.parametrize(
    ("encoder", "error", "message"),
    [
        (lambda x: x.where(x < 1, torch.nan), ValueError, r"finite.*in \d+ of \d+ rows"),
        (lambda x: x / torch.zeros(()), ValueError, r"finite.*NaN or inf in 60 of 60 rows"),
        ("foo", TypeError, "encoder must be a module or a function of rows, got str"),
        (lambda x: (x, x), TypeError, "encoder must return a tensor, got tuple"),
        (lambda x: x.numpy(), TypeError, "encoder must return a tensor, got ndarray"),
        (lambda x: x + 1j, TypeError, "encoder must return real features, got torch.complex64"),
        (lambda x: x[1:], ValueError, r"one row of features for each of 60 rows.*\(59, 4\)"),
        (lambda x: x.mean(), ValueError, r"one row of features.*shape \(\)"),
        (lambda x: x[:, :0], ValueError, r"one row of features.*\(60, 0\)"),
    ],
)
def test_bad_encoders(probe, encoder, error, message):
    with pytest.raises(error, match=message):
        probe(encoder, SMALL, SMALL)


def test_the_number_of_rows_that_are_not_finite():
    x = SMALL[0].clone()
    x[[3, 5]] = torch.inf
    x[9, 2] = torch.nan
    with pytest.raises(ValueError, match="NaN or inf in 3 of 60 rows"):
        linear_probe(nn.Identity(), (x, SMALL[1]), SMALL)


def test_logistic_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(ImportError, match=re.escape("pip install 'mixnoise[sklearn]'")):
        linear_probe(never, SMALL, SMALL)
    linear_probe(nn.Identity(), SMALL, SMALL, classifier="sgd")


# ---- nearest neighbours


def vote(train, test, k):
    """Wu et al., section 3.4, row by row: each neighbour gives its class exp(cosine / 0.07)."""
    (x, y), (x_test, _) = train, test
    predicted = []
    for query in x_test:
        cosines = [row @ query / np.sqrt((row @ row) * (query @ query)) for row in x]
        nearest = sorted(range(len(x)), key=lambda i: (-cosines[i], i))[:k]
        votes = dict.fromkeys(sorted(set(y.tolist())), 0.0)
        for i in nearest:
            votes[y[i].item()] += np.exp(cosines[i] / 0.07)
        predicted.append(max(votes, key=votes.get))
    return np.array(predicted)


@pytest.mark.parametrize("k", [1, 2, 7, 20, 1000])
def test_knn_probe_is_the_vote_of_the_paper(k, monkeypatch):
    rng = np.random.default_rng(0)
    x, x_test = rng.standard_normal((80, 3)), rng.standard_normal((150, 3))
    y = rng.integers(0, 5, 80)
    predicted = vote((x, y), (x_test, None), k)
    # With these as labels every row is right, and with others none is.
    assert knn_probe(nn.Identity(), (x, y), (x_test, predicted), k).accuracy == 1
    assert knn_probe(nn.Identity(), (x, y), (x_test, predicted + 1), k).accuracy == 0
    # In blocks of 3 rows, and of a single one.
    for similarities in (3 * 80, 1):
        monkeypatch.setattr(evaluate, "_KNN_SIMILARITIES", similarities)
        assert knn_probe(nn.Identity(), (x, y), (x_test, predicted), k).accuracy == 1


@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize("k", [1, 5, 200])
def test_knn_probe_predicts_what_scikit_learn_does(k, offset):
    """Also of rows so nearly parallel that their cosines in float32 are all 1."""
    from sklearn.neighbors import KNeighborsClassifier

    def weights(distance):
        return np.exp((1 - distance) / 0.07)

    classifier = KNeighborsClassifier(k, metric="cosine", weights=weights, algorithm="brute")
    x, x_test = SPLIT.x_train + offset, SPLIT.x_test + offset
    classifier.fit(x.double().numpy(), SPLIT.y_train.numpy())
    predicted = classifier.predict(x_test.double().numpy())
    result = knn_probe(nn.Identity(), (x, SPLIT.y_train), (x_test, predicted), k)
    assert result.accuracy >= 1 - 1 / 450
    assert result.n_labels == 1347
    assert result.accuracies == (result.accuracy,)


@pytest.mark.parametrize("k", [1, 2, 3, 20, 100, 499])
def test_the_first_of_equally_near_rows_vote(k):
    """Just enough of them are of class 4 to outvote the rest of the first k."""
    x = torch.eye(3)[[1] + [0] * 500]
    first = k // 2 + 1
    y = torch.tensor([9] + [4] * first + [1] * (500 - first))
    assert knn_probe(nn.Identity(), (x, y), (x[1:2], [4]), k).accuracy == 1


def test_the_first_class_wins_equal_votes():
    x = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 0.0]])
    for labels in (["b", "a", "c"], ["a", "b", "c"]):
        query = torch.tensor([[1.0, 0.0]]), ["a"]
        assert knn_probe(nn.Identity(), (x, labels), query, k=2).accuracy == 1


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_knn_probe_takes_rows_of_any_length(scale):
    expected = knn_probe(nn.Identity(), TRAIN, TEST).accuracy
    scaled = knn_probe(lambda x: x * scale, TRAIN, TEST).accuracy
    assert scaled == pytest.approx(expected, abs=0.003)


def test_numpy_integers_are_integers():
    by_python = linear_probe(nn.Identity(), TRAIN, 0.25, n_splits=2, seed=3)
    by_numpy = linear_probe(nn.Identity(), TRAIN, 0.25, n_splits=np.int64(2), seed=np.int32(3))
    assert by_numpy == by_python
    k = knn_probe(nn.Identity(), TRAIN, TEST, k=np.int64(5)).accuracy
    assert k == knn_probe(nn.Identity(), TRAIN, TEST, k=5).accuracy


@every_way
@pytest.mark.usefixtures("three_epochs")
def test_rows_of_test_may_have_another_precision(probe):
    x, y = SMALL
    expected = probe(nn.Identity(), SMALL, SMALL).accuracy
    assert probe(nn.Identity(), SMALL, (x.double(), y)).accuracy == expected
    assert probe(nn.Identity(), (x.double(), y), SMALL).accuracy == pytest.approx(
        expected, abs=0.05
    )


@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
@pytest.mark.parametrize("missing", ["NaN", "NaT"])
def test_labels_of_test_must_not_be_missing(probe, missing):
    x, y = SMALL
    y = y.double().numpy()
    if missing == "NaT":
        y = y.astype("datetime64[D]")
    holed = y.copy()
    holed[3] = np.datetime64("NaT") if missing == "NaT" else np.nan
    for train, test in ((y, holed), (holed, y)):
        with pytest.raises(ValueError, match=f"labels must not be missing, got {missing}"):
            probe(nn.Identity(), (x, train), (x, test))
