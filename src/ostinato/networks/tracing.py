"""Observe recurrent layers while they run: their states in the graph, or their gates."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree

from ostinato.networks.arrangements import ManyToMany, ManyToOne
from ostinato.recurrence import backends
from ostinato.recurrence.cells import Cell, State, Trace
from ostinato.recurrence.dropin import GRU, LSTM, RNN
from ostinato.recurrence.layers import Hidden, LayerCall, Recurrent, observing
from ostinato.recurrence.scan import mask_of, reverse_rows

MAX_NODES = 1000
"""Nodes of the graph in which the origin of a state is looked for."""

MAX_SEQUENCES = 100
"""Latest sequences whose last state is compared with one that is detached."""


@dataclass(eq=False)
class Track:
    """States of one layer in one direction over one sequence, as nodes of the autograd graph.

    A call with a state that comes from an earlier call of the layer goes on with its sequence, so
    that chunks, and the steps of a loop over a cell, are one track.

    Attributes:
        name: name of the layer.
        states: states after each step, in the order of processing; tensors ``(B, size)``. The rows
            of a later call may be fewer: the first ones.
        running: for each step, which rows have it, ``(B,)``; other rows keep their state.
        cuts: names of the states that came without their gradient, such as detached ones, by the
            number of the step that takes them.
        calls: number of calls.
        has_lengths: whether the layer was given the length of each row.
        direction: 1 for the backward direction of a bidirectional layer.
        traces: gates and states of each call, from `tracing`.
        rows: number of rows.
    """

    name: str
    states: list[State] = field(default_factory=list)
    running: list[Tensor] = field(default_factory=list)
    cuts: dict[int, tuple[str, ...]] = field(default_factory=dict)
    calls: int = 0
    has_lengths: bool = False
    direction: int = 0
    traces: list[Trace] = field(default_factory=list)
    rows: int = 0
    _place: tuple[int, int] = (0, 0)
    _moves_back: bool = False

    @property
    def reverse(self) -> bool:
        """Whether the steps are processed from the last to the first, as in a loop backward."""
        return self.direction == 1 or self._moves_back

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors of all states."""
        return [tensor for state in self.states for tensor in state]

    @property
    def mask(self) -> Tensor:
        """Which rows have which steps, ``(T, B)``, in the order of processing."""
        return stack_rows(self.running) if self.running else torch.zeros(0, self.rows).bool()

    def _add(self, call: LayerCall, states: Sequence[State]) -> None:
        """Go on with a call and the states in it."""
        tokens = call.x if call.tokens is None else call.tokens
        T, B = tokens.shape[:2]
        lengths = torch.full((B,), T) if call.lengths is None else call.lengths.cpu()
        self.running.extend(mask_of(lengths, T)[..., 0])
        self.states.extend(states)
        self.rows = max(self.rows, B)
        self.calls += 1
        self.has_lengths |= call.lengths is not None
        # A loop from the last step to the first takes views that move backward in one tensor.
        place = tokens.untyped_storage().data_ptr(), int(tokens.storage_offset())
        earlier = place[0] == self._place[0] and place[1] < self._place[1]
        self._moves_back = earlier and (self._moves_back or self.calls == 2)
        self._place = place


class Traced(NamedTuple):
    """Gates and states of one layer in one direction.

    Attributes:
        name: name of the layer.
        cell: its cell.
        trace: gates and states, tensors ``(T, B, size)``.
        ends: steps of each row.
    """

    name: str
    cell: Cell
    trace: Trace
    ends: Tensor


def stacks_of(network: nn.Module) -> list[tuple[str, nn.Module, Recurrent]]:
    """Return the recurrent layers of a network: name, the module, and a layer that computes it.

    For the arrangements of `networks` these are the layers after the encoder. A layer of `torch.nn`
    is computed by one of Ostinato that shares its weights.
    """
    chosen = network.recurrent if isinstance(network, ManyToMany | ManyToOne) else network
    return [
        (name, module, ours)
        for name, module in chosen.named_modules()
        if (ours := module if isinstance(module, Recurrent) else _ours(module)) is not None
    ]


