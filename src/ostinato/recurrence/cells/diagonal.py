"""Cells whose state enters linearly, so that all else is known for all steps beforehand.

Projections, gates and convolutions of a whole sequence are computed at once, and what remains is
c_t = a_t * c_(t-1) + b_t, element by element: one multiplication and one addition, which the
compiled core does as fast as memory lets it.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import ClassVar, NamedTuple, Protocol, cast, overload

import torch
from torch import Tensor
from torch.nn.functional import linear, logsigmoid, silu, softplus

from ostinato.errors import OstinatoError
from ostinato.recurrence.cells.base import (
    Cell,
    RNNState,
    State,
    Tensors,
    Weights,
    named,
    register_state,
)
from ostinato.recurrence.cells.initialization import Initialization


@register_state
class LinearState(NamedTuple):
    """State of a cell that puts out something else than its memory: ``h (B, H)``, ``c (B, S)``."""

    h: Tensor
    c: Tensor


@register_state
class WindowState(NamedTuple):
    """State of a cell with a convolution: also the inputs ``past`` that the next window holds."""

    h: Tensor
    c: Tensor
    past: Tensor


class Product(Protocol):
    """A product of rows with a matrix, such as `torch.nn.functional.linear`."""

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Compute x W^T + b."""


@dataclass(frozen=True)
class Window(Sequence[Tensor]):
    """The projected inputs that each step of a sequence sees, oldest first: views of one tensor."""

    whole: Tensor  # (k - 1 + T, B, features of a window): those before the sequence, and its own
    now: Tensor  # (T, B, features)
    rest: Tensor  # (T, B, ...): those that no window holds

    def __len__(self) -> int:
        return len(self.whole) - len(self.now) + 1

    @overload
    def __getitem__(self, k: int) -> Tensor: ...
    @overload
    def __getitem__(self, k: slice) -> list[Tensor]: ...
    def __getitem__(self, k: int | slice) -> Tensor | list[Tensor]:
        if isinstance(k, slice):
            return [self[i] for i in range(*k.indices(len(self)))]
        k = range(len(self))[k]
        return self.now if k == len(self) - 1 else self.whole[k : k + len(self.now)]


class Convolution(Protocol):
    """A causal convolution of each feature by itself."""

    def __call__(self, seen: Sequence[Tensor], kernel: Tensor, bias: Tensor | None) -> Tensor:
        """Compute the sum of kernel (k, E) times the first E features of a window, plus bias."""


def _convolve(seen: Sequence[Tensor], kernel: Tensor, bias: Tensor | None) -> Tensor:
    E = kernel.shape[1]
    y = torch.zeros_like(kernel[0]) if bias is None else bias
    for kernel_j, x_j in zip(kernel, seen, strict=True):
        y = y + kernel_j * x_j[..., :E]
    return y


class Functions(NamedTuple):
    """What a `LinearCell` computes with, beside +, -, *, / and maxima, which are exact anywhere.

    The core has its own, of which a number's bits do not depend on the numbers beside it.
    """

    linear: Product
    sigmoid: Callable[[Tensor], Tensor]
    tanh: Callable[[Tensor], Tensor]
    exp: Callable[[Tensor], Tensor]
    softplus: Callable[[Tensor], Tensor]
    silu: Callable[[Tensor], Tensor]
    sqrt: Callable[[Tensor], Tensor]
    convolve: Convolution


PLAIN = Functions(
    cast(Product, linear),
    torch.sigmoid,
    torch.tanh,
    torch.exp,
    partial(softplus, threshold=40.0),
    silu,
    torch.sqrt,
    _convolve,
)
"""Those of PyTorch."""


