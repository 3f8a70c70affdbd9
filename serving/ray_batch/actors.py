"""What runs in the processes of a batch on Ray: samplers with the models, finishers without, and the ledger of tries.

The pipeline, and with it torch, is imported when an actor is made: Ray's own processes must not load it.
"""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.batch import Job, Outcome, Processed, Recipe, Sampled


@dataclass(frozen=True)
class Row:
    """An object on its way. made: what a sampler made of it, until a finisher has written it. outcome: once it has
    ended. tries: of the step that took most. spans: who worked on it when, see timeline.write."""

    job: Job
    made: Sampled | Processed | None = None
    outcome: Outcome | None = None
    tries: int = 0
    spans: tuple[dict[str, Any], ...] = ()


class Ledger:
    """Counts how often each step of each object was started; kept outside the workers, which may be killed."""

    def __init__(self) -> None:
        self._tries: dict[tuple[str, str], int] = {}

    def begin(self, step: str, name: str) -> int:
        """Count an attempt; returns the number of attempts, this one included."""
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
        from pipeline.words import counted

        died = "in each of " * (tries > 2) + counted(tries - 1, "try", "tries")
        error = (
            f"The process that was to {self.kind} it died {died}, which systems do to a process "
            "when memory is short. Give the actors more memory, or choose a lower --type or fewer --max-tokens."
        )
        return replace(row, made=None, outcome=Outcome(error=error, kind="ProcessDied"))


class Sampler(_Actor):
    """From a picture to the raw mesh, or to the textured one; it holds the models and, where there is one, a GPU or a
    part of one. process: whether it processes and textures meshes, or a finisher does on the CPU."""

    kind = "sample"

    def __init__(
        self,
        ledger: Any,
        most: int,
        folder: str,
        device: str,
        recipe: Recipe,
        memory_limit: int | None,
        process: bool,
    ) -> None:
        from pipeline.batch import Maker

        super().__init__(ledger, most, folder, device)
        self._maker = Maker(recipe, device, memory_limit=memory_limit)
        self._process = process

    def work(self, row: Row) -> Row:
        from pipeline.batch import Outcome, guarded

        made = guarded(self._make, row.job)
        if not isinstance(made, Outcome):
            return replace(row, made=made)
        return replace(row, outcome=_unless_lost(made))

    def _make(self, job: Job) -> Sampled | Processed:
        sampled = self._maker.sample(job)
        return self._maker.process(sampled).packed() if self._process else sampled.packed()


class Finisher(_Actor):
    """From what a sampler has made to the files, on the CPU."""

    kind = "finish"

    def __init__(self, ledger: Any, most: int, folder: str, device: str, recipe: Recipe) -> None:
        super().__init__(ledger, most, folder, device)
        self._recipe = recipe

    def work(self, row: Row) -> Row:
        from pipeline.batch import complete, guarded

        return replace(row, made=None, outcome=guarded(complete, self._recipe, row.made, self._folder))


def _unless_lost(outcome: Outcome) -> Outcome:
    """The outcome. If this process can no longer use its device, it ends, so that Ray starts a new one."""
    from pipeline.batch import device_lost

    if device_lost(outcome):
        os._exit(1)
    return outcome
