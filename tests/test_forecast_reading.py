"""Series from tables, frames and arrays: the same grid from each; and every mistake is one line."""

from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from ostinato.errors import DataError, OstinatoError
from ostinato.tasks.forecasting import reading
from ostinato.tasks.forecasting.reading import SeriesSettings, read_panel
from ostinato.tasks.forecasting.stored import load_panel, save_panel

NAN = np.nan


def read(X, like=None, **settings):
    return read_panel(X, SeriesSettings(**settings), like)


def start(series, panel):
    return panel.grid.format(panel.grid.times([series.start]))[0]


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
    assert panel.grid.name == "1 month" and start(series, panel) == "1949-01"
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
    panel = read(
        file(text),
        target="y",
        future_covariates="price",
        past_covariates="heat",
        static_covariates="town",
    )
    (series,) = panel.series
    assert series.values.tolist() == [1, 2, 3, 4] and series.static_covariates == ("York",)
    assert series.future_covariates[:, 0].tolist() == [2, 4, 6, 8, 10, 12, 14]
    assert series.past_covariates[:, 0].tolist() == [3, 6, 9, 12]
    cut = panel.until(2).series[0]
    assert (
        cut.values.tolist() == [1, 2]
        and len(cut.future_covariates) == 7
        and len(cut.past_covariates) == 2
    )


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
    panel = read(file(text), target="y", future_covariates="x")
    save_panel(panel, tmp_path)
    again = load_panel(tmp_path, panel.to_json())
    assert again.to_json() == panel.to_json()
    for one, other in zip(panel.series, again.series, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one[1:5], other[1:5], strict=True))
    two = file("id,time,y,x\n0,2020-01-02 00:00,5,1\n0,2020-01-02 05:00,6,1\n", "two.csv")
    assert read(two, like=panel, target="y", future_covariates="x").series[0].values.shape == (6,)
    with pytest.raises(
        DataError, match="other covariates than the training data; expected .*x, got"
    ):
        read(file("time,y\n2020-01-02,5\n2020-01-03,6\n", "bare.csv"), like=panel)
    with pytest.raises(DataError, match="has other times than the training data, one every 1 h"):
        read([1.0, 2.0], like=read(file(text), target="y"))


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("t,y\n2020-01-02,1\n2020-01-02,2\n", {}, "line 3: has the time of line 2 again: 2020"),
        ("t,y\n2020-01-01,1\nsoon,2\n2020-01-03,3\n2020-01-04,3\n2020-01-05,3\n2020-01-06,3\n"
         "2020-01-07,3\n2020-01-08,3\n2020-01-09,3\n2020-01-10,3\n2020-01-11,3\n", {"time": "t"},
         "line 3: 't' is 'soon', no time; expected a date"),
        ("t,y\n2020-01-01,1\n2020-01-02,x\n2020-01-03,3\n2020-01-04,3\n", {}, "line 3: 'y' is 'x'"),
        ("t,y\n" + "".join(f"2020-01-01T{h:02d},1\n" for h in range(20)) + "2020-01-01T19:30,3\n",
         {}, "line 22: .* is not on the grid of the others, one every 1 hour"),
        ("t,y\n2000-01-01 00:00:00,1\n2000-01-01 00:00:07,2\n2011-01-01 00:00:00,3\n", {},
         "irregular times; name a longer step"),
        ("x,y\na,b\nc,d\n", {"target": "*"}, "which column is to be forecast is not clear"),
        ("t,y\n1,5\n1e30,6\n", {"time": "t"}, "line 3: 't' is .*, no time"),
        ("t,y\n1,\n2,\n", {"target": "y"}, "has no value of the target"),
        ("t,y\n1,5\n2,6\n", {"future_covariates": "z"}, "has no column 'z' for future covariates"),
        ("i,t,y,s\na,1,5,x\na,2,6,z\n", {"static_covariates": "s", "id": "i", "target": "y"},
         "line 3: 's' is 'z', and was 'x'; a static covariate does not change"),
        ("date,y\nJanuary 1,5\nJanuary 2,6\n", {}, "line 2: 'date' is 'January 1', no time"),
        ("t,y\n1,5\n1.5,6\n", {"time": "t"}, "line 3: 't' is '1.5', no time; expected a date"),
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
        ("1980M01", "1980M02", 1), ("1980 January", "1980 February", 1),
        ("1-Jun-80", "1-Jul-80", 6), ("1 June 1980", "1 July 1980", 6),
        ("Jun 1, 1980", "Jul 1, 1980", 6),
    ],
)  # fmt: skip
def test_months_are_read_as_people_write_them(file, first, second, month):
    name = {1: ("Jan", "Feb", "Mar"), 6: ("Jun", "Jul", "Aug")}[month]
    third = second.replace("1.2", "1.3").replace("M02", "M03")
    whole = {"Feb": "March", "Jul": "August"}[name[1]]
    third = third.replace("February", "March").replace("July", whole).replace(name[1], name[2])
    panel = read(file(f'date,y\n"{first}",1\n"{second}",2\n"{third}",3\n'))
    assert panel.grid.name == "1 month" and panel.series[0].values.tolist() == [1, 2, 3]
    assert start(panel.series[0], panel) == f"1980-{month:02d}"


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
    panel = read(file(dense), frequency="D", target="y", past_covariates="x")
    assert panel.series[0].values.tolist() == [111, 211, 311]
    assert panel.series[0].past_covariates[:, 0].tolist() == [11, 11, 11]
    assert start(panel.series[0], panel) == "2020-01-01"
    assert panel.notes == ["6 rows are in one step with the row before; the mean counts"]
    # What holds for the table holds for each series of it, however few its rows.
    mixed = "i,t,y\n" + "".join(f"a,2020-01-0{d} {h:02d}:00,1\n" for d in (1, 2) for h in range(24))
    panel = read(file(mixed + "b,2020-01-01 18:00,5\nb,2020-01-02 09:00,6\n"), frequency="D")
    assert [start(s, panel) for s in panel.series] == ["2020-01-01"] * 2
    assert panel.series[1].values.tolist() == [5, 6]
    days = "t,y\n2020-01-05,1\n2020-01-20,3\n2020-02-02,5\n2020-03-30,6\n"
    panel = read(file(days), frequency="M")
    assert panel.series[0].values.tolist() == [2, 5, 6] and panel.grid.name == "1 month"
    # A week begins on Monday, 6 January 2020.
    hours = "t,y\n2020-01-06,1\n2020-01-12,3\n2020-01-13,5\n2020-01-22,6\n"
    panel = read(file(hours), frequency="W")
    assert panel.series[0].values.tolist() == [2, 5, 6]
    assert start(panel.series[0], panel) == "2020-01-06"


