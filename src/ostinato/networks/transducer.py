"""RNN transducer: many to many, unaligned but in order, with a memory of what was written.

Letters: ``T`` steps of the encoder, ``U`` labels of a target, ``J`` features of the joiner, ``V``
labels to choose from; the blank is number ``V``.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree

from ostinato.errors import OstinatoError
from ostinato.memory import check_memory
from ostinato.networks.decoding import Alignment, Hypothesis, LanguageModel, Tokens
from ostinato.networks.functional import Lengths, check_tokens, drop, drop_features, zero_padding
from ostinato.networks.lattice import checked_lengths, joint_log_probs, transducer_loss
from ostinato.recurrence.backends import compiled
from ostinato.recurrence.backends.diagonal import COMPILED
from ostinato.recurrence.cells import PLAIN
from ostinato.recurrence.layers import Hidden, Recurrent, state_rows

SYMBOLS = 10
"""Labels that are written at one step, at most."""


class Lookahead(nn.Module):
    """A sum over a step and some that follow it, feature by feature.

    C. Wang, D. Yogatama, A. Coates, T. Han, A. Hannun and B. Xiao 2016, "Lookahead convolution
    layer for unidirectional recurrent neural networks"::

        y_t = sum over j = 0 ... n of w_j * h_(t+j)

    It starts as y_t = h_t. Steps after the last are zeros.

    Args:
        size: features of a step.
        steps: n.

    >>> layer = Lookahead(4, steps=2)
    >>> layer(torch.randn(2, 7, 4)).shape  # 5 steps have all that they look at
    torch.Size([2, 5, 4])
    """

    def __init__(self, size: int, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.weight = nn.Parameter(torch.zeros(steps + 1, size))
        with torch.no_grad():
            self.weight[0] = 1

    def forward(self, h: Tensor) -> Tensor:
        """Return ``(B, T - n, H)`` of hidden states ``(B, T, H)``, T at least n."""
        T = h.shape[1] - self.steps
        y = h[:, :T] * self.weight[0]
        for j in range(1, self.steps + 1):
            y = y + h[:, j : j + T] * self.weight[j]
        return y


class EncoderState(NamedTuple):
    """State of a `Transducer`'s encoder in a stream.

    Attributes:
        hidden: state of the recurrent layers.
        recent: hidden states of steps whose lookahead is not complete, ``(B, n, H)`` or fewer.
    """

    hidden: Hidden
    recent: Tensor


class Prediction(NamedTuple):
    """What the prediction network makes of the labels so far.

    Attributes:
        vector: ``(B, J)``.
        state: of its recurrent layers.
    """

    vector: Tensor
    state: Hidden

    def rows(self, index: Tensor) -> Prediction:
        """Return selected rows, ``index (N,)``."""
        return Prediction(self.vector[index], state_rows(self.state, index))


class Transducer(nn.Module):
    """RNN transducer: at every few frames any number of labels, given those before.

    A. Graves 2012, "Sequence transduction with recurrent neural networks", with the joiner of
    A. Graves, A. Mohamed and G. Hinton 2013, "Speech recognition with deep recurrent neural
    networks", eq. 15 to 18::

        e_t    = W_e encoder(x)_t + b_e
        p_u    = W_p prediction(y_1 ... y_u)
        scores = W tanh(e_t + p_u) + b

    Unlike CTC's, its labels depend on those before, and a step may write several. The blank is the
    last of the scores.

    Args:
        encode: encodes the input as vectors ``(B, T, I)``.
        recurrent: layers of the encoder, with ``batch_first=True``, of ``stacked * I`` features.
        prediction: layers of the prediction network, with ``batch_first=True``, in one direction;
            the embedding of a label has as many features as they take.
        tokens: V.
        joint_size: J.
        stacked: number of frames per step; more make fewer, longer steps.
        lookahead: number of steps that a step waits for, see `Lookahead`; for layers in one
            direction.
        dropout: probability of zeroing a feature of the encoded input, the same over time, and of
            the hidden states.

    Example:
        >>> from ostinato.recurrence.dropin import GRU
        >>> layers = GRU(6, 8, batch_first=True), GRU(4, 8, batch_first=True)
        >>> network = Transducer(nn.Identity(), *layers, tokens=5, joint_size=16, stacked=2)
        >>> x, y = torch.randn(2, 9, 3), torch.randint(5, (2, 3))
        >>> loss, _ = network.loss(x, y, lengths=[9, 6], target_lengths=[3, 1])
        >>> encoded, _ = network(x, lengths=[9, 6])
        >>> loss.shape, encoded.shape, len(network.greedy(encoded, [5, 3]))
        (torch.Size([]), torch.Size([2, 5, 16]), 2)
    """

    def __init__(
        self,
        encode: nn.Module,
        recurrent: Recurrent,
        prediction: Recurrent,
        tokens: int,
        joint_size: int,
        stacked: int = 1,
        lookahead: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not recurrent.batch_first or stacked < 1 or recurrent.input_size % stacked:
            raise OstinatoError(
                f"Transducer: recurrent is {recurrent}, stacked={stacked}; expected "
                "batch_first=True and an input size that is stacked times the features of a frame."
            )
        if not prediction.batch_first or prediction.bidirectional:
            raise OstinatoError(
                f"Transducer: prediction is {prediction}; expected batch_first=True and one "
                "direction."
            )
        if lookahead < 0 or (lookahead and recurrent.bidirectional):
            raise OstinatoError(
                f"Transducer: lookahead={lookahead} with {recurrent}; expected 0 or more, and 0 "
                "for layers in both directions, which see the whole future."
            )
        self.encode = encode
        self.recurrent = recurrent
        self.lookahead = Lookahead(recurrent.output_size, lookahead) if lookahead else None
        self.embedding = nn.Embedding(tokens + 1, prediction.input_size)  # the last one begins
        self.prediction = prediction
        self.from_encoder = nn.Linear(recurrent.output_size, joint_size)
        self.from_prediction = nn.Linear(prediction.output_size, joint_size, bias=False)
        self.output = nn.Linear(joint_size, tokens + 1)
        self.blank = tokens
        self.stacked = stacked
        self.dropout = dropout

    def steps(self, lengths: Tensor) -> Tensor:
        """Return the number of the encoder's steps for numbers of frames."""
        return (lengths + self.stacked - 1) // self.stacked

    def forward(
        self,
        x: Any,
        state: EncoderState | None = None,
        *,
        lengths: Lengths = None,
        final: bool = True,
    ) -> tuple[Tensor, EncoderState]:
        """Encode frames ``(B, T, ...)`` as steps ``(B, ceil(T / stacked), J)``, and the state.

        A stream takes a multiple of ``stacked`` frames at a time, with ``final=False`` but for its
        last; steps whose lookahead is not complete come with later frames then.
        """
        v: Tensor = self.encode(x)  # (B, T, I)
        B, T, I = v.shape
        ends = None
        if lengths is not None:
            v, ends = zero_padding(v, lengths), self.steps(torch.as_tensor(lengths))
        steps = -(-T // self.stacked)
        v = F.pad(v, (0, 0, 0, -T % self.stacked)).reshape(B, steps, self.stacked * I)
        v = drop_features(v, self.dropout, self.training)
        h, hidden = v.new_zeros(B, 0, self.recurrent.output_size), state and state.hidden
        if steps:
            h, hidden = self.recurrent(v, hidden, lengths=ends)
        recent = h[:, :0]
        if self.lookahead is not None:
            n = self.lookahead.steps
            if state is not None:
                h = torch.cat([state.recent, h], 1)
            if final:
                h = F.pad(h, (0, 0, 0, n))
            whole = max(0, h.shape[1] - n)
            recent = h[:, whole:]
            h = self.lookahead(h) if whole else h[:, :0]
        h = drop(h, self.dropout, self.training)
        return self._linear(h, self.from_encoder), EncoderState(hidden, recent)

    def loss(
        self,
        x: Any,
        targets: Tensor,
        state: EncoderState | None = None,
        *,
        lengths: Lengths = None,
        target_lengths: Lengths = None,
    ) -> tuple[Tensor, Hidden]:
        """Compute the negative log-likelihood of the targets, in nats per token, and the state.

        Of frames ``(B, T, ...)`` and tokens ``(B, U)``, as many of each row as ``lengths`` and
        ``target_lengths`` say. Targets of rows without frames are ignored.
        """
        check_tokens("Transducer.loss", targets)
        encoded, after = self(x, state, lengths=lengths)
        ends = None if lengths is None else self.steps(torch.as_tensor(lengths))
        losses = self._losses(encoded, targets, ends, target_lengths)
        counts = checked_lengths(
            "Transducer.loss: target_lengths", target_lengths, *targets.shape
        ).sum()
        possible = losses.masked_fill(losses == torch.inf, 0)
        return possible.sum() / counts.clamp(min=1).to(losses.device), after.hidden

    def likelihoods(
        self, x: Any, targets: Tensor, *, lengths: Lengths = None, target_lengths: Lengths = None
    ) -> Tensor:
        """Compute the natural log of the probability of each row's target, ``(B,)``."""
        encoded, _ = self(x, lengths=lengths)
        ends = None if lengths is None else self.steps(torch.as_tensor(lengths))
        return -self._losses(encoded, targets, ends, target_lengths)

    def likelihoods_of(self, encoded: Tensor, texts: Tensor, counts: Lengths) -> Tensor:
        """Compute the natural log of the probability of texts ``(N, U)``, ``(N,)``.

        Of one input, encoded as ``(T, J)``.
        """
        return -self._losses(encoded.expand(len(texts), -1, -1), texts, None, counts)

    def _losses(self, encoded: Tensor, targets: Tensor, ends: Lengths, counts: Lengths) -> Tensor:
        inputs = F.pad(targets, (1, 0), value=self.blank)  # (B, U + 1)
        v = drop(self.embedding(inputs), self.dropout, self.training)
        h, _ = self.prediction(v)
        p = self._linear(drop(h, self.dropout, self.training), self.from_prediction)
        # In 16 bits a sum over a lattice would mean nothing.
        with torch.autocast(encoded.device.type, enabled=False):
            e, p, W, b = (
                t if t.dtype == torch.float64 else t.float()
                for t in (encoded, p, self.output.weight, self.output.bias)
            )
            log_p = joint_log_probs(e, p, W, b, targets, ends, counts)
            return transducer_loss(log_p, ends, counts)

    # Decoding: an encoder's step and a prediction give scores, whatever the rows beside them.

    def _linear(self, x: Tensor, layer: nn.Linear) -> Tensor:
        functions = PLAIN if compiled.lacks((), x) else COMPILED
        return functions.linear(x, layer.weight, layer.bias)

    def scores(self, encoded: Tensor, predicted: Tensor) -> Tensor:
        """Return scores ``(B, V + 1)`` of steps ``(B, J)`` after predictions ``(B, J)``."""
        functions = PLAIN if compiled.lacks((), encoded) else COMPILED
        return self._linear(functions.tanh(encoded + predicted), self.output)

    def begin(self, rows: int) -> Prediction:
        """Return the prediction before the first label."""
        return self.predict(torch.full((rows,), self.blank, device=self.output.weight.device))

    def predict(self, tokens: Tensor, before: Prediction | None = None) -> Prediction:
        """Return the prediction after tokens ``(B,)`` that follow those ``before``."""
        state = None if before is None else before.state
        h, state = self.prediction.step(self.embedding(tokens), state)
        return Prediction(self._linear(h, self.from_prediction), state)

    def stream(self) -> TransducerStream:
        """Write as frames come; for layers in one direction."""
        return TransducerStream(self)

    @torch.inference_mode()
    def greedy(
        self, encoded: Tensor, ends: Lengths = None, symbols: int = SYMBOLS
    ) -> list[Alignment]:
        """Return what is written by taking the likeliest label or blank time and again.

        Args:
            encoded: steps, ``(B, T, J)``.
            ends: number of steps of each row, ``(B,)``.
            symbols: labels that are written at one step, at most.
        """
        search = GreedySearch(self, len(encoded), symbols)
        return search.feed(encoded, ends)

    @torch.inference_mode()
    def beam_search(
        self,
        encoded: Tensor,
        beam: int = 8,
        *,
        n_best: int = 1,
        symbols: int = 3,
        language: LanguageModel | None = None,
        weight: float = 0.5,
        bonus: float = 0.0,
    ) -> list[Hypothesis]:
        """Return the likeliest texts of ``(T, J)``, summed over the alignments that are kept.

        Step by step, all texts kept are continued by up to so many labels, and all that end in a
        blank are ranked (time-synchronous decoding: G. Saon, Z. Tüske and K. Audhkhasi 2020,
        "Alignment-length synchronous decoding for RNN transducer").

        Args:
            encoded: steps of one input, ``(T, J)``.
            beam: number of texts kept.
            n_best: number of texts returned.
            symbols: labels that are written at one step, at most.
            language: a language model of the labels.
            weight: weight of the language model's log-probabilities.
            bonus: added for every label, against a language model's preference for short texts.
        """
        if beam < 1 or symbols < 1 or not np.isfinite(weight):
            raise OstinatoError(
                f"Transducer.beam_search: beam={beam}, symbols={symbols}, weight={weight}; "
                "expected 1 or more, 1 or more, a number."
            )
        size = 8 * beam * (self.blank + self.output.in_features + 300)
        check_memory(f"Transducer.beam_search: beam={beam}", size, "choose a smaller beam")
        kept = [_Text((), 0.0, 0.0, self.begin(1))]

        def add_labels(active: list[_Text], log_p: NDArray[np.float64]) -> list[_Text]:
            """Return the best continuations by one label."""
            # Of each text its likeliest labels, as many as are kept in all.
            likely = np.argsort(-log_p[:, :-1], axis=1, kind="stable")[:, :beam]
            found: list[_Text] = []
            for i, text in enumerate(active):
                following = None if language is None else language(text.tokens)
                for token in likely[i].tolist():
                    now = text.log_p + float(log_p[i, token])
                    prior = text.prior + bonus
                    if following is not None:
                        prior += weight * float(following[token])
                    if now + prior > -np.inf:
                        found.append(_Text((*text.tokens, token), now, prior, text.prediction))
            best = sorted(found, key=lambda text: -text.score)[:beam]
            if not best:
                return []
            before = _joined([text.prediction for text in best])
            last = torch.tensor([text.tokens[-1] for text in best], device=before.vector.device)
            after = self.predict(last, before)
            rows = torch.arange(len(best), device=after.vector.device)[:, None]
            return [
                t._replace(prediction=after.rows(row)) for t, row in zip(best, rows, strict=True)
            ]

        for step in encoded:
            ended: dict[Tokens, _Text] = {}
            active = kept
            for written in range(symbols + 1):
                vectors = torch.cat([text.prediction.vector for text in active])
                scores = self.scores(step.expand(len(vectors), -1), vectors)
                log_p = scores.double().log_softmax(-1).cpu().numpy()
                for text, row in zip(active, log_p, strict=True):
                    now = text.log_p + float(row[-1])
                    if text.tokens in ended:
                        now = float(np.logaddexp(now, ended[text.tokens].log_p))
                    ended[text.tokens] = text._replace(log_p=now)
                active = add_labels(active, log_p) if written < symbols else []
                if len(ended) >= beam:  # what is behind already will not come back
                    least = sorted((text.score for text in ended.values()), reverse=True)[beam - 1]
                    active = [text for text in active if text.score > least]
                if not active:
                    break
            kept = sorted(ended.values(), key=lambda text: -text.score)[:beam]
        return [Hypothesis(list(t.tokens), t.score, t.log_p) for t in kept[:n_best]]


class _Text(NamedTuple):
    """A text that a search keeps: its log-probabilities by the network and by the language."""

    tokens: Tokens
    log_p: float
    prior: float
    prediction: Prediction

    @property
    def score(self) -> float:
        return self.log_p + self.prior


def _joined(predictions: list[Prediction]) -> Prediction:
    """Return predictions of a row each as one of many rows."""
    states = [p.state for p in predictions]
    state = _pytree.tree_map(lambda *each: torch.cat(each, 1), *states)
    return Prediction(torch.cat([p.vector for p in predictions]), cast(Hidden, state))


class GreedySearch:
    """Greedy decoding of a `Transducer` as the encoder's steps come, in constant memory.

    Args:
        network: the network, in eval mode.
        rows: B.
        symbols: labels that are written at one step, at most.
    """

    def __init__(self, network: Transducer, rows: int = 1, symbols: int = SYMBOLS) -> None:
        if symbols < 1:
            raise OstinatoError(f"GreedySearch: symbols={symbols}; expected 1 or more.")
        self.network = network
        self.symbols = symbols
        self._step = 0
        with torch.inference_mode():
            self._after = network.begin(rows)

    @torch.inference_mode()
    def feed(self, encoded: Tensor, ends: Lengths = None) -> list[Alignment]:
        """Return what further steps ``(B, T, J)`` add; ``ends`` are their numbers, ``(B,)``."""
        B, T, _ = encoded.shape
        last = checked_lengths("GreedySearch.feed: ends", ends, B, T)
        found = [Alignment([], []) for _ in range(B)]
        at, written = torch.zeros(B, dtype=torch.long), torch.zeros(B, dtype=torch.long)
        rows = torch.nonzero(last > 0)[:, 0]
        while len(rows):
            now = encoded[rows, at[rows]]
            best = self.network.scores(now, self._after.vector[rows]).argmax(-1).cpu()
            writes = (best != self.network.blank) & (written[rows] < self.symbols)
            for row, token in zip(rows[writes].tolist(), best[writes].tolist(), strict=True):
                found[row].tokens.append(token)
                found[row].steps.append(self._step + int(at[row]))
            self._write(rows[writes], best[writes])
            written[rows] = torch.where(writes, written[rows] + 1, 0)
            at[rows[~writes]] += 1
            rows = rows[at[rows] < last[rows]]
        self._step += T
        return found

    def _write(self, rows: Tensor, tokens: Tensor) -> None:
        """Let the prediction network of some rows know of their new tokens."""
        if not len(rows):
            return
        device = self._after.vector.device
        rows = rows.to(device)
        after = self.network.predict(tokens.to(device), self._after.rows(rows))
        if len(rows) == len(self._after.vector):
            self._after = after
            return
        vector = self._after.vector.index_copy(0, rows, after.vector)
        state = _pytree.tree_map(
            lambda old, new: None if old is None else old.index_copy(1, rows, new),
            self._after.state, after.state,
        )  # fmt: skip
        self._after = Prediction(vector, cast(Hidden, state))


class TransducerStream:
    """What a `Transducer` writes as frames come: the same as of the whole, in constant memory.

    Args:
        network: the network, in eval mode, with layers in one direction.

    Example:
        >>> from ostinato.recurrence.dropin import GRU
        >>> layers = GRU(6, 8, batch_first=True), GRU(4, 8, batch_first=True)
        >>> network = Transducer(nn.Identity(), *layers, 5, 16, stacked=2, lookahead=3).eval()
        >>> x = torch.randn(20, 3)
        >>> stream = TransducerStream(network)
        >>> parts = [stream.feed(x[:8]), stream.feed(x[8:14]), stream.feed(x[14:], final=True)]
        >>> with torch.inference_mode():
        ...     whole = network.greedy(network(x[None])[0])[0].tokens
        >>> [token for part in parts for token in part.tokens] == whole
        True
    """

    def __init__(self, network: Transducer) -> None:
        if network.recurrent.bidirectional:
            raise OstinatoError(
                "TransducerStream: the network reads in both directions and needs the future; "
                "build it with layers in one direction."
            )
        self.network = network
        self._search = GreedySearch(network)
        self._state: EncoderState | None = None

    @torch.inference_mode()
    def feed(self, frames: Tensor, final: bool = False) -> Alignment:
        """Return what frames ``(T, ...)`` add, a multiple of ``stacked`` but for the final ones."""
        if not len(frames) and not (final and self._state is not None):
            return Alignment([], [])
        if not final and len(frames) % self.network.stacked:
            raise OstinatoError(
                f"TransducerStream.feed: got {len(frames)} frames; expected a multiple of "
                f"stacked={self.network.stacked}, unless they are the final ones."
            )
        encoded, self._state = self.network(frames[None], self._state, final=final)
        return self._search.feed(encoded)[0]
