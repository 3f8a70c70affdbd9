"""Meshes: dual grid, cleaning, shells, simplification, unwrapping, baking. World frame, Z up, -0.5 .. 0.5."""

from .operations import NEAREST, OPERATIONS, RASTER, SIMPLIFY, UNWRAP

__all__ = ["NEAREST", "OPERATIONS", "RASTER", "SIMPLIFY", "UNWRAP"]
