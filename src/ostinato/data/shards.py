"""Arrays larger than memory: written shard by shard, mapped, and checked when they are first read.

A file is an ordinary ``.npy`` array; a shard is a stretch of about 4 MB of it that ends with an
item and has a checksum of its own, listed in ``shards.json`` beside it. Who was killed while it was
written goes on after its last whole shard.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ostinato.errors import DataError
from ostinato.files import atomic_file

SHARD = 1 << 22
"""Bytes of a shard: the first item that ends at so many or more is its last."""

TOGETHER = 32
"""Shards that are brought to the disk together: so much work, at most, is done again."""

MAPPED = 1 << 26
"""Bytes that are read from a mapped file before its pages are given back."""

CHECKSUMS = "shards.json"
"""In a folder of arrays: the shards of each file, by its name."""

Tell = Callable[[str, int, "int | None"], None]
"""Is told how far a stage is: its name, what is done, and of how much, if that is known."""


def _silent(stage: str, done: int, total: int | None) -> None:
    """Tell nobody."""


class Shard(NamedTuple):
    """A whole shard: the byte, the item and the array that it ends with, and its SHA-256."""

    end: int
    items: int
    arrays: int
    sha256: str


class Work:
    """A folder of work that goes on where it was interrupted: what is done, and what was found.

    Each fact is a line of its journal, on the disk before the next is looked for.

    Args:
        folder: the folder, made if it is not there.
        tell: is told how far it is.
    """

    def __init__(self, folder: Path, tell: Tell = _silent) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.tell = tell
        self._journal = folder / "journal.jsonl"
        self._facts: dict[str, Any] = {}
        self._shards: dict[str, list[Shard]] = {}
        whole = 0
        if self._journal.exists():
            for line in self._journal.read_bytes().splitlines(keepends=True):
                try:
                    document = json.loads(line) if line.endswith(b"\n") else None
                except ValueError:
                    document = None
                if not isinstance(document, dict):
                    break  # it was being written
                whole += len(line)
                self._take(document)
            os.truncate(self._journal, whole)
        self.resumes = whole > 0

    def _take(self, document: dict[str, Any]) -> None:
        if "shards" in document:
            some = [Shard(*each) for each in document["shards"]]
            self._shards.setdefault(document["file"], []).extend(some)
        else:
            self._facts[document["fact"]] = document["value"]

    def _write(self, document: dict[str, Any]) -> None:
        with self._journal.open("ab") as file:
            file.write(json.dumps(document).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._take(document)

    def known(self, fact: str) -> Any:
        """Return a fact that was found before; None if it was not."""
        return self._facts.get(fact)

    def recall(self, fact: str, find: Callable[[], Any]) -> Any:
        """Return a fact, as JSON, that was found before; else find it, and keep it."""
        if fact not in self._facts:
            self._write({"fact": fact, "value": find()})
        return self._facts[fact]

    def shards(self, name: str) -> list[Shard]:
        """Return the whole shards of a file."""
        return self._shards.get(name, [])

    def add_shards(self, name: str, shards: Sequence[Shard]) -> None:
        """Keep that shards are on the disk."""
        self._write({"file": name, "shards": shards})

    def write_checksums(self, folder: Path) -> None:
        """Write the shards of all files into the folder where these are."""
        found = {
            name: {"ends": [each.end for each in some], "sha256": [each.sha256 for each in some]}
            for name, some in self._shards.items()
        }
        with atomic_file(folder / CHECKSUMS) as file:
            file.write(json.dumps(found).encode())


def write_shards(
    path: Path,
    items: Callable[[int], Iterable[tuple[int, NDArray[Any]]]],
    work: Work,
    stage: str,
    total: int | None = None,
) -> NDArray[np.int64]:
    """Write arrays of one kind end to end as a ``.npy`` file, in shards.

    Args:
        path: the file; what of it is done already, ``work`` knows.
        items: yields the arrays from some item on, and how many items each stands for.
        work: where the shards are listed.
        stage: what is told beside the items that are done.
        total: items of the whole, if that is known.

    Returns:
        The lengths of all arrays; no array at all is a `DataError`.
    """
    name, done = path.name, work.shards(path.name)
    end, count, arrays, _ = done[-1] if done else Shard(0, 0, 0, "")
    beside = work.folder / f"{name}.lengths"
    stream = iter(items(count))
    first = next(stream, None)
    if first is None and not done:
        raise DataError("there is no sequence at all.", path=path)
    with path.open("r+b" if done else "w+b") as file, beside.open("ab") as lengths:
        if done:
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            tail, begin = shape[1:], file.tell()
        else:
            assert first is not None
            tail, dtype = first[1].shape[1:], first[1].dtype
            begin = _write_header(file, (0, *tail), dtype)
        lengths.truncate(8 * arrays)
        file.truncate(begin + end)
        file.seek(begin + end)
        before = arrays
        start, digest, some, whole = end, hashlib.sha256(), array("q"), list[Shard]()

        def end_shard() -> None:
            nonlocal start, digest, arrays
            if end == start and len(some) == (arrays - before):
                return
            arrays = before + len(some)
            whole.append(Shard(end, count, arrays, digest.hexdigest()))
            start, digest = end, hashlib.sha256()
            work.tell(stage, count, total)

        def commit() -> None:
            nonlocal before, some
            if not whole:
                return
            lengths.write(some.tobytes())
            for each in (lengths, file):
                each.flush()
                os.fsync(each.fileno())
            work.add_shards(name, whole)
            whole.clear()
            before, some = arrays, array("q")

        while first is not None:
            n, row = first
            assert (row.shape[1:], row.dtype) == (tail, dtype), "of one kind"
            data = np.ascontiguousarray(row).reshape(-1).view(np.uint8).data
            file.write(data)
            digest.update(data)
            end, count = end + len(data), count + n
            some.append(len(row))
            if end - start >= SHARD:
                end_shard()
            if len(whole) == TOGETHER:
                commit()
            first = next(stream, None)
        end_shard()
        commit()
        each = int(np.prod(tail, dtype=np.int64)) * dtype.itemsize
        length = np.fromfile(beside, np.int64)
        rows = int(length.sum())
        assert rows * each == end, "as many rows as bytes"
        again = _write_header(file, (rows, *tail), dtype)
        assert again == begin, "numpy leaves room for the length to grow"
        file.flush()
        os.fsync(file.fileno())
    return length


def _write_header(file: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Write the header of a ``.npy`` file, which has room for the first axis to grow."""
    file.seek(0)
    header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return int(file.tell())


