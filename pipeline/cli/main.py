"""The commands as one program: which there are, and how a run of one ends."""

from __future__ import annotations

import argparse
import logging
import re
import signal
import sys
from collections.abc import Callable, Sequence

from .. import __version__
from ..console import Parser, patient_console
from ..errors import PipelineError
from ..signals import interruptible
from . import batch, bench, bench_mesh, bench_tables, finish, generate, inspect, refine, texture

COMMANDS = {
    "generate": generate,
    "batch": batch,
    "texture": texture,
    "refine": refine,
    "finish": finish,
    "inspect": inspect,
    "bench": bench,
    "bench-mesh": bench_mesh,
    "bench-tables": bench_tables,
}

_SIGNED = re.compile(r"-\.?\d")


class _Once(logging.Filter):
    """Each text once: pictures to project, for one, are cut out a second time, with all of their pixels."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        new = text not in self._said
        self._said.add(text)
        return new


def main(arguments: list[str] | None = None) -> int:
    """Run a command; see run_program for the exit codes."""
    return run_program(parser, arguments)


def run_program(make_parser: Callable[[], argparse.ArgumentParser], arguments: Sequence[str] | None) -> int:
    """Parse the arguments and call `run` of the result. Returns the exit code: 0 done, 1 an error that names its cure,
    2 wrong usage, 128 + the signal's number if interrupted: 130 for Ctrl-C."""
    with patient_console(), interruptible() as interruption:
        options = make_parser().parse_args(with_signed_values(sys.argv[1:] if arguments is None else arguments))
        options.check = interruption.check
        log = logging.getLogger(__name__.rpartition(".cli")[0])
        handler = logging.StreamHandler()
        handler.addFilter(_Once())
        log.handlers[:] = [handler]
        log.getChild("warp.kernel_cache").setLevel(logging.INFO)  # why a first run takes longer
        try:
            code = options.run(options)
            interruption.check()
            return code
        except PipelineError as error:
            if not interruption.number:
                print(f"error: {error}", file=sys.stderr)
                return 1
        except BaseException as error:  # an interrupted import fails in ways of its own
            if not (interruption.number or isinstance(error, KeyboardInterrupt)):
                raise
        print("interrupted", file=sys.stderr)
        return 128 + (interruption.number or signal.SIGINT)


def with_signed_values(arguments: Sequence[str]) -> list[str]:
    """Arguments with lengths below zero (-2mm) joined to the option before them: argparse takes them for options, says
    that a value is missing, and not what is wrong with the one given."""
    result: list[str] = []
    for argument in arguments:
        if result and _SIGNED.match(argument) and result[-1].startswith("--") and "=" not in result[-1]:
            result[-1] += "=" + argument
        else:
            result.append(argument)
    return result


def parser() -> argparse.ArgumentParser:
    """The parser of all commands; `run` of its result is the command's own."""
    whole = Parser("python -m pipeline", description="A picture to a textured GLB with TRELLIS.2.")
    whole.add_argument("--version", action="version", version=__version__)
    commands = whole.add_subparsers(required=True, metavar=" | ".join(COMMANDS))
    for name, command in COMMANDS.items():
        own = commands.add_parser(name, help=command.HELP)
        command.add(own)
        own.set_defaults(run=command.run)
    return whole
