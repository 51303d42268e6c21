"""A piece run by ONNX Runtime on random inputs, whole and in parts, beside the network itself."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ostinato.deploy.graph import Array
from ostinato.deploy.pieces import Piece
from ostinato.errors import OstinatoError
from ostinato.recurrence.backends import use_backend

TOLERANCE = 1e-5
"""Largest difference from the network, as a share of the largest number of an output."""

TOLERATED = 10
"""How many times what the last bit of the inputs changes a difference may be, where that is more: a
network that normalises a few numbers, say, makes much of rounding at every step."""

SIZES = ((1, 1), (3, 7), (5, 2), (2, 40))
"""Rows and steps of the trials."""


def session(runtime: Any, model: bytes) -> Any:
    """Return a session of ONNX Runtime on one thread; it raises what it cannot run."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    with _runs():
        return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@contextmanager
def _runs() -> Iterator[None]:
    """Turn what ONNX Runtime raises into an error of ours."""
    try:
        yield
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise OstinatoError(f"export: ONNX Runtime does not run it: {reason:.300}") from error


def trials(piece: Piece, seed: int = 0) -> Iterator[dict[str, Array]]:
    """Yield random inputs of several sizes."""
    rng = np.random.default_rng(seed)
    for B, T in SIZES:
        T = T * piece.multiple + (T > 1)
        sizes = {"B": B, "T": T, "S": T, "F": T + 1, "C": 1 + T % 9, "N": 300 + 997 * T}
        yield {port.name: port.draw(sizes, rng) for port in piece.inputs}


def expected(piece: Piece, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Return the outputs that the network itself computes, by its equations in plain PyTorch."""
    plain = use_backend("reference")  # which compiles no cell for a few steps
    with torch.inference_mode(), plain, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of lengths, all of which are meant
        found = piece.run({name: torch.from_numpy(value) for name, value in feeds.items()})
    return {name: value.numpy() for name, value in found.items()}


def run(piece: Piece, session: Any, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Return the outputs of a call."""
    names = [port.name for port in piece.outputs]
    with _runs():
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def in_parts(piece: Piece, session: Any, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Return the outputs of two calls, the second of which goes on where the first ends."""
    ports = {port.name: port for port in [*piece.inputs, *piece.outputs]}

    def axis(name: str) -> int | None:
        """Return the axis of steps of a value, if it has one."""
        shape = list(ports[name].shape)
        return next((shape.index(letter) for letter in ("T", "steps") if letter in shape), None)

    T = _steps(piece, feeds)
    cut = max(1, T // 2 // piece.multiple) * piece.multiple
    parts = []
    state: dict[str, Array] = {}
    for begin, end in ((0, cut), (cut, T)):
        some = dict(feeds) | state
        for name, value in feeds.items():
            if (at := axis(name)) is not None:
                some[name] = np.take(value, range(begin, end), at)
            elif ports[name].kind == "history":
                some[name] = value[:, begin : value.shape[1] - T + end]
            elif ports[name].kind == "lengths":
                some[name] = np.clip(value - begin, 0, end - begin)
        parts.append(run(piece, session, some))
        state = {piece.carried[name]: parts[-1][name] for name in piece.carried}
    joined = {}
    for name in parts[0]:
        at = axis(name)
        joined[name] = parts[1][name]
        if at is not None:
            joined[name] = np.concatenate([part[name] for part in parts], at)
    return joined


def difference(found: Mapping[str, Array], reference: Mapping[str, Array]) -> tuple[float, str]:
    """Return the largest difference as a share of its output's scale, and which output it is."""
    worst = (0.0, next(iter(reference)))
    for name, value in reference.items():
        if found[name].shape != value.shape:
            return np.inf, f"{name}, of shape {found[name].shape} for {value.shape}"
        if not value.size:
            continue
        a, b = found[name].astype(np.float64), value.astype(np.float64)
        error = float(np.abs(a - b).max() / max(1e-3, np.abs(b).max()))
        worst = max(worst, (error if error == error else np.inf, name))
    return worst


def check(piece: Piece, session: Any) -> float:
    """Return the largest difference; an `OstinatoError` where it is above the tolerance."""
    worst = 0.0
    for feeds in trials(piece):
        reference = expected(piece, feeds)
        calls = {"": run(piece, session, feeds)}
        if piece.carried and _steps(piece, feeds) > piece.multiple:
            calls[" in two parts"] = in_parts(piece, session, feeds)
        for how, found in calls.items():
            error, name = difference(found, reference)
            if error > TOLERANCE and error > TOLERATED * _rounding(piece, feeds, reference):
                shapes = {name: value.shape for name, value in feeds.items()}
                raise OstinatoError(
                    f"export: ONNX Runtime computes {name}{how} otherwise than the network: by "
                    f"{error:.1e} of its scale, of inputs {shapes}; expected {TOLERANCE:g} at "
                    "most. Nothing is written: the network makes much of rounding, or the "
                    "exporter errs."
                )
            worst = max(worst, error)
    return worst


def _rounding(piece: Piece, feeds: Mapping[str, Array], reference: Mapping[str, Array]) -> float:
    """Return how much the network's own outputs change with the last bit of its inputs, at most."""

    def rounded(value: Array, seed: int) -> Array:
        if value.dtype.kind != "f":
            return value
        signs = np.random.default_rng(seed).choice([-1, 1], value.shape)
        return (value * (1 + signs * 2.0**-23)).astype(value.dtype)

    changed = [{name: rounded(value, i) for name, value in feeds.items()} for i in range(8)]
    return max(difference(expected(piece, each), reference)[0] for each in changed)


def _steps(piece: Piece, feeds: Mapping[str, Array]) -> int:
    """Return the steps of a call; 1 where a piece takes but one."""
    sizes = (feeds[p.name].shape[list(p.shape).index("T")] for p in piece.inputs if "T" in p.shape)
    return next(sizes, 1)
