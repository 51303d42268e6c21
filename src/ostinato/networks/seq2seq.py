"""Sequence to sequence: an encoder, a decoder, and attention.

Letters: ``S`` steps of the source, ``T`` of the target, ``M`` features of an encoded step, ``V``
tokens of the target. Two numbers follow those of the tokens: ``V`` ends a target, and ``V + 1``
precedes its first token.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ostinato.errors import OstinatoError
from ostinato.networks.attention import Attention, AttentionKind
from ostinato.networks.functional import Lengths, check_tokens, drop, running
from ostinato.recurrence.layers import Hidden, Recurrent, state_rows


class Encoded(NamedTuple):
    """An encoded source.

    Attributes:
        memory: encoded steps, for attention, ``(B, S, M)``.
        mask: True at steps of the source, False in padding, ``(B, S)``.
        summary: initial input of the decoder, ``(B, M)``.
        tokens: numbers of the source's tokens, ``(B, S)``; None unless they may be copied.
        keys: the memory projected for attention, ``(B, S, H)``; None before `Decoder.prepare`.
    """

    memory: Tensor
    mask: Tensor
    summary: Tensor
    tokens: Tensor | None = None
    keys: Tensor | None = None

    def rows(self, index: Tensor) -> Encoded:
        """Return selected rows, ``index (N,)``."""
        return Encoded(*(None if t is None else t[index] for t in self))  # type: ignore[arg-type]


class RecurrentEncoder(nn.Module):
    """Encodes the source with recurrent layers; its memory is every hidden state.

    Args:
        encode: encodes the input as vectors ``(B, S, I)``.
        recurrent: the layers, with ``batch_first=True``; bidirectional ones are best.
        dropout: probability of zeroing a feature of the encoded input and of the memory while
            training.
        tied: whether source and target share one vocabulary, so that tokens may be copied.

    The summary is the mean of the hidden states: it reaches the decoder from every step.

    Example:
        >>> from ostinato.recurrence.dropin import GRU
        >>> layers = GRU(8, 16, batch_first=True, bidirectional=True)
        >>> encoder = RecurrentEncoder(nn.Embedding(10, 8), layers)
        >>> encoded = encoder(torch.randint(10, (2, 5)), torch.tensor([5, 3]))
        >>> encoded.memory.shape, encoded.mask.sum().item()
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
        mask = running(x, lengths)  # (B, S)
        v = drop(self.encode(x), self.dropout, self.training)
        h, _ = self.recurrent(v, lengths=lengths)
        summary = h.sum(1) / mask.sum(1, keepdim=True).clamp(min=1).to(h.dtype)
        memory = drop(h, self.dropout, self.training)
        return Encoded(memory, mask, summary, x if self.tied else None)


