"""Columns, their noise, and the rows to train on."""

import datetime as dt
from decimal import Decimal
from functools import partial

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st

from mixnoise import get_noise
from mixnoise.networks import TableEncoder
from mixnoise.tabular.columns import LARGEST, MAX_CATEGORIES, Columns
from mixnoise.tabular.noise import TableNoise
from mixnoise.tabular.rows import SparseRows, held_out, parts
from mixnoise.tabular.tables import ArrayTable, FrameTable, columns_named

RNG = np.random.RandomState(0)
FRAMES = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "pyarrow": pa.table}
N = 40


def people(make):
    """A table with a column of every kind."""
    return make(
        {
            "age": [30.0, None] + [float(i) for i in range(N - 2)],
            "married": [True, False] * (N // 2),
            "born": [dt.datetime(1990, 1, 1) + dt.timedelta(days=i) for i in range(N)],
            "job": ["baker", "smith", None, "baker"] * (N // 4),
            "name": [f"person {i}" for i in range(N)],
            "planet": ["Earth"] * N,
            "count": list(range(N)),
        }
    )


@pytest.mark.parametrize("make", FRAMES.values(), ids=FRAMES)
def test_every_library_gives_the_same_columns_and_matrix(make):
    expected = FrameTable(people(pl.DataFrame))
    table = FrameTable(people(make))
    columns = Columns.of(table, RNG)
    assert columns == Columns.of(expected, RNG)
    assert [(n.name, n.kind, n.missing) for n in columns.numbers] == [
        ("age", "number", True),
        ("married", "number", False),
        ("born", "date", False),
        ("count", "number", False),
    ]
    assert columns.categories[0].values == ["baker", "smith", None]
    assert columns.dropped == {
        "name": "has no value twice, as names or identifiers",
        "planet": "has one value",
    }
    x = columns.transform(table)
    np.testing.assert_array_equal(x, columns.transform(expected))
    assert x.dtype == np.float32
    assert x.shape == (N, 4 + 1 + 1)
    assert x[1, 0] == 0  # missing: the median
    np.testing.assert_array_equal(x[:, 4], np.eye(N)[1])  # and where
    np.testing.assert_array_equal(x[:4, 5], [1, 2, 3, 1])
    assert Columns.from_dict(columns.as_dict()) == columns


def matrix_of(values):
    table = ArrayTable(np.asarray(values, float).reshape(-1, 1), ["x"])
    return Columns.of(table, RNG).transform(table)[:, 0]


def test_numbers_of_a_normal_distribution_are_standardised():
    x = np.random.default_rng(0).normal(7, 3, 20_000)
    z = matrix_of(x)
    expected = (x - 7) / 3
    inner = abs(expected) < 2
    np.testing.assert_allclose(z[inner], expected[inner], atol=0.2)
    assert np.corrcoef(z, expected)[0, 1] > 0.995


@given(st.lists(st.floats(-1e300, 1e300), min_size=2, max_size=50))
def test_no_outlier_gets_far_and_order_is_kept(values):
    z = matrix_of(values)
    assert np.isfinite(z).all()
    assert abs(z).max() <= LARGEST
    assert (np.diff(z[np.argsort(values)]) >= 0).all()


def test_mostly_equal_values_have_a_scale():
    z = matrix_of([0.0] * 95 + [99_999.0] * 5)
    assert set(z[:95]) == {0.0}
    assert 2 < z[-1] < LARGEST
    assert set(matrix_of([3.0] * 10)) == {0.0}


def test_statistics_come_from_some_rows_of_many(monkeypatch):
    monkeypatch.setattr("mixnoise.tabular.columns._ROWS_FOR_STATISTICS", 500)
    monkeypatch.setattr("mixnoise.tabular.columns._ROWS_PER_BLOCK", 300)
    x = np.random.default_rng(0).normal(5, 2, (5000, 2)).astype(np.float32)
    for table in (ArrayTable(x, ["a", "b"]), FrameTable(pl.DataFrame(x, ["a", "b"]))):
        columns = Columns.of(table, np.random.RandomState(0))
        assert columns.numbers[0].center == pytest.approx(5, abs=0.4)
        z = columns.transform(table)
        assert z.mean(0) == pytest.approx([0, 0], abs=0.2)
        assert z.std(0) == pytest.approx([1, 1], abs=0.2)


def test_rare_and_unknown_values_share_a_code_that_numbers_do_not():
    values = [v for i in range(MAX_CATEGORIES + 20) for v in [f"v{i:03}"] * (3 + i)] + ["once"]
    table = FrameTable(pl.DataFrame({"x": values}))
    columns = Columns.of(table, RNG)
    assert columns.cardinalities == [MAX_CATEGORIES + 1]
    code = dict(zip(values, columns.transform(table)[:, 0], strict=True))
    assert code["once"] == code["v000"] == code["v019"] == 0
    assert sorted(code.values())[-MAX_CATEGORIES:] == list(range(1, MAX_CATEGORIES + 1))
    new = FrameTable(pl.DataFrame({"x": ["never seen", None, "v100"]}))
    np.testing.assert_array_equal(columns.transform(new)[:, 0], [0, 0, code["v100"]])


def test_numbers_as_categories_are_the_same_with_and_without_missing_ones():
    whole = FrameTable(pd.DataFrame({"x": [3, 3, 7, 7]}), [0])
    columns = Columns.of(whole, RNG)
    gappy = FrameTable(pd.DataFrame({"x": [3, None, 7.0]}), [0])
    np.testing.assert_array_equal(columns.transform(gappy)[:, 0], [1, 0, 2])
    array = ArrayTable(np.array([[7.0], [3.0], [8.0]]), ["x"], [0])
    np.testing.assert_array_equal(columns.transform(array)[:, 0], [2, 1, 0])


def test_columns_of_objects():
    frame = pd.DataFrame(
        {"a": pd.Series([1, 2.5, None], dtype=object), "b": pd.Series(["u", 3, "u"], dtype=object)}
    )
    columns = Columns.of(FrameTable(frame), RNG)
    assert [n.name for n in columns.numbers] == ["a"]
    assert columns.categories[0].values == ["u"]
    with pytest.raises(TypeError, match="column 'c': argument must be a string or a number"):
        FrameTable(pd.DataFrame({"c": [{"foo": "bar"}, "x"]}))


def test_what_cannot_be_learned_from():
    with pytest.raises(ValueError, match="column 'x' contains infinity"):
        matrix_of([1.0, np.inf])
    with pytest.raises(ValueError, match="no column has anything to learn from: 'x' has no"):
        matrix_of([np.nan, np.nan])
    columns = Columns.of(FrameTable(pl.DataFrame({"x": [1.0, 2.0]})), RNG)
    with pytest.raises(ValueError, match="column 'x' held numbers in fit, and now holds text"):
        columns.transform(FrameTable(pl.DataFrame({"x": ["a", "b"]})))
    with pytest.raises(ValueError, match="infinity"):
        columns.transform(FrameTable(pl.DataFrame({"x": [1.0, -np.inf]})))


@pytest.mark.parametrize(
    ("chosen", "found"),
    [("auto", []), (["b"], [1]), ([2, 0], [2, 0]), ([True, False, True], [0, 2]), ([], [])],
)
def test_columns_by_name_index_or_mask(chosen, found):
    assert columns_named(chosen, ["a", "b", "c"]) == found
    assert columns_named(np.array(chosen), ["a", "b", "c"]) == found if chosen != "auto" else True


@pytest.mark.parametrize("chosen", ["b", ["d"], [3], [-1], [True, False], [1.5]])
def test_columns_that_are_not_there(chosen):
    with pytest.raises(ValueError, match="categorical_features"):
        columns_named(chosen, ["a", "b", "c"])


# Noise.


def table_of(n=500, n_numbers=4, n_codes=3):
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(n, n_numbers, generator=generator)
    codes = torch.randint(50, (n, n_codes), generator=generator).float()
    return torch.cat((numbers, codes), 1)


@pytest.mark.parametrize("name", ["linear", "geometric", "binary", "dacl+", "gaussian"])
def test_numbers_are_mixed_as_without_categories_and_codes_stay_codes(name):
    x = table_of()
    inner = get_noise(name)
    noise = TableNoise(inner, 4)
    numbers, codes = (draw := noise.sample(x, views=2, seed=5))
    views = noise.apply(x, draw)
    alone = inner.apply(x[:, :4], inner.sample(x[:, :4], views=2, seed=5))
    assert torch.equal(views[..., :4], alone)
    # Each code is the row's own or its partner's.
    own, partners = x[:, 4:], x[:, 4:][codes.partner]
    assert ((views[..., 4:] == own) | (views[..., 4:] == partners)).all()
    swapped = (views[..., 4:] != own).float().mean()
    assert 0.1 < swapped < 0.2  # of 1 - E[c] = 0.15 that are swapped, some are equal
    if name != "gaussian":
        assert torch.equal(codes.partner, numbers.partner)
        assert torch.equal(codes.coef, numbers.coef)
    x_before = x.clone()
    assert torch.equal(noise.apply(x, noise.sample(x, views=2, seed=5)), views)
    assert torch.equal(x, x_before)


def test_masks_of_codes_are_not_those_of_numbers():
    x = torch.arange(400.0)[:, None].repeat(1, 8)
    views = TableNoise(get_noise("binary", alpha=0.0), 4).views(x, 1, seed=0)[0]
    kept = (views == x).float()
    agreement = (kept[:, :4] == kept[:, 4:]).float().mean().item()
    # c ~ U(0, 1) is shared by both, so masks agree with probability E[c^2 + (1-c)^2] = 2/3.
    assert agreement == pytest.approx(2 / 3, abs=0.05)


@pytest.mark.parametrize(("n_numbers", "n_codes"), [(0, 3), (4, 0)])
def test_only_one_kind_of_columns(n_numbers, n_codes):
    x = table_of(n_numbers=n_numbers, n_codes=n_codes)
    views = TableNoise(get_noise("linear"), n_numbers).views(x, 2)
    assert views.shape == (2, *x.shape)
    assert not torch.equal(views[0], x)


def test_settings_of_the_noise_are_kept():
    config = TableNoise(get_noise("gaussian", sigma=0.2), 4, alpha=0.6).config()
    assert config == {
        "name": "table",
        "numbers": {"name": "gaussian", "sigma": 0.2},
        "n_numbers": 4,
        "alpha": 0.6,
    }


# Network and rows.


def test_encoder_embeds_codes_and_starts_unknown_ones_at_zero():
    torch.manual_seed(0)
    net = TableEncoder(2, [5, 100], width=8, depth=2)
    assert [tuple(e.weight.shape) for e in net.embeddings] == [(5, 3), (100, 16)]
    assert all(e.weight[0].eq(0).all() for e in net.embeddings)
    x = torch.tensor([[0.5, 1.0, 4.0, 99.0], [0.5, 1.0, 0.0, 99.0]])
    assert net.eval()(x).shape == (2, 8)
    assert not torch.equal(*net(x))
    assert TableEncoder(0, [3], 4, 1)(torch.tensor([[0.0], [2.0]])).shape == (2, 4)


@pytest.mark.parametrize("n", [1, 7, 50, 99])
def test_held_out_rows_and_the_others_are_all(n):
    x = torch.arange(100.0)[:, None]
    generator = torch.Generator().manual_seed(0)
    matrix = sp.csr_array(1 + x.numpy())
    sparse, out = held_out(SparseRows(matrix, np.ones(1, np.float32)), n, generator)
    assert sorted(torch.cat((sparse[range(len(sparse))], out)).flatten().tolist()) == list(
        range(1, 101)
    )
    before = x.data_ptr()
    kept, out = held_out(x, n, torch.Generator().manual_seed(0))
    assert len(out) == n
    assert kept.data_ptr() == before  # nothing is copied
    assert sorted(torch.cat((kept, out)).flatten().tolist()) == list(range(100))
    if n == 50:
        assert 0.2 < (out >= 50).float().mean() < 0.8


def test_sparse_rows_are_scaled_and_dense(monkeypatch):
    monkeypatch.setattr("mixnoise.tabular.rows._ROWS_AT_A_TIME", 3)
    matrix = sp.csr_array(np.array([[2.0, 0], [0, -8], [1, 0], [0, 0]]))
    rows = SparseRows(matrix, np.array([2, 8], np.float32))
    dense = torch.tensor([[1.0, 0], [0, -1], [0.5, 0], [0, 0]])
    assert torch.equal(torch.cat(list(parts(rows))), dense)
    assert [len(p) for p in parts(rows)] == [3, 1]
    assert torch.equal(torch.stack(rows.__getitems__([3, 0])), dense[[3, 0]])


def transformed(fitted, frame):
    return Columns.of(FrameTable(fitted), RNG).transform(FrameTable(frame))


def test_a_row_as_a_frame_of_objects_is_the_row():
    frame = pd.DataFrame({"a": RNG.randn(40), "n": RNG.randint(0, 9, 40), "b": ["x", "y"] * 20})
    columns = Columns.of(FrameTable(frame), RNG)
    expected = columns.transform(FrameTable(frame.iloc[[5]]))
    objects = frame.iloc[5].to_frame().T
    assert set(objects.dtypes) == {np.dtype(object)}
    np.testing.assert_array_equal(columns.transform(FrameTable(objects)), expected)


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64, np.bool_, float])
def test_numbers_of_numpy_in_a_column_of_objects(kind):
    values = pd.Series([kind(i % 2) for i in range(9)], dtype=object)
    table = FrameTable(pd.DataFrame({"a": values}))
    assert table.kind(0) == "number"
    np.testing.assert_array_equal(table.numbers(0, slice(None)), [i % 2 for i in range(9)])
    plain = FrameTable(pd.DataFrame({"a": pd.Series([kind(0), kind(1)])}))
    assert table.categories(0)[:2] == plain.categories(0)