@contextmanager
def recording(network: nn.Module) -> Iterator[list[Track]]:
    """Run recurrent layers one step at a time inside the block, and record every state.

    Yields a list to which calls of the network add a `Track` for each layer, direction and
    sequence.
    """
    sequences = _Sequences()

    def record(name: str, call: LayerCall) -> tuple[Tensor, State]:
        y, last, states = _run_steps(call)
        for direction, each in enumerate(states):
            if each:
                sequences.add(name, direction, call, each)
        return y, last

    with _observed(network, record):
        yield sequences.tracks


@contextmanager
def tracing(network: nn.Module) -> Iterator[list[Traced]]:
    """Record gates and states of recurrent layers inside the block, at their usual speed.

    Yields a list that has a `Traced` for each layer and direction once the block has ended.
    """
    sequences, seen = _Sequences(), list[Traced]()
    cells: dict[str, Cell] = {}

    def trace(name: str, call: LayerCall) -> tuple[Tensor, State]:
        own: list[Trace] = []
        y, last = backends.run(*call._replace(traces=own))
        for direction, each in enumerate(own):
            end = call.cell.state_type(*(s[direction] for s in last))
            track = sequences.add(name, direction, call, [end])
            track.traces.append(each)
            cells[track.name] = call.cell
        if call.traces is not None:
            call.traces.extend(own)
        return y, last

    with _observed(network, trace):
        yield seen
    for name, tracks in sequences.by_name().items():
        seen.append(_joined(name, cells[name], tracks))


@contextmanager
def _observed(
    network: nn.Module, run: Callable[[str, LayerCall], tuple[Tensor, State]]
) -> Iterator[None]:
    """Let ``run(name, call)`` run each recurrent layer of a network, by its name."""
    stacks = stacks_of(network)
    names = {ours: name for name, _, ours in stacks}
    cells = {ours for name, module, ours in stacks if isinstance(module, nn.RNNCellBase) and name}

    def observer(stack: Recurrent, number: int, call: LayerCall) -> tuple[Tensor, State]:
        if stack not in names:
            return backends.run(*call)
        layer = "" if stack in cells else f"layer {number}"
        return run(".".join(filter(None, [names[stack], layer])), call)

    with ExitStack() as hooks:
        for _, module, ours in stacks:
            if ours is not module:
                _compute_by(ours, module, hooks)
        hooks.enter_context(observing(observer))
        yield


def _compute_by(ours: Recurrent, module: nn.Module, hooks: ExitStack) -> None:
    """Replace the output of a module of `torch.nn` by that of ours, with the same dropout."""
    random: list[Tensor] = []
    run = _step_of(ours) if isinstance(module, nn.RNNCellBase) else ours

    def before(module: nn.Module, args: tuple[object, ...]) -> None:
        random.append(torch.get_rng_state())

    def after(
        module: nn.Module,
        args: tuple[Tensor | PackedSequence, Hidden],
        kwargs: Mapping[str, Hidden],
        output: object,
    ) -> object:
        torch.set_rng_state(random.pop())
        _share_weights(ours, module)
        return run(*args, **kwargs)

    hooks.callback(module.register_forward_pre_hook(before).remove)
    hooks.callback(module.register_forward_hook(after, with_kwargs=True).remove)


def _step_of(ours: Recurrent) -> Callable[..., object]:
    """Return one step of a layer, called as a cell of `torch.nn`."""

    def step(input: Tensor, hx: object = None) -> object:
        x, before = _pytree.tree_map(lambda t: t if t is None else t[None], (input, hx))
        last = _pytree.tree_map(lambda t: t[0], ours(x, before)[1])
        return tuple(last) if isinstance(last, tuple) else last

    return step


