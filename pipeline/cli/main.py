"""The commands as one program: their table, and the exit codes of a run."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from .. import __version__
from ..console import Command, Parser, patient_console, program_parser
from ..errors import PipelineError
from ..signals import interruptible

_PACKAGE = __name__.rpartition(".")[0]
COMMANDS = {
    "generate": Command(f"{_PACKAGE}.generate", "make a GLB, or another 3D file, from a picture"),
    "batch": Command(f"{_PACKAGE}.batch", "make an object of each of many pictures; what is done is not done again"),
    "texture": Command(f"{_PACKAGE}.texture", "texture a mesh that you have"),
    "refine": Command(f"{_PACKAGE}.refine", "make a mesh that you have finer"),
    "finish": Command(f"{_PACKAGE}.finish", "make a GLB from a saved state, with other settings than before"),
    "inspect": Command(
        f"{_PACKAGE}.inspect",
        "what a checkpoint is, and what it is complete for; or what a mesh file is like, and whether it prints",
    ),
    "bench": Command(
        f"{_PACKAGE}.bench", "seconds and peak memory of every stage, random weights on synthetic surfaces"
    ),
    "bench-mesh": Command(
        f"{_PACKAGE}.bench_mesh", "seconds, peak memory and quality of the post-processing, on procedural meshes"
    ),
    "bench-tables": Command(f"{_PACKAGE}.bench_tables", "print a history of measurements as Markdown tables"),
}


class _Once(logging.Filter):
    """Each text once: pictures to project, for one, are cut out a second time, with all of their pixels. What has a
    traceback is always let through, as the text alone does not tell two errors apart."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        new = text not in self._said or bool(record.exc_info)
        self._said.add(text)
        return new


def main(arguments: list[str] | None = None) -> int:
    """Run a command; see run_program for the exit codes."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_program(lambda: parser(arguments), arguments)


def run_program(make_parser: Callable[[], argparse.ArgumentParser], arguments: Sequence[str]) -> int:
    """Parse the arguments and call `run` of the result. Returns the exit code: 0 done, 1 an error with a suggestion,
    2 wrong usage, 128 + the signal's number if interrupted: 130 for Ctrl-C."""
    with patient_console(), ExitStack() as stack:
        # imports what the command needs, which can swallow an exception: see signals.leave_at_once
        options = make_parser().parse_args(arguments)
        interruption = stack.enter_context(interruptible())
        options.check = interruption.check
        log = logging.getLogger(__name__.rpartition(".cli")[0])
        handler = logging.StreamHandler()
        handler.addFilter(_Once())
        log.handlers[:] = [handler]
        log.getChild("warp.kernel_cache").setLevel(logging.INFO)  # explains why a first run takes longer
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


def parser(arguments: Sequence[str] | None = None) -> Parser:
    """The parser of all commands; `run` of its result is the command's own. arguments: as for program_parser."""
    whole = program_parser("python -m pipeline", "A picture to a textured GLB with TRELLIS.2.", COMMANDS, arguments)
    whole.add_argument("--version", action="version", version=__version__)
    return whole
