"""Text that may be larger than memory, read as often as it is needed."""

from __future__ import annotations

import codecs
import fnmatch
import os
import shutil
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

from ostinato.errors import DataError, OstinatoError

__all__ = ["TextSource"]

PIECE_BYTES = 1 << 20  # bytes read at a time; at least 3, the length of a byte order mark

_STANDARD_INPUT = "<standard input>"


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
        """A text that is already in memory.

        Raises:
            DataError: it is empty.
        """
        if not isinstance(text, str):
            raise OstinatoError(
                f"TextSource.from_text: text is {type(text).__name__}; expected str."
            )
        source = cls(partial(_string_pieces, text))
        source._refuse_if_empty()
        return source

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
        than once. Files are UTF-8; a byte order mark is dropped; a newline is put between two
        files where the first does not end in one. Empty files add nothing.

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
        files: list[_File | _Spool] = []
        for path in listed:
            files.extend(_open_path(path, pattern))
        source = cls(partial(_file_pieces, files), ", ".join(listed))
        source._refuse_if_empty()
        return source

    def _refuse_if_empty(self) -> None:
        if next(iter(self), None) is None:
            raise DataError(f"{self.name}: the text is empty; give some text to read.")

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
        """The characters from `start` up to, not including, `stop`, as a view.

        What lies before `start` is decoded again at each pass, and what lies after `stop` is never
        read. As with a string, a bound beyond the end means the end, so that a view may be empty.

        Raises:
            OstinatoError: a bound is negative.
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
        joint = "" if last == "\n" else "\n"
        for piece in _decoded(file):
            yield joint + piece
            joint, last = "", piece[-1]


def _decoded(file: _File | _Spool) -> Iterator[str]:
    """The text of one file, strictly UTF-8, cut between characters only."""
    rest, offset, line = b"", 0, 1  # undecoded bytes; where they start in the file
    first = True
    for chunk in file.chunks():
        if first and chunk.startswith(codecs.BOM_UTF8):
            chunk, offset = chunk[len(codecs.BOM_UTF8) :], len(codecs.BOM_UTF8)
        data = rest + chunk
        try:
            text, used = codecs.utf_8_decode(data, "strict", not chunk)
        except UnicodeDecodeError as error:
            raise DataError(
                f"0x{data[error.start]:02X} is not valid UTF-8 ({error.reason}); {_hint(file)}",
                path=file.name,
                line=line + data.count(b"\n", 0, error.start),
                offset=offset + error.start,
            ) from None
        line += data.count(b"\n", 0, used)
        offset, rest, first = offset + used, data[used:], False
        if text:
            yield text


def _hint(file: _File | _Spool) -> str:
    """What to do about a file that is not UTF-8, judged by its first bytes."""
    start = next(file.chunks())[:2]
    if start == b"\x1f\x8b":
        return "it is compressed by gzip: unpack it, or pipe it in through gzip -dc"
    charset = "UTF-16" if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "LATIN1"
    return f"it may be {charset}: re-encode it with iconv -f {charset} -t UTF-8"


class _File:
    """A regular file, which must stay as it is for as long as it is read."""

    def __init__(self, path: Path) -> None:
        self.name = os.fspath(path)
        try:
            with path.open("rb") as stream:
                self._stamp = _stamp(stream)
        except OSError as error:
            raise _unreadable(self.name, error) from error

    def chunks(self) -> Iterator[bytes]:
        """The bytes, in chunks of `PIECE_BYTES`, then b"" for the end."""
        try:
            with open(self.name, "rb") as stream:
                if _stamp(stream) != self._stamp:
                    raise DataError(
                        "has changed since reading began; start again once it is complete.",
                        path=self.name,
                    )
                while chunk := stream.read(PIECE_BYTES):
                    yield chunk
        except OSError as error:
            raise _unreadable(self.name, error) from error
        yield b""


class _Spool:
    """A stream that can be read only once, kept in a temporary file without a name."""

    def __init__(self, name: str, stream: BinaryIO) -> None:
        self.name = name
        self._lock = threading.Lock()  # passes share the position in the file
        try:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the source
            shutil.copyfileobj(stream, self._file, PIECE_BYTES)
            self._file.flush()
        except OSError as error:
            raise DataError(
                f"cannot be copied to a temporary file in {tempfile.gettempdir()}: "
                f"{error.strerror}; set TMPDIR to a folder with room for it.",
                path=name,
            ) from error

    def chunks(self) -> Iterator[bytes]:
        """The bytes, in chunks of `PIECE_BYTES`, then b"" for the end."""
        position, chunk = 0, b"-"
        while chunk:
            with self._lock:
                self._file.seek(position)
                chunk = self._file.read(PIECE_BYTES)
            position += len(chunk)
            yield chunk

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


def _stamp(stream: BinaryIO) -> tuple[int, int]:
    status = os.fstat(stream.fileno())
    return status.st_size, status.st_mtime_ns


def _unreadable(path: str, error: OSError) -> DataError:
    return DataError(f"cannot be read: {error.strerror or error}.", path=path)


def _open_path(path: str | os.PathLike[str], pattern: str) -> list[_File | _Spool]:
    """The files that one path stands for."""
    if path == "-":
        stream = getattr(sys.stdin, "buffer", None)
        if stream is None:
            raise DataError("is closed; pipe some text into it.", path=_STANDARD_INPUT)
        return [_Spool(_STANDARD_INPUT, stream)]
    path = Path(path)
    try:
        mode = path.stat().st_mode
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
                return [_Spool(os.fspath(path), stream)]
    except FileNotFoundError as error:
        raise DataError("no such file or folder.", path=path) from error
    except OSError as error:
        raise _unreadable(os.fspath(error.filename or path), error) from error
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
    above = {**above, identity: folder}
    with os.scandir(folder) as entries:
        visible = sorted(
            (entry for entry in entries if not entry.name.startswith(".")),
            key=lambda entry: entry.name,
        )
    for entry in visible:
        if entry.is_dir():
            yield from _walk(folder / entry.name, pattern, above)
        elif fnmatch.fnmatchcase(entry.name, pattern):
            yield folder / entry.name
