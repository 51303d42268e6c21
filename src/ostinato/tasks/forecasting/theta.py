"""The theta method: exponential smoothing with half of the trend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

Array = NDArray[np.float64]

RATES = np.linspace(0.05, 1, 20)
"""Rates of exponential smoothing that are tried."""

SURE = 1.645
"""Standard errors that the correlation a season apart must be above, for a season: at 90 %."""

MAX_ROWS = 512
"""Series that are smoothed simultaneously."""


class _Adjusted(NamedTuple):
    """A series without missing values and season.

    Attributes:
        values: ``(n,)``.
        slope: of the line through them.
        pattern: of the season, in the steps ahead ``(horizon,)``.
        multiplied: whether the season is a factor, not a difference.
    """

    values: Array
    slope: float
    pattern: Array
    multiplied: bool

    @classmethod
    def of(cls, past: Array, horizon: int, season: int) -> Self:
        """Adjust a series; of fewer than three values the last counts, NaN if there is none."""
        seen = np.flatnonzero(~np.isnan(past))
        if len(seen) < 3:
            return cls(past[seen[-1:]] if len(seen) else past[-1:], 0.0, np.ones(horizon), True)
        y = np.interp(np.arange(seen[0], len(past)), seen, past[seen])
        n, positive, indices = len(y), bool((y > 0).all()), seasonal_indices(y, season)
        pattern = indices[np.arange(n + horizon) % len(indices)]
        y = y / pattern[:n] if positive else y - pattern[:n]
        t = np.arange(n) - (n - 1) / 2
        return cls(y, float(t @ y / (t @ t)), pattern[n:], positive)


def theta(pasts: Sequence[Array], horizon: int, season: int) -> Array:
    """Forecast series by the theta method, ``(N, horizon)``; NaN where no value is known.

    ::

        s_t = a y_t + (1 - a) s_{t-1}
        y_{n+h} = s_n + b/2 (h - 1 + (1 - (1 - a)^n) / a)

    ``b`` is the slope of the line through all values, ``a`` the rate of exponential smoothing by
    which each value is best predicted from those before: Assimakopoulos and Nikolopoulos 2000, "The
    theta model", as written by Hyndman and Billah 2003. Where a season shows, it is divided out
    first, or subtracted if a value is not above 0. Missing values are on the lines between others.
    """
    found = np.empty((len(pasts), horizon))
    for begin in range(0, len(pasts), MAX_ROWS):
        some = slice(begin, begin + MAX_ROWS)
        found[some] = _extrapolate([_Adjusted.of(past, horizon, season) for past in pasts[some]])
    return found


def _extrapolate(rows: Sequence[_Adjusted]) -> Array:
    """Forecast adjusted series by the equations of `theta`, and put the seasons back."""
    values, slopes, patterns, multiplied = zip(*rows, strict=True)
    n = np.array([*map(len, values)])
    first, slope = np.array([y[0] for y in values]), np.array(slopes)[:, None]
    y = np.zeros((len(n), n.max()))  # less the first value, which stays 0 before it when smoothed
    for row, each in zip(y, values, strict=True):
        row[len(row) - len(each) :] = each - each[0]
    levels, errors = np.empty((2, len(RATES), len(n)))
    for k, a in enumerate(RATES):
        s = lfilter([a], [1, a - 1], y)
        levels[k], errors[k] = s[:, -1], ((y[:, 1:] - s[:, :-1]) ** 2).sum(1)
    best = errors.argmin(0)
    a, level = RATES[best], levels[best, np.arange(len(n))] + first
    pattern = np.stack(patterns)
    ahead = np.arange(pattern.shape[1]) + ((1 - (1 - a) ** n) / a)[:, None]
    found = level[:, None] + slope / 2 * ahead
    seasonal = np.where(np.array(multiplied)[:, None], found * pattern, found + pattern)
    return np.asarray(seasonal)


def seasonal_indices(y: Array, season: int) -> Array:
    """Return the part of each step of a season, of which the first value is one, ``(season,)``.

    They are factors of mean 1 if all values are above 0, else differences of mean 0: the means over
    seasons of each value's ratio or difference to the mean of the season around it. Without a
    season there is one, which changes nothing.
    """
    n, positive = len(y), bool((y > 0).all())
    nothing = np.ones(1) if positive else np.zeros(1)
    if season < 2 or n < 2 * season + 1:
        return nothing
    z = y - y.mean()
    correlation = np.array([z[k:] @ z[:-k] for k in range(1, season + 1)]) / max(z @ z, 1e-300)
    error = np.sqrt((1 + 2 * (correlation[:-1] ** 2).sum()) / n)
    if abs(correlation[-1]) <= SURE * error:
        return nothing
    ends = np.ones(season + 1 - season % 2)
    ends[[0, -1]] = 1.0 if season % 2 else 0.5
    trend = np.convolve(y, ends / season, "valid")
    first = len(ends) // 2
    middle = y[first : first + len(trend)]
    part = middle / trend if positive else middle - trend
    at = (first + np.arange(len(part))) % season
    found = np.bincount(at, part, season) / np.bincount(at, minlength=season)
    return np.asarray(found / found.mean() if positive else found - found.mean())
