"""One series as it goes on: an observation in, the next forecast out."""

from __future__ import annotations

import numpy as np

from ostinato.errors import OstinatoError
from ostinato.tasks.forecasting.forecast import Forecast
from ostinato.tasks.forecasting.panel import Cutoff, Panel, Series
from ostinato.tasks.forecasting.predictor import Predictor


class ForecastStream:
    """Forecasts of one series, one for each observation, in constant time.

    They equal those that `Forecaster.forecast` makes of the series so far, to the bit. As many
    values are kept as the network reads.

    Args:
        predictor: of a model without covariates other than the calendar.
        panel: the past of one series.

    Example:
        >>> from ostinato import Forecaster
        >>> model = Forecaster(horizon=2, season=4, hidden_size=8, epochs=1)
        >>> past = np.sin(np.arange(60))
        >>> stream = model.fit(past[:50]).stream()
        >>> for value in past[50:]:
        ...     forecast = stream.observe(value)
        >>> np.array_equal(forecast.median, model.predict(past))
        True
    """

    def __init__(self, predictor: Predictor, panel: Panel) -> None:
        if panel.columns.future_covariates or panel.columns.past_covariates:
            raise OstinatoError(
                "Forecaster.stream: the model reads covariates beside the series; give forecast() "
                "the series with them instead."
            )
        if len(panel) != 1:
            raise OstinatoError(f"Forecaster.stream: X holds {len(panel)} series; expected one.")
        self._predictor = predictor
        self._panel = panel.with_series([self._newest(panel.series[0])])

    def _newest(self, series: Series) -> Series:
        """The last values of a series."""
        return series.after(max(0, len(series.values) - self._predictor.context))

    def observe(
        self, value: float | None = None, *, num_samples: int = 1000, seed: int = 0
    ) -> Forecast:
        """Add one value, None for a missing one, and forecast what follows it."""
        try:
            new = float("nan") if value is None else float(value)
        except (TypeError, ValueError):
            new = np.inf
        if np.isinf(new):
            raise OstinatoError(f"ForecastStream.observe: value={value!r}; expected a number.")
        series = self._newest(self._panel.series[0].extended(new))
        self._panel = self._panel.with_series([series])
        now = Cutoff(0, len(series.values))
        return self._predictor.forecast(self._panel, [now], None, num_samples, seed)
