"""Recurrent layers: depth, direction, lengths and dropout over any cell.

`RNN`, `LSTM` and `GRU` are drop-in for `torch.nn`'s: same arguments, attributes, parameter names,
`state_dict`, shapes and errors. What they do more is keyword-only. `Recurrent` gives the same
features to any cell, and to a stack of different ones.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import combinations, pairwise
from typing import Any, cast

import torch
import torch._dynamo.config
from torch import Tensor
from torch.nn.functional import dropout
from torch.nn.modules.rnn import GRU as TorchGRU
from torch.nn.modules.rnn import LSTM as TorchLSTM
from torch.nn.modules.rnn import RNN as TorchRNN
from torch.nn.modules.rnn import RNNBase
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from ostinato.errors import OstinatoError, ShapeError
from ostinato.recurrence import kernels
from ostinato.recurrence.cells import (
    Activation,
    Cell,
    GRUCell,
    GRUState,
    Initialization,
    LSTMCell,
    LSTMState,
    RNNCell,
    RNNState,
    State,
    Trace,
)

# Dynamo breaks the graph at whatever derives from `torch.nn.RNN`, `LSTM` or `GRU`, unless it is
# told that it may trace them: ours it can.
torch._dynamo.config.allow_rnn = True

Hidden = Any
"""The state of a whole layer stack, as it goes in and comes out. See `Recurrent`."""


class IdenticalLayersWarning(UserWarning):
    """Two layers hold identical weights, so that they would learn the same thing."""


class Recurrent(RNNBase):
    """A stack of recurrent layers over any cell.

    Args:
        cell: a cell, repeated ``num_layers`` times (each layer after the first takes the output of
            the one before), or a sequence of cells, one a layer.
        num_layers: layers, ``L``; left out for a sequence of cells.
        batch_first: input and output are ``(B, T, features)`` instead of ``(T, B, features)``.
        dropout: probability of zeroing an element between layers, anew at every step.
        bidirectional: read the sequence in both directions, so that a step may use the future.
        device: where the weights are made.
        dtype: type of the weights.
        init: initialisation by name, see `Cell.initialize`.
        variational_dropout: probability of zeroing a feature between layers for a whole sequence:
            the mask stays the same over time (Gal and Ghahramani 2016, "A theoretically grounded
            application of dropout in recurrent neural networks").
        weight_dropout: probability of zeroing a recurrent weight for a whole sequence (Merity,
            Keskar and Socher 2018, "Regularizing and optimizing LSTM language models").
        init_steps: how long, in steps, the memory is that ``init="chrono"`` prepares for.
        residual: every layer but the first adds what it takes to what it gives, so that gradients
            reach the lowest of many layers (He et al. 2016; Wu et al. 2016, "Google's neural
            machine translation system", section 3.1). Layers must be of one size.
        checkpoint_every: keep for backward, of a layer's insides, only the state every so many
            steps, and compute the steps between again (Chen et al. 2016, "Training deep nets with
            sublinear memory cost"); None to keep every step. The gradients are the same, on the
            compiled path to the last bit; a step takes about a quarter longer, and a long sequence
            a fraction of the memory. About the square root of ``T`` needs the least.

    Called with ``(input, hx=None, *, lengths=None, return_gates=False, table=None)``, it returns
    ``(output, hx)``, and with ``return_gates`` the gates and states of every step as well:

    - input ``(T, B, I)``, ``(T, I)`` unbatched, or a `PackedSequence`; output alike with
      ``D * H`` features, those of the backward direction last.
    - lengths ``(B,)``: steps of each row, 0 to T. Padding costs no correctness: see `scan`.
    - hx: the cell's named tuple with tensors ``(L * D, B, size)``, or, where layers differ in
      size, a tuple of one such named tuple a layer with tensors ``(D, B, size)``. Zeros if None.
    - table: ``(V, I)``, such as the weight of an embedding; the input is then whole numbers
      ``(T, B)``, the rows of it that the steps take. The same as looking them up before, and faster
      where ``V`` is below half of ``T * B``: the table is multiplied, not the steps.
    - gates: a `Trace` for each layer and direction, in the order of hx, its tensors laid out as the
      output; of a `PackedSequence`, as the padded output.

    Raises:
        OstinatoError: on arguments or shapes that do not fit.

    Warns:
        IdenticalLayersWarning: at the first training step, if two layers hold the same weights.

    Example:
        >>> stack = Recurrent([LSTMCell(8, 16), RNNCell(16, 4, activation="relu")])
        >>> y, (first, second) = stack(torch.randn(10, 2, 8), lengths=torch.tensor([10, 7]))
        >>> y.shape, first.c.shape, second.h.shape
        (torch.Size([10, 2, 4]), torch.Size([1, 2, 16]), torch.Size([1, 2, 4]))
    """

    cells: tuple[Cell, ...]
    run_layer = staticmethod(kernels.run)
    """What runs one layer; who wants to watch puts something in its place that gives the same."""
    _twins_sought = False

    def __init__(
        self,
        cell: Cell | Sequence[Cell],
        num_layers: int = 1,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        init: Initialization = "pytorch",
        init_steps: int = 100,
        variational_dropout: float = 0.0,
        weight_dropout: float = 0.0,
        residual: bool = False,
        checkpoint_every: int | None = None,
    ) -> None:
        directions = 2 if bidirectional else 1
        if isinstance(cell, Cell):
            above = cell.with_input(directions * cell.output_size)
            cells = (cell, *[above] * (num_layers - 1))
        else:
            cells = tuple(cell)
        if not cells or num_layers < 1 or (num_layers != 1 and num_layers != len(cells)):
            raise OstinatoError(
                f"{type(self).__name__}: {len(cells)} cells, num_layers={num_layers}; "
                "expected at least one layer and one cell a layer."
            )
        for below, above in pairwise(cells):
            if above.input_size != directions * below.output_size:
                raise OstinatoError(
                    f"{type(self).__name__}: {above!r} follows {below!r}; its input_size must be "
                    f"{directions * below.output_size}, the features of the layer before it."
                )
        self._assemble(
            cells,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            device=device,
            dtype=dtype,
            init=init,
            init_steps=init_steps,
            variational_dropout=variational_dropout,
            weight_dropout=weight_dropout,
            residual=residual,
            checkpoint_every=checkpoint_every,
        )

    def _assemble(
        self,
        cells: tuple[Cell, ...],
        *,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        device: Any,
        dtype: Any,
        init: Initialization,
        init_steps: int,
        variational_dropout: float,
        weight_dropout: float,
        residual: bool,
        checkpoint_every: int | None,
    ) -> None:
        for name, rate in [
            ("dropout", dropout),
            ("variational_dropout", variational_dropout),
            ("weight_dropout", weight_dropout),
        ]:
            if not 0 <= rate <= 1:
                raise OstinatoError(
                    f"{type(self).__name__}: {name}={rate}; expected a probability from 0 to 1."
                )
        if checkpoint_every is not None and checkpoint_every < 1:
            raise OstinatoError(
                f"{type(self).__name__}: checkpoint_every={checkpoint_every}; expected a number of "
                "steps from 1 on, or None."
            )
        torch.nn.Module.__init__(self)
        sizes = tuple(cell.hidden_size for cell in cells)
        self.cells = cells
        self.mode = "_".join(dict.fromkeys(_mode(cell) for cell in cells))
        self.input_size = cells[0].input_size
        self.hidden_size = sizes[0] if len(set(sizes)) == 1 else sizes  # type: ignore[assignment]
        self.num_layers = len(cells)
        self.bias = all(cell.bias for cell in cells)
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.proj_size = getattr(cells[0], "proj_size", 0)
        self.init = init
        self.variational_dropout = float(variational_dropout)
        self.weight_dropout = float(weight_dropout)
        self.init_steps = init_steps
        self.residual = residual
        self.checkpoint_every = checkpoint_every
        for cell in cells[1:] if residual else ():
            if cell.input_size != self._directions * cell.output_size:
                raise OstinatoError(
                    f"{type(self).__name__}: residual=True, and {cell!r} takes {cell.input_size} "
                    f"features and gives {self._directions * cell.output_size}; give all layers "
                    "one size."
                )
        self._flat_weights_names: list[str] = []
        self._all_weights: list[list[str]] = []
        for layer, cell in enumerate(cells):
            for suffix in (f"_l{layer}", f"_l{layer}_reverse")[: self._directions]:
                names = []
                for name, shape in cell.weight_shapes().items():
                    weight = torch.empty(shape, device=device, dtype=dtype)
                    setattr(self, name + suffix, torch.nn.Parameter(weight))
                    names.append(name + suffix)
                self._flat_weights_names += names
                self._all_weights.append(names)
        self._init_flat_weights()
        self.reset_parameters()

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def output_size(self) -> int:
        """Features of a step of the output: both directions together."""
        return self._directions * self.cells[-1].output_size

    @cached_property
    def _is_even(self) -> bool:
        """Whether all layers have states of the same sizes, so that they stack in one tensor."""
        return len({(cell.state_type, cell.state_sizes) for cell in self.cells}) == 1

    def reset_parameters(self) -> None:
        """Draw all weights anew by the recipe that ``init`` names."""
        for i in range(self.num_layers * self._directions):
            self.cells[i // self._directions].initialize(
                self.weights_of(i), self.init, self.init_steps
            )
        self._twins_sought = False

    def weights_of(self, i: int) -> dict[str, Tensor]:
        """Weights by bare name of the layer and direction that PyTorch counts as ``i``."""
        return {name: self._weight(full) for name, full in self._named_weights[i]}

    def _weight(self, name: str) -> Tensor:
        """What ``getattr`` gives; a parameter at a tenth of its price."""
        weight = self._parameters.get(name)
        return getattr(self, name) if weight is None else weight

    @cached_property
    def _named_weights(self) -> list[list[tuple[str, str]]]:
        """Bare and full names of the weights of each layer and direction."""
        bare = [tuple(cell.weight_shapes()) for cell in self.cells for _ in range(self._directions)]
        return [list(zip(*pair, strict=True)) for pair in zip(bare, self._all_weights, strict=True)]

    def flatten_parameters(self) -> None:
        """Nothing to do: only the layers of `torch.nn` have one block of weights for cuDNN."""

    def backend(
        self, input: Tensor | PackedSequence, *, lengths: Tensor | Sequence[int] | None = None
    ) -> kernels.Backend:
        """The path that would serve a call now; see `kernels`."""
        if isinstance(input, PackedSequence):
            return kernels.choose(self.cells, input.data, padded=True)
        return kernels.choose(self.cells, self._in_time(input), padded=lengths is not None)

    def _in_time(self, input: Tensor) -> Tensor:
        """The input with its steps first."""
        return input.transpose(0, 1) if self.batch_first and input.dim() == 3 else input

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Hidden = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        return_gates: bool = False,
        table: Tensor | None = None,
    ) -> Any:
        """Run the layers over a sequence; see the class."""
        if self.training:
            self._warn_of_twins()
        if table is not None:
            return self._forward_tokens(input, hx, lengths, return_gates, table)
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, hx, lengths, return_gates)
        if input.dim() not in (2, 3):
            raise ShapeError(
                f"{self}: input has shape {tuple(input.shape)}; expected {self._layout()}."
            )
        unbatched = input.dim() == 2
        batch_axis = 0 if self.batch_first else 1
        x = input.unsqueeze(batch_axis) if unbatched else input
        x = x.transpose(0, 1) if self.batch_first else x  # (T, B, I)
        if x.shape[2] != self.input_size:
            raise ShapeError(
                f"{self}: input has shape {tuple(input.shape)}; expected {self._layout()}: "
                "its last axis is the input size."
            )
        names = self._all_weights[0]
        weight = self._weight(names[0]) if names else x
        if x.dtype != weight.dtype and not _autocasts(x):
            raise ShapeError(
                f"{self}: input is {x.dtype}, the weights are {weight.dtype}; "
                f"convert one of them: input.to({weight.dtype})."
            )
        return self._forward_batch(x, hx, lengths, return_gates, unbatched)

    def _forward_batch(
        self,
        x: Tensor,
        hx: Hidden,
        lengths: Any,
        return_gates: bool,
        unbatched: bool = False,
        table: Tensor | None = None,
    ) -> Any:
        """What `forward` returns, of a checked ``x``: ``(T, B, I)``, or with a table ``(T, B)``."""
        batch_axis = 0 if self.batch_first else 1
        states: Sequence[State | None] = [None] * self.num_layers
        if hx is not None:
            states = self.split_state(hx, x, unbatched, like=x if table is None else table)
        if lengths is not None:
            lengths = self._checked_lengths(lengths, x)
        traces: list[Trace] | None = [] if return_gates else None
        y, last = self._run(x, states, lengths, traces, table)

        def laid_out(y: Tensor) -> Tensor:
            y = y.transpose(0, 1) if self.batch_first else y
            return y.squeeze(batch_axis) if unbatched else y

        hx = self.join_state(last, unbatched)
        if traces is None:
            return laid_out(y), hx
        return laid_out(y), hx, [_each_tensor(laid_out, seen) for seen in traces]

    def step(self, x_t: Tensor, hx: Hidden = None) -> tuple[Tensor, Hidden]:
        """One step of an endless stream, ``(B, I) -> (B, H)``: the state goes in and comes out.

        Raises:
            OstinatoError: if the layer is bidirectional, which needs the future.

        Example:
            >>> layer = GRU(3, 4)
            >>> x = torch.randn(7, 2, 3)
            >>> state = None
            >>> for x_t in x:
            ...     y_t, state = layer.step(x_t, state)
            >>> torch.allclose(y_t, layer(x)[0][-1], atol=1e-6)
            True
        """
        if self.bidirectional:
            raise OstinatoError(
                f"{self}: a step of a stream was asked for, but a bidirectional layer needs the "
                "future; give it whole sequences, or build it with bidirectional=False."
            )
        time_axis = 1 if self.batch_first and x_t.dim() > 1 else 0
        y, hx = self(x_t.unsqueeze(time_axis), hx)
        return y.squeeze(time_axis), hx

    def _forward_tokens(
        self, tokens: Any, hx: Hidden, lengths: Any, return_gates: bool, table: Tensor
    ) -> Any:
        wanted = "(B, T)" if self.batch_first else "(T, B)"
        if (
            not isinstance(tokens, Tensor)
            or tokens.dim() != 2
            or tokens.is_floating_point()
            or tuple(table.shape[1:]) != (self.input_size,)
        ):
            came = f"{tokens.dtype} {tuple(tokens.shape)}" if isinstance(tokens, Tensor) else tokens
            raise ShapeError(
                f"{self}: input is {came} and table {tuple(table.shape)}; expected whole numbers "
                f"{wanted} and a table (V, {self.input_size})."
            )
        if tokens.numel() and not torch.compiler.is_compiling():
            low, high = map(int, torch.aminmax(tokens))
            if low < 0 or high >= table.shape[0]:
                raise ShapeError(
                    f"{self}: input has numbers from {low} to {high}; "
                    f"expected 0 to {table.shape[0] - 1}, rows of the table."
                )
        x = tokens.transpose(0, 1) if self.batch_first else tokens
        return self._forward_batch(x.long(), hx, lengths, return_gates, table=table)

    def _forward_packed(
        self, input: PackedSequence, hx: Hidden, lengths: Any, return_gates: bool
    ) -> Any:
        if lengths is not None:
            raise OstinatoError(f"{self}: a PackedSequence has its own lengths; leave lengths out.")
        x, steps = pad_packed_sequence(input, batch_first=self.batch_first)
        y, hx, *traces = self(x, hx, lengths=steps, return_gates=return_gates)
        order = input.sorted_indices
        if order is not None:
            y = y.index_select(0 if self.batch_first else 1, order)
            steps = steps[order.cpu()]
        data = pack_padded_sequence(y, steps, batch_first=self.batch_first).data
        return PackedSequence(data, input.batch_sizes, order, input.unsorted_indices), hx, *traces

    def _run(
        self,
        x: Tensor,
        states: Sequence[State | None],
        lengths: Tensor | None,
        traces: list[Trace] | None,
        table: Tensor | None,
    ) -> tuple[Tensor, list[State]]:
        """All layers over ``x``, one after the other; fills ``traces`` if given."""
        last: list[State] = []
        D = self._directions
        for layer, cell in enumerate(self.cells):
            if layer > 0 and self.training:
                x = dropout(x, self.dropout)
                # One mask for all steps: a tensor of ones with a single step, dropped out.
                x = x * dropout(torch.ones_like(x[:1]), self.variational_dropout)
            weights = [self.weights_of(layer * D + direction) for direction in range(D)]
            if self.training and self.weight_dropout:
                for w in weights:
                    if "weight_hh" in w:
                        w["weight_hh"] = dropout(w["weight_hh"], self.weight_dropout)
            tokens = x if layer == 0 and table is not None else None
            taken = x if tokens is None or table is None else table
            cell = cell.in_training() if self.training else cell
            y, state = self.run_layer(
                cell,
                weights,
                taken,
                states[layer],
                lengths,
                tokens,
                traces,
                self.checkpoint_every or 0,
            )
            x = y + x if self.residual and layer > 0 else y
            last.append(state)
        return x, last

    def split_state(
        self, hx: Hidden, x: Tensor, unbatched: bool, like: Tensor
    ) -> Sequence[State | None]:
        """The state of each layer, tensors ``(D, B, size)``, out of ``hx``; None for zeros.

        ``x (T, B, ...)`` gives the batch, ``like`` the dtype.
        """
        B, D = x.shape[1], self._directions
        if hx is None:
            return [None] * self.num_layers
        groups = [hx] if self._is_even else list(hx)
        if len(groups) != (1 if self._is_even else self.num_layers):
            raise ShapeError(
                f"{self}: hx has {len(groups)} entries; expected one state a layer, "
                f"{self.num_layers}."
            )
        states: list[State] = []
        for layer, group in enumerate(groups):
            cell = self.cells[layer]
            tensors = [group] if isinstance(group, Tensor) else list(group)
            rows = self.num_layers * D if self._is_even else D
            shapes = [(rows, size) if unbatched else (rows, B, size) for size in cell.state_sizes]
            if [tuple(t.shape) for t in tensors] != shapes:
                raise ShapeError(
                    f"{self}: hx has shapes {[tuple(t.shape) for t in tensors]}; expected {shapes}."
                )
            if any(t.dtype != like.dtype for t in tensors) and not _autocasts(like):
                raise ShapeError(
                    f"{self}: hx is {[t.dtype for t in tensors]}, the input is {like.dtype}; "
                    f"convert one of them: hx.to({like.dtype})."
                )
            if unbatched:
                tensors = [t.unsqueeze(1) for t in tensors]
            parts = [[t] if rows == D else t.split(D) for t in tensors]
            states += [cell.state_type(*each) for each in zip(*parts, strict=True)]
        return states

    def join_state(self, states: list[State], unbatched: bool) -> Hidden:
        """The inverse of `split_state`."""
        groups: list[Any] = states
        if self._is_even and len(states) > 1:
            parts = zip(*cast(Any, states), strict=True)
            groups = [self.cells[0].state_type(*(torch.cat(each) for each in parts))]
        if unbatched:
            groups = [type(group)(*(t.squeeze(1) for t in group)) for group in groups]
        return groups[0] if self._is_even else tuple(groups)

    def _checked_lengths(self, lengths: Tensor | Sequence[int] | None, x: Tensor) -> Tensor | None:
        if lengths is None:
            return None
        T, B = x.shape[:2]
        lengths = torch.as_tensor(lengths) if B else torch.zeros(0, dtype=torch.int64)
        if (
            tuple(lengths.shape) != (B,)
            or lengths.is_floating_point()
            or lengths.dtype is torch.bool
        ):
            raise ShapeError(
                f"{self}: lengths is {lengths.dtype} of shape {tuple(lengths.shape)}; "
                f"expected whole numbers of shape ({B},), one for each row."
            )
        known = B and not torch.compiler.is_compiling()  # in a graph the core looks itself
        if known and not (int(lengths.min()) >= 0 and int(lengths.max()) <= T):
            raise ShapeError(
                f"{self}: lengths run from {int(lengths.min())} to {int(lengths.max())}; "
                f"expected 0 to {T}, the steps of the input."
            )
        return lengths.to(x.device, torch.int64)

    def _layout(self) -> str:
        batched = "B, T" if self.batch_first else "T, B"
        return f"({batched}, {self.input_size}) or (T, {self.input_size})"

    def _warn_of_twins(self) -> None:
        """Two layers that start alike stay alike; say so once."""
        if torch.compiler.is_compiling() or self._twins_sought:
            return
        self._twins_sought = True
        for i, j in combinations(range(len(self._all_weights)), 2):
            a, b = ([w for w in self.weights_of(k).values() if w.dim() > 1] for k in (i, j))
            try:
                alike = a and len(a) == len(b) and all(map(torch.equal, a, b))
            except RuntimeError:  # no values to compare: meta, fake or vmapped tensors
                return
            if alike:
                names = [self._all_weights[k][0].partition("_l")[2] for k in (i, j)]
                warnings.warn(
                    f"{type(self).__name__}: layers {names[0]} and {names[1]} start from identical "
                    "weights; draw them anew with reset_parameters(), or they learn the same.",
                    IdenticalLayersWarning,
                    stacklevel=3,
                )

    def extra_repr(self) -> str:
        """The cells, and what was asked for beyond them."""
        return ", ".join(map(repr, self.cells)) + self._extras()

    def _extras(self) -> str:
        usual = {
            "init": "pytorch", "init_steps": 100, "variational_dropout": 0.0, "weight_dropout": 0.0,
            "residual": False, "checkpoint_every": None,
        }  # fmt: skip
        given = {name: getattr(self, name) for name in usual}
        return "".join(f", {n}={value}" for n, value in given.items() if value != usual[n])


class _DropIn(Recurrent):
    """What `RNN`, `LSTM` and `GRU` share: where PyTorch has this very layer, its forward serves."""

    @cached_property
    def _is_torchs(self) -> bool:
        """Whether `torch.nn` has this very layer."""
        alike = self._is_even and len({_mode(cell) for cell in self.cells}) == 1
        return alike and all(kernels.is_fused_by_torch(cell) for cell in self.cells)

    def _runs_whole(self) -> bool:
        """Whether PyTorch's forward may serve the whole stack: nothing is asked beyond it."""
        drops = self.variational_dropout > 0 or self.weight_dropout > 0
        watched = "run_layer" in vars(self)
        more = self.residual or self.checkpoint_every or watched
        return self._is_torchs and not (self.training and drops) and not more

    def backend(
        self, input: Tensor | PackedSequence, *, lengths: Tensor | Sequence[int] | None = None
    ) -> kernels.Backend:
        """The path that would serve a call now; see `kernels`."""
        if isinstance(input, PackedSequence) and self._runs_whole() and lengths is None:
            return kernels.choose(self.cells, input.data)  # PyTorch's own has a packed form
        return super().backend(input, lengths=lengths)

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Hidden = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        return_gates: bool = False,
        table: Tensor | None = None,
    ) -> Any:
        """Run the layers over a sequence; see `Recurrent`. ``hx`` is laid out as in `torch.nn`."""
        if return_gates or table is not None:
            more = {"lengths": lengths, "return_gates": return_gates, "table": table}
            return super().forward(input, hx, **more)  # type: ignore[arg-type]
        whole = lengths is None and self._runs_whole()
        try:
            if whole and self._is_left_to_torch(input):
                if self.training:
                    self._warn_of_twins()
                y, hx = super(Recurrent, self).forward(input, hx)  # torch.nn's
                return y, (LSTMState(*hx) if isinstance(hx, tuple) else hx)
            return super().forward(input, hx, lengths=lengths)
        except ShapeError:
            if whole:
                super(Recurrent, self).forward(input, hx)  # fails, in PyTorch's own words
            raise

    def _is_left_to_torch(self, input: Tensor | PackedSequence) -> bool:
        if not isinstance(input, Tensor):
            return self.backend(input) == "torch"
        # PyTorch refuses a call without steps, and so does what stands in its place.
        if input.numel() == 0 and 0 in self._in_time(input).shape[:1]:
            return True
        return kernels.choose(self.cells, input, steps=1) == "torch"

    def join_state(self, states: list[State], unbatched: bool) -> Hidden:
        hx = super().join_state(states, unbatched)
        return hx.h if isinstance(hx, RNNState | GRUState) else hx

    def flatten_parameters(self) -> None:
        """Lay the weights out in one block for cuDNN, where cuDNN can run this layer."""
        if self._is_torchs:
            super(Recurrent, self).flatten_parameters()

    def extra_repr(self) -> str:
        """What `torch.nn` prints, and what was asked for beyond it."""
        beyond = {cell.activation for cell in self.cells if isinstance(cell, RNNCell)}
        text = super(Recurrent, self).extra_repr()
        if beyond - {"tanh", "relu"}:
            text += f", nonlinearity={self.nonlinearity!r}"
        if any(isinstance(cell, GRUCell) and not cell.reset_after for cell in self.cells):
            text += ", reset_after=False"
        return text + self._extras()


class RNN(_DropIn, TorchRNN):
    """Elman network: `torch.nn.RNN` with more. Equations: `RNNCell`; calls: `Recurrent`.

    Args:
        input_size: features of an input step, ``I``.
        hidden_size: features of the hidden state, ``H``; or a sequence, one a layer.
        num_layers: layers; left out where ``hidden_size`` or ``nonlinearity`` gives one a layer.
        nonlinearity: ``tanh``, ``relu``, ``sigmoid`` or ``identity``; or a sequence, one a layer.
        bias: whether there are bias vectors.
        batch_first: input and output are ``(B, T, features)`` instead of ``(T, B, features)``.
        dropout: probability of zeroing an element between layers, anew at every step.
        bidirectional: read in both directions.
        device: where the weights are made.
        dtype: type of the weights.
        init: ``pytorch``, ``orthogonal``, or ``identity`` (for relu); see `Cell.initialize`.
        variational_dropout: dropout between layers with the same mask at every step.
        weight_dropout: dropout on the recurrent weights.
        init_steps: steps that ``init="chrono"`` prepares for; see `Recurrent`.
        residual: whether layers add what they take to what they give; see `Recurrent`.
        checkpoint_every: steps between the states that are kept for backward; see `Recurrent`.
        rejected: an argument that only the LSTM has is refused as `torch.nn` refuses it.

    Example:
        >>> layer = RNN(3, [16, 8], nonlinearity=["relu", "tanh"], batch_first=True)
        >>> y, (first, second) = layer(torch.randn(4, 10, 3))
        >>> y.shape, first.h.shape, second.h.shape
        (torch.Size([4, 10, 8]), torch.Size([1, 4, 16]), torch.Size([1, 4, 8]))
    """

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
        device: Any = None,
        dtype: Any = None,
        *,
        init: Initialization = "pytorch",
        init_steps: int = 100,
        variational_dropout: float = 0.0,
        weight_dropout: float = 0.0,
        residual: bool = False,
        checkpoint_every: int | None = None,
        **rejected: Any,
    ) -> None:
        sizes, activations = _one_a_layer(
            "RNN", num_layers, hidden_size=hidden_size, nonlinearity=nonlinearity
        )
        first = activations[0] if activations[0] not in ("sigmoid", "identity") else "tanh"
        TorchRNN(  # PyTorch's own checks of the arguments, in its own words
            input_size, sizes[0], len(sizes), first, bias, batch_first, dropout, bidirectional,
            device="meta", **rejected,
        )  # fmt: skip
        widths = _input_sizes(input_size, sizes, bidirectional)
        self._assemble(
            tuple(
                RNNCell(I, H, bias, activation)
                for I, H, activation in zip(widths, sizes, activations, strict=True)
            ),
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            device=device,
            dtype=dtype,
            init=init,
            init_steps=init_steps,
            variational_dropout=variational_dropout,
            weight_dropout=weight_dropout,
            residual=residual,
            checkpoint_every=checkpoint_every,
        )
        self.nonlinearity = nonlinearity if isinstance(nonlinearity, str) else tuple(activations)


class LSTM(_DropIn, TorchLSTM):
    """Long short-term memory: `torch.nn.LSTM` with more. Equations: `LSTMCell`; calls: `Recurrent`.

    Args:
        input_size: features of an input step, ``I``.
        hidden_size: features of the hidden state, ``H``; or a sequence, one a layer.
        num_layers: layers; left out where ``hidden_size`` gives one a layer.
        bias: whether there are bias vectors.
        batch_first: input and output are ``(B, T, features)`` instead of ``(T, B, features)``.
        dropout: probability of zeroing an element between layers, anew at every step.
        bidirectional: read in both directions.
        proj_size: features of a projected ``h``; 0 for none.
        device: where the weights are made.
        dtype: type of the weights.
        init: ``pytorch``, ``orthogonal`` (with forget bias 1) or ``chrono``; see `Cell.initialize`.
        variational_dropout: dropout between layers with the same mask at every step.
        weight_dropout: dropout on the recurrent weights.
        init_steps: steps that ``init="chrono"`` prepares for; see `Recurrent`.
        residual: whether layers add what they take to what they give; see `Recurrent`.
        checkpoint_every: steps between the states that are kept for backward; see `Recurrent`.

    Example:
        >>> layer = LSTM(3, 8, num_layers=2)
        >>> y, state = layer(torch.randn(10, 4, 3), lengths=[10, 7, 1, 0])
        >>> y.shape, state.h.shape, state.c.shape
        (torch.Size([10, 4, 8]), torch.Size([2, 4, 8]), torch.Size([2, 4, 8]))
    """

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
        device: Any = None,
        dtype: Any = None,
        *,
        init: Initialization = "pytorch",
        init_steps: int = 100,
        variational_dropout: float = 0.0,
        weight_dropout: float = 0.0,
        residual: bool = False,
        checkpoint_every: int | None = None,
    ) -> None:
        (sizes,) = _one_a_layer("LSTM", num_layers, hidden_size=hidden_size)
        TorchLSTM(
            input_size, sizes[0], len(sizes), bias, batch_first, dropout, bidirectional, proj_size,
            device="meta",
        )  # fmt: skip
        widths = _input_sizes(input_size, [proj_size or size for size in sizes], bidirectional)
        self._assemble(
            tuple(LSTMCell(I, H, bias, proj_size) for I, H in zip(widths, sizes, strict=True)),
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            device=device,
            dtype=dtype,
            init=init,
            init_steps=init_steps,
            variational_dropout=variational_dropout,
            weight_dropout=weight_dropout,
            residual=residual,
            checkpoint_every=checkpoint_every,
        )


