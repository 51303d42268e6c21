"""Forecasts: scores by their definitions, and what held-out steps correct."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ostinato.errors import OstinatoError
from ostinato.tasks.forecasting.distributions import DISTRIBUTIONS, Units
from ostinato.tasks.forecasting.forecast import (
    LEVELS,
    Blend,
    Calibration,
    Forecast,
    Marginals,
    SamplePaths,
    calibrate,
    fit_blend,
    seasonal_naive,
    seasonal_naive_error,
)
from ostinato.tasks.forecasting.panel import Cutoff
from ostinato.tasks.forecasting.reading import SeriesSettings, read_panel
from ostinato.tasks.forecasting.theta import theta


def unrounded(location, scale):
    """Units of windows whose values are not rounded."""
    N = len(location)
    return Units(np.array(location), np.array(scale), np.zeros(N), np.full(N, -np.inf))


def test_scores_are_their_definitions():
    rng = np.random.default_rng(0)
    values = [rng.normal(size=20) + 5, rng.normal(size=15) * 3]
    panel = read_panel(values, SeriesSettings())
    cutoffs = [Cutoff(0, 14), Cutoff(0, 17), Cutoff(1, 12)]
    p = rng.normal(size=(3, 3, 2))
    units = unrounded([1.0, 2.0, 3.0], [2.0, 1.0, 4.0])
    gaussian = DISTRIBUTIONS["gaussian"]
    forecast = Forecast(panel, cutoffs, Marginals(gaussian, p[None]), units, 4)
    found = forecast.scores()
    off, smape, naive, crps, inside = [], [], [], [], []
    for n, (i, now) in enumerate(cutoffs):
        y, past = values[i][now : now + 3], values[i][:now]
        steps = np.abs(past[4:] - past[:-4]).mean()
        predicted = units.location[n] + units.scale[n] * p[n, :, 0]
        off += [*(np.abs(y - predicted) / steps)]
        smape += [*(200 * np.abs(y - predicted) / (np.abs(y) + np.abs(predicted)))]
        naive += [*(np.abs(y - past[-4:-1]) / steps)]
        bounds = forecast.quantiles(LEVELS)[n]
        for k in range(3):
            losses = [max(a * (y[k] - q), (a - 1) * (y[k] - q))
                      for a, q in zip(LEVELS, bounds[k], strict=True)]  # fmt: skip
            crps.append(2 * np.mean(losses))
        low, high = forecast.quantiles([0.1, 0.9])[n].T
        inside += [*((low <= y) & (y <= high))]
    expected = {"mase": off, "smape": smape, "seasonal_naive_mase": naive, "crps": crps,
              "coverage_80": inside}  # fmt: skip
    for name, each in expected.items():
        assert found[name] == pytest.approx(np.mean(each)), name
    last = np.array([values[i][now - 1] for i, now in cutoffs])
    chance = 1 - gaussian.cdf(p[:, 0], last, units)
    np.testing.assert_allclose(forecast.rises(), chance)


def test_held_out_steps_correct_intervals_and_chances_and_few_of_them_little():
    rng = np.random.default_rng(0)
    N, paths = 16_000, 500
    y = rng.normal(size=N + 2).cumsum()
    panel = read_panel(y, SeriesSettings())
    cutoffs = [Cutoff(0, 2 + n) for n in range(N)]
    last, rose = y[1 : N + 1], np.sign(y[2:] - y[1 : N + 1])
    # Steps of 1 that are predicted as 0.5; rises whose predicted odds are twice too large.
    p = np.zeros((1, N, 1, 2))
    p[..., 1] = np.log(np.expm1(0.5 - 1e-4))
    units = unrounded(last, np.ones(N))
    gaussian = DISTRIBUTIONS["gaussian"]
    narrow = Forecast(panel, cutoffs, Marginals(gaussian, p), units)
    assert np.ptp(narrow.quantiles([0.1, 0.9])[0]) == pytest.approx(1.28, rel=0.02)
    true = rng.normal(size=N)
    true = np.where(rng.random(N) < 1 / (1 + np.exp(-rose * true)), true, -true)  # so it is of them
    rises = rng.random((N, paths)) < 1 / (1 + np.exp(-(2 * true + 0.5)))[:, None]
    drawn = (last[:, None] + np.where(rises, 1, -1))[..., None]
    first = Forecast(panel, cutoffs, SamplePaths.of(drawn), units)
    read = calibrate(narrow, first, N, spread=True)
    assert read.spread == pytest.approx(2, rel=0.05)
    assert (read.slope, read.intercept) == pytest.approx((0.5, -0.25), abs=0.07)
    few = [part[:5] for part in (p[0], *units, drawn)]
    narrow = Forecast(panel, cutoffs[:5], Marginals(gaussian, few[0][None]), Units(*few[1:5]))
    first = Forecast(panel, cutoffs[:5], SamplePaths.of(few[5]), narrow.units)
    read = calibrate(narrow, first, 5, spread=True)
    assert 0.6 < read.spread < 1.4 and abs(read.slope - 1) < 0.3 and abs(read.intercept) < 0.3
    # Intervals twice too wide: of many horizons they are narrowed by half, of few hardly, and all
    # become wider then as one knows the spread less.
    p = np.zeros((1, 500, 1, 2))
    p[..., 1] = np.log(np.expm1(2.0 - 1e-4))
    wide = Forecast(
        panel, cutoffs[:500], Marginals(gaussian, p), unrounded(last[:500], np.ones(500))
    )
    factors = [calibrate(wide, first, steps, spread=True).spread for steps in (1, 10, 10_000)]
    unsure = [stats.t(1 + n).ppf(0.9) / stats.norm.ppf(0.9) for n in (1, 10)]
    assert factors[0] > 0.9 * unsure[0] > 1.3
    assert factors[1] == pytest.approx(unsure[1] * factors[2] ** 0.5, rel=0.01)
    assert factors[2] == pytest.approx(0.5, rel=0.25)
    forecast = replace(first, calibration=Calibration(2.0, -0.25, 0.5))
    p = np.clip((drawn[:5, :, 0] > last[:5, None]).mean(1), 0.5 / paths, 1 - 0.5 / paths)
    np.testing.assert_allclose(np.log(1 / forecast.rises() - 1), 0.25 + 0.5 * np.log(1 / p - 1))


NAN = np.nan


@pytest.mark.parametrize(
    ("blend", "past", "expected"),
    [
        (Blend("naive"), [1.0, 2, 4, NAN], [4, 4, 4]),
        (Blend("seasonal naive", 2), [1.0, 2, 4, NAN], [4, 2, 4]),
        (Blend("drift"), [1.0, 2, NAN, 4], [5, 6, 7]),
        (Blend("drift"), [NAN, 1, 2, NAN], [4, 5, 6]),  # and one step more
        (Blend("drift"), [3.0], [3, 3, 3]),
        (Blend("seasonal drift", 2), [1.0, 2, 4, 6], [7.5, 9.5, 11]),  # 3 and 4 more in a season
        (Blend("seasonal drift", 2), [1.0, 2, 4, NAN], [7, 5, 10]),
        (Blend("seasonal drift", 2), [1.0, NAN], [1, 1, 1]),
        (Blend("median"), [1.0, 2, NAN, 6], [2, 2, 2]),
        (Blend("median"), [NAN, NAN], [NAN, NAN, NAN]),
    ],
)
def test_simple_rules_are_their_definitions(blend, past, expected):
    np.testing.assert_array_equal(blend.predict([np.array(past)], 3), [expected])


def test_a_blend_is_the_mean_of_a_rule_and_theta():
    pasts = [np.random.default_rng(n).normal(size=n).cumsum() for n in (40, 12)]
    blend = Blend("seasonal drift", 6, 0.3, theta=4)
    expected = (Blend("seasonal drift", 6).predict(pasts, 5) + theta(pasts, 5, 4)) / 2
    np.testing.assert_array_equal(blend.predict(pasts, 5), expected)
    assert str(blend) == "theta and seasonal drift, a season of 6"


def noise_forecast(network, N=300, A=2, seed=0):
    """Forecasts of independent noise, whose mean is 5: a share of what will come, and noise."""
    rng = np.random.default_rng(seed)
    y = 5 + rng.normal(size=N + A + 4)
    panel = read_panel(y, SeriesSettings())
    cutoffs = [Cutoff(0, 4 + n) for n in range(N)]
    p = np.zeros((1, N, A, 2))
    for n, (_, now) in enumerate(cutoffs):
        p[0, n, :, 0] = network(y[now : now + A], rng.normal(size=A))
    gaussian = Marginals(DISTRIBUTIONS["gaussian"], p)
    return Forecast(panel, cutoffs, gaussian, unrounded(np.zeros(N), np.ones(N)))


def test_a_rule_weighs_as_much_as_it_helps_and_on_few_steps_by_both_errors():
    perfect = noise_forecast(lambda future, noise: future)
    blend, scores = fit_blend(perfect, perfect.cutoffs, 4000, [7], 10_000)
    assert blend[:3] == ("median", 1, 0) and blend.theta == 7 and scores["network"] == 0
    assert scores["median"] < scores["naive"] and scores["median"] < scores["drift"]
    useless = noise_forecast(lambda future, noise: noise)
    blend, scores = fit_blend(useless, useless.cutoffs, 4000, [7], 10_000)
    assert blend.weight > 0.95
    # Changes that are predicted twice too large are halved.
    twice = noise_forecast(lambda future, noise: 2 * future - 5)
    assert fit_blend(twice, twice.cutoffs, 4000, [], 10_000)[0].weight == pytest.approx(
        0.5, abs=0.06
    )
    weights = [
        fit_blend(useless, useless.cutoffs, 4000, [], steps)[0].weight for steps in (0, 2, 8, 200)
    ]
    squared = scores["network"] ** 2, scores["theta and median"] ** 2
    assert weights[0] == pytest.approx(squared[0] / sum(squared), abs=0.001)
    assert (np.diff(weights) > 0).all()


@pytest.mark.parametrize("paths", [False, True])
def test_a_blend_moves_centers_and_keeps_the_spread(paths):
    forecast = noise_forecast(lambda future, noise: noise)
    if paths:
        drawn = np.random.default_rng(0).normal(size=(300, 501, 2))
        forecast = replace(forecast, predictive=SamplePaths.of(drawn))
    levels = [0.1, 0.5, 0.9]
    moved = forecast.blended(Blend("naive", weight=0.25), 50)
    expected = 0.75 * forecast.median + 0.25 * forecast.last[:, None]
    np.testing.assert_allclose(moved.median, expected)
    np.testing.assert_allclose(
        np.diff(moved.quantiles(levels), axis=-1), np.diff(forecast.quantiles(levels), axis=-1)
    )
    assert forecast.blended(Blend("naive"), 50) is forecast
    positive = replace(forecast, units=forecast.units._replace(
        resolution=np.ones(300), lower_bound=np.zeros(300)))  # fmt: skip
    values = positive.blended(Blend("naive", weight=0.3), 50).quantiles(levels)
    assert (values >= 0).all() and (values == np.round(values)).all()


def test_a_tie_is_no_rise():
    """Values are whole: only those above the last, rounded, are a rise."""
    y = np.array([3.0, 1, 2, 2, 4, 2])
    panel = read_panel(y, SeriesSettings())
    units = Units(np.array([2.0]), np.array([1.5]), np.array([1.0]), np.array([-np.inf]))
    drawn = np.array([[[1.0], [2.0], [2.0], [3.0], [2.0]]])
    found = Forecast(panel, [Cutoff(0, 6)], SamplePaths.of(drawn), units).rises()
    np.testing.assert_allclose(found, [0.2])
    rng = np.random.default_rng(0)
    for name, p in (("student", [0.1, 0.2, 1.0]), ("gaussian", [0.1, 0.2])):
        family = DISTRIBUTIONS[name]
        p = np.array(p)
        forecast = Forecast(panel, [Cutoff(0, 6)], Marginals(family, p[None, None, None]), units)
        many = Units(*(np.broadcast_to(part, (400_000,)) for part in units))
        u = rng.random(400_000)
        samples = many.round(family.sample(np.broadcast_to(p, (400_000, len(p))), many, u))
        np.testing.assert_allclose(forecast.rises(), (samples > 2).mean(), atol=0.005)


def test_a_forecast_is_a_frame_with_times_and_cutoffs():
    months = [f"2020-{m:02d}" for m in range(1, 8)]
    frame = pd.DataFrame({"month": months, "y": np.arange(7.0)})
    panel = read_panel(frame, SeriesSettings())
    p = np.zeros((1, 2, 3, 2))
    units = unrounded([1.0, 2.0], [2.0, 1.0])
    gaussian = Marginals(DISTRIBUTIONS["gaussian"], p)
    forecast = Forecast(panel, [Cutoff(0, 3), Cutoff(0, 7)], gaussian, units)
    found = forecast.to_frame([0.1, 0.5])
    assert list(found) == ["unique_id", "cutoff", "ds", "median", "0.1", "0.5"]
    assert found["ds"].dt.strftime("%Y-%m").tolist() == [
        "2020-04", "2020-05", "2020-06", "2020-08", "2020-09", "2020-10",
    ]  # fmt: skip
    assert found["cutoff"].dt.strftime("%Y-%m").tolist() == ["2020-03"] * 3 + ["2020-07"] * 3
    np.testing.assert_array_equal(found["0.5"], found["median"])
    np.testing.assert_array_equal(found["0.1"], forecast.quantiles([0.1])[..., 0].ravel())
    observed = forecast.observed()
    np.testing.assert_array_equal(observed, [[3, 4, 5], [np.nan] * 3])


def test_samples_of_paths_are_the_paths():
    panel = read_panel(np.arange(9.0), SeriesSettings())
    drawn = np.random.default_rng(0).normal(size=(1, 50, 3))
    forecast = Forecast(panel, [Cutoff(0, 9)], SamplePaths.of(drawn), unrounded([0.0], [1.0]))
    np.testing.assert_allclose(np.sort(forecast.sample(50), 1), np.sort(drawn, 1))
    assert forecast.sample(80).shape == (1, 80, 3)


def test_quantiles_of_paths_are_those_of_all_values_of_a_step():
    rng = np.random.default_rng(0)
    paths, levels = rng.normal(size=(3, 20, 4)), [0.001, 0.1, 0.31, 0.5, 0.975, 0.9999]
    values = np.sort(np.concatenate([np.moveaxis(paths, 1, 2), rng.normal(size=(3, 4, 60))], -1))
    for found, each in (
        (SamplePaths(paths, values), values),
        (SamplePaths.of(paths), np.moveaxis(paths, 1, 2)),
        (SamplePaths.of(paths[:, :1]), paths[:, 0, :, None]),
    ):
        expected = np.moveaxis(np.quantile(each, levels, axis=-1, method="hazen"), 0, -1)
        np.testing.assert_allclose(found.quantiles(unrounded(*np.zeros((2, 3))), levels), expected)
        np.testing.assert_allclose(found.mean(unrounded(*np.zeros((2, 3)))), each.mean(-1))


def test_naive_forecasts_skip_missing_values():
    past = np.array([1.0, 2, 3, 4, np.nan, 6])
    assert seasonal_naive(past, 5, 3).tolist() == [4, 2, 6, 4, 2]
    assert seasonal_naive(past, 2, 1).tolist() == [6, 6]
    assert seasonal_naive_error(past, 3) == pytest.approx(np.mean([3, 3]))
    assert np.isnan(seasonal_naive_error(np.ones(8), 2))


def forecast_of(N, A, cutoffs=1):
    """A forecast of named series, each with corrections of its own."""
    rng = np.random.default_rng(N)
    panel = read_panel({f"s{i}": rng.normal(size=30) for i in range(N)}, SeriesSettings())
    count = N * cutoffs
    units = unrounded(rng.normal(size=count), rng.uniform(1, 2, count))
    ends = [Cutoff(i, 29 - k) for i in range(N) for k in range(cutoffs)]
    calibration = Calibration(rng.uniform(1, 2, count), rng.normal(size=count), 1.5)
    paths = SamplePaths.of(rng.normal(size=(count, 50, A)))
    p = Marginals(DISTRIBUTIONS["gaussian"], rng.normal(size=(2, count, A, 2)))
    return [Forecast(panel, ends, each, units, 1, calibration) for each in (p, paths)]


@pytest.mark.parametrize("kind", [0, 1])
def test_a_series_of_a_forecast_is_what_the_whole_says_of_it(kind):
    whole = forecast_of(4, 3, cutoffs=2)[kind]
    rows = [4, 5]  # of the third series
    one = whole["s2"]
    assert one.cutoffs == whole.cutoffs[4:6]
    for name in ("median", "mean", "last"):
        np.testing.assert_array_equal(getattr(one, name), getattr(whole, name)[rows])
    np.testing.assert_array_equal(one.quantiles([0.1, 0.7]), whole.quantiles([0.1, 0.7])[rows])
    np.testing.assert_array_equal(one.rises(), whole.rises()[rows])
    frame = whole.to_frame()
    expected = frame[frame["unique_id"] == "s2"].reset_index(drop=True)
    pd.testing.assert_frame_equal(one.to_frame(), expected)
    turned = whole.take([3, 1])
    np.testing.assert_array_equal(turned.median, whole.median[[3, 1]])
    for wrong in ("s9", 0):
        with pytest.raises(OstinatoError, match="expected the name of a series, one of 's0', 's1'"):
            whole[wrong]


@pytest.mark.parametrize(("N", "A"), [(1, 1), (1, 24), (2, 12), (3, 12), (40, 5), (1, 300)])
def test_a_forecast_prints_as_the_first_and_last_rows_of_its_table(N, A):
    found = forecast_of(N, A)[0]
    head, names, *rows = str(found).splitlines()
    assert names.split() == ["unique_id", "ds", "median", "0.1", "0.9"]
    assert f"{A} step" in head and ("s0" if N == 1 else f"{N} series") in head
    medians = found.median.ravel()
    if N * A <= 24:
        shown = medians
    else:
        assert rows.pop(12) == f"... {N * A - 24:,} more rows: to_frame()"
        shown = [*medians[:12], *medians[-12:]]
    assert [float(row.split()[2]) for row in rows] == pytest.approx(shown, abs=1e-5)
