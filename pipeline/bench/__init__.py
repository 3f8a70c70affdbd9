"""Measurements: what to measure on, the commands' runs, and the history that their tables are printed from."""
