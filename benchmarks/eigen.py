"""A layer as RTNeural runs it: `eigen_stream.cpp`, compiled for its cell and size."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import shutil
import subprocess
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from instructions import cpu_model, march
from settings import GATES, Array, CellName

SOURCE = Path(__file__).parent / "eigen_stream.cpp"
BUILT = Path(__file__).parent.parent / "build" / "eigen"
HEADERS = Path("/usr/include/eigen3")
COMPILER = shutil.which("c++") or shutil.which("g++")


def absence() -> str | None:
    """Why a loop with Eigen cannot be measured; None if it can."""
    if not HEADERS.is_dir():
        return f"Eigen is not in {HEADERS} (Debian's libeigen3-dev): its loop takes no part."
    return None if COMPILER else "No C++ compiler found: skipping the loop with Eigen."


@functools.cache
def library(cell: CellName, H: int, parts: int) -> Any:
    """The compiled code, from an earlier run where nothing has changed since."""
    words = f"-std=c++17 -O3 -ffast-math -march={march()} -mtune=native -fPIC".split()
    words += ["-isystem", str(HEADERS)]
    words += [f"-DCELL={cell.upper()}", f"-DSIZE={H}", f"-DPARTS={parts}"]
    known = hashlib.sha256(repr((words, SOURCE.read_text(), cpu_model())).encode()).hexdigest()[:16]
    BUILT.mkdir(parents=True, exist_ok=True)
    file, object_file = BUILT / f"{known}.so", BUILT / f"{known}.o"
    if not file.exists():
        # Linked without -ffast-math, which would flush denormal numbers in the whole process.
        subprocess.run([COMPILER, *words, "-c", SOURCE, "-o", object_file], check=True)
        subprocess.run([COMPILER, "-shared", object_file, "-o", file], check=True)
    loaded = ctypes.CDLL(str(file))
    loaded.create.restype = ctypes.c_void_p
    loaded.create.argtypes = [ctypes.c_void_p] * 4
    loaded.destroy.argtypes = [ctypes.c_void_p]
    loaded.run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long, ctypes.c_void_p]
    return loaded


class Loop:
    """A layer with its state; `run` takes steps ``(T, I)`` to ``(T, H)``.

    Args:
        cell: rnn, lstm or gru.
        weights: see `settings.Problem`.
        stacked: one product for all gates; one for each, as RTNeural has it, if not.
    """

    def __init__(self, cell: CellName, weights: dict[str, Array], *, stacked: bool) -> None:
        self._H = weights["weight_hh"].shape[1]
        self._code = library(cell, self._H, 1 if stacked else GATES[cell])
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        arrays = [np.ascontiguousarray(weights[name]) for name in names]
        self._layer = self._code.create(*(each.ctypes.data for each in arrays))
        weakref.finalize(self, self._code.destroy, self._layer)

    def bound(self, x: Array) -> tuple[Any, Array]:
        """A call without arguments that runs over ``x``, and the outputs that it writes."""
        x = np.ascontiguousarray(x)
        y = np.empty((len(x), self._H), np.float32)
        arguments = self._layer, x.ctypes.data, len(x), y.ctypes.data
        return functools.partial(self._run, *arguments, keep=(x, y)), y

    def _run(self, *arguments: Any, keep: Any) -> None:
        self._code.run(*arguments)
