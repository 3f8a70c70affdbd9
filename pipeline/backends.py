"""Which function runs an operation: a table of op -> {name: function, or the reason why it is absent}.

Every operation may have a plain reference of the same signature: the definition, the fallback and the
oracle. A faster row is compared with the reference on a small example the first time it is used on a
device; a wrong answer disables it there with one line in the log.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial, wraps
from types import MappingProxyType

import torch

from .errors import BackendError, PipelineError, did_you_mean, unknown

log = logging.getLogger(__name__)

PLAIN = "torch"  # the name of every reference


@dataclass(frozen=True)
class Backend:
    """One way to run an operation. `absent` says why it cannot run here, or is asked then; "" if it can."""

    name: str
    function: Callable | None  # None only where it is known from the start that it is absent
    absent: str | Callable[[], str] = ""
    devices: tuple[str, ...] = ()  # device types it runs on; () means every one
    suits: Callable[..., bool] | None = None  # of a call's arguments: False leaves the call to the rows behind it
    check: Callable[[Callable, torch.device], str] | None = None  # in place of its operation's, see there
    yields: bool = False  # chosen and present but of no use on a device, it leaves that to the other rows

    @property
    def run(self) -> Callable:
        """Its function. Raises BackendError where there is none, whose reason nobody has asked for."""
        if self.function is None:
            raise BackendError(f"Backend {self.name!r} has no function: {self.reason}")
        return self.function

    @property
    def reason(self) -> str:
        """Why it cannot run here, "" if it can."""
        return self.absent() if callable(self.absent) else self.absent


@dataclass(frozen=True)
class Operation:
    """An operation and its rows, the preferred first.

    `example(device)` gives the positional arguments of a small problem on which a row must agree
    with the reference: max |row - reference| <= tolerance * max |reference|, for each tensor that they return.
    `check(function, device)`, where no reference defines the one right answer, tries a row on a small problem
    and returns "" or what its answer lacks. A row whose answers are as good as the reference's, but not the same, has
    a check of its own.
    """

    name: str
    rows: tuple[Backend, ...] = ()
    reference: Callable | None = None
    example: Callable[[torch.device], tuple] | None = None
    tolerance: float = 0.0
    check: Callable[[Callable, torch.device], str] | None = None

    def __post_init__(self) -> None:
        if self.reference is not None and all(row.name != PLAIN for row in self.rows):
            object.__setattr__(self, "rows", (*self.rows, Backend(PLAIN, self.reference)))


def lazy(load: Callable[[], Callable], reference: Callable) -> Callable:
    """A row's function that is imported when it first runs: a package that is broken must cost nobody who does not
    use it.

    Args:
        load: imports and returns the function.
        reference: its signature, and what runs where a gradient is asked for, which such rows do not give.

    Returns:
        A function that raises RuntimeError where the import fails.
    """

    @cache
    def function() -> Callable:
        try:
            return load()
        except (ImportError, OSError) as error:  # OSError: a shared library that does not fit
            raise RuntimeError(f"it cannot be imported: {error}") from error

    @wraps(reference)
    def call(*arguments):
        tensors = (one for one in arguments if isinstance(one, torch.Tensor))
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            return reference(*arguments)
        return function()(*arguments)

    return call


class Backends:
    """The table in use for one run: immutable rows, the caller's choices, and what was really used."""

    def __init__(self, operations: Iterable[Operation], choices: Mapping[str, str] | None = None) -> None:
        """`choices` maps an operation to the row it must use; without one the first usable row is taken."""
        self.operations: Mapping[str, Operation] = {operation.name: operation for operation in operations}
        self.choices: Mapping[str, str] = dict(choices or {})
        self.used: dict[str, str] = {}  # op -> name of the row that ran last
        self._found: list[BackendError] = []
        self._verdicts: dict[tuple[str, str, str], str] = {}  # (op, row, device type) -> what _verdict says
        for op, name in self.choices.items():
            if op not in self.operations:
                raise BackendError(unknown("operation", op, self.operations))
            self._row(op, name)

    def available(self, op: str) -> dict[str, str]:
        """{row name: "" if it can run, else the reason why not}."""
        return {row.name: row.reason for row in self.operations[op].rows}

    def pick(self, op: str, device: torch.device | str = "cpu", name: str | None = None) -> Callable:
        """The function for an operation on a device.

        Args:
            name: a row's name; without it the caller's choice, else the first row that is present,
                runs on this device and agrees with the reference.

        Raises:
            BackendError: the named row is absent, does not run on the device or gave a wrong answer;
                or no row is left.
        """
        device = torch.device(device)
        row = self._select(op, device, name)
        if row.suits is not None and row.name not in (name, self.choices.get(op)):
            return partial(self._run_what_suits, op, device)
        self.used[op] = row.name
        return row.run

    def _run_what_suits(self, op: str, device: torch.device, *arguments):
        """The first usable row that suits the arguments."""
        row = next(row for row in self._usable(op, device) if row.suits is None or row.suits(*arguments))
        self.used[op] = row.name
        return row.run(*arguments)

    def _usable(self, op: str, device: torch.device) -> Iterator[Backend]:
        return (row for row in self.operations[op].rows if not self._problem(op, row, device))

    def check(self, op: str, device: torch.device | str = "cpu") -> None:
        """Raises BackendError if nothing can run an operation, with every row tried up to the one that will run it."""
        self._select(op, torch.device(device))

    def require(self, op: str, device: torch.device | str = "cpu") -> None:
        """Raises BackendError if nothing here is meant to run an operation; no row is tried, which takes no time."""
        device = torch.device(device)
        problems = self._absences(op, device)
        if "" not in problems.values():
            raise self._nothing(op, device, problems)

    def offers(self, op: str, device: torch.device | str = "cpu") -> bool:
        """Whether a row here is meant to run an operation, without trying it."""
        return "" in self._absences(op, torch.device(device)).values()

    def _absences(self, op: str, device: torch.device) -> dict[str, str]:
        return {row.name: _unavailable(row, device) for row in self._candidates(op)}

    def _candidates(self, op: str) -> tuple[Backend, ...]:
        """The rows that may be taken, the preferred first: a chosen one alone, unless it yields to the others."""
        rows, name = self.operations[op].rows, self.choices.get(op)
        if name is None:
            return rows
        chosen = self._row(op, name)
        others = (row for row in rows if row is not chosen) if chosen.yields and not chosen.reason else ()
        return (chosen, *others)

    def prepare(self, ops: Iterable[str], device: torch.device | str = "cpu", workers: int = 1) -> None:
        """Try the rows that will run these operations in threads, which compiles their kernels, while other work goes
        on. Whoever asks for a row that is being tried waits for it. What nothing can run is raised by raise_found."""
        waiting, device = deque(ops), torch.device(device)
        for _ in range(workers):
            threading.Thread(target=self._prepare, args=(waiting, device), name="trellis2 prepare").start()

    def _prepare(self, waiting: deque[str], device: torch.device) -> None:
        # a stream of its own, so that a wait for an answer is not one for the networks' work
        with torch.cuda.stream(torch.cuda.Stream(device)) if device.type == "cuda" else nullcontext():
            while waiting and threading.main_thread().is_alive():  # a process that ends waits for one row at most
                try:
                    self.check(waiting.popleft(), device)
                except IndexError:  # another thread took the last one
                    return
                except BackendError as error:
                    self._found.append(error)

    def raise_found(self) -> None:
        """Raises the BackendError that `prepare` has found, if any."""
        if self._found:
            raise self._found[0]

    def reason(self, op: str, device: torch.device | str = "cpu", name: str | None = None) -> str:
        """ "" if a row, or the row of this name, can run an operation on a device, else why none can."""
        device = torch.device(device)
        if name is not None:
            return self._problem(op, self._row(op, name), device)
        problems = self._problems(op, device)
        return "" if "" in problems.values() else "; ".join(problems.values())

    def _problems(self, op: str, device: torch.device) -> dict[str, str]:
        """What keeps each row that may be taken from running, up to the first that nothing does."""
        problems = {}
        for row in self._candidates(op):
            problems[row.name] = self._problem(op, row, device)
            if not problems[row.name]:
                break
        return problems

    def _select(self, op: str, device: torch.device, name: str | None = None) -> Backend:
        if name is not None:
            row = self._row(op, name)
            if problem := self._problem(op, row, device):
                raise BackendError(f"Backend {name!r} of {op!r} cannot be used on {device.type}: {problem}")
            return row
        problems = self._problems(op, device)
        for row, problem in problems.items():
            if not problem:
                return self._row(op, row)
        raise self._nothing(op, device, problems)

    def _nothing(self, op: str, device: torch.device, problems: Mapping[str, str]) -> BackendError:
        name = self.choices.get(op, "")
        if name in problems and len(problems) == 1:
            others = [row.name for row in self.operations[op].rows if not _unavailable(row, device)]
            cure = f"Choose one of {', '.join(others)}, or leave the choice out" if others else "Leave the choice out"
            problem = problems[name].rstrip(".")
            return BackendError(
                f"Backend {name!r} of {op!r} cannot be used on {device.type}: {problem}. {cure}: the first that works "
                "is taken then. docs/performance.md says what rows need."
            )
        listed = "; ".join(f"{name}: {problem}" for name, problem in problems.items())
        return BackendError(f"No backend for {op!r} is available on {device.type}. {listed}")

    def _row(self, op: str, name: str) -> Backend:
        for row in self.operations[op].rows:
            if row.name == name:
                return row
        names = list(self.available(op))
        near = did_you_mean(name, names) or "."
        raise BackendError(f"{op!r} has no backend {name!r}; it has {', '.join(names)}{near}")

    def _problem(self, op: str, row: Backend, device: torch.device) -> str:
        if reason := _unavailable(row, device):
            return reason
        key = (op, row.name, device.type)
        if key not in self._verdicts:  # a network asks some hundred times a pass, and operations are expensive to hash
            self._verdicts[key] = _verdict(replace(self.operations[op], rows=()), row, device.type)
        return self._verdicts[key]