NULLABLE = {pa.bool_(): pd.BooleanDtype(), pa.int64(): pd.Int64Dtype(), pa.int32(): pd.Int32Dtype()}
MAPPERS = {"pandas": None, "arrow in pandas": pd.ArrowDtype, "nullable pandas": NULLABLE.get}


@pytest.mark.parametrize(
    "make",
    [
        pl.from_arrow,
        pa.Table.combine_chunks,
        *(partial(pa.Table.to_pandas, types_mapper=m) for m in MAPPERS.values()),
    ],
    ids=["polars", "pyarrow", *MAPPERS],
)
@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([2**60 + 1, -(2**53) - 1], pa.int64()),
        ([2**60 + 1, None], pa.int64()),
        ([2**64 - 1, None], pa.uint64()),
        ([3, None], pa.int32()),
        ([1.5, None], pa.float32()),
        ([True, None, False], pa.bool_()),
        ([Decimal("1.5"), None], pa.decimal128(9, 2)),
    ],
    ids=str,
)
def test_numbers_are_the_nearest_float64_whatever_holds_them(make, values, kind):
    table = FrameTable(make(pa.table({"a": pa.array(values, kind)})))
    expected = [np.nan if v is None else float(v) for v in values]
    np.testing.assert_array_equal(table.numbers(0, slice(None)), expected)


