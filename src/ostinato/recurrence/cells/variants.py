"""Variants of the standard cells, after published papers.

The compiled core runs those whose equations are a standard cell's with tied weights, and says so
(`Cell.standard_cell`); kernels for the others are made when one is first used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Literal, NamedTuple, Self, TypeAlias, cast

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear, logsigmoid

from ostinato.errors import OstinatoError, check_choice
from ostinato.recurrence.cells.base import (
    Cell,
    RNNState,
    State,
    Weights,
    named,
    register_state,
)
from ostinato.recurrence.cells.initialization import Initialization
from ostinato.recurrence.cells.standard import (
    ACTIVATIONS,
    Activation,
    GatedCell,
    GRUCell,
    GRUGates,
    GRUState,
    LSTMCell,
    LSTMGates,
    LSTMState,
    RNNCell,
)

CellName = Literal[
    "lstm", "gru", "gru-reset-before", "rnn", "rnn-relu", "lstm-peephole", "lstm-coupled",
    "lstm-norm", "gru-norm", "mgu", "indrnn", "min-gru", "min-lstm",
    "ligru", "gru-d", "slstm", "qrnn", "sru", "rg-lru", "lru", "s5", "mamba", "mlstm",
]  # fmt: skip
"""Names that `named` gives to cells; written out for type checkers and the command line."""

ImportPath: TypeAlias = str
"""``package.module:MyCell``, a cell of one's own."""

CellChoice = CellName | ImportPath | type[Cell] | Cell
"""How a task is told its cell."""


@register_state
class HigherOrderState(NamedTuple):
    """State of a `HigherOrderCell`: ``h (B, H)``, and those before it, ``past (B, (k - 1) H)``."""

    h: Tensor
    past: Tensor


@register_state
class JordanState(NamedTuple):
    """State of a `JordanCell` with elman: output ``h (B, O)`` and hidden units ``s (B, H)``."""

    h: Tensor
    s: Tensor


@register_state
class SLSTMState(NamedTuple):
    """State of an `SLSTMCell`: ``h``, ``c``, the normaliser ``n``, the scale ``m``, all ``(B, H)``.

    c and n are exp(m) times smaller than the paper's.
    """

    h: Tensor
    c: Tensor
    n: Tensor
    m: Tensor


@register_state
class GRUDState(NamedTuple):
    """State of a `GRUDCell`: ``h (B, H)``, and of each input its last known value and its age.

    ``last (B, I)`` is 0 before the first; ``age (B, I)`` counts the steps without a value since.
    """

    h: Tensor
    last: Tensor
    age: Tensor


class LiGRUGates(NamedTuple):
    """Gates of one step, each ``(B, H)``: ``z`` in (0, 1), the candidate ``n`` from 0 on."""

    z: Tensor
    n: Tensor


