"""Classifiers beside a network, whose scores are added to its own, as nodes of an ONNX graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ostinato.data.inputs import Inputs
from ostinato.deploy.pieces import Feeds, Piece, Port
from ostinato.networks.functional import running
from ostinato.tasks.linear import LinearClassifier
from ostinato.tasks.minirocket import KERNELS, SIZE, MiniRocket


class Beside(NamedTuple):
    """A classifier beside a network.

    Attributes:
        add: adds its scores ``(B, K)`` to a piece.
        run: computes them of the values of the inputs.
    """

    add: Callable[[Piece], str]
    run: Callable[[Feeds], Tensor]


def words_beside(linear: LinearClassifier) -> Beside:
    """Return a classifier of texts; which terms a text has, and their weights, are inputs."""
    weights = np.concatenate([linear.weights, np.zeros((1, len(linear.bias)))])
    table = torch.from_numpy(weights).float()  # (F + 1, K)
    terms = Port("terms", ("B", "N"), "numbers of the text's terms", "ids", len(table))
    values = Port("values", ("B", "N"), "their weights, 0 behind the last term", scale=0.1)

    def add(piece: Piece) -> str:
        g = piece.graph
        rows = g.add("Gather", g.constant(table), piece.take(terms), axis=0)  # (B, N, K)
        share = g.add("Unsqueeze", piece.take(values), g.ints(2))
        sums = g.add("ReduceSum", g.add("Mul", rows, share), g.ints(1), keepdims=0)
        return g.add("Add", sums, g.constant(linear.bias))

    def run(feeds: Feeds) -> Tensor:
        share = feeds["values"].double()[..., None]
        rows = table.double()[feeds["terms"]]
        return (rows * share).sum(1) + torch.from_numpy(linear.bias)

    return Beside(add, run)


def rocket_beside(rocket: MiniRocket, inputs: Inputs) -> Beside:
    """Return a classifier of series, of the inputs ``x`` and ``lengths`` of the network.

    It computes in float64: rounding must not decide what is above a threshold.
    """
    mean, scale = (np.asarray(a, np.float32) for a in (inputs.mean, inputs.scale))
    kernels = [  # (84, I * 9) for each dilation
        (torch.from_numpy(v)[..., None] * KERNELS[:, None]).flatten(1) for v in rocket.variables
    ]
    weights, bias = torch.from_numpy(rocket.weights).float(), torch.from_numpy(rocket.bias)

    def add(piece: Piece) -> str:
        g, nothing = piece.graph, piece.graph.constant(0.0, np.float64)

        def exact(value: Tensor | np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> str:
            return g.add("Cast", g.constant(value), to=11)

        x = g.add("Div", g.add("Sub", "x", g.constant(mean)), g.constant(scale))
        x = g.add("Transpose", g.where(g.running("x", "lengths"), x, 0.0, [2]), perm=[0, 2, 1])
        x, T = g.add("Cast", x, to=11), g.size("x", 1)  # (B, I, T)
        mask = g.add("Unsqueeze", g.running("x", "lengths"), g.ints(1))  # (B, 1, T)
        below, parts = g.constant(-np.inf, np.float64), []
        for dilation, kernel, thresholds in zip(
            rocket.dilations, kernels, rocket.thresholds, strict=True
        ):
            half = SIZE // 2 * dilation
            padded = g.add("Pad", x, g.ints(half, half), nothing, g.ints(2))
            steps = []
            for k in range(SIZE):
                begin = g.ints(k * dilation)
                part = g.slice(padded, 2, begin, g.add("Add", begin, T))
                steps.append(g.add("Unsqueeze", part, g.ints(2)))
            taken = g.add("Reshape", g.concat(steps, 2), g.ints(0, kernel.shape[1], -1))
            y = g.add("Where", mask, g.add("MatMul", exact(kernel), taken), below)  # (B, 84, T)
            levels = g.add("Unsqueeze", exact(thresholds), g.ints(1))  # (84, 1, F_d)
            above = g.add("Greater", g.add("Unsqueeze", y, g.ints(3)), levels)
            counts = g.add("ReduceSum", g.add("Cast", above, to=11), g.ints(2), keepdims=0)
            parts.append(g.add("Reshape", counts, g.ints(0, thresholds.size)))
        most = g.add("Max", "lengths", g.constant(1, np.int64))
        most = g.add("Unsqueeze", g.add("Cast", most, to=11), g.ints(1))
        shares = g.add("Div", g.concat(parts, 1), most)
        sums = g.add("Cast", g.add("MatMul", shares, exact(weights)), to=1)
        return g.add("Add", sums, g.constant(bias))

    def run(feeds: Feeds) -> Tensor:
        counted = running(feeds["x"], feeds["lengths"])  # (B, T)
        x = ((feeds["x"] - torch.from_numpy(mean)) / torch.from_numpy(scale)).double()
        x = x.masked_fill(~counted[..., None], 0.0).transpose(1, 2)
        parts = []
        for dilation, kernel, thresholds in zip(
            rocket.dilations, kernels, rocket.thresholds, strict=True
        ):
            w = kernel.view(len(KERNELS), -1, SIZE).double()
            y = F.conv1d(x, w, padding=SIZE // 2 * dilation, dilation=dilation)
            y = y.masked_fill(~counted[:, None], -torch.inf)
            levels = torch.from_numpy(thresholds).double()[:, None]
            parts.append((y[..., None] > levels).double().sum(2).flatten(1))
        shares = torch.cat(parts, 1) / feeds["lengths"].clamp(min=1)[:, None]
        return shares @ weights.double() + bias

    return Beside(add, run)
