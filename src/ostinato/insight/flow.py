"""Gradient flow: how much gradient reaches each step and layer."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from ostinato.errors import OstinatoError
from ostinato.insight.samples import (
    Data,
    Loss,
    Model,
    is_in_time,
    mean_loss,
    network_and_sample,
)
from ostinato.networks.tracing import Track, recording, stack_rows
from ostinato.recurrence.scan import mask_of
from ostinato.training.evaluation import Sample, eval_mode

EXACT_SIZE = 32
"""Maximum number of hidden units for which Jacobians are computed exactly."""

RANDOM_VECTORS = 8
"""Number of random vectors by which larger Jacobians are estimated."""


@dataclass(frozen=True, eq=False)
class LayerFlow:
    """The gradient at each step of one layer, in one direction.

    A lag counts steps back from the last step of a row that the layer processed, which is lag 0.

    Attributes:
        name: name of the layer.
        h: norm of dL/dh_t by lag and row, ``(lags, B)``; NaN before a row's first step.
        c: the same for dL/dc_t; None for a cell without c.
        jacobian: root mean square of the singular values of dh_T/dh_t by lag and row: how much a
            small change of h_t is amplified on average; the larger of that and dh_T/dc_t where
            there is a c. None if not requested.
        largest: its largest singular value; None unless computed exactly.
        underflow: share of the elements of dL/dh_t, at a lag of 1 or more, that are smaller than
            the smallest normal number of their type.
        calls: calls of the layer. One with the state that an earlier call returned goes on with its
            sequence, so that chunks, and the steps of a loop over a cell, are one layer over time.
        sequences: sequences that the layer read, their rows side by side in ``B``.
        cut_at: the first lag beyond which no gradient passes, since the state there came without
            it: it was detached between two calls, say. Of the longest row, the cut nearest to lag
            0; None if nothing was cut.
        cut_states: names of the states that were cut there, which may be one of h and c.
        reach: steps of the longest stretch without a cut.
        padding: share of the gradient of h, of the squared norm, that is at steps beyond the
            ``lengths`` of the data, which the layer was not given: the end of the padding is read,
            or, by a backward direction, its beginning.
    """

    name: str
    h: NDArray[np.float64]
    c: NDArray[np.float64] | None
    jacobian: NDArray[np.float64] | None
    largest: NDArray[np.float64] | None
    underflow: float
    calls: int = 1
    sequences: int = 1
    cut_at: int | None = None
    cut_states: tuple[str, ...] = ()
    padding: float = 0.0
    reach: int = 0

    @property
    def norms(self) -> NDArray[np.float64]:
        """Norm of the gradient of h and c by lag, ``(lags,)``: root mean square over rows."""
        return np.asarray(np.sqrt(_mean(self.h**2 + (0.0 if self.c is None else self.c**2))))

    @property
    def gains(self) -> NDArray[np.float64] | None:
        """`jacobian` by lag, root mean square over rows."""
        return None if self.jacobian is None else np.sqrt(_mean(self.jacobian**2))

    @property
    def size(self) -> float:
        """Norm of the gradient of a row over all its steps, root mean square over rows."""
        return float(np.sqrt(np.nansum(self.norms**2)))

    def growth(self) -> Growth:
        """Fit the growth through the layer's recurrence, to `jacobian` if computed, else to h."""
        return growth_of(self.h if self.jacobian is None else self.jacobian)


@dataclass(frozen=True)
class Growth:
    """A growth factor per step with its 95 % confidence interval, ``low`` to ``high``.

    Below 1 gradients vanish, above 1 they explode.
    """

    factor: float
    low: float
    high: float

    @property
    def half_life(self) -> float:
        """Steps in which a gradient is halved; infinite if it does not shrink."""
        return math.log(0.5) / math.log(self.factor) if 0 < self.factor < 1 else math.inf

    def __str__(self) -> str:
        if not math.isfinite(self.factor):
            return "cannot be followed from step to step"
        verb = "shrinks to" if self.factor < 1 else "grows to"
        interval = f"95 %: {self.low:.3g} to {self.high:.3g}"
        return f"{verb} {self.factor:.3g} times a step ({interval})"


