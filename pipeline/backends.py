"""Which function runs an operation: a table of op -> {name: function, or the reason why it is absent}.

Every operation may have a plain twin of the same signature: the definition, the fallback and the
oracle. A faster row is compared with the twin on a small example the first time it is used on a
device; a wrong answer disables it there with one line in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch

from .errors import BackendError

log = logging.getLogger(__name__)

PLAIN = "torch"  # the name of every twin


@dataclass(frozen=True)
class Backend:
    """One way to run an operation. `absent` says why it cannot run here, or is asked then; "" if it can."""

    name: str
    function: Callable | None  # None only where it is known from the start that it is absent
    absent: str | Callable[[], str] = ""
    devices: tuple[str, ...] = ()  # device types it runs on; () means every one

    @property
    def reason(self) -> str:
        """Why it cannot run here, "" if it can."""
        return self.absent() if callable(self.absent) else self.absent


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
        return {row.name: row.reason for row in self.operations[op].rows}

    def pick(self, op: str, device: torch.device | str = "cpu", name: str | None = None) -> Callable:
        """The function for an operation on a device.

        Args:
            name: a row's name; without it the caller's choice, else the first row that is present,
                runs on this device and agrees with the twin.

        Raises:
            BackendError: the named row is absent, does not run on the device or gave a wrong answer;
                or no row is left.
        """
        row = self._select(op, torch.device(device), name or self.choices.get(op))
        self.used[op] = row.name
        return row.function

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
        if row.reason:
            return row.reason
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
        arguments = operation.example(device)
        with torch.no_grad():
            expected = _tensors(operation.twin(*arguments))
            try:
                found = _tensors(row.function(*arguments))
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