class Steps(NamedTuple):
    """What the input decides of steps: c_t = a * c_(t-1) + b, and what else h depends on.

    ``b`` is ``(..., S)``, ``a`` too, or ``(S,)`` where it is the same for all steps; ``gates`` are
    those of the cell, if it has any, ``more`` is for its `LinearCell.read`.
    """

    a: Tensor
    b: Tensor
    gates: Tensors | None = None
    more: tuple[Tensor, ...] = ()

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return a and b."""
        return self.a, self.b

    def output(self, c: Tensor) -> Tensor:
        """Return what `LinearCell.read` is given of c: all of it."""
        return c


class Selection(NamedTuple):
    """Steps of E features with N numbers of state each, where a and b are outer products.

    ::

        a = exp(d A)          (..., N, E), kept flat
        b = B (d * v)
        y = C c + D * v       (..., E): what `LinearCell.read` is given

    A backend computes them step by step in registers and never writes c out: `selective_scan`.
    ``d`` and ``v`` are ``(..., E)``, ``A`` is ``(N, E)``, ``B`` and ``C`` are ``(..., N)``,
    ``D`` is ``(E,)``, or None for zeros.
    """

    d: Tensor
    v: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None = None
    gates: Tensors | None = None
    more: tuple[Tensor, ...] = ()

    def factors(self, f: Functions = PLAIN) -> tuple[Tensor, Tensor]:
        """Return a and b, ``(..., N E)``."""
        b = (self.d * self.v)[..., None, :] * self.B[..., None]
        return f.exp((self.d[..., None, :] * self.A).flatten(-2)), b.flatten(-2)

    def output(self, c: Tensor) -> Tensor:
        """Return y."""
        y = (torch.unflatten(c, -1, self.A.shape) * self.C[..., None]).sum(-2)
        return y if self.D is None else y + self.D * self.v


@dataclass(frozen=True)
class LinearCell(Cell):
    """Base of cells with c_t = a_t * c_(t-1) + b_t, where a and b depend on the input alone.

    A subclass defines `weight_shapes`, `steps`, and perhaps `project` and `read`, with
    ``state_type`` `RNNState` where h is c, `LinearState` where `read` makes h of it, or
    `WindowState` with a ``window`` above 1. Leading axes are any: of one step, or of a whole
    sequence. All products with weights, and functions of what depends on the input, are those of
    ``f``, so that a backend can put its own in place.
    """

    state_type: ClassVar[type[State]] = RNNState
    has_identity = False
    is_complex: ClassVar[bool] = False
    """Whether c, a and b are complex: pairs, the real parts first, then the imaginary ones."""

    @property
    def memory_size(self) -> int:
        """Numbers of c, ``S``."""
        return self.hidden_size

    @property
    def window(self) -> int:
        """Steps of the projected input that a step sees: its own and those just before."""
        return 1

    @property
    def window_size(self) -> int:
        """Features, the first ones, that it sees of those before."""
        return self.input_size

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """Features of h, of c if that is another, and of the past steps of a window."""
        past = ((self.window - 1) * self.window_size,) if self.window > 1 else ()
        return (self.hidden_size, *(() if self.h_is_c else (self.memory_size, *past)))

    @property
    def h_is_c(self) -> bool:
        """Whether the output is the memory itself."""
        return self.state_type is RNNState

    def project(self, w: Weights, x: Tensor, f: Functions = PLAIN) -> Tensor:
        """W_ih x + b_ih: (..., I) -> (..., features)."""
        return f.linear(x, w["weight_ih"], w.get("bias_ih"))

    @abstractmethod
    def steps(self, w: Weights, seen: Sequence[Tensor], f: Functions = PLAIN) -> Steps | Selection:
        """Return a, b and the gates; ``seen`` are the projected inputs of a window, oldest first.

        They are ``(..., features)``, for each step that of the same place in the window; all but
        the last have their first ``window_size`` features only.
        """

    def read(self, w: Weights, c: Tensor, steps: Steps | Selection, f: Functions = PLAIN) -> Tensor:
        """Return h, ``(..., H)``; c is y where ``steps`` are a `Selection`."""
        return c

    def step(self, w: Weights, x_t: Tensor, state: State) -> State:
        c, past = self.parts(state)
        steps = self.steps(w, [*past, x_t])
        a, b = steps.factors()
        c = times(a, c, self.is_complex) + b
        return self.state_of(self.read(w, steps.output(c), steps), c, [*past, x_t][1:])

    def gates(self, w: Weights, x_t: Tensor, state: State) -> Tensors:
        if self.gates_type is None:
            return super().gates(w, x_t, state)
        return cast(Tensors, self.steps(w, [*self.parts(state)[1], x_t]).gates)

    def parts(self, state: State) -> tuple[Tensor, list[Tensor]]:
        """Return c, and the steps before of the next window, oldest first."""
        if self.h_is_c:
            return state.h, []
        _, c, *past = state
        return c, [*past[0].chunk(self.window - 1, dim=-1)] if past else []

    def state_of(self, h: Tensor, c: Tensor, past: Sequence[Tensor]) -> State:
        """Return the state of its parts, the inverse of `parts`."""
        if self.h_is_c:
            return self.state_type(h)
        each = [p[..., : self.window_size] for p in past]
        return self.state_type(h, c, *([torch.cat(each, dim=-1)] if past else []))


def times(a: Tensor, b: Tensor, is_complex: bool) -> Tensor:
    """Return the product of elements, which may be pairs."""
    if not is_complex:
        return a * b
    (p, q), (r, s) = a.chunk(2, dim=-1), b.chunk(2, dim=-1)
    return torch.cat([p * r - q * s, p * s + q * r], dim=-1)


def conjugate(a: Tensor, is_complex: bool) -> Tensor:
    """Return the complex conjugate of pairs."""
    if not is_complex:
        return a
    p, q = a.chunk(2, dim=-1)
    return torch.cat([p, -q], dim=-1)


def _projection(rows: int, cell: Cell, columns: int | None = None) -> dict[str, tuple[int, ...]]:
    shape = (rows, cell.input_size if columns is None else columns)
    return {"weight_ih": shape} | ({"bias_ih": (rows,)} if cell.bias else {})


class MinGRUGates(NamedTuple):
    """Gates of one `MinGRUCell` step, each ``(B, H)``: ``z`` in (0, 1), the candidate ``n``."""

    z: Tensor
    n: Tensor


class MinLSTMGates(NamedTuple):
    """Gates of one `MinLSTMCell` step, each ``(B, H)``: ``f`` and ``i`` add up to 1; ``n``."""

    f: Tensor
    i: Tensor
    n: Tensor


class QRNNGates(NamedTuple):
    """Gates of one `QRNNCell` step, each ``(B, H)``: ``f o`` in (0, 1), ``n`` in (-1, 1)."""

    n: Tensor
    f: Tensor
    o: Tensor


class SRUGates(NamedTuple):
    """Gates of one `SRUCell` step, each ``(B, H)``: ``f r`` in (0, 1), the candidate ``n``."""

    n: Tensor
    f: Tensor
    r: Tensor


class RGLRUGates(NamedTuple):
    """Gates of one `RGLRUCell` step, each ``(B, H)``: ``r i`` in (0, 1), the candidate ``n``."""

    r: Tensor
    i: Tensor
    n: Tensor


@named("min-gru")
@dataclass(frozen=True)
class MinGRUCell(LinearCell):
    """GRU whose gates do not depend on the state.

    ::

        z   = sigmoid(W_z x_t + b_z)
        n   = W_n x_t + b_n
        h_t = (1 - z) * h_(t-1) + z * n

    L. Feng et al. 2024, "Were RNNs all we needed?", section 3.1; biases are ours.
    """

    gates_type = MinGRUGates
    time_gates = {0: -1}  # noqa: RUF012

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the matrix of the input and its bias, in blocks ``z n``."""
        return _projection(2 * self.hidden_size, self)

    def steps(self, w: Weights, seen: Sequence[Tensor], f: Functions = PLAIN) -> Steps:
        z, n = seen[-1].chunk(2, dim=-1)
        gates = MinGRUGates(f.sigmoid(z), n)
        return Steps(f.sigmoid(-z), gates.z * n, gates)


