"""Recordings varied while training: speed, pitch, noise, loudness, microphone, masks.

What is varied are their log-mel frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ostinato.data.features import Spectrogram, mel_centres

NOISE_RANGE = 30.0
"""Noise is drawn from the lowest ratio of signal to noise to one so many dB higher."""

CURVES = 3
"""Half periods of a cosine, at most, that the response of a microphone is made of."""

MASKED_BANDS, MASKED_TIME = 0.2, 0.2
"""Bands, and time, that one mask hides at most, as shares of all."""


@dataclass(kw_only=True, eq=False, repr=False)
class AugmentationSettings:
    """How recordings are varied while training.

    Every time that a recording is trained on it is varied in another way, at random but
    reproducibly; validation and prediction take it as it is. What is varied are its log-mel frames.

    Args:
        augment: whether recordings are varied; if not given, wherever inputs are recordings.
        speed: largest change of speed, as a share: 0.1 for 0.9 to 1.1 times.
        pitch: largest change of frequencies, as a share, as by the length of the vocal tract.
        snr: lowest ratio of signal to noise in dB; the noise has the recording's own spectrum. 100
            adds none that could be heard.
        gain: largest change of loudness in dB; bidirectional models take it away again.
        response: largest change in dB of each of the three cosines of a curve over the bands, as by
            a microphone or room with another frequency response; if not given, 10 where recordings
            are classified that are read in both directions, otherwise 0.
        masks: stretches of time, and of bands, that are hidden (SpecAugment).
    """

    augment: bool | None = None
    speed: float = 0.1
    pitch: float = 0.1
    snr: float = 100.0
    gain: float = 6.0
    response: float | None = None
    masks: int = 0


@dataclass(frozen=True)
class Augmentation:
    """Random changes of the log-mel frames of a recording.

    In this order: time is resampled (speed); frequencies are scaled (vocal-tract length
    perturbation, Jaitly and Hinton 2013); noise is added, whose spectrum is that of the recording
    over its whole length, and whose power in a frame and band fluctuates as that of noise does;
    loudness changes; a curve over the bands is added, as by another microphone; and where the
    spectrogram takes the mean of a band away, it is taken away again. Then stretches of time and of
    bands are replaced by the mean of their band (SpecAugment, Park et al. 2019, without its time
    warping).

    Args:
        spectrogram: what the frames come from.
        speed: largest change of speed, as a share.
        pitch: largest change of frequencies, as a share.
        snr: lowest ratio of signal to noise in dB; the highest is 30 dB above.
        gain: largest change of loudness in dB.
        response: largest change in dB of each of the cosines that the curve is the sum of, which
            have half a period over the bands, one, and one and a half.
        masks: stretches of time, and as many of bands, each a fifth of all at most.

    Example:
        >>> vary = Augmentation(Spectrogram(rate=8000), speed=0.2)
        >>> frames = np.random.default_rng(0).normal(size=(50, 40)).astype("f4")
        >>> vary(frames, np.random.default_rng(2)).shape
        (55, 40)
    """

    spectrogram: Spectrogram
    speed: float = 0.0
    pitch: float = 0.0
    snr: float = 100.0
    gain: float = 0.0
    response: float = 0.0
    masks: int = 0

    def __call__(
        self, frames: NDArray[np.float32], random: np.random.Generator
    ) -> NDArray[np.float32]:
        """Return the frames ``(T, bands)`` of a recording, varied: as many bands, another T."""
        # All numbers are drawn, whatever the settings, so that one changes nothing for the others.
        speed, pitch, snr, gain = random.uniform([-1, -1, 0, -1], 1).tolist()
        fluctuation = random.bit_generator.random_raw()
        curves = 2 * random.random(CURVES) - 1
        stretches = random.random((self.masks, 4))
        x: NDArray[Any] = frames
        if not len(x):
            return frames
        if self.speed:
            x = resampled(x, max(1, round(len(x) / (1 + self.speed * speed))))
        if self.pitch:
            x = x @ self._warped(1 + self.pitch * pitch)
        if self.snr < 100:
            x = self._noisy(x, self.snr + NOISE_RANGE * snr, np.random.default_rng(fluctuation))
        x = x + np.float32(self.gain * gain * np.log(10) / 10)
        if self.response:
            x = x + self._response(self.response * curves)
        x = self.spectrogram.normalized(x)
        mean, (T, bands) = x.mean(0), x.shape
        for long, at, wide, band in stretches.tolist():
            n, w = int(long * (MASKED_TIME * T + 1)), int(wide * (MASKED_BANDS * bands + 1))
            begin, low = int(at * (T - n + 1)), int(band * (bands - w + 1))
            x[begin : begin + n] = mean
            x[:, low : low + w] = mean[low : low + w]
        return np.asarray(x, dtype=np.float32)

    def _warped(self, factor: float) -> NDArray[np.float32]:
        """Return the matrix ``(bands, bands)`` that moves frequencies to ``factor`` times them."""
        centres = mel_centres(self.spectrogram.rate, self.spectrogram.bands)
        places = np.interp(centres / factor, centres, np.arange(len(centres)))
        left = np.minimum(places.astype(int), max(0, len(centres) - 2))
        share = (places - left).astype(np.float32)
        matrix = np.zeros((len(centres), len(centres)), np.float32)
        columns = np.arange(len(centres))
        matrix[left, columns] = 1 - share
        matrix[np.minimum(left + 1, len(centres) - 1), columns] += share
        return matrix

    def _response(self, factors: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return what a curve of cosines with factors in dB adds to each band, ``(bands,)``."""
        bands = self.spectrogram.bands
        turns = np.outer(np.arange(1, CURVES + 1), np.arange(bands) / bands)
        return np.asarray(np.log(10) / 10 * factors @ np.cos(np.pi * turns), dtype=np.float32)

    def _noisy(
        self, x: NDArray[Any], snr: float, random: np.random.Generator
    ) -> NDArray[np.float32]:
        """Add noise of the recording's own spectrum."""
        top = x.max()
        power = np.exp(x - top).mean(0) * 10 ** (-snr / 10)
        # Energy of noise in a band: a few squares of normal numbers, on average 1.
        noise = random.standard_gamma(2.0, x.shape, dtype=np.float32) / 2
        return np.asarray(np.logaddexp(x, top + np.log(power * noise + 1e-20)), dtype=np.float32)


def resampled(x: NDArray[Any], steps: int) -> NDArray[Any]:
    """Return ``x (T, I)`` with so many steps, by linear interpolation between its first and last.

    >>> resampled(np.array([[0.0], [1.0], [2.0]]), 5)[:, 0].tolist()
    [0.0, 0.5, 1.0, 1.5, 2.0]
    """
    places = np.linspace(0, len(x) - 1, steps)
    left = np.minimum(places.astype(int), max(0, len(x) - 2))
    share = (places - left).astype(x.dtype)[:, None]
    return np.asarray(x[left] * (1 - share) + x[np.minimum(left + 1, len(x) - 1)] * share)
