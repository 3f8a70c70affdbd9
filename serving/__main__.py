"""The command line of what serves many: python -m serving batch | run | generate | ..."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pipeline.cli.main import run_program
from pipeline.console import Command, Parser, program_parser
from pipeline.signals import leave_at_once

COMMANDS = {
    "batch": Command(
        f"{__package__}.ray_batch.batch",
        "make an object of each of many pictures on all GPUs of a machine or a cluster",
    ),
    "timeline": Command(
        f"{__package__}.ray_batch.timeline",
        "print the timeline of a batch: what each process did when, and how long it was idle",
    ),
    "run": Command(f"{__package__}.run", "serve pictures to GLBs over HTTP"),
    "generate": Command(f"{__package__}.client", "send pictures to a service and fetch the GLB"),
    "cold-start": Command(
        f"{__package__}.measure.cold_start",
        "measure seconds from start to ready and to the first GLB, without and with a warm kernel cache",
    ),
    "soak": Command(
        f"{__package__}.measure.soak", "run many jobs one after another and say whether memory grows between them"
    ),
    "load": Command(
        f"{__package__}.measure.load", "let many clients queue jobs at once, and measure /health meanwhile"
    ),
}


def parser(arguments: Sequence[str] | None = None) -> Parser:
    """The parser of all commands; arguments: as for program_parser."""
    return program_parser("python -m serving", "Many pictures, many GPUs, a service.", COMMANDS, arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; exit codes as those of `python -m pipeline`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_program(lambda: parser(arguments), arguments)


if __name__ == "__main__":
    leave_at_once()
    sys.exit(main())