def test_the_end_of_a_month_goes_on_where_its_beginning_was_learnt(file):
    panel = read(file("t,y\n2020-01-01,1\n2020-02-01,2\n2020-03-01,3\n"))
    again = read(file("t,y\n2020-01-31,1\n2020-02-29,2\n2020-03-31,3\n"), like=panel)
    assert again.series[0].values.tolist() == [1, 2, 3]
    with pytest.raises(DataError, match="line 3: .* is in the same step as the row before"):
        read(file("t,y\n2020-01-01,1\n2020-01-02,2\n"), like=panel)
    wide = "t,y,z\n2020-01-01,1,4\n2020-02-01,2,5\n2020-03-01,3,6\n"
    assert read(file(wide), like=panel).series[0].values.tolist() == [1, 2, 3]
    with pytest.raises(DataError, match="has no column 'y', which is forecast; its col"):
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
    assert panel.notes == ["times are in UTC, since they have offsets"]
    assert start(panel.series[0], panel) == "2020-01-01 05:00:00"


def test_days_of_a_frame_stay_days_where_clocks_change():
    pandas = pytest.importorskip("pandas")
    index = pandas.date_range("2013-03-05", periods=10, freq="D", tz="America/New_York")
    panel = read(pandas.DataFrame({"y": np.arange(10.0)}, index=index))
    assert panel.grid.name == "1 day" and len(panel.series[0].values) == 10


def test_arrays_that_are_no_series_are_refused():
    for X, message in (
        ([[1.0, "x"]], r"X\[0\]: line 1: 'value' is 'x', no number"),
        ({"a": []}, r"X\['a'\]: is \[\]; expected numbers"),
        ([1.0, 2.0, -np.inf], "X: line 2: 'value' is .*-inf.*, no number"),
        ({"a": [NAN, NAN]}, "has no value of the target"),
        ({}, "X holds no series"),
    ):
        with pytest.raises(OstinatoError, match=message):
            read(X)


def days(*cells, header="date,y"):
    return "\n".join([header, *(f"{cell},{i}" for i, cell in enumerate(cells))])


