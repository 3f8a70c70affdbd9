"""Finish: a raw mesh and its voxels -> the processed, textured result, its file and its picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from ...export import AlphaMode
from ...export.files import writing
from ...record import job_record
from ...render import Studio, Subject
from ...runtime import Runtime
from ..types import ExportSettings, Mesh, PBRVoxels, TexturedMesh
from .bake import bake_texture
from .color import color_vertices
from .export import export_mesh
from .preview import STUDIO, draw
from .process import process_mesh


def finish_mesh(
    runtime: Runtime, raw: Mesh, voxels: PBRVoxels | None, export: ExportSettings
) -> tuple[Mesh | TexturedMesh, dict]:
    """The processed mesh, textured or coloured if there are voxels, and what there is to say about it."""
    mesh = process_mesh(
        runtime,
        raw,
        export.faces,
        shells=export.shells,
        lods=export.lods,
        wall=export.wall,
        max_error=export.max_error,
        cavities=export.cavities,
        hollow=export.hollow,
        quads=export.quads,
    )
    facts = {"vertices": len(mesh.vertices), "faces": len(mesh.faces)}
    if voxels is not None and export.vertex_colors:
        mesh = color_vertices(runtime, mesh, voxels, raw)
    if voxels is None or export.vertex_colors:
        return mesh, {**facts, **mesh.facts}
    textured = bake_texture(
        runtime,
        mesh,
        voxels,
        export.texture_size,
        original=raw,
        normal_map=export.normal_map,
        occlusion=export.occlusion,
        seams=export.seams,
    )
    return textured, {**facts, **textured.facts, "texture_size": export.texture_size}


def write_finished(
    runtime: Runtime, result: Mesh | TexturedMesh, path: Path, export: ExportSettings, extras: Mapping
) -> list[Path]:
    """Write a finished mesh with its facts inside; returns the files as export_mesh does.

    extras: facts for the file; "backends" among them are those of steps that ran elsewhere before.

    Raises:
        OutputError: it cannot be written.
    """
    backends = {**extras.get("backends", {}), **runtime.backends.used}
    # sorted, as those of a state are: a run that is opened again must give the same bytes
    more = {"backends": dict(sorted(backends.items())), "record": job_record(extras).lasting()}
    facts = dict(sorted({**extras, **more}.items()))
    return export_mesh(runtime, result, path, export, facts)


def write_views(
    runtime: Runtime,
    result: Mesh | TexturedMesh | Subject,
    path: Path,
    alpha_mode: AlphaMode,
    studio: Studio = STUDIO,
) -> None:
    """Draw a result from four sides into a PNG. Raises OutputError; see draw."""
    save_views(draw(runtime, result, alpha_mode=alpha_mode, studio=studio), path)


def save_views(views: np.ndarray, path: Path) -> None:
    """Write pictures side by side into a PNG. views: [N, H, W, 4] uint8, see draw. Raises OutputError."""
    with writing(path) as temporary:
        Image.fromarray(np.concatenate(list(views), 1)).save(temporary, "PNG")
