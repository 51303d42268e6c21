"""Words, sounds and images as numbers."""

import os
import struct
import wave
import zlib
from dataclasses import asdict

import numpy as np
import pytest
import torch

from ostinato.data.features import (
    Lexicon,
    Spectrogram,
    SpectrogramStream,
    image_as_steps,
    image_shape,
    mean_and_scale,
    read_image,
    read_sound,
    sound_rate,
)
from ostinato.data.inputs import Inputs, InputSettings
from ostinato.data.places import Place
from ostinato.data.ragged import Examples, Ragged
from ostinato.data.reading import corpus_of
from ostinato.errors import DataError, OstinatoError

Image = pytest.importorskip("PIL.Image")


def sine(frequency, rate, seconds=0.5):
    return np.sin(2 * np.pi * frequency * np.arange(int(rate * seconds)) / rate).astype("f4")


def write_wav(path, samples, rate, channels=1):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.asarray(samples) * 32767).astype("<i2").tobytes())
    return path


# Words.


def test_words_are_known_by_falling_count_and_the_rest_is_unknown():
    sentences = [["b", "a", "B"], ["c", "a", "b"]]
    lexicon = Lexicon.learn(sentences, lowercase=True, min_count=2)
    assert lexicon.words == ["b", "a"]
    rows, table = lexicon.encode([["A", "c", "b"], [], ["new"]])
    assert [table.ids[row].tolist() for row in rows] == [[2, 0, 1], [], [0]]
    exact = Lexicon.learn(sentences, lowercase=False, most=1)
    assert exact.words == ["a"]
    again = Lexicon(**asdict(lexicon))
    assert again.encode(sentences)[1].ids.tolist() == lexicon.encode(sentences)[1].ids.tolist()


@pytest.mark.parametrize("lowercase", [True, False])
def test_words_that_were_encoded_can_be_told(lowercase):
    known, new = "disestablishmentarianisms", "antidisestablishmentarianism"
    lexicon = Lexicon.learn([["To", "be", known], ["to", known]], lowercase=lowercase, min_count=2)

    def told(sentences):
        rows, words = lexicon.encode(sentences)
        inputs = Ragged.of(rows)
        return lexicon.decode(Examples(inputs, np.zeros(len(inputs)), words))

    assert told([["TO", "be"], [], [known]]) == [
        ["to" if lowercase else "T\ufffd", "be"],
        [],
        [known],
    ]
    # Of unknown words the letters that are read, as far as they are known.
    assert told([["Be", new]]) == [["\ufffde", new[:12] + new[-12:]]]
    assert told([[]]) == [[]]


def test_each_word_is_spelled_once_and_long_ones_by_their_ends():
    lexicon = Lexicon([], "abc", lowercase=True)
    rows, table = lexicon.encode([["ab", "zc", "ab"], ["zc"]])
    assert [row.tolist() for row in rows] == [[0, 1, 0], [1]]
    assert [s.tolist() for s in table.spellings] == [[1, 2], [0, 3]]
    _, long = lexicon.encode([["a" * 20 + "b" * 20]])
    assert long.spellings[0].tolist() == [1] * 12 + [2] * 12


def test_affixes_are_those_that_two_words_share():
    words = [["Anna", "Ann", "walks", "talks", "Ann"], ["2021", "1999"]]
    lexicon = Lexicon.learn(words, lowercase=True, affixes=True)
    shared = {"a-", "an-", "ann-", "-s", "-ks", "-lks", "-alks", "~Xx", "~x", "~d", "=xxxx"}
    assert set(lexicon.affixes) == {*shared, "=dddd"}
    _, table = lexicon.encode([["Anne", "x"], ["Anne"]])
    known = ["", *lexicon.affixes]
    assert [sorted(known[i] for i in row if i) for row in table.affixes] == [
        ["a-", "an-", "ann-", "~Xx"],
        ["~x"],
    ]
    assert Lexicon(**asdict(lexicon)).encode(words)[1].affixes.tolist() == (
        lexicon.encode(words)[1].affixes.tolist()
    )
    plain = Lexicon.learn(words, lowercase=True)
    assert not plain.affixes
    assert plain.encode(words)[1].affixes.shape == (6, 0)


