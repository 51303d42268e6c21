"""Gradient flow: how much gradient reaches each step and layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from ostinato.errors import OstinatoError
from ostinato.insight.samples import Data, Loss, Model, mean_loss, network_and_sample
from ostinato.networks.tracing import Track, recording
from ostinato.training.fit import eval_mode

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
            small change of h_t is amplified on average. For an LSTM the larger of that and
            dh_T/dc_t. None if not requested.
        largest: its largest singular value; None unless computed exactly.
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
        """Fit the factor per step by which gradients grow through the layer's own recurrence.

        Fitted to `jacobian` if it was computed, else to dL/dh_t.
        """
        return growth_of(self.h if self.jacobian is None else self.jacobian)


@dataclass(frozen=True)
class Growth:
    """A growth factor per step with its 95 % confidence interval.

    Attributes:
        factor: growth per step: below 1 gradients vanish, above 1 they explode.
        low: lower end of the interval.
        high: upper end of the interval.
    """

    factor: float
    low: float
    high: float

    @property
    def half_life(self) -> float:
        """Steps in which a gradient is halved; infinite if it does not shrink."""
        return math.log(0.5) / math.log(self.factor) if 0 < self.factor < 1 else math.inf

    def __str__(self) -> str:
        return f"{self.factor:.3g} per step (95 %: {self.low:.3g} to {self.high:.3g})"


@dataclass(frozen=True, eq=False)
class GradientFlow:
    """Result of `gradient_flow`.

    Attributes:
        layers: a `LayerFlow` for each layer and direction, in the order of the network.
        loss: the loss that was differentiated.
        steps: steps of the longest row.
        weights: norm of the gradient of each weight.
    """

    layers: list[LayerFlow]
    loss: float
    steps: int
    weights: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return the values, averaged over rows, as a JSON document."""
        return {
            "loss": number(self.loss),
            "steps": self.steps,
            "layers": [
                {
                    "name": layer.name,
                    "gradient_by_lag": [number(norm) for norm in layer.norms],
                    "jacobian_by_lag": (
                        None if layer.gains is None else [number(gain) for gain in layer.gains]
                    ),
                    "growth": {k: number(v) for k, v in vars(layer.growth()).items()},
                    "underflow": layer.underflow,
                }
                for layer in self.layers
            ],
            "weights": {name: number(norm) for name, norm in self.weights.items()},
        }


