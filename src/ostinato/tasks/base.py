"""What a trained model can do, as protocols: a command asks for one, a task's row names its own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ostinato.data.corpus import Corpus
from ostinato.data.midi import Roll
from ostinato.data.places import Place
from ostinato.data.synthesis import Samples, SoundFrames, write_sound
from ostinato.networks.arrangements import ManyToMany, ManyToOne, OneToOne
from ostinato.networks.attention_faults import Fault
from ostinato.training.evaluation import Sample
from ostinato.training.pictures import draw_speech


class Prediction(NamedTuple):
    """The prediction for one sequence: where it was read, lines to print, and the same as JSON."""

    place: Place
    text: str
    facts: dict[str, Any]

    def __str__(self) -> str:
        return self.text

    def to_json(self) -> dict[str, Any]:
        """Return the prediction as a JSON document."""
        return {"place": str(self.place), **self.facts}


class Text(NamedTuple):
    """A text that a model wrote.

    Attributes:
        score: its log-probability over a norm of its length, by which texts are ranked.
        log_p: natural log of its probability.
        pieces: its tokens.
        attention: of each token on the source's tokens, ``(pieces, S)``; None if there is none.
    """

    text: str
    score: float
    log_p: float
    pieces: list[str]
    attention: NDArray[Any] | None


class Speech(NamedTuple):
    """A text that a model spoke.

    Attributes:
        text: what was said.
        speaker: who says it.
        samples: the sound, from -1 to 1, ``(n,)``.
        rate: samples a second.
        mel: its log-mel frames, ``(T, K)``.
        attention: of each step of the decoder on the tokens of the text, ``(steps, S)``.
        pieces: the tokens, the last of which is the end.
        faults: what went wrong, see `faults_of`; empty if nothing did.
    """

    text: str
    speaker: str
    samples: Samples
    rate: int
    mel: NDArray[Any]
    attention: NDArray[Any]
    pieces: list[str]
    faults: list[Fault]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the sound as a WAV file."""
        write_sound(path, self.samples, self.rate)

    def plot(self, picture: str | os.PathLike[str]) -> None:
        """Draw the frames and the attention; needs ``ostinato[plots]``."""
        draw_speech(self.mel, self.attention, self.pieces, picture)


@runtime_checkable
class Predictor(Protocol):
    """Predicts something of each sequence: ``ostinato predict``."""

    def predictions(self, X: Any, *, probabilities: bool = False) -> Iterator[Prediction]:
        """Yield the prediction for each sequence."""


@runtime_checkable
class Evaluator(Protocol):
    """Measures how good its predictions are: ``ostinato evaluate``."""

    def evaluate(self, X: Any, y: Any = None) -> dict[str, Any]:
        """Return measures by name."""


@runtime_checkable
class TextWriter(Protocol):
    """Writes a text for each source: ``ostinato translate``, ``ostinato summarize``."""

    def sources(self, X: Any) -> Corpus:
        """Read sources from memory or files."""

    def write(self, X: Any, **search: Any) -> Iterator[list[Text]]:
        """Yield the texts written for each source, the best first."""

    def plot_attention(self, text: str, picture: str | os.PathLike[str]) -> str:
        """Write a text for a source, and draw its attention as a PNG."""


@runtime_checkable
class TextSampler(Protocol):
    """Continues a text: ``ostinato generate``."""

    def generate(self, prompt: str = "", length: int = 500, **controls: Any) -> str:
        """Return a continuation."""

    def stream(self, prompt: str = "", length: int = 500, **controls: Any) -> Iterator[str]:
        """Yield a continuation piece by piece."""

    def next_log_probs(self, text: str) -> Mapping[str, float]:
        """Return the natural log of the probability of each token to follow a text."""


@runtime_checkable
class Composer(Protocol):
    """Continues a piece of music: ``ostinato compose``."""

    def compose(self, prompt: Any = (), length: int = 64, **controls: Any) -> Roll:
        """Return the new steps as a piano roll."""


