"""A worker: one process with the models, on Ray Serve, that runs one job at a time and reports its progress."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pipeline.errors import PipelineError
from pipeline.runtime import Step

from . import problems
from .settings import WorkerSettings

log = logging.getLogger(__name__)

_EVERY = 0.2  # seconds between two reports of one stage


class Stopped(Exception):
    """The job was cancelled, or its time is over."""


class Worker:
    """The class that Ray Serve makes replicas of. Its process does nothing else.

    Raises:
        PipelineError: see making.Maker; Ray Serve includes its text in the deployment's status.
    """

    def __init__(self, settings: Mapping[str, Any], time_limit: float) -> None:
        from .making import Maker  # torch, which the processes of Ray itself must not import

        if hasattr(os, "nice"):
            os.nice(10)  # the processes that answer requests go first where cores are few
        self._maker, self._limit = Maker(WorkerSettings(**settings)), time_limit
        # one thread for all jobs: a thread that ends leaves its share of the allocator's memory behind
        self._thread = ThreadPoolExecutor(1, "job")

    async def run(self, job: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Run a job; yields {"step": ...} now and then, and at last {"done": ...} or {"problem": ...}.

        Ends early, with nothing stored, when its consumer cancels it; a step of a stage is finished first.
        """
        loop, events = asyncio.get_running_loop(), asyncio.Queue()
        watch = _Watch(self._limit, lambda event: loop.call_soon_threadsafe(events.put_nowait, event))
        yield {"worker": os.getpid()}
        working = loop.run_in_executor(self._thread, self._work, job, watch)
        try:
            while "step" in (event := await events.get()):
                yield event
            yield event
        finally:
            watch.stop.set()
            # the next job may not begin before this one has ended
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(working)

    def _work(self, job: Mapping[str, Any], watch: _Watch) -> None:
        watch.report(self._outcome(job, watch))

    def _outcome(self, job: Mapping[str, Any], watch: _Watch) -> dict[str, Any]:
        try:
            return {"done": self._maker.make(job, watch)}
        except Stopped:
            found = problems.cancelled() if watch.stop.is_set() else problems.too_long(self._limit)
        except PipelineError as error:
            found = problems.of_error(error)
        except BaseException as error:  # any error ends the job and reaches the client; the worker continues
            log.exception("Job %s stopped unexpectedly", job["id"])
            found = problems.internal(error)
        return {"problem": found.as_dict()}


class _Watch:
    """The on_step of a run: reports steps at a limited rate, and stops the run if it was cancelled or timed out."""

    def __init__(self, limit: float, report) -> None:
        self.stop, self.report = threading.Event(), report
        self._until, self._stage, self._last = time.monotonic() + limit, "", 0.0

    def __call__(self, step: Step) -> None:
        now = time.monotonic()
        if self.stop.is_set() or now > self._until:
            raise Stopped
        if step.stage != self._stage or now - self._last > _EVERY:
            self._stage, self._last = step.stage, now
            self.report({"step": {"stage": step.stage, "step": step.step, "total": step.total}})
