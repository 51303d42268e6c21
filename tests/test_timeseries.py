"""Series from tables, frames and arrays: the same grid from each; and every mistake is one line."""

import numpy as np
import pytest

from ostinato.data.timeseries import Panel, SeriesSettings, read_panel
from ostinato.errors import DataError, OstinatoError

NAN = np.nan


def read(X, like=None, **settings):
    return read_panel(X, SeriesSettings(**settings), like)


@pytest.fixture
def file(tmp_path):
    def write(text, name="series.csv"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_one_series_is_read_without_a_word(file):
    panel = read(file("month,passengers\n1949-01,112\n1949-02,118\n1949-04,129\n"))
    (series,) = panel.series
    np.testing.assert_array_equal(series.values, [112, 118, NAN, 129])
    assert panel.grid.name == "1 month" and panel.grid.shown(series.start) == "1949-01"
    assert panel.target == "passengers" and series.name == ""
    assert panel.notes == ["1 of 4 values are missing"]


def test_missing_cells_missing_rows_and_empty_ends(file):
    text = "time,y\n2020-01-01,\n2020-01-02,1\n2020-01-03,NA\n2020-01-06,4\n2020-01-07,\n"
    (series,) = read(file(text), frequency="D").series
    np.testing.assert_array_equal(series.values, [1, NAN, NAN, NAN, 4])


def test_a_long_table_holds_a_series_for_each_id(file):
    text = "shop,day,sold\n" + "".join(
        f"{shop},2020-01-0{d},{10 * i + d}\n" for i, shop in enumerate("abc") for d in range(1, 5)
    )
    panel = read(file(text))
    assert [s.name for s in panel.series] == ["a", "b", "c"]
    np.testing.assert_array_equal(panel.series[1].values, [11, 12, 13, 14])
    mixed = "\n".join([text.splitlines()[0], *sorted(text.splitlines()[1:], key=lambda r: r[2:12])])
    again = read(file(mixed, "mixed.csv"))
    for one, other in zip(panel.series, again.series, strict=True):
        np.testing.assert_array_equal(one.values, other.values)


def test_a_wide_table_holds_a_series_in_each_column(file):
    path = file("time,a,b\n1,1,5\n2,2,6\n3,3,7\n")
    panel = read(path, target="*")
    assert [(s.name, s.values.tolist()) for s in panel.series] == [
        ("a", [1, 2, 3]),
        ("b", [5, 6, 7]),
    ]
    assert [s.name for s in read(path, target="b").series] == [""]
    with pytest.raises(
        DataError, match="which column is to be forecast is not clear; name it with"
    ):
        read(path)


def test_covariates_reach_ahead_of_the_target(file):
    text = "time,y,price,heat,town\n" + "".join(
        f"2020-01-0{d},{d if d < 5 else ''},{d * 2},{d * 3},York\n" for d in range(1, 8)
    )
    panel = read(file(text), target="y", known="price", observed="heat", static="town")
    (series,) = panel.series
    assert series.values.tolist() == [1, 2, 3, 4] and series.static == ("York",)
    assert series.known[:, 0].tolist() == [2, 4, 6, 8, 10, 12, 14]
    assert series.observed[:, 0].tolist() == [3, 6, 9, 12]
    cut = panel.until(2).series[0]
    assert cut.values.tolist() == [1, 2] and len(cut.known) == 7 and len(cut.observed) == 2


def test_frames_arrays_and_parquet_are_read_as_files_are(file, tmp_path):
    pandas = pytest.importorskip("pandas")
    path = file("time,y\n2020-01-01,1\n2020-01-02,2\n2020-01-04,4\n")
    wanted = read(path, frequency="D").series[0]
    frame = pandas.read_csv(path, parse_dates=["time"])
    for given in (frame, frame.set_index("time"), frame.set_index("time")["y"]):
        found = read(given, frequency="D").series[0]
        np.testing.assert_array_equal(found.values, wanted.values)
        assert found.start == wanted.start
    if pytest.importorskip("pyarrow"):
        frame.to_parquet(tmp_path / "series.parquet")
        found = read(tmp_path / "series.parquet", frequency="D").series[0]
        np.testing.assert_array_equal(found.values, wanted.values)
    np.testing.assert_array_equal(read([1, 2, NAN, 4]).series[0].values, wanted.values)
    assert [s.name for s in read({"a": [1, 2], "b": [3]}).series] == ["a", "b"]
    assert [len(s.values) for s in read([np.arange(3), np.arange(5)]).series] == [3, 5]


def test_times_are_read_as_people_write_them(file):
    for name, times, step in (
        ("us", ["01/13/2021", "01/14/2021", "01/15/2021"], "1 day"),
        ("unix", ["1600000000", "1600003600", "1600007200"], "1 hour"),
        ("offset", ["2021-10-31T02:00:00+02:00", "2021-10-31T02:00:00+01:00",
                    "2021-10-31T03:00:00+01:00"], "1 hour"),
        ("quarter", ["1950Q1", "1950Q2", "1950Q3"], "3 months"),
    ):  # fmt: skip
        rows = [f"{time},{i}" for i, time in enumerate(times)]
        panel = read(file("\n".join(["date,y", *rows]), f"{name}.csv"))
        assert panel.grid.name == step and panel.series[0].values.tolist() == [0, 1, 2], name


def test_several_files_are_several_series(file):
    one, other = file("t,y\n1,5\n2,6\n", "one.csv"), file("t,y\n1,7\n2,8\n", "other.csv")
    assert [s.name for s in read([one, other]).series] == ["one", "other"]
    with pytest.raises(DataError, match=r"third.csv: has other columns than .*one.csv"):
        read([one, file("t,z\n1,7\n2,8\n", "third.csv")])


def test_a_panel_is_stored_and_more_of_it_is_read_on_its_grid(file, tmp_path):
    text = "id,time,y,x\n" + "".join(
        f"{i},2020-01-01 0{h}:00,{h + i},{h}\n" for i in range(2) for h in range(6)
    )
    panel = read(file(text), target="y", known="x")
    panel.save(tmp_path / "panel.npz")
    again = Panel.load(tmp_path / "panel.npz", panel.to_json())
    assert again.to_json() == panel.to_json()
    for one, other in zip(panel.series, again.series, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one[1:5], other[1:5], strict=True))
    two = file("id,time,y,x\n0,2020-01-02 00:00,5,1\n0,2020-01-02 05:00,6,1\n", "two.csv")
    assert read(two, like=panel, target="y", known="x").series[0].values.shape == (6,)
    with pytest.raises(
        DataError, match="has other covariates than the model was trained on: known x"
    ):
        read(file("time,y\n2020-01-02,5\n2020-01-03,6\n", "bare.csv"), like=panel)
    with pytest.raises(DataError, match="has other times than the model was trained on: every 1 h"):
        read([1.0, 2.0], like=panel)


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("t,y\n2020-01-02,1\n2020-01-01,2\n", {}, "line 3: goes back in time: 2020-01-01 after"),
        ("t,y\n2020-01-02,1\n2020-01-02,2\n", {}, "line 3: has the time of line 2 again: 2020"),
        ("t,y\n2020-01-01,1\nsoon,2\n2020-01-03,3\n2020-01-04,3\n2020-01-05,3\n2020-01-06,3\n"
         "2020-01-07,3\n2020-01-08,3\n2020-01-09,3\n2020-01-10,3\n2020-01-11,3\n", {"time": "t"},
         "line 3: 't' is 'soon', no time; expected a date"),
        ("t,y\n2020-01-01,1\n2020-01-02,x\n2020-01-03,3\n2020-01-04,3\n", {}, "line 3: 'y' is 'x'"),
        ("t,y\n" + "".join(f"2020-01-01T{h:02d},1\n" for h in range(20)) + "2020-01-01T19:30,3\n",
         {}, "line 22: .* is not on the grid of the others, one every 1 hour"),
        ("t,y\n2000-01-01 00:00:00,1\n2000-01-01 00:00:07,2\n2011-01-01 00:00:00,3\n", {},
         "irregular times; name a longer step"),
        ("t,y\n1,\n2,\n", {"target": "y"}, "has no value of the target"),
        ("t,y\n1,5\n2,6\n", {"known": "z"}, "has no column 'z' for what is known ahead"),
        ("i,t,y,s\na,1,5,x\na,2,6,z\n", {"static": "s", "id": "i", "target": "y"},
         "line 3: 's' is 'z', and was 'x'; what is static does not change"),
        ("date,y\nJanuary 1,5\nJanuary 2,6\n", {}, "line 2: 'date' is 'January 1', no time"),
        ("t,y\n1,5\n1.5,6\n", {"time": "t"}, "line 3: 't' is '1.5'; expected a whole number"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_with_the_place(file, text, settings, message):
    with pytest.raises(DataError, match=message) as raised:
        read(file(text), **settings)
    assert "series.csv" in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("first", "second", "month"),
    [
        ("1.1.1980", "1.2.1980", 1), ("Jan 1980", "Feb 1980", 1),
        ("1980M01", "1980M02", 1), ("1980 January", "1980 February", 1), ("1-Jun-80", None, 0),
        ("1 June 1980", "1 July 1980", 6), ("Jun 1, 1980", "Jul 1, 1980", 6),
    ],
)  # fmt: skip
def test_months_are_read_as_people_write_them(file, first, second, month):
    if second is None:
        with pytest.raises(DataError, match="line 2: 'date' is '1-Jun-80', no time"):
            read(file(f"date,y\n{first},1\n1-Jul-80,2\n"))
        return
    name = {1: ("Jan", "Feb", "Mar"), 6: ("Jun", "Jul", "Aug")}[month]
    third = second.replace("1.2", "1.3").replace("M02", "M03")
    whole = {"Feb": "March", "Jul": "August"}[name[1]]
    third = third.replace("February", "March").replace("July", whole).replace(name[1], name[2])
    panel = read(file(f'date,y\n"{first}",1\n"{second}",2\n"{third}",3\n'))
    assert panel.grid.name == "1 month" and panel.series[0].values.tolist() == [1, 2, 3]
    assert panel.grid.shown(panel.series[0].start) == f"1980-{month:02d}"


