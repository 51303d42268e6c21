"""Prepared data: trained from them is trained from memory, whatever was interrupted on the way."""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from functools import partial

import numpy as np
import pytest
import torch
from command_line import assert_refused, write_data
from test_features import sine, write_wav

import ostinato as package
from ostinato.cli import COMMANDS
from ostinato.data import batches, delimited, formats, shards, text
from ostinato.data.archives import Member, members, samples
from ostinato.data.batches import SequenceBatches
from ostinato.data.chunks import corpus_chunks, is_large, pair_chunks
from ostinato.data.corpus import ReadingSettings
from ostinato.data.features import read_sound
from ostinato.data.pairs import PairSettings, read_pairs
from ostinato.data.prefetch import Prefetched
from ostinato.data.ragged import Examples, Ragged
from ostinato.data.reading import read_corpus
from ostinato.data.shards import Work
from ostinato.data.spool import write_chunks
from ostinato.errors import DataError, OstinatoError
from ostinato.tasks.registry import TASKS as TASKS_OF_THE_COMMAND
from ostinato.training.callbacks import Callback
from ostinato.training.progress import Stages

QUICK = {"hidden_size": 4, "steps": 4, "batch_size": 4, "evaluations": 2, "health": False}


@pytest.fixture
def small(monkeypatch):
    """Chunks, shards and stretches so small that little data have several."""
    monkeypatch.setattr(delimited, "CHUNK_ROWS", 7)
    monkeypatch.setattr(formats, "CHUNK_ROWS", 7)
    monkeypatch.setattr(shards, "SHARD", 1 << 7)
    monkeypatch.setattr(shards, "TOGETHER", 2)
    monkeypatch.setattr(shards, "MAPPED", 256)
    monkeypatch.setattr(text, "PIECE_BYTES", 256)
    monkeypatch.setattr(batches, "SHUFFLED", 1 << 9)
    monkeypatch.setattr(batches, "STRETCHES", 3)


