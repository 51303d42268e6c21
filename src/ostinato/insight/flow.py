"""Gradients on their way back through time and through layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn
from torch.nn.functional import embedding

from ostinato.errors import OstinatoError
from ostinato.insight.samples import Data, Loss, judged, sample_of
from ostinato.recurrence import kernels
from ostinato.recurrence.cells import Cell, State, Trace, Weights
from ostinato.recurrence.layers import GRU, LSTM, RNN, Recurrent
from ostinato.recurrence.networks import ManyToMany, ManyToOne
from ostinato.recurrence.scan import mask_of, reverse_rows

SMALL = 32
"""Hidden units up to which Jacobians are computed exactly."""

DRAWS = 8
"""Random vectors that a Jacobian of more units is measured by."""


@dataclass(frozen=True, eq=False)
class LayerFlow:
    """What of the gradient arrives at each step of one layer, in one direction.

    A lag counts steps back from the last step that a row's reading came to: lag 0 is that step.

    Attributes:
        name: of the layer.
        h: norm of dL/dh_t by lag and row, ``(lags, B)``; NaN before a row's first step.
        c: the same of dL/dc_t, where the cell has one.
        jacobian: of dh_T/dh_t by lag and row: the root mean square of its singular values, how
            much a small change of h_t is amplified on average. Of an LSTM the larger of that and
            dh_T/dc_t. None where it was not asked for.
        largest: its largest singular value, where it was computed exactly.
        underflow: share of the elements of dL/dh_t, at a lag of 1 or more, that are smaller than
            the smallest normal number of their type.
    """

    name: str
    h: NDArray[np.float64]
    c: NDArray[np.float64] | None
    jacobian: NDArray[np.float64] | None
    largest: NDArray[np.float64] | None
    underflow: float

    @property
    def norms(self) -> NDArray[np.float64]:
        """Norm of the gradient of h and c by lag, ``(lags,)``: root mean square over rows."""
        squares = self.h**2 if self.c is None else self.h**2 + self.c**2
        return np.asarray(np.sqrt(_mean(squares)))

    @property
    def gains(self) -> NDArray[np.float64] | None:
        """`jacobian` by lag, root mean square over rows."""
        return None if self.jacobian is None else np.sqrt(_mean(self.jacobian**2))

    @property
    def size(self) -> float:
        """Norm of the gradient of a row over all its steps, root mean square over rows."""
        return float(np.sqrt(np.nansum(self.norms**2)))

    def growth(self) -> Growth:
        """Factor a step by which what flows back through the layer's own recurrence grows.

        Fitted to `jacobian` where it is known, else to dL/dh_t.
        """
        curves = self.jacobian if self.jacobian is not None else self.h
        return growth_of(curves)


@dataclass(frozen=True)
class Growth:
    """A factor a step, and the interval that holds it with 95 % confidence.

    Attributes:
        factor: below 1 gradients vanish, above 1 they explode.
        low: lower end of the interval.
        high: upper end.
    """

    factor: float
    low: float
    high: float

    @property
    def half_life(self) -> float:
        """Steps in which a gradient is halved; infinite where it does not shrink."""
        return math.log(0.5) / math.log(self.factor) if 0 < self.factor < 1 else math.inf

    def __str__(self) -> str:
        return f"{self.factor:.3g} a step (95 %: {self.low:.3g} to {self.high:.3g})"


@dataclass(frozen=True, eq=False)
class GradientFlow:
    """What `gradient_flow` found.

    Attributes:
        layers: a `LayerFlow` for each layer and direction, in the order of the network.
        loss: the loss whose gradient it is.
        steps: of the longest row.
        weights: norm of the gradient of each weight.
    """

    layers: list[LayerFlow]
    loss: float
    steps: int
    weights: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """The figures, without rows."""
        return {
            "loss": self.loss,
            "steps": self.steps,
            "layers": [
                {
                    "name": layer.name,
                    "gradient_by_lag": _plain(layer.norms),
                    "jacobian_by_lag": None if layer.gains is None else _plain(layer.gains),
                    "growth": layer.growth().__dict__,
                    "underflow": layer.underflow,
                }
                for layer in self.layers
            ],
            "weights": self.weights,
        }


def gradient_flow(
    model: Any,
    data: Data,
    *,
    loss: Loss | None = None,
    jacobian: bool = True,
    seed: int = 0,
) -> GradientFlow:
    """How much gradient reaches each step, layer and direction of a network.

    The network is run a step at a time on the path that would serve it anyway, which gives the same
    bits as the whole sequence; nothing of it is changed, its gradients included.

    Args:
        model: a network of `networks`, an estimator, or any module with recurrent layers of ours
            or of `torch.nn`.
        data: ``(x, y)`` or ``(x, y, lengths)``: tensors for a network, and for an estimator what
            its ``fit`` takes.
        loss: ``(model, x, y, lengths) -> loss``, for a module of one's own. If not given, the
            network's: of one that answers at every step, the loss of the last step alone, so that
            a lag has a meaning.
        jacobian: whether to measure dh_T/dh_t too: exactly up to `SMALL` hidden units, else by
            `DRAWS` random vector-Jacobian products.
        seed: of those.

    Example:
        >>> from ostinato.recurrence.networks import Output
        >>> recurrent = RNN(1, 8, batch_first=True, init="orthogonal")
        >>> network = ManyToOne(nn.Identity(), recurrent, Output(8, 2))
        >>> flow = gradient_flow(network, (torch.randn(4, 30, 1), torch.tensor([0, 1, 0, 1])))
        >>> flow.layers[0].norms.shape
        (30,)
    """
    sample = sample_of(model, data)
    network = sample.network
    random = torch.Generator().manual_seed(seed)
    with torch.enable_grad(), judged(network), recording(network) as tracks:
        value = (
            loss(network, sample.inputs, sample.targets, sample.lengths)
            if loss is not None
            else sample.loss(last=True)
        )
        if not tracks:
            raise OstinatoError(
                f"gradient_flow: {type(network).__name__} has no recurrent layer that was called; "
                "expected layers of ostinato or torch.nn."
            )
        names = [n for n, p in network.named_parameters() if p.requires_grad]
        weights = [p for _, p in network.named_parameters() if p.requires_grad]
        states = [tensor for track in tracks for tensor in track.tensors]
        found = torch.autograd.grad(
            value, [*weights, *states], retain_graph=True, allow_unused=True
        )
        norms = {
            name: 0.0 if g is None else float(g.norm())
            for name, g in zip(names, found, strict=False)
        }
        rest = iter(found[len(weights) :])
        layers = []
        for track in tracks:
            gradients = [next(rest) for _ in track.tensors]
            products = track.jacobian(random) if jacobian else (None, None)
            layers.append(track.flow(gradients, *products))
    steps = max(len(layer.h) for layer in layers)
    return GradientFlow(layers, float(value.detach()), steps, norms)


@dataclass
class Track:
    """The states of one layer in one direction, step by step, as nodes of the graph.

    Attributes:
        name: of the layer.
        states: after each step, in the order of reading; tensors ``(B, size)``.
        ends: steps of each row.
    """

    name: str
    states: list[State]
    ends: Tensor

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors of all states."""
        return [tensor for state in self.states for tensor in cast("tuple[Tensor, ...]", state)]

    def by_lag(self, norms: NDArray[np.float64]) -> NDArray[np.float64]:
        """``(T, B)`` by step as ``(T, B)`` by lag, NaN where there is no such step."""
        T, B = norms.shape
        ends = self.ends.cpu().numpy()
        source = ends[None] - 1 - np.arange(T)[:, None]
        return np.where(source >= 0, norms[source.clip(0), np.arange(B)], np.nan)

    def flow(
        self,
        gradients: Sequence[Tensor | None],
        jacobian: NDArray[np.float64] | None,
        largest: NDArray[np.float64] | None,
    ) -> LayerFlow:
        """The gradients of `tensors` as a `LayerFlow`."""
        parts = len(cast("tuple[Tensor, ...]", self.states[0]))

        def stacked(part: int) -> Tensor:
            found = zip(gradients[part::parts], self.tensors[part::parts], strict=True)
            return torch.stack([torch.zeros_like(t) if g is None else g for g, t in found])

        h = stacked(0)  # (T, B, size)
        fields = getattr(type(self.states[0]), "_fields", ("h",))
        c = stacked(fields.index("c")) if "c" in fields else None
        t = torch.arange(len(h), device=h.device)[:, None]
        earlier = (t < self.ends.to(h.device) - 1)[..., None].expand_as(h)
        under = (h.abs() < torch.finfo(h.dtype).tiny) & earlier
        return LayerFlow(
            self.name,
            self.by_lag(_norms(h)),
            None if c is None else self.by_lag(_norms(c)),
            jacobian,
            largest,
            float(under.sum() / earlier.sum().clamp(min=1)),
        )

    def jacobian(
        self, random: torch.Generator
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Root mean square, and largest, singular value of dh_T/dh_t by lag and row."""
        last = self.states[-1].h
        B, H = last.shape
        exact = H <= SMALL
        if exact:
            vectors = list(torch.eye(H, dtype=last.dtype))
        else:
            vectors = list(torch.randn(DRAWS, H, generator=random, dtype=last.dtype))
        fields = getattr(type(self.states[0]), "_fields", ("h",))
        kinds = [k for k, name in enumerate(fields) if name in ("h", "c")]
        parts = len(fields)
        tensors = [self.tensors[k::parts] for k in kinds]
        flat = [t for each in tensors for t in each]
        squares: list[Any] = [0.0] * len(kinds)
        rows: list[list[Tensor]] = [[] for _ in kinds]
        for v in vectors:
            seed = v.to(last.device).expand(B, H)
            found = torch.autograd.grad(last, flat, seed, retain_graph=True, allow_unused=True)
            pairs = zip(found, flat, strict=True)
            filled = [torch.zeros_like(t) if g is None else g for g, t in pairs]
            T = len(self.states)
            for k in range(len(kinds)):
                product = torch.stack(filled[k * T : (k + 1) * T])  # v^T dh_T/d(h or c)_t
                if exact:
                    rows[k].append(product)
                squares[k] = squares[k] + _norms(product) ** 2
        scale = H if exact else len(vectors) * H
        gains = np.sqrt(np.maximum.reduce(squares) / scale)
        largest = None
        if exact:
            values = [
                torch.linalg.matrix_norm(torch.stack(each, dim=-2).double(), ord=2) for each in rows
            ]
            largest = self.by_lag(torch.stack(values).amax(0).cpu().numpy())
        return self.by_lag(gains), largest


@contextmanager
def recording(network: nn.Module) -> Iterator[list[Track]]:
    """Run recurrent layers a step at a time while in here, and keep every state.

    Layers of `torch.nn` are served by ours with their weights. Yields a list that fills with a
    `Track` for each layer and direction as the network is called.
    """
    tracks: list[Track] = []
    changed: list[tuple[nn.Module, str]] = []
    chosen = network.recurrent if isinstance(network, ManyToMany | ManyToOne) else network
    try:
        for name, module in chosen.named_modules():
            ours = module if isinstance(module, Recurrent) else _twin(module)
            if ours is None:
                continue
            ours.run_layer = _stepwise(tracks, name, ours)
            changed.append((ours, "run_layer"))
            if ours is not module:
                module.forward = ours.forward
                changed.append((module, "forward"))
        yield tracks
    finally:
        for module, attribute in changed:
            delattr(module, attribute)


def _twin(module: nn.Module) -> Recurrent | None:
    """A layer of ours with the very weights of a layer of `torch.nn`; None for anything else."""
    made: Any = {nn.RNN: RNN, nn.LSTM: LSTM, nn.GRU: GRU}.get(type(module))
    if made is None:
        return None
    theirs = cast(nn.RNNBase, module)
    more: dict[str, Any] = {}
    if isinstance(theirs, nn.RNN):
        more["nonlinearity"] = theirs.nonlinearity
    if theirs.proj_size:
        more["proj_size"] = theirs.proj_size
    ours: Recurrent = made(
        theirs.input_size,
        theirs.hidden_size,
        theirs.num_layers,
        bias=theirs.bias,
        batch_first=theirs.batch_first,
        dropout=theirs.dropout,
        bidirectional=theirs.bidirectional,
        device="meta",
        **more,
    )
    for name, weight in theirs.named_parameters():
        setattr(ours, name, weight)
    ours.train(theirs.training)
    return ours


def _stepwise(tracks: list[Track], name: str, layer: Recurrent) -> Callable[..., Any]:
    """What stands in for `kernels.run` in a layer that is recorded."""
    calls = 0

    def run(
        cell: Cell,
        weights: Sequence[Weights],
        x: Tensor,
        state: State | None = None,
        lengths: Tensor | None = None,
        tokens: Tensor | None = None,
        traces: list[Trace] | None = None,
    ) -> tuple[Tensor, State]:
        nonlocal calls
        number, calls = calls % layer.num_layers, calls + 1
        x = x if tokens is None else embedding(tokens, x)
        T, B = x.shape[:2]
        ends = torch.full((B,), T) if lengths is None else lengths
        outputs, lasts = [], []
        for direction, w in enumerate(weights):
            steps = reverse_rows(x, lengths) if direction else x
            parts = cell.zero_state(B, like=x) if state is None else state
            now = cell.state_type(
                *((s if state is None else s[direction]) for s in cast("tuple[Tensor, ...]", parts))
            )
            states = []
            for t in range(T):
                # Gradients flow to a state even where all weights are frozen.
                before = cell.state_type(*(_node(s)[None] for s in cast("tuple[Tensor]", now)))
                going = None if lengths is None else (t < lengths).long()
                _, new = kernels.run(cell, [w], steps[t : t + 1], before, going)
                now = cell.state_type(*(s[0] for s in cast("tuple[Tensor, ...]", new)))
                states.append(now)
            if states:
                title = ".".join(filter(None, [name, f"layer {number}"]))
                title += " backward" if direction else ""
                tracks.append(Track(title, states, ends))
            y = (
                torch.stack([s.h for s in states])
                if states
                else x.new_zeros(0, B, cell.output_size)
            )
            if lengths is not None:
                y = torch.where(mask_of(lengths, T), y, 0.0)
            outputs.append(reverse_rows(y, lengths) if direction else y)
            lasts.append(now)
        y = torch.cat(outputs, dim=-1)
        return y, cell.state_type(*(torch.stack(parts) for parts in zip(*lasts, strict=True)))

    return run


def _node(tensor: Tensor) -> Tensor:
    return tensor if tensor.requires_grad else tensor.detach().requires_grad_()


def growth_of(curves: NDArray[np.float64]) -> Growth:
    """Growth a step of curves by lag ``(lags, rows)``, each of which should be exponential.

    The slope of the logarithm over the lags is fitted for each row; the interval is Student's over
    the rows, or, of a single row, that of its regression.

    >>> growth_of(0.5 ** np.arange(20.0)[:, None] * [[1.0, 2.0]]).factor
    0.5
    """
    slopes, errors = [], []
    for curve in curves.T:
        fine = np.isfinite(curve) & (curve > 1e-30 * np.nanmax(curve, initial=1e-300))
        lags = np.flatnonzero(fine)
        if len(lags) < 3:
            continue
        fit = stats.linregress(lags, np.log(curve[lags]))
        slopes.append(fit.slope)
        errors.append(fit.stderr)
    if not slopes:
        return Growth(math.nan, math.nan, math.nan)
    mean, n = float(np.mean(slopes)), len(slopes)
    error = float(np.std(slopes, ddof=1) / math.sqrt(n)) if n > 1 else errors[0]
    spread = float(stats.t.ppf(0.975, max(1, n - 1))) * error if n > 1 else 2 * error
    low, middle, high = (math.exp(min(700.0, mean + s)) for s in (-spread, 0.0, spread))
    return Growth(round(middle, 12), low, high)


def _norms(tensor: Tensor) -> NDArray[np.float64]:
    """Norm over the last axis, in double precision: what is squared must not underflow."""
    return np.asarray(tensor.detach().double().norm(dim=-1).cpu().numpy())


def _mean(by_row: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over rows that are there, NaN where none is."""
    there = np.isfinite(by_row)
    total = np.where(there, by_row, 0.0).sum(1)
    return np.where(there.any(1), total / np.maximum(1, there.sum(1)), np.nan)


def _plain(values: NDArray[np.float64]) -> list[float | None]:
    return [float(f"{v:.4g}") if np.isfinite(v) else None for v in values]
