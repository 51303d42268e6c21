"""Pieces of music as piano rolls: which of the 88 keys sound at each step."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ostinato.errors import DataError, require
from ostinato.files import atomic_file

KEYS = 88
LOWEST = 21  # MIDI's number of the lowest key
PARTS = {
    "train": "training", "training": "training", "valid": "validation", "validation": "validation",
    "dev": "validation", "test": "test",
}  # fmt: skip
"""The part that a name stands for, without "data" at its end."""

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
    if kind == ".mat":
        parts = _read_matlab(path)
    elif kind == ".json":
        parts = _read_json(path)
    else:
        raise DataError("expected .mat, .json, .mid, or a folder of .mid.", path=path)
    for name, pieces in parts.items():
        for i, piece in enumerate(pieces):
            where = f"{path}: {name}[{i}]"
            yield name, where, roll_of(piece, where)


def _read_matlab(path: Path) -> dict[str, Iterable[Any]]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        variables = loadmat(path)
    except (MatReadError, ValueError, OSError, NotImplementedError, TypeError) as error:
        raise DataError(f"is no MATLAB file (version 7 or before): {error}", path=path) from None
    return {
        name: np.asarray(cells, dtype=object).ravel()
        for name, cells in variables.items()
        if not name.startswith("__")
    }


def _read_json(path: Path) -> dict[str, Iterable[Any]]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise DataError(f"is not JSON: {error}", path=path) from None
    parts = document if isinstance(document, dict) else {"all": document}
    for name, pieces in parts.items():
        if not isinstance(pieces, list):
            raise DataError(f"{name!r} is no list of pieces.", path=path)
    return parts


def roll_of(piece: Iterable[Iterable[int]] | NDArray[Any], where: str = "piece") -> Roll:
    """A piano roll ``(T, 88)``, of one or of the MIDI notes of each step; -1 is silence.

    >>> np.argwhere(roll_of([[60, 64], [], [-1, 67]])).tolist()
    [[0, 39], [0, 43], [2, 46]]
    """
    if isinstance(piece, np.ndarray) and piece.ndim == 2:
        if piece.shape[1] != KEYS or not np.isin(piece, (0, 1)).all():
            raise DataError(f"{where}: shape {piece.shape}; expected (T, {KEYS}) of 0 and 1.")
        return piece.astype(np.uint8)
    steps = [list(step) for step in piece]
    roll = np.zeros((len(steps), KEYS), dtype=np.uint8)
    for t, step in enumerate(steps):
        for note in step:
            if isinstance(note, bool) or not isinstance(note, int | float) or note != int(note):
                raise DataError(f"{where}: step {t} has the note {note!r}; expected MIDI numbers.")
            if note != -1 and not LOWEST <= note < LOWEST + KEYS:
                raise DataError(
                    f"{where}: step {t} has the note {note}; a piano has {LOWEST} to "
                    f"{LOWEST + KEYS - 1}."
                )
            if note != -1:
                roll[t, int(note) - LOWEST] = 1
    return roll


def _read_midi(path: Path, steps_per_beat: int) -> list[tuple[str, Roll]]:
    """The notes that sound at each step; drums are left out. Tracks of type 2 are pieces each."""
    mido = require("mido", "midi", "reading MIDI")
    try:
        file = mido.MidiFile(path, clip=True)
    except (OSError, EOFError, ValueError, KeyError, IndexError) as error:
        raise DataError(f"is no MIDI file: {error or type(error).__name__}", path=path) from None
    tracks = {str(path): mido.merge_tracks(file.tracks)}
    if file.type == 2:
        tracks = {f"{path}: track {i}": track for i, track in enumerate(file.tracks, start=1)}
    step = _ticks_per_beat(path, file) / steps_per_beat
    pieces = [
        (name, _roll(some, step)) for name, track in tracks.items() if (some := _notes(track))
    ]
    if not pieces:
        raise DataError("holds no notes.", path=path)
    return pieces


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
    tempo = next((m.tempo for m in messages if m.type == "set_tempo"), 500_000)
    return rate * ticks * Fraction(int(tempo), 1_000_000)


def _notes(track: Iterable[Any]) -> list[tuple[int, int, int]]:
    """Begin, end and key of each note of a track, in ticks."""
    sounding: list[tuple[int, int, int]] = []
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


def _roll(notes: Sequence[tuple[int, int, int]], step: Fraction) -> Roll:
    first = min(begin for begin, _, _ in notes)
    ends = [(round((b - first) / step), round((e - first) / step), n) for b, e, n in notes]
    roll = np.zeros((max(max(e, b + 1) for b, e, _ in ends), KEYS), dtype=np.uint8)
    for begin, end, note in ends:
        if LOWEST <= note < LOWEST + KEYS:
            roll[begin : max(end, begin + 1), note - LOWEST] = 1
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
