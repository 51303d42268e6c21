"""Text that may be larger than memory, read as often as it is needed."""

from __future__ import annotations

import fnmatch
import io
import os
import shutil
import stat
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

from ostinato.data.textfiles import decode, library_errors, unpacked
from ostinato.errors import DataError, OstinatoError

PIECE_BYTES = 1 << 20  # bytes read at a time; at least 3, the length of a byte order mark

_STANDARD_INPUT = Path("<standard input>")


class TextSource:
    r"""A text, iterable as often as you like, in pieces of about 1 MiB and in constant memory.

    The text is given exactly as it is stored: no newline is translated, nothing is normalised.
    The pieces are not lines, and where they are cut means nothing; only their concatenation does.

    Args:
        read: begins a new pass over the text each time it is called.
        name: what to call the text in messages.

    >>> source = TextSource.from_text("to be or not to be")
    >>> "".join(source)
    'to be or not to be'
    >>> source.characters()
    18
    >>> "".join(source.slice(6, 12))
    'or not'
    """

    def __init__(self, read: Callable[[], Iterator[str]], name: str = "text") -> None:
        self._read = read
        self._characters: int | None = None
        self.name = name

    @classmethod
    def from_text(cls, text: str) -> TextSource:
        """A text that is already in memory; a `DataError` if it is empty."""
        if not isinstance(text, str):
            raise OstinatoError(
                f"TextSource.from_text: text is {type(text).__name__}; expected str."
            )
        return cls(partial(_string_pieces, text))._not_empty()

    @classmethod
    def from_paths(
        cls,
        paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        pattern: str = "*.txt",
    ) -> TextSource:
        r"""The text of files, one after the other, in the order given.

        A folder stands for all files below it, links followed, whose names match `pattern` and
        do not start with a dot, sorted by path. ``"-"`` is standard input, which, like a named
        pipe, is first copied to a temporary file (under ``$TMPDIR``), since it must be read more
        than once. Files are UTF-8, or UTF-16 with a byte order mark, which is dropped, and may be
        compressed (.gz, .bz2, .xz, .zip, .zst). A newline is put between two files where the first
        does not end in one. Empty files add nothing.

        Args:
            paths: one path or several.
            pattern: shell pattern for the names of the files in a folder.

        Raises:
            DataError: a path is missing or cannot be read, no file in a folder matches, a folder
                contains itself through a link, or there is no text at all. While iterating: a
                file is not UTF-8 (the message has its exact byte), or has changed since.

        >>> import pathlib, tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "b.txt").write_text("last")
        >>> _ = (folder / "a.txt").write_text("first")
        >>> list(TextSource.from_paths(folder))
        ['first', '\nlast']
        """
        if "/" in pattern:
            raise OstinatoError(
                f"TextSource.from_paths(pattern={pattern!r}): the pattern is matched against the "
                "names of files; give the sub-folder as a path instead."
            )
        given = [paths] if isinstance(paths, str | os.PathLike) else paths
        listed = [os.fspath(path) for path in given]
        if not listed:
            raise DataError("TextSource.from_paths: no path was given; give at least one.")
        if listed.count("-") > 1:
            raise DataError("'-' is given twice; standard input can be read only once.")
        files = [file for path in listed for file in _open_path(path, pattern)]
        return cls(partial(_file_pieces, files), ", ".join(listed))._not_empty()

    def _not_empty(self) -> TextSource:
        if next(iter(self), None) is None:
            raise DataError(f"{self.name}: the text is empty; give some text to read.")
        return self

    def __iter__(self) -> Iterator[str]:
        """Begin a new pass: non-empty pieces whose concatenation is the text."""
        return self._read()

    def __repr__(self) -> str:
        return f"TextSource({self.name})"

    def characters(self) -> int:
        """Number of characters (code points). The first call reads the whole text."""
        if self._characters is None:
            self._characters = sum(map(len, self))
        return self._characters

    def slice(self, start: int, stop: int | None = None) -> TextSource:
        """The characters from `start`, 0 or more, up to, not including, `stop`, as a view.

        What lies before `start` is decoded again at each pass, and what lies after `stop` is never
        read. As with a string, a bound beyond the end means the end, so that a view may be empty.
        """
        if start < 0 or (stop is not None and stop < 0):
            raise OstinatoError(
                f"TextSource.slice({start}, {stop}): bounds are counted from the start of the "
                "text and cannot be negative; subtract from characters()."
            )
        ends = "" if stop is None else stop
        return TextSource(partial(_cut, self, start, stop), f"{self.name}[{start}:{ends}]")

    def head(self, n_characters: int) -> TextSource:
        """The first `n_characters` characters, as a view: ``slice(0, n_characters)``."""
        return self.slice(0, n_characters)


