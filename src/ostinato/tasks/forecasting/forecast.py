"""Forecasts: a distribution for every step ahead, and how good it turned out to be."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import ndtri, stdtrit

from ostinato.data.lazy import pd
from ostinato.errors import OstinatoError
from ostinato.tasks.forecasting.distributions import Distribution, Units
from ostinato.tasks.forecasting.panel import Cutoff, Panel
from ostinato.tasks.forecasting.theta import theta
from ostinato.training.pictures import COLOURS, new_axes, save_picture

Array = NDArray[np.float64]

LEVELS = tuple(np.round(np.arange(0.05, 1, 0.05), 2).tolist())
"""Levels of the quantiles that the continuous ranked probability score is computed from."""

SCORED_LEVELS = (0.025, 0.1, 0.9, 0.975, *LEVELS)
"""Levels of the quantiles that are scored."""

FAN = {"95 %": (0.025, "#cfe3f1"), "80 %": (0.1, "#9fc8e3"), "50 %": (0.25, "#66a8d2")}
"""Prediction intervals of pictures: the level where each begins, and its shade."""

PRIOR_HORIZONS = 1.0
"""So many horizons of held-out steps count for half in the weight of a rule."""

MAX_ROWS = 24
"""Rows of a forecast that is printed, at most; more are cut in the middle."""

MAX_DRAWN = 6
"""Series of a picture, at most."""


Rule = Literal["naive", "seasonal naive", "drift", "seasonal drift", "median"]


class Calibration(NamedTuple):
    """Corrections of what a network predicts, fitted on held-out steps.

    Each is a number, or one for each window ``(N,)``.

    Attributes:
        spread: factor of every quantile's distance from the median.
        intercept: added to the log odds of a rise.
        slope: factor of the log odds of a rise, before.
    """

    spread: float | Array = 1.0
    intercept: float | Array = 0.0
    slope: float | Array = 1.0

    def widen(self, values: Array, median: Array) -> Array:
        """Move values ``(N, ...)`` away from the median, which broadcasts to them."""
        factor = np.broadcast_to(self.spread, len(values))
        return np.asarray(median + factor.reshape(-1, *[1] * (values.ndim - 1)) * (values - median))

    def rise_probability(self, p: Array) -> Array:
        """Correct probabilities of a rise, ``(N,)``."""
        return np.asarray(1 / (1 + np.exp(-(self.intercept + self.slope * _log_odds(p)))))


class Blend(NamedTuple):
    """How far the centers of a network's forecasts are moved to those of simple rules.

    The mean of forecasts is often better than each (Bates and Granger 1969), and where a network is
    no better than the rules, most of it is these.

    Attributes:
        rule: naive, the last value; seasonal naive, that of a season ago; drift, the line through
            the first and the last; seasonal drift, the value of a season ago and, for each season
            ahead, the mean change in a season; or median, of all.
        season: steps of the season.
        weight: of the rules, from 0, the network alone, to 1.
        theta: steps of a season; forecasts are the mean of the rule's and those of the theta
            method. 0 for the rule alone.
    """

    rule: Rule = "naive"
    season: int = 1
    weight: float = 0.0
    theta: int = 0

    def __str__(self) -> str:
        season = f", a season of {self.season}" if self.rule.startswith("seasonal") else ""
        return f"{'theta and ' if self.theta else ''}{self.rule}{season}"

    def predict(self, pasts: Sequence[Array], horizon: int) -> Array:
        """Forecast series by the rules, ``(N, horizon)``; NaN where no value is known."""
        found = np.stack([self._by_rule(past, horizon) for past in pasts])
        return (found + theta(pasts, horizon, self.theta)) / 2 if self.theta else found

    def _by_rule(self, past: Array, horizon: int) -> Array:
        seen = np.flatnonzero(~np.isnan(past))
        if self.rule == "median" and len(seen):
            return np.full(horizon, np.median(past[seen]))
        m = self.season if self.rule.startswith("seasonal") else 1
        found = seasonal_naive(past, horizon, m)
        changes = past[m:] - past[:-m]
        if self.rule == "seasonal drift" and not np.isnan(changes).all():
            found = found + np.nanmean(changes) * (1 + np.arange(horizon) // m)
        if self.rule == "drift" and len(seen) > 1:
            slope = (past[seen[-1]] - past[seen[0]]) / (seen[-1] - seen[0])
            found = found + slope * (len(past) - 1 - seen[-1] + np.arange(1, horizon + 1))
        return found


def _log_odds(p: Array) -> Array:
    return np.asarray(np.log(p) - np.log1p(-p))


@dataclass(frozen=True)
class Marginals:
    """A parametric distribution for each step; steps are independent.

    Args:
        distribution: the family.
        p: parameters ``(members, N, A, K)``; the quantiles of an ensemble's members are averaged.
    """

    distribution: Distribution
    p: Array

    def quantiles(self, units: Units, levels: Sequence[float]) -> Array:
        """Return quantiles ``(N, A, levels)``."""
        each = [self.distribution.quantiles(p, units.expand(), levels) for p in self.p]
        return units.round(np.mean(each, 0))

    def mean(self, units: Units) -> Array:
        """Return means ``(N, A)``."""
        return np.asarray(np.mean([self.distribution.mean(p, units.expand()) for p in self.p], 0))

    def toward(self, values: Array, weight: float, units: Units) -> Marginals:
        """Move centers by a share of the distance to ``values (N, A)``."""
        units = units.expand()
        z = (values - units.location) / units.scale
        center = self.p[..., :1] + weight * (z[..., None] - self.p[..., :1])
        return Marginals(self.distribution, np.concatenate([center, self.p[..., 1:]], -1))

    def rise_probability(self, units: Units, last: Array) -> Array:
        """Return probabilities that the first step is above ``last``, never 0 or 1, ``(N,)``."""
        rounded = last + units.resolution / 2  # everything that is rounded to the last value
        at_most = [self.distribution.cdf(p[:, 0], rounded, units) for p in self.p]
        return np.asarray(np.clip(1 - np.mean(at_most, 0), 1e-6, 1 - 1e-6))

    def sample(self, units: Units, count: int, random: np.random.Generator) -> Array:
        """Draw samples ``(N, count, A)``, before rounding."""
        member = random.integers(0, len(self.p), count)
        p = np.moveaxis(self.p[member], 0, 1)  # (N, count, A, K)
        return self.distribution.sample(p, units.expand(2), random.random(p.shape[:-1]))

    def take(self, windows: NDArray[np.int64]) -> Marginals:
        """Return those of some windows."""
        return Marginals(self.distribution, self.p[:, windows])

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Join the windows of several."""
        return cls(parts[0].distribution, np.concatenate([part.p for part in parts], 1))


