"""Forecasts of series: prices, sensors, sales, each with how sure it is."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from ostinato.data.timeseries import Panel, Series, SeriesSettings, read_panel
from ostinato.errors import DataError, OstinatoError
from ostinato.recurrence.layers import state_rows
from ostinato.tasks.forecasting.calibration import Calibration
from ostinato.tasks.forecasting.distributions import DISTRIBUTIONS, Distribution, DistributionName
from ostinato.tasks.forecasting.forecast import Forecast, calibrated
from ostinato.tasks.forecasting.network import Committee, ForecastNetwork, Window
from ostinato.tasks.forecasting.windows import Covariates, Origin, Units, WindowBatches, Windows
from ostinato.training.estimators import Learning, Sample
from ostinato.training.progress import ProgressMode
from ostinato.training.supervised import SequenceEstimator

Method = Literal["direct", "paths"]

AN_EPOCH = 20_000
"""Windows of a pass over the data, at most."""

AT_ONCE = 8192
"""Rows that are forecast at a time."""


@dataclass(kw_only=True, eq=False, repr=False)
class Forecaster(SeriesSettings, SequenceEstimator):
    """A recurrent network that forecasts series of numbers and says how sure it is.

    One network learns from all series, at random moments of them. Each window of the past is
    brought to units of its own first, so that series of all sizes are alike. Missing values, and
    rows that are missing, are replaced by the network's own forecasts of them.

    Args:
        horizon: steps ahead; a season if not given, or 12 where there is none.
        method: paths, one step after the other, each from what the steps before it came to in a
            thousand futures; or direct, all steps ahead at once, which is faster.
        output: what is foretold of each step: student or gaussian, for a distribution of this name;
            negative-binomial, for counts; quantiles, for none.
        context: steps of the past that are read; by season, horizon and data if not given.
        members: networks that learn side by side and forecast together; if not given, 5 where data
            are few, else 1.
        learning_rate: the highest learning rate of the schedule.
        hidden_size: hidden units of each layer; by the size of the data if not given.
        dropout: share of features dropped before the output; by the size of the data if not given.

    Further settings are those of `SeriesSettings`, `SequenceEstimator` and `TrainingSettings`.

    Attributes:
        panel_: the series that were learnt from.
        covariates_: what is known of what goes with them.
        network_: the trained network.
        training_: facts of the training run.
        chosen_: settings that were not given, and what the data made of them.

    Example:
        >>> t = np.arange(120)
        >>> model = Forecaster(horizon=6, season=12, hidden_size=16, epochs=10, learning_rate=0.01)
        >>> model = model.fit(10 + 0.1 * t + np.sin(2 * np.pi * t / 12))
        >>> forecast = model.forecast()
        >>> model.predict().shape, forecast.quantiles([0.1, 0.9]).shape
        ((1, 6), (1, 6, 2))
        >>> wanted = 10 + 0.1 * (120 + np.arange(6)) + np.sin(2 * np.pi * (120 + np.arange(6)) / 12)
        >>> bool(np.abs(forecast.median[0] - wanted).max() < 1)
        True
    """

    horizon: int | None = None
    method: Method = "paths"
    output: DistributionName = "student"
    context: int | None = None
    members: int | None = None
    learning_rate: float = 0.001

    def check_settings(self) -> None:
        """Refuse what cannot be meant; see `TrainingSettings`."""
        super().check_settings()
        self._want_one_of("method", get_args(Method))
        self._want_one_of("output", get_args(DistributionName))
        for name in ("horizon", "context", "season"):
            if getattr(self, name) is not None:
                self._want(name, lambda n: 0 < n <= 100_000, "a number of steps, 1 or more")
        if self.members is not None:
            self._want("members", lambda n: 0 < n <= 100, "a number of networks, 1 to 100")

    # Learning

    def fit(
        self,
        X: Any,
        y: None = None,
        *,
        validation: Any = None,
        out: str | os.PathLike[str] | None = None,
        progress: ProgressMode = "quiet",
        tensorboard: bool = False,
    ) -> Self:
        """Learn to forecast series.

        Args:
            X: tables as `pathlib.Path`, one or several; a data frame of pandas; an array ``(T,)``,
                or several in a list or by name in a dictionary, NaN where a value is missing.
            y: nothing; the series are what is to be foretold.
            validation: nothing but None: the last steps of each series are held out to validate on.
            out: folder for the model, checkpoints, metrics and learning curve, made anew; None
                keeps all in memory.
            progress: bar, lines, json, quiet, or auto: a bar on a terminal, lines elsewhere.
            tensorboard: write curves for TensorBoard into ``out``.

        Raises:
            OstinatoError: on settings or data that cannot be used. Nothing is left behind.
        """
        if y is not None or validation is not None:
            raise OstinatoError(
                "Forecaster.fit: y and validation are not for forecasts: the series are both what "
                "is read and what is foretold, and their last steps are validated on."
            )
        return self._fit(lambda data: self._prepare(X, data), out, progress, tensorboard)

    def _prepare(self, X: Any, data: Path) -> dict[str, Any]:
        panel = read_panel(X, self)
        season = self.season or panel.grid.season
        longest = panel.longest
        if self.output == "negative-binomial":
            _refuse_what_is_no_count(panel)
        ahead = self.horizon or _usual_horizon(season, panel)
        if longest < ahead + 2:
            raise DataError(
                f"the longest series has {longest} steps, too few to learn to forecast {ahead} "
                f"ahead; give at least {ahead + 2}, or a shorter horizon."
            )
        context = self.context or min(max(3 * season, ahead, 30), max(2, longest - ahead))
        self.chosen_ = {"horizon": ahead, "season": season, "context": context}
        self.panel_, self.covariates_ = panel, Covariates.learn(panel)
        panel.save(data / "panel.npz")
        held = self._held(panel, ahead)
        training = self._training_origins(panel, held, ahead)
        if not training:
            raise DataError(
                f"no series is long enough to learn to forecast {ahead} steps ahead; the longest "
                f"has {longest}."
            )
        windows = min(len(training), AN_EPOCH)
        self.chosen_ |= self._choose(np.full(windows, context))
        lengths = [len(s.values) for s in panel.series]
        return {
            "series": len(panel),
            "shortest": min(lengths),
            "longest": longest,
            "missing": int(sum(np.isnan(s.values).sum() for s in panel.series)),
            "windows": len(training),
            "held_out": sum(h > 0 for h in held),
            "notes": panel.notes + self._warnings(panel, held, ahead),
        }

    def _warnings(self, panel: Panel, held: Sequence[int], ahead: int) -> list[str]:
        """What the user should know before it takes its time."""
        found = []
        if not any(held) and self.validation_fraction is None and len(panel) < 50:
            found.append(
                f"all are too short to validate on, which takes {3 * ahead + 2} steps: nothing "
                "tells when to stop, nor how wide intervals must be; a shorter horizon does"
            )
        if panel.known:
            least = min(len(s.known) - len(s.values) for s in panel.series)
            if least < ahead:
                found.append(
                    f"what is known ahead ({', '.join(panel.known)}) ends {max(0, least)} steps "
                    f"after the last value; to forecast it must go on for {ahead}"
                )
        return found

    def _choose(self, steps: NDArray[np.int64]) -> dict[str, Any]:
        return super()._choose(steps) | {"dropout": 0.1, "members": 5 if len(steps) < 2000 else 1}

    def _held(self, panel: Panel, ahead: int) -> list[int]:
        """Steps at the end of each series to validate on: what is to be foretold, or some more."""
        share = self.validation_fraction
        if share == 0:
            return [0] * len(panel)
        if share is None:
            share = 0.1 if len(panel) < 50 else 0.0
        found = []
        for series in panel.series:
            T = len(series.values)
            found.append(max(ahead, round(share * T)) if 3 * ahead + 2 <= T else 0)
        return found

    def _training_origins(self, panel: Panel, held: Sequence[int], ahead: int) -> list[Origin]:
        season = self._value("season")
        found = []
        for i, (series, left) in enumerate(zip(panel.series, held, strict=True)):
            T = len(series.values) - left
            first = max(2, min(season, T // 3))
            last = T - ahead if T - ahead > first else T - 1
            found += [Origin(i, now) for now in range(first, last + 1)]
        return found

    def _windows(self, panel: Panel, ahead: int | None = None) -> Windows:
        return Windows(
            panel,
            self.covariates_,
            self._value("context"),
            ahead or self._value("horizon"),
            self._value("season"),
            calendar=self.calendar,
            centred=self._distribution.centred,
        )

    @property
    def _distribution(self) -> Distribution:
        return DISTRIBUTIONS[self.output]

    def _make_network(self) -> nn.Module:
        known = self.covariates_.known.shape[1]
        if self.calendar:
            known += self.panel_.grid.calendar(np.zeros(1, np.int64)).shape[1]
        window = Window(known, self.covariates_.observed.shape[1], self.covariates_.kinds)
        season, context = self._value("season"), self._value("context")
        reach = min(context, max(2 * season + 1, 8)) if self.method == "paths" else context
        members = [
            ForecastNetwork(
                self._recurrent(ForecastNetwork.input_size(window, season)),
                self._distribution,
                window,
                ahead=self._value("horizon") if self.method == "direct" else None,
                season=season,
                reach=reach,
                dropout=self._value("dropout"),
            )
            for _ in range(self._value("members"))
        ]
        return Committee(members)

    def _learning(self, data: Path, facts: Mapping[str, Any], device: torch.device) -> Learning:
        ahead = self._value("horizon")
        panel = Panel.load(data / "panel.npz", self.panel_.to_json())
        self.panel_ = panel
        held = self._held(panel, ahead)
        cut = panel.of(
            s.until(len(s.values) - left) for s, left in zip(panel.series, held, strict=True)
        )
        batches = WindowBatches(
            self._windows(cut),
            self._training_origins(panel, held, ahead),
            self._value("batch_size"),
            AN_EPOCH,
            self.seed,
        )
        windows = self._windows(panel)
        origins = self._validation_origins(panel, held)

        def validate() -> float:
            total, count = 0.0, 0
            for begin in range(0, len(origins), 256):
                x, y, _ = windows.take(origins[begin : begin + 256])
                loss, _ = self.network_.loss(x.to(device), y.to(device))
                n = int((~y.isnan()).sum())
                total, count = total + n * float(loss), count + n
            return total / max(1, count)

        def objective(batch: Any, state: Any) -> tuple[Tensor, Any]:
            loss, _ = self.network_.loss(batch.inputs.to(device), batch.targets.to(device))
            return loss, None

        return Learning(
            batches,
            cast(Any, objective),
            title=self._title(facts, device),
            validate=validate if origins else None,
            counted="steps",
        )

    def _title(self, facts: Mapping[str, Any], device: torch.device) -> str:
        shortest, longest = facts["shortest"], facts["longest"]
        steps = f"{longest:,}" if shortest == longest else f"{shortest:,} to {longest:,}"
        notes = "".join(f"\n{note}" for note in facts["notes"])
        return (
            f"{facts['series']:,} series of {steps} steps of {self.panel_.grid.name}; "
            f"{self._value('horizon')} ahead from {self._value('context')}, season "
            f"{self._value('season')}; the last steps of {facts['held_out']:,} to validate on; "
            f"{self.cell} of {self.num_layers} x {self._value('hidden_size')} units, "
            f"{self._where(device)}" + self._said_of_choices() + notes
        )

    def _validation_origins(self, panel: Panel, held: Sequence[int]) -> list[Origin]:
        ahead = self._value("horizon")
        origins = [
            Origin(i, now)
            for i, (series, left) in enumerate(zip(panel.series, held, strict=True))
            for now in range(len(series.values) - left, len(series.values) - ahead + 1)
            if left
        ]
        return origins[:: -(-len(origins) // 2000) or 1]

    def _finish(self, data: Path) -> None:
        """Find from the held-out steps how forecasts must be read."""
        held = self._held(self.panel_, self._value("horizon"))
        origins = self._validation_origins(self.panel_, held)
        if origins:
            some = origins[:: -(-len(origins) // 400)]
            found = self._foretold(self.panel_, some, None, 200, 0)
            first = self._foretold(self.panel_, origins, 1, 400, 0)
            self.training_["calibration"] = calibrated(found, first, sum(held))._asdict()

    # Using

    def _panel(self, X: Any) -> Panel:
        """The series to forecast: those that were learnt from, or others like them."""
        check_is_fitted(self, "network_")
        if X is not None:
            return read_panel(X, self, self.panel_)
        if not self.panel_.series[0].values.size:
            raise OstinatoError(
                f"{type(self).__name__}: the model was stored without its data; give the series to "
                "go on with."
            )
        return self.panel_

    def forecast(
        self,
        X: Any = None,
        horizon: int | None = None,
        *,
        paths: int = 1000,
        seed: int | None = 0,
    ) -> Forecast:
        """What comes after the last known value of each series.

        Args:
            X: series, as in `fit`; if not given, those that were learnt from.
            horizon: steps ahead; as in training if not given. A direct model forecasts no more.
            paths: futures that are drawn, with ``method="paths"``.
            seed: of these.
        """
        panel = self._panel(X)
        ends = [Origin(i, len(s.values)) for i, s in enumerate(panel.series)]
        return self._foretold(panel, ends, horizon, paths, seed)

    def _foretold(
        self,
        panel: Panel,
        origins: Sequence[Origin],
        horizon: int | None,
        paths: int,
        seed: int | None,
    ) -> Forecast:
        ahead = horizon or self._value("horizon")
        if horizon is not None and (not isinstance(horizon, int) or horizon < 1):
            raise OstinatoError(f"Forecaster: horizon={horizon!r}; expected 1 or more steps.")
        if not isinstance(paths, int) or paths < 1:
            raise OstinatoError(f"Forecaster: {paths!r} paths; expected 1 or more.")
        if self.method == "direct" and ahead > self._value("horizon"):
            raise OstinatoError(
                f"Forecaster: horizon={ahead}; the model forecasts {self._value('horizon')} steps "
                "ahead at once and no more: train it with a longer horizon, or with "
                "method='paths', which has no end."
            )
        if panel.known:
            for i, now in origins:
                series = panel.series[i]
                if len(series.known) < now + ahead:
                    which = f"series {series.name!r}: " if series.name else ""
                    raise DataError(
                        f"{which}what is known ahead ({', '.join(panel.known)}) ends "
                        f"{len(series.known) - now} steps after the last value, and {ahead} are to "
                        "be foretold; add rows with it, their target left empty."
                    )
        windows = self._windows(panel, ahead if self.method == "paths" else None)
        device = next(self.network_.parameters()).device
        network: Committee = self.network_.eval()
        found: list[Any] = []
        of: list[Units] = []
        size = max(1, AT_ONCE // paths) if self.method == "paths" else 512
        with torch.inference_mode():
            for begin in range(0, len(origins), size):
                x, _, units = windows.take(origins[begin : begin + size])
                of.append(units)
                x = x.to(device)
                if self.method == "direct":
                    p, _ = network(x)
                    found.append(p[:, :, :ahead].double().cpu().numpy())
                    continue
                M = len(network.members)
                shares = [paths // M + (m < paths % M) for m in range(M)]
                randoms = [_dice(panel, origin, seed) for origin in origins[begin : begin + size]]
                drawn_by = [
                    self._drawn(cast(ForecastNetwork, member), x, units, ahead, share, randoms)
                    for member, share in zip(network.members, shares, strict=True)
                    if share
                ]
                found.append(np.concatenate(drawn_by, 1))
        units = Units(*(np.concatenate(each) for each in zip(*of, strict=True)))
        values = np.concatenate(found, 0 if self.method == "paths" else 1)
        nothing = np.zeros((1, len(origins), 0, self._distribution.size))
        drawn = self.method == "paths"
        return Forecast(
            panel,
            origins,
            self._distribution,
            nothing if drawn else values,
            units,
            self._value("season"),
            values if drawn else None,
            Calibration(**self.training_.get("calibration", {})),
        )

    def _drawn(
        self,
        network: ForecastNetwork,
        x: Tensor,
        units: Units,
        ahead: int,
        paths: int,
        randoms: Sequence[np.random.Generator],
    ) -> NDArray[np.float64]:
        """Futures ``(B, paths, ahead)``, step by step: each goes on from what it came to.

        Each series has dice of its own, so that what is said of it is not touched by the others.
        """
        C = x.shape[1] - ahead
        p, values, state = network.begin(x, ahead)
        each = torch.arange(len(x), device=x.device).repeat_interleave(paths)
        x, p, values, state = x[each], p[each], values[each], state_rows(state, each)
        location, scale, grain = (unit[:, None] for unit in units[:3])
        found = np.empty((len(randoms), paths, ahead))
        for k in range(ahead):
            outputs = p.double().cpu().numpy().reshape(len(randoms), paths, -1)
            rows = zip(outputs, location, scale, grain, randoms, strict=True)
            drawn = np.stack([self._distribution.sample(*row) for row in rows])
            found[:, :, k] = drawn = units.rounded(drawn)
            if k + 1 == ahead:
                break
            z = torch.from_numpy((drawn - location) / scale).to(values).flatten()
            values = torch.cat([values, z[:, None]], 1)
            p, state = network.step(x, values, C + k + 1, state)
        return found

    def predict(
        self, X: Any = None, horizon: int | None = None, *, point: str = "median"
    ) -> NDArray[np.float64]:
        """What comes next of each series, ``(N, horizon)``.

        Args:
            X: series, as in `fit`; if not given, those that were learnt from.
            horizon: steps ahead, as in `forecast`.
            point: median, which halves what may come; or mean.
        """
        if point not in ("median", "mean"):
            raise OstinatoError(f"Forecaster.predict: point={point!r}; expected median or mean.")
        forecast = self.forecast(X, horizon)
        return forecast.median if point == "median" else forecast.mean

    def predict_quantiles(
        self, X: Any = None, levels: Sequence[float] = (0.1, 0.5, 0.9), horizon: int | None = None
    ) -> NDArray[np.float64]:
        """Values below which shares ``levels`` of what may come lie, ``(N, horizon, levels)``."""
        return self.forecast(X, horizon).quantiles(levels)

    def sample(
        self, X: Any = None, count: int = 1000, horizon: int | None = None, seed: int | None = 0
    ) -> NDArray[np.float64]:
        """Futures that may come, ``(N, count, horizon)``; see `Forecast.sample`."""
        forecast = self.forecast(X, horizon, paths=count, seed=seed)
        return forecast.sample(count, seed) if forecast.paths is None else forecast.paths

    # How good it is

    def rolled(
        self, X: Any = None, *, origins: int = 1, stride: int | None = None, paths: int = 400
    ) -> Forecast:
        """Forecasts from several moments of each series, each with what was known then.

        Args:
            X: series, as in `fit`; if not given, those that were learnt from.
            origins: moments of each series, the last a horizon before its end.
            stride: steps from one to the next; a horizon if not given.
            paths: as in `forecast`.
        """
        panel = self._panel(X)
        ahead = self._value("horizon")
        step = stride or ahead
        moments = [
            Origin(i, now)
            for i, series in enumerate(panel.series)
            for k in reversed(range(origins))
            if (now := len(series.values) - ahead - k * step) >= 2
        ]
        if not moments:
            raise DataError(
                f"no series has the {ahead + 2} steps that it takes to forecast {ahead} ahead and "
                "to know what came."
            )
        return self._foretold(panel, moments, None, paths, 0)

    def evaluate(
        self, X: Any = None, y: None = None, *, origins: int = 1, stride: int | None = None
    ) -> dict[str, Any]:
        """How good forecasts of the last steps of each series are; see `Forecast.scores`.

        The model is used as it is; of the series that it has learnt from the last steps have been
        validated on, and what came before has been learnt. `backtest` learns anew from what was
        known at the time.

        Args:
            X: series, as in `fit`; if not given, those that were learnt from.
            y: nothing.
            origins: moments to forecast from, as in `rolled`.
            stride: steps between them.
        """
        forecast = self.rolled(X, origins=origins, stride=stride)
        return dict(forecast.scores())

    def score(self, X: Any = None, y: None = None) -> float:
        """How much better than the seasonal naive: 1 for no error, 0 for as much, by MASE."""
        found = self.evaluate(X)
        return float(1 - found["mase"] / found["seasonal_naive_mase"])

    def backtest(
        self, X: Any, *, origins: int = 3, stride: int | None = None, refit: bool = False
    ) -> Forecast:
        """What forecasts would have been worth: learnt from what was known, rolled forward.

        Args:
            X: series, as in `fit`.
            origins: moments to forecast from, the last a horizon before the end.
            stride: steps between them; a horizon if not given.
            refit: learn anew at each of them, not only at the first.

        Returns:
            the forecasts, whose ``scores`` tell how good they were; the estimator is left as it is.
        """
        panel = read_panel(X, self)
        season = self.season or panel.grid.season
        ahead = self.horizon or _usual_horizon(season, panel)
        step = stride or ahead
        parts: list[Forecast] = []
        model: Any = None
        for k in reversed(range(origins)):
            left = ahead + k * step
            known = panel.until(left)
            if not known.series:
                raise DataError(
                    f"no series is longer than the {left} steps that {origins} moments need; give "
                    "fewer, or longer series."
                )
            if model is None or refit:
                model = clone(self).set_params(horizon=ahead, season=season).fit(known)
            moments = [
                Origin(i, len(s.values) - left)
                for i, s in enumerate(panel.series)
                if len(s.values) - left >= 2
            ]
            parts.append(model._foretold(panel, moments, None, 400, 0))
        paths = [part.paths for part in parts]
        counts = [len(part.origins) for part in parts]
        return Forecast(
            panel,
            [origin for part in parts for origin in part.origins],
            self._distribution,
            np.concatenate([part.p for part in parts], 1),
            Units(*(np.concatenate(each) for each in zip(*(p.units for p in parts), strict=True))),
            season,
            None if paths[0] is None else np.concatenate(cast(Any, paths)),
            Calibration(*np.repeat([p.calibration for p in parts], counts, 0).T),
        )

    def stream(self, X: Any = None) -> ForecastStream:
        """Forecasts that go on with every observation, from the end of one series.

        Args:
            X: its past, as in `fit`, up to the last value that is known (what is missing after it
                is told by ``observe(None)``); if not given, the series that was learnt from.
        """
        return ForecastStream(self, self._panel(X))

    # Looking into it

    def examples(
        self, X: Any, y: Any = None, *, count: int = 32, steps: int | None = None
    ) -> Sample:
        """Some windows; see `NetworkEstimator`."""
        return self._some(read_panel(X, self, self.panel_), count)

    def examples_of_run(self, data: Path, *, count: int = 32, steps: int | None = None) -> Sample:
        """Some windows of a run's series; see `NetworkEstimator`."""
        return self._some(Panel.load(data / "panel.npz", self.panel_.to_json()), count)

    def _some(self, panel: Panel, count: int) -> Sample:
        ahead = self._value("horizon")
        origins = self._training_origins(panel, [0] * len(panel), ahead)
        rows = np.random.default_rng(self.seed % 2**32).permutation(len(origins))[:count]
        x, y, _ = self._windows(panel).take([origins[row] for row in np.sort(rows)])
        device = next(self.network_.parameters()).device
        return Sample(x.to(device), y.to(device))

    def reading(self, sequence: Any) -> tuple[Tensor, list[str]]:
        """One series as the network takes it; see `NetworkEstimator`."""
        panel = read_panel(sequence, self, self.panel_)
        x, _, _ = self._windows(panel).take([Origin(0, len(panel.series[0].values))])
        return x.to(next(self.network_.parameters()).device), []

    # Keeping

    def _documents(self) -> dict[str, Any]:
        return {
            "series.json": self.panel_.to_json(),
            "covariates.json": self.covariates_.to_json(),
        }

    def _take_documents(self, documents: Mapping[str, Any]) -> None:
        self.covariates_ = Covariates.from_json(documents["covariates.json"])
        data = self.folder_ / "data" / "panel.npz" if self.folder_ else None
        self.panel_ = Panel.load(data if data and data.exists() else None, documents["series.json"])


