"""Recurrent neural networks: fast on a CPU, honest about what ails them, for every arrangement.

>>> import ostinato
>>> layer = ostinato.LSTM(input_size=8, hidden_size=16)     # drop-in for torch.nn.LSTM

Names are imported when they are first used, so that importing the package is light.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ostinato.errors import DataError, MissingExtra, OstinatoError, ShapeError
    from ostinato.recurrence.cells import (
        Cell,
        GRUCell,
        GRUState,
        LSTMCell,
        LSTMState,
        RNNCell,
        RNNState,
    )
    from ostinato.recurrence.kernels import use_backend
    from ostinato.recurrence.layers import GRU, LSTM, RNN, Recurrent, backend
    from ostinato.recurrence.networks import ManyToMany, Output
    from ostinato.recurrence.scan import scan
    from ostinato.recurrence.streams import Stream
    from ostinato.tasks.generation import TextGenerator
    from ostinato.training.runs import describe

__version__ = version("ostinato")

_HOME = {
    "errors": ["DataError", "MissingExtra", "OstinatoError", "ShapeError"],
    "recurrence.cells": [
        *["Cell", "RNNCell", "LSTMCell", "GRUCell", "RNNState", "LSTMState", "GRUState"],
    ],
    "recurrence.kernels": ["use_backend"],
    "recurrence.layers": ["RNN", "LSTM", "GRU", "Recurrent", "backend"],
    "recurrence.networks": ["ManyToMany", "Output"],
    "recurrence.scan": ["scan"],
    "recurrence.streams": ["Stream"],
    "tasks.generation": ["TextGenerator"],
    "training.runs": ["describe"],
}
_MODULE_OF = {name: f"ostinato.{module}" for module, names in _HOME.items() for name in names}

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Cell",
    "DataError",
    "GRUCell",
    "GRUState",
    "LSTMCell",
    "LSTMState",
    "ManyToMany",
    "MissingExtra",
    "OstinatoError",
    "Output",
    "RNNCell",
    "RNNState",
    "Recurrent",
    "ShapeError",
    "Stream",
    "TextGenerator",
    "backend",
    "describe",
    "scan",
    "use_backend",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'ostinato' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
