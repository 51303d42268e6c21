"""Speech to text: train on recordings and their texts, and transcribe others."""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from ostinato.data.batches import SequenceBatch, SequenceBatches
from ostinato.data.corpus import Corpus
from ostinato.data.features import SpectrogramStream
from ostinato.data.inputs import Inputs
from ostinato.data.places import Place
from ostinato.data.ragged import Examples, Ragged
from ostinato.data.textfiles import numbered_lines
from ostinato.data.vocabulary import Level, Vocabulary
from ostinato.errors import DataError, OstinatoError, ShapeError
from ostinato.networks.alignment import ctc_align, ctc_find
from ostinato.networks.arrangements import recurrent_layers
from ostinato.networks.ctc import CTC
from ostinato.networks.decoding import LanguageModel, edit_distance
from ostinato.networks.transducer import Transducer
from ostinato.recurrence.layers import Hidden
from ostinato.tasks.base import Prediction, TextSampler
from ostinato.tasks.corpora import SoundEstimator
from ostinato.tasks.networks import encoder
from ostinato.tasks.targets import TokenSequence, usual_vocabulary
from ostinato.tasks.transcripts import (
    Calibration,
    Comparison,
    Hit,
    TimedWord,
    error_rates,
    timed_words,
)
from ostinato.training.evaluation import predict
from ostinato.training.runs import checked_data
from ostinato.training.settings import check_setting, check_value

LETTER_UNKNOWN = -20.0
"""Natural log of the probability of a letter that a language model does not know."""

Criterion: TypeAlias = Literal["ctc", "transducer"]

SpeechNetwork: TypeAlias = CTC | Transducer


class Transcripts(TokenSequence[SpeechNetwork]):
    """The text of each recording."""

    judge = "error_rate"
    flawless = 0.0

    @staticmethod
    def texts(corpus: Corpus, i: int) -> list[str]:
        """Return the text of a recording."""
        target = (corpus.targets or [])[i]
        if isinstance(target, list | tuple | np.ndarray):
            raise corpus.places[i].error(f"has the label {target!r:.40}; expected a text.")
        text = " ".join(str(target).split())
        if not text:
            raise corpus.places[i].error("has no text; expected its transcript.")
        return [text]

    def metrics(
        self, network: SpeechNetwork, batch: SequenceBatch, state: Hidden
    ) -> tuple[dict[str, float], None]:
        """Return the mean loss and the errors a token, by the likeliest alignment."""
        found, _ = super().metrics(network, batch, state)
        y, _ = network(batch.inputs, lengths=batch.unequal)
        assert batch.target_lengths is not None
        wrong = tokens = 0
        guesses = network.greedy(y, network.steps(batch.lengths))
        for row, (guess, m) in enumerate(zip(guesses, batch.target_lengths.tolist(), strict=True)):
            wrong += edit_distance(guess.tokens, batch.targets[row, :m].tolist())
            tokens += m
        return {**found, "error_rate": wrong / max(1, tokens)}, None

    def count(self, batch: SequenceBatch) -> int:
        """Return the number of tokens."""
        assert batch.target_lengths is not None
        return int(batch.target_lengths.sum())

    def describe(self) -> str:
        unit = {"char": "letters", "bpe": "word pieces"}.get(self.vocabulary.level, "words")
        return f"{len(self.vocabulary):,} {unit}"


