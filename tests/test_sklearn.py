"""The estimator: scikit-learn's own checks, and what they do not know of."""

import copy
import datetime as dt
import pickle
import subprocess
import sys
import threading
import warnings
from unittest import SkipTest

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse as sp
import torch
from joblib import Parallel, delayed
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import estimator_checks_generator

from mixnoise import get_noise
from mixnoise.noises.linear import Linear
from mixnoise.sklearn import EXPECTED_FAILED_CHECKS, DACLEncoder
from mixnoise.train import LossNotFinite

QUICK = {"n_components": 16, "batch_size": 64, "max_iter": 2, "random_state": 0}
DIGITS = load_digits(return_X_y=True)
X = DIGITS[0][:300]


def quick_checks():
    checks = estimator_checks_generator(
        DACLEncoder(**{**QUICK, "random_state": None}),
        expected_failed_checks=EXPECTED_FAILED_CHECKS,
        mark="skip",
    )
    for estimator, check in checks:
        name = getattr(check, "func", check).__name__
        yield pytest.param(estimator, check, id=name)


@pytest.mark.parametrize(("estimator", "check"), list(quick_checks()))
def test_checks_of_scikit_learn(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they feed may well collapse
        try:
            check(estimator)
        except SkipTest as reason:
            if "SCIPY_ARRAY_API is not set" not in str(reason):  # no other may be skipped
                raise AssertionError from reason


def test_few_checks_are_expected_to_fail():
    assert len(EXPECTED_FAILED_CHECKS) <= 3
    assert all(isinstance(reason, str) for reason in EXPECTED_FAILED_CHECKS.values())


def mixed_table(n=400):
    """A label that neither numbers nor categories tell alone, and much that has to be borne."""
    rng = np.random.default_rng(0)
    kind = rng.integers(4, size=n)
    amount = rng.normal(size=n)
    return pd.DataFrame(
        {
            "kind": np.array(["north", "south", "east", "west"])[kind],
            "amount": np.where(rng.random(n) < 0.1, np.nan, amount),
            "skewed": np.where(rng.random(n) < 0.95, 0, 1e6),
            "flag": amount > 0,
            "id": [f"row {i}" for i in range(n)],
        }
    )


def test_numbers_and_categories_with_missing_ones():
    frame = mixed_table()
    encoder = DACLEncoder(**QUICK)
    h = encoder.fit_transform(frame)
    assert h.shape == (400, 16)
    assert h.dtype == np.float32
    assert np.isfinite(h).all()
    assert encoder.columns_.dropped == {"id": "has no value twice, as names or identifiers"}
    assert [c.name for c in encoder.columns_.categories] == ["kind"]
    # Polars says the same.
    polars = pl.from_pandas(frame)
    same = DACLEncoder(**QUICK).fit(polars)
    np.testing.assert_array_equal(same.transform(polars), h)
    assert list(same.feature_names_in_) == polars.columns
    with pytest.raises(ValueError, match="Feature names must be in the same order"):
        same.transform(polars.select(reversed(polars.columns)))
    # What was not seen, or is missing, is no error.
    new = frame.assign(kind=["centre"] * 200 + [None] * 200, skewed=np.nan)
    assert np.isfinite(encoder.transform(new)).all()
    renamed = frame.rename(columns={"amount": "sum"})
    with pytest.raises(ValueError, match="Feature names unseen at fit time:\n- sum"):
        encoder.transform(renamed)


def named(*names):
    rng = np.random.default_rng(0)
    columns = pd.MultiIndex.from_tuples(names) if isinstance(names[0], tuple) else list(names)
    return pd.DataFrame(rng.normal(size=(60, len(names))), columns=columns)


@pytest.mark.parametrize(
    "names",
    [
        (0, 1, 2),
        (("a", 1), ("a", 2), ("b", 1)),
        (1.5, 2.5, 3.5),
        ("x0", "x1", "x2"),  # as columns of arrays are called
    ],
    ids=["integers", "tuples", "floats", "text"],
)
@pytest.mark.filterwarnings("ignore:X has feature names:UserWarning")
def test_columns_are_known_by_names_of_any_kind(tmp_path, names):
    frame = named(*names)
    encoder = DACLEncoder(**QUICK).fit(frame)
    expected = encoder.transform(frame)
    np.testing.assert_array_equal(encoder.transform(frame.copy()), expected)
    encoder.save(tmp_path / "e")
    other = frame.set_axis(["a", "b", "c"], axis=1)
    loaded = DACLEncoder.load(tmp_path / "e")
    for method in (encoder.transform, loaded.transform, encoder.partial_fit, encoder.matrix):
        with pytest.raises(ValueError, match="Feature names must be in the same order"):
            method(frame.iloc[:, [2, 0, 1]])
        with pytest.raises(ValueError, match=r"unseen at fit time:\n- a\n- b\n- c\n.*now missing"):
            method(other)
    as_text = frame.set_axis([str(name) for name in names], axis=1)
    np.testing.assert_array_equal(encoder.transform(as_text), expected)


def test_names_that_are_no_text_for_those_that_are():
    encoder = DACLEncoder(**QUICK).fit(named("a", "b"))
    with (
        pytest.warns(UserWarning, match="X does not have valid feature names"),
        pytest.raises(ValueError, match=r"unseen at fit time:\n- 0\n- 1\n.*\n- a\n- b"),
    ):
        encoder.transform(named(0, 1))


def test_a_frame_for_an_array_and_an_array_for_a_frame():
    """As scikit-learn has it, where only one of them has names."""
    frame = named(5, 6)
    for fitted, given in ((frame, frame.to_numpy()), (frame.to_numpy(), frame)):
        encoder = DACLEncoder(**QUICK).fit(fitted)
        np.testing.assert_array_equal(encoder.transform(given), encoder.transform(fitted))


def test_integers_are_positions_of_categories_also_among_names_that_are_integers():
    frame = named(2, 1, 0).round()
    encoder = DACLEncoder(**QUICK, categorical_features=[0]).fit(frame)
    assert [c.name for c in encoder.columns_.categories] == ["2"]
    with pytest.raises(ValueError, match="features must be positions from 0 to 2, got 3"):
        DACLEncoder(**QUICK, categorical_features=[3]).fit(named(3, 4, 5))


@pytest.mark.parametrize("container", ["pandas", "polars"])
def test_output_frames(container):
    encoder = DACLEncoder(**QUICK).set_output(transform=container)
    frame = encoder.fit_transform(X)
    assert type(frame).__module__.startswith(container)
    assert list(frame.columns) == [f"daclencoder{i}" for i in range(16)]
    assert list(encoder.get_feature_names_out()) == list(frame.columns)


def test_same_seed_same_features_and_nothing_else_changes():
    # Legacy, and what numpy's users draw from: that it stays is what is tested.
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, second, other = (
        DACLEncoder(**{**QUICK, "random_state": seed}).fit_transform(X) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, second)
    assert not np.allclose(first, other)
    generators = [np.random.RandomState(1) for _ in range(2)]
    encoders = [DACLEncoder(**{**QUICK, "random_state": g}).fit(X) for g in generators]
    assert encoders[0]._seed == encoders[1]._seed
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002


def test_features_are_better_than_those_of_the_untrained_network():
    x, y = DIGITS
    encoder = DACLEncoder(64, max_iter=20, batch_size=256, random_state=0).fit(x[:1200])
    untrained = DACLEncoder(64, max_iter=1, learning_rate=1e-12, random_state=0).fit(x[:1200])
    scores = []
    for each in (encoder, untrained):
        h = each.transform(x)
        few = LogisticRegression(max_iter=2000).fit(h[:60], y[:60])
        scores.append(few.score(h[1200:], y[1200:]))
    assert scores[0] > scores[1] + 0.05


def test_sparse_matrices_stay_sparse_and_zero_stays_zero():
    dense = np.where(X > 12, X, 0)
    for kind in (sp.csr_array, sp.csc_matrix, sp.coo_array):
        encoder = DACLEncoder(**QUICK)
        h = encoder.fit_transform(kind(dense))
        assert h.shape == (300, 16)
        assert encoder.columns_ is None
        np.testing.assert_array_equal(encoder.transform(sp.csr_array(dense)), h)
    with pytest.raises(ValueError, match="X is dense, and the encoder was fitted on sparse data"):
        encoder.transform(dense)
    with pytest.raises(ValueError, match="X is sparse, and the encoder was fitted on dense data"):
        DACLEncoder(**QUICK).fit(dense).transform(sp.csr_array(dense))


def with_value(matrix, value):
    """The same matrix, with something else in column 4."""
    other = matrix.tolil()
    other[7, 4] = value
    return other.tocsr()


def test_nan_in_sparse_matrices_is_refused_and_harms_nothing():
    matrix = sp.csr_array(X)
    bad = with_value(matrix, np.nan)
    encoder = DACLEncoder(**QUICK).partial_fit(matrix)
    expected = encoder.transform(matrix)
    for refused in (DACLEncoder(**QUICK).fit, encoder.partial_fit, encoder.transform):
        with pytest.raises(ValueError, match="column 'x4' contains NaN: values of a sparse matrix"):
            refused(bad)
    np.testing.assert_array_equal(encoder.transform(matrix), expected)


@pytest.mark.parametrize("power", [-1060, -150, 130, 1000])
def test_columns_of_sparse_matrices_may_have_any_scale(power, tmp_path):
    """Powers of 2, so that not a bit differs; those of float32 end at -149 and 127."""
    matrix = sp.csr_array(X)
    expected = DACLEncoder(**QUICK).fit_transform(matrix)
    scaled = matrix * 2.0**power
    encoder = DACLEncoder(**QUICK).fit(scaled)
    np.testing.assert_array_equal(encoder.transform(scaled), expected)
    saved(encoder, scaled, tmp_path / "encoder")


def test_values_of_sparse_matrices_that_would_overflow():
    matrix = sp.csr_array(X)
    encoder = DACLEncoder(**QUICK).partial_fit(matrix)
    expected = encoder.transform(matrix)
    bad = with_value(matrix, 1e300)
    for refused in (encoder.partial_fit, encoder.transform):
        with pytest.raises(ValueError, match=r"column 'x4' contains 1e\+300, and .* in fit was 16"):
            refused(bad)
    np.testing.assert_array_equal(encoder.transform(matrix), expected)


def test_early_stopping_needs_no_label():
    settings = {**QUICK, "max_iter": 60, "n_iter_no_change": 2}
    encoder = DACLEncoder(**settings, learning_rate=1e-9).fit(X)
    assert encoder.n_iter_ == len(encoder.history_) < 60
    assert all("validation_loss" in row for row in encoder.history_)
    without = DACLEncoder(**{**settings, "max_iter": 5}, early_stopping=False).fit(X)
    assert without.n_iter_ == 5
    assert "validation_loss" not in without.history_[0]
    few = DACLEncoder(**{**settings, "max_iter": 5}).fit(X[:49])
    assert few.n_iter_ == 5


def test_looking_at_columns_changes_nothing():
    generator = np.random.RandomState(3)
    encoder = DACLEncoder(**{**QUICK, "random_state": generator})
    state = generator.get_state()[1].copy()
    assert len(encoder.inspect_columns(X).numbers) == 64
    assert (generator.get_state()[1] == state).all()
    assert not hasattr(encoder, "n_features_in_")
    encoder.fit(X)
    encoder.inspect_columns(X[:, :5])
    assert encoder.n_features_in_ == 64


@pytest.mark.parametrize("how", ["fit", "partial_fit"])
def test_a_loss_that_is_not_finite_raises_and_leaves_an_encoder_in_evaluation_mode(how):
    X = np.random.default_rng(0).normal(size=(64, 3))
    encoder = DACLEncoder(**QUICK | {"batch_size": 16, "learning_rate": 1e30})
    fitted = DACLEncoder(**QUICK).fit(X)
    for each in (encoder, fitted.set_params(learning_rate=1e30, batch_size=16)):
        with pytest.raises(LossNotFinite, match=r"the loss became (nan|inf)") as raised:
            getattr(each, how)(X)
        assert raised.value.step > 0
        assert len(raised.value.indices) == 16
    # A fit leaves what was there before, if anything was; partial_fit the network of its last step.
    assert hasattr(encoder, "model_") == (how == "partial_fit")
    assert not any(module.training for module in fitted.model_.modules())
    if how == "fit":
        assert np.isfinite(fitted.transform(X)).all()


def test_after_a_batch_without_a_finite_loss_the_network_is_the_one_before_it():
    encoder = DACLEncoder(**QUICK).fit(X)
    expected = encoder.transform(X)
    with torch.no_grad():
        encoder.model_.projector[-1].weight[0, 0] = torch.nan
    with pytest.raises(LossNotFinite):
        encoder.partial_fit(X)
    np.testing.assert_array_equal(encoder.transform(X), expected)


def test_a_fit_that_fails_leaves_what_was_fitted(tmp_path):
    encoder = DACLEncoder(**QUICK, run_dir=tmp_path / "run").fit(X)
    expected, n_iter = encoder.transform(X), encoder.n_iter_
    with pytest.raises(ValueError, match="already holds a run"):
        encoder.fit(X)
    np.testing.assert_array_equal(encoder.transform(X), expected)
    assert encoder.n_iter_ == n_iter
    with pytest.raises(ValueError, match="a minimum of 2 is required"):
        encoder.fit(X[:1, :5])
    np.testing.assert_array_equal(encoder.transform(X), expected)


def test_partial_fit_goes_on():
    encoder = DACLEncoder(**QUICK)
    losses = []
    for _ in range(30):
        encoder.partial_fit(X)
        torch.manual_seed(0)
        with torch.no_grad():
            losses.append(float(encoder.model_.eval()(encoder._rows(X))))
    assert encoder.n_iter_ == 30
    assert np.mean(losses[-5:]) < 0.9 * losses[0]
    again = DACLEncoder(**QUICK)
    for _ in range(30):
        again.partial_fit(X)
    np.testing.assert_array_equal(encoder.transform(X), again.transform(X))
    with pytest.raises(ValueError, match="X has 3 features, but DACLEncoder is expecting 64"):
        encoder.partial_fit(X[:, :3])
    fitted = DACLEncoder(**QUICK).fit(X)
    h, centers = fitted.transform(X), [n.center for n in fitted.columns_.numbers]
    fitted.partial_fit(X + 1)
    assert [n.center for n in fitted.columns_.numbers] == centers
    assert not np.array_equal(fitted.transform(X), h)


def in_every_way(path):
    """Encoders that were fitted, went on, were loaded, and have yet to learn."""
    fitted = DACLEncoder(**QUICK).fit(X)
    fitted.save(path)
    continued = DACLEncoder(**QUICK).fit(X).partial_fit(X)
    return [fitted, continued, DACLEncoder.load(path), fitted.untrained()]


def test_threads_share_an_encoder(tmp_path):
    """One enters transform before another and leaves it while that one is inside."""
    for encoder in in_every_way(tmp_path / "encoder"):
        expected, found = encoder.transform(X), []
        inside, left = threading.Event(), threading.Event()
        second = threading.Thread(target=lambda e=encoder, f=found: f.append(e.transform(X)))

        def meet(module, inputs, inside=inside, left=left, second=second):
            if threading.current_thread() is second:
                inside.set()
                assert left.wait(60)
            else:
                second.start()
                assert inside.wait(60)

        with encoder.model_.encoder.register_forward_pre_hook(meet):
            found.append(encoder.transform(X))
            left.set()
            second.join()
        assert len(found) == 2
        for h in (*found, encoder.transform(X)):
            np.testing.assert_array_equal(h, expected)


def test_transform_in_threads_of_joblib():
    encoder = DACLEncoder(**QUICK).fit(X)
    expected = encoder.transform(X)
    found = Parallel(2, "threading")(delayed(encoder.transform)(X) for _ in range(20))
    for h in (*found, encoder.transform(X)):
        np.testing.assert_array_equal(h, expected)


def test_the_network_trains_in_partial_fit_alone(tmp_path):
    for encoder in in_every_way(tmp_path / "encoder"):
        assert not any(module.training for module in encoder.model_.modules())
        means = encoder.model_.encoder.layers[1].running_mean.clone()
        encoder.partial_fit(X)
        assert not torch.equal(encoder.model_.encoder.layers[1].running_mean, means)


def test_inside_pipelines_and_searches():
    x, y = DIGITS[0][:200], DIGITS[1][:200]
    pipeline = make_pipeline(DACLEncoder(**QUICK), LogisticRegression(max_iter=500))
    assert cross_val_score(pipeline, x, y, cv=2).mean() > 0.5
    grid = {"daclencoder__noise": ["linear", "gaussian"], "daclencoder__alpha": [0.5]}
    search = GridSearchCV(pipeline, grid, cv=2, n_jobs=2).fit(x, y)
    assert search.best_params_["daclencoder__alpha"] == 0.5
    assert set(search.cv_results_["param_daclencoder__noise"]) == {"linear", "gaussian"}


def saved(encoder, x, path):
    encoder.save(path)
    loaded = DACLEncoder.load(path)
    np.testing.assert_array_equal(loaded.transform(x), encoder.transform(x))
    return loaded


def test_saving_and_loading(tmp_path):
    frame = mixed_table()
    settings = {**QUICK, "noise": get_noise("gaussian", sigma=0.1), "verbose": False}
    encoder = DACLEncoder(**settings, categorical_features=np.array(["flag"])).fit(frame)
    loaded = saved(encoder, frame, tmp_path / "new" / "encoder.safetensors")
    assert list(loaded.feature_names_in_) == list(frame.columns)
    assert loaded.columns_ == encoder.columns_
    assert loaded.history_ == encoder.history_
    assert loaded.noise.sigma == 0.1
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["encoder.safetensors"]
    loaded.partial_fit(frame)
    saved(DACLEncoder(**QUICK).fit(X), X, tmp_path / "b")
    matrix = sp.csr_array(X)
    saved(DACLEncoder(**QUICK).fit(matrix), matrix, tmp_path / "c")
    pickled = pickle.loads(pickle.dumps(encoder.partial_fit(frame)))
    np.testing.assert_array_equal(pickled.transform(frame), encoder.transform(frame))
    pickled.partial_fit(frame)


OTHERS = {
    "n_components": 4,
    "n_layers": 1,
    "noise": "gaussian",
    "alpha": 0.1,
    "temperature": 9.0,
    "categorical_features": [3],
}


@pytest.mark.parametrize("name", OTHERS)
def test_parameters_set_after_fit_are_those_of_the_next(name, tmp_path):
    frame = mixed_table()
    encoder = DACLEncoder(**QUICK).fit(frame)
    continued = copy.deepcopy(encoder).partial_fit(frame).transform(frame)
    fitted = encoder.get_params()
    h, before = encoder.transform(frame), encoder.untrained().transform(frame)
    encoder.set_params(**{name: OTHERS[name]})
    np.testing.assert_array_equal(encoder.transform(frame), h)
    np.testing.assert_array_equal(encoder.untrained().transform(frame), before)
    assert encoder.untrained().get_params() == fitted
    assert len(encoder.get_feature_names_out()) == h.shape[1]
    loaded = saved(encoder, frame, tmp_path / "encoder")
    assert loaded.get_params() == {**fitted, "random_state": None}
    for each in (encoder, loaded):
        np.testing.assert_array_equal(each.partial_fit(frame).transform(frame), continued)
    assert encoder.get_params()[name] == OTHERS[name]
    assert encoder.fit(frame).transform(frame).shape[1] == encoder.n_components


def test_parameters_set_after_fit_are_checked_before_it_goes_on():
    encoder = DACLEncoder(**QUICK).fit(X).set_params(batch_size=1)
    with pytest.raises(ValueError, match="batch_size must be an integer >= 2, got 1"):
        encoder.partial_fit(X)
    assert encoder.n_iter_ == 2


def test_numbers_of_numpy_are_saved(tmp_path):
    settings = {"alpha": np.float32(0.5), "learning_rate": np.float64(0.01)}
    noise = get_noise("gaussian", sigma=np.float32(0.25))
    for given in ({"early_stopping": np.bool_(False)}, {"noise": noise}):
        encoder = DACLEncoder(**QUICK, **settings, **given).fit(X)
        loaded = saved(encoder, X, tmp_path / "encoder")
        assert loaded.get_params()["alpha"] == 0.5
        assert type(loaded.alpha) is float
    assert loaded.noise.sigma == 0.25


def test_a_learning_rate_set_between_calls_of_partial_fit_counts():
    encoder = DACLEncoder(**QUICK).partial_fit(X)
    before = [p.clone() for p in encoder.model_.parameters()]
    encoder.set_params(learning_rate=1e-12).partial_fit(X)
    for parameter, value in zip(encoder.model_.parameters(), before, strict=True):
        torch.testing.assert_close(parameter, value, rtol=0, atol=1e-9)


def test_what_cannot_be_loaded(tmp_path):
    path = tmp_path / "encoder"
    with pytest.raises(FileNotFoundError, match=r"no such file: '.*encoder'"):
        DACLEncoder.load(path)
    encoder = DACLEncoder(**QUICK).fit(X)
    encoder.save(path)
    tensors = load_file(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        DACLEncoder.load(path)
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"not written by DACLEncoder.save: its format is None"):
        DACLEncoder.load(path)

    class Unknown:
        pass

    encoder.set_params(early_stopping=Unknown())
    with pytest.raises(ValueError, match="cannot be saved: Object of type Unknown"):
        encoder.save(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_components": 0}, "n_components must be an integer >= 1, got 0"),
        ({"n_layers": 0}, "n_layers must be an integer >= 1, got 0"),
        ({"batch_size": 1}, "batch_size must be an integer >= 2, got 1"),
        ({"max_iter": 0}, "max_iter must be an integer >= 1, got 0"),
        ({"n_iter_no_change": 0}, "n_iter_no_change must be an integer >= 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be finite and > 0, got 0.0"),
        ({"temperature": -1.0}, "temperature must be"),
        ({"alpha": 2.0}, r"alpha must be in \[0, 1\], got 2.0"),
        ({"noise": "liner"}, "did you mean 'linear'"),
        ({"noise": "augment"}, "noise 'augment' cannot be made of its name alone .*'transform'"),
        ({"noise": get_noise("hidden", at="layers.3")}, "rows of the table.*at 'layers.3': give"),
        ({"categorical_features": ["x99"]}, "categorical_features must name columns, got 'x99'"),
        ({"categorical_features": "all"}, "categorical_features must be 'auto' or columns"),
    ],
)
def test_bad_arguments(settings, message):
    with pytest.raises(ValueError, match=message):
        DACLEncoder(**{**QUICK, **settings}).fit(X)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": "a"}, "learning_rate must be finite and > 0, got str 'a'"),
        ({"learning_rate": None}, "learning_rate must be finite and > 0, got NoneType None"),
        ({"categorical_features": None}, r"'auto' or columns, got None; \[\] if only text"),
        ({"categorical_features": 3}, "categorical_features must be 'auto' or columns, got 3"),
    ],
)
def test_arguments_of_another_kind(settings, message):
    with pytest.raises(TypeError, match=message):
        DACLEncoder(**{**QUICK, **settings}).fit(X)


