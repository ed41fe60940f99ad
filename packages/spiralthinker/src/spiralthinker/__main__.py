"""`python -m <this package>`: the command line, and what every rank of a launched run starts."""

from .cli import main

main()
