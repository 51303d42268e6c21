"""Calibration: what forecasts of held-out steps say about the forecasts to come."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

Array = NDArray[np.float64]


class Calibration(NamedTuple):
    """How what a network says must be read, by what came of its forecasts of held-out steps.

    Each is a number, or ``(N,)``.

    Attributes:
        spread: factor by which everything is farther from the median than the network says.
        tilt: added to the log odds of a rise.
        slope: times the log odds of a rise, before.
    """

    spread: float | Array = 1.0
    tilt: float | Array = 0.0
    slope: float | Array = 1.0


def spread_of(
    truth: Array, median: Array, low: Array, high: Array, grain: Array, steps: int
) -> float:
    """Find the factor by which to widen intervals; few held-out steps count for little.

    Distances from the median are compared with those of the forecast's 10 % and 90 % quantiles;
    four fifths must be smaller (split conformal prediction, Lei et al. 2018, for the ratio).

    Args:
        truth: observed values, ``(N, A)``; NaN where missing.
        median: of the forecasts, ``(N, A)``.
        low: their 10 %, ``(N, A)``.
        high: their 90 %, ``(N, A)``.
        grain: what values are rounded to, ``(N,)``.
        steps: that were held out; forecasts overlap.
    """
    half = np.where(truth > median, high - median, median - low)
    half = np.maximum(half, grain[:, None] / 2)  # what is rounded to the median
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = (np.abs(truth - median) / half)[~np.isnan(truth)]
    ratios = ratios[np.isfinite(ratios)]
    if not len(ratios):
        return 1.0
    factor = max(0.2, float(np.quantile(ratios, 0.8)))
    return float(round(factor ** (steps / (steps + 30)), 4))


def line_of(odds: Array, rose: Array) -> tuple[float, float]:
    """Fit tilt and slope of a line from predicted to true log odds of a rise (Platt 1999).

    A penalty draws it towards the identity.

    Args:
        odds: predicted log odds of a rise, ``(N,)``.
        rose: observed change from the last known value, ``(N,)``; NaN where missing.
    """
    clear = (rose != 0) & ~np.isnan(rose)
    odds, rose = odds[clear], np.sign(rose[clear])

    def cost(line: Array) -> float:
        off = np.logaddexp(0, -rose * (line[0] + line[1] * odds)).sum()
        return float(off + 5 * (line[0] ** 2 + (line[1] - 1) ** 2))

    tilt, slope = minimize(cost, [0.0, 1.0], bounds=[(-5, 5), (0, 5)]).x
    return round(float(tilt), 4), round(float(slope), 4)
