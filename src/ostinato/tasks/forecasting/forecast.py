"""Forecasts: a distribution for every step ahead, and what it turned out to be worth."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ostinato.data.timeseries import Panel
from ostinato.errors import OstinatoError
from ostinato.tasks.forecasting.calibration import Calibration, line_of, spread_of
from ostinato.tasks.forecasting.distributions import Distribution
from ostinato.tasks.forecasting.scores import (
    SCORED_LEVELS,
    last_known,
    repeated,
    scores,
    typical_step,
)
from ostinato.tasks.forecasting.windows import Origin, Units
from ostinato.training.pictures import draw_forecast

Array = NDArray[np.float64]


class Answer(NamedTuple):
    """What is foretold of one step of a series.

    Attributes:
        series: its name.
        time: of the step.
        median: of what is foretold.
        quantiles: by level.
    """

    series: str
    time: str
    median: float
    quantiles: dict[float, float]


@dataclass(repr=False)
class Forecast:
    """What is foretold of some series: a distribution for every step ahead.

    Args:
        panel: the series.
        origins: the moments that were forecast from.
        distribution: the family; None where there are paths.
        p: parameters ``(members, N, A, K)``; members' quantiles are averaged.
        units: of each window.
        season: steps of one.
        paths: futures that were drawn, ``(N, paths, A)``; None where there are none.
        calibration: how all this must be read.
    """

    panel: Panel
    origins: Sequence[Origin]
    distribution: Distribution
    p: Array
    units: Units
    season: int = 1
    paths: Array | None = None
    calibration: Calibration = field(default_factory=Calibration)

    def __repr__(self) -> str:
        return (
            f"Forecast({len(self.origins)} of {len(self.panel)} series, {self.ahead} steps of "
            f"{self.panel.grid.name} ahead)"
        )

    @property
    def ahead(self) -> int:
        """Steps ahead, A."""
        return int(self.p.shape[2] if self.paths is None else self.paths.shape[2])

    def _units(self) -> tuple[Array, Array, Array]:
        return self.units.location[:, None], self.units.scale[:, None], self.units.grain[:, None]

    def quantiles(self, levels: Sequence[float]) -> Array:
        """The numbers below which shares ``levels`` of the futures lie, ``(N, A, levels)``."""
        wanted = np.asarray(levels, dtype=np.float64)
        if wanted.ndim != 1 or not len(wanted) or not ((wanted > 0) & (wanted < 1)).all():
            raise OstinatoError(
                f"Forecast.quantiles: levels={levels!r}; expected numbers between 0 and 1."
            )
        said = self._spread(self._said(wanted.tolist()), self.median[..., None])
        return self.units.rounded(said)

    def _said(self, levels: Sequence[float]) -> Array:
        """Quantiles as the network says."""
        if self.paths is not None:
            return np.moveaxis(np.quantile(self.paths, levels, axis=1), 0, -1)
        each = [self.distribution.quantiles(p, *self._units(), levels) for p in self.p]
        return self.units.rounded(np.mean(each, 0))

    def _spread(self, values: Array, median: Array) -> Array:
        factor = np.broadcast_to(self.calibration.spread, len(values))
        factor = factor.reshape(-1, *[1] * (values.ndim - 1))
        return np.asarray(median + factor * (values - median))

    @property
    def median(self) -> Array:
        """The middle, ``(N, A)``."""
        return self._said([0.5])[..., 0]

    @property
    def mean(self) -> Array:
        """The mean, ``(N, A)``."""
        if self.paths is not None:
            return self._spread(self.paths.mean(1), self.median)
        each = [self.distribution.mean(p, *self._units()[:2]) for p in self.p]
        return self._spread(np.mean(each, 0), self.median)

    def sample(self, count: int, seed: int | None = None) -> Array:
        """Futures ``(N, count, A)``.

        Of a model with ``method="direct"`` each step is drawn by itself: right for every step, not
        for sums over several.
        """
        random = np.random.default_rng(seed)
        if self.paths is not None:
            rows = random.integers(0, self.paths.shape[1], count)
            return self.units.rounded(self._spread(self.paths[:, rows], self.median[:, None]))
        member = random.integers(0, len(self.p), count)
        p = np.moveaxis(self.p[member], 0, 1)  # (N, count, A, K)
        location, scale, grain = (unit[:, None] for unit in self._units())
        drawn = self.distribution.sample(p, location, scale, grain, random)
        return self.units.rounded(self._spread(drawn, self.median[:, None]))

    def rises(self) -> Array:
        """The probability that the next value is above the last that is known, ``(N,)``."""
        odds = self.calibration.tilt + self.calibration.slope * self._odds_of_a_rise()
        return np.asarray(1 / (1 + np.exp(-odds)))

    def _odds_of_a_rise(self) -> Array:
        """Log odds of the next value's being above the last that is known; as the network says."""
        last = self._last()
        if self.paths is not None:
            first, least = self.paths[:, :, 0], 0.5 / self.paths.shape[1]
            even = (first == last[:, None]).mean(1)
            p = (first > last[:, None]).mean(1) + even / 2
        else:
            least = 1e-6
            below = [self.distribution.below(p[:, 0], last, *self.units[:3]) for p in self.p]
            p = 1 - np.mean(below, 0)
        p = np.clip(p, least, 1 - least)
        return np.asarray(np.log(p) - np.log1p(-p))

    def _last(self) -> Array:
        return np.array([last_known(self._past(origin)) for origin in self.origins])

    def answers(self, levels: Sequence[float] = (0.1, 0.9)) -> Iterator[Answer]:
        """What is foretold, a step at a time."""
        median, quantiles = self.median, self.quantiles(levels)
        for n, (i, known) in enumerate(self.origins):
            series = self.panel.series[i]
            for k in range(self.ahead):
                time = self.panel.grid.shown(series.start + known + k)
                found = dict(zip(levels, quantiles[n, k].tolist(), strict=True))
                yield Answer(series.name, time, float(median[n, k]), found)

    # How good it was

    def _past(self, origin: Origin) -> Array:
        return self.panel.series[origin.series].values[: origin.known]

    def truth(self) -> Array:
        """What came, as far as it is known, ``(N, A)``; NaN where not."""
        found = np.full((len(self.origins), self.ahead), np.nan)
        for n, (i, known) in enumerate(self.origins):
            future = self.panel.series[i].values[known : known + self.ahead]
            found[n, : len(future)] = future
        return found

    def naive(self, season: int) -> Array:
        """What was a season before each step; with a season of 1, the last value. ``(N, A)``."""
        return np.stack(
            [repeated(self._past(origin), self.ahead, season) for origin in self.origins]
        )

    def plot(self, picture: str | os.PathLike[str]) -> None:
        """Draw forecasts as fans over the series, as a PNG. Needs ``ostinato[plots]``."""
        draw_forecast(self, Path(picture))

    def scores(self) -> dict[str, float]:
        """How good the forecasts are, beside those of the naive and the seasonal naive.

        Returns:
            mase, mean absolute error over that of the seasonal naive within the known past of the
            series (Hyndman and Koehler 2006); smape, in per cent (Makridakis and Hibon 2000); mae;
            crps, the continuous ranked probability score by the quantiles of `LEVELS` (Gneiting and
            Raftery 2007), in the units of the data, and scaled_crps, over what mase divides by;
            pinball_10 and pinball_90; coverage_80 and coverage_95, shares of what came within such
            intervals; mase and smape of naive and seasonal_naive; and how many forecasts.
        """
        steps = [typical_step(self._past(origin), self.season) for origin in self.origins]
        return scores(
            self.truth(),
            self.median,
            self.quantiles(SCORED_LEVELS),
            self.naive(1),
            self.naive(self.season),
            np.array(steps)[:, None],
        )


def calibrated(found: Forecast, first: Forecast, steps: int) -> Calibration:
    """How forecasts must be read, by what came; few held-out steps count for little.

    See `spread_of` and `line_of`; counts keep their intervals.

    Args:
        found: of held-out steps, as the network says.
        first: of one step ahead, from more moments.
        steps: that were held out; forecasts overlap.
    """
    spread = 1.0
    if found.distribution.centred:
        low, high = np.moveaxis(found.quantiles([0.1, 0.9]), -1, 0)
        spread = spread_of(found.truth(), found.median, low, high, found.units.grain, steps)
    rose = first.truth()[:, 0] - first._last()
    return Calibration(spread, *line_of(first._odds_of_a_rise(), rose))
