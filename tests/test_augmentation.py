"""Recordings varied while training: each change does what it says, and can be repeated."""

import numpy as np
import pytest

from ostinato import SequenceClassifier, SequenceRegressor, Transcriber
from ostinato.data.augmentation import Augmentation, resampled
from ostinato.data.batches import SequenceBatches
from ostinato.data.features import Spectrogram, mel_centres
from ostinato.data.inputs import Inputs
from ostinato.data.ragged import Examples, Ragged
from ostinato.errors import OstinatoError

RATE = 8000
ABSOLUTE = Spectrogram(RATE, causal=True)
T_AXIS = np.arange(RATE) / RATE


def frames(seed=0, T=60):
    return np.random.default_rng(seed).normal(size=(T, 40)).astype("f4")


def generator(seed=0):
    return np.random.default_rng(seed)


class Fixed:
    """A generator whose uniform numbers are given, and all others random."""

    def __init__(self, speed=0.0, pitch=0.0, snr=0.0, gain=0.0, seed=0):
        self._uniform = np.array([speed, pitch, snr, gain])
        self._random = np.random.default_rng(seed)

    def uniform(self, low, high):
        return self._uniform

    def __getattr__(self, name):
        return getattr(self._random, name)


def test_no_change_leaves_what_it_is():
    x = frames()
    np.testing.assert_array_equal(Augmentation(ABSOLUTE)(x, generator()), x)
    normalised = Augmentation(Spectrogram(RATE))(x, generator())
    np.testing.assert_allclose(normalised, x - x.mean(0), atol=1e-6)
    assert len(Augmentation(ABSOLUTE, 0.1, 0.1, 10, 6, 10, 2)(x[:0], generator())) == 0
    assert Augmentation(ABSOLUTE, 0.5, 0.1, 10, 6, 10, 2)(x[:1], generator()).shape == (1, 40)


def test_changes_are_those_of_the_generator_and_leave_the_input_alone():
    vary, x = Augmentation(Spectrogram(RATE), 0.1, 0.1, 10, 6, 10, 2), frames()
    kept = x.copy()
    np.testing.assert_array_equal(vary(x, generator(3)), vary(x, generator(3)))
    others = [vary(x, generator(seed)) for seed in range(4)]
    assert len({each.tobytes() for each in others}) == 4
    np.testing.assert_array_equal(x, kept)


def test_speed_is_the_number_of_frames_between_the_same_ends():
    line = np.linspace(0, 1, 50, dtype="f4")[:, None] * np.ones(40, "f4")
    for speed in (-1.0, 0.5, 1.0):
        found = Augmentation(ABSOLUTE, speed=0.2)(line, Fixed(speed=speed))
        assert len(found) == round(50 / (1 + 0.2 * speed))
        np.testing.assert_allclose(found[:, 7], np.linspace(0, 1, len(found)), atol=1e-6)
    np.testing.assert_array_equal(resampled(frames(), 60), frames())


@pytest.mark.parametrize("pitch", [-1.0, 1.0])
def test_pitch_moves_a_tone_where_the_other_tone_is(pitch):
    def tone(f):
        return ABSOLUTE(np.sin(2 * np.pi * f * T_AXIS).astype("f4"), RATE)

    found = Augmentation(ABSOLUTE, pitch=0.2)(tone(1000.0), Fixed(pitch=pitch))
    expected = tone(1000.0 * (1 + 0.2 * pitch))
    centres = mel_centres(RATE, 40)
    peaks = [centres[each[50].argmax()] for each in (found, expected)]
    assert abs(peaks[0] - peaks[1]) <= np.diff(centres)[each_band(centres, peaks[1])]


def each_band(centres, f):
    return min(len(centres) - 2, int(np.searchsorted(centres, f)))


@pytest.mark.parametrize("snr", [0.0, 10.0])
def test_noise_has_the_power_that_the_ratio_says_in_every_band(snr):
    x = frames(T=4000)
    found = Augmentation(ABSOLUTE, snr=snr)(x, Fixed(snr=0.0))
    added = (np.exp(found) - np.exp(x)).mean(0) / np.exp(x).mean(0)
    np.testing.assert_allclose(10 * np.log10(added), -snr, atol=0.3)
    # As much as real noise of a ratio does, which is added to samples.
    random = generator(1)
    sound, noise = (random.normal(size=20 * RATE).astype("f4") for _ in range(2))
    real = ABSOLUTE(sound + 10 ** (-snr / 20) * noise, RATE) - ABSOLUTE(sound, RATE)
    ours = Augmentation(ABSOLUTE, snr=snr)(ABSOLUTE(sound, RATE), Fixed(snr=0.0))
    ours = ours - ABSOLUTE(sound, RATE)
    assert ours.mean() == pytest.approx(real.mean(), abs=0.15)


def test_gain_adds_to_all_bands_and_normalisation_takes_it_away():
    x = frames()
    louder = Augmentation(ABSOLUTE, gain=10.0)(x, Fixed(gain=0.5))
    np.testing.assert_allclose(louder - x, 5 * np.log(10) / 10, atol=1e-5)
    same = Augmentation(Spectrogram(RATE), gain=10.0)(x, Fixed(gain=0.5))
    np.testing.assert_allclose(same, x - x.mean(0), atol=1e-5)