class ForecastStream:
    """One series as it goes on: an observation in, the next forecast out, in constant time.

    What it says is what `Forecaster.forecast` says of the series so far, to the bit. It keeps as
    many values as the network reads.

    Args:
        model: a trained `Forecaster`, without covariates other than the calendar.
        panel: the past of one series.

    Example:
        >>> model = Forecaster(horizon=2, season=4, hidden_size=8, epochs=1)
        >>> past = np.sin(np.arange(60))
        >>> stream = model.fit(past[:50]).stream()
        >>> for value in past[50:]:
        ...     forecast = stream.observe(value)
        >>> np.array_equal(forecast.median, model.predict(past))
        True
    """

    def __init__(self, model: Forecaster, panel: Panel) -> None:
        if panel.known or panel.observed:
            raise OstinatoError(
                "Forecaster.stream: the model reads covariates beside the series; give forecast() "
                "the series with them instead."
            )
        if len(panel) != 1:
            raise OstinatoError(f"Forecaster.stream: X holds {len(panel)} series; expected one.")
        self._model = model
        self._keep = model._value("context")
        self._panel = panel.of([_newest(panel.series[0], self._keep)])

    def observe(self, value: float | None = None, *, paths: int = 1000, seed: int = 0) -> Forecast:
        """What comes after one more value; None for one that is missing."""
        series = self._panel.series[0]
        try:
            new = float("nan") if value is None else float(value)
        except (TypeError, ValueError):
            new = np.inf
        if np.isinf(new):
            raise OstinatoError(f"ForecastStream.observe: value={value!r}; expected a number.")
        nothing = np.zeros((1, 0))
        longer = series._replace(
            values=np.append(series.values, new),
            known=np.concatenate([series.known[: len(series.values)], nothing]),
            observed=np.concatenate([series.observed, nothing]),
        )
        self._panel = self._panel.of([_newest(longer, self._keep)])
        now = Origin(0, len(self._panel.series[0].values))
        return self._model._foretold(self._panel, [now], None, paths, seed)


