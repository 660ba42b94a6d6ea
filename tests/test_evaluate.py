"""Probes of a frozen encoder."""

import numpy as np
import pytest
import torch
from torch import nn

from mixnoise import knn_probe, linear_probe
from mixnoise.demo import load_digits
from mixnoise.evaluate import features

SPLIT = load_digits()
TRAIN, TEST = (SPLIT.x_train, SPLIT.y_train), (SPLIT.x_test, SPLIT.y_test)
PROBES = {"linear": linear_probe, "knn": knn_probe}


def test_linear_probe_is_logistic_regression_on_standardised_features():
    from sklearn.linear_model import LogisticRegression

    mean, std = SPLIT.x_train.mean(0), SPLIT.x_train.std(0, correction=0)
    std[std == 0] = 1
    classifier = LogisticRegression(max_iter=1000)
    classifier.fit(((SPLIT.x_train - mean) / std).numpy(), SPLIT.y_train)
    expected = classifier.score(((SPLIT.x_test - mean) / std).numpy(), SPLIT.y_test)
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


@pytest.mark.parametrize("k", [0, -1, 1.5, True])
def test_bad_k(k):
    with pytest.raises(ValueError, match="k must be an integer >= 1, got"):
        knn_probe(nn.Identity(), TRAIN, TEST, k=k)
