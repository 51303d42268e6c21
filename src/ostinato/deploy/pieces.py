"""Networks as ONNX graphs: what each takes and gives, its nodes, and the network itself to compare.

Letters are those of `ostinato.networks`: B rows, T steps, S steps of a source, V tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import singledispatch
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from ostinato.deploy.graph import Array, Graph, Shape
from ostinato.deploy.nodes import States, layers
from ostinato.errors import OstinatoError
from ostinato.networks.arrangements import ManyToMany, ManyToOne, OneToOne
from ostinato.networks.attention import Attention
from ostinato.networks.convolution import BandConvolutions, Convolutions
from ostinato.networks.ctc import CTC
from ostinato.networks.image import ImageEncoder
from ostinato.networks.inputs import Standardize, WordEncoder, Words
from ostinato.networks.outputs import Output
from ostinato.networks.seq2seq import (
    Decoder,
    DecoderState,
    Encoded,
    EncoderDecoder,
    RecurrentEncoder,
    VectorEncoder,
)
from ostinato.recurrence.layers import Hidden, Recurrent

Feeds = Mapping[str, Tensor]
"""Values of inputs or outputs by name."""


Kind = Literal["numbers", "ids", "lengths", "mask", "state", "history", "positive", "flags"]


class Port(NamedTuple):
    """An input or output of a graph.

    Attributes:
        name, shape: as the graph has them; letters stand for sizes that are free.
        about: what it holds.
        kind: of its values, for trials.
        limit: ``ids`` are below it, ``lengths`` at most it; a letter is a size. A
            ``history`` has so many values, less one, before the first step; 0 if it has no steps.
        mean, scale: of the ``numbers`` that the network was trained on.
    """

    name: str
    shape: Shape
    about: str
    kind: Kind = "numbers"
    limit: int | str = 0
    mean: Any = 0.0
    scale: Any = 1.0

    @property
    def dtype(self) -> type[np.generic]:
        """The type of its values."""
        whole = self.kind in ("ids", "lengths")
        return np.int64 if whole else np.bool_ if self.kind == "mask" else np.float32

    def draw(self, sizes: Mapping[str, int], rng: np.random.Generator) -> Array:
        """Return random values, of sizes by their letters."""
        shape = [sizes.get(s, 0) if isinstance(s, str) else s for s in self.shape]
        limit = sizes[self.limit] if isinstance(self.limit, str) else self.limit
        if self.kind == "ids":
            return rng.integers(max(1, limit), size=shape)
        if self.kind == "lengths":  # all, none, and between
            return np.resize([limit, 0, *rng.integers(1, limit + 1, size=3)], shape)
        if self.kind == "mask":
            return np.arange(shape[1]) < np.resize([shape[1], 0, 1], shape[0])[:, None]
        if self.kind == "flags":
            return np.asarray(rng.random(shape) < 0.8, np.float32)
        if self.kind == "positive":
            return np.asarray(rng.uniform(0.5, 2.0, shape), np.float32)
        if self.kind == "history" and isinstance(self.limit, int) and self.limit:
            shape[1] = self.limit - 1 + sizes["T"]
        scale = 0.5 if self.kind == "state" else self.scale
        return np.asarray(self.mean + scale * rng.normal(size=shape), np.float32)


@dataclass
class Piece:
    """A graph, and the network that it must equal.

    Attributes:
        graph: the graph.
        about: what it computes.
        name: of the piece, where a model has several; empty otherwise.
        inputs, outputs: its ports.
        run: computes the outputs of some inputs by the network itself.
        carried: outputs that are inputs of the next call, by name.
        multiple: steps of a call, but the last, are a multiple of it.
    """

    graph: Graph
    about: str
    name: str = ""
    inputs: list[Port] = field(default_factory=list)
    outputs: list[Port] = field(default_factory=list)
    run: Callable[[Feeds], dict[str, Tensor]] = lambda feeds: {}
    carried: dict[str, str] = field(default_factory=dict)
    multiple: int = 1

    def take(self, port: Port) -> str:
        """Add an input."""
        self.inputs.append(port)
        return self.graph.input(port.name, port.dtype, port.shape)

    def give(self, port: Port, value: str) -> None:
        """Add an output."""
        self.outputs.append(port)
        self.graph.output(port.name, value, port.dtype, port.shape)


class Head(NamedTuple):
    """What is made of a network's scores.

    Attributes:
        name, about: of the output.
        add: adds it to a piece, of the name of the scores.
        run: computes it from the scores and the values of the inputs.
    """

    name: str
    about: str
    add: Callable[[Piece, str], str]
    run: Callable[[Tensor, Feeds], Tensor]


SCORES = Head(
    "scores", "scores, before any softmax or sigmoid", lambda piece, y: y, lambda y, feeds: y
)


def likelihoods(output: Output) -> Head:
    """Return the head of an output's own kind: probabilities, or numbers."""
    op = {"category": "Softmax", "probability": "Sigmoid", "number": "Identity"}[output.kind]
    name = "numbers" if output.kind == "number" else "probabilities"
    return Head(
        name,
        "predicted numbers" if output.kind == "number" else "probability of each class or unit",
        lambda piece, y: piece.graph.add(op, y),
        lambda y, feeds: output.predict(y),
    )


LOG_P = Head(
    "log_p",
    "natural log of the probability of each token",
    lambda piece, y: piece.graph.add("LogSoftmax", y),
    lambda y, feeds: y.log_softmax(-1),
)


# States


def state_ports(stack: Recurrent) -> list[Port]:
    """Return the ports of a stack's state, as the stack has it."""
    D, L = 2 if stack.bidirectional else 1, len(stack.cells)

    def ports(k: int, ending: str, rows: int) -> Iterator[Port]:
        cell = stack.cells[k]
        fields = cast(Any, cell.state_type)._fields
        for name, size in zip(fields, cell.state_sizes, strict=True):
            about = f"state {name}: of each layer and direction; zeros at first"
            yield Port(name + ending, (rows, "B", size), about, "state")

    if stack._is_even:
        return [*ports(0, "", L * D)]
    return [port for k in range(L) for port in ports(k, f"_{k}", D)]


def state_names(stack: Recurrent, names: Sequence[str], g: Graph) -> States:
    """Return the states of each layer in a graph, of those of the ports."""
    D, L = 2 if stack.bidirectional else 1, len(stack.cells)
    if stack._is_even:
        return list(zip(*(g.split(name, [D] * L, 0) for name in names), strict=True))
    left = iter(names)
    return [[next(left) for _ in cell.state_sizes] for cell in stack.cells]


def state_values(stack: Recurrent, states: States, g: Graph) -> list[str]:
    """Return the values of a stack's state, a value a port: the inverse of `state_names`."""
    if stack._is_even:
        return [g.concat(parts, 0) for parts in zip(*states, strict=True)]
    return [name for each in states for name in each]


def hidden_of(stack: Recurrent, feeds: Feeds, prefix: str = "") -> Hidden:
    """Return the state that the stack takes, of values by name."""
    D = 2 if stack.bidirectional else 1
    tensors = [feeds[prefix + port.name] for port in state_ports(stack)]
    if stack._is_even:
        parts = [*zip(*(torch.split(t, D) for t in tensors), strict=True)]
    else:
        left = iter(tensors)
        parts = [tuple(next(left) for _ in cell.state_sizes) for cell in stack.cells]
    states = [cell.state_type(*part) for cell, part in zip(stack.cells, parts, strict=True)]
    return stack.join_state(states, False)


def named_state(stack: Recurrent, hidden: Hidden, prefix: str = "") -> dict[str, Tensor]:
    """Return the values of a state by name: the inverse of `hidden_of`."""
    groups: Any = [hidden] if stack._is_even else hidden
    tensors = [t for each in groups for t in ([each] if isinstance(each, Tensor) else each)]
    names = (prefix + port.name for port in state_ports(stack))
    return dict(zip(names, tensors, strict=True))


def take_state(piece: Piece, stack: Recurrent) -> States:
    """Add the state of a stack as inputs."""
    names = [piece.take(port) for port in state_ports(stack)]
    return state_names(stack, names, piece.graph)


def give_state(piece: Piece, stack: Recurrent, states: States) -> None:
    """Add the state of a stack as outputs, which the next call takes."""
    values = state_values(stack, states, piece.graph)
    for port, value in zip(state_ports(stack), values, strict=True):
        about = port.about.partition(":")[0] + " after the last step, for the next call"
        piece.give(port._replace(name=f"next_{port.name}", about=about), value)
        piece.carried[f"next_{port.name}"] = port.name


# Inputs

LENGTHS = Port("lengths", ("B",), "steps of each row; what follows them is ignored", "lengths", "T")


class Reading(NamedTuple):
    """How a network's input is fed.

    Attributes:
        ports: its inputs, the first of ``(B, T, ...)``.
        vectors: adds the encoded steps ``(B, T, I)``, of the names of the inputs.
        value: makes the network's input of values by name.
    """

    ports: list[Port]
    vectors: Callable[[Graph, list[str]], str]
    value: Callable[[Feeds], Any]


