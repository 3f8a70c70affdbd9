"""Flexible dual grids: meshes to the fields that the networks know, and back; o_voxel.py: rows of a foreign package."""
