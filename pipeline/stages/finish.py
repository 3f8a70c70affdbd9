"""Post-processing: raw mesh and voxels -> clean mesh -> textures or vertex colours -> GLB."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from .. import mesh as geometry
from .. import sparse
from ..errors import EmptyResultError, MeshError, SettingsError
from ..export import Geometry, Material, Scene, write, write_levels
from ..mesh import CLEAN, CLOSEST, NEAREST, OUTER_SHELL, RASTER, SOLID, UNWRAP
from ..mesh.bake.bake import Texels, bake_normals, bake_occlusion, bake_voxels, sample_voxels, vertex_tangents
from ..mesh.checks import check_mesh
from ..mesh.remesh import RESOLUTIONS, own_resolution
from ..mesh.repair.clean import CleanSettings
from ..mesh.repair.repair import compact, vertex_normals
from ..mesh.topology.steady import steady_sum
from ..runtime import Runtime
from .checks import check_maps, check_shells, geometry_device
from .provenance import check_voxels
from .simplify import reduced
from .values import (
    ALPHA,
    LOWER,
    METALLIC,
    ROUGHNESS,
    ExportSettings,
    Mesh,
    PBRVoxels,
    TexturedMesh,
    Unwrapped,
    check_levels,
    check_texture_size,
)
from .watched import WatchedOriginal

_OCCLUSION_SIDE, _OCCLUSION_RAYS = 1024, 32
_LEAST = 128  # cells in which "solid" sees a mesh of few faces, whose parts may be thin all the same
_NEW_LEVEL = 0.9  # of the faces of the level before, that one which misses its target may have at most
_FULL_PADDING = 256  # pixels of a texture from which on padding is meant as it is given
_FINE = 512  # voxels along a side from which on sizes are meant as they are given


def process_mesh(
    runtime: Runtime,
    mesh: Mesh,
    target_faces: int,
    max_hole_perimeter: float = 3e-2,
    shells: str = "outer",
    resolution: int = 512,
    lods: Sequence[int] = (),
) -> Mesh:
    """Raw mesh -> cleaned, shells as asked, at most target_faces faces, cleaned again; on the CPU. Colours and UVs that
    it has stay behind. Where its holes and handles need more faces, facts["warnings"] says so, and how many.

    Args:
        max_hole_perimeter: world units; holes with a shorter rim are filled, 0 fills nothing. Of the raw mesh of a grid
            coarser than 512 voxels correspondingly longer ones, so that it means the same holes in it.
        shells: "surface" keeps every face that is not broken, open sheets and inner shells too; "outer" drops what
            cannot be reached from outside (nothing, with a warning, where Warp is absent); "solid" remeshes to one
            closed manifold surface and snaps it to the raw one.
        resolution: cells along the longest side in which "outer" and "solid" see; narrower gaps count as closed.
            "solid" sees no finer than the grid is of which it is the raw mesh, and a mesh from elsewhere no finer than
            its faces are, or 128 cells.
        lods: face counts of coarser levels of detail, descending from below target_faces. Those that cannot be told
            from the one before are left out.

    Raises:
        EmptyResultError: the mesh has no faces. BackendError: "solid" without Warp.
        SettingsError: unknown shells, fewer than 4 faces, or levels that do not descend.
    """
    check_shells(shells)
    check_levels([target_faces, *lods])
    if len(mesh.faces) == 0:
        raise EmptyResultError(
            f"The mesh has no faces: no crossed edge has all four voxels round it ({len(mesh.vertices):,} voxels). "
            "Try another seed or resolution."
        )
    device = _geometry_device(runtime)
    with runtime.stage("process mesh", 4, LOWER):
        settings = _clean_settings(max_hole_perimeter, mesh.resolution)
        whole = geometry.Mesh(mesh.vertices.to(device), mesh.faces.to(device))
        cleaned = runtime.backends.pick(CLEAN, device)(whole, settings)
        if len(cleaned.faces) == 0:
            raise EmptyResultError("Every face of the mesh has zero area. Try another seed or resolution.")
        facts: dict = {"cleaned": cleaned.changes}
        warnings = []
        if shells == "outer" and (reason := runtime.backends.reason(OUTER_SHELL, device)):
            warnings, shells = [f"Inner shells stay: {reason}"], "surface"
        runtime.step("process mesh", 1, 4)
        shell = cleaned
        if shells != "surface":
            tick = _ticker(runtime, "process mesh", 1, 4)
            shell, facts["shells"] = _shells(runtime, cleaned, shells, resolution, mesh.resolution, tick)
        del whole, cleaned
        runtime.step("process mesh", 2, 4)
        # fast-simplification would open what solid closed
        closed = {"cuda": "warp", "cpu": "warp-cpu"}[device.type] if shells == "solid" else None
        level, said = reduced(runtime, shell, target_faces, closed)
        levels, asked = [level], [target_faces]
        warnings += said
        for goal in lods:
            before = len(levels[-1].faces)
            if goal >= before:
                warnings.append(f"No level of {goal:,} faces: the one before it has no more.")
                continue
            level, said = reduced(runtime, levels[-1], goal, closed)
            if len(level.faces) > max(goal, _NEW_LEVEL * before):
                warnings.append(
                    f"No level of {goal:,} faces: {len(level.faces):,} were reached from {before:,} before."
                )
                continue
            levels.append(level)
            asked.append(goal)
            warnings += said
        meshes = []
        for level, goal in zip(levels, asked):
            runtime.step("process mesh", 3, 4)
            report, changes = level.report, {} if level is shell else level.changes
            shown = {"faces_asked": goal, "cleaned_again": changes, "mesh": report.as_dict()}
            shown["warnings"] = report.warnings()
            meshes.append(Mesh(level.vertices.cpu(), level.faces.cpu(), shown, origin=mesh.origin))
        first, *rest = meshes
        warnings += first.facts["warnings"]
        if first.facts["mesh"]["boundary_edges"] and shells != "solid" and not runtime.backends.reason(SOLID, device):
            warnings.append('Shells "solid" would make one closed surface of it.')
        facts |= {**first.facts, "warnings": warnings}
        if rest:
            facts["lods"] = [level.facts for level in rest]
        runtime.step("process mesh", 4, 4)
        return replace(first, facts=facts, lods=tuple(rest))


def _clean_settings(max_hole_perimeter: float, resolution: int) -> CleanSettings:
    """For the raw mesh of a grid: the same holes and fragments, counted in voxels, whatever its resolution."""
    coarser = max(1.0, _FINE / resolution) if resolution else 1.0
    share = CleanSettings.min_area_share * coarser**2
    return CleanSettings(max_hole_perimeter=max_hole_perimeter * coarser, min_area_share=share)


def _shells(
    runtime: Runtime, mesh: geometry.Mesh, shells: str, resolution: int, grid: int, tick: Callable[[], None]
) -> tuple[geometry.Mesh, dict]:
    """As process_mesh says; grid: voxels along a side of the world cube, 0 if there is none."""
    device = mesh.vertices.device
    if shells == "outer":
        return runtime.backends.pick(OUTER_SHELL, device)(mesh, resolution)
    longest = (mesh.vertices.amax(0) - mesh.vertices.amin(0)).max().item()
    own = max(RESOLUTIONS[0], int(longest * grid)) if grid else max(_LEAST, own_resolution(mesh))
    return runtime.backends.pick(SOLID, device)(mesh, min(resolution, own), tick)


def _geometry_device(runtime: Runtime) -> torch.device:
    return geometry_device(runtime.device)


def _ticker(runtime: Runtime, stage: str, step: int, total: int) -> Callable[[], None]:
    """Repeats the current progress while a process works, so that a callback can interrupt it."""
    return lambda: runtime.step(stage, step, total)


def color_vertices(runtime: Runtime, mesh: Mesh, voxels: PBRVoxels, original: Mesh | None = None) -> Mesh:
    """The mesh and its levels with the voxels' values at their vertices, in place of a texture; on the CPU.

    original: as for bake_texture. facts gains vertices_far (as texels_far of TexturedMesh). Raises SettingsError if
    the voxels are another shape's.
    """
    check_voxels(voxels, mesh, original)
    device = _geometry_device(runtime)
    with runtime.stage("color vertices", len(mesh.levels), "Ask for fewer faces."):
        trilinear, grid = runtime.backends.pick(sparse.TRILINEAR, device), voxels.sparse.to(device)
        far, levels = 0, []

        def tick() -> None:
            runtime.step("color vertices", len(levels), len(mesh.levels))

        full = _original(runtime, original, device, tick) if original else None
        for level in mesh.levels:
            points = level.vertices.to(device)
            attrs, alone = sample_voxels(points, grid.voxels, grid.feats, voxels.resolution, trilinear, full)
            far += alone
            levels.append(replace(level, attrs=attrs, lods=()))
            runtime.step("color vertices", len(levels), len(mesh.levels))
    first, *rest = levels
    return replace(first, facts={**mesh.facts, "vertices_far": far}, lods=tuple(rest)).to("cpu")


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
) -> TexturedMesh:
    """Unwrap a processed mesh and bake the voxels into size x size maps.

    Levels of detail have charts of their own in the same maps, each with half the texels a side of the one before.

    Args:
        padding: texels between charts; in proportion fewer, but one at least, in textures of less than 256.
        original: the raw mesh of the voxels. Texels look up where it is nearest; without it, or without Warp, where
            the processed mesh is.
        normal_map, occlusion: bake these as well, from the original (from the mesh itself without one).
        keep_uvs: bake into the UVs that the mesh has.

    Raises:
        SettingsError: the voxels are another shape's; no texture has that size; keep_uvs, and the mesh has no UVs, or
            levels of detail.
        MeshError: see check_mesh; keep_uvs, and the UVs are not all in 0-1.
        BackendError: normal_map or occlusion without Warp.
    """
    check_voxels(voxels, mesh, original)
    check_texture_size(size)
    check_maps(normal_map, occlusion)
    if keep_uvs:
        _check_uvs(mesh)
    device = _geometry_device(runtime)
    with runtime.stage("unwrap", 1, "Ask for fewer faces."):
        levels = [level.to(device) for level in mesh.levels]
        source, faces, uvs, facts = _kept_uvs(mesh.to(device)) if keep_uvs else _unwrap(runtime, levels, size, padding)
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
        full = _original(runtime, wanted, device, lambda: runtime.step("bake", done, 3)) if wanted else None
        texels = Texels.of(uvs, faces, size, rasterise, nearest)
        runtime.step("bake", 0, 3)
        at = vertices, faces
        values, far = bake_voxels(
            *(texels, *at, grid.voxels, grid.feats, voxels.resolution, trilinear), original=full if original else None
        )
        translucent = int((values[:, ALPHA] < 0.9).count_nonzero()) / len(values)
        maps = texels.image(_rounded(values)).cpu().numpy()
        done = 1
        runtime.step("bake", done, 3)
        if normal_map:
            tangents = vertex_tangents(*at, uvs, normals)
            relief = _bytes(bake_normals(texels, *at, normals, tangents, full))
        done = 2
        runtime.step("bake", done, 3)
        if occlusion:  # which is smooth, and dear: its rays would take minutes at full size on a CPU
            side = min(size, _OCCLUSION_SIDE)
            coarse = texels if side == size else Texels.of(uvs, faces, side, rasterise, nearest)
            shade = bake_occlusion(coarse, *at, normals, full, rays=_OCCLUSION_RAYS)
            shade = _bytes(F.interpolate(shade[None, None], (size, size), mode="bilinear")[0, 0])
        runtime.step("bake", 3, 3)
    if keep_uvs:
        facts |= _kept_facts(mesh, uvs, faces, texels)
    facts = {**mesh.facts, **facts, "texels_far": far, "translucent": round(translucent, 4)}
    counts = [len(level.faces) for level in levels]
    return TexturedMesh(_levels_of(faces, counts, vertices, normals, uvs, tangents), maps, facts, relief, shade)


def _unwrap(runtime: Runtime, levels: Sequence[Mesh], size: int, padding: int) -> tuple:
    """All levels in one atlas; returns as the backends do, the sources being rows of the levels' vertices in turn."""
    device, moved, faces, count = levels[0].vertices.device, [], [], 0
    for number, level in enumerate(levels):
        # smaller, for fewer texels; and apart, for xatlas takes corners in one place for the same
        moved.append(level.vertices * 0.5**number + 2.0 * number)
        faces.append(level.faces + count)
        count += len(level.vertices)
    if size < _FULL_PADDING:  # where charts are small, it would take most of the texels
        padding = min(padding, max(1, padding * size // _FULL_PADDING))
    unwrap, tick = runtime.backends.pick(UNWRAP, device), _ticker(runtime, "unwrap", 0, 1)
    source, faces, uvs, facts = unwrap(torch.cat(moved), torch.cat(faces), size, padding, tick)
    return source.to(device), faces.to(device), uvs.to(device), facts


def _kept_uvs(mesh: Mesh) -> tuple:
    """The UVs that a mesh has, as _unwrap returns them."""
    return torch.arange(len(mesh.vertices), device=mesh.faces.device), mesh.faces, mesh.uvs, {}


def _check_uvs(mesh: Mesh) -> None:
    """Raises SettingsError or MeshError, as bake_texture says, if its UVs cannot be kept."""
    if mesh.uvs is None:
        raise SettingsError("The mesh has no UVs to keep (processing drops them). Turn keep_uvs off.")
    if mesh.lods:
        raise SettingsError("Levels of detail have no UVs to keep. Process the mesh without levels.")
    check_mesh(mesh.vertices, mesh.faces, some_faces=True)
    low, high = mesh.uvs.aminmax()
    if not (low >= -1e-4 and high <= 1 + 1e-4):  # so NaN fails
        raise MeshError(
            f"The mesh's UVs reach from {float(low):.4g} to {float(high):.4g}; only those in 0-1 can be baked into one "
            "texture. Turn keep_uvs off, or unwrap it into one tile."
        )


def _kept_facts(mesh: Mesh, uvs: torch.Tensor, faces: torch.Tensor, texels: Texels) -> dict:
    """What an unwrapper would have said: utilisation, and a warning where faces lie on each other."""
    corners = uvs.double()[faces.long()]
    one, two = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = float(steady_sum((one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]).abs()) / 2)
    covered = int(texels.covered.count_nonzero()) / texels.covered.numel()
    warnings = list(mesh.facts.get("warnings", ()))
    if area > 1.05 * covered:
        warnings.append(
            f"The UVs overlap: faces of {area:.2f} textures cover {covered:.2f}. The last one's colour stays."
        )
    return {"utilisation": covered, "warnings": warnings}


def _smooth_normals(mesh: Mesh) -> torch.Tensor:
    """[V, 3] unit normals; vertices in one place, which UVs may have parted, share theirs if the mesh has UVs."""
    if mesh.uvs is None:
        return vertex_normals(mesh.vertices, mesh.faces)
    places, place = mesh.vertices.unique(dim=0, return_inverse=True)
    return vertex_normals(places, place[mesh.faces.long()])[place]


def _levels_of(faces, counts: Sequence[int], vertices, normals, uvs, tangents) -> tuple[Unwrapped, ...]:
    """Parts the faces and what their vertices have by level, onto the CPU."""
    columns = [vertices, normals, uvs, *([] if tangents is None else [tangents])]
    rows, levels = torch.cat(columns, 1), []
    for part in faces.split(list(counts)):
        used, own = compact(rows, part)
        at, *more = (each.contiguous().cpu() for each in used.split([each.shape[1] for each in columns], 1))
        levels.append(Unwrapped(Mesh(at, own.int().cpu()), *more))
    return tuple(levels)


def _original(runtime: Runtime, mesh: Mesh, device: torch.device, tick: Callable[[], None]) -> WatchedOriginal | None:
    """A mesh ready to bake from, or None where nothing can look for closest points."""
    if runtime.backends.reason(CLOSEST, device):
        return None
    whole = geometry.Mesh(mesh.vertices.to(device), mesh.faces.to(device))
    return WatchedOriginal(runtime.backends.pick(CLOSEST, device)(whole), tick)


def export_glb(
    runtime: Runtime,
    result: Mesh | TexturedMesh,
    path: Path,
    settings: ExportSettings,
    extras: dict,
    name: str = "",
) -> list[Path]:
    """Write a mesh, textured, with vertex colours or plain, as GLB; and its levels of detail, each into a file of its
    own (see export.level_path) or all into the one. Returns the paths.

    extras: for asset.extras. name: of nodes, meshes, materials and images; without one the file's.
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
        scene = Scene(tuple(levels), material, extras, name)
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
    colors = None if mesh.attrs is None else _bytes(mesh.attrs[:, [0, 1, 2, ALPHA]])
    return Geometry(mesh.vertices.numpy(), mesh.faces.numpy(), normals.numpy(), colors=colors)


def _textured(level: Unwrapped) -> Geometry:
    """An unwrapped mesh for the file."""
    tangents = None if level.tangents is None else level.tangents.numpy()
    mesh = level.mesh
    return Geometry(mesh.vertices.numpy(), mesh.faces.numpy(), level.normals.numpy(), level.uvs.numpy(), tangents)


def _rounded(values: torch.Tensor) -> torch.Tensor:
    """0-1 -> 0-255 uint8, on their device: a quarter of what there is to move."""
    return (values * 255).round_().clamp_(0, 255).to(torch.uint8)


def _bytes(values: torch.Tensor) -> np.ndarray:
    return _rounded(values).cpu().numpy()