class References(Backends):
    """The reference of every operation, and no record of what ran: nothing in it changes, so that it can be a default
    argument."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        super().__init__(operations)
        self.operations, self.choices = MappingProxyType(self.operations), MappingProxyType(self.choices)
        # so that a record would fail
        self.used, self._verdicts, self._found = MappingProxyType({}), MappingProxyType({}), ()  # type: ignore[assignment]

    def pick(self, op: str, device: torch.device | str = "cpu", name: str | None = None) -> Callable:
        """The reference. Raises BackendError for an operation without one, and if another row is named."""
        if name not in (None, PLAIN):
            raise BackendError(f"Only the references of a table are here, not {name!r} of {op!r}.")
        return self._row(op, PLAIN).run


def _unavailable(row: Backend, device: torch.device) -> str:
    """ "" or why a row is not even tried on a device."""
    if row.devices and device.type not in row.devices:
        return row.reason or f"it runs on {', '.join(row.devices)} only."
    return row.reason


def _verdict(operation: Operation, row: Backend, device: str) -> str:
    """ "" or what is wrong with a row: tried once in a process, wherever the table is made anew, by whichever thread
    asks first; the others wait."""
    with _trial(operation, row, device):
        return _tried(operation, row, device)


@cache
def _trial(operation: Operation, row: Backend, device: str) -> threading.RLock:
    """The lock under which a row is tried: a row that asks for others in its own trial waits for no other's."""
    return threading.RLock()