@dataclass(frozen=True, eq=False)
class GradientFlow:
    """Result of `gradient_flow`.

    Attributes:
        layers: a `LayerFlow` for each layer and direction, in the order of the network.
        loss: the loss that was differentiated.
        steps: steps of the longest row.
        weights: norm of the gradient of each weight.
        trailing: share of the steps of the input that may be padding though there are no
            ``lengths``: the last ones of rows, all zero, or the padding index of an embedding.
    """

    layers: list[LayerFlow]
    loss: float
    steps: int
    weights: dict[str, float]
    trailing: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the values, averaged over rows, as a JSON document."""
        layers = [
            {
                "name": layer.name,
                "gradient_by_lag": layer.norms,
                "jacobian_by_lag": layer.gains,
                "growth": vars(layer.growth()),
                "underflow": layer.underflow,
                **{name: getattr(layer, name) for name in _FACTS},
            }
            for layer in self.layers
        ]
        return rounded(vars(self) | {"layers": layers})


_FACTS = ("calls", "sequences", "cut_at", "cut_states", "reach", "padding")


def gradient_flow(
    model: Model, data: Data, *, loss: Loss | None = None, jacobian: bool = True, seed: int = 0
) -> GradientFlow:
    """Measure how much gradient reaches each step, layer and direction of a network.

    The network runs one step at a time on its usual path, which gives the same bits as the whole
    sequence. Nothing in it is changed, including its gradients.

    Args:
        model: a network of `networks`, an estimator, or any module with recurrent layers of
            Ostinato or `torch.nn`, or loops over cells of `torch.nn`.
        data: ``(x, y)`` or ``(x, y, lengths)``: tensors for a network, and for an estimator what
            its ``fit`` takes. Lags count from the end of each row by ``lengths``, also in a layer
            that is not given them.
        loss: ``(model, x, y, lengths) -> loss``, for a custom module. By default the network's own
            loss; with an output at every step, only that of the last step, so that lags count from
            there.
        jacobian: measure dh_T/dh_t too: exactly up to `EXACT_SIZE` hidden units, else by
            `RANDOM_VECTORS` random vector-Jacobian products.
        seed: seed of the random vectors.

    Raises:
        OstinatoError: if no recurrent layer was called, or there is no loss function.

    Example:
        >>> from torch import nn
        >>> from ostinato.recurrence.dropin import RNN
        >>> from ostinato.networks.arrangements import ManyToOne
        >>> from ostinato.networks.outputs import Output
        >>> recurrent = RNN(1, 8, batch_first=True, init="orthogonal")
        >>> network = ManyToOne(nn.Identity(), recurrent, Output(8, 2))
        >>> flow = gradient_flow(network, (torch.randn(4, 30, 1), torch.tensor([0, 1, 0, 1])))
        >>> flow.layers[0].norms.shape
        (30,)
    """
    network, sample = network_and_sample(model, data)
    random = torch.Generator().manual_seed(seed)
    with torch.enable_grad(), eval_mode(network), recording(network) as tracks:
        value = mean_loss(network, sample, loss, last_step=True)
        if not tracks:
            raise OstinatoError(
                f"gradient_flow: no recurrent layer was called in {type(network).__name__}; "
                "expected layers of ostinato or torch.nn, or cells of torch.nn."
            )
        weights = {n: p for n, p in network.named_parameters() if p.requires_grad}
        inputs = [*weights.values(), *(tensor for track in tracks for tensor in track.tensors)]
        gradients = iter(_gradients([value], inputs))
        norms = {name: float(next(gradients).norm()) for name in weights}
        parts = defaultdict[str, list[LayerFlow]](list)
        for track in tracks:
            own = _by_state(track, [next(gradients) for _ in track.tensors])
            mask = _mask(track, sample)
            flow = _track_flow(track, mask, own, random if jacobian else None)
            parts[flow.name].append(flow)
        layers = [_joined(each) for each in parts.values()]
    steps = max(len(layer.h) for layer in layers)
    trailing = 0.0
    if sample.lengths is None and isinstance(sample.inputs, Tensor) and sample.inputs.dim() > 1:
        x = sample.inputs
        in_time = is_in_time(x, (track.mask.shape for track in tracks))
        trailing = _trailing(x if in_time else x.transpose(0, 1), network)
    return GradientFlow(layers, float(value.detach()), steps, norms, trailing)


def _gradients(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], vectors: Sequence[Tensor] | None = None
) -> list[Tensor]:
    """Return the vector-Jacobian products of outputs by each input, zeros where there is none."""
    own = [t for t in inputs if t.requires_grad]
    found: Iterator[Tensor] = iter(())
    kept = [k for k, y in enumerate(outputs) if y.requires_grad]
    if own and kept:
        chosen = vectors and [vectors[k] for k in kept]
        found = iter(
            torch.autograd.grad(
                [outputs[k] for k in kept],
                own,
                chosen,
                retain_graph=True,
                materialize_grads=True,
            )
        )
    return [next(found) if t.requires_grad else torch.zeros_like(t) for t in inputs]


def _by_state(track: Track, gradients: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return gradients of a track's tensors as ``(T, B, size)`` by name of the state: h, c."""
    names = track.states[0]._asdict()
    return {
        name: stack_rows(gradients[k :: len(names)])
        for k, name in enumerate(names)
        if name in ("h", "c")
    }


