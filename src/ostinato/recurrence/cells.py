"""The equations of every recurrent cell, in plain PyTorch: the reference all else must equal.

A cell is a few numbers and one pure step. It owns no weights and no state: both come in as
arguments, and the new state comes out. What runs a cell over a sequence is `scan`.

Letters: ``T`` time, ``B`` batch, ``I`` input features, ``H`` hidden features. Gates stand in
PyTorch's order, which is written down here and nowhere else: ``i f g o`` for the LSTM,
``r z n`` for the GRU; a weight matrix holds the blocks of its gates one below the other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, Self, cast, get_args

import torch
from torch import Tensor
from torch.nn.functional import linear

from ostinato.errors import OstinatoError

Weights = Mapping[str, Tensor]
"""The weights of one layer in one direction, by their names without the layer's suffix."""

Activation = Literal["tanh", "relu", "sigmoid", "identity"]
Initialization = Literal["pytorch", "orthogonal", "identity"]

ACTIVATIONS: Mapping[Activation, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "identity": lambda x: x,
}


class State(Protocol):
    """What a cell remembers: a named tuple of tensors ``(B, size)``, one of them called ``h``."""

    @property
    def h(self) -> Tensor:
        """What the cell shows to the next layer and to the user."""


class RNNState(NamedTuple):
    """State of an Elman network: ``h (B, H)``."""

    h: Tensor


class GRUState(NamedTuple):
    """State of a GRU: ``h (B, H)``."""

    h: Tensor


class LSTMState(NamedTuple):
    """State of an LSTM: what it shows, ``h (B, H)``, and what it keeps, ``c (B, H)``.

    With a projection ``h`` is ``(B, proj_size)``. Like the plain tuple of `torch.nn` it is made of
    one iterable as well:

    >>> state = LSTMState(torch.ones(1, 2), torch.zeros(1, 2))
    >>> type(state)(2 * tensor for tensor in state).h
    tensor([[2., 2.]])
    """

    h: Tensor
    c: Tensor


_named = LSTMState.__new__


def _named_or_listed(cls: type[LSTMState], *parts: Any, **named: Any) -> LSTMState:
    if len(parts) == 1 and not named and not isinstance(parts[0], Tensor):
        parts = tuple(parts[0])
    return _named(cls, *parts, **named)


LSTMState.__new__ = _named_or_listed  # type: ignore[assignment, method-assign]

# A saved state can be loaded where `torch.load` takes nothing but tensors.
torch.serialization.add_safe_globals([RNNState, GRUState, LSTMState])


class LSTMGates(NamedTuple):
    """Gates of one LSTM step, each ``(B, H)``: ``i f o`` in (0, 1), candidate ``g`` in (-1, 1)."""

    i: Tensor
    f: Tensor
    g: Tensor
    o: Tensor


class GRUGates(NamedTuple):
    """Gates of one GRU step, each ``(B, H)``: ``r z`` in (0, 1), the candidate ``n`` in (-1, 1)."""

    r: Tensor
    z: Tensor
    n: Tensor


class Trace(NamedTuple):
    """What a layer did in one direction, step by step: values to look at, without gradients.

    Tensors are ``(T, B, size)``, zeros where a row has no step. ``gates`` is None for a cell that
    has none; ``states`` are those after each step.
    """

    gates: LSTMGates | GRUGates | None
    states: State


