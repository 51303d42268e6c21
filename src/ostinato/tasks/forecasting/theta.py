"""The theta method: exponential smoothing with half of the trend."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

Array = NDArray[np.float64]

RATES = np.linspace(0.05, 1, 20)
"""Rates of exponential smoothing that are tried."""

SURE = 1.645
"""Standard errors that the correlation a season apart must be above, for a season: at 90 %."""


def theta(past: Array, horizon: int, season: int) -> Array:
    """Forecast by the theta method, ``(horizon,)``; NaN where no value is known.

    ::

        s_t = a y_t + (1 - a) s_{t-1}
        y_{n+h} = s_n + b/2 (h - 1 + (1 - (1 - a)^n) / a)

    ``b`` is the slope of the line through all values, ``a`` the rate of exponential smoothing by
    which each value is best predicted from those before: Assimakopoulos and Nikolopoulos 2000, "The
    theta model", as written by Hyndman and Billah 2003. Where a season shows, it is divided out
    first, or subtracted if a value is not above 0. Missing values are on the lines between others.
    """
    seen = np.flatnonzero(~np.isnan(past))
    if len(seen) < 3:
        return np.full(horizon, past[seen[-1]] if len(seen) else np.nan)
    y = np.interp(np.arange(seen[0], len(past)), seen, past[seen])
    n, ahead = len(y), np.arange(1, horizon + 1)
    indices = seasonal_indices(y, season)
    positive = bool((y > 0).all())
    pattern = indices[np.arange(n + horizon) % len(indices)]
    y = y / pattern[:n] if positive else y - pattern[:n]
    slope = np.polyfit(np.arange(n), y, 1)[0]
    smooth = [lfilter([a], [1, a - 1], y, zi=[(1 - a) * y[0]])[0] for a in RATES]
    best = int(np.argmin([((y[1:] - s[:-1]) ** 2).sum() for s in smooth]))
    a = RATES[best]
    found = smooth[best][-1] + slope / 2 * (ahead - 1 + (1 - (1 - a) ** n) / a)
    return np.asarray(found * pattern[n:] if positive else found + pattern[n:])


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
