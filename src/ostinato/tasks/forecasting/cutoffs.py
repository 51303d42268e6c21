"""Cutoffs: the times to forecast from, of training, validation and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ostinato.errors import DataError
from ostinato.tasks.forecasting.panel import Panel

__all__ = ["Cutoff", "default_horizon", "held_out_steps", "last_cutoffs", "training_cutoffs"]

MAX_VALIDATION = 2000
"""Windows to validate on, at most."""


class Cutoff(NamedTuple):
    """A time to forecast from.

    Attributes:
        series: number of the series in its panel.
        length: how many of its values are known.
    """

    series: int
    length: int


def default_horizon(season: int, panel: Panel) -> int:
    """Return a season, or 12 without one, but not more than leaves enough to train on."""
    return min(season if season > 1 else 12, max(1, (panel.longest - 2) // 3))


def held_out_steps(panel: Panel, horizon: int, fraction: float | None) -> list[int]:
    """Return how many steps at the end of each series are held out for validation.

    Args:
        panel: series.
        horizon: steps ahead, the least that is held out.
        fraction: share of each series; None for a tenth, or only the horizon of 50 series or more.
    """
    if fraction == 0:
        return [0] * len(panel)
    if fraction is None:
        fraction = 0.1 if len(panel) < 50 else 0.0
    lengths = [len(series.values) for series in panel.series]
    return [max(horizon, round(fraction * T)) if 3 * horizon + 2 <= T else 0 for T in lengths]


def training_cutoffs(
    panel: Panel, held_out: Sequence[int], horizon: int, season: int
) -> list[Cutoff]:
    """Return all cutoffs whose horizon ends before the held-out steps, a season's past given."""
    found = []
    for i, (series, left) in enumerate(zip(panel.series, held_out, strict=True)):
        T = len(series.values) - left
        first = max(2, min(season, T // 3))
        last = T - horizon if T - horizon > first else T - 1
        found += [Cutoff(i, length) for length in range(first, last + 1)]
    return found


def validation_cutoffs(panel: Panel, held_out: Sequence[int], horizon: int) -> list[Cutoff]:
    """Return cutoffs whose horizon lies in the held-out steps; of many an even selection."""
    found = [
        Cutoff(i, length)
        for i, (series, left) in enumerate(zip(panel.series, held_out, strict=True))
        for length in range(len(series.values) - left, len(series.values) - horizon + 1)
        if left
    ]
    return found[:: -(-len(found) // MAX_VALIDATION) or 1]


def last_cutoffs(panel: Panel, horizon: int, count: int, stride: int) -> list[Cutoff]:
    """Return cutoffs of each series, ``stride`` steps apart, the last a horizon before its end.

    Raises:
        DataError: if every series is too short.
    """
    found = [
        Cutoff(i, length)
        for i, series in enumerate(panel.series)
        for k in reversed(range(count))
        if (length := len(series.values) - horizon - k * stride) >= 2
    ]
    if not found:
        raise DataError(
            f"no series has the {horizon + 2} steps that are needed to forecast {horizon} ahead "
            "and to compare with what was observed."
        )
    return found
