"""Forecasters beside ours in `forecasting.py` and `defaults.py`, each at its documented settings.

    PYTHON benchmarks/forecast_peers.py NAME PROBLEM.json ANSWER.json

Runs under the Python of an environment with the library, and imports no other module from here. A
problem holds series, the number of training steps of each, and the cutoffs to forecast from; an
answer holds the quantiles 0.1, 0.5 and 0.9 of every step, or others if asked for, and seconds.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

LEVELS = (0.1, 0.5, 0.9)
QUIET: dict[str, Any] = {"logger": False, "enable_progress_bar": False}


class Problem:
    """Series to train on and forecast.

    Args:
        path: a JSON file with series, their starts, learnt (steps of each to learn from), moments
            (for each series, how many values are known then), ahead, season, frequency and seed;
            levels of the quantiles, symmetric around a half, if they are others than `LEVELS`.
    """

    def __init__(self, path: Path) -> None:
        stored = json.loads(path.read_text())
        self.series = [np.array(values, dtype=np.float64) for values in stored["series"]]
        self.starts: list[str] = stored["starts"]
        self.learnt: list[int] = stored["learnt"]
        self.ahead: int = stored["ahead"]
        self.season: int = stored["season"]
        self.frequency: str = stored["frequency"]
        self.seed: int = stored["seed"]
        self.levels: list[float] = stored.get("levels", LEVELS)
        self.moments = [(i, now) for i, each in enumerate(stored["moments"]) for now in each]


Answer = tuple[Any, float, float]
"""Quantiles ``(moments, ahead, 3)``, seconds of training, seconds of forecasting."""


def ostinato(problem: Problem) -> Answer:
    """Default settings."""
    from ostinato import Forecaster

    known = {
        str(i): values[:learnt]
        for i, (values, learnt) in enumerate(zip(problem.series, problem.learnt, strict=True))
    }
    start = time.perf_counter()
    model = Forecaster(horizon=problem.ahead, season=problem.season, seed=problem.seed).fit(known)
    learnt = time.perf_counter()
    pasts = [problem.series[i][:now] for i, now in problem.moments]
    found = model.predict_quantiles(pasts, LEVELS)
    return found, learnt - start, time.perf_counter() - learnt


def neuralforecast_lstm(problem: Problem) -> Answer:
    """`LSTM` as made without arguments, but for a loss that gives quantiles.

    It learns from all series; a moment to forecast from is a series of its own, cut off there.
    """
    import pandas as pd
    from neuralforecast import NeuralForecast
    from neuralforecast.losses.pytorch import MQLoss
    from neuralforecast.models import LSTM

    frequency = {"M": "MS", "h": "h"}[problem.frequency]

    def table(pasts: list[tuple[str, str, Any]]) -> Any:
        return pd.concat(
            pd.DataFrame(
                {
                    "unique_id": name,
                    "ds": pd.date_range(start, periods=len(values), freq=frequency),
                    "y": values.astype(np.float32),
                }
            )
            for name, start, values in pasts
        )

    known = zip(problem.series, problem.starts, problem.learnt, strict=True)
    learning = table([(f"{i:05}", s, v[:n]) for i, (v, s, n) in enumerate(known)])
    start = time.perf_counter()
    short = min(problem.learnt) < 3 * problem.ahead  # what it reads
    model = LSTM(
        h=problem.ahead,
        loss=MQLoss(level=[80]),
        start_padding_enabled=short,
        random_seed=problem.seed,
        **QUIET,
    )
    forecaster = NeuralForecast(models=[model], freq=frequency)
    forecaster.fit(learning)
    learnt = time.perf_counter()
    pasts = [
        (f"{k:05}", problem.starts[i], problem.series[i][max(0, now - 1000) : now])
        for k, (i, now) in enumerate(problem.moments)
    ]
    said = forecaster.predict(df=table(pasts)).sort_values(["unique_id", "ds"])
    found = said[["LSTM-lo-80", "LSTM-median", "LSTM-hi-80"]].to_numpy()
    found = found.reshape(len(pasts), problem.ahead, 3)
    return found, learnt - start, time.perf_counter() - learnt


def gluonts_deepar(problem: Problem) -> Answer:
    """`DeepAREstimator` as made without arguments: 100 epochs of 50 batches."""
    import torch
    from gluonts.dataset.common import ListDataset
    from gluonts.torch.model.deepar import DeepAREstimator

    np.random.seed(problem.seed)
    torch.manual_seed(problem.seed)

    def data(pasts: list[tuple[str, Any]]) -> Any:
        return ListDataset([{"start": s, "target": v} for s, v in pasts], freq=problem.frequency)

    known = zip(problem.series, problem.starts, problem.learnt, strict=True)
    learning = data([(start, values[:n]) for values, start, n in known])
    start = time.perf_counter()
    estimator = DeepAREstimator(
        freq=problem.frequency, prediction_length=problem.ahead, trainer_kwargs=QUIET
    )
    predictor = estimator.train(learning)
    learnt = time.perf_counter()
    asked = data([(problem.starts[i], problem.series[i][:now]) for i, now in problem.moments])
    found = np.stack(
        [np.stack([said.quantile(q) for q in LEVELS], -1) for said in predictor.predict(asked)]
    )
    return found, learnt - start, time.perf_counter() - learnt


MAX_PAST = 3000
"""Steps before a cutoff that a statistical method is fitted to, at most."""

MAX_ARIMA = 30_000
"""Steps of all fits together that AutoARIMA is asked for, at most; seasons count as often."""


def long_format(rows: Any) -> Any:
    """A table of series by name, steps as times; missing values on a line between their neighbours.

    Args:
        rows: name, and values ``(T,)``, of each.
    """
    import pandas as pd

    return pd.concat(
        pd.DataFrame({
            "unique_id": name,
            "ds": np.arange(len(values)),
            "y": pd.Series(values).interpolate(limit_direction="both").to_numpy(),
        })
        for name, values in rows
    )  # fmt: skip


def from_intervals(problem: Problem, table: Any, name: str) -> Any:
    """Quantiles of a table with a model's forecasts and their intervals, ``(moments, A, L)``."""
    columns = []
    for level in problem.levels:
        width = round(200 * abs(level - 0.5))
        side = "lo" if level < 0.5 else "hi"
        columns.append(f"{name}-{side}-{width}" if width else name)
    shape = len(problem.moments), problem.ahead, len(columns)
    return table.sort_values(["unique_id", "ds"])[columns].to_numpy().reshape(shape)