@runtime_checkable
class SpeechTranscriber(Protocol):
    """Transcribes recordings, and searches them: ``ostinato transcribe``, ``ostinato find``."""

    def recordings(self, X: Any) -> Corpus:
        """Read recordings from memory, files or folders."""

    def transcribe(self, X: Any, **search: Any) -> list[str]:
        """Return the text of each recording."""

    def choose(self, X: Any, texts: Sequence[str] | Path) -> list[tuple[str, float]]:
        """Return which of some texts is spoken in each recording, and its probability."""

    def align(self, X: Any, texts: Sequence[str] | None = None, **search: Any) -> list[Any]:
        """Return the `TimedWord` of each recording."""

    def find(self, X: Any, phrases: Sequence[str] | Path, *, threshold: float = 0.5) -> list[Any]:
        """Return each `Hit` of some phrases in recordings."""

    def calibrate(
        self, phrases: Sequence[str] | Path, X: Any = None, *, false_alarms_per_hour: float = 1.0
    ) -> Any:
        """Return the `Calibration` of `find`."""

    def compare(self, X: Any, y: Any = None, **how: Any) -> list[Any]:
        """Return the `Comparison` of each recording."""

    def stream(self) -> Any:
        """Return an object that transcribes sound as it comes."""


@runtime_checkable
class SoundSynthesizer(Protocol):
    """Makes sound of log-mel frames: ``ostinato vocode``."""

    @property
    def frames_(self) -> SoundFrames:
        """How sound becomes the frames."""

    def synthesize(self, mel: NDArray[np.float32]) -> Samples:
        """Return the samples ``(n,)`` of frames ``(T, K)``."""

    def stream(self) -> Any:
        """Return an object that makes sound of frames as they come."""

    def resynthesize(self, recording: Path, *, seed: int | None = 0) -> Samples:
        """Return the samples of a recording as made of its frames."""


@runtime_checkable
class SpeechSynthesizer(Protocol):
    """Speaks texts: ``ostinato speak``."""

    def speak(self, text: str, **voice: Any) -> Any:
        """Return a `Speech`."""

    def stream(self, text: str, **voice: Any) -> Iterator[Samples]:
        """Yield the sound as it is computed."""


@runtime_checkable
class SeriesForecaster(Protocol):
    """Forecasts series: ``ostinato forecast``."""

    def forecast(
        self, X: Any = None, horizon: int | None = None, *, num_samples: int = 1000
    ) -> Any:
        """Return the `Forecast` of each series from its end."""

    def historical_forecasts(self, X: Any = None, *, cutoffs: int = 1) -> Any:
        """Return the `Forecast` of each series from several times before its end."""


class RunSamples(NamedTuple):
    """Rows of a run, to look into its network.

    Attributes:
        few: rows that were trained on; those of the validation part where nothing else is known.
        many: the same, more of them.
        held_out: rows of the validation part; None if nothing was held out.
    """

    few: Sample
    many: Sample
    held_out: Sample | None


MANY = 256
"""Maximum number of rows of a `RunSamples`."""


@runtime_checkable
class Inspectable(Protocol):
    """Hands out its network and encoded data: ``ostinato diagnose``, ``gates``."""

    folder_: Path | None
    history_: Sequence[Mapping[str, Any]]
    samples_: RunSamples | None

    @property
    def network_(self) -> nn.Module:
        """The trained network."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the settings by name."""

    def resolved(self, name: str) -> Any:
        """Return a setting as it was given, or as it was resolved from the data."""

    def untrained(self, settings: Mapping[str, Any]) -> nn.Module:
        """Return a network as before training, some settings of which are others."""

    def examples(
        self, X: Any, y: Any = None, *, count: int = 32, steps: int | None = None
    ) -> Sample:
        """Return some data as a `Sample`, of so many rows at most."""

    def validation_examples(
        self, data: Path, *, count: int = 32, steps: int | None = None
    ) -> Sample:
        """Return some of the data in a run's folder as a `Sample`."""

    def samples_of_run(self, data: Path) -> RunSamples:
        """Return some of what a run was trained and validated on, from its folder's data."""

    def encode(self, sequence: Any) -> tuple[Any, list[str]]:
        """Return one sequence as the network takes it, and the names of its steps."""


@runtime_checkable
class StepScorer(Inspectable, Protocol):
    """Has a network that scores each step, or each sequence, in one call: ``ostinato memory``."""

    network_: ManyToMany | ManyToOne | OneToOne
