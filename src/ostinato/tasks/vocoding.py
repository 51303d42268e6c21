"""A vocoder: train on recordings, and make sound of log-mel frames."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from statistics import mode
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from ostinato.data.batches import SequenceBatch
from ostinato.data.chunks import corpus_chunks
from ostinato.data.corpus import Corpus, ReadingSettings
from ostinato.data.features import MAX_BANDS, MAX_RATE, mean_and_scale, read_sound, sound_rate
from ostinato.data.inputs import SequenceInputs
from ostinato.data.places import paths_of
from ostinato.data.ragged import Examples, Ragged
from ostinato.data.reading import corpus_of, read_corpus
from ostinato.data.shards import Work
from ostinato.data.spool import open_chunks, write_chunks
from ostinato.data.synthesis import DECIBELS, ORDER, Samples, SoundFrames, joined, linear_prediction
from ostinato.errors import OstinatoError, ShapeError
from ostinato.networks.inputs import Standardize
from ostinato.networks.vocoder import MU, VocoderNetwork
from ostinato.recurrence.streams import Stream
from ostinato.tasks.estimators import Estimator
from ostinato.tasks.sequences import split
from ostinato.tasks.targets import SequenceTargets
from ostinato.training.evaluation import Problem, eval_mode, evaluate
from ostinato.training.settings import check_value

SIZE = 48
"""Features that the network makes of a frame."""


@dataclass
class SoundFeatures(SequenceInputs):
    """Recordings as frames: bands, coefficients of linear prediction, and what these leave.

    Args:
        frames: how sound becomes frames.
        trim: decibels below the loudest moment that are silence at the ends; see `SoundFrames`.
        mean, scale: of each band.
    """

    frames: SoundFrames
    trim: float = 0.0
    mean: list[float] = field(default_factory=list)
    scale: list[float] = field(default_factory=list)
    noun = "recordings"

    def __post_init__(self) -> None:
        K = self.frames.bands
        real = all(isinstance(x, int | float) for x in [*self.mean, *self.scale, self.trim])
        if not real or (self.mean and not len(self.mean) == len(self.scale) == K):
            raise OstinatoError(f"SoundFeatures: expected mean and scale of {K} bands.")

    def samples_of(self, path: Any) -> Samples:
        """Return the samples of a recording as they are learnt."""
        return self.frames.prepare(*read_sound(path), self.trim)

    def features(self, mel: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return log-mel frames ``(N, K)`` with linear prediction, ``(N, K + ORDER + 1)``.

        That of a frame is for the samples up to the next, and so of the energy of both.
        """
        between = np.logaddexp(mel, np.concatenate([mel[1:], mel[-1:]])) - np.float32(math.log(2))
        a, left = linear_prediction(self.frames, between)
        return np.concatenate([mel, a, left[:, None]], 1).astype(np.float32)

    def encode(self, corpus: Corpus) -> tuple[Iterator[NDArray[np.float32]], None]:
        mels = (self.frames(self.samples_of(path)) for path in corpus.inputs)
        return map(self.features, mels), None

    def scaled_by(self, rows: Ragged) -> Self:
        mean, scale = mean_and_scale(rows)
        K = self.frames.bands
        return replace(self, mean=mean[:K].tolist(), scale=np.maximum(scale[:K], 0.1).tolist())

    def to_json(self) -> dict[str, Any]:
        """Return a JSON document."""
        return {**vars(self), "frames": self.frames.to_json()}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Return the inverse of `to_json`."""
        return cls(**{**document, "frames": SoundFrames(**document["frames"])})


@dataclass
class SamplesOfFrames(SequenceTargets[VocoderNetwork]):
    """The samples after each frame of a recording.

    Args:
        features: how recordings become frames.
    """

    features: SoundFeatures
    by_step = True

    def encode(self, corpus: Corpus) -> Iterator[NDArray[np.float32]]:
        step = self.features.frames.spectrogram.step
        for path in corpus.inputs:
            samples = self.features.samples_of(path)
            n = len(samples) // step + 1
            yield np.pad(samples, (0, n * step - len(samples))).reshape(n, step)

    def count(self, batch: SequenceBatch) -> int:
        """Return the number of frames that count."""
        return int((batch.lengths - 2).clamp(min=0).sum())

    def describe(self) -> str:
        how = self.features.frames
        return f"frames of {how.bands} bands, {how.rate:,} samples a second"


def _unlabelled(corpus: Corpus) -> Corpus:
    """Return recordings, of which nothing is to be predicted; a `DataError` if they are others."""
    if corpus.kind != "sound":
        raise corpus.places[0].error(f"holds {corpus.kind}; expected recordings.")
    return replace(corpus, targets=[""] * len(corpus))


@dataclass(kw_only=True, eq=False, repr=False)
class Vocoder(ReadingSettings, Estimator[SoundFeatures, SamplesOfFrames, VocoderNetwork]):
    """A recurrent network that makes sound of the log-mel frames that a `Speaker` computes.

    See `VocoderNetwork`. ``fit`` takes recordings, as `pathlib.Path`, or folders of them; texts are
    not needed. Frames must be as the speaker's: the same ``rate`` and ``bands``.

    Args:
        rate: samples a second; that of the recordings if not given.
        bands: bands of the mel scale.
        samples_per_step: samples that a step of the recurrent layers draws.
        trim: silence at both ends of a recording is cut off; see `Speaker`.
        window: frames of 12.5 ms in a training sequence.

    Further settings are those of its base classes, attributes those of `Estimator`.

    Example:
        >>> vocoder = Vocoder(minutes=30).fit([Path("recordings")])            # doctest: +SKIP
        >>> speaker.speak("seven", vocoder=vocoder).save("seven.wav")          # doctest: +SKIP
    """

    rate: int | None = None
    bands: int = 64
    samples_per_step: int = 2
    trim: float = 50.0
    window: int = 12
    learning_rate: float = 0.002

    def check_settings(self) -> None:
        super().check_settings()
        check_value(self, "rate", lambda n: 2000 <= n <= MAX_RATE, "2,000 samples a second or more")
        check_value(self, "bands", lambda n: 0 < n <= MAX_BANDS, "a number of bands, 1 to 10,000")
        check_value(self, "samples_per_step", lambda n: 0 < n <= 16, "a number of samples, 1 to 16")
        check_value(self, "trim", lambda x: 0 <= x <= 200, "decibels, 0 for none")
        check_value(self, "window", lambda n: 3 <= n <= 10_000, "3 frames or more")

    @property
    def frames_(self) -> SoundFrames:
        """How sound becomes log-mel frames."""
        return self.inputs_.frames

    def _read(self, X: Any, y: Any = None, *, labelled: bool | None = None) -> Corpus:
        if isinstance(X, Corpus):
            corpus = X
        elif paths := paths_of(X):
            corpus = read_corpus(paths, self, labelled=False)
        else:
            corpus = corpus_of(X, None, self)
        return _unlabelled(corpus)

    def _split(self, corpus: Corpus) -> tuple[Corpus, Corpus]:
        call = type(self).__name__
        return split(corpus, self.validation_fraction, self.seed, call=call, most=100)

    def _learn(self, training: Corpus) -> tuple[SoundFeatures, SamplesOfFrames]:
        rate = self.rate or mode(map(sound_rate, training.inputs))
        features = SoundFeatures(SoundFrames(rate, self.bands), self.trim)
        return features, SamplesOfFrames(features)

    def _read_chunks(self, paths: Sequence[Path], work: Work) -> Corpus:
        if work.known("corpus") is not None:
            return open_chunks(work)
        return write_chunks(map(_unlabelled, corpus_chunks(paths, self, labelled=False)), work)

    def _data_settings(self) -> Sequence[str]:
        reading = sorted(each.name for each in fields(ReadingSettings))
        return [*super()._data_settings(), *reading, "rate", "bands", "trim"]

    def _defaults(
        self, facts: Mapping[str, Any], pieces: int, usual: dict[str, Any]
    ) -> dict[str, Any]:
        return {"hidden_size": 96, "dropout": 0.0, "batch_size": self.batch_size or 32}

    def _batching(self) -> dict[str, int]:
        return {"window": self.window}

    def _problem(self, data: Path, facts: Mapping[str, Any], device: torch.device) -> Problem:
        problem = super()._problem(data, facts, device)
        held = Examples.open(data, "validation")
        if held is None:
            return problem
        return problem._replace(validation=self._sequences(device).batches(held, 4))

    def _build(self, inputs: SoundFeatures, targets: SamplesOfFrames) -> VocoderNetwork:
        how = self.architecture(self.resolved_)
        layers = how.layers(2 * self.samples_per_step + 1 + SIZE)
        encode = Standardize(torch.tensor(inputs.mean), torch.tensor(inputs.scale))
        return VocoderNetwork(
            encode, inputs.frames.bands, ORDER, inputs.frames.spectrogram.step,
            self.samples_per_step, layers, SIZE,
        )  # fmt: skip

    def _documents(self, inputs: SoundFeatures, targets: SamplesOfFrames) -> dict[str, Any]:
        return {"inputs.json": inputs.to_json()}

    def _restore(self, documents: Mapping[str, Any]) -> tuple[SoundFeatures, SamplesOfFrames]:
        inputs = SoundFeatures.from_json(documents["inputs.json"])
        return inputs, SamplesOfFrames(inputs)

    def synthesize(self, mel: NDArray[np.float32], *, seed: int | None = 0) -> Samples:
        """Return the samples ``((N - 1) * step,)`` of log-mel frames ``(N, K)``; see `frames_`."""
        stream = self.stream(seed=seed)
        return joined([stream.feed(mel), stream.finish()])

    def stream(self, *, seed: int | None = 0) -> VocoderStream:
        """Return an object that makes sound of frames as they come."""
        check_is_fitted(self, "network_")
        return VocoderStream(self.network_, self.inputs_, seed)

    def resynthesize(self, recording: Path, *, seed: int | None = 0) -> Samples:
        """Return a recording's sound as made of its frames, at the rate of `frames_`."""
        samples, rate = read_sound(recording)
        return self.synthesize(self.frames_(self.frames_.prepare(samples, rate)), seed=seed)

    def predict(self, X: Any) -> list[Samples]:
        """Return each recording's sound as made of its frames."""
        return [self.resynthesize(path) for path in self._read(X).inputs]

    def evaluate(
        self, X: Any, y: Any = None, *, groups: Any = None, allow_shared_groups: bool = False
    ) -> dict[str, Any]:
        """Measure sound that is made of the frames of recordings; data are as in `fit`.

        Groups that were trained or validated on are a `DataError`, unless ``allow_shared_groups``.

        Returns:
            nll_per_sample, of what linear prediction leaves; decibels, the mean difference of a
            band of a frame from that of the recording; recordings.
        """
        corpus = self._tested(X, y, groups, allow_shared_groups)
        sequences = self._sequences()
        batches = sequences.batches(sequences.labelled(corpus), 4)
        loss = evaluate(self.network_, self.targets_, batches)["loss"]
        apart: list[float] = []
        for path in corpus.inputs:
            mel = self.frames_(self.inputs_.samples_of(path))
            made = self.frames_(self.synthesize(mel))
            apart.append(float(np.abs(made[: len(mel)] - mel[: len(made)]).mean()))
        decibels = DECIBELS * float(np.mean(apart))
        return {"nll_per_sample": loss, "decibels": decibels, "recordings": len(corpus)}

    def score(self, X: Any, y: Any = None) -> float:
        """Return less the difference in decibels; see `evaluate`."""
        return -float(self.evaluate(X, y)["decibels"])