@pytest.mark.parametrize(
    "text",
    [
        "date;sales\n2020-01-01;1.234,5\n2020-01-02;n/a\n2020-01-03;7\n",
        'date,sales\n2020-01-01,"1,234.5"\n2020-01-02,N/A\n2020-01-03,7\n',
        "date\tsales\n2020-01-01\t1234,5\n2020-01-02\t\n2020-01-03\t7\n",
    ],
)
def test_numbers_are_read_as_people_write_them(file, text):
    panel = read(file(text))
    assert panel.target == "sales"
    np.testing.assert_array_equal(panel.series[0].values, [1234.5, np.nan, 7])


def test_a_given_frequency_gathers_times_into_its_steps(file):
    late = "t,y\n2020-01-01 00:00,1\n2020-01-01 00:05:10,2\n2020-01-01 00:14:40,4\n"
    panel = read(file(late), frequency="5min")
    np.testing.assert_array_equal(panel.series[0].values, [1, 2, np.nan, 4])
    dense = "t,y,x\n" + "".join(
        f"2020-01-0{d} {h:02d}:30,{d * 100 + h},{h}\n" for d in (1, 2, 3) for h in (3, 9, 21)
    )
    panel = read(file(dense), frequency="D", target="y", observed="x")
    assert panel.series[0].values.tolist() == [111, 211, 311]
    assert panel.series[0].observed[:, 0].tolist() == [11, 11, 11]
    assert panel.grid.shown(panel.series[0].start) == "2020-01-01"
    assert panel.notes == ["6 rows are in one step with the row before; the mean counts"]
    # What holds for the table holds for each series of it, however few its rows.
    mixed = "i,t,y\n" + "".join(f"a,2020-01-0{d} {h:02d}:00,1\n" for d in (1, 2) for h in range(24))
    panel = read(file(mixed + "b,2020-01-01 18:00,5\nb,2020-01-02 09:00,6\n"), frequency="D")
    assert [panel.grid.shown(s.start) for s in panel.series] == ["2020-01-01"] * 2
    assert panel.series[1].values.tolist() == [5, 6]
    days = "t,y\n2020-01-05,1\n2020-01-20,3\n2020-02-02,5\n2020-03-30,6\n"
    panel = read(file(days), frequency="M")
    assert panel.series[0].values.tolist() == [2, 5, 6] and panel.grid.name == "1 month"
    # A week begins on Monday, 6 January 2020.
    hours = "t,y\n2020-01-06,1\n2020-01-12,3\n2020-01-13,5\n2020-01-22,6\n"
    panel = read(file(hours), frequency="W")
    assert panel.series[0].values.tolist() == [2, 5, 6]
    assert panel.grid.shown(panel.series[0].start) == "2020-01-06"


