"""The theta method by its definition."""

import numpy as np
import pytest

from ostinato.tasks.forecasting.theta import RATES, seasonal_indices, theta

NAN = float("nan")


def by_definition(y, horizon):
    """The mean of two lines: the trend, and the smoothed values with twice the curvature."""
    n = len(y)
    t = np.arange(n + horizon)
    slope, intercept = np.polyfit(t[:n], y, 1)
    best = None
    for a in RATES:
        level, error = y[0], 0.0
        for value in y[1:]:
            error += (value - level) ** 2
            level = a * value + (1 - a) * level
        if best is None or error < best[0]:
            best = error, a
    a = best[1]
    level = 2 * y[0] - intercept  # twice the values less the line: theta is 2
    for k in range(1, n):
        level = a * (2 * y[k] - intercept - slope * k) + (1 - a) * level
    return (level + intercept + slope * t[n:]) / 2


@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_mean_of_a_line_and_of_smoothed_values_of_twice_the_curvature(seed):
    random = np.random.default_rng(seed)
    y = 3 * np.arange(40) + random.normal(size=40).cumsum() * 5 - 20
    np.testing.assert_allclose(theta([y], 6, 1)[0], by_definition(y, 6), rtol=1e-9)


def test_seasons_come_out_of_what_repeats():
    random = np.random.default_rng(0)
    factors = np.array([0.5, 1.5, 1.2, 0.8])
    y = (50 + np.arange(60)) * np.tile(factors, 15)
    np.testing.assert_allclose(seasonal_indices(y, 4), factors, rtol=0.01)
    np.testing.assert_allclose(
        theta([y], 8, 4)[0] / np.tile(factors, 2), theta([50.0 + np.arange(60)], 8, 1)[0], rtol=0.02
    )
    z = 2 * np.arange(60) + np.tile([3.0, -1, -2], 20) - 50  # some below 0: they are added
    np.testing.assert_allclose(seasonal_indices(z, 3), [3, -1, -2], atol=1e-9)
    assert seasonal_indices(random.normal(size=60), 7).tolist() == [0]
    assert seasonal_indices(y, 40).tolist() == seasonal_indices(y, 1).tolist() == [1]


def test_missing_values_are_between_others():
    y = 5 + np.sin(np.arange(30))
    gaps = y.copy()
    gaps[10] = (y[9] + y[11]) / 2
    holes = gaps.copy()
    holes[10] = NAN
    assert np.array_equal(theta([np.r_[NAN, NAN, holes]], 3, 1), theta([gaps], 3, 1))
    assert theta([np.array([NAN, 2.0, NAN, 4.0])], 2, 1).tolist() == [[4, 4]]
    assert np.isnan(theta([np.array([NAN])], 2, 1)).all()


def test_series_are_forecast_the_same_alone_and_side_by_side(monkeypatch):
    random = np.random.default_rng(0)
    pasts = [5 + random.normal(size=n).cumsum() for n in (40, 7, 90, 1, 25)]
    pasts += [np.array([NAN, 3.0]), np.array([NAN, NAN]), np.exp(pasts[2])]
    alone = np.concatenate([theta([past], 6, 4) for past in pasts])
    np.testing.assert_array_equal(theta(pasts, 6, 4), alone)
    monkeypatch.setattr("ostinato.tasks.forecasting.theta.MAX_ROWS", 3)
    np.testing.assert_array_equal(theta(pasts, 6, 4), alone)