@pytest.mark.parametrize(
    ("cells", "step", "first"),
    [
        (["202001", "202002", "202004"], "1 month", "2020-01"),
        (["20200101", "20200102", "20200104"], "1 day", "2020-01-01"),
        (["Q1 2020", "Q2 2020", "Q4 2020"], "3 months", "2020-01"),
        (["2020-W01", "2020-W02", "2020-W04"], "1 week", "2019-12-30"),
        (["31.01.22", "28.02.22", "30.04.22"], "1 month", "2022-01-31"),
        (["31.01.20", "28.02.20", "30.04.20"], "1 month", "2020-01-31"),  # last business days
        (["1577836800000", "1577836800250", "1577836800750"], "250 milliseconds",
         "2020-01-01 00:00:00"),
        (["2020-01-01 00:00:00.000", "2020-01-01 00:00:00.250", "2020-01-01 00:00:00.750"],
         "250 milliseconds", "2020-01-01 00:00:00"),
    ],
)  # fmt: skip
def test_times_lie_on_their_grid(file, cells, step, first):
    panel = read(file(days(*cells)))
    assert panel.grid.name == step and start(panel.series[0], panel) == first
    np.testing.assert_array_equal(panel.series[0].values, [0, 1, NAN, 2])


def test_periods_series_and_integers_of_pandas_keep_their_dates():
    months = pd.period_range("2020-01", periods=4, freq="M")
    index = pd.date_range("2020-01-31", periods=4, freq="ME")
    series = pd.Series(range(4), index=index, name="sold")
    for X in (
        pd.DataFrame({"month": months, "y": range(4)}),
        pd.DataFrame({"y": range(4)}, index=months),
        pd.DataFrame({"date": [20200131, 20200229, 20200331, 20200430], "y": range(4)}),
        series, {"a": series}, [series],
    ):  # fmt: skip
        panel = read(X)
        assert panel.grid.name == "1 month" and panel.series[0].values.tolist() == [0, 1, 2, 3]
        assert start(panel.series[0], panel).startswith("2020-01")
    panel = read({"a": series, "b": series[2:]})
    assert [(s.name, s.start - panel.series[0].start) for s in panel.series] == [("a", 0), ("b", 2)]
    frame = pd.DataFrame({"tea": range(4), "coffee": range(4)}, index=index)
    panel = read(dict(frame.items()))  # whose names differ
    assert [s.name for s in panel.series] == ["tea", "coffee"] and panel.grid.name == "1 month"
    assert read(series).target == "sold" and read(series).description.startswith("time: time; targ")


def test_year_and_month_in_two_columns_are_a_time(file):
    text = "year,month,y\n2020,11,1\n2020,12,2\n2021,2,4\n"
    panel = read(file(text))
    assert panel.columns.time == ("year", "month") and panel.target == "y"
    np.testing.assert_array_equal(panel.series[0].values, [1, 2, NAN, 4])
    assert read(file(text), time="year, month").columns == panel.columns
    hours = "date,hour,y\n" + "".join(f"2020-01-0{d},{h},{h}\n" for d in (1, 2) for h in range(24))
    panel = read(file(hours, "hours.csv"))
    assert panel.grid.name == "1 hour" and len(panel.series[0].values) == 48


def autumn(shops="ab"):
    """Hours in Berlin at the end of summer time, one of which a clock shows twice."""
    times = pd.date_range("2021-10-30T20:00", periods=10, freq="h", tz="Europe/Berlin")
    return times, [(shop, time.isoformat(), h) for shop in shops for h, time in enumerate(times)]


def test_offsets_of_long_tables_are_kept(file):
    times, rows = autumn()
    for some in (rows, sorted(rows, key=lambda row: row[::-1])):
        panel = read(file("shop,time,y\n" + "".join(f"{s},{t},{y}\n" for s, t, y in some)))
        assert panel.grid.name == "1 hour" and panel.columns.id == ("shop",)
        assert [s.values.tolist() for s in panel.series] == [list(range(10))] * 2
        assert start(panel.series[0], panel) == "2021-10-30 18:00:00"
        assert "times are in UTC, since they have offsets" in panel.notes
    zone = pd.DataFrame({"shop": [r[0] for r in rows], "time": [*times, *times],
                         "y": [r[2] for r in rows]})  # fmt: skip
    assert read(zone).series[1].values.tolist() == list(range(10))


