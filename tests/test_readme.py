"""Every block of code in the README does what the README says."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from command_line import write_data

from ostinato import cli

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
@pytest.mark.filterwarnings("default::UserWarning")
def test_shell_blocks_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """In their order, with small data and a small budget; make targets are only planned.

    The commands run in this process, which has imported PyTorch already.
    """
    write_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    for command in COMMANDS:
        budget = "--steps 30 --hidden-size 32"
        name, *words = shlex.split(command.replace("--minutes 5", budget))
        if name == "pip":
            assert words == ["install", "."]
            continue
        if name == "make":
            status: object = subprocess.run(["make", "-n", "-C", str(ROOT), *words]).returncode
        else:
            assert name == "ostinato"
            if words[0] == "train" and words[1] != "text":
                words += ["--epochs", "2", "--hidden-size", "8"]
            with pytest.raises(SystemExit) as end:
                cli.main(words)
            status = end.value.code
        out, err = capfd.readouterr()
        assert not status, f"{command}\n{out}\n{err}"
        assert out.strip(), f"{command} prints nothing"


def test_every_file_that_the_readme_names_is_there():
    text = (ROOT / "README.md").read_text()
    named = set(re.findall(r"\b(?:examples|docs|benchmarks)/[\w.]+\w", text))
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []
