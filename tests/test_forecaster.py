"""Forecasters from data to scores: nothing of the future, gaps, covariates, streams, storage."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ostinato import Forecaster, diagnose, export, load
from ostinato.errors import DataError, OstinatoError
from ostinato.tasks.forecasting.forecast import LEVELS, Blend
from ostinato.tasks.forecasting.forecaster import _summary
from ostinato.tasks.forecasting.panel import Cutoff
from ostinato.tasks.forecasting.seasons import find_seasons
from ostinato.tasks.forecasting.windows import Windows

SMALL = {"hidden_size": 16, "epochs": 8, "learning_rate": 0.01, "ensemble_size": 2}


def waves(N=6, T=120, seed=0, noise=0.1):
    """Series of a season of 12, of sizes that differ a thousandfold."""
    rng = np.random.default_rng(seed)
    t = np.arange(T)
    found = {}
    for i in range(N):
        size, phase = 10.0 ** (i % 4), rng.uniform(0, 6)
        y = 5 + 0.02 * t + np.sin(2 * np.pi * t / 12 + phase) + noise * rng.normal(size=T)
        found[f"s{i}"] = size * y
    return found


@pytest.fixture(scope="module", params=["direct", "autoregressive"])
def model(request):
    cut = {name: y[:-12] for name, y in waves().items()}
    output = "quantiles" if request.param == "direct" else "student"
    return Forecaster(horizon=12, season=12, method=request.param, output=output, **SMALL).fit(cut)


def test_series_of_all_scales_are_forecast_better_than_naively(model):
    found = model.evaluate(waves())
    assert found["mase"] < 0.8 * found["seasonal_naive_mase"] < found["naive_mase"]
    assert found["forecasts"] == 6 and 0.5 < found["coverage_80"] <= 1
    assert model.score(waves()) == pytest.approx(1 - found["mase"] / found["seasonal_naive_mase"])
    assert model.predict().shape == (6, 12)
    quantiles = model.predict_quantiles(levels=[0.1, 0.5, 0.9])
    assert (np.diff(quantiles, axis=-1) > 0).all()
    assert model.sample(num_samples=50).shape == (6, 50, 12)
    assert repr(model.forecast()).startswith("Forecast of 6 series, 12 steps ahead, one every ")
    means = model.predict(point="mean")
    np.testing.assert_allclose(means, model.predict(), rtol=0.2)


def test_a_stored_model_goes_on_where_it_ended(model, tmp_path):
    again = type(model)(**model.get_params()).fit(waves(), out=tmp_path / "run")
    stored = load(tmp_path / "run")
    np.testing.assert_array_equal(stored.predict(), again.predict())
    again.save(tmp_path / "bare")
    bare = load(tmp_path / "bare")
    with pytest.raises(OstinatoError, match="stored without its data; give the series"):
        bare.predict()
    np.testing.assert_array_equal(bare.predict(waves()), again.predict(waves()))
    resumed = Forecaster.resume(tmp_path / "run")
    np.testing.assert_array_equal(resumed.predict(), again.predict())
    assert diagnose(again, (waves(),)).flow.layers


def depends_on_the_future(model):
    """Whether a backtest changes where only what comes later changes."""
    y = np.sin(np.arange(80) / 3) + 0.1 * np.random.default_rng(0).normal(size=80)
    other = y.copy()
    other[-4:] += 5.0
    one, two = (model.backtest(each, cutoffs=3) for each in (y, other))
    assert [cutoff.length for cutoff in one.cutoffs] == [68, 72, 76]
    return not np.array_equal(one.median, two.median)


def test_the_series_of_a_run_are_read_once(tmp_path, monkeypatch):
    read, opened = np.load, []

    def load_and_note(path, *args, **kwargs):
        opened.append(path.name)
        return read(path, *args, **kwargs)

    def times_read(call):
        opened.clear()
        call()
        return opened.count("steps.npy")

    monkeypatch.setattr(np, "load", load_and_note)
    model, run = Forecaster(horizon=3, epochs=1, ensemble_size=1, hidden_size=4), tmp_path / "run"
    assert times_read(lambda: model.fit(waves(2, 60), out=run)) == 1
    assert times_read(lambda: Forecaster.resume(run)) == 1
    assert times_read(lambda: load(run).validation_examples(run / "data")) == 1
    assert times_read(lambda: model.fit(waves(2, 60))) == 1
    elsewhere = tmp_path / "elsewhere"
    model.save(elsewhere)
    assert times_read(lambda: load(elsewhere).validation_examples(run / "data")) == 1


@pytest.mark.parametrize("method", ["direct", "autoregressive"])
def test_a_backtest_sees_nothing_of_the_future_and_a_leak_is_caught(method, monkeypatch):
    model = Forecaster(horizon=4, season=4, method=method, epochs=1, hidden_size=4)
    assert not depends_on_the_future(model)
    take = Windows.take

    def leaking(self, cutoffs):
        later = [Cutoff(i, min(now + 1, len(self.panel.series[i].values))) for i, now in cutoffs]
        return take(self, later)

    monkeypatch.setattr(Windows, "take", leaking)
    assert depends_on_the_future(model)


def test_each_refit_learns_from_what_was_known_then():
    y = np.sin(np.arange(60) / 2)
    lengths = []

    class Watched(Forecaster):
        def fit(self, X, *more, **named):
            lengths.append(len(X.series[0].values))
            return super().fit(X, *more, **named)

    model = Watched(horizon=5, season=3, epochs=0.5, hidden_size=4)
    model.backtest(y, cutoffs=3, stride=4)
    model.backtest(y, cutoffs=3, stride=4, refit=True)
    assert lengths == [47, 47, 51, 55]
    each = model.backtest(y, cutoffs=2, refit=True)
    last = Forecaster(**{**model.get_params(), "season": 3}).fit(y[:-5])
    read = last.training_["calibration"]
    assert [part[1] for part in each.calibration] == list(read.values())
    assert all(part.shape == (2,) for part in each.calibration)
    assert each.rises()[1] == last.forecast().rises()[0]
    np.testing.assert_array_equal(each.quantiles([0.1])[1], last.forecast().quantiles([0.1])[0])


def test_a_constant_series_has_no_scaled_error():
    constant = Forecaster(horizon=2, season=2, epochs=0.5, hidden_size=4).fit(np.ones(30))
    assert np.isnan(constant.evaluate()["mase"]) and constant.evaluate()["smape"] < 5


def test_future_covariates_are_used(tmp_path):
    rng = np.random.default_rng(1)
    price = rng.integers(0, 2, 206).astype(float)
    y = 10 - 5 * price[:200] + 0.1 * rng.normal(size=200)
    lines = ["t,y,price"]
    lines += [f"{t},{y[t] if t < 200 else ''},{price[t]}" for t in range(206)]
    file = tmp_path / "shop.csv"
    file.write_text("\n".join(lines))
    for method in ("direct", "autoregressive"):
        settings = {"horizon": 6, "season": 1, "method": method, "target": "y", **SMALL}
        model = Forecaster(future_covariates="price", **{**settings, "epochs": 20}).fit(file)
        np.testing.assert_allclose(model.predict()[0], 10 - 5 * price[200:], atol=1.0)
    file.write_text("\n".join(lines[:-3]))
    with pytest.raises(DataError, match=r"future covariates \(price\) end 3 steps after"):
        model.predict(file)


def test_categories_are_used_of_series_and_of_steps(tmp_path):
    """A shop of its kind sells more on some days, whose names the table has."""
    rng = np.random.default_rng(4)
    extra = {"fair": 3.0, "none": 0.0, "strike": -3.0}
    lines = ["shop,t,y,day,kind"]
    for shop in range(6):
        kind = ["big", "small"][shop % 2]
        for t in range(106):
            day = ["fair", "none", "strike", "none"][rng.integers(4)]
            y = (20 if kind == "big" else 10) + extra[day] + 0.1 * rng.normal()
            lines.append(f"s{shop},{t},{y if t < 100 else ''},{day},{kind}")
    file = tmp_path / "shops.csv"
    file.write_text("\n".join(lines))
    covariates = {"future_covariates": "day", "static_covariates": "kind"}
    settings = {"horizon": 6, "season": 1, "target": "y", "id": "shop", **SMALL}
    more = {"epochs": 30, "ensemble_size": 1}
    model = Forecaster(**covariates, **{**settings, **more}).fit(file)
    days = np.array([line.split(",")[3] for line in lines[1:]]).reshape(6, 106)[:, 100:]
    found = model.predict()
    effects = found - np.array([[20], [10]] * 3)
    fair, none, strike = (effects[days == day].mean() for day in extra)
    assert fair > none + 0.5 and none > strike + 0.5
    assert found[::2].mean() > found[1::2].mean() + 5
    file.write_text("\n".join(lines).replace("fair", "feast"))  # a new category is no error
    assert np.isfinite(model.predict(file)).all()


def test_a_random_walk_is_forecast_as_the_last_value_and_the_end_says_so(capsys):
    rng = np.random.default_rng(5)
    walks = {f"{i}": 100 + rng.normal(size=150).cumsum() for i in range(8)}
    settings = {"horizon": 10, "season": 1, **SMALL}
    known = {name: y[:-10] for name, y in walks.items()}
    model = Forecaster(**settings).fit(known, progress="lines")
    blend, scores = model.training_["blend"], model.training_["held_out_mase"]
    line = capsys.readouterr().out.splitlines()[-1]
    assert line == model.training_["summary"]
    assert line.startswith(f"MASE {scores['forecast']:.2f} on held-out steps")
    assert f"naive {scores['naive']:.2f}" in line
    assert blend["weight"] > 0.5
    found = model.evaluate(walks)
    assert found["mase"] < 1.05 * found["naive_mase"]


def relative_error(y, season, rule):
    """MASE of the last steps over that of a simple rule, with the network, and by it alone."""
    model = Forecaster(horizon=10, season=season, hidden_size=32, ensemble_size=1, epochs=40)
    found = [model.fit(y[:-60]).historical_forecasts(y, cutoffs=6)]
    model.training_ |= {"blend": {}, "calibration": {}}
    found.append(model.historical_forecasts(y, cutoffs=6))
    return [each.scores()["mase"] / each.scores()[f"{rule}_mase"] for each in found]


@pytest.mark.slow
def test_walks_are_forecast_as_naively_as_they_should_be_and_seasons_far_better():
    """A network learns more of a short random walk than there is to know."""
    noises = np.random.default_rng(3).normal(size=(6, 300))
    walks = np.mean([relative_error(100 + e.cumsum(), 1, "naive") for e in noises], 0)
    assert walks[0] < 1.05 and walks[1] > 1.08
    wave = 10 * np.sin(2 * np.pi * np.arange(300) / 12)
    seasonal = np.mean([relative_error(wave + e, 12, "seasonal_naive") for e in noises[:3]], 0)
    assert seasonal[0] < 0.85  # the best that can be is 1 / sqrt(2)


def test_the_end_says_where_simple_rules_are_as_good():
    blend = Blend("seasonal naive", 12, 0.4)
    scores = {"naive": 1.2, "seasonal naive, a season of 12": 0.9, "mean": 2.0, "network": 1.1}
    assert _summary(0.95, scores, blend) == (
        "MASE 0.95 on held-out steps (the network alone 1.10; 40 % of the forecast is the rule "
        "seasonal naive, a season of 12); seasonal naive, a season of 12 0.90, naive 1.20; no "
        "better than the simplest rules"
    )
    both = {**scores, "theta and drift": 0.8}
    assert _summary(0.7, both, Blend("drift", 1, 0.4, theta=12)) == (
        "MASE 0.70 on held-out steps (the network alone 1.10; 40 % of the forecast is the rules "
        "theta and drift); theta and drift 0.80, naive 1.20, seasonal naive, a season of 12 0.90"
    )
    assert _summary(0.5, scores, blend._replace(weight=0.0)) == (
        "MASE 0.50 on held-out steps; seasonal naive, a season of 12 0.90, naive 1.20"
    )


def test_a_week_of_hours_is_seen():
    """Only what was a week ago tells which hours are busy."""
    hours = pd.date_range("2024-01-01", periods=24 * 7 * 8, freq="h")
    rng = np.random.default_rng(6)
    week = 10 + 3 * rng.normal(size=168)
    y = np.tile(week, 8) + 0.1 * rng.normal(size=len(hours))
    series = pd.Series(y, index=hours)
    settings = {"horizon": 24, "calendar": False, **SMALL, "epochs": 3, "ensemble_size": 1}
    model = Forecaster(**settings).fit(series[:-24])
    assert (model.resolved_["season"], model.resolved_["long_season"]) == (24, 168)
    found = model.evaluate(series)
    assert found["mase"] < 0.5 * found["seasonal_naive_mase"]
    last = model.network_.members[0]
    assert last.history == 168 and last.seasons == (24, 168)
    alone = Forecaster(long_season=1, **settings).fit(series[:-24])
    assert alone.evaluate(series)["mase"] > 2 * found["mase"]
    stream = model.stream(series[:-30])
    for value in series[-30:]:
        step = stream.observe(value)
    np.testing.assert_array_equal(step.median, model.predict(series))


def test_seasons_without_dates_are_found_and_none_in_noise():
    rng = np.random.default_rng(8)
    t = np.arange(24 * 7 * 6)
    busy = np.where(t // 24 % 7 < 5, 1.0, 0.2)
    power = 50 + 10 * busy * np.sin(2 * np.pi * t / 24) + rng.normal(size=len(t))
    assert find_seasons([power]) == (24, 168)
    power[100:110] = np.nan
    assert find_seasons([power, 7 * power[:900]]) == (24, 168)
    assert find_seasons([np.sin(2 * np.pi * t / 12)]) == (12, 1)
    for seed in range(20):
        noise = np.random.default_rng(seed).normal(size=(5, 120))
        for some in (noise[:1], noise, noise.cumsum(1)):
            assert find_seasons(some) == (1, 1)
    assert find_seasons([np.ones(3)]) == find_seasons([np.ones(300)]) == (1, 1)


@pytest.mark.parametrize("method", ["direct", "autoregressive"])
def test_a_missed_day_is_replaced_by_the_networks_own_forecast(method):
    """A timetable of three subjects: with days missed, and with all of them."""
    rng = np.random.default_rng(0)
    days = np.tile([1.0, 2.0, 3.0], 60)
    gaps = days.copy()
    gaps[5 + np.flatnonzero(rng.random(170) < 0.1)] = np.nan
    settings = {"horizon": 6, "season": 1, "context": 24, "method": method, **SMALL}
    model = Forecaster(**{**settings, "epochs": 20}).fit(gaps)
    for end in (90, 91, 92):
        whole = days[:end]
        missed = whole.copy()
        missed[-2] = np.nan
        last = np.append(whole[:-1], np.nan)  # the last day is missed, and forecast too
        right = np.tile([1.0, 2.0, 3.0], 40)[end : end + 6]
        for past in (whole, missed):
            assert np.round(model.predict(past)[0]).tolist() == right.tolist()
        stream = model.stream(whole[:-1])
        assert np.round(stream.observe(None).median[0]).tolist() == right.tolist(), last


class Work(TorchDispatchMode):
    """Counts the numbers that PyTorch's operators write."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        if not function.is_view:
            self.count += sum(t.numel() for t in tree_leaves(found) if isinstance(t, torch.Tensor))
        return found