def _ours(module: nn.Module) -> Recurrent | None:
    """Return a layer that shares the weights of a layer of `torch.nn`; None for other modules."""
    kind = next((k for k in _DROP_INS if isinstance(module, k)), None)
    if kind is None or type(module).forward is not kind.forward:
        return None
    make, own = _DROP_INS[kind]
    names = ["input_size", "hidden_size", "bias", *own]
    ours = make(**{name: getattr(module, name) for name in names}, device="meta")
    _share_weights(ours, module)
    return ours.train(module.training)


def _share_weights(ours: Recurrent, module: nn.Module) -> None:
    """Give a layer the weights of a module; those that it computes, such as normed ones, too."""
    suffix = "_l0" if isinstance(module, nn.RNNCellBase) else ""
    for name in ours._flat_weights_names:
        weight = getattr(module, name.removesuffix(suffix))
        if not isinstance(weight, nn.Parameter):
            ours._parameters.pop(name, None)
        setattr(ours, name, weight)


_OPTIONS = ["num_layers", "batch_first", "dropout", "bidirectional"]
_DROP_INS: dict[type[nn.Module], tuple[Callable[..., Recurrent], list[str]]] = {
    nn.RNN: (RNN, [*_OPTIONS, "nonlinearity"]),
    nn.LSTM: (LSTM, [*_OPTIONS, "proj_size"]),
    nn.GRU: (GRU, _OPTIONS),
    nn.RNNCell: (RNN, ["nonlinearity"]),
    nn.LSTMCell: (LSTM, []),
    nn.GRUCell: (GRU, []),
}


def stack_rows(steps: Sequence[Tensor]) -> Tensor:
    """Stack tensors ``(B, ...)``, zeros where the batch of one is smaller than that of others."""
    B = max(map(len, steps))
    return torch.stack([_padded(step, B) for step in steps])


def _padded(tensor: Tensor, size: int, dim: int = 0) -> Tensor:
    """Append zeros along an axis."""
    shape = [*tensor.shape]
    shape[dim] = size - shape[dim]
    return torch.cat([tensor, tensor.new_zeros(shape)], dim) if shape[dim] else tensor


class _Sequences:
    """The tracks of all layers, and to which of them a call belongs."""

    def __init__(self) -> None:
        self.tracks: list[Track] = []
        # By layer, the nodes of the graph that made its states.
        self._nodes = defaultdict[str, dict[object, Track]](dict)

    def by_name(self) -> dict[str, list[Track]]:
        """Return the tracks of each layer and direction."""
        found = defaultdict[str, list[Track]](list)
        for track in self.tracks:
            found[track.name].append(track)
        return found

    def add(self, name: str, direction: int, call: LayerCall, states: Sequence[State]) -> Track:
        """Add a call of a layer, and the states in it, to the track that it goes on with."""
        name = f"{name} backward" if direction else name
        track, cut = None, tuple[str, ...]()
        if call.state is not None:
            before = call.cell.state_type(*(s[direction] for s in call.state))
            track, cut = self._before(name, before)
        if track is None:
            track = Track(name, direction=direction)
            self.tracks.append(track)
        elif cut:
            track.cuts[len(track.running)] = cut
        track._add(call, states)
        self._nodes[name].update(
            {t.grad_fn: track for state in states for t in state if t.grad_fn is not None}
        )
        return track

    def _before(self, name: str, before: State) -> tuple[Track | None, tuple[str, ...]]:
        """Return the track whose last state this is, and the states without their gradient."""
        origins = [_origin(tensor, self._nodes[name]) for tensor in before]
        found = next((track for track in origins if track is not None), None)
        known = any(bool(tensor.any()) for tensor in before)
        for track in self.tracks[-MAX_SEQUENCES:][::-1] if known else ():
            pairs = zip(before, track.states[-1], strict=True) if track.name == name else ()
            if found is None and any(_holds_rows(*pair) for pair in pairs):
                found = track
        return found, tuple(
            n for n, o in zip(before._asdict(), origins, strict=True) if o is not found
        )


