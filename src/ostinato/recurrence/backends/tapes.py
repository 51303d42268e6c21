"""Functions of whole sequences as tapes of the core: what is computed, its gradient, and autograd.

A `Recipe` says how numbers of a row follow from others. It becomes elements of the core (see `Tape`
of cpp/linear.hpp), forward, and backward for its gradient, which computes again what it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ostinato.recurrence.backends.arguments import Context, by_formula, in_rows
from ostinato.recurrence.backends.compiled import apart
from ostinato.recurrence.backends.core import core
from ostinato.recurrence.backends.elements import ELEMENT_FUNCTIONS
from ostinato.recurrence.cells import PLAIN

_VECTORS = 10
"""The base of vectors in cpp/program.hpp."""
_MOST_TENSORS = 9  # that a tape of the core can name, beside its scratch
FUNCTIONS = ("sigmoid", "tanh", "exp", "softplus", "silu", "sqrt")
"""Those of `Functions` that are computed number by number."""

Ref = tuple[str, int, int, int]
"""Numbers of a row: ``("source" | "vector" | "node", which, first number, count)``."""


_Part = tuple[Ref, int, int]
"""Numbers, where they go in an output, and how many; one number may fill them."""


class Node(NamedTuple):
    """``n`` numbers of a row: a function of core's elements of others."""

    function: str
    args: tuple[Ref, ...]
    n: int


class Recipe(NamedTuple):
    """How outputs, each of parts side by side, follow from sources and vectors."""

    nodes: tuple[Node, ...]
    widths: tuple[int, ...]  # of the sources
    vectors: tuple[int, ...]  # numbers of each
    outputs: tuple[tuple[Ref, ...], ...]


def computed(
    recipe: Recipe, sources: Sequence[Tensor], vectors: Sequence[Tensor]
) -> Sequence[Tensor]:
    """Compute the outputs of a recipe, ``(T, B, n)`` each.

    Args:
        recipe: how.
        sources: sequences ``(T, B, n)``, one or more.
        vectors: tensors of the numbers that all rows share.
    """
    plan, records = _forward_plan(recipe), torch.is_grad_enabled()
    if plan is None or (records and not _has_gradient(recipe)):
        return _one_by_one(recipe, sources, vectors)
    if records and any(t.requires_grad for t in (*sources, *vectors)):
        found: tuple[Tensor, ...] = _Fused.apply(recipe, *sources, *vectors)  # type: ignore[no-untyped-call]
        return found
    return _run(plan, sources, vectors)


def _one_by_one(
    recipe: Recipe, sources: Sequence[Tensor], vectors: Sequence[Tensor]
) -> list[Tensor]:
    """Compute a recipe that is no single tape, each function by itself."""

    def compute(function: str, *args: Tensor) -> Tensor:
        wide = [t for t in args if t.dim() == 3]
        flat = [t for t in args if t.dim() != 3]
        counts: dict[bool, int] = {True: 0, False: 0}
        refs: list[Ref] = []
        for t in args:
            is_wide = t.dim() == 3
            n = t.shape[-1] if is_wide else t.numel()
            refs.append(("source" if is_wide else "vector", counts[is_wide], 0, n))
            counts[is_wide] += 1
        node = Node(function, tuple(refs), wide[0].shape[-1])
        widths, lengths = tuple(t.shape[-1] for t in wide), tuple(t.numel() for t in flat)
        alone = Recipe((node,), widths, lengths, ((("node", 0, 0, node.n),),))
        (y,) = computed(alone, wide, flat)
        return y

    return _walk(recipe, sources, vectors, compute)


def _by_pytorch(
    recipe: Recipe, sources: Sequence[Tensor], vectors: Sequence[Tensor]
) -> list[Tensor]:
    """Compute a recipe in plain PyTorch, differentiable any number of times."""
    return _walk(recipe, sources, vectors, lambda name, *args: _PLAIN_FUNCTIONS[name](*args))


