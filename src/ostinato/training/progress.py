"""Progress of a training run: a bar on a terminal, lines or JSON elsewhere."""

from __future__ import annotations

import json
import logging
import sys
import time
from dataclasses import asdict
from typing import Any, Literal, Self

from ostinato.files import finite
from ostinato.training.callbacks import Callback, Run, TrainingResult

_log = logging.getLogger("ostinato.training")

ProgressMode = Literal["auto", "bar", "lines", "json", "quiet"]


class Quiet(Callback):
    """Only warnings, through the logger ``ostinato.training``."""

    def log(self, message: str) -> None:
        _log.warning(message)


class JSONLines(Callback):
    """One JSON line per evaluation and warning, on standard output."""

    def on_validation(self, record: dict[str, Any], sample: str | None) -> None:
        print(json.dumps(finite({"event": "evaluation", **record, "sample": sample})), flush=True)

    def log(self, message: str) -> None:
        print(json.dumps({"event": "warning", "message": message}), flush=True)

    def note(self, message: str) -> None:
        print(json.dumps({"event": "note", "message": message}), flush=True)

    def on_end(self, result: TrainingResult) -> None:
        print(json.dumps(finite({"event": "end", **asdict(result)})), flush=True)


class Lines(Callback):
    """One line per evaluation, for output that is not a terminal."""

    def on_begin(self, run: Run) -> None:
        self._run = run
        self._told = False
        self._print(run.title)

    def on_step(self, record: dict[str, Any]) -> None:
        """Print after five seconds how long it will take."""
        if not self._told and record["seconds"] >= 5 and (left := _time_left(self._run)):
            self._told = True
            self._print(f"step {record['step']:,} · loss {_small(record['loss'])} · {left} left")

    def on_validation(self, record: dict[str, Any], sample: str | None) -> None:
        """Print the evaluation and its sample."""
        name = "validation" if "validation_loss" in record else "training"
        values = {k: v for k, v in record.items() if k not in ("step", "best", "seconds")}
        loss = f"{_small(values.pop(f'{name}_loss'))} {self._run.objective.loss_unit}"
        words = ", ".join([loss, *(_unit_described(n, v) for n, v in values.items())])
        best = " · best so far" if record["best"] else ""
        left = _time_left(self._run)
        left = f" · {left} left" if left and record["seconds"] >= 5 else ""
        self._print(f"step {record['step']:,} · {name} {words}{best}{left}", "bold")
        if sample is not None:
            lines = [f"  │ {line.translate(_CONTROLS)}" for line in sample.splitlines()]
            self._print("\n".join(lines), "dim")

    def note(self, message: str) -> None:
        self._print(message)

    def log(self, message: str) -> None:
        print(f"warning: {message}", file=sys.stderr, flush=True)

    def _print(self, text: str, style: str = "") -> None:
        print(text, flush=True)


