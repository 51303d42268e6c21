"""The laws of the recurrence notice what they are there to notice."""

import os
import subprocess
import sys

import mutants
import pytest

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks a child for every fault")


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=str)
def test_every_fault_still_has_its_place(mutant):
    assert mutant.diff()
    compile(mutant.source(), mutant.path, "exec")


def assert_noticed(number, *arguments):
    # One thread: a child forked after a parallel region of PyTorch would hang.
    done = subprocess.run(
        [sys.executable, mutants.__file__, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"\n0 wrong of {number + 1}\n" in done.stdout


@forks
@pytest.mark.thorough
def test_some_faults_break_laws_that_hold_for_the_sound_package():
    assert_noticed(len(mutants.sample()), "--sample")


@forks
@pytest.mark.slow
def test_every_fault_breaks_a_law_that_holds_for_the_sound_package():
    assert_noticed(len(mutants.MUTANTS))
