"""Time series of `defaults.py`: how they are divided, how forecasts are scored, simple rules.

Of each series the last steps are the test: ``cutoffs`` horizons that do not overlap. Everybody
knows what was before the first of them, and forecasts from each with what was known then.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from accuracy import Missing, there
from numpy.typing import NDArray

import ostinato
from ostinato.tasks.forecasting.forecast import Blend
from ostinato.tasks.forecasting.panel import Panel, last_cutoffs
from ostinato.tasks.forecasting.reading import read_panel

Array = NDArray[np.float64]

LEVELS = tuple(np.round(np.arange(0.05, 1, 0.05), 2).tolist())
"""Levels of the quantiles that are scored; the middle one is the median."""

MAX_ERRORS = 500
"""Past errors that the intervals of a simple rule are made of, at most."""


class SeriesSet(NamedTuple):
    """A set of series.

    Attributes:
        read: returns what `Forecaster.fit` takes: a file, or series by name.
        horizon: steps ahead.
        season: steps of a season, of what forecasts are scored by and others are told.
        cutoffs: how many times are forecast from.
        settings: those without which the columns would not be clear.
    """

    read: Callable[[Path], Any]
    horizon: int
    season: int = 1
    cutoffs: int = 1
    settings: Mapping[str, Any] = {}


def table(name: str) -> Callable[[Path], Any]:
    """A file of the data."""
    return lambda data: there(data / name)


def m3(sheet: str) -> Callable[[Path], Any]:
    """Series of the M3 competition."""

    def read(data: Path) -> dict[str, Array]:
        try:
            import xlrd
        except ModuleNotFoundError:
            raise Missing("xlrd, which reads M3C.xls: pip install xlrd") from None
        rows = xlrd.open_workbook(there(data / "m3" / "M3C.xls")).sheet_by_name(sheet)
        values = (rows.row_values(r) for r in range(1, rows.nrows))
        return {row[0].strip(): np.array(row[6 : 6 + int(row[1])], float) for row in values}

    return read


def m4_weekly(data: Path) -> dict[str, Array]:
    """Weekly series of the M4 competition, the test at their ends."""
    found: dict[str, Array] = {}
    for part in ("train", "test"):
        lines = there(data / "m4-weekly" / f"Weekly-{part}.csv").read_text().splitlines()[1:]
        for line in lines:
            name, *cells = line.replace('"', "").split(",")
            values = np.array([float(cell) for cell in cells if cell])
            found[name] = np.concatenate([found.get(name, np.zeros(0)), values])
    return found


SERIES_SETS = {
    "airline": SeriesSet(table("timeseries/airline-passengers.csv"), 12, 12, 3),
    "temperatures": SeriesSet(table("timeseries/daily-min-temperatures.csv"), 14, 7, 13),
    "sunspots": SeriesSet(table("timeseries/monthly-sunspots.csv"), 12, 12, 20),
    "etth1": SeriesSet(table("timeseries/ETTh1.csv"), 24, 24, 28, {"target": "OT"}),
    "vix": SeriesSet(table("timeseries/vix-daily.csv"), 10, 5, 50, {"target": "CLOSE"}),
    "ausbeer": SeriesSet(table("forecasts/ausbeer.csv"), 8, 4, 4),
    "tourism": SeriesSet(table("forecasts/australian_tourism.csv"), 4, 4, 2, {"target": "*"}),
    "gasrate": SeriesSet(table("forecasts/gasrate_co2.csv"), 12, 1, 4, {"target": "*"}),
    "heart-rate": SeriesSet(table("forecasts/heart_rate.csv"), 12, 1, 25),
    "ice-cream": SeriesSet(table("forecasts/ice_cream_heater.csv"), 12, 12, 3, {"target": "*"}),
    "milk": SeriesSet(table("forecasts/monthly-milk.csv"), 12, 12, 3),
    "milk-gaps": SeriesSet(table("forecasts/monthly-milk-incomplete.csv"), 12, 12, 3),
    "taxi": SeriesSet(table("forecasts/taxi_new_york_passengers.csv"), 48, 48, 21),
    "taylor": SeriesSet(table("forecasts/taylor.csv"), 48, 48, 14),
    "gasoline": SeriesSet(table("forecasts/us_gasoline.csv"), 13, 52, 12),
    "wineind": SeriesSet(table("forecasts/wineind.csv"), 12, 12, 3),
    "woolyrnq": SeriesSet(table("forecasts/woolyrnq.csv"), 8, 4, 3),
    "m3-yearly": SeriesSet(m3("M3Year"), 6),
    "m3-quarterly": SeriesSet(m3("M3Quart"), 8, 4),
    "m3-monthly": SeriesSet(m3("M3Month"), 18, 12),
    "m3-other": SeriesSet(m3("M3Other"), 8),
    "m4-weekly": SeriesSet(m4_weekly, 13),
}


class Division(NamedTuple):
    """A set, all of it and what is known before the first cutoff."""

    of: SeriesSet
    whole: Panel
    known: Panel

    @classmethod
    def of_set(cls, of: SeriesSet, data: Path) -> Division:
        """Read and divide."""
        whole = read_panel(of.read(data), ostinato.Forecaster(**of.settings))
        return cls(of, whole, whole.until(of.horizon * of.cutoffs))

    def pasts_and_futures(self) -> tuple[list[Array], Array, list[Array]]:
        """Past values of each cutoff, what followed, and what was known of the series in training.

        Series begin with their first value.
        """
        pasts, futures, known = [], [], []
        horizon, count = self.of.horizon, self.of.cutoffs
        for i, now in last_cutoffs(self.whole, horizon, count, horizon):
            values = self.whole.series[i].values
            pasts.append(values[:now])
            futures.append(values[now : now + horizon])
            known.append(values[: len(values) - horizon * count])
        return pasts, np.stack(futures), known

    def scores(self, quantiles: Array) -> dict[str, float]:
        """Mean scaled error, sMAPE, CRPS in the same units, and coverage of 80 % intervals."""
        _, y, known = self.pasts_and_futures()
        scale = np.array([_mean_change(past, self.of.season) for past in known])[:, None]
        error = y[..., None] - quantiles
        levels = np.array(LEVELS)
        median = quantiles[..., len(LEVELS) // 2]
        pinball = np.maximum(levels * error, (levels - 1) * error)
        size = np.abs(y) + np.abs(median)
        low, high = quantiles[..., LEVELS.index(0.1)], quantiles[..., LEVELS.index(0.9)]
        return {
            "MASE": _mean(np.abs(y - median) / scale),
            "sMAPE": _mean(200 * np.abs(y - median) / np.where(size > 0, size, 1.0)),
            "CRPS": _mean(2 * pinball.mean(-1) / scale),
            "coverage": 100 * _mean(np.where(np.isnan(y + low), np.nan, (low <= y) & (y <= high))),
        }

    def by_rule(self, rule: Blend) -> Array:
        """Quantiles of a simple rule: its forecast, and errors that it made before."""
        pasts, _, known = self.pasts_and_futures()
        horizon, found = self.of.horizon, []
        errors: dict[int, Array] = {}  # of a series, whose past is one array
        for past, learned in zip(pasts, known, strict=True):
            at = learned.__array_interface__["data"][0]
            if at not in errors:
                errors[at] = _errors(rule, learned, horizon)
            found.append(rule.predict([past], horizon)[0][:, None] + errors[at])
        return np.stack(found)


def _errors(rule: Blend, past: Array, horizon: int) -> Array:
    """Quantiles of a rule's errors within a series, around their median, ``(horizon, levels)``."""
    first = min(max(2, rule.season), len(past) - 1)
    cutoffs = np.arange(first, len(past))
    cutoffs = cutoffs[:: -(-len(cutoffs) // MAX_ERRORS)]
    errors = np.full((len(cutoffs), horizon), np.nan)
    for row, now in zip(errors, cutoffs, strict=True):
        future = past[now : now + horizon]
        row[: len(future)] = future - rule.predict([past[:now]], horizon)[0, : len(future)]
    last = np.flatnonzero((~np.isnan(errors)).sum(0) >= min(5, len(cutoffs)))[-1]
    errors[:, last + 1 :] = errors[:, last : last + 1]  # too few so far ahead
    quantiles = np.nanquantile(errors, LEVELS, axis=0).T
    return np.asarray(quantiles - quantiles[:, len(LEVELS) // 2, None])


def _mean(values: Array) -> float:
    good = values[np.isfinite(values)]
    return float(good.mean()) if len(good) else float("nan")


def _mean_change(past: Array, season: int) -> float:
    """The mean absolute change over a season; of one step where the series is shorter."""
    season = season if season < len(past) else 1
    found = float(np.nanmean(np.abs(past[season:] - past[:-season])))
    return found if found > 0 else float("nan")


def by_peer(name: str, division: Division, python: str = sys.executable) -> dict[str, Any]:
    """Quantiles and seconds of a forecaster of `forecast_peers.py`, in a process of its own."""
    horizon, whole = division.of.horizon, division.whole
    moments: list[list[int]] = [[] for _ in whole.series]
    for i, now in last_cutoffs(whole, horizon, division.of.cutoffs, horizon):
        moments[i].append(now)
    left = horizon * division.of.cutoffs
    problem = {
        "series": [series.values.tolist() for series in whole.series],
        "starts": ["2000-01-01"] * len(whole),
        "learnt": [len(series.values) - left for series in whole.series],
        "moments": moments,
        "ahead": horizon,
        "season": division.of.season,
        "frequency": "",
        "seed": 0,
        "levels": LEVELS,
    }
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "problem.json", Path(folder) / "answer.json"
        asked.write_text(json.dumps(problem))
        script = Path(__file__).resolve().parent / "forecast_peers.py"
        done = subprocess.run(
            [python, str(script), name, str(asked), str(answered)],
            cwd=folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if "ModuleNotFoundError" in done.stderr:
            raise ImportError(done.stderr.strip().splitlines()[-1])
        if (words := done.stderr.strip().splitlines()[-1:]) and words[0].startswith("left out"):
            raise Missing(words[0])
        if done.returncode:
            raise RuntimeError(f"{name} failed:\n{done.stderr[-2000:]}")
        found: dict[str, Any] = json.loads(answered.read_text())
    return found