def test_the_work_of_a_forecast_grows_with_its_horizon_and_not_with_its_square():
    (y,) = waves(1).values()
    model = Forecaster(horizon=3, season=12, ensemble_size=1, hidden_size=4, epochs=1).fit(y)
    counts = []
    for horizon in (200, 400, 600):
        with Work() as work:
            model.forecast(horizon=horizon, num_samples=3)
        counts.append(work.count)
    first, second, third = counts
    assert 0 < third - second < 1.01 * (second - first)


def test_a_stream_forecasts_as_the_whole_series_does(model):
    (y,) = waves(1).values()
    one = Forecaster(horizon=3, season=12, epochs=1, hidden_size=8, method=model.method).fit(y)
    stream = one.stream(y[:60])
    for t in range(60, 70):
        found = stream.observe(y[t])
        np.testing.assert_array_equal(found.median, one.forecast(y[: t + 1]).median)
    with pytest.raises(OstinatoError, match="X holds 2 series; expected one"):
        one.stream([y, y])
    for value, shown in ((np.inf, "inf"), ("x", "'x'")):
        with pytest.raises(OstinatoError, match=f"value={shown}; expected a number"):
            stream.observe(value)


@pytest.mark.parametrize("output", ["gaussian", "student", "negative-binomial", "quantiles"])
@pytest.mark.parametrize("method", ["direct", "autoregressive"])
def test_counts_are_forecast_by_every_family(output, method):
    rng = np.random.default_rng(2)
    t = np.arange(300)
    y = rng.poisson(5 + 4 * np.sin(2 * np.pi * t / 7)).astype(float)
    y[40:44] = np.nan
    model = Forecaster(horizon=7, season=7, output=output, method=method, **SMALL).fit(y[:-7])
    found = model.evaluate(y)
    assert found["scaled_crps"] < found["naive_mase"]
    if output == "negative-binomial":
        quantiles = model.predict_quantiles()
        assert (quantiles >= 0).all() and (quantiles == np.round(quantiles)).all()


