"""Errors that the caller can correct.

Every message names the call, what was expected, what was given, and what to do. The command line
prints it as one line and exits with status 2; anything else that escapes is a defect of ours.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Collection, Hashable
from types import ModuleType

__all__ = ["DataError", "MissingExtra", "OstinatoError", "ShapeError"]


class OstinatoError(ValueError):
    """A mistake that the caller can correct: a shape, an option, a file. Base of all the others."""


class DataError(OstinatoError):
    """Input data that cannot be used.

    Args:
        message: the problem of the data, and what to do about it.
        path: the file (or a name such as ``<standard input>``) of the data.
        line: the line in it, from 1.
        offset: the byte in it, from 0.

    Whatever is known of the place opens the message and stays readable as an attribute:

    >>> error = DataError("0xE9 is not valid UTF-8", path="a.txt", line=3, offset=41)
    >>> print(error)
    a.txt: line 3, byte 41: 0xE9 is not valid UTF-8
    >>> error.offset
    41
    """

    def __init__(
        self,
        message: str,
        *,
        path: str | os.PathLike[str] | None = None,
        line: int | None = None,
        offset: int | None = None,
    ) -> None:
        self.path = None if path is None else os.fspath(path)
        self.line = line
        self.offset = offset
        numbers = {"line": line, "byte": offset}
        place = ", ".join(f"{unit} {n}" for unit, n in numbers.items() if n is not None)
        super().__init__(": ".join(part for part in (self.path, place, message) if part))


class ShapeError(OstinatoError, RuntimeError):
    """A tensor of the wrong shape or type; a `RuntimeError` too, since PyTorch raises that."""


class MissingExtra(OstinatoError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""


def check_choice(argument: str, value: object, choices: Collection[str]) -> None:
    """Raise an `OstinatoError` that names the argument, unless its value is one of the choices."""
    if not isinstance(value, Hashable) or value not in choices:
        raise OstinatoError(f"{argument}={value!r:.99}; expected one of {', '.join(choices)}.")


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import a module that only an extra of Ostinato brings.

    Args:
        module: name of the module, dotted or not.
        extra: the extra of Ostinato that installs it.
        purpose: what needs it, as the subject of a sentence.

    Raises:
        MissingExtra: it, or something that it needs, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # The missing module may be a dependency of this one.
        raise MissingExtra(
            f"{purpose} needs {error.name}: pip install 'ostinato[{extra}]'"
        ) from error
