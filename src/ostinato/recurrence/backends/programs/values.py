"""What a program is made of: the numbers of a row, the nodes they come from, and its tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

aten = torch.ops.aten
CHEAP = {
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "neg": "-{0}",
    "copy": "{0}",
    "abs": "absolute<T>({0})",
    "sign": "sign<T>({0})",
    "relu": "{0} < T(0) ? Vec<T>{{}} : {0}",
    "maximum": "maximum<T>({0}, {1})",
    "minimum": "minimum<T>({0}, {1})",
    "where": "choose<T>({0}, {1}, {2})",
    "gt": "{0} > {1} ? splat(T(1)) : Vec<T>{{}}",
    "lt": "{0} < {1} ? splat(T(1)) : Vec<T>{{}}",
    "ge": "{0} >= {1} ? splat(T(1)) : Vec<T>{{}}",
    "le": "{0} <= {1} ? splat(T(1)) : Vec<T>{{}}",
    "eq": "{0} == {1} ? splat(T(1)) : Vec<T>{{}}",
    "ne": "{0} != {1} ? splat(T(1)) : Vec<T>{{}}",
}
"""Operations that backward does again rather than read their results, as C++."""
DEAR = {
    "div": "{0} / {1}",
    "sqrt": "sqrt({0})",
    "exp": "exp({0})",
    "expm1": "expm1({0})",
    "log": "log({0})",
    "log1p": "log1p({0})",
    "erf": "erf({0})",
    "sigmoid": "sigmoid<T>({0})",
    "tanh": "tanh({0})",
    "sin": "sin<T>({0})",
    "cos": "cos<T>({0})",
    "atan": "atan<T>({0})",
    "floor": "floor<T>({0})",
    "pow": "pow<T>({0}, {1})",
}
ELEMENTWISE = CHEAP | DEAR
REDUCTIONS = {"sum": "T(0)", "amax": "-std::numeric_limits<T>::infinity()"}
"""Folds over the numbers of a row, and what they start from."""
VERSION = 7  # of what is written for a step: a program that was kept by another is none
MOST_PIECES = 128  # of one tensor, in which its numbers lie side by side
X, LINE, BACK, AHEAD, SCRATCH, BEFORE, D_AFTER, D_BEFORE, DX, TEMPORARY, NO_BASE = range(11)
"""`Base` of cpp/program.hpp."""
VECTORS = -1
CONSTANT, INPUT, STATE, GRADIENT = range(4)
"""What a node depends on, at the most: weights; x; the state; the gradient of the state after."""
_BITS = 32


class NotCompiled(Exception):
    """A cell has something that no program can do; the message names it."""


class Place(NamedTuple):
    """Where a row has numbers."""

    base: int
    at: int


class Run(NamedTuple):
    """Numbers side by side: ``n`` of a node's from ``at`` on, or with step 0 one of them again."""

    node: int
    at: int
    step: int
    n: int


@dataclass(frozen=True)
class _Matrix:
    """Part of a weight: number (k, n) is at ``at + k * k_stride + n * n_stride``."""

    tensor: int
    at: int
    k: int
    n: int
    k_stride: int
    n_stride: int


@dataclass(eq=False)
class _Node:
    """``n`` numbers of a row: the result of an operation, or what a program is given."""

    op: str
    args: tuple[Run, ...]
    n: int
    kind: int
    value: Any = None  # a constant; a leaf's place; a product's matrix and where its sums start


@dataclass(frozen=True)
class _Value:
    """A traced tensor. ``codes`` has its shape, but for the batch axis ``b``, which is 1 there."""

    shape: tuple[int, ...]
    b: int | None
    codes: NDArray[np.int64]

    @property
    def flat(self) -> NDArray[np.int64]:
        return self.codes.reshape(-1)


@dataclass(frozen=True)
class _Tail:
    """A tensor summed over the rows of the batch: what follows is done in PyTorch."""


class Written(NamedTuple):
    """A program: tables for the core, C++, and what PyTorch does before and after."""

    sizes: list[int]
    states: list[int]
    operations: list[list[list[int]]]
    """Of each phase; a kernel's first number is its number in the source, counted from 1."""
    matrices: list[int]
    vectors: list[int]
    sums: list[int]
    work: float
    source: str
    kernels: int
    weights: fx.GraphModule
    """From the cell's weights to the tensors that the program reads."""
    strides: list[tuple[tuple[int, ...], tuple[int, ...]]]
    """Shape and layout of each of these."""
    gradients: fx.GraphModule
    """From the sums, and these tensors, to the gradients of these."""
    results: list[tuple[Sequence[int], tuple[int, ...], bool]]
    """Shape of each sum."""
    line: int
    back: int
    operation_names: list[str]


def _count(root: Sequence[Run]) -> int:
    return sum(r.n for r in root)


_Targets = Sequence[tuple[list[Run], Place]]


def _parts_of(targets: _Targets) -> dict[tuple[Run, ...], Place]:
    """Return where every piece of what lies side by side begins."""
    found: dict[tuple[Run, ...], Place] = {}
    for root, place in targets:
        for a in range(len(root)):
            for b in range(a + 1, len(root) + 1):
                at = place.at + _count(root[:a])
                found.setdefault(tuple(root[a:b]), Place(place.base, at))
    return found


def _within(targets: _Targets, key: tuple[Run, ...]) -> list[Place]:
    """Return where something lies in what lies side by side; nothing if it does not."""
    place = _parts_of(targets).get(key)
    return [] if place is None else [place]


class _Tables:
    """Tables and C++ of a program while it is written, and how much of each memory is taken.

    Args:
        nodes: those of the program.
        line_of_cache: numbers of a line of the cache.
        is_odd: whether a vector may begin or end within another, and reach beyond the numbers of a
            node.
    """

    def __init__(self, nodes: Sequence[_Node], line_of_cache: int, is_odd: bool) -> None:
        self.nodes, self.line_of_cache, self.is_odd = nodes, line_of_cache, is_odd
        self.taken: dict[int, int] = defaultdict(int)  # numbers of each memory
        self.vectors: list[int] = []
        self.vector_at: dict[int, int] = {}
        self.matrices: list[int] = []
        self.source: list[str] = []
        self.kernels = 0
        self.side_by_side: dict[tuple[Run, ...], Place] = {}
        self.operations: list[list[list[int]]] = []
        self.work = 0.0

    def padded(self, n: int) -> int:
        return (-(-n // self.line_of_cache) + self.is_odd) * self.line_of_cache

    def take(self, base: int, n: int) -> int:
        at = self.taken[base]
        self.taken[base] = at + self.padded(n)
        return at

    def vector(self, leaf: int) -> int:
        if leaf not in self.vector_at:
            node = self.nodes[leaf]
            self.vector_at[leaf] = self.take(VECTORS, node.n)
            self.vectors += [node.value[1], node.n, self.vector_at[leaf]]
        return self.vector_at[leaf]
