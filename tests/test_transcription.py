"""Speech to text: what was said, written down, found among texts, and followed live."""

import math

import numpy as np
import pytest
import soundfile

from ostinato import TextGenerator, Transcriber, load
from ostinato.data.ragged import Examples
from ostinato.errors import DataError, OstinatoError, ShapeError
from ostinato.tasks.transcripts import error_rates

SHAPES = {"a": [3.0, 0.0], "b": [0.0, 3.0], "c": [-3.0, 0.0], " ": [0.0, -3.0]}


def spoken(text, seed=0):
    rng = np.random.default_rng(seed)
    rows = [[SHAPES[c]] * rng.integers(2, 5) + [[0.0, 0.0]] * rng.integers(1, 3) for c in text]
    return np.concatenate(rows) + 0.2 * rng.normal(size=(sum(map(len, rows)), 2))


TEXTS = ["abc", "cab", "a b", "b c a", "cc", "bab", "ca", "c b"]


@pytest.fixture(scope="module")
def model():
    y = TEXTS * 30
    X = [spoken(text, seed) for seed, text in enumerate(y)]
    settings = {"hidden_size": 24, "stacked": 1, "epochs": 12, "learning_rate": 0.02}
    return Transcriber(bidirectional=False, **settings).fit(X, y)


def test_new_recordings_are_written_down(model):
    y = ["acb", "b a", "cab", "bb"]
    X = [spoken(text, 1000 + seed) for seed, text in enumerate(y)]
    found = model.evaluate(X, y)
    assert found["cer"] < 0.15 and found["recordings"] == 4
    assert model.score(X, y) == pytest.approx(1 - found["cer"])
    assert model.transcribe(X, beam=1)[0] == "acb"


def test_a_text_is_chosen_among_others(model):
    wanted = ["abc", "b c a", "cc"]
    X = [spoken(text, 2000 + seed) for seed, text in enumerate(wanted)]
    found = model.choose(X, TEXTS)
    assert [text for text, _ in found] == wanted
    assert all(0.9 < share <= 1 for _, share in found)
    with pytest.raises(OstinatoError, match="choose: texts is empty"):
        model.choose(X, [])


def test_a_language_model_settles_what_is_heard_badly(model):
    X = [spoken("ab", 5) * 0.0]  # nothing but noise is heard
    size = len(model.vocabulary_)

    def only(text):
        log_p = np.full(size, -50.0)
        log_p[model.vocabulary_.encode("c")[0]] = 0.0
        return log_p

    assert set(model.transcribe(X, language=only, weight=2.0)[0]) <= {"c"}
    lines = "ca b\n" * 200
    letters = TextGenerator(hidden_size=24, steps=150, learning_rate=0.02, window=16).fit(lines)
    after = letters.next_log_probs("ca")
    assert max(after, key=after.get) == " "
    assert sum(map(math.exp, after.values())) == pytest.approx(1)
    x = spoken("ca b", 8)
    assert model.transcribe([x], language=letters, weight=0.3) == ["ca b"]


def test_a_stored_model_writes_the_same(model, tmp_path):
    model.save(tmp_path / "model")
    X = [spoken(text, 3000) for text in TEXTS]
    assert load(tmp_path / "model").predict(X) == model.predict(X)
    (answer, *_) = model.predictions(X)
    assert answer.to_json()["text"] == model.predict(X)[0]


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    """Recordings of high and low tones, and the letters that they stand for."""
    folder = tmp_path_factory.mktemp("tones")
    rng, t = np.random.default_rng(0), np.arange(960) / 8000
    lines = ["file,text"]
    for i in range(80):
        text = "".join(rng.choice(["h", "l"], rng.integers(1, 4)))
        parts = [np.sin(2 * np.pi * {"h": 1200, "l": 300}[c] * t) for c in text]
        gap = np.zeros(rng.integers(300, 900))
        sound = np.concatenate([part for p in parts for part in (gap, p)] + [gap])
        soundfile.write(folder / f"{i}.wav", 0.5 * sound + 0.01 * rng.normal(size=len(sound)), 8000)
        lines.append(f"{i}.wav,{text}")
    (folder / "texts.csv").write_text("\n".join(lines))
    settings = {"hidden_size": 16, "bands": 12, "epochs": 12, "learning_rate": 0.02}
    return Transcriber(bidirectional=False, **settings).fit(folder / "texts.csv"), folder


def test_sound_is_written_down_while_it_comes_as_the_whole_would_be(tones):
    model, folder = tones
    assert model.evaluate(folder / "texts.csv")["cer"] < 0.2
    rng = np.random.default_rng(1)
    for name in ("3.wav", "7.wav"):
        whole = model.transcribe([folder / name], beam=1)[0]
        sound, rate = soundfile.read(folder / name, dtype="float32")
        stream = model.stream()
        assert stream.rate == rate and whole
        parts, begin, early = [], 0, 0
        while begin < len(sound):
            n = int(rng.integers(1, 500))
            parts.append(stream.feed(sound[begin : begin + n]))
            begin += n
            early += begin < 0.8 * len(sound) and bool(parts[-1])
        assert "".join([*parts, stream.finish()]) == whole
        assert early  # something is written before the end


def test_a_stream_refuses_what_it_cannot_take(tones, model):
    with pytest.raises(OstinatoError, match="needs the future; train it with bidirectional=False"):
        Transcriber(epochs=0.1, hidden_size=4).fit([spoken("ab")] * 10, ["ab"] * 10).stream()
    with pytest.raises(ShapeError, match=r"x has shape \(3, 2\); expected samples \(n,\)"):
        tones[0].stream().feed(np.zeros((3, 2)))
    with pytest.raises(ShapeError, match="of finite numbers"):
        tones[0].stream().feed(np.array([np.nan]))
    with pytest.raises(ShapeError, match=r"expected rows \(n, I\)"):
        model.stream().feed(np.zeros(3))


