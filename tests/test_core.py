import importlib.metadata
import os
import platform
import subprocess
import sys

import pytest

from ostinato import _core

X86 = ["x86-64-v4", "x86-64-v3", "x86-64"]  # best first
HERE = X86 if platform.machine().lower() in {"x86_64", "amd64"} else ["generic"]


def instruction_set(wanted: str | None, code: str = "print(_core.instruction_set())"):
    """Ask a new process, since the choice is made once in each."""
    environment = {name: value for name, value in os.environ.items() if name != "OSTINATO_ISA"}
    if wanted is not None:
        environment["OSTINATO_ISA"] = wanted
    return subprocess.run(
        [sys.executable, "-c", f"from ostinato import _core\n{code}"],
        env=environment,
        capture_output=True,
        text=True,
    )


def test_the_core_was_built_for_this_version_of_the_package():
    assert _core.version() == importlib.metadata.version("ostinato")


def test_the_instruction_set_is_the_best_that_this_cpu_can_run():
    best = instruction_set(None).stdout.strip()
    assert best in HERE
    for better in HERE[: HERE.index(best)]:
        assert "is more than this CPU can run" in instruction_set(better).stderr


@pytest.mark.parametrize("name", HERE)
def test_the_environment_names_another(name):
    answer = instruction_set(name)
    if answer.returncode:  # a smaller CPU: refused, and it is told what it can have
        assert name != HERE[-1]
        assert f"ValueError: OSTINATO_ISA: '{name}' is more than this CPU can run" in answer.stderr
        assert HERE[-1] in answer.stderr
    else:
        assert answer.stdout.strip() == name


def test_an_empty_name_is_no_name():
    assert instruction_set("").stdout == instruction_set(None).stdout


@pytest.mark.parametrize("name", ["avx9", "X86-64", "x86-64 ", "x86-64-v2"])
def test_an_unknown_name_is_refused_with_the_choices(name):
    error = instruction_set(name).stderr
    assert f"ValueError: OSTINATO_ISA: '{name}' is no instruction set of this build" in error
    assert error.rstrip().endswith(f"{HERE[-1]}. Unset it to have the best of them.")


def test_an_unknown_name_does_no_harm_before_the_core_is_asked():
    assert instruction_set("avx9", code="print(_core.version())").returncode == 0


def test_a_refused_choice_can_be_mended_but_a_made_one_stays():
    code = f"""
import os
for name in "avx9", "{HERE[-1]}", "avx9":
    os.environ["OSTINATO_ISA"] = name
    try:
        print(_core.instruction_set())
    except ValueError:
        print("refused")
"""
    assert instruction_set(None, code).stdout.split() == ["refused", HERE[-1], HERE[-1]]
