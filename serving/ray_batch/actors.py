"""What runs in the processes of a batch on Ray: samplers with the models, finishers without, and the ledger of tries.

The pipeline, and with it torch, is imported when an actor is made: Ray's own processes must not load it.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.batch import Job, Outcome, Recipe, Sampled, Sharing


@dataclass(frozen=True)
class Row:
    """An object on its way. sampled: after sampling, until it is finished. outcome: once it has ended. tries: of the
    step that took most. spans: who worked on it when, see timeline.write."""

    job: Job
    sampled: Sampled | None = None
    outcome: Outcome | None = None
    tries: int = 0
    spans: tuple[dict[str, Any], ...] = ()


class Ledger:
    """How often each step of each object was begun, asked by whoever begins it: what a killed process cannot tell."""

    def __init__(self) -> None:
        self._tries: dict[tuple[str, str], int] = {}

    def begin(self, step: str, name: str) -> int:
        """Count a try; returns how many there were, this one included."""
        self._tries[step, name] = self._tries.get((step, name), 0) + 1
        return self._tries[step, name]


class _Actor:
    """One step of a row, with bounded tries and a span for the timeline.

    Args:
        ledger: handle of a Ledger.
        most: tries of a step, after which an object is given up.
        device: a name, as for runtime.choose_device.
    """

    kind = ""

    def __init__(self, ledger: Any, most: int, folder: str, device: str) -> None:
        from pipeline.errors import OutputError

        from .cluster import quiet

        quiet()
        self._ledger, self._most, self._folder, self.device = ledger, most, Path(folder), device
        if not self._folder.is_dir():
            raise OutputError(
                f"{folder} does not exist on {platform.node()}. A batch on several machines needs an output folder, "
                "pictures and a checkpoint that all of them see under the same paths."
            )

    def __call__(self, packed: dict[str, Row]) -> dict[str, Row]:
        """packed: {"row": row}, as Ray Data has columns; a row is one Python object to it."""
        row = packed["row"]
        return packed if row.outcome is not None else {"row": self._worked(row)}

    def _worked(self, row: Row) -> Row:
        start, tries = time.time(), self._count(row.job.name)
        row = self._given_up(row, tries) if tries > self._most else self.work(row)
        worker = f"{platform.node()} {os.getpid()}"
        span = {"kind": self.kind, "name": row.job.name, "worker": worker, "start": start, "end": time.time()}
        span["device"] = self.device
        return replace(row, tries=max(row.tries, min(tries, self._most)), spans=(*row.spans, span))

    def work(self, row: Row) -> Row:
        """The row after this step."""
        raise NotImplementedError

    def _count(self, name: str) -> int:
        import ray

        return ray.get(self._ledger.begin.remote(self.kind, name))

    def _given_up(self, row: Row, tries: int) -> Row:
        from pipeline.batch import Outcome

        error = (
            f"The process that was to {self.kind} it died in each of {tries - 1} tries, which systems do to a process "
            "when memory is short. Give the actors more memory, or choose a lower --type or fewer --max-tokens."
        )
        return replace(row, sampled=None, outcome=Outcome(error=error, kind="ProcessDied"))


class Sampler(_Actor):
    """From a picture to the raw mesh; it holds the models and, where there is one, a GPU or a part of one."""

    kind = "sample"

    def __init__(
        self, ledger: Any, most: int, folder: str, device: str, recipe: Recipe, memory_limit: int | None
    ) -> None:
        from pipeline.batch import Maker

        super().__init__(ledger, most, folder, device)
        self._maker = Maker(recipe, device, memory_limit=memory_limit)

    def work(self, row: Row) -> Row:
        from pipeline.batch import Outcome, guarded

        made = guarded(self._sample, row.job)
        if not isinstance(made, Outcome):
            return replace(row, sampled=made)
        return replace(row, outcome=_unless_lost(made))

    def _sample(self, job: Job) -> Any:
        return self._maker.sample(job).packed()


class Finisher(_Actor):
    """From the raw mesh to the files, on the CPU or on a part of a GPU."""

    kind = "finish"

    def __init__(self, ledger: Any, most: int, folder: str, device: str, recipe: Recipe) -> None:
        super().__init__(ledger, most, folder, device)
        self._recipe = recipe

    def work(self, row: Row) -> Row:
        return replace(row, sampled=None, outcome=_unless_lost(self._finish(row.sampled)))

    def _finish(self, sampled: Any) -> Outcome:
        from pipeline.batch import finish, guarded
        from pipeline.runtime import choose_device

        device = choose_device(self.device)
        return guarded(finish, self._recipe, sampled, self._folder, device, lambda step: None)


def _unless_lost(outcome: Outcome) -> Outcome:
    """The outcome; where the device answers nothing any more, this process ends: a new one may have answers."""
    from pipeline.batch import device_lost

    if device_lost(outcome):
        os._exit(1)
    return outcome


def room(recipe: Recipe, shared: Sequence[tuple[int, int]], memory_limit: int | None) -> list[Sharing]:
    """What the memory plan says of a GPU of the cluster that so many samplers and finishers share; runs there."""
    from pipeline.batch import opened_models, sharing
    from pipeline.runtime import choose_device

    models, device = opened_models(recipe), choose_device("cuda")
    return [sharing(recipe, models, device, *counts, memory_limit) for counts in shared]
