"""Forecasts of time series: prices, sensors, sales, each with its uncertainty."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from torch import Tensor

from ostinato.data.places import paths_of
from ostinato.data.shards import Work
from ostinato.errors import DataError, OstinatoError
from ostinato.memory import check_memory
from ostinato.recurrence.layers import Hidden
from ostinato.tasks.estimators import Estimator
from ostinato.tasks.forecasting.chunks import write_panel
from ostinato.tasks.forecasting.distributions import DISTRIBUTIONS, DistributionName
from ostinato.tasks.forecasting.forecast import (
    Blend,
    Calibration,
    Forecast,
    calibrate,
    fit_blend,
)
from ostinato.tasks.forecasting.network import Ensemble, ForecastNetwork, Window
from ostinato.tasks.forecasting.panel import (
    Cutoff,
    Panel,
    default_horizon,
    held_out_steps,
    last_cutoffs,
    training_cutoffs,
    validation_cutoffs,
)
from ostinato.tasks.forecasting.predictor import DRAWS, MAX_ROWS, ForecastStream, forecast
from ostinato.tasks.forecasting.reading import SeriesSettings, read_panel
from ostinato.tasks.forecasting.seasons import find_seasons
from ostinato.tasks.forecasting.stored import STEPS, load_panel, save_panel
from ostinato.tasks.forecasting.windows import (
    CovariateEncoding,
    TrainingBatch,
    WindowBatches,
    Windows,
)
from ostinato.tasks.prepared import Prepared, PreparedFolder
from ostinato.tasks.sequences import resolve
from ostinato.training.callbacks import Callback
from ostinato.training.evaluation import Objective, Problem, Sample
from ostinato.training.progress import ProgressMode
from ostinato.training.runs import checked_data
from ostinato.training.settings import check_value

Method = Literal["autoregressive", "direct"]

EPOCH_WINDOWS = 20_000
"""Windows of an epoch, at most."""

MAX_CALIBRATION = 400
"""Held-out windows that forecasts are blended and calibrated on, at most."""

FREE = {"season", "long_season", "calendar"}
"""Settings of series that do not shape data, but how they are trained on."""

RULE_SEASONS, RULE_STEPS = 10, 100
"""Seasons, and steps, of the past that simple rules see, at least."""


@dataclass
class SeriesInputs:
    """What a model knows of its inputs: the series of the training data, and their covariates."""

    panel: Panel
    encoding: CovariateEncoding


class NextValues(Objective[Ensemble, TrainingBatch]):
    """The values ahead of each window; NaN counts nothing.

    Args:
        season: steps of a season, of which the mean absolute change within each window, or that of
            one step where the window is shorter, is what errors are divided by.
    """

    loss_unit = "nats"
    step_name = "steps"

    def __init__(self, season: int = 1) -> None:
        self.season = season

    @property
    def compared_by(self) -> str:
        """Return mase: losses of quantiles, of densities and of steps after true ones differ."""
        return "mase"

    def loss(self, network: Ensemble, batch: TrainingBatch, state: Hidden) -> tuple[Tensor, None]:
        """Return the mean loss of a value."""
        return network.loss(batch.window, batch.targets)

    def metrics(
        self, network: Ensemble, batch: TrainingBatch, state: Hidden
    ) -> tuple[dict[str, float], Hidden]:
        """Return the mean loss, and the mean scaled error of all steps ahead."""
        loss, _ = self.loss(network, batch, state)
        window, ahead = batch.window, batch.targets
        m = self.season if self.season < window.context else 1
        pairs = window.observed[:, m:] & window.observed[:, :-m]
        changes = (window.past_values[:, m:] - window.past_values[:, :-m]).abs() * pairs
        scale = changes.sum(1) / pairs.sum(1).clamp(min=1)
        error = (network.points(window) - ahead).abs() / scale.where(scale > 0, 1.0)[:, None]
        return {"loss": float(loss), "mase": float(error.nanmean().nan_to_num())}, None

    def count(self, batch: TrainingBatch) -> int:
        """Return the number of values."""
        return int((~batch.targets.isnan()).sum())


@dataclass(kw_only=True, eq=False, repr=False)
class Forecaster(SeriesSettings, Estimator[SeriesInputs, NextValues, Ensemble]):
    """A recurrent network that forecasts time series, with uncertainty.

    One network is trained on all series, at random cutoffs. Each window of the past is brought to
    units of its own first, so that series of all scales are comparable. Missing values, and missing
    rows, are replaced by the network's own predictions of them. A series that had no negative value
    so far gets no negative forecast, and one of whole numbers, tenths or the like is forecast so.

    ``fit`` takes tables as `pathlib.Path`, one or several; a data frame; an array or a pandas
    Series ``(T,)``, or several in a list or by name in a dictionary, NaN where a value is missing.
    It takes neither ``y`` nor ``validation``: the series are the targets, and the last steps of
    each are held out for validation.

    Args:
        horizon: steps ahead; a season if not given, or 12 where there is none.
        method: autoregressive, one step after the other by sample paths; or direct, all steps ahead
            simultaneously, which is faster.
        output: predictive distribution of each step: student or gaussian; negative-binomial, for
            counts; quantiles, for no parametric form.
        context: steps of the past that are read; by season, horizon and data if not given.
        ensemble_size: networks that are trained side by side and forecast together; if not given, 5
            where data are few, else 1.
        learning_rate: the highest learning rate of the schedule.
        hidden_size: hidden units of each layer; by the size of the data if not given.
        dropout: share of features dropped before the output; by the size of the data if not given.

    Further settings are those of `SeriesSettings`, `NetworkSettings` and `TrainingSettings`.

    Attributes, beside those of `Estimator`:
        panel_: the series of the training data.
        inputs_: the same, and how their covariates are encoded.
        targets_: how the values ahead are scored.

    Example:
        >>> t = np.arange(120)
        >>> model = Forecaster(horizon=6, season=12, hidden_size=16, epochs=10, learning_rate=0.01)
        >>> model = model.fit(10 + 0.1 * t + np.sin(2 * np.pi * t / 12))
        >>> forecast = model.forecast()
        >>> model.predict().shape, forecast.quantiles([0.1, 0.9]).shape
        ((1, 6), (1, 6, 2))
        >>> expected = 10 + 0.1 * (120 + np.arange(6)) + np.sin(np.pi * (120 + np.arange(6)) / 6)
        >>> bool(np.abs(forecast.median[0] - expected).max() < 1)
        True
    """

    horizon: int | None = None
    method: Method = "autoregressive"
    output: DistributionName = "student"
    context: int | None = None
    ensemble_size: int | None = None
    learning_rate: float = 0.001

    def check_settings(self) -> None:
        super().check_settings()
        expected = "a number of steps, 1 or more"
        check_value(
            self, "horizon context season long_season", lambda n: 0 < n <= 100_000, expected
        )
        expected = "a number of networks, 1 to 100"
        check_value(self, "ensemble_size", lambda n: 0 < n <= 100, expected)

    _trained_on = cast("Path | None", None)  # the data of a fit in memory

    @property
    def panel_(self) -> Panel:
        """The series of the training data."""
        return self.inputs_.panel

    # Training

    def fit(  # type: ignore[override]  # series are divided in time, not given in parts
        self,
        X: Any,
        y: None = None,
        *,
        out: str | os.PathLike[str] | None = None,
        progress: ProgressMode = "quiet",
        tensorboard: bool = False,
        callbacks: Sequence[Callback] = (),
    ) -> Self:
        """Train on series, as the class describes; further arguments as of `Estimator.fit`."""
        if y is not None:
            raise OstinatoError("Forecaster.fit: expected no y: the series are the targets too.")
        return super().fit(
            X, out=out, progress=progress, tensorboard=tensorboard, callbacks=callbacks
        )

    def _prepare(
        self, data: Path, X: Any, y: Any, validation: Any, work: Work | None = None
    ) -> Prepared:
        panel = read_panel(X, self)
        found = self._known(panel, panel.notes)
        save_panel(panel, data)
        return found

    def _prepare_chunks(self, data: Path, X: Any, y: Any, validation: Any, work: Work) -> Prepared:
        if y is not None or validation is not None:
            raise OstinatoError(
                "Forecaster.prepare: expected neither y nor validation: the series are the "
                "targets, too, and the last steps of each are held out."
            )
        paths = paths_of(X)
        if not paths:
            return self._prepare(data, X, y, validation)
        panel = write_panel(paths, self, data, work)
        return self._known(panel, panel.notes)

    def _data_settings(self) -> Sequence[str]:
        return sorted({field.name for field in fields(SeriesSettings)} - FREE)

    def _prepared_before(
        self, folder: PreparedFolder, inputs: SeriesInputs, data: Path
    ) -> Prepared:
        panel = load_panel(data, folder.documents["series.json"])
        return self._known(panel, folder.facts["read"], folder.facts, inputs.encoding)

    def _known(
        self,
        panel: Panel,
        notes: Sequence[str],
        before: Mapping[str, Any] | None = None,
        encoding: CovariateEncoding | None = None,
    ) -> Prepared:
        """Return what there is to know of the series of the training data.

        What takes long to find is taken from facts ``before`` and an encoding, if there are any.
        """
        season, long_season = self._find_seasons(panel)
        if self.output == "negative-binomial":
            panel.check_counts("output='negative-binomial'")
        horizon, longest = self.horizon or default_horizon(season, panel), panel.longest
        held_out = held_out_steps(panel, horizon, self.validation_fraction)
        training = training_cutoffs(panel, held_out, horizon, season)
        if longest < horizon + 2 or not training:
            raise DataError(
                f"the longest series has {longest} steps, too few to learn to forecast {horizon} "
                f"ahead; expected at least {horizon + 2}, or a shorter horizon."
            )
        context = self.context or min(max(3 * season, horizon, 30), max(2, longest - horizon))
        windows = min(len(training), EPOCH_WINDOWS)
        resolved = {
            **{"horizon": horizon, "season": season, "context": context},
            "long_season": long_season if long_season > 1 else None,
            **resolve(self, windows, context if self.init == "chrono" else None),
            **{"dropout": 0.1, "ensemble_size": 5 if windows < 2000 else 1},
        }
        before = before or {
            "missing": int(sum(np.isnan(s.values).sum() for s in panel.series)),
            "positive": sum(int(s.first_negative() >= len(s.values)) for s in panel.series),
            "ahead": min(len(s.future_covariates) - len(s.values) for s in panel.series),
        }
        facts = {
            **{name: before[name] for name in ("missing", "positive", "ahead")},
            "columns": panel.description,
            "series": len(panel),
            "shortest": int(panel.lengths.min()),
            "longest": longest,
            "windows": len(training),
            "held_out": int((held_out > 0).sum()),
            "read": list(notes),
        }
        facts["notes"] = [*notes, *self._notes(panel, facts, horizon)]
        inputs = SeriesInputs(panel, encoding or CovariateEncoding.learn(panel))
        return Prepared(self._documents(inputs, NextValues()), resolved, facts)

    def _find_seasons(self, panel: Panel) -> tuple[int, int]:
        """Return steps of a season and of a longer one: as set, by the times, or by the values."""
        season, longer = self.season or panel.grid.season, 1
        if self.season is None and panel.grid.unit == "step":
            every = (s.values for s in panel.series)
            season, longer = find_seasons(every, lengths=panel.lengths.tolist())
        longer = max(longer, panel.grid.longer_season(season))
        return season, self.long_season or (longer if 4 * longer <= panel.longest else 1)

    def _notes(self, panel: Panel, facts: Mapping[str, Any], horizon: int) -> list[str]:
        found = []
        if facts["positive"]:
            found.append(
                f"{facts['positive']:,} of {len(panel):,} series have no negative value, and get "
                "no negative forecast"
            )
        if not facts["held_out"] and self.validation_fraction is None and len(panel) < 50:
            found.append(
                f"all series are too short for validation, which takes {3 * horizon + 2} steps: "
                "training cannot stop early and intervals are not calibrated; choose a shorter "
                "horizon"
            )
        names = panel.columns.future_covariates
        if names and facts["ahead"] < horizon:
            found.append(
                f"future covariates ({', '.join(names)}) end {max(0, facts['ahead'])} steps after "
                f"the last value; to forecast they must go on for {horizon}"
            )
        return found

    def _windows(self, panel: Panel, horizon: int | None = None) -> Windows:
        return Windows(
            panel,
            self.inputs_.encoding,
            self.resolved("context"),
            horizon or self.resolved("horizon"),
            self.resolved("season"),
            self.calendar,
            self.network_.distribution.centered,
            self._history,
        )

    @property
    def _seasons(self) -> list[int]:
        both = self.resolved("season"), self.resolved("long_season") or 1
        return sorted({season for season in both if season > 1})

    @property
    def _history(self) -> int:
        """Steps before the context that seasons reach back to; none where there is but one."""
        return max(self._seasons) if len(self._seasons) > 1 else 0

    @property
    def _reach(self) -> int:
        """Steps of the past that a forecast depends on, by the network or by simple rules."""
        context: int = self._history + self.resolved("context")
        return max(context, RULE_STEPS, RULE_SEASONS * max([1, *self._seasons]))

    def _build(self, inputs: SeriesInputs, targets: NextValues) -> Ensemble:
        how = self.architecture(self.resolved_)
        calendar = inputs.panel.grid.calendar_features if self.calendar else 0
        sizes = inputs.encoding.sizes(calendar)
        seasons, context = self._seasons, self.resolved("context")
        direct, season = self.method == "direct", self.resolved("season")
        return Ensemble([
            ForecastNetwork(
                how.layers(sizes.input_size(seasons)),
                DISTRIBUTIONS[self.output],
                sizes,
                horizon=self.resolved("horizon") if direct else None,
                seasons=seasons,
                history=self._history,
                reach=self._history + context if direct else min(context, max(2 * season + 1, 8)),
                dropout=how.dropout,
            )
            for _ in range(self.resolved("ensemble_size"))
        ])  # fmt: skip

    def _panel_of_run(self, data: Path) -> Panel:
        """Return the series of a run, which have been read if it is the one of the model."""
        own = self.folder_ / "data" if self.folder_ else self._trained_on
        return self.panel_ if data == own else load_panel(data, self.panel_.to_json())

    def _held_out(self, panel: Panel) -> tuple[NDArray[np.int64], list[Cutoff]]:
        """Steps of each series that are held out, and cutoffs to validate on."""
        horizon = self.resolved("horizon")
        held_out = held_out_steps(panel, horizon, self.validation_fraction)
        return held_out, validation_cutoffs(panel, held_out, horizon)

    def _problem(self, data: Path, facts: Mapping[str, Any], device: torch.device) -> Problem:
        panel = self._panel_of_run(data)
        self.inputs_, self._trained_on = replace(self.inputs_, panel=panel), data
        horizon, season = self.resolved("horizon"), self.resolved("season")
        held_out, validation = self._held_out(panel)
        shortest, longest = facts["shortest"], facts["longest"]
        rows = min(self.resolved("batch_size"), facts["windows"])
        self._check_batch(rows, self.resolved("context"), device)
        steps = f"{longest:,}" if shortest == longest else f"{shortest:,} to {longest:,}"
        return Problem(
            WindowBatches(
                self._windows(panel.hold_out(held_out)),
                training_cutoffs(panel, held_out, horizon, season),
                self.resolved("batch_size"),
                EPOCH_WINDOWS,
                self.seed,
                device,
            ),
            NextValues(season),
            WindowBatches(self._windows(panel), validation, device=device) if validation else None,
            f"{facts['columns']}\n{facts['series']:,} series of {steps} steps; horizon {horizon}, "
            f"context {self.resolved('context')}, "
            f"season {' and '.join(map(str, self._seasons)) or 1}; the last steps of "
            f"{facts['held_out']:,} held out for validation",
            self._resolved_title() + "".join(f"\n{note}" for note in facts["notes"]),
        )

    def _final_facts(self, problem: Problem) -> dict[str, Any]:
        """Blend with simple rules and calibrate, on the held-out steps."""
        panel = self.panel_
        held_out, validation = self._held_out(panel)
        if not validation:
            return {}
        steps, centered = int(held_out.sum()), self.network_.distribution.centered
        some = self._forecast(panel, validation[:: -(-len(validation) // MAX_CALIBRATION)])
        every = training_cutoffs(panel, None, some.horizon, self.resolved("season"))
        every = every.at_least(-(-panel.lengths // 2))
        past = every[:: -(-len(every) // MAX_CALIBRATION)]
        blend, scores = fit_blend(some, past, self._reach, self._seasons, steps)
        if not centered:
            blend = blend._replace(weight=0.0)
        blended = some.blended(blend, self._reach)
        next_step = self._forecast(panel, validation, 1).blended(blend, self._reach)
        found = calibrate(blended, next_step, steps, spread=centered)
        facts: dict[str, Any] = {"blend": blend._asdict(), "calibration": found._asdict()}
        mase = blended.scores()["mase"]
        if np.isfinite(mase):  # which constant series have none of
            facts["held_out_mase"] = {"forecast": mase, **scores}
            facts["summary"] = _summary(mase, scores, blend)
        return facts

    # Prediction

    def _forecast(
        self,
        panel: Panel,
        cutoffs: Sequence[Cutoff],
        horizon: int | None = None,
        num_samples: int = 64,
        seed: int | None = 0,
    ) -> Forecast:
        if horizon is not None and (not isinstance(horizon, int) or horizon < 1):
            raise OstinatoError(f"Forecaster: horizon={horizon!r}; expected 1 or more steps.")
        ahead, context = horizon or self.resolved("horizon"), self.resolved("context")
        if not isinstance(num_samples, int) or num_samples < 1:
            raise OstinatoError(f"Forecaster: num_samples={num_samples!r}; expected 1 or more.")
        if not self.network_.direct:
            calendar = panel.grid.calendar_features if self.calendar else 0
            features = self.inputs_.encoding.sizes(calendar).future_covariates
            paths = len(cutoffs) * num_samples  # all of them are kept, and some are being drawn
            drawn = max(num_samples, min(MAX_ROWS, paths))
            kept = 16 * (1 + DRAWS) * paths * ahead
            size = kept + 4 * drawn * (self._history + context + ahead + features)
            call = f"Forecaster: horizon={ahead}, num_samples={num_samples}, {len(cutoffs)} series"
            check_memory(call, size + 12 * ahead * features, "choose fewer of them")
        windows = self._windows(panel, None if self.network_.direct else horizon)
        calibration = Calibration(**self.training_.get("calibration", {}))
        found = forecast(self.network_, windows, cutoffs, ahead, num_samples, seed, calibration)
        return found.blended(Blend(**self.training_.get("blend", {})), self._reach)

    def _panel(self, X: Any) -> Panel:
        """Return the series to forecast: those of the training data, or others like them."""
        self._device()  # which checks that the model is fitted
        if X is not None:
            return read_panel(X, self, self.panel_)
        if not self.panel_.lengths[0]:
            raise OstinatoError(
                f"{type(self).__name__}: the model was stored without its data; give the series to "
                "forecast."
            )
        return self.panel_

    def forecast(
        self,
        X: Any = None,
        horizon: int | None = None,
        *,
        num_samples: int = 64,
        seed: int | None = 0,
    ) -> Forecast:
        """Forecast each series from its end.

        Args:
            X: series, as in `fit`; if not given, here and below, those of the training data.
            horizon: steps ahead; as in training if not given. A direct model forecasts no more.
            num_samples: sample paths that are drawn, with ``method="autoregressive"``; they are
                spread evenly, so that 64 tell as much as some hundred independent ones.
            seed: of these.
        """
        panel = self._panel(X)
        ends = [Cutoff(i, length) for i, length in enumerate(panel.lengths.tolist())]
        return self._forecast(panel, ends, horizon, num_samples, seed)

    def predict(
        self, X: Any = None, horizon: int | None = None, *, point: str = "median"
    ) -> NDArray[np.float64]:
        """Predict the next values of each series, ``(N, horizon)``: the median, or the mean."""
        if point not in ("median", "mean"):
            raise OstinatoError(f"Forecaster.predict: point={point!r}; expected median or mean.")
        found = self.forecast(X, horizon)
        return found.median if point == "median" else found.mean

    def predict_quantiles(
        self, X: Any = None, levels: Sequence[float] = (0.1, 0.5, 0.9), horizon: int | None = None
    ) -> NDArray[np.float64]:
        """Predict quantiles, ``(N, horizon, levels)``."""
        return self.forecast(X, horizon).quantiles(levels)

    def sample(
        self,
        X: Any = None,
        num_samples: int = 1000,
        horizon: int | None = None,
        seed: int | None = 0,
    ) -> NDArray[np.float64]:
        """Draw sample paths, ``(N, num_samples, horizon)``; see `Forecast.sample`."""
        found = self.forecast(X, horizon, num_samples=num_samples, seed=seed)
        return found.sample(num_samples, seed)

    def stream(self, X: Any = None) -> ForecastStream:
        """Forecast after every observation, from the end of one series on.

        Its past ``X`` ends at the last value that is known; a missing one after it is
        ``observe(None)``.
        """
        return ForecastStream(self._forecast, self._panel(X), self._reach)

    # Evaluation

    def historical_forecasts(
        self,
        X: Any = None,
        *,
        cutoffs: int = 1,
        stride: int | None = None,
        num_samples: int = 64,
    ) -> Forecast:
        """Forecast from several cutoffs of each series, each with the values before it.

        The model is not trained again; see `backtest`.

        Args:
            X: series, as in `fit`.
            cutoffs: how many of each series, the last a horizon before its end.
            stride: steps from one to the next; a horizon if not given.
            num_samples: as in `forecast`.
        """
        panel, horizon = self._panel(X), self.resolved("horizon")
        found = last_cutoffs(panel, horizon, cutoffs, stride or horizon)
        return self._forecast(panel, found, None, num_samples)

    def evaluate(
        self, X: Any = None, y: None = None, *, cutoffs: int = 1, stride: int | None = None
    ) -> dict[str, float]:
        """Score forecasts of the last steps of each series; see `Forecast.scores`.

        The model is used as it is: of the series of the training data the last steps were validated
        on, and those before were trained on. `backtest` trains on what was known at each cutoff.
        Cutoffs are those of `historical_forecasts`.
        """
        return self.historical_forecasts(X, cutoffs=cutoffs, stride=stride).scores()

    def score(self, X: Any = None, y: None = None) -> float:
        """Return the skill over the seasonal naive by MASE: 1 for no error, 0 for as much."""
        found = self.evaluate(X)
        return float(1 - found["mase"] / found["seasonal_naive_mase"])

    def backtest(
        self, X: Any, *, cutoffs: int = 3, stride: int | None = None, refit: bool = False
    ) -> Forecast:
        """Train on what was known at the first cutoff, then forecast from several.

        Args:
            X: series, as in `fit`.
            cutoffs: how many, the last a horizon before the end.
            stride: steps between them; a horizon if not given.
            refit: train again at each of them, not only at the first.

        Returns:
            the forecasts, to be scored by their ``scores``; the estimator is left as it is.
        """
        panel = read_panel(X, self)
        # Nothing of the last part tells the season.
        season, longer = self._find_seasons(panel.hold_out(panel.lengths // 3))
        horizon = self.horizon or default_horizon(season, panel)
        model: Forecaster | None = None
        parts = []
        for k in reversed(range(cutoffs)):
            left = horizon + k * (stride or horizon)
            known = panel.until(left)
            if not known.series:
                raise DataError(
                    f"no series is longer than the {left} steps that {cutoffs} cutoffs need; give "
                    "fewer, or longer series."
                )
            if model is None or refit:
                how = {"horizon": horizon, "season": season, "long_season": longer}
                model = clone(self).set_params(**how).fit(known)
            lengths = (panel.lengths - left).tolist()
            now = [Cutoff(i, length) for i, length in enumerate(lengths) if length >= 2]
            parts.append(model._forecast(panel, now))
        return Forecast.concatenate(parts)

    # Insight

    def examples(
        self, X: Any, y: Any = None, *, count: int = 32, steps: int | None = None
    ) -> Sample:
        """Encode some windows; see `Estimator`."""
        return self._sample(read_panel(X, self, self.panel_), count)

    def _validation_sample(self, data: Path, count: int = 32, steps: int | None = None) -> Sample:
        return self._sample(self._panel_of_run(data), count)

    def _training_sample(self, data: Path, count: int = 32) -> Sample | None:
        return None  # the windows of a run are of the whole series

    def _sample(self, panel: Panel, count: int) -> Sample:
        horizon, season = self.resolved("horizon"), self.resolved("season")
        cutoffs = training_cutoffs(panel, None, horizon, season)
        random = np.random.default_rng(self.seed % 2**32)
        rows = random.choice(len(cutoffs), min(count, len(cutoffs)), replace=False)
        chosen = [cutoffs[row] for row in np.sort(rows).tolist()]
        window, targets, _ = self._windows(panel).take(chosen)
        device = self._device()
        window = window.to(device)
        return Sample(
            window.past_values,
            targets.to(device),
            encode=lambda values: window._replace(past_values=values),
        )

    def encode(self, sequence: Any) -> tuple[Window, list[str]]:
        """Encode one series; see `Estimator`."""
        panel = read_panel(sequence, self, self.panel_)
        end = Cutoff(0, int(panel.lengths[0]))
        window, _, _ = self._windows(panel).take([end])
        return window.to(self._device()), []

    # Storing

    def _documents(self, inputs: SeriesInputs, targets: NextValues) -> dict[str, Any]:
        return {
            "series.json": inputs.panel.to_json(),
            "covariates.json": inputs.encoding.to_json(),
        }

    def _restore(self, documents: Mapping[str, Any]) -> tuple[SeriesInputs, NextValues]:
        encoding = CovariateEncoding.from_json(documents["covariates.json"])
        data = self.folder_ / "data" if self.folder_ else None
        if data is not None:
            data = checked_data(data) if (data / STEPS).exists() else None
        return SeriesInputs(load_panel(data, documents["series.json"]), encoding), NextValues()


def _summary(mase: float, scores: Mapping[str, float], blend: Blend) -> str:
    """Say how good forecasts of the held-out steps are, beside simple rules."""
    best = min(scores[name] for name in scores if name != "network")
    how = ""
    if blend.weight:
        how = (
            f" (the network alone {scores['network']:.2f}; {100 * blend.weight:.0f} % of the "
            f"forecast is the rule{'s' * bool(blend.theta)} {blend})"
        )
    shown = dict.fromkeys([str(blend), *(name for name in scores if "naive" in name)])
    rules = ", ".join(f"{name} {scores[name]:.2f}" for name in shown)
    worse = "; no better than the simplest rules" if mase >= best else ""
    return f"MASE {mase:.2f} on held-out steps{how}; {rules}{worse}"
