"""Completion of commands, options and their choices by the shell: ``--install-completion``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ostinato.cli.commands import COMMANDS, TASKED
from ostinato.errors import OstinatoError
from ostinato.files import atomic_file

BASH = """\
_ostinato() {
    local IFS=$'\\n'
    COMPREPLY=($(ostinato --complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _ostinato ostinato
"""
ZSH = """\
#compdef ostinato
local -a found
found=(${(f)"$(ostinato --complete "${(@)words[2,CURRENT]}" 2>/dev/null)"})
(( ${#found} )) && compadd -- $found || _files
"""
FISH = """\
function __ostinato
    set -l words (commandline -opc) (commandline -ct)
    ostinato --complete $words[2..] 2>/dev/null
end
complete -c ostinato -a '(__ostinato)'
"""
SHELLS = {
    "bash": (".local/share/bash-completion/completions/ostinato", BASH),
    "zsh": (".zfunc/_ostinato", ZSH),
    "fish": (".config/fish/completions/ostinato.fish", FISH),
}
"""For each shell its file below the home folder, and what this holds."""

LATER = {
    "bash": "open a new shell; if it has no bash-completion, add to ~/.bashrc: source {file}",
    "zsh": "add to ~/.zshrc, if it is not there: fpath+=~/.zfunc; autoload -U compinit; compinit",
    "fish": "open a new shell",
}


def install() -> None:
    """Write the completion of the shell that the environment names."""
    shell = Path(os.environ.get("SHELL", "")).name
    if shell not in SHELLS:
        raise OstinatoError(
            f"--install-completion: SHELL is {shell or 'not set'}; expected {', '.join(SHELLS)}: "
            "SHELL=bash ostinato --install-completion"
        )
    name, text = SHELLS[shell]
    file = Path.home() / name
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(file) as opened:
        opened.write(text.encode())
    print(f"{file}: written. Next: {LATER[shell].format(file=file)}")


def completions(words: Sequence[str]) -> list[str]:
    """Return what the last of some words may become; nothing where a file is expected.

    >>> completions(["train", "cl"]), completions(["train", "text", "--level", "b"])
    (['classify'], ['byte', 'bpe'])
    """
    *before, last = words or [""]
    two = bool(before) and before[0] in TASKED
    if len(before) < 1 + two:
        firsts = (name.split() for name in COMMANDS)
        found = [name[len(before)] for name in firsts if name[: len(before)] == before
                 and len(name) > len(before)]  # fmt: skip
        return [name for name in dict.fromkeys(found) if name.startswith(last)]
    command = COMMANDS.get(" ".join(before[: 1 + two]))
    if command is None:
        return []
    options = [o for o in command.options() if o.form == "keyword"]
    chosen = next((o for o in options if o.flag == before[-1]), None)
    if chosen is not None and chosen.kind.type is not bool:
        return [choice for choice in chosen.kind.choices if choice.startswith(last)]
    if not last.startswith("-"):
        return []
    flags = [o.flag for o in options] + ["--help"]
    flags += [f"--no-{o.flag[2:]}" for o in options if o.kind.type is bool and o.default]
    return [flag for flag in flags if flag.startswith(last)]
