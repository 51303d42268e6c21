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
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, Self, cast, get_args

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear

from ostinato.errors import OstinatoError

Weights = Mapping[str, Tensor]
"""The weights of one layer in one direction, by their names without the layer's suffix."""

Activation = Literal["tanh", "relu", "sigmoid", "identity"]
Initialization = Literal["pytorch", "orthogonal", "identity", "chrono"]

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


class HigherOrderState(NamedTuple):
    """State of a `HigherOrderCell`: ``h (B, H)``, and those before it, ``past (B, (k - 1) H)``."""

    h: Tensor
    past: Tensor


class JordanState(NamedTuple):
    """State of a `JordanCell` with elman: output ``h (B, O)`` and hidden units ``s (B, H)``."""

    h: Tensor
    s: Tensor


# A saved state can be loaded where `torch.load` takes nothing but tensors.
torch.serialization.add_safe_globals([RNNState, GRUState, LSTMState, HigherOrderState, JordanState])


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


class MinGRUGates(NamedTuple):
    """Gates of one `MinGRUCell` step, each ``(B, H)``: ``z`` in (0, 1), the candidate ``n``."""

    z: Tensor
    n: Tensor


class MinLSTMGates(NamedTuple):
    """Gates of one `MinLSTMCell` step, each ``(B, H)``: ``f`` and ``i`` add up to 1; ``n``."""

    f: Tensor
    i: Tensor
    n: Tensor


class Trace(NamedTuple):
    """What a layer did in one direction, step by step: values to look at, without gradients.

    Tensors are ``(T, B, size)``, zeros where a row has no step. ``gates`` is None for a cell that
    has none; ``states`` are those after each step.
    """

    gates: Any
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
    time_gates: ClassVar[Mapping[int, int]] = {}
    """Which blocks of the weights are gates that keep the state, 1, or let in what is new, -1."""
    gates_type: ClassVar[Any] = None
    """The named tuple of what ``gates(w, x_t, state)`` gives, for a cell that has gates."""

    def standard_cell(self) -> Cell:
        """The cell of `torch.nn`'s three that computes the same, where there is one; or itself."""
        return self

    def standard_weights(self, w: Weights) -> Weights:
        """The weights with which `standard_cell` computes the same."""
        return w

    def in_training(self) -> Cell:
        """The cell to train with, for one that computes something else then."""
        return self

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

    def initialize(self, w: Weights, how: Initialization = "pytorch", steps: int = 100) -> None:
        """Fill the weights in place with new numbers, by the name of the recipe.

        - ``"pytorch"``: all uniform in ±1/sqrt(H), what `torch.nn` does.
        - ``"orthogonal"``: recurrent weights orthogonal gate by gate (Saxe et al. 2014, "Exact
          solutions to the nonlinear dynamics of learning in deep linear neural networks"), other
          matrices uniform after Glorot and Bengio 2010, biases 0, but for the LSTM's forget
          gate 1 (Gers et al. 2000; Jozefowicz et al. 2015).
        - ``"identity"``: recurrent weights the identity, biases 0, input weights normal with
          deviation 0.001 (Le, Jaitly and Hinton 2015, "A simple way to initialize recurrent
          networks of rectified linear units"). For `RNNCell`.
        - ``"chrono"``: as orthogonal, but the gates that keep the state have biases
          log(uniform(1, steps - 1)), and those that let in what is new the opposite, so that units
          forget over 1 to ``steps`` steps (Tallec and Ollivier 2018, "Can recurrent neural networks
          warp time?", eq. 16). For cells with such gates.
        """
        if how not in get_args(Initialization):
            raise OstinatoError(
                f"{type(self).__name__}: initialization {how!r}; "
                f"expected one of {', '.join(get_args(Initialization))}."
            )
        if how == "chrono" and not (self.bias and self.time_gates and steps > 2):
            raise OstinatoError(
                f"{type(self).__name__}: initialization 'chrono' is for cells with gates that keep "
                f"the state, with biases, and more than 2 steps (here {steps})."
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
            if how == "chrono":
                H, bias = self.hidden_size, w["bias_ih"]
                times = torch.empty(H, dtype=bias.dtype, device=bias.device)
                times.uniform_(1, steps - 1).log_()
                for gate, sign in self.time_gates.items():
                    bias[gate * H : (gate + 1) * H] = sign * times

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

    state_type: ClassVar[Callable[..., State]] = RNNState
    gates_per_unit = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.activation not in ACTIVATIONS:
            raise OstinatoError(
                f"RNNCell: activation={self.activation!r}; "
                f"expected one of {', '.join(ACTIVATIONS)}."
            )

    def step(self, w: Weights, x_t: Tensor, state: State) -> State:
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
    time_gates = {0: -1, 1: 1}  # noqa: RUF012
    _forget_block: ClassVar[int] = 1

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

    def initialize(self, w: Weights, how: Initialization = "pytorch", steps: int = 100) -> None:
        """As `Cell.initialize`; ``"orthogonal"`` opens the forget gate with a bias of 1."""
        _refuse_identity(self, how)
        super().initialize(w, how, steps)
        if how == "orthogonal" and self.bias:
            with torch.no_grad():
                torch.split(w["bias_ih"], self.hidden_size)[self._forget_block].fill_(1.0)

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
    time_gates = {1: 1}  # noqa: RUF012

    def initialize(self, w: Weights, how: Initialization = "pytorch", steps: int = 100) -> None:
        """As `Cell.initialize`."""
        _refuse_identity(self, how)
        super().initialize(w, how, steps)

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


def _refuse_identity(cell: Cell, how: Initialization) -> None:
    if how == "identity":
        raise OstinatoError(
            f"{type(cell).__name__}: initialization 'identity' is for RNNCell with relu."
        )


# Variants. The core runs those whose equations are a standard cell's with tied weights, see
# `standard_cell`; the others run on the reference path.


@dataclass(frozen=True)
class PeepholeLSTMCell(LSTMCell):
    """LSTM whose gates see the cell as well.

    ::

        i, f  = sigmoid(W_i* x_t + W_h* h_(t-1) + b_* + p_* c_(t-1))
        o     = sigmoid(W_io x_t + W_ho h_(t-1) + b_o + p_o c_t)

    and the rest as in `LSTMCell`. ``weight_peephole (3H,)`` holds p_i, p_f, p_o. F. Gers,
    N. Schraudolph and J. Schmidhuber 2002, "Learning precise timing with LSTM recurrent networks".
    Not compiled.
    """

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Those of `LSTMCell`, and the peepholes."""
        return super().weight_shapes() | {"weight_peephole": (3 * self.hidden_size,)}

    def gates(self, w: Weights, x_t: Tensor, state: State) -> LSTMGates:
        """The gates of one step; ``x_t (B, 4H)`` is the projected input."""
        c = cast(LSTMState, state).c
        p_i, p_f, p_o = w["weight_peephole"].chunk(3)
        i, f, g, o = (x_t + linear(state.h, w["weight_hh"], w.get("bias_hh"))).chunk(4, dim=-1)
        i, f, g = (i + p_i * c).sigmoid(), (f + p_f * c).sigmoid(), g.tanh()
        return LSTMGates(i, f, g, (o + p_o * (f * c + i * g)).sigmoid())


@dataclass(frozen=True)
class CoupledLSTMCell(LSTMCell):
    """LSTM that lets in as much as it forgets: i = 1 - f, and the rest as in `LSTMCell`.

    Weights have three blocks, ``f g o``. K. Greff et al. 2017, "LSTM: A search space odyssey",
    variant CIFG. Compiled: since 1 - sigmoid(a) = sigmoid(-a), it is an LSTM whose input gate has
    the forget gate's weights, negative.
    """

    gates_per_unit = 3
    time_gates = {0: 1}  # noqa: RUF012
    _forget_block = 0

    def gates(self, w: Weights, x_t: Tensor, state: State) -> LSTMGates:
        """The gates of one step; ``x_t (B, 3H)`` is the projected input."""
        f, g, o = (x_t + linear(state.h, w["weight_hh"], w.get("bias_hh"))).chunk(3, dim=-1)
        return LSTMGates((-f).sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid())

    def standard_cell(self) -> Cell:
        """An LSTM."""
        return LSTMCell(self.input_size, self.hidden_size, self.bias, self.proj_size)

    def standard_weights(self, w: Weights) -> Weights:
        """The forget gate's rows, negative, above all."""
        H = self.hidden_size
        return {n: t if n == "weight_hr" else torch.cat([-t[:H], t]) for n, t in w.items()}


@dataclass(frozen=True)
class LayerNormLSTMCell(LSTMCell):
    """LSTM with normalised sums.

    ::

        i, f, g, o = N(W_ih x_t) + N(W_hh h_(t-1))       then as in `LSTMCell`
        h_t        = o * tanh(N(c_t))

    N(a) = gain * (a - mean of a) / deviation of a + bias, each N with a gain and bias of its own
    (``gain_ih``, ``bias_ih``, ...). J. L. Ba, J. R. Kiros and G. Hinton 2016, "Layer
    normalization", equations 20 to 22. Not compiled.
    """

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Those of `LSTMCell`, and what N has."""
        H = self.hidden_size
        shapes = {"gain_ih": (4 * H,), "gain_hh": (4 * H,), "gain_c": (H,)}
        return super().weight_shapes() | shapes | ({"bias_c": (H,)} if self.bias else {})

    def initialize(self, w: Weights, how: Initialization = "pytorch", steps: int = 100) -> None:
        """As `LSTMCell.initialize`; gains are 1."""
        super().initialize(w, how, steps)
        _fill_gains(w)

    def project(self, w: Weights, x: Tensor) -> Tensor:
        """N(W_ih x): (..., I) -> (..., 4H)."""
        return _normalized(linear(x, w["weight_ih"]), w["gain_ih"], w.get("bias_ih"))

    def gates(self, w: Weights, x_t: Tensor, state: State) -> LSTMGates:
        """The gates of one step; ``x_t (B, 4H)`` is the projected input."""
        a = _normalized(linear(state.h, w["weight_hh"]), w["gain_hh"], w.get("bias_hh"))
        i, f, g, o = (x_t + a).chunk(4, dim=-1)
        return LSTMGates(i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid())

    def step(self, w: Weights, x_t: Tensor, state: State) -> LSTMState:
        """One step; ``x_t (B, 4H)`` is the projected input."""
        i, f, g, o = self.gates(w, x_t, state)
        c = f * cast(LSTMState, state).c + i * g
        h = o * _normalized(c, w["gain_c"], w.get("bias_c")).tanh()
        return LSTMState(linear(h, w["weight_hr"]) if self.proj_size else h, c)


@dataclass(frozen=True)
class LayerNormGRUCell(GRUCell):
    """GRU with normalised sums.

    ::

        r, z = sigmoid(N(W_i* x_t) + N(W_h* h_(t-1)))
        n    = tanh(N(W_in x_t) + r * N(W_hn h_(t-1)))
        h_t  = (1 - z) * n + z * h_(t-1)

    N as in `LayerNormLSTMCell`, over the sums of both gates together and over the candidate's. Ba,
    Kiros and Hinton 2016, appendix. Not compiled.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.reset_after:
            raise OstinatoError("LayerNormGRUCell: reset_after=False; its reset gate acts after.")

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Those of `GRUCell`, and the gains."""
        H = self.hidden_size
        return super().weight_shapes() | {"gain_ih": (3 * H,), "gain_hh": (3 * H,)}

    def initialize(self, w: Weights, how: Initialization = "pytorch", steps: int = 100) -> None:
        """As `GRUCell.initialize`; gains are 1."""
        super().initialize(w, how, steps)
        _fill_gains(w)

    def project(self, w: Weights, x: Tensor) -> Tensor:
        """N(W_ih x): (..., I) -> (..., 3H)."""
        return self._each_normalized(linear(x, w["weight_ih"]), w["gain_ih"], w.get("bias_ih"))

    def gates(self, w: Weights, x_t: Tensor, state: State) -> GRUGates:
        """The gates of one step; ``x_t (B, 3H)`` is the projected input."""
        a = linear(state.h, w["weight_hh"])
        a = self._each_normalized(a, w["gain_hh"], w.get("bias_hh"))
        H = 2 * self.hidden_size
        r, z = (x_t[..., :H] + a[..., :H]).sigmoid().chunk(2, dim=-1)
        return GRUGates(r, z, (x_t[..., H:] + r * a[..., H:]).tanh())

    def _each_normalized(self, a: Tensor, gain: Tensor, bias: Tensor | None) -> Tensor:
        H = 2 * self.hidden_size
        first = _normalized(a[..., :H], gain[:H], None if bias is None else bias[:H])
        second = _normalized(a[..., H:], gain[H:], None if bias is None else bias[H:])
        return torch.cat([first, second], dim=-1)


def _normalized(a: Tensor, gain: Tensor, bias: Tensor | None) -> Tensor:
    return layer_norm(a, a.shape[-1:], gain, bias)


def _fill_gains(w: Weights) -> None:
    with torch.no_grad():
        for name, weight in w.items():
            if name.startswith("gain"):
                weight.fill_(1.0)


@dataclass(frozen=True)
class MGUCell(_GatedCell):
    """Minimal gated unit: one gate for what a GRU has two for.

    ::

        f   = sigmoid(W_if x_t + W_hf h_(t-1) + b_f)
        n   = tanh(W_in x_t + W_hn (f * h_(t-1)) + b_n)
        h_t = (1 - f) * h_(t-1) + f * n

    Weights have two blocks, ``f n``. G.-B. Zhou et al. 2016, "Minimal gated unit for recurrent
    neural networks", equations 6 to 8. Compiled: it is a GRU with the reset before the product,
    where r = f and z = 1 - f.
    """

    state_type = GRUState
    gates_type = GRUGates
    gates_per_unit = 2
    time_gates = {0: -1}  # noqa: RUF012

    def initialize(self, w: Weights, how: Initialization = "pytorch", steps: int = 100) -> None:
        """As `Cell.initialize`."""
        _refuse_identity(self, how)
        super().initialize(w, how, steps)

    def gates(self, w: Weights, x_t: Tensor, state: State) -> GRUGates:
        """The gates of one step as a GRU's: ``r`` is f, ``z`` is 1 - f."""
        h, H, bias = state.h, self.hidden_size, w.get("bias_hh")
        b_f, b_n = (None, None) if bias is None else (bias[:H], bias[H:])
        a = x_t[..., :H] + linear(h, w["weight_hh"][:H], b_f)
        f = a.sigmoid()
        n = (x_t[..., H:] + linear(f * h, w["weight_hh"][H:], b_n)).tanh()
        return GRUGates(f, (-a).sigmoid(), n)

    def step(self, w: Weights, x_t: Tensor, state: State) -> GRUState:
        """One step; ``x_t (B, 2H)`` is the projected input."""
        f, _, n = self.gates(w, x_t, state)
        return GRUState((1 - f) * state.h + f * n)

    def standard_cell(self) -> Cell:
        """A GRU."""
        return GRUCell(self.input_size, self.hidden_size, self.bias, reset_after=False)

    def standard_weights(self, w: Weights) -> Weights:
        """The gate's rows, once more and negative between its own and the candidate's."""
        H = self.hidden_size
        return {name: torch.cat([t[:H], -t[:H], t[H:]]) for name, t in w.items()}


@dataclass(frozen=True)
class HigherOrderCell(RNNCell):
    """Elman's network that sees its last k states.

    h_t = f(W_ih x_t + b_ih + U_1 h_(t-1) + ... + U_k h_(t-k) + b_hh)

    Args:
        order: k, at least 2.

    ``weight_hh (H, k H)`` holds U_1 to U_k side by side. R. Soltani and H. Jiang 2016, "Higher
    order recurrent neural networks", equation 5. Not compiled.
    """

    order: int = 2

    state_type = HigherOrderState

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order < 2:
            raise OstinatoError(f"HigherOrderCell: order={self.order}; expected 2 or more.")

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """Features of h, then of the states before it."""
        return self.hidden_size, (self.order - 1) * self.hidden_size

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Those of `RNNCell`, the recurrent matrix k times as wide."""
        shapes = super().weight_shapes()
        return shapes | {"weight_hh": (self.hidden_size, self.order * self.hidden_size)}

    def step(self, w: Weights, x_t: Tensor, state: State) -> HigherOrderState:
        """One step; ``x_t (B, H)`` is the projected input."""
        before = torch.cat([state.h, cast(HigherOrderState, state).past], dim=-1)  # (B, k H)
        f = ACTIVATIONS[self.activation]
        h = f(x_t + linear(before, w["weight_hh"], w.get("bias_hh")))
        return HigherOrderState(h, before[..., : self.state_sizes[1]])


@dataclass(frozen=True)
class JordanCell(RNNCell):
    """Jordan's network: the output is fed back, not the hidden units; or beside them.

    ::

        s_t = f(W_ih x_t + b_ih + W_yh y_(t-1) + b_hh)       with elman: + W_hh s_(t-1)
        y_t = g(W_hy s_t + b_hy)

    Args:
        outputs: features of y, ``O``; what the layer shows, its ``h``.
        output_activation: g.
        elman: whether the hidden units are fed back as well.

    M. I. Jordan 1986, "Serial order: a parallel distributed processing approach". Not compiled.
    """

    outputs: int = 1
    output_activation: Activation = "identity"
    elman: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.outputs < 1 or self.output_activation not in ACTIVATIONS:
            raise OstinatoError(
                f"JordanCell: outputs={self.outputs}, output_activation="
                f"{self.output_activation!r}; expected at least 1 and one of "
                f"{', '.join(ACTIVATIONS)}."
            )

    @property
    def state_type(self) -> Callable[..., State]:  # type: ignore[override]
        """With elman the hidden units are remembered, else the output alone."""
        return JordanState if self.elman else RNNState

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """Features of y, then, with elman, of s."""
        return (self.outputs, self.hidden_size) if self.elman else (self.outputs,)

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """From x, y and s to the hidden units, and from there to y."""
        H, O = self.hidden_size, self.outputs
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (H, self.input_size)}
        shapes |= {"weight_hh": (H, H)} if self.elman else {}
        shapes |= {"weight_yh": (H, O), "weight_hy": (O, H)}
        return shapes | ({"bias_ih": (H,), "bias_hh": (H,), "bias_hy": (O,)} if self.bias else {})

    def step(self, w: Weights, x_t: Tensor, state: State) -> State:
        """One step; ``x_t (B, H)`` is the projected input."""
        a = x_t + linear(state.h, w["weight_yh"], w.get("bias_hh"))
        if self.elman:
            a = a + linear(cast(JordanState, state).s, w["weight_hh"])
        s = ACTIVATIONS[self.activation](a)
        y = linear(s, w["weight_hy"], w.get("bias_hy"))
        y = ACTIVATIONS[self.output_activation](y)
        return JordanState(y, s) if self.elman else RNNState(y)


@dataclass(frozen=True)
class IndRNNCell(RNNCell):
    """Units that remember each on its own: h_t = f(W_ih x_t + b_ih + u * h_(t-1) + b_hh).

    ``weight_hh (H,)`` holds u; a unit's gradient grows or shrinks by u f' a step, and by no other
    unit's. ``orthogonal`` draws u uniform in (0, 1), ``identity`` sets it to 1. S. Li et al. 2018,
    "Independently recurrent neural network (IndRNN)", equation 4; relu is what it is meant for.
    Not compiled.
    """

    activation: Activation = "relu"

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Those of `RNNCell`, a recurrent vector instead of a matrix."""
        return super().weight_shapes() | {"weight_hh": (self.hidden_size,)}

    def initialize(self, w: Weights, how: Initialization = "pytorch", steps: int = 100) -> None:
        """As `Cell.initialize`, but for u."""
        super().initialize(w, how, steps)
        with torch.no_grad():
            if how == "orthogonal":
                w["weight_hh"].uniform_(0, 1)
            elif how == "identity":
                w["weight_hh"].fill_(1.0)

    def step(self, w: Weights, x_t: Tensor, state: State) -> RNNState:
        """One step; ``x_t (B, H)`` is the projected input."""
        a = x_t + w["weight_hh"] * state.h
        return RNNState(ACTIVATIONS[self.activation](a + w["bias_hh"] if self.bias else a))


@dataclass(frozen=True)
class LinearCell(Cell):
    """h_t = a_t * h_(t-1) + b_t, where a and b depend on the input alone.

    So all steps can be had at once: `scan` runs such a cell as a parallel scan.
    """

    blocks: ClassVar[int]

    state_type = RNNState

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """One matrix and one bias; the state meets no weights."""
        rows = self.blocks * self.hidden_size
        return {"weight_ih": (rows, self.input_size)} | ({"bias_ih": (rows,)} if self.bias else {})

    def initialize(self, w: Weights, how: Initialization = "pytorch", steps: int = 100) -> None:
        """As `Cell.initialize`."""
        _refuse_identity(self, how)
        super().initialize(w, how, steps)

    def project(self, w: Weights, x: Tensor) -> Tensor:
        """W_ih x + b_ih: (..., I) -> (..., blocks * H)."""
        return linear(x, w["weight_ih"], w.get("bias_ih"))

    @abstractmethod
    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """A and b, ``(..., H)`` each, of the projected input."""

    def step(self, w: Weights, x_t: Tensor, state: State) -> RNNState:
        """One step; ``x_t`` is the projected input."""
        a, b = self.coefficients(x_t)
        return RNNState(a * state.h + b)


@dataclass(frozen=True)
class MinGRUCell(LinearCell):
    """GRU without what depends on the state, so that all steps can be had at once.

    ::

        z   = sigmoid(W_z x_t + b_z)
        n   = W_n x_t + b_n
        h_t = (1 - z) * h_(t-1) + z * n

    L. Feng et al. 2024, "Were RNNs all we needed?", section 3.1; biases are ours. Not compiled: a
    parallel scan in PyTorch.
    """

    blocks = 2
    gates_type = MinGRUGates
    time_gates = {0: -1}  # noqa: RUF012

    def gates(self, w: Weights, x_t: Tensor, state: State) -> MinGRUGates:
        """The gates of one step; ``x_t (B, 2H)`` is the projected input."""
        z, n = x_t.chunk(2, dim=-1)
        return MinGRUGates(z.sigmoid(), n)

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """1 - z, and z n."""
        z, n = x.chunk(2, dim=-1)
        return (-z).sigmoid(), z.sigmoid() * n


@dataclass(frozen=True)
class MinLSTMCell(LinearCell):
    """LSTM without what depends on the state, so that all steps can be had at once.

    ::

        f, i = sigmoid(W_* x_t + b_*), divided by their sum
        n    = W_n x_t + b_n
        h_t  = f * h_(t-1) + i * n

    L. Feng et al. 2024, "Were RNNs all we needed?", section 3.2; biases are ours. Not compiled: a
    parallel scan in PyTorch.
    """

    blocks = 3
    gates_type = MinLSTMGates
    time_gates = {0: 1, 1: -1}  # noqa: RUF012

    def gates(self, w: Weights, x_t: Tensor, state: State) -> MinLSTMGates:
        """The gates of one step; ``x_t (B, 3H)`` is the projected input."""
        f, i, n = x_t.chunk(3, dim=-1)
        f, i = f.sigmoid(), i.sigmoid()
        return MinLSTMGates(f / (f + i), i / (f + i), n)

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """f, and i n."""
        f, i, n = self.gates({}, x, RNNState(x))
        return f, i * n


@dataclass(frozen=True)
class ZoneoutCell(Cell):
    """Another cell, some of whose units keep their state in a step, drawn anew at every step.

    ::

        state_t = m * state_(t-1) + (1 - m) * step(x_t, state_(t-1))

    with m of ones and zeros in training, and their mean, the rate, otherwise.

    Args:
        inner: the cell.
        rates: probability of keeping, for each tensor of the state; or one for all.
        training: which of the two is computed; a layer sees to it.

    D. Krueger et al. 2017, "Zoneout: Regularizing RNNs by randomly preserving hidden activations",
    equations 5 and 6. Not compiled.
    """

    input_size: int = field(init=False)
    hidden_size: int = field(init=False)
    bias: bool = field(init=False)
    inner: Cell
    rates: float | tuple[float, ...] = 0.1
    training: bool = False

    def __post_init__(self) -> None:
        for name in ("input_size", "hidden_size", "bias"):
            object.__setattr__(self, name, getattr(self.inner, name))
        for rate in self._rates():
            if not 0 <= rate <= 1:
                raise OstinatoError(f"ZoneoutCell: rates={self.rates}; expected 0 to 1.")

    def _rates(self) -> tuple[float, ...]:
        """The rate of each tensor of the state."""
        sizes = self.inner.state_sizes
        rates = self.rates if isinstance(self.rates, tuple) else (self.rates,) * len(sizes)
        if len(rates) != len(sizes):
            raise OstinatoError(
                f"ZoneoutCell: {len(rates)} rates; {type(self.inner).__name__} has {len(sizes)} "
                "tensors of state."
            )
        return rates

    @property
    def state_type(self) -> Callable[..., State]:  # type: ignore[override]
        """The inner cell's."""
        return self.inner.state_type

    @property
    def gates_type(self) -> Any:
        """The inner cell's."""
        return self.inner.gates_type

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """The inner cell's."""
        return self.inner.state_sizes

    def with_input(self, input_size: int) -> Self:
        """The same around the inner cell for an input of another size."""
        return replace(self, inner=self.inner.with_input(input_size))

    def in_training(self) -> Cell:
        """The same with drawn m."""
        return replace(self, training=True)

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """The inner cell's."""
        return self.inner.weight_shapes()

    def initialize(self, w: Weights, how: Initialization = "pytorch", steps: int = 100) -> None:
        """As the inner cell does."""
        self.inner.initialize(w, how, steps)

    def project(self, w: Weights, x: Tensor) -> Tensor:
        """As the inner cell does."""
        return self.inner.project(w, x)

    def gates(self, w: Weights, x_t: Tensor, state: State) -> Any:
        """The inner cell's."""
        return cast(Any, self.inner).gates(w, x_t, state)

    def step(self, w: Weights, x_t: Tensor, state: State) -> State:
        """One step; ``x_t`` is the projected input."""
        new = cast("tuple[Tensor, ...]", self.inner.step(w, x_t, state))
        mixed = []
        for s, n, rate in zip(cast("tuple[Tensor, ...]", state), new, self._rates(), strict=True):
            m = torch.bernoulli(torch.full_like(n, rate)) if self.training else rate
            mixed.append(m * s + (1 - m) * n)
        return self.inner.state_type(*mixed)