class VectorEncoder(nn.Module):
    """A vector as a source of one step, for one-to-many networks.

    Args:
        size: features of the vector.

    >>> VectorEncoder(3)(torch.randn(2, 3)).memory.shape
    torch.Size([2, 1, 3])
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.output_size = size

    def forward(self, x: Tensor, lengths: Lengths = None) -> Encoded:
        """Encode ``x (B, M)``."""
        mask = torch.ones(len(x), 1, dtype=torch.bool, device=x.device)
        return Encoded(x[:, None], mask, x)


class DecoderState(NamedTuple):
    """State of a decoder.

    Attributes:
        hidden: state of the recurrent layers.
        fed: the last attentional vector, ``(B, H)``, for input feeding.
        coverage: sum of the attention so far, ``(B, S)``; ``(B, 0)`` without coverage.
    """

    hidden: Hidden
    fed: Tensor
    coverage: Tensor

    def rows(self, index: Tensor) -> DecoderState:
        """Return the state of selected rows, ``index (N,)``."""
        return DecoderState(state_rows(self.hidden, index), self.fed[index], self.coverage[index])


class Decoded(NamedTuple):
    """Output of a decoder for a batch.

    Attributes:
        log_p: log-probabilities of tokens and, last, the end, ``(B, T, V + 1)``.
        weights: attention weights, ``(B, T, S)``; None without attention.
        state: state after the last step.
        covered: coverage loss of each step, ``(B, T)``; None without coverage.
    """

    log_p: Tensor
    weights: Tensor | None
    state: DecoderState
    covered: Tensor | None


class Decoder(nn.Module):
    """Generates tokens one by one from an encoded source.

    ::

        h_t  = recurrent([embedding of y_(t-1); h~_(t-1) with input feeding], h_(t-1))
        c_t  = attention(h_t, memory)
        h~_t = tanh(W_c [h_t; c_t])                         Luong et al. 2015, eq. 5
        p_t  = softmax(W_o h~_t + b)
        with copying: g p_t + (1 - g) attention on tokens, g = sigmoid(w [h~_t; c_t])
                                                            See et al. 2017, eq. 8 and 9

    Without input feeding and coverage, all steps of a known target are computed in one call, on the
    compiled core.

    Args:
        tokens: V.
        recurrent: the layers, with ``batch_first=True``, in one direction; their input size is
            ``width``, plus H with input feeding.
        memory_size: M.
        width: features of a token's embedding.
        attention: additive, multiplicative, or None to use only the summary.
        input_feeding: make the attentional vector part of the next input.
        coverage: let attention depend on earlier attention.
        copying: let tokens of the source be copied.
        tied: share the weights of the embedding with the output (Press and Wolf 2017).
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
        I = width + (H if input_feeding else 0)
        if not recurrent.batch_first or recurrent.bidirectional or recurrent.input_size != I:
            raise OstinatoError(
                f"Decoder: recurrent is {recurrent}; expected batch_first=True, one direction, and "
                f"{I} input features: width{' and H, for input feeding' * input_feeding}."
            )
        if (coverage or copying) and attention is None:
            raise OstinatoError("Decoder: coverage and copying need attention; got attention=None.")
        self.tokens, self.end, self.begin = tokens, tokens, tokens + 1
        self.dropout = dropout
        self.input_feeding = input_feeding
        self.covers = coverage
        self.embedding = nn.Embedding(tokens + 2, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.recurrent = recurrent
        self.sizes = [size for cell in recurrent.cells for size in cell.state_sizes]
        self.start = nn.Linear(memory_size, sum(self.sizes))
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

    def initial_state(self, encoded: Encoded) -> DecoderState:
        """Return the state before the first token."""
        B, S = encoded.mask.shape
        parts = iter(self.start(encoded.summary).tanh().split(self.sizes, dim=-1))
        states = [
            cell.state_type(*(next(parts)[None] for _ in cell.state_sizes))
            for cell in self.recurrent.cells
        ]
        fed = encoded.memory.new_zeros(B, self.recurrent.output_size)
        coverage = encoded.memory.new_zeros(B, S if self.covers else 0)
        return DecoderState(self.recurrent.join_state(states, False), fed, coverage)

    def prepare(self, encoded: Encoded) -> Encoded:
        """Project the memory for attention, once for all steps."""
        if self.attention is None or encoded.keys is not None:
            return encoded
        return encoded._replace(keys=self.attention.keys(encoded.memory))

    def forward(
        self, inputs: Tensor, encoded: Encoded, state: DecoderState | None = None
    ) -> Decoded:
        """Compute log-probabilities of the token after each of ``inputs (B, T)``.

        Before the first token comes `begin`; ``state`` is that after earlier tokens.
        """
        state = self.initial_state(encoded) if state is None else state
        encoded = self.prepare(encoded)
        v = drop(self.embedding(inputs), self.dropout, self.training)  # (B, T, width)
        one_by_one = self.input_feeding or self.covers
        found: list[Decoded] = []
        for part in torch.split(v, 1 if one_by_one else v.shape[1], dim=1):
            if self.input_feeding:
                part = torch.cat([part, state.fed[:, None]], -1)
            h, hidden = self.recurrent(part, state.hidden)
            a, context, weights = h, None, None
            if self.attention is not None and encoded.keys is not None:
                context, weights = self.attention(
                    h, encoded.keys, encoded.memory, encoded.mask, state.coverage
                )
                a = self.combine(torch.cat([h, context], -1)).tanh()
            a = drop(a, self.dropout, self.training)
            covered, coverage = None, state.coverage
            if self.covers and weights is not None:
                covered = torch.minimum(weights[:, 0], coverage).sum(-1, keepdim=True)
                coverage = coverage + weights[:, 0]
            state = DecoderState(hidden, a[:, -1], coverage)
            log_p = self._log_p(a, context, weights, encoded)
            found.append(Decoded(log_p, weights, state, covered))
        if len(found) == 1:
            return found[0]
        log_ps, all_weights, _, all_covered = zip(*found, strict=True)
        return Decoded(torch.cat(log_ps, 1), _joined(all_weights), state, _joined(all_covered))

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
                "Decoder: copying=True needs the tokens of the source; build the encoder with "
                "tied=True."
            )
        g = self.copying(torch.cat([a, context], -1))  # (B, T, 1)
        index = encoded.tokens[:, None].expand_as(weights).clamp(max=self.tokens)
        copied = torch.zeros_like(log_p).scatter_add(-1, index, weights)
        tiny = torch.finfo(log_p.dtype).tiny
        return torch.logaddexp(
            F.logsigmoid(g) + log_p, F.logsigmoid(-g) + copied.clamp(min=tiny).log()
        )


