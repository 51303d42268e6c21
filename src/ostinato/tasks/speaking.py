"""Text to speech: train on recordings and their texts, and speak others."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from statistics import mode
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from ostinato.data.batches import SequenceBatch
from ostinato.data.corpus import Corpus
from ostinato.data.features import MAX_BANDS, MAX_RATE, read_sound, sound_rate
from ostinato.data.inputs import SequenceInputs
from ostinato.data.places import paths_of
from ostinato.data.ragged import Examples, Ragged
from ostinato.data.shards import Work
from ostinato.data.speech import (
    SpeechSettings,
    phonemes,
    read_speech,
    speech_chunks,
    speech_of,
)
from ostinato.data.spool import open_chunks, write_chunks
from ostinato.data.synthesis import DECIBELS, GriffinLimStream, Samples, SoundFrames, griffin_lim
from ostinato.data.text import read_text
from ostinato.data.vocabulary import Vocabulary
from ostinato.errors import MissingExtra, OstinatoError
from ostinato.networks.attention_faults import REMEDIES, Fault, faults_of, shaded
from ostinato.networks.speech import SpeechNetwork
from ostinato.recurrence.layers import Hidden
from ostinato.tasks.base import SoundSynthesizer, Speech
from ostinato.tasks.estimators import Estimator, random_generator
from ostinato.tasks.networks import check_sizes
from ostinato.tasks.targets import SequenceTargets, vocabulary_of
from ostinato.training.evaluation import Problem, eval_mode, evaluate
from ostinato.training.settings import check_setting, check_value

Symbols = Literal["char", "phoneme"]

SHOWN = 8
"""Texts that are spoken at each evaluation."""


class SpeechWarning(UserWarning):
    """A text was spoken with a fault: a part skipped or repeated, or no end found."""


@dataclass
class SpokenTexts(SequenceInputs):
    """Texts as numbers of tokens, after the number of the speaker; the last is the end.

    Args:
        vocabulary: characters of the texts, or of their phonemes.
        speakers: names, sorted; one "" where there is one speaker alone.
        symbols: char, or phoneme.
        language: of the phonemes.
        lowercase: whether texts are read in lower case.
    """

    vocabulary: Vocabulary
    speakers: list[str]
    symbols: Symbols = "char"
    language: str = "en"
    lowercase: bool = True
    noun = "texts"

    def __post_init__(self) -> None:
        names = self.speakers
        whole = isinstance(names, list) and all(isinstance(name, str) for name in names)
        if not whole or not names or len({*names}) != len(names):
            raise OstinatoError(f"SpokenTexts: speakers={names!r:.80}; expected distinct names.")

    def read(self, text: str) -> str:
        """Return what the network reads of a text: its characters, or its phonemes."""
        text = " ".join(text.split())
        if self.symbols == "phoneme":
            return phonemes(text, self.language)
        return text.lower() if self.lowercase else text

    def encode_text(self, text: str, speaker: str | None = None) -> NDArray[np.int64]:
        """Return the numbers of a text for a speaker; None for the only one, or the first."""
        if speaker is not None and speaker not in self.speakers:
            known = ", ".join(name or "''" for name in self.speakers[:20])
            raise OstinatoError(f"speaker={speaker!r}; expected one of {known}.")
        who = 0 if speaker is None else self.speakers.index(speaker)
        ids = self.vocabulary.encode(self.read(text))
        return np.concatenate([[who], ids, [len(self.vocabulary)]]).astype(np.int64)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Return the tokens of numbers without the speaker; the end is ¶."""
        V = len(self.vocabulary)
        return [self.vocabulary.token(i) if i < V else "\N{PILCROW SIGN}" for i in ids]

    def encode(self, corpus: Corpus) -> tuple[Iterator[NDArray[np.int64]], None]:
        return (self.encode_text(*pair_of(corpus, i)) for i in range(len(corpus))), None

    def check(self, corpus: Corpus) -> None:
        for i in range(len(corpus)):
            who = pair_of(corpus, i)[1]
            if who not in self.speakers:
                raise corpus.places[i].error(
                    f"is spoken by {who!r}, of whom there is no training data; known are "
                    f"{', '.join(self.speakers[:20])}."
                )

    def step_names(self, corpus: Corpus) -> list[str]:
        return self.pieces(self.encode_text(*pair_of(corpus, 0))[1:].tolist())

    def to_json(self) -> dict[str, Any]:
        """Return a JSON document."""
        return {**vars(self), "vocabulary": self.vocabulary.to_json()}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Return the inverse of `to_json`."""
        return cls(**{**document, "vocabulary": Vocabulary.from_json(document["vocabulary"])})


def pair_of(corpus: Corpus, i: int) -> tuple[str, str]:
    """Return the text and the speaker of a recording."""
    text, speaker = (corpus.targets or [])[i]
    return text, speaker


@dataclass
class RecordedFrames(SequenceTargets[SpeechNetwork]):
    """The log-mel frames of each recording, of mean 0 and standard deviation 1 in each band.

    Args:
        frames: how sound becomes frames.
        per_step: frames of a step; recordings are filled up with silence.
        trim: decibels below the loudest moment that are silence at the ends; see `SoundFrames`.
        mean, scale: of each band.
        pace: steps that a token takes at most.
        guided_epochs: in which the weight of guided attention falls to none.
    """

    frames: SoundFrames
    per_step: int
    trim: float = 0.0
    mean: list[float] = field(default_factory=list)
    scale: list[float] = field(default_factory=list)
    pace: float = 10.0
    guided_epochs: float = 0.0
    own_lengths = True
    loss_unit = "deviations"
    step_name = "letters"

    def __post_init__(self) -> None:
        K = self.frames.bands
        numbers = [*self.mean, *self.scale, self.pace]
        known = len(self.mean) == len(self.scale) == K or not self.mean
        real = all(isinstance(x, int | float) and math.isfinite(x) for x in numbers)
        if not known or not real or not 0 < self.pace < 1e4 or not 0 < self.per_step <= 64:
            raise OstinatoError(
                f"RecordedFrames: expected mean and scale of {K} bands, up to 64 frames a step and "
                "a pace above 0."
            )

    def learn(self, corpus: Corpus, tokens: Callable[[int], int]) -> RecordedFrames:
        """Return the same with mean, scale and pace of some of the recordings.

        ``tokens`` gives the number of tokens of a recording's text.
        """
        rows = np.sort(np.random.default_rng(0).permutation(len(corpus))[:500]).tolist()
        found = [self.frames_of(corpus, i) for i in rows]
        steps = [len(each) / self.per_step / max(1, tokens(i)) for i, each in zip(rows, found,
                 strict=True)]  # fmt: skip
        every = np.concatenate(found).astype(np.float64)
        scale = np.maximum(every.std(0), 0.1)
        return replace(
            self, mean=every.mean(0).tolist(), scale=scale.tolist(), pace=float(max(1.0, *steps))
        )

    def frames_of(self, corpus: Corpus, i: int) -> NDArray[np.float32]:
        """Return the frames of a recording, filled up to whole steps."""
        samples, rate = read_sound(corpus.inputs[i])
        mel = self.frames(self.frames.prepare(samples, rate, self.trim))
        missing = -len(mel) % self.per_step
        return np.pad(mel, ((0, missing), (0, 0)), constant_values=self.frames.silence)

    def encode(self, corpus: Corpus) -> Iterator[NDArray[np.float32]]:
        mean, scale = self._statistics()
        return ((self.frames_of(corpus, i) - mean) / scale for i in range(len(corpus)))

    def decode(self, frames: Tensor) -> NDArray[np.float32]:
        """Return log-mel frames of what the network computes, ``(T, K)``."""
        mean, scale = self._statistics()
        return np.asarray(frames.detach().float().cpu().numpy() * scale + mean, dtype=np.float32)

    def _statistics(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return np.asarray(self.mean, dtype=np.float32), np.asarray(self.scale, dtype=np.float32)

    def most(self, tokens: int) -> int:
        """Return the steps after which a text of so many tokens must have ended."""
        return 10 + math.ceil(1.5 * self.pace * tokens)

    def loss_arguments(self, batch: SequenceBatch) -> dict[str, Any]:
        left = 1 - batch.epoch / self.guided_epochs if self.guided_epochs else 0.0
        return {**super().loss_arguments(batch), "guided": max(0.0, left)}

    def metrics(
        self, network: SpeechNetwork, batch: SequenceBatch, state: Hidden
    ) -> tuple[dict[str, float], None]:
        """Return the mean loss, the error of frames in decibels, and how sharp attention is."""
        found = network.terms(
            batch.inputs, batch.targets, lengths=batch.unequal,  # type: ignore[arg-type]
            target_lengths=batch.target_lengths, generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        loss = float(found.coarse + found.refined + found.stop)
        decibels = DECIBELS * float(found.refined) * float(np.mean(self.scale))
        return {"loss": loss, "decibels": decibels, "focus": float(found.focus)}, None

    def count(self, batch: SequenceBatch) -> int:
        """Return the number of frames."""
        assert batch.target_lengths is not None
        return int(batch.target_lengths.sum())

    def describe(self) -> str:
        how = self.frames
        return (
            f"frames of {how.bands} bands every {1000 * how.hop:g} ms at {how.rate:,} samples a "
            f"second, {self.per_step} in a step"
        )

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "frames": self.frames.to_json()}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        return cls(**{**document, "frames": SoundFrames(**document["frames"])})


@dataclass(kw_only=True, eq=False, repr=False)
class Speaker(SpeechSettings, Estimator[SpokenTexts, RecordedFrames, SpeechNetwork]):
    """A network that speaks texts: an encoder, an attention that moves along, and a decoder.

    See `SpeechNetwork`; sound is made of its log-mel frames by `griffin_lim`, or by a `Vocoder`.
    ``fit`` takes recordings, as `pathlib.Path`, and ``y`` the text of each, or pairs of text and
    speaker; or folders, or tables with columns of files, texts and speakers.

    Args:
        symbols: what is read of a text: char, its characters; or phoneme, which an installed
            espeak-ng makes of it.
        language: of the phonemes, as espeak-ng names it, such as en-us or de.
        lowercase: whether characters are read in lower case.
        rate: samples a second; that of the recordings if not given.
        bands: bands of the mel scale.
        frames_per_step: frames of 12.5 ms that a step of the decoder computes.
        trim: silence at both ends of a recording is cut off: so many decibels below its loudest
            moment; 0 to keep it.
        guided_epochs: epochs in which attention is drawn to the diagonal, less and less.

    Further settings are those of its base classes, attributes those of `Estimator`.

    Example:
        >>> model = Speaker(pattern="{label}_{speaker}_{take}.wav", minutes=10)
        >>> model.fit(Path("recordings"))                                      # doctest: +SKIP
        >>> model.speak("seven", speaker="theo").save("seven.wav")             # doctest: +SKIP
    """

    symbols: Symbols = "char"
    language: str = "en"
    lowercase: bool = True
    rate: int | None = None
    bands: int = 64
    frames_per_step: int = 4
    trim: float = 50.0
    guided_epochs: float = 20.0
    learning_rate: float = 0.002

    def check_settings(self) -> None:
        super().check_settings()
        check_setting(self, "symbols", get_args(Symbols))
        check_value(self, "rate", lambda n: 2000 <= n <= MAX_RATE, "2,000 samples a second or more")
        check_value(self, "bands", lambda n: 0 < n <= MAX_BANDS, "a number of bands, 1 to 10,000")
        check_value(self, "frames_per_step", lambda n: 0 < n <= 64, "a number of frames, 1 to 64")
        check_value(self, "trim", lambda x: 0 <= x <= 200, "decibels, 0 for none")
        check_value(self, "guided_epochs", lambda x: x >= 0, "zero or more")
        check_sizes(self, "hidden_size")

    @property
    def speakers_(self) -> list[str]:
        """Names of the speakers; one "" where there is one alone."""
        return self.inputs_.speakers

    @property
    def rate_(self) -> int:
        """Samples a second."""
        return self.targets_.frames.rate

    @property
    def frames_(self) -> SoundFrames:
        """How sound becomes log-mel frames."""
        return self.targets_.frames

    def _read(self, X: Any, y: Any = None, *, labelled: bool | None = None) -> Corpus:
        if isinstance(X, Corpus):
            return X
        if y is None and (paths := paths_of(X)):
            return read_speech(paths, self)
        return speech_of(X, y, self)

    def _learn(self, training: Corpus) -> tuple[SpokenTexts, RecordedFrames]:
        pairs = [pair_of(training, i) for i in range(len(training))]
        speakers = sorted({who for _, who in pairs})
        empty = vocabulary_of(["a"], "char")
        reader = SpokenTexts(empty, speakers, self.symbols, self.language, self.lowercase)
        read = [reader.read(text) for text, _ in pairs]
        inputs = replace(reader, vocabulary=vocabulary_of(read, "char"))
        rate = self.rate or mode(map(sound_rate, training.inputs))
        targets = RecordedFrames(
            SoundFrames(rate, self.bands), self.frames_per_step, self.trim,
            guided_epochs=self.guided_epochs,
        )  # fmt: skip
        return inputs, targets.learn(training, lambda i: len(read[i]) + 1)

    def _read_chunks(self, paths: Sequence[Path], work: Work) -> Corpus:
        if work.known("corpus") is not None:
            return open_chunks(work)
        return write_chunks(speech_chunks(paths, self), work)

    def _data_settings(self) -> Sequence[str]:
        own = ("symbols", "language", "lowercase", "rate", "bands", "frames_per_step", "trim",
               "guided_epochs")  # fmt: skip
        return [*super()._data_settings(), *sorted(each.name for each in fields(SpeechSettings)),
                *own]  # fmt: skip

    def _facts(self, training: Corpus) -> dict[str, Any]:
        return {"letters": sum(len(pair_of(training, i)[0]) for i in range(len(training)))}

    def _defaults(
        self, facts: Mapping[str, Any], pieces: int, usual: dict[str, Any]
    ) -> dict[str, Any]:
        letters = facts["letters"]
        batch = self.batch_size or (32 if pieces >= 500 else max(1, min(16, pieces // 4)))
        found = {"hidden_size": 128 if letters < 50_000 else 256, "dropout": 0.1,
                 "batch_size": batch}  # fmt: skip
        if self.epochs is None and usual["epochs"] is not None:
            epochs = round(max(usual["epochs"], 6000 / -(-pieces // batch)), 1)
            evaluations = self.evaluations or min(50, round(epochs))
            found |= {"epochs": epochs, "evaluations": evaluations,
                      "patience": max(5, evaluations // 3) * bool(usual["patience"])}  # fmt: skip
        return found

    def _build(self, inputs: SpokenTexts, targets: RecordedFrames) -> SpeechNetwork:
        how = self.architecture(self.resolved_)
        H, K, several = how.hidden_size, targets.frames.bands, len(inputs.speakers) > 1
        prenet, voice = max(16, H // 4), max(8, H // 8) if several else 0
        query = max(16, H // 2)
        reading = how.layers(H, max(1, H // 2), bidirectional=True)
        attending = replace(how, num_layers=1).layers(2 * prenet, query)
        writing = how.layers(query + reading.output_size + voice)
        refining = replace(how, num_layers=1).layers(K, query)
        return SpeechNetwork(
            len(inputs.vocabulary) + 1, len(inputs.speakers), K, targets.per_step,
            reading, attending, writing, refining,
            width=H, prenet=prenet, voice=voice, dropout=how.dropout,
        )  # fmt: skip

    def _documents(self, inputs: SpokenTexts, targets: RecordedFrames) -> dict[str, Any]:
        return {"inputs.json": inputs.to_json(), "targets.json": targets.to_json()}

    def _restore(self, documents: Mapping[str, Any]) -> tuple[SpokenTexts, RecordedFrames]:
        inputs = SpokenTexts.from_json(documents["inputs.json"])
        return inputs, RecordedFrames.from_json(documents["targets.json"])

    def encode(self, sequence: str | os.PathLike[str]) -> tuple[Tensor, list[str]]:
        """Encode a text, or that of a file, for the first speaker; see `Estimator`."""
        ids = self.inputs_.encode_text(read_text(sequence))
        names = self.inputs_.pieces(ids[1:].tolist())
        return torch.from_numpy(ids)[None].to(self._device()), names

    # While it trains

    def _problem(self, data: Path, facts: Mapping[str, Any], device: torch.device) -> Problem:
        problem = super()._problem(data, facts, device)
        examples = Examples.open(data, "validation") or Examples.open(data, "training")
        assert examples is not None, "super()._problem read it"
        rows = np.linspace(0, len(examples.inputs) - 1, SHOWN).astype(int)
        shown = [examples.inputs[row] for row in dict.fromkeys(rows.tolist())]
        folder = None if self.folder_ is None else self.folder_ / "samples"
        return problem._replace(sample=partial(self._sample, shown, folder))

    def _sample(self, rows: Sequence[NDArray[np.int64]], folder: Path | None, step: int) -> str:
        """Speak some texts; return what attention did, and write sound and a picture of one."""
        spoken = list(self._uttered(rows, torch.Generator().manual_seed(0)))
        counts: dict[str, int] = {}
        for each in spoken:
            for fault in each.faults:
                counts[fault.name] = counts.get(fault.name, 0) + 1
        good = sum(not each.faults for each in spoken)
        first = spoken[0]
        lines = [f"{first.text!r:.60}, attention (text downward, time to the right):",
                 *shaded(first.attention),
                 f"{good} of {len(spoken)} texts spoken without a fault"]  # fmt: skip
        lines += [f"{n} x {name}: {REMEDIES[name]}" for name, n in counts.items()]
        if folder is not None:
            folder.mkdir(exist_ok=True)
            first = first._replace(samples=self._sound(first.mel, None))
            first.save(folder / f"step-{step:06d}.wav")
            lines.append(f"{folder / f'step-{step:06d}.wav'}")
            with suppress(MissingExtra):  # of the picture; the run's own is missed out loud
                first.plot(folder / f"step-{step:06d}.png")
        return "\n".join(lines)

    # Speaking

    def _steps(
        self, rows: Sequence[NDArray[np.int64]], generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield frames ``(B, r, K)``, whether it stops ``(B,)``, attention ``(B, S)`` of steps."""
        device = next(self.network_.parameters()).device
        lengths = torch.tensor([len(row) for row in rows])
        x = torch.from_numpy(Ragged.of(rows).padded(range(len(rows)))).to(device)
        most = self.targets_.most(int(lengths.max()) - 1)
        unequal = lengths if len(rows) > 1 else None
        with torch.inference_mode():
            for y in self.network_.steps(x, unequal, most=most, generator=generator):
                yield y.frames, y.stop[:, 0] > 0, y.weights[:, 0]

    def _uttered(
        self, rows: Sequence[NDArray[np.int64]], generator: torch.Generator
    ) -> Iterator[Speech]:
        """Yield frames, attention and faults of encoded texts, all in one batch, without sound."""
        with eval_mode(self.network_):
            steps = list(self._steps(rows, generator))
        frames, stops, weights = (torch.stack(parts, 1).cpu() for parts in zip(*steps, strict=True))
        for row, ids in enumerate(rows):
            limit = min(len(steps), self.targets_.most(len(ids) - 1))
            ends = torch.nonzero(stops[row, :limit])[:, 0].tolist()
            T = ends[0] + 1 if ends else limit
            mel = self.targets_.decode(frames[row, :T].flatten(0, 1))
            pieces = self.inputs_.pieces(ids[1:].tolist())
            attention = weights[row, :T, : len(pieces)].numpy()
            faults = faults_of(attention, pieces, bool(ends))
            yield Speech(
                "".join(pieces[:-1]), self.speakers_[int(ids[0])], np.zeros(0, np.float32),
                self.rate_, mel, attention, pieces, faults,
            )  # fmt: skip

    def _sound(self, mel: NDArray[np.float32], vocoder: SoundSynthesizer | None) -> Samples:
        return griffin_lim(self.frames_, mel) if vocoder is None else vocoder.synthesize(mel)

    def speak(
        self,
        text: str | Sequence[str],
        *,
        speaker: str | None = None,
        seed: int | None = None,
        vocoder: SoundSynthesizer | None = None,
        batch_size: int = 16,
    ) -> Any:
        """Speak a text, or several; return a `Speech`, or a list of them.

        Args:
            text: what to say.
            speaker: who says it, of `speakers_`; the first if not given.
            seed: of the variation from one time to the next; the same seed says it the same way.
            vocoder: a `Vocoder` that makes the sound, instead of `griffin_lim`.
            batch_size: texts at a time.

        Warns:
            SpeechWarning: a text was spoken with a fault.
        """
        check_is_fitted(self, "network_")
        self._check_vocoder(vocoder)
        texts = [text] if isinstance(text, str) else list(text)
        if batch_size < 1 or not all(isinstance(each, str) and each.strip() for each in texts):
            raise OstinatoError(
                f"Speaker.speak(batch_size={batch_size}): expected texts that are not empty, and "
                "one or more at a time."
            )
        generator = random_generator(seed)
        rows = [self.inputs_.encode_text(each, speaker) for each in texts]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        found: dict[int, Speech] = {}
        for begin in range(0, len(order), batch_size):
            some = order[begin : begin + batch_size]
            for i, each in zip(
                some, self._uttered([rows[i] for i in some], generator), strict=True
            ):
                found[i] = each._replace(text=texts[i], samples=self._sound(each.mel, vocoder))
        result = [found[i] for i in range(len(rows))]
        for each in result:
            _warn(each.text, each.faults)
        return result[0] if isinstance(text, str) else result

    def stream(
        self,
        text: str,
        *,
        speaker: str | None = None,
        seed: int | None = None,
        vocoder: SoundSynthesizer | None = None,
    ) -> Iterator[Samples]:
        """Yield the sound of a text as it is computed: samples ``(n,)`` at `rate_`.

        The frames are those of `speak` with the same seed. Arguments are as of `speak`.
        """
        check_is_fitted(self, "network_")
        self._check_vocoder(vocoder)
        if not text.strip():
            raise OstinatoError("Speaker.stream: the text is empty.")
        row, generator = self.inputs_.encode_text(text, speaker), random_generator(seed)
        make = GriffinLimStream(self.frames_) if vocoder is None else vocoder.stream()
        every = max(1, round(0.2 / self.frames_.hop / self.targets_.per_step))

        def chunks() -> Iterator[Samples]:
            held: list[NDArray[np.float32]] = []
            weights: list[NDArray[np.float32]] = []
            stopped = False
            with eval_mode(self.network_):
                for frames, stops, attention in self._steps([row], generator):
                    held.append(self.targets_.decode(frames[0]))
                    weights.append(attention[0].cpu().numpy())
                    stopped = bool(stops[0])
                    if len(held) == every and (sound := make.feed(np.concatenate(held))).size:
                        yield sound
                    if len(held) == every:
                        held.clear()
            rest = [make.feed(np.concatenate(held))] if held else []
            yield np.concatenate([*rest, make.finish()])
            _warn(
                text, faults_of(np.stack(weights), self.inputs_.pieces(row[1:].tolist()), stopped)
            )

        return chunks()

    def _check_vocoder(self, vocoder: SoundSynthesizer | None) -> None:
        if vocoder is not None and vocoder.frames_ != self.frames_:
            raise OstinatoError(
                f"Speaker.speak: the vocoder takes {vocoder.frames_}; expected {self.frames_}: "
                "train it with the same rate and bands."
            )

    def predict(self, X: Sequence[str]) -> list[Samples]:
        """Return the sound of each text, samples ``(n,)`` at `rate_`."""
        return [each.samples for each in self.speak(list(X), seed=0)]

    def evaluate(
        self, X: Any, y: Any = None, *, groups: Any = None, allow_shared_groups: bool = False
    ) -> dict[str, Any]:
        """Measure speech by recordings; data are as in `fit`.

        Groups that were trained or validated on are a `DataError`, unless ``allow_shared_groups``.

        Returns:
            decibels, the mean error of a band of a frame that follows true ones; without_fault, the
            share of texts that are spoken without any; the share with each fault; texts.
        """
        corpus = self._tested(X, y, groups, allow_shared_groups)
        sequences = self._sequences()
        measured = evaluate(
            self.network_, self.targets_, sequences.batches(sequences.labelled(corpus), 16)
        )
        rows = sorted(self.inputs_.encode(corpus)[0], key=len)
        generator = torch.Generator().manual_seed(0)
        found: list[set[str]] = []
        for begin in range(0, len(rows), 16):
            spoken = self._uttered(rows[begin : begin + 16], generator)
            found += [{fault.name for fault in each.faults} for each in spoken]
        share = {name: sum(name in each for each in found) / len(rows) for name in REMEDIES}
        return {
            "decibels": measured["decibels"],
            "without_fault": sum(not each for each in found) / len(rows),
            **{name.replace(" ", "_"): value for name, value in share.items()},
            "texts": len(rows),
        }

    def score(self, X: Any, y: Any = None) -> float:
        """Return the share of texts that are spoken without a fault."""
        return float(self.evaluate(X, y)["without_fault"])


def _warn(text: str, faults: Sequence[Fault]) -> None:
    """Warn of the faults of a text, with remedies."""
    for fault in faults:
        message = f"{text!r:.60}: {fault}; {REMEDIES[fault.name]}."
        warnings.warn(message, SpeechWarning, stacklevel=3)