def test_sparse_matrices_have_no_categories():
    matrix = sp.csr_array(X)
    for none in ("auto", [], [False] * 64):
        DACLEncoder(**QUICK, categorical_features=none).fit(matrix)
    encoder = DACLEncoder(**QUICK, categorical_features=[0])
    for refused in (encoder.fit, encoder.inspect_columns):
        with pytest.raises(ValueError, match=r"must be 'auto' for a sparse matrix.* got \[0\]"):
            refused(matrix)


@pytest.mark.parametrize(
    "far",
    [
        lambda u: np.where(u > 0, 1e308, -1e308),  # the quartiles
        lambda u: np.where(u > 0.4, 1.7e308, -1.7e308),  # what deviates from the median
        lambda u: np.where(abs(u) > 0.2, np.sign(u) * 1e308, 0),
    ],
)
def test_numbers_too_far_apart_for_float64(far):
    column = far(np.linspace(-0.5, 0.5, 200))
    frame = pd.DataFrame({"near": np.arange(200.0), "far": column})
    with pytest.raises(ValueError, match="column 'far' holds numbers farther apart than float64"):
        DACLEncoder(**QUICK).fit(frame)
    encoder = DACLEncoder(**QUICK).fit(frame / 4)
    assert (encoder.transform(frame / 4).std(0) > 0).any()


