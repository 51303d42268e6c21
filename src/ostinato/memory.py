"""The memory of this machine: what does not fit into it is refused before it is allocated."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from ostinato.errors import OstinatoError

if sys.platform != "win32":
    import resource


_CGROUPS = "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"


def available_memory() -> int:
    """Return the bytes that this process may use: the machine's, or a lower limit set for it."""
    if sys.platform == "win32":  # which does not say it this way
        return sys.maxsize
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    sizes += [resource.getrlimit(which)[0] for which in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    for path in _CGROUPS:
        with suppress(OSError, ValueError):  # no such group, or "max"
            sizes.append(int(Path(path).read_text(encoding="ascii")))
    return min(size for size in sizes if size >= 0)  # -1 is no limit


def peak_memory() -> int | None:
    """Return the most bytes that this process had in memory at a time; None if nothing says it."""
    if sys.platform == "win32":
        return None
    with suppress(OSError, StopIteration):  # Linux, whose ru_maxrss begins as that of the parent
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def check_memory(call: str, size: float, remedy: str) -> None:
    """Raise an `OstinatoError` if so many bytes, a lower bound, do not fit into the memory.

    >>> check_memory("forecast: horizon=1000000000", 8e18, "choose a shorter horizon")
    Traceback (most recent call last):
    ostinato.errors.OstinatoError: forecast: horizon=1000000000 needs at least ...
    """
    if size > (there := available_memory()):
        raise OstinatoError(
            f"{call} needs at least {size:,.0f} bytes ({size / 1e9:,.1f} GB); this process has "
            f"{there:,} ({there / 1e9:,.1f} GB): {remedy}."
        )
