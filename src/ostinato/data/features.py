"""Words, sounds and images as the numbers that a network takes."""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from math import gcd
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ostinato.data.archives import Member
from ostinato.data.ragged import Examples, Ragged, WordTable
from ostinato.data.textfiles import check_size, library_errors, regular
from ostinato.data.vocabulary import word_tokens
from ostinato.errors import DataError, OstinatoError, require

ImageForm = Literal["rows", "pixels", "whole"]

Normalization = Literal["band", "level"]

MAX_PIXELS = 1 << 26
"""Pixels of an image, at most."""

MAX_RATE = 512_000
"""Samples of sound a second, at most."""

MAX_BANDS = 10_000
"""Bands of a spectrogram, at most."""

MAX_UPSAMPLING = 64
"""How many times as many samples a second a model may take as a recording has."""

WORD_CHARACTERS = 24
"""Characters of a word that are read: from its beginning and its end, if it is longer."""

AFFIX = 4
"""Letters of the longest prefix and suffix."""

MOST_FORMS = 1 << 20
"""Distinct words that are kept apart, at most: beyond them the rarest are forgotten."""

AFFIXES = 2 * AFFIX + 2
"""Prefixes, suffixes and shapes of a word."""


def words_of(text: str) -> list[str]:
    """The words and punctuation marks of a text, without white space.

    >>> words_of("It's good,  I say.")
    ["It's", 'good', ',', 'I', 'say', '.']
    """
    return [word for token in word_tokens(text) if (word := token.strip())]


def affixes_of(word: str) -> list[str]:
    """The prefixes and suffixes of a word, without case, and its shape, in short and at length.

    Shorter words have an empty text for what they are too short for.

    >>> affixes_of("Ann's"), affixes_of("17")[-2:]
    (['a-', '-s', 'an-', "-'s", 'ann-', "-n's", "ann'-", "-nn's", "~Xx'x", "=Xxx'x"], ['~d', '=dd'])
    """
    low = word.lower()
    ends = [
        end if n <= len(low) else ""
        for n in range(1, AFFIX + 1)
        for end in (f"{low[:n]}-", f"-{low[-n:]}")
    ]
    kinds = (
        "X" if c.isupper() else "d" if c.isdigit() else "x" if c.isalpha() else c for c in word
    )
    shape = "".join(kinds)
    short = re.sub(r"(.)\1+", r"\1", shape)
    return [*ends, f"~{short}", "=" + re.sub(r"(.)\1{4,}", r"\1\1\1\1", shape)]


@dataclass
class Lexicon:
    """Known words, and known characters for those that are not; number 0 is the unknown.

    Args:
        words: in the order of their numbers, from 1.
        characters: in the order of their numbers, from 1.
        lowercase: whether words are looked up without regard to case. Their spelling keeps it.
        affixes: prefixes, suffixes and shapes, in the order of their numbers, from 1.

    >>> lexicon = Lexicon.learn([["To", "be"], ["to", "do"]], lowercase=True, min_count=2)
    >>> lexicon
    Lexicon(words=['to'], characters='Tbdeot', lowercase=True, affixes=[])
    >>> rows, table = lexicon.encode([["TO", "bed"], ["TO"]])
    >>> [row.tolist() for row in rows], table.ids.tolist(), table.spellings[1].tolist()
    ([[0, 1], [0]], [1, 0], [2, 4, 3])
    """

    words: Sequence[str]
    characters: str
    lowercase: bool
    affixes: Sequence[str] = ()

    def __post_init__(self) -> None:
        self._id_of = {word: i for i, word in enumerate(self.words, start=1)}
        self._character_of = {character: i for i, character in enumerate(self.characters, start=1)}
        self._affix_of = {affix: i for i, affix in enumerate(self.affixes, start=1)}

    @classmethod
    def learn(
        cls,
        sentences: Iterable[Sequence[str]],
        *,
        lowercase: bool,
        min_count: int = 1,
        most: int | None = None,
        affixes: bool = False,
    ) -> Lexicon:
        """The words of sentences that occur ``min_count`` times, the ``most`` frequent of them.

        With ``affixes``, those that two different words have.
        """
        forms: Counter[str] = Counter()
        rare = 1
        for sentence in sentences:
            forms.update(sentence)
            while len(forms) > MOST_FORMS:  # forget the rarest, as word2vec does
                forms = Counter({form: n for form, n in forms.items() if n > rare})
                rare += 1
        counts: Counter[str] = Counter()
        for form, count in forms.items():
            counts[form.lower() if lowercase else form] += count
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        known = [word for word in ranked if counts[word] >= min_count][:most]
        characters = "".join(sorted({c for form in forms for c in form}))
        ends = Counter(each for form in forms if affixes for each in affixes_of(form) if each)
        common = sorted(end for end, count in ends.items() if count > 1)
        return cls(known, characters, lowercase, common)

    def encode(
        self, sentences: Iterable[Sequence[str]]
    ) -> tuple[Iterator[NDArray[np.int32]], WordTable]:
        """Sentences as rows of a table of the distinct words in them, and that table.

        The sentences are gone through twice. Beyond a million distinct words all others share a
        row, as one unknown word without letters.
        """
        row_of: dict[str, int] = {}
        for sentence in sentences:
            for word in sentence:
                if word not in row_of and len(row_of) < MOST_FORMS:
                    row_of[word] = len(row_of)
        others = row_of.setdefault("", len(row_of)) if len(row_of) == MOST_FORMS else 0
        rows = (
            np.array([row_of.get(word, others) for word in sentence], dtype=np.int32)
            for sentence in sentences
        )
        ids = [self._id_of.get(w.lower() if self.lowercase else w, 0) for w in row_of]
        spellings = [self._spelled(word) for word in row_of] or [np.zeros(0, dtype=np.int64)]
        known = [
            [self._affix_of.get(each, 0) for each in affixes_of(word)] if self.affixes else []
            for word in row_of
        ]
        affixes = np.array(known, dtype=np.int64).reshape(len(row_of), AFFIXES * bool(self.affixes))
        return rows, WordTable(np.array(ids, dtype=np.int64), Ragged.of(spellings), affixes)

    def decode(self, examples: Examples) -> list[list[str]]:
        """The words of sentences that were encoded, as they are looked up.

        Unknown ones are as they are read; of these a character that is unknown has a mark.
        """
        assert examples.words is not None
        letters = ["\ufffd", *self.characters]
        forms = ["".join([letters[i] for i in word]) for word in examples.words.spellings]
        words = [
            self.words[i - 1] if i else form.lower() if self.lowercase else form
            for i, form in zip(examples.words.ids, forms, strict=False)  # of no words one spelling
        ]
        return [[words[i] for i in row] for row in examples.inputs]

    def _spelled(self, word: str) -> NDArray[np.int64]:
        half = WORD_CHARACTERS // 2
        read = word if len(word) <= WORD_CHARACTERS else word[:half] + word[-half:]
        return np.array([self._character_of.get(c, 0) for c in read], dtype=np.int64)


