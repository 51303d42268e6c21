"""Cutoffs: which steps are trained on, validated on and forecast from, by brute force."""

import numpy as np
import pytest

from ostinato.errors import DataError
from ostinato.tasks.forecasting.cutoffs import (
    MAX_VALIDATION,
    Cutoff,
    default_horizon,
    held_out_steps,
    last_cutoffs,
    training_cutoffs,
    validation_cutoffs,
)
from ostinato.tasks.forecasting.grid import Grid
from ostinato.tasks.forecasting.panel import Panel, Series


def panel(*lengths):
    def series(i, T):
        return Series(str(i), 0, np.arange(float(T)), np.zeros((T, 0)), np.zeros((T, 0)))

    return Panel([series(i, T) for i, T in enumerate(lengths)], Grid("step"))


@pytest.mark.parametrize("lengths", [(40, 7, 100), (10,), (3, 4)])
@pytest.mark.parametrize("horizon", [1, 3])
def test_training_never_sees_a_held_out_step_and_validation_only_those(lengths, horizon):
    whole = panel(*lengths)
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
    many = panel(*[100] * 60)
    assert held_out_steps(many, 5, None) == [5] * 60
    assert held_out_steps(many, 5, 0.2) == [20] * 60 and held_out_steps(many, 5, 0) == [0] * 60
    assert held_out_steps(panel(16, 17), 5, None) == [0, 5]  # 17 = 3 * 5 + 2
    cutoffs = validation_cutoffs(many, [60] * 60, 5)
    assert len(cutoffs) <= MAX_VALIDATION and len({c.series for c in cutoffs}) == 60
    assert validation_cutoffs(many, [0] * 60, 5) == []


def test_last_cutoffs_end_a_horizon_before_the_end():
    found = last_cutoffs(panel(20, 9), 4, count=3, stride=5)
    assert found == [Cutoff(0, 6), Cutoff(0, 11), Cutoff(0, 16), Cutoff(1, 5)]
    with pytest.raises(
        DataError, match="no series has the 22 steps that are needed to forecast 20"
    ):
        last_cutoffs(panel(21), 20, 1, 1)


def test_a_horizon_is_a_season_that_leaves_enough():
    assert default_horizon(12, panel(200)) == 12 and default_horizon(1, panel(200)) == 12
    assert default_horizon(52, panel(40)) == 12 and default_horizon(7, panel(3)) == 1
