"""What a run accounts for: which jobs are left, how each ended, the contact sheets, and how many there are of each."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..errors import OutputError
from ..words import counted
from .jobs import Job, sheet_path, views_path
from .manifest import DONE, FAILED, WAITING, Manifest
from .outcome import Outcome
from .sheet import write_sheet

Tell = Callable[[Job, Outcome, "Record"], None]


class Record:
    """The account of one run, whoever works on its jobs.

    Args:
        manifest: open.
        jobs: all that the run is asked for.
        settings: of the recipe, see Maker.settings.
        suffix: of the recipe.
        tell: called after each job, with the job, its outcome and this record.
        retry: try pictures again that were refused for what they are, though nothing has changed since.

    todo: the jobs that are not done yet with these settings; failed ones are tried again. refused: those that are not,
    as their picture was refused before.
    start: of the run, as time.perf_counter tells it. ended, made: how many jobs have ended since, and well.
    """

    def __init__(
        self,
        manifest: Manifest,
        jobs: Sequence[Job],
        settings: Mapping,
        suffix: str,
        tell: Tell = lambda *_: None,
        retry: bool = False,
    ) -> None:
        self.manifest, self.jobs, self.settings, self._suffix, self._tell = manifest, jobs, settings, suffix, tell
        self.versions = {"pack": __version__, "torch": torch.__version__, "python": platform.python_version()}
        left = [job for job in jobs if not manifest.is_done(job, settings)]
        self.refused = [job for job in left if not retry and manifest.is_refused(job, settings, self.versions)]
        self.todo = [job for job in left if job not in self.refused]
        self.start, self.ended, self.made = time.perf_counter(), 0, 0
        self._groups: dict[str, list[Job]] = {}
        for job in jobs:
            self._groups.setdefault(job.group, []).append(job)

    def begin(self, **facts: Any) -> None:
        """Account for every job before the first one runs. Raises OutputError: the manifest cannot be written."""
        self.manifest.event("begin", objects=len(self.jobs), todo=len(self.todo), versions=self.versions, **facts)
        self.manifest.wait(self.todo)
        waiting = {job.group for job in self.todo}
        for group in self._groups:
            if group not in waiting and not sheet_path(self.manifest.folder, group).exists():
                self._write_sheet(group)

    def take(self, job: Job, outcome: Outcome, **facts: Any) -> None:
        """Account for a job that has ended.

        Raises:
            OutputError: nothing more can be made or accounted for.
        """
        facts = {"settings": self.settings, "versions": self.versions, **facts}
        self.ended += 1
        self.made += not outcome.error
        if not outcome.error:
            self.manifest.done(job, outcome.files, report=outcome.report, **facts)
        elif not outcome.stop:
            self.manifest.failed(job, outcome.error, kind=outcome.kind, **facts)
        self._tell(job, outcome, self)
        if outcome.stop:  # the job is as good as before, and goes on waiting
            raise OutputError(f"{outcome.error} The batch stops here; run the same command again to go on.")
        if all(self._status(each) != WAITING for each in self._groups[job.group]):
            self._write_sheet(job.group)

    def end(self, why: str, **facts: Any) -> None:
        """Account for the end of the run: "end", "interrupted" or "stopped"."""
        self.manifest.event(why, seconds=round(time.perf_counter() - self.start, 3), **self.counts(), **facts)

    def counts(self) -> dict[str, int]:
        """How many of the jobs are in each state."""
        found = [self._status(job) for job in self.jobs]
        return {status: found.count(status) for status in (DONE, FAILED, WAITING)}

    def _status(self, job: Job) -> str:
        return self.manifest.lines.get(job.name, {}).get("status", WAITING)

    def _write_sheet(self, group: str) -> None:
        """Of a picture with several variations."""
        jobs = self._groups[group]
        if len(jobs) > 1 and any(self._status(job) == DONE for job in jobs):
            rows = [self._row(job) for job in jobs]
            write_sheet(sheet_path(self.manifest.folder, group), Path(jobs[0].picture), rows)

    def _row(self, job: Job) -> tuple[str, Path | None]:
        line = self.manifest.lines.get(job.name, {})
        if line.get("status") != DONE:
            return f"seed {job.seed}: {line.get('error', 'not made')}", None
        faces = line.get("report", {}).get("faces", 0)
        path = views_path(self.manifest.folder / f"{job.name}{self._suffix}")
        return f"seed {job.seed}: {Path(job.name).name}{self._suffix}, {counted(faces, 'face')}", path
