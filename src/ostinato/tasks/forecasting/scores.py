"""Scores of forecasts, and the naive forecasts beside them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LEVELS = tuple(np.round(np.arange(0.05, 1, 0.05), 2).tolist())
"""Levels that the continuous ranked probability score is had from."""

SCORED_LEVELS = (0.025, 0.1, 0.9, 0.975, *LEVELS)
"""Levels that `scores` needs quantiles of."""


def scores(
    truth: Array, median: Array, quantiles: Array, naive: Array, seasonal: Array, steps: Array
) -> dict[str, float]:
    """Score forecasts; see `Forecast.scores` for the names.

    Args:
        truth: observed values, ``(N, A)``; NaN where missing.
        median: of the forecasts, ``(N, A)``.
        quantiles: of the forecasts, at `SCORED_LEVELS`, ``(N, A, levels)``.
        naive: forecasts of the last value, ``(N, A)``.
        seasonal: forecasts of the value a season before, ``(N, A)``.
        steps: the `typical_step` of each series, ``(N, 1)``.
    """
    there = ~np.isnan(truth)
    levels = np.asarray(SCORED_LEVELS)
    low, tenth, ninth, high = np.moveaxis(quantiles[..., :4], -1, 0)
    off = truth[..., None] - quantiles
    loss = np.maximum(levels * off, (levels - 1) * off)
    crps = 2 * loss[..., 4:].mean(-1)

    def mean(values: Array) -> float:
        good = np.where(there & np.isfinite(values), values, np.nan)
        return float(np.nanmean(good)) if np.isfinite(good).any() else float("nan")

    def smape(said: Array) -> Array:
        size = np.abs(truth) + np.abs(said)
        return 200 * np.abs(truth - said) / np.where(size > 0, size, 1.0)

    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "mase": mean(np.abs(truth - median) / steps),
            "naive_mase": mean(np.abs(truth - naive) / steps),
            "seasonal_naive_mase": mean(np.abs(truth - seasonal) / steps),
            "smape": mean(smape(median)),
            "naive_smape": mean(smape(naive)),
            "seasonal_naive_smape": mean(smape(seasonal)),
            "mae": mean(np.abs(truth - median)),
            "crps": mean(crps),
            "scaled_crps": mean(crps / steps),
            "pinball_10": mean(loss[..., 1]),
            "pinball_90": mean(loss[..., 2]),
            "coverage_80": mean(((tenth <= truth) & (truth <= ninth)).astype(float)),
            "coverage_95": mean(((low <= truth) & (truth <= high)).astype(float)),
            "forecasts": int(there.any(1).sum()),
        }


def last_known(past: Array) -> float:
    """The last value of a series that is not missing; NaN where all are."""
    seen = past[~np.isnan(past)]
    return float(seen[-1]) if len(seen) else float("nan")


def repeated(past: Array, ahead: int, season: int) -> Array:
    """The last season of a series again and again, ``(ahead,)``; of what is missing, one earlier.

    >>> repeated(np.array([1.0, 2.0, 3.0, np.nan]), 3, season=2).tolist()
    [3.0, 2.0, 3.0]
    """
    found = np.full(ahead, last_known(past))
    for k in range(ahead):
        for at in range(len(past) + k % season - season, -1, -season):
            if at < len(past) and not np.isnan(past[at]):
                found[k] = past[at]
                break
    return found


def typical_step(past: Array, season: int) -> float:
    """Mean absolute difference of values a season apart; NaN where it is 0 or cannot be had."""
    if len(past) <= season:
        season = 1
    off = np.abs(past[season:] - past[:-season])
    off = off[~np.isnan(off)]
    found = float(off.mean()) if len(off) else 0.0
    return found if found > 0 else float("nan")
