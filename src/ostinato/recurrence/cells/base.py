"""Base class of cells: weights, state, one step; and the names of cells."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, NamedTuple, Protocol, Self, TypeVar, get_args, runtime_checkable

import torch
from torch import Tensor
from torch.utils import _pytree

from ostinato.errors import OstinatoError, check_choice
from ostinato.recurrence.cells.initialization import Initialization, fill

Weights = Mapping[str, Tensor]
"""The weights of one layer in one direction, by their names without the layer's suffix."""


@runtime_checkable
class Tensors(Protocol):
    """A named tuple of tensors."""

    def __init__(self, *tensors: Tensor) -> None: ...
    def __iter__(self) -> Iterator[Tensor]: ...
    def _asdict(self) -> Mapping[str, Tensor]: ...


class State(Tensors, Protocol):
    """The state of a cell: a named tuple of tensors ``(B, size)``, one of them called ``h``."""

    @property
    def h(self) -> Tensor:
        """The output."""


_S = TypeVar("_S", bound=type[tuple[Tensor, ...]])


def register_state(cls: _S) -> _S:
    """Let `torch.export` store a named tuple as a state, and ``torch.load(weights_only=True)``."""
    _pytree._register_namedtuple(cls, serialized_type_name=f"ostinato.{cls.__name__}")
    torch.serialization.add_safe_globals([cls])
    return cls


@register_state
class RNNState(NamedTuple):
    """State of an Elman network, and of a cell that names no other: ``h (B, H)``."""

    h: Tensor


class Trace(NamedTuple):
    """Gates and states of one layer in one direction, step by step, without gradients.

    Tensors are ``(T, B, size)``, zeros where a row has no step. ``gates`` is None for a cell that
    has none; ``states`` are those after each step.
    """

    gates: Tensors | None
    states: State