@named("min-lstm")
@dataclass(frozen=True)
class MinLSTMCell(LinearCell):
    """LSTM whose gates do not depend on the state.

    ::

        f, i = sigmoid(W_* x_t + b_*), divided by their sum
        n    = W_n x_t + b_n
        h_t  = f * h_(t-1) + i * n

    L. Feng et al. 2024, "Were RNNs all we needed?", section 3.2; biases are ours.
    """

    gates_type = MinLSTMGates
    time_gates = {0: 1, 1: -1}  # noqa: RUF012

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the matrix of the input and its bias, in blocks ``f i n``."""
        return _projection(3 * self.hidden_size, self)

    def steps(self, w: Weights, seen: Sequence[Tensor], f: Functions = PLAIN) -> Steps:
        forget, i, n = seen[-1].chunk(3, dim=-1)
        forget, i = f.sigmoid(forget), f.sigmoid(i)
        gates = MinLSTMGates(forget / (forget + i), i / (forget + i), n)
        return Steps(gates.f, gates.i * n, gates)


@named("qrnn")
@dataclass(frozen=True)
class QRNNCell(LinearCell):
    """Quasi-recurrent network: gates by a causal convolution over the input.

    ::

        n    = tanh(W_n X_t + b_n)             X_t: x_(t-k+1) to x_t, one after the other
        f, o = sigmoid(W_* X_t + b_*)
        c_t  = f * c_(t-1) + (1 - f) * n
        h_t  = o * c_t

    Args:
        kernel_size: k, steps of the input that a step sees.

    ``weight_ih (3H, k I)`` has blocks ``n f o``; before the first step x is 0. J. Bradbury et al.
    2017, "Quasi-recurrent neural networks", equations 1 to 4, with "fo-pooling".
    """

    kernel_size: int = 2

    gates_type = QRNNGates
    time_gates = {1: 1}  # noqa: RUF012

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.kernel_size, int) or self.kernel_size < 1:
            raise OstinatoError(f"QRNNCell: kernel_size={self.kernel_size!r}; expected 1 or more.")

    @property
    def state_type(self) -> type[State]:  # type: ignore[override]
        """With a kernel of one step there is no past to keep."""
        return WindowState if self.kernel_size > 1 else LinearState

    @property
    def window(self) -> int:
        """As ``kernel_size``."""
        return self.kernel_size

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the kernel of the convolution and its bias, in blocks ``n f o``."""
        return _projection(3 * self.hidden_size, self, self.kernel_size * self.input_size)

    def project(self, w: Weights, x: Tensor, f: Functions = PLAIN) -> Tensor:
        """Return x: the convolution comes later."""
        return x

    def steps(self, w: Weights, seen: Sequence[Tensor], f: Functions = PLAIN) -> Steps:
        window = torch.cat([*seen], dim=-1) if len(seen) > 1 else seen[0]
        n, forget, o = f.linear(window, w["weight_ih"], w.get("bias_ih")).chunk(3, dim=-1)
        gates = QRNNGates(f.tanh(n), f.sigmoid(forget), f.sigmoid(o))
        return Steps(gates.f, f.sigmoid(-forget) * gates.n, gates)

    def read(self, w: Weights, c: Tensor, steps: Steps | Selection, f: Functions = PLAIN) -> Tensor:
        return cast(QRNNGates, steps.gates).o * c


