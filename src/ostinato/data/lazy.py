"""Modules imported when they are first used.

Such as pandas: importing it takes a second, and not all data are tables.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

__all__ = ["Lazy", "pd"]


class Lazy(ModuleType):
    """A module by its name, imported with the first of its attributes."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


if TYPE_CHECKING:
    import pandas as pd
else:
    pd = Lazy("pandas")
