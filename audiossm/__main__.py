"""`python -m audiossm` is the `audiossm` program."""

from audiossm.cli import main

main()
