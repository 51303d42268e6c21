"""A cell whose memory is a matrix, over whole sequences by products of chunks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn.functional import linear, logsigmoid

from ostinato.errors import OstinatoError
from ostinato.recurrence.cells.base import Cell, State, Weights, named, register_state
from ostinato.recurrence.cells.initialization import Initialization


@register_state
class MatrixState(NamedTuple):
    """State of an `MLSTMCell`: ``h (B, H)``, the matrices ``c``, sums ``n``, the scale ``m``."""

    h: Tensor
    c: Tensor
    n: Tensor
    m: Tensor


@named("mlstm")
@dataclass(frozen=True)
class MLSTMCell(Cell):
    """mLSTM of xLSTM: a matrix memory of values under keys, with exponential input gates.

    ::

        q, k, v = W_* x_t + b_*, in heads of d features; k divided by sqrt(d)
        i, f    = W_* x_t + b_*, one number a head;  o = sigmoid(W_o x_t + b_o)
        m_t     = max(log(sigmoid(f)) + m_(t-1), i)
        C_t     = exp(log(sigmoid(f)) + m_(t-1) - m_t) C_(t-1) + exp(i - m_t) v k^T
        n_t     = exp(log(sigmoid(f)) + m_(t-1) - m_t) n_(t-1) + exp(i - m_t) k
        h_t     = o * C_t q / max(|n_t q|, exp(-m_t))

    Args:
        heads: memories side by side, of which each has H / heads features.

    ``c`` holds each head's C row by row. ``weight_ih`` has the blocks ``q k v o``, then ``i`` and
    ``f``. M. Beck et al. 2024, "xLSTM: Extended long short-term memory", equations 19 to 27; m
    keeps exponentials in range and does not change h. The weights of i and f start at 0, the biases
    of f at 3 to 6, head by head, those of i normal with deviation 0.1, other matrices normal with
    variance 2 / (5 I), as in the authors' code. A sequence is computed in chunks of products, as in
    attention, with the state passed from chunk to chunk.
    """

    heads: int = 4

    state_type: ClassVar[type[State]] = MatrixState
    has_identity = False
    chunk: ClassVar[int] = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.heads, int) or self.heads < 1 or self.hidden_size % self.heads:
            raise OstinatoError(
                f"MLSTMCell: heads={self.heads!r}, hidden_size={self.hidden_size}; expected a "
                "number of heads that divides the hidden size."
            )

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """Features of h, c, n and m."""
        H = self.hidden_size
        return (H, H * (H // self.heads), H, self.heads)

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the matrix of the input and its bias."""
        rows = 4 * self.hidden_size + 2 * self.heads
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, self.input_size)}
        return shapes | ({"bias_ih": (rows,)} if self.bias else {})

    def project(self, w: Weights, x: Tensor) -> Tensor:
        """W_ih x + b_ih: (..., I) -> (..., 4H + 2 heads)."""
        return linear(x, w["weight_ih"], w.get("bias_ih"))

    def _parts(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return q, k, v ``(..., heads, d)``, o ``(..., H)``, i and log f ``(..., heads)``."""
        H, heads = self.hidden_size, self.heads
        q, k, v, o, i, f = torch.split(x, [H] * 4 + [heads] * 2, dim=-1)
        q, k, v = (_parted(each, heads) for each in (q, k, v))
        return q, k * (H // heads) ** -0.5, v, o.sigmoid(), i, logsigmoid(f)

    def step(self, w: Weights, x_t: Tensor, state: State) -> MatrixState:
        _, c, n, m = cast(MatrixState, state)
        q, k, v, o, i, f = self._parts(x_t)
        d = q.shape[-1]
        c, n = _parted(c, self.heads, d), _parted(n, self.heads)
        m_before, m = m, torch.maximum(f + m, i)
        kept, taken = (f + m_before - m).exp()[..., None], (i - m).exp()[..., None]
        c = kept[..., None] * c + taken[..., None] * v[..., None] * k[..., None, :]
        n = kept * n + taken * k
        size = _norm((n * q).sum(-1), m)
        h = o * ((c * q[..., None, :]).sum(-1) / size[..., None]).flatten(-2)
        return MatrixState(h, c.flatten(-3), n.flatten(-2), m)

    def scan(
        self, w: Weights, x: Tensor, state: State, running: Tensor | None
    ) -> tuple[Tensor, MatrixState]:
        """Run over ``x (T, B, I)``; steps that are not ``running (T, B, 1)`` do nothing.

        The equations of `step` for all steps of a chunk: with F_t = log f_1 + ... + log f_t, step s
        has the weight exp(F_t - F_s + i_s - m_t) in C_t, and the state before the chunk exp(F_t +
        m_0 - m_t).
        """
        h, c, n, m = cast(MatrixState, state)
        d = self.hidden_size // self.heads
        c, n = _parted(c, self.heads, d), _parted(n, self.heads)
        outputs = []
        for t, part in enumerate(torch.split(self.project(w, x), self.chunk)):
            q, k, v, o, i, f = self._parts(part)
            if running is not None:
                now = running[t * self.chunk : t * self.chunk + len(part)]
                i, f = i.masked_fill(~now, -math.inf), f.masked_fill(~now, 0.0)
            q, k, v = (each.permute(1, 2, 0, 3) for each in (q, k, v))  # (B, heads, L, d)
            i, f = i.permute(1, 2, 0), f.permute(1, 2, 0).cumsum(-1)  # (B, heads, L)
            weights = f[..., :, None] - f[..., None, :] + i[..., None, :]  # of s, at t
            later = torch.ones_like(weights[0, 0], dtype=torch.bool).triu(1)
            weights = weights.masked_fill(later, -math.inf)
            before = f + m[..., None]
            scale = torch.maximum(before, weights.amax(-1))  # m_t
            weights, before = (weights - scale[..., None]).exp(), (before - scale).exp()
            scores = weights * (q @ k.transpose(-1, -2))
            found = scores @ v + before[..., None] * (q @ c.transpose(-1, -2))
            sums = scores.sum(-1) + before * (q @ n[..., None])[..., 0]
            size = _norm(sums, scale)
            out = (found / size[..., None]).permute(2, 0, 1, 3).flatten(-2)
            outputs.append(o * out)  # (L, B, H)
            last = weights[..., -1, :, None]
            c = before[..., -1, None, None] * c + (last * v).transpose(-1, -2) @ k
            n = before[..., -1, None] * n + (last * k).sum(-2)
            m = scale[..., -1]
        y = torch.cat(outputs)
        if running is None:
            h = y[-1]
        else:
            y = torch.where(running, y, 0.0)
            lengths = running[..., 0].sum(0)
            ends = y[(lengths - 1).clamp_min(0), torch.arange(len(lengths), device=y.device)]
            h = torch.where(lengths[:, None] > 0, ends, h)
        return y, MatrixState(h, c.flatten(-3), n.flatten(-2), m)

    def initialize(self, w: Weights, how: Initialization = "pytorch", steps: int = 100) -> None:
        """Initialise the weights as the authors do; matrices by another recipe if one is named."""
        super().initialize(w, how, steps)
        gates = 2 * self.heads
        with torch.no_grad():
            if how == "pytorch":
                w["weight_ih"].normal_(std=math.sqrt(2 / (5 * self.input_size)))
            w["weight_ih"][-gates:].zero_()
            if self.bias:
                w["bias_ih"][:-gates].zero_()
                w["bias_ih"][-gates : -self.heads].normal_(std=0.1)
                w["bias_ih"][-self.heads :].copy_(torch.linspace(3, 6, self.heads))


def _parted(x: Tensor, *sizes: int) -> Tensor:
    """Return x with its last axis cut into axes of these sizes and the rest."""
    return x.reshape(*x.shape[:-1], *sizes, -1)


def _norm(sums: Tensor, m: Tensor) -> Tensor:
    """max(|sums|, exp(-m)), which is finite."""
    most = math.log(torch.finfo(m.dtype).max) - 1
    return torch.maximum(sums.abs(), (-m).clamp_max(most).exp())
