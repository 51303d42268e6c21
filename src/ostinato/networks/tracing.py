"""Observe recurrent layers while they run: their states in the graph, or their gates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding
from torch.nn.utils.rnn import PackedSequence

from ostinato.networks.arrangements import ManyToMany, ManyToOne
from ostinato.recurrence import backends
from ostinato.recurrence.cells import Cell, State, Trace
from ostinato.recurrence.dropin import GRU, LSTM, RNN
from ostinato.recurrence.layers import Hidden, LayerCall, Output, Recurrent, observing
from ostinato.recurrence.scan import mask_of, reverse_rows


@dataclass
class Track:
    """States of one layer in one direction, step by step, as nodes of the autograd graph.

    Attributes:
        name: name of the layer.
        states: states after each step, in the order of processing; tensors ``(B, size)``.
        ends: steps of each row.
    """

    name: str
    states: list[State]
    ends: Tensor

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors of all states."""
        return [tensor for state in self.states for tensor in state]


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

    Yields a list to which calls of the network add a `Track` for each layer and direction.
    """
    tracks: list[Track] = []

    def record(name: str, call: LayerCall) -> tuple[Tensor, State]:
        y, last, states = _run_steps(call)
        ends = _ends(call.lengths, y)
        tracks.extend(
            Track(_title(name, direction), each, ends)
            for direction, each in enumerate(states)
            if each
        )
        return y, last

    with _observed(network, record):
        yield tracks


@contextmanager
def tracing(network: nn.Module) -> Iterator[list[Traced]]:
    """Record gates and states of recurrent layers inside the block, at their usual speed.

    Yields a list to which calls of the network add a `Traced` for each layer and direction.
    """
    seen: list[Traced] = []

    def trace(name: str, call: LayerCall) -> tuple[Tensor, State]:
        own: list[Trace] = []
        y, last = backends.run(*call._replace(traces=own))
        ends = _ends(call.lengths, y)
        seen.extend(Traced(_title(name, d), call.cell, each, ends) for d, each in enumerate(own))
        if call.traces is not None:
            call.traces.extend(own)
        return y, last

    with _observed(network, trace):
        yield seen


@contextmanager
def _observed(
    network: nn.Module, run: Callable[[str, LayerCall], tuple[Tensor, State]]
) -> Iterator[None]:
    """Let ``run(name, call)`` run each recurrent layer of a network, by its name."""
    stacks = stacks_of(network)
    names = {ours: name for name, _, ours in stacks}

    def observer(stack: Recurrent, number: int, call: LayerCall) -> tuple[Tensor, State]:
        if stack not in names:
            return backends.run(*call)
        return run(".".join(filter(None, [names[stack], f"layer {number}"])), call)

    with ExitStack() as hooks:
        for _, module, ours in stacks:
            if ours is not module:
                _compute_by(ours, module, hooks)
        hooks.enter_context(observing(observer))
        yield


def _compute_by(ours: Recurrent, module: nn.Module, hooks: ExitStack) -> None:
    """Replace the output of a module of `torch.nn` by that of ours, with the same dropout."""
    random: list[Tensor] = []

    def before(module: nn.Module, args: tuple[object, ...]) -> None:
        random.append(torch.get_rng_state())

    def after(
        module: nn.Module,
        args: tuple[Tensor | PackedSequence, Hidden],
        kwargs: Mapping[str, Hidden],
        output: object,
    ) -> Output:
        torch.set_rng_state(random.pop())
        result: Output = ours(*args, **kwargs)
        return result

    hooks.callback(module.register_forward_pre_hook(before).remove)
    hooks.callback(module.register_forward_hook(after, with_kwargs=True).remove)


def _ours(module: nn.Module) -> Recurrent | None:
    """Return a layer that shares the weights of a layer of `torch.nn`; None for other modules."""
    if type(module) not in _DROP_INS:
        return None
    make, own = _DROP_INS[type(module)]
    ours = make(**{name: getattr(module, name) for name in (*_OPTIONS, *own)}, device="meta")
    for name, weight in module.named_parameters():
        setattr(ours, name, weight)
    return ours.train(module.training)


_OPTIONS = ["input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout",
            "bidirectional"]  # fmt: skip
_DROP_INS: dict[type[nn.Module], tuple[Callable[..., Recurrent], list[str]]] = {
    nn.RNN: (RNN, ["nonlinearity"]),
    nn.LSTM: (LSTM, ["proj_size"]),
    nn.GRU: (GRU, []),
}


def _title(name: str, direction: int) -> str:
    return f"{name} backward" if direction else name


def _ends(lengths: Tensor | None, y: Tensor) -> Tensor:
    """Return the steps of each row of ``y (T, B, ...)``."""
    return torch.full((y.shape[1],), y.shape[0]) if lengths is None else lengths


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
