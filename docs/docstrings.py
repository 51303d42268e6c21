"""Docstrings as mkdocstrings takes them: an extension of Griffe, which reads the sources."""

from __future__ import annotations

import importlib.util
import inspect
import re
from pathlib import Path
from pydoc import locate
from typing import Any

import griffe

_spec = importlib.util.spec_from_file_location("hooks", Path(__file__).parent / "hooks.py")
assert _spec is not None and _spec.loader is not None
hooks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(hooks)

PATHS = hooks.paths()
MADE = ("RNN", "LSTM", "GRU")
"""Layers whose docstrings are completed when they are imported."""


class Docstrings(griffe.Extension):
    """Turns what docstrings of this package use into sections and links."""

    def on_class_instance(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        """Leave the many settings of an estimator to the table on its page."""
        if any("kw_only=True" in str(each.value) for each in cls.decorators):
            cls.decorators.clear()

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of an object as it is read."""
        if obj.docstring is None:
            return
        text = obj.docstring.value
        if obj.name in MADE and obj.path.startswith("ostinato.recurrence.dropin."):
            text = inspect.getdoc(locate(obj.path)) or ""
        text = re.sub(r"^( *)::\n\n", "", text, flags=re.M)
        text = re.sub(r"^Example:", "Examples:", text, flags=re.M)
        text = re.sub(r"^Attributes, .*:$", "Attributes:", text, flags=re.M)
        obj.docstring.value = re.sub(r"(?<!`)`(\w+)`(?!`)", self._linked, text)

    @staticmethod
    def _linked(name: re.Match[str]) -> str:
        path = PATHS.get(name[1])
        return f"[`{name[1]}`][{path}]" if path else name[0]
