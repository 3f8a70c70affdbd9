"""The rows of the backend table for meshes, and what is asked of a row before it is trusted (see examples.py)."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..backends import PLAIN, Backend, Operation
from ..warp import DEVICES, missing, unavailable_reason
from . import examples
from .bake.bake import SourceMesh
from .bake.raster import nearest_covered, rasterise
from .bake.raster_warp import nearest_covered_warp, rasterise_warp
from .grid.dual_grid import dual_grid_tensors, dual_grid_to_mesh
from .mesh import Mesh
from .packages import cumesh, nvdiffrast, o_voxel
from .packages.instant_meshes import instant_meshes
from .query.crossing import crossing, crossing_by_kernels
from .query.farthest import farthest_by_centres, farthest_by_tree
from .query.nearest_voxel import nearest_voxel, nearest_voxel_by_tree
from .query.walls import wall_thickness, wall_thickness_by_kernels
from .query.winding_number import winding_numbers, winding_numbers_by_tree
from .remesh.hollow_settings import Hollow
from .repair.clean import Cleaned, CleanSettings, clean
from .simplify.collapse import collapse
from .simplify.fast_simplification import fast_simplification, hybrid
from .uv.fallback import triangle_by_triangle, xatlas

CLEAN, OUTER_SHELL, SOLID, SIMPLIFY = "clean", "outer_shell", "solid", "simplify"
WINDING = "winding"
QUADS = "quads"
MESH_TO_DUAL_GRID, DUAL_GRID_TO_MESH = "mesh_to_dual_grid", "dual_grid_to_mesh"
UNWRAP, RASTER, NEAREST, CLOSEST = "unwrap", "raster", "nearest", "closest"
CROSSING, WALL_THICKNESS = "crossing", "wall_thickness"
FARTHEST, NEAREST_VOXEL = "farthest", "nearest_voxel"


_APART = 1_000_000  # faces of a solid up to which snapping may take the time to keep them from crossing
_FITTED = 100_000  # up to which it may take that to fit them: finer ones have little to gain
_FAIR = 0.15  # shape of a face, as CollapseConfig.good_shape


def clean_by_kernels(mesh: Mesh, settings: CleanSettings) -> Cleaned:
    """clean, and what is asked of its result, with the large steps by Warp's kernels."""
    return clean(Mesh.known(mesh.vertices, mesh.faces, kernels=True), settings)


def clean_by_rays(mesh: Mesh, settings: CleanSettings) -> Cleaned:
    """clean_in_torch, but what is seen from outside is found by Warp's rays: sorts and gathers are fast on CUDA as they
    are."""
    return clean(Mesh.known(mesh.vertices, mesh.faces, kernels=False), settings, by_rays=True)


def clean_in_torch(mesh: Mesh, settings: CleanSettings) -> Cleaned:
    """clean, and what is asked of its result, with the large steps in torch and scipy."""
    return clean(Mesh.known(mesh.vertices, mesh.faces, kernels=False), settings)


def outer_shell(mesh: Mesh, resolution: int) -> tuple[Mesh, dict]:
    """remesh.outer_shell, which imports Warp."""
    from .remesh.outer_shell import outer_shell as run

    return run(mesh, resolution)


def solid(
    mesh: Mesh,
    resolution: int,
    tick: Callable[[], None] = lambda: None,
    wall: float = 0.0,
    cavities: bool = False,
    hollow: Hollow | None = None,
) -> tuple[Mesh, dict]:
    """remesh.solid, which imports Warp, moved onto the mesh where that is near; small ones so that their faces lie on
    it on the average: vertices on a thin rod's surface leave the rod a hundredth thinner in cells a third of its
    radius."""
    from .remesh.project import moved, project
    from .remesh.solid import solid as run
    from .simplify.fit import FitConfig, Source, fit

    closed, report = run(mesh, resolution, wall, cavities, hollow)
    tick()
    floor = float(closed.vertices[:, 2].amin()) if hollow and hollow.base else None
    apart = len(closed.faces) <= _APART
    cell = report["cell"]
    snapped = project(closed, mesh, 0.5 * cell, floor, apart)
    if len(snapped.faces) > _FITTED or floor is not None:  # a base stays flat
        return snapped, report
    points, source = snapped.vertices.clone(), Source(mesh.vertices.float(), mesh.faces)
    weights = FitConfig(rounds=1, least_move=1e-3 * cell, good_shape=_FAIR, limit=0.25 * cell)
    fit(points, snapped.faces.reshape(-1), source, weights)
    return moved(snapped.vertices, points - snapped.vertices, snapped.faces, apart), report


