"""The structured log of a batch: what an object's report says, as the records of docs/log.md."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..record import job_record, stage_record
from ..runtime import StageRecord
from .outcome import Outcome


def log_lines(job: str, outcome: Outcome) -> Iterator[str]:
    """A line for each stage of an object that has ended, and one for the object. job: what it is called.

    An object that failed has the last one alone: wherever it was worked on, its stages ended with it.
    """
    facts, stages = outcome.report, []
    for each in facts.get("stages", ()):
        known = dict(each)
        device = known.pop("device", "")
        stages.append(StageRecord(**{**known, "notes": tuple(known.get("notes", ()))}))
        yield stage_record(stages[-1], job, facts.get("plan"), device).line()
    made = job_record(facts, stages, facts.get("seconds", 0.0), job, facts.get("device", ""))
    error = {"type": outcome.kind, "message": outcome.error} if outcome.error else {}
    yield replace(made, error=error).line()
