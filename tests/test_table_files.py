"""Tables in files, and what is wrong with them."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pyarrow import feather, parquet

from mixnoise.cli.table_files import read_table, write_table
from mixnoise.tabular.tables import FrameTable

TEXT = "age,job,born\n30,baker,2020-01-02\n?, smith ,2021-03-04\n41.5,NA,\n"


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".CSV"])
def test_text(tmp_path, suffix):
    separator = "\t" if suffix == ".tsv" else ","
    table = read_table(write(tmp_path / f"t{suffix}", TEXT.replace(",", separator)))
    assert table.names == ["age", "job", "born"]
    assert table.n_rows == 3
    assert table.values("job").tolist() == ["baker", "smith", None]
    np.testing.assert_array_equal(table.values("age"), [30, np.nan, 41.5])
    kinds = FrameTable(table.without([])).kinds
    assert kinds == ["number", "category", "date"]


@pytest.mark.parametrize("n_missing", [3, 30])
def test_missing_values_among_blanks(tmp_path, n_missing):
    """Arrow knows them without blanks, or with one before."""
    rows = ["NA ,   , a"] * n_missing + [f"{i}.5, 7 ,b " for i in range(60 - n_missing)]
    table = read_table(write(tmp_path / "t.csv", "\n".join(["x,y,c", *rows])))
    assert np.isnan(table.values("x")).sum() == np.isnan(table.values("y")).sum() == n_missing
    assert set(table.values("c").tolist()) == {"a", "b"}
    texts = read_table(tmp_path / "t.csv", texts=["x"]).values("x").tolist()
    assert texts == [None] * n_missing + [f"{i}.5" for i in range(60 - n_missing)]


@pytest.mark.parametrize("form", ['"1,{:03}"', '"1,{:03}.50"', "${}.20", "{}%", '"{},5"', "-{}€"])
def test_numbers_with_marks(tmp_path, form):
    """They would be categories that occur once."""
    rows = [f"{i},{form.format(i)}" for i in range(50)]
    table = read_table(write(tmp_path / "t.csv", "\n".join(["x,y", *rows])))
    with pytest.raises(ValueError, match=r"t\.csv:2: column 'y': .* is not a plain number; write"):
        table.check_numbers([])
    table.check_numbers(["y"])


@pytest.mark.parametrize("form", ["{}.{}.2020", "1.2.{}", "10.0.0.{}", "{}-{}", "a{}", "1,2,{}"])
def test_what_only_looks_like_numbers(tmp_path, form):
    rows = [f"{i}|{form.format(i, i)}" for i in range(50)]
    write(tmp_path / "t.csv", "\n".join(["x,y", *(f'"{r}"'.replace("|", '","') for r in rows)]))
    read_table(tmp_path / "t.csv").check_numbers([])


def test_a_quote_that_is_not_closed(tmp_path):
    """What follows would all be one cell."""
    rows = [f'{i},"c\nd"' for i in range(50)]
    rows[20] = '20,"a'
    path = write(tmp_path / "t.csv", "\n".join(["x,c", *rows]))
    with pytest.raises(ValueError, match=r"t\.csv:\d+: .*; is a quote not closed\?"):
        read_table(path)
    rows[20] = '20,5" pipe'  # a quote that begins no cell
    assert read_table(write(path, "\n".join(["x,c", *rows]))).n_rows == 50


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_the_index_of_a_data_frame_is_no_column(tmp_path, suffix):
    frame = pd.DataFrame({"a": [3.0, 1.0, 2.0, 5.0], "b": list("xyxy")})
    frame = frame[frame.a > 1]
    path = tmp_path / f"t{suffix}"
    (frame.to_csv if suffix == ".csv" else frame.to_parquet)(path)
    assert read_table(path).names == ["a", "b"]
    write(tmp_path / "u.csv", ",a,b\n3,1,2\n2,1,2\n")
    assert read_table(tmp_path / "u.csv").names == ["", "a", "b"]


def test_a_first_line_with_numbers_has_no_names(tmp_path):
    table = read_table(write(tmp_path / "t.csv", "1,a\n2,b\n"))
    assert table.names == ["x0", "x1"]
    assert table.n_rows == 2
    assert read_table(write(tmp_path / "u.csv", '"x 1",nan\n2,b\n')).names == ["x 1", "nan"]
    # And a mark at the start that Windows leaves there is no part of a name.
    assert read_table(write(tmp_path / "v.csv", b"\xef\xbb\xbfa,b\n1,2\n")).names == ["a", "b"]


@pytest.mark.parametrize(
    ("first", "names"),
    [
        ('"income, USD",b', ["income, USD", "b"]),
        ('"say ""hi""",b', ['say "hi"', "b"]),
        ('"two\nlines",b', ["two\nlines", "b"]),
        ('"two\r\nlines", "b, c"\r', ["two\r\nlines", "b, c"]),
        ("\n\na , b", ["a", "b"]),
        ("a;b,c", ["a;b", "c"]),
    ],
)
def test_names_in_quotes(tmp_path, first, names):
    table = read_table(write(tmp_path / "t.csv", f"{first}\n1,x\n2,y\n"))
    assert table.names == names
    assert table.values(names[0]).tolist() == [1, 2]
    # One column may have another separator in its name.
    assert read_table(write(tmp_path / "u.csv", "speed;km/h\n1\n")).names == ["speed;km/h"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "a,b\n1,2\n3\n4,5\n", r"t\.csv:3: 1 field in a table of 2 columns"),
        ("t.csv", "a,b\n1,2\n3,4,5\n", r"t\.csv:3: 3 fields in a table of 2 columns"),
        ("t.csv", 'a,b\n"x\ny",2\n3\n', r"t\.csv:4: 1 field"),
        ("t.csv", 'a,b\n\n"x\ny",2\n\n"x\n\ny"\n', r"t\.csv:6: 1 field"),
        ("t.csv", f"a,b\n{'x' * 200_000},2\n3\n", r"t\.csv: CSV parse error: Expected 2 columns"),
        ("t.csv", "a,a\n1,2\n", r"t\.csv:1: two columns are called 'a'"),
        ("t.csv", "a;b\n1,5;2\n", r"t\.csv:1: one column, 'a;b'; is ';' the separator\? .* ','"),
        ("t.csv", "a\tb\n1\t2\n", r"is '\\t' the separator\?"),
        ("t.tsv", "a,b\n1,2\n", r"is ',' the separator\? It must be '\\t' in \.tsv files"),
        ("t.csv", "größe,b\n1,2\n".encode("latin-1"), r"t\.csv:1: this is not UTF-8 text; conv"),
        ("t.csv", "a,b\n1,2\n".encode("utf-16"), r"t\.csv:1: this is not UTF-8 text; convert"),
        ("t.csv", f'"a,b\n{"1,2" * 99_999}', r"t\.csv:1: .*; is a quote not closed\?"),
        ("t.csv", "\n\n", "the table has 0 rows"),
        ("t.csv", "", "the file is empty"),
        ("t.csv", "a,b\n", "the table has 0 rows"),
        ("t.csv", "a,b", r"t\.csv: the table has 0 rows"),
        ("t.csv", b"a,b\n\xff\xfe,2\n", "column 'a' is not UTF-8 text"),
        ("t.txt", "a", r"tables are read from \.csv, \.tsv, .* files, got \.txt"),
        ("t", "a", "got no suffix"),
        ("t.parquet", "PAR1 no", "not a whole parquet file"),
        ("t.feather", "no", "not a whole feather file"),
        ("t.npy", "no", "not a whole file of numpy arrays"),
        ("t.npz", "no", "not a whole file of numpy arrays"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message):
        read_table(write(tmp_path / name, content))


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"t\.csv: no such file"):
        read_table(tmp_path / "t.csv")
    with pytest.raises(FileNotFoundError, match="is a folder, not a file"):
        read_table(tmp_path)


