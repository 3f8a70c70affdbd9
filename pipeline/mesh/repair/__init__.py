"""Repair of triangle meshes."""
