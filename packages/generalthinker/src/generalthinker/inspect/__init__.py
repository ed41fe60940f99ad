"""`generalthinker inspect`: what training makes of the responses to one problem, and what became of a run."""
