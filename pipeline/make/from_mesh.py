"""A mesh that one has and pictures -> the same mesh with new textures, or a finer one."""

from __future__ import annotations

from collections.abc import Sequence

from .. import __version__
from ..errors import ImageError
from ..mesh.io import Scene
from ..plan import Plan
from ..project import Photo
from ..runtime import Runtime
from ..stages import (
    Mesh,
    SceneTextures,
    TexturedMesh,
    encode_images,
    project_scene,
    refine_mesh,
    scene_mesh,
    texture_scene,
)
from ..views import PosedPictures
from ..weights import Models
from .from_pictures import picture_notes
from .from_state import finish_sampled
from .planned import Made, PlannedRun
from .settings import RefineSettings, TextureSettings


def texture_object(
    run: PlannedRun,
    models: Models,
    images: PosedPictures,
    scene: Scene,
    settings: TextureSettings,
    shots: Sequence[Photo] = (),
) -> Made[SceneTextures]:
    """New textures for a scene from pictures of what it is to look like. models, shots: as for make_object.

    Raises:
        PipelineError: see stages.texture_scene.
    """

    def attempt(plan: Plan, runtime: Runtime) -> tuple[SceneTextures, dict, tuple]:
        kind, refused = plan.pipeline_type, ()
        condition = encode_images(runtime, models, images, (kind.texture.image_scale,))
        made = texture_scene(
            runtime,
            models,
            condition,
            scene,
            kind,
            size=settings.texture_size,
            seed=settings.seed,
            uvs=settings.uvs,
            strength=settings.strength,
            keep=settings.keep,
            settings=settings.samplers.texture,
            finishing=plan.finishing(runtime),
        )
        if settings.projection:
            try:
                made = project_scene(plan.finishing(runtime), scene, scene.frame(), made, shots, settings.projection)
            except ImageError as error:  # a picture that is refused does not cost the generated textures
                refused = (error,)
        return made, {"pipeline_type": kind.name, **made.facts}, refused

    (made, found, refused), plan = run.along(settings.demand(len(images.pictures)), models, attempt)
    facts = {**_common(run, models, settings, images), "uvs": settings.uvs}
    return Made(made, plan.noted({**facts, **found}), plan, refused)


def refine_object(
    run: PlannedRun, models: Models, images: PosedPictures, scene: Scene, settings: RefineSettings
) -> Made[Mesh | TexturedMesh]:
    """A scene's meshes as one, refined and textured, in the unit cube. models: as for make_object.

    Raises:
        PipelineError: see stages.refine_mesh.
    """
    rough = scene_mesh(scene, scene.frame())

    def attempt(plan: Plan, runtime: Runtime) -> tuple[Mesh | TexturedMesh, dict, Plan]:
        kind = plan.pipeline_type
        condition = encode_images(runtime, models, images, kind.image_scales(settings.texture))
        made = refine_mesh(
            runtime,
            models,
            condition,
            rough,
            kind,
            settings.strength,
            seed=settings.seed,
            texture=settings.texture,
            max_tokens=plan.max_tokens,
            samplers=settings.samplers,
            scene=scene,
            keep=settings.keep,
        )
        result, facts, followed = finish_sampled(run, plan, runtime, made.mesh, made.voxels, settings.export)
        sampled = {"pipeline_type": kind.name, "resolution": made.shape.resolution}
        sampled |= {"tokens": len(made.shape.sparse.voxels), "voxels": len(made.mesh.vertices)}
        return result, {**sampled, "raw_faces": len(made.mesh.faces), **facts}, followed

    (result, found, plan), _ = run.along(settings.demand(len(images.pictures)), models, attempt)
    return Made(result, plan.noted({**_common(run, models, settings, images), **found}), plan)


def _common(run: PlannedRun, models: Models, settings: RefineSettings | TextureSettings, images: PosedPictures) -> dict:
    """What led to a result, for its file."""
    facts = {"checkpoint": models.checkpoint.name, "seed": settings.seed, "strength": settings.strength}
    if changed := settings.samplers.changed():
        facts["samplers"] = changed
    return {**facts, "speed": run.runtime.speed.name, "version": __version__, **picture_notes(images)}
