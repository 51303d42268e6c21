"""A panel, time series on one regular grid, and cutoffs, the times to forecast them from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ostinato.data.textfiles import library_errors
from ostinato.errors import DataError, OstinatoError
from ostinato.tasks.forecasting.grid import Grid

MAX_VALIDATION = 2000
"""Windows to validate on, at most."""

PARTS = ("values", "future_covariates", "past_covariates")
"""Numbers of a series."""

Array = NDArray[np.float64]
Static = str | float
"""A static covariate: a category or a number."""


class Columns(NamedTuple):
    """Which columns of a table are what, by name.

    Attributes:
        time: of the times; several where they are in parts, such as year and month; or none.
        id: of the names of the series, one or none.
        target: forecast; several where each is a series.
        future_covariates: known ahead.
        past_covariates: known up to the present.
        static_covariates: constant within a series.
    """

    time: tuple[str, ...] = ()
    id: tuple[str, ...] = ()
    target: tuple[str, ...] = ("value",)
    future_covariates: tuple[str, ...] = ()
    past_covariates: tuple[str, ...] = ()
    static_covariates: tuple[str, ...] = ()

    def __str__(self) -> str:
        def shown(names: tuple[str, ...]) -> str:
            some = names if len(names) <= 6 else (*names[:3], f"... ({len(names):,} columns)")
            return ", ".join(some)

        parts = {
            name.replace("_", " "): shown(some) for name, some in self._asdict().items() if some
        }
        return "; ".join(f"{name}: {some}" for name, some in parts.items())


class Series(NamedTuple):
    """A series on a grid.

    Attributes:
        name: of the series; empty where there is but one.
        start: number of its first step on the grid.
        values: ``(T,)``, NaN where one is missing; neither the first nor the last is.
        future_covariates: known ahead, ``(T + ahead, F)``.
        past_covariates: known up to the present, ``(T, P)``.
        static_covariates: ``(S,)``.
        lowest: the lowest value before the first step, as far as the series was cut there.
    """

    name: str
    start: int
    values: Array
    future_covariates: Array
    past_covariates: Array
    static_covariates: tuple[Static, ...] = ()
    lowest: float = np.inf

    def between(self, begin: int, end: int | None = None) -> Series:
        """Return steps from ``begin`` to before ``end``, and all covariates known ahead of them."""
        return self._replace(
            start=self.start + begin,
            values=self.values[begin:end],
            future_covariates=self.future_covariates[begin:],
            past_covariates=self.past_covariates[begin:end],
            lowest=float(np.fmin.reduce(self.values[:begin], initial=self.lowest)),
        )

    def trimmed(self) -> Series | None:
        """Return the series without missing values at both ends; None if nothing is left."""
        there = np.flatnonzero(~np.isnan(self.values))
        return self.between(int(there[0]), int(there[-1]) + 1) if len(there) else None


@dataclass
class Panel:
    """Series on one grid.

    Args:
        series: the series.
        grid: their steps.
        columns: where they were read from, by name.
        categories: of each past or future covariate that is text its categories, each of which is a
            covariate of 0 and 1.
        notes: what the user should know, such as the number of missing values.
    """

    series: list[Series]
    grid: Grid
    columns: Columns = field(default_factory=Columns)
    categories: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.series)

    @property
    def longest(self) -> int:
        """Steps of the longest series."""
        return max(len(s.values) for s in self.series)

    @property
    def target(self) -> str:
        """The name of the forecast column, or value."""
        return self.columns.target[0] if len(self.columns.target) == 1 else "value"

    @property
    def description(self) -> str:
        """One line on which columns were read as what.

        >>> from ostinato.tasks.forecasting.grid import Grid
        >>> series = Series("", 0, np.ones(3), np.zeros((3, 0)), np.zeros((3, 0)))
        >>> Panel([series], Grid("month"), Columns(("Month",), (), ("Passengers",))).description
        'time: Month; target: Passengers; one series, monthly'
        """
        count = "one series" if len(self) == 1 else f"{len(self):,} series"
        return f"{self.columns}; {count}, {self.grid.adverb}"

    def with_series(self, series: Iterable[Series]) -> Panel:
        """Return a panel of other series of the same kind."""
        return Panel(list(series), self.grid, self.columns, self.categories)

    def hold_out(self, steps: Sequence[int]) -> Panel:
        """Return the panel without the last steps of each series, as many as given for it."""
        pairs = zip(self.series, steps, strict=True)
        return self.with_series(s.between(0, len(s.values) - left) for s, left in pairs)

    def until(self, left: int) -> Panel:
        """Return the panel as it was known ``left`` steps before the end of each series.

        Series that start later are left out, and missing values at the ends.
        """
        cut = (s.between(0, max(0, len(s.values) - left)).trimmed() for s in self.series)
        return self.with_series(s for s in cut if s is not None)

    def check_counts(self, setting: str) -> None:
        """Refuse values that are no counts, naming the series, the time and the value."""
        for series in self.series:
            seen = np.nan_to_num(series.values)
            wrong = np.flatnonzero((seen < 0) | (seen != np.round(seen)))
            if len(wrong):
                (at,) = self.grid.format(self.grid.times([series.start + int(wrong[0])]))
                name = f"series {series.name!r}" if series.name else self.target
                raise DataError(
                    f"{name} is {seen[wrong[0]]:g} at {at}; {setting} is for counts, whole numbers "
                    "from 0 on: choose another output."
                )

    def save(self, path: Path) -> None:
        """Write all numbers into one ``.npz`` file."""
        arrays = {part: [getattr(s, part) for s in self.series] for part in PARTS}
        lengths = [[len(rows) for rows in arrays[part]] for part in PARTS]
        whole: dict[str, Any] = {part: np.concatenate(rows) for part, rows in arrays.items()}
        np.savez(path, start=[s.start for s in self.series], lengths=lengths, **whole)

    def to_json(self) -> dict[str, Any]:
        """Return what `save` leaves out, as JSON."""
        return {
            "grid": asdict(self.grid),
            "columns": self.columns._asdict(),
            "categories": dict(self.categories),
            "covariates": [
                self.series[0].future_covariates.shape[1], self.series[0].past_covariates.shape[1]
            ],
            "series": [[s.name, *s.static_covariates] for s in self.series],
        }  # fmt: skip

    @classmethod
    def load(cls, path: Path | None, data: Mapping[str, Any]) -> Panel:
        """Invert `save` and `to_json`; without a path the series are empty."""
        names = data["series"]
        N = len(names)
        start = [0] * N
        parts = [[np.zeros(0)] * N, *([np.zeros((0, n))] * N for n in data["covariates"])]
        if path is not None:
            with library_errors(path, "the series of a run"), np.load(path) as stored:
                if sum(part.file_size for part in stored.zip.infolist()) > path.stat().st_size:
                    raise DataError("is compressed, and no file of a run.", path=path)
                start = stored["start"].tolist()
                pairs = zip(PARTS, stored["lengths"].cumsum(1), strict=True)
                parts = [np.split(stored[part], ends[:-1]) for part, ends in pairs]
        rows = zip(names, start, *parts, strict=True)
        return cls(
            [Series(n[0], s, v, f, p, tuple(n[1:])) for n, s, v, f, p in rows],
            Grid(**data["grid"]),
            Columns(*map(tuple, data["columns"].values())),
            data["categories"],
        )


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

    A `DataError` says how long a series must be, if none is.
    """
    if count < 1 or stride < 1:
        raise OstinatoError(f"cutoffs={count}, stride={stride}; expected 1 or more of each.")
    found = [
        Cutoff(i, length - k * stride)
        for i, series in enumerate(panel.series)
        for length in [len(series.values) - horizon]
        for k in reversed(range(min(count, (length - 2) // stride + 1)))
    ]
    if not found:
        raise DataError(
            f"no series has the {horizon + 2} steps that are needed to forecast {horizon} ahead "
            "and to compare with the observed values."
        )
    return found
