"""One job in the process of a worker: from the stored request to the stored result.

The steps and their options are those of `python -m pipeline generate` and `finish`; here the models stay loaded.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch

from pipeline import __version__, stages
from pipeline.backends import Backends
from pipeline.budget import bound, device_bytes
from pipeline.cli.drawing import drawn_outputs, wants_drawing, write_drawings
from pipeline.cli.export import export_settings
from pipeline.cli.objects import object_settings
from pipeline.cli.options import posed_pictures
from pipeline.cli.project import photos
from pipeline.cli.settings import settings_of
from pipeline.console import Written
from pipeline.errors import PipelineError
from pipeline.make import ObjectSettings, PlannedRun, finish_object, make_object
from pipeline.models import build
from pipeline.plan import AUTO
from pipeline.record import Journal, device_name
from pipeline.render import RENDER
from pipeline.runtime import Runtime, Step, choose_device, named_dtype
from pipeline.speed import SPEEDS
from pipeline.weights import SMALL_CHECKPOINT, Checkpoint, Models, open_checkpoint

from .parameters import options_of
from .settings import WorkerSettings
from .store import Store

log = logging.getLogger(__name__)

MODEL, PREVIEW, STATE = "model.glb", "preview.png", "state.safetensors"


class Maker:
    """What stays from job to job: the checkpoint, its models as far as they fit, the table of backends.

    Raises:
        PipelineError: the checkpoint cannot be used, the device does not exist, the store is out of reach.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings, self.store = settings, Store(settings.store, settings.store_options)
        self.device = choose_device(settings.device)
        if self.device.type == "cpu" and settings.threads:
            torch.set_num_threads(settings.threads)
        if settings.memory_limit:
            bound(self.device, settings.memory_limit)
        self.dtype = named_dtype(settings.dtype, self.device)
        self.backends = stages.default_backends(settings.backends)
        self.checkpoint = open_checkpoint(settings.checkpoint or SMALL_CHECKPOINT, settings.image_encoder)
        self.models = Models(self.checkpoint, build)
        default = self.checkpoint.default_pipeline_type
        self.models.fetch(default.roles(True))
        self.keeps = self._keeps(default.roles(True))
        if self.keeps:
            for role in default.roles(True):
                self.models.get(role, self.device, self.dtype)

    def make(self, job: Mapping[str, Any], on_step: Callable[[Step], None]) -> dict[str, Any]:
        """Run a job and store its files. Returns {"files": {name: bytes}, "facts", "stages", "memory"}, JSON-able.

        job: id, command, parameters and inputs of jobs.Job. An exception of on_step stops it; nothing is stored then.

        Raises:
            PipelineError: see the stages.
        """
        with tempfile.TemporaryDirectory(prefix="trellis2-job-") as folder:
            place = Path(folder)
            start, options = time.perf_counter(), options_of(job["command"], job["parameters"])
            self.backends.used.clear()  # the result lists the backends of this job only
            runtime, self._journal = self._runtime(options, on_step), self._logged(job["id"])
            runtime.on_record = self._journal.stage
            try:
                run = {"generate": self._generate, "finish": self._finish}[job["command"]]
                facts = run(runtime, options, self._inputs(job["inputs"], place), place / MODEL)
                files = self._stored(job["id"], place)
                self._journal.end(facts, runtime.records, time.perf_counter() - start)
            except PipelineError as error:
                error.args = (str(error).replace(f"{folder}/", ""),)  # clients must not see the server's folders
                self._journal.end({}, runtime.records, time.perf_counter() - start, error)
                raise
            finally:
                self._tidy()
        where = {"device": str(self.device), "dtype": str(self.dtype), "backends": dict(self.backends.used)}
        return {
            "files": files,
            "facts": _plain({**facts, **where, "version": __version__}),
            "stages": _plain([asdict(record) for record in runtime.records]),
            "memory": self.memory(),
        }

    def _logged(self, job_id: str) -> Journal:
        """The structured log of a job; workers add whole lines to one file."""

        def write(line: str) -> None:
            if self.settings.log == "-":
                sys.stderr.write(line)
            elif self.settings.log:
                with open(self.settings.log, "a", encoding="utf-8") as file:
                    file.write(line)

        return Journal(write if self.settings.log else None, job_id, device_name(self.device))

    def memory(self) -> dict[str, int]:
        """Bytes that this process holds now: of main memory, and of a CUDA device."""
        held = {"rss": psutil.Process().memory_info().rss}
        if self.device.type == "cuda":
            held["device"] = torch.cuda.memory_allocated(self.device)
            held["device_reserved"] = torch.cuda.memory_reserved(self.device)
        return held

    def _generate(self, runtime: Runtime, options: argparse.Namespace, inputs: dict, output: Path) -> dict:
        options.images, options.mask = inputs.get("pictures", []), inputs.get("masks", [])
        options.save_state = output.with_name(STATE)
        self._drawn(options, output)
        settings = check_generate(self.checkpoint, options, output, self.backends, self.device)
        images = posed_pictures(options)
        shots = photos(options) if settings.projection else []
        self.models.fetch(settings.roles)
        save = partial(stages.write_generation, options.save_state)
        made = make_object(self._planned(runtime, options), self.models, images, settings, shots, save)
        if made.plan.tried:  # less memory is available than estimated
            self.keeps = self.keeps and made.plan.rung.keep_models
        facts = dict(made.facts)
        if made.refused:
            facts["warnings"] = [*facts.get("warnings", ()), *map(str, made.refused)]
        self._write(runtime, options, made.result, settings.export, facts, output)
        return {**facts, "plan": made.plan.as_dict()}

    def _finish(self, runtime: Runtime, options: argparse.Namespace, inputs: dict, output: Path) -> dict:
        self._drawn(options, output)
        export = export_settings(options, output)
        textured = not options.geometry_only and "voxels" in stages.held_in(inputs["state"])
        drawn_outputs(options, output)
        stages.check_finish(export, textured, wants_drawing(options), self.backends, self.device)
        state = stages.open_state(inputs["state"], ["mesh", "voxels"] if textured else ["mesh"])
        raw = state.mesh
        assert raw is not None  # as it was asked for
        made = finish_object(self._planned(runtime, options), raw, state.voxels, export, state.settings)
        self._write(runtime, options, made.result, export, made.facts, output)
        counts = {"raw_vertices": len(raw.vertices), "raw_faces": len(raw.faces)}
        return {**counts, **made.facts, "plan": made.plan.as_dict()}

    def _planned(self, runtime: Runtime, options: argparse.Namespace) -> PlannedRun:
        return settings_of(
            PlannedRun, options, runtime=runtime, journal=self._journal, reuse=self.keeps, memory_plan=AUTO
        )

    def _write(self, runtime, options, result, export, facts: dict, output: Path) -> None:
        stages.write_finished(runtime, result, output, export, facts)
        with Written() as written:
            write_drawings(options, runtime, result, export.alpha_mode, written)
        if written.errors:
            raise written.errors[0]

    def _drawn(self, options: argparse.Namespace, output: Path) -> None:
        """Paths of the pictures: a preview for every job, a video if asked for."""
        options.picture = output.with_name(PREVIEW) if self.backends.offers(RENDER, self.device) else None
        options.turntable = options.turntable and output.with_name(options.turntable.name)

    def _runtime(self, options: argparse.Namespace, on_step: Callable[[Step], None]) -> Runtime:
        speed = SPEEDS[vars(options).get("speed", "exact")]  # finish, which has no networks, has no such option
        limit = self.settings.memory_limit
        return Runtime(self.device, self.backends, self.dtype, on_step, self.keeps, memory_limit=limit, speed=speed)

    def _keeps(self, roles: Iterable[str]) -> bool:
        """Whether the models may stay loaded: they leave at least half of the device's memory to the work."""
        size = sum(self.checkpoint.files(role).size for role in roles)
        return 2 * size <= device_bytes(self.device, self.settings.memory_limit)

    def _inputs(self, inputs: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        """The stored inputs (each a job's id and a name) as files of this machine."""

        def fetched(stored: list[str]) -> Path:
            target = folder / f"input-{stored[1]}"
            self.store.fetch(stored[0], stored[1], target)
            return target

        found: dict[str, Any] = {key: list(map(fetched, inputs[key])) for key in ("pictures", "masks") if key in inputs}
        return found | ({"state": fetched(inputs["state"])} if "state" in inputs else {})

    def _stored(self, job_id: str, folder: Path) -> dict[str, int]:
        """Store the results: all files or, if one cannot be stored, none."""
        made = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith("input-")]
        try:
            for path in made:
                self.store.put(job_id, path, path.name)
        except PipelineError:
            for path in made:
                self.store.remove_file(job_id, path.name)
            raise
        return {path.name: path.stat().st_size for path in made}

    def _tidy(self) -> None:
        """Release memory to the system, so that a worker does not grow from job to job."""
        if not self.keeps:
            self.models.release()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if sys.platform == "linux":
            trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc keeps what was freed; musl has no such call
            if trim is not None:
                trim(0)


def check_generate(
    checkpoint: Checkpoint,
    options: argparse.Namespace,
    output: Path,
    backends: Backends | None = None,
    device: torch.device | str = "cpu",
) -> ObjectSettings:
    """Check everything that can be checked without the pictures; returns the request's settings.

    Raises:
        PipelineError: as stages.preflight and the settings of samplers.
    """
    settings, _ = object_settings(options, output, lambda: checkpoint)
    drawn_outputs(options, output)
    settings.check(checkpoint, options.turntable is not None, backends, device)
    return settings


def _plain(value: Any) -> Any:
    """As JSON can hold it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    return value.item() if hasattr(value, "item") else str(value)
