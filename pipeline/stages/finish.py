"""Post-processing: raw mesh and voxels -> clean mesh -> textures or vertex colours -> GLB and pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from .. import geometry, sparse
from ..errors import BackendError, EmptyResultError, MeshError, SettingsError
from ..export import AlphaMode, Geometry, Material, write_glb
from ..geometry.bake import (
    Original,
    Texels,
    bake_normals,
    bake_occlusion,
    bake_voxels,
    sample_voxels,
    vertex_tangents,
)
from ..geometry.checks import check_mesh
from ..geometry.clean import AFTER_SIMPLIFYING, Cleaned, CleanSettings, clean
from ..geometry.repair import compact, vertex_normals
from ..geometry.report import measure
from ..geometry.shells import RESOLUTIONS, outer_shell
from ..geometry.solid import project, solid
from ..geometry.surface import ABSENT
from ..render import Camera, Subject, turntable
from ..runtime import Runtime
from .values import (
    ALPHA,
    LOWER,
    METALLIC,
    ROUGHNESS,
    SHELLS,
    ExportSettings,
    Mesh,
    PBRVoxels,
    TexturedMesh,
    Unwrapped,
    check_levels,
)

_OCCLUSION_SIDE, _OCCLUSION_RAYS = 1024, 32
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
    it has stay behind.

    Args:
        max_hole_perimeter: world units; holes with a shorter rim are filled, 0 fills nothing. Of the raw mesh of a grid
            coarser than 512 voxels correspondingly longer ones, so that it means the same holes in it.
        shells: "surface" keeps every face that is not broken, open sheets and inner shells too; "outer" drops what
            cannot be reached from outside (nothing, with a warning, where Warp is absent); "solid" remeshes to one
            closed manifold surface and snaps it to the raw one.
        resolution: cells along the longest side in which "outer" and "solid" see; narrower gaps count as closed.
            "solid" sees no finer than the grid is of which it is the raw mesh.
        lods: face counts of coarser levels of detail, descending from below target_faces.

    Raises:
        EmptyResultError: the mesh has no faces. BackendError: "solid" without Warp.
        SettingsError: unknown shells, fewer than 4 faces, or levels that do not descend.
    """
    if shells not in SHELLS:
        raise SettingsError(f"Unknown shells {shells!r}; choose one of {', '.join(SHELLS)}.")
    check_levels([target_faces, *lods])
    if len(mesh.faces) == 0:
        raise EmptyResultError(
            f"The mesh has no faces: no crossed edge has all four voxels round it ({len(mesh.vertices):,} voxels). "
            "Try another seed or resolution."
        )
    device = _geometry_device(runtime)
    with runtime.stage("process mesh", 4, LOWER):
        settings = _clean_settings(max_hole_perimeter, mesh.resolution)
        cleaned = clean(mesh.vertices.to(device), mesh.faces.to(device), settings)
        vertices, faces = cleaned.vertices, cleaned.faces
        if len(faces) == 0:
            raise EmptyResultError("Every face of the mesh has zero area. Try another seed or resolution.")
        facts: dict = {"cleaned": cleaned.changes}
        warnings = []
        if ABSENT and shells == "outer":
            warnings, shells = [f"Inner shells stay: {ABSENT}"], "surface"
        runtime.step("process mesh", 1, 4)
        if shells != "surface":
            vertices, faces, facts["shells"] = _shells(vertices, faces, shells, resolution, mesh.resolution)
        runtime.step("process mesh", 2, 4)
        # fast-simplification would open what solid closed
        closed = {"cuda": "warp", "cpu": "warp-cpu"}[device.type] if shells == "solid" else None
        levels = [_reduced(runtime, Cleaned(vertices, faces, {}), target_faces, closed)]
        for goal in lods:
            if goal < len(levels[-1].faces):
                levels.append(_reduced(runtime, levels[-1], goal, closed))
            else:
                warnings.append(f"No level of {goal:,} faces: the one before it has no more.")
        runtime.step("process mesh", 3, 4)
        meshes = []
        for level in levels:
            report = measure(level.vertices, level.faces)
            shown = {"cleaned_again": level.changes, "mesh": report.as_dict(), "warnings": report.warnings()}
            meshes.append(Mesh(level.vertices.cpu(), level.faces.cpu(), shown))
        first, *rest = meshes
        warnings += first.facts["warnings"]
        if first.facts["mesh"]["boundary_edges"] and shells != "solid" and not ABSENT:
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


