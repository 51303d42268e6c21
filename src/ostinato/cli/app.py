"""The program ``ostinato``: finds the command, runs it, and turns errors into one line."""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
import time
import warnings
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

import ostinato
from ostinato.cli import (  # noqa: F401 add commands
    demo,
    examples,
    exchange,
    inspection,
    prediction,
    preparing,
    training,
    tuning,
    writing,
)
from ostinato.cli.commands import COMMANDS, GROUPS, TASKED, listed, refuse_wrong_task
from ostinato.cli.completion import completions, install
from ostinato.cli.options import check_options, help_of, parse
from ostinato.errors import OstinatoError
from ostinato.launch import PeerError, launch
from ostinato.memory import available_memory

OPENMP = {"GOMP_SPINCOUNT": "5000", "KMP_BLOCKTIME": "1"}
"""How long OpenMP's threads spin for one another before they sleep: looks, of GCC's runtime, which
take a tenth of a millisecond or two; milliseconds, of LLVM's and Intel's. Their own defaults are
5 and 200 milliseconds, for which a thread that waits keeps a core from who else wants it."""


SAME = 1.0
"""Seconds in which another rank than the first waits whether that says the same."""

LONGEST = 2000
"""Letters of an error, at most: an argument that it quotes may be very long."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command; ends the process with 0, 2 after a mistake of the user, 130 after Ctrl-C."""
    _limit_spinning()
    warnings.showwarning = _show_warning
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 who called closes it
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")  # not every terminal knows every letter
            if sys.platform == "win32":  # which writes files in an encoding of the country
                stream.reconfigure(encoding="utf-8")
    try:
        if launch().rank:  # the first one prints
            sys.stdout = io.StringIO()
        status = _run(sys.argv[1:] if argv is None else list(argv))
        print(end="", flush=True)  # while a broken pipe can still be dealt with
    except OstinatoError as error:
        _fail(str(error), isinstance(error, PeerError))
    except OSError as error:
        name, reason = error.filename, error.strerror or error
        if error.errno in (errno.EPIPE, errno.ENOSPC, errno.EFBIG) and name is None:
            # What it holds would be written once more at the end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            name = "standard output"
        if isinstance(error, BrokenPipeError):
            sys.exit(141)
        if isinstance(error, IsADirectoryError):
            reason = "is a folder; expected a file"
        _fail(f"{name or 'standard input'}: {reason}")
    except KeyboardInterrupt:
        sys.exit(130)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "allocate" not in str(error):
            raise
        _fail(
            f"out of memory: this process has {available_memory():,} bytes; choose a smaller "
            "hidden_size, batch_size, window or horizon, or less data."
        )
    else:
        sys.exit(status or 0)


def _run(tokens: list[str]) -> int | None:
    if tokens == ["--version"]:
        print(f"ostinato {ostinato.__version__}")
        return 0
    if tokens == ["--install-completion"]:
        install()
        return 0
    if tokens[:1] == ["--complete"]:  # asked by a shell
        print("\n".join(completions(tokens[1:])))
        return 0
    words = 2 if tokens and tokens[0] in TASKED else 1
    name, rest = " ".join(tokens[:words]), tokens[words:]
    if not tokens or {*tokens[:words]} & {"-h", "--help"} or (words == 2 and len(tokens) == 1):
        print(_overview(tokens[0] if tokens else ""))
        return 0
    close = [] if name in COMMANDS else get_close_matches(name, COMMANDS, n=1)
    there = [os.path.exists(token) for token in tokens[1:]] if words == 2 else []
    if name not in COMMANDS and any(there) and (there[0] or not close):
        name, rest = tokens[0], tokens[1:]
    if name not in COMMANDS:
        if words == 2 and tokens[1][0:1] != "-" and os.path.splitext(tokens[1])[1]:
            folder, file = os.path.split(tokens[1])
            files = os.listdir(folder or ".") if os.path.isdir(folder or ".") else []
            like = get_close_matches(file, files, n=1, cutoff=0.8)
            hint = f"; did you mean {os.path.join(folder, like[0])}?" if like else "."
            raise OstinatoError(f"{tokens[1]}: no such file{hint}")
        hint = f"did you mean {close[0]!r}?" if close else "see ostinato --help."
        raise OstinatoError(f"unknown command {name!r}; {hint}")
    if (size := launch().size) > 1 and not name.startswith("train "):
        raise OstinatoError(
            f"{name}: torchrun launched {size} processes; expected ostinato train TASK, the "
            "only command that they share the work of."
        )
    command = COMMANDS[name]
    options = command.options()
    rest = _import_cell(rest, any(option.name == "cell" for option in options))
    if {"-h", "--help"} & {*rest[: rest.index("--") if "--" in rest else None]}:
        print(help_of(name, command.text, options), end="")
        return 0
    args, given = parse(name, options, rest)
    check_options(name, options, given)
    if command.protocol:
        refuse_wrong_task(command, args[0])
    return command.call(*args, **given)


def _import_cell(tokens: list[str], takes_it: bool) -> list[str]:
    """Import the module of ``--cell package.module:MyCell``, which every command understands.

    A model with such a cell holds its name alone: only who uses the model says what is imported.
    """
    end = tokens.index("--") if "--" in tokens else len(tokens)
    for i, token in enumerate(tokens[:end]):
        flag, joined, value = token.partition("=")
        value = value if joined else "".join(tokens[i + 1 : i + 2])
        module, colon, name = value.partition(":")
        if flag != "--cell" or not colon:
            continue
        sys.path.insert(0, os.getcwd())
        try:
            found = importlib.import_module(module)
        except (ImportError, ValueError) as error:
            raise OstinatoError(f"--cell {value}: cannot import {module!r}: {error}.") from error
        finally:
            sys.path.pop(0)
        if not hasattr(found, name):
            raise OstinatoError(f"--cell {value}: {module} has no {name}.")
        return tokens if takes_it else tokens[:i] + tokens[i + (1 if joined else 2) :]
    return tokens


def _overview(of: str) -> str:
    """Return the list of commands, or of those that train."""
    lines = ["usage: ostinato COMMAND ... [options]", ""]
    lines += ["Train recurrent neural networks on sequences, use them, look inside."]
    groups = {each: listed(each) for each in ([TASKED[of]] if of in TASKED else GROUPS)}
    width = max(len(each.name) for commands in groups.values() for each in commands) + 2
    for group, commands in groups.items():
        lines += ["", f"{group}:"]
        lines += [f"  {each.name:<{width}}{each.text.splitlines()[0]}" for each in commands]
    lines += ["", "ostinato COMMAND --help shows its options and examples."]
    return "\n".join([*lines, "ostinato --install-completion teaches them to your shell."])


def _limit_spinning() -> None:
    """Let OpenMP, which PyTorch starts, put threads to sleep soon, unless the user has set that."""
    names = {*OPENMP, "OMP_WAIT_POLICY"}
    if "torch" not in sys.modules and names.isdisjoint(os.environ):
        os.environ.update(OPENMP)


def _fail(message: str, peer: bool = False) -> NoReturn:
    try:
        rank = launch().rank
    except OstinatoError:  # which is what the message says
        rank = 0
    if rank:
        if peer:  # which has said it
            sys.exit(2)
        time.sleep(SAME)  # what all say the first one says, and torchrun ends the others
        message = f"rank {rank}: {message}"
    line = " ".join(message.split())
    line = line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"
    print(f"ostinato: {line}", file=sys.stderr)
    sys.exit(2)


def _show_warning(message: Warning | str, *args: Any, **kwargs: Any) -> None:
    print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)
