"""A traced step as a program: which numbers lie where, and which products make them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import fx

from ostinato.recurrence.backends.programs.interpreter import _Interpreter
from ostinato.recurrence.backends.programs.kernels import _Phase
from ostinato.recurrence.backends.programs.tracing import _Step, _Traced, _traced
from ostinato.recurrence.backends.programs.values import (
    _BITS,
    AHEAD,
    BACK,
    BEFORE,
    CHEAP,
    CONSTANT,
    D_AFTER,
    D_BEFORE,
    DX,
    ELEMENTWISE,
    GRADIENT,
    INPUT,
    LINE,
    NO_BASE,
    SCRATCH,
    STATE,
    TEMPORARY,
    VECTORS,
    NotCompiled,
    Place,
    Run,
    Written,
    X,
    _count,
    _Node,
    _parts_of,
    _Tables,
    _Tail,
    _Targets,
    _Value,
    _within,
)
from ostinato.recurrence.cells import Cell


def _split(nodes: list[_Node], roots: list[list[Run]]) -> tuple[list[_Node], list[list[Run]]]:
    """Cut nodes whose numbers are used apart, as gates are, and drop those without use."""
    uses: dict[int, list[tuple[int, int, bool]]] = defaultdict(list)  # begin, end, may be cut

    def use(run: Run, may_cut: bool) -> None:
        n = run.n if run.step else 1
        uses[run.node].append((run.at, run.at + n, may_cut))

    for root in roots:
        for run in root:
            use(run, True)
    pieces: dict[int, list[tuple[int, int]]] = {}
    for i in reversed(range(len(nodes))):
        node = nodes[i]
        if not uses[i]:
            continue
        cuts = sorted({0, node.n, *(a for u in uses[i] for a in u[:2])})
        rigid = [(a, b) for a, b, may_cut in uses[i] if not may_cut]
        whole = node.op not in ELEMENTWISE or any(a < cut < b for a, b in rigid for cut in cuts)
        pieces[i] = [(0, node.n)] if whole else list(pairwise(cuts))
        for a, b in pieces[i]:
            for arg in node.args:
                one = (
                    arg
                    if node.op not in ELEMENTWISE
                    else Run(arg.node, arg.at + a * arg.step, arg.step, b - a)
                )
                use(one, node.op == "product")
    found: list[_Node] = []
    known: dict[object, int] = {}  # pieces may be equal where what they were cut from is not
    places: dict[int, list[tuple[int, int, int]]] = {}

    def moved(run: Run) -> list[Run]:
        n = run.n if run.step else 1
        return [
            Run(
                new,
                max(run.at, a) - a,
                run.step,
                min(run.at + n, b) - max(run.at, a) if run.step else run.n,
            )
            for a, b, new in places[run.node]
            if a < run.at + n and run.at < b
        ]

    for i in sorted(pieces):
        node, places[i] = nodes[i], []
        for a, b in pieces[i]:
            if node.op in ELEMENTWISE:
                args = tuple(
                    moved(Run(r.node, r.at + a * r.step, r.step, b - a))[0] for r in node.args
                )
            else:
                args = tuple(each for r in node.args for each in moved(r))
            value = node.value
            if node.op == "product" and value[1] is not None:
                value = value[0], (places[value[1][0]][0][2], value[1][1])
            key = node.op, args, b - a, value
            if key not in known:
                known[key] = len(found)
                found.append(_Node(node.op, args, b - a, node.kind, value))
            places[i].append((a, b, known[key]))
    return found, [[each for run in root for each in moved(run)] for root in roots]


def _factors(
    nodes: Sequence[_Node], runs: Sequence[Run]
) -> tuple[tuple[Run, ...], tuple[Run, ...]] | None:
    """Return the factors of numbers that are products, what depends on a gradient first.

    None where they are none.
    """
    pairs = []
    for r in runs:
        node = nodes[r.node]
        if node.op != "mul" or not r.step or not all(a.step or a.n == 1 == r.n for a in node.args):
            return None
        pair = [Run(a.node, a.at + r.at, 1, r.n) for a in node.args]
        pair.sort(key=lambda a: nodes[a.node].kind, reverse=True)
        if nodes[pair[1].node].kind == CONSTANT:
            return None
        pairs.append(pair)
    of, factor = zip(*pairs, strict=True)
    return of, factor


class _Writer:
    """Writes the program of a cell; see `write_program`."""

    def __init__(self, cell: Cell, dtype: torch.dtype, step: _Step) -> None:
        traced = _traced(step)
        self.sizes = list(cell.state_sizes)
        S, run = len(self.sizes), _Interpreter(traced, cell.input_size, cell.state_sizes)
        line_of_cache = 64 // torch.empty(0, dtype=dtype).element_size()
        values = [run._value(o) for o in run.outputs[: 2 * S + 1]]
        roots = [list(run.runs_of(v)) for v in values]
        jobs, results = self._jobs(run)
        for of, source, _ in jobs:
            roots += [list(of), list(source or ())]
        for node in list(run.nodes):  # where sums begin
            if node.op == "product" and node.value[1] is not None:
                roots.append([Run(node.value[1][0], 0, 1, run.nodes[node.value[1][0]].n)])
        self.nodes, roots = _split(run.nodes, roots)
        self.after, self.dx, self.before = roots[:S], roots[S], roots[S + 1 : 2 * S + 1]
        pairs = roots[2 * S + 1 : 2 * S + 1 + 2 * len(jobs)]
        runs = [r for root in roots for r in root] + [r for n in self.nodes for r in n.args]
        ends = [n for r in runs if r.n > 1 for n in (r.at, r.n)]
        is_odd = any(n % line_of_cache for n in (*self.sizes, *ends))
        self.tables = _Tables(self.nodes, line_of_cache, is_odd)
        self.state_at = [self.tables.take(LINE, n) for n in self.sizes]
        state_length = self.tables.taken[LINE]
        self.leaves = {
            i: {
                "x": lambda s: Place(X, 0),
                "state": lambda s: Place(BEFORE, self.state_at[s]),
                "gradient": lambda s: Place(D_AFTER, self.state_at[s]),
            }[node.value[0]](node.value[1])
            for i, node in enumerate(self.nodes)
            if node.op == "leaf" and node.value[0] != "w"
        }
        self._plan(pairs)
        sums = self._sums(pairs, [is_factor for *_, is_factor in jobs])
        self.tables.taken[TEMPORARY] += 1
        state_type: Any = cell.state_type
        output = state_type._fields.index("h")
        order = [
            state_length,
            0,
            # One more line of the cache, or rows would share few of its sets.
            *(
                self.tables.taken[b] + self.tables.line_of_cache
                for b in (LINE, BACK, AHEAD, SCRATCH)
            ),
            self.tables.taken[TEMPORARY],
            self.tables.taken[VECTORS],
        ]
        tail = self._tail(run, traced, S, results)
        self.written = Written(
            [cell.input_size, S, output, *order],
            [n for pair in zip(self.sizes, self.state_at, strict=True) for n in pair],
            self.tables.operations,
            self.tables.matrices,
            self.tables.vectors,
            sums,
            self.tables.work,
            self._source(),
            self.tables.kernels,
            step.front,
            run.strides,
            tail,
            results,
            order[2],
            order[3],
            list(run.names),
        )

    # Sums over rows

    def _jobs(
        self, run: _Interpreter
    ) -> tuple[list[tuple[tuple[Run, ...], tuple[Run, ...] | None, bool]], list[Any]]:
        """Return what is summed over rows, and how the results are put together.

        Jobs are what is summed, the source of its product, and whether that is one number by number
        instead, and not of all pairs.
        """
        jobs: list[tuple[tuple[Run, ...], tuple[Run, ...] | None, bool]] = []
        results: list[Any] = []
        values = [run._value(o) for o in run.outputs[: 2 * len(self.sizes) + 1]]
        values += [v for a, b, _ in run.sums if b is not None for v in (a, b)]
        used = {a.node for node in run.nodes for a in node.args}
        used |= {int(code) >> _BITS for v in values for code in v.flat}
        for a, b, _ in run.sums:
            if b is None:
                results.append(([len(jobs)], a.shape, False))
                runs = run.runs_of(a)
                is_free = not any(r.node in used for r in runs)
                factors = _factors(run.nodes, runs) if is_free else None
                jobs.append((*factors, True) if factors else (runs, None, False))
                continue
            A = a.codes.reshape(-1, a.shape[-2])  # of each head; the batch is an axis of 1
            Bm = b.codes.reshape(-1, b.shape[-1])
            first = run.runs_of(_Value((A.shape[1],), None, A[0]))
            turned = max(run.nodes[r.node].kind for r in first) < GRADIENT
            shape = (*a.shape[:-1], b.shape[-1])
            results.append((list(range(len(jobs), len(jobs) + len(A))), shape, turned))
            for of, source in zip(A, Bm, strict=True):
                pair = [run.runs_of(_Value((len(each),), None, each)) for each in (of, source)]
                jobs.append((pair[turned], pair[not turned], False))
        return jobs, results

    def _sums(self, pairs: list[list[Run]], is_factor: Sequence[bool]) -> list[int]:
        """Return the table of sums; those of the same numbers go through memory together."""
        groups: dict[tuple[Place, int], list[tuple[int, int, Place | None, int]]] = defaultdict(
            list
        )
        for job, (of, source) in enumerate(zip(pairs[::2], pairs[1::2], strict=True)):
            place = self.sum_places[tuple(of)]
            other = self.sum_places[tuple(source)] if source else None
            groups[place, _count(of)].append((job, _count(of), other, _count(source)))
        table: list[int] = []
        for (place, rows), members in groups.items():
            products = [m for m in members if m[2] is not None and not is_factor[m[0]]]
            plain = [m for m in members if m[2] is None or is_factor[m[0]]]
            plain.sort(key=lambda m: m[2] is not None)
            while products or plain:
                two, products = products[:2], products[2:]
                # With products goes a sum without a factor.
                one = plain.pop(0) if plain and not (two and plain[0][2]) else None
                factor = Place(NO_BASE, 0) if one is None or one[2] is None else one[2]
                sources = [p for m in two for p in (m[2] or place)] + [0] * (4 - 2 * len(two))
                columns = [m[3] for m in two] + [0] * (2 - len(two))
                to = [m[0] for m in two] + [-1] * (2 - len(two))
                table += [
                    *place,
                    rows,
                    len(two),
                    *sources,
                    *columns,
                    *to,
                    -1 if one is None else one[0],
                    *factor,
                ]
        return table

    def _tail(
        self, run: _Interpreter, traced: _Traced, S: int, results: list[Any]
    ) -> fx.GraphModule:
        """Write what PyTorch does with the sums, for the gradients of the tensors."""
        graph = fx.Graph()
        new: dict[fx.Node, fx.Node] = {}
        sums = iter([graph.placeholder(f"sum{i}") for i in range(len(results))])
        for node in run.weight_nodes:
            new[node] = graph.placeholder(node.name)
        first = {n for n in run.env if isinstance(run.env[n], _Tail)}
        for n in traced.graph.nodes:
            if n not in first:
                continue
            if n in run.tail:
                for i in n.all_input_nodes:
                    self._copy(graph, new, i)
                new[n] = graph.node_copy(n, lambda each: new[each])
            else:
                new[n] = next(sums)
        found: list[Any] = []
        for o in run.outputs[2 * S + 1 :]:
            value = run.env.get(o)
            if isinstance(value, _Tail):
                found.append(new[o])
            elif value is None or all(run.is_constant(int(c), 0.0) for c in value.flat):
                found.append(None)
            else:
                raise NotCompiled("a gradient that no row plays a part in")
        graph.output(tuple(found))
        return fx.GraphModule(torch.nn.Module(), graph)

    def _copy(self, graph: fx.Graph, new: dict[fx.Node, fx.Node], n: fx.Node) -> None:
        """Copy what does not depend on rows."""
        if n in new:
            return
        if n.op != "call_function" or any(
            i.op == "placeholder" and i not in new for i in n.all_input_nodes
        ):
            raise NotCompiled("a gradient of a weight that depends on single rows")
        for i in n.all_input_nodes:
            self._copy(graph, new, i)
        new[n] = graph.node_copy(n, lambda each: new[each])

    # Memory

    def _is_given(self, i: int) -> bool:
        return self.nodes[i].op in ("leaf", "constant")

    def _reached(self, roots: Iterable[int], into: Callable[[int], bool]) -> set[int]:
        found: set[int] = set()
        stack = [i for i in roots if into(i)]
        while stack:
            i = stack.pop()
            if i not in found:
                found.add(i)
                stack += [a.node for a in self.nodes[i].args if into(a.node)]
        return found

    # Phases

    def _plan(self, pairs: list[list[Run]]) -> None:
        """Decide what is computed when and kept where, and write the four phases."""
        nodes = self.nodes

        def is_gradient(i: int) -> bool:
            return nodes[i].kind == GRADIENT and not self._is_given(i)

        in_back = self._reached((r.node for root in self.before for r in root), is_gradient)
        roots = [r.node for root in [self.dx, *pairs] for r in root]
        in_after = self._reached(roots, lambda i: is_gradient(i) and i not in in_back)
        # What the sums read must lie side by side.
        self.sum_places: dict[tuple[Run, ...], Place] = {}
        line_targets: list[tuple[list[Run], Place]] = []
        back_targets: list[tuple[list[Run], Place]] = []
        after_targets: list[tuple[list[Run], Place]] = []
        for root in sorted(pairs, key=len, reverse=True):
            key = tuple(root)
            if not root or key in self.sum_places:
                continue
            for at in (
                at for t in (back_targets, after_targets, line_targets) for at in _within(t, key)
            ):
                self.sum_places[key] = at
            if key in self.sum_places:
                continue
            kinds = {nodes[r.node].kind for r in root}
            leaf = self.leaves.get(root[0].node) if len(root) == 1 and root[0].step else None
            if leaf is not None and leaf.base in (X, BEFORE):
                self.sum_places[key] = Place(leaf.base, leaf.at + root[0].at)
                continue
            if len(root) == 1 and root[0].step:
                state = self._state_place(root[0].node)
                if state is not None:
                    self.sum_places[key] = Place(LINE, state.at + root[0].at)
                    continue
            if max(kinds) < GRADIENT:
                place = Place(LINE, self.tables.take(LINE, _count(root)))
                line_targets.append((root, place))
            else:
                place = Place(BACK, self.tables.take(BACK, _count(root)))
                late = any(r.node in in_after for r in root)
                (after_targets if late else back_targets).append((root, place))
            self.sum_places[key] = place
        # What the last phase reads of the one before it.
        stored = {
            t[0][0].node
            for t in back_targets
            if len(t[0]) == 1 and t[0][0].n == nodes[t[0][0].node].n
        }
        direct = [r.node for t in (*after_targets, (self.dx, None)) for r in t[0]]
        crossing = {a.node for i in in_after for a in nodes[i].args} | set(direct)
        for i in sorted(crossing):
            is_leaf = i in self.leaves and self.leaves[i].base == D_AFTER
            covered = any(r.node == i and r.n == nodes[i].n for t in back_targets for r in t[0])
            if (i in in_back or is_leaf) and i not in stored and not covered:
                back_targets.append(
                    ([Run(i, 0, 1, nodes[i].n)], Place(BACK, self.tables.take(BACK, nodes[i].n)))
                )
        # What backward reads of forward.
        saved = self._whole(line_targets)
        keep: list[int] = []

        def frontier(i: int) -> set[int]:
            node = nodes[i]
            if self._is_given(i) or i in saved or self._state_place(i) is not None:
                return set()
            if node.op in CHEAP or node.kind == CONSTANT:
                return set().union(*(frontier(a.node) for a in node.args))
            return {i}

        def want(i: int) -> None:
            missing = frontier(i)
            if sum(nodes[m].n for m in missing) > nodes[i].n:
                missing = {i}
            for m in sorted(missing):
                saved[m] = Place(LINE, self.tables.take(LINE, nodes[m].n))
                keep.append(m)

        forward = {
            a.node
            for i in in_back | in_after
            for a in nodes[i].args
            if nodes[a.node].kind < GRADIENT and not self._is_given(a.node)
        } | {
            r.node
            for root in [self.dx, *self.before, *(t[0] for t in back_targets + after_targets)]
            for r in root
            if nodes[r.node].kind < GRADIENT and not self._is_given(r.node)
        }
        for i in sorted(forward, key=lambda i: (nodes[i].op in CHEAP, i)):
            want(i)
        # Forward: first what the input alone decides, for many steps at a time.
        targets = [
            (root, Place(LINE, at)) for root, at in zip(self.after, self.state_at, strict=True)
        ]
        targets += line_targets + [([Run(i, 0, 1, nodes[i].n)], saved[i]) for i in keep]
        early = [
            t for t in targets[len(self.after) :] if all(nodes[r.node].kind <= INPUT for r in t[0])
        ]
        targets = [t for t in targets if not any(t is e for e in early)]
        in_step = self._reached(
            (r.node for root, _ in targets for r in root),
            lambda i: nodes[i].kind == STATE and not self._is_given(i),
        )
        early_saved, ahead = self._whole(early), dict[int, Place]()
        needed = {a.node for i in in_step for a in nodes[i].args} | {
            r.node for t in targets for r in t[0]
        }
        for i in sorted(needed):
            if nodes[i].kind == INPUT and not self._is_given(i) and i not in early_saved:
                ahead[i] = Place(AHEAD, self.tables.take(AHEAD, nodes[i].n))
                early.append(([Run(i, 0, 1, nodes[i].n)], ahead[i]))
        weights = {i: Place(X, 0) for i, p in self.leaves.items() if p.base == X}
        states = {i: p for i, p in self.leaves.items() if p.base in (X, BEFORE)}
        in_line = dict(saved)
        for i in range(len(nodes)):
            given = self._state_place(i)
            if given is not None and not self._is_given(i):
                in_line.setdefault(i, given)
        self._phase(early, weights, True)
        self._phase(targets, states | ahead | early_saved, True)
        targets = [
            (root, Place(D_BEFORE, at)) for root, at in zip(self.before, self.state_at, strict=True)
        ]
        self.tables.side_by_side = _parts_of(line_targets)
        self._phase(targets + back_targets, self.leaves | in_line, False)
        self.tables.side_by_side |= _parts_of(back_targets)
        in_backs = self._whole(back_targets)
        self._phase([(self.dx, Place(DX, 0)), *after_targets], states | in_line | in_backs, False)

    def _whole(self, targets: _Targets) -> dict[int, Place]:
        """Return where nodes lie that targets have as a whole, but for what a program is given."""
        found: dict[int, Place] = {}
        for root, place in targets:
            at = place.at
            for r in root:
                is_whole = r.step and r.at == 0 and r.n == self.nodes[r.node].n
                if is_whole and (place.base == BACK or not self._is_given(r.node)):
                    found.setdefault(r.node, Place(place.base, at))
                at += r.n
        return found

    def _state_place(self, i: int) -> Place | None:
        """Return where a node lies as a state after the step, if it is one."""
        for root, at in zip(self.after, self.state_at, strict=True):
            for r in root:
                if r.node == i and r.step and r.at == 0 and r.n == self.nodes[i].n:
                    return Place(LINE, at)
                at += r.n
        return None

    def _phase(
        self, targets: list[tuple[list[Run], Place]], known: Mapping[int, Place], counts: bool
    ) -> None:
        """Write the kernels and products that compute targets from what is known where."""
        _Phase(self.tables, targets, known, counts)

    def _source(self) -> str:
        return "\n".join(self.tables.source)
