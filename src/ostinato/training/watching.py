"""Who looks on while a network is trained, and the records it leaves.

Watchers are told what happens and change nothing: take one away, and the run is the same.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal, Protocol

from ostinato.errors import require

_log = logging.getLogger("ostinato.training")

ProgressMode = Literal["auto", "bar", "lines", "json", "quiet"]
Ending = Literal["budget", "patience", "interrupt", "unfinished"]


class Run(Protocol):
    """What a watcher may know of a run."""

    title: str
    step: int
    total: int | None
    tokens: int
    seconds: float
    counted: str
    loss_unit: str

    def units(self, loss: float, /) -> dict[str, float]:
        """Further units of a loss, by name."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Args:
        ended: why: the budget was used, patience was lost, somebody interrupted; or not yet.
        steps: steps done.
        best_loss: lowest validation loss in nats; the last training loss without validation.
        best_step: the step it was reached at: the network's weights are those.
        seconds: time spent training, all sittings together.
    """

    ended: Ending
    steps: int
    best_loss: float
    best_step: int
    seconds: float


class Watcher:
    """Told what happens in a run; does nothing with it."""

    def begin(self, run: Run) -> None:
        """The run starts, or goes on: ``run.step`` steps are done."""

    def step(self, record: dict[str, Any]) -> None:
        """A step is done."""

    def evaluation(self, record: dict[str, Any], sample: str | None) -> None:
        """The network was evaluated."""

    def health(self, record: dict[str, Any]) -> None:
        """Gradients were measured; see `GradientHealth`."""

    def say(self, message: str) -> None:
        """Something a person should know now."""

    def saving(self) -> None:
        """A checkpoint is about to be written: what was recorded must outlive what follows."""

    def back(self, run: Run) -> None:
        """The run was rolled back to ``run.step``."""

    def end(self, outcome: Outcome) -> None:
        """The run is over."""

    def close(self) -> None:
        """Let go of files and of the terminal; comes last, and whatever went wrong before."""


class MetricsFile(Watcher):
    """Every step's record, a line of JSON each, in a file.

    A run that goes on from a checkpoint, or is rolled back to one, first drops the records of steps
    after it; those before it are on disk before it is. Null stands for a number that is not finite.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[str] | None = None
        self._flushed = 0.0

    def begin(self, run: Run) -> None:
        """Open the file at the end of what still holds."""
        self.path.touch()
        keep = 0
        with open(self.path, "rb") as file:
            for line in file:
                try:
                    if not line.endswith(b"\n") or json.loads(line)["step"] > run.step:
                        break
                except (ValueError, KeyError, TypeError):
                    break
                keep += len(line)
        with open(self.path, "r+b") as file:
            file.truncate(keep if run.step else 0)
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115

    def step(self, record: dict[str, Any]) -> None:
        """Add a line, and see to it that it is on disk within a second."""
        self._write(record)
        if time.monotonic() - self._flushed > 1 and self._file is not None:
            self._file.flush()
            self._flushed = time.monotonic()

    def evaluation(self, record: dict[str, Any], sample: str | None) -> None:
        """Add a line with the evaluation and its sample."""
        self._write(record if sample is None else record | {"sample": sample})

    def health(self, record: dict[str, Any]) -> None:
        """Add a line with what was measured."""
        self._write(record)

    def saving(self) -> None:
        """See to it that all records are on disk."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    def back(self, run: Run) -> None:
        """Drop the records of the steps that are taken anew."""
        self.close()
        self.begin(run)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _write(self, record: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(_finite(record), ensure_ascii=False) + "\n")


class TensorBoard(Watcher):
    """Curves for TensorBoard, in the folder that it is given. Needs ``ostinato[tensorboard]``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._module = require("torch.utils.tensorboard", "tensorboard", "TensorBoard logging")
        self._writer: Any = None

    def begin(self, run: Run) -> None:
        """Open a file; what an earlier one holds of steps still to come is hidden."""
        self._writer = self._module.SummaryWriter(str(self._folder), purge_step=run.step + 1)

    def back(self, run: Run) -> None:
        """Hide the steps that are taken anew."""
        self.close()
        self.begin(run)

    def step(self, record: dict[str, Any]) -> None:
        """A point on each curve."""
        for name in ("loss", "learning_rate", "gradient_norm"):
            self._writer.add_scalar(f"training/{name}", record[name], record["step"])

    def evaluation(self, record: dict[str, Any], sample: str | None) -> None:
        """A point on the validation curve, and the sample."""
        for name, value in record.items():
            if name.endswith("_loss"):
                self._writer.add_scalar(name, value, record["step"])
        if sample is not None:
            self._writer.add_text("sample", sample, record["step"])

    def saving(self) -> None:
        """Write out what is buffered."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Close the files."""
        if self._writer is not None:
            self._writer.close()


class Quiet(Watcher):
    """Nothing but warnings, through the log ``ostinato.training``."""

    def say(self, message: str) -> None:
        """Log a warning."""
        _log.warning(message)


class Lines(Quiet):
    """A line for every evaluation, for a log that is no terminal."""

    def begin(self, run: Run) -> None:
        """Print what is trained on what."""
        self._unit = run.loss_unit
        print(run.title, flush=True)

    def evaluation(self, record: dict[str, Any], sample: str | None) -> None:
        """Print the evaluation and its sample."""
        print(_in_words(record, self._unit), flush=True)
        if sample is not None:
            print(_indented(sample), flush=True)

    def say(self, message: str) -> None:
        """Print a warning."""
        print(f"warning: {message}", file=sys.stderr, flush=True)