def test_words_of_a_batch_are_what_stands_in_the_table():
    corpus = corpus_of([["to", "be"], ["to"], ["do", "to", "zz"]])
    inputs = Inputs.learn(corpus, InputSettings(min_count=1), affixes=True)
    rows, table = inputs.encode(corpus)
    ragged = Ragged.of(rows)
    words = inputs.prepare(torch.from_numpy(ragged.padded([2, 0]).astype(np.int64)), table)
    known = [None, *inputs.lexicon.words]
    letters = [None, *inputs.lexicon.characters]
    for b, sentence in enumerate([["do", "to", "zz"], ["to", "be"]]):
        for t, word in enumerate(sentence):
            assert known[words.ids[b, t]] == word
            at = words.spelled[b, t]
            spelled = words.characters[at][: words.sizes[at]]
            assert "".join(letters[c] for c in spelled) == word
            assert words.affixes[at].tolist() == table.affixes[ragged[[2, 0][b]][t]].tolist()


# Sound.


def test_a_tone_is_loudest_in_its_band_and_higher_tones_in_higher_ones():
    def band(frequency, rate=16000):
        spectrum = Spectrogram(16000)
        noise = np.random.default_rng(0).normal(size=4000).astype("f4") * 1e-4
        # Of a tone that comes and goes, since what is always there is taken away.
        samples = np.concatenate([noise, sine(frequency, rate, 0.25)])
        return int(spectrum(samples, rate)[-10].argmax())

    found = [band(f) for f in (100, 300, 1000, 3000, 7000)]
    assert found == sorted(set(found))


def test_loudness_does_not_matter_and_rates_hardly():
    spectrum = Spectrogram(8000)
    chirp = (sine(500, 8000) * np.linspace(0, 1, 4000)).astype("f4")
    quiet = spectrum(chirp * 0.01, 8000)
    np.testing.assert_allclose(spectrum(chirp, 8000), quiet, atol=0.05)
    fast = (sine(500, 16000) * np.linspace(0, 1, 8000)).astype("f4")
    found = spectrum(fast, 16000)
    assert found.shape == spectrum(chirp, 8000).shape == (51, 40)
    loud = spectrum(chirp, 8000) > 2
    assert np.abs(found - spectrum(chirp, 8000))[loud].max() < 0.3


@pytest.mark.parametrize("normalization", ["band", "level"])
def test_silence_begins_below_the_loudest_and_a_mean_is_taken_away(normalization):
    noise = np.random.default_rng(0).normal(size=2000).astype("f4")
    samples = np.concatenate([noise, 0.01 * noise])  # 40 dB less
    absolute, near, far = (
        Spectrogram(8000, dynamic_range=dB, normalization=normalization)(samples, 8000)
        for dB in (100.0, 20.0, 80.0)
    )
    np.testing.assert_allclose(absolute, far, atol=1e-4)
    axis = 0 if normalization == "band" else None
    assert np.abs(near.mean(axis)).max() < 1e-5 < near.std()
    assert near.max() - near.min() <= (np.log(100) + 1e-4 if axis is None else np.inf)
    clipped = np.maximum(absolute, absolute.max() - np.float32(np.log(100)))
    if axis is None:
        np.testing.assert_allclose(near, clipped - clipped.mean(), atol=1e-4)
    for wrong in (0.0, 101.0):
        with pytest.raises(OstinatoError, match="100 dB of dynamic range"):
            Spectrogram(8000, dynamic_range=wrong)


def test_silence_and_a_single_sample_have_features():
    assert np.isfinite(Spectrogram(8000)(np.zeros(800, "f4"), 8000)).all()
    assert np.isfinite(Spectrogram(8000)(np.ones(1, "f4"), 8000)).all()


def test_recordings_are_read_and_mixed(tmp_path):
    stereo = np.stack([np.full(100, 0.5), np.full(100, -0.25)], axis=1)
    path = write_wav(tmp_path / "a.wav", stereo, 11025, channels=2)
    samples, rate = read_sound(path)
    assert (rate, sound_rate(path), samples.shape) == (11025, 11025, (100,))
    np.testing.assert_allclose(samples, 0.125, atol=1e-3)
    for name, content in (("empty.wav", None), ("cut.wav", path.read_bytes()[:20])):
        broken = tmp_path / name
        if content is None:
            write_wav(broken, np.zeros(0), 8000)
        else:
            broken.write_bytes(content)
        with pytest.raises(DataError, match=rf"{name}: (holds no sound|cannot be read as sound)"):
            read_sound(broken)