@cache
def _tried(operation: Operation, row: Backend, device: str) -> str:
    try:
        problem = _compared(operation, row, torch.device(device))
    except (RuntimeError, PipelineError) as error:  # how torch, Triton, Warp and jobs report what cannot run here
        problem = f"it failed: {error}".splitlines()[0]
    if problem and "shutdown" not in problem:  # "after [interpreter] shutdown": a process that ends
        log.warning("Backend %s of %s is disabled on %s: %s", row.name, operation.name, device, problem)
    return problem


def _compared(operation: Operation, row: Backend, device: torch.device) -> str:
    if row.function is not None and row.function is operation.reference:
        return ""
    if check := row.check or operation.check:
        with torch.no_grad():
            return check(row.run, device)
    example, reference = operation.example, operation.reference
    if example is None or reference is None:
        return ""
    with torch.no_grad():  # each its own example: some work in place
        expected, found = (_tensors(function(*example(device))) for function in (reference, row.run))
    for right, answer in zip(expected, found):
        limit = operation.tolerance * right.abs().max().item()
        error = (answer - right).abs().max().item() if answer.shape == right.shape else float("inf")
        if not error <= limit:  # NaN too
            return f"its answer is off by {error:.3g} where {limit:.3g} is allowed."
    return ""


def _tensors(answer: torch.Tensor | tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """What an operation returns, as float32."""
    return [each.float() for each in (answer if isinstance(answer, tuple) else (answer,))]
