"""Files that are whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ostinato.errors import OstinatoError

__all__ = [
    "MIDI",
    "PICTURES",
    "atomic_file",
    "check_new_file",
    "check_new_folder",
    "sync_folder",
    "writing",
]

PICTURES = (
    *(".png", ".svg", ".svgz", ".pdf", ".eps", ".ps"),
    *(".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".gif"),
)
"""Suffixes of pictures that can be written."""

MIDI = (".mid", ".midi")
"""Suffixes of MIDI files."""


def check_new_file(path: str | os.PathLike[str], suffixes: Sequence[str] = ()) -> Path:
    """Return the path of a file to be written; refuse one that cannot be, before any work.

    Args:
        path: the file; one that is there already may be replaced.
        suffixes: suffixes that are known; any, if none.

    Raises:
        OstinatoError: another suffix; no folder to write into; a folder, or a device, of that name.
    """
    path = Path(path)
    reason = _reason_against(path.parent)
    if suffixes and path.suffix.lower() not in suffixes:
        reason = f"expected a name that ends in {', '.join(suffixes)}"
    elif path.exists() and not path.is_file():
        reason = f"{'is a folder' if path.is_dir() else 'is no regular file'}; expected a file"
    if reason:
        raise OstinatoError(f"{path}: cannot be written: {reason}.")
    return path


def check_new_folder(path: Path) -> Path:
    """Return a folder to be written into, now or once it is made; refuse as `check_new_file`."""
    home = next(each for each in (path, *path.parents) if os.path.lexists(each))
    if reason := _reason_against(home):
        raise OstinatoError(f"{path}: cannot be written: {reason}.")
    return path


def _reason_against(folder: Path) -> str:
    """Return why nothing can be written into a folder; empty if something can."""
    if not folder.is_dir():
        return f"{folder} is no folder" if os.path.lexists(folder) else f"there is no {folder}"
    return "" if os.access(folder, os.W_OK | os.X_OK) else f"{folder} is not writable"


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Write a file that takes the place of ``path`` at the end, whole, or not at all.

    The bytes go to a temporary name in the same folder and are on the disk before the file is
    renamed; the folder is on the disk before this returns. If the block raises, the temporary file
    is removed and what was at ``path`` stays.

    Raises:
        OstinatoError: the file cannot be written.
    """
    path = check_new_file(path)
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
def writing(path: Path, *own: Path) -> Iterator[None]:
    """Turn an `OSError` of writing a file or folder, which may name none, into one that names it.

    One that names another file than these, or those in the folder, is raised as it is.
    """
    try:
        yield
    except OSError as error:
        where = path if error.filename is None else Path(str(error.filename))
        if where not in (path, *own, *path.parents) and path not in where.parents:
            raise
        raise OstinatoError(f"{path}: cannot be written: {error.strerror or error}.") from error


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a loss of power."""
    if os.name == "posix":  # elsewhere a folder cannot be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
