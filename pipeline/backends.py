"""Which function runs an operation: a table of op -> {name: function, or the reason why it is absent}.

Every operation may have a plain twin of the same signature: the definition, the fallback and the
oracle. A faster row is compared with the twin on a small example the first time it is used on a
device; a wrong answer disables it there with one line in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial, wraps

import torch

from .errors import BackendError

log = logging.getLogger(__name__)

PLAIN = "torch"  # the name of every twin


@dataclass(frozen=True)
class Backend:
    """One way to run an operation; `function` is None when it cannot run here and `absent` says why."""

    name: str
    function: Callable | None
    absent: str = ""
    devices: tuple[str, ...] = ()  # device types it runs on; () means every one
    suits: Callable[..., bool] | None = None  # of a call's arguments: False leaves the call to the rows behind it


@dataclass(frozen=True)
class Operation:
    """An operation and its rows, the preferred first.

    `example(device)` gives the positional arguments of a small problem on which a row must agree
    with the twin: max |row - twin| <= tolerance * max |twin|, for each tensor that they return.
    """

    name: str
    rows: tuple[Backend, ...] = ()
    twin: Callable | None = None
    example: Callable[[torch.device], tuple] | None = None
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        if self.twin is not None and all(row.name != PLAIN for row in self.rows):
            object.__setattr__(self, "rows", (*self.rows, Backend(PLAIN, self.twin)))


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
        self.operations = {operation.name: operation for operation in operations}
        self.choices = dict(choices or {})
        self.used: dict[str, str] = {}  # op -> name of the row that ran last
        self._verdict: dict[tuple[str, str, str], str] = {}  # (op, name, device type) -> "" or what is wrong
        for op, name in self.choices.items():
            if op not in self.operations:
                raise BackendError(f"There is no operation {op!r}; the table has {', '.join(self.operations)}.")
            self._row(op, name)

    def available(self, op: str) -> dict[str, str]:
        """{row name: "" if it can run, else the reason why not}."""
        return {row.name: row.absent if row.function is None else "" for row in self.operations[op].rows}

    def pick(self, op: str, device: torch.device | str = "cpu", name: str | None = None) -> Callable:
        """The function for an operation on a device.

        Args:
            name: a row's name; without it the caller's choice, else the first row that is present,
                runs on this device and agrees with the twin.

        Raises:
            BackendError: the named row is absent, does not run on the device or gave a wrong answer;
                or no row is left.
        """
        device, name = torch.device(device), name or self.choices.get(op)
        row = self._select(op, device, name)
        if row.suits is not None and name is None:
            return partial(self._run_what_suits, op, device)
        self.used[op] = row.name
        return row.function

    def _run_what_suits(self, op: str, device: torch.device, *arguments):
        """The first usable row that suits the arguments."""
        row = next(row for row in self._usable(op, device) if row.suits is None or row.suits(*arguments))
        self.used[op] = row.name
        return row.function(*arguments)

    def _usable(self, op: str, device: torch.device) -> Iterator[Backend]:
        return (row for row in self.operations[op].rows if not self._problem(op, row, device))

    def check(self, op: str, device: torch.device | str = "cpu") -> None:
        """Raises BackendError if nothing can run an operation: worth knowing before a long run."""
        self._select(op, torch.device(device), self.choices.get(op))

    def _select(self, op: str, device: torch.device, name: str | None) -> Backend:
        if name is not None:
            row = self._row(op, name)
            if problem := self._problem(op, row, device):
                raise BackendError(f"Backend {name!r} of {op!r} cannot be used on {device.type}: {problem}")
            return row
        problems = {}
        for row in self.operations[op].rows:
            problem = self._problem(op, row, device)
            if not problem:
                return row
            problems[row.name] = problem
        listed = "; ".join(f"{name}: {problem}" for name, problem in problems.items())
        raise BackendError(f"Nothing here can run {op!r} on {device.type}. {listed}")

    def _row(self, op: str, name: str) -> Backend:
        for row in self.operations[op].rows:
            if row.name == name:
                return row
        raise BackendError(f"{op!r} has no backend {name!r}; it has {', '.join(self.available(op))}.")

    def _problem(self, op: str, row: Backend, device: torch.device) -> str:
        if row.function is None:
            return row.absent
        if row.devices and device.type not in row.devices:
            return f"it runs on {', '.join(row.devices)} only."
        key = (op, row.name, device.type)
        if key not in self._verdict:
            self._verdict[key] = self._compare(self.operations[op], row, device)
            if self._verdict[key]:
                log.warning("Backend %s of %s is disabled on %s: %s", row.name, op, device.type, self._verdict[key])
        return self._verdict[key]

    @staticmethod
    def _compare(operation: Operation, row: Backend, device: torch.device) -> str:
        if operation.example is None or row.function is operation.twin:
            return ""
        with torch.no_grad():
            expected = _tensors(operation.twin(*operation.example(device)))  # each its own: some work in place
            try:
                found = _tensors(row.function(*operation.example(device)))
            except RuntimeError as error:  # how torch, Triton and Warp report a kernel that this device cannot run
                return f"it failed: {error}".splitlines()[0]
        for right, answer in zip(expected, found):
            limit = operation.tolerance * right.abs().max().item()
            error = (answer - right).abs().max().item() if answer.shape == right.shape else float("inf")
            if not error <= limit:  # NaN too
                return f"its answer is off by {error:.3g} where {limit:.3g} is allowed."
        return ""


def _tensors(answer: torch.Tensor | tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """What an operation returns, as float32."""
    return [each.float() for each in (answer if isinstance(answer, tuple) else (answer,))]
