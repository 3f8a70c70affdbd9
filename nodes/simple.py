"""T2ImageToGLB: the whole graph in one node, for a first try."""

from __future__ import annotations

import logging

from comfy_api.latest import io
from comfy_execution.graph_utils import GraphBuilder

from ..pipeline.spec import route
from ..pipeline.weights import Checkpoint
from . import node_classes
from .finish import filename_prefix_input
from .host import folders
from .loading import checkpoint_input
from .sample import seed_input
from .sockets import CATEGORY, GLB, Models, advanced, aliases, as_link

log = logging.getLogger(__name__)

# name -> resolution, faces, pixels along a side of the textures
PRESETS = {
    "draft": ("512", 100_000, 1024),
    "standard": (folders.OWN, 500_000, 2048),
    "high": ("1536_cascade", 1_000_000, 4096),
}


class ImageToGLB(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="T2ImageToGLB",
            display_name="TRELLIS.2 Image to GLB",
            category=CATEGORY,
            **aliases("image to 3d, image to mesh, picture to 3d, img2mesh, photo to 3d, generate 3d, 3d generator"),
            description="A picture in, a textured GLB out. Runs the same nodes as the graph with all stages; what a "
            "changed setting does not touch comes from the cache.",
            inputs=[
                as_link(
                    io.Image.Input(
                        "image",
                        tooltip="The picture. A batch is several views of one object; for an object of each picture "
                        "give a list (template many_pictures).",
                    )
                ),
                as_link(
                    io.Mask.Input(
                        "mask",
                        optional=True,
                        tooltip="The mask of Load Image (1: background). Without one the background is removed by "
                        "the optional package rembg.",
                    )
                ),
                as_link(
                    Models.Input(
                        "models",
                        optional=True,
                        tooltip="From TRELLIS.2 Load Models, in place of the checkpoint below.",
                    )
                ),
                checkpoint_input(),
                io.Combo.Input(
                    "preset",
                    options=list(PRESETS),
                    default="standard",
                    tooltip="; ".join(
                        f"{name}: {resolution}, {faces:,} faces, {size} pixel textures"
                        for name, (resolution, faces, size) in PRESETS.items()
                    )
                    + ". A checkpoint without that resolution takes its own.",
                ),
                seed_input(),
                io.Boolean.Input("texture", default=True, tooltip="Off makes the shape alone, without colour."),
                filename_prefix_input(),
                advanced(
                    io.Int.Input(
                        "faces",
                        default=0,
                        min=0,
                        max=20_000_000,
                        step=1000,
                        tooltip="At most so many triangles; 0 leaves it to the preset.",
                    )
                ),
                advanced(
                    io.Int.Input(
                        "texture_size",
                        default=0,
                        min=0,
                        max=8192,
                        step=64,
                        tooltip="Pixels along a side of each texture; 0 leaves it to the preset.",
                    )
                ),
            ],
            outputs=[
                GLB.Output(display_name="model_3d", tooltip="The file, for Preview 3D and others."),
                io.String.Output(
                    display_name="path", tooltip="The file below ComfyUI's output folder, for Preview 3D."
                ),
            ],
            is_output_node=True,
            enable_expand=True,
        )

    @classmethod
    def validate_inputs(cls, checkpoint: str) -> bool | str:
        return folders.why_not(checkpoint) or True

    @classmethod
    def execute(
        cls,
        image: list,
        checkpoint: str,
        preset: str,
        seed: int,
        texture: bool,
        filename_prefix: str,
        faces: int,
        texture_size: int,
        mask: list | None = None,
        models: list | None = None,
    ) -> io.NodeOutput:
        resolution, preset_faces, preset_size = PRESETS[preset]
        if models is None:  # said now rather than after minutes of sampling
            resolution = _possible(folders.open_choice(checkpoint), resolution, texture)
        graph = GraphBuilder()
        add = _Adder(graph)
        models = models or add("T2LoadModels", checkpoint=checkpoint).out(0)
        prepared = add("T2PrepareImage", image=image, **({"mask": mask} if mask else {}))
        sees = {"models": models, "condition": add("T2EncodeImage", models=models, image=prepared.out(0)).out(0)}
        structure = add("T2SampleStructure", **sees, seed=seed)
        shape = add("T2SampleShape", **sees, structure=structure.out(0), resolution=resolution)
        decoded = add("T2DecodeShape", models=models, shape=shape.out(0))
        result = add("T2ProcessMesh", mesh=decoded.out(0), faces=faces or preset_faces)
        if texture:
            latent = add("T2SampleTexture", **sees, shape=shape.out(0))
            voxels = add("T2DecodeTexture", models=models, texture=latent.out(0), subdivision=decoded.out(1))
            size = texture_size or preset_size
            result = add(
                "T2BakeTexture",
                mesh=result.out(0),
                voxels=voxels.out(0),
                texture_size=size,
                original=decoded.out(0),
            )
        file = add("T2ExportGLB", mesh=result.out(0), filename_prefix=filename_prefix)
        return io.NodeOutput(file.out(0), file.out(1), expand=graph.finalize())


def _possible(checkpoint: Checkpoint, resolution: str, texture: bool) -> str:
    """The resolution of a preset, or the checkpoint's own if it has no models for that one.

    Raises:
        CheckpointError: it lacks models for its own resolution too.
    """
    if resolution != folders.OWN and checkpoint.has(route(resolution), texture):
        return resolution
    own = checkpoint.own_route
    checkpoint.require(own, texture, setting="resolution")
    if resolution != folders.OWN:
        log.warning(
            "%s has no models for %s; it makes the object with its own, %s.", checkpoint.name, resolution, own.name
        )
    return folders.OWN


class _Adder:
    """Adds nodes to a graph, with the defaults of the widgets that are not named."""

    def __init__(self, graph: GraphBuilder) -> None:
        self._graph = graph
        self._schemas = {schema.node_id: schema for schema in (node.define_schema() for node in node_classes())}

    def __call__(self, node_id: str, **inputs):
        widgets = self._schemas[node_id].inputs
        defaults = {each.id: each.default for each in widgets if getattr(each, "default", None) is not None}
        return self._graph.node(node_id, **{**defaults, **inputs})
