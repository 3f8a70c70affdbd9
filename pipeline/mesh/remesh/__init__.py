"""Surfaces made anew: outer shell, closed surface, hollowed out; quads."""

from .resolution import RESOLUTIONS, faces_in, own_resolution

__all__ = ["RESOLUTIONS", "faces_in", "own_resolution"]