# Images.


def test_images_are_read_grey_or_coloured(tmp_path):
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert read_image(tmp_path / "grey.png")[..., 0].tolist() == grey.tolist()
    red = np.zeros((2, 5, 3), np.uint8)
    red[..., 0] = 200
    Image.fromarray(red).save(tmp_path / "red.png")
    assert read_image(tmp_path / "red.png").tolist() == red.tolist()
    assert image_shape(tmp_path / "red.png") == (2, 5, 3)
    assert image_shape(tmp_path / "grey.png") == (3, 4, 1)
    (tmp_path / "no.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"no.png: cannot be read as an image"):
        read_image(tmp_path / "no.png")


def test_an_image_is_a_sequence_of_rows_or_pixels_or_one_step():
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert image_as_steps(pixels, "rows", (2, 4, 3)).tolist() == pixels.reshape(2, 12).tolist()
    assert image_as_steps(pixels, "pixels", (2, 4, 3)).tolist() == pixels.reshape(8, 3).tolist()
    assert image_as_steps(pixels, "whole", (2, 4, 3)).tolist() == [pixels.ravel().tolist()]
    assert image_as_steps(pixels, "rows", (6, 5, 1)).shape == (6, 5)


# Statistics.


def test_statistics_are_those_of_all_steps():
    random = np.random.default_rng(1)
    rows = [random.normal(size=(n, 3)) * [1, 1e-3, 5] + [1e4, 0, -3] for n in (70_000, 5, 9)]
    everything = np.concatenate(rows)
    mean, scale = mean_and_scale(Ragged.of(rows))
    np.testing.assert_allclose(mean, everything.mean(0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(scale, everything.std(0), rtol=1e-4)
    mean, scale = mean_and_scale(Ragged.of(rows), each=False)
    np.testing.assert_allclose(
        [mean[0], scale[0]], [everything.mean(), everything.std()], rtol=1e-4
    )


def test_statistics_are_those_of_known_values():
    rows = [
        np.array([[1.0, np.nan, np.nan], [3.0, 5.0, np.nan]]),
        np.array([[np.nan, 7.0, np.nan]]),
    ]
    mean, scale = mean_and_scale(Ragged.of(rows))
    assert mean.tolist() == [2.0, 6.0, 0.0] and scale.tolist() == [1.0, 1.0, 1.0]


def test_a_variable_that_never_changes_is_left_at_zero():
    mean, scale = mean_and_scale(Ragged.of([np.full((5, 2), [0.1, 0.0])]))
    assert mean.tolist() == pytest.approx([0.1, 0.0]) and scale.tolist() == [1.0, 1.0]


# What a model keeps.


@pytest.mark.parametrize(
    "corpus",
    [
        corpus_of(["a film", "b"]),
        corpus_of(np.zeros((3, 4, 2))),
        corpus_of(np.zeros((3, 4, 5), np.uint8)),
    ],
    ids=["text", "series", "image"],
)
def test_what_is_kept_is_what_was_learnt(corpus):
    inputs = Inputs.learn(corpus, InputSettings(image="pixels"))
    again = Inputs.from_json(inputs.to_json())
    assert again.to_json() == inputs.to_json()
    ours, theirs = (list(each.encode(corpus)[0]) for each in (inputs, again))
    assert [a.tolist() for a in ours] == [b.tolist() for b in theirs]


def test_sequences_of_another_kind_are_refused():
    inputs = Inputs.learn(corpus_of(np.zeros((3, 4, 2))), InputSettings())
    with pytest.raises(DataError, match=r"X\[0\]: holds text; the model was trained on series"):
        inputs.check(corpus_of(["a text"]))
    with pytest.raises(DataError, match="has 3 variables; the model was trained on 2: 1, 2"):
        inputs.check(corpus_of(np.zeros((3, 4, 3))))
    large = corpus_of([[1e39]])
    with pytest.raises(DataError, match=r"X\[0\]: holds a number too large for 32 bits"):
        list(Inputs.learn(large, InputSettings()).encode(large)[0])
    assert str(Place("a.csv", 3)) == "a.csv:3"


def test_a_causal_spectrogram_knows_nothing_of_what_comes():
    spectrum = Spectrogram(8000, causal=True)
    rng = np.random.default_rng(0)
    sound = rng.normal(size=6000).astype("f4") * np.linspace(0, 1, 6000, dtype="f4")
    other = sound.copy()
    other[3000:] = 5 * rng.normal(size=3000)
    whole, changed = spectrum(sound, 8000), spectrum(other, 8000)
    # Row t looks at 100 samples on each side of sample 80 t.
    last = (3000 - 100) // 80 + 1
    np.testing.assert_array_equal(whole[:last], changed[:last])
    assert np.abs(whole[last + 1 :] - changed[last + 1 :]).max() > 1
    assert not np.allclose(
        Spectrogram(8000)(sound, 8000)[:last], Spectrogram(8000)(other, 8000)[:last]
    )


@pytest.mark.parametrize("rate", [8000, 11025])
def test_a_spectrogram_in_pieces_is_that_of_the_whole(rate):
    spectrum = Spectrogram(rate, bands=13, causal=True)
    rng = np.random.default_rng(1)
    sound = rng.normal(size=5000).astype("f4")
    stream, parts, begin = SpectrogramStream(spectrum), [], 0
    while begin < len(sound):
        n = int(rng.integers(1, 700))
        parts.append(stream.feed(sound[begin : begin + n]))
        begin += n
    parts.append(stream.finish())
    whole = spectrum(sound, rate)
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-5)
    plain = Spectrogram(rate, bands=13)
    energy = plain.energy(np.pad(sound, plain.fft // 2))
    silence = 1e-9 * (0.025 * rate / 4) ** 2
    np.testing.assert_allclose(whole, np.log(np.maximum(energy, silence)), atol=1e-2)
    quiet = spectrum(np.zeros(2000, "f4"), rate)
    np.testing.assert_allclose(quiet, np.log(silence), atol=1e-2)
    with pytest.raises(OstinatoError, match="expected causal=True"):
        SpectrogramStream(plain)


def sound(path, rate, count=2500):
    """A recording that claims so many samples a second."""
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(path, np.sin(np.arange(count)), 8000, subtype="PCM_16")
    data = bytearray(path.read_bytes())
    data[24:28] = struct.pack("<I", rate)
    path.write_bytes(data)
    return path


def test_what_a_recording_claims_is_bounded_before_it_takes_memory(tmp_path):
    path = tmp_path / "a.wav"
    for rate in (10**8, 512_001):
        for read in (read_sound, sound_rate):
            with pytest.raises(DataError, match=rf"a.wav: has {rate:,} samples a second; expected"):
                read(sound(path, rate))
    assert Spectrogram(16_000)(*read_sound(sound(path, 250))).shape == (1001, 40)
    with pytest.raises(
        DataError, match=r"X\[0\]: has 249 samples a second; the model takes 16,000"
    ):
        corpus = corpus_of([sound(path, 249)])
        list(Inputs("sound", 40, spectrogram=Spectrogram(16_000)).encode(corpus)[0])
    path = tmp_path / "a.flac"
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(path, np.sin(np.arange(2500)), 8000)
    data = bytearray(path.read_bytes())
    data[21] |= 0x0F
    data[22:26] = b"\xff" * 4
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a.flac: would take 262,143 MB of memory, and has"):
        read_sound(path)


def test_what_an_image_claims_is_bounded_before_it_takes_memory(tmp_path):
    def part(kind, content):
        size, check = struct.pack(">I", len(content)), zlib.crc32(kind + content)
        return size + kind + content + struct.pack(">I", check)

    path = tmp_path / "a.png"
    for side in (8193, 13_000, 20_000):  # Pillow warns of the second, and refuses the third
        head = part(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + part(b"IDAT", zlib.compress(bytes(100))))
        for read in (read_image, image_shape):
            with pytest.raises(
                DataError, match=r"a.png: (has [\d,]+ x|cannot be read as an image)"
            ):
                read(path)


@pytest.mark.parametrize("read", [read_image, image_shape, read_sound, sound_rate])
def test_a_pipe_is_refused_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "a")
    with pytest.raises(DataError, match="a: is neither a file nor a folder"):
        read(tmp_path / "a")