def test_two_columns_of_one_name_are_refused_in_binary_files(tmp_path):
    table = pa.Table.from_arrays([pa.array([1, 2]), pa.array([3, 4])], names=["a", "a"])
    parquet.write_table(table, tmp_path / "t.parquet")
    feather.write_feather(table, tmp_path / "t.feather")
    np.savez(tmp_path / "t.npz", x=np.ones((2, 3)), x1=np.ones(2))
    for name, twice in (("t.parquet", "a"), ("t.feather", "a"), ("t.npz", "x1")):
        with pytest.raises(ValueError, match=rf"{name}: two columns are called '{twice}'"):
            read_table(tmp_path / name)


@pytest.mark.parametrize("cut", [10, 300])
def test_truncated_binary_files(tmp_path, cut):
    table = pa.table({"a": np.arange(100.0)})
    parquet.write_table(table, tmp_path / "t.parquet")
    feather.write_feather(table, tmp_path / "t.feather", compression="uncompressed")
    np.save(tmp_path / "t.npy", np.ones((50, 2)))
    np.savez(tmp_path / "t.npz", np.ones((50, 2)))
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:-cut])
        with pytest.raises(ValueError, match="not a whole"):
            read_table(file)


def test_a_mistake_in_a_column_of_numbers(tmp_path):
    lines = [f"{i},x{i % 3}" for i in range(40)]
    lines[17] = "l7,x0"
    path = write(tmp_path / "t.csv", "\n".join(["size,kind", *lines]))
    table = read_table(path)
    with pytest.raises(
        ValueError, match=r"t\.csv:19: column 'size': 'l7' is not a number, as 39 of"
    ):
        table.check_numbers([])
    table.check_numbers(["size"])
    # Without names lines start at 1, and in binary files there are only rows.
    bare = read_table(write(tmp_path / "u.csv", "\n".join(["7,x1", *lines])))
    with pytest.raises(ValueError, match=r"u\.csv:19: column 'x0'"):
        bare.check_numbers([])
    for make in (pl.DataFrame, pl.DataFrame.to_pandas):
        frame = pl.DataFrame({"size": [line.split(",")[0] for line in lines]})
        target = tmp_path / "t.parquet"
        frame.write_parquet(target) if make is pl.DataFrame else make(frame).to_parquet(target)
        with pytest.raises(ValueError, match=r"t\.parquet:row 18: column 'size': 'l7'"):
            read_table(target).check_numbers([])
    frame.write_ipc(tmp_path / "t.feather")
    with pytest.raises(ValueError, match=r"t\.feather:row 18: column 'size': 'l7'"):
        read_table(tmp_path / "t.feather").check_numbers([])
    # Codes that are seldom numbers are none.
    read_table(write(tmp_path / "v.csv", "a,b\nx,1\n7,2\ny,3\n")).check_numbers([])


