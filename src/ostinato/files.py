"""Files that are whole or not there, one writer of a folder, what is read of strangers; JSON."""

from __future__ import annotations

import errno
import gc
import math
import os
import stat
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

from ostinato.errors import DataError, OstinatoError

if sys.platform != "win32":
    import fcntl


PICTURES = (
    *(".png", ".svg", ".svgz", ".pdf", ".eps", ".ps"),
    *(".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".gif"),
)
"""Suffixes of pictures that can be written."""

RUN_FILE = "run.json"
"""In the folder of a run: its settings, facts about its data, and their checksums."""

PREPARED_FILE = "prepared.json"
"""In a folder of prepared data: what they are."""

PREPARE_REQUEST = Path("work", "request.json")
"""In a folder of data that are being prepared: for which task, and with which settings."""

MIDI = (".mid", ".midi")
"""Suffixes of MIDI files."""

SOUND = (".wav",)
"""Suffixes of sound files that can be written."""

_PATIENCE = 2.0
"""Seconds to wait for readers of a file to be replaced."""

EXPORTS = (".onnx", ".c")
"""Suffixes of exported models."""


def check_new_file(path: str | os.PathLike[str], suffixes: Sequence[str] = ()) -> Path:
    """Return the path of a file to be written; refuse one that cannot be, before any work.

    A file that is there already may be replaced; without ``suffixes`` any suffix will do.
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
    parents = (path, *path.parents)  # of which Windows may have none: a drive that is not there
    home = next((each for each in parents if os.path.lexists(each)), path.parent)
    if reason := _reason_against(home):
        raise OstinatoError(f"{path}: cannot be written: {reason}.")
    return path


def refuse_to_overwrite(path: Path) -> None:
    """Raise an `OstinatoError` unless ``path`` is free for a new run."""
    if path.is_dir() and (path / RUN_FILE).exists():
        raise OstinatoError(
            f"{path}: already holds a run; resume it with --resume (in Python: resume=True), or "
            "choose another folder."
        )
    is_empty = path.is_dir() and not any(path.iterdir())
    if path.exists() and not (is_empty and path.name):  # "." cannot be renamed to
        raise OstinatoError(f"{path}: already exists and is not an empty folder; choose another.")


def is_prepared(path: Path) -> bool:
    """Tell whether a folder holds prepared data."""
    return (path / PREPARED_FILE).is_file()


def any_prepared(paths: Iterable[Path]) -> bool:
    """Tell whether a folder holds prepared data; an `OstinatoError` if one is but half prepared."""
    found = False
    for path in paths:
        if is_prepared(path):
            found = True
        elif (path / PREPARE_REQUEST).is_file():
            raise OstinatoError(
                f"{path}: its data were not prepared to the end; repeat the command that prepares "
                "them, or choose other data."
            )
    return found


def check_there(paths: Iterable[Path]) -> None:
    """Raise a `DataError` unless there are files or folders of such names; - is standard input."""
    for path in paths:
        if str(path) != "-" and not os.path.lexists(path):
            raise DataError("no such file or folder.", path=path)


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
    """
    path = check_new_file(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path, temporary):
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            replace(temporary, path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def replace(source: Path, target: Path) -> None:
    """Rename a file over another, which on Windows has to wait for those who read that one."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            return os.replace(source, target)
        except PermissionError:
            if sys.platform != "win32" or time.monotonic() > end:
                raise
            time.sleep(0.02)


@contextmanager
def writing(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Turn an `OSError` of writing a file or folder into an error that names it and the cause.

    An error at another path passes unchanged; ``temporary`` is the name until the file is whole.
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
def temporary_folder() -> Iterator[Path]:
    """Make a folder, which is removed at the end with all in it."""
    windows = sys.platform == "win32"  # where a file that is mapped cannot be removed
    made = tempfile.TemporaryDirectory(prefix="ostinato-", ignore_cleanup_errors=windows)
    with made as folder:
        try:
            yield Path(folder)
        finally:
            if windows:
                gc.collect()


@contextmanager
def sole_writer(folder: Path, refusal: str = "") -> Iterator[None]:
    """Wait until no other thread or process is in such a block of the same folder.

    Args:
        folder: the folder, which is not changed. Whoever is killed in the block is in it no more.
        refusal: message of an `OstinatoError` to raise instead of waiting.
    """
    if sys.platform == "win32":
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (fcntl.LOCK_NB if refusal else 0))
        except BlockingIOError:
            raise OstinatoError(refusal) from None
        except OSError:
            pass  # some network file systems lock no folder
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


def finite(document: Any) -> Any:
    """Return a JSON document with null for NaN and infinity, which JSON does not have."""
    if isinstance(document, dict):
        return {key: finite(value) for key, value in document.items()}
    if isinstance(document, list | tuple):
        return [finite(value) for value in document]
    return None if isinstance(document, float) and not math.isfinite(document) else document


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a loss of power."""
    if sys.platform == "win32":  # which opens no folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # of some network file systems
            raise
    finally:
        os.close(descriptor)
