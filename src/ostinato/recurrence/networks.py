"""The arrangements: a recurrent layer with what goes in before it and what comes out after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeGuard, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ostinato.errors import OstinatoError, ShapeError
from ostinato.recurrence.layers import GRU, LSTM, RNN, Hidden, Recurrent

OutputKind = Literal["category", "number", "probability"]
Steps = Literal["all", "last"] | Sequence[int]


def drop(x: Tensor, p: float) -> Tensor:
    """Zero each element with probability p, and scale the others by 1 / (1 - p).

    On a CPU some four times faster than PyTorch's: 16 random bits decide on an element, instead of
    a random number each, so that p counts in multiples of 2^-16.

    >>> y = drop(torch.ones(1000, 1000), 0.25)
    >>> sorted(y.unique().tolist()) == [0.0, torch.tensor(4 / 3).item()], round(y.mean().item(), 1)
    (True, 1.0)
    """
    threshold = round(p * 2**16)
    eager = x.device.type == "cpu" and type(x) in (Tensor, nn.Parameter)
    if not eager or torch.compiler.is_compiling() or not 0 < threshold < 2**16:
        return F.dropout(x, p)
    numbers = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    bits = numbers.view(torch.int16)[: x.numel()].view(x.shape)
    return x * (bits >= threshold - 2**15).to(x.dtype).mul_(2**16 / (2**16 - threshold))


class Output(nn.Module):
    """y_t = W_hy h_t + b_y, and what it means: a category, a number, or probabilities.

    Args:
        hidden_size: features of ``h_t``.
        size: categories, numbers or probabilities a step, ``K``.
        kind: ``category``, one of K by softmax; ``number``, K numbers, linear; ``probability``,
            K independent yes-or-no units by sigmoid.
        dropout: probability of zeroing a feature of ``h_t`` while training.

    Example:
        >>> output = Output(4, 3, "category")
        >>> y = output(torch.randn(2, 5, 4))                       # scores, (B, T, K)
        >>> output.predict(y).sum(-1).allclose(torch.ones(2, 5))   # probabilities of categories
        True
    """

    def __init__(
        self, hidden_size: int, size: int, kind: OutputKind = "category", dropout: float = 0.0
    ) -> None:
        super().__init__()
        if kind not in get_args(OutputKind):
            raise OstinatoError(
                f"Output: kind={kind!r}; expected one of {', '.join(get_args(OutputKind))}."
            )
        if not 0 <= dropout <= 1:
            raise OstinatoError(f"Output: dropout={dropout}; expected a probability from 0 to 1.")
        self.kind = kind
        self.dropout = dropout
        self.linear = nn.Linear(hidden_size, size)

    def forward(self, h: Tensor) -> Tensor:
        """Scores ``(..., K)`` of hidden states ``(..., H)``; `predict` makes sense of them."""
        h = drop(h, self.dropout) if self.training and self.dropout else h
        y: Tensor = self.linear(h)
        return y

    def predict(self, y: Tensor) -> Tensor:
        """Probabilities, or numbers, ``(..., K)``, of scores ``(..., K)``."""
        if self.kind == "category":
            return y.softmax(-1)
        return y.sigmoid() if self.kind == "probability" else y

    def loss(self, y: Tensor, targets: Tensor) -> Tensor:
        """Loss of every step, ``(...)``: nats for categories, nats or squares summed over K else.

        Args:
            y: scores ``(..., K)``.
            targets: category numbers ``(...)``; or numbers, or 0 and 1, ``(..., K)``.
        """
        wanted = y.shape[:-1] if self.kind == "category" else y.shape
        if targets.shape != wanted:
            raise ShapeError(
                f"Output.loss: targets has shape {tuple(targets.shape)}; expected {tuple(wanted)}."
            )
        if self.kind == "category":
            flat = y.reshape(-1, y.shape[-1]), targets.reshape(-1)
            # No number means "ignore": which steps count is said by `lengths` and `steps`.
            losses = F.cross_entropy(*flat, reduction="none", ignore_index=-(2**31))
            return losses.view(targets.shape)
        if self.kind == "probability":
            return F.binary_cross_entropy_with_logits(y, targets, reduction="none").sum(-1)
        return F.mse_loss(y, targets, reduction="none").sum(-1)


class ManyToMany(nn.Module):
    """An output for every step of the input: in step, one- or two-directional.

    Args:
        encode: what makes vectors ``(B, T, I)`` of the input; `nn.Embedding` for tokens,
            `nn.Identity` for vectors.
        recurrent: the recurrent layers, with ``batch_first=True``.
        output: what makes answers of hidden states.
        dropout: probability of zeroing a feature of the encoded input while training; the mask
            stays the same over time.

    Example:
        >>> network = ManyToMany(nn.Embedding(5, 8), LSTM(8, 16, batch_first=True), Output(16, 5))
        >>> tokens = torch.randint(5, (2, 7))
        >>> y, state = network(tokens)
        >>> loss, state = network.loss(tokens[:, :-1], tokens[:, 1:])
        >>> y.shape, loss.shape
        (torch.Size([2, 7, 5]), torch.Size([]))
    """

    def __init__(
        self, encode: nn.Module, recurrent: Recurrent, output: Output, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if not recurrent.batch_first:
            raise OstinatoError("ManyToMany: recurrent has batch_first=False; build it with True.")
        if output.linear.in_features != recurrent.output_size:
            raise OstinatoError(
                f"ManyToMany: the output takes {output.linear.in_features} features; "
                f"the recurrent layers give {recurrent.output_size}."
            )
        self.encode = encode
        self.recurrent = recurrent
        self.output = output
        self.dropout = dropout

    def forward(
        self, x: Tensor, state: Hidden = None, *, lengths: Tensor | Sequence[int] | None = None
    ) -> tuple[Tensor, Hidden]:
        """Scores ``(B, T, K)`` and the state after the last step."""
        h, state = self.hidden(x, state, lengths=lengths)
        return self.output(h), state

    def hidden(
        self, x: Tensor, state: Hidden = None, *, lengths: Tensor | Sequence[int] | None = None
    ) -> tuple[Tensor, Hidden]:
        """Hidden states of every step, ``(B, T, H)``, and the state after the last step."""
        if lengths is not None:
            # The encoder too must not meet what stands in padding, which may be anything.
            steps = torch.arange(x.shape[1], device=x.device)
            running = steps < torch.as_tensor(lengths).to(x.device)[:, None]  # (B, T)
            x = x.masked_fill(~running.view(*running.shape, *[1] * (x.dim() - 2)), 0)
        drops = self.training and self.dropout > 0
        if not drops and _is_plain_lookup(self.encode) and x.dim() == 2:
            h, state = self.recurrent(x, state, lengths=lengths, table=self.encode.weight)
        else:
            h, state = self.recurrent(self._encode(x), state, lengths=lengths)
        return h, state

    def step(self, x_t: Tensor, state: Hidden = None) -> tuple[Tensor, Hidden]:
        """Scores ``(B, K)`` of one step ``x_t (B, ...)`` of an endless stream, and the new state.

        Raises:
            OstinatoError: if the network is bidirectional, which needs the future.
        """
        h, state = self.recurrent.step(self._encode(x_t[:, None])[:, 0], state)
        return self.output(h), state

    def _encode(self, x: Tensor) -> Tensor:
        v: Tensor = self.encode(x)  # (B, T, I)
        if self.training and self.dropout:
            v = v * F.dropout(torch.ones_like(v[:, :1]), self.dropout)
        return v

    def loss(
        self,
        x: Tensor,
        targets: Tensor,
        state: Hidden = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        steps: Steps = "all",
    ) -> tuple[Tensor, Hidden]:
        """Mean loss over the steps that count, and the state after the last step.

        Args:
            x: input ``(B, T, ...)``.
            targets: what is wanted at every step, ``(B, T)`` or ``(B, T, K)``; with
                ``steps="last"`` also ``(B,)`` or ``(B, K)``.
            state: the state before the first step.
            lengths: steps of each row ``(B,)``; padding never counts.
            steps: ``"all"``, ``"last"`` (each row's last true step) or numbers of steps from 0.
        """
        B, T = x.shape[:2]
        h, state = self.hidden(x, state, lengths=lengths)
        if lengths is None and steps == "all":
            return self.output.loss(self.output(h), targets).mean(), state
        ends = torch.full((B,), T) if lengths is None else torch.as_tensor(lengths)
        ends = ends.to(x.device)[:, None]  # (B, 1)
        if steps == "last":
            t = (ends - 1).clamp(min=0)  # (B, 1)
            if targets.dim() == (1 if self.output.kind == "category" else 2):
                targets = targets[:, None].expand(B, T, *targets.shape[1:])
        else:
            chosen = torch.arange(T) if steps == "all" else torch.arange(T)[list(steps)]
            t = chosen.to(x.device).expand(B, -1)  # (B, chosen steps)
        rows = torch.arange(B, device=x.device)[:, None]
        counts = t < ends
        wanted = targets[rows, t]
        # Padding may hold anything, NaN included: a NaN that `where` hides has a NaN gradient.
        wanted = wanted.masked_fill(~counts.view(*counts.shape, *[1] * (wanted.dim() - 2)), 0)
        losses = self.output.loss(self.output(h[rows, t]), wanted)
        return torch.where(counts, losses, 0.0).sum() / counts.sum().clamp(min=1), state


def _is_plain_lookup(encode: nn.Module) -> TypeGuard[nn.Embedding]:
    """Whether calling it does no more than take rows of its weight."""
    if type(encode) is not nn.Embedding:
        return False
    special = (encode.padding_idx, encode.max_norm) != (None, None) or encode.sparse
    hooked = encode._forward_hooks or encode._forward_pre_hooks or encode._backward_hooks
    return not (special or encode.scale_grad_by_freq or hooked)


CellName = Literal["lstm", "gru", "gru-reset-before", "rnn", "rnn-relu"]


def recurrent_layers(
    cell: CellName,
    input_size: int,
    hidden_size: int | Sequence[int],
    num_layers: int = 1,
    **more: Any,
) -> Recurrent:
    """Recurrent layers by the name of their cell, ``(B, T, features)``.

    ``more`` goes to the layer. ``rnn-relu`` starts from the identity, which is what lets it learn.

    >>> recurrent_layers("gru", 8, 16)
    GRU(8, 16, batch_first=True)
    """
    if cell == "lstm":
        return LSTM(input_size, hidden_size, num_layers, batch_first=True, **more)
    if cell in ("gru", "gru-reset-before"):
        more["reset_after"] = cell == "gru"
        return GRU(input_size, hidden_size, num_layers, batch_first=True, **more)
    if cell == "rnn":
        return RNN(input_size, hidden_size, num_layers, batch_first=True, **more)
    if cell == "rnn-relu":
        more |= {"nonlinearity": "relu", "init": "identity"}
        return RNN(input_size, hidden_size, num_layers, batch_first=True, **more)
    raise OstinatoError(f"cell={cell!r}; expected one of {', '.join(get_args(CellName))}.")
