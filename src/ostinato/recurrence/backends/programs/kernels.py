"""What lies between the products of a program, in phases, as C++."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from ostinato.recurrence.backends.programs.values import (
    DX,
    ELEMENTWISE,
    REDUCTIONS,
    SCRATCH,
    TEMPORARY,
    NotCompiled,
    Place,
    Run,
    X,
    _count,
    _Node,
    _parts_of,
    _Tables,
)


class _Phase:
    """Kernels and products, in turns, that compute ``targets``: a stage ends with its products."""

    def __init__(
        self, tables: _Tables, targets: list[tuple[list[Run], Place]],
        known: Mapping[int, Place], counts: bool,
    ) -> None:  # fmt: skip
        self.tables, self.known, self.counts = tables, known, counts
        self.nodes = tables.nodes
        self.extra: dict[int, _Node] = {}  # copies
        self.needed: dict[int, None] = {}
        self.dest: dict[int, list[tuple[Place, bool]]] = defaultdict(
            list
        )  # whether others lie behind
        self.sections: dict[tuple[Run, ...], tuple[Place, list[int]]] = {}
        self.from_: dict[int, tuple[Place, list[int]]] = {}  # of products: place, nodes to wait for
        self.targets = {
            part: (place, target)
            for target in reversed(targets)
            for part, place in _parts_of([target]).items()
        }
        for root, place in targets:
            if self.sections.get(tuple(root), (None,))[0] != place:
                self._section(root, place)
        self.stage: dict[int, int] = {}
        order = sorted(self.needed, key=self._key)
        for i in order:
            self._stage_of(i)
        self._store_across(order)
        operations: list[list[int]] = []
        for stage in range(max(self.stage.values(), default=-1) + 1):
            here = [i for i in order if self.stage[i] == stage and self._node(i).op != "product"]
            if here:
                tables.kernels += 1
                tables.source.append(_Kernel(self, here, tables.kernels).text)
                operations.append([tables.kernels, 0, 0, 0, 0, 0, -1])
            for i in order:
                if self.stage[i] == stage and self._node(i).op == "product":
                    operations.append(self._product(i))
        tables.operations.append(operations)

    def _node(self, i: int) -> _Node:
        return self.extra[i] if i in self.extra else self.nodes[i]

    def _key(self, i: int) -> tuple[int, int]:
        # A copy stands behind what it copies.
        return (self.extra[i].args[0].node, i) if i in self.extra else (i, 0)

    def _need(self, i: int) -> None:
        node = self._node(i)
        if i in self.needed or i in self.known or node.op in ("leaf", "constant"):
            if node.op == "leaf" and node.value[0] != "w" and i not in self.known:
                raise NotCompiled("a value out of its phase")
            return
        self.needed[i] = None
        for a in node.args:
            self._need(a.node)
        if node.op == "product":
            self.from_[i] = self._side_by_side(node.args)

    def _section(self, root: Sequence[Run], place: Place) -> list[int]:
        """Have numbers written side by side from a place on; the nodes that write them."""
        parts: list[int] = []
        at = place.at
        for r in root:
            node = self._node(r.node)
            whole = r.step and r.at == 0 and r.n == node.n and r.node not in self.known
            i = r.node
            if (
                not whole
                or node.op in ("leaf", "constant")
                or (node.op == "product" and self.dest[i])
            ):
                i = len(self.nodes) + len(self.extra)
                self.extra[i] = _Node("copy", (r,), r.n, node.kind)
            self.dest[i].append((Place(place.base, at), r is not root[-1] or place.base == DX))
            parts.append(i)
            at += r.n
        self.sections[tuple(root)] = place, parts
        for i in parts:
            self._need(i)
        return parts

    def _side_by_side(self, root: tuple[Run, ...]) -> tuple[Place, list[int]]:
        if len(root) == 1 and root[0].step:
            (r,) = root
            if r.node in self.known:
                place = self.known[r.node]
                return Place(place.base, place.at + r.at), []
            node = self._node(r.node)
            if root in self.targets and r.n == node.n:
                return self._wanted(root)
            if node.op not in ("leaf", "constant"):
                if not self.dest[r.node]:
                    self.dest[r.node].append(
                        (Place(SCRATCH, self.tables.take(SCRATCH, node.n)), False)
                    )
                place = self.dest[r.node][0][0]
                return Place(place.base, place.at + r.at), [r.node]
        if root not in self.sections:
            if root in self.tables.side_by_side:
                return self.tables.side_by_side[root], []
            if root in self.targets:
                return self._wanted(root)
            self._section(root, Place(SCRATCH, self.tables.take(SCRATCH, _count(root))))
        return self.sections[root]

    def _wanted(self, root: tuple[Run, ...]) -> tuple[Place, list[int]]:
        """Return where something lies that is a target, or a part of one."""
        place, (target, begin) = self.targets[root]
        if self.sections.get(tuple(target), (None,))[0] != begin:
            self._section(target, begin)
        ends = np.cumsum([begin.at, *(r.n for r in target)]).tolist()
        first = ends.index(place.at)
        return place, self.sections[tuple(target)][1][first : first + len(root)]

    def _stage_of(self, i: int) -> int:
        if i not in self.stage:
            node = self._node(i)
            waits = self.from_[i][1] if i in self.from_ else [a.node for a in node.args]
            self.stage[i] = 0
            for a in waits:
                if a in self.needed:
                    later = self._node(a).op == "product"
                    self.stage[i] = max(self.stage[i], self._stage_of(a) + later)
        return self.stage[i]

    def _store_across(self, order: list[int]) -> None:
        """Give a place to what another stage, or a product, reads or writes."""
        for i in order:
            node = self._node(i)
            for a in node.args if node.op != "product" else ():
                if (
                    a.node in self.needed
                    and self.stage[a.node] != self.stage[i]
                    and not self.dest[a.node]
                ):
                    n = self._node(a.node).n
                    self.dest[a.node].append((Place(SCRATCH, self.tables.take(SCRATCH, n)), False))

    def _product(self, i: int) -> list[int]:
        node, tables = self._node(i), self.tables
        matrix, start = node.value
        if self.counts:
            tables.work += 2.0 * matrix.k * matrix.n
        if not self.dest[i]:
            self.dest[i].append((Place(SCRATCH, tables.take(SCRATCH, node.n)), False))
        number = len(tables.matrices) // 6
        tables.matrices += [
            matrix.tensor,
            matrix.at,
            matrix.k,
            matrix.n,
            matrix.k_stride,
            matrix.n_stride,
        ]
        begin = -1 if start is None else tables.vector(start[0]) + start[1]
        return [0, number, *self.from_[i][0], *self.dest[i][0][0], begin]


class _Kernel:
    """The C++ of one kernel: for every row loops over the numbers of nodes, one behind another."""

    def __init__(self, phase: _Phase, nodes: list[int], number: int) -> None:
        self.phase, self.here = phase, set(nodes)
        self.line = phase.tables.line_of_cache
        self.bases: set[int] = set()
        self.temporary = 0
        self.place: dict[int, Place] = {}
        self.loop: dict[int, int] = {}
        for i in nodes:
            self.loop[i] = self._loop_of(i)
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for i in nodes:
            groups[self.loop[i], self._length(i)].append(i)
        self.group = {i: key for key, members in groups.items() for i in members}
        for i in nodes:
            self._store_for_others(i, nodes)
        body = [
            self._emit(n, members)
            for (_, n), members in sorted(groups.items(), key=lambda g: (g[0][0], g[0][1]))
        ]
        head = [
            f"T* const b{b} = base[{b}][{0 if b == TEMPORARY else 'r'}];"
            for b in sorted(self.bases)
        ]
        phase.tables.taken[TEMPORARY] = max(phase.tables.taken[TEMPORARY], self.temporary)
        if phase.counts:
            phase.tables.work += sum(20.0 * self._node(i).n for i in nodes)
        lines = "\n".join(head + body).replace("\n", "\n        ")
        self.text = (
            f'extern "C" __attribute__((visibility("default")))\n'
            f"void k{number}(T* const* const* base, const T* vectors, int64_t rows) {{\n"
            "    (void)vectors;\n"
            f"    for (int64_t r = 0; r < rows; ++r) {{\n        {lines}\n    }}\n}}\n"
        )

    def _node(self, i: int) -> _Node:
        return self.phase._node(i)

    def _length(self, i: int) -> int:
        node = self._node(i)
        return node.args[0].n if node.op in REDUCTIONS else node.n

    def _together(self, i: int, a: Run) -> bool:
        """Tell whether an operand can be taken from the register in which it was computed."""
        node = self._node(a.node)
        if node.op in REDUCTIONS:
            return False
        if self._length(i) == 1 or node.n == 1:
            return node.n == 1 and self._length(i) == 1
        return a.step == 1 and a.at == 0 and a.n == node.n == self._length(i)

    def _loop_of(self, i: int) -> int:
        loop = 0
        for a in self._node(i).args:
            if a.node in self.here:
                loop = max(loop, self.loop[a.node] + (not self._together(i, a)))
        return loop

    def _is_number(self, i: int) -> bool:
        return i in self.here and self._node(i).n == 1

    def _store_for_others(self, i: int, nodes: list[int]) -> None:
        if self._is_number(i):
            return
        for j in nodes:
            for a in self._node(j).args:
                if a.node == i and not (self._together(j, a) and self.group[j] == self.group[i]):
                    if self.phase.dest[i]:
                        self.place[i] = self.phase.dest[i][0][0]
                    elif i not in self.place:
                        self.place[i] = Place(TEMPORARY, self.temporary)
                        self.temporary += self.phase.tables.padded(self._node(i).n)

    def _pointer(self, place: Place) -> str:
        self.bases.add(place.base)
        return f"b{place.base} + {place.at}"

    def _operand(self, i: int, a: Run, loads: dict[str, str]) -> str:
        node = self._node(a.node)
        if node.op == "constant":
            number = float(node.value)
            if math.isnan(number):
                return "splat(std::numeric_limits<T>::quiet_NaN())"
            if math.isinf(number):
                return f"splat({'-' if number < 0 else ''}std::numeric_limits<T>::infinity())"
            return f"splat(T({node.value}))"
        if a.node in self.here:
            if node.n == 1:
                return f"splat(s{a.node})"
            if self._together(i, a) and self.group[a.node] == self.group[i]:
                return f"v{a.node}"
            place = self.place[a.node]
        elif node.op == "leaf" and node.value[0] == "w":
            at = self.phase.tables.vector(a.node) + a.at
            return self._loaded(f"vectors + {at}", a, self._length(i), False, loads)
        elif a.node in self.phase.known:
            place = self.phase.known[a.node]
        else:
            place = self.phase.dest[a.node][0][0]
        pointer = self._pointer(Place(place.base, place.at + a.at))
        return self._loaded(pointer, a, self._length(i), place.base == X, loads)

    def _loaded(self, pointer: str, a: Run, n: int, is_foreign: bool, loads: dict[str, str]) -> str:
        if n == 1 or not a.step:
            text = f"splat(({pointer})[0])"
        elif is_foreign and n % self.line:
            text = f"load_part<T>({pointer} + i, {n} - i)"
        else:
            text = f"load({pointer} + i)"
        return text if n == 1 else loads.setdefault(text, f"m{len(loads)}")

    def _emit(self, n: int, members: list[int]) -> str:
        loads: dict[str, str] = {}
        computed: list[str] = []
        stores: list[str] = []
        folds = [i for i in members if self._node(i).op in REDUCTIONS]
        for i in members:
            node = self._node(i)
            operands = [self._operand(i, a, loads) for a in node.args]
            if node.op in REDUCTIONS:
                start = REDUCTIONS[node.op]
                value = (
                    operands[0]
                    if n % self.line == 0
                    else f"first_lanes<T>({operands[0]}, {n} - i, {start})"
                )
                joined = (
                    f"f{i}[u] + {value}" if node.op == "sum" else f"maximum<T>(f{i}[u], {value})"
                )
                stores.append(f"f{i}[u] = {joined};")
                continue
            text = ELEMENTWISE[node.op].format(*operands)
            if n == 1:
                computed.append(f"const T s{i} = Vec<T>({text})[0];")
                stores += [
                    f"({self._pointer(place)})[0] = s{i};" for place, _ in self.phase.dest[i]
                ]
                continue
            computed.append(f"const Vec<T> v{i} = {text};")
            places = list(self.phase.dest[i])
            if not places and i in self.place:
                places = [(self.place[i], False)]
            for place, is_inside in places:
                pointer = self._pointer(place)
                if is_inside and n % self.line:
                    stores.append(f"store_part<T>({pointer} + i, v{i}, {n} - i);")
                else:
                    stores.append(f"store({pointer} + i, v{i});")
        inner = (
            [f"const Vec<T> {name} = {text};" for text, name in loads.items()] + computed + stores
        )
        if n == 1:
            return "\n".join(computed + stores)
        body = "\n    ".join(inner)
        if not folds:
            return f"for (int64_t i = 0; i < {n}; i += W<T>) {{\n    {body}\n}}"
        begin = [
            f"Vec<T> f{i}[turns];\nfor (auto& f : f{i}) f = splat({REDUCTIONS[self._node(i).op]});"
            for i in folds
        ]
        end = []
        for i in folds:
            end.append(
                f"const T s{i} = {'sum' if self._node(i).op == 'sum' else 'maximum'}_of<T>(f{i});"
            )
            end += [f"({self._pointer(place)})[0] = s{i};" for place, _ in self.phase.dest[i]]
        loop = (
            f"for (int64_t j = 0; j < {n}; j += turns * W<T>)\n"
            f"    for (int u = 0; u < turns; ++u) {{\n"
            f"    const int64_t i = j + u * W<T>;\n    if (i >= {n}) break;\n    {body}\n    }}"
        )
        return "\n".join([*begin, loop, *end])
