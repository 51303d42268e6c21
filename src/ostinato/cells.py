"""Recurrent cells, their states, and `scan`, which runs any cell over a sequence.

>>> from ostinato.cells import LSTMCell, LSTMState
>>> LSTMCell(input_size=8, hidden_size=16)
LSTMCell(input_size=8, hidden_size=16, bias=True, proj_size=0)
"""

from typing import TYPE_CHECKING

from ostinato.recurrence.backends.diagonal import linear_recurrence as linear_recurrence
from ostinato.recurrence.backends.selection import selective_scan as selective_scan
from ostinato.recurrence.cells.base import Cell as Cell
from ostinato.recurrence.cells.base import RNNState as RNNState
from ostinato.recurrence.cells.diagonal import *  # noqa: F403
from ostinato.recurrence.cells.matrix import *  # noqa: F403
from ostinato.recurrence.cells.standard import *  # noqa: F403 cells, their states and gates
from ostinato.recurrence.cells.variants import *  # noqa: F403
from ostinato.recurrence.scan import scan as scan

if not TYPE_CHECKING:  # type checkers take all that the modules define
    __all__ = ["linear_recurrence", "scan", "selective_scan"]
    __all__ += [
        name
        for name, each in globals().items()
        if isinstance(each, type) and issubclass(each, Cell | tuple) and name == each.__name__
    ]
