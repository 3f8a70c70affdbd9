"""Flexible dual grids: meshes to the fields that the networks know, and back; o_voxel is rows of a foreign package."""
