"""A run that is stopped, or killed at any moment, goes on as if it had never stopped."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from dying import calls_of, die_at, quickly
from kill_and_resume import SETTINGS, differences, make_text, result
from small_runs import output_of

import ostinato
from ostinato import SequenceClassifier, TextGenerator
from ostinato.errors import OstinatoError
from ostinato.training import storage
from ostinato.training.callbacks import MetricsFile, read_metrics
from ostinato.training.loop import Trainer
from ostinato.training.runs import RunFolder
from ostinato.training.storage import DamagedError

THOROUGH, SLOW = pytest.mark.thorough, pytest.mark.slow
QUICK: dict[str, Any] = {**SETTINGS, "steps": 8, "evaluations": 2}


def fit(out: Path | None) -> TextGenerator:
    return TextGenerator(**QUICK).fit(make_text(), out=out)


@pytest.fixture(autouse=True)
def spared_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here loses power: the disk need not be waited for."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    out = tmp_path_factory.mktemp("whole") / "run"
    fit(out)
    return out


def interrupted_at(step: int, number: int = signal.SIGINT) -> Any:
    """A patch under which the process is interrupted right after a step."""
    real = MetricsFile.on_step

    def record(self: MetricsFile, record: dict[str, Any]) -> None:
        real(self, record)
        if record["step"] == step:
            os.kill(os.getpid(), number)

    patch = pytest.MonkeyPatch()
    patch.setattr(MetricsFile, "on_step", record)
    return patch


# Stopped.


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [1, 4, 7])
def test_an_interrupted_run_goes_on(tmp_path: Path, whole: Path, step: int, number: int) -> None:
    out = tmp_path / "run"
    patch = interrupted_at(step, number)
    try:
        model = fit(out)
    finally:
        patch.undo()
    assert model.training_["ended"] == "interrupt"
    assert model.training_["steps"] == step
    if step < 4:
        with pytest.raises(OstinatoError, match=r"no finished model .* resume it with --resume"):
            TextGenerator.load(out)
        assert not ostinato.describe(out)["finished"]
    model = TextGenerator.resume(out)
    assert model.training_["ended"] == "budget"
    assert differences(result(out), result(whole)) == []
    assert result(out)["steps"] == list(range(1, 9))


def test_a_run_that_is_over_stays_as_it_is_when_resumed(tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    model = TextGenerator.resume(out)
    assert differences(result(out), result(whole)) == []
    seed = {"seed": 3, "length": 40, "temperature": 0.5}
    assert model.generate(**seed) == TextGenerator.load(whole).generate(**seed)


def test_a_run_keeps_its_settings(tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    before = result(out)
    with pytest.raises(OstinatoError, match=r"steps=9 \(started with 8\)"):
        TextGenerator.resume(out, steps=9, dropout=0.2)
    with pytest.raises(OstinatoError, match="already holds a run; resume it"):
        fit(out)
    assert differences(result(out), before) == []


def test_a_run_is_trained_by_one_process_or_thread_at_a_time(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, ostinato: Any
) -> None:
    """And by another as soon as that is killed."""
    out, busy = tmp_path / "run", "is being trained by another process or thread"
    shutil.copytree(whole, out)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        with RunFolder.reopen(out).trained_by_one():
            os.write(writing, b"now")
            signal.pause()
    os.read(reading, 3)
    before = result(out)
    with pytest.raises(OstinatoError, match=busy):
        TextGenerator.resume(out)
    refused = ostinato(f"train text --resume --out {out}")
    assert refused.status == 2 and busy in refused.err and refused.err.count("\n") == 1
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    TextGenerator.resume(out)
    assert differences(result(out), before) == []

    def evaluate(trainer: Trainer) -> None:
        with pytest.raises(OstinatoError, match=busy):
            TextGenerator.resume(tmp_path / "new")
        refused.append(busy)

    refused = []
    monkeypatch.setattr(Trainer, "evaluate", evaluate)
    fit(tmp_path / "new")
    assert refused


def test_of_two_runs_into_one_folder_the_slower_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"

    def prepare(data: Path) -> dict[str, Any]:
        other = threading.Thread(target=fit, args=(out,))
        other.start()
        other.join()
        return {}

    with pytest.raises(OstinatoError, match="run: already holds a run; resume it"):
        RunFolder.create(out, prepare)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    TextGenerator.resume(out)


def test_a_run_goes_on_where_files_cannot_be_locked(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    shutil.copytree(whole, tmp_path / "run")
    TextGenerator.resume(tmp_path / "run")


def test_a_run_whose_parts_do_not_fit_together_is_refused(tmp_path: Path, whole: Path) -> None:
    """The checksums are right: whoever makes such a folder can make them, too."""
    for part in ("facts", "documents", "parameters", "state"):
        out = tmp_path / part
        shutil.copytree(whole, out)
        document = json.loads((out / "run.json").read_bytes())
        if part == "state":
            for folder in (out / "checkpoints").iterdir():
                files = storage.read_files(folder)
                storage.write_files(folder, files | {"state.json": b'{"dict": []}'})
        document[part] = {"steps": "many", "vocabulary.json": [1]}
        text = json.dumps(document).encode()
        (out / "run.json").write_bytes(text)
        (out / "run.json.sha256").write_text(f"{storage.sha256(text)}  run.json\n")
        with pytest.raises(OstinatoError):
            TextGenerator.resume(out)


def test_where_there_is_no_run_there_is_none_to_go_on_with(tmp_path: Path) -> None:
    for out in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(OstinatoError, match="there is no run to resume"):
            TextGenerator.resume(out)
    assert not list(tmp_path.iterdir())


def test_a_changed_description_or_changed_data_are_not_gone_on_with(
    tmp_path: Path, whole: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    description = (out / "run.json").read_text()
    (out / "run.json").write_text(description.replace('"steps": 8', '"steps": 9'))
    with pytest.raises(DamagedError, match=r"run\.json: damaged"):
        TextGenerator.resume(out)
    (out / "run.json").write_text(description)
    os.truncate(out / "data" / "training.npy", 200)
    with pytest.raises(OstinatoError, match=r"training\.npy: damaged: its SHA-256"):
        TextGenerator.resume(out)


def test_data_that_are_damaged_or_missing_are_neither_trained_on_nor_looked_into(
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    texts = [f"{word} day" for word in ("good", "bad")] * 20
    SequenceClassifier(hidden_size=4, steps=4, evaluations=1).fit(texts, ["+", "-"] * 20, out=out)
    model = ostinato.load(out)
    model.validation_examples(out / "data")
    names = sorted(file.name for file in (out / "data").iterdir())
    assert {"training.targets.npy", "validation.inputs.npy", "training.words.npy"} <= {*names}
    for name in names:
        file = out / "data" / name
        whole = file.read_bytes()
        flipped = bytes([*whole[:-1], whole[-1] ^ 1])
        for damaged in (flipped, whole[: len(whole) // 2], b"", whole + b"\0", None):
            if damaged is None:
                file.unlink()
            else:
                file.write_bytes(damaged)
            reason = "No such file" if damaged is None else "its SHA-256 is not the one in run.json"
            for use in (SequenceClassifier.resume, lambda out: ostinato.diagnose(model)):
                with pytest.raises(DamagedError, match=rf"{name}: .*{reason}"):
                    use(out)
        file.write_bytes(whole)
    SequenceClassifier.resume(out)


def test_a_damaged_description_is_found_wherever_the_bit_is(tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    for name in ("run.json", "run.json.sha256"):
        data = (out / name).read_bytes()
        for at in range(0, len(data), 1 if len(data) < 100 else 37):
            for bit in (1, 128):
                damaged = bytearray(data)
                damaged[at] ^= bit
                (out / name).write_bytes(damaged)
                with pytest.raises(DamagedError, match=r"run\.json: damaged"):
                    TextGenerator.resume(out)
        (out / name).write_bytes(data)


def test_damaged_records_are_not_gone_on_with(tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "run"
    patch = interrupted_at(6)
    try:
        fit(out)
    finally:
        patch.undo()
    file = out / "metrics.jsonl"
    data = file.read_bytes()
    at = data.index(b'"loss": ') + 8
    for damaged in (
        data[:at] + b"9" + data[at + 1 :],
        data[:at] + b"\xb9" + data[at + 1 :],
        data[:99],
    ):
        file.write_bytes(damaged)
        for use in (TextGenerator.resume, lambda out: read_metrics(file)):
            with pytest.raises(DamagedError, match=r"metrics\.jsonl: damaged: its SHA-256"):
                use(out)
    # What a killed process wrote after the last checkpoint is no damage.
    file.write_bytes(data + b'{"step": 7, "loss": 1.0}\n{"ste')
    assert len(read_metrics(file)) == len(data.splitlines()) + 1
    TextGenerator.resume(out)
    assert differences(result(out), result(whole)) == []
    file.unlink()
    (out / "metrics.jsonl.sha256").unlink()
    TextGenerator.resume(out)


def test_a_full_disk_is_named_with_the_file(tmp_path: Path) -> None:
    """Of every file that training writes, from the first to the last."""

    def full(descriptor: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(28, "No space left on device")

    places = set()
    for begin in range(0, 40):
        left = begin
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", full)
            patch.setattr(RunFolder, "draw", lambda self, unit: None)
            with pytest.raises(OstinatoError, match=r": cannot be written: No space left") as error:
                fit(tmp_path / f"run {begin}")
        assert f"run {begin}" in str(error.value)
        places.add(Path(str(error.value).split(": cannot")[0]).name)
    assert {"run.json", "metrics.jsonl", "training.npy", "state.json"} <= places
    left = 0
    model = fit(None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OstinatoError, match=r"model/config\.json: cannot be written: No space"):
            model.save(tmp_path / "model")
    (tmp_path / "file").write_text("")
    with pytest.raises(OstinatoError, match=r"file.*: cannot be written: (Not a dir|File exists)"):
        model.save(tmp_path / "file")


@pytest.mark.parametrize(
    "count",
    [pytest.param(100, marks=pytest.mark.thorough), pytest.param(10_000, marks=pytest.mark.slow)],
)
def test_no_flipped_bit_goes_unnoticed(tmp_path: Path, count: int) -> None:
    lines = output_of("flipped_bits.py", tmp_path, count, 17)
    assert sum(lines[-1].values()) == count
    assert {*lines[-1]} <= {"noticed", "without effect"}, lines
    assert lines[-1]["noticed"] > count // 2


def test_a_damaged_checkpoint_costs_its_steps_and_no_more(tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "run"
    patch = interrupted_at(6)
    try:
        fit(out)
    finally:
        patch.undo()
    newest = max((out / "checkpoints").iterdir())
    os.truncate(newest / "tensors.safetensors", 1000)
    with pytest.warns(UserWarning, match="Trying an older checkpoint"):
        TextGenerator.resume(out)
    assert differences(result(out), result(whole)) == []


# Killed.


def test_a_death_of_the_disk_at_any_call_costs_nothing(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `kill_and_resume` does to processes, at calls spread over a run from end to end."""
    monkeypatch.setattr(RunFolder, "draw", lambda self, unit: None)
    count = len(calls_of(lambda: fit(tmp_path / "counted")))
    assert count > 200
    for k in [1, 8, 12, 20, 30, *range(60, count - 10, count // 5), count - 5, count]:
        out = tmp_path / f"died at {k}"
        die_at(k, lambda out=out: fit(out))
        if out.exists():
            quickly(lambda out=out: TextGenerator.resume(out))
        else:
            with pytest.raises(OstinatoError, match="there is no run to resume"):
                TextGenerator.resume(out)
            quickly(lambda out=out: fit(out))
        assert differences(result(out), result(whole)) == [], f"died at call {k} of {count}"


@pytest.mark.parametrize(
    "count",
    [pytest.param(20, marks=pytest.mark.thorough), pytest.param(50, marks=pytest.mark.slow)],
)
def test_killed_runs_end_as_the_run_that_nobody_killed(tmp_path: Path, count: int) -> None:
    """Runs killed with SIGKILL, three in five of them while they save, and every other one twice.

    Those that are killed after so many seconds may have come to their end before.
    """
    trials = output_of("kill_and_resume.py", tmp_path, count)
    assert len(trials) == count
    assert [trial for trial in trials if trial["differs"]] == []
    inside = [trial for trial in trials if trial["killed"] and " in " in trial["killed"][0]]
    assert len(inside) == 6 * count // 10


def test_what_a_killed_process_left_unfinished_is_cleared_away(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    alive = tmp_path / f".run.{os.getppid()}.unfinished"
    for folder in (tmp_path / f".run.{dead.pid}.unfinished", alive):
        (folder / "data").mkdir(parents=True)
    RunFolder.create(tmp_path / "run", lambda data: {})
    assert sorted(path.name for path in tmp_path.iterdir()) == [alive.name, "run"]