@named("sru")
@dataclass(frozen=True)
class SRUCell(LinearCell):
    """Simple recurrent unit: a gated memory, and a highway past it.

    ::

        n    = W_n x_t + b_n
        f, r = sigmoid(W_* x_t + b_*)
        c_t  = f * c_(t-1) + (1 - f) * n
        h_t  = r * tanh(c_t) + (1 - r) * s           s: x_t if I = H, else W_s x_t + b_s

    ``weight_ih`` has blocks ``n f r``, and ``s`` where I is not H. T. Lei, Y. Zhang and Y. Artzi
    2017, "Training RNNs as fast as CNNs", equations 3 to 7; the bias of n is ours. Matrices start
    uniform in ±sqrt(3 / I), biases at 0, as in Lei et al. 2018, "Simple recurrent units for highly
    parallelizable recurrence", section 3.2, whose gates depend on c as well.
    """

    state_type = LinearState
    gates_type = SRUGates
    time_gates = {1: 1}  # noqa: RUF012

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the matrix of the input and its bias, in blocks ``n f r``, and ``s``."""
        return _projection((3 + (self.input_size != self.hidden_size)) * self.hidden_size, self)

    def project(self, w: Weights, x: Tensor, f: Functions = PLAIN) -> Tensor:
        """W_ih x + b_ih, and x itself where it goes straight to h: (..., I) -> (..., 4H)."""
        a = super().project(w, x, f)
        return a if self.input_size != self.hidden_size else torch.cat([a, x], dim=-1)

    def steps(self, w: Weights, seen: Sequence[Tensor], f: Functions = PLAIN) -> Steps:
        n, forget, r, s = seen[-1].chunk(4, dim=-1)
        gates = SRUGates(n, f.sigmoid(forget), f.sigmoid(r))
        return Steps(gates.f, f.sigmoid(-forget) * n, gates, (s,))

    def read(self, w: Weights, c: Tensor, steps: Steps | Selection, f: Functions = PLAIN) -> Tensor:
        r = cast(SRUGates, steps.gates).r
        return r * f.tanh(c) + (1 - r) * steps.more[0]

    def initialize(self, w: Weights, how: Initialization = "pytorch", steps: int = 100) -> None:
        """Initialise the weights as the papers do; by any other recipe as `Cell.initialize`."""
        super().initialize(w, how, steps)
        if how == "pytorch":
            _fill(w, uniform=math.sqrt(3 / self.input_size))


@named("rg-lru")
@dataclass(frozen=True)
class RGLRUCell(LinearCell):
    """Real-gated linear recurrent unit, the recurrence of Griffin.

    ::

        r, i = sigmoid(W_* x_t + b_*)
        n    = W_n x_t + b_n
        a    = sigmoid(decay) ^ (8 r)
        h_t  = a * h_(t-1) + sqrt(1 - a^2) * (i * n)

    ``weight_ih`` has blocks ``r i n``. S. De et al. 2024, "Griffin: Mixing gated linear recurrences
    with local attention for efficient language models", equations 1 to 4 and appendix A; n is the
    linear layer before it. ``decay`` starts so that a is uniform in 0.9 to 0.999 where r = 1,
    matrices normal with variance 1 / I.
    """

    gates_type = RGLRUGates

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the matrix of the input and its bias, in blocks ``r i n``, and the decay."""
        return _projection(3 * self.hidden_size, self) | {"decay": (self.hidden_size,)}

    def steps(self, w: Weights, seen: Sequence[Tensor], f: Functions = PLAIN) -> Steps:
        r, i, n = seen[-1].chunk(3, dim=-1)
        gates = RGLRUGates(f.sigmoid(r), f.sigmoid(i), n)
        log_a = 8 * logsigmoid(w["decay"]) * gates.r
        a = f.exp(log_a)
        square = f.tanh(-log_a) * (1 + a * a)  # 1 - a^2, and exact where a is nearly 1
        # At a = 1 the root has no slope.
        return Steps(a, f.sqrt(square.clamp_min(1e-12)) * (gates.i * n), gates)

    def initialize(self, w: Weights, how: Initialization = "pytorch", steps: int = 100) -> None:
        """Initialise the weights as the paper does; matrices by another recipe if one is named."""
        super().initialize(w, how, steps)
        if how == "pytorch":
            _fill(w, normal=self.input_size**-0.5)
        with torch.no_grad():
            w["decay"].uniform_(0.9, 0.999).pow_(1 / 8).logit_()


