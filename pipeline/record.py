"""What a stage or a job was and cost, as one JSON object: a line of a log, part of a report and of a file's extras.

docs/log.md documents the fields.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone

import torch

from . import __version__
from .plan import LASTING
from .runtime import Runtime, StageRecord

SCHEMA = 1  # of the fields; another number where one of them changes its meaning
STAGE, JOB = "stage", "job"
# What a job is about, in the facts of a run.
_COUNTS = ("pictures", "tokens", "voxels", "raw_vertices", "raw_faces", "vertices", "faces", "texture_size")
_SETTINGS = ("checkpoint", "pipeline_type", "seed", "resolution", "max_num_tokens", "strength")
_PLAN = ("name", "lower")  # what of a plan is in the record of a stage


@dataclass(frozen=True)
class Record:
    """One stage of a job, or the job when it ends.

    kind: STAGE or JOB. job: what the caller calls it, such as the name of the file. time: when it ended, ISO 8601 in
    UTC. seconds: wall clock, of these loading_seconds on weights. peak_bytes: device memory on CUDA, the process's
    elsewhere. counts: tokens, voxels, faces and the like. plan: plan.Plan.as_dict(), empty where none was made.
    warnings: for people. error: {"type", "message"}, empty if it was finished. settings: what the job was to do.
    """

    kind: str
    job: str
    time: str
    seconds: float
    peak_bytes: int
    stage: str = ""
    loading_seconds: float = 0.0
    device: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    plan: Mapping = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping = field(default_factory=dict)
    error: Mapping[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    def line(self) -> str:
        """One line of JSON, with its end."""
        return json.dumps(asdict(self), default=str, ensure_ascii=False) + "\n"

    def lasting(self) -> dict:
        """What is the same for equal runs, for files that must be equal to the byte: neither time nor what it cost."""
        plan = {key: self.plan[key] for key in LASTING if key in self.plan}
        found = {"schema": self.schema, "kind": self.kind, "counts": dict(self.counts), "plan": plan}
        return {**found, "warnings": list(self.warnings), "versions": dict(self.versions)}


def versions() -> dict[str, str]:
    """Of what a result depends on."""
    return {"pipeline": __version__, "python": platform.python_version(), "torch": torch.__version__}


def device_name(device: torch.device) -> str:
    """The name of a CUDA device, or the kind of another."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def circumstances(runtime: Runtime, seconds: float) -> dict:
    """Where and how a run ran, for reports."""
    return {
        "device": device_name(runtime.device),
        "dtype": str(runtime.dtype or "as the checkpoint").removeprefix("torch."),
        "torch": torch.__version__,
        "backends": dict(runtime.backends.used),
        "seconds": round(seconds, 3),
        "stages": [asdict(record) for record in runtime.records],
    }


def stage_record(done: StageRecord, job: str = "", plan: Mapping | None = None, device: str = "") -> Record:
    """Of a stage that ended. plan: of the try that it belongs to."""
    return Record(
        STAGE,
        job,
        _now(),
        round(done.seconds, 4),
        done.peak_bytes,
        done.stage,
        round(done.loading_seconds, 4),
        device=device,
        counts=done.counts,
        plan={key: plan[key] for key in _PLAN if key in plan} if plan else {},
        warnings=done.notes,
        versions=versions(),
        error={"type": done.error_type, "message": done.error} if done.error else {},
    )


def job_record(
    facts: Mapping,
    stages: Sequence[StageRecord] = (),
    seconds: float = 0.0,
    job: str = "",
    device: str = "",
    error: BaseException | None = None,
) -> Record:
    """Of a job that ended. facts: of its settings and its result; what of them belongs into a record is taken."""
    plan = facts.get("plan", {})
    return Record(
        JOB,
        job,
        _now(),
        round(seconds, 4),
        max((done.peak_bytes for done in stages), default=0),
        loading_seconds=round(sum(done.loading_seconds for done in stages), 4),
        device=device,
        counts={key: facts[key] for key in _COUNTS if isinstance(facts.get(key), int)},
        plan=plan if isinstance(plan, Mapping) else {},
        warnings=tuple(map(str, facts.get("warnings", ()))),
        versions=versions(),
        settings={key: facts[key] for key in _SETTINGS if key in facts},
        error={} if error is None else {"type": type(error).__name__, "message": str(error)},
    )


class Journal:
    """Writes the records of one job, line by line, as they come.

    Args:
        write: takes a line; None: nothing is written.
        job: what the job is called.
        device: its name.
    """

    def __init__(self, write: Callable[[str], object] | None, job: str = "", device: str = "") -> None:
        self._write, self.job, self.device = write, job, device
        self.plan: Mapping = {}  # of the present try

    def stage(self, done: StageRecord) -> None:
        """For Runtime(on_record)."""
        if self._write is not None:
            self._write(stage_record(done, self.job, self.plan, self.device).line())

    def end(
        self,
        facts: Mapping,
        stages: Sequence[StageRecord] = (),
        seconds: float = 0.0,
        error: BaseException | None = None,
    ) -> Record:
        """Write the job's record and return it. Arguments as job_record."""
        made = job_record({"plan": self.plan, **facts}, stages, seconds, self.job, self.device, error)
        if self._write is not None:
            self._write(made.line())
        return made


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
