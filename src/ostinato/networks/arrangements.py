"""Arrangements of an encoder, recurrent layers and an output: many to many, many to one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple, TypeGuard, get_args

import torch
from torch import Tensor, nn

from ostinato.errors import OstinatoError, check_choice
from ostinato.networks.convolution import BandConvolutions, Convolutions
from ostinato.networks.functional import (
    Lengths,
    WithState,
    drop,
    drop_features,
    running,
    zero_padding,
)
from ostinato.networks.outputs import Output, Steps
from ostinato.recurrence.cells import (
    Cell,
    GRUCell,
    LSTMCell,
    RNNCell,
    ZoneoutCell,
    cell_named,
    name_of,
)
from ostinato.recurrence.cells import CellChoice as CellChoice
from ostinato.recurrence.cells import CellName as CellName
from ostinato.recurrence.dropin import GRU, LSTM, RNN
from ostinato.recurrence.layers import Hidden, Recurrent

PoolingKind = Literal["last", "mean", "max", "attention"]


class _Network(nn.Module):
    """Base of the recurrent arrangements: an encoder, recurrent layers, an output."""

    def __init__(
        self,
        encode: nn.Module,
        recurrent: Recurrent,
        output: Output,
        dropout: float = 0.0,
        convolutions: Convolutions | None = None,
        front: BandConvolutions | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if not recurrent.batch_first:
            raise OstinatoError(f"{name}: recurrent has batch_first=False; expected True.")
        if front is not None and not recurrent.bidirectional:
            raise OstinatoError(
                f"{name}: the recurrent layers see no later step, but the front does; expected "
                "front=None."
            )
        if front is not None and front.output_size != recurrent.input_size:
            raise OstinatoError(
                f"{name}: recurrent has {recurrent.input_size} input features; expected "
                f"{front.output_size}, the output size of the front."
            )
        size, what = recurrent.output_size, "output size of the recurrent layers"
        if convolutions is not None:
            size, what = size + convolutions.output_size, f"{what} and of the convolutions"
            if not (convolutions.causal or recurrent.bidirectional):
                raise OstinatoError(
                    f"{name}: the recurrent layers see no later step, but the convolutions do; "
                    "expected Convolutions(causal=True)."
                )
        _check_output(name, output, size, what)
        self.encode = encode
        self.recurrent = recurrent
        self.front = front
        self.convolutions = convolutions
        self.output = output
        self.dropout = dropout

    @property
    def features(self) -> int:
        """Features of an encoded step."""
        return self.recurrent.input_size if self.front is None else self.front.bands

    def hidden(self, x: Any, state: Hidden = None, *, lengths: Lengths = None) -> WithState:
        """Return the hidden states of every step, ``(B, T, H)``, and the state after the last."""
        x = zero_padding(x, lengths)  # padding must not reach the encoder either
        whole = (self.training and self.dropout > 0) or self.convolutions is not None
        if not whole and _is_plain_lookup(self.encode) and x.dim() == 2:
            h, state = self.recurrent(x, state, lengths=lengths, table=self.encode.weight)
            return h, state
        v = self._encode(x)
        if self.front is not None:
            v = self.front(v, lengths)
        h, state = self.recurrent(v, state, lengths=lengths)
        if self.convolutions is not None:
            h = torch.cat([h, self.convolutions(v, lengths)], dim=-1)
        return h, state

    def _encode(self, x: Any) -> Tensor:
        return drop_features(self.encode(x), self.dropout, self.training)  # (B, T, I)


class ManyToMany(_Network):
    """An output for every step of the input.

    Args:
        encode: encodes the input as vectors ``(B, T, I)``: `nn.Embedding` for tokens, `WordEncoder`
            for words, `Standardize` for measurements, `nn.Identity` for vectors.
        recurrent: the recurrent layers, with ``batch_first=True``.
        output: maps hidden states to scores.
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

    def forward(self, x: Any, state: Hidden = None, *, lengths: Lengths = None) -> WithState:
        """Return scores ``(B, T, K)`` and the state after the last step."""
        h, state = self.hidden(x, state, lengths=lengths)
        return self.output(h), state

    def step(self, x_t: Tensor, state: Hidden = None) -> WithState:
        """Return scores ``(B, K)`` for one step ``x_t (B, ...)`` of a stream, and the new state."""
        h, state = self.recurrent.step(self._encode(x_t[:, None])[:, 0], state)
        return self.output(h), state

    def loss(
        self,
        x: Any,
        targets: Tensor,
        state: Hidden = None,
        *,
        lengths: Lengths = None,
        steps: Steps = "all",
    ) -> WithState:
        """Compute the mean loss over the selected steps, and the state after the last step.

        Args:
            x: input ``(B, T, ...)``.
            targets: targets of every step, ``(B, T)`` or ``(B, T, K)``; with ``steps="last"`` also
                ``(B,)`` or ``(B, K)``.
            state: the state before the first step.
            lengths: steps of each row ``(B,)``; padding is ignored.
            steps: ``"all"``, ``"last"`` (each row's last true step) or step numbers from 0.
        """
        h, state = self.hidden(x, state, lengths=lengths)
        return self.output.mean_loss(h, targets, lengths, steps), state