def _reduced(runtime: Runtime, mesh: Cleaned, target: int, row: str | None) -> Cleaned:
    """At most target faces, clean, on the mesh's device. row: of the backend table, if not the first that works."""
    device = mesh.vertices.device
    goal = target - target // 2000  # a few faces over it would cost a second round
    while len(mesh.faces) > target and goal > 0:
        simplify = runtime.backends.pick(geometry.SIMPLIFY, device, row)
        before = len(mesh.faces)
        vertices, faces = simplify(mesh.vertices, mesh.faces, goal, _ticker(runtime, "process mesh", 2, 4))
        mesh = clean(vertices.to(device), faces.to(device), AFTER_SIMPLIFYING)
        if len(mesh.faces) >= before:  # as far as it goes
            break
        goal -= 2 * max(len(mesh.faces) - target, 1)  # parting what touches takes some faces more
    return mesh


def _shells(vertices: torch.Tensor, faces: torch.Tensor, shells: str, resolution: int, grid: int):
    """As process_mesh says; grid: voxels along a side of the world cube, 0 if there is none. Returns vertices, faces
    and the report."""
    if ABSENT:
        raise BackendError(f"A solid mesh needs Warp: {ABSENT}")
    if shells == "outer":
        return outer_shell(vertices, faces, resolution)
    if grid:
        longest = (vertices.amax(0) - vertices.amin(0)).max().item()
        resolution = min(resolution, max(RESOLUTIONS[0], int(longest * grid)))
    closed, triangles, report = solid(vertices, faces, resolution)
    return project(closed, triangles, vertices, faces, limit=0.5 * report["cell"]), triangles, report


def _geometry_device(runtime: Runtime) -> torch.device:
    """Where meshes are worked on: fp64 and Warp are needed, which MPS lacks."""
    return torch.device("cpu") if runtime.device.type == "mps" else runtime.device


def _ticker(runtime: Runtime, stage: str, step: int, total: int) -> Callable[[], None]:
    """Repeats the current progress while a process works, so that a callback can interrupt it."""
    return lambda: runtime.step(stage, step, total)


