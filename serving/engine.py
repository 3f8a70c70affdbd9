"""Ray Serve, as far as the service needs it: replicas of the worker, a job to one of them, their state."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.handle import DeploymentHandle

from pipeline.signals import handlers_kept

from .joining import OWN, joined, why_not
from .settings import ServiceSettings, plain
from .worker import Worker

log = logging.getLogger(__name__)

APP, _WORKER = "trellis2", "worker"
_OBJECTS = 100_000_000  # bytes of Ray's shared memory: only small messages pass through it


class WorkerLostError(Exception):
    """The process of a worker ended while it ran a job."""


@dataclass(frozen=True)
class EngineState:
    """ready: workers that take jobs. error: why there are none and will be none, or ""."""

    ready: int = 0
    error: str = ""


class Engine:
    """The workers of a service."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings, self._error = settings, ""
        self._handle: DeploymentHandle | None = None
        # Ray's processes end with the thread that started them, so it must live as long as they do
        self._lasting = ThreadPoolExecutor(1, "ray")

    async def start(self) -> None:
        """Start Ray (or join a cluster) and the workers; returns when one is ready for jobs or all have failed."""
        try:
            with handlers_kept():  # in this thread, the main one, which may set signal handlers
                await asyncio.get_running_loop().run_in_executor(self._lasting, self._start_ray)
            self._handle = await asyncio.to_thread(self._start_workers)
        except (RayError, RuntimeError, ValueError, OSError) as error:
            self._error = _own_words(why_not(error))
            log.error("There are no workers: %s", self._error)

    async def stop(self) -> None:
        """End the workers and, if it is not a cluster's, Ray."""
        await asyncio.get_running_loop().run_in_executor(self._lasting, self._stop)

    async def state(self) -> EngineState:
        if self._error or self._handle is None:
            return EngineState(error=self._error)
        return await asyncio.to_thread(_state)

    def _start_ray(self) -> None:
        settings = self._settings
        own: dict[str, Any] = {**OWN, "object_store_memory": _OBJECTS}
        own["num_cpus"] = settings.workers + 2  # a worker counts for one, though it may compute on all
        ray.init(logging_level=logging.ERROR, **(joined(settings.address) if settings.address else own))

    def _start_workers(self) -> DeploymentHandle:
        settings, quiet = self._settings, {"log_level": "WARNING", "enable_access_log": False}
        serve.start(proxy_location="Disabled", logging_config=quiet)
        deployment = serve.deployment(
            Worker,
            name=_WORKER,
            num_replicas=settings.workers,
            max_ongoing_requests=1,
            ray_actor_options={"num_cpus": 1, "num_gpus": settings.gpus_each},
            health_check_timeout_s=120,  # compiling holds Python's lock
            graceful_shutdown_timeout_s=5,
            logging_config=quiet,
        )
        workers = deployment.bind(plain(settings.worker), settings.time_limit)
        return serve.run(workers, name=APP, route_prefix=None)

    def _stop(self) -> None:
        if ray.is_initialized():
            if self._settings.address:
                serve.delete(APP)
            else:
                serve.shutdown()
            ray.shutdown()

    async def run(self, job: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """What Worker.run yields; closing the iterator cancels the job.

        Raises:
            WorkerLostError: the worker's process ended.
        """
        assert self._handle is not None
        answer = self._handle.options(stream=True).run.remote(dict(job))
        ended = False
        try:
            async for event in answer:
                yield event
            ended = True
        except RayError as error:
            ended = True
            raise WorkerLostError(str(error)) from error
        finally:
            if not ended:
                answer.cancel()


def _state() -> EngineState:
    application = serve.status().applications.get(APP)
    workers = application.deployments.get(_WORKER) if application else None
    if workers is None:
        return EngineState()
    ready = workers.replica_states.get("RUNNING", 0)
    failed = not ready and workers.status.value == "DEPLOY_FAILED"  # of an unhealthy one Ray Serve makes a new one
    return EngineState(ready, _own_words(workers.message) if failed else "")


def _own_words(message: str) -> str:
    """The error's own message, without the traceback."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    named = [line for line in lines if "Error: " in line]
    return (named or lines or [""])[-1]
