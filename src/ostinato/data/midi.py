"""Pieces of music as piano rolls: which of the 88 keys sound at each step."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ostinato.data.textfiles import library_errors, regular
from ostinato.errors import DataError, require
from ostinato.files import atomic_file

KEYS = 88
LOWEST = 21  # MIDI's number of the lowest key
PARTS = {
    "train": "training", "training": "training", "valid": "validation", "validation": "validation",
    "dev": "validation", "test": "test",
}  # fmt: skip
"""The part that a name stands for, without "data" at its end."""

MAX_STEPS = 1 << 20
"""Steps of all pieces of a MIDI file, at most."""

MAX_UNPACKED = 1 << 29
"""Bytes of all variables of a MATLAB file, at most."""

Roll = NDArray[np.uint8]


def read_music(
    paths: Sequence[str | os.PathLike[str]], steps_per_beat: int = 4
) -> dict[str, list[tuple[str, Roll]]]:
    """Pieces, and where each was read, by part: training, validation, test; or all, if not parted.

    Args:
        paths: MATLAB files with cells of piano rolls ``(T, 88)``; JSON files with lists of pieces,
            a list of MIDI notes for each step, or of voices, with -1 for silence; MIDI files;
            folders of MIDI files.
        steps_per_beat: steps that a beat of a MIDI file is cut into.
    """
    found: dict[str, list[tuple[str, Roll]]] = {}
    for path in map(Path, paths):
        files = [path]
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.suffix.lower() in (".mid", ".midi"))
            if not files:
                raise DataError("holds no MIDI files.", path=path)
        for file in files:
            for name, where, roll in _read(file, steps_per_beat):
                part = PARTS.get(name.lower().removesuffix("data"), "all")
                found.setdefault(part, []).append((where, roll))
    if not found:
        raise DataError("there is no piece of music.", path=paths[0] if paths else None)
    return found


def _read(path: Path, steps_per_beat: int) -> Iterator[tuple[str, str, Roll]]:
    """Yield the pieces of a file: the part's name, where each is, and the piece."""
    kind = path.suffix.lower()
    if not path.exists():
        raise DataError("no such file or folder.", path=path)
    if kind in (".mid", ".midi"):
        yield from (("all", *piece) for piece in _read_midi(path, steps_per_beat))
        return
    if kind not in (".mat", ".json"):
        raise DataError("expected .mat, .json, .mid, or a folder of .mid.", path=path)
    with library_errors(path, "JSON" if kind == ".json" else "a MATLAB file (version 5 to 7)"):
        parts = [*(_read_json(path) if kind == ".json" else _read_matlab(path))]
    for name, pieces in parts:
        for i, piece in enumerate(pieces):
            where = f"{path}: {name}[{i}]"
            yield name, where, roll_of(piece, where)


_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8",
            13: "u8"}  # fmt: skip
"""NumPy's names of the types of numbers in MATLAB files."""

_MATRIX, _PACKED, _CELLS = 14, 15, 1