def test_an_encoder_outlives_data_that_it_refuses():
    encoder = DACLEncoder(**QUICK).fit(X)
    expected = encoder.transform(X)
    with pytest.raises(ValueError, match="column 'x4' contains NaN"):
        encoder.fit(with_value(sp.csr_array(X), np.nan))
    np.testing.assert_array_equal(encoder.transform(X), expected)


def test_bad_data():
    for bad, message in (
        (X[:1], "minimum of 2 is required"),
        (pd.DataFrame(X[:1]).rename(columns=str), "X must have at least 2 rows, got 1 sample"),
        (pd.DataFrame(index=range(9)), r"X must have at least one column, got .* 0 feature\(s\)"),
        (np.where(X > 15, np.inf, X), "infinity"),
        (np.full((9, 2), np.nan), "no column has anything to learn from"),
    ):
        with pytest.raises(ValueError, match=message):
            DACLEncoder(**QUICK).fit(bad)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_masked_numbers_are_missing(dtype):
    mask = np.random.default_rng(0).random(X.shape) < 0.1
    masked = np.ma.masked_array(np.where(mask, 999, X).astype(dtype), mask)
    missing = np.where(mask, np.nan, X).astype(dtype)
    for method in ("fit", "partial_fit"):
        found, expected = (getattr(DACLEncoder(**QUICK), method)(x) for x in (masked, missing))
        assert found.columns_ == expected.columns_
        found.partial_fit(masked)
        expected.partial_fit(missing)
        np.testing.assert_array_equal(found.transform(masked), expected.transform(missing))