def test_local_days_lie_on_one_grid_where_clocks_change(file):
    index = pd.date_range("2021-03-25", periods=8, freq="D", tz="Europe/Berlin")
    text = "".join(f"{time.isoformat()},{i}\n" for i, time in enumerate(index))
    for X in (file("time,y\n" + text), pd.DataFrame({"y": range(8)}, index=index)):
        panel = read(X)
        assert panel.grid.name == "1 day" and not panel.notes
        assert panel.series[0].values.tolist() == list(range(8))
        assert start(panel.series[0], panel) == "2021-03-25"


def test_shifted_fridays_and_business_month_ends_have_no_gaps(file):
    fridays = pd.date_range("2020-01-03", periods=60, freq="7D").to_series(index=range(60))
    fridays[14] -= pd.Timedelta("1D")  # Good Friday
    ends = pd.date_range("2019-01-31", periods=60, freq="BME")
    for times, adverb in ((fridays, "weekly"), (ends, "monthly")):
        panel = read(file(days(*(f"{t:%Y-%m-%d}" for t in times))))
        assert panel.grid.adverb == adverb
        assert panel.series[0].values.tolist() == list(range(60))


def test_tables_are_sorted_and_it_is_said(file):
    rows = [f"{s},2020-01-0{d},{d}" for s in "ab" for d in (4, 3, 1)]
    panel = read(file("\n".join(["shop,day,y", *rows])))
    np.testing.assert_array_equal([s.values for s in panel.series], [[1, NAN, 3, 4]] * 2)
    assert "rows were sorted by time: the newest came first" in panel.notes
    panel = read(file("\n".join(["shop,day,y", *rows[1:], rows[0]])))
    np.testing.assert_array_equal([s.values for s in panel.series], [[1, NAN, 3, 4]] * 2)
    assert "rows were sorted by time: they were in no order" in panel.notes
    assert read(file("t,y\n1,1\n2,2\n")).notes == []


def test_categories_are_covariates_of_0_and_1(file, tmp_path):
    text = "day,y,wind,open\n2020-01-01,1,NW,true\n2020-01-02,2,S,false\n2020-01-03,3,,true\n"
    panel = read(file(text), target="y", future_covariates="wind", past_covariates="open")
    assert panel.categories == {"wind": ["NW", "S"]}
    series = panel.series[0]
    np.testing.assert_array_equal(series.future_covariates, [[1, 0], [0, 1], [NAN, NAN]])
    np.testing.assert_array_equal(series.past_covariates[:, 0], [1, 0, 1])
    save_panel(panel, tmp_path)
    assert load_panel(tmp_path, panel.to_json()).to_json() == panel.to_json()
    assert load_panel(None, panel.to_json()).to_json() == panel.to_json()
    more = "day,y,wind,open\n2020-02-01,1,S,1\n2020-02-02,2,E,0\n2020-02-03,3,NW,1\n"
    again = read(file(more, "more.csv"), like=panel)
    assert again.series[0].future_covariates.tolist() == [[0, 1], [0, 0], [1, 0]]


def test_missing_values_of_every_kind():
    expected = [1, NAN, 3]
    for X in (
        np.ma.array([1.0, 7.0, 3.0], mask=[False, True, False]),
        np.ma.array([1, 7, 3], mask=[False, True, False]),
        [1, pd.NA, 3], [1, None, 3], [Decimal(1), Decimal("nan"), Decimal(3)],
        pd.Series([1, None, 3], dtype="Int64"), pd.array([1, pd.NA, 3], dtype="Int64"),
        pd.DataFrame({"y": [Decimal(1), None, Decimal(3)]}),
    ):  # fmt: skip
        np.testing.assert_array_equal(read(X).series[0].values, expected)
    both = [np.ma.array([1.0, 7.0, 3.0], mask=[False, True, False])] * 2
    np.testing.assert_array_equal([s.values for s in read(both).series], [expected] * 2)


@pytest.mark.parametrize("extra", ["promo", "weekday", "open", "kind"])
def test_columns_that_repeat_are_no_ids_of_series(file, extra):
    cell = {"promo": lambda d: d % 2, "weekday": lambda d: ["Mo", "Tu", "We"][d % 3],
            "open": lambda d: ["true", "false"][d % 2], "kind": lambda d: "ab"[d > 5]}  # fmt: skip
    for time in (True, False):
        lines = [f"2020-01-{d:02d}," * time + f"{d},{cell[extra](d)}" for d in range(1, 13)]
        if extra == "kind" and not time:
            continue  # rows that stand together may be series
        panel = read(file("\n".join(["date," * time + f"sales,{extra}", *lines])))
        assert panel.columns.id == () and panel.target == "sales"
        assert panel.series[0].values.tolist() == list(range(1, 13))


