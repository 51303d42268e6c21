"""``ostinato examples``, and what a shell completes."""

import os
import subprocess
import tomllib
from pathlib import Path

import pytest
from command_line import assert_refused, everything

from ostinato.cli import COMMANDS, completion, examples
from ostinato.cli.commands import TASKED

ROOT = Path(__file__).parent.parent
FILES = sorted(
    path.relative_to(ROOT / "examples").as_posix()
    for path in (ROOT / "examples").rglob("*")
    if path.suffix in (".py", ".toml")
)


def test_every_example_is_listed_in_a_line_that_fits(ostinato):
    done = ostinato("examples")
    assert [*examples.available()] == FILES
    for name, about in examples.available().items():
        assert about and name.removesuffix(".py") in done.out
    assert max(map(len, done.out.splitlines())) <= 80


def test_examples_are_copied_whole_and_never_over_a_file(ostinato, here):
    done = ostinato("examples spelling adding --out mine")
    assert done.out.split() == ["mine/spelling.py", "mine/adding.py"]
    for name in ("spelling.py", "vanishing/adding.py"):
        assert (here / "mine" / Path(name).name).read_bytes() == (
            ROOT / "examples" / name
        ).read_bytes()
    before = everything(here)
    assert_refused(ostinato("examples timetable spelling --out mine"), "mine/spelling.py: already")
    assert_refused(ostinato("examples speling"), "there is no 'speling'; expected some of")
    assert everything(here) == before
    assert ostinato("examples --out all").status == 0
    assert len([*(here / "all").iterdir()]) == len(FILES)
    assert ostinato("examples spelling.py").status == 0 and (here / "spelling.py").is_file()


def test_the_wheel_has_the_examples_where_they_are_looked_for(monkeypatch, tmp_path):
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["scikit-build"]["wheel"]
    assert packages["packages"]["ostinato/examples"] == "examples"
    (tmp_path / "ostinato" / "examples").mkdir(parents=True)
    (tmp_path / "ostinato" / "examples" / "spelling.py").write_text('"""About."""')
    monkeypatch.setattr(examples.ostinato, "__file__", str(tmp_path / "ostinato" / "__init__.py"))
    assert examples.available() == {"spelling.py": "About."}


def test_a_shell_is_told_commands_options_and_choices():
    complete = completion.completions
    firsts = {name.split()[0] for name in COMMANDS}
    assert {*complete([""])} == firsts and complete(["gen"]) == ["generate"]
    tasks = {name.split()[1] for name in COMMANDS if name.startswith("train ")}
    assert {*complete(["train", ""])} == tasks and complete(["train", "rev"]) == []
    for name, command in COMMANDS.items():
        flags = complete([*name.split(), "--"]) if name not in TASKED else []
        own = [o.flag for o in command.options() if o.form == "keyword"]
        assert name in TASKED or {*own, "--help"} <= {*flags}, name
    assert complete(["train", "text", "--cell", "gru-r"]) == ["gru-reset-before"]
    assert complete(["train", "text", "book"]) == []  # files
    assert "--no-health" in complete(["train", "text", "--no"])
    assert complete(["nothing", "--x"]) == []


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_the_completion_of_a_shell_is_installed(ostinato, tmp_path, monkeypatch, shell):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", f"/bin/{shell}")
    done = ostinato("--install-completion")
    file = tmp_path / completion.SHELLS[shell][0]
    assert done.status == 0 and str(file) in done.out
    assert "ostinato --complete" in file.read_text()


def test_an_unknown_shell_is_refused(ostinato, monkeypatch):
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    assert_refused(ostinato("--install-completion"), "SHELL is tcsh; expected bash, zsh, fish")


def test_bash_completes_a_command(tmp_path):
    """The script in a real shell, with a program in place of ours that says what it is asked."""
    program = tmp_path / "ostinato"
    program.write_text('#!/bin/sh\nprintf \'%s\\n\' "$#" "$4"\n')
    program.chmod(0o755)
    script = f"{completion.BASH}\nCOMP_WORDS=(ostinato train text --le); COMP_CWORD=3\n_ostinato\n"
    script += 'printf "%s|" "${COMPREPLY[@]}"'
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], env=path, capture_output=True, text=True)
    assert done.stdout == "4|--le|", done.stderr