@named("lstm-peephole")
@dataclass(frozen=True)
class PeepholeLSTMCell(LSTMCell):
    """LSTM whose gates depend on the cell state as well.

    ::

        i, f  = sigmoid(W_i* x_t + W_h* h_(t-1) + b_* + p_* c_(t-1))
        o     = sigmoid(W_io x_t + W_ho h_(t-1) + b_o + p_o c_t)

    and the rest as in `LSTMCell`. ``weight_peephole (3H,)`` holds p_i, p_f, p_o. F. Gers,
    N. Schraudolph and J. Schmidhuber 2002, "Learning precise timing with LSTM recurrent networks".
    """

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return those of `LSTMCell`, and the peepholes."""
        return super().weight_shapes() | {"weight_peephole": (3 * self.hidden_size,)}

    def gates(self, w: Weights, x_t: Tensor, state: State) -> LSTMGates:
        c = cast(LSTMState, state).c
        p_i, p_f, p_o = w["weight_peephole"].chunk(3)
        i, f, g, o = (x_t + linear(state.h, w["weight_hh"], w.get("bias_hh"))).chunk(4, dim=-1)
        i, f, g = (i + p_i * c).sigmoid(), (f + p_f * c).sigmoid(), g.tanh()
        return LSTMGates(i, f, g, (o + p_o * (f * c + i * g)).sigmoid())


@named("lstm-coupled")
@dataclass(frozen=True)
class CoupledLSTMCell(LSTMCell):
    """LSTM with coupled input and forget gates: i = 1 - f, and the rest as in `LSTMCell`.

    Weights have three blocks, ``f g o``. K. Greff et al. 2017, "LSTM: A search space odyssey",
    variant CIFG. Compiled, as an LSTM whose input gate has the forget gate's weights, negative.
    """

    gates_per_unit = 3
    time_gates = {0: 1}  # noqa: RUF012
    forget_gate = 0

    def gates(self, w: Weights, x_t: Tensor, state: State) -> LSTMGates:
        f, g, o = (x_t + linear(state.h, w["weight_hh"], w.get("bias_hh"))).chunk(3, dim=-1)
        return LSTMGates((-f).sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid())

    def standard_cell(self) -> Cell:
        return LSTMCell(self.input_size, self.hidden_size, self.bias, self.proj_size)

    def standard_weights(self, w: Weights) -> Weights:
        """The forget gate's rows, negative, above all."""
        H = self.hidden_size
        return {n: t if n == "weight_hr" else torch.cat([-t[:H], t]) for n, t in w.items()}


@named("lstm-norm")
@dataclass(frozen=True)
class LayerNormLSTMCell(LSTMCell):
    """LSTM with normalised sums.

    ::

        i, f, g, o = N(W_ih x_t) + N(W_hh h_(t-1))       then as in `LSTMCell`
        h_t        = o * tanh(N(c_t))

    N(a) = gain * (a - mean of a) / deviation of a + bias, each N with a gain and bias of its own
    (``gain_ih``, ``bias_ih``, ...). J. L. Ba, J. R. Kiros and G. Hinton 2016, "Layer
    normalization", equations 20 to 22.
    """

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return those of `LSTMCell`, and the gains and bias of N."""
        H = self.hidden_size
        shapes = {"gain_ih": (4 * H,), "gain_hh": (4 * H,), "gain_c": (H,)}
        return super().weight_shapes() | shapes | ({"bias_c": (H,)} if self.bias else {})

    def project(self, w: Weights, x: Tensor) -> Tensor:
        """N(W_ih x): (..., I) -> (..., 4H)."""
        return _normalized(linear(x, w["weight_ih"]), w["gain_ih"], w.get("bias_ih"))

    def gates(self, w: Weights, x_t: Tensor, state: State) -> LSTMGates:
        a = _normalized(linear(state.h, w["weight_hh"]), w["gain_hh"], w.get("bias_hh"))
        i, f, g, o = (x_t + a).chunk(4, dim=-1)
        return LSTMGates(i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid())

    def step(self, w: Weights, x_t: Tensor, state: State) -> LSTMState:
        i, f, g, o = self.gates(w, x_t, state)
        c = f * cast(LSTMState, state).c + i * g
        h = o * _normalized(c, w["gain_c"], w.get("bias_c")).tanh()
        return LSTMState(linear(h, w["weight_hr"]) if self.proj_size else h, c)


@named("gru-norm")
@dataclass(frozen=True)
class LayerNormGRUCell(GRUCell):
    """GRU with normalised sums.

    ::

        r, z = sigmoid(N(W_i* x_t) + N(W_h* h_(t-1)))
        n    = tanh(N(W_in x_t) + r * N(W_hn h_(t-1)))
        h_t  = (1 - z) * n + z * h_(t-1)

    N as in `LayerNormLSTMCell`, over the sums of both gates together and over the candidate's. Ba,
    Kiros and Hinton 2016, appendix.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.reset_after:
            raise OstinatoError("LayerNormGRUCell: reset_after=False; its reset gate acts after.")

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return those of `GRUCell`, and the gains."""
        H = self.hidden_size
        return super().weight_shapes() | {"gain_ih": (3 * H,), "gain_hh": (3 * H,)}

    def project(self, w: Weights, x: Tensor) -> Tensor:
        """N(W_ih x): (..., I) -> (..., 3H)."""
        return self._each_normalized(linear(x, w["weight_ih"]), w["gain_ih"], w.get("bias_ih"))

    def gates(self, w: Weights, x_t: Tensor, state: State) -> GRUGates:
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


@named("mgu")
@dataclass(frozen=True)
class MGUCell(GatedCell):
    """Minimal gated unit: one gate in place of a GRU's two.

    ::

        f   = sigmoid(W_if x_t + W_hf h_(t-1) + b_f)
        n   = tanh(W_in x_t + W_hn (f * h_(t-1)) + b_n)
        h_t = (1 - f) * h_(t-1) + f * n

    Weights have two blocks, ``f n``. G.-B. Zhou et al. 2016, "Minimal gated unit for recurrent
    neural networks", equations 6 to 8. Compiled, as a GRU with the reset before the product, where
    r = f and z = 1 - f.
    """

    state_type = GRUState
    gates_type = GRUGates
    gates_per_unit = 2
    time_gates = {0: -1}  # noqa: RUF012
    has_identity = False

    def gates(self, w: Weights, x_t: Tensor, state: State) -> GRUGates:
        """Compute the gates of one step as a GRU's: ``r`` is f, ``z`` is 1 - f."""
        h, H, bias = state.h, self.hidden_size, w.get("bias_hh")
        b_f, b_n = (None, None) if bias is None else (bias[:H], bias[H:])
        a = x_t[..., :H] + linear(h, w["weight_hh"][:H], b_f)
        f = a.sigmoid()
        n = (x_t[..., H:] + linear(f * h, w["weight_hh"][H:], b_n)).tanh()
        return GRUGates(f, (-a).sigmoid(), n)

    def step(self, w: Weights, x_t: Tensor, state: State) -> GRUState:
        f, _, n = self.gates(w, x_t, state)
        return GRUState((1 - f) * state.h + f * n)

    def standard_cell(self) -> Cell:
        return GRUCell(self.input_size, self.hidden_size, self.bias, reset_after=False)

    def standard_weights(self, w: Weights) -> Weights:
        """The gate's rows, once more and negative between its own and the candidate's."""
        H = self.hidden_size
        return {name: torch.cat([t[:H], -t[:H], t[H:]]) for name, t in w.items()}


@named("ligru")
@dataclass(frozen=True)
class LiGRUCell(GatedCell):
    """Light GRU: no reset gate, candidates by relu, normalised sums of the input.

    ::

        z   = sigmoid(N(W_iz x_t) + W_hz h_(t-1))
        n   = relu   (N(W_in x_t) + W_hn h_(t-1))
        h_t = (1 - z) * n + z * h_(t-1)

    Weights have two blocks, ``z n``. N as in `LayerNormLSTMCell`, over both blocks together: the
    paper normalises over a batch, in which a row would depend on the others. M. Ravanelli,
    P. Brakel, M. Omologo and Y. Bengio 2018, "Light gated recurrent units for speech recognition",
    equations 8 to 10. Recurrent weights start orthogonal, others after Glorot, as in the paper.
    """

    state_type = GRUState
    gates_type = LiGRUGates
    gates_per_unit = 2
    time_gates = {0: 1}  # noqa: RUF012
    has_identity = False

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return both matrices, and gain and bias of N."""
        I, H = self.input_size, self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (2 * H, I), "weight_hh": (2 * H, H)}
        return shapes | {"gain_ih": (2 * H,)} | ({"bias_ih": (2 * H,)} if self.bias else {})

    def project(self, w: Weights, x: Tensor) -> Tensor:
        """N(W_ih x): (..., I) -> (..., 2H)."""
        return _normalized(linear(x, w["weight_ih"]), w["gain_ih"], w.get("bias_ih"))

    def gates(self, w: Weights, x_t: Tensor, state: State) -> LiGRUGates:
        z, n = (x_t + linear(state.h, w["weight_hh"])).chunk(2, dim=-1)
        return LiGRUGates(z.sigmoid(), n.relu())

    def step(self, w: Weights, x_t: Tensor, state: State) -> GRUState:
        z, n = self.gates(w, x_t, state)
        return GRUState((1 - z) * n + z * state.h)

    def initialize(self, w: Weights, how: Initialization = "pytorch", steps: int = 100) -> None:
        """Initialise the weights as the paper does; by another recipe if one is named."""
        super().initialize(w, "orthogonal" if how == "pytorch" else how, steps)


@named("gru-d")
@dataclass(frozen=True)
class GRUDCell(GatedCell):
    """GRU with decay, for inputs with missing values, which are NaN.

    ::

        d    = steps without a value since the last known one, before this step
        x^   = x_t where it is known, else exp(-relu(w_x d + b_x)) * the last known value
        h^   = exp(-relu(W_d d + b_d)) * h_(t-1)
        r, z = sigmoid(W_i* [x^, known] + W_h* h^ + b_*)
        n    = tanh(W_in [x^, known] + W_hn (r * h^) + b_n)
        h_t  = (1 - z) * n + z * h^

    A missing value goes from the last known one to 0, the mean of standardised inputs; what the
    network remembers fades. ``weight_ih (3H, 2I)`` takes the values, then 1 for each that is known;
    ``decay_x (I,)`` and ``decay_h (H, I)`` hold w_x and W_d. Z. Che et al. 2018, "Recurrent neural
    networks for multivariate time series with missing values", equations 2 to 6, for equal steps:
    the paper's times since a value are d + 1, which moves b_x and b_d alone, and its z is 1 - z.
    Recurrent weights start orthogonal, others after Glorot, as in the authors' code; decays in 0 to
    0.1 a step, since at 0 relu has no gradient. No gradient reaches a missing value.
    """

    state_type = GRUDState
    gates_type = GRUGates
    gates_per_unit = 3
    time_gates = {1: 1}  # noqa: RUF012
    has_identity = False
    takes_missing = True

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """Features of h, of the last values and of their age."""
        return self.hidden_size, self.input_size, self.input_size

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return both matrices and their bias, and the decays and theirs."""
        I, H = self.input_size, self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (3 * H, 2 * I), "weight_hh": (3 * H, H)}
        shapes |= {"decay_x": (I,), "decay_h": (H, I)}
        biases = {"bias_ih": (3 * H,), "bias_x": (I,), "bias_h": (H,)}
        return shapes | (biases if self.bias else {})

    def project(self, w: Weights, x: Tensor) -> Tensor:
        """Return x: what a step reads of it depends on the state."""
        return x

    def _decayed(self, w: Weights, x_t: Tensor, state: State) -> tuple[Tensor, Tensor, Tensor]:
        """Return h^, x^ and whether each input is known, 1 or 0."""
        h, last, age = cast(GRUDState, state)
        of_x = age * w["decay_x"] + w["bias_x"] if self.bias else age * w["decay_x"]
        of_h = linear(age, w["decay_h"], w.get("bias_h"))
        known = torch.where(x_t == x_t, torch.ones_like(x_t), 0.0)  # NaN equals nothing
        x = torch.where(known > 0, x_t, (-of_x.relu()).exp() * last)
        return (-of_h.relu()).exp() * h, x, known

    def gates(self, w: Weights, x_t: Tensor, state: State) -> GRUGates:
        return self._gates(w, *self._decayed(w, x_t, state))

    def _gates(self, w: Weights, h: Tensor, x: Tensor, known: Tensor) -> GRUGates:
        H = 2 * self.hidden_size
        a = linear(torch.cat([x, known], dim=-1), w["weight_ih"], w.get("bias_ih"))
        r, z = (a[..., :H] + linear(h, w["weight_hh"][:H])).sigmoid().chunk(2, dim=-1)
        return GRUGates(r, z, (a[..., H:] + linear(r * h, w["weight_hh"][H:])).tanh())

    def step(self, w: Weights, x_t: Tensor, state: State) -> GRUDState:
        h, x, known = self._decayed(w, x_t, state)
        _, z, n = self._gates(w, h, x, known)
        _, last, age = cast(GRUDState, state)
        last = torch.where(known > 0, x_t, last)
        return GRUDState((1 - z) * n + z * h, last, (1 - known) * (age + 1))

    def initialize(self, w: Weights, how: Initialization = "pytorch", steps: int = 100) -> None:
        """Initialise the weights as the authors do; by another recipe if one is named."""
        super().initialize(w, "orthogonal" if how == "pytorch" else how, steps)
        with torch.no_grad():
            w["decay_x"].uniform_(0, 0.1)
            w["decay_h"].uniform_(0, 0.1 / self.input_size)


@named("slstm")
@dataclass(frozen=True)
class SLSTMCell(GatedCell):
    """sLSTM of xLSTM: exponential gates, a memory with a normaliser, heads.

    ::

        i, f, g, o = W_i* x_t + R_* h_(t-1) + b_*,    f = log(sigmoid(f))
        m_t = max(f + m_(t-1), i),    m_0 = -inf, taken where n is 0
        c_t = exp(f + m_(t-1) - m_t) * c_(t-1) + exp(i - m_t) * tanh(g)
        n_t = exp(f + m_(t-1) - m_t) * n_(t-1) + exp(i - m_t)
        h_t = sigmoid(o) * c_t / n_t

    Args:
        heads: groups of H / heads units, each of which reads the last outputs of its own alone.

    The gates that are shown are exp(i - m_t) and exp(f + m_(t-1) - m_t). ``weight_hh (4H, H /
    heads)`` holds, head by head, the rows of R for ``i f g o``. M. Beck et al. 2024, "xLSTM:
    Extended long short-term memory", equations 8 to 17, with the sigmoid for f; m keeps
    exponentials in range and does not change h. Recurrent weights start at 0, other matrices normal
    with variance 2 / (5 I), the biases of f fall from 5 to -7 in each head, 5 - 12 u^0.3 for u from
    0 to 1, as in the authors' code.
    """

    heads: int = 4

    state_type = SLSTMState
    gates_type = LSTMGates
    gates_per_unit = 4
    time_gates = {1: 1}  # noqa: RUF012
    has_identity = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.heads, int) or self.heads < 1 or self.hidden_size % self.heads:
            raise OstinatoError(
                f"SLSTMCell: heads={self.heads!r}, hidden_size={self.hidden_size}; expected a "
                "number of heads that divides the hidden size."
            )

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the matrix of the input, those of the heads below one another, and a bias."""
        I, H = self.input_size, self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (4 * H, I)}
        shapes |= {"weight_hh": (4 * H, H // self.heads)}
        return shapes | ({"bias_ih": (4 * H,)} if self.bias else {})

    def gates(self, w: Weights, x_t: Tensor, state: State) -> LSTMGates:
        return self._gates(w, x_t, state)[0]

    def _gates(self, w: Weights, x_t: Tensor, state: State) -> tuple[LSTMGates, Tensor]:
        """Return the gates and m_t."""
        h, _, n, m = cast(SLSTMState, state)
        pairs = zip(h.chunk(self.heads, -1), w["weight_hh"].chunk(self.heads), strict=True)
        each = [linear(h_k, R_k).chunk(4, dim=-1) for h_k, R_k in pairs]  # (B, H / heads)
        sums = x_t + torch.cat([head[gate] for gate in range(4) for head in each], dim=-1)
        i, f, g, o = sums.chunk(4, dim=-1)
        kept = logsigmoid(f) + torch.where(n > 0, m, -1e30)
        m = torch.maximum(kept, i)
        return LSTMGates((i - m).exp(), (kept - m).exp(), g.tanh(), o.sigmoid()), m

    def step(self, w: Weights, x_t: Tensor, state: State) -> SLSTMState:
        (i, f, g, o), m = self._gates(w, x_t, state)
        _, c, n, _ = cast(SLSTMState, state)
        c, n = f * c + i * g, f * n + i
        return SLSTMState(o * c / n, c, n, m)

    def initialize(self, w: Weights, how: Initialization = "pytorch", steps: int = 100) -> None:
        """Initialise the weights as the authors do; matrices by another recipe if one is named."""
        super().initialize(w, how, steps)
        H, d = self.hidden_size, self.hidden_size // self.heads
        with torch.no_grad():
            if how == "pytorch":
                w["weight_ih"].normal_(std=math.sqrt(2 / (5 * self.input_size)))
                w["weight_hh"].zero_()
            else:
                for block in torch.split(w["weight_hh"], d):
                    torch.nn.init.orthogonal_(block)
            if self.bias and how != "chrono":
                w["bias_ih"].zero_()
                falling = 5 - 12 * torch.linspace(0, 1, d) ** 0.3
                w["bias_ih"][H : 2 * H].copy_(falling.repeat(self.heads))


@dataclass(frozen=True)
class HigherOrderCell(RNNCell):
    """Elman's network with its last k states as input.

    h_t = f(W_ih x_t + b_ih + U_1 h_(t-1) + ... + U_k h_(t-k) + b_hh)

    Args:
        order: k, at least 2.

    ``weight_hh (H, k H)`` holds U_1 to U_k side by side. R. Soltani and H. Jiang 2016, "Higher
    order recurrent neural networks", equation 5.
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
        """Return those of `RNNCell`, the recurrent matrix k times as wide."""
        shapes = super().weight_shapes()
        return shapes | {"weight_hh": (self.hidden_size, self.order * self.hidden_size)}

    def step(self, w: Weights, x_t: Tensor, state: State) -> HigherOrderState:
        before = torch.cat([state.h, cast(HigherOrderState, state).past], dim=-1)  # (B, k H)
        h = super().step(w, x_t, RNNState(before)).h
        return HigherOrderState(h, before[..., : self.state_sizes[1]])


