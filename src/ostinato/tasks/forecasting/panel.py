"""A panel, time series on one regular grid, and cutoffs, the times to forecast them from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from ostinato.errors import DataError, OstinatoError
from ostinato.tasks.forecasting.grid import Grid

MAX_VALIDATION = 2000
"""Windows to validate on, at most."""

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
        negative: the first step with a negative value, which is before step 0 where the series was
            cut after one, and after the last step where there is none; None if not looked for yet.
    """

    name: str
    start: int
    values: Array
    future_covariates: Array
    past_covariates: Array
    static_covariates: tuple[Static, ...] = ()
    negative: int | None = None

    def first_negative(self) -> int:
        """Return the first step with a negative value; the number of all steps if there is none."""
        if self.negative is not None:
            return self.negative
        found = np.flatnonzero(self.values < 0)
        return int(found[0]) if len(found) else len(self.values)

    def between(self, begin: int, end: int | None = None) -> Series:
        """Return steps from ``begin`` to before ``end``, and all covariates known ahead of them."""
        return self._replace(
            start=self.start + begin,
            values=self.values[begin:end],
            future_covariates=self.future_covariates[begin:],
            past_covariates=self.past_covariates[begin:end],
            negative=self.first_negative() - begin if begin else self.negative,
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

    series: Sequence[Series]
    grid: Grid
    columns: Columns = field(default_factory=Columns)
    categories: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.series)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Steps of each series, ``(N,)``."""
        if isinstance(self.series, Unread):
            return self.series.lengths
        return np.array([len(s.values) for s in self.series], dtype=np.int64)

    @property
    def longest(self) -> int:
        """Steps of the longest series."""
        return int(self.lengths.max())

    def piece(self, number: int, begin: int, end: int, known: int | None = None) -> Series:
        """Return steps of a series from ``begin`` to before ``end``, and read nothing else.

        Covariates known ahead go on to the step ``known``, or as far as they do.
        """
        if isinstance(self.series, Unread):
            return self.series.piece(number, begin, end, known)
        found = self.series[number].between(begin, end)
        if known is None:
            return found
        return found._replace(future_covariates=found.future_covariates[: known - begin])

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
        kept = series if isinstance(series, Sequence) else list(series)
        return Panel(kept, self.grid, self.columns, self.categories)

    def hold_out(self, steps: NDArray[np.int64] | Sequence[int]) -> Panel:
        """Return the panel without the last steps of each series, as many as given for it."""
        return self.with_series(_Cut(self, self.lengths - np.asarray(steps)))

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

    def to_json(self) -> dict[str, Any]:
        """Return all but the numbers of the series, as JSON."""
        first = self.series[0]
        named = self.series.named if isinstance(self.series, Unread) else self.series
        return {
            "grid": asdict(self.grid),
            "columns": self.columns._asdict(),
            "categories": dict(self.categories),
            "covariates": [first.future_covariates.shape[1], first.past_covariates.shape[1]],
            "series": [[s.name, *s.static_covariates] for s in named],
        }


class Unread(Sequence[Series]):
    """Series that are made when they are asked for.

    Attributes:
        lengths: steps of each, ``(N,)``.
    """

    lengths: NDArray[np.int64]

    @property
    def named(self) -> Iterable[Series]:
        """The series with their names and static covariates, perhaps without their numbers."""
        return self

    def piece(self, number: int, begin: int, end: int, known: int | None = None) -> Series:
        """Return steps of a series, as `Panel.piece`."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> Series: ...
    @overload
    def __getitem__(self, index: slice) -> list[Series]: ...
    def __getitem__(self, index: int | slice) -> Series | list[Series]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError(index)
        return self.piece(number, 0, int(self.lengths[number]))


class _Cut(Unread):
    """The series of a panel up to some length of each."""

    def __init__(self, panel: Panel, lengths: NDArray[np.int64]) -> None:
        self._panel = panel
        self.lengths = lengths

    def piece(self, number: int, begin: int, end: int, known: int | None = None) -> Series:
        return self._panel.piece(number, begin, min(end, int(self.lengths[number])), known)


