"""Surfaces made anew: dual grid, outer shell, closed surface."""

from .resolution import RESOLUTIONS, own_resolution

__all__ = ["RESOLUTIONS", "own_resolution"]