def test_an_id_is_where_times_repeat(file):
    rows = [
        f"2020-01-{d:02d},{s},{'yes' if d % 3 else 'no'},{d}" for s in "ab" for d in range(1, 9)
    ]
    panel = read(file("\n".join(["date,branch,promo,sales", *rows])))
    assert panel.columns.id == ("branch",) and [s.name for s in panel.series] == ["a", "b"]
    rows = [f"2020-01-{d:02d},{s},{t},{d}" for s in "ab" for t in "xy" for d in range(1, 9)]
    with pytest.raises(DataError, match="line 10: has the time of line 2 again: 2020-01-01; if th"):
        read(file("\n".join(["date,branch,town,sales", *rows])))


def test_numbers_of_rows_are_no_measurements(file):
    for name in ("id", "", "index"):
        rows = [f"{i},{time},{y}" for i, (time, y) in enumerate([("2020-01", 5), ("2020-02", 6)])]
        panel = read(file("\n".join([f"{name},month,passengers", *rows])))
        assert panel.target == "passengers" and panel.series[0].values.tolist() == [5, 6]


def test_the_long_format_is_recognised(file):
    rows = [f"{s},2020-0{m}-01,{m}" for s in ("tea", "coffee") for m in range(1, 6)]
    panel = read(file("\n".join(["unique_id,ds,y", *rows])))
    assert panel.columns[:3] == (("ds",), ("unique_id",), ("y",))
    assert panel.description == "time: ds; id: unique_id; target: y; 2 series, monthly"
    frame = pd.DataFrame({"unique_id": ["a"] * 3, "ds": pd.date_range("2020", periods=3), "y": 1.0})
    assert read(frame).description == "time: ds; id: unique_id; target: y; one series, daily"
    one = read(file("Month,Passengers\n1949-01,112\n1949-02,118\n"))
    assert one.description == "time: Month; target: Passengers; one series, monthly"


def test_frames_of_other_libraries_are_read():
    polars, arrow = pytest.importorskip("polars"), pytest.importorskip("pyarrow")
    columns = {
        "day": pd.date_range("2020", periods=3).to_pydatetime().tolist(),
        "y": [1.0, 2.0, 3.0],
    }
    for frame in (polars.DataFrame(columns), arrow.table(columns)):
        panel = read(frame)
        assert panel.grid.name == "1 day" and panel.series[0].values.tolist() == [1, 2, 3]


def test_other_data_than_the_training_data_are_refused(file):
    months = read(file(days(*(f"2020-{m:02d}" for m in range(1, 13)))))
    quarters = file(days("2021-01", "2021-04", "2021-07", "2021-10"), "quarters.csv")
    with pytest.raises(DataError, match="one time every 3 months, each 3 steps of the training"):
        read(quarters, like=months)
    daily = file(days("2021-01-01", "2021-01-02", "2021-01-03"), "days.csv")
    with pytest.raises(DataError, match="in the same step .* 1 month, that of the training data"):
        read(daily, like=months)


def test_two_plausible_readings_of_dates_are_asked_about(file):
    path = file(days("01/02/2020", "01/03/2020", "01/04/2020"))
    with pytest.raises(DataError, match="series.csv: 'date': '01/02/2020' may be .* day_first"):
        read(path)
    assert read(path, day_first=True).grid.name == "1 month"
    assert read(path, day_first=False).grid.name == "1 day"


def test_of_several_measurements_none_is_guessed(file):
    for header in ("t,y,value", "t,price,height"):
        with pytest.raises(DataError, match="which column is to be forecast is not clear"):
            read(file(header + "\n1,2,3\n2,3,4\n"))
    # A weekday, month or hour that is a number is no time of rows where it repeats.
    panel = read(file("sales,day\n" + "".join(f"{i},{i % 7}\n" for i in range(20))))
    assert panel.columns.time == () and panel.target == "sales"
    years = read(file("year,sales\n" + "".join(f"{1990 + i},{i}\n" for i in range(20))))
    assert years.columns.time == ("year",) and years.target == "sales"


