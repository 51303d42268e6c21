"""Outputs with a length of their own: an encoder reads, a decoder writes, attention in between.

Letters: ``S`` steps of the source, ``T`` of the target, ``M`` features of an encoded step, ``V``
tokens of the target. Two numbers beyond the tokens have a meaning: ``V`` ends a target, and
``V + 1`` stands before its first token.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ostinato.errors import OstinatoError, ShapeError
from ostinato.networks.attention import Attention, AttentionKind
from ostinato.networks.functional import Lengths, drop, running
from ostinato.recurrence.layers import Hidden, Recurrent, state_rows


class Encoded(NamedTuple):
    """A source as a decoder sees it.

    Attributes:
        memory: what may be attended to, ``(B, S, M)``.
        there: where there is something, ``(B, S)`` booleans.
        summary: what the decoder starts from, ``(B, M)``.
        tokens: numbers of the source's tokens, ``(B, S)``, where they may be copied.
    """

    memory: Tensor
    there: Tensor
    summary: Tensor
    tokens: Tensor | None = None

    def rows(self, index: Tensor) -> Encoded:
        """The source of other rows, ``index (N,)``."""
        return Encoded(*(None if t is None else t[index] for t in self))  # type: ignore[arg-type]


class Encoder(Protocol):
    """What makes a source into memory: any module with ``output_size`` that is called so."""

    output_size: int

    def __call__(self, x: Any, lengths: Lengths = None) -> Encoded:
        """Encode a batch."""


class RecurrentEncoder(nn.Module):
    """Reads the source with recurrent layers; its memory is every hidden state.

    Args:
        encode: what makes vectors ``(B, S, I)`` of the input.
        recurrent: the layers, with ``batch_first=True``; best in both directions.
        dropout: probability of zeroing a feature of the encoded input and of the memory while
            training.
        tied: whether tokens of the source are numbered as those of the target, so that they may be
            copied.

    The summary is the mean of the hidden states: it reaches the decoder from every step.

    Example:
        >>> from ostinato.recurrence.dropin import GRU
        >>> layers = GRU(8, 16, batch_first=True, bidirectional=True)
        >>> encoder = RecurrentEncoder(nn.Embedding(10, 8), layers)
        >>> encoded = encoder(torch.randint(10, (2, 5)), torch.tensor([5, 3]))
        >>> encoded.memory.shape, encoded.there.sum().item()
        (torch.Size([2, 5, 32]), 8)
    """

    def __init__(
        self, encode: nn.Module, recurrent: Recurrent, dropout: float = 0.0, *, tied: bool = False
    ) -> None:
        super().__init__()
        self.encode = encode
        self.recurrent = recurrent
        self.dropout = dropout
        self.tied = tied
        self.output_size = recurrent.output_size

    def forward(self, x: Any, lengths: Lengths = None) -> Encoded:
        """Encode ``x (B, S, ...)``."""
        there = running(x, lengths)  # (B, S)
        v = self.encode(x)
        if self.training and self.dropout:
            v = drop(v, self.dropout)
        h, _ = self.recurrent(v, lengths=lengths)
        summary = h.sum(1) / there.sum(1, keepdim=True).clamp(min=1).to(h.dtype)
        if self.training and self.dropout:
            h = drop(h, self.dropout)
        return Encoded(h, there, summary, x if self.tied else None)


class VectorEncoder(nn.Module):
    """A vector as a source of one step: what starts a decoder in one-to-many.

    Args:
        size: features of the vector.

    Example:
        >>> VectorEncoder(3)(torch.randn(2, 3)).memory.shape
        torch.Size([2, 1, 3])
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.output_size = size

    def forward(self, x: Tensor, lengths: Lengths = None) -> Encoded:
        """Encode ``x (B, M)``."""
        there = torch.ones(len(x), 1, dtype=torch.bool, device=x.device)
        return Encoded(x[:, None], there, x)


class DecoderState(NamedTuple):
    """What a decoder remembers: a value, whose rows may be reordered.

    Attributes:
        hidden: of the recurrent layers.
        fed: the last attentional vector, ``(B, H)``; what is fed back where inputs are fed.
        coverage: sum of the attention so far, ``(B, S)``; of no width where it is not kept.
    """

    hidden: Hidden
    fed: Tensor
    coverage: Tensor

    def rows(self, index: Tensor) -> DecoderState:
        """The state of other rows, ``index (N,)``."""
        return DecoderState(state_rows(self.hidden, index), self.fed[index], self.coverage[index])


