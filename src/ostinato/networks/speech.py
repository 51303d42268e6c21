"""Text to speech: an encoder of characters, a moving attention, and a decoder of log-mel frames.

Letters: ``S`` tokens of a text, ``M`` features of an encoded one; ``T`` steps of the decoder, ``r``
frames in each, ``K`` bands of a frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import exp, lgamma, log
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ostinato.errors import OstinatoError, ShapeError
from ostinato.networks.convolution import Convolutions
from ostinato.networks.functional import Lengths, drop, running
from ostinato.recurrence.layers import Hidden, Recurrent

STOP_WEIGHT = 5.0
"""Weight of the one step of a recording that is its last beside all others in the loss of it."""

GUIDED_WIDTH = 0.2
"""Distance from the diagonal, as a share of the whole, that guided attention lets pass."""


class DynamicConvolutionAttention(nn.Module):
    """Attention that moves along a source: it is computed from where it was, by convolutions.

    ::

        e_t = v tanh(W [F * a_(t-1); G(q_t) * a_(t-1)] + b) + log(P * a_(t-1))
        a_t = softmax(e_t)

    Static filters ``F``, and dynamic ones ``G`` that a small network makes of the query, see the
    last weights around each position; the prior ``P``, the beta-binomial distribution, lets them go
    on by 0 to 10 positions, one on average, and never back. Battenberg et al. 2020,
    "Location-relative attention mechanisms for robust long-form speech synthesis", section 3.2.

    Args:
        query_size: features of a query, ``H``.
        size: features inside tanh.
        filters: static filters, and as many dynamic ones.
        taps: positions that a filter sees, an odd number above 20.

    Example:
        >>> attend = DynamicConvolutionAttention(4)
        >>> mask = torch.ones(2, 9, dtype=torch.bool)
        >>> a = attend(torch.randn(2, 4), attend.start(mask), mask)
        >>> a.shape, a.sum(1).allclose(torch.ones(2))
        (torch.Size([2, 9]), True)
    """

    prior: Tensor

    def __init__(self, query_size: int, size: int = 64, filters: int = 8, taps: int = 21) -> None:
        super().__init__()
        if taps % 2 == 0 or taps < 2 * FARTHEST + 1:
            raise OstinatoError(
                f"DynamicConvolutionAttention: taps={taps}; expected an odd number, "
                f"{2 * FARTHEST + 1} or more."
            )
        self.filters, self.taps = filters, taps
        self.static = nn.Parameter(torch.randn(taps, filters) * taps**-0.5)
        self.query = nn.Linear(query_size, size)
        self.dynamic = nn.Linear(size, taps * filters, bias=False)
        self.combine = nn.Linear(2 * filters, size)
        self.score = nn.Linear(size, 1, bias=False)
        prior = torch.zeros(taps, 1)
        # Tap i sees the position i - taps // 2 ahead: those before it, which move on to it.
        for k, p in enumerate(beta_binomial(FARTHEST, 0.1, 0.9)):
            prior[taps // 2 - k] = p
        self.register_buffer("prior", prior)

    def start(self, mask: Tensor) -> Tensor:
        """Return the weights before the first step: all at the first position, ``(B, S)``."""
        weights = torch.zeros(mask.shape, device=mask.device, dtype=self.static.dtype)
        weights[:, :1] = 1.0
        return weights

    def forward(self, query: Tensor, weights: Tensor, mask: Tensor) -> Tensor:
        """Return the weights ``(B, S)`` after others, for a query ``(B, H)``.

        The mask ``(B, S)`` is True at positions of the source.
        """
        B = len(query)
        made = self.dynamic(self.query(query).tanh()).view(B, self.taps, self.filters)
        fixed = torch.cat([self.prior, self.static], 1).expand(B, -1, -1)
        around = F.pad(weights, (self.taps // 2, self.taps // 2)).unfold(1, self.taps, 1)
        seen = around @ torch.cat([fixed, made], 2)  # (B, S, 1 + 2 filters)
        prior = seen[..., 0].clamp(min=1e-6).log()
        e = self.score(self.combine(seen[..., 1:]).tanh())[..., 0] + prior
        after: Tensor = e.masked_fill(~mask, -torch.inf).softmax(-1)
        return after


FARTHEST = 10
"""Positions by which attention can go on in a step."""


def beta_binomial(n: int, alpha: float, beta: float) -> list[float]:
    """Return the beta-binomial distribution over 0 to n.

    >>> [round(p, 3) for p in beta_binomial(2, 1.0, 1.0)]
    [0.333, 0.333, 0.333]
    """

    def log_beta(a: float, b: float) -> float:
        return lgamma(a) + lgamma(b) - lgamma(a + b)

    logs = (
        log_beta(k + alpha, n - k + beta)
        - log_beta(alpha, beta)
        - log_beta(k + 1, n - k + 1)
        - log(n + 1)
        for k in range(n + 1)
    )
    return [exp(each) for each in logs]


class EncodedText(NamedTuple):
    """An encoded text.

    Attributes:
        memory: encoded tokens, the speaker's vector included, ``(B, S, M)``.
        glances: what the attending layer takes of them, ``(B, S, P)``.
        mask: True at tokens, False in padding, ``(B, S)``.
    """

    memory: Tensor
    glances: Tensor
    mask: Tensor


class SpeechState(NamedTuple):
    """State of the decoder of a `SpeechNetwork`.

    Attributes:
        attending, writing, refining: states of its recurrent layers.
        glance: what the attending layer takes of what attention read last, ``(B, P)``.
        weights: where it was, ``(B, S)``.
        frame: the last frame before refinement, ``(B, K)``.
    """

    attending: Hidden
    writing: Hidden
    refining: Hidden
    glance: Tensor
    weights: Tensor
    frame: Tensor


class Spoken(NamedTuple):
    """What the decoder computes in some steps.

    Attributes:
        frames: refined frames, ``(B, T * r, K)``.
        coarse: frames before refinement, ``(B, T * r, K)``.
        stop: logit of the probability that a step is the last, ``(B, T)``.
        weights: attention, ``(B, T, S)``.
        state: state after the last step.
    """

    frames: Tensor
    coarse: Tensor
    stop: Tensor
    weights: Tensor
    state: SpeechState


class SpeechTerms(NamedTuple):
    """What the loss of a `SpeechNetwork` is made of, means over frames or steps.

    Attributes:
        coarse, refined: distance of frames before and after refinement.
        stop: cross-entropy of the stop.
        astray: attention far from the diagonal.
        focus: the largest weight of attention; 1 where it is on one token alone.
    """

    coarse: Tensor
    refined: Tensor
    stop: Tensor
    astray: Tensor
    focus: Tensor


class SpeechNetwork(nn.Module):
    """Computes the frames of a text's sound, several in each step (after Shen et al. 2018).

    ::

        m_s  = bidirectional recurrent layer over convolutions over embedded tokens; the speaker
        p_t  = prenet(last frame of step t - 1), half of whose features are always dropped
        h_t  = attending([p_t; U c_(t-1)])
        a_t  = dynamic convolution attention(h_t, a_(t-1));   c_t = a_t m
        d_t  = writing([h_t; c_t])
        y_t  = W [d_t; c_t],  r frames;   stop_t = sigmoid(w [d_t; c_t])
        y'_t = y_t + V refining(y_t)                      over frames, in one direction

    Of a known recording only ``h`` and ``a`` are computed step by step, from ``U m``, which is
    small; all that comes after them runs over all steps in one call. Shen et al. 2018, "Natural TTS
    synthesis by conditioning WaveNet on mel spectrogram predictions"; several frames a step from
    Wang et al. 2017, "Tacotron: towards end-to-end speech synthesis".

    Args:
        tokens: numbers of tokens, the end of a text among them.
        speakers: number of speakers.
        bands: ``K``.
        frames_per_step: ``r``.
        reading: layers that read the text, bidirectional, on ``width`` features.
        attending: the layer whose state is the query, on ``2 * prenet`` features, as many of them
            of the context.
        writing: layers that write frames, on its output and M, where M is the output of
            ``reading``, and ``voice`` of several speakers.
        refining: layers that refine frames, on K features.
        width: features of a token.
        prenet: features of the prenet.
        voice: features of a speaker's vector; 0 for a single speaker.
        dropout: probability of zeroing a feature of the text while training.

    All layers have ``batch_first=True``.
    """

    def __init__(
        self,
        tokens: int,
        speakers: int,
        bands: int,
        frames_per_step: int,
        reading: Recurrent,
        attending: Recurrent,
        writing: Recurrent,
        refining: Recurrent,
        *,
        width: int,
        prenet: int,
        voice: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        M, H = reading.output_size + voice, attending.output_size
        expected = {"attending": 2 * prenet, "writing": H + M, "refining": bands}
        for name, layers in zip(expected, (attending, writing, refining), strict=True):
            if layers.input_size != expected[name] or layers.bidirectional:
                raise OstinatoError(
                    f"SpeechNetwork: {name} is {layers}; expected one direction and "
                    f"{expected[name]} input features."
                )
        self.bands, self.frames_per_step, self.dropout = bands, frames_per_step, dropout
        self.embedding = nn.Embedding(tokens, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.voices = nn.Embedding(speakers, voice) if voice else None
        self.convolutions = Convolutions(width, width, (5, 5), (1,))
        self.reading = reading
        self.prenet = nn.ModuleList([nn.Linear(bands, prenet), nn.Linear(prenet, prenet)])
        self.attending = attending
        self.glance = nn.Linear(M, prenet, bias=False)
        self.attention = DynamicConvolutionAttention(H)
        self.writing = writing
        both = writing.output_size + M
        self.frames = nn.Linear(both, frames_per_step * bands)
        self.stop = nn.Linear(both, 1)
        self.refining = refining
        self.correction = nn.Linear(refining.output_size, bands)

    def encode(self, x: Tensor, lengths: Lengths = None) -> EncodedText:
        """Encode texts ``x (B, 1 + S)``: the number of the speaker, and tokens."""
        if x.dim() != 2 or x.is_floating_point() or x.shape[1] < 2:
            raise ShapeError(
                f"SpeechNetwork: x is {x.dtype} {tuple(x.shape)}; expected whole numbers "
                "(B, 1 + S): a speaker and tokens."
            )
        speaker, tokens = x[:, 0], x[:, 1:]
        n = None if lengths is None else torch.as_tensor(lengths) - 1
        v = self.embedding(tokens)
        v = v + drop(self.convolutions(v, n), self.dropout, self.training)
        h, _ = self.reading(v, lengths=n)
        h = drop(h, self.dropout, self.training)
        if self.voices is not None:
            voice = self.voices(speaker)[:, None].expand(-1, h.shape[1], -1)
            h = torch.cat([h, voice], -1)
        return EncodedText(h, self.glance(h), running(tokens, n))

    def start(self, encoded: EncodedText) -> SpeechState:
        """Return the state before the first step."""
        glances = encoded.glances
        B, _, P = glances.shape
        frame = glances.new_zeros(B, self.bands)
        weights = self.attention.start(encoded.mask)
        return SpeechState(None, None, None, glances.new_zeros(B, P), weights, frame)

    def forward(
        self,
        previous: Tensor,
        encoded: EncodedText,
        state: SpeechState | None = None,
        generator: torch.Generator | None = None,
    ) -> Spoken:
        """Compute the frames after ``previous (B, T, K)``, the last frame of the step before each.

        The generator draws what the prenet drops; None for PyTorch's.
        """
        state = self.start(encoded) if state is None else state
        glance, weights, hidden = state.glance, state.weights, state.attending
        heard, every = [], []
        for p_t in torch.split(self._prenet(previous, generator), 1, dim=1):
            h, hidden = self.attending(torch.cat([p_t, glance[:, None]], -1), hidden)
            weights = self.attention(h[:, 0], weights, encoded.mask)
            glance = (weights[:, None] @ encoded.glances)[:, 0]
            heard.append(h)
            every.append(weights)
        a = torch.stack(every, 1)  # (B, T, S)
        c = a @ encoded.memory  # (B, T, M)
        d, writing = self.writing(torch.cat([torch.cat(heard, 1), c], -1), state.writing)
        both = torch.cat([d, c], -1)
        coarse = self.frames(both).view(len(both), -1, self.bands)  # (B, T * r, K)
        fine, refining = self.refining(coarse, state.refining)
        after = SpeechState(hidden, writing, refining, glance, weights, coarse[:, -1])
        return Spoken(
            coarse + self.correction(fine),
            coarse,
            self.stop(both)[..., 0],
            a,
            after,
        )

    def _prenet(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        for layer in self.prenet:
            y = layer(x).relu()
            if generator is None:
                x = drop(y, 0.5)
            else:
                x = y * (torch.rand(y.shape, generator=generator) < 0.5).to(y) * 2
        return x

    def terms(
        self,
        x: Tensor,
        targets: Tensor,
        *,
        lengths: Lengths = None,
        target_lengths: Lengths = None,
        generator: torch.Generator | None = None,
    ) -> SpeechTerms:
        """Compute what the loss is made of; arguments are as of `loss`."""
        B, N, K = targets.shape
        r = self.frames_per_step
        if N % r or self.bands != K:
            raise ShapeError(
                f"SpeechNetwork.loss: targets have shape {tuple(targets.shape)}; expected "
                f"(B, T * {r}, {self.bands})."
            )
        device = targets.device
        ends = torch.full((B,), N) if target_lengths is None else torch.as_tensor(target_lengths)
        last = (ends.to(device)[:, None] - 1) // r  # (B, 1)
        t = torch.arange(N // r, device=device)
        steps = t <= last  # (B, T)
        frames = steps.repeat_interleave(r, 1)
        before = F.pad(targets[:, r - 1 : -1 : r], (0, 0, 1, 0))  # (B, T, K)
        y = self(before, self.encode(x, lengths), None, generator)
        truth = targets[frames]
        stops = F.binary_cross_entropy_with_logits(
            y.stop[steps],
            (t == last).to(y.stop)[steps],
            pos_weight=torch.tensor(STOP_WEIGHT, device=device),
        )
        far = off_diagonal(y.weights.detach(), last[:, 0] + 1, lengths)
        return SpeechTerms(
            F.l1_loss(y.coarse[frames], truth),
            F.l1_loss(y.frames[frames], truth),
            stops,
            (y.weights * far).sum(-1)[steps].mean(),
            y.weights.detach().amax(-1)[steps].mean(),
        )

    def loss(
        self,
        x: Tensor,
        targets: Tensor,
        *,
        lengths: Lengths = None,
        target_lengths: Lengths = None,
        guided: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, None]:
        """Compute the mean loss of recordings; and None as the state.

        It is the distance of coarse and of refined frames, ``|y - target|``, and the cross-entropy
        of the stop, whose last step has the weight `STOP_WEIGHT`.

        Args:
            x: texts ``(B, 1 + S)``; see `encode`.
            targets: frames ``(B, T * r, K)``.
            lengths: of each text, the speaker included, ``(B,)``.
            target_lengths: frames of each recording, multiples of r, ``(B,)``.
            guided: weight of guided attention: of what is far from the diagonal (Tachibana,
                Uenoyama and Aihara 2018, "Efficiently trainable text-to-speech system based on deep
                convolutional networks with guided attention", section 4).
            generator: draws what the prenet drops; None for PyTorch's.
        """
        found = self.terms(
            x, targets, lengths=lengths, target_lengths=target_lengths, generator=generator
        )
        loss = found.coarse + found.refined + found.stop
        return (loss + guided * found.astray if guided else loss), None

    def steps(
        self,
        x: Tensor,
        lengths: Lengths = None,
        *,
        most: int,
        generator: torch.Generator | None = None,
    ) -> Iterator[Spoken]:
        """Yield one step after the other of texts, each from the frames before it, at most so many.

        It goes on until every row has stopped: see `Spoken.stop`, which is positive then.
        """
        encoded = self.encode(x, lengths)
        state = self.start(encoded)
        stopped = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for _ in range(most):
            y = self(state.frame[:, None], encoded, state, generator)
            yield y
            state = y.state
            stopped = stopped | (y.stop[:, -1] > 0)
            if stopped.all():
                return


def off_diagonal(weights: Tensor, steps: Tensor, lengths: Lengths) -> Tensor:
    """Return how far from the diagonal of its text each of ``weights (B, T, S)`` is, 0 to 1.

    >>> far = off_diagonal(torch.zeros(1, 2, 2), torch.tensor([2]), None)
    >>> [[round(value, 2) for value in row] for row in far[0].tolist()]
    [[0.0, 0.96], [0.96, 0.0]]
    """
    B, T, S = weights.shape
    n = torch.full((B,), S) if lengths is None else torch.as_tensor(lengths) - 1
    t = torch.arange(T, device=weights.device)[:, None] / steps[:, None, None]
    s = torch.arange(S, device=weights.device) / n.to(weights.device)[:, None, None]
    return 1 - torch.exp(-((s - t) ** 2) / (2 * GUIDED_WIDTH**2))