def reading(encode: nn.Module, features: int, steps: str = "T") -> Reading:
    """Return how the input of an encoder with so many features is fed."""
    if type(encode) is nn.Embedding:
        V = encode.num_embeddings
        port = Port("tokens", ("B", steps), f"numbers of tokens, below {V}", "ids", V)
        return Reading([port], lambda g, x: g.lookup(encode.weight, x[0]), lambda f: f["tokens"])
    if isinstance(encode, WordEncoder):
        return _reading_words(encode, steps)
    if isinstance(encode, Standardize):
        mean, scale = encode.mean.numpy(), encode.scale.numpy()
        port = Port("x", ("B", steps, features), "features of each step", mean=mean, scale=scale)

        def standardized(g: Graph, x: list[str]) -> str:
            return g.add("Div", g.add("Sub", x[0], g.constant(mean)), g.constant(scale))

        return Reading([port], standardized, lambda f: f["x"])
    if isinstance(encode, nn.Identity):
        port = Port("x", ("B", steps, features), "features of each step")
        return Reading([port], lambda g, x: x[0], lambda f: f["x"])
    raise _refusal(encode, "encoder")


def _reading_words(encode: WordEncoder, steps: str) -> Reading:
    words, affixes = encode.words.num_embeddings, encode.affixes
    ports = [
        Port("words", ("B", steps), "number of each word, 0 if unknown", "ids", words),
        Port("spelled", ("B", steps), "row of each word in the tables below", "ids", "F"),
    ]
    if encode.characters is not None:
        C = encode.characters.num_embeddings
        about = "numbers of the characters of each distinct word, 0 if unknown"
        ports += [
            Port("characters", ("F", "C"), about, "ids", C),
            Port("sizes", ("F",), "characters of each distinct word", "lengths", "C"),
        ]
    if affixes is not None:
        about = "numbers of the affixes and shapes of each distinct word, 0 if unknown"
        ports.append(Port("affixes", ("F", 10), about, "ids", affixes.num_embeddings))

    def vectors(g: Graph, names: list[str]) -> str:
        x = dict(zip([port.name for port in ports], names, strict=True))
        parts = [g.lookup(encode.words.weight, x["words"])]
        if encode.characters is not None:
            letters = g.lookup(encode.characters.weight, x["characters"])
            letters = g.add("Transpose", letters, perm=[1, 0, 2])
            _, ((h, _),) = layers(g, encode.spelling, letters, x["sizes"])
            spelled = g.concat([g.add("Squeeze", p, g.ints(0)) for p in g.split(h, [1, 1], 0)], 1)
            parts.append(g.add("Gather", spelled, x["spelled"], axis=0))
        if affixes is not None:
            sums = g.add("ReduceSum", g.lookup(affixes.weight, x["affixes"]), g.ints(1), keepdims=0)
            parts.append(g.add("Gather", sums, x["spelled"], axis=0))
        return g.concat(parts, 2)

    def value(f: Feeds) -> Words:
        none = torch.zeros(int(f["spelled"].max()) + 1, 0, dtype=torch.long)
        given = (f.get(name, none) for name in ("characters", "sizes", "affixes"))
        return Words(f["words"], f["spelled"], *given)

    return Reading(ports, vectors, value)


def read(piece: Piece, how: Reading, lengths: str | None = None) -> tuple[str, str | None]:
    """Add the inputs of a network; returns its encoded steps ``(B, T, I)`` and which count."""
    g, names = piece.graph, [piece.take(port) for port in how.ports]
    if lengths is None:
        return how.vectors(g, names), None
    mask, port = g.running(names[0], lengths), how.ports[0]
    if len(how.ports) == 1:  # padding must not reach the encoder
        axes = [2] if len(port.shape) == 3 else []
        counts = g.add("Unsqueeze", mask, g.ints(*axes)) if axes else mask
        names = [g.add("Where", counts, names[0], g.constant(0, port.dtype))]
    return how.vectors(g, names), mask


def run_layers(
    g: Graph, stack: Recurrent, v: str, lengths: str | None = None, states: States | None = None
) -> tuple[str, list[list[str]]]:
    """Add layers over ``v (B, T, I)``; returns ``(B, T, D * H)`` and the states after."""
    y, last = layers(g, stack, g.add("Transpose", v, perm=[1, 0, 2]), lengths, states)
    return g.add("Transpose", y, perm=[1, 0, 2]), last


# Arrangements


@singledispatch
def pieces(
    network: nn.Module, g: Callable[[], Graph], *heads: Head, **options: bool
) -> list[Piece]:
    """Return the graphs of a network.

    Args:
        network: a layer or a network of ours, in eval mode, of float32 on the CPU.
        g: makes an empty graph.
        heads: what is given of its scores; the scores themselves if none.
        options: ``lengths``, whether rows may have lengths; ``states``, whether states go in and
            out, where the network can be cut in time.
    """
    raise _refusal(network, "network")


def _refusal(module: nn.Module, what: str) -> OstinatoError:
    return OstinatoError(
        f"export: {type(module).__name__} is no {what} that has an ONNX form; expected layers or "
        "networks of Ostinato."
    )