@pytest.mark.parametrize("method", ["direct", "autoregressive"])
def test_a_cell_that_takes_missing_values_reads_them(method, tmp_path):
    y = waves(1, T=150, seed=3)["s0"]
    y[20 + np.flatnonzero(np.random.default_rng(0).random(120) < 0.4)] = np.nan
    model = Forecaster(cell="gru-d", horizon=3, season=12, epochs=1, hidden_size=8, method=method)
    stream = model.fit(y).stream(y[:59])  # which ends at a known value
    read = []
    (member, *_) = model.network_
    member.recurrent.register_forward_pre_hook(lambda layers, given: read.append(given[0]))
    for t in range(59, 70):
        found = stream.observe(y[t])
        if not np.isnan(y[t]):  # forecasts begin after the last known value
            np.testing.assert_array_equal(found.median, model.forecast(y[: t + 1]).median)
        assert np.isfinite(found.quantiles(LEVELS)).all()
    assert any(x.isnan().any() for x in read)
    with pytest.raises(OstinatoError, match="GRUDCell reads what is missing"):
        export(model, tmp_path / "a.onnx")


def test_forecasts_of_a_series_do_not_depend_on_the_others(model):
    y = waves(3, seed=4)
    whole = model.forecast(y).quantiles(LEVELS)
    y["s0"][-5:] *= 3
    np.testing.assert_array_equal(model.forecast(y).quantiles(LEVELS)[1:], whole[1:])
    alone = model.forecast({"s2": y["s2"]}).quantiles(LEVELS)
    np.testing.assert_allclose(alone, whole[2:], rtol=1e-6)