class Written(NamedTuple):
    """What a decoder gives for a batch.

    Attributes:
        log_p: log-probabilities of tokens, ``(B, T, V + 1)``, the last that of the end.
        weights: attention, ``(B, T, S)``; None without.
        state: after the last step.
        covered: how much was attended to twice, ``(B, T)``; None without coverage.
    """

    log_p: Tensor
    weights: Tensor | None
    state: DecoderState
    covered: Tensor | None


class Decoder(nn.Module):
    """Writes tokens one after the other, from what an encoder made of a source.

    ::

        h_t  = recurrent([embedding of y_(t-1); h~_(t-1) where inputs are fed], h_(t-1))
        c_t  = attention(h_t, memory)
        h~_t = tanh(W_c [h_t; c_t])                         Luong et al. 2015, eq. 5
        p_t  = softmax(W_o h~_t + b)
        with copying: g p_t + (1 - g) attention on tokens, g = sigmoid(w [h~_t; c_t])
                                                            See et al. 2017, eq. 8 and 9

    Without input feeding and coverage all steps of a known target are had at once, on the compiled
    core.

    Args:
        tokens: V.
        recurrent: the layers, with ``batch_first=True``, in one direction; they take ``width``
            features, and the attentional vector's besides where inputs are fed.
        memory_size: M.
        width: features of a token's vector.
        attention: additive, multiplicative, or None: the summary alone starts the decoder.
        input_feeding: whether the attentional vector is part of the next input.
        coverage: whether attention heeds what was attended to before.
        copying: whether tokens of the source may be copied.
        tied: whether the output has the weights of the embedding (Press and Wolf 2017).
        dropout: probability of zeroing a feature of the embedding and of the attentional vector.
    """

    def __init__(
        self,
        tokens: int,
        recurrent: Recurrent,
        memory_size: int,
        width: int,
        attention: AttentionKind | None = "multiplicative",
        *,
        input_feeding: bool = False,
        coverage: bool = False,
        copying: bool = False,
        tied: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        H = recurrent.output_size
        wanted = width + (H if input_feeding else 0)
        if not recurrent.batch_first or recurrent.bidirectional or recurrent.input_size != wanted:
            raise OstinatoError(
                f"Decoder: recurrent is {recurrent}; expected batch_first=True, one direction, and "
                f"{wanted} input features: width{' and H, for input feeding' * input_feeding}."
            )
        if (coverage or copying) and attention is None:
            raise OstinatoError("Decoder: coverage and copying need attention.")
        self.tokens = tokens
        self.dropout = dropout
        self.input_feeding = input_feeding
        self.embedding = nn.Embedding(tokens + 2, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.recurrent = recurrent
        sizes = [size for cell in recurrent.cells for size in cell.state_sizes]
        self.start = nn.Linear(memory_size, sum(sizes))
        self.attention: Attention | None = None
        if attention is not None:
            self.attention = Attention(H, memory_size, attention, coverage=coverage)
            self.combine = nn.Linear(H + memory_size, H)
        self.shape = nn.Linear(H, width) if tied and width != H else None
        self.tied = tied
        self.output = nn.Linear(width if tied else H, tokens + 1)
        if tied:
            del self.output.weight
            self.output.register_parameter("weight", None)
        self.copying = nn.Linear(H + memory_size, 1) if copying else None

    @property
    def covers(self) -> bool:
        """Whether attention heeds what was attended to before."""
        return self.attention is not None and self.attention.covered is not None

    @property
    def end(self) -> int:
        """The number that ends a target."""
        return self.tokens

    @property
    def begin(self) -> int:
        """The number that stands before the first token."""
        return self.tokens + 1

    def begun(self, encoded: Encoded) -> DecoderState:
        """The state before the first token."""
        B, S = encoded.there.shape
        parts = iter(
            self.start(encoded.summary)
            .tanh()
            .split([size for cell in self.recurrent.cells for size in cell.state_sizes], dim=-1)
        )
        states = [
            cell.state_type(*(next(parts)[None] for _ in cell.state_sizes))
            for cell in self.recurrent.cells
        ]
        fed = encoded.memory.new_zeros(B, self.recurrent.output_size)
        coverage = encoded.memory.new_zeros(B, S if self.covers else 0)
        return DecoderState(self.recurrent.join_state(states, False), fed, coverage)

    def forward(
        self,
        inputs: Tensor,
        encoded: Encoded,
        state: DecoderState | None = None,
        keys: Tensor | None = None,
    ) -> Written:
        """Log-probabilities of what follows each of ``inputs (B, T)``.

        Args:
            inputs: `begin`, then the tokens so far.
            encoded: the source.
            state: after what was written before; None to begin.
            keys: of the attention, where they are at hand; see `keys_of`.
        """
        state = self.begun(encoded) if state is None else state
        keys = self.keys_of(encoded) if keys is None else keys
        v = self.embedding(inputs)  # (B, T, width)
        v = drop(v, self.dropout) if self.training and self.dropout else v
        if not self.input_feeding and not self.covers:
            h, hidden = self.recurrent(v, state.hidden)
            a, context, weights = self._attend(h, encoded, keys, None)
            log_p = self._log_p(a, context, weights, encoded)
            return Written(log_p, weights, DecoderState(hidden, a[:, -1], state.coverage), None)
        found: list[Written] = []
        for t in range(inputs.shape[1]):
            v_t = v[:, t : t + 1]
            if self.input_feeding:
                v_t = torch.cat([v_t, state.fed[:, None]], -1)
            h, hidden = self.recurrent(v_t, state.hidden)
            a, context, weights = self._attend(h, encoded, keys, state.coverage)
            log_p = self._log_p(a, context, weights, encoded)
            covered, coverage = None, state.coverage
            if self.covers and weights is not None:
                covered = torch.minimum(weights[:, 0], coverage).sum(-1, keepdim=True)
                coverage = coverage + weights[:, 0]
            state = DecoderState(hidden, a[:, 0], coverage)
            found.append(Written(log_p, weights, state, covered))
        return Written(
            torch.cat([w.log_p for w in found], 1),
            _joined([w.weights for w in found]),
            state,
            _joined([w.covered for w in found]),
        )

    def keys_of(self, encoded: Encoded) -> Tensor | None:
        """What the attention makes of the memory, once for all steps."""
        return None if self.attention is None else self.attention.keys(encoded.memory)

    def _attend(
        self, h: Tensor, encoded: Encoded, keys: Tensor | None, coverage: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The attentional vector ``(B, T, H)``, the context and the weights."""
        if self.attention is None or keys is None:
            context = weights = None
            a = h
        else:
            context, weights = self.attention(h, keys, encoded.memory, encoded.there, coverage)
            a = self.combine(torch.cat([h, context], -1)).tanh()
        return (drop(a, self.dropout) if self.training and self.dropout else a), context, weights

    def _log_p(
        self, a: Tensor, context: Tensor | None, weights: Tensor | None, encoded: Encoded
    ) -> Tensor:
        w = a if self.shape is None else self.shape(a)
        if self.tied:
            scores = F.linear(w, self.embedding.weight[: self.tokens + 1], self.output.bias)
        else:
            scores = self.output(w)
        log_p: Tensor = scores.log_softmax(-1)
        if self.copying is None or weights is None or context is None:
            return log_p
        if encoded.tokens is None:
            raise OstinatoError(
                "Decoder: copying=True, but the source's tokens are not known; build the encoder "
                "with tied=True."
            )
        g = self.copying(torch.cat([a, context], -1))  # (B, T, 1)
        index = encoded.tokens[:, None].expand_as(weights).clamp(max=self.tokens)
        copied = torch.zeros_like(log_p).scatter_add(-1, index, weights)
        tiny = torch.finfo(log_p.dtype).tiny
        return torch.logaddexp(
            F.logsigmoid(g) + log_p, F.logsigmoid(-g) + copied.clamp(min=tiny).log()
        )


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    return None if not parts or parts[0] is None else torch.cat(cast("list[Tensor]", parts), 1)


class EncoderDecoder(nn.Module):
    """Many to many of different lengths: an encoder reads the source, a decoder writes the target.

    Args:
        encoder: `RecurrentEncoder`; or `ImageEncoder` or `VectorEncoder`, which makes it one to
            many.
        decoder: what writes.
        label_smoothing: share of the probability that is asked of all tokens alike while training
            (Szegedy et al. 2016; Vaswani et al. 2017).
        coverage_weight: of attending to the same steps again in the loss (See et al. 2017, eq. 13).

    Example:
        >>> from ostinato.recurrence.dropin import GRU
        >>> encoder = RecurrentEncoder(nn.Embedding(10, 8), GRU(8, 16, batch_first=True))
        >>> decoder = Decoder(12, GRU(8, 16, batch_first=True), encoder.output_size, 8)
        >>> network = EncoderDecoder(encoder, decoder)
        >>> x, y = torch.randint(10, (2, 5)), torch.randint(12, (2, 7))
        >>> loss, _ = network.loss(x, y, lengths=[5, 3], target_lengths=[7, 2])
        >>> loss.shape
        torch.Size([])
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: Decoder,
        label_smoothing: float = 0.0,
        coverage_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise OstinatoError(
                f"EncoderDecoder: label_smoothing={label_smoothing}; expected 0 to below 1."
            )
        self.encoder = encoder
        self.decoder = decoder
        self.label_smoothing = label_smoothing
        self.coverage_weight = coverage_weight

    def forward(
        self, x: Any, inputs: Tensor, *, lengths: Lengths = None
    ) -> tuple[Written, Encoded]:
        """What follows each of ``inputs (B, T)``, given the source; and the source, encoded."""
        encoded = self.encoder(x, lengths)
        return self.decoder(inputs, encoded), encoded

    def loss(
        self,
        x: Any,
        targets: Tensor,
        *,
        lengths: Lengths = None,
        target_lengths: Lengths = None,
        sampled: float = 0.0,
    ) -> tuple[Tensor, None]:
        """Mean loss of a token, in nats, the ends of the targets included; and no state.

        Args:
            x: sources, as the encoder takes them.
            targets: tokens ``(B, T)``.
            lengths: steps of each source ``(B,)``.
            target_lengths: tokens of each target ``(B,)``.
            sampled: share of the decoder's inputs that are its own likeliest tokens instead of the
                true ones (Bengio et al. 2015, "Scheduled sampling"), found by a first pass over the
                true ones (Mihaylova and Martins 2019), so that all steps are still had at once.
        """
        encoded = self.encoder(x, lengths)
        inputs, wanted, counts = self._asked(targets, target_lengths)
        if self.training and sampled > 0:
            with torch.no_grad():
                own = self.decoder(inputs, encoded).log_p.argmax(-1)[:, :-1]
            own = own.masked_fill(own == self.decoder.end, 0)
            swap = torch.rand(own.shape, device=own.device) < sampled
            inputs = torch.cat([inputs[:, :1], torch.where(swap, own, inputs[:, 1:])], 1)
        written = self.decoder(inputs, encoded)
        log_p = written.log_p[counts]  # (steps, V + 1)
        loss = -log_p.gather(1, wanted[counts][:, None]).mean()
        if self.training and self.label_smoothing:
            even = -log_p.mean()
            loss = (1 - self.label_smoothing) * loss + self.label_smoothing * even
        if self.training and written.covered is not None:
            loss = loss + self.coverage_weight * written.covered[counts].mean()
        return loss, None

    def _asked(self, targets: Tensor, lengths: Lengths) -> tuple[Tensor, Tensor, Tensor]:
        """The decoder's inputs, what is wanted after each, and which count; ``(B, T + 1)`` each."""
        if targets.dim() != 2 or targets.is_floating_point():
            raise ShapeError(
                f"EncoderDecoder: targets are {targets.dtype} {tuple(targets.shape)}; expected "
                "whole numbers (B, T)."
            )
        B, T = targets.shape
        end, begin = self.decoder.end, self.decoder.begin
        ends = torch.full((B,), T) if lengths is None else torch.as_tensor(lengths)
        ends = ends.to(targets.device)[:, None]
        t = torch.arange(T + 1, device=targets.device)
        first = targets.new_full((B, 1), begin)
        last = targets.new_full((B, 1), end)
        inputs = torch.cat([first, targets], 1).masked_fill(t > ends, 0)
        wanted = torch.where(t < ends, torch.cat([targets, last], 1), end)
        return inputs, wanted, t <= ends

    def start(self, x: Any, lengths: Lengths = None) -> tuple[Encoded, DecoderState, Tensor | None]:
        """A source ready to be written from, step by step; see `step`."""
        encoded = self.encoder(x, lengths)
        return encoded, self.decoder.begun(encoded), self.decoder.keys_of(encoded)

    def step(
        self, token: Tensor, encoded: Encoded, state: DecoderState, keys: Tensor | None
    ) -> tuple[Tensor, DecoderState, Tensor | None]:
        """Log-probabilities ``(B, V + 1)`` after ``token (B,)``; state; attention ``(B, S)``."""
        written = self.decoder(token[:, None], encoded, state, keys)
        weights = None if written.weights is None else written.weights[:, 0]
        return written.log_p[:, 0], written.state, weights