@dataclass(frozen=True)
class Cell(ABC):
    """One recurrent equation. A new one needs `weight_shapes`, `state_sizes` and `step`.

    Args:
        input_size: features of an input step, ``I``.
        hidden_size: features of the hidden state, ``H``.
        bias: whether the cell has bias vectors.

    Example:
        A network that forgets by halves, h_t = (h_(t-1) + W x_t) / 2:

        >>> class Leaky(Cell):
        ...     state_type = RNNState
        ...     def weight_shapes(self):
        ...         return {"weight_ih": (self.hidden_size, self.input_size)}
        ...     def step(self, w, x_t, state):
        ...         return RNNState((state.h + linear(x_t, w["weight_ih"])) / 2)
        >>> cell = Leaky(input_size=3, hidden_size=2)
        >>> w = {"weight_ih": torch.ones(2, 3)}
        >>> cell.step(w, torch.ones(1, 3), cell.zero_state(1)).h
        tensor([[1.5000, 1.5000]])
    """

    input_size: int
    hidden_size: int
    bias: bool = True

    state_type: ClassVar[Callable[..., State]]
    gates_type: ClassVar[Any] = None
    """The named tuple of what ``gates(w, x_t, state)`` gives, for a cell that has gates."""

    def __post_init__(self) -> None:
        for name in ("input_size", "hidden_size"):
            size = getattr(self, name)
            if not isinstance(size, int) or isinstance(size, bool) or size <= 0:
                raise OstinatoError(
                    f"{type(self).__name__}: {name}={size!r}; expected a whole number above zero."
                )

    @abstractmethod
    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the weights by name, in the order in which they are made."""

    @abstractmethod
    def step(self, w: Weights, x_t: Tensor, state: State) -> State:
        """The state after one step. ``x_t`` is a step of what `project` gave."""

    def project(self, w: Weights, x: Tensor) -> Tensor:
        """Whatever of the step does not depend on the state, for all steps at once.

        ``x`` is ``(..., I)``; what comes out is what `step` takes as ``x_t``. Here: ``x`` itself.
        """
        return x

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """Features of each tensor of the state, in the order of its named tuple."""
        return (self.hidden_size,)

    @property
    def output_size(self) -> int:
        """Features of ``state.h``."""
        return self.state_sizes[0]

    def zero_state(self, batch_size: int, like: Tensor | None = None) -> State:
        """h_0 = 0, in the dtype and on the device of ``like``."""
        like = torch.empty(0) if like is None else like
        return self.state_type(*(like.new_zeros(batch_size, size) for size in self.state_sizes))

    def with_input(self, input_size: int) -> Self:
        """The same cell for an input of another size: the one for the next layer of a stack."""
        return replace(self, input_size=input_size)

    def initialize(self, w: Weights, how: Initialization = "pytorch") -> None:
        """Fill the weights in place with new numbers, by the name of the recipe.

        - ``"pytorch"``: all uniform in ±1/sqrt(H), what `torch.nn` does.
        - ``"orthogonal"``: recurrent weights orthogonal gate by gate (Saxe et al. 2014, "Exact
          solutions to the nonlinear dynamics of learning in deep linear neural networks"), other
          matrices uniform after Glorot and Bengio 2010, biases 0, but for the LSTM's forget
          gate 1 (Gers et al. 2000; Jozefowicz et al. 2015).
        - ``"identity"``: recurrent weights the identity, biases 0, input weights normal with
          deviation 0.001 (Le, Jaitly and Hinton 2015, "A simple way to initialize recurrent
          networks of rectified linear units"). For `RNNCell`.
        """
        if how not in get_args(Initialization):
            raise OstinatoError(
                f"{type(self).__name__}: initialization {how!r}; "
                f"expected one of {', '.join(get_args(Initialization))}."
            )
        with torch.no_grad():
            if how == "pytorch":
                for weight in w.values():
                    bound = self.hidden_size**-0.5
                    torch.nn.init.uniform_(weight, -bound, bound)
                return
            for name, weight in w.items():
                if weight.dim() < 2:
                    torch.nn.init.zeros_(weight)
                    continue
                for block in self._gate_blocks(name, weight):
                    if name != "weight_hh":
                        if how == "identity":
                            torch.nn.init.normal_(block, std=0.001)
                        else:
                            torch.nn.init.xavier_uniform_(block)
                    elif how == "identity":
                        torch.nn.init.eye_(block)
                    else:
                        torch.nn.init.orthogonal_(block)

    def _gate_blocks(self, name: str, weight: Tensor) -> list[Tensor]:
        """Views of a weight matrix, one a gate: each is one linear map and is drawn as one."""
        rows = self.hidden_size if name in ("weight_ih", "weight_hh") else weight.shape[0]
        return list(torch.split(weight, rows))


@dataclass(frozen=True)
class _GatedCell(Cell):
    """What RNN, LSTM and GRU share: PyTorch's four weights and the projection of the input."""

    gates_per_unit: ClassVar[int]

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        rows = self.gates_per_unit * self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {
            "weight_ih": (rows, self.input_size),
            "weight_hh": (rows, self.output_size),
        }
        if self.bias:
            shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
        return shapes

    def project(self, w: Weights, x: Tensor) -> Tensor:
        """W_ih x + b_ih: (..., I) -> (..., gates * H)."""
        return linear(x, w["weight_ih"], w.get("bias_ih"))


@dataclass(frozen=True)
class RNNCell(_GatedCell):
    """Elman's network, h_t = f(W_ih x_t + b_ih + W_hh h_(t-1) + b_hh).

    Args:
        input_size: ``I``.
        hidden_size: ``H``.
        bias: whether the cell has bias vectors.
        activation: f, one of ``tanh``, ``relu``, ``sigmoid``, ``identity``.

    J. L. Elman 1990, "Finding structure in time". Two biases instead of one, as in PyTorch.
    """

    activation: Activation = "tanh"

    state_type = RNNState
    gates_per_unit = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.activation not in ACTIVATIONS:
            raise OstinatoError(
                f"RNNCell: activation={self.activation!r}; "
                f"expected one of {', '.join(ACTIVATIONS)}."
            )

    def step(self, w: Weights, x_t: Tensor, state: State) -> RNNState:
        """One step; ``x_t (B, H)`` is the projected input."""
        f = ACTIVATIONS[self.activation]
        return RNNState(f(x_t + linear(state.h, w["weight_hh"], w.get("bias_hh"))))


@dataclass(frozen=True)
class LSTMCell(_GatedCell):
    """Long short-term memory: three sigmoid gates, one tanh candidate, and a cell they guard.

    ::

        i, f, o = sigmoid(W_i* x_t + W_h* h_(t-1) + b_*)
        g       = tanh   (W_ig x_t + W_hg h_(t-1) + b_g)
        c_t     = f * c_(t-1) + i * g
        h_t     = o * tanh(c_t)                  with a projection: W_hr (o * tanh(c_t))

    Args:
        input_size: ``I``.
        hidden_size: ``H``.
        bias: whether the cell has bias vectors.
        proj_size: features of a projected ``h``; 0 for none.

    S. Hochreiter and J. Schmidhuber 1997, "Long short-term memory"; the forget gate from F. Gers,
    J. Schmidhuber and F. Cummins 2000, "Learning to forget"; no peepholes; the projection from
    H. Sak, A. Senior and F. Beaufays 2014, "Long short-term memory based recurrent neural network
    architectures for large vocabulary speech recognition".
    """

    proj_size: int = 0

    state_type = LSTMState
    gates_type = LSTMGates
    gates_per_unit = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.proj_size < self.hidden_size:
            raise OstinatoError(
                f"LSTMCell: proj_size={self.proj_size}; expected 0 (none) or a size "
                f"below hidden_size={self.hidden_size}."
            )

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """Features of h, then of c."""
        return (self.proj_size or self.hidden_size, self.hidden_size)

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """PyTorch's four weights, and the projection's."""
        shapes = super().weight_shapes()
        if self.proj_size:
            shapes["weight_hr"] = (self.proj_size, self.hidden_size)
        return shapes

    def initialize(self, w: Weights, how: Initialization = "pytorch") -> None:
        """As `Cell.initialize`; ``"orthogonal"`` opens the forget gate with a bias of 1."""
        if how == "identity":
            raise OstinatoError("LSTMCell: initialization 'identity' is for RNNCell with relu.")
        super().initialize(w, how)
        if how == "orthogonal" and self.bias:
            with torch.no_grad():
                w["bias_ih"][self.hidden_size : 2 * self.hidden_size] = 1.0

    def gates(self, w: Weights, x_t: Tensor, state: State) -> LSTMGates:
        """The gates of one step; ``x_t (B, 4H)`` is the projected input."""
        i, f, g, o = (x_t + linear(state.h, w["weight_hh"], w.get("bias_hh"))).chunk(4, dim=-1)
        return LSTMGates(i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid())

    def step(self, w: Weights, x_t: Tensor, state: State) -> LSTMState:
        """One step; ``x_t (B, 4H)`` is the projected input."""
        i, f, g, o = self.gates(w, x_t, state)
        c = f * cast(LSTMState, state).c + i * g
        h = o * c.tanh()
        return LSTMState(linear(h, w["weight_hr"]) if self.proj_size else h, c)


@dataclass(frozen=True)
class GRUCell(_GatedCell):
    """Gated recurrent unit.

    ::

        r, z = sigmoid(W_i* x_t + W_h* h_(t-1) + b_*)
        n    = tanh(W_in x_t + b_in + r * (W_hn h_(t-1) + b_hn))     reset after the product
        n    = tanh(W_in x_t + b_in + W_hn (r * h_(t-1)) + b_hn)     reset before the product
        h_t  = (1 - z) * n + z * h_(t-1)

    Args:
        input_size: ``I``.
        hidden_size: ``H``.
        bias: whether the cell has bias vectors.
        reset_after: where the reset gate acts; True is PyTorch's and cuDNN's, False the paper's.

    K. Cho et al. 2014, "Learning phrase representations using RNN encoder-decoder for statistical
    machine translation", equations 5 to 8; two biases instead of none, as in PyTorch.
    """

    reset_after: bool = True

    state_type = GRUState
    gates_type = GRUGates
    gates_per_unit = 3

    def initialize(self, w: Weights, how: Initialization = "pytorch") -> None:
        """As `Cell.initialize`."""
        if how == "identity":
            raise OstinatoError("GRUCell: initialization 'identity' is for RNNCell with relu.")
        super().initialize(w, how)

    def gates(self, w: Weights, x_t: Tensor, state: State) -> GRUGates:
        """The gates of one step; ``x_t (B, 3H)`` is the projected input."""
        h, H = state.h, self.hidden_size
        bias = w.get("bias_hh")
        x_rz, x_n = x_t[..., : 2 * H], x_t[..., 2 * H :]
        w_rz, w_n = w["weight_hh"][: 2 * H], w["weight_hh"][2 * H :]
        b_rz, b_n = (None, None) if bias is None else (bias[: 2 * H], bias[2 * H :])
        r, z = (x_rz + linear(h, w_rz, b_rz)).sigmoid().chunk(2, dim=-1)
        if self.reset_after:
            n = (x_n + r * linear(h, w_n, b_n)).tanh()
        else:
            n = (x_n + linear(r * h, w_n, b_n)).tanh()
        return GRUGates(r, z, n)

    def step(self, w: Weights, x_t: Tensor, state: State) -> GRUState:
        """One step; ``x_t (B, 3H)`` is the projected input."""
        _, z, n = self.gates(w, x_t, state)
        return GRUState((1 - z) * n + z * state.h)
