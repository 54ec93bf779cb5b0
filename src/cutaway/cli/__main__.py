"""`python -m cutaway.cli`."""

from cutaway.cli import main

main()
