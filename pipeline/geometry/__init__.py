"""Meshes: dual grid, repair, simplification, unwrapping, baking. World frame, Z up, -0.5 .. 0.5."""

from .operations import OPERATIONS, RASTER, SIMPLIFY, UNWRAP

__all__ = ["OPERATIONS", "RASTER", "SIMPLIFY", "UNWRAP"]
