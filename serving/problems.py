"""Errors as RFC 9457 problems (application/problem+json): what was found, what was expected, what to try."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pipeline import errors
from pipeline.words import counted

from .parameters import named_as_parameters

MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True)
class Problem:
    """type: a stable name for programs. status: of HTTP. detail: a sentence for people, with the cure."""

    type: str
    title: str
    status: int
    detail: str

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "type": f"urn:trellis2:problem:{self.type}"}


class Refused(Exception):
    """A request that is answered with a problem. headers: what else the answer says."""

    def __init__(self, problem: Problem, headers: dict[str, str] | None = None) -> None:
        super().__init__(problem.detail)
        self.problem, self.headers = problem, headers or {}


# error -> type, title, status of what follows from a request; the first class that fits counts
_OF_ERRORS = (
    (errors.ImageError, "picture", "The picture cannot be used", 422),
    (errors.StateError, "state", "The state cannot be used", 422),
    (errors.SettingsError, "settings", "A setting cannot work", 422),
    (errors.MeshError, "mesh", "The mesh cannot be used", 422),
    (errors.EmptyResultError, "empty-result", "There is no result", 422),
    (errors.NotFiniteError, "not-finite", "The networks gave no numbers", 500),
    (errors.OutOfMemoryError, "out-of-memory", "The memory does not suffice", 507),
    (errors.CheckpointError, "checkpoint", "The checkpoint cannot do this", 422),
    (errors.BackendError, "backend", "A part of the server is missing", 501),
    (errors.OutputError, "storage", "The result cannot be stored", 507),
    (errors.PipelineError, "pipeline", "The pipeline refused", 422),
)


def of_error(error: errors.PipelineError, folder: str = "") -> Problem:
    """The problem of an error; its text without the server's folder, if that is named, and with the names of
    parameters for those of options."""
    kind, title, status = next(row[1:] for row in _OF_ERRORS if isinstance(error, row[0]))
    detail = str(error).replace(folder.rstrip("/") + "/", "") if folder else str(error)
    return Problem(kind, title, status, named_as_parameters(detail))


def internal(error: BaseException) -> Problem:
    """The problem of an unexpected error: a fault of the service."""
    detail = f"An unexpected {type(error).__name__} stopped the job. The server's log has it in full; please report it."
    return Problem("internal", "An unexpected error", 500, detail)


def worker_lost(tries: int) -> Problem:
    detail = (
        f"The worker process ended while it ran this job, {counted(tries, 'time')}. The machine may be short of "
        "memory: ask for a lower type, fewer faces or a smaller texture_size."
    )
    return Problem("worker-lost", "The worker was lost", 500, detail)


def interrupted(stage: str) -> Problem:
    place = f"in the stage {stage!r}" if stage else "before its first stage"
    detail = f"The service stopped while this job ran, {place}. Nothing of it was kept; send the request again."
    return Problem("interrupted", "The service stopped", 503, detail)


def too_long(seconds: float) -> Problem:
    detail = f"The job ran longer than {seconds:,.0f} s. Ask for fewer steps, a lower type or fewer faces."
    return Problem("time-limit", "The job took too long", 422, detail)


def cancelled() -> Problem:
    return Problem("cancelled", "The job was cancelled", 410, "The job was cancelled; send the request again.")


def queue_full(limit: int) -> Refused:
    detail = f"{counted(limit, 'job is', 'jobs are')} waiting, which is the limit. Try again later."
    return Refused(Problem("queue-full", "Too many jobs", 429, detail), {"Retry-After": "10"})


def disk_full(free: int, needed: int) -> Refused:
    detail = f"The server has {free / 1e9:.1f} GB of disk left; {needed / 1e9:.1f} must remain free. Try again later."
    return Refused(Problem("disk-full", "The disk is nearly full", 507, detail), {"Retry-After": "600"})


def too_large(what: str, limit: int) -> Refused:
    detail = f"The {what} is larger than {limit / 1e6:,.1f} MB, which is the limit. Send a smaller one."
    return Refused(Problem("too-large", "The request is too large", 413, detail))


def not_finished(status: str) -> Refused:
    detail = f"The job is {status}. Ask for /jobs/ID until its status is done, then for its files."
    return Refused(Problem("not-finished", "There is no result yet", 409, detail), {"Retry-After": "2"})


def expired() -> Refused:
    detail = "The results of this job were kept for the time that the server is set to. Send the request again."
    return Refused(Problem("expired", "The result is gone", 410, detail))


def no_file(name: str, names: list[str]) -> Refused:
    detail = f"The job has no file {name[:100]!r}; it has {', '.join(names) or 'none'}."
    return Refused(Problem("no-file", "There is no such file", 404, detail))


def other_request() -> Refused:
    detail = "This Idempotency-Key came with another request before. Take a new key for a new request."
    return Refused(Problem("idempotency-key", "The key was used already", 422, detail))


def not_to_cancel(status: str) -> Refused:
    return Refused(Problem("ended", "The job has ended", 409, f"The job is {status}; there is nothing to cancel."))


def database_away() -> Refused:
    detail = "The server's database does not answer. Try again later."
    return Refused(Problem("database", "The database is out of reach", 503, detail), {"Retry-After": "5"})


def malformed(detail: str) -> Refused:
    return Refused(Problem("malformed", "The request cannot be read", 400, detail))


def unknown_job(job_id: str) -> Refused:
    detail = f"There is no job {job_id[:64]}. Finished jobs are forgotten some time after their results; send it again."
    return Refused(Problem("unknown-job", "There is no such job", 404, detail))
