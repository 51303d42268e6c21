"""What a search for settings gains over the defaults: SST-2, and ETTh1 a day ahead.

    python benchmarks/tuned.py search {sst2,etth1-24} STUDY [--minutes 30] [--data FOLDER]
    python benchmarks/tuned.py score {sst2,etth1-24} STUDY [--seeds 5] [--only {defaults,best}]

`search` sees training and validation data alone; it continues the STUDY that it finds, and writes
the best settings into its `best.json`. `score` trains the defaults and the best settings with
several seeds, and judges each network once by the test data. Prints a line of JSON for each.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accuracy import ETT_TEST, ett_temperatures

import ostinato

ROOT = Path(__file__).parent.parent


class Set(NamedTuple):
    """A data set: what is searched, and how a network is judged by its test data.

    Attributes:
        make: returns an estimator with some settings.
        data: arguments of `ostinato.tune`, without any test data.
        judge: trains an estimator and returns its score on the test data.
        score: name of that.
    """

    make: Callable[..., Any]
    data: dict[str, Any]
    judge: Callable[[Any], float]
    score: str


def sst2(data: Path) -> Set:
    """Sentiment of sentences."""
    train, dev, test = (data / "sst2" / f"{part}.tsv" for part in ("train", "dev", "test"))
    return Set(
        ostinato.SequenceClassifier,
        {"X": train, "validation": dev},
        lambda model: model.fit(train, validation=dev).score(test),
        "accuracy",
    )


def etth1(data: Path) -> Set:
    """Oil temperature, a day ahead; the last four of twenty months are the test data."""
    whole = ett_temperatures(data)
    cutoffs = ETT_TEST // 24

    def judge(model: Any) -> float:
        """Return the MASE of a forecast for every day of the test months."""
        return float(model.backtest(whole, cutoffs=cutoffs, stride=24).scores()["mase"])

    return Set(
        lambda **settings: ostinato.Forecaster(horizon=24, season=24, **settings),
        {"X": whole[:-ETT_TEST]},
        judge,
        "MASE",
    )


SETS = {"sst2": sst2, "etth1-24": etth1}


def search(each: Set, study: Path, minutes: float) -> dict[str, Any]:
    """Search for settings; keep the best."""
    found = ostinato.tune(each.make(), **each.data, out=study, minutes=minutes, progress="auto")
    (study / "best.json").write_text(json.dumps(found.settings))
    return {
        "metric": found.metric,
        "trials": len(found.trials),
        "defaults": found.defaults,
        "best": found.score,
        "settings": found.settings,
    }


def score(each: Set, settings: dict[str, Any], seeds: int) -> dict[str, Any]:
    """Judge settings by the test data, with several seeds."""
    begun = time.monotonic()
    scores = [each.judge(each.make(**settings, seed=seed)) for seed in range(seeds)]
    return {
        "score": each.score,
        "mean": statistics.fmean(scores),
        "deviation": statistics.stdev(scores) if seeds > 1 else None,
        "scores": scores,
        "seconds_each": round((time.monotonic() - begun) / seeds, 1),
    }


def main() -> None:
    """Search, or score."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=["search", "score"])
    parser.add_argument("set", choices=list(SETS))
    parser.add_argument("study", type=Path)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", choices=["defaults", "best"])
    asked = parser.parse_args()
    each = SETS[asked.set](asked.data)
    cpu = platform.processor() or platform.machine()
    machine = {"set": asked.set, "cpu": cpu, "threads": torch.get_num_threads()}
    if asked.what == "search":
        print(json.dumps({**machine, **search(each, asked.study, asked.minutes)}))
        return
    best = json.loads((asked.study / "best.json").read_text())
    tried = {"defaults": {}} | (
        {"best": best} if best else {}
    )  # the search may find nothing better
    for name, settings in tried.items():
        if asked.only in (None, name):
            print(
                json.dumps({**machine, "of": name, **score(each, settings, asked.seeds)}),
                flush=True,
            )


if __name__ == "__main__":
    main()