def _walk(
    recipe: Recipe, sources: Sequence[Tensor], vectors: Sequence[Tensor],
    compute: Callable[..., Tensor],
) -> list[Tensor]:  # fmt: skip
    values: list[Tensor] = []

    def of(ref: Ref) -> Tensor:
        kind, which, at, n = ref
        if kind == "vector":
            return vectors[which]
        return values[which] if kind == "node" else sources[which][..., at : at + n]

    for node in recipe.nodes:
        values.append(compute(node.function, *map(of, node.args)))
    return [torch.cat([of(ref) for ref in parts], dim=-1) for parts in recipe.outputs]


@dataclass
class _Plan:
    """Elements of a tape: base 0 is scratch, then come the tensors, read ones first."""

    elements: list[int]
    scratch: int
    outputs: list[int]  # numbers of each


def _rows(x: Tensor) -> Tensor:
    return in_rows(x.detach().reshape(-1, x.shape[-1]))


def _run(plan: _Plan, sources: Sequence[Tensor], vectors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    like = sources[0]
    made = tuple([like.new_empty(*like.shape[:-1], n) for n in plan.outputs])
    tensors = *map(_rows, sources), *(t.view(-1, t.shape[-1]) for t in made)
    constants = tuple([v.detach().resolve_neg().reshape(-1).contiguous() for v in vectors])
    core.elements(plan.elements, plan.scratch, tensors, constants, torch.get_num_threads())
    return made


class _Graph:
    """Nodes that are added to, with the gradients of functions."""

    def __init__(self, recipe: Recipe) -> None:
        self.nodes = list(recipe.nodes)
        self.constants: list[float] = []
        self.vectors = len(recipe.vectors)

    def add(self, function: str, *args: Ref) -> Ref:
        n = max(a[3] for a in args)
        self.nodes.append(Node(function, args, n))
        return "node", len(self.nodes) - 1, 0, n

    def constant(self, value: float) -> Ref:
        if value not in self.constants:
            self.constants.append(value)
        return "vector", self.vectors + self.constants.index(value), 0, 1

    def gradients(self, y: Ref, node: Node, g: Ref) -> list[Ref | None]:
        """Return the gradients of a node's arguments, given that of its value."""
        a, b = (*node.args, None)[:2]
        assert a is not None
        f, add = node.function, self.add
        if f in ("sigmoid", "tanh", "sqrt"):
            return [add(f"{f}_slope", y, g)]
        if f in ("softplus", "silu"):
            return [add(f"{f}_slope", a, g)]
        if f == "exp":
            return [add("multiply", g, y)]
        if f == "negate":
            return [add("negate", g)]
        assert b is not None
        if f == "add":
            return [g, g]
        if f == "subtract":
            return [g, add("negate", g)]
        if f == "multiply":
            return [add("multiply", g, b), add("multiply", g, a)]
        if f == "divide":
            first = add("divide", g, b)
            return [first, add("negate", add("multiply", first, y))]
        assert f == "maximum" and b[0] == "vector"
        return [add("at_least", a, b, g), None]


@dataclass
class _Tables:
    """Elements that write outputs, one after another, from a graph."""

    nodes: Sequence[Node]
    sources: int
    vectors: Sequence[int]
    outputs: Sequence[Sequence[_Part]]
    elements: list[int] = field(default_factory=list)
    scratch: int = 0

    def write(self) -> None:
        needed = self._needed()
        last = self._last_uses(needed)
        starts = [sum(self.vectors[:i]) for i in range(len(self.vectors))]
        places: dict[int, tuple[int, int]] = {}
        copies: list[tuple[Ref, int, tuple[int, int]]] = []
        for k, parts in enumerate(self.outputs):
            for ref, at, n in parts:
                to = 1 + self.sources + k, at
                kind, which, *span = ref
                if kind == "node" and which not in places and span == [0, self.nodes[which].n]:
                    places[ref[1]] = to
                else:
                    copies.append((ref, n, to))
        free: list[tuple[int, int]] = []  # place and size
        in_scratch: dict[int, tuple[int, int]] = {}

        def source(ref: Ref, n: int) -> list[int]:
            kind, which, at, count = ref
            if kind == "node":
                base, start = places[which]
            else:
                base, start = (1 + which, 0) if kind == "source" else (_VECTORS, starts[which])
            return [base, start + at, int(count == n)]

        def element(function: str, n: int, to: tuple[int, int], args: Sequence[Ref]) -> None:
            each = [source(a, n) for a in args]
            each += [each[0]] * (3 - len(each))
            number = ELEMENT_FUNCTIONS.index(function)
            self.elements += [number, n, *to, *each[0], *each[1], *each[2]]

        for i in needed:
            node = self.nodes[i]
            if i not in places:
                size = -(-node.n // 16) * 16
                fit = next((f for f in free if f[1] == size), None)
                if fit is None:
                    fit = self.scratch, size
                    self.scratch += size
                else:
                    free.remove(fit)
                places[i], in_scratch[i] = (0, fit[0]), fit
            element(node.function, node.n, places[i], node.args)
            for _, j, *_ in {a for a in node.args if a[0] == "node"}:
                if last[j] == i and j in in_scratch:
                    free.append(in_scratch.pop(j))
        for ref, n, to in copies:
            element("copy", n, to, [ref])

    def _needed(self) -> list[int]:
        found: set[int] = set()
        stack = [ref[1] for parts in self.outputs for ref, *_ in parts if ref[0] == "node"]
        while stack:
            i = stack.pop()
            if i not in found:
                found.add(i)
                stack += [a[1] for a in self.nodes[i].args if a[0] == "node"]
        return sorted(found)

    def _last_uses(self, needed: list[int]) -> dict[int, int]:
        last: dict[int, int] = {}
        for i in needed:
            for a in self.nodes[i].args:
                if a[0] == "node":
                    last[a[1]] = i
        for parts in self.outputs:
            last.update({ref[1]: len(self.nodes) for ref, *_ in parts if ref[0] == "node"})
        return last


def _side_by_side(parts: Sequence[Ref]) -> list[_Part]:
    return [(ref, sum(p[3] for p in parts[:i]), ref[3]) for i, ref in enumerate(parts)]


@lru_cache(maxsize=256)
def _forward_plan(recipe: Recipe) -> _Plan | None:
    if len(recipe.widths) + len(recipe.outputs) > _MOST_TENSORS:
        return None
    outputs = [_side_by_side(parts) for parts in recipe.outputs]
    tables = _Tables(recipe.nodes, len(recipe.widths), recipe.vectors, outputs)
    tables.write()
    return _Plan(
        tables.elements, tables.scratch, [sum(p[3] for p in parts) for parts in recipe.outputs]
    )


class _Backward(NamedTuple):
    plan: _Plan
    constants: list[float]
    sources: list[int]  # those whose gradients are the first outputs
    vectors: list[int]  # and the others


@lru_cache(maxsize=256)
def _has_gradient(recipe: Recipe) -> bool:
    """Tell whether the gradient of a recipe is one tape, too."""
    return _backward_plan(recipe, (True,) * (len(recipe.widths) + len(recipe.vectors))) is not None


@lru_cache(maxsize=256)
def _backward_plan(recipe: Recipe, needs: tuple[bool, ...]) -> _Backward | None:
    graph, S = _Graph(recipe), len(recipe.widths)
    found: dict[Ref, Ref] = {}  # gradients, of numbers that are one with the next

    def give(to: Ref, g: Ref) -> None:
        found[to] = g if to not in found else graph.add("add", found[to], g)

    for k, parts in enumerate(recipe.outputs):
        for ref, at, _ in _side_by_side(parts):
            give(ref, ("source", S + k, at, ref[3]))
    for i in reversed(range(len(recipe.nodes))):
        node = recipe.nodes[i]
        y: Ref = ("node", i, 0, node.n)
        if y not in found:
            continue
        for arg, g in zip(node.args, graph.gradients(y, node, found[y]), strict=True):
            if g is not None:
                give(arg, g)
    outputs: list[list[_Part]] = []
    sources = [i for i in range(S) if needs[i]]
    for i in sources:
        at, parts_of = 0, list[_Part]()
        for (_, _, begin, n), g in sorted(
            (r, g) for r, g in found.items() if r[:2] == ("source", i)
        ):
            if begin < at:  # parts that overlap
                return None
            parts_of += [(graph.constant(0.0), at, begin - at)] if begin > at else []
            parts_of.append((g, begin, n))
            at = begin + n
        if at < recipe.widths[i]:
            parts_of.append((graph.constant(0.0), at, recipe.widths[i] - at))
        outputs.append(parts_of)
    widths = [recipe.widths[i] for i in sources]
    vectors: list[int] = []
    for i, n in enumerate(recipe.vectors):
        g = found.get(("vector", i, 0, n))
        if g is not None and needs[S + i]:
            vectors.append(i)
            outputs.append([(g, 0, g[3])])
            widths.append(g[3])
    if S + len(recipe.outputs) + len(outputs) > _MOST_TENSORS:
        return None
    tables = _Tables(
        graph.nodes,
        S + len(recipe.outputs),
        [*recipe.vectors, *[1] * len(graph.constants)],
        outputs,
    )
    tables.write()
    return _Backward(
        _Plan(tables.elements, tables.scratch, widths), graph.constants, sources, vectors
    )


class _FusedContext(Context):
    recipe: Recipe


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _FusedContext, recipe: Recipe, *given: Tensor) -> tuple[Tensor, ...]:
        plan, S = _forward_plan(recipe), len(recipe.widths)
        assert plan is not None
        ctx.save_for_backward(*given)
        ctx.recipe = recipe
        return _run(plan, given[:S], given[S:])

    @staticmethod
    def backward(ctx: _FusedContext, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        recipe, given, needs = ctx.recipe, ctx.saved_tensors, ctx.needs_input_grad[1:]
        if by_formula(*gradients):
            return None, *_gradients_by_pytorch(recipe, given, gradients, needs)
        S = len(recipe.widths)
        back = _backward_plan(recipe, needs)
        assert back is not None  # as `_computed` made sure
        constants = [given[0].new_tensor(c) for c in back.constants]
        made = _run(back.plan, [*given[:S], *gradients], [*given[S:], *constants])
        found: list[Tensor | None] = [None] * len(given)
        for i, d in zip(back.sources, made, strict=False):
            found[i] = d
        for i, d in zip(back.vectors, made[len(back.sources) :], strict=True):
            v = given[S + i]
            found[S + i] = (d.sum((0, 1)) if v.numel() > 1 else d.sum()).view(v.shape)
        return None, *found


_PLAIN_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "add": torch.add,
    "subtract": torch.sub,
    "multiply": torch.mul,
    "divide": torch.div,
    "maximum": lambda x, least: x.clamp_min(least.item()), "negate": torch.neg,
    **{name: getattr(PLAIN, name) for name in FUNCTIONS},
}  # fmt: skip


def _gradients_by_pytorch(
    recipe: Recipe, given: Sequence[Tensor], gradients: Sequence[Tensor], needs: Sequence[bool]
) -> list[Tensor | None]:
    S = len(recipe.widths)
    with torch.enable_grad():
        given = apart(given)
        found = _by_pytorch(recipe, given[:S], given[S:])
        asked = [t for t, need in zip(given, needs, strict=True) if need]
        each = iter(
            torch.autograd.grad(found, asked, gradients, create_graph=True, allow_unused=True)
        )
    return [next(each) if need else None for need in needs]