def test_columns_of_the_training_data_are_found_again(file):
    text = "when,shop,price,sold\n" + "".join(
        f"2020-01-0{d},{shop},{d},{d * d}\n" for shop in "ab" for d in range(1, 6)
    )
    panel = read(file(text), target="sold", future_covariates="price")
    more = text.replace("2020-01", "2020-02").replace("when,shop", "when,branch,shop", 1)
    more = "\n".join(
        line if i == 0 else line.replace(",", f",x{i % 3},", 1)
        for i, line in enumerate(more.splitlines())
    )
    again = read(file(more, "more.csv"), like=panel)
    assert again.columns == panel.columns and [s.name for s in again.series] == ["a", "b"]


def test_a_table_with_a_series_in_each_row_is_read_by_rows(file):
    text = '"V1","V2","V3","V4","V5"\n"Y1",1,2,,4\n"Y2","5","6","",""\n'
    for head in ("V1", "id", "series"):
        panel = read(file(text.replace("V1", head)))
        assert [s.name for s in panel.series] == ["Y1", "Y2"]
        np.testing.assert_array_equal(panel.series[0].values, [1, 2, np.nan, 4])
        assert panel.series[1].values.tolist() == [5, 6]
        assert panel.notes[0] == "each row is a series, and its steps are the columns V2 to V5"
    again = read(file("V1,V2,V3,V4\nZ,7,8,9\n"), panel)
    assert again.series[0].values.tolist() == [7, 8, 9]


def test_rows_that_may_be_series_or_steps_are_asked_about(file):
    path = file("shop,jan,feb,mar\nA,1,2,3\nB,4,5,6\n")
    with pytest.raises(DataError, match="if each row is a series, say so with series_in_rows"):
        read(path)
    assert [s.values.tolist() for s in read(path, series_in_rows=True).series] == [
        [1, 2, 3], [4, 5, 6]
    ]  # fmt: skip
    assert len(read(path, target="*").series) == 3
    path = file("id,V2,V3\na,1,2\nb,4,5\n")
    assert [s.values.tolist() for s in read(path, series_in_rows=False, target="*").series] == [
        [1, 4], [2, 5]
    ]  # fmt: skip
    with pytest.raises(DataError, match="'b' is 'y', no number"):
        read(file("a,b,c\nx,y,1\n"), series_in_rows=True)


def test_names_of_columns_in_a_list_are_an_error_that_says_how(file):
    path = file("ds,y,p\n2020-01-01,1,0\n2020-01-02,2,1\n2020-01-03,3,0\n")
    with pytest.raises(OstinatoError, match=r"future_covariates=\['p'\]: expected .* separated"):
        read(path, future_covariates=["p"])


def assert_equal_panels(one, other):
    for name in ("grid", "columns", "categories", "notes"):
        assert getattr(one, name) == getattr(other, name)
    for ours, expected in zip(one.series, other.series, strict=True):
        assert ours[:2] == expected[:2] and ours[5:] == expected[5:]
        for part, known in zip(ours[2:5], expected[2:5], strict=True):
            assert part.dtype == known.dtype
            np.testing.assert_array_equal(part, known)
            assert part.shape == known.shape


@pytest.mark.parametrize("seed", range(20))
def test_arrays_are_read_as_tables_of_them_would_be(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    X = []
    for _ in range(rng.integers(1, 6)):
        x = rng.normal(size=rng.integers(2, 40)).astype(rng.choice([np.float64, np.float32]))
        x[1:][rng.random(len(x) - 1) < 0.2] = np.nan
        X.append(x if rng.random() < 0.7 else rng.integers(-5, 9, size=rng.integers(2, 30)))
    X = {f"s{i}": x for i, x in enumerate(X)} if seed % 2 else X
    panel = read(X)
    ours = panel, read(X, panel)
    monkeypatch.setattr(reading, "_panel_of_arrays", lambda *given: None)
    for one, other in zip(ours, (read(X), read(X, panel)), strict=True):
        assert_equal_panels(one, other)


@pytest.mark.parametrize(
    "bad", [np.array([1.0, np.inf]), np.full(3, np.nan), np.zeros((2, 2)), np.array(["a", "b"])]
)
def test_an_array_that_is_wrong_among_others_is_named(bad):
    with pytest.raises(DataError, match=r"X\['bad'\]"):
        read_panel({"good": np.arange(3.0), "bad": bad}, SeriesSettings())
