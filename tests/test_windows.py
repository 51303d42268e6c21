"""Windows of series: the past in units of their own, and nothing of the future."""

import numpy as np
import pytest

from ostinato.errors import OstinatoError
from ostinato.tasks.forecasting.grid import Grid
from ostinato.tasks.forecasting.panel import Columns, Cutoff, Panel, Series
from ostinato.tasks.forecasting.windows import CovariateEncoding, WindowBatches, Windows


def panel():
    y = np.concatenate([np.arange(10.0), [np.nan], 11 + np.arange(9.0)])
    future = np.arange(24.0)[:, None]
    series = Series("a", 5, y, future, y[:, None] * 2, ("x", 3.0))
    short = series._replace(name="b", values=y[:4], static_covariates=("y", 5.0))
    columns = Columns((), (), ("v",), ("f",), ("p",), ("s", "n"))
    return Panel([series, short], Grid("step"), columns)


def test_windows_hold_the_past_in_units_of_their_own_and_not_the_future():
    whole = panel()
    y, future = whole.series[0].values, whole.series[0].future_covariates
    windows = Windows(whole, CovariateEncoding.learn(whole), 6, 3, season=4)
    window, targets, units = windows.take([Cutoff(0, 12), Cutoff(1, 3)])
    past = y[6:12]
    seen = [0, 1, 2, 3, 5]
    assert units.location[0] == np.median(past[[1, 2, 3, 5]])
    value = window.past_values[0].numpy() * units.scale[0] + units.location[0]
    np.testing.assert_allclose(value[seen], past[seen], rtol=1e-6)
    assert window.observed[0].tolist() == [True] * 4 + [False, True] and window.valid[0].all()
    assert window.past_values[0, 4] == 0
    assert units.resolution.tolist() == [1, 1] and units.lower_bound.tolist() == [0, 0]
    np.testing.assert_allclose(window.scale.numpy(), units.scale, rtol=1e-6)
    np.testing.assert_allclose(window.resolution.numpy(), 1 / units.scale, rtol=1e-6)
    np.testing.assert_allclose(
        window.future_covariates[0, :, 0].numpy(),
        (future[6:15, 0] - future.mean()) / future.std(), rtol=1e-4,
    )  # fmt: skip
    own = np.concatenate([s.past_covariates for s in whole.series])
    expected = (2 * past - np.nanmean(own)) / np.nanstd(own)
    np.testing.assert_allclose(
        window.past_covariates[0, seen, 0].numpy(), expected[seen], rtol=1e-4, atol=1e-6
    )
    assert window.static_categories.tolist() == [[1], [2]]
    assert window.static_numbers.tolist() == [[-1], [1]]
    np.testing.assert_allclose(
        targets[0].numpy() * units.scale[0] + units.location[0], y[12:15], rtol=1e-6
    )
    # A series that is shorter than a window stands at its end, and nothing before it.
    assert window.valid[1].tolist() == [False] * 3 + [True] * 3
    assert not window.past_values[1, :3].any() and not window.future_covariates[1, :3].any()
    assert targets[1].isnan().tolist() == [False, True, True]
    assert (window.context, window.horizon) == (6, 3)


def test_values_are_not_below_0_where_the_whole_past_is_not():
    y = np.array([3.0, -0.5, 2, np.nan, 1, 0, 4, 2, -1, 5])
    nothing = np.zeros((10, 0))
    for sign, cutoffs, bounds in (
        (1, [1, 2, 8], [0, -np.inf, -np.inf]),  # however far back a negative value is
        (-1, [1, 2], [-np.inf, -np.inf]),
    ):
        series = Series("", 0, sign * y, nothing, nothing)
        later = series.between(2)
        for each, begin in ((series, 0), (later, 2)):
            part = Panel([each], Grid("step"))
            windows = Windows(part, CovariateEncoding.learn(part), 3, 2, season=1)
            some = [(n, b) for n, b in zip(cutoffs, bounds, strict=True) if n > begin]
            if some:
                _, _, units = windows.take([Cutoff(0, n - begin) for n, _ in some])
                assert units.lower_bound.tolist() == [b for _, b in some]
    positive = Panel([Series("", 0, np.abs(y), nothing, nothing)], Grid("step"))
    windows = Windows(positive, CovariateEncoding.learn(positive), 3, 2, season=1)
    assert windows.take([Cutoff(0, n) for n in (1, 4, 10)])[2].lower_bound.tolist() == [0] * 3


def test_outliers_move_the_units_little():
    windows = Windows(panel(), CovariateEncoding.learn(panel()), 6, 3, season=4)
    calm = np.array([1.0, 2, 3, 2, 1, 2, 3, 2, 1, 2])
    wild = np.append(calm, 1e9)
    assert windows.location_and_scale(wild)[1] < 3 * windows.location_and_scale(calm)[1]
    assert windows.location_and_scale(np.full(5, 7.0)) == (7.0, pytest.approx(0.07))
    assert windows.location_and_scale(np.full(3, np.nan)) == (0.0, 1.0)


def test_unknown_categories_and_missing_numbers_are_neutral():
    encoding = CovariateEncoding.learn(panel())
    assert encoding.encode_static(("z", 4.0)) == ([0], [0.0])
    assert encoding.encode_static(("y", "")) == ([2], [0.0])
    again = CovariateEncoding.from_json(encoding.to_json())
    assert again.to_json() == encoding.to_json()
    assert again.sizes(2).static_categories == (3,) and again.sizes(2).future_covariates == 3


def test_an_epoch_takes_no_cutoff_twice_and_goes_on_from_its_position():
    windows = Windows(panel(), CovariateEncoding.learn(panel()), 6, 3, season=4)
    cutoffs = [Cutoff(0, n) for n in range(2, 17)]
    batches = WindowBatches(windows, cutoffs, 4, 10, seed=1)
    assert batches.windows == 3
    epoch = [batches.next_batch() for _ in range(3)]
    assert [len(b.targets) for b in epoch] == [4, 4, 2] and epoch[-1].epoch == 1
    rows = [tuple(row.tolist()) for b in epoch for row in b.window.future_covariates[..., 0]]
    assert len(set(rows)) == 10
    again = WindowBatches(windows, cutoffs, 4, 10, seed=1)
    again.load_state_dict({**batches.state_dict(), "epoch": 0, "next_batch": 2})
    for one, other in zip(epoch[2].window, again.next_batch().window, strict=True):
        assert one.equal(other)
    assert batches.state_dict() == again.state_dict()
    with pytest.raises(OstinatoError, match="saved with seed=1, here it is 2"):
        WindowBatches(windows, cutoffs, 4, 10, seed=2).load_state_dict(batches.state_dict())
