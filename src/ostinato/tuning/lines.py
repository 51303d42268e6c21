"""What a user sees of a search while it runs."""

from __future__ import annotations

import json
import sys
import textwrap
import time
from collections.abc import Mapping
from typing import Any, Literal

from ostinato.files import finite
from ostinato.training.progress import duration

TrialProgress = Literal["auto", "json", "quiet"]
Score = tuple[str, float, str]
"""Name, value and unit."""


def described(settings: Mapping[str, Any]) -> str:
    """Return settings in a line.

    >>> described({"cell": "gru", "dropout": 0.12345})
    'cell gru, dropout 0.123'
    """
    each = settings.items()
    return ", ".join(f"{n} {v:.3g}" if isinstance(v, float) else f"{n} {v}" for n, v in each)


class TrialLines:
    """Prints what became of each trial; on a terminal also a line that moves."""

    def __init__(self, mode: TrialProgress) -> None:
        self._mode = mode
        self._moves = mode == "auto" and sys.stderr.isatty()
        self._name, self._since = "", 0.0

    def started(self, name: str) -> TrialLines:
        """A trial begins, or is continued."""
        self._name, self._since = name, time.monotonic()
        self._move(f"{name:<10} training")
        return self

    def evaluated(self, metric: str, value: float, step: int, total: int | None) -> None:
        """The run of the trial was evaluated."""
        of = f"step {step:,}" + (f" of {total:,}" if total else "")
        took = duration(time.monotonic() - self._since)
        self._move(f"{self._name:<10} {metric} {value:.4g} · {of} · {took}")

    def ended(
        self,
        name: str,
        state: str,
        score: Score | None,
        seconds: float | None,
        settings: Mapping[str, Any],
    ) -> None:
        """A trial has ended."""
        if self._mode == "json":
            found: dict[str, Any] = {"event": "trial", "trial": name.removeprefix("trial ")}
            found |= {"state": state or "complete"}
            found |= {} if score is None else {score[0]: score[1]}
            found |= {"seconds": seconds, "settings": dict(settings)}
            print(json.dumps(finite(found)), flush=True)
            return
        words = [] if score is None else [f"{score[0]} {score[1]:.4g} {score[2]}".rstrip()]
        words += [state] if state else []
        words += [] if seconds is None else [duration(seconds)]
        self.line(f"{name:<10} {' · '.join(words)}")
        if settings:
            self.line(textwrap.indent(textwrap.fill(described(settings), 68), 11 * " "))

    def line(self, text: str) -> None:
        """Print a line."""
        self._move("")
        if self._mode == "auto":
            print(text, flush=True)

    def _move(self, text: str) -> None:
        if self._moves:
            print(f"\r\033[2K{text}", end="", file=sys.stderr, flush=True)
