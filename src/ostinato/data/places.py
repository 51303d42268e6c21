"""Where something was read, for messages."""

from __future__ import annotations

from typing import NamedTuple

from ostinato.errors import DataError

__all__ = ["Place"]


class Place(NamedTuple):
    """Where something was read."""

    path: str
    line: int | None = None

    def error(self, message: str) -> DataError:
        """An error that begins with the place."""
        return DataError(message, path=self.path, line=self.line)

    def __str__(self) -> str:
        return self.path if self.line is None else f"{self.path}:{self.line}"