@dataclass(frozen=True)
class Cell(ABC):
    """One recurrent equation: a few numbers and one pure step.

    A cell owns no weights and no state: both are arguments, and the new state is the result. A
    subclass is a frozen dataclass, or takes these three arguments, and defines `weight_shapes`,
    `step`, and perhaps `project`; ``state_type``, where the state is more than `RNNState`, and
    `state_sizes`, where not all of its tensors are ``(B, H)``. It may define more: ``gates_type``
    and `gates`, to have its gates observed; ``time_gates``, for ``init="chrono"``; ``forget_gate``,
    for ``init="orthogonal"``; ``has_identity``; ``takes_missing``; `in_training`; `standard_cell`
    and `standard_weights`, to run on the compiled core; and the decorator `named`.

    Args:
        input_size: features of an input step, ``I``.
        hidden_size: features of the hidden state, ``H``.
        bias: whether the cell has bias vectors.

    Raises:
        OstinatoError: if a size is not a whole number above zero.

    Example:
        A leaky integrator, h_t = (h_(t-1) + W x_t) / 2:

        >>> from ostinato.cells import Cell, RNNState
        >>> class Leaky(Cell):
        ...     def weight_shapes(self):
        ...         return {"weight_ih": (self.hidden_size, self.input_size)}
        ...     def step(self, w, x_t, state):
        ...         return RNNState((state.h + x_t @ w["weight_ih"].T) / 2)
        >>> cell = Leaky(input_size=3, hidden_size=2)
        >>> w = {"weight_ih": torch.ones(2, 3)}
        >>> cell.step(w, torch.ones(1, 3), cell.zero_state(1)).h
        tensor([[1.5000, 1.5000]])
    """

    input_size: int
    hidden_size: int
    bias: bool = True

    state_type: ClassVar[type[State]] = RNNState
    """The named tuple of the state."""
    gates_type: ClassVar[type[Tensors] | None] = None
    """The named tuple that `gates` returns; None for a cell without gates."""
    time_gates: ClassVar[Mapping[int, int]] = {}
    """Blocks of the weights that are gates: 1 if they keep the state, -1 if they admit input."""
    forget_gate: ClassVar[int | None] = None
    """Block of the weights that is the gate which orthogonal initialisation opens."""
    has_identity: ClassVar[bool] = True
    """Whether the recurrent weights may be the identity."""
    takes_missing: ClassVar[bool] = False
    """Whether inputs may be NaN, a missing value."""
    derived: ClassVar[frozenset[str]] = frozenset()
    """Attributes beside the fields that follow from them: cells of equal fields are equal."""

    def __post_init__(self) -> None:
        for name in ("input_size", "hidden_size"):
            size = getattr(self, name)
            if not isinstance(size, int) or isinstance(size, bool) or size <= 0:
                raise OstinatoError(
                    f"{type(self).__name__}: {name}={size!r}; expected a whole number above zero."
                )

    @abstractmethod
    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the weights by name, in the order in which they are made."""

    @abstractmethod
    def step(self, w: Weights, x_t: Tensor, state: State) -> State:
        """Return the state after one step. ``x_t`` is a step of the result of `project`."""

    def project(self, w: Weights, x: Tensor) -> Tensor:
        """Compute the part of all steps, ``x (..., I)``, that does not depend on the state."""
        return x

    def gates(self, w: Weights, x_t: Tensor, state: State) -> Tensors:
        """Return the gates of one step, of type ``gates_type``; arguments as in `step`."""
        raise OstinatoError(f"{type(self).__name__} has no gates.")

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """Features of each tensor of the state, in the order of its named tuple."""
        fields: tuple[str, ...] = getattr(self.state_type, "_fields", ())
        if "h" not in fields:
            raise OstinatoError(
                f"{type(self).__name__}: state_type is {self.state_type!r}; expected a NamedTuple "
                "with a tensor h, the output, among its fields."
            )
        return (self.hidden_size,) * len(fields)

    @property
    def output_size(self) -> int:
        """Features of ``state.h``."""
        return self.state_sizes[0]

    def zero_state(self, batch_size: int, like: Tensor | None = None) -> State:
        """Return h_0 = 0, in the dtype and on the device of ``like``."""
        like = torch.empty(0) if like is None else like
        return self.state_type(*(like.new_zeros(batch_size, size) for size in self.state_sizes))

    def with_input(self, input_size: int) -> Self:
        """Return the same cell for another input size."""
        return replace(self, input_size=input_size)

    def in_training(self) -> Cell:
        """Return the cell to use in training."""
        return self

    def standard_cell(self) -> Cell:
        """Return the RNN, LSTM or GRU cell that computes the same, if there is one, or itself."""
        return self

    def standard_weights(self, w: Weights) -> Weights:
        """Return the weights with which `standard_cell` computes the same."""
        return w

    def initialize(self, w: Weights, how: Initialization = "pytorch", steps: int = 100) -> None:
        """Initialise the weights in place.

        - ``"pytorch"``: all uniform in ±1/sqrt(H), as `torch.nn` does.
        - ``"orthogonal"``: recurrent weights orthogonal gate by gate (Saxe et al. 2014, "Exact
          solutions to the nonlinear dynamics of learning in deep linear neural networks"), other
          matrices uniform after Glorot and Bengio 2010, biases 0, but for the LSTM's forget
          gate 1 (Gers et al. 2000; Jozefowicz et al. 2015).
        - ``"identity"``: recurrent weights the identity, biases 0, input weights normal with
          deviation 0.001 (Le, Jaitly and Hinton 2015, "A simple way to initialize recurrent
          networks of rectified linear units"). For `RNNCell`.
        - ``"chrono"``: as orthogonal, but the gates that keep the state have biases
          log(uniform(1, steps - 1)), and those that let in new input the opposite, so that units
          forget over 1 to ``steps`` steps (Tallec and Ollivier 2018, "Can recurrent neural networks
          warp time?", eq. 16). For cells with such gates.

        Raises:
            OstinatoError: if the recipe is unknown, or does not suit this cell.
        """
        name = type(self).__name__
        check_choice(f"{name}: init", how, get_args(Initialization))
        if how == "identity" and not self.has_identity:
            raise OstinatoError(f"{name}: init='identity' is for RNNCell with relu.")
        if how == "chrono" and not (self.bias and self.time_gates and steps > 2):
            raise OstinatoError(
                f"{name}: init='chrono' is for cells with gates that keep the state, with biases, "
                f"and more than 2 steps (here {steps})."
            )
        with torch.no_grad():
            fill(w, how, self.hidden_size)
            if how == "chrono":
                times = w["bias_ih"].new_empty(self.hidden_size).uniform_(1, steps - 1).log_()
                for gate, sign in self.time_gates.items():
                    torch.split(w["bias_ih"], self.hidden_size)[gate].copy_(sign * times)
            elif how == "orthogonal" and self.bias and self.forget_gate is not None:
                torch.split(w["bias_ih"], self.hidden_size)[self.forget_gate].fill_(1.0)


_C = TypeVar("_C", bound=type[Cell])
_named: dict[str, tuple[Callable[..., Cell], dict[str, str | bool]]] = {}


def named(name: str, **options: str | bool) -> Callable[[_C], _C]:
    """Give a name to a cell with these arguments; a decorator of its class."""

    def register(cls: _C) -> _C:
        _named[name] = cls, options
        return cls

    return register


def cell_named(name: str) -> tuple[Callable[..., Cell], dict[str, Any]]:
    """Return the class of a cell by its name, and its arguments beyond the sizes.

    A cell of one's own is named as `name_of` names it; its module must have been imported.
    """
    if ":" not in name:
        check_choice("cell", name, _named)
        return _named[name]
    path, _, options = name.partition(" ")
    found = [cls for cls in _subclasses(Cell) if f"{cls.__module__}:{cls.__qualname__}" == path]
    if not found:
        raise OstinatoError(
            f"cell={path!r:.200} is no class of a module that was imported; import it before, or, "
            f"on the command line, add --cell {path:.200}."
        )
    try:
        return found[-1], dict(json.loads(options or "{}"))
    except ValueError as error:
        raise OstinatoError(f"cell={name!r:.200}: its settings are no JSON.") from error


def takes_missing(cell: str | type[Cell] | Cell) -> bool:
    """Return whether inputs of a cell, such as a setting names it, may be NaN.

    >>> takes_missing("gru"), takes_missing("gru-d")
    (False, True)
    """
    return bool(getattr(cell_named(name_of(cell))[0], "takes_missing", False))


def name_of(cell: str | type[Cell] | Cell) -> str:
    """Return the name by which a model's settings keep a cell: of its own, or ``module:Class``.

    Behind the name of a class stand, as JSON, the settings of an instance other than its sizes.
    """
    if isinstance(cell, str):
        return cell
    cls = cell if isinstance(cell, type) else type(cell)
    if not issubclass(cls, Cell):
        raise OstinatoError(f"cell={cell!r:.99}; expected a name, or a class or instance of Cell.")
    name = f"{cls.__module__}:{cls.__qualname__}"
    if isinstance(cell, type):
        return name
    own = {f.name: getattr(cell, f.name) for f in fields(cell) if f.init}
    options = {n: v for n, v in own.items() if n not in ("input_size", "hidden_size")}
    usual = {f.name: f.default for f in fields(cell)}
    options = {n: v for n, v in options.items() if v != usual[n]}
    if not all(isinstance(v, str | int | float) for v in options.values()):
        raise OstinatoError(
            f"cell={cell!r:.99}: a model can keep settings that are numbers, strings or booleans; "
            "make a subclass that has the others."
        )
    return f"{name} {json.dumps(options)}" if options else name


def _subclasses(cls: type) -> Iterator[type[Cell]]:
    each: type[Cell]
    for each in cls.__subclasses__():
        yield each
        yield from _subclasses(each)