def gradient_flow(
    model: Model,
    data: Data,
    *,
    loss: Loss | None = None,
    jacobian: bool = True,
    seed: int = 0,
) -> GradientFlow:
    """Measure how much gradient reaches each step, layer and direction of a network.

    The network runs one step at a time on its usual path, which gives the same bits as the whole
    sequence. Nothing in it is changed, including its gradients.

    Args:
        model: a network of `networks`, an estimator, or any module with recurrent layers of
            Ostinato or `torch.nn`.
        data: ``(x, y)`` or ``(x, y, lengths)``: tensors for a network, and for an estimator what
            its ``fit`` takes.
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
                "expected layers of ostinato or torch.nn."
            )
        weights = {n: p for n, p in network.named_parameters() if p.requires_grad}
        states = [tensor for track in tracks for tensor in track.tensors]
        gradients = iter(
            torch.autograd.grad(
                value, [*weights.values(), *states], retain_graph=True, allow_unused=True
            )
        )
        norms = {
            name: 0.0 if g is None else float(g.norm())
            for name, g in zip(weights, gradients, strict=False)
        }
        layers = []
        for track in tracks:
            lags = _Lags(track)
            products = lags.jacobian(random) if jacobian else (None, None)
            layers.append(lags.flow([next(gradients) for _ in track.tensors], *products))
    steps = max(len(layer.h) for layer in layers)
    return GradientFlow(layers, float(value.detach()), steps, norms)


@dataclass
class _Lags:
    """Gradients of a track's states by lag."""

    track: Track

    @property
    def fields(self) -> list[str]:
        """Names of the tensors of a state, h first."""
        return list(self.track.states[0]._asdict())

    def by_lag(self, norms: NDArray[np.float64]) -> NDArray[np.float64]:
        """Reorder ``(T, B)`` by step into ``(T, B)`` by lag, NaN where a row has no such step."""
        T, B = norms.shape
        ends = self.track.ends.cpu().numpy()
        source = ends[None] - 1 - np.arange(T)[:, None]
        return np.where(source >= 0, norms[source.clip(0), np.arange(B)], np.nan)

    def flow(
        self,
        gradients: Sequence[Tensor | None],
        jacobian: NDArray[np.float64] | None,
        largest: NDArray[np.float64] | None,
    ) -> LayerFlow:
        """Return the gradients of the track's tensors as a `LayerFlow`."""
        parts = len(self.fields)

        def stacked(part: int) -> Tensor:
            pairs = zip(gradients[part::parts], self.track.tensors[part::parts], strict=True)
            return torch.stack([torch.zeros_like(t) if g is None else g for g, t in pairs])

        h = stacked(0)  # (T, B, size)
        c = stacked(self.fields.index("c")) if "c" in self.fields else None
        t = torch.arange(len(h), device=h.device)[:, None]
        earlier = (t < self.track.ends.to(h.device) - 1)[..., None].expand_as(h)
        under = (h.abs() < torch.finfo(h.dtype).tiny) & earlier
        return LayerFlow(
            self.track.name,
            self.by_lag(_norms(h)),
            None if c is None else self.by_lag(_norms(c)),
            jacobian,
            largest,
            float(under.sum() / earlier.sum().clamp(min=1)),
        )

    def jacobian(
        self, random: torch.Generator
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Compute the root mean square and largest singular value of dh_T/dh_t by lag and row."""
        last = self.track.states[-1].h
        B, H = last.shape
        exact = H <= EXACT_SIZE
        if exact:
            vectors = list(torch.eye(H, dtype=last.dtype))
        else:
            vectors = list(torch.randn(RANDOM_VECTORS, H, generator=random, dtype=last.dtype))
        fields, T = self.fields, len(self.track.states)
        flat = [
            tensor
            for k, name in enumerate(fields)
            if name in ("h", "c")
            for tensor in self.track.tensors[k :: len(fields)]
        ]
        squares = np.zeros((len(flat) // T, T, B))
        rows: list[list[Tensor]] = [[] for _ in squares]
        for v in vectors:
            seed = v.to(last.device).expand(B, H)
            found = torch.autograd.grad(last, flat, seed, retain_graph=True, allow_unused=True)
            pairs = zip(found, flat, strict=True)
            filled = [torch.zeros_like(t) if g is None else g for g, t in pairs]
            for k in range(len(squares)):
                product = torch.stack(filled[k * T : (k + 1) * T])  # v^T dh_T/d(h or c)_t
                if exact:
                    rows[k].append(product)
                squares[k] += _norms(product) ** 2
        scale = H if exact else len(vectors) * H
        gains = np.sqrt(squares.max(0) / scale)
        largest = None
        if exact:
            matrices = [torch.stack(each, dim=-2).double() for each in rows]
            if all(bool(torch.isfinite(m).all()) for m in matrices):
                values = [torch.linalg.matrix_norm(m, ord=2) for m in matrices]
                largest = self.by_lag(torch.stack(values).amax(0).cpu().numpy())
        return self.by_lag(gains), largest


def growth_of(curves: NDArray[np.float64]) -> Growth:
    """Fit the growth per step of curves by lag ``(lags, rows)``, assumed exponential.

    The slope of the logarithm over the lags is fitted for each row; the confidence interval is
    Student's t over the rows, or, for a single row, that of its regression.

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
    """Return the norm over the last axis, in double precision: squares must not underflow."""
    return np.asarray(tensor.detach().double().norm(dim=-1).cpu().numpy())


def _mean(by_row: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over finite rows, NaN if none is."""
    mask = np.isfinite(by_row)
    total = np.where(mask, by_row, 0.0).sum(1)
    return np.where(mask.any(1), total / np.maximum(1, mask.sum(1)), np.nan)


def number(value: float) -> float | None:
    """Round a number to five digits for JSON; None if it is not finite."""
    return float(f"{value:.5g}") if math.isfinite(value) else None