class GRU(_DropIn, TorchGRU):
    """Gated recurrent unit: `torch.nn.GRU` with more. Equations: `GRUCell`; calls: `Recurrent`.

    Args:
        input_size: features of an input step, ``I``.
        hidden_size: features of the hidden state, ``H``; or a sequence, one a layer.
        num_layers: layers; left out where ``hidden_size`` gives one a layer.
        bias: whether there are bias vectors.
        batch_first: input and output are ``(B, T, features)`` instead of ``(T, B, features)``.
        dropout: probability of zeroing an element between layers, anew at every step.
        bidirectional: read in both directions.
        device: where the weights are made.
        dtype: type of the weights.
        reset_after: where the reset gate acts: after the recurrent product, as in PyTorch, or
            before it, as in Cho et al. 2014.
        init: ``pytorch``, ``orthogonal`` or ``chrono``; see `Cell.initialize`.
        variational_dropout: dropout between layers with the same mask at every step.
        weight_dropout: dropout on the recurrent weights.
        init_steps: steps that ``init="chrono"`` prepares for; see `Recurrent`.
        residual: whether layers add what they take to what they give; see `Recurrent`.
        checkpoint_every: steps between the states that are kept for backward; see `Recurrent`.
        rejected: an argument that only the LSTM has is refused as `torch.nn` refuses it.

    Example:
        >>> layer = GRU(3, 8, bidirectional=True, reset_after=False)
        >>> y, h = layer(torch.randn(10, 4, 3))
        >>> y.shape, h.shape
        (torch.Size([10, 4, 16]), torch.Size([2, 4, 8]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int | Sequence[int],
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        reset_after: bool = True,
        init: Initialization = "pytorch",
        init_steps: int = 100,
        variational_dropout: float = 0.0,
        weight_dropout: float = 0.0,
        residual: bool = False,
        checkpoint_every: int | None = None,
        **rejected: Any,
    ) -> None:
        (sizes,) = _one_a_layer("GRU", num_layers, hidden_size=hidden_size)
        TorchGRU(
            input_size, sizes[0], len(sizes), bias, batch_first, dropout, bidirectional,
            device="meta", **rejected,
        )  # fmt: skip
        widths = _input_sizes(input_size, sizes, bidirectional)
        self._assemble(
            tuple(GRUCell(I, H, bias, reset_after) for I, H in zip(widths, sizes, strict=True)),
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            device=device,
            dtype=dtype,
            init=init,
            init_steps=init_steps,
            variational_dropout=variational_dropout,
            weight_dropout=weight_dropout,
            residual=residual,
            checkpoint_every=checkpoint_every,
        )
        self.reset_after = reset_after


def backend(
    layer: Recurrent,
    input: Tensor | PackedSequence,
    *,
    lengths: Tensor | Sequence[int] | None = None,
) -> kernels.Backend:
    """The path that would serve ``layer(input, lengths=lengths)`` now; see `use_backend`."""
    return layer.backend(input, lengths=lengths)


def state_rows(state: Hidden, index: Tensor) -> Hidden:
    """The state of a layer stack for other rows of the batch, ``index (N,)``."""
    return _each_tensor(lambda t: t[:, index], state)  # (L, B, H)


def _each_tensor(f: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """The same tuples, named or not, with f of every tensor."""
    if tree is None or isinstance(tree, Tensor):
        return None if tree is None else f(tree)
    parts = [_each_tensor(f, part) for part in tree]
    return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)


def _autocasts(x: Tensor) -> bool:
    return torch.is_autocast_enabled(x.device.type)


def _mode(cell: Cell) -> str:
    """PyTorch's name for what a cell computes, as far as it has one: RNN_TANH, LSTM, GRU."""
    name = type(cell).__name__.removesuffix("Cell")
    return f"{name}_{cell.activation.upper()}" if isinstance(cell, RNNCell) else name


def _input_sizes(input_size: int, output_sizes: Sequence[int], bidirectional: bool) -> list[int]:
    """What each layer of a stack takes: the input, then both directions of the layer below."""
    return [input_size, *((2 if bidirectional else 1) * size for size in output_sizes[:-1])]


def _one_a_layer(owner: str, num_layers: int, **given: Any) -> list[list[Any]]:
    """Each argument as a list with one entry a layer, whether it came as one value or as many."""
    if num_layers < 1:
        raise OstinatoError("num_layers must be greater than zero")
    counts = {name: len(value) for name, value in given.items() if isinstance(value, list | tuple)}
    layers = {*counts.values(), *([num_layers] if num_layers > 1 or not counts else [])}
    if len(layers) > 1 or 0 in layers:
        raise OstinatoError(
            f"{owner}: num_layers={num_layers} and entries a layer: {counts}; "
            "expected the same number of layers everywhere."
        )
    (n,) = layers
    return [
        list(value) if isinstance(value, list | tuple) else [value] * n for value in given.values()
    ]
