"""Speech to text: learn from recordings and what is said in them, and write down others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from ostinato.data.batches import SequenceBatch, SequenceBatches
from ostinato.data.corpus import Corpus
from ostinato.data.features import SpectrogramStream
from ostinato.data.ragged import Examples
from ostinato.data.text import TextSource
from ostinato.data.vocabulary import Level, Vocabulary, build_vocabulary
from ostinato.errors import DataError, OstinatoError, ShapeError
from ostinato.networks.ctc import CTC
from ostinato.networks.decoding import LanguageModel, ctc_beam, ctc_greedy, edit_distance
from ostinato.recurrence.layers import Hidden
from ostinato.training.supervised import Answer, SupervisedEstimator

LETTER_UNKNOWN = -20.0
"""Natural log of the probability of a letter that a language model does not know."""


@dataclass(kw_only=True, eq=False, repr=False)
class Transcriber(SupervisedEstimator):
    """A recurrent network that writes down what is said, by connectionist temporal classification.

    It reads recordings, or series of measurements such as handwriting, and needs no alignment.

    Args:
        level: what is written: char, or word.
        stacked: frames of a hundredth of a second that are read at once.
        bidirectional: as in `SupervisedEstimator`; False can follow a stream, see `stream`.

    Further settings are those of `SupervisedEstimator`, `InputSettings`, `ReadingSettings` and
    `TrainingSettings`.

    Attributes:
        vocabulary_: characters or words.
        inputs_: what is known of the inputs.
        network_: the trained network.
        training_: facts of the training run.
        chosen_: settings that were not given, and what the data made of them.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> shapes = {"a": [3.0, 0.0], "b": [0.0, 3.0]}
        >>> y = ["ab", "ba", "a", "b", "aa", "bb"] * 20
        >>> X = [np.concatenate([[shapes[c]] * 3 + [[0.0, 0.0]] * 2 for c in text]) for text in y]
        >>> X = [x + 0.1 * rng.normal(size=x.shape) for x in X]
        >>> model = Transcriber(hidden_size=16, stacked=1, epochs=15, learning_rate=0.02).fit(X, y)
        >>> model.predict(X[:3])
        ['ab', 'ba', 'a']
    """

    level: Level = "char"
    stacked: int = 3

    def check_settings(self) -> None:
        """Refuse what cannot be meant; see `TrainingSettings`."""
        super().check_settings()
        self._want_one_of("level", ("char", "word"))
        self._want("stacked", lambda n: 0 < n <= 100, "a number of frames, 1 to 100")
        if self.memory == "none":
            raise OstinatoError("Transcriber: memory='none'; it has no form without recurrence.")

    # Learning

    def _learn_targets(self, training: Corpus, held_out: Corpus | None) -> None:
        texts = [_said(corpus, i) for corpus in (training,) for i in range(len(corpus))]
        source = TextSource.from_text("\n".join(texts))
        unknown = "<unk>" if self.level == "word" else "\ufffd"
        self.vocabulary_ = build_vocabulary(self.level, source, unknown=unknown)

    def _encode_targets(self, corpus: Corpus) -> Iterator[NDArray[Any]]:
        return (self.vocabulary_.encode(_said(corpus, i)) for i in range(len(corpus)))

    def _assemble(self, encode: nn.Module, features: int) -> nn.Module:
        if self.inputs_.lexicon is not None:
            raise DataError("Transcriber: the inputs are texts; expected recordings or series.")
        recurrent = self._recurrent(self.stacked * features, bidirectional=self.bidirectional)
        dropout = self._value("dropout")
        return CTC(encode, recurrent, len(self.vocabulary_), self.stacked, dropout)

    def _choose(self, steps: NDArray[np.int64]) -> dict[str, Any]:
        chosen = super()._choose(steps)
        return chosen | {"dropout": min(0.3, chosen["dropout"])}

    def _batches(self, examples: Examples) -> SequenceBatches:
        return SequenceBatches(examples, self._value("batch_size"), seed=self.seed, apart=True)

    def _in_order(self, examples: Examples) -> Iterator[tuple[NDArray[np.int64], SequenceBatch]]:
        return SequenceBatches(examples, 64, apart=True).in_order()

    def _weight(self, batch: SequenceBatch) -> int:
        assert batch.target_lengths is not None
        return int(batch.target_lengths.sum())

    def _loss(self, batch: SequenceBatch, table: Any, device: torch.device) -> Tensor:
        loss: Tensor
        loss, _ = self.network_.loss(
            self._tensors(batch, table, device),
            batch.targets.to(device),
            lengths=batch.unequal,
            target_lengths=batch.target_lengths,
        )
        return loss

    def _judge(self, x: Any, batch: SequenceBatch, targets: Tensor) -> dict[str, float]:
        more = {"lengths": batch.unequal, "target_lengths": batch.target_lengths}
        loss, _ = self.network_.loss(x, targets, **more)
        y, _ = self.network_(x, lengths=batch.unequal)
        log_p = y.double().log_softmax(-1).cpu().numpy()
        wrong = letters = 0
        ends = self.network_.steps(batch.lengths).tolist()
        assert batch.target_lengths is not None
        for row, (n, m) in enumerate(zip(ends, batch.target_lengths.tolist(), strict=True)):
            wrong += edit_distance(ctc_greedy(log_p[row, :n]).tokens, targets[row, :m].tolist())
            letters += m
        return {"loss": float(loss), "error_rate": wrong / max(1, letters)}

    def _aim(self) -> str:
        return f"{len(self.vocabulary_):,} " + ("letters" if self.level == "char" else "words")

    # Using

    def recordings(self, X: Any) -> Corpus:
        """Recordings as they are read from memory, files or folders."""
        return self._corpus(X, labelled=None)

    def predict(self, X: Any) -> list[str]:
        """What is said in each recording."""
        return self.transcribe(X)

    def transcribe(
        self, X: Any, *, beam: int = 16, language: Any = None, weight: float = 0.5
    ) -> list[str]:
        """What is said in each recording.

        Args:
            X: as in `fit`.
            beam: texts kept at a time; 1 takes the likeliest alignment.
            language: what is written in general: a `TextGenerator` of characters; or
                log-probabilities of the next token after some tokens, see `ctc_beam`.
            weight: of the language.
        """
        corpus = self._corpus(X, labelled=None)
        if hasattr(language, "next_log_probs"):
            language = self._as_language(language)

        def read(y: Tensor, batch: SequenceBatch) -> Iterator[str]:
            log_p = y.double().log_softmax(-1).cpu().numpy()
            for row, n in zip(log_p, self.network_.steps(batch.lengths).tolist(), strict=True):
                if beam == 1:
                    found = ctc_greedy(row[:n])
                else:
                    (found,) = ctc_beam(row[:n], beam, language=language, weight=weight)
                yield self.vocabulary_.decode(found.tokens)

        return self._scored(corpus, read)

    def _as_language(self, model: Any) -> LanguageModel:
        """A model of texts by its characters, as log-probabilities of our tokens."""
        letters = [self.vocabulary_.decode([i]) for i in range(len(self.vocabulary_))]

        @lru_cache(maxsize=100_000)
        def after(tokens: tuple[int, ...]) -> NDArray[np.float64]:
            known: Mapping[str, float] = model.next_log_probs(self.vocabulary_.decode(tokens))
            return np.array([known.get(letter, LETTER_UNKNOWN) for letter in letters])

        return after

    def stream(self) -> TranscriptionStream:
        """Write down what is said while it is said; for a model with ``bidirectional=False``.

        Raises:
            OstinatoError: if the model needs the future.
        """
        check_is_fitted(self, "network_")
        return TranscriptionStream(self)

    def answers(self, X: Any, *, probabilities: bool = False) -> Iterator[Answer]:
        """What the model says of each recording; see `predict`."""
        corpus = self._corpus(X, labelled=None)
        for place, text in zip(corpus.places, self.predict(corpus), strict=True):
            yield Answer(place, f"{text}\t{place}", {"text": text})

    def find(self, X: Any, texts: Sequence[str]) -> list[tuple[str, float]]:
        """Which of some texts is said in each recording, and how likely it is among them.

        Spoken commands, and search by voice: what is not among the texts cannot be found.
        """
        if not texts:
            raise OstinatoError("Transcriber.find: texts is empty; give some to find.")
        corpus = self._corpus(X, labelled=None)
        ids = [torch.from_numpy(self.vocabulary_.encode(text)) for text in texts]
        network: Any = self.network_

        def read(y: Tensor, batch: SequenceBatch) -> Iterator[tuple[str, float]]:
            log_p, ends = y.double().log_softmax(-1).cpu(), network.steps(batch.lengths)
            for row, n in zip(log_p, ends.tolist(), strict=True):
                frames = row[:n, None].expand(-1, len(ids), -1)
                losses = torch.nn.functional.ctc_loss(
                    frames, torch.cat(ids), torch.full((len(ids),), n),
                    torch.tensor([len(i) for i in ids]), network.blank, reduction="none",
                )  # fmt: skip
                shares = (-losses).softmax(0)
                best = int(losses.argmin())
                yield texts[best], float(torch.nan_to_num(shares)[best])

        return self._scored(corpus, read)

    def evaluate(self, X: Any, y: Any = None, **search: Any) -> dict[str, Any]:
        """How well recordings are written down.

        Returns:
            cer, wer: errors a character and a word (insertions, deletions and replacements over
            what is there); exact, the share without any; recordings.
        """
        corpus = self._corpus(X, y, labelled=True)
        self._refuse_untargeted(corpus)
        truth = [_said(corpus, i) for i in range(len(corpus))]
        guess = self.transcribe(corpus, **search)
        pairs = list(zip(guess, truth, strict=True))
        return {
            "cer": _rate([(g, t) for g, t in pairs]),
            "wer": _rate([(g.split(), t.split()) for g, t in pairs]),
            "exact": float(np.mean([g == t for g, t in pairs])),
            "recordings": len(pairs),
        }

    def score(self, X: Any, y: Any = None) -> float:
        """1 less the errors a character."""
        return 1.0 - float(self.evaluate(X, y)["cer"])

    def _documents(self) -> dict[str, Any]:
        return {**super()._documents(), "vocabulary.json": self.vocabulary_.to_json()}

    def _take_documents(self, documents: Mapping[str, Any]) -> None:
        super()._take_documents(documents)
        self.vocabulary_ = Vocabulary.from_json(documents["vocabulary.json"])


def _said(corpus: Corpus, i: int) -> str:
    """The text of a recording."""
    target = (corpus.targets or [])[i]
    if isinstance(target, list | tuple | np.ndarray):
        raise corpus.places[i].error(f"has the label {target!r:.40}; expected a text.")
    text = " ".join(str(target).split())
    if not text:
        raise corpus.places[i].error("has no text; what is said in it must be known.")
    return text


def _rate(pairs: Sequence[tuple[Any, Any]]) -> float:
    return sum(edit_distance(g, t) for g, t in pairs) / max(1, sum(len(t) for _, t in pairs))


class TranscriptionStream:
    """What is said, written down as it comes, in constant memory and time.

    It takes the likeliest token at every step, as `Transcriber.transcribe` with ``beam=1`` does of
    the whole, and knows no more than has been heard.

    Args:
        model: a `Transcriber` with ``bidirectional=False``.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> X = [rng.normal(size=(12, 2)) for _ in range(40)]
        >>> y = ["a" if x[:6].sum() > 0 else "b" for x in X]
        >>> model = Transcriber(bidirectional=False, hidden_size=8, epochs=2).fit(X, y)
        >>> stream = model.stream()
        >>> text = "".join([stream.feed(X[0][:7]), stream.feed(X[0][7:]), stream.finish()])
        >>> text == model.transcribe(X[:1], beam=1)[0]
        True
    """

    def __init__(self, model: Transcriber) -> None:
        if model.bidirectional:
            raise OstinatoError(
                "Transcriber.stream: the model reads in both directions and needs the future; "
                "train it with bidirectional=False (--no-bidirectional)."
            )
        self._network: CTC = model.network_.eval()
        self._decode = model.vocabulary_.decode
        spectrogram = model.inputs_.spectrogram
        self._sound = None if spectrogram is None else SpectrogramStream(spectrogram)
        self.rate = None if spectrogram is None else spectrogram.rate
        """Samples a second that `feed` takes; None where it takes rows of measurements."""
        self._rows = np.zeros((0, model.inputs_.features), dtype=np.float32)
        self._state: Hidden = None
        self._last = self._network.blank

    def feed(self, x: NDArray[Any]) -> str:
        """What is written because of some more sound: samples ``(n,)`` from -1 to 1, at `rate`.

        Of a model of series, rows of measurements ``(n, I)``.
        """
        x = np.asarray(x, dtype=np.float32)
        if x.ndim != (2 if self._sound is None else 1) or not np.isfinite(x).all():
            wanted = "rows (n, I)" if self._sound is None else "samples (n,)"
            raise ShapeError(
                f"TranscriptionStream.feed: x has shape {x.shape}; expected {wanted} of finite "
                "numbers."
            )
        return self._read(x if self._sound is None else self._sound.feed(x))

    def finish(self) -> str:
        """What is left to write at the end."""
        rest = self._rows[:0] if self._sound is None else self._sound.finish()
        return self._read(rest, last=True)

    def _read(self, rows: NDArray[np.float32], *, last: bool = False) -> str:
        rows = np.concatenate([self._rows, rows])
        whole = len(rows) if last else len(rows) - len(rows) % self._network.stacked
        self._rows = rows[whole:]
        if not whole:
            return ""
        weight = self._network.output.weight
        x = torch.from_numpy(rows[None, :whole]).to(weight)
        with torch.inference_mode():
            y, self._state = self._network(x, self._state)
        tokens = []
        for token in y[0].argmax(-1).tolist():
            if token != self._last and token != self._network.blank:
                tokens.append(token)
            self._last = token
        return self._decode(tokens)