@dataclass(frozen=True)
class Spectrogram:
    """Sound as the logarithm of its energy in bands of the mel scale, a row every few milliseconds.

    Each recording is normalised, so that loudness, the microphone's colour and the noise of a room
    matter less: what is far below its loudest row is silence, and the mean over the recording is
    taken away. But not where rows must not know what comes after them: a mean of the little heard
    so far would move with the speech.

    Args:
        rate: samples a second that it works on; others are converted.
        bands: bands, from 0 to half the rate.
        window: of a row, in seconds.
        hop: from row to row, in seconds.
        causal: whether a row knows no more than the sound up to the end of its window; see
            `SpectrogramStream`.
        dynamic_range: how far below the loudest of a recording silence begins, in dB.
        normalization: whether the mean of each band is taken away, or that of all bands, the level.

    >>> t = np.arange(8000) / 8000
    >>> features = Spectrogram(rate=8000)(np.sin(2 * np.pi * 440 * t).astype("f4"), 8000)
    >>> features.shape
    (101, 40)
    """

    rate: int
    bands: int = 40
    window: float = 0.025
    hop: float = 0.01
    causal: bool = False
    dynamic_range: float = 80.0
    normalization: Normalization = "band"

    def __post_init__(self) -> None:
        shares = (self.rate / MAX_RATE, self.bands / MAX_BANDS, self.window, self.hop)
        if not all(0 < share <= 1 for share in (*shares, self.dynamic_range / 100)):
            raise OstinatoError(
                f"{self}: expected up to {MAX_RATE:,} samples a second, {MAX_BANDS:,} bands, "
                "one second for window and hop, and 100 dB of dynamic range."
            )

    def __call__(self, samples: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
        """Features ``(T, bands)`` of samples ``(n,)`` at a rate."""
        if rate != self.rate:
            from scipy.signal import resample_poly

            common = gcd(rate, self.rate)
            up, down = self.rate // common, rate // common
            samples = np.asarray(resample_poly(samples, up, down), dtype=np.float32)
        if self.causal:
            stream = SpectrogramStream(self)
            return np.concatenate([stream.feed(samples), stream.finish()])
        around = np.zeros(self.fft // 2, dtype=np.float32)
        energy = self.energy(np.concatenate([around, samples, around]))
        least = max(1e-10, float(energy.max()) * 10 ** (-self.dynamic_range / 10))
        mel = np.log(np.maximum(energy, least))
        return self.normalized(mel)

    def normalized(self, mel: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the log-mel rows of a whole recording, ``(T, bands)``, normalised."""
        if self.causal or not len(mel):
            return mel
        mean = mel.mean(0) if self.normalization == "band" else mel.mean()
        return np.asarray(mel - mean)

    @property
    def size(self) -> int:
        """Samples of a row."""
        return max(2, round(self.window * self.rate))

    @property
    def fft(self) -> int:
        """Samples that are transformed at a time: those of a row with silence around them."""
        return 1 << (self.size - 1).bit_length()

    @property
    def step(self) -> int:
        """Samples from row to row."""
        return max(1, round(self.hop * self.rate))

    @property
    def silence(self) -> float:
        """Energy that is silence, where the loudest is not known: 90 dB below that of a tone."""
        return 1e-9 * (self.size / 4) ** 2

    def energy(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Energy in each band ``(T, bands)`` of every stretch of ``fft`` samples that is whole."""
        wave = torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32))
        spectrum = torch.stft(
            wave, self.fft, self.step, self.size, _window(self.size), center=False,
            return_complex=True,
        )  # fmt: skip
        energy = spectrum.abs().square()  # (fft / 2 + 1, T)
        return (mel_bands(self.rate, self.fft, self.bands) @ energy).T.contiguous().numpy()


class SpectrogramStream:
    """What a `Spectrogram` with ``causal=True`` makes of a recording, as it comes.

    >>> spectrogram = Spectrogram(rate=8000, causal=True)
    >>> sound = np.random.default_rng(0).normal(size=4000).astype("f4")
    >>> stream = SpectrogramStream(spectrogram)
    >>> parts = [stream.feed(sound[:1500]), stream.feed(sound[1500:]), stream.finish()]
    >>> [len(part) for part in parts]
    [18, 31, 2]
    >>> np.allclose(np.concatenate(parts), spectrogram(sound, 8000), atol=1e-5)
    True
    """

    def __init__(self, spectrogram: Spectrogram) -> None:
        if not spectrogram.causal:
            raise OstinatoError(f"SpectrogramStream: {spectrogram}; expected causal=True.")
        self.spectrogram = spectrogram
        # The first row's window has silence before it.
        self._samples = np.zeros(spectrogram.fft // 2, dtype=np.float32)

    def feed(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rows ``(T, bands)`` that are complete with these samples ``(n,)``."""
        how = self.spectrogram
        held = np.concatenate([self._samples, np.asarray(samples, dtype=np.float32)])
        rows = max(0, (len(held) - how.fft) // how.step + 1)
        self._samples = held[rows * how.step :]
        if not rows:
            return np.zeros((0, how.bands), dtype=np.float32)
        energy = how.energy(held[: (rows - 1) * how.step + how.fft])
        return np.asarray(np.log(np.maximum(energy, np.float32(how.silence))))

    def finish(self) -> NDArray[np.float32]:
        """The last rows, whose windows have silence after them."""
        return self.feed(np.zeros(self.spectrogram.fft // 2, dtype=np.float32))


# Of every recording the same two: making them costs as much as all else that is done with it.
@lru_cache(maxsize=8)
def _window(size: int) -> Tensor:
    return torch.hann_window(size)


@lru_cache(maxsize=8)
def mel_bands(rate: int, fft: int, bands: int) -> Tensor:
    """Triangles of equal width in mel = 2595 log10(1 + f / 700), ``(bands, fft / 2 + 1)``."""
    edges = _mel_edges(rate, bands)
    f = np.linspace(0, rate / 2, fft // 2 + 1)
    rising = (f - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - f) / np.diff(edges)[1:, None]
    triangles = np.clip(np.minimum(rising, falling), 0, None)
    # A triangle may be narrower than the distance of two frequencies: then it takes the nearest.
    empty = triangles.sum(1) == 0
    nearest = np.abs(f[None] - edges[1:-1, None]).argmin(1)
    triangles[empty, nearest[empty]] = 1.0
    return torch.from_numpy(triangles.astype(np.float32))


def _mel_edges(rate: int, bands: int) -> NDArray[np.float64]:
    """Where bands begin and end: each from the centre of the one before to that of the next."""
    highest = 2595 * np.log10(1 + rate / 2 / 700)
    return np.asarray(700 * (10 ** (np.linspace(0, highest, bands + 2) / 2595) - 1))


@lru_cache(maxsize=8)
def mel_centres(rate: int, bands: int) -> NDArray[np.float64]:
    """Frequencies in the middle of the bands, ``(bands,)``."""
    return _mel_edges(rate, bands)[1:-1]


Source = str | os.PathLike[str] | Member
"""A file, or one in an archive."""


def _file_of(source: Source) -> Any:
    return source.open() if isinstance(source, Member) else regular(source)


def _name_of(source: Source) -> Path:
    return Path(str(source) if isinstance(source, Member) else source)


def read_sound(path: Source) -> tuple[NDArray[np.float32], int]:
    """Samples ``(n,)`` of a recording, its channels mixed, and how many a second.

    Raises a `DataError` if it cannot be read, or is empty. Needs ``ostinato[audio]``.
    """
    with _opened_sound(path) as file:
        size = path.size if isinstance(path, Member) else os.stat(path).st_size
        check_size(4 * file.frames * file.channels, _name_of(path), size)
        samples, rate = file.read(dtype="float32", always_2d=True), file.samplerate
    if not len(samples):
        raise DataError("holds no sound at all; leave it out.", path=_name_of(path))
    if not np.isfinite(samples).all():
        raise DataError("holds samples that are not finite; leave it out.", path=_name_of(path))
    return samples.mean(1), int(rate)


def sound_rate(path: Source) -> int:
    """Samples a second of a recording; raises as `read_sound`."""
    with _opened_sound(path) as file:
        return int(file.samplerate)


@contextmanager
def _opened_sound(path: Source) -> Iterator[Any]:
    soundfile, name = require("soundfile", "audio", "reading sound"), _name_of(path)
    with library_errors(name, "sound"), soundfile.SoundFile(_file_of(path)) as file:
        if not 1 <= file.samplerate <= MAX_RATE:
            raise DataError(
                f"has {file.samplerate:,} samples a second; expected 1 to {MAX_RATE:,}.", path=name
            )
        yield file


def read_image(path: Source) -> NDArray[np.uint8]:
    """Pixels ``(height, width, 1 or 3)`` of an image, grey or red, green and blue.

    Raises a `DataError` if it cannot be read. Needs ``ostinato[images]``.
    """
    with _opened_image(path) as image:
        pixels = np.asarray(image.convert("L" if image.mode in _GREY else "RGB"))
    return pixels.reshape(*pixels.shape[:2], -1)


def image_shape(path: Source) -> tuple[int, int, int]:
    """Height, width and channels that `read_image` would give."""
    with _opened_image(path) as image:
        return (image.height, image.width, 1 if image.mode in _GREY else 3)


_GREY = ("1", "L", "I", "I;16", "F", "LA")


@contextmanager
def _opened_image(path: Source) -> Iterator[Any]:
    pillow, name = require("PIL.Image", "images", "reading images"), _name_of(path)
    with library_errors(name, "an image"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is odd about a file, or larger than is read here
        with pillow.open(_file_of(path)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(
                    f"has {image.width:,} x {image.height:,} pixels; expected {MAX_PIXELS:,} at "
                    "most: make it smaller.",
                    path=name,
                )
            yield image


def image_as_steps(
    pixels: NDArray[np.uint8], form: ImageForm, shape: Sequence[int]
) -> NDArray[np.uint8]:
    """An image as a sequence.

    Args:
        pixels: ``(height, width, channels)``.
        form: ``rows``, a step each, from the top; ``pixels``, row by row; ``whole``, one step.
        shape: height, width and channels that it is brought to.
    """
    height, width, channels = shape
    if pixels.shape != tuple(shape):
        pillow = require("PIL.Image", "images", "resizing images")
        image = pillow.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        image = image.convert("L" if channels == 1 else "RGB").resize((width, height))
        pixels = np.asarray(image)
    T = {"rows": height, "pixels": height * width, "whole": 1}[form]
    return pixels.reshape(T, height * width * channels // T)


def mean_and_scale(
    rows: Ragged, *, each: bool = True
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation of features over all known steps; where that is 0, 1.

    Args:
        rows: sequences ``(T, I)``, NaN where a value is missing.
        each: of each feature, ``(I,)``; otherwise of all together, ``(1,)``.
    """
    total, squares, count = 0.0, 0.0, 0
    centre: Any = None
    for begin in range(0, len(rows.values), 1 << 16):
        rows.touch(begin, min(begin + (1 << 16), len(rows.values)))
        some = np.asarray(rows.values[begin : begin + (1 << 16)], dtype=np.float64)
        some = some if each else some.reshape(-1, 1)
        known = ~np.isnan(some)
        n = known.sum(0)
        if centre is None:  # so that squares stay exact
            centre = np.where(known, some, 0.0).sum(0) / np.maximum(n, 1)
        apart = np.where(known, some - centre, 0.0)
        total, squares, count = total + apart.sum(0), squares + (apart**2).sum(0), count + n
    count = np.maximum(count, 1)
    mean = centre + total / count
    scale = np.sqrt(np.maximum(squares / count - (total / count) ** 2, 0.0))
    scale[scale <= 1e-7 * np.abs(mean)] = 1.0  # also where both are 0
    found = mean.astype(np.float32), scale.astype(np.float32)
    if not all(np.isfinite(part).all() and (np.abs(part) < 1e30).all() for part in found):
        raise OstinatoError(
            "a variable's values are too large for 32-bit numbers; divide it first."
        )
    return found
