"""From a network to forecasts: sample paths against the distributions that they are drawn from."""

import numpy as np
import pytest
import torch

from ostinato.errors import DataError
from ostinato.recurrence.dropin import GRU
from ostinato.tasks.forecasting.distributions import DISTRIBUTIONS
from ostinato.tasks.forecasting.forecast import Calibration
from ostinato.tasks.forecasting.grid import Grid
from ostinato.tasks.forecasting.network import Ensemble, ForecastNetwork
from ostinato.tasks.forecasting.panel import Columns, Cutoff, Panel, Series
from ostinato.tasks.forecasting.predictor import DRAWS, forecast, sample_paths
from ostinato.tasks.forecasting.windows import CovariateEncoding, Windows


def model_of(name="student", horizon=None, future=0):
    """An ensemble of two with random weights, and two series of noise."""
    rng = np.random.default_rng(0)

    def series(i):
        known = rng.normal(size=(44, future))
        return Series(f"s{i}", i, np.pi * rng.normal(size=40), known, np.zeros((40, 0)))

    columns = Columns(future_covariates=("f",) * future)
    panel = Panel([series(0), series(1)], Grid("step"), columns)
    encoding = CovariateEncoding.learn(panel)
    torch.manual_seed(1)
    sizes = encoding.sizes(0)
    members = [
        ForecastNetwork(
            GRU(sizes.input_size([3, 5]), 5, batch_first=True), DISTRIBUTIONS[name], sizes,
            horizon=horizon, seasons=[3, 5], reach=4,
        )
        for _ in range(2)
    ]  # fmt: skip
    for member in members:
        torch.nn.init.normal_(member.shortcut.weight, std=0.3)
        torch.nn.init.normal_(member.output.weight)
    return Ensemble(members), lambda ahead=4, context=12: Windows(
        panel, encoding, context, ahead, 3
    )


def forecasts(network, windows, cutoffs, ahead, num_samples):
    return forecast(network, windows, cutoffs, ahead, num_samples, 0, Calibration())


ENDS = [Cutoff(0, 40), Cutoff(1, 40)]


def test_the_first_step_of_paths_is_the_mixture_of_the_members():
    network, windows = model_of()
    window, _, units = windows().take(ENDS)
    randoms = [np.random.default_rng(i) for i in range(2)]
    with torch.inference_mode():
        found = sample_paths(network, window, units, 20_000, randoms)
        outputs = [member.begin(window)[0][:, 0].double().numpy() for member in network]
    assert found.paths.shape == (2, 20_000, 4) and found.values.shape == (2, 4, 20_000 * DRAWS)
    for drawn in (found.paths[:, :, 0], found.values[:, 0]):
        for level in (0.05, 0.3, 0.5, 0.7, 0.95):
            y = np.quantile(drawn, level, axis=1)
            shares = [network.distribution.cdf(p, y, units) for p in outputs]
            np.testing.assert_allclose(np.mean(shares, 0), level, atol=0.012)


def steps_by_hand(member, window, rows, draw):
    """Paths ``(rows, A)`` of one window, each alone: ``draw`` returns the values of a step."""
    wide = window.take(torch.zeros(rows, dtype=torch.int64))
    p, values, state = member.begin(wide)
    p, fixed, found = p[:, 0], member.ahead(wide), []
    for k in range(window.horizon):
        found.append(draw(k, p.double().numpy()))
        if k + 1 < window.horizon:
            values = torch.cat([values, torch.from_numpy(found[k][:, None]).to(values)], 1)
            p, state = member.step(values, fixed[:, k], state)
    return np.stack(found, 1)


