"""The command line: ``ostinato train|predict|evaluate|generate|compose|diagnose|...``."""

from ostinato.cli.app import OPENMP, main
from ostinato.cli.commands import COMMANDS

__all__ = ["COMMANDS", "OPENMP", "main"]