@pytest.mark.parametrize("name", ["Int128", "UInt128"])
def test_integers_of_128_bits(name):
    kind = getattr(pl, name, None)
    if kind is None:
        pytest.skip(f"this polars has no {name}")
    table = FrameTable(pl.DataFrame({"a": [2**100, None, 3]}, schema={"a": kind}))
    np.testing.assert_array_equal(table.numbers(0, slice(None)), [2.0**100, np.nan, 3])


DAYS = [dt.date(1970, 1, 1), dt.date(2020, 2, 29)]
MOMENTS = [dt.datetime(1970, 1, 1), dt.datetime(2020, 2, 29)]
ZONE = dt.timezone(dt.timedelta(hours=2))


@pytest.mark.parametrize(
    "values",
    [
        pd.Series(DAYS, dtype=object),
        pd.Series(MOMENTS, dtype=object),
        pd.Series(MOMENTS),
        pd.Series(MOMENTS).dt.tz_localize("UTC"),
        pd.Series([m.replace(tzinfo=dt.UTC).astimezone(ZONE) for m in MOMENTS], dtype=object),
        pa.array(DAYS, pa.date32()),
        pa.array(MOMENTS, pa.date64()),
        pa.array(MOMENTS, pa.timestamp("us", "UTC")),
    ],
    ids=lambda v: str(getattr(v, "dtype", getattr(v, "type", ""))),
)
def test_dates_are_milliseconds_since_1970_whatever_holds_them(values):
    table = pa.table({"d": values}) if isinstance(values, pa.Array) else pd.DataFrame({"d": values})
    assert FrameTable(table).kind(0) == "date"
    expected = [0, (DAYS[1] - DAYS[0]).days * 86_400_000]
    np.testing.assert_array_equal(FrameTable(table).numbers(0, slice(None)), expected)


