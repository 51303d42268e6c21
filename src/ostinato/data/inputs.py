"""Inputs: what a model knows of them, from the training data, stored with the model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import mode
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ostinato.data.corpus import Corpus, Kind
from ostinato.data.features import (
    MAX_PIXELS,
    MAX_UPSAMPLING,
    ImageForm,
    Lexicon,
    Normalization,
    Spectrogram,
    image_as_steps,
    image_shape,
    mean_and_scale,
    read_image,
    read_sound,
    sound_rate,
    words_of,
)
from ostinato.data.places import Place
from ostinato.data.ragged import Ragged, WordTable
from ostinato.data.vocabulary import Vocabulary
from ostinato.errors import OstinatoError
from ostinato.networks.inputs import Words

TEXTS = {"text", "words"}


@dataclass(kw_only=True, eq=False, repr=False)
class InputSettings:
    """How inputs of each kind become what the network takes.

    Args:
        vocabulary_size: most words to know.
        min_count: words rarer than this are unknown, and read by their letters alone.
        lowercase: whether words are looked up without regard to upper case.
        bands: bands of the mel scale that sound is cut into.
        dynamic_range: how far below the loudest of a recording silence begins, in dB; the less,
            the less the noise of rooms and microphones matters. Not of models that read in one
            direction, which do not know what is loudest.
        normalization: which mean over a recording is taken away by models that read in both
            directions: level, of all bands, against loudness; or band, of each, which also takes
            the microphone's colour away, and that of what is said.
        image: rows of an image as steps, its pixels as steps, or the whole as one step.
    """

    vocabulary_size: int | None = None
    min_count: int = 2
    lowercase: bool = True
    bands: int = 40
    dynamic_range: float = 35.0
    normalization: Normalization = "level"
    image: ImageForm = "rows"


class SequenceInputs:
    """What a model knows of its inputs; by default nothing but their form."""

    noun = "sequences"
    """What the sequences are called."""

    def check(self, corpus: Corpus) -> None:
        """Raise a `DataError` unless data are such as the model was trained on."""

    def encode(self, corpus: Corpus) -> tuple[Iterator[NDArray[Any]], WordTable | None]:
        """Return each sequence as numbers, and the words that they are numbers of, if any."""
        raise NotImplementedError

    def scaled_by(self, rows: Ragged) -> Self:
        """Return the inputs with the mean and scale of encoded training data."""
        return self

    def prepare(self, rows: Tensor, words: WordTable | None) -> Tensor | Words:
        """Return a batch of encoded sequences as the network takes it.

        Args:
            rows: ``(B, T)`` numbers of words or tokens, or ``(B, T, I)`` features.
            words: the words that they are numbers of.
        """
        return rows

    def step_names(self, corpus: Corpus) -> list[str]:
        """Return what the steps of the first sequence are called, where they have names."""
        return []


@dataclass
class Inputs(SequenceInputs):
    """What a model takes, and how a `Corpus` becomes it.

    Args:
        kind: of sequences.
        features: of a step, where it is a vector; 0 for words.
        lexicon: of texts and words.
        spectrogram: of sound.
        form: of images.
        shape: height, width and channels of images.
        variables: names of the features of a series.
        mean: of each feature in the training data; of all pixels of images.
        scale: standard deviation of the same.
        missing: whether values of a series may be missing, NaN.
    """

    kind: Kind
    features: int = 0
    lexicon: Lexicon | None = None
    spectrogram: Spectrogram | None = None
    form: ImageForm = "rows"
    shape: Sequence[int] = ()
    variables: Sequence[str] = ()
    mean: Sequence[float] = ()
    scale: Sequence[float] = ()
    missing: bool = False

    def __post_init__(self) -> None:
        nouns = {"text": "texts", "words": "sentences", "sound": "recordings", "image": "images"}
        self.noun = nouns.get(self.kind, "series")
        if self.shape and not 0 < math.prod(self.shape) <= 3 * MAX_PIXELS:
            raise OstinatoError(f"Inputs: images of shape {self.shape!r:.80} are too large.")
        if self.spectrogram is not None and self.spectrogram.bands != self.features:
            raise OstinatoError(f"Inputs: {self.spectrogram}; expected {self.features} bands.")

    @classmethod
    def learn(
        cls,
        corpus: Corpus,
        settings: InputSettings,
        *,
        causal: bool = False,
        affixes: bool = False,
        missing: bool = False,
    ) -> Self:
        """Learn vocabulary, sample rate or shape from training data.

        With ``causal`` a step must not know what comes after it; with ``affixes`` it knows the
        affixes and shapes of words; with ``missing`` values of series may be missing.
        """
        if corpus.kind in TEXTS:
            lexicon = Lexicon.learn(
                _Sentences(corpus),
                lowercase=settings.lowercase,
                min_count=settings.min_count,
                most=settings.vocabulary_size,
                affixes=affixes,
            )
            return cls(corpus.kind, lexicon=lexicon)
        if corpus.kind == "sound":
            rate = mode(map(sound_rate, corpus.inputs))
            how = (settings.dynamic_range, settings.normalization)
            spectrogram = Spectrogram(rate, settings.bands, 0.025, 0.01, causal, *how)
            return cls("sound", spectrogram.bands, spectrogram=spectrogram)
        if corpus.kind == "image":
            shape = mode(
                image.shape if isinstance(image, np.ndarray) else image_shape(image)
                for image in corpus.inputs
            )
            features = image_as_steps(np.zeros(shape, np.uint8), settings.image, shape).shape[1]
            return cls("image", features, form=settings.image, shape=shape)
        names = list(corpus.variables)
        return cls("series", corpus.inputs[0].shape[1], variables=names, missing=missing)

    def scaled_by(self, rows: Ragged) -> Self:
        if self.lexicon is not None:
            return self
        mean, scale = mean_and_scale(rows, each=self.kind != "image")
        return replace(self, mean=mean.tolist(), scale=scale.tolist())

    def check(self, corpus: Corpus) -> None:
        if corpus.kind != self.kind and not {corpus.kind, self.kind} <= TEXTS:
            raise corpus.places[0].error(
                f"holds {corpus.kind}; the model was trained on {self.kind}."
            )
        if self.kind == "series" and (found := corpus.inputs[0].shape[1]) != self.features:
            raise corpus.places[0].error(
                f"has {found} variables; the model was trained on {self.features}: "
                f"{', '.join(self.variables)}."
            )

    def encode(self, corpus: Corpus) -> tuple[Iterator[NDArray[Any]], WordTable | None]:
        if self.lexicon is not None:
            return self.lexicon.encode(_Sentences(corpus))
        return map(self._encoded, corpus.inputs, corpus.places), None

    def _encoded(self, item: Any, place: Place) -> NDArray[Any]:
        if self.spectrogram is not None:
            samples, rate = read_sound(item)
            if rate * MAX_UPSAMPLING < self.spectrogram.rate:
                raise place.error(
                    f"has {rate:,} samples a second; the model takes {self.spectrogram.rate:,}, "
                    f"at most {MAX_UPSAMPLING} times as many."
                )
            return self.spectrogram(samples, rate)
        if self.kind == "image":
            pixels = item if isinstance(item, np.ndarray) else read_image(item)
            return image_as_steps(pixels, self.form, self.shape)
        with np.errstate(over="ignore"):
            array = np.asarray(item, dtype=np.float32)
        if np.isinf(array).any():
            raise place.error("holds a number too large for 32 bits; divide the variable first.")
        if not self.missing and np.isnan(array).any():
            raise place.error(
                "has missing values; fill them in, or train with a cell that takes them: "
                "cell='gru-d'."
            )
        return array

    def prepare(self, rows: Tensor, words: WordTable | None) -> Tensor | Words:
        if words is None:
            return rows.float()
        distinct, spelled = torch.unique(rows, return_inverse=True)
        chosen = distinct.tolist() or [0]
        return Words(
            torch.from_numpy(words.ids[rows.numpy()]) if len(words.ids) else rows,
            spelled,
            torch.from_numpy(words.spellings.padded(chosen)),
            torch.from_numpy(words.spellings.lengths[chosen]),
            torch.from_numpy(words.affixes[chosen if len(words.affixes) else []]),
        )

    def step_names(self, corpus: Corpus) -> list[str]:
        return [] if self.lexicon is None else list(next(iter(_Sentences(corpus))))

    def to_json(self) -> dict[str, Any]:
        """All that makes it, as JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        lexicon = data["lexicon"] and Lexicon(**data["lexicon"])
        spectrogram = data["spectrogram"] and Spectrogram(**data["spectrogram"])
        return cls(**{**data, "lexicon": lexicon, "spectrogram": spectrogram})


@dataclass
class TokenInputs(SequenceInputs):
    """Texts as token ids.

    Args:
        vocabulary: the tokens.
        longest: tokens of a text that are read at most.
    """

    vocabulary: Vocabulary
    longest: int
    noun = "pairs"

    def encode_text(self, text: str) -> NDArray[np.int64]:
        """Return the ids of a text, cut to the longest."""
        return np.asarray(self.vocabulary.encode(text)[: self.longest])

    def encode(self, corpus: Corpus) -> tuple[Iterator[NDArray[np.int64]], None]:
        return map(self.encode_text, corpus.inputs), None

    def step_names(self, corpus: Corpus) -> list[str]:
        return [self.vocabulary.token(i) for i in self.encode_text(corpus.inputs[0]).tolist()]


class _Sentences:
    """Texts as words, as often as they are gone through."""

    def __init__(self, corpus: Corpus) -> None:
        self._inputs = corpus.inputs

    def __iter__(self) -> Iterator[Sequence[str]]:
        return (words_of(each) if isinstance(each, str) else each for each in self._inputs)
