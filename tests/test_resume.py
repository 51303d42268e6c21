"""A run that is stopped, or killed at any moment, goes on as if it had never stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dying import calls_of, die_at, quickly
from kill_and_resume import SETTINGS, differences, make_text, result

import ostinato
from ostinato import TextGenerator
from ostinato.errors import OstinatoError
from ostinato.training.callbacks import MetricsFile
from ostinato.training.runs import RunFolder
from ostinato.training.storage import DamagedError

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


@pytest.mark.thorough
def test_killed_runs_end_as_the_run_that_nobody_killed(tmp_path: Path) -> None:
    """Twenty runs killed with SIGKILL, twelve of them while they save, and ten killed twice.

    Those that are killed after so many seconds may have come to their end before.
    """
    script = Path(__file__).with_name("kill_and_resume.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), "20"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    trials = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(trials) == 20
    assert [trial for trial in trials if trial["differs"]] == []
    inside = [trial for trial in trials if trial["killed"] and " in " in trial["killed"][0]]
    assert len(inside) == 12


def test_what_a_killed_process_left_unfinished_is_cleared_away(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    alive = tmp_path / f".run.{os.getppid()}.unfinished"
    for folder in (tmp_path / f".run.{dead.pid}.unfinished", alive):
        (folder / "data").mkdir(parents=True)
    RunFolder.create(tmp_path / "run", lambda data: {})
    assert sorted(path.name for path in tmp_path.iterdir()) == [alive.name, "run"]
