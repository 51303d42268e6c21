"""The forecasting network: from windows of the past to distributions of the steps ahead.

Letters: ``C`` steps of context, the past; ``A`` steps ahead, the horizon; ``K`` outputs of the
network for one distribution.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ostinato.errors import OstinatoError, ShapeError
from ostinato.networks.functional import Lengths, drop
from ostinato.recurrence.layers import Hidden, Recurrent
from ostinato.tasks.forecasting.distributions import Distribution

STEP_FEATURES = 16
"""Features of each step ahead that a direct network makes from the past and future covariates."""


class Window(NamedTuple):
    """A batch of windows of series. Of the future it holds only the covariates known ahead.

    Attributes:
        past_values: ``(B, C)``, in the units of each window, 0 where missing.
        observed: ``(B, C)``, whether a value was observed.
        valid: ``(B, C)``, whether the series has started.
        future_covariates: known ahead, the calendar first, ``(B, C + A, F)``.
        past_covariates: known up to the present, ``(B, C, P)``.
        static_categories: ``(B, S)``, from 1; 0 for an unknown category.
        static_numbers: ``(B, N)``.
        scale: units of the data per unit of the window, ``(B,)``.
        resolution: what values are rounded to, in the units of the window, 0 for nothing, ``(B,)``.
    """

    past_values: Tensor
    observed: Tensor
    valid: Tensor
    future_covariates: Tensor
    past_covariates: Tensor
    static_categories: Tensor
    static_numbers: Tensor
    scale: Tensor
    resolution: Tensor

    @property
    def context(self) -> int:
        """Steps of the past, C."""
        return self.past_values.shape[1]

    @property
    def horizon(self) -> int:
        """Steps ahead, A."""
        return self.future_covariates.shape[1] - self.context

    def to(self, device: torch.device | None) -> Window:
        """Return the same on a device."""
        return Window(*(part.to(device) for part in self))

    def take(self, rows: Tensor) -> Window:
        """Return some windows, by their numbers."""
        return Window(*(part[rows] for part in self))


@dataclass(frozen=True)
class WindowSizes:
    """Sizes of the parts of a `Window`.

    Args:
        future_covariates: F.
        past_covariates: P.
        static_categories: number of categories of each static covariate, the unknown one included.
        static_numbers: N.
    """

    future_covariates: int = 0
    past_covariates: int = 0
    static_categories: tuple[int, ...] = ()
    static_numbers: int = 0

    def input_size(self, seasons: Sequence[int] = ()) -> int:
        """Return how many features the recurrent layers read at a step."""
        lag = 2 * len(seasons)
        observed = 1 if self.past_covariates else 0
        static = sum(map(_embedding_size, self.static_categories)) + self.static_numbers
        return 3 + lag + self.future_covariates + self.past_covariates + observed + static


class ForecastNetwork(nn.Module):
    """Forecasts a series from its past, step by step or all steps ahead simultaneously.

    ::

        h_t = recurrent([y_(t-1), y_(t-m), ...; future_t; past_(t-1); static], h_(t-1))
        p_t = W h_t + b + w [y_(t-R), ..., y_(t-1), y_(t-m), ...]  one step, ``horizon=None``
        p_k = V relu(W_k h_C + U future_(C+k)) + w_k [y_(C-R), ..., y_(C-1)]  all steps

    with ``m`` each season, and ``future``, ``past`` and ``static`` covariates. The last term, for
    the center of the distribution, is a linear shortcut (Lai et al. 2018, "LSTNet", section 3.5),
    of seasons longer than R too.
    Where ``y_t`` is missing the network reads its own prediction of it instead, with a flag, and
    gradients flow through it (after the autoregressive LSTM of Nearing et al. 2022). A cell that
    takes missing values, such as GRU-D, reads NaN there, and the shortcut reads 0, the middle of
    the window.

    Args:
        recurrent: layers with ``batch_first=True`` of ``sizes.input_size(seasons)`` features.
        distribution: the family of predictive distributions.
        sizes: of the windows.
        horizon: steps that are forecast simultaneously; None for one after the other.
        seasons: each m.
        history: steps at the start of a window that only seasons reach back to: they are not read,
            and missing ones not predicted.
        reach: R, steps of the linear shortcut.
        dropout: probability of zeroing a feature of the hidden state in training.

    Example:
        >>> from ostinato.recurrence.dropin import LSTM
        >>> from ostinato.tasks.forecasting.distributions import Gaussian
        >>> sizes = WindowSizes(future_covariates=2)
        >>> layers = LSTM(sizes.input_size([4]), 8, batch_first=True)
        >>> network = ForecastNetwork(layers, Gaussian(), sizes, horizon=3, seasons=[4])
        >>> seen = torch.ones(5, 12, dtype=torch.bool)
        >>> nothing, ones = torch.zeros(5, 0), torch.ones(5)
        >>> window = Window(
        ...     torch.rand(5, 12), seen, seen, torch.rand(5, 12 + 3, 2), torch.zeros(5, 12, 0),
        ...     nothing.long(), nothing, ones, 0 * ones)
        >>> loss, _ = network.loss(window, torch.randn(5, 3))
        >>> network(window)[0].shape, loss.shape
        (torch.Size([5, 3, 2]), torch.Size([]))
    """

    def __init__(
        self,
        recurrent: Recurrent,
        distribution: Distribution,
        sizes: WindowSizes,
        *,
        horizon: int | None = None,
        seasons: Sequence[int] = (),
        history: int = 0,
        reach: int = 8,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        features = sizes.input_size(seasons)
        fits = recurrent.batch_first and not recurrent.bidirectional
        if not fits or recurrent.input_size != features:
            raise OstinatoError(
                f"ForecastNetwork: recurrent is {recurrent}; expected batch_first=True, one "
                f"direction, and {features} input features."
            )
        H, K = recurrent.output_size, distribution.size
        self.recurrent = recurrent
        self.distribution = distribution
        self.sizes = sizes
        self.horizon = horizon
        self.seasons = tuple(seasons)
        self.history = history
        self.reach = reach
        self.reads_missing = recurrent.cells[0].takes_missing
        self.far = [] if horizon else [m for m in seasons if m > reach]
        self.dropout = dropout
        self.embeddings = nn.ModuleList(
            nn.Embedding(n, _embedding_size(n)) for n in sizes.static_categories
        )
        if horizon is None:
            self.output = nn.Linear(H, K)
        else:
            self.steps = nn.Linear(H, horizon * STEP_FEATURES)
            self.future = (
                nn.Linear(sizes.future_covariates, STEP_FEATURES, bias=False)
                if sizes.future_covariates
                else None
            )
            self.output = nn.Linear(STEP_FEATURES, K)
        self.shortcut = nn.Linear(reach + len(self.far), horizon or 1, bias=False)
        nn.init.zeros_(self.shortcut.weight)

    def forward(self, window: Window, lengths: Lengths = None) -> tuple[Tensor, None]:
        """Predict each step ahead, ``(B, A, K)``; or only the next one, ``(B, 1, K)``."""
        return self.begin(window)[0], None

    def loss(
        self, window: Window, targets: Tensor, *, lengths: Lengths = None
    ) -> tuple[Tensor, None]:
        """Return the mean loss of the values ahead, ``targets (B, A)``; NaN is left out."""
        A = targets.shape[-1]
        if targets.dim() != 2 or (self.horizon is not None and self.horizon != A):
            raise ShapeError(
                f"ForecastNetwork.loss: targets have shape {tuple(targets.shape)}; expected "
                f"(B, {self.horizon or 'A'})."
            )
        C = window.context
        known = ~targets.isnan()
        z = torch.where(known, torch.nan_to_num(targets), 0.0)
        if self.horizon is not None:
            p, _ = self(window)
        else:
            # All steps ahead in one pass (teacher forcing): the values before each are known here.
            past, missing = _past(window)
            values, missing = torch.cat([past[:, :C], z], 1), torch.cat([missing[:, :C], ~known], 1)
            values, h, _ = self._read(window, values, missing, C + A - 1)
            p = self._predict(h[:, C - 1 - self.history :], values, window, C, 1)
        scale, resolution = window.scale[:, None], window.resolution[:, None]
        losses = self.distribution.loss(p, z, scale, resolution)
        return torch.where(known, losses, 0.0).sum() / known.sum().clamp(min=1), None

    def begin(self, window: Window) -> tuple[Tensor, Tensor, Hidden]:
        """As `forward`, with the values ``(B, C)`` as they are read, and the state; for `step`."""
        C = window.context
        values, h, state = self._read(window, *_past(window), C)
        return self._predict(h[:, -1:], values, window, C, self.horizon or 1), values[:, :C], state

    def ahead(self, window: Window) -> Tensor:
        """Everything that `step` reads after the first step ahead but values, ``(B, A - 1, F)``."""
        C, A = window.context, window.horizon
        flags = torch.zeros(len(window.valid), A - 1, dtype=torch.bool, device=window.valid.device)
        return self._covariates(window, flags, C + 1, C + A)

    def step(self, values: Tensor, fixed: Tensor, state: Hidden) -> tuple[Tensor, Hidden]:
        """Predict the step after all ``values (B, t)`` by what `ahead` has of it, ``(B, F)``.

        Returns:
            ``p (B, K)`` and the state.
        """
        t = values.shape[1]
        ago = [_span(values, t - m, t + 1 - m) for m in self.seasons]
        h, state = self.recurrent(self._join(values[:, -1:], fixed[:, None], ago), state)
        return self._outputs(h, self._lags(values, t, 1), fixed[:, None])[:, 0], state

    def points(self, window: Window) -> Tensor:
        """Predict the center of each step ahead, after the centers of those before, ``(B, A)``."""
        p, values, state = self.begin(window)
        if self.horizon is not None:
            return self.distribution.point(p)
        fixed, found = self.ahead(window), [self.distribution.point(p)]
        for k in range(window.horizon - 1):
            values = torch.cat([values, found[k]], 1)
            p_k, state = self.step(values, fixed[:, k], state)
            found.append(self.distribution.point(p_k)[:, None])
        return torch.cat(found, 1)

    # Parts

    def _read(
        self, window: Window, values: Tensor, missing: Tensor, end: int
    ) -> tuple[Tensor, Tensor, Hidden]:
        """Read steps S = ``history`` + 1 to ``end``, missing values replaced by predictions.

        Each row is read from one missing value of its own to the next, all rows side by side; a
        cell that takes missing values reads all at once.

        Returns:
            the values, missing ones filled in, or NaN for such a cell; hidden states
            ``(B, end - S + 1, H)``, the first of which predicts step S; and the state.
        """
        B, S = len(values), self.history + 1
        fixed = self._covariates(window, missing[:, S - 1 : end], S, end + 1)
        if self.reads_missing:
            values = torch.where(missing, torch.nan, values)
        if self.reads_missing or not missing[:, S:end].any():
            ago = [_span(values, S - m, end + 1 - m) for m in self.seasons]
            h, state = self.recurrent(self._join(values[:, S - 1 : end], fixed, ago), None)
            return values, h, state
        steps = torch.arange(end + 1, device=values.device)
        gaps = torch.where(missing[:, S:end], steps[S:end], end).sort(1).values
        most = int(missing[:, S:end].sum(1).max())
        stops = torch.cat([gaps[:, :most], gaps.new_full((B, 1), end)], 1)
        begin = torch.full_like(stops[:, 0], S)
        parts: list[Tensor] = []
        places = torch.zeros_like(steps[S:]).repeat(B, 1)  # of each step among the parts
        behind, state = 0, cast(Hidden, None)
        for stop in stops.unbind(1):
            lengths = stop + 1 - begin
            count = steps[: int(lengths.max())]
            at = (begin[:, None] + count).clamp(max=end)
            features = self._join(
                values.gather(1, at - 1),
                _gather(fixed, at - S),
                [values.gather(1, (at - m).clamp(min=0)) * (at >= m) for m in self.seasons],
            )
            h, state = self.recurrent(features, state, lengths=lengths)
            parts.append(h)
            read = (count < lengths[:, None]).nonzero(as_tuple=True)
            places[read[0], at[read] - S] = behind + read[1]
            behind += len(count)
            begin = stop + 1
            gap = (stop < end) & (lengths > 0)
            if gap.any():
                last = (lengths - 1).clamp(min=0)[:, None]
                own = self._own(_gather(h, last), values, window, stop)
                own = torch.where(gap, own, values.gather(1, stop[:, None])[:, 0])
                values = values.scatter(1, stop[:, None], own[:, None])
        return values, _gather(torch.cat(parts, 1), places), state

    def _own(self, h: Tensor, values: Tensor, window: Window, t: Tensor) -> Tensor:
        """Predict step ``t (B,)`` of each row from its last state ``h (B, 1, H)``; ``(B,)``."""
        back = [*range(-self.reach, 0), *(-m for m in self.far)]
        at = t[:, None] + torch.tensor(back, device=t.device)
        lags = values.gather(1, at.clamp(min=0)) * (at >= 0)
        future = _gather(window.future_covariates, t[:, None])
        return self.distribution.point(self._outputs(h, lags[:, None], future)[:, 0])

    def _covariates(self, window: Window, missing: Tensor, begin: int, end: int) -> Tensor:
        """Everything read at steps ``begin`` to before ``end`` but values, ``(B, T, F)``.

        ``missing (B, T)`` flags the values before each step that the network made up.
        """
        dtype = window.past_values.dtype
        valid = window.valid.to(dtype)
        parts = [torch.stack([missing.to(dtype), _span(valid, begin - 1, end - 1, 1.0)], -1)]
        behind = torch.arange(valid.shape[1], device=valid.device) < self.history
        known = torch.where(behind, window.observed.to(dtype), valid)  # or predicted
        parts += [_span(known, begin - m, end - m, 1.0)[..., None] for m in self.seasons]
        parts.append(window.future_covariates[:, begin:end])
        if self.sizes.past_covariates:
            observed = window.observed.to(dtype)[..., None]
            past = torch.cat([window.past_covariates, observed], -1)
            parts.append(_span(past, begin - 1, end - 1))
        started = _span(valid, begin, end, 1.0)[..., None]  # static covariates are 0 before
        categories = window.static_categories[:, None] * started.long()
        parts += [embedding(categories[..., k]) for k, embedding in enumerate(self.embeddings)]
        parts.append(window.static_numbers[:, None] * started)
        return torch.cat(parts, -1)

    def _join(self, value: Tensor, fixed: Tensor, ago: Sequence[Tensor]) -> Tensor:
        """Input of the recurrent layers: the last value, those seasons ago, and covariates."""
        lags = [lag[..., None] for lag in ago]
        return torch.cat([value[..., None], fixed[..., :2], *lags, fixed[..., 2:]], -1)

    def _predict(self, h: Tensor, values: Tensor, window: Window, t: int, steps: int) -> Tensor:
        """Predict from hidden states ``h (B, T, H)`` the steps from ``t`` on, ``(B, ., K)``.

        With ``horizon`` from the last of them: ``steps`` steps from ``t`` on.
        """
        T = h.shape[1] if self.horizon is None else 1
        lags = self._lags(values, t, T)
        return self._outputs(h, lags, window.future_covariates[:, t : t + steps])

    def _lags(self, values: Tensor, t: int, steps: int) -> Tensor:
        """Return what the shortcut of steps from ``t`` on sees, ``(B, steps, R)``."""
        values = values.nan_to_num() if self.reads_missing else values
        near = _span(values, t - self.reach, t + steps - 1).unfold(1, self.reach, 1)
        if not self.far:
            return near
        far = [_span(values, t - m, t - m + steps) for m in self.far]
        return torch.cat([near, torch.stack(far, -1)], -1)

    def _outputs(self, h: Tensor, lags: Tensor, future: Tensor) -> Tensor:
        """Equations of p, of ``lags (B, T, R)`` and future covariates ``(B, steps, F)``."""
        h = drop(h, self.dropout, self.training)
        if self.horizon is None:
            p, line = self.output(h), self.shortcut(lags)[..., 0]
        else:
            steps, D = future.shape[1], STEP_FEATURES
            weight, bias = self.steps.weight[: steps * D], self.steps.bias[: steps * D]
            a = F.linear(h[:, -1], weight, bias).view(len(h), steps, D)
            if self.future is not None:
                a = a + self.future(future)
            p = self.output(a.relu())
            line = F.linear(lags[:, 0], self.shortcut.weight[:steps])
        return torch.cat([p[..., :1] + line[..., None], p[..., 1:]], -1)


def _past(window: Window) -> tuple[Tensor, Tensor]:
    """Values ``(B, C + A)``, 0 ahead, and which of them are missing."""
    ahead = (0, window.horizon)
    values = torch.where(window.observed, window.past_values, 0.0)
    return F.pad(values, ahead), F.pad(window.valid & ~window.observed, ahead)


def _span(part: Tensor, begin: int, end: int, ahead: float = 0.0) -> Tensor:
    """Steps ``begin`` to before ``end`` of ``(B, C, ...)``: 0 before them, ``ahead`` after them."""
    before = max(0, min(0, end) - begin)
    kept = part[:, max(0, begin) : max(0, end)]
    flat = (0, 0) * (part.dim() - 2)
    kept = F.pad(kept, (*flat, before, 0)) if before else kept
    after = end - begin - kept.shape[1]
    return F.pad(kept, (*flat, 0, after), value=ahead) if after else kept


def _gather(rows: Tensor, at: Tensor) -> Tensor:
    """Of ``rows (B, T, F)`` those at steps ``at (B, L)``."""
    return rows.gather(1, at[..., None].expand(-1, -1, rows.shape[-1]))


def _embedding_size(categories: int) -> int:
    """Features of one of so many categories."""
    return min(8, (categories + 1) // 2)


class Ensemble(nn.Module):
    """Forecasting networks with different initial weights, trained on the same batches.

    Together they are more accurate than one, and their disagreement adds to the predicted
    uncertainty (Lakshminarayanan, Pritzel and Blundell 2017, "Deep ensembles").

    Args:
        members: networks that differ in nothing but their weights.

    Attributes:
        distribution: the family of predictive distributions.
        direct: whether all steps ahead are forecast simultaneously.
    """

    def __init__(self, members: Sequence[ForecastNetwork]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.distribution = members[0].distribution
        self.direct = members[0].horizon is not None

    def __iter__(self) -> Iterator[ForecastNetwork]:
        return (cast(ForecastNetwork, member) for member in self.members)

    def __len__(self) -> int:
        return len(self.members)

    def forward(self, window: Window, lengths: Lengths = None) -> tuple[Tensor, None]:
        """Return the predictions of each member, ``(members, B, A, K)``."""
        return torch.stack([member(window)[0] for member in self]), None

    def points(self, window: Window) -> Tensor:
        """Return the mean of the members' centers, ``(B, A)``."""
        return torch.stack([member.points(window) for member in self]).mean(0)

    def loss(
        self, window: Window, targets: Tensor, *, lengths: Lengths = None
    ) -> tuple[Tensor, None]:
        """Return the mean of the members' losses."""
        return torch.stack([member.loss(window, targets)[0] for member in self]).mean(), None
