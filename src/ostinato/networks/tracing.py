"""Recurrent layers watched at work: every state a node of the graph, or every gate in view."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from ostinato.networks.arrangements import ManyToMany, ManyToOne
from ostinato.recurrence import kernels
from ostinato.recurrence.cells import Cell, State, Trace, Weights
from ostinato.recurrence.layers import GRU, LSTM, RNN, Recurrent
from ostinato.recurrence.scan import mask_of, reverse_rows


@dataclass
class Track:
    """The states of one layer in one direction, step by step, as nodes of the graph.

    Attributes:
        name: of the layer.
        states: after each step, in the order of reading; tensors ``(B, size)``.
        ends: steps of each row.
    """

    name: str
    states: list[State]
    ends: Tensor

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors of all states."""
        return [tensor for state in self.states for tensor in cast("tuple[Tensor, ...]", state)]


class Traced(NamedTuple):
    """What one layer did in one direction.

    Attributes:
        name: of the layer.
        cell: its equations.
        trace: gates and states, tensors ``(T, B, size)``.
        ends: steps of each row.
    """

    name: str
    cell: Cell
    trace: Trace
    ends: Tensor


def stacks_of(network: nn.Module) -> list[tuple[str, nn.Module, Recurrent]]:
    """The recurrent layers of a network: name, the module, and what serves it.

    Of our arrangements those after the encoder. Layers of `torch.nn` are served by ours with their
    very weights.
    """
    chosen = network.recurrent if isinstance(network, ManyToMany | ManyToOne) else network
    found = []
    for name, module in chosen.named_modules():
        ours = module if isinstance(module, Recurrent) else _twin(module)
        if ours is not None:
            found.append((name, module, ours))
    return found


@contextmanager
def recording(network: nn.Module) -> Iterator[list[Track]]:
    """Run recurrent layers a step at a time while in here, and keep every state.

    Yields a list that fills with a `Track` for each layer and direction as the network is called.
    """
    tracks: list[Track] = []
    with _served(network, lambda name, layer: _stepwise(tracks, name, layer)):
        yield tracks


@contextmanager
def tracing(network: nn.Module) -> Iterator[list[Traced]]:
    """Keep gates and states of recurrent layers while in here, at their usual speed.

    Yields a list that fills with a `Traced` for each layer and direction.
    """
    seen: list[Traced] = []
    with _served(network, lambda name, layer: _observed(seen, name, layer)):
        yield seen


@contextmanager
def _served(network: nn.Module, runner: Callable[[str, Recurrent], Any]) -> Iterator[None]:
    """Another function in the place of `kernels.run` in all recurrent layers."""
    changed: list[tuple[nn.Module, str]] = []
    try:
        for name, module, ours in stacks_of(network):
            ours.run_layer = runner(name, ours)
            changed.append((ours, "run_layer"))
            if ours is not module:
                module.forward = ours.forward
                changed.append((module, "forward"))
        yield
    finally:
        for module, attribute in changed:
            delattr(module, attribute)


def _twin(module: nn.Module) -> Recurrent | None:
    """A layer of ours with the very weights of a layer of `torch.nn`; None for anything else."""
    made: Any = {nn.RNN: RNN, nn.LSTM: LSTM, nn.GRU: GRU}.get(type(module))
    if made is None:
        return None
    theirs = cast(nn.RNNBase, module)
    more: dict[str, Any] = {}
    if isinstance(theirs, nn.RNN):
        more["nonlinearity"] = theirs.nonlinearity
    if theirs.proj_size:
        more["proj_size"] = theirs.proj_size
    ours: Recurrent = made(
        theirs.input_size,
        theirs.hidden_size,
        theirs.num_layers,
        bias=theirs.bias,
        batch_first=theirs.batch_first,
        dropout=theirs.dropout,
        bidirectional=theirs.bidirectional,
        device="meta",
        **more,
    )
    for name, weight in theirs.named_parameters():
        setattr(ours, name, weight)
    ours.train(theirs.training)
    return ours


def _title(name: str, number: int, direction: int) -> str:
    title = ".".join(filter(None, [name, f"layer {number}"]))
    return f"{title} backward" if direction else title


def _observed(seen: list[Traced], name: str, layer: Recurrent) -> Callable[..., Any]:
    """What stands in for `kernels.run` in a layer that is traced."""
    calls = 0

    def run(
        cell: Cell,
        weights: Sequence[Weights],
        x: Tensor,
        state: State | None = None,
        lengths: Tensor | None = None,
        tokens: Tensor | None = None,
        traces: list[Trace] | None = None,
        checkpoint_every: int = 0,
    ) -> tuple[Tensor, State]:
        nonlocal calls
        number, calls = calls % layer.num_layers, calls + 1
        own: list[Trace] = []
        y, last = kernels.run(cell, weights, x, state, lengths, tokens, own)
        T, B = y.shape[:2]
        ends = torch.full((B,), T) if lengths is None else lengths
        seen.extend(
            Traced(_title(name, number, d), cell, trace, ends) for d, trace in enumerate(own)
        )
        if traces is not None:
            traces += own
        return y, last

    return run


def _stepwise(tracks: list[Track], name: str, layer: Recurrent) -> Callable[..., Any]:
    """What stands in for `kernels.run` in a layer that is recorded."""
    calls = 0

    def run(
        cell: Cell,
        weights: Sequence[Weights],
        x: Tensor,
        state: State | None = None,
        lengths: Tensor | None = None,
        tokens: Tensor | None = None,
        traces: list[Trace] | None = None,
        checkpoint_every: int = 0,
    ) -> tuple[Tensor, State]:
        nonlocal calls
        number, calls = calls % layer.num_layers, calls + 1
        x = x if tokens is None else embedding(tokens, x)
        T, B = x.shape[:2]
        ends = torch.full((B,), T) if lengths is None else lengths
        outputs, lasts = [], []
        for direction, w in enumerate(weights):
            steps = reverse_rows(x, lengths) if direction else x
            parts = cell.zero_state(B, like=x) if state is None else state
            now = cell.state_type(
                *((s if state is None else s[direction]) for s in cast("tuple[Tensor, ...]", parts))
            )
            states = []
            for t in range(T):
                # Gradients flow to a state even where all weights are frozen.
                before = cell.state_type(*(_node(s)[None] for s in cast("tuple[Tensor]", now)))
                going = None if lengths is None else (t < lengths).long()
                _, new = kernels.run(cell, [w], steps[t : t + 1], before, going)
                now = cell.state_type(*(s[0] for s in cast("tuple[Tensor, ...]", new)))
                states.append(now)
            if states:
                tracks.append(Track(_title(name, number, direction), states, ends))
            y = (
                torch.stack([s.h for s in states])
                if states
                else x.new_zeros(0, B, cell.output_size)
            )
            if lengths is not None:
                y = torch.where(mask_of(lengths, T), y, 0.0)
            outputs.append(reverse_rows(y, lengths) if direction else y)
            lasts.append(now)
        y = torch.cat(outputs, dim=-1)
        return y, cell.state_type(*(torch.stack(parts) for parts in zip(*lasts, strict=True)))

    return run


def _node(tensor: Tensor) -> Tensor:
    return tensor if tensor.requires_grad else tensor.detach().requires_grad_()
