"""The command `finish`: a saved state to a file, without any network."""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import stages
from ..console import Bars, Written
from ..export.files import check_outputs
from ..make import finish_object
from ..runtime import choose_device
from .drawing import add_drawing, wants_drawing
from .export import add_export, add_output, export_settings
from .generate import named_outputs
from .options import add_backend, add_device, add_report, backend_choices
from .planning import Run, add_log, add_plan
from .results import report_result, write_result


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("state", type=Path, metavar="STATE", help="a file written by --save-state or T2SaveState")
    add_output(parser, "the state's name with .glb")
    add_device(parser)
    add_report(parser, "write seconds and peak memory per stage")
    parser.add_argument("--geometry-only", action="store_true", help="no texture")
    add_export(parser)
    add_drawing(parser)
    add_plan(parser)
    add_log(parser)
    add_backend(parser)


def run(options: argparse.Namespace) -> int:
    """Raw mesh and voxels of a state -> GLB; the bytes are those of a run that was not interrupted."""
    options.output = options.output or options.state.with_suffix(".glb")
    inputs = [("state", options.state), ("environment", options.environment)]
    check_outputs(named_outputs(options, options.output), [(what, path) for what, path in inputs if path])
    export = export_settings(options, options.output)
    device = choose_device(options.device)
    backends = stages.default_backends(backend_choices(options))
    textured = not options.geometry_only and "voxels" in stages.held_in(options.state)
    if not textured and not options.geometry_only and not options.vertex_colors:
        options.geometry_only = True  # without voxels there are no colours to put into a format without textures
        export = export_settings(options, options.output)
    stages.check_finish(export, textured, wants_drawing(options), backends, device)
    state = stages.open_state(options.state, ["mesh", "voxels"] if textured else ["mesh"])
    raw = state.mesh
    assert raw is not None  # as it was asked for
    run = Run(options, device, backends, None, str(options.output))
    with Written() as written, Bars(options.check) as bars, run.logged(bars):
        made = finish_object(run.planned, raw, state.voxels, export, state.settings)
        write_result(options, run.runtime, made.result, options.output, export, made.facts, written)
        bars.close()
        counts = {"raw_vertices": len(raw.vertices), "raw_faces": len(raw.faces)}
        report_result(options, run, made.plan, {**counts, **made.facts}, written)
    return 1 if written.errors else 0
