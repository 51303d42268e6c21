"""The compiled core of Ostinato."""

from collections.abc import Sequence
from typing import Any, Literal, TypeVar, overload

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

_Numbers = TypeVar("_Numbers", NDArray[np.float32], NDArray[np.float64], Tensor)

def version() -> str:
    """Return the version of the package that this core was built for."""

def instruction_set() -> str:
    """Return the instruction set that the core runs with on this CPU.

    The best of `x86-64-v4`, `x86-64-v3` and `x86-64` that the CPU can run, or `generic` where it is
    no x86. It is chosen once, when first needed; the environment variable `OSTINATO_ISA` names
    another.

    Raises:
        ValueError: `OSTINATO_ISA` names an instruction set that this build does not have or this
            CPU cannot run.
    """

def int8_products() -> Literal["dot", "native", "portable"]:
    """Return how an int8 stream multiplies on this CPU.

    By 8-bit dot products (VNNI of x86, dotprod of Arm), by what every CPU of the instruction set
    has, or by plain loops, where the core knows nothing better.
    """

def peak_flops(seconds: float = 0.02) -> float:
    """Return the floating-point operations a second that this thread can do in float32.

    On registers alone, on the average of ``seconds``; several threads can call it at the same time.
    """

def line_length(shape: Sequence[int], doubles: bool) -> int:
    """Return the numbers in a line of what backward needs of forward.

    Here and below, ``shape`` is a tuple: kind of cell (0 RNN, 1 LSTM, 2 GRU, 3 GRU with the reset
    gate before the product), activation of an RNN (0 tanh, 1 relu, 2 sigmoid, 3 identity), features
    of the input I, of the hidden state H and of the output P.
    """

def gate_at(shape: Sequence[int], doubles: bool, gate: int) -> int:
    """Return where in a line the H numbers of a gate begin; after an LSTM's gates stands c."""

def are_readable(*tensors: Tensor | None) -> bool:
    """Return whether `forward` and `backward` can read tensors without a copy.

    The first, if it is a sequence ``(T, B, I)``, with the features of a step side by side, all
    others contiguous, and none with a negation that PyTorch has put off.
    """

def forward(
    shape: Sequence[int],
    x: Tensor,
    lengths: Tensor | None,
    h0: Tensor | None,
    c0: Tensor | None,
    weights: Sequence[Tensor | None],
    y: Tensor,
    h_n: Tensor | None,
    c_n: Tensor | None,
    lines: Tensor | None,
    threads: int,
    tokens: Tensor | None = None,
    checkpoint_every: int = 0,
    c_kept: Tensor | None = None,
) -> None:
    """Run one layer, in one direction or both, over a whole sequence.

    Args:
        shape: see `line_length`.
        x: input ``(T, B, I)``, its last axis contiguous; or a table ``(V, I)``, see ``tokens``.
        lengths: steps of each row, int64 ``(B,)``.
        h0: ``(D, B, P)``; zeros when None.
        c0: ``(D, B, H)``, of an LSTM; zeros when None.
        weights: weight_ih, weight_hh, bias_ih, bias_hh, weight_hr of each direction.
        y: takes h of every step, ``(T, B, D * P)``.
        h_n: takes the last h, ``(D, B, P)``.
        c_n: takes the last c, ``(D, B, H)``.
        lines: takes what `backward` needs, ``(D, T, B, line_length(shape))``.
        threads: how many, at the most.
        tokens: the row of the table that each step takes, int64 ``(T, B)``.
        checkpoint_every: 0 where `backward` is given the lines; else it computes them again, so
            many steps at a time.
        c_kept: takes c of an LSTM every so many steps, ``(D, (T - 1) // checkpoint_every, B, H)``.

    Raises:
        ShapeError: naming the argument that does not fit.
    """

def backward(
    shape: Sequence[int],
    x: Tensor,
    lengths: Tensor | None,
    h0: Tensor | None,
    c0: Tensor | None,
    weights: Sequence[Tensor | None],
    y: Tensor,
    lines: Tensor | None,
    dy: Tensor | None,
    dh_n: Tensor | None,
    dc_n: Tensor | None,
    dx: Tensor | None,
    dh0: Tensor | None,
    dc0: Tensor | None,
    dweights: Sequence[Tensor | None],
    threads: int,
    tokens: Tensor | None = None,
    checkpoint_every: int = 0,
    c_kept: Tensor | None = None,
) -> None:
    """Find the gradients, given those of y and of the last states.

    What is not needed is None. The lines are used up; with ``checkpoint_every`` there are none.

    Raises:
        ShapeError: naming the argument that does not fit.
    """