@pytest.fixture
def data(tmp_path, monkeypatch):
    write_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def add(archive, name, content):
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def weights(model):
    return {name: each.clone() for name, each in model.network_.state_dict().items()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, each in one.items():
        assert torch.equal(each, other[name]), name


TASKS = {
    "text": ("TextGenerator", ["book.txt"], {"window": 8}),
    "words": ("TextGenerator", ["book.txt"], {"window": 8, "level": "word"}),
    "classify": ("SequenceClassifier", ["reviews.csv"], {"blend": False}),
    "recordings": ("SequenceClassifier", ["recordings"], {"bands": 8}),
    "regress": ("SequenceRegressor", ["sensors.csv"], {"id": "machine", "label": "wear"}),
    "tag": ("SequenceTagger", ["train.conllu"], {"crf": False}),
    "translate": ("Translator", ["train.en", "train.de"], {"level": "word"}),
    "summarize": ("Summarizer", ["papers.jsonl"], {"level": "word"}),
    "transcribe": ("Transcriber", ["recordings"], {"bands": 8}),
    "caption": ("Captioner", ["captions.csv"], {"blocks": 1}),
    "music": ("MusicModel", ["chorales"], {"window": 8}),
    "speak": ("Speaker", ["recordings"], {"bands": 8}),
    "vocode": ("Vocoder", ["recordings"], {"bands": 8}),
}


@pytest.mark.parametrize("name", TASKS)
def test_a_model_is_the_same_trained_from_prepared_data(name, data, small):
    task, files, settings = TASKS[name]
    paths = [data / file for file in files]
    if name == "music" and not paths[0].exists():
        paths = [data / "pieces.mid"]
    make = getattr(package, task)
    expected = make(**QUICK, **settings).fit(paths)
    folder = make(**settings).prepare(paths, out=data / "prepared")
    model = make(**QUICK, **settings).fit(folder, out=data / "run")
    assert_same(weights(model), weights(expected))
    assert model.resolved_ == expected.resolved_
    listed = json.loads((folder / "data" / "shards.json").read_text())
    assert max(len(each["ends"]) for each in listed.values()) > 1


def test_runs_share_the_data(data):
    folder = package.TextGenerator().prepare(data / "book.txt", out=data / "prepared")
    for out in ("one", "other"):
        package.TextGenerator(window=8, **QUICK).fit(folder, out=data / out)
    assert (folder / "data" / "training.npy").stat().st_nlink == 3


# Interrupted


def watch(encoded, write, path, items, *rest):
    """Write shards, and note from which item on."""
    return write(path, lambda n: (encoded.append(n), items(n))[1], *rest)


def test_preparing_goes_on_after_a_kill(data, small, capsys):
    code = """
import os, sys
from pathlib import Path
from ostinato.data import shards, text
text.PIECE_BYTES = 256
shards.SHARD, shards.TOGETHER = 64, 1
from ostinato import SequenceRegressor, TextGenerator
calls = 0
def tell(self, stage, done, total):
    global calls
    calls += stage == "encoding training"
    if calls == 4:
        os._exit(9)
from ostinato.training.progress import Stages
Stages.tell = tell
kind, file, settings = sys.argv[1], Path(sys.argv[2]), eval(sys.argv[3])
dict(r=SequenceRegressor, t=TextGenerator)[kind](**settings).prepare(file, out=Path("prepared"))
"""
    for kind, make, file, settings in (
        ("r", package.SequenceRegressor, "sensors.csv", {"id": "machine", "label": "wear"}),
        ("t", package.TextGenerator, "book.txt", {"level": "word"}),
    ):
        words = [sys.executable, "-c", code, kind, file, repr(settings)]
        assert subprocess.run(words, check=False).returncode == 9
        work = data / "prepared" / "work"
        torn = work / "journal.jsonl"
        torn.write_bytes(torn.read_bytes() + b'{"file": "tor')  # as a loss of power may leave it
        before = len(Work(work).shards("training.inputs.npy" if kind == "r" else "training.npy"))
        assert before == 3
        encoded = []
        watched = partial(watch, encoded, shards.write_shards)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ostinato.data.ragged.write_shards", watched)
            patch.setattr("ostinato.data.batches.write_shards", watched)
            make(**settings).prepare(data / file, out=data / "prepared", progress="lines")
        assert encoded[0] > 0
        assert "goes on where it was interrupted" in capsys.readouterr().out
        make(**settings).prepare(data / file, out=data / "whole")
        for each in sorted((data / "whole" / "data").iterdir()):
            other = data / "prepared" / "data" / each.name
            if each.name == "shards.json":  # a shard may end elsewhere: what it holds is the same
                assert json.loads(each.read_text()).keys() == json.loads(other.read_text()).keys()
            else:
                assert other.read_bytes() == each.read_bytes(), each
        assert not work.exists()
        for folder in ("prepared", "whole"):
            shutil.rmtree(data / folder)


class StopAt(Callback):
    def __init__(self, step):
        self.step = step

    def on_begin(self, run):
        self.run = run

    def on_step(self, record):
        if record["step"] == self.step:
            self.run.stop()


@pytest.mark.parametrize("name", ["text", "recordings"])
def test_a_run_resumes_exactly(name, data, small):
    task, files, settings = TASKS[name]
    make = getattr(package, task)
    folder = make(**settings).prepare(data / files[0], out=data / "prepared")
    quick = {**QUICK, **settings, "steps": 11}
    expected = make(**quick).fit(folder, out=data / "whole")
    make(**quick).fit(folder, out=data / "run", callbacks=[StopAt(5)])
    model = make.resume(data / "run")
    assert_same(weights(model), weights(expected))


# Reused, changed, damaged


def test_what_has_not_changed_is_reused_and_what_has_is_prepared_again(data, capsys):
    make = package.SequenceClassifier(bands=8)

    def prepared():
        make.prepare(data / "recordings", out=data / "prepared", progress="lines")
        return capsys.readouterr().out

    assert prepared() == ""
    before = (data / "prepared" / "prepared.json").stat().st_mtime_ns
    assert "have not changed: reused" in prepared()
    assert (data / "prepared" / "prepared.json").stat().st_mtime_ns == before
    file = data / "recordings" / "no" / "1.wav"
    write_wav(file, sine(500, 8000, 0.2), 8000)
    assert f"{file} has changed: prepared again" in prepared()
    assert "reused" in prepared()
    file.unlink()
    assert f"{file} is gone: prepared again" in prepared()
    write_wav(file.with_name("0.wav"), sine(500, 8000, 0.2), 8000)
    assert "0.wav is new: prepared again" in prepared()
    assert len(Ragged.open(data / "prepared" / "data" / "training.inputs.npy")) == 13


def test_recordings_that_a_table_names_are_looked_at(data, capsys):
    files = sorted((data / "recordings").rglob("*.wav"))
    lines = [f"{file.relative_to(data)},{file.parent.name}" for file in files]
    (data / "table.csv").write_text("\n".join(["file,label", *lines]))
    for expected in ("", "reused", f"{files[3]} has changed"):
        if "changed" in expected:
            os.utime(files[3], ns=(1, 1))
        package.SequenceClassifier(bands=8).prepare(
            data / "table.csv", out=data / "prepared", progress="lines"
        )
        assert expected in capsys.readouterr().out


@pytest.mark.parametrize("name", ["text", "recordings"])
def test_a_damaged_shard_is_named(name, data, small):
    task, files, settings = TASKS[name]
    folder = getattr(package, task)(**settings).prepare(data / files[0], out=data / "prepared")
    file = folder / "data" / ("training.npy" if name == "text" else "training.inputs.npy")
    content = bytearray(file.read_bytes())
    content[128 + 130] ^= 1
    file.write_bytes(content)
    make = getattr(package, task)(**{**QUICK, **settings, "epochs": 1, "steps": None})
    with pytest.raises(DataError, match=rf"{file.name}: is damaged: .* shard 1 of"):
        make.fit(folder, out=data / "run")
    file.write_bytes(content[:-1])
    with pytest.raises(DataError, match=rf"{file.name}: is damaged"):
        make.fit(folder, out=data / "other")


def test_a_damaged_manifest_is_named(data):
    folder = package.TextGenerator().prepare(data / "book.txt", out=data / "prepared")
    file = folder / "prepared.json"
    file.write_bytes(file.read_bytes().replace(b"characters", b"characterz", 1))
    with pytest.raises(OstinatoError, match=r"prepared\.json: damaged"):
        package.TextGenerator(**QUICK).fit(folder)


def test_another_task_and_other_settings_are_refused(data):
    folder = package.TextGenerator(level="word").prepare(data / "book.txt", out=data / "prepared")
    with pytest.raises(OstinatoError, match=r"prepared for TextGenerator; expected Translator"):
        package.Translator(**QUICK).fit(folder)
    with pytest.raises(OstinatoError, match=r"prepared with level='word' \(here 'char'\)"):
        package.TextGenerator(**QUICK).fit(folder)
    with pytest.raises(OstinatoError, match="prepared with level='word'"):
        package.TextGenerator().prepare(data / "book.txt", out=folder)
    with pytest.raises(OstinatoError, match="holds no prepared data"):
        package.TextGenerator().prepare(data / "book.txt", out=data / "recordings")
    (folder / "work").mkdir()
    (folder / "prepared.json").rename(folder / "work" / "request.json")
    for make in (package.TextGenerator, package.SequenceClassifier, package.Forecaster):
        with pytest.raises(OstinatoError, match="were not prepared to the end; repeat the command"):
            make(**QUICK).fit(folder)
    sound = package.SequenceClassifier(bands=8).prepare(data / "recordings", out=data / "sound")
    with pytest.raises(OstinatoError, match="prepared for bidirectional=True"):
        package.SequenceClassifier(bands=8, bidirectional=False, **QUICK).fit(sound)


# Read in chunks


def test_tables_read_in_chunks_are_the_tables(data, small, tmp_path):
    read = read_corpus([data / "reviews.csv"], ReadingSettings())
    frame = formats.read_table(data / "reviews.csv").frame
    frame.to_parquet(data / "reviews.parquet")
    frame.to_json(data / "reviews.jsonl", orient="records", lines=True)
    frame.to_csv(data / "reviews.tsv", sep="\t", index=False)
    for suffix in ("csv", "tsv", "jsonl", "parquet"):
        parts = list(corpus_chunks([data / f"reviews.{suffix}"], ReadingSettings()))
        assert len(parts) == 6
        found = write_chunks(parts, Work(tmp_path / f"work-{suffix}"))
        assert list(found.inputs) == read.inputs and list(found.targets) == read.targets
        if suffix in ("csv", "tsv"):
            assert [p.line for p in found.places] == [p.line for p in read.places]
        assert "text: text; label: label (by its first 7 rows)" in found.notes[0]
    both = [data / "train.en", data / "train.de"]
    expected, parts = read_pairs(both, PairSettings()), list(pair_chunks(both, PairSettings()))
    assert [x for part in parts for x in part.inputs] == expected.inputs
    assert [p for part in parts for p in part.places] == expected.places
    assert len(parts) == 6


def test_a_sequence_may_lie_in_several_chunks(data, small):
    settings = ReadingSettings(id="machine", label="wear")
    expected = read_corpus([data / "sensors.csv"], settings)
    parts = list(corpus_chunks([data / "sensors.csv"], settings))
    rows = [row for part in parts for row in part.inputs]
    assert len(parts) > 3 and len(rows) == len(expected)
    assert all(np.array_equal(a, b) for a, b in zip(rows, expected.inputs, strict=True))
    lines = (data / "sensors.csv").read_text().split("\n")
    (data / "apart.csv").write_text("\n".join([*lines, lines[1]]))
    with pytest.raises(DataError, match=r"apart.csv: line \d+: rows of 'm0' are apart"):
        list(corpus_chunks([data / "apart.csv"], settings))


def test_a_folder_of_tables_is_read_in_chunks_without_being_asked(data):
    folder = data / "tables"
    folder.mkdir()
    lines = (data / "reviews.csv").read_text().split("\n")
    for part in range(4):
        (folder / f"{part}.csv").write_text("\n".join([lines[0], *lines[1 + part :: 4]]))
    assert is_large([folder]) and not is_large([data / "reviews.csv"])
    model = package.SequenceClassifier(blend=False, **QUICK).fit(folder, out=data / "run")
    assert model.training_["sequences"] + model.training_["held_out"] == 40
    assert not (data / "run" / "data" / "work").exists()
    (folder / "3.csv").write_text("text,label\n1,2,3\n")
    with pytest.raises(DataError, match=r"3\.csv: line 2: has 3 cells"):
        package.SequenceClassifier(**QUICK).fit(folder, out=data / "none")
    assert not (data / "none").exists()


# Archives


def test_archives_are_read_where_they_are(data):
    files = sorted((data / "recordings").rglob("*.wav"))
    folder = data / "archives"
    folder.mkdir()
    for k in (0, 1):
        with tarfile.open(folder / f"{k}.tar", "w", format=tarfile.PAX_FORMAT) as archive:
            for file in files[k::2]:
                key = "long/" * 30 + file.stem
                add(archive, f"{key}.wav", file.read_bytes())
                add(archive, f"{key}.cls", file.parent.name.encode() + b"\n")
                add(archive, f"{key}.json", json.dumps({"speaker": "a"}).encode())
    (corpus, _) = parts = list(corpus_chunks([folder], ReadingSettings()))
    assert corpus.notes == ["samples of tar archives; input: wav; label: cls"]
    order = files[0::2] + files[1::2]
    for i, member in enumerate([x for part in parts for x in part.inputs]):
        assert np.array_equal(read_sound(member)[0], read_sound(order[i])[0])
    folder_of = package.SequenceClassifier(bands=8).prepare(folder, out=data / "prepared")
    model = package.SequenceClassifier(bands=8, **QUICK).fit(folder_of)
    assert model.classes_.tolist() == ["no", "yes"]
    spoken = package.Transcriber(bands=8, label="speaker").prepare(folder, out=data / "spoken")
    assert "label: speaker in json" in (spoken / "prepared.json").read_text()
    assert list(data.glob("**/long")) == []  # nothing was unpacked


def test_speech_is_prepared_from_tables_with_speakers(data, small):
    files = sorted((data / "recordings").rglob("*.wav"))
    (data / "clips").mkdir()
    tables = [data / "clips" / f"{k}.csv" for k in (0, 1)]
    for k, table in enumerate(tables):
        rows = [
            f"{file},say {file.parent.name},{'ab'[i % 2]}" for i, file in enumerate(files[k::2])
        ]
        table.write_text("\n".join(["path,sentence,who", *rows]))
    settings = {"bands": 8, "speaker": "who"}
    expected = package.Speaker(**QUICK, **settings).fit(tables)
    folder = package.Speaker(**settings).prepare(data / "clips", out=data / "prepared")
    model = package.Speaker(**QUICK, **settings).fit(folder)
    assert model.speakers_ == ["a", "b"]
    assert_same(weights(model), weights(expected))
    with pytest.raises(OstinatoError, match="guided_epochs=20"):
        package.Speaker(**QUICK, **settings, guided_epochs=3).fit(folder)
    files[0].write_bytes(files[1].read_bytes() + b"\0\0")  # which a table names
    told = []
    Stages.say, say = lambda self, line: told.append(line), Stages.say
    try:
        package.Speaker(**settings).prepare(data / "clips", out=data / "prepared")
    finally:
        Stages.say = say
    assert told == [f"{data / 'prepared'}: {files[0]} has changed: prepared again"]


def test_speech_is_prepared_from_archives(data, small):
    files = sorted((data / "recordings").rglob("*.wav"))
    with tarfile.open(data / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for file in files:
            add(archive, f"{file.stem}.wav", file.read_bytes())
            add(archive, f"{file.stem}.txt", file.parent.name.encode() + b"\n")
    texts = [file.parent.name for file in files]
    for name, targets in (("Speaker", (texts,)), ("Vocoder", ())):
        make = getattr(package, name)
        expected = make(bands=8, **QUICK).fit(files, *targets)
        folder = make(bands=8).prepare(data / "a.tar", out=data / name)
        assert_same(weights(make(bands=8, **QUICK).fit(folder)), weights(expected))
    with pytest.raises(DataError, match="whose samples have no speakers"):
        package.Speaker(speaker="who").prepare(data / "a.tar", out=data / "other")
    with pytest.raises(DataError, match="expected recordings"):
        package.Vocoder().prepare(data / "reviews.csv", out=data / "other")


def hostile(kind, archive):
    if kind == "outside":
        add(archive, "../../outside.wav", b"x")
        add(archive, "/etc/outside.cls", b"x")
    elif kind in ("link", "device"):
        entry = tarfile.TarInfo("a.wav")
        entry.type = tarfile.SYMTYPE if kind == "link" else tarfile.CHRTYPE
        entry.linkname = "/etc/passwd"
        archive.addfile(entry)
    elif kind == "size":
        entry = tarfile.TarInfo("a.wav")
        entry.size = 1 << 40
        archive.addfile(entry)
    elif kind == "head":
        entry = tarfile.TarInfo("a.wav")
        entry.pax_headers = {"comment": "x" * (1 << 21)}
        archive.addfile(entry)
    elif kind == "twice":
        add(archive, "a.cls", b"x")
        add(archive, "a.cls", b"y")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("outside", "not clear"),
        ("link", "is no plain file"),
        ("device", "is no plain file"),
        ("size", "ends within"),
        ("head", "head of"),
        ("twice", "two files"),
        ("empty", "holds no files"),
    ],
)
def test_hostile_archives_do_no_harm(kind, words, tmp_path):
    path = tmp_path / "bad.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        hostile(kind, archive)
    with pytest.raises(DataError, match=words):
        list(corpus_chunks([path], ReadingSettings()))
    assert [each.name for each in tmp_path.iterdir()] == ["bad.tar"]