def test_masked_integers_are_refused():
    plain = X.astype(int)
    encoder = DACLEncoder(**QUICK).fit(np.ma.masked_array(plain))  # nothing is masked
    masked = np.ma.masked_equal(plain, 3)
    for method in (encoder.fit, encoder.partial_fit, encoder.transform):
        with pytest.raises(ValueError, match=r"X must have no masked values: fill them.*got int64"):
            method(masked)


def test_categories_by_index_of_an_array():
    x = np.column_stack((X[:, 20], np.random.default_rng(0).integers(5, size=300)))
    encoder = DACLEncoder(**QUICK, categorical_features=[1]).fit(x)
    assert [c.values for c in encoder.columns_.categories] == [list("01234")]
    assert len(encoder.columns_.numbers) == 1


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table])
@pytest.mark.parametrize(
    "values",
    [
        [dt.date(2020, 1, day) for day in (1, 2, 3)],
        [dt.datetime(2020, 1, 2, hour) for hour in (1, 2, 3)],
        [dt.time(hour) for hour in (1, 2, 3)],
    ],
    ids=["dates", "moments", "times"],
)
def test_dates_and_times_are_categories_where_that_is_asked_for(tmp_path, make, values):
    rest = {"x": np.arange(30.0), "unlike": [dt.time(1, minute) for minute in range(30)]}
    frame = make({"d": values * 10, **rest})
    encoder = DACLEncoder(4, max_iter=1, random_state=0, categorical_features=["d", "unlike"])
    encoder.fit(frame)
    assert [c.values for c in encoder.columns_.categories] == [[str(v) for v in values]]
    assert list(encoder.columns_.dropped) == ["unlike"]
    loaded = saved(encoder, frame, tmp_path / "e")
    for each in (pickle.loads(pickle.dumps(encoder)), loaded, encoder.partial_fit(frame)):
        assert each.matrix(frame)[:, -1].tolist() == [1, 2, 3] * 10
    # What was not chosen is what it was before.
    with pytest.raises(ValueError, match="column 'x' held numbers in fit, and now holds dates"):
        encoder.transform(make({"d": values * 10, **rest, "x": [dt.date(2020, 1, 1)] * 30}))


