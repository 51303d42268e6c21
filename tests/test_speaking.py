"""Text to speech: trained on recordings, spoken, streamed, stored, resumed, measured."""

import io
import itertools
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from command_line import assert_refused
from test_features import write_wav

from ostinato import Speaker, load
from ostinato.data.corpus import Corpus
from ostinato.data.speech import SpeechSettings, phonemes, read_speech, speech_of
from ostinato.errors import DataError, OstinatoError
from ostinato.networks.attention_faults import Fault
from ostinato.tasks import speaking
from ostinato.tasks.speaking import SpeechWarning

TONES = {"a": 400.0, "b": 900.0, "c": 2000.0}
QUICK = {"hidden_size": 24, "batch_size": 8, "learning_rate": 0.01, "bands": 20}

pytestmark = pytest.mark.filterwarnings("ignore::ostinato.tasks.speaking.SpeechWarning")


def tones(text, pitch=1.0):
    t = np.arange(960) / 8000
    envelope = np.minimum(1, np.minimum(t, t[::-1]) * 100)
    return np.concatenate([np.sin(2 * np.pi * pitch * TONES[c] * t) * envelope for c in text])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Recordings of two speakers, the second of whom is half as high."""
    made = tmp_path_factory.mktemp("recordings")
    texts = ["abc", "cab", "bca", "acb", "ab", "bc", "ca", "ba"]
    for i, text in enumerate(texts * 4):
        for who, pitch in (("high", 1.0), ("low", 0.6)):
            write_wav(made / f"{text}_{who}_{i}.wav", 0.5 * tones(text, pitch), 8000)
    return made


@pytest.fixture(scope="module")
def model(folder):
    return Speaker(pattern="{label}_{speaker}_{take}.wav", steps=400, **QUICK).fit(folder)


def heard(speech, pitch):
    """The letters whose tone is the loudest for a while, one after the other."""
    parts = np.lib.stride_tricks.sliding_window_view(speech.samples, 400)[::100] * np.hanning(400)
    loudest = np.abs(np.fft.rfft(parts, 1024)).argmax(1) * 8000 / 1024
    found = [next((c for c, f in TONES.items() if abs(tone / pitch / f - 1) < 0.2), "-")
             for tone in loudest]  # fmt: skip
    runs = [(letter, len(list(run))) for letter, run in itertools.groupby(found)]
    return "".join(letter for letter, n in runs if n >= 4)


def test_texts_are_spoken_in_the_voice_that_is_asked_for(model):
    for who, pitch in (("high", 1.0), ("low", 0.6)):
        for text in ("bac", "cba"):  # which are in no recording
            speech = model.speak(text, speaker=who, seed=1)
            assert heard(speech, pitch) == text, who
            assert speech.faults == [] and speech.speaker == who
            assert len(speech.samples) == pytest.approx(3 * 960, rel=0.35)


def test_what_is_spoken_has_frames_attention_and_sound(model, tmp_path):
    one = model.speak("cab", speaker="low", seed=3)
    again, other = model.speak("cab", speaker="low", seed=3), model.speak("cab", seed=3)
    assert model.speakers_ == ["high", "low"] and other.speaker == "high"
    np.testing.assert_array_equal(one.samples, again.samples)
    assert not np.array_equal(one.mel[:4], other.mel[:4])
    assert one.pieces == ["c", "a", "b", "¶"]
    assert one.attention.shape == (len(one.mel) // 4, 4) and one.mel.shape[1] == 20
    np.testing.assert_allclose(one.attention.sum(1), 1, atol=1e-5)
    assert len(one.samples) == 100 * (len(one.mel) - 1) and one.rate == 8000
    several = model.speak(["cab", "a", "bcab"], seed=4)
    assert [each.text for each in several] == ["cab", "a", "bcab"]
    assert np.array_equal(model.predict(["ab"])[0], model.speak("ab", seed=0).samples)
    one.save(tmp_path / "x.wav")
    one.plot(tmp_path / "x.png")
    samples, rate = soundfile.read(tmp_path / "x.wav", dtype="float32")
    assert rate == 8000
    np.testing.assert_allclose(samples, one.samples, atol=1e-4)


def test_sound_comes_in_chunks_of_the_same_frames(model, monkeypatch):
    seen = []
    original = speaking.GriffinLimStream.feed
    monkeypatch.setattr(
        speaking.GriffinLimStream, "feed", lambda self, mel: seen.append(mel) or original(self, mel)
    )
    chunks = list(model.stream("abcabc", speaker="low", seed=5))
    whole = model.speak("abcabc", speaker="low", seed=5)
    np.testing.assert_array_equal(np.concatenate(seen), whole.mel)
    assert sum(map(len, chunks)) == len(whole.samples) and len(chunks) > 1
    first = next(iter(model.stream("abcabc", seed=5)))
    assert 0 < len(first) < len(whole.samples)


def test_a_run_is_stored_loaded_and_resumed(folder, tmp_path):
    settings = {"pattern": "{label}_{speaker}_{take}.wav", "evaluations": 2, **QUICK}
    whole = Speaker(steps=6, **settings).fit(folder, out=tmp_path / "run")
    stored = load(tmp_path / "run")
    np.testing.assert_array_equal(
        stored.speak("ab", seed=2).samples, whole.speak("ab", seed=2).samples
    )
    samples = sorted(path.name for path in (tmp_path / "run" / "samples").iterdir())
    assert samples == ["step-000003.png", "step-000003.wav", "step-000006.png", "step-000006.wav"]

    class Interrupt(speaking_callback()):
        def on_step(self, record):
            if record["step"] == 4:
                self.run.stop()

    part = Speaker(steps=6, **settings).fit(folder, out=tmp_path / "part", callbacks=[Interrupt()])
    assert part.training_["ended"] == "interrupt"
    resumed = Speaker.resume(tmp_path / "part")
    for name, weight in whole.network_.state_dict().items():
        assert torch.equal(weight, resumed.network_.state_dict()[name]), name


def speaking_callback():
    from ostinato.training.callbacks import Callback

    class WithRun(Callback):
        def on_begin(self, run):
            self.run = run

    return WithRun


def test_progress_shows_attention_and_its_faults(folder, capsys):
    Speaker(pattern="{label}_{speaker}_{take}.wav", steps=2, evaluations=1, **QUICK).fit(
        folder, progress="lines"
    )
    out = capsys.readouterr().out
    assert "attention (text downward, time to the right)" in out
    assert "of 8 texts spoken without a fault" in out and "focus" in out


def test_evaluation_counts_faults(model, folder):
    found = model.evaluate(folder)
    assert found["texts"] == 64 and 0 < found["decibels"] < 15
    shares = [found[name] for name in ("no_stop", "skips", "repeats")]
    assert all(0 <= share <= 1 for share in shares)
    assert (
        model.score(folder)
        == found["without_fault"]
        >= 1 - sum(shares) - found["the_attention_does_not_move"]
    )


def test_a_fault_is_a_warning_with_a_remedy(model, monkeypatch):
    monkeypatch.setattr(speaking, "faults_of", lambda *_: [Fault("no stop", "")])
    with pytest.warns(SpeechWarning, match="'ab': no stop; train longer"):
        model.speak("ab")
    with pytest.warns(SpeechWarning, match="'ab': no stop; train longer"):
        list(model.stream("ab"))


def test_guidance_ends_and_is_no_part_of_validation(model, folder):
    targets = model.targets_
    batch = next(iter(model._sequences().batches(model._sequences().labelled(model._read(folder)))))
    assert targets.guided_epochs == 20
    assert targets.loss_arguments(batch._replace(epoch=5))["guided"] == 0.75
    assert targets.loss_arguments(batch._replace(epoch=50))["guided"] == 0
    with torch.no_grad():
        found, _ = targets.metrics(model.network_.eval(), batch, None)
    assert found["loss"] > 0 and 0 < found["focus"] <= 1


def test_frames_are_filled_up_with_silence_and_come_back(model, folder):
    corpus = model._read(folder)
    rows = list(model.targets_.encode(corpus.take([0, 5])))
    mel = model.targets_.frames_of(corpus, 0)
    assert len(mel) % 4 == 0 and len(rows[0]) == len(mel)
    np.testing.assert_allclose(model.targets_.decode(torch.from_numpy(rows[0])), mel, atol=1e-4)
    every = np.concatenate(list(model.targets_.encode(corpus)))
    np.testing.assert_allclose(every.mean(0), 0, atol=0.3)


# Reading


def test_speakers_come_from_names_tables_and_pairs(folder, tmp_path):
    named = read_speech([folder], SpeechSettings(pattern="{label}_{speaker}_{take}.wav"))
    assert named.targets[0] == ("ab", "high") and len(named) == 64
    lines = ["file\tsentence\twho"]
    lines += [
        f"{path}\tA  {t}\t{w}" for path, (t, w) in zip(named.inputs, named.targets, strict=True)
    ]
    (tmp_path / "clips.tsv").write_text("\n".join(lines))
    table = read_speech([tmp_path / "clips.tsv"], SpeechSettings(speaker="who", label="sentence"))
    assert table.targets[0] == ("A ab", "high") and table.inputs == named.inputs
    assert "speakers: who" in table.notes
    alone = read_speech([folder], SpeechSettings(pattern="{label}_{who}_{take}.wav"))
    assert {who for _, who in alone.targets} == {""}
    other = SpeechSettings(pattern="{label}_{who}_{take}.wav", speaker="who")
    assert read_speech([folder], other).targets == named.targets
    memory = speech_of(named.inputs[:2], ["x", ("y", "z")], SpeechSettings())
    assert memory.targets == [("x", ""), ("y", "z")]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pattern": "{label}.wav", "speaker": "who"}, "expected a field {who} in the pattern"),
        ({"pattern": "x{label}_{speaker}.wav"}, "does not match"),
        ({}, "one folder"),
    ],
)
def test_names_that_do_not_fit_are_one_error(folder, settings, message):
    with pytest.raises(OstinatoError, match=message.replace("{", r"\{")):
        read_speech([folder], SpeechSettings(**settings))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("text,label\nhello,x\nyou,y", "which column holds the recordings is not clear"),
        ("path,a,b\n{f},x,y\n{f},z,y", "which column holds the texts that are spoken"),
        ("path,label,speaker\n{f},x,\n{f},y,b", "'speaker' is empty"),
        ("path,label\n{f},x\nnone.wav,y", "there is no such file"),
    ],
)
def test_tables_that_do_not_fit_are_one_error(folder, tmp_path, table, message):
    file = next(iter(sorted(folder.iterdir())))
    (tmp_path / "t.csv").write_text(table.replace("{f}", str(file)))
    with pytest.raises(DataError, match=message):
        read_speech([tmp_path / "t.csv"], SpeechSettings())


def test_what_cannot_be_spoken_is_one_error(model, folder):
    for text, more in (("", {}), ([], {}), (["a", " "], {}), ("a", {"batch_size": 0})):
        if text == []:
            assert model.speak(text) == []
            continue
        with pytest.raises(OstinatoError, match="expected texts that are not empty"):
            model.speak(text, **more)
    with pytest.raises(OstinatoError, match="speaker='x'; expected one of high, low"):
        model.speak("a", speaker="x")
    with pytest.raises(OstinatoError, match="the text is empty"):
        model.stream(" ")
    unknown = Corpus(
        "sound", [next(folder.iterdir())], [("a", "nobody")], model._read(folder).places
    )
    with pytest.raises(DataError, match="spoken by 'nobody'"):
        model.evaluate(unknown)
    with pytest.raises(DataError, match="expected recordings"):
        Speaker().fit(["a text"], ["b"])
    for bad in ({"frames_per_step": 0}, {"symbols": "word"}, {"rate": 100}, {"trim": -1.0}):
        with pytest.raises(OstinatoError, match="expected"):
            Speaker(**bad).fit(folder)


def test_letters_that_are_unknown_are_spoken_as_something(model):
    assert len(model.speak("aXc", seed=1).samples)


# Phonemes


needs_espeak = pytest.mark.skipif(
    shutil.which("espeak-ng") is None,
    reason="espeak-ng is not installed: apt-get install espeak-ng",
)


@needs_espeak
def test_phonemes_are_those_of_espeak():
    assert phonemes("seven") != "seven" and phonemes("knight") == phonemes("night")
    assert phonemes("is it?").endswith("?")
    with pytest.raises(OstinatoError, match="expected a voice"):
        phonemes("a", "--help")
    with pytest.raises(OstinatoError, match="language='xx-none'"):
        phonemes("a", "xx-none")


@needs_espeak
def test_a_network_reads_phonemes(folder):
    model = Speaker(
        pattern="{label}_{speaker}_{take}.wav", steps=2, evaluations=1, symbols="phoneme", **QUICK
    ).fit(folder)
    assert model.inputs_.read("ab") == phonemes("ab")
    assert len(model.speak("ab", seed=0).mel)


def test_without_espeak_there_is_one_line(folder, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    phonemes.cache_clear()
    with pytest.raises(OstinatoError, match="apt-get install espeak-ng"):
        Speaker(pattern="{label}_{take}.wav", symbols="phoneme").fit(folder)


# The command


def test_the_command_speaks(folder, tmp_path, ostinato, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = "--steps 3 --evaluations 1 --hidden-size 8 --batch-size 8 --bands 20"
    pattern = "--pattern {label}_{speaker}_{take}.wav"
    assert ostinato(f"train speak {folder} {pattern} --out voice {small}").status == 0
    result = ostinato("speak voice ab c --out x.wav --speaker low --seed 1 --plot x.png")
    assert result.status == 0 and "samples a second, low" in result.out
    assert Path("x.png").exists()
    samples, _ = soundfile.read("x.wav", dtype="float32")
    expected = load("voice").speak("ab c", speaker="low", seed=1).samples
    np.testing.assert_allclose(samples, expected, atol=1e-4)
    found = json.loads(ostinato("speak voice a --out y.wav --json").out)
    assert found["file"] == "y.wav" and found["rate"] == 8000
    assert "without fault" in ostinato(f"evaluate voice {folder}").out
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw))
    monkeypatch.setattr(sys.stdout, "close", lambda: None, raising=False)
    from ostinato import cli

    with pytest.raises(SystemExit):
        cli.main(["speak", "voice", "ab", "--live", "--seed", "1", "--speaker", "low"])
    assert len(raw.getvalue()) == 2 * len(load("voice").speak("ab", speaker="low", seed=1).samples)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("voice --out x.wav", "TEXT is required"),
        ("voice a", "expected --out FILE, or --live"),
        ("voice a --live --out x.wav", "expected --out FILE, or --live"),
        ("voice a --live --json", "takes neither --plot nor --json"),
        ("voice a --out x.mp3", "ends in .wav"),
        ("voice a --out none/x.wav", "there is no none"),
    ],
)
def test_words_of_the_command_that_do_not_fit_are_one_line(tmp_path, ostinato, monkeypatch, words,
                                                           message):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ostinato.describe", lambda run, **more: {"task": "Speaker"})
    monkeypatch.setattr("ostinato.load", lambda run: 1 / 0)
    assert_refused(ostinato(f"speak {words}"), message)
