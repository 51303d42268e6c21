"""Scores of forecasts, and the naive forecasts that they are compared with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LEVELS = tuple(np.round(np.arange(0.05, 1, 0.05), 2).tolist())
"""Levels of the quantiles that the continuous ranked probability score is computed from."""

SCORED_LEVELS = (0.025, 0.1, 0.9, 0.975, *LEVELS)
"""Levels of the quantiles that `scores` needs."""


def scores(
    observed: Array,
    median: Array,
    quantiles: Array,
    naive: Array,
    seasonal_naive: Array,
    naive_error: Array,
) -> dict[str, float]:
    """Score forecasts; see `Forecast.scores` for the names.

    Args:
        observed: values, ``(N, A)``; NaN where missing.
        median: of the forecasts, ``(N, A)``.
        quantiles: of the forecasts, at `SCORED_LEVELS`, ``(N, A, levels)``.
        naive: forecasts of the last value, ``(N, A)``.
        seasonal_naive: forecasts of the value a season before, ``(N, A)``.
        naive_error: the `seasonal_naive_error` of each series, ``(N, 1)``.
    """
    known = ~np.isnan(observed)
    levels = np.asarray(SCORED_LEVELS)
    low, tenth, ninth, high = np.moveaxis(quantiles[..., :4], -1, 0)
    error = observed[..., None] - quantiles
    pinball = np.maximum(levels * error, (levels - 1) * error)
    crps = 2 * pinball[..., 4:].mean(-1)

    def mean(values: Array) -> float:
        good = np.where(known & np.isfinite(values), values, np.nan)
        return float(np.nanmean(good)) if np.isfinite(good).any() else float("nan")

    def smape(predicted: Array) -> Array:
        size = np.abs(observed) + np.abs(predicted)
        return 200 * np.abs(observed - predicted) / np.where(size > 0, size, 1.0)

    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "mase": mean(np.abs(observed - median) / naive_error),
            "naive_mase": mean(np.abs(observed - naive) / naive_error),
            "seasonal_naive_mase": mean(np.abs(observed - seasonal_naive) / naive_error),
            "smape": mean(smape(median)),
            "naive_smape": mean(smape(naive)),
            "seasonal_naive_smape": mean(smape(seasonal_naive)),
            "mae": mean(np.abs(observed - median)),
            "crps": mean(crps),
            "scaled_crps": mean(crps / naive_error),
            "pinball_10": mean(pinball[..., 1]),
            "pinball_90": mean(pinball[..., 2]),
            "coverage_80": mean(((tenth <= observed) & (observed <= ninth)).astype(float)),
            "coverage_95": mean(((low <= observed) & (observed <= high)).astype(float)),
            "forecasts": int(known.any(1).sum()),
        }


def last_observed(past: Array) -> float:
    """Return the last value of a series that is not missing; NaN if all are."""
    seen = past[~np.isnan(past)]
    return float(seen[-1]) if len(seen) else float("nan")


def seasonal_naive(past: Array, horizon: int, season: int) -> Array:
    """Repeat the last season of a series, ``(horizon,)``; for a missing value an earlier season.

    >>> seasonal_naive(np.array([1.0, 2.0, 3.0, np.nan]), 3, season=2).tolist()
    [3.0, 2.0, 3.0]
    """
    found = np.full(horizon, last_observed(past))
    for k in range(horizon):
        for at in range(len(past) + k % season - season, -1, -season):
            if at < len(past) and not np.isnan(past[at]):
                found[k] = past[at]
                break
    return found


def seasonal_naive_error(past: Array, season: int) -> float:
    """Return the mean absolute difference of values a season apart; NaN where 0 or not defined."""
    season = 1 if len(past) <= season else season
    error = np.abs(past[season:] - past[:-season])
    error = error[~np.isnan(error)]
    found = float(error.mean()) if len(error) else 0.0
    return found if found > 0 else float("nan")