def test_an_archive_that_ends_early_or_is_compressed_is_refused(tmp_path):
    path = tmp_path / "cut.tar"
    with tarfile.open(path, "w") as archive:
        add(archive, "a.txt", b"x" * 2000)
        add(archive, "b.txt", b"y" * 2000)
    assert [sample["txt"].read()[:1] for sample in samples(path)] == [b"x", b"y"]
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(DataError, match=r"cut\.tar: "):
        list(members(path))
    (tmp_path / "a.tar.gz").write_bytes(b"")
    with pytest.raises(DataError, match="is compressed"):
        list(members(tmp_path / "a.tar.gz"))
    with pytest.raises(DataError, match="ends within"):
        Member(str(path), "a.txt", 3999, 10).read()


def test_texts_of_tables_train_a_language_model(data):
    rows = [{"text": f"line {i} of many", "n": i} for i in range(200)]
    (data / "lines.jsonl").write_text("\n".join(map(json.dumps, rows)))
    model = package.TextGenerator(window=8, **QUICK).fit(data / "lines.jsonl")
    assert "".join(model.vocabulary_.characters) == "".join(
        sorted(set("line of many 0123456789\n"))
    )


# Batches


def many(N, rng):
    lengths = rng.integers(1, 30, N)
    inputs = Ragged.of([np.full((n, 1), i, "f4") for i, n in enumerate(lengths)])
    return Examples(inputs, np.arange(N))


