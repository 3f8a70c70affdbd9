"""One object after another with the models of a checkpoint, which stay loaded: sampling, and the finishing of what was
sampled, each by itself, so that the two can run in different processes."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from .. import stages
from ..budget import bound
from ..errors import OutputError, PipelineError
from ..export import writer, written_paths
from ..image import background_remover, prepare, read_picture
from ..make import ObjectSettings, PlannedRun, finish_object, make_object
from ..models import build
from ..record import circumstances
from ..runtime import Runtime, Step, choose_device, named_dtype
from ..sparse import SparseTensor, Voxels
from ..spec import PipelineType
from ..speed import speed_named
from ..weights import Checkpoint, Models, open_checkpoint
from .jobs import Job, views_path
from .recipe import Recipe

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")

# What libraries raise for an input that nobody has thought of: it must cost one object, not the batch.
_UNFORESEEN = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
_LOST = "CUDA error"
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}  # the disk takes no other file either


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    files: what was written, below the output folder. report: facts of the object, for the manifest.
    error: for people, "" if it was made; kind: the error's class.
    stop: the next job would fail in the same way: the disk is full, or the device is out of order.
    """

    files: tuple[str, ...] = ()
    report: dict = field(default_factory=dict)
    error: str = ""
    kind: str = ""
    stop: bool = False


@dataclass(frozen=True)
class Sampled:
    """What the networks made of a picture. voxels: None without texture. settings: for the files; report: what is known
    by now."""

    job: Job
    mesh: stages.Mesh
    voxels: stages.PBRVoxels | None
    settings: dict
    report: dict

    def packed(self) -> Sampled:
        """On the CPU and without what was derived from it, to be pickled."""
        mesh = stages.Mesh.known(
            self.mesh.vertices.cpu(), self.mesh.faces.cpu(), resolution=self.mesh.resolution, origin=self.mesh.origin
        )
        if self.voxels is None:
            return replace(self, mesh=mesh)
        sparse = self.voxels.sparse
        plain = SparseTensor(Voxels(sparse.voxels.coords.cpu(), sparse.voxels.lengths), sparse.feats.cpu())
        return replace(self, mesh=mesh, voxels=replace(self.voxels, sparse=plain))

    @property
    def bytes(self) -> int:
        """Of its tensors."""
        sparse = self.voxels.sparse if self.voxels else None
        tensors = [self.mesh.vertices, self.mesh.faces, *([sparse.voxels.coords, sparse.feats] if sparse else [])]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class Maker:
    """The models of a recipe's checkpoint on a device, ready to make objects.

    Args:
        device: a name, as for runtime.choose_device.
        on_step: as for Runtime; what it raises stops the job.
        memory_limit: bytes, as for Runtime.

    Raises:
        PipelineError: the recipe cannot be followed here, for any picture.
    """

    def __init__(
        self,
        recipe: Recipe,
        device: str = "auto",
        on_step: Callable[[Step], None] = lambda step: None,
        memory_limit: int | None = None,
    ) -> None:
        self.recipe, self.on_step, self.memory_limit = recipe, on_step, memory_limit
        self.device = choose_device(device)
        if memory_limit:
            bound(self.device, memory_limit)
        self.checkpoint = open_checkpoint(recipe.checkpoint, recipe.image_encoder)
        self.wanted = wanted(recipe, self.checkpoint)
        self.pipeline_type = self.wanted.pipeline_type
        writer(Path(f"object{recipe.suffix}"))  # which refuses an unknown one
        table = stages.default_backends(dict(recipe.backends))
        self.wanted.check(self.checkpoint, recipe.pictures, table, self.device)
        self._remover = background_remover(recipe.background, recipe.background_model)
        self._prepared: tuple[str, list] = ("", [])
        self.models = Models(self.checkpoint, build)
        self.models.fetch(self.wanted.roles)
        self.keep_models = True  # as far as they fit; until memory runs out once

    @property
    def settings(self) -> dict:
        """The recipe for the manifest, with what the checkpoint really is."""
        return _settings(self.recipe, self.models, self.pipeline_type)

    def make(self, job: Job, folder: Path) -> Outcome:
        """One job from the picture to its files below `folder`."""
        sampled = guarded(self.sample, job)
        return sampled if isinstance(sampled, Outcome) else self.finish(sampled, folder)

    def finish(self, sampled: Sampled, folder: Path, device: torch.device | None = None) -> Outcome:
        """As the function; None: on the device of this maker."""
        return guarded(finish, self.recipe, sampled, folder, device or self.device, self.on_step, self.memory_limit)

    def sample(self, job: Job) -> Sampled:
        """From a picture to the raw mesh and its voxels.

        Raises:
            PipelineError: the picture cannot be used, or a stage fails.
        """
        start, images = time.perf_counter(), self._pictures(job)
        run = self._planned()
        # finishing has a plan of its own, as it may run elsewhere
        made = make_object(run, self.models, images, replace(self.wanted, seed=job.seed, export=None))
        if made.plan.tried and self.keep_models:
            log.warning("%s From now on models are released after each stage.", " ".join(made.plan.tried))
            self.keep_models = False
        runtime, generation = run.runtime, made.result
        assert isinstance(generation, stages.Generation)  # as no file was asked for
        report = {**made.facts, "plan": made.plan.as_dict(), **_costs(runtime, time.perf_counter() - start)}
        known = {**made.facts, "backends": dict(runtime.backends.used)}
        return Sampled(job, generation.mesh, generation.voxels, known, report)

    def _planned(self) -> PlannedRun:
        recipe = self.recipe
        runtime = Runtime(
            self.device,
            stages.default_backends(dict(recipe.backends)),
            named_dtype(recipe.dtype, self.device),
            self.on_step,
            memory_limit=self.memory_limit,
            speed=speed_named(recipe.speed),
        )
        return PlannedRun(runtime=runtime, allow_lower=recipe.allow_lower, reuse=self.keep_models)

    def _pictures(self, job: Job) -> list:
        """The prepared picture; kept for the next variation of it."""
        if self._prepared[0] != job.picture:
            picture = prepare(read_picture(job.picture), None, self._remover, reduce_first=self.recipe.reduce_first)
            self._prepared = (job.picture, [picture])
        return self._prepared[1]