def read_text(text: str | os.PathLike[str]) -> str:
    """Return a text, or the whole text of a file; see `TextSource.from_paths`."""
    return text if isinstance(text, str) else "".join(TextSource.from_paths(text))


def _string_pieces(text: str) -> Iterator[str]:
    for start in range(0, len(text), PIECE_BYTES):
        yield text[start : start + PIECE_BYTES]


def _cut(source: TextSource, start: int, stop: int | None) -> Iterator[str]:
    if stop is not None and stop <= start:
        return
    position = 0  # of the piece's first character
    for piece in source:
        part = piece[max(start - position, 0) : None if stop is None else stop - position]
        position += len(piece)
        if part:
            yield part
        if stop is not None and position >= stop:
            return


def _file_pieces(files: Iterable[_File | _Spool]) -> Iterator[str]:
    last = "\n"
    for file in files:
        path, joint = file.path, "" if last == "\n" else "\n"
        with library_errors(path), file.open() as stream, unpacked(stream, path) as content:
            for piece in decode(content, PIECE_BYTES, path):
                yield joint + piece
                joint, last = "", piece[-1]


class _File:
    """A regular file, which must stay as it is for as long as it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with library_errors(path), path.open("rb"):
            self._status = path.stat()

    def open(self) -> io.BufferedReader:
        """Open the file."""
        now, then = self.path.stat(), self._status
        if (now.st_size, now.st_mtime_ns) != (then.st_size, then.st_mtime_ns):
            raise DataError(
                "has changed since reading began; start again once it is complete.", path=self.path
            )
        return self.path.open("rb")


class _Spool:
    """A stream that can be read only once, kept in a temporary file without a name."""

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self.path = path
        try:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the source
            self._reading = threading.Lock()
            weakref.finalize(self, self._file.close)
            shutil.copyfileobj(stream, self._file, PIECE_BYTES)
            self._file.flush()
        except OSError as error:
            raise DataError(
                f"cannot be copied to a temporary file in {tempfile.gettempdir()}: "
                f"{error.strerror}; set TMPDIR to a folder with room for it.",
                path=path,
            ) from error

    def open(self) -> io.BufferedReader:
        """Open what the stream held."""
        return io.BufferedReader(_OwnPosition(self._file, self._reading))


class _OwnPosition(io.RawIOBase):
    """An open file, read from its beginning at its own position; not all have pread."""

    def __init__(self, file: BinaryIO, reading: threading.Lock) -> None:
        self._file, self._reading, self._at = file, reading, 0

    def fileno(self) -> int:
        return self._file.fileno()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        with self._reading:
            self._file.seek(self._at)
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _open_path(path: str | os.PathLike[str], pattern: str) -> list[_File | _Spool]:
    if path == "-":
        stream = getattr(sys.stdin, "buffer", None)
        if stream is None:
            raise DataError("is closed; pipe some text into it.", path=_STANDARD_INPUT)
        return [_Spool(_STANDARD_INPUT, stream)]
    path = Path(path)
    with library_errors(path):
        try:
            mode = path.stat().st_mode
        except FileNotFoundError as error:
            raise DataError("no such file or folder.", path=path) from error
        if stat.S_ISDIR(mode):
            found = list(_walk(path, pattern, {}))
            if not found:
                raise DataError(
                    f"no file below this folder matches {pattern!r}; give another pattern.",
                    path=path,
                )
            return [_File(file) for file in found]
        if stat.S_ISFIFO(mode):
            with path.open("rb") as stream:
                return [_Spool(path, stream)]
    if not stat.S_ISREG(mode):
        raise DataError("is neither a file nor a folder.", path=path)
    return [_File(path)]


def _walk(folder: Path, pattern: str, above: dict[tuple[int, int], Path]) -> Iterator[Path]:
    """Matching files below a folder, links followed; `above` holds the folders it lies in."""
    status = folder.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        raise DataError(
            f"is a link back to {above[identity]}, a folder it lies in; remove the link.",
            path=folder,
        )
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(entry, pattern, {**above, identity: folder})
        elif fnmatch.fnmatchcase(entry.name, pattern):
            yield entry
