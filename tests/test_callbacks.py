"""`ostinato.training.callbacks`: every step is recorded once."""

from __future__ import annotations

import builtins
import importlib
import json
import math
import os
import signal
import struct
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from learning import Witness, trainer

from ostinato.errors import MissingExtra
from ostinato.training.callbacks import (
    MetricsFile,
    TensorBoard,
    TrainingResult,
)
from ostinato.training.pictures import draw_learning_curve
from ostinato.training.runs import RunFolder


@pytest.fixture(autouse=True)
def spared_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here loses power: the disk need not be waited for."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def run_at(step: int, total: int | None = 10) -> Any:
    """What a callback may know of a run."""
    return SimpleNamespace(
        title="small",
        step=step,
        total=total,
        tokens=100 * step,
        seconds=0.5 * step,
        time_limit=None,
        objective=SimpleNamespace(
            units=lambda loss: {"bits_per_character": loss / math.log(2)},
            step_name="tok",
            loss_unit="nats",
        ),
    )


def record(step: int, loss: float = 1.0) -> dict[str, Any]:
    numbers = {"learning_rate": 0.01, "gradient_norm": 0.5, "tokens": 7 * step, "seconds": 0.1}
    return {"step": step, "loss": loss, **numbers}


def evaluation(step: int, loss: float = 2.0, best: bool = True) -> dict[str, Any]:
    units = {"bits_per_character": loss / math.log(2)}
    return {"step": step, "validation_loss": loss, **units, "best": best, "seconds": 0.1}


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def steps_of(path: Path) -> list[int]:
    return [line["step"] for line in lines_of(path) if "loss" in line]


# The metrics file.


def written(path: Path, first: int, last: int, evaluated: tuple[int, ...] = ()) -> MetricsFile:
    """A file that a run at step ``first - 1`` began and went on with to ``last``."""
    file = MetricsFile(path)
    file.on_begin(run_at(first - 1))
    for step in range(first, last + 1):
        file.on_step(record(step))
        if step in evaluated:
            file.on_validation(evaluation(step), "é\n水")
    return file


