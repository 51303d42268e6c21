"""Many sequences of unequal length, on disk or in memory."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from ostinato.data.shards import Reader, Work, write_shards
from ostinato.errors import DataError
from ostinato.files import atomic_file


class Ragged:
    """N arrays of one type and equal features, of unequal length, end to end in one.

    Args:
        values: all of them, ``(sum of lengths, ...)``.
        starts: where each begins, and where the last ends, ``(N + 1,)``.
        reader: watches over a mapped file that they lie in.

    >>> rows = Ragged.of([np.array([1, 2, 3]), np.array([4])])
    >>> rows[0].tolist(), rows.lengths.tolist(), rows.padded([1, 0]).tolist()
    ([1, 2, 3], [3, 1], [[4, 0, 0], [1, 2, 3]])
    """

    def __init__(
        self, values: NDArray[Any], starts: NDArray[np.int64], reader: Reader | None = None
    ) -> None:
        self.values = values
        self.starts = starts
        self._reader = reader

    @classmethod
    def of(cls, rows: Iterable[NDArray[Any]]) -> Ragged:
        """Arrays, at least one, end to end."""
        listed = list(rows)
        starts = np.cumsum([0, *map(len, listed)], dtype=np.int64)
        return cls(np.concatenate(listed), starts)

    @classmethod
    def write(cls, rows: Iterable[NDArray[Any]], path: str | os.PathLike[str]) -> Ragged:
        """Write arrays to a file, one at a time as they come, and map it."""
        starts = write_array(rows, path, f"{path}: there is no sequence at all.")
        with atomic_file(_starts_of(path)) as file:
            np.save(file, starts)
        return cls.open(path)

    @classmethod
    def write_shards(
        cls,
        path: Path,
        rows: Callable[[int], Iterable[NDArray[Any]]],
        work: Work,
        stage: str,
        total: int,
    ) -> Ragged:
        """Write arrays to a file in shards, from where it was interrupted, and map it.

        ``rows`` yields them from a number on; other arguments are those of `shards.write_shards`.
        """

        def items(done: int) -> Iterator[tuple[int, NDArray[Any]]]:
            return ((1, row) for row in rows(done))

        lengths = write_shards(path, items, work, stage, total)
        with atomic_file(_starts_of(path)) as file:
            np.save(file, np.concatenate([[0], np.cumsum(lengths)]))
        return cls.open(path)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Ragged:
        """Map a file that `write` wrote: read when used."""
        values, starts = _load(path, mapped=True), _load(_starts_of(path), mapped=True)
        ends = starts[[0, -1]].tolist() if starts.ndim == 1 and len(starts) else []
        if values.ndim == 0 or ends != [0, len(values)] or (np.diff(starts) < 0).any():
            raise DataError("is damaged: it does not fit the starts of its rows.", path=path)
        return cls(values, starts, Reader(Path(path), values))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """How long each array is, ``(N,)``."""
        return np.diff(self.starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, i: int) -> NDArray[Any]:
        return self.between(i, 0)

    def between(self, i: int, begin: int, end: int | None = None) -> NDArray[Any]:
        """Return rows of an array from ``begin`` to before ``end``, and read no others."""
        if not 0 <= i < len(self):
            raise IndexError(i)
        start, stop = int(self.starts[i]), int(self.starts[i + 1])
        stop = stop if end is None else min(stop, start + end)
        start = min(start + begin, stop)
        self.touch(start, stop)
        return self.values[start:stop]

    def touch(self, begin: int, end: int) -> None:
        """Say that steps, counted over all arrays, are about to be read; see `shards.Reader`."""
        if self._reader is not None:
            self._reader.touch(begin, end)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays together."""
        return self.values.nbytes

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self[i] for i in range(len(self)))

    def padded(
        self, rows: Sequence[int], begins: Sequence[int] | None = None, most: int | None = None
    ) -> NDArray[Any]:
        """Some of the arrays as one, ``(B, T, ...)``, zeros after the end of each; T is 1 or more.

        Each is cut to ``most`` steps from its step in ``begins`` on.
        """
        begins = [0] * len(rows) if begins is None else begins
        taken = [self[row][begin:][:most] for row, begin in zip(rows, begins, strict=True)]
        T = max(1, *map(len, taken))
        padded = np.zeros((len(taken), T, *self.values.shape[1:]), dtype=self.values.dtype)
        for place, each in zip(padded, taken, strict=True):
            place[: len(each)] = each
        return padded


def _load(path: str | os.PathLike[str], *, mapped: bool = False) -> NDArray[Any]:
    try:
        try:
            array = np.load(path, mmap_mode="r" if mapped else None)
        except ValueError:  # an empty one cannot be mapped
            array = np.load(path)
        # A plain array: slices of a memmap cost five times as much, and a batch takes hundreds.
        return cast("NDArray[Any]", array.view(np.ndarray))
    except Exception as error:  # of NumPy, at bytes that it did not write
        raise DataError(f"is damaged, or missing: {error}", path=path) from error


