"""Flexible dual grids: meshes to the fields that the networks know, and back."""
