r"""Forecasts beside those of other libraries: how accurate, and how long it takes to learn.

    python benchmarks/forecasting.py --python neuralforecast=PYTHON --python gluonts=PYTHON \
        [m3-monthly etth1-24 etth1-168] [--turns N] [--data FOLDER]

PYTHON is that of an environment that has the library. Everybody gets the same numbers to learn
from, the same moments to forecast from, a process of its own, and the documented settings
(`forecast_peers.py`); they take turns, every turn with another seed. Accuracy is counted here, in
one way for all. Results go to benchmarks/results/forecasting.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from accuracy import ETT_TEST, Missing, ett_temperatures, m3_monthly
from forecast_peers import PEERS
from speed import RESULTS, machine


def m3(data: Path) -> dict[str, Any]:
    """The monthly series of the M3 competition, 18 ahead."""
    starts, series = zip(*m3_monthly(data).values(), strict=True)
    learnt = [len(values) - 18 for values in series]
    return {
        "series": [values.tolist() for values in series],
        "starts": starts,
        "learnt": learnt,
        "moments": [[n] for n in learnt],
        "ahead": 18,
        "season": 12,
        "frequency": "M",
    }


def ett(data: Path, ahead: int) -> dict[str, Any]:
    """Oil temperature of a transformer, forecast every midnight of the last four months."""
    values = ett_temperatures(data)
    learnt = len(values) - ETT_TEST
    return {
        "series": [values.tolist()],
        "starts": ["2016-07-01"],
        "learnt": [learnt],
        "moments": [list(range(learnt, len(values) - ahead + 1, 24))],
        "ahead": ahead,
        "season": 24,
        "frequency": "h",
    }


PROBLEMS = {
    "m3-monthly": m3,
    "etth1-24": lambda data: ett(data, 24),
    "etth1-168": lambda data: ett(data, 168),
}


def scores(problem: dict[str, Any], quantiles: Any) -> dict[str, float]:
    """MASE, sMAPE, mean scaled pinball loss and what 80 % intervals hold, in per cent."""
    series, ahead, season = problem["series"], problem["ahead"], problem["season"]
    truth, steps = [], []
    for values, learnt, moments in zip(series, problem["learnt"], problem["moments"], strict=True):
        past = np.array(values[:learnt])
        step = np.abs(past[season:] - past[:-season]).mean()
        truth += [values[now : now + ahead] for now in moments]
        steps += [step] * len(moments)
    y, size = np.array(truth), np.array(steps)[:, None]
    low, middle, high = np.moveaxis(np.asarray(quantiles), -1, 0)

    def pinball(q: float, said: Any) -> Any:
        return np.maximum(q * (y - said), (q - 1) * (y - said)) / size

    loss = (pinball(0.1, low) + pinball(0.5, middle) + pinball(0.9, high)) / 3
    return {
        "mase": float(np.mean(np.abs(y - middle) / size)),
        "smape": float(np.mean(200 * np.abs(y - middle) / (np.abs(y) + np.abs(middle)))),
        "pinball": float(np.mean(loss)),
        "coverage_80": float(np.mean((low <= y) & (y <= high)) * 100),
    }


def run(name: str, python: str, problem: dict[str, Any], seed: int) -> dict[str, Any]:
    """One turn of one of them, in a process and a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "problem.json", Path(folder) / "answer.json"
        asked.write_text(json.dumps({**problem, "seed": seed}))
        script = Path(__file__).resolve().parent / "forecast_peers.py"
        done = subprocess.run(
            [python, str(script), name, str(asked), str(answered)],
            cwd=folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{name} failed:\n{done.stderr[-2000:]}")
        answer = json.loads(answered.read_text())
    return {
        **scores(problem, answer.pop("quantiles")),
        "training_seconds": answer["training_seconds"],
        "forecasting_seconds": answer["forecasting_seconds"],
        "version": answer["version"],
    }


def shown(values: list[float], digits: int) -> str:
    """The median and, where it differs, from what to what."""
    middle, low, high = (f"{f(values):.{digits}f}" for f in (statistics.median, min, max))
    return middle if low == high else f"{middle} ({low} to {high})"


def main() -> None:
    """Let all of them do all problems, in turns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("problems", nargs="*", help=", ".join(PROBLEMS))
    parser.add_argument("--python", action="append", default=[], metavar="LIBRARY=PYTHON")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    pythons = {"ostinato": sys.executable} | dict(each.split("=", 1) for each in arguments.python)
    peers = [name for name, (library, _) in PEERS.items() if library in pythons]
    path = RESULTS / "forecasting.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    for title in arguments.problems or PROBLEMS:
        try:
            problem = PROBLEMS[title](arguments.data)
        except Missing as missing:
            print(
                f"{title}: left out, since there is no {missing}: docs/reference/data.md",
                file=sys.stderr,
            )
            continue
        turns: dict[str, list[dict[str, Any]]] = {name: [] for name in peers}
        for turn in range(arguments.turns):
            for name in peers:
                library = PEERS[name][0]
                turns[name].append(run(name, pythons[library], problem, turn))
                print(title, name, turns[name][-1], file=sys.stderr, flush=True)
        print(f"{title}, {arguments.turns} turns, {os.cpu_count()} cores")
        for name, rows in turns.items():
            of = {key: [row[key] for row in rows] for key in rows[0] if key != "version"}
            slower = [
                row["training_seconds"] / ours["training_seconds"]
                for row, ours in zip(rows, turns["ostinato"], strict=True)
            ]
            print(
                f"  {name:<22} MASE {shown(of['mase'], 3)}, sMAPE {shown(of['smape'], 2)}, "
                f"pinball {shown(of['pinball'], 3)}, 80 % intervals hold "
                f"{shown(of['coverage_80'], 1)} %, trained in "
                f"{statistics.median(of['training_seconds']):.0f} s, {shown(slower, 2)} times ours"
            )
        found[title] = {"machine": machine(os.cpu_count() or 1), "peers": turns}
        path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
