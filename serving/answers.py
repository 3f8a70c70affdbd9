"""The JSON about a job that a client receives."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import Any

from .jobs import DONE, Job
from .progress import Progress

_FACTS_APART = ("backends",)  # long, and in the GLB


def described(
    job: Job, prefix: str, progress: Progress | None, left: float | None, ahead: int | None, keep: float
) -> dict[str, Any]:
    """The JSON of a job.

    Args:
        prefix: of the paths, behind a proxy. progress, left: of a job that runs. ahead: jobs that wait before it.
        keep: seconds for which results stay.
    """
    answer: dict[str, Any] = {"id": job.id, "command": job.command, "status": job.status, "tries": job.tries}
    times = {"created": job.created, "started": job.started, "finished": job.finished}
    answer |= {name: _moment(moment) for name, moment in times.items() if moment is not None}
    answer["parameters"] = job.parameters
    if ahead is not None:
        answer["ahead"] = ahead
    if progress is not None:
        answer |= {"stage": progress.stage, "step": progress.step, "steps": progress.total}
        answer |= {"stages_done": list(progress.before), "seconds_left": None if left is None else round(left, 1)}
    if job.started is not None:
        answer["seconds"] = round((job.finished or time.time()) - job.started, 3)
    if job.problem:
        answer["problem"] = job.problem
    if job.status == DONE and job.result and job.finished:
        answer["files"] = {
            name: {"bytes": size, "url": f"{prefix}/jobs/{job.id}/{name}"} for name, size in job.files.items()
        }
        answer["facts"] = {key: fact for key, fact in job.result["facts"].items() if key not in _FACTS_APART}
        answer |= {"stages": job.result["stages"], "memory": job.result["memory"]}
        answer["expires"] = _moment(job.finished + keep)
    return answer


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")
