"""Connectionist temporal classification: many to many, unaligned but in order."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ostinato.errors import OstinatoError
from ostinato.networks.decoding import Alignment, Hypothesis, ctc_beam
from ostinato.networks.functional import Lengths, check_tokens, drop, drop_features, zero_padding
from ostinato.recurrence.layers import Hidden, Recurrent


class CTC(nn.Module):
    """Connectionist temporal classification: a token or blank for every few frames.

    A. Graves, S. Fernández, F. Gomez and J. Schmidhuber 2006, "Connectionist temporal
    classification: labelling unsegmented sequence data with recurrent neural networks". The blank
    is the last of the scores.

    Args:
        encode: encodes the input as vectors ``(B, T, I)``.
        recurrent: the layers, with ``batch_first=True``, of ``stacked * I`` features.
        tokens: V.
        stacked: number of frames per step; more make fewer, longer steps.
        dropout: probability of zeroing a feature of the encoded input, the same over time, and of
            the hidden states.

    Example:
        >>> from ostinato.recurrence.dropin import GRU
        >>> network = CTC(nn.Identity(), GRU(6, 8, batch_first=True), tokens=5, stacked=2)
        >>> x, y = torch.randn(2, 9, 3), torch.randint(5, (2, 3))
        >>> scores, _ = network(x, lengths=[9, 6])
        >>> loss, _ = network.loss(x, y, lengths=[9, 6], target_lengths=[3, 1])
        >>> scores.shape, loss.shape
        (torch.Size([2, 5, 6]), torch.Size([]))
    """

    def __init__(
        self,
        encode: nn.Module,
        recurrent: Recurrent,
        tokens: int,
        stacked: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not recurrent.batch_first or stacked < 1 or recurrent.input_size % stacked:
            raise OstinatoError(
                f"CTC: recurrent is {recurrent}, stacked={stacked}; expected batch_first=True and "
                "an input size that is stacked times the features of a frame."
            )
        self.encode = encode
        self.recurrent = recurrent
        self.blank = tokens
        self.stacked = stacked
        self.dropout = dropout
        self.output = nn.Linear(recurrent.output_size, tokens + 1)

    def steps(self, lengths: Tensor) -> Tensor:
        """Return the number of output steps for numbers of frames."""
        return (lengths + self.stacked - 1) // self.stacked

    def forward(
        self, x: Any, state: Hidden = None, *, lengths: Lengths = None
    ) -> tuple[Tensor, Hidden]:
        """Return scores ``(B, ceil(T / stacked), V + 1)`` of frames ``(B, T, ...)``, and the state.

        A stream takes a multiple of ``stacked`` frames at a time.
        """
        v: Tensor = self.encode(x)  # (B, T, I)
        B, T, I = v.shape
        ends = None
        if lengths is not None:
            v, ends = zero_padding(v, lengths), self.steps(torch.as_tensor(lengths))
        v = F.pad(v, (0, 0, 0, -T % self.stacked)).reshape(B, -1, self.stacked * I)
        v = drop_features(v, self.dropout, self.training)
        h, state = self.recurrent(v, state, lengths=ends)
        return self.output(drop(h, self.dropout, self.training)), state

    def loss(
        self,
        x: Any,
        targets: Tensor,
        state: Hidden = None,
        *,
        lengths: Lengths = None,
        target_lengths: Lengths = None,
    ) -> tuple[Tensor, Hidden]:
        """Compute the negative log-likelihood of the targets, in nats per token, and the state.

        Of frames ``(B, T, ...)`` and tokens ``(B, N)``, as many of each row as ``lengths`` and
        ``target_lengths`` say. Targets without a possible alignment with their frames are ignored.
        """
        check_tokens("CTC.loss", targets)
        y, state = self(x, state, lengths=lengths)
        losses, counts = self._losses(y, targets, lengths, target_lengths, zero_infinity=True)
        return losses.sum() / counts.sum().clamp(min=1), state

    def likelihoods(
        self, x: Any, targets: Tensor, *, lengths: Lengths = None, target_lengths: Lengths = None
    ) -> Tensor:
        """Compute the natural log of the probability of each row's target, ``(B,)``."""
        y, _ = self(x, lengths=lengths)
        return -self._losses(y, targets, lengths, target_lengths, zero_infinity=False)[0]

    def likelihoods_of(self, y: Tensor, texts: Tensor, counts: Lengths) -> Tensor:
        """Compute the natural log of the probability of texts ``(N, U)``, ``(N,)``.

        Of the scores ``(T, V + 1)`` of one input.
        """
        frames = y.double().expand(len(texts), -1, -1)
        ends = torch.full((len(texts),), len(y) * self.stacked)
        return -self._losses(frames, texts, ends, counts, zero_infinity=False)[0]

    def greedy(self, y: Tensor, ends: Lengths = None) -> list[Alignment]:
        """Return the likeliest alignment of scores ``(B, T, V + 1)``, see `ctc_greedy`.

        Of as many steps of each row as ``ends (B,)`` say.
        """
        counts = torch.full((len(y),), y.shape[1]) if ends is None else torch.as_tensor(ends)
        best = y.argmax(-1).tolist()
        return [self._written(row[:n]) for row, n in zip(best, counts.tolist(), strict=True)]

    def beam_search(self, y: Tensor, beam: int = 16, **options: Any) -> list[Hypothesis]:
        """Return the likeliest texts of scores ``(T, V + 1)``; ``options`` are of `ctc_beam`."""
        return ctc_beam(y.double().log_softmax(-1).cpu().numpy(), beam, **options)

    def stream(self) -> CTCStream:
        """Write as frames come; for layers in one direction."""
        return CTCStream(self)

    def _written(self, best: list[int], last: int | None = None) -> Alignment:
        """Return what the likeliest numbers write after ``last``."""
        found = Alignment([], [])
        for step, (before, token) in enumerate(pairwise([last, *best])):
            if token not in (before, self.blank):
                found.tokens.append(cast(int, token))
                found.steps.append(step)
        return found

    def _losses(
        self, y: Tensor, targets: Tensor, lengths: Lengths, target_lengths: Lengths, **more: bool
    ) -> tuple[Tensor, Tensor]:
        B, T = y.shape[:2]
        ends = torch.full((B,), T) if lengths is None else self.steps(torch.as_tensor(lengths))
        full = torch.full((B,), targets.shape[1])
        counts = full if target_lengths is None else torch.as_tensor(target_lengths)
        losses = F.ctc_loss(
            y.log_softmax(-1).transpose(0, 1), targets, ends.cpu(), counts.cpu(), self.blank,
            reduction="none", **more,
        )  # fmt: skip
        return losses, counts.to(losses.device)