def test_columns_of_another_kind_than_in_the_run(tmp_path):
    lines = ["size,flag,code,kind,none", "1,true,7,8,", "x,False,8,,", "2,true,9,9.5,"]
    table = read_table(
        write(tmp_path / "t.csv", "\n".join(lines)), ["flag", "code", "kind", "none"]
    )
    table.check_kinds(["flag", "code", "none"], ["size", "none"])
    with pytest.raises(
        ValueError, match=r"t\.csv:3: column 'size': 'x' is not a number, as the run"
    ):
        table.check_kinds(["size"], [])
    with pytest.raises(ValueError, match=r"t\.csv: column 'kind' held text in the run, and now"):
        table.check_kinds([], ["kind"])


@pytest.mark.parametrize(
    ("name", "where"),
    [("t.csv", "5"), ("t.parquet", "row 3"), ("t.npy", "row 3"), ("t.npz", "row 3")],
)
def test_infinite_numbers_are_told_with_their_place(tmp_path, monkeypatch, name, where):
    monkeypatch.setattr("mixnoise.cli.table_files._ROWS_AT_A_TIME", 2)
    path, x = tmp_path / name, np.array([[1, 2], [3, 4], [np.inf, -np.inf], [5, np.nan]])
    frame = pl.DataFrame({"x0": x[:, 0], "x1": x[:, 1], "text": ["inf", "a", "b", "c"]})
    {
        ".csv": lambda: path.write_text(frame.write_csv().replace("3.0", "\n3.0")),
        ".parquet": lambda: frame.write_parquet(path),
        ".npy": lambda: np.save(path, x),
        ".npz": lambda: np.savez(path, X=x.astype(np.float32), y=x[:, 0]),
    }[path.suffix]()
    table = read_table(path)
    table.check_finite(["text"])
    with pytest.raises(ValueError, match=rf"{name}:{where}: column 'x1': -inf is not finite; corr"):
        table.check_finite(["x1", "text"])


