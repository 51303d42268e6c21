"""Files that are whole or not there, one writer of a folder, and what is read of strangers."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from ostinato.errors import OstinatoError

if sys.platform != "win32":
    import fcntl

__all__ = ["atomic_file", "open_file", "sole_writer", "sync_folder", "writing"]


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Write a file that takes the place of ``path`` at the end, whole, or not at all.

    The bytes go to a temporary name in the same folder and are on the disk before the file is
    renamed; the folder is on the disk before this returns. If the block raises, the temporary file
    is removed and what was at ``path`` stays.

    Raises:
        OstinatoError: the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path, temporary):
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Turn an `OSError` of writing a file or folder into an error that names it and the cause.

    Args:
        path: the file or folder; one at another place passes unchanged.
        temporary: what it is called until it is whole.

    Raises:
        OstinatoError: it cannot be written.
    """
    try:
        yield
    except OSError as error:
        at = path if error.filename is None else Path(os.fsdecode(error.filename))
        if temporary is not None and at.is_relative_to(temporary):
            at = path
        if not (at.is_relative_to(path) or path.is_relative_to(at)):
            raise
        raise OstinatoError(f"{at}: cannot be written: {error.strerror or error}.") from error


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Wait until no other thread or process is in such a block of the same folder."""
    if sys.platform == "win32":
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems lock no folder
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        with suppress(OSError):  # a child forked meanwhile has the descriptor, too
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def open_file(path: Path) -> BufferedReader:
    """Open a regular file; an `OSError` at anything else, such as a pipe, which might never end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(None, "is not a regular file", str(path))
    return path.open("rb")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a loss of power."""
    if os.name == "posix":  # elsewhere a folder cannot be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
