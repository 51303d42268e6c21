"""Naive forecasts and scales, where values are missing."""

import numpy as np
import pytest

from ostinato.tasks.forecasting.scores import seasonal_naive, seasonal_naive_error


def test_naive_forecasts_skip_missing_values():
    past = np.array([1.0, 2, 3, 4, np.nan, 6])
    assert seasonal_naive(past, 5, 3).tolist() == [4, 2, 6, 4, 2]
    assert seasonal_naive(past, 2, 1).tolist() == [6, 6]
    assert seasonal_naive_error(past, 3) == pytest.approx(np.mean([3, 3]))
    assert np.isnan(seasonal_naive_error(np.ones(8), 2))
