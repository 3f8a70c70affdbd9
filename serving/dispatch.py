"""From the queue to the workers: one job for each worker, progress, cancelling, retries, expiry."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any

from ray.exceptions import RayError

from pipeline.errors import PipelineError

from . import problems
from .engine import Engine, EngineState, WorkerLostError
from .jobs import CANCELLED, DATABASE_ERRORS, DONE, ENDED, EXPIRED, FAILED, INTERRUPTED, QUEUED, RUNNING, Job, Jobs
from .metrics import Metrics
from .progress import Durations, Progress, kind_of
from .settings import ServiceSettings
from .store import Store

log = logging.getLogger(__name__)

_SWEEP = 30.0  # seconds
_FORGET = 7  # rows stay that many times as long as results


class Dispatcher:
    """Hands jobs to workers; belongs to one event loop. `state` and `waiting` are cached for /health."""

    def __init__(self, settings: ServiceSettings, jobs: Jobs, store: Store, engine: Engine, metrics: Metrics) -> None:
        self.settings, self.jobs, self.store, self.engine, self.metrics = settings, jobs, store, engine, metrics
        self.state, self.running = EngineState(), {}
        self.durations = Durations()
        self._tasks: dict[str, asyncio.Task] = {}
        self._background: list[asyncio.Task] = []
        self._news, self._stopping = asyncio.Event(), False

    async def start(self) -> None:
        """Settle the jobs that a former service left, then start in the background."""
        await asyncio.to_thread(self._settle)
        self._begin(self.engine.start)
        self._begin(self._look)
        self._begin(self._sweep)
        for _ in range(self.settings.workers):
            self._begin(self._serve)

    async def stop(self) -> None:
        """Interrupt running jobs, record that in the database, end the workers."""
        self._stopping = True
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self.engine.stop()

    def announce(self) -> None:
        """A job was queued."""
        self._news.set()

    async def cancel(self, job: Job) -> bool:
        """Cancel a waiting or running job. Returns whether it could still be cancelled."""
        now, problem = time.time(), problems.cancelled().as_dict()
        ended = {"status": CANCELLED, "finished": now, "problem": problem}
        if await asyncio.to_thread(self.jobs.change, job.id, (QUEUED, RUNNING), **ended):
            self.metrics.jobs.labels(job.command, CANCELLED).inc()
            if task := self._tasks.get(job.id):
                task.cancel()  # the task's handler removes its files
            else:
                await asyncio.to_thread(self._drop, job)
            return True
        return False

    def seconds_left(self, job: Job) -> float | None:
        """Of a running job."""
        progress = self.running.get(job.id)
        return self.durations.left(kind_of(job.command, job.parameters), progress) if progress else None

    def _begin(self, make: Callable[[], Awaitable[None]]) -> None:
        self._background.append(asyncio.create_task(self._again_and_again(make)))

    async def _again_and_again(self, make: Callable[[], Awaitable[None]]) -> None:
        """Run a background task to its end; restart it if the database or Ray fails."""
        while True:
            try:
                return await make()
            except (*DATABASE_ERRORS, RayError) as error:
                log.error("Trying again: %s", str(error).splitlines()[0])
                await asyncio.sleep(1)

    def _settle(self) -> None:
        for job in self.jobs.with_status(RUNNING):
            problem = problems.interrupted(job.stage).as_dict()
            self.jobs.change(job.id, (RUNNING,), status=INTERRUPTED, finished=time.time(), problem=problem)
            self._drop(job)
            log.warning("Job %s was interrupted in the stage %r when the service stopped.", job.id, job.stage)
        for job_id in self.store.jobs():
            if self.jobs.get(job_id) is None:  # left by a request that was being received
                self.store.remove(job_id)
        for job in self.jobs.recent(100):
            if job.result:
                self.durations.learn(kind_of(job.command, job.parameters), job.result["stages"])
        self._news.set()

    async def _serve(self) -> None:
        """Take one job after another."""
        while True:
            while not self.state.ready:
                await asyncio.sleep(0.2)
            self._news.clear()
            job = await asyncio.to_thread(self.jobs.claim)
            if job is None:
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._news.wait(), 5)
                continue
            task = self._tasks[job.id] = asyncio.create_task(self._run(job))
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                if self._stopping or not task.cancelled():
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
                    await asyncio.to_thread(self._interrupt, job)
                    raise
            finally:
                self._tasks.pop(job.id, None)
                self.running.pop(job.id, None)

    def _interrupt(self, job: Job) -> None:
        found = self.jobs.get(job.id)
        problem = problems.interrupted(found.stage if found else "").as_dict()
        self.jobs.change(job.id, (RUNNING,), status=INTERRUPTED, finished=time.time(), problem=problem)
        self._drop(job)

    async def _run(self, job: Job) -> None:
        """Run one job to its end: done, failed or cancelled."""
        started, tries = time.monotonic(), 0
        while True:
            tries += 1
            try:
                outcome = await self._outcome(job)
                break
            except WorkerLostError as error:
                log.warning("Job %s lost its worker: %s", job.id, str(error).splitlines()[0])
                if tries >= self.settings.tries:
                    outcome = {"problem": problems.worker_lost(tries).as_dict()}
                    break
                self.metrics.retries.inc()
                await self._recorded(job, tries=tries + 1)
            except asyncio.CancelledError:
                await asyncio.to_thread(self._drop, job)
                raise
        await self._end(job, outcome, time.monotonic() - started)

    async def _outcome(self, job: Job) -> dict[str, Any]:
        progress = self.running[job.id] = Progress()
        request = {"id": job.id, "command": job.command, "parameters": job.parameters, "inputs": job.inputs}
        async with aclosing(self.engine.run(request)) as events:
            async for event in events:
                if "step" in event:
                    if progress.follow(event["step"]):
                        await self._recorded(job, stage=progress.stage)
                elif "done" in event or "problem" in event:
                    return event
        raise WorkerLostError("It ended without a word.")

    async def _end(self, job: Job, outcome: dict[str, Any], seconds: float) -> None:
        ended: dict[str, Any] = {"status": FAILED, "finished": time.time(), "problem": outcome.get("problem")}
        if result := outcome.get("done"):
            files = result.pop("files")
            ended |= {"status": DONE, "files": files, "result": {**result, "seconds": seconds}}
        if not await self._recorded(job, **ended):
            await asyncio.to_thread(self._drop, job)  # cancelled at the last moment
            return
        self.metrics.jobs.labels(job.command, ended["status"]).inc()
        if not result:
            await asyncio.to_thread(self._drop, job)
            return
        self.metrics.finished(job.command, seconds, result)
        self.durations.learn(kind_of(job.command, job.parameters), result["stages"])
        await asyncio.to_thread(self._drop_inputs, job)

    async def _recorded(self, job: Job, **values: Any) -> bool:
        """Change a running job; waits as long as the database cannot be reached, so that no result is lost."""
        while True:
            try:
                return await asyncio.to_thread(self.jobs.change, job.id, (RUNNING,), **values)
            except DATABASE_ERRORS as error:
                log.error("The database cannot be written, trying again: %s", str(error).splitlines()[0])
                await asyncio.sleep(1)

    async def _look(self) -> None:
        """Keep `state` and the gauges up to date."""
        while True:
            self.state = await self.engine.state()
            counts = await asyncio.to_thread(self.jobs.counts)
            self.metrics.waiting.set(counts.get(QUEUED, 0))
            self.metrics.running.set(counts.get(RUNNING, 0))
            self.metrics.workers.set(self.state.ready)
            await asyncio.sleep(1.0)

    async def _sweep(self) -> None:
        while True:
            await asyncio.to_thread(self.sweep, time.time())
            await asyncio.sleep(_SWEEP)

    def sweep(self, now: float) -> None:
        """Remove what has expired: first the results of a job, later its row."""
        keep = self.settings.keep_seconds
        for job in self.jobs.kept_and_finished_before(now - keep):
            if self._drop(job):
                status = EXPIRED if job.status == DONE else job.status
                self.jobs.change(job.id, ENDED, status=status, files={}, kept=False)
        self.jobs.forget_finished_before(now - _FORGET * keep)

    def _drop(self, job: Job) -> bool:
        """Remove all stored files of a job. Returns whether that worked."""
        try:
            self.store.remove(job.id)
        except PipelineError as error:
            log.warning("%s", error)
            return False
        return True

    def _drop_inputs(self, job: Job) -> None:
        """Remove the pictures of a finished job."""
        stored = [*job.inputs.get("pictures", ()), *job.inputs.get("masks", ())]
        stored += [job.inputs["state"]] if "state" in job.inputs else []
        for owner, name in stored:
            if owner == job.id:
                self.store.remove_file(owner, name)
