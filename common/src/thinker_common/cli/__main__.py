"""`python -m <this package>`: the command line, and what every rank of a launched evaluation starts."""

from .main import main

main()