class VocoderStream:
    """Makes sound of log-mel frames as they come, sample by sample on the compiled core.

    Args:
        network: the network of a `Vocoder`.
        features: its inputs.
        seed: of the draws; None for others each time.

    The sound does not depend on how the frames are cut into chunks.
    """

    def __init__(
        self, network: VocoderNetwork, features: SoundFeatures, seed: int | None = 0
    ) -> None:
        self._network, self._features = network, features
        self._random = np.random.default_rng(seed)
        self._stream = Stream(network.recurrent)
        self._mel = np.zeros((0, features.frames.bands), dtype=np.float32)
        self._next = 0  # the first frame in self._mel that has no sound yet
        self._x = np.zeros(network.recurrent.input_size, dtype=np.float32)
        self._past = np.zeros(ORDER, dtype=np.float64)
        self._weight = np.ascontiguousarray(network.output.weight.detach().cpu().numpy())
        self._bias = network.output.bias.detach().cpu().numpy()
        self._y = np.zeros(network.recurrent.output_size, dtype=self._weight.dtype)

    def feed(self, mel: NDArray[np.float32]) -> Samples:
        """Return the samples that some more frames ``(N, K)`` add, perhaps none yet."""
        mel = np.asarray(mel, dtype=np.float32)
        if mel.ndim != 2 or mel.shape[1] != self._mel.shape[1]:
            raise ShapeError(
                f"VocoderStream.feed: frames have shape {mel.shape}; expected (N, "
                f"{self._mel.shape[1]})."
            )
        self._mel = np.concatenate([self._mel, mel])
        return self._blocks(last=False)

    def finish(self) -> Samples:
        """Return the last samples."""
        return self._blocks(last=True)

    def _blocks(self, *, last: bool) -> Samples:
        """Make the samples of the frames whose next two are there, or of all but the last."""
        end = len(self._mel) - (1 if last else 2)
        if end <= self._next:
            return np.zeros(0, dtype=np.float32)
        network, hop = self._network, self._network.hop
        with eval_mode(network), torch.inference_mode():
            like = network.output.weight
            x = torch.from_numpy(self._features.features(self._mel))
            steps = network.features(x[None].to(like))[0].cpu().numpy()
        each = hop // network.per_step
        a = x[:, network.bands : -1].double().numpy()[:, ::-1]
        parts = []
        for t in range(self._next, end):
            rows = steps[t * each : (t + 1) * each]
            parts.append(self._block(rows, np.ascontiguousarray(a[t]), float(x[t, -1])))
        keep = max(0, end - 1)  # the frame before the next block is its neighbour
        self._mel, self._next = self._mel[keep:], end - keep
        return joined(parts)

    def _block(
        self, rows: NDArray[np.float32], a: NDArray[np.float64], left: float
    ) -> NDArray[np.float32]:
        """Draw the samples of a frame, given features of its steps and its linear prediction."""
        m, hop = self._network.per_step, self._network.hop
        sound = np.concatenate([self._past, np.zeros(hop)])
        noise = self._random.logistic(size=hop)
        x, y, weight, bias = self._x, self._y, self._weight, self._bias
        step, log_mu, log1p, exp = self._stream.step, math.log1p(MU), math.log1p, math.exp
        k = 0
        for row in rows:
            p = float(a @ sound[k : k + ORDER])
            x[2 * m] = math.copysign(log1p(MU * abs(p)) / log_mu, p)
            x[2 * m + 1 :] = row
            step(x, out=y)
            drawn = (weight @ y + bias).tolist()
            for j in range(m):
                if j:
                    p = float(a @ sound[k : k + ORDER])
                u = drawn[2 * j] + exp(max(-7.0, min(3.0, drawn[2 * j + 1]))) * float(noise[k])
                s = max(-1.0, min(1.0, p + left * u))
                u = (s - p) / left
                sound[ORDER + k] = s
                x[j] = max(-8.0, min(8.0, u)) / 4
                x[m + j] = math.copysign(log1p(MU * abs(s)) / log_mu, s)
                k += 1
        self._past = sound[hop:]
        return sound[ORDER:].astype(np.float32)