def test_stretches_are_shuffled_and_every_row_comes_once(small):
    rng = np.random.default_rng(0)
    found = SequenceBatches(many(200, rng), 8, seed=3)
    assert len(found._stretches) > 20
    epochs = [[found.next_batch() for _ in range(found.windows)] for _ in range(3)]
    orders = [[int(t) for batch in epoch for t in batch.targets] for epoch in epochs]
    for epoch, order in zip(epochs, orders, strict=True):
        assert sorted(order) == list(range(200))
        assert [len(batch.targets) for batch in epoch].count(8) == 25
        for batch in epoch:
            assert (batch.inputs.max(1).values.flatten() == batch.targets).all()
    assert orders[0] != orders[1] != orders[2] != sorted(orders[2])
    assert np.abs(np.corrcoef(orders[0], range(200))[0, 1]) < 0.5


@pytest.mark.parametrize("window", [None, 5])
def test_any_position_of_stretches_is_gone_back_to(window, small):
    rng = np.random.default_rng(1)
    examples = many(60, rng)
    if window:
        examples = examples._replace(targets=examples.inputs)
    found = SequenceBatches(examples, 4, window=window, seed=5)
    states, expected = [], []
    for _ in range(2 * found.windows + 3):
        states.append(found.state_dict())
        expected.append(found.next_batch())
    for i in rng.permutation(len(states)).tolist():
        again = SequenceBatches(examples, 4, window=window, seed=5)
        again.load_state_dict(states[i])
        for batch in expected[i : i + 2]:
            one = again.next_batch()
            assert torch.equal(one.inputs, batch.inputs) and torch.equal(one.targets, batch.targets)


