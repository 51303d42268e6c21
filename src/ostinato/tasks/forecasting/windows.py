"""Windows of time series, each in units of its own: what a forecasting network reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ostinato.data.timeseries import Panel, Series
from ostinato.tasks.forecasting.network import Window

__all__ = ["Covariates", "Origin", "Units", "WindowBatches", "Windows"]

MOST_KINDS = 1000


class Origin(NamedTuple):
    """A moment to forecast from: a series by its number, and how many of its values are known."""

    series: int
    known: int


class Units(NamedTuple):
    """What a window is counted in: a value is ``location + scale z``; ``(B,)`` each.

    Attributes:
        location: what is 0.
        scale: what is 1.
        grain: what values are rounded to; 0 for nothing.
        least: what none is below: 0 for counts, that are whole and come down to 0.
    """

    location: NDArray[np.float64]
    scale: NDArray[np.float64]
    grain: NDArray[np.float64]
    least: NDArray[np.float64]

    def rounded(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values ``(B, ...)`` as such a series has them."""
        shape = (-1, *[1] * (values.ndim - 1))
        grain, least = self.grain.reshape(shape), self.least.reshape(shape)
        some = np.where(grain > 0, grain, 1.0)
        return np.maximum(np.where(grain > 0, np.round(values / some) * some, values), least)