def test_a_frame_that_has_yet_to_be_collected():
    frame = pl.from_pandas(mixed_table())
    encoder = DACLEncoder(**QUICK)
    for method in (encoder.fit, encoder.fit(frame).transform, encoder.partial_fit):
        with pytest.raises(TypeError, match=r"got a LazyFrame: collect\(\) it"):
            method(frame.lazy())


def test_times_that_are_not_said_to_be_categories():
    with pytest.raises(TypeError, match="got time; name it in categorical_features, or"):
        DACLEncoder(**QUICK).fit(pa.table({"t": [dt.time(1)] * 9}))


def test_a_run_in_a_folder_is_gone_on_with(tmp_path):
    settings = {**QUICK, "run_dir": tmp_path / "run"}
    whole = DACLEncoder(**settings).fit(X)
    assert (tmp_path / "run" / "metrics.csv").exists()
    with pytest.raises(ValueError, match="already holds a run"):
        DACLEncoder(**settings).fit(X)
    again = DACLEncoder(**settings, resume=True).fit(X)
    np.testing.assert_array_equal(again.transform(X), whole.transform(X))


def test_the_default_device_does_not_matter(tmp_path):
    table = mixed_table(100)

    def every_method():
        encoder = DACLEncoder(**QUICK).fit(table).partial_fit(table)
        loaded = saved(encoder, table, tmp_path / "e")
        return [
            encoder.matrix(table),
            loaded.transform(table),
            encoder.untrained().transform(table),
        ]

    expected = every_method()
    with torch.device("meta"):
        found = every_method()
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_progress_only_if_asked_for(capsys):
    DACLEncoder(**QUICK).fit(X)
    assert capsys.readouterr().err == ""
    DACLEncoder(**QUICK, verbose=True).fit(X)
    assert "epoch 2/2: loss" in capsys.readouterr().err