class PooledState(NamedTuple):
    """State of a `ManyToOne` in a stream.

    Attributes:
        hidden: state of the recurrent layers.
        pooled: pooled hidden state of the steps so far, ``(B, H)``.
        weight: number of steps so far, or the logarithm of the sum of their weights, ``(B, 1)``.
        recent: encoded steps that convolutions still look at, ``(B, reach, I)`` or fewer.
    """

    hidden: Hidden
    pooled: Tensor
    weight: Tensor
    recent: Tensor | None = None


class ManyToOne(_Network):
    """One output for a whole sequence: a class, several labels, or numbers.

    Args:
        encode: as in `ManyToMany`.
        recurrent: the recurrent layers, with ``batch_first=True``.
        output: maps the pooled hidden state to scores.
        pooling: how hidden states are pooled: ``last``, that of each row's last true step (of the
            first for a backward direction), of residual layers without the input that the last of
            them adds; ``mean`` or ``max`` over its true steps;
            ``attention``, a mean weighted by attention (Yang et al. 2016, "Hierarchical attention
            networks", eq. 5-7, with a learned query).
        dropout: as in `ManyToMany`.
        convolutions: beside the recurrent layers; their features follow the hidden state of each
            step. Causal, unless the layers are bidirectional; a state that is passed on to whole
            sequences does not hold what they saw.
        front: between the encoder and the recurrent layers, which must be bidirectional.

    For a row without steps the initial state (``last``) or zeros are used.

    Example:
        >>> recurrent = LSTM(3, 8, batch_first=True, bidirectional=True)
        >>> network = ManyToOne(nn.Identity(), recurrent, Output(16, 5), pooling="max")
        >>> y, state = network(torch.randn(2, 7, 3), lengths=[7, 4])
        >>> loss, state = network.loss(torch.randn(2, 7, 3), torch.tensor([4, 0]), lengths=[7, 4])
        >>> y.shape, loss.shape
        (torch.Size([2, 5]), torch.Size([]))
    """

    def __init__(
        self,
        encode: nn.Module,
        recurrent: Recurrent,
        output: Output,
        pooling: PoolingKind = "last",
        dropout: float = 0.0,
        convolutions: Convolutions | None = None,
        front: BandConvolutions | None = None,
    ) -> None:
        super().__init__(encode, recurrent, output, dropout, convolutions, front)
        check_choice("ManyToOne: pooling", pooling, get_args(PoolingKind))
        self.pooling = pooling
        if pooling == "attention":
            H = output.linear.in_features
            self.attention = nn.Sequential(nn.Linear(H, H), nn.Tanh(), nn.Linear(H, 1, bias=False))

    def forward(self, x: Any, state: Hidden = None, *, lengths: Lengths = None) -> WithState:
        """Return scores ``(B, K)`` and the state after the last step."""
        h, after = self.hidden(x, state, lengths=lengths)
        return self.output(self._pooled(h, after, lengths)), after

    def loss(
        self, x: Any, targets: Tensor, state: Hidden = None, *, lengths: Lengths = None
    ) -> WithState:
        """Compute the mean loss over rows with ``targets (B,)`` or ``(B, K)``, and the state."""
        y, state = self(x, state, lengths=lengths)
        return self.output.loss(y, targets).mean(), state

    def step(self, x_t: Any, state: PooledState | None = None) -> tuple[Tensor, PooledState]:
        """Return scores ``(B, K)`` for a stream up to ``x_t (B, ...)``, and the new state."""
        v = self._encode(x_t[:, None])  # (B, 1, I)
        recent: Tensor | None = None
        h, hidden = self.recurrent.step(v[:, 0], None if state is None else state.hidden)
        if self.pooling == "last":
            h = self.recurrent.last_hidden(hidden)[0]
        if self.convolutions is not None:
            before = v[:, :0] if state is None or state.recent is None else state.recent
            recent = torch.cat([before, v], dim=1)[:, -self.convolutions.reach :]
            h = torch.cat([h, self.convolutions(recent)[:, -1]], dim=-1)
        pooled = h
        weight = self.attention(h) if self.pooling == "attention" else torch.ones_like(h[:, :1])
        if state is not None and self.pooling == "mean":
            weight = state.weight + 1
            pooled = state.pooled + (h - state.pooled) / weight
        elif state is not None and self.pooling == "max":
            pooled = torch.maximum(state.pooled, h)
        elif state is not None and self.pooling == "attention":
            total = torch.logaddexp(state.weight, weight)
            pooled = state.pooled + (h - state.pooled) * (weight - total).exp()
            weight = total
        return self.output(pooled), PooledState(hidden, pooled, weight, recent)

    def _pooled(self, h: Tensor, after: Hidden, lengths: Lengths) -> Tensor:
        """Pool the hidden states of each sequence, ``(B, H)``."""
        if self.pooling == "last":
            parts = [*self.recurrent.last_hidden(after).unbind(0)]
            if self.convolutions is not None:
                parts.append(_last(h[..., self.recurrent.output_size :], lengths))
            return torch.cat(parts, dim=-1)
        if h.shape[1] == 0:
            return h.new_zeros(h.shape[0], h.shape[2])
        counts = None if lengths is None else running(h, lengths)[..., None]  # (B, T, 1)
        if self.pooling == "mean":
            return _mean(h, counts)
        if self.pooling == "max":
            if counts is None:
                return h.amax(1)
            best = h.masked_fill(~counts, -torch.inf).amax(1)
            return torch.where(counts.any(1), best, 0.0)
        weights = self.attention(h)  # (B, T, 1)
        if counts is not None:
            # Where no step counts the weights do not matter: hidden states of padding are zero.
            weights = weights.masked_fill(~counts & counts.any(1, keepdim=True), -torch.inf)
        pooled: Tensor = weights.softmax(1).transpose(1, 2) @ h  # (B, 1, H)
        return pooled[:, 0]