@pytest.mark.parametrize("output", ["student", "gaussian"])
def test_counts_are_not_forecast_with_more_certainty_than_there_is(output):
    rng = np.random.default_rng(7)
    y = {f"{i}": rng.poisson(1.5, 150) * (rng.random(150) < 0.5) for i in range(4)}
    model = Forecaster(
        horizon=5, season=7, output=output, **{**SMALL, "epochs": 30, "ensemble_size": 1}
    )
    forecast = model.backtest(y, cutoffs=4)
    found = forecast.quantiles([0.1, 0.5, 0.9])
    assert (found == np.round(found)).all() and found.min() == 0
    assert 0.7 < forecast.scores()["coverage_80"] <= 1
    assert ((found[..., 2] - found[..., 0]) >= 1).mean() > 0.9


@pytest.mark.parametrize("method", ["direct", "autoregressive"])
def test_what_was_never_negative_is_not_forecast_so_and_all_else_may_be(method, capsys):
    rng = np.random.default_rng(3)
    falling = 12 - 0.1 * np.arange(118) + 0.3 * np.abs(rng.normal(size=118))
    series = {"whole": np.ceil(falling), "falling": falling, "lower": falling - 11}
    settings = {"horizon": 12, "season": 1, "method": method, **SMALL}
    model = Forecaster(**settings).fit(series, progress="lines")
    assert (
        "2 of 3 series have no negative value, and get no negative forecast"
        in capsys.readouterr().out
    )
    forecast = model.forecast()
    parts = (forecast.quantiles([0.01, 0.5, 0.99]), forecast.sample(50), forecast.mean)
    for part in parts:
        least = part.reshape(3, -1).min(1)
        assert (least[:2] >= 0).all() and least[2] < -11
    assert (parts[0][0] == np.round(parts[0][0])).all() and forecast.median.min() < 0
    stream = model.stream(series["lower"])  # which is negative before what the network reads alone
    for value in np.full(model.resolved_["context"] + 1, 0.1):
        stream.observe(value)
    assert stream.observe(0.0).units.lower_bound[0] == -np.inf