@pytest.mark.parametrize(("context", "count"), [(12, 50), (2, 47)])
def test_each_step_is_drawn_evenly_from_what_its_path_came_to(context, count):
    """At the shares below which they lie the values of a step are a lattice, shifted.

    So are the further values of the first step, on a lattice as much finer as there are more.
    """
    network, windows = model_of()
    window, _, units = windows(context=context).take(ENDS[:1])
    (member, _), S = network, count
    with torch.inference_mode():
        found = sample_paths(Ensemble([member]), window, units, S, [np.random.default_rng(5)])
        p = member.begin(window)[0][0].double().numpy()
        shares = network.distribution.cdf(p, found.values[0, 0], units)
        np.testing.assert_allclose(np.diff(shares), 1 / (S * DRAWS), atol=1e-4)
        drawn = found.paths[0]
        assert np.isin(drawn.T, found.values[0]).all()
        z = (drawn - units.location) / units.scale

        def check(k, p):
            shares = np.sort(network.distribution.cdf(p, drawn[:, k], units))
            np.testing.assert_allclose(np.diff(shares), 1 / S, atol=1e-4)
            return z[:, k]

        steps_by_hand(member, window, S, check)


def test_few_even_paths_are_distributed_as_many_independent_ones():
    network, windows = model_of(name="gaussian")
    window, _, units = windows().take(ENDS[:1])
    (member, _), rng = network, np.random.default_rng(0)

    def draw(k, p):  # by the definition of the family
        return p[:, 0] + (np.log1p(np.exp(p[:, 1])) + 1e-4) * rng.normal(size=len(p))

    with torch.inference_mode():
        plain = steps_by_hand(member, window, 20_000, draw)
        found = [
            sample_paths(Ensemble([member]), window, units, 40, [np.random.default_rng(seed)])
            for seed in range(300)
        ]
    even, values = (
        (np.concatenate(each) - units.location) / units.scale
        for each in ([one.paths for one in found], [np.moveaxis(one.values, 1, 2) for one in found])
    )
    whole = even.reshape(-1, 4)
    spread = plain.std(0)
    levels = [0.02, 0.1, 0.5, 0.9, 0.98]
    for drawn in (whole, values.reshape(-1, 4)):
        error = np.quantile(drawn, levels, axis=0) - np.quantile(plain, levels, axis=0)
        assert (np.abs(error) < 0.06 * spread).all()
    # Steps depend on each other as they should, ...
    np.testing.assert_allclose(np.corrcoef(whole.T), np.corrcoef(plain.T), atol=0.03)
    # ... and a few paths tell the quantiles better than as many independent ones.
    alone = plain[: 300 * 40].reshape(300, 40, 4)
    for level in (0.1, 0.5, 0.9):
        ours, theirs, all_values = (
            np.quantile(each, level, axis=1, method="hazen").std(0)
            for each in (even, alone, values)
        )
        assert (ours < 0.75 * theirs).all() and (all_values / ours).mean() < 0.9


@pytest.mark.parametrize("horizon", [None, 4])
def test_forecasts_do_not_depend_on_how_windows_are_batched(horizon, monkeypatch):
    network, windows = model_of(horizon=horizon)
    cutoffs = [Cutoff(i, n) for i in range(2) for n in range(20, 41)]
    whole = forecasts(network, windows(), cutoffs, 4, 30)
    monkeypatch.setattr("ostinato.tasks.forecasting.predictor.MAX_ROWS", 90)
    monkeypatch.setattr("ostinato.tasks.forecasting.predictor.MAX_WINDOWS", 3)
    parts = forecasts(network, windows(), cutoffs, 4, 30)
    np.testing.assert_allclose(parts.median, whole.median, rtol=1e-5, atol=1e-5)
    assert parts.cutoffs == cutoffs and parts.horizon == 4
    shorter = forecasts(network, windows(4 if horizon else 2), cutoffs, 2, 30)
    assert shorter.horizon == 2
    if horizon is not None:
        np.testing.assert_allclose(shorter.median, whole.median[:, :2], rtol=1e-5, atol=1e-5)


def test_future_covariates_must_reach_the_horizon():
    network, windows = model_of(future=1)
    forecasts(network, windows(), ENDS, 4, 5)
    with pytest.raises(DataError, match=r"series 's0': future covariates \(f\) end 4 steps after"):
        forecasts(network, windows(5), ENDS, 5, 5)
