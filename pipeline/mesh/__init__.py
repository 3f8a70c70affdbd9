"""Meshes: dual grid, cleaning, shells, simplification, unwrapping, baking. World frame, Z up, -0.5 .. 0.5."""

from .mesh import Mesh
from .operations import (
    CLEAN,
    CLOSEST,
    CROSSING,
    DUAL_GRID_TO_MESH,
    FARTHEST,
    MESH_TO_DUAL_GRID,
    NEAREST,
    NEAREST_VOXEL,
    OPERATIONS,
    OUTER_SHELL,
    QUADS,
    RASTER,
    SIMPLIFY,
    SOLID,
    UNWRAP,
    WALL_THICKNESS,
    WINDING,
)

__all__ = [
    "CLEAN",
    "CLOSEST",
    "CROSSING",
    "DUAL_GRID_TO_MESH",
    "FARTHEST",
    "MESH_TO_DUAL_GRID",
    "NEAREST",
    "NEAREST_VOXEL",
    "OPERATIONS",
    "OUTER_SHELL",
    "QUADS",
    "RASTER",
    "SIMPLIFY",
    "SOLID",
    "UNWRAP",
    "WALL_THICKNESS",
    "WINDING",
    "Mesh",
]