def finish(
    recipe: Recipe,
    sampled: Sampled,
    folder: Path,
    device: torch.device,
    on_step: Callable[[Step], None],
    memory_limit: int | None = None,
) -> Outcome:
    """From the raw mesh to the files of a job below `folder`; on any device, in any process.

    Raises:
        PipelineError: a stage fails, or a file cannot be written.
    """
    start, export = time.perf_counter(), recipe.export
    table = stages.default_backends(dict(recipe.backends))
    runtime = Runtime(device, table, None, on_step, memory_limit=memory_limit)
    path = folder / f"{sampled.job.name}{recipe.suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    made = finish_object(PlannedRun(runtime=runtime), sampled.mesh, sampled.voxels, export, sampled.settings)
    result, facts = made.result, made.facts
    stages.write_finished(runtime, result, path, export, facts)
    levels = 1 if export.lods_in_one_file else 1 + len(export.lods)
    files = [each for each in written_paths(path, export.image_format, levels) if each.exists()]
    if recipe.pictures:
        files.append(views_path(path))
        stages.write_views(runtime, result, files[-1], export.alpha_mode)
    finished = _costs(runtime, time.perf_counter() - start)
    report: dict[str, Any] = {**sampled.report, **facts, **finished, "plan": sampled.report["plan"]}
    for name in ("stages", "seconds"):
        report[name] = sampled.report[name] + finished[name]
    report["backends"] = {**sampled.report["backends"], **finished["backends"]}
    report |= {"device": sampled.report["device"], "finished_on": finished["device"], "dtype": sampled.report["dtype"]}
    return Outcome(tuple(each.relative_to(folder).as_posix() for each in files), report)


def _costs(runtime: Runtime, seconds: float) -> dict[str, Any]:
    """As record.circumstances, with the device of each stage."""
    found = circumstances(runtime, seconds)
    return {**found, "stages": [{**each, "device": found["device"]} for each in found["stages"]]}


def settings_of(recipe: Recipe) -> dict:
    """As Maker.settings, for a process that makes nothing itself: the models' files are downloaded if need be and
    checked, and none is loaded.

    Raises:
        PipelineError: the recipe cannot be followed, wherever it is.
    """
    models = opened_models(recipe)
    return _settings(recipe, models, wanted(recipe, models.checkpoint).pipeline_type)


def opened_models(recipe: Recipe) -> Models:
    """The networks of a recipe, whose files are here; none is loaded. Errors as settings_of."""
    checkpoint = open_checkpoint(recipe.checkpoint, recipe.image_encoder)
    asked = wanted(recipe, checkpoint)
    asked.check(checkpoint)
    models = Models(checkpoint, build)
    models.fetch(asked.roles)
    return models


def _settings(recipe: Recipe, models: Models, pipeline_type: PipelineType) -> dict:
    return recipe.settings(
        checkpoint=models.checkpoint.name,
        image_encoder=None,  # its fingerprint is among the networks
        pipeline_type=pipeline_type.name,
        networks={role: models.fingerprint(role) for role in pipeline_type.roles(recipe.texture)},
    )


def wanted(recipe: Recipe, checkpoint: Checkpoint) -> ObjectSettings:
    """What a recipe says of each object. Raises SettingsError for an unknown pipeline type."""
    kind = PipelineType.named(recipe.pipeline_type) if recipe.pipeline_type else checkpoint.default_pipeline_type
    return ObjectSettings(
        pipeline_type=kind,
        texture=recipe.texture,
        max_tokens=recipe.max_tokens,
        samplers=recipe.samplers,
        export=recipe.export,
    )


def guarded(step: Callable[..., _Result], *arguments: Any) -> _Result | Outcome:
    """Call a step of a job; its error, if it has one, becomes the job's outcome."""
    try:
        return step(*arguments)
    except PipelineError as error:
        return Outcome(error=str(error), kind=type(error).__name__, stop=_is_final(error))
    except _UNFORESEEN as error:
        log.exception("An error that was not foreseen")
        message = f"An error that was not foreseen, please report it: {type(error).__name__}: {error}"
        return Outcome(error=message, kind=type(error).__name__, stop=_is_final(error))


def device_lost(outcome: Outcome) -> bool:
    """Whether a job ended since the device answers nothing more to this process; to a new one it may."""
    return outcome.stop and _LOST in outcome.error


def _is_final(error: BaseException) -> bool:
    """Whether the next job would fail in the same way."""
    cause = error.__cause__ if isinstance(error, OutputError) else error
    # an illegal access or an assertion on the device, after which CUDA answers nothing else
    return (isinstance(cause, OSError) and cause.errno in _NO_ROOM) or _LOST in str(error)