@named("lru")
@dataclass(frozen=True)
class LRUCell(LinearCell):
    """Linear recurrent unit: a diagonal of complex numbers, each turning at its own rate.

    ::

        a   = exp(-exp(nu) + i exp(theta))
        c_t = a * c_(t-1) + exp(gamma) * (B x_t)
        g   = gelu(Re(C c_t) + D x_t)                 gelu with tanh, as in the authors' JAX
        h_t = g * sigmoid(W_g g + b_g)

    Args:
        r_min: least absolute value of a, at the start.
        r_max: largest absolute value.
        max_phase: largest angle by which c turns in a step, at the start.

    ``c (2H)`` are pairs, the real parts first. ``weight_ih (3H, I)`` stacks the real part of B, its
    imaginary part, and D; ``weight_ch (H, 2H)`` is the real part of C beside its imaginary part,
    negative. A. Orvieto et al. 2023, "Resurrecting recurrent neural networks for long sequences",
    section 3 and lemma 3.2: a starts uniform on the ring between r_min and r_max, gamma so that c
    has the variance of its input, B and C after Glorot. The gate on h is that of the block in which
    J. Smith, A. Warrington and S. Linderman 2023, "Simplified state space layers for sequence
    modeling", appendix G, put such a layer.
    """

    r_min: float = 0.0
    r_max: float = 1.0
    max_phase: float = 2 * math.pi

    state_type = LinearState
    is_complex = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.r_min < self.r_max <= 1:
            raise OstinatoError(
                f"LRUCell: r_min={self.r_min}, r_max={self.r_max}; expected "
                "0 <= r_min < r_max <= 1."
            )

    @property
    def memory_size(self) -> int:
        """H pairs."""
        return 2 * self.hidden_size

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return B and D, the diagonal, C and the gate of the output."""
        H = self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (3 * H, self.input_size)}
        shapes |= {"nu": (H,), "theta": (H,), "gamma": (H,)}
        shapes |= {"weight_ch": (H, 2 * H), "weight_gate": (H, H)}
        return shapes | ({"bias_gate": (H,)} if self.bias else {})

    def steps(self, w: Weights, seen: Sequence[Tensor], f: Functions = PLAIN) -> Steps:
        H = self.hidden_size
        size, angle = (-w["nu"].exp()).exp(), w["theta"].exp()
        a = torch.cat([size * angle.cos(), size * angle.sin()])  # (2H,)
        scale = w["gamma"].exp().repeat(2)
        return Steps(a, scale * seen[-1][..., : 2 * H], None, (seen[-1][..., 2 * H :],))

    def read(self, w: Weights, c: Tensor, steps: Steps | Selection, f: Functions = PLAIN) -> Tensor:
        return _gated(f.linear(c, w["weight_ch"]) + steps.more[0], w, f)

    def initialize(self, w: Weights, how: Initialization = "pytorch", steps: int = 100) -> None:
        """Initialise the weights as the paper does; matrices by another recipe if one is named."""
        super().initialize(w, how, steps)
        H = self.hidden_size
        with torch.no_grad():
            if how == "pytorch":
                _fill(w, normal=H**-0.5)
                w["weight_ih"][: 2 * H].normal_(std=(2 * self.input_size) ** -0.5)
                w["weight_ih"][2 * H :].normal_(std=self.input_size**-0.5)
            square = torch.empty_like(w["nu"]).uniform_(self.r_min**2, self.r_max**2)
            square.clamp_(1e-6, 1 - 1e-6)
            w["nu"].copy_((-0.5 * square.log()).log())
            w["theta"].uniform_(0, 1).clamp_min_(1e-6).mul_(self.max_phase).log_()
            w["gamma"].copy_(0.5 * (1 - square).log())


@named("s5")
@dataclass(frozen=True)
class S5Cell(LinearCell):
    """Simplified state space layer (S5): a continuous system, sampled at a rate for each state.

    ::

        L   = -exp(decay) + i frequency
        a   = exp(L exp(step))                        zero-order hold
        c_t = a * c_(t-1) + (a - 1) / L * (B x_t)
        g   = gelu(2 Re(C c_t) + D x_t)               gelu with tanh, as in the authors' JAX
        h_t = g * sigmoid(W_g g + b_g)

    Args:
        memory: P, complex numbers of state; each stands for itself and its conjugate. 0 for H.
        blocks: of the matrix whose eigenvalues L starts from; divides P.

    ``c (2P)`` are pairs, the real parts first; ``weight_ih (2P + H, I)`` and ``weight_ch (H, 2P)``
    are laid out as those of `LRUCell`. J. Smith, A. Warrington and S. Linderman 2023, "Simplified
    state space layers for sequence modeling", equations 3 to 6, section 3.3 and appendices B and G:
    L starts at the eigenvalues of HiPPO-N, one of each conjugate pair; B and C are drawn after
    LeCun and turned into the basis of its eigenvectors; exp(step) is log-uniform in 0.001 to 0.1.
    Ours: D is a matrix, so that I may differ from H, and the real part of L is kept below 0.
    """

    memory: int = 0
    blocks: int = 1

    state_type = LinearState
    is_complex = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.memory, int) or self.memory < 0:
            raise OstinatoError(f"S5Cell: memory={self.memory!r}; expected 1 or more, or 0 for H.")
        if not isinstance(self.blocks, int) or self.blocks < 1 or self._states % self.blocks:
            raise OstinatoError(
                f"S5Cell: blocks={self.blocks!r}; expected a divisor of {self._states}."
            )

    @property
    def _states(self) -> int:
        return self.memory or self.hidden_size

    @property
    def memory_size(self) -> int:
        """P pairs."""
        return 2 * self._states

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return B and D, the diagonal and its time steps, C and the gate of the output."""
        H, P = self.hidden_size, self._states
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (2 * P + H, self.input_size)}
        shapes |= {"decay": (P,), "frequency": (P,), "step": (P,)}
        shapes |= {"weight_ch": (H, 2 * P), "weight_gate": (H, H)}
        return shapes | ({"bias_gate": (H,)} if self.bias else {})

    def steps(self, w: Weights, seen: Sequence[Tensor], f: Functions = PLAIN) -> Steps:
        re, im, step = -w["decay"].exp(), w["frequency"], w["step"].exp()
        size, angle = (re * step).exp(), im * step
        p, q = size * angle.cos(), size * angle.sin()
        square = re * re + im * im  # 1 / L = (re - i im) / square
        scale = ((p - 1) * re + q * im) / square, (q * re - (p - 1) * im) / square
        r, s, direct = torch.split(seen[-1], [len(re), len(re), self.hidden_size], dim=-1)
        b = torch.cat([scale[0] * r - scale[1] * s, scale[0] * s + scale[1] * r], dim=-1)
        return Steps(torch.cat([p, q]), b, None, (direct,))

    def read(self, w: Weights, c: Tensor, steps: Steps | Selection, f: Functions = PLAIN) -> Tensor:
        return _gated(2 * f.linear(c, w["weight_ch"]) + steps.more[0], w, f)

    def initialize(self, w: Weights, how: Initialization = "pytorch", steps: int = 100) -> None:
        """Initialise the weights as the paper does; matrices by another recipe if one is named."""
        super().initialize(w, how, steps)
        P, H = self._states, self.hidden_size
        eigenvalues, V = _hippo(2 * P // self.blocks)
        with torch.no_grad():
            w["decay"].fill_(math.log(0.5))
            w["frequency"].copy_(eigenvalues.repeat(self.blocks))
            w["step"].uniform_(math.log(0.001), math.log(0.1))
            if how != "pytorch":
                return
            _fill({k: t for k, t in w.items() if k.endswith("gate")}, normal=H**-0.5)
            w["weight_ih"].normal_(std=self.input_size**-0.5)
            V = torch.block_diag(*[V] * self.blocks)  # type: ignore[no-untyped-call]  # (2P, P)
            B = V.mH @ torch.randn(2 * P, self.input_size, dtype=V.dtype.to_real()).to(V)
            C = torch.randn(H, 2 * P, dtype=V.dtype.to_real()).to(V) @ V * (2 * P) ** -0.5
            w["weight_ih"][: 2 * P] = torch.cat([B.real, B.imag]) * self.input_size**-0.5
            w["weight_ch"].copy_(torch.cat([C.real, -C.imag], dim=1))


@lru_cache(maxsize=8)
def _hippo(n: int) -> tuple[Tensor, Tensor]:
    """Return the positive imaginary parts of the eigenvalues of HiPPO-N, and eigenvectors.

    HiPPO-N is -1/2 and a skew-symmetric matrix S: A. Gu et al. 2022, "On the parameterization and
    initialization of diagonal state space models". -iS is Hermitian.
    """
    root = (torch.arange(n, dtype=torch.float64) + 0.5).sqrt()
    S = torch.triu(root[:, None] * root, 1)
    values, vectors = torch.linalg.eigh(-1j * (S - S.t()))
    return values[n // 2 :], vectors[:, n // 2 :]


def _gated(y: Tensor, w: Weights, f: Functions) -> Tensor:
    """Return g * sigmoid(W_g g + b_g) with g = gelu(y)."""
    g = 0.5 * y * (1 + f.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y * y * y)))
    return g * f.sigmoid(f.linear(g, w["weight_gate"], w.get("bias_gate")))


