"""What the command lines share: error presentation (`app`), options, and the verbs `doctor`, `recipes` and `evaluate`.

No module here imports torch before a verb runs, so that `--help` answers at once.
"""