@pytest.mark.parametrize(
    "missing",
    [
        pd.DataFrame({"a": [None], "b": [1.0]}),
        pd.DataFrame({"a": [pd.NA], "b": [1.0]}),
        pl.DataFrame({"a": [None], "b": [1.0]}, schema={"a": pl.String, "b": pl.Float64}),
        pa.table({"a": pa.nulls(1), "b": [1.0]}),
    ],
    ids=["None", "NA", "polars", "null"],
)
def test_a_missing_number_alone_is_missing(missing):
    fitted = pd.DataFrame({"a": [*range(11), None], "b": np.arange(12.0) % 3})
    np.testing.assert_array_equal(transformed(fitted, missing), [[0, 0, 1]])


@pytest.mark.parametrize(
    ("then", "now", "message"),
    [
        (MOMENTS, [1.0, 2.0], "held dates in fit, and now holds numbers"),
        ([1.0, 2.0], MOMENTS, "held numbers in fit, and now holds dates"),
        (MOMENTS, ["a", "b"], "held dates in fit, and now holds text"),
        (["a", "b"], MOMENTS, "held text in fit, and now holds dates"),
        (["a", "b"], [1.0, np.nan], "held text in fit, and now holds numbers"),
        (["a", None], [0, 0], "held text in fit, and now holds numbers"),
        (["yes", "no"], [True, False], "held text in fit, and now holds numbers"),
    ],
)
def test_columns_of_another_kind_than_in_fit(then, now, message):
    with pytest.raises(ValueError, match=f"column 'a' {message}"):
        transformed(pd.DataFrame({"a": then * 3}), pd.DataFrame({"a": now}))


