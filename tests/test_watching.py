"""`ostinato.training.watching`: every step is recorded once, and shown on any terminal."""

from __future__ import annotations

import builtins
import importlib
import json
import logging
import math
import os
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from learning import Witness, trainer

from ostinato.errors import MissingExtra
from ostinato.training.pictures import draw_learning_curve
from ostinato.training.runs import RunFolder
from ostinato.training.watching import (
    Bar,
    JSONLines,
    Lines,
    MetricsFile,
    Outcome,
    Quiet,
    TensorBoard,
    make_progress,
)


@pytest.fixture(autouse=True)
def spared_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here loses power: the disk need not be waited for."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def run_at(step: int, total: int | None = 10) -> Any:
    """What a watcher may know of a run."""
    return SimpleNamespace(
        title="small",
        step=step,
        total=total,
        tokens=100 * step,
        seconds=0.5 * step,
        units=lambda loss: {"bits_per_character": loss / math.log(2)},
        counted="tok",
        loss_unit="nats",
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
    file.begin(run_at(first - 1))
    for step in range(first, last + 1):
        file.step(record(step))
        if step in evaluated:
            file.evaluation(evaluation(step), "é\n水")
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
        file.begin(run_at(at))
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
    file.step(record(2))
    now[0] += 1.1
    file.step(record(3))
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
    file.evaluation(evaluation(1, math.nan), None)
    file.evaluation(evaluation(1, math.inf), None)
    file.close()
    assert "NaN" not in path.read_text() and "Infinity" not in path.read_text()
    assert [r["validation_loss"] for r in lines_of(path)[1:]] == [None, None]


def test_closing_before_the_beginning_is_no_mistake(tmp_path: Path) -> None:
    MetricsFile(tmp_path / "metrics.jsonl").close()
    board = TensorBoard(tmp_path / "tensorboard")
    board.saving()
    board.close()
    assert not list(tmp_path.iterdir())


# Lines.

OUTCOME = Outcome("patience", 12, math.inf, 0, 3.5)


def tell(watcher: Any) -> None:
    watcher.begin(run_at(0))
    watcher.step(record(1))
    watcher.evaluation(evaluation(1200, 1.5), "one\n\ttwo \x1b[2J\x9b\x7f é水")
    watcher.evaluation({"step": 2, "training_loss": 0.25, "best": False, "seconds": 1.0}, None)
    watcher.say("step 3: something")
    watcher.evaluation(evaluation(4, math.nan, best=False), "")
    watcher.end(OUTCOME)
    watcher.close()


def test_lines_are_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    tell(Lines())
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        "small",
        "step 1,200 · validation 1.500 nats, 2.164 bits a character · best so far",
        "  │ one",
        "  │ \ttwo ␛[2J\ufffd\ufffd é水",
        "step 2 · training 0.250 nats",
        "step 4 · validation nan nats, nan bits a character",
        "",
    ]
    assert printed.err == "warning: step 3: something\n"


def test_json_lines_are_json(capsys: pytest.CaptureFixture[str]) -> None:
    tell(JSONLines())
    printed = capsys.readouterr()

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    found = [json.loads(line, parse_constant=refuse) for line in printed.out.splitlines()]
    assert [line["event"] for line in found] == [
        "evaluation",
        "evaluation",
        "warning",
        "evaluation",
        "end",
    ]
    assert found[0] == {
        "event": "evaluation",
        **evaluation(1200, 1.5),
        "sample": found[0]["sample"],
    }
    assert found[0]["sample"] == "one\n\ttwo \x1b[2J\x9b\x7f é水"
    assert found[1]["training_loss"] == 0.25 and found[1]["sample"] is None
    assert found[2] == {"event": "warning", "message": "step 3: something"}
    assert found[3]["validation_loss"] is None
    assert found[4] == {
        "event": "end",
        "ended": "patience",
        "steps": 12,
        "best_loss": None,
        "best_step": 0,
        "seconds": 3.5,
    }
    assert printed.err == ""


