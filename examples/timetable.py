"""The timetable: mathematics, science, English, and again. One day is missed.

What is taught tomorrow follows from what was taught today. Whoever missed a day must go on from
what it must have been: the network reads its own forecast in place of what it has not seen.

    python examples/timetable.py
"""

from __future__ import annotations

import numpy as np

from ostinato import Forecaster

SUBJECTS = {1: "mathematics", 2: "science", 3: "English"}


def main(days: int = 300, ahead: int = 6) -> float:
    """Share of days that are forecast right, some of them after a day that was missed."""
    random = np.random.default_rng(0)
    taught = np.tile(list(map(float, SUBJECTS)), days)
    attended = taught[:days].copy()
    attended[5 + np.flatnonzero(random.random(days - 10) < 0.1)] = np.nan  # missed
    model = Forecaster(horizon=ahead, season=1, context=24, learning_rate=0.003).fit(attended)
    right = []
    for end in (60, 61, 62):
        for missed in ([], [-1], [-2], [-4, -2]):
            past = taught[:end].copy()
            past[missed] = np.nan
            stream = model.stream(past[:-5])
            for day in past[-5:]:
                forecast = stream.observe(None if np.isnan(day) else day)
            days_ahead = np.round(forecast.median[0])
            right.append((days_ahead == taught[end : end + ahead]).mean())
            if end == 60:
                last = ["missed" if np.isnan(day) else SUBJECTS[int(day)] for day in past[-4:]]
                said = [SUBJECTS.get(int(day), "?") for day in days_ahead[:3]]
                print(f"{', '.join(last)}  ->  {', '.join(said)}")
    print(f"days right: {np.mean(right):.0%}")
    return float(np.mean(right))


if __name__ == "__main__":
    main()