def scan_forward(
    is_complex: bool,
    a: Tensor,
    b: Tensor,
    lengths: Tensor | None,
    resets: Tensor | None,
    h0: Tensor | None,
    h: Tensor,
    h_n: Tensor | None,
    threads: int,
) -> None:
    """Compute h_t = a_t * h_(t-1) + b_t.

    Args:
        is_complex: whether a vector is the real parts of numbers, then their imaginary parts.
        a: ``(T, B, width)``, its last axis contiguous; or ``(width,)``, the same for all steps.
        b: ``(T, B, width)``, its last axis contiguous.
        lengths: steps of each row, int64 ``(B,)``.
        resets: the steps that start from h = 0, booleans ``(T, B)``.
        h0: ``(B, width)``; zeros when None.
        h: takes h of every step, ``(T, B, width)``; zeros past a row's length.
        h_n: takes h of each row's last step, ``(B, width)``.
        threads: how many, at the most.

    Raises:
        ShapeError: naming the argument that does not fit.
    """

def scan_backward(
    is_complex: bool,
    a: Tensor,
    lengths: Tensor | None,
    resets: Tensor | None,
    h0: Tensor | None,
    h: Tensor,
    dh: Tensor | None,
    dh_n: Tensor | None,
    da: Tensor | None,
    db: Tensor | None,
    dh0: Tensor | None,
    threads: int,
) -> None:
    """Find the gradients, given those of h and h_n; None for those that are not needed.

    ``da`` and ``db`` are ``(T, B, width)``; where all steps share ``a``, ``da`` is ``(B, width)``,
    the sum over the steps of each row.

    Raises:
        ShapeError: naming the argument that does not fit.
    """

def product(x: Tensor, weight: Tensor, bias: Tensor | None, y: Tensor, threads: int) -> None:
    """Compute ``x (N, I)`` times the transpose of ``weight (O, I)``, plus ``bias``, into ``y``.

    The bits of a row do not depend on the rows beside it.

    Raises:
        ShapeError: naming the argument that does not fit.
    """

def convolution(x: Tensor, kernel: Tensor, bias: Tensor | None, y: Tensor, threads: int) -> None:
    """Convolve each feature of ``x (T + k - 1, B, E)`` with ``kernel (k, E)`` into ``y (T, B, E)``.

    Raises:
        ShapeError: naming the argument that does not fit.
    """

def convolution_backward(
    x: Tensor,
    kernel: Tensor,
    dy: Tensor,
    dx: Tensor,
    dkernel: Tensor,
    dbias: Tensor | None,
    threads: int,
) -> None:
    """Find the gradients of a convolution.

    Raises:
        ShapeError: naming the argument that does not fit.
    """

selection_chunk: int
"""Steps that backward of a selective scan computes again together."""
selection_tile: int
"""Bytes of features over which it sums by itself."""

def selection_forward(
    d: Tensor,
    v: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    c0: Tensor | None,
    lengths: Tensor | None,
    resets: Tensor | None,
    y: Tensor,
    c_n: Tensor,
    kept: Tensor | None,
    threads: int,
) -> None:
    """Compute a selective scan, see cpp/linear.hpp, into ``y (T, B, E)`` and ``c_n (B, N E)``.

    Args:
        d: ``(T, B, E)``, as ``v``.
        v: the input.
        A: ``(N, E)``.
        B: ``(T, B, N)``, as ``C``.
        C: what reads the state.
        D: what leads past it, ``(E,)``; zeros when None.
        c0: the state before the first step, ``(B, N E)``; zeros when None.
        lengths: steps of each row.
        resets: steps that start from zeros, ``(T, B)``.
        y: takes the output.
        c_n: takes the state after each row's last step.
        kept: takes what backward needs, ``(chunks, B, N E)``, the state before each
            `selection_chunk` steps; None where it does not follow.
        threads: the most to use.

    Raises:
        ShapeError: naming the argument that does not fit.
    """

def selection_backward(
    d: Tensor,
    v: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    lengths: Tensor | None,
    resets: Tensor | None,
    kept: Tensor,
    dy: Tensor | None,
    dc_n: Tensor | None,
    dd: Tensor,
    dv: Tensor,
    dA: Tensor,
    dB: Tensor,
    dC: Tensor,
    dD: Tensor | None,
    dc0: Tensor,
    threads: int,
) -> None:
    """Find the gradients of a selective scan; None stands for zeros.

    ``dA (B, N E)`` and ``dD (B, E)`` are of each row, ``dB`` and ``dC (tiles, T, B, N)`` of each
    `selection_tile`: all still to be summed over their first axis.

    Raises:
        ShapeError: naming the argument that does not fit.
    """

