"""Surfaces made anew: outer shell, closed surface, hollowed out; quads."""

from .resolution import RESOLUTIONS, own_resolution

__all__ = ["RESOLUTIONS", "own_resolution"]
