"""Panels: what was known earlier, storage, counts."""

import numpy as np
import pytest

from ostinato.errors import DataError
from ostinato.tasks.forecasting.columns import Columns
from ostinato.tasks.forecasting.grid import Grid
from ostinato.tasks.forecasting.panel import Panel, Series

NAN = np.nan


def panel():
    y = np.array([1.0, NAN, 3, 4, NAN, 6])
    future, past = np.arange(8.0)[:, None], 10 * np.arange(6.0)[:, None]
    one = Series("a", 3, y, future, past, ("x", 2.0))
    other = Series("b", 5, y[2:4].copy(), future[:3], past[:2], ("y", 3.0))
    columns = Columns(("t",), "id", ("v",), ("f",), ("p",), ("s", "n"))
    return Panel([one, other], Grid("month", 3), columns, {"f": []}, ["a note"])


def test_what_was_known_earlier_has_no_missing_ends_and_no_series_to_come():
    before = panel().until(1)
    (one, other) = before.series
    np.testing.assert_array_equal(one.values, [1, NAN, 3, 4])
    assert one.start == 3 and len(one.future_covariates) == 8 and len(one.past_covariates) == 4
    assert other.values.tolist() == [3] and before.columns == panel().columns
    assert [s.name for s in panel().until(2).series] == ["a"]
    held = panel().hold_out([2, 0])
    np.testing.assert_array_equal(held.series[0].values, [1, NAN, 3, 4])
    assert held.series[1].values.tolist() == [3, 4]


def test_steps_move_with_their_covariates():
    series = panel().series[0].after(2)
    assert series.start == 5 and series.values[0] == 3
    assert series.future_covariates[0, 0] == 2 and series.past_covariates[0, 0] == 20
    late = Series("", 0, np.array([NAN, 1, NAN]), np.zeros((3, 0)), np.zeros((3, 0))).trimmed()
    assert late.start == 1 and late.values.tolist() == [1]
    assert late._replace(values=np.array([NAN])).trimmed() is None
    assert late.extended(7.0).values.tolist() == [1, 7]


def test_a_panel_comes_back_from_its_files(tmp_path):
    whole = panel()
    whole.save(tmp_path / "panel.npz")
    again = Panel.load(tmp_path / "panel.npz", whole.to_json())
    assert again.to_json() == whole.to_json() and again.grid == whole.grid
    for one, other in zip(whole.series, again.series, strict=True):
        assert (one.name, one.start) == (other.name, other.start)
        assert one.static_covariates == other.static_covariates
        for a, b in zip(one[2:5], other[2:5], strict=True):
            np.testing.assert_array_equal(a, b)
    bare = Panel.load(None, whole.to_json())
    assert [len(s.values) for s in bare.series] == [0, 0] and bare.to_json() == whole.to_json()


def test_values_that_are_no_counts_are_refused():
    whole = panel()
    whole.check_counts("it")
    for value, shown in ((-1.0, "-1"), (0.5, "0.5")):
        whole.series[1].values[1] = value
        with pytest.raises(DataError, match=f"series 'b' is {shown} at 1971-07; it is for counts"):
            whole.check_counts("it")