def unwrap(
    vertices: torch.Tensor,
    faces: torch.Tensor,
    size: int,
    padding: int,
    tick: Callable[[], None],
    fewer_seams: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict]:
    """uv.unwrap, which imports Warp."""
    from .uv.unwrap import FEWER_SEAMS, UnwrapConfig
    from .uv.unwrap import unwrap as run

    return run(vertices, faces, size, padding, tick, FEWER_SEAMS if fewer_seams else UnwrapConfig())


def _warp(function: Callable, devices: tuple[str, ...] = DEVICES, name: str = "warp") -> Backend:
    return Backend(name, function, unavailable_reason, devices)


def dual_grid_by_kernels(
    vertices: torch.Tensor,
    faces: torch.Tensor,
    resolution: int,
    face_weight: float = 1.0,
    boundary_weight: float = 0.2,
    regularisation: float = 0.01,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """grid.mesh_to_dual_grid_warp, which imports Warp."""
    from .grid.dual_grid_warp import mesh_to_dual_grid_warp as run

    return run(vertices, faces, resolution, face_weight, boundary_weight, regularisation)


def no_fast_simplification() -> str:
    return missing("fast_simplification", "pip install fast-simplification.")


def no_quads() -> str:
    return missing("pynanoinstantmeshes", "pip install -r requirements-quads.txt.")


def no_xatlas() -> str:
    return missing("xatlas", "it has wheels for Python up to 3.13, none for Linux on Arm.")


# rows behind the one named "torch", and others by packages for one purpose, run where they are chosen
OPERATIONS = (
    Operation(
        MESH_TO_DUAL_GRID,
        (_warp(dual_grid_by_kernels), Backend(PLAIN, dual_grid_tensors), o_voxel.from_mesh_row()),
        reference=dual_grid_tensors,
        check=examples.check_dual_grid,
    ),
    Operation(
        DUAL_GRID_TO_MESH,
        (Backend(PLAIN, dual_grid_to_mesh), o_voxel.to_mesh_row()),
        reference=dual_grid_to_mesh,
        example=examples.dual_grid_of_a_ball,
        tolerance=1e-6,
    ),
    Operation(
        CLEAN,
        (
            _warp(clean_by_kernels, ("cpu",)),
            _warp(clean_by_rays, ("cuda",), "warp-rays"),
            Backend("torch", clean_in_torch),
        ),
        check=examples.check_clean,
    ),
    Operation(OUTER_SHELL, (_warp(outer_shell),), check=examples.check_outer_shell),
    Operation(SOLID, (_warp(solid),), check=examples.check_solid),
    Operation(
        WINDING,
        (_warp(winding_numbers_by_tree),),
        reference=winding_numbers,
        example=examples.points_round_an_open_ball,
        tolerance=0.05,
    ),
    Operation(
        SIMPLIFY,
        (
            _warp(collapse, ("cuda",)),
            Backend("hybrid", hybrid, lambda: unavailable_reason() or no_fast_simplification(), ("cpu",)),
            Backend("fast-simplification", fast_simplification, no_fast_simplification),
            # several times slower on a CPU for large meshes, but what was closed stays closed
            _warp(collapse, ("cpu",), "warp-cpu"),
            cumesh.row(collapse),
        ),
        check=examples.check_simplify,
    ),
    Operation(QUADS, (Backend("instant-meshes", instant_meshes, no_quads),), check=examples.check_quads),
    Operation(
        UNWRAP,
        (_warp(unwrap), Backend("xatlas", xatlas, no_xatlas), Backend("triangles", triangle_by_triangle)),
        check=examples.check_unwrap,
    ),
    Operation(
        RASTER,
        (_warp(rasterise_warp), Backend(PLAIN, rasterise), nvdiffrast.row(examples.check_raster)),
        reference=rasterise,
        example=examples.overlapping_triangles,
        tolerance=1e-6,
    ),
    Operation(NEAREST, (_warp(nearest_covered_warp),), reference=nearest_covered, example=examples.two_texels),
    Operation(CLOSEST, (_warp(SourceMesh),), check=examples.check_closest),
    Operation(
        CROSSING, (_warp(crossing_by_kernels),), reference=crossing, example=examples.balls_that_cross, tolerance=0.0
    ),
    Operation(
        WALL_THICKNESS,
        (_warp(wall_thickness_by_kernels),),
        reference=wall_thickness,
        example=examples.walls_of_a_hollow_ball,
        tolerance=1e-5,
    ),
    Operation(FARTHEST, (_warp(farthest_by_tree),), reference=farthest_by_centres, check=examples.check_farthest),
    Operation(
        NEAREST_VOXEL,
        (_warp(nearest_voxel_by_tree),),
        reference=nearest_voxel,
        example=examples.points_round_voxels,
        tolerance=0.0,
    ),
)