@dataclass(kw_only=True, eq=False, repr=False)
class Transcriber(SoundEstimator[Transcripts, SpeechNetwork]):
    """A recurrent network that transcribes, by CTC or as an RNN transducer.

    It reads recordings, or series of measurements such as handwriting, and needs no alignment.

    Args:
        criterion: ctc, connectionist temporal classification, whose tokens do not depend on each
            other; or transducer, an RNN transducer, which knows what it has written.
        level: tokens that are written: char, word, or bpe (word pieces learned from the texts).
        vocabulary_size: most tokens of levels word and bpe; of bpe, by the size of the data if not
            given.
        stacked: frames of a hundredth of a second that are read in one step.
        bidirectional: as in `EncoderSettings`; False can follow a stream, see `stream`.
        lookahead: steps that a transducer waits for before a step is decoded, where
            bidirectional=False; see `latency`.

    Further settings and attributes are those of `CorpusEstimator`.

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

    criterion: Criterion = "ctc"
    level: Level = "char"
    stacked: int = 3
    lookahead: int = 0

    TARGETS = Transcripts

    def check_settings(self) -> None:
        super().check_settings()
        check_setting(self, "criterion", get_args(Criterion))
        check_setting(self, "level", ("char", "word", "bpe"))
        check_value(self, "lookahead", lambda n: 0 <= n <= 1000, "a number of steps, 0 to 1000")
        if self.lookahead and (self.criterion == "ctc" or self.bidirectional):
            raise OstinatoError(
                f"Transcriber: lookahead={self.lookahead} with criterion={self.criterion!r}, "
                f"bidirectional={self.bidirectional}; expected criterion='transducer' and "
                "bidirectional=False (--criterion transducer --no-bidirectional)."
            )
        check_value(self, "stacked", lambda n: 0 < n <= 100, "a number of frames, 1 to 100")
        if not self.recurrent:
            raise OstinatoError("Transcriber: recurrent=False; it has no form without recurrence.")

    @property
    def vocabulary_(self) -> Vocabulary:
        """Characters, words, or pieces of them."""
        return self.targets_.vocabulary

    def _learn_targets(self, training: Corpus) -> Transcripts:
        if training.kind in ("text", "words"):
            raise DataError("Transcriber: the inputs are texts; expected recordings or series.")
        size = self.vocabulary_size
        if size is None and self.level == "bpe":
            letters = (len(Transcripts.texts(training, i)[0]) for i in range(len(training)))
            size = usual_vocabulary(sum(letters))
        return Transcripts.learn(training, self.level, None if self.level == "char" else size)

    def _build(self, inputs: Inputs, targets: Transcripts) -> SpeechNetwork:
        how = self.architecture(self.resolved_)
        encode, features = encoder(inputs, self)
        layers = how.layers(self.stacked * features, bidirectional=self.bidirectional)
        V, H = len(targets.vocabulary), how.hidden_size
        if self.criterion == "ctc":
            return CTC(encode, layers, V, self.stacked, how.dropout)
        prediction = recurrent_layers("gru", max(8, H // 4), H)
        return Transducer(
            encode, layers, prediction, V, H, self.stacked, self.lookahead, how.dropout
        )

    def _defaults(
        self, facts: Mapping[str, Any], pieces: int, usual: dict[str, Any]
    ) -> dict[str, Any]:
        return {"dropout": min(0.3, usual["dropout"])}

    def recordings(self, X: Any) -> Corpus:
        """Read recordings from memory, files or folders."""
        return self._read(X)

    def predict(self, X: Any) -> list[str]:
        """Return the text of each recording; see `transcribe`."""
        return self.transcribe(X)

    def transcribe(
        self,
        X: Any,
        *,
        beam: int = 16,
        language: TextSampler | LanguageModel | None = None,
        weight: float = 0.5,
    ) -> list[str]:
        """Return the text of each recording.

        Args:
            X: as in `fit`.
            beam: texts kept at a time; 1 takes the likeliest alignment.
            language: a language model: a `TextGenerator` of characters; or log-probabilities of the
                next token after some tokens, see `ctc_beam`.
            weight: of the language model.
        """
        if isinstance(language, TextSampler):
            language = self._token_model(language)

        network = self.network_

        def decode(y: Tensor, batch: SequenceBatch) -> Iterator[str]:
            ends = network.steps(batch.lengths)
            if beam == 1:
                for written in network.greedy(y, ends):
                    yield self.vocabulary_.decode(written.tokens)
                return
            for row, n in zip(y, ends.tolist(), strict=True):
                (found,) = network.beam_search(row[:n], beam, language=language, weight=weight)
                yield self.vocabulary_.decode(found.tokens)

        return self._sequences().predict(network, self._read(X), decode)

    def _token_model(self, model: TextSampler) -> LanguageModel:
        """Return the log-probabilities of our tokens by a model of characters."""
        tokens = [self.vocabulary_.decode([i]) for i in range(len(self.vocabulary_))]
        following = lru_cache(maxsize=100_000)(model.next_log_probs)

        class After(Mapping[int, float]):
            """Those after a text, each worked out when it is asked for."""

            def __init__(self, text: str) -> None:
                self.text = text

            def __getitem__(self, token: int) -> float:
                text, total = self.text, 0.0
                for letter in tokens[token]:
                    total += following(text).get(letter, LETTER_UNKNOWN)
                    text += letter
                return total

            def __iter__(self) -> Iterator[int]:
                return iter(range(len(tokens)))

            def __len__(self) -> int:
                return len(tokens)

        return lambda written: After(self.vocabulary_.decode(written))

    @property
    def latency(self) -> float | None:
        """Milliseconds from a moment of sound to when the step that it begins can be decoded.

        Those of the step itself, of its lookahead, and of half the window of the spectrogram: what
        `stream` waits for. None with ``bidirectional=True``, which waits for the end, and for
        series, which have no clock.
        """
        sound = self.inputs_.spectrogram
        if self.bidirectional or sound is None:
            return None
        frames = self.stacked * (self.lookahead + 1)
        return 1000 * (frames * sound.step + sound.fft // 2) / sound.rate

    def stream(self) -> TranscriptionStream:
        """Transcribe sound as it comes; for a model with ``bidirectional=False``."""
        check_is_fitted(self, "network_")
        return TranscriptionStream(self)

    def predictions(self, X: Any, *, probabilities: bool = False) -> Iterator[Prediction]:
        """Yield the text of each recording; see `Predictor`."""
        corpus = self._read(X)
        for place, text in zip(corpus.places, self.predict(corpus), strict=True):
            yield Prediction(place, f"{text}\t{place}", {"text": text})

    def choose(self, X: Any, texts: Sequence[str] | Path) -> list[tuple[str, float]]:
        """Choose which of some texts each recording says, and its probability among them.

        For spoken commands: each recording says one of them, and nothing else. A path is that of a
        file with a text in each line.
        """
        texts = _lines_of(texts, "choose: texts")
        ids = [torch.from_numpy(self.vocabulary_.encode(text)) for text in texts]
        network = self.network_
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
        counts = torch.tensor([len(i) for i in ids])

        def decode(y: Tensor, batch: SequenceBatch) -> Iterator[tuple[str, float]]:
            for row, n in zip(y, network.steps(batch.lengths).tolist(), strict=True):
                log_p = network.likelihoods_of(row[:n], padded.to(row.device), counts)
                shares = log_p.softmax(0)
                best = int(log_p.argmax())
                yield texts[best], float(torch.nan_to_num(shares)[best])

        return self._sequences().predict(network, self._read(X), decode)

    def align(
        self, X: Any, texts: Sequence[str] | None = None, **search: Any
    ) -> list[list[TimedWord]]:
        """Return the words of each recording, and when each is said.

        Args:
            X: as in `fit`.
            texts: what each says, if it is known (forced alignment); else it is transcribed.
            search: as in `transcribe`.

        Raises:
            DataError: a recording is too short for its text, or the text has an unknown character.
        """
        corpus, vocabulary = self._read(X), self.vocabulary_
        written = self.transcribe(corpus, **search) if texts is None else list(texts)
        if len(written) != len(corpus):
            raise OstinatoError(
                f"Transcriber.align: X has {len(corpus)} recordings, and texts {len(written)}."
            )
        found = []
        scores = self._log_probs(self._sequences().batches(self._sequences().unlabelled(corpus)))
        for log_p, text, place in zip(scores, written, corpus.places, strict=True):
            tokens = self._tokens(" ".join(text.split()))
            try:
                spans = ctc_align(log_p, tokens)
            except OstinatoError as error:
                raise place.error(f"is too short for {text!r:.60}: {error}") from None
            found.append(timed_words(vocabulary, tokens, spans, self._step))
        return found

    @property
    def _step(self) -> float:
        """Seconds of a step of the network; of series that are not sound, rows."""
        spectrogram = self.inputs_.spectrogram
        unit = 1.0 if spectrogram is None else spectrogram.step / spectrogram.rate
        return self.network_.stacked * unit

    def _log_probs(self, batches: SequenceBatches) -> list[NDArray[np.float64]]:
        """Return the log-probabilities of tokens and blank in each step, ``(T, V + 1)`` each."""
        if isinstance(self.network_, Transducer):
            raise OstinatoError(
                "Transcriber: align, find and calibrate need the probabilities of each step by "
                "itself, which a transducer has not; train with criterion='ctc' (--criterion ctc)."
            )

        def decode(scores: Tensor, batch: SequenceBatch) -> Iterator[NDArray[np.float64]]:
            log_p = scores.double().log_softmax(-1).cpu().numpy()
            for row, n in zip(log_p, self.network_.steps(batch.lengths).tolist(), strict=True):
                yield row[:n]

        return predict(self.network_, batches, decode)

    def find(self, X: Any, phrases: Sequence[str] | Path, *, threshold: float = 0.5) -> list[Hit]:
        """Search recordings for phrases: where each may be said, and how probable that is.

        The probability that the model writes the phrase there, whatever stands before and after it,
        as whole words; see `ctc_find`. How far it can be trusted, `calibrate` measures.

        Args:
            X: as in `fit`; recordings of any length.
            phrases: words, or several after each other; a path is that of a file with one a line.
            threshold: lowest score of a hit; see `calibrate`.

        Returns:
            the hits by recording and time.

        Raises:
            DataError: a phrase has a character that the model cannot write.
        """
        corpus = self._read(X)
        batches = self._sequences().batches(self._sequences().unlabelled(corpus))
        hits = self._hits(batches, _lines_of(phrases, "find: phrases"), corpus.places)
        return [hit for hit in hits if hit.score >= threshold]

    def _hits(
        self, batches: SequenceBatches, phrases: Sequence[str], places: Sequence[Place]
    ) -> list[Hit]:
        """Return all places of phrases, however improbable, by recording and time."""
        vocabulary, hits = self.vocabulary_, list[Hit]()
        space = None
        if vocabulary.level == "char" and " " in vocabulary.decode(range(len(vocabulary))):
            space = int(vocabulary.encode(" ")[0])
        forms = [(phrase, self._forms(phrase, space)) for phrase in phrases]
        for i, log_p in enumerate(self._log_probs(batches)):
            p = np.exp(log_p)
            for phrase, several in forms:
                spans = [span for ids in several for span in ctc_find(p, ids, boundary=space)]
                for begin, end, score in spans:
                    start, stop = round(begin * self._step, 4), round(end * self._step, 4)
                    hits.append(Hit(phrase, i, places[i], start, stop, score))
        return sorted(hits, key=lambda hit: (hit.recording, hit.start))

    def _forms(self, phrase: str, space: int | None) -> list[list[int]]:
        """Return the tokens of a phrase; where they hold spaces, also those within a text."""
        text = " ".join(phrase.split())
        forms = [self._tokens(text)]
        if self.vocabulary_.level != "char":
            forms.append(self._tokens(f" {text}"))
        return [forms[i] for i in range(len(forms)) if forms[i] not in forms[:i]]

    def _tokens(self, text: str) -> list[int]:
        """Return the tokens of a text; a `DataError` if it has some that the model cannot write."""
        vocabulary = self.vocabulary_
        tokens: list[int] = vocabulary.encode(text).tolist()
        if vocabulary.unk_id in tokens:
            pieces = text if vocabulary.level == "char" else text.split()
            wrong = next(p for p in pieces if vocabulary.unk_id in vocabulary.encode(p).tolist())
            known = vocabulary.decode(i for i in range(len(vocabulary)) if i != vocabulary.unk_id)
            known = known.replace("\n", "")
            raise DataError(
                f"Transcriber: {text!r:.60}: the model cannot write {wrong!r}; it knows "
                f"{known!r:.60}."
            )
        return tokens

    def calibrate(
        self,
        phrases: Sequence[str] | Path,
        X: Any = None,
        y: Any = None,
        *,
        false_alarms_per_hour: float = 1.0,
    ) -> Calibration:
        """Choose the threshold of `find` for a rate of false alarms, by validation data.

        Args:
            phrases: as in `find`.
            X: recordings that the model was not trained on; if not given, the validation data of
                the run that the model is from.
            y: what they say.
            false_alarms_per_hour: hits an hour of all phrases together that may be wrong. Much less
                than one in all the data cannot be measured: the threshold is then just above the
                highest score of a wrong hit.

        Returns:
            the threshold, with the false alarms and misses that it makes on these data.
        """
        phrases = _lines_of(phrases, "calibrate: phrases")
        if X is not None:
            corpus = self._labelled(X, y)
            examples, places = self._sequences().labelled(corpus), corpus.places
        else:
            if self.folder_ is None or not (self.folder_ / "data").is_dir():
                raise OstinatoError(
                    "Transcriber.calibrate: the model is from no run with data; give X and y."
                )
            known = Examples.open(checked_data(self.folder_ / "data"), "validation")
            if known is None:
                raise OstinatoError(
                    "Transcriber.calibrate: the run has no validation data; give X and y."
                )
            examples = known
            places = [Place(f"validation[{i}]") for i in range(len(known.inputs))]
        assert isinstance(examples.targets, Ragged)
        texts = [self.vocabulary_.decode(row.tolist()) for row in examples.targets]
        hits = self._hits(self._sequences().batches(examples), phrases, places)
        hours = float(examples.inputs.lengths.sum()) * self._step / self.network_.stacked / 3600
        return Calibration.of(phrases, hits, texts, hours, false_alarms_per_hour)

    def compare(
        self,
        X: Any,
        y: Any = None,
        *,
        groups: Any = None,
        allow_shared_groups: bool = False,
        **search: Any,
    ) -> list[Comparison]:
        """Return the transcript of each recording beside its true text; arguments as `evaluate`."""
        corpus = self._tested(X, y, groups, allow_shared_groups)
        truth = [Transcripts.texts(corpus, i)[0] for i in range(len(corpus))]
        guess = self.transcribe(corpus, **search)
        return list(map(Comparison, corpus.places, truth, guess))

    def evaluate(self, X: Any, y: Any = None, **how: Any) -> dict[str, Any]:
        """Measure transcripts by known texts; see `error_rates`, and `compare` for each of them.

        Args:
            X: as in `fit`.
            y: the true texts.
            how: ``groups`` and ``allow_shared_groups`` as of `SequenceClassifier.evaluate`; others
                as in `transcribe`.

        Returns:
            cer, wer: errors a character and a word (substitutions, deletions and insertions over
            the length of the true texts); how many of each kind there are among how many words;
            exact, the share of recordings without any; recordings.
        """
        return error_rates(self.compare(X, y, **how))

    def score(self, X: Any, y: Any = None) -> float:
        """Return 1 less the errors a character."""
        return 1.0 - float(self.evaluate(X, y)["cer"])


def _lines_of(texts: Sequence[str] | Path, what: str) -> list[str]:
    """Return texts that are given, or the lines of a file; an `OstinatoError` if there are none."""
    if isinstance(texts, Path):
        texts = [line for _, line in numbered_lines(texts)]
    some = [text for text in ([texts] if isinstance(texts, str) else texts) if text.strip()]
    if not some:
        raise OstinatoError(f"Transcriber.{what} is empty; expected a text or more.")
    return some


class TranscriptionStream:
    """Transcribes sound as it comes, in constant memory and time.

    It takes the likeliest token at every step, as `Transcriber.transcribe` with ``beam=1`` does of
    the whole.

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
        self._network = model.network_.eval()
        self._written = self._network.stream()
        self._vocabulary = model.vocabulary_
        # A token may end within a character.
        self._decoder = getincrementaldecoder("utf-8")("replace")
        spectrogram = model.inputs_.spectrogram
        self._sound = None if spectrogram is None else SpectrogramStream(spectrogram)
        self.rate = None if spectrogram is None else spectrogram.rate
        """Samples a second that `feed` takes; None where it takes rows of measurements."""
        self.latency = model.latency
        """Milliseconds as of `Transcriber.latency`."""
        self._rows = np.zeros((0, model.inputs_.features), dtype=np.float32)

    def feed(self, x: NDArray[Any]) -> str:
        """Return the text that some more sound adds: samples ``(n,)`` from -1 to 1, at `rate`.

        Of a model of series, rows of measurements ``(n, I)``.
        """
        x = np.asarray(x, dtype=np.float32)
        if x.ndim != (2 if self._sound is None else 1) or not np.isfinite(x).all():
            expected = "rows (n, I)" if self._sound is None else "samples (n,)"
            raise ShapeError(
                f"TranscriptionStream.feed: x has shape {x.shape}; expected {expected} of finite "
                "numbers."
            )
        return self._read(x if self._sound is None else self._sound.feed(x))

    def finish(self) -> str:
        """Return the rest of the text at the end."""
        rest = self._rows[:0] if self._sound is None else self._sound.finish()
        return self._read(rest, last=True)

    def _read(self, rows: NDArray[np.float32], *, last: bool = False) -> str:
        rows = np.concatenate([self._rows, rows])
        whole = len(rows) if last else len(rows) - len(rows) % self._network.stacked
        self._rows = rows[whole:]
        x = torch.from_numpy(rows[:whole]).to(self._network.output.weight)
        found = self._written.feed(x, final=last)
        letters = b"".join(map(self._vocabulary.bytes_of, found.tokens))
        return self._decoder.decode(letters, final=last)
