"""The laws of the recurrence notice what they are there to notice."""

import os
import subprocess
import sys

import mutants
import pytest


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=str)
def test_every_fault_still_has_its_place(mutant):
    assert mutant.diff()
    compile(mutant.source(), mutant.path, "exec")


@pytest.mark.thorough
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks a child for every fault")
def test_every_fault_breaks_a_law_and_the_sound_package_breaks_none():
    # One thread: a child forked after a parallel region of PyTorch would hang.
    done = subprocess.run(
        [sys.executable, mutants.__file__],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"\n0 wrong of {len(mutants.MUTANTS) + 1}\n" in done.stdout