@pieces.register
def _(stack: Recurrent, g: Callable[[], Graph], *heads: Head, lengths: bool = True) -> list[Piece]:
    piece, I = Piece(g(), "recurrent layers over sequences"), stack.input_size
    ends = piece.take(LENGTHS) if lengths else None
    x = piece.take(Port("x", ("B", "T", I), "features of each step"))
    y, last = run_layers(piece.graph, stack, x, ends, take_state(piece, stack))
    about = "output of each step, zeros beyond a row's steps"
    piece.give(Port("y", ("B", "T", stack.output_size), about), y)
    give_state(piece, stack, last)
    if stack.bidirectional:
        piece.carried.clear()  # a part does not know what comes after it

    def run(f: Feeds) -> dict[str, Tensor]:
        x = f["x"] if stack.batch_first else f["x"].transpose(0, 1)
        y, hidden = cast(Any, stack(x, hidden_of(stack, f), lengths=f.get("lengths")))
        y = y if stack.batch_first else y.transpose(0, 1)
        return {"y": y, **{f"next_{k}": v for k, v in named_state(stack, hidden).items()}}

    piece.run = run
    return [piece]


def _begin(
    network: ManyToMany | ManyToOne | OneToOne | CTC,
    g: Callable[[], Graph],
    about: str,
    features: int,
    lengths: bool,
) -> tuple[Piece, Reading, str | None]:
    piece, how = Piece(g(), about), reading(network.encode, features)
    return piece, how, piece.take(LENGTHS) if lengths else None


@pieces.register
def _(
    network: ManyToMany,
    g: Callable[[], Graph],
    *heads: Head,
    lengths: bool = True,
    states: bool = True,
) -> list[Piece]:
    stack = network.recurrent
    states = states and not stack.bidirectional
    features = stack.input_size
    piece, how, ends = _begin(network, g, "an output for every step", features, lengths)
    v, _ = read(piece, how, ends)
    before = take_state(piece, stack) if states else None
    h, last = run_layers(piece.graph, stack, v, ends, before)
    return [_scored(piece, network, how, h, last if states else None, heads, ("B", "T"))]


def _scored(
    piece: Piece,
    network: ManyToMany | ManyToOne | OneToOne,
    how: Reading,
    h: str,
    last: States | None,
    heads: Sequence[Head],
    rows: Shape,
) -> Piece:
    """Add the output of a network, what the heads make of it, and the state."""
    layer = network.output.linear
    scores = piece.graph.linear(h, layer.weight, layer.bias)
    for head in heads or [SCORES]:
        port = Port(head.name, (*rows, layer.out_features), head.about)
        piece.give(port, head.add(piece, scores))
    stack = None if isinstance(network, OneToOne) or last is None else network.recurrent
    if stack is not None and last is not None:
        give_state(piece, stack, last)

    def run(f: Feeds) -> dict[str, Tensor]:
        state = None if stack is None else hidden_of(stack, f)
        y, after = network(how.value(f), cast(None, state), lengths=f.get("lengths"))
        found = {head.name: head.run(y, f) for head in heads or [SCORES]}
        if stack is not None:
            found |= {f"next_{k}": v for k, v in named_state(stack, after).items()}
        return found

    piece.run = run
    return piece


@pieces.register
def _(
    network: ManyToOne,
    g: Callable[[], Graph],
    *heads: Head,
    lengths: bool = True,
    states: bool = True,
) -> list[Piece]:
    stack, beside = network.recurrent, network.convolutions
    # Other poolings need more of the past than the state of the layers.
    states = states and not stack.bidirectional and network.pooling == "last" and beside is None
    features = network.features
    piece, how, ends = _begin(network, g, "an output for a whole sequence", features, lengths)
    v, mask = read(piece, how, ends)
    b = piece.graph
    if network.front is not None:
        v = _banded(b, network.front, v, mask)
    before = take_state(piece, stack) if states else None
    h, last = run_layers(b, stack, v, ends, before)
    if beside is not None:
        h = b.concat([h, _convolved(b, beside, v, mask)], 2)
    if network.pooling == "last":
        parts = b.split(last[-1][0], [1] * (2 if stack.bidirectional else 1), 0)
        parts = [b.add("Squeeze", part, b.ints(0)) for part in parts]
        if beside is not None:
            own = b.slice(h, 2, stack.output_size, 2**62)
            parts.append(_last(b, own, ends))
        pooled = b.concat(parts, 1)
    else:
        pooled = _pooled(b, network, h, mask)
    return [_scored(piece, network, how, pooled, last if states else None, heads, ("B",))]


def _last(g: Graph, h: str, lengths: str | None) -> str:
    """Add the last true step of each row of ``h (B, T, H)``; zeros if none."""
    if lengths is None:
        return g.add("Squeeze", g.slice(h, 1, -1, 2**62), g.ints(1))
    at = g.add("Max", g.add("Sub", lengths, g.constant(1, np.int64)), g.constant(0, np.int64))
    rows = g.add("GatherND", h, g.add("Unsqueeze", at, g.ints(1)), batch_dims=1)
    return g.where(g.add("Greater", lengths, g.constant(0, np.int64)), rows, 0.0, [1])