def test_what_is_missing_is_named():
    code = "import sys; sys.modules['sklearn'] = None; import mixnoise.sklearn"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'mixnoise[tables]'" in found.stderr.splitlines()[-1]


class Unnamed(Linear):
    """Registered under no name of its own."""


@pytest.mark.parametrize("noise", [Unnamed(), get_noise("hidden", noise=Unnamed())])
def test_a_noise_that_no_name_stands_for_is_not_saved(tmp_path, noise):
    encoder = DACLEncoder(noise=noise, **QUICK).fit(np.random.default_rng(0).normal(size=(20, 3)))
    with pytest.raises(ValueError, match="cannot be saved, for no name stands for it"):
        encoder.save(tmp_path / "e")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_noise_that_json_has_no_form_for_is_not_saved(tmp_path, wrapped):
    noise = get_noise("augment", transform=torch.nn.Dropout(0.1))
    noise = get_noise("hidden", noise=noise) if wrapped else noise
    encoder = DACLEncoder(noise=noise, **QUICK).fit(X)
    with pytest.raises(ValueError, match=r"noise .*augment.* cannot be saved: Object of type Dro"):
        encoder.save(tmp_path / "e")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [torch.as_tensor, torch.nn.Parameter])
def test_a_temperature_that_is_a_tensor_is_saved_as_a_number(tmp_path, kind):
    encoder = DACLEncoder(**QUICK, temperature=kind(torch.tensor(0.25))).fit(X)
    loaded = saved(encoder, X, tmp_path / "e")
    assert loaded.temperature == encoder.model_.loss.temperature.item()
    assert type(loaded.temperature) is float
    saved(loaded.partial_fit(X), X, tmp_path / "e")