def test_a_high_level_changes_nothing():
    y = 5 * np.sin(np.arange(120) * 2 * np.pi / 12)
    model = Forecaster(horizon=6, season=12, **SMALL).fit(y)
    high = Forecaster(horizon=6, season=12, **SMALL).fit(y + 1e9)
    np.testing.assert_allclose(high.predict() - 1e9, model.predict(), atol=0.05)


def test_short_series_are_reported_before_training(capsys):
    y = np.sin(np.arange(40.0))
    model = Forecaster(season=52, epochs=0.2, hidden_size=4).fit(y, progress="lines")
    assert model.resolved_["horizon"] == model.backtest(y, cutoffs=1).horizon == 12
    Forecaster(horizon=20, epochs=0.2, hidden_size=4).fit(y, progress="lines")
    assert (
        "all series are too short for validation, which takes 62 steps" in capsys.readouterr().out
    )


def test_settings_and_data_that_cannot_be_are_refused(model):
    y = np.arange(40.0)
    for settings, X, message in (
        ({"horizon": 0}, y, "horizon=0; expected a number of steps"),
        ({"method": "magic"}, y, "method='magic'; expected one of autoregressive, direct"),
        ({"output": "cauchy"}, y, "output='cauchy'; expected one of gaussian"),
        ({"horizon": 50}, y, "the longest series has 40 steps, too few to learn to forecast 50"),
        ({}, ["a"], "X: line 0: 'value' is 'a', no number"),
        ({"output": "negative-binomial"}, y - 3, "value is -3 at 0; output='negative-binomial' is"),
        ({"output": "negative-binomial"}, y + 0.5, "value is 0.5 at 0; output='negative-binomial'"),
        ({"ensemble_size": 0}, y, "ensemble_size=0; expected a number of networks"),
    ):
        with pytest.raises(OstinatoError, match=message):
            Forecaster(**settings).fit(X)
    with pytest.raises(OstinatoError, match="expected no y: the series are the targets too"):
        Forecaster().fit(y, y)
    if model.method == "direct":
        with pytest.raises(OstinatoError, match="horizon=13; the model forecasts 12 steps"):
            model.predict(horizon=13)
    else:
        assert model.predict(horizon=20).shape == (6, 20)
    with pytest.raises(OstinatoError, match="horizon=0; expected 1 or more"):
        model.forecast(horizon=0)
    with pytest.raises(OstinatoError, match=r"levels=\[1.5\]; expected numbers between"):
        model.predict_quantiles(levels=[1.5])
    with pytest.raises(OstinatoError, match="num_samples=0; expected 1 or more"):
        model.sample(num_samples=0)
    for nothing, shown in (
        (12, "X is 12; expected series"),
        ("a.csv", "expected series: a pathlib"),
    ):
        with pytest.raises(OstinatoError, match=shown):
            model.predict(nothing)
    with pytest.raises(OstinatoError, match="point='mode'"):
        model.predict(point="mode")
    with pytest.raises(DataError, match="no series is longer than the 60 steps"):
        Forecaster(horizon=20, season=2).backtest(y, cutoffs=3)


def test_a_model_of_the_same_seed_is_the_same():
    y = np.sin(np.arange(60) / 2)
    one, two = (Forecaster(horizon=3, season=6, epochs=1, hidden_size=8).fit(y) for _ in range(2))
    members = [next(m.parameters()) for m in one.network_.members]
    assert len(members) == 5 and not torch.equal(*members[:2])
    for a, b in zip(one.network_.parameters(), two.network_.parameters(), strict=True):
        assert torch.equal(a, b)
