"""Recurrent cells and their states, in plain PyTorch: the reference all else must equal.

Letters: ``T`` time, ``B`` batch, ``I`` input features, ``H`` hidden features.
"""

from ostinato.recurrence.cells.base import *  # noqa: F403 all public names of each module
from ostinato.recurrence.cells.diagonal import *  # noqa: F403
from ostinato.recurrence.cells.initialization import *  # noqa: F403
from ostinato.recurrence.cells.matrix import *  # noqa: F403
from ostinato.recurrence.cells.standard import *  # noqa: F403
from ostinato.recurrence.cells.variants import *  # noqa: F403
