"""What comes next of a series of numbers: a recurrent network that says how sure it is.

Letters: ``C`` steps of context, the past; ``A`` steps ahead, the future; ``K`` outputs that make a
distribution. A window is a tensor ``(B, C + A, columns)`` whose columns `Window` names; it holds
nothing of the future but what is known ahead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ostinato.errors import OstinatoError, ShapeError
from ostinato.networks.functional import Lengths, drop
from ostinato.recurrence.layers import Hidden, Recurrent
from ostinato.tasks.forecasting.distributions import Distribution

STEP_FEATURES = 16
"""Features of each step ahead that a direct network makes from the past and from what is known."""


@dataclass(frozen=True)
class Window:
    """Columns of a window: value, seen, there, scale, grain; known; observed; static.

    ``value`` is in the units of the network, 0 where it is not ``seen``; ``there`` is 0 before the
    series begins; ``scale`` is that of the window, the same at every step; so is ``grain``, what
    values are rounded to, in the units of the network, 0 for nothing.

    Args:
        known: columns of what is known ahead.
        observed: columns of what is known up to now.
        static: of each feature that does not change, how many kinds there are; 0 for a number.
    """

    known: int = 0
    observed: int = 0
    static: tuple[int, ...] = ()

    VALUE, SEEN, THERE, SCALE, GRAIN, FIRST = 0, 1, 2, 3, 4, 5

    @property
    def size(self) -> int:
        """Columns."""
        return self.FIRST + self.known + self.observed + len(self.static)


class ForecastNetwork(nn.Module):
    """Forecasts a series from its past, step by step or all steps ahead at once.

    ::

        h_t = recurrent([y_(t-1), y_(t-m); known at t; observed at t-1; static], h_(t-1))
        p_t = W h_t + b + w [y_(t-R), ..., y_(t-1)]      a step, ``ahead=None``
        p_k = V relu(W_k h_C + U known at C+k) + w_k [y_(C-R), ..., y_(C-1)]    all steps at once

    with ``m`` the season. The last term, for the middle of the distribution, is a straight way for
    what is linear (Lai et al. 2018, "LSTNet", section 3.5). Where ``y_t`` is missing the network
    reads its own forecast of it instead, with a flag, and gradients go through it (after the
    autoregressive LSTM of Nearing et al. 2022).

    Args:
        recurrent: the layers, with ``batch_first=True``, of `input_size` features.
        distribution: what a forecast is.
        window: what there is at each step.
        ahead: steps that are forecast at once; None for one after the other.
        season: m; 1 for none.
        reach: R, steps of the straight way.
        dropout: probability of zeroing a feature of the hidden state while training.

    Example:
        >>> from ostinato.tasks.forecasting.distributions import Gaussian
        >>> from ostinato.recurrence.dropin import LSTM
        >>> window = Window(known=2)
        >>> layers = LSTM(ForecastNetwork.input_size(window, season=4), 8, batch_first=True)
        >>> network = ForecastNetwork(layers, Gaussian(), window, ahead=3, season=4)
        >>> x = torch.rand(5, 12 + 3, window.size)
        >>> loss, _ = network.loss(x, torch.randn(5, 3))
        >>> network(x)[0].shape, loss.shape
        (torch.Size([5, 3, 2]), torch.Size([]))
    """

    def __init__(
        self,
        recurrent: Recurrent,
        distribution: Distribution,
        window: Window,
        *,
        ahead: int | None = None,
        season: int = 1,
        reach: int = 8,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        wanted = self.input_size(window, season)
        if not recurrent.batch_first or recurrent.bidirectional or recurrent.input_size != wanted:
            raise OstinatoError(
                f"ForecastNetwork: recurrent is {recurrent}; expected batch_first=True, one "
                f"direction, and {wanted} input features."
            )
        H, K = recurrent.output_size, distribution.size
        self.recurrent = recurrent
        self.distribution = distribution
        self.window = window
        self.ahead = ahead
        self.season = season
        self.reach = reach
        self.dropout = dropout
        self.kinds = nn.ModuleList(
            nn.Embedding(n, _features(n)) if n else nn.Identity() for n in window.static
        )
        if ahead is None:
            self.output = nn.Linear(H, K)
        else:
            self.steps = nn.Linear(H, ahead * STEP_FEATURES)
            self.known = (
                nn.Linear(window.known, STEP_FEATURES, bias=False) if window.known else None
            )
            self.output = nn.Linear(STEP_FEATURES, K)
        self.straight = nn.Linear(reach, ahead or 1, bias=False)
        nn.init.zeros_(self.straight.weight)

    @staticmethod
    def input_size(window: Window, season: int = 1) -> int:
        """Features that the recurrent layers read at a step."""
        lag = 2 if season > 1 else 0
        seen = 1 if window.observed else 0
        static = sum(_features(n) for n in window.static)
        return 3 + lag + window.known + window.observed + seen + static

    def forward(self, x: Tensor, lengths: Lengths = None) -> tuple[Tensor, None]:
        """What is foretold of each step ahead, ``(B, ahead, K)``, or of the next, ``(B, 1, K)``."""
        A = self.ahead or 1
        values, h, _ = self._read(x, self._past(x, A), x.shape[1] - A)
        return self._output(h[:, -1:], values, x, x.shape[1] - A, A), None

    def loss(self, x: Tensor, targets: Tensor, *, lengths: Lengths = None) -> tuple[Tensor, None]:
        """Mean loss of what is wanted ahead, ``targets (B, A)``; NaN takes no part."""
        A = targets.shape[-1]
        if targets.dim() != 2 or (self.ahead is not None and self.ahead != A):
            raise ShapeError(
                f"ForecastNetwork.loss: targets have shape {tuple(targets.shape)}; expected "
                f"(B, {self.ahead or 'A'})."
            )
        C = x.shape[1] - A
        there = ~targets.isnan()
        if self.ahead is not None:
            p, _ = self(x)
        else:
            # All steps ahead at once: the true ones before them are known here.
            wanted = torch.nan_to_num(targets)
            past, missing = self._past(x, A)
            past = torch.cat([past[:, :C], wanted], 1)
            missing = torch.cat([missing[:, :C], ~there], 1)
            values, h, _ = self._read(x, (past, missing), C + A - 1)
            p = self._output(h[:, C - 1 :], values, x, C, 1)
        z = torch.where(there, torch.nan_to_num(targets), 0.0)
        losses = self.distribution.loss(p, z, x[:, C:, Window.SCALE], x[:, C:, Window.GRAIN])
        return torch.where(there, losses, 0.0).sum() / there.sum().clamp(min=1), None

    def begin(self, x: Tensor, ahead: int) -> tuple[Tensor, Tensor, Hidden]:
        """After the past of windows with so many steps ahead: what is foretold of the first.

        Returns:
            ``p (B, K)``, the values read ``(B, C)``, and the state; for `step`.
        """
        C = x.shape[1] - ahead
        values, h, state = self._read(x, self._past(x, ahead), C)
        return self._output(h[:, -1:], values, x, C, 1)[:, 0], values[:, :C], state

    def step(self, x: Tensor, values: Tensor, t: int, state: Hidden) -> tuple[Tensor, Hidden]:
        """What is foretold of step ``t`` when ``values (B, t)`` came before; ``(B, K)``, state."""
        lag = self._lagged(values, t, t + 1)
        features = self._joined(values[:, t - 1 : t], self._fixed(x, None, t, t + 1), lag)
        h, state = self.recurrent(features, state)
        return self._output(h, values, x, t, 1)[:, 0], state

    # Parts

    def _past(self, x: Tensor, ahead: int) -> tuple[Tensor, Tensor]:
        """Values ``(B, C + A)``, and which of them are missing."""
        there, seen = x[..., Window.THERE] > 0, x[..., Window.SEEN] > 0
        missing = there & ~seen
        missing[:, x.shape[1] - ahead :] = False
        return torch.where(seen, x[..., Window.VALUE], 0.0), missing

    def _read(
        self, x: Tensor, past: tuple[Tensor, Tensor], end: int
    ) -> tuple[Tensor, Tensor, Hidden]:
        """Read steps 1 to ``end``; what is missing is replaced by what was foretold of it.

        Each row is read from one missing value of its own to the next, all rows side by side.

        Returns:
            the values, what is missing filled in; hidden states ``(B, end, H)``, of which that at
            ``t - 1`` foretells step ``t``; and the state.
        """
        values, missing = past
        B = len(x)
        fixed = self._fixed(x, missing, 1, end + 1)
        if not missing[:, 1:end].any():
            lag = self._lagged(values, 1, end + 1)
            h, state = self.recurrent(self._joined(values[:, :end], fixed, lag), None)
            return values, h, state
        steps = torch.arange(end + 1, device=x.device)
        holes = torch.where(missing[:, 1:end], steps[1:end], end).sort(1).values
        most = int(missing[:, 1:end].sum(1).max())
        stops = torch.cat([holes[:, :most], holes.new_full((B, 1), end)], 1)
        begin = torch.ones_like(stops[:, 0])
        parts: list[Tensor] = []
        places = torch.zeros_like(steps[1:]).repeat(B, 1)  # of each step among the parts
        behind, state = 0, cast(Hidden, None)
        for stop in stops.unbind(1):
            lengths = stop + 1 - begin
            count = steps[: int(lengths.max())]
            at = (begin[:, None] + count).clamp(max=end)
            features = self._joined(
                values.gather(1, at - 1),
                _gather(fixed, at - 1),
                values.gather(1, (at - self.season).clamp(min=0)) * (at >= self.season),
            )
            h, state = self.recurrent(features, state, lengths=lengths)
            parts.append(h)
            read = (count < lengths[:, None]).nonzero(as_tuple=True)
            places[read[0], at[read] - 1] = behind + read[1]
            behind += len(count)
            begin = stop + 1
            hole = (stop < end) & (lengths > 0)
            if hole.any():
                last = (lengths - 1).clamp(min=0)[:, None]
                own = self._own(_gather(h, last), values, x, stop)
                own = torch.where(hole, own, values.gather(1, stop[:, None])[:, 0])
                values = values.scatter(1, stop[:, None], own[:, None])
        return values, _gather(torch.cat(parts, 1), places), state

    def _own(self, h: Tensor, values: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """What a row's last hidden state ``h (B, 1, H)`` says of its step ``t (B,)``; ``(B,)``."""
        back = torch.arange(-self.reach, 0, device=t.device)
        at = t[:, None] + back
        lags = values.gather(1, at.clamp(min=0)) * (at >= 0)
        here = _gather(x, t[:, None])
        p = self._distribution_of(h, lags[:, None], self._known(here))[:, 0]
        return self.distribution.point(p, here[:, 0, Window.SCALE])

    def _fixed(self, x: Tensor, missing: Tensor | None, begin: int, end: int) -> Tensor:
        """What is read at steps ``begin`` to before ``end`` but for values, ``(B, T, F)``."""
        window = self.window
        there = x[:, begin - 1 : end - 1, Window.THERE]
        flag = torch.zeros_like(there) if missing is None else missing[:, begin - 1 : end - 1]
        parts = [torch.stack([flag.to(x.dtype), there], -1)]
        if self.season > 1:
            parts.append(self._lagged(x[..., Window.THERE], begin, end)[..., None])
        parts.append(self._known(x[:, begin:end]))
        at = Window.FIRST + window.known
        if window.observed:
            seen = x[:, begin - 1 : end - 1, Window.SEEN : Window.SEEN + 1]
            parts += [x[:, begin - 1 : end - 1, at : at + window.observed], seen]
        at += window.observed
        for k, kind in enumerate(self.kinds):
            column = x[:, begin:end, at + k]
            parts.append(kind(column.long()) if window.static[k] else column[..., None])
        return torch.cat(parts, -1)

    def _joined(self, value: Tensor, fixed: Tensor, lag: Tensor) -> Tensor:
        """What the recurrent layers read: the last value, that of a season ago, and the rest."""
        lags = [lag[..., None]] if self.season > 1 else []
        return torch.cat([value[..., None], fixed[..., :2], *lags, fixed[..., 2:]], -1)

    def _known(self, x: Tensor) -> Tensor:
        return x[..., Window.FIRST : Window.FIRST + self.window.known]

    def _lagged(self, values: Tensor, begin: int, end: int) -> Tensor:
        """What was a season before steps ``begin`` to before ``end``; 0 before the window."""
        low, high = max(0, begin - self.season), max(0, end - self.season)
        return F.pad(values[:, low:high], (end - begin - (high - low), 0))

    def _output(self, h: Tensor, values: Tensor, x: Tensor, t: int, steps: int) -> Tensor:
        """What is foretold after hidden states ``h (B, T, H)`` of steps ``t`` on, ``(B, ., K)``.

        With ``ahead`` of the last of them: so many ``steps`` from ``t`` on.
        """
        before = F.pad(values, (self.reach, 0))  # value t stands at t + reach
        T = h.shape[1] if self.ahead is None else 1
        lags = before[:, t : t + T - 1 + self.reach].unfold(1, self.reach, 1)  # (B, T, R)
        return self._distribution_of(h, lags, self._known(x[:, t : t + steps]))

    def _distribution_of(self, h: Tensor, lags: Tensor, known: Tensor) -> Tensor:
        """The equations of p, with ``lags (B, T, R)`` and what is ``known (B, steps, .)``."""
        h = drop(h, self.dropout) if self.training and self.dropout else h
        if self.ahead is None:
            p, line = self.output(h), self.straight(lags)[..., 0]
        else:
            steps, D = known.shape[1], STEP_FEATURES
            weight, bias = self.steps.weight[: steps * D], self.steps.bias[: steps * D]
            a = F.linear(h[:, -1], weight, bias).view(len(h), steps, D)
            if self.known is not None:
                a = a + self.known(known)
            p = self.output(a.relu())
            line = F.linear(lags[:, 0], self.straight.weight[:steps])
        return torch.cat([p[..., :1] + line[..., None], p[..., 1:]], -1)


def _gather(rows: Tensor, at: Tensor) -> Tensor:
    """Of ``rows (B, T, F)`` those at steps ``at (B, L)``."""
    return rows.gather(1, at[..., None].expand(-1, -1, rows.shape[-1]))


def _features(kinds: int) -> int:
    """Features of one of so many kinds."""
    return min(8, (kinds + 1) // 2) if kinds else 1


class Committee(nn.Module):
    """Several forecasting networks that learn the same and differ where the data do not tell.

    Together they are more accurate than one, and how much they differ is part of how unsure they
    are (Lakshminarayanan, Pritzel and Blundell 2017, "Deep ensembles").

    Args:
        members: networks, alike but for their weights.
    """

    def __init__(self, members: Sequence[ForecastNetwork]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor, lengths: Lengths = None) -> tuple[Tensor, None]:
        """What each foretells, ``(members, B, ahead, K)``."""
        return torch.stack([member(x)[0] for member in self.members]), None

    def loss(self, x: Tensor, targets: Tensor, *, lengths: Lengths = None) -> tuple[Tensor, None]:
        """Mean of their losses."""
        losses = [cast(ForecastNetwork, member).loss(x, targets)[0] for member in self.members]
        return torch.stack(losses).mean(), None
