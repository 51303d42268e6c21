"""A recurrent layer as a stream: one step at a time, in about a microsecond."""

from __future__ import annotations

import copy
import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Concatenate, Literal, ParamSpec, Self, TypeVar, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ostinato.errors import OstinatoError, ShapeError
from ostinato.recurrence.backends import compiled, diagonal, elements, generated
from ostinato.recurrence.backends.core import MISSING, CoreStream, core
from ostinato.recurrence.cells import Cell, LinearCell, Weights
from ostinato.recurrence.layers import Hidden, Recurrent, is_dense

Quantization = Literal["int8"]
_Products = Literal["dot", "native", "portable"]  # see core.int8_products; the same numbers

# Bytes of float32 weights up to which 8 bits bring no speed, as measured with AVX-512 and AVX2.
_SMALL = {"dot": 16 << 10, "native": 64 << 10}


class SlowQuantizationWarning(UserWarning):
    """A quantized stream is not faster here than one with the weights as they are."""


_S = TypeVar("_S")
_P = ParamSpec("_P")
_R = TypeVar("_R")


def _explained(
    method: Callable[Concatenate[_S, _P], _R],
) -> Callable[Concatenate[_S, _P], _R]:
    """Make one of our errors of a call with the wrong arguments, as the core does for `step`."""

    @functools.wraps(method)
    def call(self: _S, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return method(self, *args, **kwargs)
        except TypeError as error:
            try:
                inspect.signature(method).bind(self, *args, **kwargs)
            except TypeError as wrong:
                name = method.__qualname__.removesuffix(".__init__")
                raise OstinatoError(f"{name}: {wrong}; see help({name}).") from error
            raise

    return cast("Callable[Concatenate[_S, _P], _R]", call)


class Stream(CoreStream):
    """A layer run one step per call, on the compiled core.

    A stream holds a copy of the weights and the state. A step takes no lock and gives the same bits
    as the layer for the whole sequence; ``step(x, out=y)`` allocates nothing either: it writes into
    an array or tensor, contiguous and of the result's shape and type, and returns that. A stream
    serves one thread at a time; `fork`, as `copy.copy` and `copy.deepcopy`, makes another that
    shares the weights. It can be pickled if its layer can.

    Args:
        layer: an `RNN`, `LSTM`, `GRU`, or `Recurrent` of linear cells, or of others whose kernels
            can be made, in one direction, with float32 or float64 weights on the CPU. Dropout is
            ignored.
        batch_size: streams that run side by side, ``B``; None for one, without a batch axis.
        quantize: ``"int8"`` keeps 8 bits of every float32 weight, with a scale for each row, and
            rounds inputs and states to 8 bits for each product: faster but for small layers, at
            some loss of accuracy.
        threads: how many share a step of `RNN`, `LSTM` and `GRU`. More than one pays where the
            weights do not fit into one core's cache and steps follow each other within
            milliseconds; the bits are the same.

    Raises:
        OstinatoError: where the layer cannot stream.

    Warns:
        SlowQuantizationWarning: where ``quantize`` brings no speed: on small layers, and on a CPU
            for whose 8-bit products the core has no instructions.

    Example:
        >>> import ostinato
        >>> layer = ostinato.GRU(3, 4)
        >>> stream = Stream(layer)
        >>> x = torch.randn(100, 3)
        >>> for x_t in x.numpy():
        ...     y_t = stream.step(x_t)                # NumPy array in, NumPy array out
        >>> torch.equal(torch.from_numpy(y_t), layer(x)[0][-1])
        True
        >>> stream.state.shape
        torch.Size([1, 4])
    """

    @_explained
    def __init__(
        self,
        layer: Recurrent,
        batch_size: int | None = None,
        *,
        quantize: Quantization | None = None,
        threads: int = 1,
        _products: _Products = "dot",
    ) -> None:
        if core is None:
            raise OstinatoError(f"Stream: {MISSING}.")
        if not isinstance(layer, Recurrent):
            raise OstinatoError(
                f"Stream: layer is a {type(layer).__name__}; expected an ostinato layer, "
                "such as ostinato.LSTM."
            )
        if layer.bidirectional:
            raise OstinatoError(
                f"Stream: {layer} is bidirectional and needs the future; "
                "build it with bidirectional=False."
            )
        if quantize is not None and str(quantize) not in get_args(Quantization):
            raise OstinatoError(f"Stream: quantize={quantize!r}; expected None or 'int8'.")
        is_size = type(batch_size) is int and 1 <= batch_size < 1 << 31
        if batch_size is not None and not is_size:
            raise OstinatoError(f"Stream: batch_size={batch_size!r}; expected None or at least 1.")
        if not isinstance(threads, int) or not 1 <= threads <= torch.get_num_threads():
            raise OstinatoError(
                f"Stream: threads={threads!r}; expected 1 to {torch.get_num_threads()}, "
                "the value of torch.get_num_threads()."
            )
        weights = [
            {name: t.detach().clone() for name, t in layer.weights_of(i).items()}
            for i in range(len(layer.cells))
        ]
        like = next(iter(weights[0].values()))
        lacks = "its layers are residual" if layer.residual else compiled.lacks(layer.cells, like)
        if lacks and not layer.residual:
            others = tuple(cell for cell in layer.cells if not isinstance(cell, LinearCell))
            lacks = diagonal.lacks((), like) or (generated.lacks(others, like) if others else "")
            if quantize and not lacks:
                lacks = "8-bit weights are for RNN, LSTM and GRU"
        if lacks:
            raise OstinatoError(
                f"Stream: {layer} cannot stream on the compiled core: {lacks}. "
                "layer.step takes single steps on any path."
            )
        if quantize and like.dtype != torch.float32:
            raise OstinatoError(
                f"Stream: quantize='int8' is for float32 weights, these are {like.dtype}; "
                "convert the layer: layer.float()."
            )
        numbers = sum(t.numel() for w in weights for t in w.values())
        if quantize and (reason := _no_gain(4 * numbers)):
            warnings.warn(
                f"Stream: quantize='int8' is not faster than float32 here: {reason}; leave it out.",
                SlowQuantizationWarning,
                stacklevel=3,
            )
        precision = 1 + get_args(_Products).index(_products) if quantize else 0
        self._build(layer, weights, batch_size, precision, threads)

    def _build(
        self,
        layer: Recurrent,
        weights: list[dict[str, Tensor]],
        batch_size: int | None,
        precision: int,
        threads: int,
    ) -> None:
        """Set up a new stream from checked arguments; the weights are its own."""
        self._layer, self._batch_size = layer, batch_size
        self._weights, self._precision, self._threads = weights, precision, threads
        self._like = next(iter(weights[0].values())).new_empty(0)
        if compiled.lacks(layer.cells, self._like):
            each = [_program(cell, w) for cell, w in zip(layer.cells, weights, strict=True)]
            programs, tensors = zip(*each, strict=True)
            super().__init__(programs, tensors, batch_size or 1, *self._output())
            self.reset()
            return
        packed = [cell.standard_weights(w) for cell, w in zip(layer.cells, weights, strict=True)]
        super().__init__(
            tuple(compiled.shape_of(cell.standard_cell()) for cell in layer.cells),
            tuple(t for w in packed for t in compiled.flat_weights(w)),
            batch_size or 1,
            precision,
            threads,
            *self._output(),
        )

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the state, and the layer with the stream's weights, in case it learnt since."""
        layer = copy.deepcopy(self._layer)
        with torch.no_grad():
            for i, weights in enumerate(self._weights):
                for name, weight in layer.weights_of(i).items():
                    weight.copy_(weights[name])
        made = layer, self._batch_size, self._precision, self._threads
        return _restored, (type(self), *made, self.state)

    def _output(self) -> tuple[NDArray[np.floating], Tensor]:
        """Return the buffer of a step's output: as an array and as a tensor."""
        batch = () if self._batch_size is None else (self._batch_size,)
        tensor = self._like.new_zeros(*batch, self._layer.output_size)
        return tensor.numpy(), tensor

    @_explained
    def run(self, x: Tensor) -> Tensor:
        """Run many steps: ``(T, I)`` to ``(T, P)``, or ``(T, B, I)`` to ``(T, B, P)``.

        Starts from the current state, as if `step` had been called ``T`` times.
        """
        unbatched = self._batch_size is None
        if not is_dense(x) or x.dim() != (2 if unbatched else 3):
            got = tuple(x.shape) if is_dense(x) else type(x).__name__
            shape = "(T, I)" if unbatched else "(T, B, I)"
            raise ShapeError(f"Stream.run: expected x of shape {shape}, got {got}.")
        rows = (x.detach().unsqueeze(1) if unbatched else x.detach()).resolve_neg()
        y = rows.new_empty(*rows.shape[:2], self._layer.output_size)
        self._chunk(rows.contiguous(), y)
        return y.squeeze(1) if unbatched else y

    @_explained
    def reset(self) -> None:
        """Go back to the state before the first step: zeros, of nearly every cell."""
        self._reset()
        if not all(map(generated.starts_at_zero, self._layer.cells)):
            B = self._batch_size or 1
            states = [cell.zero_state(B, self._like) for cell in self._layer.cells]
            self._load(torch.cat([t.flatten() for state in states for t in state]))

    @property
    def state(self) -> Hidden:
        """The state, as the layer takes and returns it: a copy, which can be set again."""
        numbers = self._like.new_empty(self._state_size())
        self._save(numbers)
        B, cells = self._batch_size or 1, self._layer.cells
        sizes = [B * size for cell in cells for size in cell.state_sizes]
        parts = iter(torch.split(numbers, sizes))
        states = [
            cell.state_type(*(next(parts).view(1, B, size) for size in cell.state_sizes))
            for cell in cells
        ]
        return self._layer.join_state(states, self._batch_size is None)

    @state.setter
    def state(self, hx: Hidden) -> None:
        if hx is None:
            self.reset()
            return
        unbatched = self._batch_size is None
        like = self._like.new_empty(0, self._batch_size or 1, self._layer.input_size)
        states = self._layer.split_state(hx, like, unbatched, like)
        self._load(torch.cat([t.detach().flatten() for state in states for t in state or ()]))

    @_explained
    def fork(self) -> Self:
        """Return another stream with a copy of the state, sharing the weights."""
        other = type(self).__new__(type(self))
        other.__dict__.update(self.__dict__)
        CoreStream.__init__(other, self, *other._output())
        return other

    __copy__ = fork

    def __deepcopy__(self, memo: object) -> Self:
        return self.fork()

    def __repr__(self) -> str:
        return f"Stream({self._layer}, batch_size={self._batch_size})"


def _program(cell: Cell, w: Weights) -> elements.CellProgram:
    """Return a step of a cell as the core runs it, and the tensors that it reads."""
    if isinstance(cell, LinearCell):
        return elements.program_of(cell, w)
    (program,), (tensors,) = generated.for_stream([cell], [w])
    return elements.CellProgram(program, tensors)


def _restored(
    cls: type[Stream],
    layer: Recurrent,
    batch_size: int | None,
    precision: int,
    threads: int,
    state: Hidden,
) -> Stream:
    """Build a stream from what was pickled, on a machine that may have fewer threads."""
    stream = cls.__new__(cls)
    weights = [
        {name: t.detach() for name, t in layer.weights_of(i).items()}
        for i in range(len(layer.cells))
    ]
    stream._build(layer, weights, batch_size, precision, min(threads, torch.get_num_threads()))
    stream.state = state
    return stream


def _no_gain(weight_bytes: int) -> str:
    """Return why 8 bits are no faster for weights of a size in float32; empty if they are."""
    products = core.int8_products()
    if products == "portable":
        return "the core has no instructions for 8-bit products on this CPU"
    if weight_bytes <= _SMALL[products]:
        return f"the weights, {weight_bytes / 1024:.0f} KiB in float32, fit into the first cache"
    return ""
