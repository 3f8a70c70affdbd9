"""The command line of what serves many: python -m serving batch | run | generate | ..."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from pipeline.cli.main import run_program
from pipeline.console import Parser
from pipeline.signals import leave_at_once

# name -> module of this folder with HELP, add(parser) and run(options); only the one that is called is imported
COMMANDS = {
    "batch": "ray_batch.batch",
    "timeline": "ray_batch.timeline",
    "run": "run",
    "generate": "client",
    "cold-start": "measure.cold_start",
    "soak": "measure.soak",
    "load": "measure.load",
}


def parser(arguments: list[str]) -> argparse.ArgumentParser:
    """The parser of the command that the arguments begin with; of all commands where they name none."""
    whole = Parser("python -m serving", description="Many pictures, many GPUs, a service.")
    commands = whole.add_subparsers(required=True, metavar=" | ".join(COMMANDS))
    for name in arguments[:1] if arguments[:1] and arguments[0] in COMMANDS else COMMANDS:
        command = import_module(f"{__package__}.{COMMANDS[name]}")
        own = commands.add_parser(name, help=command.HELP)
        command.add(own)
        own.set_defaults(run=command.run)
    return whole


def main(arguments: list[str] | None = None) -> int:
    """Run a command; exit codes as those of `python -m pipeline`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_program(lambda: parser(arguments), arguments)


if __name__ == "__main__":
    leave_at_once()
    sys.exit(main())
