"""Surfaces made anew: dual grid, outer shell, closed surface."""

RESOLUTIONS = (8, 2048)  # cells along the longest side in which a mesh's outside can be sought
