"""From a trained network to forecasts: in batches, in closed form or by sample paths."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ostinato.errors import DataError, OstinatoError
from ostinato.recurrence.layers import state_rows
from ostinato.tasks.forecasting.distributions import Units
from ostinato.tasks.forecasting.forecast import Calibration, Forecast, Marginals, SamplePaths
from ostinato.tasks.forecasting.network import Ensemble, ForecastNetwork, Window
from ostinato.tasks.forecasting.panel import Cutoff, Panel
from ostinato.tasks.forecasting.windows import Windows

MAX_ROWS = 4096
"""Sample paths that are drawn simultaneously: more leave the cache, fewer take more calls."""

DRAWS = 4
"""Values that are drawn of each step of a path: one that the path goes on from, and others."""

MAX_WINDOWS = 512
"""Windows that a direct model forecasts simultaneously."""


def forecast(
    network: Ensemble,
    windows: Windows,
    cutoffs: Sequence[Cutoff],
    horizon: int,
    num_samples: int,
    seed: int | None,
    calibration: Calibration,
) -> Forecast:
    """Forecast from cutoffs, with so many sample paths of an autoregressive network.

    Windows reach as far ahead as a direct network was trained to, else as far as the horizon.
    """
    if horizon > windows.horizon:
        raise OstinatoError(
            f"Forecaster: horizon={horizon}; the model forecasts {windows.horizon} steps "
            "simultaneously and no more: train it with a longer horizon, or with "
            "method='autoregressive', which has no limit."
        )
    panel = windows.panel
    _check_future_covariates(panel, cutoffs, horizon)
    device = next(network.parameters()).device
    network.eval()
    parts = []
    size = MAX_WINDOWS if network.direct else max(1, MAX_ROWS // num_samples)
    for begin in range(0, len(cutoffs), size):
        some = cutoffs[begin : begin + size]
        window, _, units = windows.take(some)
        predictive: Marginals | SamplePaths
        with torch.inference_mode():
            window = window.to(device)
            if network.direct:
                p = network(window)[0][:, :, :horizon].double().cpu().numpy()
                predictive = Marginals(network.distribution, p)
            else:
                randoms = [_generator(panel, cutoff, seed) for cutoff in some]
                predictive = sample_paths(network, window, units, num_samples, randoms)
        parts.append(Forecast(panel, some, predictive, units, windows.season, calibration))
    return Forecast.concatenate(parts)


def sample_paths(
    ensemble: Ensemble,
    window: Window,
    units: Units,
    num_samples: int,
    randoms: Sequence[np.random.Generator],
) -> SamplePaths:
    """Draw sample paths of each window, as many from each member of an ensemble.

    Each window has a random generator, so that its paths do not depend on the others. Every path is
    distributed as if it were drawn alone, but those of a window spread evenly, so that a few tell
    as much of the distributions as many independent ones: at each step they are sorted by the
    centers of what is predicted for them, and take shares of a lattice, shifted at random, in an
    order that is even along the sorted paths (L'Ecuyer, Lecot and Tuffin 2008, "A randomized
    quasi-Monte Carlo simulation method for Markov chains").

    What follows a path costs the network most, so that of each of its steps `DRAWS` values are
    drawn, at shares spread evenly, too. The path goes on from the first; all of them tell of the
    distribution of the step (a kind of conditional Monte Carlo, Asmussen and Glynn 2007, section
    V.4).
    """
    share, rest = divmod(num_samples, len(ensemble))
    counts = [share + (m < rest) for m in range(len(ensemble))]
    drawn = [
        _member_paths(member, window, units, count, randoms)
        for member, count in zip(ensemble, counts, strict=True)
        if count
    ]
    paths, values = (np.concatenate(each, 2) for each in zip(*drawn, strict=True))
    values.sort(-1)
    return SamplePaths(np.moveaxis(paths, 2, 1), values)


def _member_paths(
    network: ForecastNetwork,
    window: Window,
    units: Units,
    num_samples: int,
    randoms: Sequence[np.random.Generator],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sample step by step: each step goes on from the values drawn before it.

    Returns:
        paths ``(B, A, S)``, and all values that were drawn, ``(B, A, S * DRAWS)``.
    """
    A, B, S = window.horizon, len(randoms), num_samples
    first, past, state = network.begin(window)
    rows = torch.arange(B, device=first.device).repeat_interleave(S)
    fixed, state = network.ahead(window), state_rows(state, rows)
    back = max(network.reach, *network.seasons, 0)  # how far a step looks
    past = past[:, -back:]
    C = past.shape[1]
    values = torch.cat([past, past.new_zeros(B, A)], 1)[rows]
    order = np.stack([random.permutation(S) for random in randoms])
    shifts = np.stack([random.random(A) for random in randoms])
    lattice = _even_order(S) / S
    m = np.arange(DRAWS)
    further = (m * S // DRAWS + m / DRAWS) / S  # far apart, and together a finer lattice
    outputs = np.repeat(first.double().cpu().numpy(), S, 1)  # (B, S, K)
    found, u = np.empty((B, A, S, DRAWS)), np.empty((B, S))
    for k in range(A):
        np.put_along_axis(u, order, lattice + shifts[:, k, None], 1)
        shares = np.maximum((u[..., None] + further) % 1, 1e-12)
        drawn = network.distribution.sample(outputs[:, :, None], units.expand(2), shares)
        found[:, k] = drawn = units.round(drawn)
        if k + 1 == A:
            break
        z = (drawn[..., 0] - units.location[:, None]) / units.scale[:, None]
        values[:, C + k] = torch.from_numpy(z).to(values).flatten()
        end = C + k + 1
        p, state = network.step(values[:, max(0, end - back) : end], fixed[:, k][rows], state)
        outputs = p.double().cpu().numpy().reshape(B, S, -1)
        order = outputs[..., 0].argsort(1, kind="stable")
    return found[..., 0], found.reshape(B, A, S * DRAWS)


def _even_order(count: int) -> NDArray[np.int64]:
    """Return 0 to ``count - 1`` in an order any stretch of which is spread evenly.

    That is by the numbers whose bits are those of the place, reversed (van der Corput 1935).
    """
    bits = max(1, (count - 1).bit_length())
    places = np.arange(count)
    reverse = sum((places >> bit & 1) << (bits - 1 - bit) for bit in range(bits))
    return np.argsort(np.argsort(reverse))


def _check_future_covariates(panel: Panel, cutoffs: Sequence[Cutoff], horizon: int) -> None:
    if not panel.columns.future_covariates:
        return
    for i, length in cutoffs:
        series = panel.series[i]
        left = len(series.future_covariates) - length
        if left < horizon:
            which = f"series {series.name!r}: " if series.name else ""
            raise DataError(
                f"{which}future covariates ({', '.join(panel.columns.future_covariates)}) end "
                f"{left} steps after the last value, and the horizon is {horizon}; add rows with "
                "them, the target left empty."
            )


def _generator(panel: Panel, cutoff: Cutoff, seed: int | None) -> np.random.Generator:
    """Return a random generator for one series from one time on."""
    if seed is None:
        return np.random.default_rng()
    series = panel.series[cutoff.series]
    name = zlib.crc32(series.name.encode())
    return np.random.default_rng([seed % 2**32, name, (series.start + cutoff.length) % 2**63])


class ForecastStream:
    """Forecasts of one series, one for each observation, in constant time.

    They equal those that `Forecaster.forecast` makes of the series so far, to the bit. As many
    values are kept as the network and the simple rules beside it read.

    Args:
        forecast: called with series, cutoffs, horizon, number of samples and seed.
        panel: the past of one series, without covariates other than the calendar.
        reach: steps of the past that a forecast depends on.

    Example:
        >>> from ostinato import Forecaster
        >>> model = Forecaster(horizon=2, season=4, hidden_size=8, epochs=1)
        >>> past = np.sin(np.arange(60))
        >>> stream = model.fit(past[:50]).stream()
        >>> for value in past[50:]:
        ...     forecast = stream.observe(value)
        >>> np.array_equal(forecast.median, model.predict(past))
        True
    """

    def __init__(self, forecast: Callable[..., Forecast], panel: Panel, reach: int) -> None:
        if panel.columns.future_covariates or panel.columns.past_covariates:
            raise OstinatoError(
                "Forecaster.stream: the model reads covariates beside the series; give forecast() "
                "the series with them instead."
            )
        if len(panel) != 1:
            raise OstinatoError(f"Forecaster.stream: X holds {len(panel)} series; expected one.")
        self._forecast, self._panel, self._reach = forecast, panel, reach

    def observe(
        self, value: float | None = None, *, num_samples: int = 64, seed: int = 0
    ) -> Forecast:
        """Add one value, None for a missing one, and forecast what follows it."""
        try:
            new = float("nan") if value is None else float(value)
        except (TypeError, ValueError):
            new = np.inf
        if np.isinf(new):
            raise OstinatoError(f"ForecastStream.observe: value={value!r}; expected a number.")
        (series,) = self._panel.series
        T, nothing = len(series.values) + 1, np.zeros((len(series.values) + 1, 0))
        negative = series.first_negative()
        series = series._replace(
            values=np.append(series.values, new),
            future_covariates=nothing,
            past_covariates=nothing,
            negative=negative if negative < T - 1 else T - (new < 0),
        )
        self._panel = self._panel.with_series([series.between(max(0, T - self._reach))])
        now = Cutoff(0, min(T, self._reach))
        return self._forecast(self._panel, [now], None, num_samples, seed)
