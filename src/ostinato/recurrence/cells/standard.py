"""The cells of `torch.nn`: RNN, LSTM and GRU.

Gates are in PyTorch's order: ``i f g o`` for the LSTM, ``r z n`` for the GRU; a weight matrix
stacks the blocks of its gates vertically.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Self, cast

import torch
from torch import Tensor
from torch.nn.functional import linear

from ostinato.errors import OstinatoError, check_choice
from ostinato.recurrence.cells.base import (
    Cell,
    RNNState,
    State,
    Weights,
    named,
    register_state,
)

Activation = Literal["tanh", "relu", "sigmoid", "identity"]

ACTIVATIONS: Mapping[Activation, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "identity": lambda x: x,
}


@register_state
class GRUState(NamedTuple):
    """State of a GRU: ``h (B, H)``."""

    h: Tensor


@register_state
class LSTMState(NamedTuple("_HiddenAndCell", [("h", Tensor), ("c", Tensor)])):
    """State of an LSTM: its output, ``h (B, proj_size or H)``, and its memory, ``c (B, H)``.

    Like the plain tuple of `torch.nn` it can be made from one iterable as well:

    >>> state = LSTMState(torch.ones(1, 2), torch.zeros(1, 2))
    >>> type(state)(2 * tensor for tensor in state).h
    tensor([[2., 2.]])
    """

    __slots__ = ()

    def __new__(cls, h: Tensor | Iterable[Tensor], c: Tensor | None = None) -> Self:
        """Make a state of two tensors, or of one iterable of them."""
        if c is None and h is not None:  # pytree fills one with None and None
            h, c = h
        return super().__new__(cls, cast(Tensor, h), cast(Tensor, c))

    def detach(self) -> Self:
        """Return the state without its history, as truncated back-propagation carries it on.

        >>> LSTMState(torch.ones(1, 2, requires_grad=True), torch.zeros(1, 2)).detach().h
        tensor([[1., 1.]])
        """
        return type(self)(self.h.detach(), self.c.detach())


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


@dataclass(frozen=True)
class GatedCell(Cell):
    """Base of RNN, LSTM and GRU: PyTorch's four weights and the projection of the input."""

    gates_per_unit: ClassVar[int]

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return input and recurrent matrix, and a bias for each."""
        rows = self.gates_per_unit * self.hidden_size
        matrices = {"weight_ih": (rows, self.input_size), "weight_hh": (rows, self.output_size)}
        return matrices | ({"bias_ih": (rows,), "bias_hh": (rows,)} if self.bias else {})

    def project(self, w: Weights, x: Tensor) -> Tensor:
        """W_ih x + b_ih: (..., I) -> (..., gates * H)."""
        return linear(x, w["weight_ih"], w.get("bias_ih"))


@named("rnn")
@named("rnn-relu", activation="relu")
@dataclass(frozen=True)
class RNNCell(GatedCell):
    """Elman's network, h_t = f(W_ih x_t + b_ih + W_hh h_(t-1) + b_hh).

    Args:
        activation: f, one of ``tanh``, ``relu``, ``sigmoid``, ``identity``.

    J. L. Elman 1990, "Finding structure in time". Two biases instead of one, as in PyTorch.
    """

    activation: Activation = "tanh"

    state_type: ClassVar[type[State]] = RNNState
    gates_per_unit = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("RNNCell: activation", self.activation, ACTIVATIONS)

    def step(self, w: Weights, x_t: Tensor, state: State) -> State:
        f = ACTIVATIONS[self.activation]
        return RNNState(f(x_t + linear(state.h, w["weight_hh"], w.get("bias_hh"))))


@named("lstm")
@dataclass(frozen=True)
class LSTMCell(GatedCell):
    """Long short-term memory: three sigmoid gates, a tanh candidate, and a cell state.

    ::

        i, f, o = sigmoid(W_i* x_t + W_h* h_(t-1) + b_*)
        g       = tanh   (W_ig x_t + W_hg h_(t-1) + b_g)
        c_t     = f * c_(t-1) + i * g
        h_t     = o * tanh(c_t)                  with a projection: W_hr (o * tanh(c_t))

    Args:
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
    time_gates = {0: -1, 1: 1}  # noqa: RUF012
    forget_gate = 1
    has_identity = False

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
        """Return PyTorch's four weights, and the projection's."""
        projection = {"weight_hr": (self.proj_size, self.hidden_size)} if self.proj_size else {}
        return super().weight_shapes() | projection

    def gates(self, w: Weights, x_t: Tensor, state: State) -> LSTMGates:
        i, f, g, o = (x_t + linear(state.h, w["weight_hh"], w.get("bias_hh"))).chunk(4, dim=-1)
        return LSTMGates(i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid())

    def step(self, w: Weights, x_t: Tensor, state: State) -> LSTMState:
        i, f, g, o = self.gates(w, x_t, state)
        c = f * cast(LSTMState, state).c + i * g
        h = o * c.tanh()
        return LSTMState(linear(h, w["weight_hr"]) if self.proj_size else h, c)


@named("gru")
@named("gru-reset-before", reset_after=False)
@dataclass(frozen=True)
class GRUCell(GatedCell):
    """Gated recurrent unit.

    ::

        r, z = sigmoid(W_i* x_t + W_h* h_(t-1) + b_*)
        n    = tanh(W_in x_t + b_in + r * (W_hn h_(t-1) + b_hn))     reset after the product
        n    = tanh(W_in x_t + b_in + W_hn (r * h_(t-1)) + b_hn)     reset before the product
        h_t  = (1 - z) * n + z * h_(t-1)

    Args:
        reset_after: where the reset gate acts; True is PyTorch's and cuDNN's, False the paper's.

    K. Cho et al. 2014, "Learning phrase representations using RNN encoder-decoder for statistical
    machine translation", equations 5 to 8; two biases instead of none, as in PyTorch.
    """

    reset_after: bool = True

    state_type = GRUState
    gates_type = GRUGates
    gates_per_unit = 3
    time_gates = {1: 1}  # noqa: RUF012
    has_identity = False

    def gates(self, w: Weights, x_t: Tensor, state: State) -> GRUGates:
        h, H, bias = state.h, self.hidden_size, w.get("bias_hh")
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
        _, z, n = self.gates(w, x_t, state)
        return GRUState((1 - z) * n + z * state.h)