def test_quiet_says_only_what_goes_wrong(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    tell(Quiet())
    assert capsys.readouterr().out == ""
    assert caplog.record_tuples == [("ostinato.training", logging.WARNING, "step 3: something")]


def test_progress_suits_where_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[tuple[Any, type]] = [("lines", Lines), ("json", JSONLines), ("quiet", Quiet)]
    for mode, kind in [*modes, ("bar", Bar), ("auto", Lines)]:
        assert type(make_progress(mode)) is kind
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert type(make_progress("auto")) is Bar


# The bar, on a terminal.

SCRIPT = """
import sys
from ostinato.training import watching
from ostinato.training.watching import Bar, make_progress

class Clock:
    now = 100.0
    perf_counter = staticmethod(lambda: Clock.now)

watching.time = Clock

class Run:
    title = "1,115,394 characters; 65 tokens of level char; lstm of 2 x 256 units; cpu, 2 threads"
    step, total, tokens, seconds = 0, TOTAL, 0, 0.0
    counted, loss_unit = "tok", "nats"

    def units(self, loss):
        return {"bits_per_character": loss / 0.6931}

run, bar = Run(), make_progress("auto")
assert type(bar) is Bar
bar.begin(run)
for k in range(3):
    Clock.now += 0.05
    run.step, run.seconds = 1234 + k, 600.0 + k
    run.tokens += 10_000
    bar.step({"step": run.step, "loss": 2.3456, "learning_rate": 0.00123, "gradient_norm": 0.4567})
    if k == 1:
        numbers = {"validation_loss": 2.1, "bits_per_character": 3.03, "best": True, "seconds": 1.0}
        bar.evaluation({"step": run.step, **numbers}, "[bold]as it is[/] \\x1b[2J :smile: " * 9)
        bar.say("gradient norm 50, 50 times its usual 1: exploding gradients; clip_norm=1.5")
    bar._drawn = -1.0
bar.end(None)
bar.close()
print("done")
"""


def on_terminal(width: int, total: int | None = 5000, term: str = "xterm-256color") -> list[str]:
    """The lines that `SCRIPT` leaves on a terminal so wide, those drawn over included."""
    fcntl, termios = (pytest.importorskip(name) for name in ("fcntl", "termios"))
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    hidden = {"COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"}
    environment = {k: v for k, v in os.environ.items() if k not in hidden}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.replace("TOTAL", str(total))],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment | {"TERM": term, "PYTHONIOENCODING": "utf-8"},
    )
    os.close(theirs)
    output = b""
    while True:
        try:
            output += (more := os.read(ours, 65536))
        except OSError:  # how Linux says that the other side is closed
            break
        if not more:
            break
    os.close(ours)
    text = output.decode()
    assert process.wait() == 0, text
    colours = re.compile(r"\x1b\[[0-9;]*m")
    moves = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]+")
    return [line.rstrip() for line in moves.split(colours.sub("", text)) if line.strip()]


WIDE = (
    r"step 1,236/5,000 .*loss 2\.346 · 3\.384 bits/char · lr 0\.0012 · grad 0\.46 · 200k tok/s · "
)


def test_a_wide_terminal_shows_all_there_is() -> None:
    lines = on_terminal(140)
    assert max(map(len, lines)) <= 140
    assert lines[-1] == "done"
    assert re.fullmatch(WIDE + r"30:3\d left", lines[-2]), lines[-2]
    assert any(line.startswith("1,115,394 characters; 65 tokens") for line in lines)
    evaluated = "step 1,235 · validation 2.100 nats, 3.030 bits a character · best so far"
    assert evaluated in lines
    assert any("[bold]as it is[/] ␛[2J :smile:" in line for line in lines)
    assert any(line.startswith("warning: gradient norm 50, 50 times") for line in lines)


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (110, WIDE + r"30:3\d left"),
        (80, r" *24% .*loss 2\.346  3\.384 bits/char  lr 0\.0012  grad 0\.46  200k tok/s  30:3\d"),
        (60, r" *24% .*loss 2\.346  3\.384 bits/char  200k tok/s  30:3\d"),
        (40, r" *24% .*loss 2\.346  3\.384 bits/char  30:3\d"),
        (20, ".*"),
    ],
)
def test_a_narrower_terminal_shows_what_there_is_room_for(width: int, shown: str) -> None:
    lines = on_terminal(width)
    assert max(map(len, lines)) <= width, "nothing wraps"
    assert re.fullmatch(shown, lines[-2]), lines[-2]
    if width >= 40:
        assert "…" not in lines[-2]


def test_a_run_of_unknown_length_has_no_time_left() -> None:
    for width in (60, 140):
        lines = on_terminal(width, total=None)
        assert re.search(r"step 1,236 .*loss 2\.346 .* tok/s$", lines[-2]), lines[-2]


def test_a_dumb_terminal_gets_by() -> None:
    lines = on_terminal(80, term="dumb")
    assert lines[-1] == "done"
    assert max(map(len, lines)) <= 80


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
        board.begin(run_at(at))
        for step in range(at + 1, last + 1):
            board.step(record(step, loss=step / 2))
        board.evaluation(evaluation(last), "sample")
        board.saving()
        board.end(OUTCOME)
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
    board.begin(run_at(0))
    for step in range(1, 6):
        board.step(record(step, loss=1.0))
    board.back(run_at(2))
    for step in range(3, 6):
        board.step(record(step, loss=2.0))
    board.close()
    assert scalars(tmp_path)["training/loss"] == list(
        zip(range(1, 6), [1, 1, 2, 2, 2], strict=True)
    )


def test_a_run_folder_has_the_watchers_asked_for(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, {})
    assert [type(watcher) for watcher in run.watchers(tensorboard=False)] == [MetricsFile]
    assert [type(w) for w in run.watchers(tensorboard=True)] == [MetricsFile, TensorBoard]


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
    file.begin(run_at(0))
    for step in range(1, count + 1):
        file.step(record(step, loss=3 / step))
    for k, loss in enumerate(evaluations):
        file.evaluation(evaluation(10 * k + 1, loss), None)
    file.evaluation({"step": 5, "training_loss": 1.0, "best": True, "seconds": 0.1}, None)
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
