"""What the writers of exported models share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

Precision = Literal["float32", "float16", "int8"]
"""Type of the numbers of an exported model; with int8, of its weights."""

ImportTask = Literal["classify", "regress", "tag"]
"""Tasks that an imported network may have."""


class Exported(NamedTuple):
    """What was exported.

    Attributes:
        files: the files that were written.
        summary: lines to print: what is in them, and how close their results are to the model's.
        facts: the same by name, as JSON can hold it.
    """

    files: Sequence[Path]
    summary: str
    facts: dict[str, Any]
