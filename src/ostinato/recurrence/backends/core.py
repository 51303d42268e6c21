"""The compiled core; None where the package was installed without it, from a wheel for any CPU."""

from __future__ import annotations

import warnings
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ostinato import _core

    core = _core
    CoreStream = _core.Stream
elif find_spec("ostinato._core") is None:
    core, CoreStream = None, object
else:
    from ostinato import _core as core

    CoreStream = core.Stream

MISSING = (
    "this installation of ostinato has no compiled core; install it where there is a C++ compiler, "
    "or from a wheel for this machine"
)


@cache
def warn_of_missing_core() -> None:
    """Say once in a process that layers run on PyTorch alone."""
    warnings.warn(f"{MISSING}. Recurrent layers run on PyTorch, slower.", stacklevel=2)