class OneToOne(nn.Module):
    """A baseline without recurrence: each step by itself, through layers of ReLU units.

    Args:
        encode: as in `ManyToMany`.
        input_size: features of an encoded step.
        hidden_sizes: units of each layer; none for a linear model.
        output: maps the last layer to scores.
        dropout: probability of zeroing a unit while training.
        pooled: a single output for all steps, from the mean of their last layers; such as for an
            image that is a single step.

    Example:
        >>> network = OneToOne(nn.Identity(), 3, [16], Output(16, 5))
        >>> network(torch.randn(2, 7, 3))[0].shape
        torch.Size([2, 7, 5])
    """

    def __init__(
        self,
        encode: nn.Module,
        input_size: int,
        hidden_sizes: Sequence[int],
        output: Output,
        dropout: float = 0.0,
        *,
        pooled: bool = False,
    ) -> None:
        super().__init__()
        sizes = [input_size, *hidden_sizes]
        _check_output("OneToOne", output, sizes[-1], "size of the last layer")
        self.encode = encode
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))
        self.output = output
        self.dropout = dropout
        self.pooled = pooled

    def forward(self, x: Any, state: None = None, *, lengths: Lengths = None) -> WithState:
        """Return scores ``(B, T, K)`` or ``(B, K)``; and None in place of a state."""
        h, _ = self.hidden(x, lengths=lengths)
        return self.output(h), None

    def loss(
        self, x: Any, targets: Tensor, state: None = None, *, lengths: Lengths = None
    ) -> WithState:
        """Compute the mean loss over rows or steps; see `ManyToOne` and `ManyToMany`."""
        h, _ = self.hidden(x, lengths=lengths)
        if self.pooled:
            return self.output.loss(self.output(h), targets).mean(), None
        return self.output.mean_loss(h, targets, lengths), None

    def hidden(self, x: Any, state: None = None, *, lengths: Lengths = None) -> WithState:
        """Return the last layer's units, ``(B, T, H)``, or their mean ``(B, H)``; and None."""
        h = self.encode(zero_padding(x, lengths))
        for layer in self.layers:
            h = drop(layer(h).relu(), self.dropout, self.training)
        if not self.pooled:
            return h, None
        return _mean(h, None if lengths is None else running(h, lengths)[..., None]), None


