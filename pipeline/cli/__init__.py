"""The command line: one command a file, each with `add`, which declares its options, and `run`."""
