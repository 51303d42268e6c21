"""From a trained network to forecasts: in batches, in closed form or by sample paths."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ostinato.errors import DataError, OstinatoError
from ostinato.recurrence.layers import state_rows
from ostinato.tasks.forecasting.calibration import Calibration
from ostinato.tasks.forecasting.distributions import Units
from ostinato.tasks.forecasting.forecast import Forecast, Marginals, SamplePaths
from ostinato.tasks.forecasting.network import Ensemble, ForecastNetwork, Window
from ostinato.tasks.forecasting.panel import Cutoff, Panel
from ostinato.tasks.forecasting.windows import CovariateEncoding, Windows

MAX_ROWS = 8192
"""Sample paths that are drawn simultaneously."""

MAX_WINDOWS = 512
"""Windows that a direct model forecasts simultaneously."""


@dataclass(frozen=True)
class Predictor:
    """A trained network, and how windows for it are made.

    Args:
        network: the ensemble.
        encoding: of covariates.
        context: steps of the past, C.
        horizon: steps ahead that it was trained for.
        calendar: whether features of the calendar are read.
        calibration: of its forecasts.
    """

    network: Ensemble
    encoding: CovariateEncoding
    context: int
    horizon: int
    calendar: bool
    calibration: Calibration

    def windows(self, panel: Panel, horizon: int | None = None) -> Windows:
        """Return windows of a panel."""
        return Windows(
            panel,
            self.encoding,
            self.context,
            horizon or self.horizon,
            self.network.season,
            calendar=self.calendar,
            centered=self.network.distribution.centered,
        )

    def forecast(
        self,
        panel: Panel,
        cutoffs: Sequence[Cutoff],
        horizon: int | None = None,
        num_samples: int = 1000,
        seed: int | None = 0,
    ) -> Forecast:
        """Forecast from cutoffs.

        Args:
            panel: series.
            cutoffs: times to forecast from.
            horizon: steps ahead; as in training if not given.
            num_samples: sample paths of an autoregressive model.
            seed: of these.

        Raises:
            OstinatoError: on a horizon or number of samples that cannot be.
            DataError: if future covariates end before the horizon.
        """
        if horizon is not None and (not isinstance(horizon, int) or horizon < 1):
            raise OstinatoError(f"Forecaster: horizon={horizon!r}; expected 1 or more steps.")
        if not isinstance(num_samples, int) or num_samples < 1:
            raise OstinatoError(f"Forecaster: num_samples={num_samples!r}; expected 1 or more.")
        ahead, direct = horizon or self.horizon, self.network.direct
        if direct and ahead > self.horizon:
            raise OstinatoError(
                f"Forecaster: horizon={ahead}; the model forecasts {self.horizon} steps "
                "simultaneously and no more: train it with a longer horizon, or with "
                "method='autoregressive', which has no limit."
            )
        _check_future_covariates(panel, cutoffs, ahead)
        windows = self.windows(panel, None if direct else ahead)
        device = next(self.network.parameters()).device
        network = self.network.eval()
        arrays: list[NDArray[np.float64]] = []
        parts: list[Units] = []
        size = MAX_WINDOWS if direct else max(1, MAX_ROWS // num_samples)
        with torch.inference_mode():
            for begin in range(0, len(cutoffs), size):
                some = cutoffs[begin : begin + size]
                window, _, units = windows.take(some)
                window = window.to(device)
                parts.append(units)
                if direct:
                    p, _ = network(window)
                    arrays.append(p[:, :, :ahead].double().cpu().numpy())
                else:
                    randoms = [_generator(panel, cutoff, seed) for cutoff in some]
                    arrays.append(sample_paths(network, window, units, num_samples, randoms))
        predictive: Marginals | SamplePaths = (
            Marginals(network.distribution, np.concatenate(arrays, 1))
            if direct
            else SamplePaths(np.concatenate(arrays))
        )
        units = Units.concatenate(parts)
        return Forecast(panel, cutoffs, predictive, units, network.season, self.calibration)


def sample_paths(
    ensemble: Ensemble,
    window: Window,
    units: Units,
    num_samples: int,
    randoms: Sequence[np.random.Generator],
) -> NDArray[np.float64]:
    """Draw sample paths of windows, shared evenly between the members of an ensemble.

    Args:
        ensemble: autoregressive networks.
        window: B windows, whose horizon A is that of the paths.
        units: of them.
        num_samples: paths of each window.
        randoms: a random generator for each window, so that its paths do not depend on the others.

    Returns:
        ``(B, num_samples, A)``, in the units of the data, rounded.
    """
    M = len(ensemble)
    shares = [num_samples // M + (m < num_samples % M) for m in range(M)]
    drawn = [
        _member_paths(member, window, units, share, randoms)
        for member, share in zip(ensemble, shares, strict=True)
        if share
    ]
    return np.concatenate(drawn, 1)


def _member_paths(
    network: ForecastNetwork,
    window: Window,
    units: Units,
    num_samples: int,
    randoms: Sequence[np.random.Generator],
) -> NDArray[np.float64]:
    """Sample step by step: each step goes on from the values drawn before it."""
    C, A, B = window.context, window.horizon, len(randoms)
    p, values, state = network.begin(window)
    rows = torch.arange(B, device=p.device).repeat_interleave(num_samples)
    window, p, values, state = window.take(rows), p[rows], values[rows], state_rows(state, rows)
    location, scale = units.location[:, None], units.scale[:, None]
    found = np.empty((B, num_samples, A))
    for k in range(A):
        outputs = p.double().cpu().numpy().reshape(B, num_samples, -1)
        drawn = np.stack([
            network.distribution.sample(outputs[b], units.take(b), randoms[b]) for b in range(B)
        ])  # fmt: skip
        found[:, :, k] = drawn = units.round(drawn)
        if k + 1 == A:
            break
        z = torch.from_numpy((drawn - location) / scale).to(values).flatten()
        values = torch.cat([values, z[:, None]], 1)
        p, state = network.step(window, values, C + k + 1, state)
    return found


def _check_future_covariates(panel: Panel, cutoffs: Sequence[Cutoff], horizon: int) -> None:
    if not panel.columns.future_covariates:
        return
    for i, length in cutoffs:
        series = panel.series[i]
        left = len(series.future_covariates) - length
        if left < horizon:
            which = f"series {series.name!r}: " if series.name else ""
            raise DataError(
                f"{which}future covariates ({', '.join(panel.columns.future_covariates)}) end "
                f"{left} steps after the last value, and the horizon is {horizon}; add rows with "
                "them, the target left empty."
            )


def _generator(panel: Panel, cutoff: Cutoff, seed: int | None) -> np.random.Generator:
    """Return a random generator for one series from one time on."""
    if seed is None:
        return np.random.default_rng()
    series = panel.series[cutoff.series]
    name = zlib.crc32(series.name.encode())
    return np.random.default_rng([seed % 2**32, name, (series.start + cutoff.length) % 2**63])
