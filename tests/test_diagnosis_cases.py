"""The planted faults do harm, what is called healthy learns, and the counting is right."""

import importlib
import math
import sys
from pathlib import Path

import pytest

from ostinato.insight.causes import by_name

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def bench():
    """The scripts of the benchmark, which import one another as such."""
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("diagnosis_cases")
    sys.path.remove(str(BENCHMARKS))


def test_there_are_enough_kinds_forms_and_healthy_runs(bench):
    every = [case for case in bench.cases(range(3)) if not case.fresh]
    kinds = {case.kind for case in every if case.faulty}
    assert kinds == set(bench.EXPECTED) == set(bench.modules.FAULTS) | set(bench.fits.FAULTS)
    assert len(kinds) >= 40
    assert {case.form for case in every} == {"torch", "estimator", "command"}
    assert sum(not case.faulty for case in every) >= 60
    assert len(set(every)) == len(every)
    halves = list(bench.HALVES.values())
    assert abs(halves.count("tuning") - halves.count("held-out")) <= 1
    sound = [bench.half_of(case.kind) for case in every if not case.faulty]
    assert abs(sound.count("tuning") - sound.count("held-out")) <= 4


def test_the_fresh_set_is_of_the_same_kinds_and_of_other_data(bench):
    every = [case for case in bench.cases(range(3)) if case.fresh]
    kinds = {case.kind for case in every if case.faulty}
    assert kinds == set(bench.fresh.FAULTS) <= set(bench.fits.FAULTS)
    assert len(kinds) >= 12
    assert {case.form for case in every} == {"estimator", "command"}
    assert not set(bench.fresh.HEALTHY) & set(bench.fits.HEALTHY)
    assert {case.part for case in every} == {"fresh"}
    assert len(set(every)) == len(every)
    case = bench.Case("bidirectional-future", "estimator", 0, True, True)
    assert bench.setup_of(case, True).train[1][0][-1] == "terminus"
    rows = [{"kind": "x", "form": "command", "seed": 0, "fresh": fresh} for fresh in (True, False)]
    assert bench._key(rows[0]) != bench._key(rows[1]) == bench._key({**rows[1], "fresh": False})


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("state-leaks", "torch"),
        ("frozen-embedding", "torch"),
        ("nan-targets", "torch"),
        ("rate-too-low", "estimator"),
        ("labels-shifted", "command"),
    ],
)
def test_a_planted_fault_hurts_and_its_mended_copy_learns(bench, kind, form):
    case = bench.Case(kind, form, 1, True)
    assert bench.hurts(bench.outcome(case).error, bench.outcome(case, mended=True).error)


def test_values_that_are_not_finite_are_refused_by_name(bench):
    found = bench.outcome(bench.Case("nan-inputs", "estimator", 0, True))
    assert found.rank("nan-inputs") == 1
    assert "step 3" in found.text


@pytest.mark.parametrize(
    ("name", "form"), [("names, packed GRU", "torch"), ("tagger", "estimator")]
)
def test_a_healthy_run_learns_the_same_each_time(bench, name, form):
    case = bench.Case(name, form, 3, False)
    error = bench.outcome(case).error
    assert error < 0.75
    assert bench.outcome(case).error == error


def test_the_rank_is_that_of_the_first_finding_that_names_the_fault(bench):
    found = bench.Outcome(["vanishing over time", "learning rate too low"], False, 1.0, "")
    assert found.rank("rate-too-low") == 2
    assert found.rank("vanishing") == 1
    assert found.rank("dropout") is None
    known = {*by_name(), bench.REFUSED}
    assert all(name in known for names in bench.EXPECTED.values() for name in names)


def test_what_is_finished_is_not_run_again(bench, tmp_path, monkeypatch):
    ran = []

    def outcome(case, mended=False, try_remedies=False):
        ran.append(mended)
        return bench.Outcome(["dropout too strong"], False, 0.1 if mended else 0.9, "")

    def run(*flags):
        ran.clear()
        out = ["--out", str(tmp_path / "results.json")]
        flags = ["--kinds", "dropout", "--forms", "torch", "--seeds", "2", *flags, *out]
        monkeypatch.setattr(sys, "argv", ["diagnosis_cases.py", *flags])
        bench.main()
        return ran

    monkeypatch.setattr(bench, "outcome", outcome)
    assert run("--update") == [False, False]
    assert run("--missing") == []
    assert run("--missing", "--seeds", "3") == [False]
    assert run("--missing", "--check") == [False, True, False, True]
    assert run("--missing", "--check") == []
    assert run("--update") == [False, False]


def test_the_shares_are_counted(bench):
    row = {"faulty": True, "healthy": False, "names": ["x"]}
    rows = [
        row | {"rank": 1},
        row | {"rank": 2, "twin_rank": None, "twin_healthy": True},
        row | {"rank": None, "twin_rank": 1, "twin_healthy": False, "improves": [False, True]},
        row | {"rank": None, "names": [], "healthy": True},
        {"faulty": False, "healthy": True},
        {"faulty": False, "healthy": False},
    ]
    assert bench.summary(rows) == {
        "faults": 4,
        "healthy runs": 2,
        "named first": 0.25,
        "among the first two": 0.5,
        "called healthy, faulty": 0.25,
        "called healthy, healthy": 0.5,
        "first remedy improves": 0.0,
        "first of the tried improves": 1.0,
        "mended, not named first": 0.5,
        "mended, called healthy": 0.5,
    }


def test_what_only_the_user_can_apply_is_judged_by_the_mended_copy(bench):
    assert bench.gains([("a", ""), ("b", "")], [("b", "helped"), ("a", "not")]) == ("not", "helped")
    assert bench.gains([], []) == ()
    assert bench.improves("tried for 80 steps, helped: 9 %", None, 1.0, math.nan)
    assert not bench.improves("tried for 80 steps, did not help: 0 %", 1, 1.0, 0.1)
    assert bench.improves("", 1, 1.0, 0.96)
    assert not bench.improves("", 1, 1.0, 0.98)
    assert not bench.improves("", 2, 1.0, 0.1)
    assert not bench.improves("", 1, 1.0, math.nan)