class Bar(Lines):
    """A bar with loss, units, learning rate, gradient norm, tokens per second and time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._console = Console(highlight=False, emoji=False)
        self._wide = self._console.width >= 110
        self._bar = Progress(
            TextColumn("{task.fields[where]}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[numbers]}"),
            console=self._console,
            expand=True,
            refresh_per_second=4,
        )
        self._task = self._bar.add_task("", total=None, where="", numbers="starting")
        self._drawn = 0.0
        self._warning = ""

    def on_begin(self, run: Run) -> None:
        """Print the title, and draw the bar."""
        super().on_begin(run)
        self._since = (time.perf_counter(), run.tokens)
        self._bar.start()

    def on_step(self, record: dict[str, Any]) -> None:
        """Move the bar, a few times a second."""
        now, run = time.perf_counter(), self._run
        if now - self._drawn < 0.2 and run.step != run.total:
            return
        self._drawn = now
        step, total, (start, tokens) = run.step, run.total, self._since
        units = run.objective.units(record["loss"])
        speed = (run.tokens - tokens) / (now - start)
        fast = f"{speed / 1000:.0f}k" if speed >= 10_000 else f"{speed:.0f}"
        where = f"step {step:,}" + (f"/{total:,}" if total else "")
        completed, whole = (
            (step, total) if run.time_limit is None else (run.seconds, run.time_limit)
        )
        if whole and not self._wide:
            where = f"{min(100, int(100 * completed / whole))}%"
        numbers = {
            "loss": f"loss {_small(record['loss'])}",
            **{n: _unit_described(n, v, short=True) for n, v in units.items()},
            "lr": f"lr {record['learning_rate']:.2g}",
            "grad": f"grad {record['gradient_norm']:.2g}",
            "speed": f"{fast} {run.objective.step_name}/s",
        }
        if self._warning:
            numbers["health"] = self._warning
        if left := _time_left(run):
            numbers["left"] = f"{left} left" if self._wide else left
        gap = " · " if self._wide else "  "
        room = self._console.width - len(where) - 6  # a short bar and gaps
        for optional in ("grad", "lr", "speed"):
            if len(gap.join(numbers.values())) > room:
                del numbers[optional]
        text = gap.join(numbers.values())
        self._bar.update(self._task, total=whole, completed=completed, where=where, numbers=text)

    def on_health(self, record: dict[str, Any]) -> None:
        """Show a warning of exploding or vanishing gradients."""
        health = record["health"]
        self._warning = ""
        if health["growth"] > 10:
            self._warning = f"gradients grow {health['growth']:.2g}x"
        elif health["reach"] < health["steps"] / 4:
            self._warning = f"gradients reach {health['reach']} of {health['steps']}"

    def log(self, message: str) -> None:
        self._print(f"warning: {message}", "yellow")

    def _print(self, text: str, style: str = "") -> None:
        self._console.print(text, style=style, markup=False)

    def close(self) -> None:
        self._bar.stop()


def make_progress(mode: ProgressMode) -> Callback:
    """Return the callback of a mode; ``auto`` is a bar on a terminal, lines elsewhere."""
    if mode == "auto":
        mode = "bar" if sys.stdout.isatty() else "lines"
    return {"bar": Bar, "lines": Lines, "json": JSONLines, "quiet": Quiet}[mode]()


class Stages:
    """Progress of work in stages, such as preparing data: a context manager.

    Args:
        mode: as of training.
    """

    EVERY = 10.0  # seconds between two lines

    def __init__(self, mode: ProgressMode) -> None:
        if mode == "auto":
            mode = "bar" if sys.stdout.isatty() else "lines"
        self._mode = mode
        self._bar = _stage_bar() if mode == "bar" else None
        self._stage, self._task = "", 0
        self._began = self._told = time.monotonic()

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *raised: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def tell(self, stage: str, done: int, total: int | None) -> None:
        """Show how far a stage is, of how many items if that is known."""
        if self._mode == "quiet":
            return
        if self._bar is not None:
            if stage != self._stage:
                self._task = self._bar.add_task(stage, total=total)
            self._bar.update(self._task, completed=done, total=total)
        elif time.monotonic() - self._told > self.EVERY or (done == total and self._mode == "json"):
            self._told = time.monotonic()
            if self._mode == "json":
                facts = {"event": "progress", "stage": stage, "done": done, "total": total}
                print(json.dumps(facts), flush=True)
            else:
                of = "" if total is None else f" of {total:,}"
                print(f"{stage}: {done:,}{of}, {duration(self._told - self._began)}", flush=True)
        self._stage = stage

    def say(self, message: str) -> None:
        """Print a line."""
        if self._mode == "json":
            print(json.dumps({"event": "note", "message": message}), flush=True)
        elif self._bar is not None:
            self._bar.console.print(message, markup=False)
        elif self._mode != "quiet":
            print(message, flush=True)


def _stage_bar() -> Any:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    name = TextColumn("{task.description}", markup=False)
    return Progress(name, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())


def _time_left(run: Run) -> str:
    """Return the time left in minutes and seconds; empty where nothing is known of it."""
    if run.time_limit is not None:
        left = max(0.0, run.time_limit - run.seconds)
    elif run.total and run.step:
        left = (run.total - run.step) * run.seconds / run.step
    else:
        return ""
    minutes, seconds = divmod(int(left), 60)
    return f"{minutes}:{seconds:02d}" if run.step != run.total else ""


def duration(seconds: float) -> str:
    """Return a time as people say it.

    >>> duration(0.3), duration(100), duration(600), duration(9000)
    ('1 s', '100 s', '10 min', '2 h 30 min')
    """
    minutes = round(seconds / 60)
    if seconds < 120:
        return f"{max(1, round(seconds))} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _small(number: float) -> str:
    """Format with three decimals, or two digits for small numbers."""
    return f"{number:.2g}" if 0 < abs(number) < 0.01 else f"{number:.3f}"


def _unit_described(name: str, value: float, *, short: bool = False) -> str:
    words = name.replace("_per_character", "/char") if short else name.replace("_per_", " per ")
    return f"{value:.3f} {words.replace('_', ' ')}"


# Generated text may hold any character; a terminal would obey these.
_CONTROLS = {
    **{code: 0x2400 + code for code in range(32) if chr(code) != "\t"},
    **dict.fromkeys(range(127, 160), 0xFFFD),
}