def _pooled(g: Graph, network: ManyToOne, h: str, mask: str | None) -> str:
    """Add the pooling of ``h (B, T, H)`` over the steps that count."""
    if network.pooling == "attention":
        first, _, second = cast(list[nn.Linear], list(network.attention))
        a = g.add("Tanh", g.linear(h, first.weight, first.bias))
        e = g.linear(a, second.weight)  # (B, T, 1)
        if mask is not None:
            # A row without steps is all zeros, whatever its weights.
            e = g.where(mask, e, -1e30, [2])
        weights = g.add("Softmax", e, axis=1)
        pooled = g.add("MatMul", g.add("Transpose", weights, perm=[0, 2, 1]), h)
        return g.add("Squeeze", pooled, g.ints(1))
    if mask is None:
        op = "ReduceMean" if network.pooling == "mean" else "ReduceMax"
        return g.add(op, h, g.ints(1), keepdims=0)
    counts = g.add("ReduceSum", g.add("Cast", mask, to=1), g.ints(1), keepdims=1)  # (B, 1)
    if network.pooling == "mean":
        return _mean(g, h, mask, counts)
    best = g.add("ReduceMax", g.where(mask, h, -np.inf, [2]), g.ints(1), keepdims=0)
    return g.where(g.add("Greater", counts, g.constant(0.0)), best)


def _mean(g: Graph, h: str, mask: str, counts: str) -> str:
    sums = g.add("ReduceSum", g.where(mask, h, 0.0, [2]), g.ints(1), keepdims=0)
    return g.add("Div", sums, g.add("Max", counts, g.constant(1.0)))


def _convolved(g: Graph, network: Convolutions, v: str, mask: str | None) -> str:
    """Add convolutions over ``v (B, T, I)``, ``(B, T, C)``."""
    T = g.size(v, 1)
    x = v if mask is None else g.where(mask, v, 0.0, [2])
    x = g.add("Transpose", x, perm=[0, 2, 1])
    for parts, norm in zip(network.layers, network.norms, strict=True):
        found = []
        for part in cast(list[nn.Conv1d], list(cast(nn.ModuleList, parts))):
            pads, dilations = [*part.padding] * 2, [*part.dilation]
            y = g.add("Conv", x, g.weight(part.weight), pads=pads, dilations=dilations)
            found.append(g.slice(y, 2, 0, T))
        x = _normalized(g, cast(nn.BatchNorm1d, norm), g.concat(found, 1))
        x = g.add("Relu", x if mask is None else g.where(mask, x, 0.0, [1]))
    return g.add("Transpose", x, perm=[0, 2, 1])


def _banded(g: Graph, network: BandConvolutions, v: str, mask: str | None) -> str:
    """Add convolutions over steps and bands of ``v (B, T, I)``, ``(B, T, output_size)``."""
    x = v if mask is None else g.where(mask, v, 0.0, [2])
    x = g.add("Unsqueeze", x, g.ints(1))
    for layer, norm in zip(network.layers, network.norms, strict=True):
        x = g.add("Conv", x, g.weight(cast(nn.Conv2d, layer).weight), pads=[1] * 4)
        x = _normalized(g, cast(nn.BatchNorm1d, norm), x)
        x = g.add("Relu", x if mask is None else g.where(mask, x, 0.0, [1, 3]))
        x = g.add("MaxPool", x, kernel_shape=[1, 2], strides=[1, 2], ceil_mode=1)
    x = g.add("Transpose", x, perm=[0, 2, 1, 3])
    return g.add("Reshape", x, g.ints(0, 0, -1))


def _normalized(g: Graph, norm: nn.BatchNorm1d, x: str) -> str:
    """Add the batch normalisation of ``x (B, C, ...)`` by known statistics."""
    given = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    return g.add("BatchNormalization", x, *map(g.constant, given), epsilon=norm.eps)


@pieces.register
def _(
    network: OneToOne, g: Callable[[], Graph], *heads: Head, lengths: bool = True, **more: bool
) -> list[Piece]:
    size = next(iter([*cast(list[nn.Linear], list(network.layers)), network.output.linear]))
    about = "each step by itself"
    piece, how, ends = _begin(network, g, about, size.in_features, lengths)
    h, mask = read(piece, how, ends)
    b = piece.graph
    for layer in cast(list[nn.Linear], list(network.layers)):
        h = b.add("Relu", b.linear(h, layer.weight, layer.bias))
    rows: Shape = ("B", "T")
    if network.pooled:
        rows = ("B",)
        if mask is None:
            h = b.add("ReduceMean", h, b.ints(1), keepdims=0)
        else:
            counts = b.add("ReduceSum", b.add("Cast", mask, to=1), b.ints(1), keepdims=1)
            h = _mean(b, h, mask, counts)
    return [_scored(piece, network, how, h, None, heads, rows)]


