"""Recurrent neural networks: fast on a CPU, honest about what ails them, for every arrangement.

>>> import ostinato
>>> layer = ostinato.LSTM(input_size=8, hidden_size=16)     # drop-in for torch.nn.LSTM

Names are imported when they are first used, so that importing the package is light.
"""

from __future__ import annotations

import importlib
import os
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ostinato import insight as insight
    from ostinato.errors import DataError, MissingExtra, OstinatoError, ShapeError
    from ostinato.insight.diagnosis import diagnose
    from ostinato.insight.flow import gradient_flow
    from ostinato.networks.arrangements import ManyToMany, ManyToOne, OneToOne
    from ostinato.networks.outputs import CRFOutput, Output
    from ostinato.recurrence.backends import use_backend
    from ostinato.recurrence.cells import (
        Cell,
        CoupledLSTMCell,
        GRUCell,
        GRUState,
        HigherOrderCell,
        IndRNNCell,
        JordanCell,
        LayerNormGRUCell,
        LayerNormLSTMCell,
        LSTMCell,
        LSTMState,
        MGUCell,
        MinGRUCell,
        MinLSTMCell,
        PeepholeLSTMCell,
        RNNCell,
        RNNState,
        ZoneoutCell,
    )
    from ostinato.recurrence.dropin import GRU, LSTM, RNN
    from ostinato.recurrence.layers import Recurrent, backend
    from ostinato.recurrence.scan import scan
    from ostinato.recurrence.streams import Stream
    from ostinato.tasks.captioning import Captioner
    from ostinato.tasks.generation import TextGenerator
    from ostinato.tasks.many_to_one import SequenceClassifier, SequenceRegressor
    from ostinato.tasks.music import MusicModel
    from ostinato.tasks.summarization import Summarizer
    from ostinato.tasks.tagging import SequenceTagger
    from ostinato.tasks.transcription import Transcriber
    from ostinato.tasks.translation import Translator
    from ostinato.training.runs import describe

__version__ = version("ostinato")

_HOME = {
    "errors": ["DataError", "MissingExtra", "OstinatoError", "ShapeError"],
    "recurrence.cells": [
        *["Cell", "RNNCell", "LSTMCell", "GRUCell", "RNNState", "LSTMState", "GRUState"],
        *["PeepholeLSTMCell", "CoupledLSTMCell", "LayerNormLSTMCell", "LayerNormGRUCell"],
        *["MGUCell", "HigherOrderCell", "JordanCell", "IndRNNCell", "MinGRUCell", "MinLSTMCell"],
        "ZoneoutCell",
    ],
    "insight.diagnosis": ["diagnose"],
    "insight.flow": ["gradient_flow"],
    "recurrence.backends": ["use_backend"],
    "recurrence.dropin": ["GRU", "LSTM", "RNN"],
    "recurrence.layers": ["Recurrent", "backend"],
    "networks.arrangements": ["ManyToMany", "ManyToOne", "OneToOne"],
    "networks.outputs": ["CRFOutput", "Output"],
    "recurrence.scan": ["scan"],
    "recurrence.streams": ["Stream"],
    "tasks.captioning": ["Captioner"],
    "tasks.forecasting.forecaster": ["Forecaster"],
    "tasks.generation": ["TextGenerator"],
    "tasks.many_to_one": ["SequenceClassifier", "SequenceRegressor"],
    "tasks.music": ["MusicModel"],
    "tasks.summarization": ["Summarizer"],
    "tasks.tagging": ["SequenceTagger"],
    "tasks.transcription": ["Transcriber"],
    "tasks.translation": ["Translator"],
    "training.runs": ["describe"],
}
_MODULE_OF = {name: f"ostinato.{module}" for module, names in _HOME.items() for name in names}

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "CRFOutput",
    "Captioner",
    "Cell",
    "CoupledLSTMCell",
    "DataError",
    "Forecaster",
    "GRUCell",
    "GRUState",
    "HigherOrderCell",
    "IndRNNCell",
    "JordanCell",
    "LSTMCell",
    "LSTMState",
    "LayerNormGRUCell",
    "LayerNormLSTMCell",
    "MGUCell",
    "ManyToMany",
    "ManyToOne",
    "MinGRUCell",
    "MinLSTMCell",
    "MissingExtra",
    "MusicModel",
    "OneToOne",
    "OstinatoError",
    "Output",
    "PeepholeLSTMCell",
    "RNNCell",
    "RNNState",
    "Recurrent",
    "SequenceClassifier",
    "SequenceRegressor",
    "SequenceTagger",
    "ShapeError",
    "Stream",
    "Summarizer",
    "TextGenerator",
    "Transcriber",
    "Translator",
    "ZoneoutCell",
    "backend",
    "describe",
    "diagnose",
    "gradient_flow",
    "load",
    "scan",
    "use_backend",
]


def load(folder: str | os.PathLike[str], device: str = "auto") -> Any:
    """The model in a folder, of whatever task it is.

    Raises:
        OstinatoError: if there is none, or it is damaged.
    """
    task = __getattr__("describe")(folder)["task"]
    if task not in _MODULE_OF:
        raise __getattr__("OstinatoError")(f"{folder}: holds {task}, no model that can be loaded.")
    return __getattr__(task).load(folder, device)


def __getattr__(name: str) -> Any:
    if name == "insight":
        return importlib.import_module("ostinato.insight")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'ostinato' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
