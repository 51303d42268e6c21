"""Measure the memory that a training step keeps between forward and backward, and torch.nn's.

    python benchmarks/memory.py

Measured as the growth of the resident memory of a separate process over a forward pass, including
outputs: after a warm-up, with freed memory returned to the system first. Also with a state kept
only every so many steps, and the processor time of such a step relative to one that keeps all: of
one thread, the median of seven pairs.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

B, T, H = 32, 1000, 256
EVERY = 32  # about the square root of T
LIBRARIES = ("ostinato", "torch.nn", f"ostinato, checkpoint_every={EVERY}")
STATUS = Path("/proc/self/statm")
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_ARENA_MAX": "1"}
"""Has large blocks given back as soon as they are freed, whatever was freed before."""


def resident() -> int:
    """Bytes of this process that are in memory, without those that it has freed."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(STATUS.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def kept(library: str, cell: str) -> int:
    """Bytes that a training step keeps, in this process."""
    import importlib

    import torch

    name, _, every = library.partition(", checkpoint_every=")
    more = {"checkpoint_every": int(every)} if every else {}
    layer = getattr(importlib.import_module(name), cell.upper())(H, H, **more)
    x = torch.randn(T, B, H, requires_grad=True)
    cotangent = torch.randn(T, B, H)
    for _ in range(2):  # permanent allocations happen in the first
        for tensor in (x, *layer.parameters()):
            tensor.grad = None
        before = resident()
        y, _ = layer(x)
        after = resident()
        y.backward(cotangent)
        del y, _
    return after - before


def time_ratio(cell: str) -> float:
    """Time of a step with checkpoints beside that of one that keeps all."""
    import time

    import torch

    import ostinato

    torch.set_num_threads(1)
    layer = getattr(ostinato, cell.upper())(H, H)
    x, cotangent = torch.randn(T, B, H), torch.randn(T, B, H)

    def seconds(every: int | None) -> float:
        layer.checkpoint_every = every
        start = time.thread_time()
        layer(x)[0].backward(cotangent)
        return time.thread_time() - start

    return statistics.median(seconds(EVERY) / seconds(None) for _ in range(7))


def measure() -> dict[str, Any]:
    """Measure bytes by cell and library, each in a separate process; empty if unsupported."""
    if not STATUS.exists():
        return {}
    found: dict[str, dict[str, int]] = {}
    for cell in ("rnn", "lstm", "gru"):
        for library in LIBRARIES:
            command = [sys.executable, __file__, library, cell]
            done = subprocess.run(
                command, env=os.environ | ENVIRONMENT, stdout=subprocess.PIPE, check=True
            )
            found.setdefault(cell, {})[library] = int(done.stdout)
    slower = {cell: time_ratio(cell) for cell in found}
    return {"B": B, "T": T, "H": H, "kept": found, "every": EVERY, "slower": slower}


if __name__ == "__main__":
    print(kept(*sys.argv[1:]) if sys.argv[1:] else json.dumps(measure(), indent=1))
