"""Pictures of forecasts. They need ``ostinato[plots]``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ostinato.tasks.forecasting.panel import Cutoff, Panel
from ostinato.training.pictures import COLOURS, new_axes

FAN = {"95 %": "#cfe3f1", "80 %": "#9fc8e3", "50 %": "#66a8d2"}
"""Prediction intervals, and the shade of each."""

LEVELS = (0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975)


def draw_fans(
    panel: Panel,
    cutoffs: Sequence[Cutoff],
    quantiles: Callable[[Sequence[float]], NDArray[np.float64]],
    horizon: int,
    season: int,
    picture: Path,
    *,
    max_series: int = 6,
) -> None:
    """Draw forecasts as fans over the series, as a PNG.

    Args:
        panel: the series.
        cutoffs: the times that were forecast from, N.
        quantiles: of levels, ``(N, A, levels)``.
        horizon: steps ahead, A.
        season: steps of a season.
        picture: the file.
        max_series: series that are drawn, the first.
    """
    by_series: dict[int, list[int]] = {}
    for n, cutoff in enumerate(cutoffs):
        by_series.setdefault(cutoff.series, []).append(n)
    drawn = list(by_series.items())[:max_series]
    fans = quantiles(LEVELS)
    columns = 1 if len(drawn) == 1 else 2
    rows = -(-len(drawn) // columns)
    panes = new_axes(9 if columns == 1 else 12, 4.2 * rows, "a forecast", rows, columns)
    panes = np.atleast_1d(panes).ravel()
    for axes, (i, some) in zip(panes, drawn, strict=False):
        series = panel.series[i]
        lengths = [cutoffs[n].length for n in some]
        begin = max(0, min(lengths) - max(3 * season, 2 * horizon, 20))
        end = max(len(series.values), max(lengths) + horizon)
        times = panel.grid.times(series.start + np.arange(begin, end))
        values = series.values[begin:]
        axes.plot(times[: len(values)], values, color="black", linewidth=1, label="observed")
        # A value between two missing ones is no line.
        gap = np.isnan(np.concatenate([[np.nan], values, [np.nan]]))
        alone = gap[:-2] & gap[2:] & ~gap[1:-1]
        axes.plot(times[: len(values)][alone], values[alone], ".", color="black", markersize=3)
        for n in some:
            at = cutoffs[n].length - begin
            x = times[at : at + horizon]
            for low, (interval, shade) in enumerate(FAN.items()):
                label = interval if n == some[0] else None
                axes.fill_between(
                    x, fans[n, :, low], fans[n, :, -1 - low],
                    color=shade, linewidth=0, label=label, zorder=1.5,
                )  # fmt: skip
            label = "median" if n == some[0] else None
            axes.plot(x, fans[n, :, 3], color=COLOURS[0], label=label)
        axes.set_title(series.name or panel.target)
        axes.grid(alpha=0.3)
        axes.tick_params(axis="x", rotation=30)
    for axes in panes[len(drawn) :]:
        axes.remove()
    panes[0].legend(fontsize="small")
    panes[0].figure.savefig(picture, dpi=120)
