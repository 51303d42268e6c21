"""Every block of code in the README does what the README says."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
COMMANDS = [
    line.partition("#")[0].strip()
    for language, block in BLOCKS
    if language == "sh"
    for line in block.splitlines()
]


def test_the_readme_has_blocks_of_known_languages_only():
    assert {language for language, _ in BLOCKS} == {"sh", "python"}


@pytest.mark.thorough
@pytest.mark.parametrize("code", [block for language, block in BLOCKS if language == "python"])
def test_python_blocks_run(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})


@pytest.mark.thorough
def test_shell_blocks_run(tmp_path: Path):
    """In their order, with a small book and a small budget; make targets are only planned."""
    (tmp_path / "book.txt").write_text("It was the best of times, it was the worst of times. " * 60)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in COMMANDS:
        words = shlex.split(command)
        if words[0] == "make":
            words = ["make", "-n", "-C", str(ROOT), *words[1:]]
        command = shlex.join(words).replace("--minutes 5", "--steps 30 --hidden-size 32")
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, env={**os.environ, "PATH": path},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        assert done.stdout.strip(), f"{command} prints nothing"


def test_every_file_that_the_readme_names_is_there():
    text = (ROOT / "README.md").read_text()
    named = set(re.findall(r"\b(?:examples|docs|benchmarks)/[\w.]+\w", text))
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []
