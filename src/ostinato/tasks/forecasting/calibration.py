"""Calibration: corrections of predicted distributions, fitted on held-out steps."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

Array = NDArray[np.float64]


class Calibration(NamedTuple):
    """Corrections of what a network predicts; each is a number, or one for each window ``(N,)``.

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
        return np.asarray(1 / (1 + np.exp(-(self.intercept + self.slope * log_odds(p)))))


def log_odds(p: Array) -> Array:
    """Return log(p / (1 - p))."""
    return np.asarray(np.log(p) - np.log1p(-p))


def fit_spread(
    observed: Array, median: Array, low: Array, high: Array, resolution: Array, steps: int
) -> float:
    """Fit the factor by which intervals are widened; few held-out steps have little weight.

    Distances from the median are compared with those of the 10 % and 90 % quantiles; four fifths
    of them must be smaller (split conformal prediction, Lei et al. 2018, for the ratio).

    Args:
        observed: values, ``(N, A)``; NaN where missing.
        median: of the forecasts, ``(N, A)``.
        low: their 10 % quantiles, ``(N, A)``.
        high: their 90 % quantiles, ``(N, A)``.
        resolution: what values are rounded to, ``(N,)``.
        steps: how many were held out; forecasts overlap.
    """
    half = np.where(observed > median, high - median, median - low)
    half = np.maximum(half, resolution[:, None] / 2)  # values that are rounded to the median
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = (np.abs(observed - median) / half)[~np.isnan(observed)]
    ratios = ratios[np.isfinite(ratios)]
    if not len(ratios):
        return 1.0
    factor = max(0.2, float(np.quantile(ratios, 0.8)))
    return float(round(factor ** (steps / (steps + 30)), 4))


def fit_rises(odds: Array, change: Array) -> tuple[float, float]:
    """Fit intercept and slope of a line from predicted to true log odds of a rise (Platt 1999).

    A penalty draws it towards the identity.

    Args:
        odds: predicted log odds of a rise, ``(N,)``.
        change: observed change from the last known value, ``(N,)``; NaN where missing.
    """
    known = ~np.isnan(change)
    odds, sign = odds[known], np.where(change[known] > 0, 1.0, -1.0)

    def cost(line: Array) -> float:
        loss = np.logaddexp(0, -sign * (line[0] + line[1] * odds)).sum()
        return float(loss + 5 * (line[0] ** 2 + (line[1] - 1) ** 2))

    intercept, slope = minimize(cost, [0.0, 1.0], bounds=[(-5, 5), (0, 5)]).x
    return round(float(intercept), 4), round(float(slope), 4)
