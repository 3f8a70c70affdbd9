"""The command `refine`: a rough mesh and pictures of what it is to be to a finer one, where the rough one lay."""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import stages
from ..console import Bars, Written
from ..export.placed import place_glb
from ..make import RefineSettings, refine_object
from ..mesh.io import read_scene
from ..models import build
from ..runtime import choose_device, named_dtype
from ..sampling import check_strength
from ..speed import SPEEDS
from ..weights import Models
from .drawing import wants_drawing
from .export import add_export, export_settings
from .objects import type_of
from .options import add_max_tokens, backend_choices, opened_checkpoint, posed_pictures, tell_checkpoint
from .planning import Run
from .results import report_result, write_result
from .samplers import add_samplers, samplers
from .settings import settings_of
from .texture import add_keep, add_mesh_and_pictures, check_paths, kept


def add(parser: argparse.ArgumentParser) -> None:
    add_mesh_and_pictures(parser, ["shape", "texture"])
    parser.add_argument(
        "--output", type=Path, required=True, metavar="OUT.glb", help="the refined mesh, placed where the mesh was, GLB"
    )
    parser.add_argument(
        "--strength",
        type=float,
        default=0.6,
        metavar="S",
        help="how far the shape may depart from the mesh: 0 not at all, 1 keeps only its voxels; default: 0.6",
    )
    add_keep(parser)
    add_max_tokens(parser, "the resolution is lowered until there are fewer")
    add_export(parser)
    add_samplers(parser)


def run(options: argparse.Namespace) -> int:
    check_paths(options)
    export, asked = export_settings(options), type_of(options)
    check_strength(options.strength)
    scene = read_scene(options.mesh, options.up)
    keep = kept(options, scene)
    keep.changed_parts(scene)  # what is wrong with it is said first
    device = choose_device(options.device)
    dtype = named_dtype(options.dtype, device)
    backends = stages.default_backends(backend_choices(options))
    stages.check_finish(export, not options.geometry_only, wants_drawing(options))
    checkpoint = opened_checkpoint(options)
    settings = settings_of(
        RefineSettings,
        options,
        pipeline_type=asked or checkpoint.default_pipeline_type,
        samplers=samplers(options, checkpoint.spec),
        export=export,
        keep=keep,
    )
    settings.check(checkpoint, wants_drawing(options), backends, device)
    images, models = posed_pictures(options), Models(checkpoint, build)
    tell_checkpoint(options, checkpoint)
    models.fetch(settings.roles)
    run = Run(options, device, backends, dtype, str(options.output), SPEEDS[options.speed])
    with Written() as written, Bars(options.check) as bars, run.logged(bars):
        made = refine_object(run.planned, models, images, scene, settings)
        write_result(options, run.runtime, made.result, options.output, export, made.facts, written)
        for path in written.paths:
            if path.suffix.lower() == ".glb" and not options.size:  # true size has a place of its own
                place_glb(path, scene.frame())
        bars.close()
        facts = {**made.facts, "warnings": [*made.facts.get("warnings", ()), *scene.notes]}
        report_result(options, run, made.plan, facts, written)
    return 1 if written.errors else 0