def widths(problem: Problem) -> list[int]:
    """Intervals whose ends are the quantiles, in per cent."""
    return sorted({round(200 * abs(level - 0.5)) for level in problem.levels} - {0})


def statistical(name: str) -> Callable[[Problem], Answer]:
    """A model of statsforecast, fitted at every moment to what was known then."""

    def run(problem: Problem) -> Answer:
        from statsforecast import StatsForecast, models

        season = problem.season
        pasts = [problem.series[i][:now][-MAX_PAST:] for i, now in problem.moments]
        if name == "AutoARIMA" and sum(map(len, pasts)) * season > MAX_ARIMA:
            raise SystemExit(f"left out: {name} of {len(pasts)} pasts with a season of {season}")
        if name == "MSTL" and season == 1:
            raise SystemExit(f"left out: {name} without a season")
        more = {"season_length": season}
        made = StatsForecast([getattr(models, name)(**more)], freq=1, n_jobs=1,
                             fallback_model=models.SeasonalNaive(**more))  # fmt: skip
        table = long_format((f"{k:06}", past) for k, past in enumerate(pasts))
        start = time.perf_counter()
        found = made.forecast(df=table, h=problem.ahead, level=widths(problem))
        seconds = time.perf_counter() - start
        return from_intervals(problem, found.reset_index(), name), seconds, 0.0

    return run


def boosting(problem: Problem) -> Answer:
    """`AutoMLForecast` with LightGBM: lags and settings searched in 20 trials; points alone."""
    import optuna
    from mlforecast.auto import AutoLightGBM, AutoMLForecast

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    ahead = problem.ahead
    pairs = zip(problem.series, problem.learnt, strict=True)
    known = [(f"{i:06}", values[:n]) for i, (values, n) in enumerate(pairs)]
    start = time.perf_counter()
    auto = AutoMLForecast({"gbm": AutoLightGBM()}, freq=1, season_length=problem.season)
    auto.fit(long_format(known), n_windows=2, h=ahead, num_samples=20)
    learnt = time.perf_counter()
    model = auto.models_["gbm"]
    found = np.full((len(problem.moments), ahead, len(problem.levels)), np.nan)
    for row, (i, now) in zip(found, problem.moments, strict=True):
        past = long_format([(f"{i:06}", problem.series[i][:now])])
        row[:, problem.levels.index(0.5)] = model.predict(ahead, new_df=past)["gbm"]
    return found, learnt - start, time.perf_counter() - learnt


PEERS: dict[str, tuple[str, Callable[[Problem], Answer]]] = {
    "ostinato": ("ostinato", ostinato),
    "neuralforecast LSTM": ("neuralforecast", neuralforecast_lstm),
    "gluonts DeepAR": ("gluonts", gluonts_deepar),
    **{
        name: ("statsforecast", statistical(name))
        for name in ("AutoETS", "AutoTheta", "MSTL", "AutoARIMA")
    },
    "boosted lags": ("mlforecast", boosting),
}
"""By name: the library, and what it does."""


def main() -> None:
    """Do one problem."""
    warnings.simplefilter("ignore")
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    name, asked, answered = sys.argv[1:]
    library, peer = PEERS[name]
    found, learning, foretelling = peer(Problem(Path(asked)))
    answer = {
        "quantiles": np.asarray(found, dtype=np.float64).tolist(),
        "training_seconds": learning,
        "forecasting_seconds": foretelling,
        "version": f"{library} {version(library)}",
    }
    Path(answered).write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
