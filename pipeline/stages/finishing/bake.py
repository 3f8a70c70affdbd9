"""Bake: processed mesh and voxels -> a textured mesh."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ... import sparse
from ...mesh import NEAREST, RASTER
from ...mesh import Mesh as TriangleMesh
from ...mesh.bake.bake import Texels, bake_normals, bake_occlusion, bake_voxels, vertex_tangents
from ...mesh.repair.repair import compact, vertex_normals
from ...runtime import Runtime
from ..checks import check_maps, geometry_device
from ..provenance import check_voxels, with_notes
from ..types import ALPHA, Mesh, PBRVoxels, TexturedMesh, Unwrapped, check_seams, check_texture_size
from .quantise import to_bytes, to_uint8
from .source_mesh import nearest_voxel_by_row, source_mesh
from .unwrap import check_uvs, kept_facts, kept_uvs, unwrap_levels

_OCCLUSION_SIDE = 1024  # pixels at most: occlusion is smooth, and at full size would take minutes on a CPU
_OCCLUSION_RAYS = 32  # of each pixel


def bake_texture(
    runtime: Runtime,
    mesh: Mesh,
    voxels: PBRVoxels,
    size: int,
    padding: int = 4,
    original: Mesh | None = None,
    normal_map: bool = False,
    occlusion: bool = False,
    keep_uvs: bool = False,
    seams: str = "usual",
) -> TexturedMesh:
    """Unwrap a processed mesh and bake the voxels into size x size maps.

    Levels of detail have charts of their own in the same maps, each with half the texels a side of the one before.

    Args:
        padding: texels between charts; in proportion fewer, but one at least, in textures of less than 256.
        original: the raw mesh of the voxels. Texels look up where it is nearest; without it, or without Warp, where
            the processed mesh is.
        normal_map, occlusion: bake these as well, from the original (from the mesh itself without one).
        keep_uvs: bake into the UVs that the mesh has.
        seams: "usual", or "fewer" of them by larger charts, which are stretched by up to 15 % over most of their area.

    Raises:
        SettingsError: the voxels are another shape's; no texture has that size; unknown seams; keep_uvs, and the mesh
            has no UVs, or levels of detail.
        MeshError: keep_uvs, and the UVs are not all in 0-1.
        BackendError: normal_map or occlusion without Warp.
    """
    check_voxels(voxels, mesh, original)
    check_texture_size(size)
    check_seams(seams)
    check_maps(normal_map, occlusion)
    if keep_uvs:
        check_uvs(mesh)
    device = geometry_device(runtime.device)
    with runtime.stage("unwrap", 1, "Ask for fewer faces."):
        levels = [level.to(device) for level in mesh.levels]
        unwrapped = kept_uvs(levels[0]) if keep_uvs else unwrap_levels(runtime, levels, size, padding, seams)
        source, faces, uvs, facts = unwrapped
        runtime.count(faces=len(faces))
        vertices = torch.cat([level.vertices for level in levels])[source]
        normals = torch.cat([_smooth_normals(level) for level in levels])[source]
        runtime.step("unwrap", 1, 1)
    tangents = relief = shade = None
    with runtime.stage("bake", 3, "Ask for a smaller texture."):
        pick = runtime.backends.pick
        rasterise, trilinear = pick(RASTER, device), pick(sparse.TRILINEAR, device)
        nearest = pick(NEAREST, device)
        grid = voxels.sparse.to(device)
        wanted = original or (mesh if normal_map or occlusion else None)
        done = 0
        full = source_mesh(runtime, wanted, device, lambda: runtime.step("bake", done, 3)) if wanted else None
        texels = Texels.of(uvs, faces, size, rasterise, nearest)
        runtime.step("bake", 0, 3)
        at = vertices, faces
        runtime.count(faces=len(faces), texels=size * size)
        values, far = bake_voxels(
            texels,
            *at,
            grid.voxels,
            grid.feats,
            voxels.resolution,
            trilinear,
            source=full if original else None,
            nearest=nearest_voxel_by_row(runtime, device),
        )
        translucent = int((values[:, ALPHA] < 0.9).count_nonzero()) / len(values)
        maps = texels.image(to_uint8(values)).cpu().numpy()
        done = 1
        runtime.step("bake", done, 3)
        if normal_map and full:
            tangents = vertex_tangents(*at, uvs, normals)
            relief = to_bytes(bake_normals(texels, *at, normals, tangents, full))
        done = 2
        runtime.step("bake", done, 3)
        if occlusion and full:
            side = min(size, _OCCLUSION_SIDE)
            coarse = texels if side == size else Texels.of(uvs, faces, side, rasterise, nearest)
            shade = bake_occlusion(coarse, *at, normals, full, rays=_OCCLUSION_RAYS)
            shade = to_bytes(F.interpolate(shade[None, None], (size, size), mode="bilinear")[0, 0])
        runtime.step("bake", 3, 3)
    if keep_uvs:
        facts |= kept_facts(mesh, vertices, uvs, faces, texels)
    facts = {**with_notes(mesh.facts, voxels.origin), **facts, "texels_far": far, "translucent": round(translucent, 4)}
    counts = [len(level.faces) for level in levels]
    return TexturedMesh(
        _levels_of(faces, counts, vertices, normals, uvs, tangents, mesh.quads), maps, facts, relief, shade
    )


def _smooth_normals(mesh: Mesh) -> torch.Tensor:
    """[V, 3] unit normals; vertices in one place, which UVs may have parted, share theirs if the mesh has UVs."""
    if mesh.uvs is None:
        return vertex_normals(mesh.vertices, mesh.faces)
    places, place = mesh.vertices.unique(dim=0, return_inverse=True)
    return vertex_normals(places, place[mesh.faces.long()])[place]


def _levels_of(faces, counts: Sequence[int], vertices, normals, uvs, tangents, quads: bool) -> tuple[Unwrapped, ...]:
    """Parts the faces and what their vertices have by level, onto the CPU."""
    columns = [vertices, normals, uvs, *([] if tangents is None else [tangents])]
    rows, levels = torch.cat(columns, 1), []
    for part in faces.split(list(counts)):
        used, own = compact(rows, part)
        at, *more = (each.contiguous().cpu() for each in used.split([each.shape[1] for each in columns], 1))
        levels.append(Unwrapped(TriangleMesh.known(at, own.int().cpu()), *more, quads=quads))
    return tuple(levels)
