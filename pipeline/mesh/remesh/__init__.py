"""Remeshing: outer shell, closed surface, hollowed solids; quads."""

from .resolution import RESOLUTIONS, faces_in, own_resolution

__all__ = ["RESOLUTIONS", "faces_in", "own_resolution"]
