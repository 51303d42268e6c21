"""Naive forecasts and scales, where values are missing."""

import numpy as np
import pytest

from ostinato.tasks.forecasting.scores import repeated, typical_step


def test_rules_go_round_what_is_missing():
    past = np.array([1.0, 2, 3, 4, np.nan, 6])
    assert repeated(past, 5, 3).tolist() == [4, 2, 6, 4, 2]
    assert repeated(past, 2, 1).tolist() == [6, 6]
    assert typical_step(past, 3) == pytest.approx(np.mean([3, 3]))
    assert np.isnan(typical_step(np.ones(8), 2))
