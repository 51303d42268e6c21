"""Forecasts: a distribution for every step ahead, and how good it turned out to be."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ostinato.data.lazy import pd
from ostinato.errors import OstinatoError
from ostinato.tasks.forecasting.calibration import Calibration, fit_rises, fit_spread, log_odds
from ostinato.tasks.forecasting.distributions import Distribution, Units
from ostinato.tasks.forecasting.panel import Cutoff, Panel
from ostinato.tasks.forecasting.pictures import draw_fans
from ostinato.tasks.forecasting.scores import (
    SCORED_LEVELS,
    last_observed,
    scores,
    seasonal_naive,
    seasonal_naive_error,
)

__all__ = ["Forecast", "Marginals", "SamplePaths", "calibrate"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Marginals:
    """A parametric distribution for each step; steps are independent.

    Args:
        distribution: the family.
        p: parameters ``(members, N, A, K)``; the quantiles of an ensemble's members are averaged.
    """

    distribution: Distribution
    p: Array

    @property
    def horizon(self) -> int:
        """Steps ahead, A."""
        return int(self.p.shape[2])

    def quantiles(self, units: Units, levels: Sequence[float]) -> Array:
        """Return quantiles ``(N, A, levels)``."""
        each = [self.distribution.quantiles(p, units.expand(), levels) for p in self.p]
        return units.round(np.mean(each, 0))

    def mean(self, units: Units) -> Array:
        """Return means ``(N, A)``."""
        return np.asarray(np.mean([self.distribution.mean(p, units.expand()) for p in self.p], 0))

    def rise_probability(self, units: Units, last: Array) -> Array:
        """Return probabilities that the first step is above ``last``, never 0 or 1, ``(N,)``."""
        rounded = last + units.resolution / 2  # everything that is rounded to the last value
        at_most = [self.distribution.cdf(p[:, 0], rounded, units) for p in self.p]
        return np.asarray(np.clip(1 - np.mean(at_most, 0), 1e-6, 1 - 1e-6))

    def sample(self, units: Units, count: int, random: np.random.Generator) -> Array:
        """Draw samples ``(N, count, A)``, before rounding."""
        member = random.integers(0, len(self.p), count)
        p = np.moveaxis(self.p[member], 0, 1)  # (N, count, A, K)
        return self.distribution.sample(p, units.expand(2), random)

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Join the windows of several."""
        return cls(parts[0].distribution, np.concatenate([part.p for part in parts], 1))