def _dice(panel: Panel, origin: Origin, seed: int | None) -> np.random.Generator:
    """A series' own, from a moment on."""
    series = panel.series[origin.series]
    if seed is None:
        return np.random.default_rng()
    name = zlib.crc32(series.name.encode())
    return np.random.default_rng([seed % 2**32, name, (series.start + origin.known) % 2**63])


def _usual_horizon(season: int, panel: Panel) -> int:
    """A season, but no more than leaves enough to learn from and to validate on."""
    return min(season if season > 1 else 12, max(1, (panel.longest - 2) // 3))


def _refuse_what_is_no_count(panel: Panel) -> None:
    for series in panel.series:
        seen = np.nan_to_num(series.values)
        odd = np.flatnonzero((seen < 0) | (seen != np.round(seen)))
        if len(odd):
            at = panel.grid.shown(series.start + int(odd[0]))
            name = f"series {series.name!r}" if series.name else panel.target
            raise DataError(
                f"{name} is {seen[odd[0]]:g} at {at}; output='negative-binomial' is for counts, "
                "whole numbers from 0 on: choose another output."
            )


def _newest(series: Series, keep: int) -> Series:
    """The last values of a series."""
    left = max(0, len(series.values) - keep)
    return series._replace(
        start=series.start + left,
        values=series.values[left:],
        known=series.known[left:],
        observed=series.observed[left:],
    )
