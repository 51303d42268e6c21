"""``python -m ostinato``: the same as ``ostinato``."""

from ostinato.cli.app import main

main()