@pytest.mark.parametrize(
    ("then", "now", "codes"),
    [
        (["1", "2", "a"], [2, 1], [2, 1]),
        (["1", "2", "a"], [7, 8], [0, 0]),  # new ones of the same kind
        (["True", "False", "a"], [True, False], [2, 1]),
        (["a", "b"], [np.nan, np.nan], [0, 0]),
        (["a", "b", None], [np.nan, np.nan], [3, 3]),
    ],
)
def test_numbers_that_may_be_categories_of_text(then, now, codes):
    found = transformed(pd.DataFrame({"a": then * 3}), pd.DataFrame({"a": now}))
    np.testing.assert_array_equal(found[:, 0], codes)


def test_numbers_for_text_in_an_array():
    columns = Columns.of(FrameTable(pd.DataFrame({"a": list("xyxy"), "n": range(4)})), RNG)
    with pytest.raises(ValueError, match="column 'a' held text in fit, and now holds numbers"):
        columns.transform(ArrayTable(np.ones((2, 2)), ["a", "n"]))
    chosen = FrameTable(pd.DataFrame({"a": [3, 3, 7, 7]}), [0])
    single = FrameTable(pd.DataFrame({"a": [8]}), [0])
    assert Columns.of(chosen, RNG).transform(single)[:, 0] == 0


NAIVE = pd.DataFrame({"a": MOMENTS * 2})
ZONED = NAIVE.assign(a=NAIVE.a.dt.tz_localize("Europe/Berlin"))


@pytest.mark.parametrize(
    "make",
    [
        lambda frame: frame,
        pl.from_pandas,
        pa.Table.from_pandas,
        partial(pd.DataFrame.astype, dtype=object),
    ],
    ids=["pandas", "polars", "pyarrow", "objects"],
)
def test_dates_with_a_time_zone_and_without_one(make):
    naive, zoned = (Columns.of(FrameTable(make(frame)), RNG) for frame in (NAIVE, ZONED))
    message = (
        "column 'a' held dates {} a time zone in fit, and now holds dates {} a time zone: give"
    )
    with pytest.raises(ValueError, match=message.format("without", "with")):
        naive.transform(FrameTable(make(ZONED)))
    with pytest.raises(ValueError, match=message.format("with", "without")):
        zoned.transform(FrameTable(make(NAIVE)))
    naive.transform(FrameTable(pd.DataFrame({"a": DAYS})))
    # Another zone is no other time, and missing ones have none.
    there = ZONED.assign(a=ZONED.a.dt.tz_convert("Asia/Tokyo"))
    found = zoned.transform(FrameTable(make(there)))
    np.testing.assert_array_equal(found, zoned.transform(FrameTable(ZONED)))
    missing = FrameTable(make(pd.DataFrame({"a": pd.Series([pd.NaT] * 2)})))
    np.testing.assert_array_equal(zoned.transform(missing), [[0], [0]])
    # Of files of before it is not known.
    before = zoned.as_dict()
    del before["numbers"][0]["zoned"]
    Columns.from_dict(before).transform(FrameTable(make(NAIVE)))


def test_columns_that_are_empty_or_too_large():
    frame = pd.DataFrame({"a": pd.Series([None] * 4, dtype=object), "b": range(4)})
    assert Columns.of(FrameTable(frame), RNG).dropped == {"a": "has no values"}
    huge = pd.DataFrame({"a": pd.Series([10**400, 1], dtype=object)})
    with pytest.raises(ValueError, match="column 'a'"):
        Columns.of(FrameTable(huge), RNG)