class Cutoff(NamedTuple):
    """A time to forecast from.

    Attributes:
        series: number of the series in its panel.
        length: how many of its values are known.
    """

    series: int
    length: int


class Cutoffs(Sequence[Cutoff]):
    """Cutoffs at every length of a stretch of each series.

    Args:
        first: of each series the first length, ``(N,)``.
        last: the last one; less than the first where there is no cutoff.

    >>> list(Cutoffs(np.array([2, 5]), np.array([3, 5])))
    [Cutoff(series=0, length=2), Cutoff(series=0, length=3), Cutoff(series=1, length=5)]
    """

    def __init__(self, first: NDArray[np.int64], last: NDArray[np.int64]) -> None:
        self._first, self._last = first, last
        self._ends = np.maximum(last - first + 1, 0).cumsum()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @overload
    def __getitem__(self, index: int) -> Cutoff: ...
    @overload
    def __getitem__(self, index: slice) -> list[Cutoff]: ...
    def __getitem__(self, index: int | slice) -> Cutoff | list[Cutoff]:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        k = index + len(self) if index < 0 else index
        if not 0 <= k < len(self):
            raise IndexError(index)
        i = int(np.searchsorted(self._ends, k, side="right"))
        return Cutoff(i, int(self._last[i]) - (int(self._ends[i]) - 1 - k))

    def at_least(self, lengths: NDArray[np.int64]) -> Cutoffs:
        """Return the cutoffs at so many steps of each series or more."""
        return Cutoffs(np.maximum(self._first, lengths), self._last)


def default_horizon(season: int, panel: Panel) -> int:
    """Return a season, or 12 without one, but not more than leaves enough to train on."""
    return min(season if season > 1 else 12, max(1, (panel.longest - 2) // 3))


def held_out_steps(panel: Panel, horizon: int, fraction: float | None) -> NDArray[np.int64]:
    """Return how many steps at the end of each series are held out for validation, ``(N,)``.

    Args:
        panel: series.
        horizon: steps ahead, the least that is held out.
        fraction: share of each series; None for a tenth, or only the horizon of 50 series or more.
    """
    if fraction is None:
        fraction = 0.1 if len(panel) < 50 else 0.0
    elif fraction == 0:
        return np.zeros(len(panel), np.int64)
    T = panel.lengths
    steps = np.maximum(horizon, np.round(fraction * T).astype(np.int64))
    return np.where(3 * horizon + 2 <= T, steps, 0)


def training_cutoffs(
    panel: Panel, held_out: NDArray[np.int64] | None, horizon: int, season: int
) -> Cutoffs:
    """Return all cutoffs whose horizon ends before the held-out steps, a season's past given."""
    T = panel.lengths if held_out is None else panel.lengths - held_out
    first = np.maximum(2, np.minimum(season, T // 3))
    return Cutoffs(first, np.where(T - horizon > first, T - horizon, T - 1))


def validation_cutoffs(panel: Panel, held_out: NDArray[np.int64], horizon: int) -> list[Cutoff]:
    """Return cutoffs whose horizon lies in the held-out steps; of many an even selection."""
    first, last = panel.lengths - held_out, panel.lengths - horizon
    found = Cutoffs(first, np.where(held_out > 0, last, first - 1))
    return found[:: -(-len(found) // MAX_VALIDATION) or 1]


def last_cutoffs(panel: Panel, horizon: int, count: int, stride: int) -> list[Cutoff]:
    """Return cutoffs of each series, ``stride`` steps apart, the last a horizon before its end.

    A `DataError` says how long a series must be, if none is.
    """
    if count < 1 or stride < 1:
        raise OstinatoError(f"cutoffs={count}, stride={stride}; expected 1 or more of each.")
    found = [
        Cutoff(i, length - k * stride)
        for i, length in enumerate((panel.lengths - horizon).tolist())
        for k in reversed(range(min(count, (length - 2) // stride + 1)))
    ]
    if not found:
        raise DataError(
            f"no series has the {horizon + 2} steps that are needed to forecast {horizon} ahead "
            "and to compare with the observed values."
        )
    return found
