"""The command `refine`: a rough mesh and pictures of what it is to be to a finer one, where the rough one lay."""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import __version__, stages
from ..console import Bars, Written
from ..export.placed import place_glb
from ..mesh.io import read_scene
from ..models import build
from ..plan import REFINE, Demand, Plan
from ..runtime import Runtime, choose_device, named_dtype
from ..sampling import check_strength
from ..spec import PipelineType
from ..speed import SPEEDS
from ..weights import Models
from .drawing import wants_drawing
from .export import add_export, export_settings
from .options import add_max_tokens, backend_choices, opened_checkpoint, picture_notes, posed_pictures
from .planning import Run
from .results import report_result, write_result
from .samplers import add_samplers, samplers
from .texture import add_keep, add_mesh_and_pictures, check_paths, kept

HELP = "make a mesh that you have finer"


def add(parser: argparse.ArgumentParser) -> None:
    add_mesh_and_pictures(parser)
    parser.add_argument(
        "--output", type=Path, required=True, metavar="OUT.glb", help="the refined mesh; its suffix chooses the format"
    )
    parser.add_argument(
        "--strength",
        type=float,
        default=0.6,
        metavar="S",
        help="how far the shape may leave the mesh's: 0 not at all, 1 it keeps the mesh's voxels alone; default: 0.6",
    )
    add_keep(parser)
    add_max_tokens(parser, "the resolution is lowered until there are fewer")
    add_export(parser)
    add_samplers(parser)


def run(options: argparse.Namespace) -> int:
    check_paths(options)
    export = export_settings(options)
    check_strength(options.strength)
    scene = read_scene(options.mesh, options.up)
    frame = scene.frame()
    keep = kept(options, scene)
    keep.changed_parts(scene)  # what is wrong with it is said first
    device = choose_device(options.device)
    dtype = named_dtype(options.dtype, device)
    asked = PipelineType.named(options.type) if options.type else None
    backends = stages.default_backends(backend_choices(options))
    texture = not options.geometry_only
    stages.check_finish(export, texture, wants_drawing(options), backends, device)
    checkpoint = opened_checkpoint(options)
    chosen = asked or checkpoint.default_pipeline_type
    models = Models(checkpoint, build)
    roles = stages.refining_roles(chosen, texture)
    checkpoint.require_models(roles, "Refining a mesh")
    images = posed_pictures(options)
    models.fetch(roles)
    size = export.baked_size(texture)
    demand = Demand(chosen, texture, options.max_tokens, len(images.pictures), texture_size=size, source=REFINE)
    run = Run(options, device, backends, dtype, str(options.output), SPEEDS[options.speed])
    with Written() as written, Bars(options.check) as bars, run.logged(bars):

        def attempt(plan: Plan, runtime: Runtime) -> tuple:
            condition = stages.encode_images(runtime, models, images, plan.pipeline_type.image_scales(texture))
            made = stages.refine_mesh(
                runtime,
                models,
                condition,
                stages.scene_mesh(scene, frame),
                plan.pipeline_type,
                options.strength,
                seed=options.seed,
                texture=texture,
                max_tokens=plan.max_tokens,
                samplers=samplers(options, checkpoint.spec),
                scene=scene,
                keep=keep,
            )
            result, facts = stages.finish_mesh(plan.finishing(runtime), made.mesh, made.voxels, export)
            settings = {"checkpoint": checkpoint.name, "pipeline_type": plan.pipeline_type.name, "seed": options.seed}
            settings |= {"strength": options.strength, "resolution": made.shape.resolution, "version": __version__}
            settings |= {"tokens": len(made.shape.sparse.voxels), "voxels": len(made.mesh.vertices)}
            settings["speed"] = options.speed
            settings |= picture_notes(images)
            settings |= {"raw_faces": len(made.mesh.faces)}
            return result, {**settings, **facts}

        (result, facts), plan = run.planned(demand, models, attempt)
        facts = plan.noted(facts)
        write_result(options, run.runtime, result, options.output, export, facts, written)
        for path in written.paths:
            if path.suffix.lower() == ".glb" and not options.size:  # true size has a place of its own
                place_glb(path, frame)
        bars.close()
        facts |= {"warnings": [*facts.get("warnings", ()), *scene.notes]}
        report_result(options, run, plan, facts, written)
    return 1 if written.errors else 0
