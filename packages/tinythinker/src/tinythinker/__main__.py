"""`python -m` of this package is its command line; every rank of a launched run starts here."""

from .cli import main

main()
