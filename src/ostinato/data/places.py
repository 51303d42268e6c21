"""Where something was read, for messages."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ostinato.errors import DataError


class Place(NamedTuple):
    """Where something was read."""

    path: str
    line: int | None = None

    def error(self, message: str) -> DataError:
        """An error that begins with the place."""
        return DataError(message, path=self.path, line=self.line)

    def __str__(self) -> str:
        return self.path if self.line is None else f"{self.path}:{self.line}"


def paths_of(X: object) -> list[Path]:
    """Return one path, or several, as a list; an empty list for data in memory.

    >>> paths_of([Path("a.csv")]) == paths_of(Path("a.csv")), paths_of(["a.csv"])
    (True, [])
    """
    paths: Sequence[Any] = X if isinstance(X, list | tuple) else [X]
    return [Path(p) for p in paths] if all(isinstance(p, os.PathLike) for p in paths) else []