@dataclass(frozen=True)
class JordanCell(RNNCell):
    """Jordan's network: the output is fed back, not the hidden units; or beside them.

    ::

        s_t = f(W_ih x_t + b_ih + W_yh y_(t-1) + b_hh)       with elman: + W_hh s_(t-1)
        y_t = g(W_hy s_t + b_hy)

    Args:
        outputs: features of y, ``O``: the layer's output, its ``h``.
        output_activation: g.
        elman: whether the hidden units are fed back as well.

    M. I. Jordan 1986, "Serial order: a parallel distributed processing approach".
    """

    outputs: int = 1
    output_activation: Activation = "identity"
    elman: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("JordanCell: output_activation", self.output_activation, ACTIVATIONS)
        if self.outputs < 1:
            raise OstinatoError(f"JordanCell: outputs={self.outputs}; expected 1 or more.")

    @property
    def state_type(self) -> type[State]:  # type: ignore[override]
        """With elman the hidden units are part of the state, else the output alone."""
        return JordanState if self.elman else RNNState

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """Features of y, then, with elman, of s."""
        return (self.outputs, self.hidden_size) if self.elman else (self.outputs,)

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return those from x, y and s to the hidden units, and from there to y."""
        H, O = self.hidden_size, self.outputs
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (H, self.input_size)}
        shapes |= {"weight_hh": (H, H)} if self.elman else {}
        shapes |= {"weight_yh": (H, O), "weight_hy": (O, H)}
        return shapes | ({"bias_ih": (H,), "bias_hh": (H,), "bias_hy": (O,)} if self.bias else {})

    def step(self, w: Weights, x_t: Tensor, state: State) -> State:
        a = x_t + linear(state.h, w["weight_yh"], w.get("bias_hh"))
        if self.elman:
            a = a + linear(cast(JordanState, state).s, w["weight_hh"])
        s = ACTIVATIONS[self.activation](a)
        y = ACTIVATIONS[self.output_activation](linear(s, w["weight_hy"], w.get("bias_hy")))
        return JordanState(y, s) if self.elman else RNNState(y)


@named("indrnn")
@dataclass(frozen=True)
class IndRNNCell(RNNCell):
    """Units with independent recurrence: h_t = f(W_ih x_t + b_ih + u * h_(t-1) + b_hh).

    ``weight_hh (H,)`` holds u; a unit's gradient grows or shrinks by u f' a step, and by no other
    unit's. ``orthogonal`` draws u uniform in (0, 1), ``identity`` sets it to 1. S. Li et al. 2018,
    "Independently recurrent neural network (IndRNN)", equation 4; it is meant for relu.
    """

    activation: Activation = "relu"

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return those of `RNNCell`, a recurrent vector instead of a matrix."""
        return super().weight_shapes() | {"weight_hh": (self.hidden_size,)}

    def step(self, w: Weights, x_t: Tensor, state: State) -> RNNState:
        a = x_t + w["weight_hh"] * state.h
        return RNNState(ACTIVATIONS[self.activation](a + w["bias_hh"] if self.bias else a))


