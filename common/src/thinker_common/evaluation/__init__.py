"""Generate (`generate`), grade (`grading`), count with honest statistics (`statistics`), and report (`report`).

`evaluate` puts them together. Import from the modules: importing this package imports none of them, and no torch.
"""
