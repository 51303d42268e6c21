"""How this process was launched: alone, or by ``torchrun`` as one of several."""

from __future__ import annotations

import os
from typing import NamedTuple

from ostinato.errors import OstinatoError


class Launch(NamedTuple):
    """The place of a process among those that were launched together.

    Args:
        rank: its number, from 0; the first one writes and prints.
        size: how many there are.
        local_rank: its number on this machine.
        local_size: how many there are on this machine.
        restarts: how often they have been launched again, after one of them had ended.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    restarts: int = 0


class PeerError(OstinatoError):
    """Another process of the run failed, and says why."""


def launch() -> Launch:
    """Return the place that ``torchrun``, or another launcher with its variables, gave us.

    >>> launch()
    Launch(rank=0, size=1, local_rank=0, local_size=1, restarts=0)
    """
    needed = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    if not needed <= os.environ.keys():
        return Launch()
    rank, size = os.environ["RANK"], os.environ["WORLD_SIZE"]
    names = {"LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size, "TORCHELASTIC_RESTART_COUNT": "0"}
    given = [rank, size, *(os.environ.get(name, usual) for name, usual in names.items())]
    try:
        found = Launch(*map(int, given))
    except ValueError as error:
        raise OstinatoError(f"RANK, WORLD_SIZE and the like: {error}; expected numbers.") from None
    if not 0 <= found.rank < found.size:
        raise OstinatoError(f"RANK={found.rank}: expected 0 to {found.size - 1} (WORLD_SIZE - 1).")
    return found
