"""The quality of a checkpoint on held-out objects, one file for each kind of evaluation; the README's picture."""
