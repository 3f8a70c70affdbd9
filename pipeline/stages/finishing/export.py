"""Export: a mesh, textured, coloured or plain -> files of any format."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ...export import Geometry, Material, Scene, for_print, write, write_levels
from ...mesh.repair.repair import vertex_normals
from ...mesh.topology.steady import steady_sum
from ...runtime import Runtime
from ..types import ALPHA, METALLIC, ROUGHNESS, ExportSettings, Mesh, TexturedMesh, Unwrapped
from .quantise import to_bytes


def export_mesh(
    runtime: Runtime,
    result: Mesh | TexturedMesh,
    path: Path,
    settings: ExportSettings,
    extras: dict,
    name: str = "",
) -> list[Path]:
    """Write a mesh, textured, with vertex colours or plain, in the format of the path's suffix; and its levels of
    detail, each into a file of its own (see export.level_path) or all into the one. Returns the paths of the levels;
    textures and the like lie beside them.

    extras: for asset.extras of glTF. name: of nodes, meshes, materials and images; without one the file's.
    """
    with runtime.stage("export", 1, "Ask for fewer faces or a smaller texture."):
        material = Material(
            alpha_mode=settings.alpha_mode, double_sided=settings.double_sided, image_format=settings.image_format
        )
        if isinstance(result, Mesh):
            if result.attrs is not None:
                columns = result.attrs[:, METALLIC], result.attrs[:, ROUGHNESS]
                metallic, roughness = (float(steady_sum(column) / len(column)) for column in columns)
                material = replace(material, metallic=metallic, roughness=roughness)
            levels = [_coloured(level.to("cpu")) for level in result.levels]
        else:
            material = replace(
                material,
                base_color=result.maps[:, :, [0, 1, 2, ALPHA]],
                metallic=result.maps[:, :, METALLIC],
                roughness=result.maps[:, :, ROUGHNESS],
                occlusion=result.occlusion,
                normal=result.normal_map,
            )
            levels = [_textured(level) for level in result.levels]
        runtime.count(vertices=len(levels[0].vertices), faces=len(levels[0].faces))
        scene = for_print(Scene(tuple(levels), material, extras, name), settings.size, settings.flat_base)
        if settings.lods_in_one_file:
            paths = write(path, scene)[:1]
        else:
            own = [{**extras, "vertices": len(level.vertices), "faces": len(level.faces)} for level in levels[1:]]
            paths = write_levels(path, scene, [extras, *own])
        runtime.step("export", 1, 1)
    return paths


def _coloured(mesh: Mesh) -> Geometry:
    """A mesh for the file, with its vertex colours if it has any."""
    normals = vertex_normals(mesh.vertices, mesh.faces)
    colors = None if mesh.attrs is None else to_bytes(mesh.attrs[:, [0, 1, 2, ALPHA]])
    return Geometry(mesh.vertices.numpy(), mesh.faces.numpy(), normals.numpy(), colors=colors, quads=mesh.quads)


def _textured(level: Unwrapped) -> Geometry:
    """An unwrapped mesh for the file."""
    tangents = None if level.tangents is None else level.tangents.numpy()
    mesh = level.mesh
    arrays = mesh.vertices.numpy(), mesh.faces.numpy(), level.normals.numpy(), level.uvs.numpy(), tangents
    return Geometry(*arrays, quads=level.quads)
