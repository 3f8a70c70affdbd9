"""The seven training runs: the networks that each trains, its data, and the runs that it depends on."""

from __future__ import annotations

from .autoencoders import ShapeVAE, StructureVAE, TextureVAE
from .encoder import Encoder, mean_material
from .flows import ShapeFlow, StructureFlow, TextureFlow
from .plans import ENCODER, PLANS, SHAPE, SHAPE_VAE, STRUCTURE, STRUCTURE_VAE, TEXTURE, TEXTURE_VAE, Plan
from .task import Task, Weights

TASKS: dict[str, type[Task]] = {
    task.name: task for task in (StructureVAE, ShapeVAE, TextureVAE, Encoder, StructureFlow, ShapeFlow, TextureFlow)
}

__all__ = [
    "ENCODER",
    "PLANS",
    "SHAPE",
    "SHAPE_VAE",
    "STRUCTURE",
    "STRUCTURE_VAE",
    "TASKS",
    "TEXTURE",
    "TEXTURE_VAE",
    "Encoder",
    "Plan",
    "ShapeFlow",
    "ShapeVAE",
    "StructureFlow",
    "StructureVAE",
    "Task",
    "TextureFlow",
    "TextureVAE",
    "Weights",
    "mean_material",
]