def _mask(track: Track, sample: Sample) -> Tensor:
    """Return which rows have which steps, ``(T, B)``: by the lengths of the data, if any."""
    mask, lengths = track.mask, sample.lengths
    T, B = mask.shape
    if lengths is None or track.has_lengths or len(lengths) != B or not mask.all():
        return mask
    rows, steps = sample.inputs.shape[:2]
    if T not in (int(lengths.max()), steps if rows == B else rows):
        return mask  # it has steps of its own, as a decoder
    given = mask_of(lengths.cpu().long(), T)[..., 0]
    return mask & (given.flip(0) if track.reverse else given)


def _by_lag(mask: Tensor, norms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Reorder ``(T, B)`` by step into ``(lags, B)``, NaN where a row has no such step."""
    running = mask.numpy()
    found = np.full((int(running.sum(0).max(initial=0)), running.shape[1]), np.nan)
    for row, steps in enumerate(running.T):
        own = norms[steps, row]
        found[: len(own), row] = own[::-1]
    return found


def _track_flow(
    track: Track,
    mask: Tensor,
    gradients: Mapping[str, Tensor],
    random: torch.Generator | None,
) -> LayerFlow:
    jacobian, largest = (None, None) if random is None else _jacobian(track, mask, random)
    h = gradients["h"]  # (T, B, size)
    norms = _norms(h)
    c = _by_lag(mask, _norms(gradients["c"])) if "c" in gradients else None
    later = mask.flip(0).cumsum(0).flip(0)  # steps of the row from here on
    earlier = ((later > 1) & mask).to(h.device)[..., None].expand_as(h)
    lost = (h.abs() < torch.finfo(h.dtype).tiny) & earlier
    underflow = float(lost.sum() / earlier.sum().clamp(min=1))
    total = max(float((norms**2).sum()), 1e-300)
    padding = 0.0 if track.has_lengths else float((norms[~mask.numpy()] ** 2).sum()) / total
    cut = max(track.cuts, default=0)
    ends = [0, *sorted(track.cuts), len(mask)]
    backward = track.reverse and not track.direction  # a loop by the user
    return LayerFlow(
        f"{track.name} backward" if backward else track.name,
        _by_lag(mask, norms),
        c,
        jacobian,
        largest,
        underflow,
        track.calls,
        1,
        int(mask[cut:].sum(0).max()) if cut else None,
        track.cuts.get(cut, ()),
        padding,
        max(end - start for start, end in pairwise(ends)),
    )


def _joined(parts: Sequence[LayerFlow]) -> LayerFlow:
    """Return the flow of a layer over several sequences, their rows side by side."""
    lags = max(len(part.h) for part in parts)

    def rows(name: str) -> NDArray[np.float64] | None:
        arrays = [getattr(part, name) for part in parts]
        if any(each is None for each in arrays):
            return None
        more = [((0, lags - len(each)), (0, 0)) for each in arrays]
        padded = map(partial(np.pad, constant_values=np.nan), arrays, more)
        return np.concatenate(list(padded), axis=1)

    cuts = [part for part in parts if part.cut_at is not None]
    cut = min(cuts, key=lambda part: part.cut_at or 0, default=parts[0])
    h = rows("h")
    assert h is not None  # every part has it
    return LayerFlow(
        parts[0].name,
        h,
        rows("c"),
        rows("jacobian"),
        rows("largest"),
        float(np.mean([part.underflow for part in parts])),
        sum(part.calls for part in parts),
        len(parts),
        cut.cut_at,
        cut.cut_states,
        float(np.mean([part.padding for part in parts])),
        max(part.reach for part in parts),
    )


def _jacobian(
    track: Track, mask: Tensor, random: torch.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Return the root mean square and largest singular value of dh_T/dh_t by lag and row."""
    h = track.states[-1].h
    H = h.shape[1]
    exact = H <= EXACT_SIZE
    vectors = torch.eye(H, dtype=h.dtype)
    if not exact:
        vectors = torch.randn(RANDOM_VECTORS, H, generator=random, dtype=h.dtype)
    last = torch.where(mask.any(0), len(mask) - 1 - mask.flip(0).int().argmax(0), -1)  # of each row
    steps = sorted({*last.tolist()} - {-1})
    ends = [track.states[t].h for t in steps]
    rows = [(last[: len(end)] == t)[:, None].to(h) for t, end in zip(steps, ends, strict=True)]
    squares, matrix_rows = [], []
    for v in vectors.to(h.device):
        found = _gradients(ends, track.tensors, [row * v for row in rows])
        products = list(_by_state(track, found).values())  # v^T dh_T/d(h or c)_t
        squares.append([_norms(product) ** 2 for product in products])
        if exact:
            matrix_rows.append(products)
    gains = np.sqrt(np.sum(squares, axis=0).max(0) / (H if exact else len(vectors) * H))
    matrices = [torch.stack(each, dim=-2).double() for each in zip(*matrix_rows, strict=True)]
    largest = None
    if exact and all(bool(torch.isfinite(m).all()) for m in matrices):
        values = [torch.linalg.matrix_norm(m, ord=2) for m in matrices]
        largest = _by_lag(mask, torch.stack(values).amax(0).cpu().numpy())
    return _by_lag(mask, gains), largest


def _trailing(x: Tensor, network: nn.Module) -> float:
    """Return the share of the steps of ``x (T, B, ...)`` that may be padding at the end of rows."""
    embeddings = (m for m in network.modules() if isinstance(m, nn.Embedding))
    index = next((m.padding_idx for m in embeddings if m.padding_idx is not None), 0)
    empty = (x == (0 if x.is_floating_point() else index)).flatten(2 if x.dim() > 2 else 1)
    alike = empty.all(-1) if x.dim() > 2 else empty  # (T, B)
    count = alike.flip(0).int().cumprod(0).sum(0)
    return float(count.double().mean() / len(x)) if len({*count.tolist()}) > 1 else 0.0


def growth_of(curves: NDArray[np.float64]) -> Growth:
    """Fit the growth per step of curves by lag ``(lags, rows)``, assumed exponential.

    A line is fitted to the logarithm of each row; the confidence interval is Student's t over the
    rows, or, for a single row, that of its regression.

    >>> growth_of(0.5 ** np.arange(20.0)[:, None] * [[1.0, 2.0]]).factor
    0.5
    """
    fits = []
    for curve in curves.T:
        fine = np.isfinite(curve) & (curve > 1e-30 * np.nanmax(curve, initial=1e-300))
        lags = np.flatnonzero(fine)
        if len(lags) >= 3:
            fits.append(stats.linregress(lags, np.log(curve[lags])))
    if not fits:
        return Growth(math.nan, math.nan, math.nan)
    slopes, n = [fit.slope for fit in fits], len(fits)
    mean, spread = float(np.mean(slopes)), 2 * float(fits[0].stderr)
    if n > 1:
        spread = float(stats.t.ppf(0.975, n - 1) * stats.sem(slopes))
    low, middle, high = (math.exp(min(700.0, mean + s)) for s in (-spread, 0.0, spread))
    return Growth(round(middle, 12), low, high)


def _norms(tensor: Tensor) -> NDArray[np.float64]:
    """Return the norm over the last axis, in double precision: squares must not underflow."""
    return np.asarray(tensor.detach().double().norm(dim=-1).cpu().numpy())


def _mean(by_row: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over finite rows, NaN if none is."""
    mask = np.isfinite(by_row)
    total = np.where(mask, by_row, 0.0).sum(1)
    return np.where(mask.any(1), total / np.maximum(1, mask.sum(1)), np.nan)


def rounded(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON document of arrays and numbers, with five digits; None where not finite."""

    def entry(value: Any) -> Any:
        if isinstance(value, float):
            return float(f"{value:.5g}") if math.isfinite(value) else None
        if isinstance(value, dict):
            return rounded(value)
        if isinstance(value, np.ndarray | list | tuple):
            return [entry(each) for each in value]
        return value.item() if isinstance(value, np.generic) else value

    return {name: entry(value) for name, value in document.items()}