def test_words_can_be_written_too():
    y = ["a b", "b a", "a a", "b b"] * 20
    X = [spoken(text, seed) for seed, text in enumerate(y)]
    settings = {"hidden_size": 16, "stacked": 1, "epochs": 10, "learning_rate": 0.02}
    model = Transcriber(level="word", **settings).fit(X, y)
    assert model.evaluate(X, y)["wer"] < 0.3


def test_data_that_cannot_be_are_refused():
    X = [spoken("ab"), spoken("b")]
    with pytest.raises(OstinatoError, match="has no text; expected its transcript"):
        Transcriber(validation_fraction=0).fit(X, ["ab", " "])
    with pytest.raises(OstinatoError, match="has the label .*; expected a text"):
        Transcriber(validation_fraction=0).fit(X, [["a"], ["b"]])
    with pytest.raises(OstinatoError, match="expected recordings or series"):
        Transcriber(validation_fraction=0).fit(["some text", "more"], ["a", "b"])
    with pytest.raises(OstinatoError, match="it has no form without recurrence"):
        Transcriber(recurrent=False).fit(X, ["ab", "b"])


def test_words_are_timed_as_they_are_said(model):
    parts = ["ab", "c", "ba"]
    X = [spoken(" ".join(parts), 4000)]
    (words,) = model.align(X, [" ".join(parts)])
    assert [word.text for word in words] == parts
    assert all(0 < word.probability <= 1 and word.start < word.end for word in words)
    # A letter takes two to four rows, and one or two of silence: here by the true ones.
    rng = np.random.default_rng(4000)
    rows = [int(rng.integers(2, 5)) + int(rng.integers(1, 3)) for _ in " ".join(parts)]
    begins = np.cumsum([0, *rows])[[0, 3, 5]]
    assert np.abs(np.array([word.start for word in words]) - begins).max() <= 3
    assert model.align(X)[0] == model.align(X, model.transcribe(X))[0]
    with pytest.raises(OstinatoError, match="X has 1 recordings, and texts 2"):
        model.align(X, ["a", "b"])
    with pytest.raises(OstinatoError, match=r"X\[0\]: is too short for 'abcabcabc': ctc_align"):
        model.align([X[0][:4]], ["abcabcabc"])


def test_phrases_are_found_in_longer_recordings(model):
    texts = ["abc cab", "b a bab cab", "ca c", "cab"]
    X = [spoken(text, 5000 + seed) for seed, text in enumerate(texts)]
    hits = model.find(X, ["cab", "c"], threshold=0.3)
    assert [(hit.phrase, hit.recording) for hit in hits] == [
        ("cab", 0), ("cab", 1), ("c", 2), ("cab", 3),
    ]  # fmt: skip
    assert all(
        0.3 <= hit.score <= 1 and hit.start < hit.end <= len(X[hit.recording]) for hit in hits
    )
    (word,) = [w for w in model.align(X, texts)[1] if w.text == "cab"]
    assert abs(word.start - hits[1].start) < 3 and str(hits[1].place) == "X[1]"
    assert model.find(X, ["bb"], threshold=0.9) == []
    with pytest.raises(OstinatoError, match="find: phrases is empty"):
        model.find(X, [])
    with pytest.raises(DataError, match="'xyz': the model cannot write 'x'; it knows ' abc'"):
        model.find(X, ["xyz"])
    with pytest.raises(DataError, match="'a?': the model cannot write"):
        model.align(X[:1], ["a?"])


def test_a_threshold_is_chosen_on_validation_data(model, tmp_path):
    texts = TEXTS * 2
    X = [spoken(text, 6000 + seed) for seed, text in enumerate(texts)]
    with pytest.raises(OstinatoError, match="is from no run with data; give X and y"):
        model.calibrate(["cab"])
    hours = sum(map(len, X)) / 3600
    found = model.calibrate(["cab", "a"], X, texts, false_alarms_per_hour=0)
    assert found.false_alarms == 0 and found.said == 6 and found.hours == pytest.approx(hours)
    some = model.find(X, ["cab", "a"], threshold=found.threshold)
    assert len(some) == found.said - found.missed
    assert all(hit.phrase in texts[hit.recording].split() for hit in some)
    more = model.calibrate(["cab", "a"], X, texts, false_alarms_per_hour=1e6)
    assert more.threshold <= found.threshold and more.missed <= found.missed
    run = Transcriber(hidden_size=8, stacked=1, epochs=1).fit(X, texts, out=tmp_path / "run")
    assert run.calibrate(["cab"]).said == sum(
        text.split().count("cab")
        for text in held_out_texts(run)
    )  # fmt: skip
    bare = Transcriber(hidden_size=8, epochs=1, validation_fraction=0)
    bare.fit(X, texts, out=tmp_path / "bare")
    with pytest.raises(OstinatoError, match="the run has no validation data; give X and y"):
        bare.calibrate(["cab"])


def held_out_texts(run):
    rows = Examples.open(run.folder_ / "data", "validation").targets
    return [run.vocabulary_.decode(row.tolist()) for row in rows]


def test_transcripts_are_compared_with_their_texts(model):
    y = ["acb", "b a", "cab c", "bb"]
    X = [spoken(text, 1000 + seed) for seed, text in enumerate(y)]
    compared = model.compare(X, y, beam=2)
    assert [each.reference for each in compared] == y
    assert [each.hypothesis for each in compared] == model.transcribe(X, beam=2)
    assert model.evaluate(X, y, beam=2) == error_rates(compared)
