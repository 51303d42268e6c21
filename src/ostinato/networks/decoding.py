"""Decoding: beam search and sampling; greedy and prefix beam search for CTC."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ostinato.errors import OstinatoError
from ostinato.memory import check_memory
from ostinato.networks.functional import Lengths
from ostinato.networks.seq2seq import Encoded, EncoderDecoder


class Hypothesis(NamedTuple):
    """A decoded sequence.

    Attributes:
        tokens: numbers of its tokens, without the end.
        score: log-probability divided by a norm of the length, by which hypotheses are ranked.
        log_p: natural log of its probability, including the end.
        attention: attention on the source for each token, ``(tokens, S)``; None without attention.
    """

    tokens: list[int]
    score: float
    log_p: float
    attention: NDArray[np.float32] | None = None


class Alignment(NamedTuple):
    """Tokens of a monotone alignment, and the steps at which they are written.

    Attributes:
        tokens: numbers of the tokens.
        steps: number of the step at which each begins.
    """

    tokens: list[int]
    steps: list[int]


@dataclass(frozen=True)
class Search:
    """Settings of `beam_search` and `sample`.

    Args:
        beam: number of hypotheses kept; 1 takes the likeliest token at every step.
        length_penalty: exponent of the norm ((5 + length) / 6) by which log-probabilities are
            divided; 0 prefers short sequences, 1 does not (Wu et al. 2016, eq. 14).
        n_best: number of hypotheses returned for each source, the best first.
        max_length: maximum number of tokens beyond ``max_factor`` times the source's steps.
        max_factor: see ``max_length``.
        min_length: minimum number of tokens.
        temperature: of sampling: below 1 unlikely tokens become rarer.
        no_repeat: length of token n-grams that must not occur twice; 0 for no limit.
    """

    beam: int = 5
    length_penalty: float = 1.0
    n_best: int = 1
    max_length: int = 20
    max_factor: float = 2.0
    min_length: int = 0
    temperature: float = 1.0
    no_repeat: int = 0

    def __post_init__(self) -> None:
        for name, bound in (("beam", 1), ("n_best", 1), ("max_length", 1), ("min_length", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < bound:
                raise OstinatoError(
                    f"Search: {name}={value!r}; expected a whole number, {bound} or more."
                )
        if not isinstance(self.no_repeat, int) or self.no_repeat < 0:
            raise OstinatoError(f"Search: no_repeat={self.no_repeat!r}; expected 0 or more.")
        # Norms grow with the length and this exponent.
        if not -100 <= self.length_penalty <= 100:
            raise OstinatoError(
                f"Search: length_penalty={self.length_penalty!r}; expected -100 to 100."
            )
        if not 0 <= self.temperature < math.inf:
            raise OstinatoError(f"Search: temperature={self.temperature!r}; expected zero or more.")
        if self.n_best > self.beam:
            raise OstinatoError(
                f"Search: n_best={self.n_best}; expected at most beam={self.beam}, the number of "
                "hypotheses kept."
            )

    def norm(self, length: Any) -> Any:
        """Return the number by which the log-probability of a sequence of a length is divided."""
        return ((5 + length) / 6) ** self.length_penalty

    def longest(self, encoded: Encoded) -> Tensor:
        """Return the maximum number of tokens for each source, ``(B,)``."""
        return (self.max_factor * encoded.mask.sum(1) + self.max_length).long()


@torch.inference_mode()
def beam_search(
    network: EncoderDecoder, x: Any, lengths: Lengths = None, search: Search | None = None
) -> list[list[Hypothesis]]:
    """Find at most ``n_best`` hypotheses for each source of a batch, the best first.

    At each step every source keeps its ``beam`` best prefixes; a prefix that ends is set aside, and
    a source is done when no remaining prefix can become better.

    Args:
        network: the network.
        x: sources, as its encoder takes them.
        lengths: steps of each source, ``(B,)``.
        search: settings of the search.
    """
    settings = search or Search()
    K = settings.beam
    encoded, state = network.start(x, lengths)
    B, device = len(encoded.mask), encoded.memory.device
    most = settings.longest(encoded)  # (B,)
    V = network.decoder.tokens + 1
    # The sources, once for each hypothesis; and the best tokens of each, with numbers and sums.
    size = B * K * (4 * encoded.memory[0].numel() + 4 * V + 20 * min(2 * K, V)) if B else 0
    check_memory(f"beam_search: beam={K} for {B} sources", size, "choose a smaller beam")
    each = torch.arange(B, device=device).repeat_interleave(K)  # source of each row
    encoded, state = encoded.rows(each), state.rows(each)
    end = network.decoder.end
    token = torch.full((B * K,), network.decoder.begin, device=device)
    # The prefixes of a source are all equal at first: only one of them counts.
    total = torch.full((B, K), -torch.inf, dtype=torch.float64, device=device)
    total[:, 0] = 0.0
    done: list[list[Hypothesis]] = [[] for _ in range(B)]
    sources = list(range(B))  # numbers of those not done
    tokens = torch.empty(B * K, 0, dtype=torch.long, device=device)
    seen: list[Tensor] = []  # attention of every row at every step
    for t in range(int(most.max()) + 1 if B else 0):
        log_p, state, weights = network.step(token, encoded, state)
        if t < settings.min_length:
            log_p[:, end] = -torch.inf
        last = t >= most
        if last.any():  # the longest sequences end now
            log_p[last.repeat_interleave(K), :end] = -torch.inf
        if settings.no_repeat:
            _forbid(log_p, tokens, settings.no_repeat)
        # At least K of the best 2 K continue, whatever ends; no row has more of these than 2 K.
        n, wide = len(sources), min(2 * K, V)
        each_best = log_p.topk(wide, dim=1)
        options = (total.view(n * K, 1) + each_best.values.double()).view(n, K * wide)
        best = options.topk(min(2 * K, K * wide), dim=1)
        numbers = each_best.indices.view(n, -1).gather(1, best.indices).tolist()
        if weights is not None:
            seen.append(weights)
        values, parents = best.values.tolist(), (best.indices // wide).tolist()
        kept: list[tuple[int, int, float]] = []  # row before, token and log-probability
        active: list[int] = []
        for i, source in enumerate(sources):
            new: list[tuple[int, int, float]] = []
            ranked = zip(values[i], parents[i], numbers[i], strict=True)
            for rank, (value, parent, number) in enumerate(ranked):
                if value == -math.inf or len(new) == K:
                    break
                row = i * K + parent
                if number != end:
                    new.append((row, number, value))
                elif rank < K:
                    score = value / settings.norm(t + 1)
                    found = Hypothesis(tokens[row].tolist(), score, value, _at(seen[:t], row))
                    done[source].append(found)
            done[source].sort(key=lambda h: -h.score)
            del done[source][K:]
            if new and not _is_settled(done[source], new[0][2], t, int(most[i]), settings):
                kept += new + [(*new[0][:2], -math.inf)] * (K - len(new))
                active.append(i)
        if not active:
            break
        rows, last_tokens, totals = zip(*kept, strict=True)
        index, token = (torch.tensor(part, device=device) for part in (rows, last_tokens))
        total = torch.tensor(totals, dtype=torch.float64, device=device).view(-1, K)
        tokens = torch.cat([tokens[index], token[:, None]], 1)
        seen = [w[index] for w in seen]
        state = state.rows(index)
        if len(active) < len(sources):
            encoded = encoded.rows(index)
            most = most[torch.tensor(active, device=device)]
            sources = [sources[i] for i in active]
    return [found[: settings.n_best] for found in done]


def _at(seen: list[Tensor], row: int) -> NDArray[np.float32] | None:
    """Return the attention of one row at every step, ``(steps, S)``."""
    if not seen:
        return None
    return np.asarray(torch.stack([weights[row] for weights in seen]).float().cpu().numpy())


def _is_settled(done: list[Hypothesis], best: float, t: int, most: int, settings: Search) -> bool:
    """Return whether no remaining prefix can become better than the hypotheses found."""
    if len(done) < settings.n_best:
        return False
    # With a penalty longer sequences are divided by more, the longest by the most.
    ceiling = best / settings.norm(most + 1 if settings.length_penalty > 0 else t + 2)
    return len(done) >= settings.beam or done[settings.n_best - 1].score >= ceiling


def _forbid(log_p: Tensor, tokens: Tensor, n: int) -> None:
    """Rule out tokens that would repeat an n-gram."""
    for row, written in enumerate(tokens.tolist()):
        prefix = written[len(written) - n + 1 :]
        for i in range(len(written) - n + 1):
            if written[i : i + n - 1] == prefix:
                log_p[row, written[i + n - 1]] = -torch.inf


@torch.inference_mode()
def sample(
    network: EncoderDecoder,
    x: Any,
    lengths: Lengths = None,
    search: Search | None = None,
    generator: torch.Generator | None = None,
) -> list[Hypothesis]:
    """Sample a sequence for each source, token by token, from the network's probabilities."""
    settings = search or Search()
    encoded, state = network.start(x, lengths)
    B, end = len(encoded.mask), network.decoder.end
    most = settings.longest(encoded).cpu()
    token = torch.full((B,), network.decoder.begin, device=encoded.memory.device)
    log_p = torch.zeros(B, dtype=torch.float64)
    written: list[list[int]] = [[] for _ in range(B)]
    active = torch.ones(B, dtype=torch.bool)
    for t in range(int(most.max()) + 1 if B else 0):
        scores, state, _ = network.step(token, encoded, state)
        p = scores.double().cpu()
        if t < settings.min_length:
            p[:, end] = -torch.inf
        p[t >= most, :end] = -torch.inf
        drawn = torch.multinomial(
            (p / max(settings.temperature, 1e-6)).softmax(-1), 1, generator=generator
        )[:, 0]
        drawn = torch.where(active, drawn, end)
        log_p += torch.where(active, p.gather(1, drawn[:, None])[:, 0], 0.0)
        active &= drawn != end
        for row in torch.nonzero(active)[:, 0].tolist():
            written[row].append(int(drawn[row]))
        if not active.any():
            break
        token = drawn.clamp(max=end).to(token.device)
    return [
        Hypothesis(tokens, float(lp) / settings.norm(len(tokens) + 1), float(lp))
        for tokens, lp in zip(written, log_p, strict=True)
    ]