def test_a_metrics_file_holds_every_record(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    written(path, 1, 3, (2,)).close()
    assert lines_of(path) == [
        record(1),
        record(2),
        evaluation(2) | {"sample": "é\n水"},
        record(3),
    ]
    assert "水" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("at", range(7))
def test_going_on_drops_what_comes_after_the_checkpoint(tmp_path: Path, at: int) -> None:
    path = tmp_path / "metrics.jsonl"
    written(path, 1, 6, (3, 6)).close()
    whole = lines_of(path)
    written(path, at + 1, 6, (3, 6)).close()
    assert lines_of(path) == whole


def test_half_a_line_is_dropped_wherever_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    written(path, 1, 3, (2,)).close()
    data = path.read_bytes()
    for length in range(len(data) + 1):
        path.write_bytes(data[:length])
        complete = data[:length].count(b"\n")
        # The checkpoint is of the last step whose line is whole.
        at = max((line["step"] for line in lines_of_bytes(data[:length], complete)), default=0)
        file = MetricsFile(path)
        file.on_begin(run_at(at))
        file.close()
        assert lines_of(path) == lines_of_bytes(data, complete), length


def lines_of_bytes(data: bytes, count: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines()[:count]]


@pytest.mark.parametrize("rubbish", [b"\0\0\0\n", b"[]\n", b"{}\n", b"\xff\n", b'{"step": "a"}\n'])
def test_rubbish_is_dropped_with_what_follows_it(tmp_path: Path, rubbish: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    written(path, 1, 2).close()
    path.write_bytes(path.read_bytes() + rubbish + b'{"step": 2}\n')
    written(path, 3, 3).close()
    assert steps_of(path) == [1, 2, 3]


def test_a_file_of_another_run_gives_way_to_one_that_begins(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\nold\n')
    written(path, 1, 2).close()
    assert [line["step"] for line in lines_of(path)] == [1, 2]


def test_records_reach_the_disk_before_a_checkpoint_does(tmp_path: Path) -> None:
    """A process killed right after a checkpoint has left the record of every step before it."""
    path = tmp_path / "metrics.jsonl"
    seen: list[tuple[int, list[int]]] = []
    ours = trainer(None, MetricsFile(path), steps=6, checkpoint_minutes=1e-9, folder=tmp_path / "c")
    save = ours.checkpoints.save

    def look(tree: Any) -> None:
        seen.append((tree["step"], steps_of(path)))
        save(tree)

    ours.checkpoints.save = look  # type: ignore[method-assign]
    ours.run()
    assert len(seen) == 8
    assert all(steps == list(range(1, step + 1)) for step, steps in seen)


def test_records_are_on_disk_within_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.jsonl"
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    file = written(path, 1, 1)
    file.on_step(record(2))
    now[0] += 1.1
    file.on_step(record(3))
    assert steps_of(path) == [1, 2, 3]
    file.close()


def test_every_step_is_recorded_once_whatever_happened(tmp_path: Path) -> None:
    """Interrupted twice, resumed, and rolled back once in between."""
    path = tmp_path / "metrics.jsonl"

    def run(at: dict[int, Any], resume: bool) -> list[dict[str, Any]]:
        witness = Witness(at)
        ours = trainer(
            None, witness, MetricsFile(path), folder=tmp_path / "c", steps=20, validate=lambda: 1.0,
            evaluations=4, on_nonfinite="rollback",
        )  # fmt: skip

        def spoil() -> None:
            if not ours.rollbacks:
                ours.parameters[0].data.fill_(math.nan)

        witness.at = {key: spoil if at == "spoil" else at for key, at in witness.at.items()}
        ours.run(resume=resume)
        return witness.records

    def interrupt() -> None:
        signal.raise_signal(signal.SIGINT)

    first = run({7: interrupt}, resume=False)
    second = run({13: "spoil", 15: interrupt}, resume=True)
    third = run({}, resume=True)
    assert [r["learning_rate"] for r in second] != [r["learning_rate"] for r in first]
    found = lines_of(path)
    assert [r for r in found if "loss" in r] == first + second + third
    assert steps_of(path) == list(range(1, 21))
    assert [r["step"] for r in found if "loss" not in r] == [5, 10, 15, 20]


def test_numbers_that_are_not_finite_are_null(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    file = written(path, 1, 1)
    file.on_validation(evaluation(1, math.nan), None)
    file.on_validation(evaluation(1, math.inf), None)
    file.close()
    assert "NaN" not in path.read_text() and "Infinity" not in path.read_text()
    assert [r["validation_loss"] for r in lines_of(path)[1:]] == [None, None]


def test_closing_before_the_beginning_is_no_mistake(tmp_path: Path) -> None:
    MetricsFile(tmp_path / "metrics.jsonl").close()
    board = TensorBoard(tmp_path / "tensorboard")
    board.on_checkpoint()
    board.close()
    assert not list(tmp_path.iterdir())


RESULT = TrainingResult("patience", 12, math.inf, 0, 3.5)


# TensorBoard.


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    reader = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def test_tensorboard_finds_every_point_once(tmp_path: Path) -> None:
    folder = tmp_path / "tensorboard"
    for at, last in [(0, 6), (4, 8)]:  # killed after step 6, with a checkpoint at 4
        board = TensorBoard(folder)
        board.on_begin(run_at(at))
        for step in range(at + 1, last + 1):
            board.on_step(record(step, loss=step / 2))
        board.on_validation(evaluation(last), "sample")
        board.on_checkpoint()
        board.on_end(RESULT)
        board.close()
    files = list(folder.iterdir())
    assert len(files) == 2 and all(f.name.startswith("events.out.tfevents") for f in files)
    found = scalars(folder)
    assert found["training/loss"] == [(step, step / 2) for step in range(1, 9)]
    assert [step for step, _ in found["training/learning_rate"]] == list(range(1, 9))
    assert found["validation_loss"] == [(8, 2.0)]
    assert "best" not in found


def test_tensorboard_forgets_what_was_rolled_back(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path)
    board.on_begin(run_at(0))
    for step in range(1, 6):
        board.on_step(record(step, loss=1.0))
    board.on_rollback(run_at(2))
    for step in range(3, 6):
        board.on_step(record(step, loss=2.0))
    board.close()
    assert scalars(tmp_path)["training/loss"] == list(
        zip(range(1, 6), [1, 1, 2, 2, 2], strict=True)
    )


def test_a_run_folder_has_the_callbacks_asked_for(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, {})
    assert [type(callback) for callback in run.callbacks(tensorboard=False)] == [MetricsFile]
    assert [type(w) for w in run.callbacks(tensorboard=True)] == [MetricsFile, TensorBoard]


# The learning curve.


def assert_is_picture(path: Path) -> None:
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and data[-8:-4] == b"IEND"
    width, height = struct.unpack(">II", data[16:24])
    assert width > 600 and height > 300
    path.unlink()


@pytest.mark.parametrize("count", [0, 1, 2, 300])
@pytest.mark.parametrize("evaluations", [[], [2.0], [3.0, 1.0, 1.5], [math.nan, 2.0, math.inf]])
def test_a_learning_curve_is_a_picture(
    tmp_path: Path, count: int, evaluations: list[float]
) -> None:
    metrics, picture = tmp_path / "metrics.jsonl", tmp_path / "curve.png"
    file = MetricsFile(metrics)
    file.on_begin(run_at(0))
    for step in range(1, count + 1):
        file.on_step(record(step, loss=3 / step))
    for k, loss in enumerate(evaluations):
        file.on_validation(evaluation(10 * k + 1, loss), None)
    file.on_validation({"step": 5, "training_loss": 1.0, "best": True, "seconds": 0.1}, None)
    file.close()
    draw_learning_curve(metrics, picture)
    assert_is_picture(picture)


# What is not installed.


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__
    names = ("matplotlib", "tensorboard")

    def imports(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] in names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args, **kwargs)

    for name in [*sys.modules]:
        if name.split(".")[0] in names or name.startswith("torch.utils.tensorboard"):
            monkeypatch.delitem(sys.modules, name)
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(builtins, "__import__", imports)


@pytest.mark.usefixtures("nothing_installed")
def test_a_missing_extra_is_one_line_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(MissingExtra) as caught:
        TensorBoard(tmp_path / "tensorboard")
    assert str(caught.value) == (
        "TensorBoard logging needs tensorboard: pip install 'ostinato[tensorboard]'"
    )
    (tmp_path / "metrics.jsonl").write_text("")
    words = "a learning curve needs matplotlib: pip install 'ostinato[plots]'"
    with pytest.raises(MissingExtra) as caught:
        draw_learning_curve(tmp_path / "metrics.jsonl", tmp_path / "learning_curve.png")
    assert str(caught.value) == words
    assert RunFolder(tmp_path, {}).draw("nats") == words
    assert os.listdir(tmp_path) == ["metrics.jsonl"]
