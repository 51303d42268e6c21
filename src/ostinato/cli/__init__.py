"""The command line: ``ostinato COMMAND``; `COMMANDS` has every command by its name."""

from ostinato.cli.app import OPENMP, main
from ostinato.cli.commands import COMMANDS

__all__ = ["COMMANDS", "OPENMP", "main"]
