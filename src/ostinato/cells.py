"""Recurrent cells, their states, and `scan`, which runs any cell over a sequence.

>>> from ostinato.cells import LSTMCell, LSTMState
>>> LSTMCell(input_size=8, hidden_size=16)
LSTMCell(input_size=8, hidden_size=16, bias=True, proj_size=0)
"""

from ostinato.recurrence.cells import (
    Cell,
    CoupledLSTMCell,
    GRUCell,
    GRUState,
    HigherOrderCell,
    HigherOrderState,
    IndRNNCell,
    JordanCell,
    JordanState,
    LayerNormGRUCell,
    LayerNormLSTMCell,
    LinearCell,
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
from ostinato.recurrence.scan import scan

__all__ = [
    "Cell",
    "CoupledLSTMCell",
    "GRUCell",
    "GRUState",
    "HigherOrderCell",
    "HigherOrderState",
    "IndRNNCell",
    "JordanCell",
    "JordanState",
    "LSTMCell",
    "LSTMState",
    "LayerNormGRUCell",
    "LayerNormLSTMCell",
    "LinearCell",
    "MGUCell",
    "MinGRUCell",
    "MinLSTMCell",
    "PeepholeLSTMCell",
    "RNNCell",
    "RNNState",
    "ZoneoutCell",
    "scan",
]
