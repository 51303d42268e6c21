"""Sound from log-mel frames, and the frames that it can be made from again."""

from __future__ import annotations

import math
import os
import wave
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ostinato.data.features import Spectrogram, mel_bands
from ostinato.errors import OstinatoError, ShapeError
from ostinato.files import SOUND, atomic_file, check_new_file

PEAK = 0.7
"""Largest absolute sample that recordings are brought to."""

FLOOR = 1e-7
"""Energy that is silence: 70 dB below that of a tone of full scale."""

ORDER = 16
"""Samples from which linear prediction computes the next."""

DECIBELS = 10 / math.log(10)
"""Decibels of a natural logarithm of energy."""

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class SoundFrames:
    """Sound as log-mel frames that keep enough of it to be made into sound again.

    Unlike a `Spectrogram` of speech to be read, neither the mean of a recording nor its colour is
    taken away: windows are longer and overlap four times. Recordings are brought to one peak.

    Args:
        rate: samples a second; recordings of other rates are converted.
        bands: bands of the mel scale, ``K``.
        window: of a frame, in seconds.
        hop: from frame to frame, in seconds.

    Example:
        >>> frames = SoundFrames(rate=8000)
        >>> tone = np.sin(2 * np.pi * 440 * np.arange(4000) / 8000).astype("f4")
        >>> frames(tone).shape
        (41, 64)
        >>> griffin_lim(frames, frames(tone)).shape
        (4000,)
    """

    rate: int
    bands: int = 64
    window: float = 0.05
    hop: float = 0.0125

    def __post_init__(self) -> None:
        if not all(isinstance(value, int | float) for value in asdict(self).values()):
            raise OstinatoError(f"{self}: expected numbers.")
        spectrogram = self.spectrogram  # which checks the rest
        if not 2 * spectrogram.step <= spectrogram.size or spectrogram.step < 8:
            raise OstinatoError(
                f"{self}: expected a hop of 8 samples or more, and of half a window or less."
            )

    @property
    def spectrogram(self) -> Spectrogram:
        """What computes the energy in each band."""
        return Spectrogram(self.rate, self.bands, self.window, self.hop)

    @property
    def silence(self) -> float:
        """The logarithm of the energy of a band in which there is nothing to hear."""
        return float(np.log(FLOOR * (self.spectrogram.size / 4) ** 2))

    def prepare(self, samples: Samples, rate: int, trim: float = 0.0) -> Samples:
        """Return samples ``(n,)`` at `rate`, brought to one peak.

        Args:
            samples: at ``rate`` samples a second.
            rate: of the samples.
            trim: silence at both ends, so many decibels below the loudest moment, is cut off, but
                for the time of three frames; 0 to keep all.
        """
        if rate != self.rate:
            from scipy.signal import resample_poly

            common = math.gcd(rate, self.rate)
            samples = resample_poly(samples, self.rate // common, rate // common)
        samples = np.asarray(samples, dtype=np.float32)
        if trim and len(samples):
            step = self.spectrogram.step
            padded = np.pad(samples, (0, -len(samples) % step)).reshape(-1, step)
            energy = np.square(padded.astype(np.float64)).mean(1)
            loud = np.flatnonzero(energy > energy.max() * 10 ** (-trim / 10))
            if len(loud):
                samples = samples[max(0, loud[0] - 3) * step : (loud[-1] + 4) * step]
        return np.asarray(samples * (PEAK / max(1e-5, float(np.abs(samples).max(initial=0.0)))))

    def __call__(self, samples: Samples) -> NDArray[np.float32]:
        """Return log-mel frames ``(n // step + 1, K)`` of samples ``(n,)`` at `rate`."""
        spectrogram = self.spectrogram
        around = np.zeros(spectrogram.fft // 2, dtype=np.float32)
        energy = spectrogram.energy(np.concatenate([around, samples, around]))
        return np.asarray(np.log(np.maximum(energy, np.float32(np.exp(self.silence)))))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON document."""
        return asdict(self)


def magnitudes(frames: SoundFrames, mel: NDArray[np.float32]) -> Tensor:
    """Return the magnitude of each frequency ``(T, fft / 2 + 1)`` that log-mel frames tell of.

    The energies are those, none negative, whose bands are nearest to the given ones, by
    multiplicative updates (Lee and Seung 2001, "Algorithms for non-negative matrix factorization").
    """
    if mel.ndim != 2 or mel.shape[1] != frames.bands:
        raise ShapeError(
            f"griffin_lim: frames have shape {mel.shape}; expected (T, {frames.bands})."
        )
    bands, spread, product = _inverse(frames)
    highest = np.log((frames.spectrogram.size / 2) ** 2 * 1e3)
    energy = torch.from_numpy(np.clip(mel, frames.silence, highest)).double().exp()
    energy = energy - FLOOR * (frames.spectrogram.size / 4) ** 2 * 0.99
    target = energy @ bands
    found = energy @ spread
    for _ in range(20):
        found = found * (target / (found @ product).clamp(min=1e-30))
    return found.sqrt().float()


@lru_cache(maxsize=4)
def _inverse(frames: SoundFrames) -> tuple[Tensor, Tensor, Tensor]:
    """Return the bands, their spread over frequencies as a start, and their products."""
    bands = mel_bands(frames.rate, frames.spectrogram.fft, frames.bands).double()
    spread = bands / (bands.sum(0) + 1e-3) / (bands.sum(1, keepdim=True) + 1e-9)
    return bands, spread + 1e-8, bands.T @ bands


def linear_prediction(
    frames: SoundFrames, mel: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return what log-mel frames ``(T, K)`` tell of a sample from those before it.

    The energies of a frame give the autocorrelation, and this the coefficients that predict a
    sample best (Makhoul 1975, "Linear prediction: a tutorial review").

    Returns:
        coefficients ``(T, ORDER)`` of the last samples, the latest first; and the standard
        deviation of what they leave, ``(T,)``.
    """
    how = frames.spectrogram
    energy = magnitudes(frames, mel).double().square()  # (T, F)
    window = torch.hann_window(how.size).double().square().sum()
    r = torch.fft.irfft(energy / window, how.fft)[:, : ORDER + 1]  # (T, ORDER + 1)
    r[:, 0] = r[:, 0] * 1.0001 + 1e-8
    lag = torch.arange(ORDER)
    a = torch.linalg.solve(r[:, (lag[:, None] - lag).abs()], r[:, 1:])
    left = (r[:, 0] - (a * r[:, 1:]).sum(1)).clamp(min=1e-6).sqrt()
    return a.float().numpy(), left.float().numpy()


def griffin_lim(
    frames: SoundFrames,
    mel: NDArray[np.float32],
    iterations: int = 32,
    *,
    known: Samples | None = None,
    seed: int = 0,
) -> Samples:
    """Return samples ``((T - 1) * step,)`` whose log-mel frames are near to given ones ``(T, K)``.

    Phases are found by going back and forth between sound and spectrum (Griffin and Lim 1984,
    "Signal estimation from modified short-time Fourier transform"), accelerated (Perraudin, Balazs
    and Sondergaard 2013, "A fast Griffin-Lim algorithm").

    Args:
        frames: how sound becomes frames.
        mel: the frames.
        iterations: more of them, less noise; time grows with them.
        known: the first samples, which stay as they are.
        seed: of the first phases.
    """
    if iterations < 1:
        raise OstinatoError(f"griffin_lim: iterations={iterations}; expected 1 or more.")
    if len(mel) < 2:
        return np.zeros(0, dtype=np.float32)
    how = frames.spectrogram
    magnitude = magnitudes(frames, mel).T  # (F, T)
    window = torch.hann_window(how.size)
    n = (len(mel) - 1) * how.step
    fixed = None if known is None else torch.from_numpy(np.ascontiguousarray(known[:n]))

    def sound(spectrum: Tensor) -> Tensor:
        x = torch.istft(spectrum, how.fft, how.step, how.size, window, length=n)
        if fixed is not None:
            x[: len(fixed)] = fixed
        return x

    def spectrum_of(x: Tensor) -> Tensor:
        return torch.stft(
            x, how.fft, how.step, how.size, window, center=True, pad_mode="constant",
            return_complex=True,
        )  # fmt: skip

    generator = torch.Generator().manual_seed(seed)
    angles = 2 * torch.pi * torch.rand(magnitude.shape, generator=generator)
    guess = before = torch.polar(magnitude, angles)
    for _ in range(iterations):
        consistent = spectrum_of(sound(guess))
        ahead = consistent + 0.99 * (consistent - before)
        guess, before = torch.polar(magnitude, ahead.angle()), consistent
    return np.asarray(sound(guess).clamp(-1, 1).numpy())


class GriffinLimStream:
    """Sound of log-mel frames as they come; each chunk continues the samples before it.

    The sound of a chunk is found beside the samples before it, which stay, and a few frames after
    it, which are kept back: real-time iterative spectrogram inversion with look-ahead (Zhu,
    Beauregard and Wyse 2007).

    Args:
        frames: how sound becomes frames.
        iterations: as of `griffin_lim`.
        seed: of the first phases.

    Example:
        >>> frames = SoundFrames(rate=8000)
        >>> mel = frames(0.5 * np.sin(np.arange(8000) / 3).astype("f4"))
        >>> stream = GriffinLimStream(frames)
        >>> parts = [*map(stream.feed, np.split(mel, [30, 60])), stream.finish()]
        >>> [len(part) for part in parts]
        [2500, 3000, 2100, 400]
    """

    AHEAD = 4
    """Frames that are kept back until the next ones are there."""

    BEFORE = 8
    """Frames before a chunk whose samples are known."""

    CHUNK = 8
    """Frames whose sound is found at a time, at least."""

    def __init__(self, frames: SoundFrames, iterations: int = 32, seed: int = 0) -> None:
        self.frames, self.iterations, self.seed = frames, iterations, seed
        self._mel = np.zeros((0, frames.bands), dtype=np.float32)
        self._known = np.zeros(0, dtype=np.float32)

    def feed(self, mel: NDArray[np.float32]) -> Samples:
        """Return the samples that some more frames ``(T, K)`` add, perhaps none yet."""
        self._mel = np.concatenate([self._mel, np.asarray(mel, dtype=np.float32)])
        return self._sound(self.AHEAD, self.CHUNK)

    def finish(self) -> Samples:
        """Return the last samples."""
        return self._sound(0, 1)

    def _sound(self, ahead: int, least: int) -> Samples:
        step = self.frames.spectrogram.step
        done = len(self._known)
        end = (len(self._mel) - 1 - ahead) * step
        if end < done + least * step:
            return np.zeros(0, dtype=np.float32)
        found = griffin_lim(
            self.frames, self._mel, self.iterations, known=self._known, seed=self.seed
        )
        new = found[done:end]
        first = max(0, end // step - self.BEFORE)
        self._mel, self._known = self._mel[first:], found[first * step : end]
        return new


def write_sound(path: str | os.PathLike[str], samples: Samples, rate: int) -> None:
    """Write samples from -1 to 1 as a WAV file of 16 bits and one channel."""
    with atomic_file(check_new_file(Path(path), SOUND)) as file, wave.open(file, "wb") as out:
        out.setparams((1, 2, rate, 0, "NONE", ""))
        out.writeframes(pcm(samples))


def pcm(samples: Samples) -> bytes:
    r"""Return samples from -1 to 1 as 16-bit little-endian numbers.

    >>> pcm(np.array([0.0, 1.0, -2.0]))
    b'\x00\x00\xff\x7f\x01\x80'
    """
    return np.asarray(np.round(32767 * np.clip(samples, -1, 1)), dtype="<i2").tobytes()


def joined(parts: Sequence[Samples]) -> Samples:
    """Return chunks of sound as one."""
    return np.concatenate([*parts, np.zeros(0, dtype=np.float32)])