@dataclass(frozen=True)
class SamplePaths:
    """Sample paths of each window, and values that were drawn of each step, all of them rounded.

    Args:
        paths: ``(N, num_samples, A)``.
        values: ``(N, A, V)``, in ascending order.
    """

    paths: Array
    values: Array

    @classmethod
    def of(cls, paths: Array) -> Self:
        """Take the values of the steps of paths alone."""
        return cls(paths, np.sort(np.moveaxis(paths, 1, 2)))

    def quantiles(self, units: Units, levels: Sequence[float]) -> Array:
        """Return quantiles ``(N, A, levels)``; the i-th of V values is that at (i - 1/2) / V.

        Between them lie straight lines (Hazen 1914).
        """
        V = self.values.shape[-1]
        at = np.clip(np.asarray(levels) * V - 0.5, 0, V - 1)
        low = np.minimum(at.astype(int), max(V - 2, 0))
        below, above = self.values[..., low], self.values[..., np.minimum(low + 1, V - 1)]
        return np.asarray(below + (at - low) * (above - below))

    def mean(self, units: Units) -> Array:
        """Return means ``(N, A)``."""
        return np.asarray(self.values.mean(-1))

    def toward(self, values: Array, weight: float, units: Units) -> SamplePaths:
        """Move all paths by a share of the distance of their median to ``values (N, A)``."""
        move = weight * (values - self.quantiles(units, [0.5])[..., 0])
        return SamplePaths(
            units.round(self.paths + move[:, None]), units.round(self.values + move[..., None])
        )

    def rise_probability(self, units: Units, last: Array) -> Array:
        """Return probabilities that the first step is above ``last``, never 0 or 1, ``(N,)``."""
        first = self.values[:, 0]
        lower_bound = 0.5 / first.shape[1]
        share = (first > last[:, None]).mean(1)
        return np.asarray(np.clip(share, lower_bound, 1 - lower_bound))

    def sample(self, units: Units, count: int, random: np.random.Generator) -> Array:
        """Draw samples ``(N, count, A)``, before rounding."""
        S = self.paths.shape[1]
        return self.paths[:, random.choice(S, count, replace=count > S)]

    def take(self, windows: NDArray[np.int64]) -> SamplePaths:
        """Return those of some windows."""
        return SamplePaths(self.paths[windows], self.values[windows])

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Join the windows of several."""
        paths, values = zip(*((part.paths, part.values) for part in parts), strict=True)
        return cls(np.concatenate(paths), np.concatenate(values))


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
        """Return the first and last rows of `to_frame`, below a line about them."""
        N, A, half = len(self), self.horizon, MAX_ROWS // 2
        whole = N * A <= MAX_ROWS
        few = -(-half // A)  # forecasts that fill half of the rows
        some = list(range(N)) if whole or 2 * few >= N else [*range(few), *range(N - few, N)]
        frame = self.take(some).to_frame()
        text = frame if whole else pd.concat([frame.head(half), frame.tail(half)])
        lines = text.drop(columns="cutoff").to_string(index=False).splitlines()
        if not whole:
            lines.insert(1 + half, f"... {N * A - 2 * half:,} more rows: to_frame()")
        steps = f"{A} step{'s' * (A > 1)} ahead, one every {self.panel.grid.name}"
        return "\n".join([f"Forecast of {self._title()}, {steps}", *lines])

    def _title(self) -> str:
        names = {self.panel.series[i].name for i, _ in self.cutoffs}
        one = f"{min(names) or self.panel.target!r}"
        count = one if len(names) == 1 else f"{len(names):,} series"
        per = len(self) / len(names)
        return count if per == 1 else f"{count} from {per:g} cutoffs each"

    def __getitem__(self, name: str) -> Forecast:
        """Return the forecasts of one series, by its name: ``forecast["tea"]``."""
        names = [self.panel.series[i].name for i, _ in self.cutoffs]
        rows = [n for n, each in enumerate(names) if each == name]
        if not rows:
            known = list(dict.fromkeys(names))
            some = ", ".join(map(repr, known[:20])) + (", ..." if len(known) > 20 else "")
            raise OstinatoError(
                f"Forecast[{name!r:.60}]: expected the name of a series, one of {some}."
            )
        return self.take(rows)

    def take(self, rows: Sequence[int]) -> Forecast:
        """Return some of the forecasts, by their positions, in that order."""
        some = np.asarray(rows)
        units = Units(*(part[some] for part in self.units))
        calibration = (np.broadcast_to(part, len(self))[some] for part in self.calibration)
        return replace(
            self,
            cutoffs=[self.cutoffs[n] for n in rows],
            predictive=self.predictive.take(some),
            units=units,
            calibration=Calibration(*calibration),
        )

    @property
    def horizon(self) -> int:
        """Steps ahead, A."""
        whole = self.predictive
        return int((whole.paths if isinstance(whole, SamplePaths) else whole.p).shape[2])

    def by_rule(self, blend: Blend, reach: int) -> Array:
        """Forecast by simple rules, from the last ``reach`` steps alone, ``(N, A)``."""
        return blend.predict([past[-reach:] for past in self._pasts()], self.horizon)

    def blended(self, blend: Blend, reach: int) -> Forecast:
        """Return the forecast moved to that of simple rules."""
        if not blend.weight:
            return self
        center = self.predictive.quantiles(self.units, [0.5])[..., 0]
        rule = self.by_rule(blend, reach)
        values = np.where(np.isnan(rule), center, rule)
        return replace(self, predictive=self.predictive.toward(values, blend.weight, self.units))

    def quantiles(self, levels: Sequence[float]) -> Array:
        """Return the values, ``(N, A, levels)``, below which shares of the distributions lie.

        The ``levels`` are these shares, between 0 and 1; the values are in the units of the data.
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
        found = self.calibration.widen(self.predictive.mean(self.units), self.median)
        return np.maximum(found, self.units.expand().lower_bound)

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

        Its columns are ``unique_id``, ``cutoff`` (the time of the last known step), ``ds``,
        ``median``, and a quantile for each of the ``levels``.
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
        """Draw forecasts as fans over the first series, as a PNG. Needs ``ostinato[plots]``."""
        by_series: dict[int, list[int]] = {}
        for n, cutoff in enumerate(self.cutoffs):
            by_series.setdefault(cutoff.series, []).append(n)
        drawn = list(by_series.items())[:MAX_DRAWN]
        levels = [level for level, _ in FAN.values()]
        fans = self.quantiles([*levels, *(1 - level for level in levels)])
        median, A = self.median, self.horizon
        columns = min(len(drawn), 2)
        rows = -(-len(drawn) // columns)
        panes = new_axes(9 if columns == 1 else 12, 4.2 * rows, "a forecast", rows, columns)
        panes = np.atleast_1d(panes).ravel()
        for axes, (i, some) in zip(panes, drawn, strict=False):
            series = self.panel.series[i]
            lengths = [self.cutoffs[n].length for n in some]
            begin = max(0, min(lengths) - max(3 * self.season, 2 * A, 20))
            end = max(len(series.values), max(lengths) + A)
            times = self.panel.grid.times(series.start + np.arange(begin, end))
            values = series.values[begin:]
            axes.plot(times[: len(values)], values, color="black", linewidth=1, label="observed")
            # A value between two missing ones is no line.
            gap = np.isnan(np.concatenate([[np.nan], values, [np.nan]]))
            alone = gap[:-2] & gap[2:] & ~gap[1:-1]
            axes.plot(times[: len(values)][alone], values[alone], ".", color="black", markersize=3)
            for n in some:
                x = times[self.cutoffs[n].length - begin :][:A]
                first = n == some[0]
                for k, (interval, (_, shade)) in enumerate(FAN.items()):
                    axes.fill_between(
                        x, fans[n, :, k], fans[n, :, k + len(FAN)], color=shade, linewidth=0,
                        label=interval if first else None, zorder=1.5,
                    )  # fmt: skip
                label = "median" if first else None
                axes.plot(x, median[n], color=COLOURS[0], label=label)
            axes.set_title(series.name or self.panel.target)
            axes.grid(alpha=0.3)
            axes.tick_params(axis="x", rotation=30)
        for axes in panes[len(drawn) :]:
            axes.remove()
        panes[0].legend(fontsize="small")
        save_picture(panes[0], picture)

    def naive_errors(self) -> Array:
        """Return what mase divides by, ``(N, 1)``: errors of the seasonal naive in the past."""
        return np.array([[seasonal_naive_error(past, self.season)] for past in self._pasts()])

    def mase(self, predicted: Array) -> float:
        """Return the mean scaled error of other forecasts ``(N, A)``; inf where there is none."""
        error = np.abs(self.observed() - predicted) / self.naive_errors()
        good = error[np.isfinite(error)]
        return float(good.mean()) if len(good) else float("inf")

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
        observed, median, naive = self.observed(), self.median, self.naive()
        seasonal, quantiles = self.naive(self.season), self.quantiles(SCORED_LEVELS)
        known, levels = ~np.isnan(observed), np.asarray(SCORED_LEVELS)
        low, tenth, ninth, high = np.moveaxis(quantiles[..., :4], -1, 0)
        scale = self.naive_errors()
        error = observed[..., None] - quantiles
        pinball = np.maximum(levels * error, (levels - 1) * error)
        crps = 2 * pinball[..., 4:].mean(-1)

        def mean(values: Array) -> float:
            good = np.where(known & np.isfinite(values), values, np.nan)
            return float(np.nanmean(good)) if np.isfinite(good).any() else float("nan")

        def mase(predicted: Array) -> float:
            return mean(np.abs(observed - predicted) / scale)

        def smape(predicted: Array) -> float:
            size = np.abs(observed) + np.abs(predicted)
            return mean(200 * np.abs(observed - predicted) / np.where(size > 0, size, 1.0))

        with np.errstate(invalid="ignore", divide="ignore"):
            return {
                "mase": mase(median),
                "naive_mase": mase(naive),
                "seasonal_naive_mase": mase(seasonal),
                "smape": smape(median),
                "naive_smape": smape(naive),
                "seasonal_naive_smape": smape(seasonal),
                "mae": mean(np.abs(observed - median)),
                "crps": mean(crps),
                "scaled_crps": mean(crps / scale),
                "pinball_10": mean(pinball[..., 1]),
                "pinball_90": mean(pinball[..., 2]),
                "coverage_80": mean(((tenth <= observed) & (observed <= ninth)).astype(float)),
                "coverage_95": mean(((low <= observed) & (observed <= high)).astype(float)),
                "forecasts": int(known.any(1).sum()),
            }

    @classmethod
    def concatenate(cls, parts: Sequence[Forecast]) -> Forecast:
        """Join forecasts of the same series from several cutoffs."""
        first = parts[0]
        calibration = (
            np.concatenate([np.broadcast_to(part.calibration[k], len(part)) for part in parts])
            for k in range(len(first.calibration))
        )
        return Forecast(
            first.panel,
            [cutoff for part in parts for cutoff in part.cutoffs],
            type(first.predictive).concatenate([part.predictive for part in parts]),  # type: ignore[misc]
            Units.concatenate([part.units for part in parts]),
            first.season,
            Calibration(*calibration),
        )


def fit_blend(
    forecast: Forecast, past: Sequence[Cutoff], reach: int, seasons: Sequence[int], steps: int
) -> tuple[Blend, dict[str, float]]:
    """Find the best simple rule, and the weight of it and theta beside the network.

    Held-out steps have chosen the network's weights, and flatter it: a blend counts for how much it
    is better than the rules alone, less a standard error of that, over blocks of windows, which
    counts for more where blocks are few. And the fewer steps were held out, the more the weight is
    drawn towards that of weights inverse to squared errors (Bates and Granger 1969), which varies
    less.

    Also returns the MASE of each rule, and of the network, on these steps, by name.

    Args:
        forecast: of the held-out steps, by the network alone.
        past: cutoffs by which the rule is chosen, held out or not: it is not trained.
        reach: steps that rules see.
        seasons: of the series.
        steps: how many were held out.
    """
    nothing = SamplePaths.of(np.zeros((len(past), 1, forecast.horizon)))
    whole = replace(forecast, cutoffs=past, predictive=nothing)
    rules = [Blend(rule) for rule in ("naive", "drift", "median")]
    rules += [
        Blend(rule, season)
        for rule in ("seasonal naive", "seasonal drift")
        for season in seasons
        if season > 1
    ]
    best = rules[int(np.argmin([whole.mase(whole.by_rule(rule, reach)) for rule in rules]))]
    best = best._replace(theta=max([1, *seasons]))
    median = forecast.median
    toward = np.nan_to_num(forecast.by_rule(best, reach) - median)
    weights = np.linspace(0, 1, 21)
    moved = median + weights[:, None, None] * toward  # (weights, N, A)
    error = np.abs(forecast.observed() - moved) / forecast.naive_errors()
    good = np.isfinite(error).any((0, 2))
    blocks = np.array([(i, length // forecast.horizon) for i, length in forecast.cutoffs])[good]
    errors = np.nanmean(error[:, good], 2)
    weight = _weight(weights, errors, blocks, steps / forecast.horizon) if good.any() else 0.0
    scores = {str(rule): forecast.mase(forecast.by_rule(rule, reach)) for rule in [*rules, best]}
    scores["network"] = forecast.mase(median)
    return best._replace(weight=round(weight, 3)), scores


def _weight(weights: Array, errors: Array, blocks: NDArray[np.int64], horizons: float) -> float:
    """Return a rule's weight, by errors of blends, ``(weights, windows)``; the last is the rule's.

    Windows of one block, by ``blocks (windows, 2)``, err alike, others independently.
    """
    network, *_, rule = errors.mean(1) ** 2
    gain = errors[-1] - errors
    mean, unsure = gain.mean(1), np.zeros(len(weights))
    _, block = np.unique(blocks, axis=0, return_inverse=True)
    B = block.max() + 1
    if B > 1:
        sums = np.stack([np.bincount(block, row) for row in gain - mean[:, None]])
        unsure = _few(B - 1) * np.sqrt(B / (B - 1) * (sums**2).sum(1)) / len(block)
    best = weights[(mean - unsure).argmax()]
    prior = network / (network + rule) if network else 0.0
    return float((horizons * best + PRIOR_HORIZONS * prior) / (horizons + PRIOR_HORIZONS))


def _few(freedom: int) -> float:
    """Return what a standard error counts for that was estimated with so few degrees of freedom.

    That is Student's quantile at which the normal one is 1 (Fisher and Cornish 1960, expansion).

    >>> [round(_few(n), 2) for n in (1, 2, 4, 100)]
    [1.81, 1.32, 1.14, 1.01]
    """
    return 1 + 1 / (2 * freedom) + 1 / (4 * freedom**2) + 1 / (16 * freedom**3)


def calibrate(forecast: Forecast, next_step: Forecast, steps: int, *, spread: bool) -> Calibration:
    """Fit corrections to what followed; few held-out steps have little weight.

    Args:
        forecast: of held-out steps, not calibrated.
        next_step: of one step ahead, from more cutoffs, not calibrated.
        steps: how many were held out; forecasts overlap.
        spread: whether intervals are widened, which those of counts are not.
    """
    return Calibration(_fit_spread(forecast, steps) if spread else 1.0, *_fit_rises(next_step))


def _fit_spread(forecast: Forecast, steps: int) -> float:
    """Fit the factor by which intervals are widened.

    Distances from the median are compared with those of the 10 % and 90 % quantiles; four fifths
    of them must be smaller (split conformal prediction, Lei et al. 2018, for the ratio). Few steps
    narrow them less than they widen them: the network was the best of many on these steps. And
    since errors of one horizon are of one kind, the fewer horizons there are, the wider intervals
    become, as Student's t is wider than a Gaussian.
    """
    observed, median = forecast.observed(), forecast.median
    low, high = np.moveaxis(forecast.quantiles([0.1, 0.9]), -1, 0)
    half = np.where(observed > median, high - median, median - low)
    # Values that are rounded to the median.
    half = np.maximum(half, forecast.units.resolution[:, None] / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.abs(observed - median) / half
    ratios = ratios[np.isfinite(ratios)]
    factor = max(0.2, float(np.quantile(ratios, 0.8))) if len(ratios) else 1.0
    weight = steps / (steps + (30 if factor > 1 else 10 * forecast.horizon))
    unsure = stdtrit(1 + steps / forecast.horizon, 0.9) / ndtri(0.9)
    return float(round(factor**weight * unsure, 4))


def _fit_rises(next_step: Forecast) -> tuple[float, float]:
    """Fit intercept and slope of a line from predicted to true log odds of a rise (Platt 1999).

    A penalty draws it towards the identity.
    """
    last = next_step.last
    odds = _log_odds(next_step.predictive.rise_probability(next_step.units, last))
    change = next_step.observed()[:, 0] - last
    known = ~np.isnan(change)
    odds, sign = odds[known], np.where(change[known] > 0, 1.0, -1.0)

    def cost(line: Array) -> float:
        loss = np.logaddexp(0, -sign * (line[0] + line[1] * odds)).sum()
        return float(loss + 5 * (line[0] ** 2 + (line[1] - 1) ** 2))

    intercept, slope = minimize(cost, [0.0, 1.0], bounds=[(-5, 5), (0, 5)]).x
    return round(float(intercept), 4), round(float(slope), 4)


def last_observed(past: Array) -> float:
    """Return the last value of a series that is not missing; NaN if all are."""
    seen = past[~np.isnan(past)]
    return float(seen[-1]) if len(seen) else float("nan")


def seasonal_naive(past: Array, horizon: int, season: int) -> Array:
    """Repeat the last season of a series, ``(horizon,)``; for a missing value an earlier season.

    >>> seasonal_naive(np.array([1.0, 2.0, 3.0, np.nan]), 3, season=2).tolist()
    [3.0, 2.0, 3.0]
    """
    seasons = np.concatenate([np.full(-len(past) % season, np.nan), past]).reshape(-1, season)
    there = ~np.isnan(seasons[::-1])
    last = seasons[::-1][there.argmax(0), np.arange(season)]
    return np.resize(np.where(there.any(0), last, last_observed(past)), horizon)


def seasonal_naive_error(past: Array, season: int) -> float:
    """Return the mean absolute difference of values a season apart; NaN where 0 or not defined."""
    season = 1 if len(past) <= season else season
    error = np.abs(past[season:] - past[:-season])
    error = error[~np.isnan(error)]
    found = float(error.mean()) if len(error) else 0.0
    return found if found > 0 else float("nan")
