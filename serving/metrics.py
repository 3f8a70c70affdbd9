"""The service's metrics in Prometheus' format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from pipeline import __version__

_SECONDS = (0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 600, 1800)  # buckets: from a wait in the queue to the longest job
MEDIA_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """The numbers of one service, in a registry of its own, so that several can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        more: dict[str, Any] = {"registry": self.registry}
        self.jobs = Counter("trellis2_jobs", "Jobs that ended, by command and how.", ["command", "status"], **more)
        self.refused = Counter("trellis2_refused", "Requests that were refused, by reason.", ["reason"], **more)
        self.retries = Counter("trellis2_retries", "Tries after a worker was lost.", **more)
        self.waiting = Gauge("trellis2_queue_depth", "Jobs that wait.", **more)
        self.running = Gauge("trellis2_jobs_running", "Jobs that run.", **more)
        self.workers = Gauge("trellis2_workers_ready", "Workers that take jobs.", **more)
        self.seconds = Histogram("trellis2_job_seconds", "Of whole jobs.", ["command"], buckets=_SECONDS, **more)
        self.stage_seconds = Histogram("trellis2_stage_seconds", "Of a stage.", ["stage"], buckets=_SECONDS, **more)
        self.stage_peak = Gauge("trellis2_stage_peak_bytes", "Most memory since the start.", ["stage"], **more)
        self.plans = Counter(
            "trellis2_plans", "Memory plans that jobs ran by, by rung of the ladder.", ["plan"], **more
        )
        self.adaptations = Counter(
            "trellis2_adapted", "Stages that were made to fit into the memory.", ["stage"], **more
        )
        self.worker_memory = Gauge("trellis2_worker_bytes", "Held by a worker after its last job.", ["kind"], **more)
        Gauge("trellis2_version", "Of the pack.", ["version"], **more).labels(__version__).set(1)
        self._peaks: dict[str, int] = {}

    def finished(self, command: str, seconds: float, result: Mapping[str, Any]) -> None:
        """Record a finished job's time and memory. result: of making.Maker.make."""
        self.seconds.labels(command).observe(seconds)
        self._stages(result["stages"])
        for kind, size in result["memory"].items():
            self.worker_memory.labels(kind).set(size)
        if plan := result["facts"].get("plan"):
            self.plans.labels(_name_of(plan)).inc()

    def _stages(self, records: Iterable[Mapping[str, Any]]) -> None:
        for record in records:
            stage = record["stage"]
            self.stage_seconds.labels(stage).observe(record["seconds"])
            self._peaks[stage] = max(self._peaks.get(stage, 0), record["peak_bytes"])
            self.stage_peak.labels(stage).set(self._peaks[stage])
            if record["notes"]:
                self.adaptations.labels(stage).inc()

    def text(self) -> bytes:
        return generate_latest(self.registry)


def _name_of(plan: Any) -> str:
    return str(plan.get("name", plan.get("rung", "")) if isinstance(plan, Mapping) else plan)