@dataclass(frozen=True)
class SamplePaths:
    """Sample paths of each window, ``(N, num_samples, A)``, rounded."""

    samples: Array

    @property
    def horizon(self) -> int:
        """Steps ahead, A."""
        return int(self.samples.shape[2])

    def quantiles(self, units: Units, levels: Sequence[float]) -> Array:
        """Return quantiles ``(N, A, levels)``."""
        return np.moveaxis(np.quantile(self.samples, levels, axis=1), 0, -1)

    def mean(self, units: Units) -> Array:
        """Return means ``(N, A)``."""
        return np.asarray(self.samples.mean(1))

    def rise_probability(self, units: Units, last: Array) -> Array:
        """Return probabilities that the first step is above ``last``, never 0 or 1, ``(N,)``."""
        least = 0.5 / self.samples.shape[1]
        share = (self.samples[:, :, 0] > last[:, None]).mean(1)
        return np.asarray(np.clip(share, least, 1 - least))

    def sample(self, units: Units, count: int, random: np.random.Generator) -> Array:
        """Draw samples ``(N, count, A)``, before rounding."""
        S = self.samples.shape[1]
        return self.samples[:, random.choice(S, count, replace=count > S)]

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Join the windows of several."""
        return cls(np.concatenate([part.samples for part in parts]))


@dataclass(repr=False)
class Forecast:
    """Forecasts of some series, N in all: a distribution for every step ahead.

    Args:
        panel: the series.
        cutoffs: the times that were forecast from.
        predictive: distributions before calibration.
        units: of each window.
        season: steps of a season.
        calibration: corrections.
    """

    panel: Panel
    cutoffs: Sequence[Cutoff]
    predictive: Marginals | SamplePaths
    units: Units
    season: int = 1
    calibration: Calibration = field(default_factory=Calibration)

    def __len__(self) -> int:
        return len(self.cutoffs)

    def __repr__(self) -> str:
        return (
            f"Forecast({len(self)} of {len(self.panel)} series, horizon "
            f"{self.horizon}, one step every {self.panel.grid.name})"
        )

    @property
    def horizon(self) -> int:
        """Steps ahead, A."""
        return self.predictive.horizon

    def quantiles(self, levels: Sequence[float]) -> Array:
        """Return the values below which shares ``levels`` of the distributions lie.

        Args:
            levels: between 0 and 1.

        Returns:
            ``(N, A, levels)``, in the units of the data.
        """
        asked = np.asarray(levels, dtype=np.float64)
        if asked.ndim != 1 or not len(asked) or not ((asked > 0) & (asked < 1)).all():
            raise OstinatoError(
                f"Forecast.quantiles: levels={levels!r}; expected numbers between 0 and 1."
            )
        found = self.predictive.quantiles(self.units, asked.tolist())
        return self.units.round(self.calibration.widen(found, self.median[..., None]))

    @property
    def median(self) -> Array:
        """Medians, ``(N, A)``."""
        return self.predictive.quantiles(self.units, [0.5])[..., 0]

    @property
    def mean(self) -> Array:
        """Means, ``(N, A)``."""
        return self.calibration.widen(self.predictive.mean(self.units), self.median)

    def sample(self, num_samples: int, seed: int | None = None) -> Array:
        """Draw sample paths ``(N, num_samples, A)``.

        With ``method="direct"`` steps are drawn independently: right for every single step, not
        for sums over several.
        """
        drawn = self.predictive.sample(self.units, num_samples, np.random.default_rng(seed))
        return self.units.round(self.calibration.widen(drawn, self.median[:, None]))

    def rises(self) -> Array:
        """Return the probability that the next value is above the last known one, ``(N,)``.

        An equal value is no rise.
        """
        p = self.predictive.rise_probability(self.units, self.last)
        return self.calibration.rise_probability(p)

    @property
    def last(self) -> Array:
        """The last known value before each cutoff, ``(N,)``."""
        return np.array([last_observed(past) for past in self._pasts()])

    def to_frame(self, levels: Sequence[float] = (0.1, 0.9)) -> pd.DataFrame:
        """Return a row for every series and step ahead.

        Args:
            levels: of the quantiles.

        Returns:
            columns ``unique_id``, ``cutoff`` (the time of the last known step), ``ds``, ``median``,
            and one for each level.
        """
        N, A, grid = len(self.cutoffs), self.horizon, self.panel.grid
        series = [self.panel.series[i] for i, _ in self.cutoffs]
        ends = np.array([s.start + n - 1 for s, (_, n) in zip(series, self.cutoffs, strict=True)])
        steps = (ends[:, None] + np.arange(1, A + 1)).ravel()
        frame = pd.DataFrame({
            "unique_id": np.repeat([s.name for s in series], A),
            "cutoff": grid.times(np.repeat(ends, A)),
            "ds": grid.times(steps),
            "median": self.median.ravel(),
        })  # fmt: skip
        quantiles = self.quantiles(levels).reshape(N * A, len(levels))
        return frame.join(pd.DataFrame(quantiles, columns=[f"{level:g}" for level in levels]))

    def times(self) -> list[str]:
        """Return the time of each row of `to_frame` as text."""
        return self.panel.grid.format(self.to_frame()["ds"].to_numpy())

    # Evaluation

    def _pasts(self) -> list[Array]:
        return [self.panel.series[i].values[:length] for i, length in self.cutoffs]

    def observed(self) -> Array:
        """Return the values that followed, as far as they are known, ``(N, A)``; else NaN."""
        found = np.full((len(self.cutoffs), self.horizon), np.nan)
        for n, (i, length) in enumerate(self.cutoffs):
            future = self.panel.series[i].values[length : length + self.horizon]
            found[n, : len(future)] = future
        return found

    def naive(self, season: int = 1) -> Array:
        """Return the value a season before each step, ``(N, A)``; of 1, the last value."""
        return np.stack([seasonal_naive(past, self.horizon, season) for past in self._pasts()])

    def plot(self, picture: str | os.PathLike[str]) -> None:
        """Draw forecasts as fans over the series, as a PNG. Needs ``ostinato[plots]``."""
        draw_fans(
            self.panel, self.cutoffs, self.quantiles, self.horizon, self.season, Path(picture)
        )

    def scores(self) -> dict[str, float]:
        """Score the forecasts, beside the naive and the seasonal naive ones.

        Returns:
            mase, mean absolute error over that of the seasonal naive within the known past of the
            series (Hyndman and Koehler 2006); smape, in per cent (Makridakis and Hibon 2000); mae;
            crps, the continuous ranked probability score by the quantiles of `LEVELS` (Gneiting and
            Raftery 2007), in the units of the data, and scaled_crps, over what mase divides by;
            pinball_10 and pinball_90; coverage_80 and coverage_95, shares of observed values within
            such intervals; mase and smape of naive and seasonal_naive; and the number of forecasts.
        """
        naive_error = [seasonal_naive_error(past, self.season) for past in self._pasts()]
        return scores(
            self.observed(),
            self.median,
            self.quantiles(SCORED_LEVELS),
            self.naive(),
            self.naive(self.season),
            np.array(naive_error)[:, None],
        )

    @classmethod
    def concatenate(cls, panel: Panel, parts: Sequence[Forecast]) -> Forecast:
        """Join forecasts of the same series from several cutoffs."""
        first = parts[0].predictive
        counts = [len(part.cutoffs) for part in parts]
        return Forecast(
            panel,
            [cutoff for part in parts for cutoff in part.cutoffs],
            type(first).concatenate([part.predictive for part in parts]),  # type: ignore[misc]
            Units.concatenate([part.units for part in parts]),
            parts[0].season,
            Calibration(*np.repeat([part.calibration for part in parts], counts, 0).T),
        )


def calibrate(forecast: Forecast, next_step: Forecast, steps: int, *, spread: bool) -> Calibration:
    """Fit corrections to what followed; few held-out steps have little weight.

    Args:
        forecast: of held-out steps, not calibrated.
        next_step: of one step ahead, from more cutoffs, not calibrated.
        steps: how many were held out; forecasts overlap.
        spread: whether intervals are widened, which those of counts are not.
    """
    factor = 1.0
    if spread:
        low, high = np.moveaxis(forecast.quantiles([0.1, 0.9]), -1, 0)
        resolution = forecast.units.resolution
        observed = forecast.observed()
        factor = fit_spread(observed, forecast.median, low, high, resolution, steps)
    last = next_step.last
    p = next_step.predictive.rise_probability(next_step.units, last)
    return Calibration(factor, *fit_rises(log_odds(p), next_step.observed()[:, 0] - last))
