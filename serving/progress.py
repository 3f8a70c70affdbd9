"""The progress of a job and its estimated time left, from the times of its stages in the last jobs."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

_REMEMBERED = 20  # jobs


@dataclass
class Progress:
    """Where a running job is; times of time.monotonic()."""

    stage: str = ""
    step: int = 0
    total: int = 0
    begun: float = field(default_factory=time.monotonic)
    before: tuple[str, ...] = ()  # stages that are over

    def follow(self, step: Mapping[str, Any]) -> bool:
        """Apply a worker's report. Returns whether a new stage begins with it."""
        other = step["stage"] != self.stage
        if other:
            self.before = (*self.before, self.stage) if self.stage else ()
            self.stage, self.begun = step["stage"], time.monotonic()
        self.step, self.total = step["step"], step["total"]
        return other


class Durations:
    """Times of the stages of the last jobs, by what determines them most: command and type."""

    def __init__(self) -> None:
        self._known: dict[tuple, deque[dict[str, float]]] = {}

    def learn(self, kind: tuple, stages: Iterable[Mapping[str, Any]]) -> None:
        """kind: see kind_of. stages: records of a finished job, in order."""
        seconds: dict[str, float] = {}
        for each in stages:
            seconds[each["stage"]] = seconds.get(each["stage"], 0.0) + each["seconds"]
        self._known.setdefault(kind, deque(maxlen=_REMEMBERED)).append(seconds)

    def left(self, kind: tuple, progress: Progress) -> float | None:
        """Seconds that a running job will still take; None where no job of its kind has finished."""
        expected = self._expected(kind)
        if not expected:
            return None
        spent = time.monotonic() - progress.begun
        here = max(0.0, expected.get(progress.stage, spent) - spent)
        if progress.step and progress.total:
            here = spent / progress.step * (progress.total - progress.step)
        over = {progress.stage, *progress.before}
        return here + sum(seconds for stage, seconds in expected.items() if stage not in over)

    def whole(self, kind: tuple) -> float | None:
        """Seconds of a whole job of that kind; None where none has finished."""
        expected = self._expected(kind)
        return sum(expected.values()) if expected else None

    def _expected(self, kind: tuple) -> dict[str, float]:
        runs = self._known.get(kind, ())
        stages = dict.fromkeys(stage for run in runs for stage in run)
        return {stage: median(run.get(stage, 0.0) for run in runs) for stage in stages}


def kind_of(command: str, parameters: Mapping[str, Any]) -> tuple:
    """The key of jobs whose stages take about the same time."""
    names = ("type", "geometry_only", "faces", "texture_size", "structure_steps", "shape_steps", "texture_steps")
    return (command, *(str(parameters.get(name)) for name in names))