@pytest.mark.parametrize("names", ["size,note\n", ""])
def test_lines_are_counted_with_blank_ones_and_those_within_cells(tmp_path, names):
    cells = [f"{i},a" for i in range(30)]
    cells[3], cells[7], cells[20] = '3,"a\nb"', "\n7,a\n", 'l20,"two\nlines"'
    text = names + "\n".join(cells)
    line = text[: text.index("l20")].count("\n") + 1
    table = read_table(write(tmp_path / "t.csv", text))
    with pytest.raises(ValueError, match=rf"t\.csv:{line}: column '(size|x0)': 'l20'"):
        table.check_numbers([])


def test_cells_of_several_lines_in_a_large_file(tmp_path):
    lines = [f'{i},"{"x" * (i % 13)}\n{"y," * (i % 11)}"' for i in range(100_000)]
    table = read_table(write(tmp_path / "t.csv", "\n".join(["size,note", *lines])))
    assert table.n_rows == 100_000
    assert table.values("note")[99_995] == "x" * (99_995 % 13) + "\n" + "y," * (99_995 % 11)


def test_rows_of_more_than_a_mib(tmp_path):
    """Such as those of probes and transcripts, of which there are some 100,000."""
    names = [f"{i:02}{'é' * 50_000}" for i in range(15)]
    cells = ["y" * 100_000] * 15
    lines = [",".join(names), ",".join(cells), ",".join(cells)]
    table = read_table(write(tmp_path / "t.csv", "\n".join(lines)))
    assert table.names == names
    assert table.n_rows == 2
    bare = read_table(write(tmp_path / "u.csv", ",".join(["1", *cells]) + "\n"))
    assert (bare.names[0], bare.n_rows) == ("x0", 1)


def test_columns_by_name(tmp_path):
    table = read_table(write(tmp_path / "t.csv", TEXT))
    with pytest.raises(
        ValueError, match=r"--label: .*t\.csv has no column 'jop'; did you mean 'job'"
    ):
        table.check_names("--label", ["jop"])
    bare = read_table(write(tmp_path / "u.csv", "a,b,2020,y\n" + TEXT.replace("\n", ",1\n")))
    with pytest.raises(ValueError, match=r"no column 'y'; there is a number in its first line, wh"):
        bare.check_names("--label", ["y"])
    assert table.without(["job"]).column_names == ["age", "born"]


def test_arrays(tmp_path):
    x, y = np.arange(12.0).reshape(4, 3), np.array(["a", "b", "a", "b"])
    np.save(tmp_path / "x.npy", x)
    table = read_table(tmp_path / "x.npy")
    assert table.names == ["x0", "x1", "x2"]
    np.testing.assert_array_equal(table.without(["x1"]), x[:, [0, 2]])
    np.testing.assert_array_equal(table.values("x2"), x[:, 2])
    np.savez(tmp_path / "xy.npz", X=x, y=y, about=np.array("text"))
    table = read_table(tmp_path / "xy.npz")
    assert table.names == ["x0", "x1", "x2", "y"]
    assert table.values("y").tolist() == list(y)
    np.testing.assert_array_equal(table.without(["y"]), x)
    for wrong, message in (
        ({"a": x, "b": x}, "one matrix of shape"),
        ({"a": y}, "one matrix of shape"),
        ({"a": y[:, None]}, "a must hold numbers, got <U1"),
        ({"a": np.array([[None]], dtype=object)}, "not a whole file|Object arrays"),
    ):
        np.savez(tmp_path / "w.npz", **wrong)
        with pytest.raises(ValueError, match=message):
            read_table(tmp_path / "w.npz")


@pytest.mark.parametrize("name", ["h.parquet", "h.feather", "h.csv", "h.tsv"])
def test_features_are_read_back(tmp_path, name):
    features = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    beside = {"label": np.array(["a", None, "b", "a", "c"], dtype=object)}
    path = tmp_path / "new" / name
    write_table(path, beside, features, ["f0", "f1"])
    table = read_table(path)
    assert table.names == ["label", "f0", "f1"]
    assert table.values("label").tolist() == ["a", None, "b", "a", "c"]
    np.testing.assert_allclose(table.values("f1"), features[:, 1], rtol=1e-6)
    assert [p.name for p in path.parent.iterdir()] == [name]


