"""Columns of a table as text and as numbers: nothing rewritten, nothing guessed."""

from decimal import Decimal

import numpy as np
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ostinato.data.formats import read_table
from ostinato.data.tables import Table, TableSettings, as_frame, has_columns, is_frame, table_of
from ostinato.errors import DataError


@pytest.fixture
def read(tmp_path):
    """Reads rows of cells as a file of semicolons."""

    def make(*columns, **given):
        rows = [
            ";".join(f"c{i}" for i in range(len(columns))),
            *map(";".join, zip(*columns, strict=True)),
        ]
        path = tmp_path / "a.csv"
        path.write_text("\n".join(rows), encoding="utf-8")
        return read_table(path, TableSettings(header=True, **given))

    return make


MARKED = {
    "plain": (["1", "-2.5", "+.5", "1e3"], [1, -2.5, 0.5, 1000]),
    "decimal comma": (["1,5", "990", "-0,25"], [1.5, 990, -0.25]),
    "points between thousands": (["1.234,5", "990,0", "1.000.000"], [1234.5, 990, 1e6]),
    "commas between thousands": (["1,234.5", "990.25", "12"], [1234.5, 990.25, 12]),
    "nothing before a mark": ([".5", "1,234.5"], [0.5, 1234.5]),
    "twice": (["1,234,567", "1,234"], [1234567, 1234]),
    "spaces": (["1 234", "1\u00a0234,5", "2\u202f000,25"], [1234, 1234.5, 2000.25]),
    "apostrophes": (["1'234", "1'234.5"], [1234, 1234.5]),
    "nought before a comma": (["0,123", "0,456"], [0.123, 0.456]),
    "four digits after a comma": (["1,2345", "2,123"], [1.2345, 2.123]),
    "three digits after a point": (["1.234", "2.345"], [1.234, 2.345]),
    "spaces around": ([" 1.5", "2 ", "\u00a03"], [1.5, 2, 3]),
    "booleans": (["true", "False", "TRUE"], [1, 0, 1]),
    "missing": (["1,5", "", "NA", "n/a", "?", "2"], [1.5] + [np.nan] * 4 + [2]),
}


@pytest.mark.parametrize("name", MARKED)
def test_numbers_are_read_by_the_whole_column(read, name):
    cells, wanted = MARKED[name]
    table = read(cells, ["x"] * len(cells))
    found = table.numbers([0], missing=True)[:, 0]
    assert np.array_equal(found, np.array(wanted, dtype=float), equal_nan=True)
    assert list(table.texts(0)) == cells
    if name == "booleans":  # among numbers they are mistakes
        return
    late = read(["1"] * 3000 + cells, ["x"] * (3000 + len(cells)))
    found = late.numbers([0], missing=True)[3000:, 0]
    assert np.array_equal(found, np.array(wanted, dtype=float), equal_nan=True)


def test_two_readings_of_a_number_are_asked_about(read):
    cells = ["1,234", "990", "12,345"]
    with pytest.raises(DataError, match=r"column 'c0' has cells such as '1,234', .* with decimal"):
        read(cells, "xyz").numbers([0])
    for mark, wanted in ((",", [1.234, 990, 12.345]), (".", [1234, 990, 12345])):
        assert read(cells, "xyz", decimal=mark).numbers([0])[:, 0].tolist() == wanted
    # A column that can have a point alone has one.
    assert read(["0.854", "1.5"], "xy", decimal=",").numbers([0])[:, 0].tolist() == [0.854, 1.5]
    with pytest.raises(DataError, match="'0,5', no number"):
        read(["0,5", "1,5"], "xy", decimal=".").numbers([0])
    # What the other columns of the file show settles it.
    assert read(cells, ["0,5", "1", "2"]).numbers([0])[:, 0].tolist() == [1.234, 990, 12.345]
    assert read(cells, ["0.5", "1", "2"]).numbers([0])[:, 0].tolist() == [1234, 990, 12345]
    points = ["1.234", "990", "12.345"]
    assert read(points, ["0,5", "1", "2"]).numbers([0])[:, 0].tolist() == [1234, 990, 12345]
    assert read(points, ["0.5", "1", "2"]).numbers([0])[:, 0].tolist() == [1.234, 990, 12.345]
    assert read(points, "xyz").numbers([0])[:, 0].tolist() == [1.234, 990, 12.345]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=20), st.sampled_from(".,"))
def test_numbers_written_in_groups_come_back(tmp_path_factory, hundredths, mark):
    group = {".": ",", ",": "."}[mark]
    path = tmp_path_factory.mktemp("t") / "a.tsv"
    spelled = [f"{n / 100:,.2f}".translate({44: group, 46: mark}) for n in hundredths]
    path.write_text("\n".join(["n\tx", *(f"{cell}\tword" for cell in spelled)]))
    assert read_table(path).numbers([0])[:, 0].tolist() == [n / 100 for n in hundredths]
    assert list(read_table(path).texts(0)) == spelled


def test_what_is_no_number_is_a_mistake_with_its_place(read):
    table = read(["1", "soon", "2"], ["5", "", "inf"])
    assert table.is_numeric(0) and table.is_numeric(1)
    with pytest.raises(DataError, match=r"a.csv: line 3: 'c0' is 'soon', no number; fill it in"):
        table.numbers([0])
    with pytest.raises(DataError, match=r"line 3: 'c1' is missing"):
        table.numbers([1])
    with pytest.raises(DataError, match=r"line 4: 'c1' is 'inf', no number"):
        table.numbers([1], missing=True)
    with pytest.raises(DataError, match="line 3: 'c0' is 'soon', no number"):
        read(["1,5", "soon", "2,7"], "xyz").numbers([0])
    for cells in (["0x10", "2"], ["1_000", "2"], ["1,23,4", "2"], ["1,5", "2.5"], ["5%", "2"]):
        with pytest.raises(DataError, match="no number"):
            read(cells, "xy").numbers([0])
    assert not read(["a", "b"], "xy").is_numeric(0)
    assert read(["true", "false"], "xy").is_boolean(0)