class Reader:
    """Watches over what is read of a mapped file: checks shards before, gives pages back after.

    Args:
        path: the ``.npy`` file.
        values: the file, mapped.
    """

    def __init__(self, path: Path, values: NDArray[Any]) -> None:
        self._path = path
        self._map = _map_of(values)
        self._row = int(np.prod(values.shape[1:], dtype=np.int64)) * values.dtype.itemsize
        self._header = path.stat().st_size - len(values) * self._row
        self._read = 0
        shards = _checksums(path.parent).get(path.name, {"ends": [], "sha256": []})
        self._ends = np.array(shards["ends"], dtype=np.int64)
        self._digests: list[str] = shards["sha256"]
        self._unchecked = np.ones(len(self._digests), dtype=np.bool_)
        if self._digests and self._ends[-1] != len(values) * self._row:
            raise DataError(
                f"is damaged: it has {len(values) * self._row:,} bytes of numbers, and its shards "
                f"{self._ends[-1]:,}; prepare the data again.",
                path=path,
            )

    def touch(self, begin: int, end: int) -> None:
        """Say that rows are about to be read; a `DataError` if a shard of them is damaged."""
        if self._digests and end > begin:
            first, last = np.searchsorted(
                self._ends, [begin * self._row, end * self._row - 1], side="right"
            ).tolist()
            for shard in range(first, last + 1):
                if self._unchecked[shard]:
                    self._check(shard)
        self._read += (end - begin) * self._row
        if self._read > MAPPED:
            self.release()

    def release(self) -> None:
        """Give back the pages of the file, which are read again when they are used again."""
        self._read = 0
        if self._map is not None and hasattr(self._map, "madvise"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def _check(self, shard: int) -> None:
        begin, end = int(self._ends[shard - 1]) if shard else 0, int(self._ends[shard])
        digest = hashlib.sha256()
        with self._path.open("rb") as file:
            file.seek(self._header + begin)
            while begin < end and (data := file.read(min(1 << 20, end - begin))):
                digest.update(data)
                begin += len(data)
        if digest.hexdigest() != self._digests[shard]:
            raise DataError(
                f"is damaged: the SHA-256 of its shard {shard + 1} of {len(self._digests)} is not "
                f"the one in {CHECKSUMS}; prepare the data again, or restore the file from a copy.",
                path=self._path,
            )
        self._unchecked[shard] = False


def _map_of(values: NDArray[Any]) -> mmap.mmap | None:
    """Return the mapping that an array looks at, if it does."""
    base: Any = values
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None


def _checksums(folder: Path) -> dict[str, Any]:
    path = folder / CHECKSUMS
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_bytes())
        assert all(len(each["ends"]) == len(each["sha256"]) for each in found.values())
    except (OSError, ValueError, AssertionError, LookupError, AttributeError, TypeError):
        raise DataError("is damaged; prepare the data again.", path=path) from None
    return dict(found)


def checked_files(folder: Path) -> set[str]:
    """Return the names of the files in a folder whose shards are checked when they are read."""
    return set(_checksums(folder))


def rows_from(rows: Iterable[NDArray[Any]]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield arrays that are an item each, as `write_shards` takes them."""
    return ((1, row) for row in rows)