def test_the_end_of_a_month_goes_on_where_its_beginning_was_learnt(file):
    panel = read(file("t,y\n2020-01-01,1\n2020-02-01,2\n2020-03-01,3\n"))
    again = read(file("t,y\n2020-01-31,1\n2020-02-29,2\n2020-03-31,3\n"), like=panel)
    assert again.series[0].values.tolist() == [1, 2, 3]
    with pytest.raises(DataError, match="line 3: .* is in the same step as the row before"):
        read(file("t,y\n2020-01-01,1\n2020-01-02,2\n"), like=panel)
    wide = "t,y,z\n2020-01-01,1,4\n2020-02-01,2,5\n2020-03-01,3,6\n"
    assert read(file(wide), like=panel).series[0].values.tolist() == [1, 2, 3]
    with pytest.raises(DataError, match="has no column 'y', which the model forecasts; its col"):
        read(file(wide.replace("y", "x")), like=panel)


def test_what_is_odd_about_times_is_told(file):
    text = "t,y\n" + "".join(f"2020-01-{d:02d},1\n" for d in range(1, 29)) + "2023-01-01,1\n"
    (missing, where) = read(file(text)).notes
    assert missing == "1,068 of 1,097 values are missing"
    assert where.startswith("most steps are missing before ") and where.endswith(
        "series.csv:30: is that time right?"
    )
    text = "t,y\n2020-01-01T00:00:00-05:00,1\n2020-01-01T01:00:00-05:00,2\n"
    panel = read(file(text))
    assert panel.notes == ["times are shown in UTC, since they have offsets"]
    assert panel.grid.shown(panel.series[0].start) == "2020-01-01 05:00:00"


def test_days_of_a_frame_stay_days_where_clocks_change():
    pandas = pytest.importorskip("pandas")
    index = pandas.date_range("2013-03-05", periods=10, freq="D", tz="America/New_York")
    panel = read(pandas.DataFrame({"y": np.arange(10.0)}, index=index))
    assert panel.grid.name == "1 day" and len(panel.series[0].values) == 10


def test_arrays_that_are_no_series_are_refused():
    for X, message in (
        ([[1.0, "x"]], r"X\[0\]: is \[1.0, 'x'\]; expected numbers"),
        ({"a": []}, r"X\['a'\]: is \[\]; expected numbers"),
        ([1.0, 2.0, -np.inf], "X: is -inf at 2; expected numbers, NaN where one is missing"),
        ({"a": [NAN, NAN]}, "has no value of the target"),
        ({}, "X holds no series"),
    ):
        with pytest.raises(OstinatoError, match=message):
            read(X)
