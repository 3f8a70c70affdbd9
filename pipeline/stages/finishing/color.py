"""Color: processed mesh and voxels -> vertex colours, in place of textures."""

from __future__ import annotations

from ... import sparse
from ...mesh.bake.bake import sample_voxels
from ...runtime import Runtime
from ..checks import geometry_device
from ..provenance import check_voxels, with_notes
from ..types import Mesh, PBRVoxels
from .source_mesh import nearest_voxel_by_row, source_mesh


def color_vertices(runtime: Runtime, mesh: Mesh, voxels: PBRVoxels, original: Mesh | None = None) -> Mesh:
    """The mesh and its levels with the voxels' values at their vertices, in place of a texture; on the CPU.

    original: as for bake_texture. facts gains vertices_far (as texels_far of TexturedMesh). Raises SettingsError if
    the voxels are another shape's.
    """
    check_voxels(voxels, mesh, original)
    device = geometry_device(runtime.device)
    with runtime.stage("color vertices", len(mesh.levels), "Ask for fewer faces."):
        trilinear, grid = runtime.backends.pick(sparse.TRILINEAR, device), voxels.sparse.to(device)
        nearest, far, levels = nearest_voxel_by_row(runtime, device), 0, []
        runtime.count(vertices=len(mesh.vertices))

        def tick() -> None:
            runtime.step("color vertices", len(levels), len(mesh.levels))

        full = source_mesh(runtime, original, device, tick) if original else None
        for level in mesh.levels:
            points = level.vertices.to(device)
            attrs, alone = sample_voxels(
                points, grid.voxels, grid.feats, voxels.resolution, trilinear, full, nearest=nearest
            )
            far += alone
            levels.append(level.replace(attrs=attrs, lods=()))
            runtime.step("color vertices", len(levels), len(mesh.levels))
    first, *rest = levels
    return first.replace(facts={**with_notes(mesh.facts, voxels.origin), "vertices_far": far}, lods=tuple(rest)).to(
        "cpu"
    )
