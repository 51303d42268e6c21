"""Series read by chunks: the same panel, windows, forecasts as from memory, in bounded memory."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from ostinato import DataError, Forecaster, OstinatoError
from ostinato.data import delimited, formats, shards
from ostinato.data.shards import Work
from ostinato.tasks.forecasting import chunks, stored, windows
from ostinato.tasks.forecasting.panel import Cutoffs
from ostinato.tasks.forecasting.reading import SeriesSettings, read_panel
from ostinato.tasks.forecasting.stored import load_panel, save_panel
from ostinato.tasks.forecasting.windows import CovariateEncoding, Windows


@pytest.fixture
def small(monkeypatch):
    """Chunks, buckets, shards and blocks so small that little data have several."""
    monkeypatch.setattr(delimited, "CHUNK_ROWS", 29)
    monkeypatch.setattr(formats, "CHUNK_ROWS", 29)
    monkeypatch.setattr(chunks, "BUCKET_ROWS", 40)
    monkeypatch.setattr(stored, "IN_MEMORY", 0)
    monkeypatch.setattr(shards, "SHARD", 1 << 8)
    monkeypatch.setattr(shards, "TOGETHER", 2)
    monkeypatch.setattr(shards, "MAPPED", 1 << 9)
    monkeypatch.setattr(windows, "BLOCK", 16)


def rows_of(random, names="dbca", steps=30):
    """Rows of series of several lengths with gaps: id, day, value, price, weather, region."""
    found = []
    for i, name in enumerate(names):
        level = random.normal(-2 if i % 2 else 7, 2)
        for d in range(i, steps + 5 * i):
            if random.random() < 0.15 and i < d < steps + 5 * i - 1:
                continue
            value = "" if random.random() < 0.1 else f"{level + random.normal():.3f}"
            weather = (
                "snow" if (i, d) == (len(names) - 1, steps) else random.choice(["sun", "rain"])
            )
            day = str(np.datetime64("2020-01-20") + d)
            found.append([name, day, value, f"{random.random():.2f}", weather, f"r{i % 2}"])
    return found


def write(path, rows, header="id,day,y,price,weather,region"):
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join([header, *map(",".join, rows)]) + "\n")
    return path


def assert_same_panels(one, other):
    assert one.to_json() == other.to_json() and one.description == other.description
    assert one.lengths.tolist() == other.lengths.tolist()
    for a, b in zip(one.series, other.series, strict=True):
        assert (a.name, a.start, a.static_covariates) == (b.name, b.start, b.static_covariates)
        assert a.first_negative() == b.first_negative()
        for part in stored.PARTS:
            np.testing.assert_array_equal(getattr(a, part), getattr(b, part))


def by_chunks(paths, folder, tell=lambda *args: None, **settings):
    folder.mkdir(exist_ok=True)
    work = Work(folder / "work", tell)
    return chunks.write_panel(paths, SeriesSettings(**settings), folder, work)


COVARIATES = {
    "target": "y",
    "past_covariates": "weather",
    "future_covariates": "price",
    "static_covariates": "region",
}


@pytest.mark.parametrize("order", ["by series", "by time", "shuffled"])
def test_a_panel_read_by_chunks_is_the_panel(order, tmp_path, small):
    random = np.random.default_rng(0)
    rows = rows_of(random)
    if order == "by time":
        rows.sort(key=lambda row: row[1])
    if order == "shuffled":
        rows = [rows[k] for k in random.permutation(len(rows))]
    path = write(tmp_path / "series.csv", rows)
    expected = read_panel(path, SeriesSettings(**COVARIATES))
    found = by_chunks([path], tmp_path / "data", **COVARIATES)
    assert_same_panels(found, expected)
    assert found.categories == {"weather": ["rain", "snow", "sun"]}
    assert expected.notes[-1] == found.notes[-1] and "values are missing" in found.notes[-1]
    assert {*expected.notes} <= {*found.notes}


def other_layouts(folder):
    random = np.random.default_rng(1)
    rows = rows_of(random)
    series = {name: [r[1:4] for r in rows if r[0] == name] for name in "dbca"}
    for name, some in series.items():
        write(folder / "shops" / f"{name}.csv", some, "day,y,price")
    days = [str(np.datetime64("2021-03-01") + d) for d in range(50)]
    wide = [[day, *(f"{v:.2f}" for v in random.normal(size=3))] for day in days]
    counted = [[str(k), *(f"{v:.2f}" for v in random.normal(size=12))] for k in range(30)]
    for row in counted:
        row[0] = f"T{row[0]}"
    by_time = sorted(rows, key=lambda row: row[1])
    half = len(rows) // 2
    many = [[day, f"s{i}", f"{random.normal():.2f}", "1"] for day in days[:9] for i in range(40)]
    write(folder / "parts" / "0.csv", by_time[:half])
    write(folder / "parts" / "1.csv", by_time[half:])
    # What the second chunk holds, 11 and 12 February, has two readings by itself.
    january = [np.datetime64("2020-01-13") + d for d in range(31)]
    us = [
        [f"{d.item():%m/%d/%Y}", f"{v:.2f}"]
        for d, v in zip(january, random.normal(size=31), strict=True)
    ]
    lines = ["id,y", *(f"{name},{v}" for name in "ba" for v in random.normal(size=30).round(2))]
    (folder / "steps.csv").write_text("\n".join(lines))
    return {
        "a folder of series": ([folder / "shops"], {"target": "y"}),
        "several files": (sorted((folder / "shops").iterdir()), {"target": "y"}),
        "wide": ([write(folder / "wide.csv", wide, "day,a,b,c")], {"target": "*"}),
        "series in rows": (
            [write(folder / "m.csv", counted, "id," + ",".join(f"V{k}" for k in range(1, 13)))],
            {},
        ),
        "parts": ([folder / "parts"], COVARIATES | {"parts": True}),
        "no parts": ([folder / "parts"], COVARIATES | {"parts": False}),
        "month first": ([write(folder / "us.csv", us, "day,y")], {}),
        "no times": ([folder / "steps.csv"], {"id": "id"}),
        "many a day": (
            [write(folder / "many.csv", many, "day,shop,sold,price")],
            {"target": "sold"},
        ),
    }


LAYOUTS = ["a folder of series", "several files", "wide", "series in rows", "parts", "no parts",
           "month first", "no times", "many a day"]  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_read_by_chunks(name, tmp_path, small):
    paths, settings = other_layouts(tmp_path)[name]
    expected = read_panel(paths, SeriesSettings(**settings))
    assert_same_panels(by_chunks(paths, tmp_path / "data", **settings), expected)
    if name == "parts":
        assert [s.name for s in expected.series] == ["d", "b", "c", "a"]
    if name == "no parts":
        assert len(expected) == 8 and expected.series[0].name == "0/d"


def test_whether_tables_are_parts_of_one_is_asked(tmp_path, small):
    paths, settings = other_layouts(tmp_path)["parts"]
    for read in (
        lambda: read_panel(paths, SeriesSettings(**settings | {"parts": None})),
        lambda: by_chunks(paths, tmp_path / "data", **settings | {"parts": None}),
    ):
        with pytest.raises(DataError, match=r"1\.csv: has the series 'd'.*--parts or --no-parts"):
            read()


def test_what_is_wrong_in_a_later_chunk_is_named_with_its_line(tmp_path, small):
    rows = rows_of(np.random.default_rng(0))
    some = [*rows[:90], ["a", "2020-02-30x", "1", "1", "sun", "r1"], *rows[90:]]
    with pytest.raises(DataError, match=r"line 92: .*no time"):
        by_chunks([write(tmp_path / "x.csv", some)], tmp_path / "1", **COVARIATES)
    again = [*rows, rows[-1]]
    with pytest.raises(DataError, match=rf"line {len(rows) + 2}: has the time of line"):
        by_chunks([write(tmp_path / "x.csv", again)], tmp_path / "2", **COVARIATES)
    between = [*rows, ["a", "2020-03-01 12:00", "1", "1", "sun", "r1"]]
    with pytest.raises(DataError, match=rf"line {len(rows) + 2}: .* not on the grid"):
        by_chunks([write(tmp_path / "x.csv", between)], tmp_path / "3", **COVARIATES)
    moved = [*rows, ["a", "2021-01-01", "1", "1", "sun", "elsewhere"]]
    with pytest.raises(DataError, match=r"x\.csv.*: .*'?region'? is|had r1 before"):
        by_chunks([write(tmp_path / "x.csv", moved)], tmp_path / "4", **COVARIATES)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="none: holds no tables"):
        by_chunks([tmp_path / "none"], tmp_path / "5")


@pytest.mark.parametrize("stage", ["reading", "sorting", "ordering", "writing values"])
def test_reading_goes_on_where_it_was_killed(stage, tmp_path, small):
    path = write(tmp_path / "series.csv", rows_of(np.random.default_rng(3)))
    calls = 0

    def tell(name, done, total):
        nonlocal calls
        calls += name == stage
        if calls == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        by_chunks([path], tmp_path / "data", tell, **COVARIATES)
    told = []
    found = by_chunks([path], tmp_path / "data", lambda *args: told.append(args), **COVARIATES)
    assert_same_panels(found, read_panel(path, SeriesSettings(**COVARIATES)))
    before = ["reading", "sorting", "ordering", "writing values"]
    done_before = {*before[: before.index(stage)]} & {"reading", "sorting"}
    assert not done_before & {name for name, *_ in told}


def test_cutoffs_are_those_of_a_loop():
    random = np.random.default_rng(0)
    first, last = random.integers(2, 9, 20), random.integers(1, 12, 20)
    every = [(i, n) for i in range(20) for n in range(first[i], last[i] + 1)]
    cutoffs = Cutoffs(first, last)
    assert [*cutoffs] == every and len(cutoffs) == len(every) and cutoffs[-1] == every[-1]
    assert cutoffs[3::4] == every[3::4] and len(Cutoffs(last + 1, last)) == 0
    least = random.integers(2, 12, 20)
    assert [*cutoffs.at_least(least)] == [(i, n) for i, n in every if n >= least[i]]
    with pytest.raises(IndexError):
        cutoffs[len(every)]


@pytest.mark.parametrize("stored_as", ["memory", "folder"])
def test_windows_encoded_one_by_one_are_the_windows(stored_as, tmp_path, small, monkeypatch):
    path = write(tmp_path / "series.csv", rows_of(np.random.default_rng(5), "dbcaef", 60))
    panel = read_panel(path, SeriesSettings(**COVARIATES))
    encoding = CovariateEncoding.learn(panel)
    if stored_as == "folder":
        save_panel(panel, tmp_path)
        panel = load_panel(tmp_path, panel.to_json())
    held = panel.hold_out(np.arange(len(panel)))
    cutoffs = [(i, n) for i, T in enumerate(held.lengths) for n in range(2, T + 1, 3)]
    for some in (panel, held):
        whole = Windows(some, encoding, 10, 4, 7, history=14)
        with monkeypatch.context() as patch:
            patch.setattr(windows, "ENCODED_STEPS", 0)
            single = Windows(some, encoding, 10, 4, 7, history=14)
        one, ahead, units = whole.take(cutoffs)
        other, ahead_too, units_too = single.take(cutoffs)
        for a, b in zip([*one, ahead], [*other, ahead_too], strict=True):
            assert a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())
        np.testing.assert_array_equal(np.stack(units), np.stack(units_too))
        signs = [np.nanmin(some.series[i].values[:n]) >= 0 for i, n in cutoffs]
        assert [bound == 0 for bound in units.lower_bound] == signs
    assert {*units.lower_bound} == {0.0, -np.inf}


@pytest.mark.parametrize("order", ["by series", "by time"])
def test_a_forecaster_is_the_same_trained_from_prepared_data(order, tmp_path, small, monkeypatch):
    rows = rows_of(np.random.default_rng(7))
    if order == "by time":
        rows.sort(key=lambda row: row[1])
    path = write(tmp_path / "series.csv", rows)
    settings = {**COVARIATES, "future_covariates": None, "past_covariates": "weather,price"}
    quick = {"horizon": 3, "hidden_size": 4, "steps": 6, "ensemble_size": 1, "batch_size": 8}
    expected = Forecaster(**quick, **settings).fit(path)
    monkeypatch.setattr(windows, "ENCODED_STEPS", 0)
    folder = Forecaster(**settings).prepare(path, out=tmp_path / "prepared")
    model = Forecaster(**quick, **settings).fit(folder, out=tmp_path / "run")
    assert model.resolved_ == expected.resolved_
    one, other = model.network_.state_dict(), expected.network_.state_dict()
    assert all(torch.equal(each, other[name]) for name, each in one.items())
    np.testing.assert_array_equal(model.predict(), expected.predict())
    np.testing.assert_array_equal(Forecaster.load(tmp_path / "run").predict(), expected.predict())
    assert model.training_["held_out_mase"] == expected.training_["held_out_mase"]
    with pytest.raises(OstinatoError, match="neither y nor validation"):
        Forecaster(**settings).prepare(path, validation=path, out=tmp_path / "no")
    other = Forecaster(**{**quick, "horizon": 5}, season=14, **settings).fit(folder)
    assert other.predict().shape == (4, 5)  # which data do not depend on


def test_a_folder_of_tables_trains_without_being_prepared(tmp_path, small):
    paths, settings = other_layouts(tmp_path)["a folder of series"]
    quick = {"horizon": 3, "hidden_size": 4, "steps": 4, "ensemble_size": 1}
    model = Forecaster(**quick, **settings).fit(paths, out=tmp_path / "run")
    assert (tmp_path / "run" / "data" / "shards.json").exists()
    assert [s.name for s in model.panel_.series] == ["a", "b", "c", "d"]
    assert model.forecast(paths).median.shape == (4, 3)
    ends = model.panel_.lengths
    assert all(a != b for a, b in pairwise(ends)), "of unequal length"
