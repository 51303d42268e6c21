"""Training speed in characters per second: `ostinato train text` and the same model in PyTorch.

    python benchmarks/end_to_end.py book.txt        any text; without one, Python's own sources
    python benchmarks/end_to_end.py --isa avx2      both held to AVX2

Both run as processes of their own, stopped and continued in turns; what they did in each turn is
read off the records that they keep. `plain_text.py` is the other side.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import tomllib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import instructions
from report import DISTURBED, is_disturbed
from speed import RESULTS, Disturbance, machine, summary, usable_cores

HERE = Path(__file__).parent
CONFIG = HERE.parent / "examples" / "shakespeare.toml"
BUDGETS = ("minutes", "epochs", "steps")


def own_sources(characters: int = 1_000_000) -> str:
    """A text that every machine has: Python's standard library, ASCII alone."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    texts = (path.read_text(encoding="utf-8", errors="replace") for path in files)
    return "".join(text for text in texts if text.isascii())[:characters]


def commands(text: Path, cell: str, folder: Path) -> dict[str, tuple[list[str], Path]]:
    """How each side is started, and where it keeps its records."""
    settings = tomllib.loads(CONFIG.read_text(encoding="utf-8")) | {"cell": cell}
    flags = {key: value for key, value in settings.items() if key not in BUDGETS}
    ours = [sys.executable, "-c", "from ostinato.cli import main; main()", "train", "text"]
    ours += [str(text), "--out", str(folder / "run"), "--quiet", "--steps", "1000000"]
    for key, value in flags.items():
        ours += [f"--{key.replace('_', '-')}", str(value)]
    plain, records = (
        [sys.executable, str(HERE / "plain_text.py"), str(text)],
        folder / "plain.jsonl",
    )
    plain += ["--config", str(CONFIG), "--cell", cell, "--out", str(records)]
    return {"ostinato": (ours, folder / "run" / "metrics.jsonl"), "torch": (plain, records)}


def take_turns(
    text: Path, cell: str, folder: Path, turns: int, seconds: float, threads: int
) -> dict[str, list[float]]:
    """Tokens a second of each side in each of its turns; ``folder`` takes what they leave.

    Raises:
        RuntimeError: if a side ends by itself, or takes whole turns for a step.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    running: dict[str, subprocess.Popen[bytes]] = {}
    sides = commands(text, cell, folder)
    try:
        for name, (command, records) in sides.items():
            log = folder / f"{name}.log"
            with log.open("wb") as out:
                running[name] = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
            while not (records.exists() and records.stat().st_size):
                time.sleep(0.1)
                if running[name].poll() is not None:
                    said_last = log.read_text(errors="replace").strip().splitlines()[-1:]
                    raise RuntimeError(f"{name} ended by itself: {' '.join(said_last)}")
            running[name].send_signal(signal.SIGSTOP)
        for _ in range(turns):
            for process in running.values():
                process.send_signal(signal.SIGCONT)
                time.sleep(seconds)
                process.send_signal(signal.SIGSTOP)
    finally:
        for process in running.values():
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGCONT)
        for process in running.values():
            process.wait()
    found = {name: rates(read(path), 0.9 * seconds) for name, (_, path) in sides.items()}
    for name, each in found.items():
        if len(each) < 2:
            raise RuntimeError(f"{name} did too few steps to measure; give more --seconds, --turns")
    return found


def read(path: Path) -> list[tuple[float, int]]:
    """Seconds and tokens after each step."""
    lines = path.read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines if line.endswith("}")]
    return [(each["seconds"], each["tokens"]) for each in records if "tokens" in each]


def rates(steps: Sequence[tuple[float, int]], pause: float) -> list[float]:
    """Tokens a second in each turn; turns are what lies between pauses longer than ``pause``.

    What came before the first pause was the start, and is left out.

    >>> rates([(0.1, 5), (9.0, 10), (9.1, 15), (9.2, 20), (18.0, 25), (18.2, 35)], 4.0)
    [50.0, 50.0]
    """
    starts = [i for i, (a, b) in enumerate(pairwise(steps), 1) if b[0] - a[0] > pause]
    turns = [steps[a:b] for a, b in pairwise([*starts, len(steps)])]
    turns = [turn for turn in turns if len(turn) > 1]
    return [round((t[-1][1] - t[0][1]) / (t[-1][0] - t[0][0]), 6) for t in turns]


def main() -> None:
    """Run both sides for each cell, and write what they did."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("text", type=Path, nargs="?", help="text file to learn")
    parser.add_argument(
        "--cells", nargs="+", default=["lstm", "gru"], choices=["rnn", "lstm", "gru"]
    )
    parser.add_argument("--turns", type=int, default=6, help="of each side")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each turn")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--isa", choices=list(instructions.HELD), help="hold both sides to it")
    parser.add_argument("--out", type=Path, help="JSON file")
    a = parser.parse_args()
    instructions.hold(a.isa)
    if a.text is not None and not a.text.is_file():
        print(f"{a.text}: no such file; skipping the end-to-end measurement.")
        return
    settings = tomllib.loads(CONFIG.read_text(encoding="utf-8"))
    keys = ("hidden_size", "dropout", "window", "batch_size")
    results: dict[str, Any] = {
        "machine": machine(a.threads),
        "text": a.text.name if a.text else "Python's standard library",
        "model": ", ".join(f"{key} {settings[key]}" for key in keys),
        "runs": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        text = a.text or Path(folder) / "text.txt"
        if a.text is None:
            text.write_text(own_sources(), encoding="utf-8")
        for cell in a.cells:
            place = Path(folder) / cell
            place.mkdir()
            try:
                with Disturbance() as disturbance:
                    found = take_turns(text, cell, place, a.turns, a.seconds, a.threads)
            except RuntimeError as error:
                sys.exit(str(error))
            run = {
                "cell": cell,
                "contenders": {name: summary(each) for name, each in found.items()},
                "disturbance": disturbance.share,
            }
            results["runs"].append(run)
            ours, plain = (run["contenders"][name]["median"] for name in ("ostinato", "torch"))
            print(
                f"{cell}: ostinato train text {ours:,.0f} characters a second, "
                f"plain PyTorch {plain:,.0f}: {ours / plain:.2f} x"
                + (f" ({DISTURBED})" if is_disturbed(run) else ""),
                flush=True,
            )
    path = a.out or RESULTS / f"end_to_end-{results['machine']['isa']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