def _read_matlab(path: Path) -> Iterator[tuple[str, Iterable[Any]]]:
    """Yield the cell arrays of a MATLAB file (version 5 to 7) by name.

    Not by SciPy, which a damaged file can crash.
    """
    data = memoryview(regular(path).read_bytes())
    order = {b"\0\1IM": "<", b"\1\0MI": ">"}.get(bytes(data[124:128]))
    if order is None:
        raise DataError("is no MATLAB file of version 5 to 7; save it with -v7.", path=path)
    left = MAX_UNPACKED
    for kind, content in _elements(data[128:], order):
        if kind == _PACKED:
            unpacking = zlib.decompressobj()
            content = memoryview(unpacking.decompress(content, left))
            left = max(1, left - len(content))
            if not unpacking.eof:
                raise DataError(
                    f"is damaged, or holds more than {MAX_UNPACKED >> 20} MB.", path=path
                )
            kind, content = next(_elements(content, order))
        name, cells = _matrix(content, order)
        if kind != _MATRIX or not isinstance(cells, list):
            raise DataError(f"{name!r} is no cell array of piano rolls.", path=path)
        yield name, cells


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    while data:
        kind, size = struct.unpack_from(f"{order}II", data)
        begin = 8
        if kind >> 16:  # small: both in one number, the content after it
            kind, size, begin = kind & 0xFFFF, kind >> 16, 4
        if begin + size > len(data):
            raise EOFError("it ends within an element")
        yield kind, data[begin : begin + size]
        data = data[begin + size if kind == _PACKED else -(-(begin + size) // 8) * 8 :]


def _matrix(data: memoryview, order: str, within: bool = False) -> tuple[str, Any]:
    """The name of a matrix, and its numbers, or a list of those of cells."""
    (_, flags), (_, dims), (_, name), *parts = _elements(data, order)
    shape = struct.unpack(f"{order}{len(dims) // 4}i", dims)
    kind = struct.unpack_from(f"{order}I", flags)[0] & 0xFF
    if kind == _CELLS and not within:
        cells = np.empty(len(parts), dtype=object)
        cells[:] = [_matrix(part, order, True)[1] for _, part in parts]
        return str(name, "latin-1"), cells.reshape(shape, order="F").ravel().tolist()
    if not 6 <= kind <= 15:
        raise TypeError("expected cells with numbers in them")
    numbers = np.frombuffer(parts[0][1], order + _NUMBERS[parts[0][0]])
    return str(name, "latin-1"), numbers.reshape(shape, order="F")


def _read_json(path: Path) -> Iterator[tuple[str, Iterable[Any]]]:
    document = json.loads(regular(path).read_text(encoding="utf-8"))
    for name, pieces in (document if isinstance(document, dict) else {"all": document}).items():
        if not isinstance(pieces, list):
            raise DataError(f"{name!r} is no list of pieces.", path=path)
        yield name, pieces


def roll_of(piece: Iterable[Iterable[int]] | NDArray[Any], where: str = "piece") -> Roll:
    """A piano roll ``(T, 88)``, of one or of the MIDI notes of each step; -1 is silence.

    >>> np.argwhere(roll_of([[60, 64], [], [-1, 67]])).tolist()
    [[0, 39], [0, 43], [2, 46]]
    """
    if isinstance(piece, np.ndarray) and piece.ndim == 2:
        if piece.shape[1] != KEYS or not np.isin(piece, (0, 1)).all():
            raise DataError(f"{where}: shape {piece.shape}; expected (T, {KEYS}) of 0 and 1.")
        return piece.astype(np.uint8)
    if not (_is_list(piece) and all(map(_is_list, piece))):
        raise DataError(
            f"{where}: is {piece!r:.40}; expected a list of MIDI numbers for each step."
        )
    steps = [list(step) for step in piece]
    roll = np.zeros((len(steps), KEYS), dtype=np.uint8)
    for t, step in enumerate(steps):
        for note in step:
            if isinstance(note, bool) or not isinstance(note, int | float) or note % 1:
                raise DataError(f"{where}: step {t} has the note {note!r}; expected MIDI numbers.")
            if note != -1 and not LOWEST <= note < LOWEST + KEYS:
                raise DataError(
                    f"{where}: step {t} has the note {note}; a piano has {LOWEST} to "
                    f"{LOWEST + KEYS - 1}."
                )
            if note != -1:
                roll[t, int(note) - LOWEST] = 1
    return roll


def _is_list(some: object) -> bool:
    return isinstance(some, Iterable) and not isinstance(some, str)


def _read_midi(path: Path, steps_per_beat: int) -> list[tuple[str, Roll]]:
    """The notes that sound at each step; drums are left out. Tracks of type 2 are pieces each."""
    mido = require("mido", "midi", "reading MIDI")
    with library_errors(path, "MIDI"):
        file = mido.MidiFile(regular(path), clip=True)
    tracks = {str(path): mido.merge_tracks(file.tracks)}
    if file.type == 2:
        tracks = {f"{path}: track {i}": track for i, track in enumerate(file.tracks, start=1)}
    step = _ticks_per_beat(path, file) / steps_per_beat
    pieces = {name: _in_steps(some, step) for name, track in tracks.items()
              if (some := _notes(track))}  # fmt: skip
    if not pieces:
        raise DataError("holds no notes.", path=path)
    count = sum(_length(notes) for notes in pieces.values())
    if count > MAX_STEPS:
        raise DataError(
            f"has {count:,} steps; expected {MAX_STEPS:,} at most: its times are damaged.",
            path=path,
        )
    return [(name, _roll(notes)) for name, notes in pieces.items()]


def _ticks_per_beat(path: Path, file: Any) -> Fraction:
    """Ticks of a beat; where they divide seconds (SMPTE), of one at the first tempo of the file."""
    division = int(file.ticks_per_beat)
    if division > 0:
        return Fraction(division)
    frames, ticks = -(division >> 8), division & 0xFF
    if not frames or not ticks:
        raise DataError(
            f"has no unit of time: its division is {division}, and should be the ticks of a beat.",
            path=path,
        )
    rate = Fraction(30_000, 1001) if frames == 29 else Fraction(frames)
    messages = (message for track in file.tracks for message in track)
    tempo = next((m.tempo for m in messages if m.type == "set_tempo" and m.tempo), 500_000)
    return rate * ticks * Fraction(int(tempo), 1_000_000)


Note = tuple[int, int, int]
"""Begin, end and key."""


def _notes(track: Iterable[Any]) -> list[Note]:
    """Begin, end and key of each note of a track, in ticks."""
    sounding: list[Note] = []
    started: dict[tuple[int, int], int] = {}
    now = 0
    for message in track:
        now += message.time
        if message.type not in ("note_on", "note_off") or message.channel == 9:
            continue
        voice = (message.channel, message.note)
        if voice in started:
            sounding.append((started.pop(voice), now, message.note))
        if message.type == "note_on" and message.velocity:
            started[voice] = now
    return sounding + [(begin, now, note) for (_, note), begin in started.items()]


def _in_steps(notes: Sequence[Note], step: Fraction) -> list[Note]:
    """Notes in steps from the first, each at least one step long."""
    first = min(begin for begin, _, _ in notes)
    rounded = [(round((b - first) / step), round((e - first) / step), n) for b, e, n in notes]
    return [(begin, max(end, begin + 1), note) for begin, end, note in rounded]


def _length(notes: Sequence[Note]) -> int:
    return max(end for _, end, _ in notes)


def _roll(notes: Sequence[Note]) -> Roll:
    roll = np.zeros((_length(notes), KEYS), dtype=np.uint8)
    for begin, end, note in notes:
        if LOWEST <= note < LOWEST + KEYS:
            roll[begin:end, note - LOWEST] = 1
    return roll


def write_midi(
    roll: Roll, path: str | os.PathLike[str], steps_per_beat: int = 4, tempo: float = 100.0
) -> None:
    """Write a piano roll ``(T, 88)`` as a MIDI file; a key held over steps is one note.

    Args:
        roll: which keys sound.
        path: the file; one that is there already is replaced.
        steps_per_beat: steps that make a beat.
        tempo: beats per minute.
    """
    mido = require("mido", "midi", "writing MIDI")
    ticks, waited = max(1, 480 // steps_per_beat), 0
    file = mido.MidiFile(ticks_per_beat=ticks * steps_per_beat)
    track = mido.MidiTrack()
    file.tracks.append(track)
    track.append(mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(tempo)))
    silence = np.zeros((1, KEYS), dtype=np.int8)
    changes = np.diff(np.concatenate([silence, roll.astype(np.int8), silence]), axis=0)
    for change in changes:
        for key in np.flatnonzero(change):
            kind, note = "note_on" if change[key] > 0 else "note_off", int(key) + LOWEST
            track.append(mido.Message(kind, note=note, velocity=64, time=waited))
            waited = 0
        waited += ticks
    with atomic_file(path) as out:
        file.save(file=out)
