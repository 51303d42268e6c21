"""Recurrent neural networks: fast on a CPU, diagnosed while they train, for every arrangement.

>>> import ostinato
>>> layer = ostinato.LSTM(input_size=8, hidden_size=16)     # drop-in for torch.nn.LSTM

Names are imported when they are first used, so that importing the package is light. Cells and their
states are in `ostinato.cells`, networks in `ostinato.networks`, measurements and plots of what a
network learned in `ostinato.insight`.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ostinato.errors import DataError as DataError
from ostinato.errors import MissingExtra as MissingExtra
from ostinato.errors import OstinatoError as OstinatoError
from ostinato.errors import ShapeError as ShapeError
from ostinato.tasks.registry import TASKS

__version__ = "0.1.0"

_MODULES = ("cells", "insight", "networks")
_HOME = {task.estimator: task.module for task in TASKS} | {
    "compile_cell": "ostinato.recurrence.backends",
    "diagnose": "ostinato.insight.diagnosis",
    "export": "ostinato.deploy.export",
    "convert": "ostinato.deploy.convert",
    "to_torch": "ostinato.deploy.convert",
    "as_estimator": "ostinato.deploy.imported",
    "read_layers": "ostinato.deploy.read",
    "use_backend": "ostinato.recurrence.backends",
    "GRU": "ostinato.recurrence.dropin",
    "LSTM": "ostinato.recurrence.dropin",
    "RNN": "ostinato.recurrence.dropin",
    "Recurrent": "ostinato.recurrence.layers",
    "backend": "ostinato.recurrence.layers",
    "Stream": "ostinato.recurrence.streams",
    "describe": "ostinato.training.runs",
    "tune": "ostinato.tuning.study",
    "watch": "ostinato.training.watch",
}

if TYPE_CHECKING:
    from ostinato import cells as cells
    from ostinato import insight as insight
    from ostinato import networks as networks
    from ostinato.deploy.convert import convert as convert
    from ostinato.deploy.convert import to_torch as to_torch
    from ostinato.deploy.export import export as export
    from ostinato.deploy.imported import as_estimator as as_estimator
    from ostinato.deploy.read import read_layers as read_layers
    from ostinato.insight.diagnosis import diagnose as diagnose
    from ostinato.recurrence.backends import compile_cell as compile_cell
    from ostinato.recurrence.backends import use_backend as use_backend
    from ostinato.recurrence.dropin import GRU as GRU
    from ostinato.recurrence.dropin import LSTM as LSTM
    from ostinato.recurrence.dropin import RNN as RNN
    from ostinato.recurrence.layers import Recurrent as Recurrent
    from ostinato.recurrence.layers import backend as backend
    from ostinato.recurrence.streams import Stream as Stream
    from ostinato.tasks.registry import *  # noqa: F403 estimators
    from ostinato.training.runs import describe as describe
    from ostinato.training.watch import watch as watch
    from ostinato.tuning.study import tune as tune
else:  # type checkers would take any name for one of ours
    __all__ = ["DataError", "MissingExtra", "OstinatoError", "ShapeError", "load"]
    __all__ += [*_HOME, *_MODULES]

    def __getattr__(name: str) -> Any:
        return _imported(name)

    def __dir__() -> list[str]:
        return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})


def load(folder: str | os.PathLike[str], device: str = "auto") -> Any:
    """Load the model in a folder, of any task.

    Args:
        folder: written by training or by ``save``.
        device: auto (CUDA where there is one), cpu, cuda.

    Raises:
        OstinatoError: if there is no finished model, or it is damaged.
    """
    storage = importlib.import_module("ostinato.training.storage")
    name = storage.read_config(Path(folder))["task"]
    if name not in [task.estimator for task in TASKS]:
        raise OstinatoError(f"{folder}: expected a model of a known task, got {name:.40}.")
    return _imported(name).load(folder, device)


def _imported(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"ostinato.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'ostinato' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