def test_response_is_a_smooth_curve_over_the_bands_that_is_the_same_at_every_step():
    x, limit = frames(), 10 * np.log(10) / 10
    k = np.arange(40) / 40
    cosines = np.stack([np.cos(np.pi * n * k) for n in (1, 2, 3)], 1)
    factors = []
    for seed in range(200):
        added = Augmentation(ABSOLUTE, response=10.0)(x, generator(seed)) - x
        np.testing.assert_allclose(added, np.tile(added[:1], (len(x), 1)), atol=1e-5)
        found, (error,), *_ = np.linalg.lstsq(cosines, added[0], rcond=None)
        assert error < 1e-6
        factors.append(found)
    factors = np.abs(factors) / limit
    assert factors.max() <= 1 + 1e-4 and (factors.max(0) > 0.95).all()
    assert np.allclose(factors.mean(0), 0.5, atol=0.07)
    # Bands whose mean is taken away know nothing of it.
    same = Augmentation(Spectrogram(RATE), response=10.0)(x, generator())
    np.testing.assert_allclose(same, x - x.mean(0), atol=1e-5)


def test_masks_hide_a_fifth_at_most_and_leave_the_rest():
    x = frames(T=50) + 5
    mean, most = x.mean(0), 0
    for seed in range(50):
        found = Augmentation(ABSOLUTE, masks=1)(x, generator(seed))
        hidden = found != x
        steps, bands = hidden.all(1), hidden.all(0)
        assert steps.sum() <= 10 and bands.sum() <= 8
        assert (hidden == (steps[:, None] | bands)).all()
        np.testing.assert_allclose(found[steps], np.tile(mean, (steps.sum(), 1)), rtol=1e-5)
        most = max(most, steps.sum())
    assert most == 10


def batches(**more):
    rows = [frames(seed, T=10 + seed) for seed in range(9)]
    examples = Examples(Ragged.of(rows), np.arange(9))
    return SequenceBatches(examples, 4, seed=5, **more), rows


def test_batches_vary_every_time_and_go_on_from_a_position_with_the_same_bits():
    vary = Augmentation(Spectrogram(RATE), 0.1, 0.1, 10, 6, 10, 1)
    ours, rows = batches(augment=vary)
    seen = [ours.next_batch() for _ in range(4)]
    state = ours.state_dict()
    later = [ours.next_batch() for _ in range(5)]
    again, _ = batches(augment=vary)
    again.load_state_dict(state)
    for batch in later:
        other = again.next_batch()
        assert batch.inputs.equal(other.inputs) and batch.lengths.equal(other.lengths)
        assert batch.targets.equal(other.targets)
    first = {}
    for batch in [*seen, *later]:  # three epochs
        for x, n, row in zip(batch.inputs, batch.lengths, batch.targets.tolist(), strict=True):
            assert not x[n:].any() and abs(n / len(rows[row]) - 1) < 0.25
            first.setdefault(row, []).append(x[:n].numpy().tobytes())
    assert all(len(set(each)) == 3 for each in first.values())
    for batch in ours:  # as they are, for validation
        for x, n, row in zip(batch.inputs, batch.lengths, batch.targets.tolist(), strict=True):
            np.testing.assert_array_equal(x[:n], rows[row])


@pytest.mark.parametrize(
    ("estimator", "settings", "expected"),
    [
        (SequenceClassifier, {}, 10.0),
        (SequenceClassifier, {"response": 3.0}, 3.0),
        (SequenceClassifier, {"response": 0.0}, 0.0),
        (SequenceClassifier, {"bidirectional": False}, 0.0),
        (SequenceClassifier, {"bidirectional": False, "response": 3.0}, 3.0),
        (SequenceRegressor, {}, 0.0),
        (Transcriber, {}, 0.0),
    ],
)
def test_response_is_varied_where_recordings_are_classified(estimator, settings, expected):
    model = estimator(**settings)
    model.inputs_ = Inputs("sound", 40, spectrogram=Spectrogram(RATE))
    assert model._batching()["augment"].response == expected


def test_what_cannot_be_varied_is_refused():
    X = [frames(seed) for seed in range(4)]
    with pytest.raises(
        OstinatoError, match="augment=True, and the inputs are series; expected rec"
    ):
        SequenceClassifier(augment=True).fit(X, list("abab"))
    for name, value in (
        ("speed", 0.6),
        ("pitch", -0.1),
        ("snr", 200),
        ("gain", -1),
        ("masks", 21),
        ("response", 61),
    ):
        with pytest.raises(OstinatoError, match=f"Transcriber: {name}={value}; expected "):
            Transcriber(**{name: value}).fit(X, list("abab"))
    steps = Examples(Ragged.of(X), Ragged.of([np.zeros(60, int)] * 4))
    with pytest.raises(OstinatoError, match="with a target at each step cannot be augmented"):
        SequenceBatches(steps, 2, augment=Augmentation(ABSOLUTE))