@dataclass(frozen=True)
class ZoneoutCell(Cell):
    """A cell in which randomly drawn units keep their state at each step.

    ::

        state_t = m * state_(t-1) + (1 - m) * step(x_t, state_(t-1))

    with m of ones and zeros in training, and their mean, the rate, otherwise.

    Args:
        inner: the cell.
        rates: probability of keeping, for each tensor of the state; or one for h and for a memory
            beside it, c or s, unless that has a scale of its own as in `SLSTMCell`.
        training: whether m is drawn; set by the layer.

    D. Krueger et al. 2017, "Zoneout: Regularizing RNNs by randomly preserving hidden activations",
    equations 5 and 6.
    """

    input_size: int = field(init=False)
    hidden_size: int = field(init=False)
    bias: bool = field(init=False)
    inner: Cell
    rates: float | tuple[float, ...] = 0.1
    training: bool = False
    derived = frozenset({"state_type", "gates_type", "gates", "project", "initialize"})

    def __post_init__(self) -> None:
        for name in ("input_size", "hidden_size", "bias", *self.derived):
            object.__setattr__(self, name, getattr(self.inner, name))
        if not all(isinstance(rate, Real) and 0 <= rate <= 1 for rate in self._rates()):
            raise OstinatoError(f"ZoneoutCell: rates={self.rates}; expected 0 to 1.")

    def _rates(self) -> tuple[float, ...]:
        """The rate of each tensor of the state."""
        names: tuple[str, ...] = getattr(self.inner.state_type, "_fields", ())
        if not isinstance(self.rates, tuple):
            kept = {"h", "s"} if "m" in names else {"h", "s", "c"}
            return tuple(self.rates if name in kept else 0.0 for name in names)
        if len(self.rates) != len(names):
            raise OstinatoError(
                f"ZoneoutCell: {len(self.rates)} rates; {type(self.inner).__name__} has "
                f"{len(names)} tensors of state."
            )
        return self.rates

    @property
    def state_sizes(self) -> tuple[int, ...]:
        return self.inner.state_sizes

    def with_input(self, input_size: int) -> Self:
        return replace(self, inner=self.inner.with_input(input_size))

    def in_training(self) -> Cell:
        return replace(self, training=True)

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        return self.inner.weight_shapes()

    def step(self, w: Weights, x_t: Tensor, state: State) -> State:
        new, mixed = self.inner.step(w, x_t, state), []
        for s, n, rate in zip(state, new, self._rates(), strict=True):
            m = torch.bernoulli(torch.full_like(n, rate)) if self.training else rate
            mixed.append(m * s + (1 - m) * n)
        return self.inner.state_type(*mixed)
