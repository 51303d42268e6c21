"""RNN, LSTM and GRU, drop-in for `torch.nn`'s: arguments, attributes, `state_dict`, shapes, errors.

They derive from `torch.nn.RNNBase`, not from `torch.nn.LSTM` and its like, at which `torch.compile`
breaks the graph. Further arguments are keyword-only.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from typing import ClassVar, TypeVar, Unpack, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.types import Device

from ostinato.errors import OstinatoError, ShapeError
from ostinato.recurrence import backends
from ostinato.recurrence.backends.torch import has_operator
from ostinato.recurrence.cells import (
    Activation,
    Cell,
    GRUCell,
    GRUState,
    LSTMCell,
    LSTMState,
    RNNCell,
    RNNState,
    State,
)
from ostinato.recurrence.layers import (
    Hidden,
    Lengths,
    Options,
    Output,
    Recurrent,
    check_layer_count,
    mode_of,
    observer_now,
)

_ARGUMENTS = """
        input_size: features of an input step, ``I``.
        hidden_size: features of the hidden state, ``H``; or a sequence, one a layer.
        num_layers: layers; left out where another argument gives one a layer.
        bias: whether there are bias vectors.
        batch_first: input and output are ``(B, T, features)`` instead of ``(T, B, features)``.
        dropout: probability of zeroing an element between layers, drawn again at every step.
        bidirectional: read in both directions.
        device: where the weights are made.
        dtype: type of the weights.
        options: keyword arguments that all layers share: init, init_steps, variational_dropout,
            weight_dropout, residual, checkpoint_every; see `Recurrent`."""


class _DropIn(Recurrent):
    """What `RNN`, `LSTM` and `GRU` share: where PyTorch has this very layer, its forward serves."""

    torch_layer: ClassVar[type[nn.RNNBase]]

    def __init__(
        self,
        given: tuple[object, ...],
        cells: Iterable[Cell],
        device: Device,
        dtype: torch.dtype | None,
        options: Options,
    ) -> None:
        """Make a layer of cells, once PyTorch's own has checked the arguments that it is given."""
        unknown = {k: v for k, v in options.items() if k not in Options.__annotations__}
        make: Callable[..., nn.RNNBase] = self.torch_layer
        like = make(*given, device="meta", **unknown)
        cells, directions = list(cells), 2 if like.bidirectional else 1
        cells[1:] = [b.with_input(directions * a.output_size) for a, b in pairwise(cells)]
        super().__init__(
            cells, 1, like.batch_first, like.dropout, like.bidirectional, device, dtype, **options
        )

    @cached_property
    def _is_torchs(self) -> bool:
        """Whether `torch.nn` has this very layer."""
        same = self._is_even and len({mode_of(cell) for cell in self.cells}) == 1
        return same and all(has_operator(cell) for cell in self.cells)

    def _runs_whole(self) -> bool:
        drops = self.variational_dropout > 0 or self.weight_dropout > 0
        more = self.residual or self.checkpoint_every or observer_now() is not None
        return self._is_torchs and not (self.training and drops) and not more

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Hidden = None,
        *,
        lengths: Lengths = None,
        return_gates: bool = False,
        table: Tensor | None = None,
    ) -> Output:
        """Run the layers over a sequence; see `Recurrent`. ``hx`` is laid out as in `torch.nn`."""
        plain = lengths is None and table is None and return_gates is False
        whole = plain and self._runs_whole()
        try:
            if whole and self._is_left_to_torch(input):
                if self.training and not self._identity_checked:
                    self._warn_of_identical_layers()
                y, last = self.torch_layer.forward(self, input, hx)
                return y, (LSTMState(*last) if isinstance(last, tuple) else last)
            return super().forward(
                input, hx, lengths=lengths, return_gates=return_gates, table=table
            )
        except ShapeError:
            if whole:
                self.torch_layer.forward(self, input, hx)  # fails, in PyTorch's own words
            raise

    def _is_left_to_torch(self, input: Tensor | PackedSequence) -> bool:
        if isinstance(input, PackedSequence):
            return backends.choose(self.cells, input.data) == "torch"
        if not isinstance(input, Tensor) or input.is_nested:
            return False  # which is refused
        # In eval mode cuDNN would keep nothing for backward.
        if input.is_cuda and torch.is_grad_enabled() and not self.training:
            return False
        # PyTorch refuses a call without steps, and so does what stands in its place.
        if input.numel() == 0 and 0 in self._in_time(input).shape[:1]:
            return True
        return backends.choose(self.cells, input, steps=1) == "torch"

    def join_state(self, states: list[State], unbatched: bool) -> Hidden:
        """Do the inverse of `split_state`; the state of an RNN or GRU is its tensor."""
        hx = super().join_state(states, unbatched)
        return hx.h if isinstance(hx, RNNState | GRUState) else hx

    def flatten_parameters(self) -> None:
        """Lay the weights out in one block for cuDNN, where cuDNN can run this layer."""
        if self._is_torchs:
            nn.RNNBase.flatten_parameters(self)

    def extra_repr(self) -> str:
        """Return what `torch.nn` prints, and the options that differ from their defaults."""
        beyond = {cell.activation for cell in self.cells if isinstance(cell, RNNCell)}
        text = nn.RNNBase.extra_repr(self)
        if beyond - {"tanh", "relu"}:
            text += f", nonlinearity={self.nonlinearity!r}"
        if any(isinstance(cell, GRUCell) and not cell.reset_after for cell in self.cells):
            text += ", reset_after=False"
        return text + self._options_repr()


