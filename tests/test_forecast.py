"""Forecasts: scores by their definitions, and what held-out steps correct."""

from dataclasses import replace

import numpy as np
import pytest

from ostinato.data.timeseries import SeriesSettings, read_panel
from ostinato.tasks.forecasting.calibration import Calibration
from ostinato.tasks.forecasting.distributions import DISTRIBUTIONS
from ostinato.tasks.forecasting.forecast import Forecast, calibrated
from ostinato.tasks.forecasting.scores import LEVELS
from ostinato.tasks.forecasting.windows import Origin, Units


def plain(location, scale):
    """Units of windows whose values are not rounded."""
    N = len(location)
    return Units(np.array(location), np.array(scale), np.zeros(N), np.full(N, -np.inf))


def test_scores_are_their_definitions():
    rng = np.random.default_rng(0)
    values = [rng.normal(size=20) + 5, rng.normal(size=15) * 3]
    panel = read_panel(values, SeriesSettings())
    origins = [Origin(0, 14), Origin(0, 17), Origin(1, 12)]
    p = rng.normal(size=(3, 3, 2))
    units = plain([1.0, 2.0, 3.0], [2.0, 1.0, 4.0])
    forecast = Forecast(panel, origins, DISTRIBUTIONS["gaussian"], p[None], units, 4)
    found = forecast.scores()
    off, smape, naive, crps, inside = [], [], [], [], []
    for n, (i, now) in enumerate(origins):
        y, past = values[i][now : now + 3], values[i][:now]
        steps = np.abs(past[4:] - past[:-4]).mean()
        said = units.location[n] + units.scale[n] * p[n, :, 0]
        off += [*(np.abs(y - said) / steps)]
        smape += [*(200 * np.abs(y - said) / (np.abs(y) + np.abs(said)))]
        naive += [*(np.abs(y - past[-4:-1]) / steps)]
        bounds = forecast.quantiles(LEVELS)[n]
        for k in range(3):
            losses = [max(a * (y[k] - q), (a - 1) * (y[k] - q))
                      for a, q in zip(LEVELS, bounds[k], strict=True)]  # fmt: skip
            crps.append(2 * np.mean(losses))
        low, high = forecast.quantiles([0.1, 0.9])[n].T
        inside += [*((low <= y) & (y <= high))]
    wanted = {"mase": off, "smape": smape, "seasonal_naive_mase": naive, "crps": crps,
              "coverage_80": inside}  # fmt: skip
    for name, each in wanted.items():
        assert found[name] == pytest.approx(np.mean(each)), name
    chance = 1 - DISTRIBUTIONS["gaussian"].below(
        p[:, 0], np.array([values[i][now - 1] for i, now in origins]), *units[:3]
    )
    np.testing.assert_allclose(forecast.rises(), chance)


def test_held_out_steps_correct_intervals_and_chances_and_few_of_them_little():
    rng = np.random.default_rng(0)
    N, paths = 16_000, 500
    y = rng.normal(size=N + 2).cumsum()
    panel = read_panel(y, SeriesSettings())
    origins = [Origin(0, 2 + n) for n in range(N)]
    last, rose = y[1 : N + 1], np.sign(y[2:] - y[1 : N + 1])
    # Steps of 1 that are said to be of 0.5; rises whose odds are said to be as much too clear.
    p = np.zeros((1, N, 1, 2))
    p[..., 1] = np.log(np.expm1(0.5 - 1e-4))
    units = plain(last, np.ones(N))
    gaussian = DISTRIBUTIONS["gaussian"]
    narrow = Forecast(panel, origins, gaussian, p, units)
    assert np.ptp(narrow.quantiles([0.1, 0.9])[0]) == pytest.approx(1.28, rel=0.02)
    true = rng.normal(size=N)
    true = np.where(rng.random(N) < 1 / (1 + np.exp(-rose * true)), true, -true)  # so it is of them
    said = rng.random((N, paths)) < 1 / (1 + np.exp(-(2 * true + 0.5)))[:, None]
    drawn = (last[:, None] + np.where(said, 1, -1))[..., None]
    first = Forecast(panel, origins, gaussian, np.zeros((1, N, 0, 2)), units, 1, drawn)
    read = calibrated(narrow, first, N)
    assert read.spread == pytest.approx(2, rel=0.05)
    assert (read.slope, read.tilt) == pytest.approx((0.5, -0.25), abs=0.07)
    few = [part[:5] for part in (p[0], *units, drawn)]
    narrow = Forecast(panel, origins[:5], gaussian, few[0][None], Units(*few[1:5]))
    first = Forecast(panel, origins[:5], gaussian, first.p[:, :5], narrow.units, 1, few[5])
    read = calibrated(narrow, first, 5)
    assert 0.6 < read.spread < 1.4 and abs(read.slope - 1) < 0.3 and abs(read.tilt) < 0.3
    forecast = replace(first, calibration=Calibration(2.0, -0.25, 0.5))
    p = np.clip((drawn[:5, :, 0] > last[:5, None]).mean(1), 0.5 / paths, 1 - 0.5 / paths)
    np.testing.assert_allclose(np.log(1 / forecast.rises() - 1), 0.25 + 0.5 * np.log(1 / p - 1))
