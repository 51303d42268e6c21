"""A process that dies in the middle of writing, as the tests of storage want it: at the k-th call.

From that call on nothing more reaches the disk, whatever a `finally` tries, as when the process is
killed. When the power fails instead, files not yet synced are found empty besides.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ostinato.training import storage

CALLS = ("mkdir", "rename", "replace", "rmdir", "unlink", "fsync")


class Killed(BaseException):
    """No `except` for errors may catch it."""


class Disk:
    """Counts the calls that change the disk; makes none from call ``die_at`` (from 1) on."""

    def __init__(self, die_at: int | None = None) -> None:
        self.die_at = die_at
        self.calls: list[str] = []
        self.unsynced: set[int] = set()

    def call(self, name: str) -> None:
        self.calls.append(name)
        if self.die_at is not None and len(self.calls) >= self.die_at:
            raise Killed(f"at call {len(self.calls)}, {name}")

    @contextmanager
    def watched(self) -> Iterator["Disk"]:
        """While it lasts, the calls of `os` and the files that `storage` writes go through here."""
        with pytest.MonkeyPatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, self._through(name, getattr(os, name)))
            patch.setattr(storage, "open", self._open, raising=False)
            yield self

    def _through(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def replacement(*args: Any, **kwargs: Any) -> Any:
            self.call(name)
            if name != "fsync":
                return real(*args, **kwargs)
            # What is synced is remembered; the disk itself is spared.
            self.unsynced.discard(os.fstat(args[0]).st_ino)

        return replacement

    def _open(self, path: Path, mode: str) -> "_File":
        self.call("open")
        return _File(self, path, mode)

    def fail_power(self, folder: Path) -> None:
        """Empty every file below ``folder`` that was written and not synced."""
        for path in folder.rglob("*"):
            if path.is_file() and path.stat().st_ino in self.unsynced:
                os.truncate(path, 0)


class _File:
    def __init__(self, disk: Disk, path: Path, mode: str) -> None:
        self.disk = disk
        self.real = open(path, mode, buffering=0)  # noqa: SIM115
        self.flush, self.fileno = self.real.flush, self.real.fileno

    def write(self, data: bytes) -> None:
        self.disk.unsynced.add(os.fstat(self.real.fileno()).st_ino)
        self.real.write(data[: len(data) // 2])
        self.disk.call("write")
        self.real.write(data[len(data) // 2 :])

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *_: object) -> None:
        self.real.close()


def calls_of(write: Callable[[], object]) -> list[str]:
    """The calls that ``write`` makes when it is let live."""
    with Disk().watched() as disk:
        write()
    return disk.calls


quickly = calls_of
"""The same, for what a test prepares: the disk is spared the syncing."""


def die_at(call: int, write: Callable[[], object]) -> Disk:
    """Let ``write`` die at a call."""
    with Disk(call).watched() as disk, pytest.raises(Killed):
        write()
    return disk
