"""One object after another with the models of a checkpoint, which stay loaded."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from .. import stages
from ..budget import bound
from ..export import writer
from ..image import background_remover, prepare, read_picture
from ..make import ObjectSettings, PlannedRun, make_object
from ..models import build
from ..runtime import Runtime, Step, choose_device, named_dtype
from ..spec import PipelineType
from ..speed import speed_named
from ..weights import Checkpoint, Models, open_checkpoint
from .finishing import Processed, Sampled, complete, costs, process_object
from .jobs import Job
from .outcome import Outcome, guarded
from .recipe import Recipe

log = logging.getLogger(__name__)


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
        writer(Path(f"object{recipe.suffix}"))  # raises for an unknown suffix
        table = stages.default_backends(dict(recipe.backends))
        self.wanted.check(self.checkpoint, recipe.pictures, table, self.device)
        self._remover = background_remover(recipe.background, recipe.background_model)
        self._prepared: tuple[str, list] = ("", [])
        self.models = Models(self.checkpoint, build)
        self.models.fetch(self.wanted.roles)
        self.keep_models = True  # if they fit, and until memory runs out once

    @property
    def settings(self) -> dict:
        """The recipe for the manifest, with fingerprints of the networks."""
        return _settings(self.recipe, self.models, self.pipeline_type)

    def make(self, job: Job, folder: Path) -> Outcome:
        """One job from the picture to its files below `folder`."""
        return guarded(lambda: self.complete(self.process(self.sample(job)), folder))

    def process(self, sampled: Sampled) -> Processed:
        """As process_object, on the device of this maker."""
        made = process_object(self.recipe, sampled, self.device, self.on_step, self.memory_limit)
        self._keep_less(made.tried)
        return made

    def complete(self, made: Sampled | Processed, folder: Path) -> Outcome:
        """As the function, with on_step called at its steps."""
        return complete(self.recipe, made, folder, self.on_step, self.memory_limit)

    def sample(self, job: Job) -> Sampled:
        """From a picture to the raw mesh and its voxels.

        Raises:
            PipelineError: the picture cannot be used, or a stage fails.
        """
        start, images = time.perf_counter(), self._pictures(job)
        run = self._planned()
        # finishing has a plan of its own, as it may run elsewhere
        made = make_object(run, self.models, images, replace(self.wanted, seed=job.seed, export=None))
        self._keep_less(made.plan.tried)
        runtime, generation = run.runtime, made.result
        assert isinstance(generation, stages.Generation)  # as no file was asked for
        report = {**made.facts, "plan": made.plan.as_dict(), **costs(runtime, time.perf_counter() - start)}
        known = {**made.facts, "backends": dict(runtime.backends.used)}
        return Sampled(job, generation.mesh, generation.voxels, known, report)

    def _keep_less(self, tried: Sequence[str]) -> None:
        """Stop keeping models loaded if memory ran out. tried: plans that ran out of it."""
        if tried and self.keep_models:
            log.warning("%s From now on models are released after each stage.", " ".join(tried))
            self.keep_models = False

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
        """The prepared picture, cached for its next variation."""
        if self._prepared[0] != job.picture:
            picture = prepare(read_picture(job.picture), None, self._remover, reduce_first=self.recipe.reduce_first)
            self._prepared = (job.picture, [picture])
        return self._prepared[1]


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
    """The settings of each object. Raises SettingsError for an unknown pipeline type."""
    kind = PipelineType.named(recipe.pipeline_type) if recipe.pipeline_type else checkpoint.default_pipeline_type
    return ObjectSettings(
        pipeline_type=kind,
        texture=recipe.texture,
        max_tokens=recipe.max_tokens,
        samplers=recipe.samplers,
        export=recipe.export,
    )