def color_vertices(runtime: Runtime, mesh: Mesh, voxels: PBRVoxels, original: Mesh | None = None) -> Mesh:
    """The mesh and its levels with the voxels' values at their vertices, in place of a texture; on the CPU.

    original: as for bake_texture. facts gains vertices_far (as texels_far of TexturedMesh).
    """
    device = _geometry_device(runtime)
    with runtime.stage("color vertices", len(mesh.levels), "Ask for fewer faces."):
        trilinear, grid = runtime.backends.pick(sparse.TRILINEAR, device), voxels.sparse.to(device)
        full, far, levels = _original(original, device) if original else None, 0, []
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
        padding: texels between charts.
        original: the raw mesh of the voxels. Texels look up where it is nearest; without it, or without Warp, where
            the processed mesh is.
        normal_map, occlusion: bake these as well, from the original (from the mesh itself without one).
        keep_uvs: bake into the UVs that the mesh has.

    Raises:
        SettingsError: keep_uvs, and the mesh has no UVs, or levels of detail.
        MeshError: see check_mesh; keep_uvs, and the UVs are not all in 0-1.
    """
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
        rasterise, trilinear = pick(geometry.RASTER, device), pick(sparse.TRILINEAR, device)
        nearest = pick(geometry.NEAREST, device)
        grid = voxels.sparse.to(device)
        wanted = original or (mesh if normal_map or occlusion else None)
        full = _original(wanted, device) if wanted else None
        texels = Texels.of(uvs, faces, size, rasterise, nearest)
        at = vertices, faces
        values, far = bake_voxels(
            *(texels, *at, grid.voxels, grid.feats, voxels.resolution, trilinear), original=full if original else None
        )
        translucent = (values[:, ALPHA] < 0.9).float().mean()
        maps = texels.image(_rounded(values)).cpu().numpy()
        runtime.step("bake", 1, 3)
        if (normal_map or occlusion) and full is None:
            raise BackendError(f"Normal maps and occlusion need Warp: {ABSENT}")
        if normal_map:
            tangents = vertex_tangents(*at, uvs, normals)
            relief = _bytes(bake_normals(texels, *at, normals, tangents, full))
        runtime.step("bake", 2, 3)
        if occlusion:  # which is smooth, and dear: its rays would take minutes at full size on a CPU
            side = min(size, _OCCLUSION_SIDE)
            coarse = texels if side == size else Texels.of(uvs, faces, side, rasterise, nearest)
            shade = bake_occlusion(coarse, *at, normals, full, rays=_OCCLUSION_RAYS)
            shade = _bytes(F.interpolate(shade[None, None], (size, size), mode="bilinear")[0, 0])
        runtime.step("bake", 3, 3)
    if keep_uvs:
        facts |= _kept_facts(mesh, uvs, faces, texels)
    facts = {**mesh.facts, **facts, "texels_far": far, "translucent": round(float(translucent), 4)}
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
    unwrap, tick = runtime.backends.pick(geometry.UNWRAP, device), _ticker(runtime, "unwrap", 0, 1)
    source, faces, uvs, facts = unwrap(torch.cat(moved), torch.cat(faces), size, padding, tick)
    return source.to(device), faces.to(device), uvs.to(device), facts


def _kept_uvs(mesh: Mesh) -> tuple:
    """The UVs that a mesh has, as _unwrap returns them."""
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
    return torch.arange(len(mesh.vertices), device=mesh.faces.device), mesh.faces, mesh.uvs, {}


def _kept_facts(mesh: Mesh, uvs: torch.Tensor, faces: torch.Tensor, texels: Texels) -> dict:
    """What an unwrapper would have said: utilisation, and a warning where faces lie on each other."""
    corners = uvs.double()[faces.long()]
    one, two = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = float((one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]).abs().sum() / 2)
    covered = float(texels.covered.float().mean())
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


def _original(mesh: Mesh, device: torch.device) -> Original | None:
    """A mesh ready to bake from, or None without Warp."""
    return None if ABSENT else Original(mesh.vertices.to(device), mesh.faces.to(device))


def export_glb(
    runtime: Runtime, result: Mesh | TexturedMesh, path: Path, settings: ExportSettings, extras: dict
) -> None:
    """Write a mesh, textured, with vertex colours or plain, as GLB. extras goes into asset.extras."""
    with runtime.stage("export", 1, "Ask for fewer faces or a smaller texture."):
        material = Material(
            alpha_mode=settings.alpha_mode, double_sided=settings.double_sided, image_format=settings.image_format
        )
        if isinstance(result, Mesh):
            if result.attrs is not None:
                metallic, roughness = (float(result.attrs[:, channel].mean()) for channel in (METALLIC, ROUGHNESS))
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
        write_glb(path, levels, material, extras)
        runtime.step("export", 1, 1)


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


def draw(
    runtime: Runtime,
    result: Mesh | TexturedMesh,
    frames: int = 4,
    size: int = 512,
    mode: str | None = None,
    camera: Camera | None = None,
    alpha_mode: AlphaMode = AlphaMode.OPAQUE,
) -> np.ndarray:
    """Pictures of a result on a turntable: [frames, size, size, 4] uint8, sRGB and straight alpha.

    Args:
        frames, size, mode, camera: as for render.turntable; without a mode "pbr" if there are colours, else "shaded".
    """
    device = _geometry_device(runtime)
    with runtime.stage("draw", 1, "Ask for smaller pictures."):
        if isinstance(result, Mesh):
            mesh = result.to(device)
            rows = mesh.vertices if mesh.attrs is None else torch.cat([mesh.vertices, mesh.attrs], 1)
            rows, faces = compact(rows, mesh.faces)  # raw meshes have vertices without faces
            subject = Subject(rows[:, :3], faces, colours=None if mesh.attrs is None else rows[:, 3:])
        else:
            first = result.levels[0]
            mesh = first.mesh.to(device)
            subject = Subject(
                *(mesh.vertices, mesh.faces, first.normals.to(device), first.uvs.to(device), result.maps),
                alpha_mode=alpha_mode.value,
            )
        coloured = subject.maps is not None or subject.colours is not None
        pictures = turntable(
            subject, frames, size, mode or ("pbr" if coloured else "shaded"), camera=camera or Camera(0.0)
        )
        runtime.step("draw", 1, 1)
    return pictures


def _rounded(values: torch.Tensor) -> torch.Tensor:
    """0-1 -> 0-255 uint8, on their device: a quarter of what there is to move."""
    return (values * 255).round_().clamp_(0, 255).to(torch.uint8)


def _bytes(values: torch.Tensor) -> np.ndarray:
    return _rounded(values).cpu().numpy()
