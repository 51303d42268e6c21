"""Sound from log-mel frames: near to the frames, continuous in chunks, written whole."""

import wave

import numpy as np
import pytest

from ostinato.data.features import mel_bands
from ostinato.data.synthesis import (
    PEAK,
    GriffinLimStream,
    SoundFrames,
    griffin_lim,
    joined,
    magnitudes,
    write_sound,
)
from ostinato.errors import OstinatoError, ShapeError

FRAMES = SoundFrames(8000)


def glide(seconds=0.6, rate=8000):
    """A voice-like sound: harmonics of a falling pitch, louder and softer."""
    t = np.arange(int(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(160 - 60 * t) / rate
    sound = sum(np.sin(k * phase) / k for k in range(1, 12)) * (0.6 + 0.4 * np.sin(12 * t))
    return FRAMES.prepare(sound.astype("f4"), rate)


def decibels(a, b):
    n = min(len(a), len(b))
    return 10 / np.log(10) * float(np.abs(a[:n] - b[:n]).mean())


def test_sound_of_frames_has_these_frames():
    mel = FRAMES(glide())
    few, many = (FRAMES(griffin_lim(FRAMES, mel, n)) for n in (1, 40))
    noise = np.random.default_rng(0).normal(size=4800).astype("f4")
    assert decibels(mel, many) < 2
    assert decibels(mel, many) < 0.7 * decibels(mel, few)
    assert decibels(mel, FRAMES(FRAMES.prepare(noise, 8000))) > 10


def test_magnitudes_have_the_energy_of_the_bands():
    mel = FRAMES(glide())
    found = magnitudes(FRAMES, mel).numpy().astype(float)
    bands = mel_bands(8000, FRAMES.spectrogram.fft, 64).numpy().astype(float)
    loud = mel > mel.max() - 8
    apart = np.abs(np.log(found**2 @ bands.T + 1e-9) - mel)
    assert apart[loud].mean() < 0.25 and np.median(apart[loud]) < 0.1
    assert (found >= 0).all()


def test_chunks_of_any_size_are_the_whole_length_and_meet_without_a_click():
    sound = glide()
    mel = FRAMES(sound)
    for sizes in ([7] * 9, [1] * 60, [40, 3]):
        stream = GriffinLimStream(FRAMES)
        parts = [stream.feed(part) for part in np.split(mel, np.cumsum(sizes))]
        found = joined([*parts, stream.finish()])
        assert len(found) == (len(mel) - 1) * FRAMES.spectrogram.step
        assert decibels(mel, FRAMES(found)) < 2.5, sizes
        steepest = np.abs(np.diff(sound)).max()
        assert np.abs(np.diff(found)).max() < 2.5 * steepest, sizes


def test_known_samples_stay_as_they_are():
    sound = glide()
    known = sound[:1500]
    found = griffin_lim(FRAMES, FRAMES(sound), 8, known=known)
    np.testing.assert_array_equal(found[:1500], known)
    assert not np.array_equal(found[1500:3000], sound[1500:3000])


def test_recordings_are_brought_to_one_peak_rate_and_length():
    quiet = 0.01 * np.sin(np.arange(1600) / 5).astype("f4")
    padded = np.concatenate([np.zeros(2000, "f4"), quiet, np.zeros(3000, "f4")])
    whole, cut = FRAMES.prepare(padded, 8000), FRAMES.prepare(padded, 8000, trim=40)
    assert len(whole) == 6600 and 1600 <= len(cut) <= 1600 + 8 * FRAMES.spectrogram.step
    assert np.abs(cut).max() == pytest.approx(PEAK)
    assert len(FRAMES.prepare(padded, 16000)) == 3300
    assert not FRAMES.prepare(np.zeros(800, "f4"), 8000, trim=40).any()


def test_silence_and_too_few_frames_are_silent():
    nothing = FRAMES(np.zeros(4000, "f4"))
    np.testing.assert_allclose(nothing, FRAMES.silence, atol=1e-5)
    assert np.abs(griffin_lim(FRAMES, nothing)).max() < 2e-3
    assert griffin_lim(FRAMES, nothing[:1]).shape == (0,)
    assert GriffinLimStream(FRAMES).finish().shape == (0,)


def test_what_cannot_be_is_one_error(tmp_path):
    with pytest.raises(ShapeError, match=r"expected \(T, 64\)"):
        griffin_lim(FRAMES, np.zeros((5, 3), "f4"))
    with pytest.raises(OstinatoError, match="iterations=0"):
        griffin_lim(FRAMES, np.zeros((5, 64), "f4"), 0)
    for bad in ({"hop": 0.04}, {"rate": 10**7}, {"bands": "x"}, {"hop": 0.0001}):
        with pytest.raises(OstinatoError, match="expected"):
            SoundFrames(**{"rate": 8000, **bad})
    with pytest.raises(OstinatoError, match=r"ends in \.wav"):
        write_sound(tmp_path / "x.mp3", np.zeros(3, "f4"), 8000)


def test_sound_is_written_as_16_bits(tmp_path):
    write_sound(tmp_path / "x.wav", np.array([0.0, 0.5, -1.5], "f4"), 8000)
    with wave.open(str(tmp_path / "x.wav")) as file:
        assert file.getparams()[:3] == (1, 2, 8000)
        np.testing.assert_array_equal(np.frombuffer(file.readframes(3), "<i2"), [0, 16384, -32767])
