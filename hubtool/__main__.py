"""``python -m hubtool`` is the command line."""

from hubtool.cli.main import main

main()