def test_columns_are_found_by_name_in_any_case_or_by_number(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("Unit\u00a0 price,two,three\n1,2,3\n")
    table = read_table(path)
    assert table.column("unit price", "x") == table.column("1", "x") == table.column("-3", "x") == 0
    assert table.find("four") is None and table.find("0") is None
    with pytest.raises(
        DataError, match=r"has no column 'four' for the x; its columns are Unit pri"
    ):
        table.column("four", "the x")


# What is in memory


def test_cells_of_frames_keep_what_they_say():
    cells = {
        "missing": pandas.Series([pandas.NA, None, np.nan, 3], dtype=object),
        "decimal": [Decimal("1.50"), Decimal(2), None, Decimal("NaN")],
        "nullable": pandas.array([1, None, 2**53, 4], dtype="Int64"),
        "boolean": pandas.array([True, None, False, True], dtype="boolean"),
        "category": pandas.Categorical(["NW", "SO", "NW", None]),
        "text": ["007", "NA", "1,234", ""],
    }
    table = table_of(pandas.DataFrame(cells))
    found = {name: list(table.texts(i)) for i, name in enumerate(table.names)}
    assert found == {
        "missing": ["", "", "", "3"],
        "decimal": ["1.50", "2", "", ""],
        "nullable": ["1", "", "9007199254740992", "4"],
        "boolean": ["true", "", "false", "true"],
        "category": ["NW", "SO", "NW", ""],
        "text": ["007", "NA", "1,234", ""],
    }
    numbers = table.numbers([0, 1, 2, 3], missing=True)
    nan = np.nan
    wanted = [[nan, 1.5, 1, 1], [nan, 2, nan, nan], [nan, nan, 2**53, 0], [3, nan, 4, 1]]
    assert np.array_equal(numbers, wanted, equal_nan=True)
    assert [table.is_numeric(i) for i in range(6)] == [True, True, True, False, False, True]
    assert table.is_boolean(3)


def frames():
    frame = pandas.DataFrame({"text": ["a b", "c"], "n": [1.5, None]})
    polars = pytest.importorskip("polars").DataFrame({"text": ["a b", "c"], "n": [1.5, None]})
    arrow = pytest.importorskip("pyarrow").table({"text": ["a b", "c"], "n": [1.5, None]})

    class Interchange:
        def __dataframe__(self, nan_as_null=False, allow_copy=True):
            return frame.__dataframe__(nan_as_null, allow_copy)

    return [frame, polars, arrow, Interchange()]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The DataFrame Interchange")
def test_frames_of_other_libraries_are_taken():
    for frame in frames():
        assert is_frame(frame)
        table = table_of(frame)
        assert table.names == ["text", "n"] and list(table.texts(0)) == ["a b", "c"]
        assert np.array_equal(table.numbers([1], missing=True), [[1.5], [np.nan]], equal_nan=True)
        assert has_columns(frame)
    columns = [frame["n"] for frame in frames()[:3]]
    assert [is_frame(c) and not has_columns(c) for c in columns] == [True] * 3
    for column in columns:
        found = table_of(column).numbers([0], missing=True)
        assert np.array_equal(found, [[1.5], [np.nan]], equal_nan=True)
    for other in ([1, 2], np.zeros(3), {"a": [1]}, "text"):
        assert not is_frame(other)


def test_an_index_that_says_something_is_a_column():
    days = pandas.date_range("2020", periods=2)
    assert list(as_frame(pandas.DataFrame({"x": [1, 2]}, days)).columns) == ["time", "x"]
    named = pandas.DataFrame({"x": [1, 2]}, pandas.Index(["a", "b"], name="unit"))
    assert list(as_frame(named).columns) == ["unit", "x"]
    both = pandas.DataFrame({"x": [1, 2]}, pandas.MultiIndex.from_tuples(
        [("a", 1), ("b", 2)], names=["unit", "step"]))  # fmt: skip
    assert list(as_frame(both).columns) == ["unit", "step", "x"]
    shuffled = pandas.DataFrame({"x": [1, 2]}, [5, 3])
    assert list(as_frame(shuffled).columns) == ["x"]
    assert list(as_frame(pandas.Series([1, 2])).columns) == ["value"]


def test_mistakes_in_frames_name_their_row():
    table = table_of(pandas.DataFrame({"x": [1, "a"], "y": [[1, 2], [3]]}))
    with pytest.raises(DataError, match="<data frame>: line 2: 'x' is 'a', no number"):
        table.numbers([0])
    with pytest.raises(DataError, match="<data frame>: line 1: 'y' is no text but"):
        table.texts(1)
    with pytest.raises(DataError, match="<data frame>: has no rows"):
        table_of(pandas.DataFrame({"x": []}))
    with pytest.raises(DataError, match="names two columns 'x'"):
        table_of(pandas.DataFrame([[1, 2]], columns=["x", "x"]))


def test_places_are_found_when_they_are_asked_for():
    calls = []

    def lines():
        calls.append(1)
        return np.array([2, 5, 9])

    table = Table(None, pandas.DataFrame({"x": [1, 2, 3]}), line=lines)
    places = table.places
    assert len(places) == 3 and not calls
    assert [place.line for place in places] == [2, 5, 9]
    assert places[1:][0].line == 5 and places[-1].line == 9
    assert len(calls) == 1
