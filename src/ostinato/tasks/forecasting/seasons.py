"""Seasons of series whose times do not tell them, found in their values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MAX_SERIES = 100
MAX_STEPS = 8192
"""Series, and the last steps of each, that are looked at, at most."""

CLEAR = 0.4
"""Correlation of changes a season apart, from which on there is one."""

CHANCE = 4.0
"""Standard deviations of the correlation of noise that a season must exceed, for short series."""

NEAR = 0.8
"""Share of the best season's correlation that a shorter one needs to come first."""

LONGER = 0.03
"""How much more than those of a season the changes of a longer one are correlated, at least."""


def find_seasons(
    series: Iterable[Array], longest: int = 2016, lengths: Sequence[int] | None = None
) -> tuple[int, int]:
    """Find a season and a longer one, a multiple of it; 1 where there is none.

    Changes from step to step are compared with those so many steps later: a season is where their
    correlation, averaged over the series, has a clear peak, and again at twice as many steps.

    Args:
        series: values ``(T,)`` of each, NaN where missing.
        longest: steps of a season, at most; and a third of a series.
        lengths: of all series, where these are read one by one; only some of them are looked at.

    >>> t = np.arange(1000)
    >>> day, week = np.sin(2 * np.pi * t / 24), np.sin(2 * np.pi * t / 168)
    >>> find_seasons([day + day * week]), find_seasons([t % 2 * 0.0 + t])
    ((24, 168), (1, 1))
    """
    if lengths is None:
        series = list(series)
        lengths = [len(values) for values in series]
    usual = int(np.median(lengths))
    size = min(longest, usual // 3, MAX_STEPS // 3)
    if size < 2:
        return 1, 1
    some = list(islice((values for values in series if len(values) >= usual), MAX_SERIES))
    found = np.mean([_correlations(values[-MAX_STEPS:], 2 * size + 1) for values in some], 0)
    lags = np.arange(2, size + 1)
    peak = (found[lags] >= found[lags - 1]) & (found[lags] >= found[lags + 1])
    peak &= np.minimum.accumulate(found)[lags - 1] < 0  # changes go both ways within a season
    clear = np.maximum(CLEAR, CHANCE / np.sqrt(len(some) * (usual - 1 - lags)))
    good = lags[peak & (found[lags] > clear) & (found[2 * lags] > clear / 2)]
    if not len(good):
        return 1, 1
    season = int(good[found[good] >= NEAR * found[good].max()][0])
    longer = good[(good > season) & (good % season == 0)]
    longer = longer[found[longer] > found[season] + max(LONGER, 1 / math.sqrt(usual))]
    return season, int(longer[found[longer].argmax()]) if len(longer) else 1


def _correlations(values: Array, count: int) -> Array:
    """Correlations of changes at lags of 0 to ``count - 1``; 0 where nothing changes."""
    changes = np.diff(values)
    known = ~np.isnan(changes)
    changes = np.where(known, changes - (changes[known].mean() if known.any() else 0), 0.0)
    size = 1 << (2 * len(changes)).bit_length()
    products, pairs = (
        np.fft.irfft(np.abs(np.fft.rfft(part, size)) ** 2, size)[:count]
        for part in (changes, known.astype(float))
    )
    variance = (changes**2).sum() / max(1, known.sum())
    rounding = (1e-9 * np.nanmax(np.abs(values))) ** 2
    return products / np.maximum(pairs, 1) / (max(variance, rounding) or 1.0)
