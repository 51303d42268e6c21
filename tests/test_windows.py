"""Windows of series: the past in units of their own, and nothing of the future."""

import numpy as np
import pytest

from ostinato.data.timeseries import Panel, Series, SeriesSettings, read_panel
from ostinato.tasks.forecasting.windows import Covariates, Origin, Windows


def test_windows_hold_the_past_in_units_of_their_own_and_the_future_not():
    y = np.concatenate([np.arange(10.0), [np.nan], 11 + np.arange(9.0)])
    known = np.arange(24.0)[:, None]
    series = Series("a", 5, y, known, y[:, None] * 2, ("x",))
    panel = Panel([series, series._replace(values=y[:4])], read_panel([1.0], SeriesSettings()).grid,
                  known=["k"], observed=["o"], static=["s"])  # fmt: skip
    covariates = Covariates.learn(panel)
    windows = Windows(panel, covariates, 6, 3, season=4)
    x, wanted, units = windows.take([Origin(0, 12), Origin(1, 3)])
    past = y[6:12]
    assert units.location[0] == np.median(past[[1, 2, 3, 5]])
    value = x[0, :6, 0].numpy() * units.scale[0] + units.location[0]
    np.testing.assert_allclose(value[[0, 1, 2, 3, 5]], past[[0, 1, 2, 3, 5]], rtol=1e-6)
    assert x[0, :, 1].tolist() == [1, 1, 1, 1, 0, 1, 0, 0, 0] and x[0, :, 2].tolist() == [1] * 9
    assert x[0, 6:, 0].tolist() == [0, 0, 0] and x[0, 6:, 6].tolist() == [0, 0, 0]
    assert units.grain.tolist() == [1, 1] and units.least.tolist() == [-np.inf, 0]
    np.testing.assert_allclose(x[..., 4].numpy(), x[..., 2].numpy() / units.scale[:, None])
    np.testing.assert_allclose(
        x[0, :, 5].numpy(), (known[6:15, 0] - known.mean()) / known.std(), rtol=1e-4
    )
    np.testing.assert_allclose(
        wanted[0].numpy() * units.scale[0] + units.location[0], y[12:15], rtol=1e-6
    )
    # A series that is shorter than a window stands at its end, and nothing before it.
    assert x[1, :, 2].tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1] and not x[1, :3].any()
    assert wanted[1].isnan().tolist() == [False, True, True]
    # An outlier moves the units no more than ten usual distances would.
    calm = np.array([1.0, 2, 3, 2, 1, 2, 3, 2, 1, 2])
    wild = np.append(calm, 1e9)
    assert windows.units(wild)[1] < 3 * windows.units(calm)[1]
    assert windows.units(np.full(5, 7.0)) == (7.0, pytest.approx(0.07))
    assert windows.units(np.full(3, np.nan)) == (0.0, 1.0)
