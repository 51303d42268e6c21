"""Sequences that were read, in a folder: a `Corpus` larger than memory.

A chunk of some megabytes is a file, whole or not there; of those that were used last, two are in
memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from ostinato.data.archives import Member
from ostinato.data.corpus import Corpus, Kind
from ostinato.data.places import Place
from ostinato.data.shards import Work
from ostinato.errors import DataError
from ostinato.files import atomic_file

_BOTH = 2  # chunks in memory: what was read last, and the one before


class Chunked(Sequence[Any]):
    """A part of the sequences of all chunks, such as their targets.

    Args:
        load: returns a part of a chunk.
        starts: number of the first sequence of each chunk, and of all of them, ``(chunks + 1,)``.
    """

    def __init__(self, load: Any, starts: NDArray[np.int64]) -> None:
        self._load = load
        self._starts = starts

    def __len__(self) -> int:
        return int(self._starts[-1])

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = index + len(self) if index < 0 else index
        if not 0 <= i < len(self):
            raise IndexError(index)
        chunk = int(np.searchsorted(self._starts, i, side="right")) - 1
        return self._load(chunk)[i - int(self._starts[chunk])]

    def __iter__(self) -> Iterator[Any]:
        for chunk in range(len(self._starts) - 1):
            yield from self._load(chunk)


def write_chunks(chunks: Iterable[Corpus], work: Work, stage: str = "reading") -> Corpus:
    """Write what was read into a folder, a chunk at a time, and return all of it.

    Chunks that are there already, of a call that was killed, are read again and not written.

    Raises:
        DataError: the chunks are not of one kind, or there is none.
    """
    if work.known("corpus") is None:
        counts, first, rows = [], None, 0
        for number, corpus in enumerate(chunks):
            if first is None:
                first = corpus
            one = _kind(corpus), _kind(first)
            if one[0] != one[1]:
                raise DataError(
                    f"holds {one[0]}, and {first.places[0].path} {one[1]}; read together, files "
                    "must be of one kind.",
                    path=corpus.places[0].path,
                )
            _write_chunk(work.folder / f"{number}.chunk", corpus)
            counts.append(len(corpus))
            rows += len(corpus)
            work.tell(stage, rows, None)
        if first is None:
            raise DataError("there is nothing to read.")
        found = {
            "counts": counts,
            "kind": first.kind,
            "labelled": first.targets is not None,
            "grouped": first.groups is not None,
            "variables": list(first.variables),
            "notes": list(first.notes),
        }
        work.recall("corpus", lambda: found)
    return open_chunks(work)


def open_chunks(work: Work) -> Corpus:
    """Return what `write_chunks` wrote."""
    known: dict[str, Any] = work.known("corpus")
    starts = np.cumsum([0, *known["counts"]], dtype=np.int64)
    load = lru_cache(_BOTH)(partial(_read_chunk, work.folder, known["kind"]))
    parts = {
        name: Chunked(partial(_part, load, name), starts)
        for name in ("inputs", "targets", "places", "groups")
    }
    return Corpus(
        known["kind"],
        parts["inputs"],
        parts["targets"] if known["labelled"] else None,
        parts["places"],
        known["variables"],
        (),
        known["notes"],
        parts["groups"] if known["grouped"] else None,
    )


def _part(load: Any, name: str, chunk: int) -> Sequence[Any]:
    found: Sequence[Any] = load(chunk)[name]
    return found


def _kind(corpus: Corpus) -> str:
    series = f"series of {len(corpus.variables)} variables"
    labels = "" if corpus.targets is not None else " without labels"
    labels += "" if corpus.groups is None else " with groups"
    return (series if corpus.kind == "series" else corpus.kind) + labels


def _write_chunk(path: Path, corpus: Corpus) -> None:
    if path.exists():
        return
    arrays: dict[str, NDArray[Any]] = {}
    if corpus.kind == "series":
        rows = [np.asarray(row) for row in corpus.inputs]
        arrays["values"] = np.concatenate(rows)
        arrays["lengths"] = np.array([len(row) for row in rows], dtype=np.int64)
    else:
        arrays["inputs"] = _json([_plain(each) for each in corpus.inputs])
    if corpus.targets is not None:
        arrays["targets"] = _json([_plain(each) for each in corpus.targets])
    if corpus.groups is not None:
        arrays["groups"] = _json(list(corpus.groups))
    arrays["places"] = _json([list(place) for place in corpus.places])
    with atomic_file(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # of names that are its own


def _plain(item: Any) -> Any:
    """Return an input or a target as JSON can hold it."""
    if isinstance(item, Path):
        return str(item)
    if isinstance(item, np.ndarray | np.generic):
        return item.tolist()
    return [_plain(each) for each in item] if isinstance(item, list | tuple) else item


def _json(items: list[Any]) -> NDArray[np.uint8]:
    return np.frombuffer(json.dumps(items).encode(), np.uint8)


def _read_chunk(folder: Path, kind: Kind, number: int) -> dict[str, Sequence[Any]]:
    path = folder / f"{number}.chunk"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            held = {name: arrays[name] for name in arrays.files}
        names = {"inputs", "targets", "places", "groups"} & held.keys()
        found = {name: json.loads(held[name].tobytes()) for name in names}
    except Exception as error:  # of NumPy, at bytes that it did not write
        raise DataError(f"is damaged, or missing: {error}", path=path) from error
    if kind == "series":
        found["inputs"] = np.split(held["values"], np.cumsum(held["lengths"])[:-1])
    elif kind in ("sound", "image"):
        found["inputs"] = [Path(x) if isinstance(x, str) else Member(*x) for x in found["inputs"]]
    found["places"] = [Place(*place) for place in found["places"]]
    return found
