"""Windows of time series, each in units of its own: what a forecasting network reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ostinato.data.batches import Epochs
from ostinato.tasks.forecasting.distributions import Units
from ostinato.tasks.forecasting.network import Window, WindowSizes
from ostinato.tasks.forecasting.panel import Cutoff, Panel, Series, Static, Unread

Array = NDArray[np.float64]

MAX_CATEGORIES = 100_000
"""Categories of a static covariate, at most."""

MAX_DECIMALS = 3
"""Decimals up to which values count as rounded."""

ENCODED_STEPS = 1 << 22
"""Steps of a panel up to which all of it is encoded once; of more, each window when it is taken."""

BLOCK = 1 << 20
"""Rows whose means are taken together."""


@dataclass(frozen=True)
class CovariateEncoding:
    """Means and scales of covariates, and the categories of static ones.

    Args:
        future: mean and scale of each future covariate, ``(2, K)``.
        past: mean and scale of each past covariate, ``(2, O)``.
        static: for each static covariate its categories, numbered from 1; or mean and scale.
    """

    future: Array
    past: Array
    static: Sequence[list[str] | dict[str, float]]

    @classmethod
    def learn(cls, panel: Panel) -> Self:
        """Learn the encoding from some series."""
        static: list[list[str] | dict[str, float]] = []
        named = panel.series.named if isinstance(panel.series, Unread) else panel.series
        for column in zip(*(s.static_covariates for s in named), strict=True):
            if all(isinstance(value, float) for value in column):
                mean, scale = _mean_and_scale([np.array(column)[:, None]])[:, 0]
                static.append({"mean": float(mean), "scale": float(scale)})
            else:
                static.append(sorted({str(value) for value in column})[:MAX_CATEGORIES])
        future, past = (
            _mean_and_scale(_Blocks(panel, part))
            for part in ("future_covariates", "past_covariates")
        )
        return cls(future, past, static)

    def sizes(self, calendar_features: int) -> WindowSizes:
        """Return the sizes of windows with so many features of the calendar."""
        categories = tuple(len(each) + 1 for each in self.static if isinstance(each, list))
        return WindowSizes(
            calendar_features + self.future.shape[1],
            self.past.shape[1],
            categories,
            len(self.static) - len(categories),
        )

    def encode_static(self, values: Sequence[Static]) -> tuple[list[int], list[float]]:
        """Encode static covariates of a series as categories, 0 for an unknown one, and numbers."""
        categories, numbers = [], []
        for value, learned, known in zip(values, self.static, self._categories, strict=True):
            if isinstance(learned, list):
                categories.append(known.get(str(value), 0))
            else:
                number = value if isinstance(value, float) else learned["mean"]
                numbers.append((number - learned["mean"]) / learned["scale"])
        return categories, numbers

    @cached_property
    def _categories(self) -> list[dict[str, int]]:
        """The number of each category; of numbers nothing."""
        return [
            {value: k for k, value in enumerate(learned, 1)} if isinstance(learned, list) else {}
            for learned in self.static
        ]

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON."""
        return {
            "future": self.future.tolist(),
            "past": self.past.tolist(),
            "static": list(self.static),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Invert `to_json`."""
        future, past = (np.array(data[n], np.float64).reshape(2, -1) for n in ("future", "past"))
        return cls(future, past, data["static"])


@dataclass
class _Blocks:
    """A covariate of all series, some rows at a time."""

    panel: Panel
    part: str

    def __iter__(self) -> Iterator[Array]:
        some: list[Array] = []
        rows = 0
        for series in self.panel.series:
            some.append(getattr(series, self.part))
            rows += len(some[-1])
            if rows >= BLOCK:
                yield np.concatenate(some)
                some, rows = [], 0
        if some:
            yield np.concatenate(some)


def _mean_and_scale(blocks: Iterable[Array]) -> Array:
    """Mean and standard deviation of columns without missing values; 1 where they do not vary.

    Blocks of rows are gone over twice.
    """
    count, total, squares = (np.zeros(()) for _ in range(3))
    for rows in blocks:
        if not rows.shape[1]:
            return np.zeros((2, 0))
        count = count + (~np.isnan(rows)).sum(0)
        total = total + np.nan_to_num(rows).sum(0)
    count = np.maximum(count, 1)
    mean = total / count
    for rows in blocks:
        squares = squares + (np.nan_to_num(rows - mean) ** 2).sum(0)
    scale = np.sqrt(squares / count)
    return np.stack([mean, np.where(scale > 1e-9 * np.abs(mean), scale, 1.0)])


def _standardized(rows: Array, mean: Array, scale: Array) -> Array:
    """Columns less their means, over their scales; 0 where missing."""
    found = (rows - mean) / scale
    return np.asarray(np.nan_to_num(found)) if found.size else found  # which takes its time


class _Encoded(NamedTuple):
    """A series as windows are cut from it."""

    values: Array  # (T,)
    negative: int  # the first step with a negative value; T or more if there is none
    decimals: NDArray[np.int64]  # (T,)
    future_covariates: NDArray[np.float32]  # (T + A, K)
    past_covariates: NDArray[np.float32]  # (T, O)
    static_categories: list[int]
    static_numbers: list[float]


@dataclass
class Windows:
    """Windows of a panel, made when they are asked for.

    Args:
        panel: series.
        encoding: of their covariates.
        context: steps of the past, C.
        horizon: steps of the future, A.
        season: steps of a season.
        calendar: whether features of the calendar precede the future covariates.
        centered: whether values are shifted; otherwise they are only scaled.
        history: steps before the context, whose values are at hand.
    """

    panel: Panel
    encoding: CovariateEncoding
    context: int
    horizon: int
    season: int
    calendar: bool = True
    centered: bool = True
    history: int = 0

    def __post_init__(self) -> None:
        self.sizes = self.encoding.sizes(self.panel.grid.calendar_features if self.calendar else 0)
        self._series: list[_Encoded] = []
        if self.panel.lengths.sum() > ENCODED_STEPS:
            return
        each = [series.values for series in self.panel.series]
        counted = np.split(decimals(np.concatenate(each)), self.panel.lengths.cumsum()[:-1])
        ends = self.panel.lengths + self.horizon
        self._series = [*map(self._encode, self.panel.series, counted, ends.tolist())]

    def _around(self, number: int, begin: int, now: int) -> tuple[_Encoded, int]:
        """Return a series as it is encoded, at least from ``begin`` on, and its first step."""
        if self._series:
            return self._series[number], 0
        end = now + self.horizon
        series = self.panel.piece(number, begin, end, end)
        return self._encode(series, decimals(series.values), end - begin), begin

    def _encode(self, series: Series, decimals: NDArray[np.int64], T: int) -> _Encoded:
        mean, scale = self.encoding.future
        future = np.full((T, len(mean)), np.nan)
        future[: len(series.future_covariates)] = series.future_covariates[:T]
        steps = series.start + np.arange(T)
        calendar = self.panel.grid.calendar(steps) if self.calendar else np.zeros((T, 0))
        return _Encoded(
            series.values,
            series.first_negative(),
            decimals,
            np.concatenate([calendar, _standardized(future, mean, scale)], 1).astype("f4"),
            _standardized(series.past_covariates, *self.encoding.past).astype("f4"),
            *self.encoding.encode_static(series.static_covariates),
        )

    def take(self, cutoffs: Sequence[Cutoff]) -> tuple[Window, Tensor, Units]:
        """Return windows, the values that follow them ``(B, A)`` in their units, and the units.

        Values are NaN where they are missing or not known yet. Nothing in a window depends on
        values after its cutoff.
        """
        B, C, A, sizes = len(cutoffs), self.history + self.context, self.horizon, self.sizes
        past_values = np.zeros((B, C), "f4")
        observed, valid = np.zeros((2, B, C), bool)
        future_covariates = np.zeros((B, C + A, sizes.future_covariates), "f4")
        past_covariates = np.zeros((B, C, sizes.past_covariates), "f4")
        static_categories = np.zeros((B, len(sizes.static_categories)), "i8")
        static_numbers = np.zeros((B, sizes.static_numbers), "f4")
        targets = np.full((B, A), np.nan)
        units = Units(*np.zeros((4, B)))
        for b, (i, now) in enumerate(cutoffs):
            begin = max(0, now - C)
            series, first = self._around(i, begin, now)
            begin, now = begin - first, now - first
            past = series.values[begin:now]
            at = slice(C - len(past), C)
            location, scale = self.location_and_scale(past[-self.context :])
            resolution = resolution_of(series.decimals[begin:now])
            lower_bound = 0.0 if now <= series.negative else -np.inf
            for unit, value in zip(units, (location, scale, resolution, lower_bound), strict=True):
                unit[b] = value
            seen = ~np.isnan(past)
            past_values[b, at] = np.where(seen, (past - location) / scale, 0.0)
            observed[b, at], valid[b, at] = seen, True
            future_covariates[b, at.start :] = series.future_covariates[begin : now + A]
            past_covariates[b, at] = series.past_covariates[begin:now]
            static_categories[b] = series.static_categories
            static_numbers[b] = series.static_numbers
            future = series.values[now : now + A]
            targets[b, : len(future)] = (future - location) / scale
        arrays = (
            past_values, observed, valid, future_covariates, past_covariates, static_categories,
            static_numbers, units.scale.astype("f4"), (units.resolution / units.scale).astype("f4"),
        )  # fmt: skip
        window = Window(*(torch.from_numpy(array) for array in arrays))
        return window, torch.from_numpy(targets).float(), units

    def location_and_scale(self, past: Array) -> tuple[float, float]:
        """Return the median of the last season, and the mean distance from it.

        Outliers have little weight: no distance counts for more than ten times the median one.
        """
        seen = past[~np.isnan(past)]
        if not len(seen):
            return 0.0, 1.0
        if not self.centered:
            return 0.0, max(float(np.abs(seen).mean()), 1.0)
        location = float(np.median(seen[-max(self.season, 4) :]))
        distance = np.abs(seen - location)
        usual = float(np.median(distance))
        spread = float(np.minimum(distance, 10 * usual).mean() if usual > 0 else distance.mean())
        level = abs(location)
        return location, spread if spread > 1e-11 * level else max(level, 1.0) * 1e-2


def decimals(values: Array) -> NDArray[np.int64]:
    """Count the decimals of each value; 0 for a missing one, `MAX_DECIMALS` + 1 for more.

    >>> decimals(np.array([3.0, -0.5, 2.25, np.nan, np.pi])).tolist()
    [0, 1, 2, 0, 4]
    """
    found = np.full(len(values), MAX_DECIMALS + 1)
    for n in range(MAX_DECIMALS, -1, -1):
        shifted = values * 10.0**n
        error = np.abs(shifted - np.round(shifted))
        found[(error <= 4 * np.spacing(np.abs(shifted))) | np.isnan(values)] = n
    return found


def resolution_of(decimals: NDArray[np.int64]) -> float:
    """Return what values with so many decimals are rounded to, 0 for nothing.

    >>> resolution_of(np.array([1, 0])), resolution_of(np.array([0, 4]))
    (0.1, 0.0)
    """
    n = int(decimals.max(initial=0))
    return 0.0 if n > MAX_DECIMALS else 10.0**-n


class TrainingBatch(NamedTuple):
    """Windows and the values that follow them; every window starts from the initial state.

    Attributes:
        window: what the network reads.
        targets: ``(B, A)``, NaN where there is none.
        steps: steps of all windows together.
        epoch: passes over the data so far, with this batch.
        idle: as in `SequenceBatch`.
    """

    window: Window
    targets: Tensor
    steps: int
    epoch: float
    fresh: bool = True
    idle: bool = False


class WindowBatches(Epochs):
    """Endless batches of windows at random cutoffs of random series.

    Args:
        windows: of a panel.
        cutoffs: cutoffs, a random selection of which makes an epoch, none of them twice.
        batch_size: windows of a batch.
        max_windows: windows of an epoch, at most.
        seed: of the order.
        device: of the batches.

    Attributes:
        windows: batches of an epoch.
    """

    def __init__(
        self,
        windows: Windows,
        cutoffs: Sequence[Cutoff],
        batch_size: int = 256,
        max_windows: int = 20_000,
        seed: int = 0,
        device: torch.device | None = None,
    ) -> None:
        self._windows, self._cutoffs, self._batch_size = windows, cutoffs, batch_size
        self._seed, self._device = seed, device
        self._count = min(max_windows, len(cutoffs))
        self._order = -1, np.zeros(0, np.int64)
        self.windows = -(-self._count // batch_size)

    def next_batch(self) -> TrainingBatch:
        """Return the next batch."""
        epoch, k = self._epoch, self._next
        if self._order[0] != epoch:
            random = np.random.default_rng((self._seed % 2**32, epoch))
            order = random.choice(len(self._cutoffs), self._count, replace=False)
            self._order = epoch, order
        rows = self._order[1][k * self._batch_size : (k + 1) * self._batch_size]
        self._advance()
        passes = (self._epoch * self.windows + self._next) / self.windows
        own, idle = self._share(rows.tolist())
        return self._batch([self._cutoffs[row] for row in own], passes)._replace(idle=idle)

    def __iter__(self) -> Iterator[TrainingBatch]:
        """Windows at all cutoffs once, in their order: for evaluation. Of a part some batches."""
        batches = range(0, len(self._cutoffs), self._batch_size)
        for begin in batches[self._part :: self._parts]:
            yield self._batch(self._cutoffs[begin : begin + self._batch_size], 0)

    def _batch(self, cutoffs: Sequence[Cutoff], epoch: float) -> TrainingBatch:
        window, targets, _ = self._windows.take(cutoffs)
        steps = len(cutoffs) * (self._windows.context + self._windows.horizon)
        return TrainingBatch(window.to(self._device), targets.to(self._device), steps, epoch)

    def _layout(self) -> dict[str, int]:
        cutoffs = len(self._cutoffs)
        return {"cutoffs": cutoffs, "batch_size": self._batch_size, "seed": self._seed}