def test_features_as_an_array_and_as_nothing_known(tmp_path):
    features = np.ones((5, 2), np.float32)
    write_table(tmp_path / "h.npy", {}, features, ["f0", "f1"])
    np.testing.assert_array_equal(np.load(tmp_path / "h.npy"), features)
    with pytest.raises(ValueError, match=r"--output: features are written to .*, got .*h\.xls"):
        write_table(tmp_path / "new" / "h.xls", {}, features, ["f0", "f1"])
    assert not (tmp_path / "new").exists()


def test_a_column_called_as_a_feature_is(tmp_path):
    beside = {"f1": pa.array([1, 2])}
    with pytest.raises(ValueError, match="column 'f1' is called as a feature is; rename it"):
        write_table(tmp_path / "h.csv", beside, np.ones((2, 2), np.float32), ["f0", "f1"])


def test_text_is_text_where_it_is_asked_for(tmp_path):
    path = write(tmp_path / "t.csv", "a,b\ntrue,1.0\nfalse,2.0\n")
    assert read_table(path).values("a").tolist() == [True, False]
    table = read_table(path, ["a", "b", "c"])
    assert table.values("a").tolist() == ["true", "false"]
    assert table.values("b").tolist() == ["1.0", "2.0"]


def test_a_blank_line_of_one_column_is_a_missing_value(tmp_path):
    path = write(tmp_path / "t.csv", "\na\n1\n\n3\n4\n")
    np.testing.assert_array_equal(read_table(path).values("a"), [1, np.nan, 3, 4])
    rows = [*map(str, range(9)), "", *map(str, range(9)), "x"]
    with pytest.raises(ValueError, match=r"t\.csv:21: column 'a': 'x' is not a number"):
        read_table(write(path, "\n".join(["a", *rows]))).check_numbers([])


@pytest.mark.parametrize("dtype", [">f8", ">i4", "longdouble"])
def test_arrays_of_other_byte_orders_and_widths_can_be_written(tmp_path, dtype):
    path = tmp_path / "x.npz"
    np.savez(path, x=np.arange(6).reshape(3, 2).astype(dtype), y=np.arange(3).astype(dtype))
    table = read_table(path)
    beside = {name: table.column(name) for name in ("x0", "y")}
    write_table(tmp_path / "o.csv", beside, np.ones((3, 1), np.float32), ["f0"])
    assert read_table(tmp_path / "o.csv").values("y").tolist() == [0, 1, 2]


def test_what_a_file_cannot_hold(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.ones((3, 2)), y=np.ones(3, complex))
    with pytest.raises(ValueError, match="y must hold numbers, text or dates, got complex128"):
        read_table(tmp_path / "x.npz")
    lists = {"l": pa.array([[1], [2]])}
    with pytest.raises(ValueError, match=r"o\.csv: .*list.*write a \.parquet file"):
        write_table(tmp_path / "o.csv", lists, np.ones((2, 1), np.float32), ["f0"])
    assert not list(tmp_path.glob("*o.csv*"))


@pytest.mark.parametrize("write", [parquet.write_table, feather.write_feather])
@pytest.mark.parametrize(
    ("values", "kind"),
    [(["a", None, "b"], pa.string_view()), ([b"a", None, b"b"], pa.binary_view())],
    ids=["text", "bytes"],
)
def test_views_are_read_as_what_rows_can_be_taken_of(tmp_path, write, values, kind):
    path = tmp_path / ("t.parquet" if write is parquet.write_table else "t.feather")
    try:
        write(pa.table({"a": pa.array(values, kind)}), path)
    except pa.ArrowNotImplementedError as error:
        pytest.skip(str(error))  # Arrow 17, for parquet
    table = read_table(path)
    assert table.without([]).take([2, 1, 0])["a"].to_pylist() == values[::-1]
    write_table(tmp_path / "o.csv", {"a": table.column("a")}, np.ones((3, 1), np.float32), ["f0"])


def test_suffixes_in_capitals(tmp_path):
    write_table(tmp_path / "x.NPY", {}, np.ones((2, 1), np.float32), ["f0"])
    assert [p.name for p in tmp_path.iterdir()] == ["x.NPY"]
    assert read_table(tmp_path / "x.NPY").n_rows == 2
