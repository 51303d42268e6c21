"""``python -m ostinato.cli``: the same as ``ostinato``."""

from ostinato.cli.app import main

main()