class RNN(_DropIn):
    """Elman network, as `torch.nn.RNN`. Equations: `RNNCell`; calls: `Recurrent`.

    Args:
        nonlinearity: ``tanh``, ``relu``, ``sigmoid`` or ``identity``; or a sequence, one a layer.

    Example:
        >>> layer = RNN(3, [16, 8], nonlinearity=["relu", "tanh"], batch_first=True)
        >>> y, (first, second) = layer(torch.randn(4, 10, 3))
        >>> y.shape, first.h.shape, second.h.shape
        (torch.Size([4, 10, 8]), torch.Size([1, 4, 16]), torch.Size([1, 4, 8]))
    """

    torch_layer = nn.RNN

    def __init__(
        self,
        input_size: int,
        hidden_size: int | Sequence[int],
        num_layers: int = 1,
        nonlinearity: Activation | Sequence[Activation] = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Device = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Options],
    ) -> None:
        n = _layer_count("RNN", num_layers, hidden_size=hidden_size, nonlinearity=nonlinearity)
        sizes: list[int] = _spread(hidden_size, n)
        activations: list[Activation] = _spread(nonlinearity, n)
        first = activations[0] if activations[0] not in ("sigmoid", "identity") else "tanh"
        given = (input_size, sizes[0], n, first, bias, batch_first, dropout, bidirectional)
        cells = (RNNCell(input_size, H, bias, f) for H, f in zip(sizes, activations, strict=True))
        super().__init__(given, cells, device, dtype, options)
        self.nonlinearity = nonlinearity if isinstance(nonlinearity, str) else tuple(activations)


class LSTM(_DropIn):
    """Long short-term memory, as `torch.nn.LSTM`. Equations: `LSTMCell`; calls: `Recurrent`.

    Args:
        proj_size: features of a projected ``h``; 0 for none.

    Example:
        >>> layer = LSTM(3, 8, num_layers=2)
        >>> y, state = layer(torch.randn(10, 4, 3), lengths=[10, 7, 1, 0])
        >>> y.shape, state.h.shape, state.c.shape
        (torch.Size([10, 4, 8]), torch.Size([2, 4, 8]), torch.Size([2, 4, 8]))
    """

    torch_layer = nn.LSTM
    # PyTorch's forward calls these.
    check_forward_args = nn.LSTM.check_forward_args  # type: ignore[assignment]
    get_expected_cell_size = nn.LSTM.get_expected_cell_size
    permute_hidden = nn.LSTM.permute_hidden  # type: ignore[assignment]

    def __init__(
        self,
        input_size: int,
        hidden_size: int | Sequence[int],
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Device = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Options],
    ) -> None:
        sizes = _spread(hidden_size, _layer_count("LSTM", num_layers, hidden_size=hidden_size))
        given = (input_size, sizes[0], len(sizes), bias, batch_first, dropout, bidirectional)
        cells = (LSTMCell(input_size, H, bias, proj_size) for H in sizes)
        super().__init__((*given, proj_size), cells, device, dtype, options)


class GRU(_DropIn):
    """Gated recurrent unit, as `torch.nn.GRU`. Equations: `GRUCell`; calls: `Recurrent`.

    Args:
        reset_after: where the reset gate acts: after the recurrent product, as in PyTorch, or
            before it, as in Cho et al. 2014.

    Example:
        >>> layer = GRU(3, 8, bidirectional=True, reset_after=False)
        >>> y, h = layer(torch.randn(10, 4, 3))
        >>> y.shape, h.shape
        (torch.Size([10, 4, 16]), torch.Size([2, 4, 8]))
    """

    torch_layer = nn.GRU

    def __init__(
        self,
        input_size: int,
        hidden_size: int | Sequence[int],
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Device = None,
        dtype: torch.dtype | None = None,
        *,
        reset_after: bool = True,
        **options: Unpack[Options],
    ) -> None:
        sizes = _spread(hidden_size, _layer_count("GRU", num_layers, hidden_size=hidden_size))
        given = (input_size, sizes[0], len(sizes), bias, batch_first, dropout, bidirectional)
        cells = (GRUCell(input_size, H, bias, reset_after) for H in sizes)
        super().__init__(given, cells, device, dtype, options)
        self.reset_after = reset_after


def _layer_count(owner: str, num_layers: int, **given: object) -> int:
    """Return the number of layers, by ``num_layers`` or by arguments with an entry per layer."""
    check_layer_count(owner, num_layers)
    if num_layers < 1:
        raise OstinatoError("num_layers must be greater than zero")
    counts = {name: len(value) for name, value in given.items() if isinstance(value, list | tuple)}
    layers = {*counts.values(), *([num_layers] if num_layers > 1 or not counts else [])}
    if len(layers) > 1 or 0 in layers:
        raise OstinatoError(
            f"{owner}: num_layers={num_layers} and entries a layer: {counts}; "
            "expected the same number of layers everywhere."
        )
    return layers.pop()


_T = TypeVar("_T")


def _spread(value: _T | Sequence[_T], n: int) -> list[_T]:
    """Return one entry a layer."""
    return list(value) if isinstance(value, list | tuple) else [cast(_T, value)] * n


def _show_shared_arguments(cls: type[_DropIn]) -> None:
    """Show the shared arguments in the docstring of a class, and the options in its signature."""
    cls.__doc__ = (cls.__doc__ or "").replace("    Args:", "    Args:" + _ARGUMENTS)
    own, options = (inspect.signature(c.__init__).parameters.values() for c in (cls, Recurrent))
    shown = [p for p in own if p.kind is not p.VAR_KEYWORD]
    shown += [p for p in options if p.kind is p.KEYWORD_ONLY]
    setattr(cls.__init__, "__signature__", inspect.Signature(shown))  # noqa: B010


for _layer in (RNN, LSTM, GRU):
    _show_shared_arguments(_layer)