# CTC: A. Graves, S. Fernández, F. Gomez and J. Schmidhuber 2006, "Connectionist temporal
# classification". The blank is the last number.


def ctc_greedy(log_p: NDArray[np.float64]) -> Hypothesis:
    """Return the likeliest alignment of ``(T, V + 1)``, without repetitions and blanks.

    >>> log_p = np.log([[0.8, 0.1, 0.1], [0.7, 0.1, 0.2], [0.1, 0.1, 0.8], [0.6, 0.3, 0.1]])
    >>> ctc_greedy(log_p).tokens
    [0, 0]
    """
    blank = log_p.shape[-1] - 1
    tokens = [int(token) for token, _ in groupby(log_p.argmax(-1)) if token != blank]
    value = float(log_p.max(-1).sum()) if len(log_p) else 0.0
    return Hypothesis(tokens, value, value)


TEXT = 300
"""Bytes that a text takes while `ctc_beam` keeps it, its tokens not counted."""

Tokens: TypeAlias = tuple[int, ...]
LanguageModel = Callable[[Tokens], Mapping[int, float] | NDArray[np.float64]]
"""Natural log-probabilities of the next token after some tokens, by its number."""


def ctc_beam(
    log_p: NDArray[np.float64],
    beam: int = 16,
    *,
    n_best: int = 1,
    language: LanguageModel | None = None,
    weight: float = 0.5,
    bonus: float = 0.0,
    floor: float = -12.0,
) -> list[Hypothesis]:
    """Return the likeliest texts of ``(T, V + 1)``, summed over all alignments of each text.

    Prefix beam search (Hannun et al. 2014, "First-pass large vocabulary continuous speech
    recognition using bi-directional recurrent DNNs").

    Args:
        log_p: log-probabilities of tokens and, last, the blank.
        beam: number of texts kept.
        n_best: number of texts returned.
        language: a language model of the tokens.
        weight: weight of the language model's log-probabilities.
        bonus: added for every token, against a language model's preference for short texts.
        floor: log-probability below which a token is not tried at a step.

    >>> log_p = np.log([[0.4, 0.6], [0.4, 0.6]])   # a, a- and -a together beat --
    >>> ctc_beam(log_p)[0].tokens, round(float(np.exp(ctc_beam(log_p)[0].log_p)), 2)
    ([0], 0.64)
    """
    blank = log_p.shape[-1] - 1
    if beam < 1 or not math.isfinite(weight):
        raise OstinatoError(
            f"ctc_beam: beam={beam}, weight={weight}; expected 1 or more, a number."
        )
    if len(log_p) * math.log(blank + 1) > math.log(beam):  # so many texts there are
        check_memory(f"ctc_beam: beam={beam}", TEXT * beam, "choose a smaller beam")
    # For each text: log-probability of its alignments that end in a blank, and in its last token.
    texts: dict[Tokens, tuple[float, float]] = {(): (0.0, -math.inf)}
    prior: dict[Tokens, float] = {(): 0.0}

    def score(text: Tokens, parts: tuple[float, float]) -> float:
        return _add(*parts) + weight * prior[text] + bonus * len(text)

    def put(text: Tokens, in_blank: float, in_token: float) -> None:
        a, b = new.get(text, (-math.inf, -math.inf))
        new[text] = (_add(a, in_blank), _add(b, in_token))

    for step in log_p:
        likely = np.flatnonzero(step[:blank] > max(floor, float(step.max()) + floor)).tolist()
        new: dict[Tokens, tuple[float, float]] = {}
        for text, (in_blank, in_token) in texts.items():
            put(text, _add(in_blank, in_token) + float(step[blank]), -math.inf)
            if text:
                put(text, -math.inf, in_token + float(step[text[-1]]))
            following = language(text) if language is not None else None
            for token in likely:
                before = in_blank if text and text[-1] == token else _add(in_blank, in_token)
                if before == -math.inf:
                    continue
                longer = (*text, token)
                if longer not in prior:
                    more = 0.0 if following is None else float(following[token])
                    prior[longer] = prior[text] + more
                put(longer, -math.inf, before + float(step[token]))
        best = sorted(new, key=lambda text: -score(text, new[text]))[:beam]
        texts = {text: new[text] for text in best}
    ordered = sorted(texts, key=lambda text: -score(text, texts[text]))[:n_best]
    return [Hypothesis(list(t), score(t, texts[t]), _add(*texts[t])) for t in ordered]


def _add(a: float, b: float) -> float:
    """log(e^a + e^b)."""
    if a == -math.inf:
        return b
    if b == -math.inf:
        return a
    high, low = (a, b) if a > b else (b, a)
    return high + math.log1p(math.exp(low - high))


def edit_distance(a: Sequence[Any], b: Sequence[Any]) -> int:
    """Count the fewest insertions, deletions and replacements between two sequences.

    Levenshtein 1966.

    >>> edit_distance("kitten", "sitting")
    3
    """
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]