def test_batches_read_ahead_are_the_batches():
    examples = many(50, np.random.default_rng(2))
    plain, ahead = (SequenceBatches(examples, 8, seed=1) for _ in range(2))
    ahead = Prefetched(ahead, lambda batch: batch._replace(epoch=-batch.epoch))
    for step in range(20):
        one, other = plain.next_batch(), ahead.next_batch()
        assert torch.equal(one.inputs, other.inputs) and one.epoch == -other.epoch
        assert plain.state_dict() == ahead.state_dict()
        if step % 7 == 0:
            state = ahead.state_dict()
            ahead.load_state_dict(state)
            assert ahead.state_dict() == state
    ahead.close()


def test_an_error_of_who_reads_ahead_is_raised_where_batches_are_taken():
    class Broken(SequenceBatches):
        def next_batch(self):
            if self._next == 2:
                raise DataError("is damaged.", path="a.npy")
            return super().next_batch()

    ahead = Prefetched(Broken(many(50, np.random.default_rng(2)), 8))
    for _ in range(2):
        ahead.next_batch()
    with pytest.raises(DataError, match=r"a\.npy: is damaged"):
        ahead.next_batch()


# The command


@pytest.mark.parametrize("task", TASKS_OF_THE_COMMAND, ids=lambda task: task.command)
def test_the_command_has_the_settings_that_shape_data(task):
    kind = getattr(package, task.estimator)
    trains, prepares = (
        {option.name for option in COMMANDS[f"{name} {task.command}"].options()}
        for name in ("train", "prepare")
    )
    assert {*kind()._data_settings()} & trains <= prepares


