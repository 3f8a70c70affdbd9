"""The socket types of the pack, and the values that travel through them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from inspect import signature

import torch
from comfy_api.latest import io

from ..pipeline.spec import PipelineType
from ..pipeline.stages import Latent

Models = io.Custom("T2_MODELS")  # host.memory.ManagedModels
Condition = io.Custom("T2_CONDITION")  # stages.Condition
Views = io.Custom("T2_VIEWS")  # views.PosedPictures
Cameras = io.Custom("T2_CAMERAS")  # tuple of views.PictureCamera, one for each picture of a batch
Sampler = io.Custom("T2_SAMPLER")  # spec.SamplerSettings
Structure = io.Custom("T2_STRUCTURE")  # stages.Structure
Shape = io.Custom("T2_SHAPE")  # ShapeLatent
Texture = io.Custom("T2_TEXTURE")  # stages.Latent
Mesh = io.Custom("T2_MESH")  # stages.Mesh
Subdivision = io.Custom("T2_SUBDIVISION")  # stages.Subdivisions
Voxels = io.Custom("T2_VOXELS")  # stages.PBRVoxels
TexturedMesh = io.Custom("T2_TEXTURED_MESH")  # stages.TexturedMesh
Scene = io.Custom("T2_SCENE")  # stages.Scene

# Their colours in the editor, far from each other and from those of ComfyUI's own types: two sockets of one colour look
# as if they fit. web/js/trellis2.js has them from here (python tests/generate_texts.py).
COLORS = {
    "T2_MODELS": "#7e6bd6",
    "T2_VIEWS": "#3f51b5",
    "T2_CAMERAS": "#7a1f2b",
    "T2_CONDITION": "#c6a700",
    "T2_SAMPLER": "#a1887f",
    "T2_STRUCTURE": "#78909c",
    "T2_SHAPE": "#4dd0e1",
    "T2_TEXTURE": "#f06292",
    "T2_SUBDIVISION": "#aed581",
    "T2_MESH": "#26a69a",
    "T2_VOXELS": "#ff7b3a",
    "T2_TEXTURED_MESH": "#ba68c8",
    "T2_SCENE": "#d4e157",
}

# ComfyUI's types for 3D files; hosts before 2026 lack the classes, and the socket carries the path there.
AnyFile = getattr(io, "File3DAny", None) or io.Custom("FILE_3D")
GLB = getattr(io, "File3DGLB", None) or io.Custom("FILE_3D_GLB")

CATEGORY = "TRELLIS.2"


@dataclass(frozen=True)
class ShapeLatent:
    """A shape latent and the pipeline type that made it, which the texture has to follow. kept: [T] bool, latent voxels
    of an encoded mesh that Sample Shape leaves as they are."""

    latent: Latent
    pipeline_type: PipelineType
    kept: torch.Tensor | None = None

    def to(self, device: torch.device | str) -> ShapeLatent:
        return replace(self, latent=self.latent.to(device), kept=None if self.kept is None else self.kept.to(device))


def node_schema(**parts) -> io.Schema:
    """A node's schema. Every input that has a default is optional for ComfyUI, so that prompts saved before an input
    was added go on working; execute's parameter has the same default (tests/test_nodes.py compares them)."""
    for each in parts["inputs"]:
        if getattr(each, "default", None) is not None:
            each.optional = True
    return io.Schema(**parts)


def models_input() -> io.Input:
    """The checkpoint that a node runs with."""
    return Models.Input("models", tooltip="From TRELLIS.2 Load Models.")


def advanced(widget: io.Input) -> io.Input:
    """An input that editors show only with the advanced ones; older editors show it as any other."""
    widget.extra_dict = {**widget.extra_dict, "advanced": True}
    return widget


def as_link(socket: io.Input) -> io.Input:
    """An input that reaches execute as a link [node id, slot] instead of its value, for a node that expands."""
    socket.extra_dict = {**socket.extra_dict, "rawLink": True}
    return socket


def aliases(words: str) -> dict[str, list[str]]:
    """Other words, between commas, under which the node search finds a node, for its io.Schema; nothing on hosts of
    before 2026, whose schema has no place for them."""
    return {"search_aliases": words.split(", ")} if "search_aliases" in signature(io.Schema).parameters else {}
