"""Meshes from files: scenes with nodes, names, transforms, hierarchy, materials and UVs, kept as the file has them."""

from .gltf import Gltf
from .read import FORMATS, read_scene
from .scene import Frame, Part, Scene

__all__ = ["FORMATS", "Frame", "Gltf", "Part", "Scene", "read_scene"]