def _starts_of(path: str | os.PathLike[str]) -> Path:
    return Path(path).with_suffix(".starts.npy")


def write_array(
    rows: Iterable[NDArray[Any]], path: str | os.PathLike[str], empty: str
) -> NDArray[np.int64]:
    """Write arrays of one kind end to end as a ``.npy`` file; return where each begins, and ends.

    The rows are taken one at a time; ``empty`` is the message of the `DataError` where there are
    none.
    """
    rows, starts = iter(rows), array("q", [0])
    first = next(rows, None)
    if first is None:
        raise DataError(empty)
    header = {"descr": first.dtype.str, "fortran_order": False}
    with atomic_file(path) as file:

        def write_header() -> int:  # numpy leaves room for the first axis to grow
            file.seek(0)
            shape = (starts[-1], *first.shape[1:])
            np.lib.format.write_array_header_1_0(file, {**header, "shape": shape})
            return file.tell()

        begin = write_header()
        for row in chain([first], rows):
            assert (row.shape[1:], row.dtype) == (first.shape[1:], first.dtype), "of one kind"
            file.write(np.ascontiguousarray(row).data)
            starts.append(starts[-1] + len(row))
        end = write_header()
        assert end == begin, "numpy leaves room in the header for the length to grow"
    return np.array(starts, dtype=np.int64)


class WordTable(NamedTuple):
    """Distinct words: their numbers in a `Lexicon`, those of their characters and affixes."""

    ids: NDArray[np.int64]
    spellings: Ragged
    affixes: NDArray[np.int64]

    def take(self, rows: Sequence[int]) -> WordTable:
        """Return some of the words, copied into memory."""
        ids, affixes = (part[rows] if len(part) else part for part in (self.ids, self.affixes))
        spellings = Ragged.of([np.array(self.spellings[row]) for row in rows])
        return WordTable(np.array(ids), spellings, np.array(affixes))


class Examples(NamedTuple):
    """Sequences and their targets as numbers, in memory or in a folder.

    Attributes:
        inputs: of each sequence, rows of ``words`` ``(T,)``, token ids ``(T,)`` or features
            ``(T, I)``.
        targets: of each sequence, ``(N,)`` or ``(N, K)``; or of each step, ``(T,)`` or ``(T, K)``.
        words: the table that sequences of words are stored as rows of; None for others.
    """

    inputs: Ragged
    targets: NDArray[Any] | Ragged
    words: WordTable | None = None

    @classmethod
    def open(cls, folder: Path, name: str) -> Examples | None:
        """What `write` wrote; None if there is nothing of this name."""
        inputs, targets, ids, spellings, affixes = _files(folder, name)
        if not inputs.exists():
            return None
        return cls(
            Ragged.open(inputs),
            Ragged.open(targets) if _starts_of(targets).exists() else _load(targets),
            WordTable(_load(ids, mapped=True), Ragged.open(spellings), _load(affixes, mapped=True))
            if ids.exists()
            else None,
        )

    @classmethod
    def write(
        cls,
        folder: Path,
        name: str,
        inputs: Iterable[NDArray[Any]],
        targets: NDArray[Any] | Iterable[NDArray[Any]],
        words: WordTable | None = None,
    ) -> Examples:
        """Write a part of a run's data into a folder, and map it."""
        inputs_file, targets_file, *_ = _files(folder, name)
        cls.write_words(folder, name, words)
        written = Ragged.write(inputs, inputs_file)
        if not isinstance(targets, np.ndarray):
            return cls(written, Ragged.write(targets, targets_file), words)
        with atomic_file(targets_file) as file:
            np.save(file, targets)
        return cls(written, targets, words)

    @staticmethod
    def write_words(folder: Path, name: str, words: WordTable | None) -> None:
        """Write the words of a part into a folder, if there are any."""
        _, _, ids_file, spellings_file, affixes_file = _files(folder, name)
        if words is not None:
            np.save(ids_file, words.ids)
            np.save(affixes_file, words.affixes)
            Ragged.write(words.spellings, spellings_file)

    @classmethod
    def write_shards(
        cls,
        folder: Path,
        name: str,
        inputs: Callable[[int], Iterable[NDArray[Any]]],
        targets: NDArray[Any] | Callable[[int], Iterable[NDArray[Any]]],
        count: int,
        work: Work,
    ) -> Examples:
        """Write ``count`` sequences into a folder in shards, and map them; see `Ragged`."""
        inputs_file, targets_file, *_ = _files(folder, name)
        Ragged.write_shards(inputs_file, inputs, work, f"encoding {name}", count)
        if isinstance(targets, np.ndarray):
            with atomic_file(targets_file) as file:
                np.save(file, targets)
        else:
            Ragged.write_shards(targets_file, targets, work, f"encoding {name} targets", count)
        found = cls.open(folder, name)
        assert found is not None
        return found


def _files(folder: Path, name: str) -> list[Path]:
    parts = ("inputs", "targets", "words", "spellings", "affixes")
    return [folder / f"{name}.{part}.npy" for part in parts]
