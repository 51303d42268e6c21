"""Panels: what was known earlier, storage, counts; which steps are trained on, by brute force."""

import numpy as np
import pytest

from ostinato.errors import DataError
from ostinato.tasks.forecasting.grid import Grid
from ostinato.tasks.forecasting.panel import (
    MAX_VALIDATION,
    Columns,
    Cutoff,
    Panel,
    Series,
    default_horizon,
    held_out_steps,
    last_cutoffs,
    training_cutoffs,
    validation_cutoffs,
)
from ostinato.tasks.forecasting.stored import load_panel, save_panel

NAN = np.nan


def panel():
    y = np.array([1.0, NAN, 3, 4, NAN, 6])
    future, past = np.arange(8.0)[:, None], 10 * np.arange(6.0)[:, None]
    one = Series("a", 3, y, future, past, ("x", 2.0))
    other = Series("b", 5, y[2:4].copy(), future[:3], past[:2], ("y", 3.0))
    columns = Columns(("t",), ("id",), ("v",), ("f",), ("p",), ("s", "n"))
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
    series = panel().series[0].between(2)
    assert series.start == 5 and series.values[0] == 3
    assert series.future_covariates[0, 0] == 2 and series.past_covariates[0, 0] == 20
    late = Series("", 0, np.array([NAN, 1, NAN]), np.zeros((3, 0)), np.zeros((3, 0))).trimmed()
    assert late.start == 1 and late.values.tolist() == [1]
    assert late._replace(values=np.array([NAN])).trimmed() is None


def test_a_panel_comes_back_from_its_files(tmp_path):
    whole = panel()
    save_panel(whole, tmp_path)
    again = load_panel(tmp_path, whole.to_json())
    assert again.to_json() == whole.to_json() and again.grid == whole.grid
    for one, other in zip(whole.series, again.series, strict=True):
        assert (one.name, one.start) == (other.name, other.start)
        assert one.static_covariates == other.static_covariates
        for a, b in zip(one[2:5], other[2:5], strict=True):
            np.testing.assert_array_equal(a, b)
    bare = load_panel(None, whole.to_json())
    assert [len(s.values) for s in bare.series] == [0, 0] and bare.to_json() == whole.to_json()


def test_values_that_are_no_counts_are_refused():
    whole = panel()
    whole.check_counts("it")
    for value, shown in ((-1.0, "-1"), (0.5, "0.5")):
        whole.series[1].values[1] = value
        with pytest.raises(DataError, match=f"series 'b' is {shown} at 1971-07; it is for counts"):
            whole.check_counts("it")


# Cutoffs


def panel_of(*lengths):
    def series(i, T):
        return Series(str(i), 0, np.arange(float(T)), np.zeros((T, 0)), np.zeros((T, 0)))

    return Panel([series(i, T) for i, T in enumerate(lengths)], Grid("step"))


@pytest.mark.parametrize("lengths", [(40, 7, 100), (10,), (3, 4)])
@pytest.mark.parametrize("horizon", [1, 3])
def test_training_never_sees_a_held_out_step_and_validation_only_those(lengths, horizon):
    whole = panel_of(*lengths)
    held_out = held_out_steps(whole, horizon, None)
    training = training_cutoffs(whole, held_out, horizon, season=4)
    for i, T in enumerate(lengths):
        left = held_out[i]
        assert left in (0, max(horizon, round(0.1 * T)))
        known = [c.length for c in training if c.series == i]
        assert all(2 <= length < T - left for length in known)
        if T - left - horizon > 4:  # whole horizons, a season's past or a third of the series
            first = min(4, (T - left) // 3)
            assert known == list(range(max(2, first), T - left - horizon + 1))
    validation = validation_cutoffs(whole, held_out, horizon)
    expected = [
        Cutoff(i, n)
        for i, T in enumerate(lengths)
        for n in range(T)
        if held_out[i] and n >= T - held_out[i] and n + horizon <= T
    ]
    assert validation == expected


def test_many_series_hold_out_their_horizon_and_a_fraction_as_asked():
    many = panel_of(*[100] * 60)
    assert held_out_steps(many, 5, None).tolist() == [5] * 60
    assert held_out_steps(many, 5, 0.2).tolist() == [20] * 60
    assert held_out_steps(many, 5, 0).tolist() == [0] * 60
    assert held_out_steps(panel_of(16, 17), 5, None).tolist() == [0, 5]  # 17 = 3 * 5 + 2
    cutoffs = validation_cutoffs(many, np.full(60, 60), 5)
    assert len(cutoffs) <= MAX_VALIDATION and len({c.series for c in cutoffs}) == 60
    assert validation_cutoffs(many, np.zeros(60, int), 5) == []


def test_last_cutoffs_end_a_horizon_before_the_end():
    found = last_cutoffs(panel_of(20, 9), 4, count=3, stride=5)
    assert found == [Cutoff(0, 6), Cutoff(0, 11), Cutoff(0, 16), Cutoff(1, 5)]
    with pytest.raises(
        DataError, match="no series has the 22 steps that are needed to forecast 20"
    ):
        last_cutoffs(panel_of(21), 20, 1, 1)


def test_a_horizon_is_a_season_that_leaves_enough():
    assert default_horizon(12, panel_of(200)) == 12 and default_horizon(1, panel_of(200)) == 12
    assert default_horizon(52, panel_of(40)) == 12 and default_horizon(7, panel_of(3)) == 1