def _check_output(name: str, output: Output, size: int, what: str) -> None:
    if output.linear.in_features != size:
        raise OstinatoError(
            f"{name}: output has {output.linear.in_features} input features; expected {size}, "
            f"the {what}."
        )


def _mean(h: Tensor, counts: Tensor | None) -> Tensor:
    """Return the mean of ``h (B, T, H)`` over the counted steps, ``(B, H)``; zeros if none."""
    if counts is None:
        return h.mean(1)
    return torch.where(counts, h, 0.0).sum(1) / counts.sum(1).clamp(min=1)


def _last(h: Tensor, lengths: Lengths) -> Tensor:
    """Return the last true step of each row of ``h (B, T, H)``, ``(B, H)``; zeros if none."""
    h = torch.cat([h.new_zeros(h.shape[0], 1, h.shape[2]), h], dim=1)
    if lengths is None:
        return h[:, -1]
    return h[torch.arange(len(h)), torch.as_tensor(lengths)]


def _is_plain_lookup(encode: nn.Module) -> TypeGuard[nn.Embedding]:
    """Return whether calling it only selects rows of its weight."""
    if type(encode) is not nn.Embedding:
        return False
    special = (encode.padding_idx, encode.max_norm) != (None, None) or encode.sparse
    hooked = encode._forward_hooks or encode._forward_pre_hooks or encode._backward_hooks
    return not (special or encode.scale_grad_by_freq or hooked)


def recurrent_layers(
    cell: CellChoice,
    input_size: int,
    hidden_size: int,
    num_layers: int = 1,
    zoneout: float = 0.0,
    **options: Any,
) -> Recurrent:
    """Make recurrent layers by the name of their cell, ``(B, T, features)``.

    Args:
        cell: such as lstm; ``rnn-relu`` starts from the identity, without which it does not learn.
            Or a class, or an instance, whose sizes do not count.
        input_size: features of a step.
        hidden_size: hidden units of each layer and direction.
        num_layers: layers.
        zoneout: rate of a `ZoneoutCell` around the cell.
        options: further arguments of `Recurrent`.

    >>> recurrent_layers("gru", 8, 16)
    GRU(8, 16, batch_first=True)
    >>> recurrent_layers("mgu", 8, 16).cells
    (MGUCell(input_size=8, hidden_size=16, bias=True),)
    """
    make, arguments = cell_named(name_of(cell))
    sizes = (input_size, hidden_size)
    if cell == "rnn-relu":
        options["init"] = "identity"
    options |= {"num_layers": num_layers, "batch_first": True}
    if make in _DROP_INS and not zoneout:
        if make is RNNCell:
            arguments = {"nonlinearity": arguments.get("activation", "tanh")}
        return _DROP_INS[make](*sizes, **arguments, **options)
    try:
        made = make(*sizes, **arguments)
    except TypeError as error:
        raise OstinatoError(f"cell={cell!r:.200} cannot be made: {error}.") from error
    return Recurrent(ZoneoutCell(made, zoneout) if zoneout else made, **options)


_DROP_INS: dict[Callable[..., Cell], Callable[..., Recurrent]] = {
    RNNCell: RNN,
    LSTMCell: LSTM,
    GRUCell: GRU,
}