def _joined(parts: tuple[Tensor | None, ...]) -> Tensor | None:
    return None if parts[0] is None else torch.cat(cast("tuple[Tensor, ...]", parts), 1)


class EncoderDecoder(nn.Module):
    """Many to many of different lengths: an encoder for the source, a decoder for the target.

    Args:
        encoder: `RecurrentEncoder`; or `ImageEncoder` or `VectorEncoder`, for one to many.
        decoder: the decoder.
        label_smoothing: share of the target probability spread evenly over all tokens while
            training (Szegedy et al. 2016; Vaswani et al. 2017).
        coverage_weight: weight of the coverage loss (See et al. 2017, eq. 13).

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
    ) -> tuple[Decoded, Encoded]:
        """Decode ``inputs (B, T)`` given the source; also return the encoded source."""
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
        """Compute the mean loss per token, in nats, including the ends; and None as the state.

        Args:
            x: sources, as the encoder takes them.
            targets: tokens ``(B, T)``.
            lengths: steps of each source ``(B,)``.
            target_lengths: tokens of each target ``(B,)``.
            sampled: share of the decoder's inputs replaced by its own likeliest tokens (Bengio et
                al. 2015, "Scheduled sampling"), found by a first pass over the true ones, so that
                all steps are still computed in one call (Mihaylova and Martins 2019).
        """
        encoded = self.encoder(x, lengths)
        inputs, labels, counts = self._teacher_forcing(targets, target_lengths)
        if self.training and sampled > 0:
            with torch.no_grad():
                own = self.decoder(inputs, encoded).log_p.argmax(-1)[:, :-1]
            own = own.masked_fill(own == self.decoder.end, 0)
            swap = torch.rand(own.shape, device=own.device) < sampled
            inputs = torch.cat([inputs[:, :1], torch.where(swap, own, inputs[:, 1:])], 1)
        written = self.decoder(inputs, encoded)
        log_p = written.log_p[counts]  # (steps, V + 1)
        loss = -log_p.gather(1, labels[counts][:, None]).mean()
        if self.training and self.label_smoothing:
            even = -log_p.mean()
            loss = (1 - self.label_smoothing) * loss + self.label_smoothing * even
        if self.training and written.covered is not None:
            loss = loss + self.coverage_weight * written.covered[counts].mean()
        return loss, None

    def _teacher_forcing(self, targets: Tensor, lengths: Lengths) -> tuple[Tensor, Tensor, Tensor]:
        """Return the decoder's inputs, their labels, and which count; ``(B, T + 1)`` each."""
        check_tokens("EncoderDecoder.loss", targets)
        B, T = targets.shape
        ends = torch.full((B,), T) if lengths is None else torch.as_tensor(lengths)
        ends = ends.to(targets.device)[:, None]
        t = torch.arange(T + 1, device=targets.device)
        inputs = F.pad(targets, (1, 0), value=self.decoder.begin).masked_fill(t > ends, 0)
        labels = torch.where(t < ends, F.pad(targets, (0, 1)), self.decoder.end)
        return inputs, labels, t <= ends

    def start(self, x: Any, lengths: Lengths = None) -> tuple[Encoded, DecoderState]:
        """Return the encoded source and the initial state for `step`."""
        encoded = self.decoder.prepare(self.encoder(x, lengths))
        return encoded, self.decoder.initial_state(encoded)

    def step(
        self, token: Tensor, encoded: Encoded, state: DecoderState
    ) -> tuple[Tensor, DecoderState, Tensor | None]:
        """Return log-probabilities ``(B, V + 1)`` after a token ``(B,)``, state, attention."""
        written = self.decoder(token[:, None], encoded, state)
        weights = None if written.weights is None else written.weights[:, 0]
        return written.log_p[:, 0], written.state, weights
