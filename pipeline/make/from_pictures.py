"""Pictures of an object -> the object."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

from PIL import Image

from ..errors import ImageError
from ..plan import Plan
from ..project import Photo
from ..runtime import Runtime
from ..stages import (
    Finished,
    Generation,
    Mesh,
    TexturedMesh,
    generate,
    generation_settings,
    project_texture,
)
from ..views import PosedPictures
from ..weights import Models
from .from_state import finish_sampled
from .planned import Made, PlannedRun
from .settings import ObjectSettings


def make_object(
    run: PlannedRun,
    models: Models,
    images: Sequence[Image.Image] | PosedPictures,
    settings: ObjectSettings,
    shots: Sequence[Photo] = (),
    generated: Callable[[Generation, dict], object] = lambda made, facts: None,
) -> Made[Generation | Mesh | TexturedMesh]:
    """One object of pictures: sampled, and processed, textured and projected on as far as its settings say.

    Args:
        models: whose files are here (Models.fetch of settings.roles).
        images: prepared pictures, views of the one object.
        shots: the pictures with all of their pixels, for settings.projection.
        generated: told what the networks made, and what there is to say of it, before the mesh is worked on; once, as
            long as a further try does not make it anew.

    Returns the Generation itself where settings.export is None.

    Raises:
        PipelineError: see the stages.
    """
    export, finished, told = settings.export, Finished(), []

    def attempt(plan: Plan, runtime: Runtime) -> tuple:
        made = generate(
            runtime,
            models,
            images,
            plan.pipeline_type,
            settings.seed,
            settings.texture,
            plan.max_tokens,
            settings.samplers,
            finished,
        )
        facts = generation_settings(runtime, models, plan, settings.seed, settings.samplers, made)
        facts |= several_views(images)
        if not any(made is each for each in told):
            generated(made, {**facts, "backends": dict(runtime.backends.used)})
            told.append(made)
        if export is None:
            return made, facts, (), plan
        result, more, followed = finish_sampled(run, plan, runtime, made.mesh, made.voxels, export)
        where = followed.finishing(runtime)
        if settings.projection and isinstance(result, TexturedMesh):
            try:
                result = project_texture(where, result, shots, settings.projection)
            except ImageError as error:  # a picture that is refused does not cost the generated texture
                return result, {**facts, **more}, (error,), followed
            more |= {**result.facts, "texture_size": len(result.maps)}
        return result, {**facts, **more}, (), followed

    count = len(images.pictures if isinstance(images, PosedPictures) else images)
    (result, facts, refused, plan), _ = run.along(settings.demand(count), models, attempt)
    return Made(result, plan.noted(facts), plan, refused)


def several_views(images: Sequence[Image.Image] | PosedPictures) -> dict:
    """What there is to say of several pictures."""
    if not isinstance(images, PosedPictures):
        return {}
    facts: dict = {}
    if (count := len(images.pictures)) > 1:
        facts["views"] = [view.name for view in images.views] or count
        facts["view_mixing"] = asdict(images.mixing)
    return facts | picture_notes(images)


def picture_notes(images: PosedPictures) -> dict[str, list[str]]:
    """Remarks on pictures, for the report and the files."""
    return {name: list(words) for name in ("remarks", "residuals") if (words := getattr(images, name))}