class JSONLines(Watcher):
    """A line of JSON for every evaluation and warning, on standard output."""

    def evaluation(self, record: dict[str, Any], sample: str | None) -> None:
        """Print the record."""
        print(json.dumps(_finite({"event": "evaluation", **record, "sample": sample})), flush=True)

    def say(self, message: str) -> None:
        """Print the warning."""
        print(json.dumps({"event": "warning", "message": message}), flush=True)

    def end(self, outcome: Outcome) -> None:
        """Print how it ended."""
        print(json.dumps(_finite({"event": "end", **asdict(outcome)})), flush=True)


class Bar(Watcher):
    """A bar with loss, units, learning rate, gradient norm, tokens a second and time left."""

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
        self._ailment = ""

    def begin(self, run: Run) -> None:
        """Draw the bar."""
        self._run = run
        self._since = (time.perf_counter(), run.tokens)
        self._console.print(run.title, markup=False)
        self._bar.start()

    def step(self, record: dict[str, Any]) -> None:
        """Move the bar, a few times a second."""
        now, run = time.perf_counter(), self._run
        if now - self._drawn < 0.2 and run.step != run.total:
            return
        self._drawn = now
        begun, tokens = self._since
        step, total = run.step, run.total
        where = f"step {step:,}" + (f"/{total:,}" if total else "")
        if total and not self._wide:
            where = f"{100 * step // total}%"
        numbers = {
            "loss": f"loss {_small(record['loss'])}",
            **{n: _unit_in_words(n, v, short=True) for n, v in run.units(record["loss"]).items()},
            "lr": f"lr {record['learning_rate']:.2g}",
            "grad": f"grad {record['gradient_norm']:.2g}",
            "speed": f"{_in_short((run.tokens - tokens) / (now - begun))} {run.counted}/s",
        }
        if self._ailment:
            numbers["health"] = self._ailment
        if total:
            left = _clock((total - step) * run.seconds / step)
            numbers["left"] = f"{left} left" if self._wide else left
        gap = " · " if self._wide else "  "
        room = self._console.width - len(where) - 6  # a short bar, and what keeps the three apart
        for spared in ("grad", "lr", "speed"):
            if len(gap.join(numbers.values())) > room:
                del numbers[spared]
        self._bar.update(
            self._task,
            total=run.total,
            completed=run.step,
            where=where,
            numbers=gap.join(numbers.values()),
        )

    def evaluation(self, record: dict[str, Any], sample: str | None) -> None:
        """Print the evaluation and its sample above the bar."""
        self._console.print(_in_words(record, self._run.loss_unit), style="bold", markup=False)
        if sample is not None:
            self._console.print(_indented(sample), style="dim", markup=False)

    def health(self, record: dict[str, Any]) -> None:
        """Show what has turned bad."""
        found = record["health"]
        self._ailment = ""
        if found["growth"] > 10:
            self._ailment = f"gradients grow {found['growth']:.2g}x"
        elif found["reach"] < found["steps"] / 4:
            self._ailment = f"gradients reach {found['reach']} of {found['steps']}"

    def say(self, message: str) -> None:
        """Print a warning above the bar."""
        self._console.print(f"warning: {message}", style="yellow", markup=False)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.stop()


def make_progress(mode: ProgressMode) -> Watcher:
    """Who shows progress: a bar on a terminal, lines elsewhere, or as asked."""
    if mode == "auto":
        mode = "bar" if sys.stdout.isatty() else "lines"
    return {"bar": Bar, "lines": Lines, "json": JSONLines, "quiet": Quiet}[mode]()


def _finite(record: dict[str, Any]) -> dict[str, Any]:
    """A record with null for the numbers that JSON has no words for: NaN and infinity."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in record.items()
    }


def _in_words(record: dict[str, Any], unit: str) -> str:
    name = "validation" if "validation_loss" in record else "training"
    units = {k: v for k, v in record.items() if k not in ("step", "best", "seconds")}
    loss = units.pop(f"{name}_loss")
    words = [f"{_small(loss)} {unit}", *(_unit_in_words(n, v) for n, v in units.items())]
    return f"step {record['step']:,} · {name} {', '.join(words)}" + (
        " · best so far" if record["best"] else ""
    )


def _small(number: float) -> str:
    """Three decimals, or two digits where those would not tell."""
    return f"{number:.2g}" if 0 < abs(number) < 0.01 else f"{number:.3f}"


def _unit_in_words(name: str, value: float, *, short: bool = False) -> str:
    words = name.replace("_per_character", "/char") if short else name.replace("_per_", " a ")
    return f"{value:.3f} {words.replace('_', ' ')}"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


# What a network writes may hold any character; a terminal would obey these.
_CONTROLS = {
    **{code: 0x2400 + code for code in range(32) if chr(code) != "\t"},
    **dict.fromkeys(range(127, 160), 0xFFFD),
}


def _indented(text: str, mark: str = "  │ ") -> str:
    return "\n".join(mark + line.translate(_CONTROLS) for line in text.splitlines())


def _in_short(number: float) -> str:
    return f"{number / 1000:.0f}k" if number >= 10_000 else f"{number:.0f}"
