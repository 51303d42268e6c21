"""`ostinato.training.progress`: a run is shown on any terminal, in lines or in JSON."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import struct
import subprocess
import sys
from typing import Any

import pytest
from test_callbacks import RESULT, evaluation, record, run_at

from ostinato.training.progress import Bar, JSONLines, Lines, Quiet, make_progress

# Lines.


def tell(callback: Any) -> None:
    callback.on_begin(run_at(0))
    callback.on_step(record(1))
    callback.on_validation(evaluation(1200, 1.5), "one\n\ttwo \x1b[2J\x9b\x7f é水")
    callback.on_validation({"step": 2, "training_loss": 0.25, "best": False, "seconds": 1.0}, None)
    callback.log("step 3: something")
    callback.on_validation(evaluation(4, math.nan, best=False), "")
    callback.on_end(RESULT)
    callback.close()


def test_lines_are_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    tell(Lines())
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        "small",
        "step 1,200 · validation 1.500 nats, 2.164 bits per character · best so far",
        "  │ one",
        "  │ \ttwo ␛[2J\ufffd\ufffd é水",
        "step 2 · training 0.250 nats",
        "step 4 · validation nan nats, nan bits per character",
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


def test_a_note_is_no_warning(capsys: pytest.CaptureFixture[str]) -> None:
    for callback in (Lines(), JSONLines(), Quiet()):
        callback.note("MASE 0.83")
    printed = capsys.readouterr()
    assert printed.out == 'MASE 0.83\n{"event": "note", "message": "MASE 0.83"}\n'
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
from ostinato.training import progress
from ostinato.training.progress import Bar, make_progress

class Clock:
    now = 100.0
    perf_counter = staticmethod(lambda: Clock.now)

progress.time = Clock

class Objective:
    step_name, loss_unit = "tok", "nats"

    def units(self, loss):
        return {"bits_per_character": loss / 0.6931}

class Run:
    title = "1,115,394 characters; 65 tokens of level char; lstm of 2 x 256 units; cpu, 2 threads"
    step, total, tokens, seconds, time_limit = 0, TOTAL, 0, 0.0, None
    objective = Objective()

run, bar = Run(), make_progress("auto")
assert type(bar) is Bar
bar.on_begin(run)
for k in range(3):
    Clock.now += 0.05
    run.step, run.seconds = 1234 + k, 600.0 + k
    run.tokens += 10_000
    record = {"loss": 2.3456, "learning_rate": 0.00123, "gradient_norm": 0.4567}
    bar.on_step({"step": run.step, **record})
    if k == 1:
        numbers = {"validation_loss": 2.1, "bits_per_character": 3.03, "best": True, "seconds": 1.0}
        bar.on_validation({"step": run.step, **numbers}, "[bold]as it is[/] \\x1b[2J :smile: " * 9)
        bar.log("gradient norm 50, 50 times its usual 1: exploding gradients; clip_norm=1.5")
    bar._drawn = -1.0
bar.on_end(None)
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
    evaluated = "step 1,235 · validation 2.100 nats, 3.030 bits per character · best so far"
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
