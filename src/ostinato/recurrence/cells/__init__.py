"""Recurrent cells and their states, in plain PyTorch: the reference all else must equal.

Letters: ``T`` time, ``B`` batch, ``I`` input features, ``H`` hidden features.
"""

from ostinato.recurrence.cells.base import (
    Cell,
    CellName,
    State,
    Tensors,
    Trace,
    Weights,
    cell_named,
    named,
    register_state,
)
from ostinato.recurrence.cells.initialization import Initialization
from ostinato.recurrence.cells.standard import (
    ACTIVATIONS,
    Activation,
    GRUCell,
    GRUGates,
    GRUState,
    LSTMCell,
    LSTMGates,
    LSTMState,
    RNNCell,
    RNNState,
)
from ostinato.recurrence.cells.variants import (
    CoupledLSTMCell,
    HigherOrderCell,
    HigherOrderState,
    IndRNNCell,
    JordanCell,
    JordanState,
    LayerNormGRUCell,
    LayerNormLSTMCell,
    LinearCell,
    MGUCell,
    MinGRUCell,
    MinGRUGates,
    MinLSTMCell,
    MinLSTMGates,
    PeepholeLSTMCell,
    ZoneoutCell,
)

__all__ = [
    "ACTIVATIONS", "Activation", "Cell", "CellName", "CoupledLSTMCell", "GRUCell", "GRUGates",
    "GRUState", "HigherOrderCell", "HigherOrderState", "IndRNNCell", "Initialization",
    "JordanCell", "JordanState", "LSTMCell", "LSTMGates", "LSTMState", "LayerNormGRUCell",
    "LayerNormLSTMCell", "LinearCell", "MGUCell", "MinGRUCell", "MinGRUGates", "MinLSTMCell",
    "MinLSTMGates", "PeepholeLSTMCell", "RNNCell", "RNNState", "State", "Tensors", "Trace",
    "Weights", "ZoneoutCell", "cell_named", "named", "register_state",
]  # fmt: skip
