"""What the command lines share: wrong usage in two lines, streams that must not end a run, files of which each is for
itself, bars."""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from tqdm import tqdm

from .errors import OutputError, PipelineError, did_you_mean

if TYPE_CHECKING:
    from .runtime import Step  # which imports torch: --help need not wait for that


_BELOW_ZERO = re.compile(r"-(\.?\d|inf|nan)", re.IGNORECASE)  # how values begin that are no options


class Parser(argparse.ArgumentParser):
    """Whose errors are the error and where help is, not the screens of all options between which it would be lost."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.register("type", int, whole_number)  # whose errors say what was expected
        self.register("type", float, real_number)
        self._negative_number_matcher = _BELOW_ZERO  # argparse's own knows -2, and takes -2mm and -45,20 for options

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n{self.prog} --help lists what there is.\n")

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[override]
        """As parse_args: the parser of a command itself refuses what it does not know, and so names its own help."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            known = [name for action in self._actions for name in action.option_strings]
            meant = "".join(did_you_mean(each.partition("=")[0], known) for each in unknown if each.startswith("--"))
            self.error(f"unrecognized arguments: {' '.join(unknown)}{meant}")
        return found, unknown

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """An empty text names nothing, and most often was a variable of the shell that is not set."""
        if "" in arg_strings and action.nargs != argparse.PARSER:  # whose texts are all that follows the command
            raise argparse.ArgumentError(action, "is empty: give a value, or leave it out")
        return super()._get_values(action, arg_strings)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            error.message += did_you_mean(str(value), [str(each) for each in action.choices or ()])
            raise


@dataclass(frozen=True)
class Command:
    """A command of a program: its module, which has `add(parser)` and `run(options)`, and its line of help."""

    module: str
    help: str


def program_parser(
    name: str, description: str, commands: Mapping[str, Command], arguments: Sequence[str] | None = None
) -> Parser:
    """The parser of a program of several commands; `run` of its result is the command's own.

    arguments: what will be parsed: only the commands that it names are imported and know their options. None: all.
    """
    whole = Parser(name, description=description)
    parsers = whole.add_subparsers(required=True, metavar=" | ".join(commands))
    for word, command in commands.items():
        own = parsers.add_parser(word, help=command.help)
        if arguments is None or word in arguments:
            module = import_module(command.module)
            module.add(own)
            own.set_defaults(run=module.run)
    return whole


def whole_number(text: str) -> int:
    """Raises argparse.ArgumentTypeError, which names what was expected."""
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from error


def real_number(text: str) -> float:
    """A number other than NaN and infinity. Raises argparse.ArgumentTypeError, which names what was expected."""
    try:
        number = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from error
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"must be a finite number, got {text!r}")
    return number


@contextmanager
def patient_console() -> Iterator[None]:
    """While the block runs, what the console cannot show is escaped, and a console that is gone or full is no error:
    neither may cost a result that is about to be written, or was."""
    with redirect_stdout(_Patient.of(sys.stdout)) as out, redirect_stderr(_Patient.of(sys.stderr)) as err:
        try:
            yield
        finally:
            for stream in (out, err):
                if stream is not None:
                    stream.end()


class _Patient:
    """A text stream to which writing never fails."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @classmethod
    def of(cls, stream: TextIO | None) -> _Patient | None:
        return None if stream is None else cls(stream)  # a process without a console has none

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with suppress(OSError):
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                encoding = self._stream.encoding
                self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def end(self) -> None:
        """Flush; what cannot be written is dropped, for Python would try again when it ends, and complain."""
        try:
            self._stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


class Written:
    """The files that were written, and what is wrong with others: one that cannot be written must not cost the rest."""

    def __init__(self) -> None:
        self.paths: list[Path] = []
        self.errors: list[PipelineError] = []

    def __enter__(self) -> Written:
        return self

    @contextmanager
    def or_not(self, *more: type[PipelineError]) -> Iterator[None]:
        """What goes wrong in the block is told at the end. more: kinds of errors beside those of writing."""
        try:
            yield
        except (OutputError, *more) as error:
            self.errors.append(error)

    def __exit__(self, *exception) -> None:
        for error in self.errors:
            print(f"error: {error}", file=sys.stderr)


class Bars:
    """One progress bar a stage, with the time left; silent where nobody looks.

    check: called at every step; what it raises stops the run.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        self._stage, self._bar, self._check = "", None, check

    def __enter__(self) -> Bars:
        return self

    def __call__(self, step: Step) -> None:
        self._check()
        if step.stage != self._stage:
            self.close()
            self._stage = step.stage
            self._bar = tqdm(total=step.total, desc=step.stage, disable=None, leave=True, file=sys.stderr)
        if self._bar is not None:
            self._bar.update(step.step - self._bar.n)

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
