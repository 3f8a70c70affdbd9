"""The HTTP routes: jobs, their state and files, health and metrics."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException

from pipeline import __version__
from pipeline.errors import PipelineError

from . import pages, problems
from .answers import described
from .body_limit import BodyLimit
from .dispatch import Dispatcher
from .engine import Engine
from .jobs import DATABASE_ERRORS, DONE, EXPIRED, Job, Jobs
from .making import STATE
from .metrics import MEDIA_TYPE, Metrics
from .parameters import schema
from .requests import Receiver, form_schema
from .settings import MB, ServiceSettings
from .store import Store

log = logging.getLogger(__name__)

_ALIASES = {"state": STATE}
_MEDIA = {
    ".glb": "model/gltf-binary",
    ".png": "image/png",
    ".mp4": "video/mp4",
    ".safetensors": "application/octet-stream",
}


def create(settings: ServiceSettings, engine: Engine) -> FastAPI:
    """The application of a service; its workers start and stop with it."""
    settings.data.mkdir(parents=True, exist_ok=True)
    jobs, store = Jobs(settings.database), Store(settings.worker.store, settings.worker.store_options)
    metrics = Metrics()
    dispatcher = Dispatcher(settings, jobs, store, engine, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await dispatcher.start()
        yield
        await dispatcher.stop()
        jobs.close()

    app = FastAPI(title="TRELLIS.2 Stages", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    pictures = 2 * settings.pictures * settings.picture_bytes * 4 // 3 + MB  # masks too, all in base64
    bodies = {"/generate": pictures, "/extract_glb": settings.state_bytes * 4 // 3 + MB}
    app.add_middleware(BodyLimit, bodies=bodies, other=MB)
    _add_answers_to_errors(app, metrics)
    _add_requests(app, dispatcher, Receiver(settings, jobs, store))
    _add_jobs(app, dispatcher)
    _add_watching(app, dispatcher)
    pages.add(app, settings.node_modules)
    return app


def _add_answers_to_errors(app: FastAPI, metrics: Metrics) -> None:
    def answer(problem: problems.Problem, headers: Mapping[str, str] | None = None) -> Response:
        metrics.refused.labels(problem.type).inc()
        return JSONResponse(problem.as_dict(), problem.status, headers, problems.MEDIA_TYPE)

    @app.exception_handler(problems.Refused)
    async def refused(request: Request, error: problems.Refused) -> Response:
        return answer(error.problem, error.headers)

    @app.exception_handler(PipelineError)
    async def pipeline(request: Request, error: PipelineError) -> Response:
        return answer(problems.of_error(error))

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        return answer(problems.malformed(str(error.errors())[:500]).problem)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        detail = f"{error.detail}: {request.method} {request.url.path[:200]}. See /docs for what there is."
        return answer(problems.Problem("http", str(error.detail), error.status_code, detail), error.headers)

    for each in DATABASE_ERRORS:

        @app.exception_handler(each)
        async def database(request: Request, error: Exception) -> Response:
            log.error("The database does not answer: %s", str(error).splitlines()[0])
            refused = problems.database_away()
            return answer(refused.problem, refused.headers)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        return answer(problems.internal(error))


def _add_requests(app: FastAPI, dispatcher: Dispatcher, receiver: Receiver) -> None:
    def body(command: str) -> dict[str, Any]:
        properties = schema(command)["properties"]
        kinds = {"multipart/form-data": True, "application/json": False}
        content = {kind: {"schema": form_schema(command, properties, binary)} for kind, binary in kinds.items()}
        return {"requestBody": {"required": True, "content": content}}

    async def queued(request: Request, command: str) -> Response:
        job, new = await receiver.receive(request, command)
        dispatcher.announce()
        place = f"{request.scope.get('root_path', '')}/jobs/{job.id}"
        return JSONResponse(await _document(dispatcher, job, request), 202 if new else 200, {"Location": place})

    @app.post("/generate", status_code=202, openapi_extra=body("generate"), summary="Pictures to a GLB")
    async def generate(request: Request) -> Response:
        """Answers at once with a job. With an `Idempotency-Key` header the same request makes one job only."""
        return await queued(request, "generate")

    @app.post("/extract_glb", status_code=202, openapi_extra=body("finish"), summary="A state to another GLB")
    async def extract_glb(request: Request) -> Response:
        """From the state of a finished job (`job`) or a state file, with other faces, texture size, shells; no network
        runs."""
        return await queued(request, "finish")

    @app.get("/parameters", summary="All parameters, basic and expert")
    async def parameters() -> dict[str, Any]:
        return {"generate": schema("generate"), "extract_glb": schema("finish")}


def _add_jobs(app: FastAPI, dispatcher: Dispatcher) -> None:
    async def found(job_id: str) -> Job:
        job = await asyncio.to_thread(dispatcher.jobs.get, job_id[:64])
        if job is None:
            raise problems.unknown_job(job_id)
        return job

    @app.get("/jobs/{job_id}", summary="Status, stage, step, time left, files")
    async def get(job_id: str, request: Request) -> Response:
        return JSONResponse(await _document(dispatcher, await found(job_id), request))

    @app.delete("/jobs/{job_id}", summary="Cancel")
    @app.post("/jobs/{job_id}/cancel", summary="Cancel")
    async def cancel(job_id: str, request: Request) -> Response:
        """A waiting job never starts; a running one stops after the current step."""
        job = await found(job_id)
        if not await dispatcher.cancel(job):
            raise problems.not_to_cancel((await found(job_id)).status)
        return JSONResponse(await _document(dispatcher, await found(job_id), request))

    @app.head("/jobs/{job_id}/{name}", include_in_schema=False)
    @app.get("/jobs/{job_id}/{name}", summary="model.glb, preview.png, state, ...")
    async def file(job_id: str, name: str) -> Response:
        job = await found(job_id)
        name = _ALIASES.get(name, name)
        if job.status == DONE and name in job.files:
            return await _file(dispatcher.store, job_id, name)
        if job.status == EXPIRED:
            raise problems.expired()
        if job.problem:  # a job without a result answers with its problem
            return JSONResponse(job.problem, job.problem["status"], media_type=problems.MEDIA_TYPE)
        raise problems.no_file(name, list(job.files)) if job.finished else problems.not_finished(job.status)


async def _document(dispatcher: Dispatcher, job: Job, request: Request) -> dict[str, Any]:
    ahead = await asyncio.to_thread(dispatcher.jobs.ahead_of, job) if job.status == "queued" else None
    prefix = request.scope.get("root_path", "")
    progress, left = dispatcher.running.get(job.id), dispatcher.seconds_left(job)
    return described(job, prefix, progress, left, ahead, dispatcher.settings.keep_seconds)


async def _file(store: Store, job_id: str, name: str) -> Response:
    media = _MEDIA.get(Path(name).suffix, "application/octet-stream")
    more: dict[str, Any] = {"media_type": media, "filename": name, "content_disposition_type": "inline"}
    more["headers"] = {"X-Content-Type-Options": "nosniff"}
    if store.folder is not None:
        path = store.folder / job_id / name
        if not await asyncio.to_thread(path.is_file):
            raise problems.expired()
        return FileResponse(path, **more)
    folder = await asyncio.to_thread(tempfile.TemporaryDirectory, prefix="trellis2-answer-")
    try:
        await asyncio.to_thread(store.fetch, job_id, name, Path(folder.name) / name)
    except PipelineError:
        folder.cleanup()
        raise
    return FileResponse(Path(folder.name) / name, background=BackgroundTask(folder.cleanup), **more)


def _add_watching(app: FastAPI, dispatcher: Dispatcher) -> None:
    def health() -> dict[str, Any]:
        state = dispatcher.state
        word = "ready" if state.ready else "error" if state.error else "loading"
        answer = {"status": word, "live": True, "ready": state.ready > 0, "workers": state.ready, "error": state.error}
        return {**answer, "jobs_running": len(dispatcher.running), "version": __version__}

    @app.get("/health", summary="Whether it lives, and whether it takes jobs")
    async def live() -> dict[str, Any]:
        """Always 200 while the service lives; `status` is loading, ready or error."""
        return health()

    @app.get("/ready", summary="As /health, 503 while no worker takes jobs")
    async def ready() -> Response:
        answer = health()
        return JSONResponse(answer, 200 if answer["ready"] else 503)

    @app.get("/metrics", summary="For Prometheus")
    async def metrics() -> Response:
        return Response(dispatcher.metrics.text(), media_type=MEDIA_TYPE)