def transducer_loss(
    log_p: Tensor,
    lengths: Tensor | None,
    label_lengths: Tensor | None,
    losses: Tensor,
    gradients: Tensor | None,
    threads: int,
) -> None:
    """Compute the loss of an RNN transducer, and its gradients.

    Args:
        log_p: log-probabilities of the blank and of the next label, ``(B, T, U + 1, 2)``.
        lengths: frames of each row, ``(B,)`` from 0 to ``T``; ``T`` when None.
        label_lengths: labels of each row, ``(B,)`` from 0 to ``U``; ``U`` when None.
        losses: takes the losses, ``(B,)``.
        gradients: takes their gradients, of the shape of ``log_p``; None where not needed.
        threads: the most to use.

    Raises:
        ShapeError: naming the argument that does not fit.
    """

def map(function: int, x: Tensor, y: Tensor, threads: int, dy: Tensor | None = None) -> None:
    """Compute a function of each number of ``x (N, features)`` into ``y``.

    0 sigmoid, 1 tanh, 2 exp, 3 softplus, 4 silu, 5 sqrt. A number's bits depend on itself alone.
    With ``dy``, the gradient of the function's value, ``y`` takes that of its argument; ``x`` is
    then the value, but of softplus and silu the argument.

    Raises:
        ShapeError: naming the argument that does not fit.
    """

def elements(
    elements: Sequence[int],
    scratch: int,
    tensors: tuple[Tensor, ...],
    vectors: tuple[Tensor, ...],
    threads: int,
) -> None:
    """Compute elements, in order, for each row of ``tensors (N, features)``, see cpp/linear.hpp.

    Thirteen numbers each: function, n, base and place of the result, and base, place and step of
    each source; base 0 is scratch, 1 the first tensor, 10 the vectors. A row's bits are its own.

    Raises:
        ShapeError: naming the argument that does not fit.
    """

class Program:
    """A cell as kernels and products, see cpp/program.hpp; tables are lists of whole numbers."""

    def __init__(
        self,
        doubles: bool,
        sizes: Sequence[int],
        states: Sequence[int],
        operations: Sequence[Sequence[int]],
        matrices: Sequence[int],
        vectors: Sequence[int],
        sums: Sequence[int],
        work: float,
        pieces: Sequence[Sequence[int]],
        elements: Sequence[int] = (),
    ) -> None: ...
    def forward(
        self,
        x: Tensor,
        lengths: Tensor | None,
        tensors: tuple[Tensor, ...],
        state: tuple[Tensor | None, ...],
        reverse: bool,
        y: Tensor,
        last: tuple[Tensor, ...],
        lines: Tensor | None,
        threads: int,
    ) -> None:
        """Run one direction over a whole sequence, into y, last and lines."""

    def backward(
        self,
        x: Tensor,
        lengths: Tensor | None,
        tensors: tuple[Tensor, ...],
        state: tuple[Tensor | None, ...],
        reverse: bool,
        lines: Tensor,
        dy: Tensor | None,
        d_last: tuple[Tensor | None, ...],
        dx: Tensor | None,
        d_state: tuple[Tensor | None, ...],
        results: tuple[Tensor | None, ...],
        threads: int,
    ) -> None:
        """Find the gradients, into dx, d_state and the sums."""

class Stream:
    """A stack of layers, one step at a time: the inside of `ostinato.Stream`."""

    @overload
    def __init__(
        self,
        shapes: tuple[Sequence[int], ...],
        weights: tuple[Tensor | None, ...],
        rows: int,
        precision: int,
        threads: int,
        array: NDArray[Any],
        tensor: Tensor,
    ) -> None: ...
    @overload
    def __init__(
        self,
        programs: tuple[Program, ...],
        tensors: tuple[tuple[Tensor, ...], ...],
        rows: int,
        array: NDArray[Any],
        tensor: Tensor,
    ) -> None: ...
    @overload
    def __init__(self, other: Stream, array: NDArray[Any], tensor: Tensor) -> None: ...
    def step(self, x: _Numbers, out: _Numbers | None = None) -> _Numbers:
        """Take one step, ``(I,)`` to ``(P,)`` or ``(B, I)`` to ``(B, P)``.

        A NumPy array gives a NumPy array, a tensor a tensor, of the dtype of the weights.

        Args:
            x: the input; its numbers may lie apart.
            out: takes the result, and is returned; contiguous, of the result's shape and dtype.
                It spares the time that making a new array takes.
        """

    def _chunk(self, x: Tensor, y: Tensor) -> None: ...
    def _reset(self) -> None: ...
    def _save(self, state: Tensor) -> None: ...
    def _load(self, state: Tensor) -> None: ...
    def _state_size(self) -> int: ...