def test_the_command_prepares_and_trains(data, ostinato):
    done = ostinato("prepare classify reviews.csv --out prepared --min-count 1")
    assert done.status == 0, done
    assert "text: text; label: label" in done.out
    assert "Next:      ostinato train classify prepared --out run" in done.out
    assert "reused" in ostinato("prepare classify reviews.csv --out prepared --min-count 1").out
    plan = ostinato("train classify prepared --hidden-size 4 --steps 3 --dry-run")
    assert plan.status == 0 and "32 texts" in plan.out, plan
    done = ostinato("train classify prepared --out run --hidden-size 4 --steps 3")
    assert done.status == 0, done
    assert json.loads((data / "run" / "config.json").read_text())["parameters"]["min_count"] == 1
    assert_refused(ostinato("train translate prepared --out other"), "prepared for Sequence")
    assert_refused(ostinato("train classify prepared --out other --min-count 3"), "min_count=1")
    assert_refused(ostinato("prepare classify reviews.csv --out prepared"), "min_count=1")
    assert ostinato("prepare forecast sales.csv --out series").status == 0
    found = ostinato("prepare text book.txt --out text --json").out.splitlines()
    assert json.loads(found[-1])["facts"]["vocabulary"] > 5
    assert "classify" in ostinato("--complete", "prepare", "cl").out
    assert "--level" in ostinato("--complete", "prepare", "text", "--le").out
    assert "ostinato prepare classify reviews.csv" in ostinato("prepare reviews.csv").out