@pieces.register
def _(
    network: CTC, g: Callable[[], Graph], *heads: Head, lengths: bool = True, states: bool = True
) -> list[Piece]:
    stack, n = network.recurrent, network.stacked
    I = stack.input_size // n
    about = f"log-probabilities of tokens and blank, one for every {n} frames"
    piece, how, ends = _begin(network, g, about, I, lengths)
    b, heads = piece.graph, heads or (LOG_P,)
    v, mask = read(piece, how, ends)
    v = v if mask is None else b.where(mask, v, 0.0, [2])
    states = states and not stack.bidirectional
    before = take_state(piece, stack) if states else None
    if n > 1:
        # ONNX's Mod has the sign of the divisor, as Python's %.
        rest = b.add("Mod", b.add("Neg", b.size(v, 1)), b.ints(n))
        pads = b.concat([b.ints(0, 0, 0, 0), rest, b.ints(0)], 0)
        v = b.add("Reshape", b.add("Pad", v, pads), b.ints(0, -1, n * I))
        if ends is not None:
            more = b.add("Add", ends, b.constant(n - 1, np.int64))
            ends = b.add("Div", more, b.constant(n, np.int64))
    h, last = run_layers(b, stack, v, ends, before)
    scores = b.linear(h, network.output.weight, network.output.bias)
    for head in heads:
        shape = ("B", "T" if n == 1 else "steps", network.blank + 1)
        piece.give(
            Port(head.name, shape, f"{head.about}; the blank is the last"), head.add(piece, scores)
        )
    piece.multiple = n
    if states:
        give_state(piece, stack, last)

    def run(f: Feeds) -> dict[str, Tensor]:
        hidden = hidden_of(stack, f) if states else None
        y, after = network(how.value(f), hidden, lengths=f.get("lengths"))
        found = {head.name: head.run(y, f) for head in heads}
        if states:
            found |= {f"next_{k}": v for k, v in named_state(stack, after).items()}
        return found

    piece.run = run
    return [piece]


# Sequence to sequence


@pieces.register
def _(network: EncoderDecoder, g: Callable[[], Graph], *heads: Head, **more: bool) -> list[Piece]:
    return [_encoder(network, g()), _decoder(network.decoder, g())]


def _source_ports(decoder: Decoder, M: int) -> list[Port]:
    """Return the ports of an encoded source, for attention."""
    if decoder.attention is None:
        return []
    H = decoder.recurrent.output_size
    ports = [
        Port("memory", ("B", "S", M), "encoded steps of the source"),
        Port("keys", ("B", "S", H), "the same, projected for attention"),
        Port("mask", ("B", "S"), "whether a row has a step", "mask"),
    ]
    if decoder.copying is not None:
        about = "numbers of the source's tokens"
        ports.append(Port("tokens", ("B", "S"), about, "ids", decoder.tokens))
    return ports


def _decoder_ports(decoder: Decoder) -> list[Port]:
    """Return the ports of a decoder's state."""
    ports, H = state_ports(decoder.recurrent), decoder.recurrent.output_size
    if decoder.input_feeding:
        ports.append(Port("fed", ("B", H), "the last attentional vector", "state"))
    if decoder.covers:
        ports.append(Port("coverage", ("B", "S"), "attention so far", "state"))
    return ports


def _decoder_values(decoder: Decoder, state: DecoderState, prefix: str) -> dict[str, Tensor]:
    found = named_state(decoder.recurrent, state.hidden)
    found |= {"fed": state.fed} if decoder.input_feeding else {}
    found |= {"coverage": state.coverage} if decoder.covers else {}
    return {prefix + name: value for name, value in found.items()}


def _encoder(network: EncoderDecoder, g: Graph) -> Piece:
    encoder, decoder = network.encoder, network.decoder
    piece = Piece(g, "the source, encoded, and all that the decoder starts from", "encoder")
    memory, mask, summary, value = _encoded(piece, encoder)
    M, stack = cast(int, encoder.output_size), decoder.recurrent
    if decoder.attention is not None:
        values = [memory, g.linear(memory, decoder.attention.memory.weight), mask]
        for port, name in zip(_source_ports(decoder, M), values, strict=False):
            piece.give(port, name)
    start = g.add("Tanh", g.linear(summary, decoder.start.weight, decoder.start.bias))
    parts = [g.add("Unsqueeze", p, g.ints(0)) for p in g.split(start, decoder.sizes, 1)]
    left = iter(parts)
    states = [[next(left) for _ in cell.state_sizes] for cell in stack.cells]
    values = state_values(stack, states, g)
    zero = g.constant(0.0)
    B, S = g.size(mask, 0), g.size(mask, 1)
    if decoder.input_feeding:
        values.append(g.add("Expand", zero, g.concat([B, g.ints(stack.output_size)], 0)))
    if decoder.covers:
        values.append(g.add("Expand", zero, g.concat([B, S], 0)))
    for port, name in zip(_decoder_ports(decoder), values, strict=True):
        piece.give(port, name)

    def run(f: Feeds) -> dict[str, Tensor]:
        encoded, state = network.start(value(f), f.get("lengths"))
        found = _decoder_values(decoder, state, "")
        if decoder.attention is not None and encoded.keys is not None:
            found |= {"memory": encoded.memory, "keys": encoded.keys, "mask": encoded.mask}
        return found

    piece.run = run
    return piece