class CTCStream:
    """What a `CTC` writes as frames come, by the likeliest alignment, in constant memory.

    Args:
        network: the network, in eval mode, with layers in one direction.

    Example:
        >>> from ostinato.recurrence.dropin import GRU
        >>> network = CTC(nn.Identity(), GRU(6, 8, batch_first=True), 5, stacked=2).eval()
        >>> x = torch.randn(9, 3)
        >>> stream = CTCStream(network)
        >>> parts = [stream.feed(x[:4]), stream.feed(x[4:], final=True)]
        >>> (whole,) = network.greedy(network(x[None])[0])
        >>> [token for part in parts for token in part.tokens] == whole.tokens
        True
    """

    def __init__(self, network: CTC) -> None:
        if network.recurrent.bidirectional:
            raise OstinatoError(
                "CTCStream: the network reads in both directions and needs the future; build it "
                "with layers in one direction."
            )
        self.network = network
        self._state: Hidden = None
        self._last: int | None = None
        self._step = 0

    @torch.inference_mode()
    def feed(self, frames: Tensor, final: bool = False) -> Alignment:
        """Return what frames ``(T, ...)`` add, a multiple of ``stacked`` but for the final ones."""
        if not len(frames):
            return Alignment([], [])
        y, self._state = self.network(frames[None], self._state)
        best = y[0].argmax(-1).tolist()
        found = self.network._written(best, self._last)
        steps = [self._step + step for step in found.steps]
        self._last, self._step = best[-1], self._step + len(best)
        return Alignment(found.tokens, steps)
