"""One job, in the process of a worker: from what is stored of a request to what is stored as its result.

The steps and their options are those of `python -m pipeline generate` and `finish`; here the models stay loaded.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import logging
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import torch

from pipeline import __version__, stages
from pipeline import plan as planning
from pipeline.budget import bound, device_bytes
from pipeline.cli.export import export_settings
from pipeline.cli.generate import several_views
from pipeline.cli.options import posed_pictures
from pipeline.cli.project import photos, projection
from pipeline.cli.samplers import samplers
from pipeline.errors import ImageError, PipelineError
from pipeline.models import build
from pipeline.plan import Demand, Plan
from pipeline.render import RENDER
from pipeline.runtime import DTYPES, Runtime, Step, choose_device, choose_dtype
from pipeline.spec import PIPELINE_TYPES, PipelineType
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
        self.dtype = choose_dtype(self.device) if settings.dtype == "auto" else DTYPES[settings.dtype]
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
            self.backends.used.clear()  # the result says what this job used
            try:
                options = options_of(job["command"], job["parameters"])
                runtime = self._runtime(options, on_step)
                run = {"generate": self._generate, "finish": self._finish}[job["command"]]
                facts = run(runtime, options, self._inputs(job["inputs"], place), place / MODEL)
                files = self._stored(job["id"], place)
            except PipelineError as error:
                error.args = (str(error).replace(f"{folder}/", ""),)  # a client knows no folders of the server
                raise
            finally:
                self._tidy()
        told = {"device": str(self.device), "dtype": str(self.dtype), "backends": dict(self.backends.used)}
        return {
            "files": files,
            "facts": _plain({**facts, **told, "version": __version__}),
            "stages": _plain([asdict(record) for record in runtime.records]),
            "memory": self.memory(),
        }

    def memory(self) -> dict[str, int]:
        """Bytes that this process holds now: of main memory, and of a CUDA device."""
        held = {"rss": psutil.Process().memory_info().rss}
        if self.device.type == "cuda":
            held["device"] = torch.cuda.memory_allocated(self.device)
            held["device_reserved"] = torch.cuda.memory_reserved(self.device)
        return held

    def _generate(self, runtime: Runtime, options: argparse.Namespace, inputs: dict, output: Path) -> dict:
        options.images, options.mask = inputs.get("pictures", []), inputs.get("masks", [])
        options.save_state, options.picture = output.with_name(STATE), self._picture(output)
        export = export_settings(options, output)
        chosen = check_generate(self.checkpoint, options, export, self.backends, self.device)
        sampling = samplers(options, self.checkpoint.spec)
        projected = projection(options, not (options.geometry_only or export.vertex_colors))
        images = posed_pictures(options)
        shots = photos(options) if projected else []
        self.models.fetch(chosen.roles(not options.geometry_only))
        texture, finished = not options.geometry_only, stages.Finished()
        size = export.texture_size if texture and not export.vertex_colors else 0
        demand = Demand(chosen, texture, options.max_tokens, len(images.pictures), texture_size=size)
        several = several_views(images)

        def attempt(plan: Plan) -> tuple[dict, tuple]:
            used = plan.runtime(runtime, self.models)
            arguments = (used, self.models, images, plan.pipeline_type, options.seed, texture, plan.max_tokens)
            made = stages.generate(*arguments, sampling, finished)
            settings = stages.generation_settings(used, self.models, plan, options.seed, sampling, made) | several
            backends = {"backends": dict(runtime.backends.used)}
            stages.write_generation(options.save_state, made, {**settings, **backends})
            where = plan.finishing(used)
            result, facts = stages.finish_mesh(where, made.mesh, made.voxels, export)
            if not projected or not isinstance(result, stages.TexturedMesh):
                return settings, (result, facts)
            try:
                result = stages.project_texture(where, result, shots, projected)
            except ImageError as error:  # a picture that is refused does not cost the generated texture
                return settings, (result, {**facts, "warnings": [*facts.get("warnings", ()), str(error)]})
            return settings, (result, {**facts, **result.facts, "texture_size": len(result.maps)})

        (settings, (result, facts)), plan = planning.run(self._plan(options, demand, self.models), attempt)
        if plan.tried:  # there is less memory than was thought
            self.keeps = self.keeps and plan.rung.keep_models
        facts = plan.noted({**settings, **facts})
        self._write(runtime, options, result, export, facts, output)
        return {**facts, "plan": plan.as_dict()}

    def _finish(self, runtime: Runtime, options: argparse.Namespace, inputs: dict, output: Path) -> dict:
        options.picture = self._picture(output)
        export = export_settings(options, output)
        textured = not options.geometry_only and "voxels" in stages.held_in(inputs["state"])
        stages.check_finish(export, textured, options.picture is not None, self.backends, self.device)
        state = stages.open_state(inputs["state"], ["mesh", "voxels"] if textured else ["mesh"])
        raw = state.mesh
        assert raw is not None  # as it was asked for
        size = export.texture_size if textured and not export.vertex_colors else 0
        demand = Demand(
            PIPELINE_TYPES["512"], textured, texture_size=size, raw_faces=len(raw.faces), source=planning.STATE
        )

        def attempt(plan: Plan) -> tuple:
            return stages.finish_mesh(plan.finishing(plan.runtime(runtime)), raw, state.voxels, export)

        (result, facts), plan = planning.run(self._plan(options, demand, None), attempt)
        facts = {**state.settings, **facts}
        if plan.rung.finish_on_cpu or "plan" not in facts:  # else the plan of the networks is worth more
            facts = plan.noted(facts)
        self._write(runtime, options, result, export, facts, output)
        return {"raw_vertices": len(raw.vertices), "raw_faces": len(raw.faces), **facts, "plan": plan.as_dict()}

    def _plan(self, options: argparse.Namespace, demand: Demand, models: Models | None) -> Plan:
        return planning.choose(
            models,
            demand,
            self.device,
            memory_limit=self.settings.memory_limit,
            dtype=self.dtype,
            allow_lower=options.allow_lower,
            reuse=self.keeps,
        )

    def _write(self, runtime, options, result, export, facts: dict, output: Path) -> None:
        stages.write_finished(runtime, result, output, export, facts)
        if options.picture:
            stages.write_views(runtime, result, options.picture, export.alpha_mode)

    def _picture(self, output: Path) -> Path | None:
        return output.with_name(PREVIEW) if self.backends.offers(RENDER, self.device) else None

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
        """Store what was made. One file that cannot be stored costs all, and leaves none."""
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
        """Give memory back, so that a worker does not grow from job to job."""
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
    checkpoint: Checkpoint, options: argparse.Namespace, export, backends=None, device: torch.device | str = "cpu"
) -> PipelineType:
    """Everything that a request can be refused for without its pictures; returns the pipeline type that will run.

    Raises:
        PipelineError: as stages.preflight and the settings of samplers.
    """
    chosen = PipelineType.named(options.type) if options.type else checkpoint.default_pipeline_type
    stages.preflight(
        checkpoint,
        chosen,
        export,
        texture=not options.geometry_only,
        max_tokens=options.max_tokens,
        backends=backends,
        device=device,
    )
    samplers(options, checkpoint.spec)
    projection(options, not (options.geometry_only or export.vertex_colors))
    return chosen


def types_of(checkpoint: Checkpoint) -> list[str]:
    """The pipeline types that a checkpoint has networks for."""
    return [name for name, each in PIPELINE_TYPES.items() if checkpoint.has(each)]


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