def _origin(tensor: Tensor, nodes: Mapping[object, Track]) -> Track | None:
    """Return the track whose last state is the nearest in the graph from which a tensor comes."""
    queue, seen = deque([tensor.grad_fn]), set[object]()
    while queue and len(seen) < MAX_NODES:
        node = queue.popleft()
        if node is None or node in seen:
            continue
        seen.add(node)
        track = nodes.get(node)
        if track and any(node is t.grad_fn for t in track.states[-1]):
            return track
        if not track:
            queue.extend(each for each, _ in node.next_functions)
    return None


def _holds_rows(tensor: Tensor, other: Tensor) -> bool:
    """Return whether a row of a tensor, not all zeros, is the same in another."""
    n = min(len(tensor), len(other))
    a, b = tensor[:n].detach(), other[:n].detach()
    return bool(((a == b).all(-1) & (a != 0).any(-1)).any())


def _joined(name: str, cell: Cell, tracks: Sequence[Track]) -> Traced:
    """Join the traces of a layer: calls along time, sequences as rows."""
    sequences, ends = [], []
    for track in tracks:
        mask = track.mask
        B = mask.shape[1]
        parts = zip(*(_tensors(trace) for trace in track.traces), strict=True)
        tensors = [torch.cat([_padded(t, B, dim=1) for t in part]) for part in parts]
        if track.calls > 1:  # steps without padding between them
            order = mask.logical_not().sort(dim=0, stable=True).indices.to(tensors[0].device)
            tensors = [t[order, torch.arange(B, device=t.device)] for t in tensors]
        sequences.append(tensors)
        ends.append(mask.sum(0))
    T = max(len(tensors[0]) for tensors in sequences)
    whole = [torch.cat([_padded(t, T) for t in part], 1) for part in zip(*sequences, strict=True)]
    gates, states = cell.gates_type, cell.state_type
    count = len(whole) - len(cell.state_sizes)
    found = None if gates is None else gates(*whole[:count])
    return Traced(name, cell, Trace(found, states(*whole[count:])), torch.cat(ends))


def _tensors(trace: Trace) -> list[Tensor]:
    """Return the tensors of gates, then of states."""
    return [*(trace.gates or ()), *trace.states]


def _run_steps(call: LayerCall) -> tuple[Tensor, State, list[list[State]]]:
    """Return the results of a call, and the states of each direction as nodes of the graph."""
    cell, weights, x, state, lengths, tokens, *_ = call
    x = x if tokens is None else embedding(tokens, x)
    T, B = x.shape[:2]
    outputs, lasts, found = [], [], []
    for direction, w in enumerate(weights):
        steps = reverse_rows(x, lengths) if direction else x
        now = cell.zero_state(B, like=x)
        if state is not None:
            now = cell.state_type(*(s[direction] for s in state))
        states: list[State] = []
        for t in range(T):
            # Gradients flow to a state even where all weights are frozen.
            before = cell.state_type(*(_node(s)[None] for s in now))
            left = None if lengths is None else (t < lengths).long()
            _, new = backends.run(cell, [w], steps[t : t + 1], before, left)
            now = cell.state_type(*(s[0] for s in new))
            states.append(now)
        y = torch.stack([s.h for s in states]) if states else x.new_zeros(0, B, cell.output_size)
        if lengths is not None:
            y = torch.where(mask_of(lengths, T), y, 0.0)
        outputs.append(reverse_rows(y, lengths) if direction else y)
        lasts.append(now)
        found.append(states)
    last = cell.state_type(*(torch.stack(parts) for parts in zip(*lasts, strict=True)))
    return torch.cat(outputs, dim=-1), last, found


def _node(tensor: Tensor) -> Tensor:
    return tensor if tensor.requires_grad else tensor.detach().requires_grad_()
