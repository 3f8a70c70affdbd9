"""Meshes: dual grid, cleaning, shells, simplification, unwrapping, baking. World frame, Z up, -0.5 .. 0.5."""

from .operations import FIRST, NEAREST, OPERATIONS, RASTER, SIMPLIFY, UNWRAP

__all__ = ["FIRST", "NEAREST", "OPERATIONS", "RASTER", "SIMPLIFY", "UNWRAP"]
