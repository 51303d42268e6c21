"""Files that are whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ostinato.errors import OstinatoError

__all__ = ["atomic_file", "sync_folder"]


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
    try:
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        own = (str(temporary), str(path.parent))
        if error.filename is not None and str(error.filename) not in own:
            raise  # the block's own trouble with another file
        raise OstinatoError(f"{path}: cannot be written: {error.strerror or error}.") from error


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a loss of power."""
    if os.name == "posix":  # elsewhere a folder cannot be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
