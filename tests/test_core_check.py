"""The core against its check without Python, the check against planted faults."""

from collections.abc import Iterator
from pathlib import Path

import core_check
import cpp_faults
import pytest

needs_compiler = pytest.mark.skipif(
    not core_check.available(), reason="needs a C++ compiler on Linux"
)
SAMPLE = [
    "core.cpp: rows by rising length",
    "threads.cpp: the caller does not wait for the last worker",
]


@pytest.mark.parametrize("fault", cpp_faults.ALL, ids=str)
def test_every_fault_still_has_its_place(fault: cpp_faults.Fault) -> None:
    assert fault.line() >= 0
    assert fault.sound != fault.faulty


@pytest.mark.thorough
@needs_compiler
def test_the_core_passes_its_check_and_with_faults_of_two_kinds_it_does_not(
    tmp_path: Path,
) -> None:
    trial = cpp_faults.Trial(tmp_path)
    assert trial.outcome(None) == ""
    faults = {str(fault): fault for fault in cpp_faults.ALL}
    lives = [name for name in SAMPLE if not trial.outcome(faults[name])]
    assert not lives


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[cpp_faults.Trial]:
    yield cpp_faults.Trial(tmp_path_factory.mktemp("faults"))


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("fault", [None, *cpp_faults.ALL], ids=str)
def test_the_check_fails_with_a_fault_and_only_then(
    trial: cpp_faults.Trial, fault: cpp_faults.Fault | None
) -> None:
    assert bool(trial.outcome(fault)) == (fault is not None)


@pytest.mark.slow
@needs_compiler
@pytest.mark.skipif(bool(core_check.arm_lacks()), reason=f"needs {core_check.ARM_PACKAGES}")
def test_64_bit_arm_gives_the_same_bits(tmp_path: Path) -> None:
    digests = core_check.arm_digests(tmp_path, 100)
    assert len(set(digests.values())) == 1, digests


@pytest.mark.slow
@needs_compiler
def test_the_sanitizers_find_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    status = core_check.main()
    assert status == 0, capfd.readouterr().out