def _encoded(piece: Piece, encoder: nn.Module) -> tuple[str, str, str, Callable[[Feeds], Any]]:
    """Add an encoder: memory ``(B, S, M)``, mask ``(B, S)``, summary ``(B, M)``; and its input."""
    g = piece.graph
    if isinstance(encoder, RecurrentEncoder):
        how = reading(encoder.encode, encoder.recurrent.input_size, "S")
        ends = piece.take(LENGTHS._replace(limit="S"))
        v, mask = read(piece, how, ends)
        assert mask is not None
        h, _ = run_layers(g, encoder.recurrent, v, ends)
        counts = g.add("ReduceSum", g.add("Cast", mask, to=1), g.ints(1), keepdims=1)
        sums = g.add("ReduceSum", h, g.ints(1), keepdims=0)
        summary = g.add("Div", sums, g.add("Max", counts, g.constant(1.0)))
        return h, mask, summary, how.value
    if isinstance(encoder, VectorEncoder):
        port = Port("x", ("B", encoder.output_size), "features of the source")
        x = piece.take(port)
        mask = g.add(
            "Cast", g.add("Expand", g.constant(1.0), g.concat([g.size(x, 0), g.ints(1)], 0)), to=9
        )
        return g.add("Unsqueeze", x, g.ints(1)), mask, x, lambda f: f["x"]
    shape, inner = getattr(encoder, "shape", None), getattr(encoder, "encoder", None)
    if shape is None or not isinstance(inner, ImageEncoder):
        raise _refusal(encoder, "encoder")
    height, width, channels = shape
    about = f"pixels, 0 to 255, of images of height {height}, width {width}, {channels} channels"
    x = piece.take(Port("x", ("B", 1, height * width * channels), about, mean=128.0, scale=60.0))
    x = g.add("Reshape", x, g.ints(-1, height, width, channels))
    x = g.add("Div", g.add("Transpose", x, perm=[0, 3, 1, 2]), g.constant(255.0))
    for layer in inner.layers:
        if isinstance(layer, nn.Conv2d):
            bias = g.constant(layer.bias)
            x = g.add("Conv", x, g.weight(layer.weight), bias, pads=[1, 1, 1, 1])
        elif isinstance(layer, nn.BatchNorm2d):
            given = (layer.weight, layer.bias, layer.running_mean, layer.running_var)
            named = [g.constant(t) for t in given]
            x = g.add("BatchNormalization", x, *named, epsilon=layer.eps)
        elif isinstance(layer, nn.MaxPool2d):
            x = g.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
        else:
            x = g.add("Relu", x)
    with torch.no_grad():
        place = inner(torch.zeros(1, channels, height, width))
        bare = inner.layers(torch.zeros(1, channels, height, width)).flatten(2).transpose(1, 2)
    memory = g.add("Reshape", x, g.ints(0, inner.output_size, -1))
    memory = g.add("Transpose", memory, perm=[0, 2, 1])
    memory = g.add("Add", memory, g.constant(place.memory - bare))
    mask = g.add("Expand", g.constant(1.0), g.concat([g.size(memory, 0), g.size(memory, 1)], 0))
    summary = g.add("ReduceMean", memory, g.ints(1), keepdims=0)
    return memory, g.add("Cast", mask, to=9), summary, lambda f: f["x"]