@dataclass(frozen=True)
class Covariates:
    """What is learnt of covariates: means and scales of numbers, kinds of words.

    Args:
        known: mean and scale of each column, ``(2, K)``.
        observed: the same, ``(2, O)``.
        static: of each feature its kinds, in the order of their numbers from 1; or of a number its
            mean and scale.
    """

    known: NDArray[np.float64]
    observed: NDArray[np.float64]
    static: Sequence[Any]

    @classmethod
    def learn(cls, panel: Panel) -> Self:
        """What some series tell."""
        static: list[Any] = []
        for column in zip(*(s.static for s in panel.series), strict=True):
            if all(isinstance(value, float) for value in column):
                mean, scale = _mean_and_scale(np.array(column)[:, None])[:, 0]
                static.append({"mean": float(mean), "scale": float(scale)})
            else:
                static.append(sorted({str(value) for value in column})[:MOST_KINDS])
        return cls(
            _mean_and_scale(np.concatenate([s.known for s in panel.series])),
            _mean_and_scale(np.concatenate([s.observed for s in panel.series])),
            static,
        )

    @property
    def kinds(self) -> tuple[int, ...]:
        """How many kinds each static feature has, an unknown one included; 0 for numbers."""
        return tuple(len(kinds) + 1 if isinstance(kinds, list) else 0 for kinds in self.static)

    def numbers(self, static: Sequence[Any]) -> list[float]:
        """Static features of a series as numbers; 0 for a kind that is not known."""
        found = []
        for value, learnt in zip(static, self.static, strict=True):
            if isinstance(learnt, list):
                found.append(float(learnt.index(str(value)) + 1 if str(value) in learnt else 0))
            else:
                number = value if isinstance(value, float) else learnt["mean"]
                found.append((number - learnt["mean"]) / learnt["scale"])
        return found

    def to_json(self) -> dict[str, Any]:
        """All that makes it, as JSON."""
        return {
            "known": self.known.tolist(),
            "observed": self.observed.tolist(),
            "static": list(self.static),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        known, observed = (np.array(data[name]).reshape(2, -1) for name in ("known", "observed"))
        return cls(known, observed, data["static"])


def _mean_and_scale(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean and standard deviation of columns without what is missing; 1 where they do not vary."""
    if not rows.shape[1]:
        return np.zeros((2, 0))
    there = ~np.isnan(rows)
    count = np.maximum(there.sum(0), 1)
    mean = np.where(there, rows, 0).sum(0) / count
    scale = np.sqrt((np.where(there, rows - mean, 0) ** 2).sum(0) / count)
    return np.stack([mean, np.where(scale > 1e-9 * np.abs(mean), scale, 1.0)])


class Windows:
    """Windows of a panel, made when they are asked for.

    The columns of a window are those of `ostinato.tasks.forecasting.network.Window`: value, seen,
    there, scale, grain; what is known, the calendar first; what is observed; what is static.

    Args:
        panel: series.
        covariates: what is known of theirs.
        context: steps of the past, C.
        ahead: steps of the future, A.
        season: steps of a season.
        calendar: whether the calendar is among what is known.
        centred: whether values are shifted; otherwise they are only scaled.
    """

    def __init__(
        self,
        panel: Panel,
        covariates: Covariates,
        context: int,
        ahead: int,
        season: int,
        *,
        calendar: bool = True,
        centred: bool = True,
    ) -> None:
        self.panel = panel
        self.covariates = covariates
        self.context = context
        self.ahead = ahead
        self.season = season
        self.centred = centred
        self._series = [self._prepared(s, calendar) for s in panel.series]
        self._digits = [digits(s.values) for s in panel.series]

    def _prepared(
        self, series: Series, calendar: bool
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], list[float]]:
        """Known, observed and static features of a series as the network takes them."""
        T = len(series.values) + self.ahead
        mean, scale = self.covariates.known
        known = np.full((T, len(series.known[0]) if len(series.known) else len(mean)), np.nan)
        known[: len(series.known)] = series.known[:T]
        features = [np.nan_to_num((known - mean) / scale)]
        if calendar:
            grid = self.panel.grid
            features.insert(0, grid.calendar(series.start + np.arange(T)))
        mean, scale = self.covariates.observed
        observed = np.nan_to_num((series.observed - mean) / scale)
        static = self.covariates.numbers(series.static)
        return np.concatenate(features, 1).astype("f4"), observed.astype("f4"), static

    def take(self, origins: Sequence[Origin]) -> tuple[Tensor, Tensor, Units]:
        """Windows ``(B, C + A, columns)``, what is wanted ``(B, A)`` in their units, and these.

        What is wanted is NaN where it is missing or not there yet. Nothing in a window depends on
        values of its future.
        """
        C, A = self.context, self.ahead
        known, observed, static = self._series[0]
        F, K, O, S = Window.FIRST, known.shape[1], observed.shape[1], len(static)
        x = np.zeros((len(origins), C + A, F + K + O + S), dtype=np.float32)
        wanted = np.full((len(origins), A), np.nan)
        units = Units(*np.zeros((4, len(origins))))
        for b, (i, now) in enumerate(origins):
            values = self.panel.series[i].values
            known, observed, static = self._series[i]
            begin = max(0, now - C)
            past = values[begin:now]
            location, scale = self.units(past)
            grain, least = grain_and_least(past, self._digits[i][begin:now])
            for unit, value in zip(units, (location, scale, grain, least), strict=True):
                unit[b] = value
            row = x[b, C - len(past) :]
            seen = ~np.isnan(past)
            row[: len(past), 0] = np.where(seen, (past - location) / scale, 0.0)
            row[: len(past), 1] = seen
            row[:, 2] = 1.0
            row[:, Window.SCALE] = scale
            row[:, Window.GRAIN] = grain / scale
            row[:, F : F + K] = known[begin : now + A]
            row[: len(past), F + K : F + K + O] = observed[begin:now]
            row[:, F + K + O :] = static
            future = values[now : now + A]
            wanted[b, : len(future)] = (future - location) / scale
        return torch.from_numpy(x), torch.from_numpy(wanted).float(), units

    def units(self, past: NDArray[np.float64]) -> tuple[float, float]:
        """Location and scale of a window by its past: the middle of its last season, its spread.

        Without what is exceptional: the middle is a median, and no value counts for more than ten
        times the median distance from it.
        """
        seen = past[~np.isnan(past)]
        if not len(seen):
            return 0.0, 1.0
        if not self.centred:
            return 0.0, max(float(np.abs(seen).mean()), 1.0)
        location = float(np.median(seen[-max(self.season, 4) :]))
        off = np.abs(seen - location)
        usual = float(np.median(off))
        spread = float(np.minimum(off, 10 * usual).mean()) if usual > 0 else float(off.mean())
        least = 1e-11 * abs(location)
        return location, spread if spread > least else max(abs(location), 1.0) * 1e-2


MOST_DIGITS = 3


def digits(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Decimals that each value has; 0 for a missing one, one more than `MOST_DIGITS` for more.

    >>> digits(np.array([3.0, -0.5, 2.25, np.nan, np.pi])).tolist()
    [0, 1, 2, 0, 4]
    """
    found = np.full(len(values), MOST_DIGITS + 1)
    for n in range(MOST_DIGITS, -1, -1):
        shifted = values * 10.0**n
        off = np.abs(shifted - np.round(shifted))
        found[(off <= 4 * np.spacing(np.abs(shifted))) | np.isnan(values)] = n
    return found


def grain_and_least(past: NDArray[np.float64], digits: NDArray[np.int64]) -> tuple[float, float]:
    """What values are rounded to, 0 for nothing; and what none is below.

    >>> grain_and_least(np.array([0.0, 4.0]), np.array([0, 0]))
    (1.0, 0.0)
    >>> grain_and_least(np.array([0.5, 4.0]), np.array([1, 0]))
    (0.1, -inf)
    """
    n = int(digits.max(initial=0))
    seen = past[~np.isnan(past)]
    if n > MOST_DIGITS or not len(seen):
        return 0.0, -np.inf
    return 10.0**-n, 0.0 if n == 0 and seen.min() == 0 else -np.inf


class WindowBatch(NamedTuple):
    """Windows to learn from. Every one starts from no state.

    Attributes:
        inputs: ``(B, C + A, columns)``.
        targets: ``(B, A)``.
        steps: of all windows together.
        epoch: which pass it belongs to, from 0, and how much of it is behind.
    """

    inputs: Tensor
    targets: Tensor
    steps: int
    epoch: float
    fresh: bool = True


class WindowBatches:
    """Endless batches of windows at random moments of random series.

    Args:
        windows: what they are taken from.
        origins: moments, of which each pass takes some at random, without taking one twice.
        batch_size: windows of a batch.
        most: windows of a pass; all if there are fewer.
        seed: of the order.
    """

    def __init__(
        self, windows: Windows, origins: Sequence[Origin], batch_size: int, most: int, seed: int
    ) -> None:
        self._windows = windows
        self._origins = origins
        self._batch_size = batch_size
        self._most = min(most, len(origins))
        self._seed = seed
        self._position = 0
        self._order: tuple[int, NDArray[np.int64]] | None = None

    @property
    def windows(self) -> int:
        """Batches in one pass."""
        return -(-self._most // self._batch_size)

    def next_batch(self) -> WindowBatch:
        """The next batch."""
        epoch, k = divmod(self._position, self.windows)
        if self._order is None or self._order[0] != epoch:
            random = np.random.default_rng((self._seed % 2**32, epoch))
            order = random.choice(len(self._origins), self._most, replace=False)
            self._order = epoch, order
        rows = self._order[1][k * self._batch_size : (k + 1) * self._batch_size]
        x, y, _ = self._windows.take([self._origins[row] for row in rows])
        self._position += 1
        return WindowBatch(x, y, x.shape[0] * x.shape[1], self._position / self.windows)

    def state_dict(self) -> dict[str, int]:
        """The position."""
        return {"position": self._position}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go to a position."""
        self._position = state["position"]
