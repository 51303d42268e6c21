"""A panel in a folder: in memory where it is small, mapped where it is large.

::

    FOLDER/values.npy              of all series, end to end; beside it where each begins
    FOLDER/future_covariates.npy   likewise
    FOLDER/past_covariates.npy     likewise
    FOLDER/steps.npy               (2, N): the start of each series, and its first negative value

What else there is of a panel, names among it, is JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ostinato.data.ragged import Ragged
from ostinato.data.shards import Work
from ostinato.data.textfiles import library_errors
from ostinato.errors import DataError
from ostinato.files import atomic_file
from ostinato.tasks.forecasting.grid import Grid
from ostinato.tasks.forecasting.panel import Columns, Panel, Series, Unread

PARTS = ("values", "future_covariates", "past_covariates")
"""Numbers of a series."""

STEPS = "steps.npy"

IN_MEMORY = 1 << 26
"""Bytes of a part up to which it is read into memory."""

Array = NDArray[np.float64]


def save_panel(panel: Panel, folder: Path) -> None:
    """Write the numbers of a panel into a folder."""
    for part in PARTS:
        Ragged.write((getattr(s, part) for s in panel.series), folder / f"{part}.npy")
    save_steps(np.array([[s.start, s.first_negative()] for s in panel.series]), folder)


def save_shards(
    series: Callable[[int], Iterable[Series]], count: int, folder: Path, work: Work
) -> None:
    """Write the numbers of ``count`` series, which come one by one from a number on, in shards."""
    for part in PARTS:

        def rows(done: int, part: str = part) -> Iterator[Array]:
            return (getattr(each, part) for each in series(done))

        stage = f"writing {part.replace('_', ' ')}"
        Ragged.write_shards(folder / f"{part}.npy", rows, work, stage, count)


def save_steps(steps: NDArray[np.int64], folder: Path) -> None:
    """Write the start of each series, and the step of its first negative value, ``(N, 2)``."""
    with atomic_file(folder / STEPS) as file:
        np.save(file, steps.T)


def load_panel(folder: Path | None, document: Mapping[str, Any]) -> Panel:
    """Return a panel of its folder and of `Panel.to_json`; without a folder its series are empty.

    A `DataError` if a file is damaged.
    """
    names, widths = document["series"], document["covariates"]
    series: Sequence[Series]
    if folder is None:
        future, past = (np.zeros((0, width)) for width in widths)
        series = [Series(name, 0, np.zeros(0), future, past, tuple(rest)) for name, *rest in names]
    else:
        series = _Stored(folder, names)
    return Panel(
        series,
        Grid(**document["grid"]),
        Columns(*map(tuple, document["columns"].values())),
        document["categories"],
    )


class _Stored(Unread):
    """Series in a folder."""

    def __init__(self, folder: Path, names: Sequence[Sequence[Any]]) -> None:
        self._names = names
        self._parts = [_open(folder / f"{part}.npy") for part in PARTS]
        path = folder / STEPS
        with library_errors(path, "the series of a run"):
            self._steps = np.load(path)
        if {len(names)} != {len(each) for each in [*self._parts, self._steps.T]}:
            raise DataError("is damaged: it does not fit the names of the series.", path=path)
        self.lengths = self._parts[0].lengths

    @property
    def named(self) -> Iterable[Series]:
        nothing = np.zeros(0)
        for name, *rest in self._names:
            yield Series(name, 0, nothing, nothing, nothing, tuple(rest))

    def piece(self, number: int, begin: int, end: int, known: int | None = None) -> Series:
        ends = (end, known, end)
        values, future, past = (
            part.between(number, begin, last) for part, last in zip(self._parts, ends, strict=True)
        )
        name, *rest = self._names[number]
        start, negative = self._steps[:, number].tolist()
        return Series(name, start + begin, values, future, past, tuple(rest), negative - begin)


def _open(path: Path) -> Ragged:
    """Map a file; read it where it is small and has no shards, which are checked when read."""
    found = Ragged.open(path)
    if found.nbytes <= IN_MEMORY:
        found.touch(0, len(found.values))
        return Ragged(np.array(found.values), np.array(found.starts))
    return found