def test_a_noise_is_a_name_or_a_noise():
    with pytest.raises(TypeError, match="noise must be a name or a Noise, got int"):
        DACLEncoder(noise=3).fit(np.ones((4, 2)))


def test_resume_needs_a_seed(tmp_path):
    arguments = {**QUICK, "run_dir": tmp_path / "run", "resume": True}
    with pytest.raises(ValueError, match="resume needs the random_state of the run in run_dir"):
        DACLEncoder(**{**arguments, "random_state": None}).fit(X)
    DACLEncoder(**{**QUICK, "random_state": None, "resume": True}).partial_fit(X)  # resumes nothing
    first = DACLEncoder(**arguments).fit(X)
    # A generator in the state that the seed gives.
    again = DACLEncoder(**{**arguments, "random_state": np.random.RandomState(0)}).fit(X)
    np.testing.assert_array_equal(first.transform(X), again.transform(X))


@pytest.mark.parametrize("way", ["fit", "partial_fit"])
def test_features_are_of_32_bits_under_any_default(way):
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        with torch.no_grad():
            encoder = getattr(DACLEncoder(**QUICK), way)(X)
        assert encoder.transform(X).dtype == np.float32
    finally:
        torch.set_default_dtype(before)


def test_inference_mode_does_not_matter(tmp_path):
    def every_way():
        encoder = DACLEncoder(**QUICK)
        h = encoder.fit_transform(X)
        return [h, saved(encoder, X, tmp_path / "e"), encoder.untrained(), encoder]

    expected = every_way()
    with torch.inference_mode():
        found = every_way()
    np.testing.assert_array_equal(found[0], expected[0])
    for one, other in zip(found[1:], expected[1:], strict=True):
        h = one.partial_fit(X).transform(X)
        np.testing.assert_array_equal(h, other.partial_fit(X).transform(X))


@pytest.mark.parametrize("chosen", [{1}, (1,), np.array([1]), range(1, 2)])
def test_categories_named_in_any_collection_are_saved(chosen, tmp_path):
    table = np.stack((np.linspace(0, 1, 60), np.arange(60) % 3), 1)
    encoder = DACLEncoder(**QUICK, categorical_features=chosen).fit(table)
    encoder.save(tmp_path / "e")
    again = DACLEncoder.load(tmp_path / "e")
    assert again.categorical_features == [1]
    np.testing.assert_array_equal(again.transform(table), encoder.transform(table))
