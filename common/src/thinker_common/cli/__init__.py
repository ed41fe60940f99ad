"""What the command lines share: error presentation (`app`), options and verbs; and the command line `thinker`.

No module here imports torch before a verb runs, so that `--help` answers at once.
"""