def _decoder(decoder: Decoder, g: Graph) -> Piece:
    piece, stack = Piece(g, "one step of the decoder", "decoder"), decoder.recurrent
    V, M = decoder.tokens, decoder.start.in_features
    about = f"the token before; {decoder.begin} at first; {decoder.end} ends a text"
    token = piece.take(Port("token", ("B",), about, "ids", V + 2))
    source = {p.name: piece.take(p) for p in _source_ports(decoder, M)}
    names = [piece.take(port) for port in _decoder_ports(decoder)]
    held = dict(zip([p.name for p in _decoder_ports(decoder)], names, strict=True))
    before = state_names(stack, names[: len(state_ports(stack))], g)
    x = g.lookup(decoder.embedding.weight, token)
    if decoder.input_feeding:
        x = g.concat([x, held["fed"]], 1)
    h, last = layers(g, stack, g.add("Unsqueeze", x, g.ints(0)), None, before)
    h = g.add("Squeeze", h, g.ints(0))
    a, context, weights = h, "", ""
    if decoder.attention is not None:
        context, weights = _attended(g, decoder.attention, h, source, held.get("coverage"))
        joined = g.concat([h, context], 1)
        a = g.add("Tanh", g.linear(joined, decoder.combine.weight, decoder.combine.bias))
    w = a if decoder.shape is None else g.linear(a, decoder.shape.weight, decoder.shape.bias)
    table = decoder.embedding.weight[: V + 1] if decoder.tied else decoder.output.weight
    log_p = g.add("LogSoftmax", g.linear(w, table, decoder.output.bias), axis=-1)
    if decoder.copying is not None:
        log_p = _copied(
            g, decoder, decoder.copying, g.concat([a, context], 1), log_p, source, weights
        )
    about = "natural log of the probability of each token, and last of the end"
    piece.give(Port("log_p", ("B", V + 1), about), log_p)
    if weights:
        piece.give(Port("attention", ("B", "S"), "attention on each step of the source"), weights)
    give_state(piece, stack, last)
    more = {"fed": a} if decoder.input_feeding else {}
    if decoder.covers:
        more["coverage"] = g.add("Add", held["coverage"], weights)
    for port in _decoder_ports(decoder)[len(state_ports(stack)) :]:
        piece.give(port._replace(name=f"next_{port.name}"), more[port.name])
        piece.carried[f"next_{port.name}"] = port.name

    def run(f: Feeds) -> dict[str, Tensor]:
        B, S = len(f["token"]), f["mask"].shape[1] if "mask" in f else 0
        zero = torch.zeros(B, 0)
        encoded = Encoded(
            f.get("memory", zero), f.get("mask", zero), zero, f.get("tokens"), f.get("keys")
        )
        fed = f.get("fed", torch.zeros(B, stack.output_size))
        coverage = f.get("coverage", torch.zeros(B, S if decoder.covers else 0))
        state = DecoderState(hidden_of(stack, f), fed, coverage)
        decoded = decoder(f["token"][:, None], encoded, state)
        found = {"log_p": decoded.log_p[:, 0]}
        if decoded.weights is not None:
            found["attention"] = decoded.weights[:, 0]
        return found | _decoder_values(decoder, decoded.state, "next_")

    piece.run = run
    return piece


def _attended(
    g: Graph, attention: Attention, h: str, source: Mapping[str, str], coverage: str | None
) -> tuple[str, str]:
    """Add the context ``(B, M)`` of a query ``h (B, H)``, and the weights ``(B, S)``."""
    query = g.add("Unsqueeze", h, g.ints(1))  # (B, 1, H)
    if attention.query is None or attention.score is None:
        turned = g.add("Transpose", source["keys"], perm=[0, 2, 1])
        size = attention.memory.out_features
        e = g.add("Mul", g.add("MatMul", query, turned), g.constant(size**-0.5))
        e = g.add("Squeeze", e, g.ints(1))  # (B, S)
    else:
        q = g.linear(query, attention.query.weight, attention.query.bias)
        a = g.add("Add", q, source["keys"])  # (B, S, H)
        if attention.covered is not None and coverage is not None:
            seen = g.add("Unsqueeze", coverage, g.ints(2))
            a = g.add("Add", a, g.linear(seen, attention.covered.weight))
        e = g.add("Squeeze", g.linear(g.add("Tanh", a), attention.score.weight), g.ints(2))
    e = g.where(source["mask"], e, -1e30)
    some = g.add("ReduceMax", g.add("Cast", source["mask"], to=1), g.ints(1), keepdims=1)
    weights = g.add("Mul", g.add("Softmax", e, axis=1), some)
    context = g.add("MatMul", g.add("Unsqueeze", weights, g.ints(1)), source["memory"])
    return g.add("Squeeze", context, g.ints(1)), weights


def _copied(
    g: Graph,
    decoder: Decoder,
    copying: nn.Linear,
    joined: str,
    log_p: str,
    source: Mapping[str, str],
    weights: str,
) -> str:
    """Add the mixture of writing a token and copying one of the source."""
    gate = g.linear(joined, copying.weight, copying.bias)  # (B, 1)
    zeros = g.add("Mul", log_p, g.constant(0.0))
    index = g.add("Min", source["tokens"], g.constant(decoder.tokens, np.int64))
    copied = g.add("ScatterElements", zeros, index, weights, axis=1, reduction="add")
    tiny = g.constant(torch.finfo(torch.float32).tiny)
    writes = g.add("Sub", log_p, g.add("Softplus", g.add("Neg", gate)))
    copies = g.add("Sub", g.add("Log", g.add("Max", copied, tiny)), g.add("Softplus", gate))
    most = g.add("Max", writes, copies)
    parts = [g.add("Exp", g.add("Sub", each, most)) for each in (writes, copies)]
    return g.add("Add", most, g.add("Log", g.add("Add", *parts)))