@named("mamba")
@dataclass(frozen=True)
class SelectiveCell(LinearCell):
    """Selective state space layer, the recurrence of Mamba with its convolution and its gate.

    ::

        u, z    = W_ih x_t
        v       = silu(k_1 * u_(t-3) + ... + k_4 * u_t + b_k)       feature by feature
        d, B, C = W_v v
        d       = softplus(W_d d + b_d)
        c_t     = exp(-d exp(A)) * c_(t-1) + (d * v) B^T            (2H, N), kept as (N, 2H)
        h_t     = W_o ((c_t C + D * v) * silu(z))

    Args:
        memory: N, numbers of state for each of the 2H features.
        kernel_size: steps that the convolution sees.

    A. Gu and T. Dao 2023, "Mamba: Linear-time sequence modeling with selective state spaces",
    algorithm 2, section 3.4 and appendix E.5: A starts at log(1) to log(N), D at 1, b_d so that
    softplus(b_d) is log-uniform in 0.001 to 0.1, W_d uniform in ±1/sqrt(rank), where the rank of d
    is H / 16, rounded up.
    """

    memory: int = 16
    kernel_size: int = 4

    state_type = WindowState

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("memory", 1), ("kernel_size", 2)):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < least:
                raise OstinatoError(
                    f"SelectiveCell: {name}={getattr(self, name)!r}; expected {least} or more."
                )

    @property
    def memory_size(self) -> int:
        """2H times N."""
        return 2 * self.hidden_size * self.memory

    @property
    def window(self) -> int:
        """As ``kernel_size``."""
        return self.kernel_size

    @property
    def window_size(self) -> int:
        """2H, the features of u."""
        return 2 * self.hidden_size

    @property
    def _rank(self) -> int:
        return -(-self.hidden_size // 16)

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the weights in the order of the equations."""
        E, N, R = 2 * self.hidden_size, self.memory, self._rank
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (2 * E, self.input_size)}
        shapes |= {"kernel": (E, self.kernel_size)} | ({"bias_kernel": (E,)} if self.bias else {})
        shapes |= {"weight_v": (R + 2 * N, E), "weight_d": (E, R), "d": (E,)}
        return shapes | {"A": (E, N), "D": (E,), "weight_o": (self.hidden_size, E)}

    def steps(self, w: Weights, seen: Sequence[Tensor], f: Functions = PLAIN) -> Selection:
        R, N = self._rank, self.memory
        v = f.silu(f.convolve(seen, w["kernel"].t(), w.get("bias_kernel")))
        d, B, C = torch.split(f.linear(v, w["weight_v"]), [R, N, N], dim=-1)
        d = f.softplus(f.linear(d, w["weight_d"], w["d"]))
        z = seen.rest if isinstance(seen, Window) else seen[-1][..., self.window_size :]
        return Selection(d, v, -w["A"].exp().t(), B, C, w["D"], None, (z,))

    def read(self, w: Weights, c: Tensor, steps: Steps | Selection, f: Functions = PLAIN) -> Tensor:
        (z,) = steps.more
        return f.linear(c * f.silu(z), w["weight_o"])

    def initialize(self, w: Weights, how: Initialization = "pytorch", steps: int = 100) -> None:
        """Initialise the weights as the paper does; matrices by another recipe if one is named."""
        super().initialize(w, how, steps)
        with torch.no_grad():
            if how == "pytorch":
                for name in ("weight_ih", "weight_v", "weight_d", "weight_o"):
                    w[name].uniform_(-1, 1).mul_(w[name].shape[1] ** -0.5)
            bound = self.kernel_size**-0.5
            w["kernel"].uniform_(-bound, bound)
            if self.bias:
                w["bias_kernel"].uniform_(-bound, bound)
            w["d"].uniform_(math.log(0.001), math.log(0.1)).exp_().expm1_().log_()
            w["A"].copy_(torch.arange(1, self.memory + 1).log().expand_as(w["A"]))
            w["D"].fill_(1.0)


def _fill(w: Weights, uniform: float = 0.0, normal: float = 0.0) -> None:
    """Draw matrices uniform in plus or minus a bound, or normal; set biases to 0."""
    with torch.no_grad():
        for weight in w.values():
            if weight.dim() < 2:
                weight.zero_()
            elif uniform:
                weight.uniform_(-uniform, uniform)
            else:
                weight.normal_(std=normal)
