"""Recurrent layers: depth, direction, lengths and dropout over any cell, or a stack of cells."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import chain, combinations, pairwise
from numbers import Real
from typing import NamedTuple, NoReturn, TypeAlias, TypedDict, TypeVar, cast

import torch
from torch import Tensor
from torch.nn.functional import dropout
from torch.nn.modules.rnn import RNNBase
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.types import Device
from torch.utils import _pytree

from ostinato.errors import OstinatoError, ShapeError
from ostinato.recurrence import backends
from ostinato.recurrence.backends.compiled import constant_in_graphs
from ostinato.recurrence.cells import Cell, Initialization, RNNCell, State, Tensors, Trace, Weights

Hidden: TypeAlias = Tensor | State | tuple[State, ...] | None
"""The state of a layer stack, see `Recurrent`; None for zeros."""

Lengths: TypeAlias = Tensor | Sequence[int] | None
"""Steps of each row ``(B,)``; None if all have the same."""

Output: TypeAlias = (
    tuple[Tensor | PackedSequence, Hidden] | tuple[Tensor | PackedSequence, Hidden, list[Trace]]
)


MAX_LAYERS = 1024
"""Layers of a stack, at most; to make one takes a millisecond."""


class IdenticalLayersWarning(UserWarning):
    """Two layers hold identical weights, so that they would learn the same thing."""


class Options(TypedDict, total=False):
    """The keyword-only arguments of `Recurrent`, which all layers share."""

    init: Initialization
    init_steps: int
    variational_dropout: float
    weight_dropout: float
    residual: bool
    checkpoint_every: int | None


class LayerCall(NamedTuple):
    """The arguments of `backends.run` for one layer of a stack."""

    cell: Cell
    weights: Sequence[Weights]
    x: Tensor
    state: State | None
    lengths: Tensor | None
    tokens: Tensor | None
    traces: list[Trace] | None
    checkpoint_every: int


Observer: TypeAlias = "Callable[[Recurrent, int, LayerCall], tuple[Tensor, State]]"

_observer: ContextVar[Observer | None] = ContextVar("ostinato_observer", default=None)


@contextmanager
def observing(observer: Observer) -> Iterator[None]:
    """Hand the run of every layer inside the block to an observer.

    Args:
        observer: called with the stack, the number of the layer in it, and the call; it returns
            the results of ``backends.run(*call)``, however it computes them.
    """
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)


@constant_in_graphs
def observer_now() -> Observer | None:
    """Return the observer of `observing`."""
    return _observer.get()


class Recurrent(RNNBase):
    """A stack of recurrent layers over any cell.

    Args:
        cell: a cell, repeated ``num_layers`` times, or a sequence of cells, one a layer; each layer
            after the first takes the output of the one before.
        num_layers: layers, ``L``; left out for a sequence of cells.
        batch_first: input and output are ``(B, T, features)`` instead of ``(T, B, features)``.
        dropout: probability of zeroing an element between layers, drawn again at every step.
        bidirectional: read in both directions, so that a step may use the future.
        device: where the weights are made.
        dtype: type of the weights.
        init: initialisation by name, see `Cell.initialize`.
        variational_dropout: probability of zeroing a feature between layers for a whole sequence
            (Gal and Ghahramani 2016, "A theoretically grounded application of dropout in recurrent
            neural networks").
        weight_dropout: probability of zeroing a recurrent weight for a whole sequence (Merity,
            Keskar and Socher 2018, "Regularizing and optimizing LSTM language models").
        init_steps: longest memory, in steps, that ``init="chrono"`` prepares for.
        residual: every layer but the first, all of one size, adds its input to its output (He et
            al. 2016; Wu et al. 2016, "Google's neural machine translation system", section 3.1).
        checkpoint_every: keep for backward only the state every so many steps, and compute the
            steps between again (Chen et al. 2016, "Training deep nets with sublinear memory cost");
            None to keep every step. The gradients are the same, on the compiled path to the last
            bit, the steps a quarter slower; about the square root of ``T`` needs the least memory.

    Called with ``(input, hx=None, *, lengths=None, return_gates=False, table=None)``, it returns
    ``(output, hx)``, and with ``return_gates`` the gates and states of every step as well:

    - input ``(T, B, I)``, ``(T, I)`` unbatched, or a `PackedSequence`; output in the same
      layout with ``D * H`` features, those of the backward direction last.
    - lengths ``(B,)``: steps of each row, 0 to T. Padding costs no correctness: see `scan`.
    - hx: the cell's named tuple with tensors ``(L * D, B, size)``, or, where layers differ in
      size, a tuple of one such named tuple a layer with tensors ``(D, B, size)``. Zeros if None.
    - table: ``(V, I)``, such as the weight of an embedding; the input is then whole numbers
      ``(T, B)``, the rows of it that the steps take. Faster than looking them up before where ``V``
      is below half of ``T * B``: the table is multiplied, not the steps.
    - gates: a `Trace` for each layer and direction, in the order of hx, its tensors laid out as the
      output; of a `PackedSequence`, as the padded output.

    Raises:
        OstinatoError: on arguments or shapes that do not fit.

    Warns:
        IdenticalLayersWarning: at the first training step, if two layers hold the same weights.

    Example:
        >>> from ostinato.recurrence.cells import LSTMCell, RNNCell
        >>> stack = Recurrent([LSTMCell(8, 16), RNNCell(16, 4, activation="relu")])
        >>> y, (first, second) = stack(torch.randn(10, 2, 8), lengths=torch.tensor([10, 7]))
        >>> y.shape, first.c.shape, second.h.shape
        (torch.Size([10, 2, 4]), torch.Size([1, 2, 16]), torch.Size([1, 2, 4]))
    """

    cells: tuple[Cell, ...]

    def __init__(
        self,
        cell: Cell | Sequence[Cell],
        num_layers: int = 1,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Device = None,
        dtype: torch.dtype | None = None,
        *,
        init: Initialization = "pytorch",
        init_steps: int = 100,
        variational_dropout: float = 0.0,
        weight_dropout: float = 0.0,
        residual: bool = False,
        checkpoint_every: int | None = None,
    ) -> None:
        name = type(self).__name__
        for argument, value, kind, expected in (
            ("batch_first", batch_first, int | None, "True or False"),
            ("bidirectional", bidirectional, int | None, "True or False"),
            ("residual", residual, int | None, "True or False"),
            ("init", init, str, "the name of a recipe"),
            ("init_steps", init_steps, int, "a whole number"),
            ("dropout", dropout, Real, "a probability from 0 to 1"),
            ("variational_dropout", variational_dropout, Real, "a probability from 0 to 1"),
            ("weight_dropout", weight_dropout, Real, "a probability from 0 to 1"),
            ("checkpoint_every", checkpoint_every, int | None, "1 or more steps, or None"),
        ):
            if not isinstance(value, kind):
                raise OstinatoError(f"{name}: {argument}={value!r}; expected {expected}.")
        directions = 2 if bidirectional else 1
        check_layer_count(name, num_layers)
        if not isinstance(cell, Cell) and not (
            isinstance(cell, Sequence) and all(isinstance(each, Cell) for each in cell)
        ):
            raise OstinatoError(f"{name}: cell={cell!r}; expected a cell or a sequence of cells.")
        if isinstance(cell, Cell):
            above = cell.with_input(directions * cell.output_size)
            cells = (cell, *[above] * (num_layers - 1))
        else:
            cells = tuple(cell)
        if not cells or num_layers < 1 or (num_layers != 1 and num_layers != len(cells)):
            raise OstinatoError(
                f"{name}: {len(cells)} cells, num_layers={num_layers}; "
                "expected at least one layer and one cell a layer."
            )
        for below, above in pairwise(cells):
            if above.input_size != directions * below.output_size:
                raise OstinatoError(
                    f"{name}: {above!r} follows {below!r}; its input_size must be "
                    f"{directions * below.output_size}, the features of the layer before it."
                )
            if residual and above.input_size != directions * above.output_size:
                raise OstinatoError(
                    f"{name}: residual=True, and {above!r} takes {above.input_size} features and "
                    f"gives {directions * above.output_size}; give all layers one size."
                )
        if checkpoint_every is not None and checkpoint_every < 1:
            raise OstinatoError(
                f"{name}: checkpoint_every={checkpoint_every}; expected 1 or more steps, or None."
            )
        torch.nn.Module.__init__(self)
        sizes = tuple(cell.hidden_size for cell in cells)
        self.cells = cells
        self.mode = "_".join(dict.fromkeys(mode_of(cell) for cell in cells))
        self.input_size = cells[0].input_size
        self.hidden_size = sizes[0] if len(set(sizes)) == 1 else sizes  # type: ignore[assignment]
        self.num_layers = len(cells)
        self.bias = all(cell.bias for cell in cells)
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional, self._directions = bidirectional, directions
        self.proj_size = getattr(cells[0], "proj_size", 0)
        self.init = init
        self.init_steps = init_steps
        self.variational_dropout = float(variational_dropout)
        self.weight_dropout = float(weight_dropout)
        for rate in ("dropout", "variational_dropout", "weight_dropout"):
            if not 0 <= (p := getattr(self, rate)) <= 1:
                raise OstinatoError(f"{name}: {rate}={p}; expected a probability from 0 to 1.")
        self.residual = residual
        self.checkpoint_every = checkpoint_every
        # Whether the states of all layers stack in one tensor.
        self._is_even = len({(cell.state_type, cell.state_sizes) for cell in cells}) == 1
        self._identity_checked = False
        self._named_weights: list[list[tuple[str, str]]] = []  # bare and full names
        for layer, cell in enumerate(cells):
            for suffix in (f"_l{layer}", f"_l{layer}_reverse")[:directions]:
                shapes = cell.weight_shapes()
                for bare, shape in shapes.items():
                    weight = torch.empty(shape, device=device, dtype=dtype)
                    setattr(self, bare + suffix, torch.nn.Parameter(weight))
                self._named_weights.append([(bare, bare + suffix) for bare in shapes])
        self._all_weights = [[full for _, full in names] for names in self._named_weights]
        self._flat_weights_names = [*chain(*self._all_weights)]
        self._init_flat_weights()
        self.reset_parameters()

    @property
    def output_size(self) -> int:
        """Features of a step of the output, of both directions together."""
        return self._directions * self.cells[-1].output_size

    def reset_parameters(self) -> None:
        """Draw all weights again by the recipe that ``init`` names."""
        for i in range(len(self._all_weights)):
            cell = self.cells[i // self._directions]
            cell.initialize(self.weights_of(i), self.init, self.init_steps)
        self._identity_checked = False

    def weights_of(self, i: int) -> dict[str, Tensor]:
        """Return weights by bare name of the layer and direction that PyTorch counts as ``i``."""
        return {name: self._weight(full) for name, full in self._named_weights[i]}

    def _weight(self, name: str) -> Tensor:
        """Return an attribute, as ``getattr``; ten times as fast for a parameter."""
        weight = self._parameters.get(name)
        return getattr(self, name) if weight is None else weight

    def flatten_parameters(self) -> None:
        """Do nothing: only the layers of `torch.nn` have one block of weights for cuDNN."""

    def __prepare_scriptable__(self) -> NoReturn:
        """Refuse `torch.jit.script`, which asks for this first and cannot compile what follows."""
        raise OstinatoError(
            f"torch.jit.script cannot compile {self}; use torch.export, torch.compile or "
            "torch.jit.trace, or a layer of torch.nn with the state_dict of an RNN, LSTM or GRU."
        )

    def __setattr__(self, name: str, value: object) -> None:
        """Set an attribute; with a warning, ``qconfig``: PyTorch's quantization sets it first."""
        if name == "qconfig":
            warnings.warn(
                f"{self}: torch.ao.quantization leaves it as it is, for it knows the layers of "
                "torch.nn alone; ostinato.Stream(layer, quantize='int8') quantizes one.",
                stacklevel=2,
            )
        super().__setattr__(name, value)

    def _runs_whole(self) -> bool:
        """Whether PyTorch's forward may serve the whole stack: nothing is asked beyond it."""
        return False

    def _in_time(self, x: Tensor) -> Tensor:
        """Return ``(B, T, ...)`` as ``(T, B, ...)``, or the other way round, if ``batch_first``."""
        return x.transpose(0, 1) if self.batch_first and x.dim() == 3 else x

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Hidden = None,
        *,
        lengths: Lengths = None,
        return_gates: bool = False,
        table: Tensor | None = None,
    ) -> Output:
        """Run the layers over a sequence; see the class."""
        if not isinstance(return_gates, bool):
            raise OstinatoError(f"{self}: return_gates={return_gates!r}; expected True or False.")
        if self.training and not self._identity_checked:
            self._warn_of_identical_layers()
        if table is not None:
            x, unbatched = self._checked_tokens(input, table), False
        elif isinstance(input, PackedSequence):
            return self._forward_packed(input, hx, lengths, return_gates)
        else:
            x, unbatched = self._checked(input), input.dim() == 2
        D, observer = self._directions, observer_now()
        states = self.split_state(hx, x, unbatched, like=x if table is None else table)
        if lengths is not None:
            lengths = self._checked_lengths(lengths, x)
        traces: list[Trace] | None = [] if return_gates else None
        last: list[State] = []
        for layer, cell in enumerate(self.cells):
            if layer > 0 and self.training:
                x = dropout(x, self.dropout)
                if self.variational_dropout:
                    # One mask for all steps: a tensor of ones with a single step, dropped out.
                    x = x * dropout(torch.ones_like(x[:1]), self.variational_dropout)
            weights = [self.weights_of(layer * D + direction) for direction in range(D)]
            if self.training and self.weight_dropout:
                for w in weights:
                    if "weight_hh" in w:
                        w["weight_hh"] = dropout(w["weight_hh"], self.weight_dropout)
            taken, tokens = (x, None) if layer > 0 or table is None else (table, x)
            cell = cell.in_training() if self.training else cell
            every = self.checkpoint_every or 0
            call = (cell, weights, taken, states[layer], lengths, tokens, traces, every)
            if observer is None:
                y, state = backends.run(*call)
            else:
                y, state = observer(self, layer, LayerCall(*call))
            x = y + x if self.residual and layer > 0 else y
            last.append(state)

        def laid_out(y: Tensor) -> Tensor:
            return y.squeeze(1) if unbatched else self._in_time(y)

        hx = self.join_state(last, unbatched)
        if traces is None:
            return laid_out(x), hx
        seen = [
            Trace(None if gates is None else _each(laid_out, gates), _each(laid_out, states))
            for gates, states in traces
        ]
        return laid_out(x), hx, seen

    def _check_dense(self, name: str, value: object) -> None:
        """Refuse what is no dense tensor, which has neither the shape nor the memory of one."""
        if not is_dense(value):
            what = f"{value.layout} tensor" if isinstance(value, Tensor) else type(value).__name__
            what = "nested tensor" if getattr(value, "is_nested", False) else what
            raise OstinatoError(f"{self}: {name} is a {what}; expected a dense tensor.")

    def _checked(self, input: Tensor) -> Tensor:
        """Return the input as ``(T, B, I)``."""
        self._check_dense("input", input)
        if input.dim() not in (2, 3) or input.shape[-1] != self.input_size:
            layout = "B, T" if self.batch_first else "T, B"
            raise ShapeError(
                f"{self}: input has shape {tuple(input.shape)}; expected ({layout}, "
                f"{self.input_size}) or (T, {self.input_size}): its last axis is the input size."
            )
        names = self._all_weights[0]
        weight = self._weight(names[0]) if names else input
        if input.dtype != weight.dtype and not _autocasts(input, weight):
            raise ShapeError(
                f"{self}: input is {input.dtype}, the weights are {weight.dtype}; "
                f"convert one of them: input.to({weight.dtype})."
            )
        return input.unsqueeze(1) if input.dim() == 2 else self._in_time(input)

    def step(self, x_t: Tensor, hx: Hidden = None) -> tuple[Tensor, Hidden]:
        """Run one step of an endless stream, ``(B, I) -> (B, H)``: the state goes in and comes out.

        Raises:
            OstinatoError: if the layer is bidirectional, which needs the future.

        Example:
            >>> from ostinato.recurrence.cells import GRUCell
            >>> layer = Recurrent(GRUCell(3, 4))
            >>> x = torch.randn(7, 2, 3)
            >>> state = None
            >>> for x_t in x:
            ...     y_t, state = layer.step(x_t, state)
            >>> torch.allclose(y_t, layer(x)[0][-1], atol=1e-6)
            True
        """
        if self.bidirectional:
            raise OstinatoError(
                f"{self}.step: a bidirectional layer needs the future; pass whole sequences, or "
                "build it with bidirectional=False."
            )
        self._check_dense("x_t", x_t)
        if x_t.dim() not in (1, 2):
            raise ShapeError(
                f"{self}.step: x_t has shape {tuple(x_t.shape)}; expected (B, {self.input_size}) "
                f"or ({self.input_size},)."
            )
        time_axis = 1 if self.batch_first and x_t.dim() > 1 else 0
        y, hx = self(x_t.unsqueeze(time_axis), hx)
        return y.squeeze(time_axis), hx

    def _checked_tokens(self, tokens: Tensor | PackedSequence, table: Tensor) -> Tensor:
        """Return tokens ``(T, B)``, each a row of the table."""
        self._check_dense("table", table)
        if (
            not isinstance(tokens, Tensor)
            or not is_dense(tokens)
            or tokens.dim() != 2
            or tokens.is_floating_point()
            or tokens.is_complex()
            or tuple(table.shape[1:]) != (self.input_size,)
        ):
            got = f"{tokens.dtype} {tuple(tokens.shape)}" if isinstance(tokens, Tensor) else tokens
            raise ShapeError(
                f"{self}: input is {got} and table {tuple(table.shape)}; expected whole numbers "
                f"{'(B, T)' if self.batch_first else '(T, B)'} and a table (V, {self.input_size})."
            )
        if tokens.numel() and not torch.compiler.is_compiling():
            low, high = map(int, torch.aminmax(tokens))
            if low < 0 or high >= table.shape[0]:
                raise ShapeError(
                    f"{self}: input has numbers from {low} to {high}; "
                    f"expected 0 to {table.shape[0] - 1}, rows of the table."
                )
        return (tokens.transpose(0, 1) if self.batch_first else tokens).long()

    def _forward_packed(
        self, input: PackedSequence, hx: Hidden, lengths: Lengths, return_gates: bool
    ) -> Output:
        if lengths is not None:
            raise OstinatoError(f"{self}: a PackedSequence has its own lengths; leave lengths out.")
        _check_packed(self, input)
        x, steps = pad_packed_sequence(input, batch_first=self.batch_first)
        y, hx, *traces = self(x, hx, lengths=steps, return_gates=return_gates)
        order = input.sorted_indices
        if order is not None:
            y = y.index_select(0 if self.batch_first else 1, order)
            steps = steps[order.cpu()]
        data = pack_padded_sequence(y, steps, batch_first=self.batch_first).data
        return PackedSequence(data, input.batch_sizes, order, input.unsorted_indices), hx, *traces

    def split_state(
        self, hx: Hidden, x: Tensor, unbatched: bool, like: Tensor
    ) -> Sequence[State | None]:
        """Return the state of each layer, tensors ``(D, B, size)``, from ``hx``; None for zeros.

        ``x (T, B, ...)`` gives the batch, ``like`` the dtype.
        """
        B, D = x.shape[1], self._directions
        if hx is None:
            return [None] * self.num_layers
        groups = [hx] if self._is_even else _entries(hx)
        cells, rows = (self.cells[:1], len(self.cells) * D) if self._is_even else (self.cells, D)
        if len(groups) != len(cells):
            raise ShapeError(
                f"{self}: hx has {len(groups)} entries; expected one state a layer, {len(cells)}."
            )
        states: list[State] = []
        for cell, group in zip(cells, groups, strict=True):
            tensors = _entries(group)
            for i, t in enumerate(tensors):
                self._check_dense(f"hx[{i}]" if isinstance(group, tuple | list) else "hx", t)
            shapes = [(rows, size) if unbatched else (rows, B, size) for size in cell.state_sizes]
            if [tuple(t.shape) for t in tensors] != shapes:
                raise ShapeError(
                    f"{self}: hx has shapes {[tuple(t.shape) for t in tensors]}; expected {shapes}."
                )
            if not all(t.dtype == like.dtype or _autocasts(t, like) for t in tensors):
                raise ShapeError(
                    f"{self}: hx is {[t.dtype for t in tensors]}, the input is {like.dtype}; "
                    f"convert one of them: hx.to({like.dtype})."
                )
            if unbatched:
                tensors = [t.unsqueeze(1) for t in tensors]
            parts = [[t] if rows == D else torch.split(t, D) for t in tensors]
            states += [cell.state_type(*each) for each in zip(*parts, strict=True)]
        return states

    def join_state(self, states: list[State], unbatched: bool) -> Hidden:
        """Do the inverse of `split_state`."""
        groups = states
        if self._is_even and len(states) > 1:
            parts = zip(*states, strict=True)
            groups = [self.cells[0].state_type(*(torch.cat(each) for each in parts))]
        if unbatched:
            groups = [_each(lambda t: t.squeeze(1), group) for group in groups]
        return groups[0] if self._is_even else tuple(groups)

    def last_hidden(self, hx: Hidden) -> Tensor:
        """Return h of the last layer, ``(D, B, H)``, from the state of all layers, batched."""
        if hx is None:
            raise OstinatoError(f"{self}: hx is None; expected a state that the layers returned.")
        h = hx if isinstance(hx, Tensor) else cast(State, hx if self._is_even else [*hx][-1]).h
        return h[-self._directions :]

    def _checked_lengths(self, lengths: Tensor | Sequence[int], x: Tensor) -> Tensor:
        T, B = x.shape[:2]
        try:
            lengths = torch.as_tensor(lengths) if B else torch.zeros(0, dtype=torch.int64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ShapeError(f"{self}: lengths: {error}; expected {B} whole numbers.") from error
        self._check_dense("lengths", lengths)
        whole = not (lengths.is_floating_point() or lengths.is_complex())
        if lengths.shape != (B,) or not whole or lengths.dtype is torch.bool:
            raise ShapeError(
                f"{self}: lengths is {lengths.dtype} of shape {tuple(lengths.shape)}; "
                f"expected whole numbers of shape ({B},), one for each row."
            )
        if B and not torch.compiler.is_compiling():  # in a graph the core looks itself
            low, high = map(int, torch.aminmax(lengths))
            if low < 0 or high > T:
                raise ShapeError(
                    f"{self}: lengths run from {low} to {high}; "
                    f"expected 0 to {T}, the steps of the input."
                )
        return lengths.to(x.device, torch.int64)

    def _warn_of_identical_layers(self) -> None:
        """Warn, once, of layers that start equal, since they stay equal."""
        if torch.compiler.is_compiling():
            return
        self._identity_checked = True
        for i, j in combinations(range(len(self._all_weights)), 2):
            a, b = ([w for w in self.weights_of(k).values() if w.dim() > 1] for k in (i, j))
            try:
                equal = a and len(a) == len(b) and all(map(_equal, a, b))
            except RuntimeError:  # no values to compare: meta, fake or vmapped tensors
                return
            if equal:
                names = [self._all_weights[k][0].partition("_l")[2] for k in (i, j)]
                warnings.warn(
                    f"{type(self).__name__}: layers {names[0]} and {names[1]} start from identical "
                    "weights; draw them again with reset_parameters(), or they learn the same.",
                    IdenticalLayersWarning,
                    stacklevel=3,
                )

    def extra_repr(self) -> str:
        """Return the cells and the options that differ from their defaults."""
        return ", ".join(map(repr, self.cells)) + self._options_repr()

    def _options_repr(self) -> str:
        usual = (Recurrent.__init__.__kwdefaults__ or {}).items()
        given = ((name, getattr(self, name), default) for name, default in usual)
        return "".join(f", {name}={value}" for name, value, default in given if value != default)


def check_layer_count(owner: str, num_layers: object) -> None:
    """Raise an `OstinatoError` at more layers than can be made in a second."""
    if not isinstance(num_layers, int) or num_layers > MAX_LAYERS:
        raise OstinatoError(f"{owner}: num_layers={num_layers!r}; expected 1 to {MAX_LAYERS:,}.")


def backend(
    layer: Recurrent, input: Tensor | PackedSequence, *, lengths: Lengths = None
) -> backends.Backend:
    """Return the path that would serve ``layer(input, lengths=lengths)`` now; see `use_backend`."""
    if not isinstance(layer, Recurrent):
        raise OstinatoError(f"backend: layer is a {type(layer).__name__}; expected one of ours.")
    layer._check_dense("input", input.data if isinstance(input, PackedSequence) else input)
    padded = lengths is not None
    if isinstance(input, PackedSequence):  # of which PyTorch's own layers have a form
        padded, input = padded or not layer._runs_whole(), input.data
    return backends.choose(layer.cells, layer._in_time(input), padded=padded)


def state_rows(state: Hidden, index: Tensor) -> Hidden:
    """Return the state of a layer stack for selected rows of the batch, ``index (N,)``."""
    return cast(Hidden, _pytree.tree_map(lambda t: None if t is None else t[:, index], state))


def _check_packed(owner: object, packed: PackedSequence) -> None:
    """Refuse a hand-made `PackedSequence` that is none: PyTorch would write past its memory."""
    data, sizes, *orders = packed
    whole = is_dense(sizes) and sizes.dim() == 1 and sizes.dtype == torch.int64
    steps = sizes.tolist() if whole else []
    rows = steps[0] if steps else 0
    falling = rows > 0 and all(a >= b > 0 for a, b in pairwise([rows, *steps]))
    fits = is_dense(data) and data.dim() > 0 and sum(steps) == len(data)
    each = (o is None or (is_dense(o) and sorted(o.tolist()) == [*range(rows)]) for o in orders)
    if not (falling and fits and all(each)):
        raise OstinatoError(
            f"{owner}: input is a PackedSequence with batch_sizes {steps} that does not fit its "
            "data; expected what torch.nn.utils.rnn.pack_padded_sequence makes."
        )


def _entries(hx: object) -> list[Tensor]:
    """Return a state's parts; itself, if it has none."""
    return list(hx) if isinstance(hx, tuple | list) else [cast(Tensor, hx)]


def is_dense(value: object) -> bool:
    """Tell whether something is a tensor with its numbers in memory, one for each place."""
    is_tensor = isinstance(value, Tensor) and not value.is_nested
    return is_tensor and cast(Tensor, value).layout == torch.strided


def _autocasts(a: Tensor, b: Tensor) -> bool:
    """Tell whether autocast makes the types of two tensors one; it leaves float64 as it is."""
    kinds = [t.is_floating_point() and t.dtype != torch.float64 for t in (a, b)]
    return all(kinds) and torch.is_autocast_enabled(b.device.type)


def _equal(a: Tensor, b: Tensor) -> bool:
    """Compare in parts, too small for the threads of PyTorch, which a forked child has not."""
    if a.shape != b.shape:
        return False
    a_parts, b_parts = (torch.split(t.detach().flatten(), 1 << 14) for t in (a, b))
    return all(map(torch.equal, a_parts, b_parts))


_T = TypeVar("_T", bound=Tensors)


def _each(f: Callable[[Tensor], Tensor], tensors: _T) -> _T:
    """Return a named tuple with f of each tensor."""
    return type(tensors)(*map(f, tensors))


def mode_of(cell: Cell) -> str:
    """Return PyTorch's name for a cell, as far as it has one: RNN_TANH, LSTM, GRU."""
    name = type(cell).__name__.removesuffix("Cell")
    return f"{name}_{cell.activation.upper()}" if isinstance(cell, RNNCell) else name
