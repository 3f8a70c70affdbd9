"""T2ImageToGLB: the whole graph in one node, for a first try."""

from __future__ import annotations

import logging
from uuid import uuid4

from comfy_api.latest import io
from comfy_execution.graph_utils import GraphBuilder

from ..pipeline import stages
from ..pipeline.errors import CheckpointError, SettingsError
from ..pipeline.spec import PipelineType
from ..pipeline.weights import Checkpoint
from . import node_classes
from .host import folders, output
from .host.run import explained
from .host.saving import filename_prefix_input
from .loading import checkpoint_input
from .picture import MASK_TOOLTIP, mask_marks_input
from .sample import seed_input
from .sockets import CATEGORY, GLB, Models, advanced, aliases, as_link, node_schema

log = logging.getLogger(__name__)

# Roughly the share of the time that each stage takes with the released checkpoint on a GPU, for the progress bar.
_SHARES = {
    "T2LoadModels": 5,
    "T2PrepareImage": 2,
    "T2EncodeImage": 2,
    "T2SampleStructure": 10,
    "T2SampleShape": 30,
    "T2DecodeShape": 8,
    "T2ProcessMesh": 15,
    "T2SampleTexture": 15,
    "T2DecodeTexture": 3,
    "T2BakeTexture": 8,
    "T2ExportGLB": 2,
}


class ImageToGLB(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="T2ImageToGLB",
            display_name="TRELLIS.2 Image to GLB",
            category=CATEGORY,
            **aliases("image to 3d, image to mesh, picture to 3d, img2mesh, photo to 3d, generate 3d, 3d generator"),
            description="A picture in, a textured GLB out. Runs the same nodes as the graph with all stages; what a "
            "changed setting does not touch comes from the cache, as far as ComfyUI keeps the results of the last run.",
            inputs=[
                as_link(
                    io.Image.Input(
                        "image",
                        tooltip="The picture. A batch is several views of one object; for an object of each picture "
                        "give a list (template many_pictures).",
                    )
                ),
                as_link(io.Mask.Input("mask", optional=True, tooltip=MASK_TOOLTIP)),
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
                    options=list(stages.PRESETS),
                    default="standard",
                    tooltip="; ".join(
                        f"{name}: {preset.resolution or folders.OWN}, {preset.export.faces:,} faces, "
                        f"{preset.export.texture_size} pixel textures" + _more(preset.export)
                        for name, preset in stages.PRESETS.items()
                    )
                    + ". A checkpoint without that resolution takes its own.",
                ),
                seed_input(),
                io.Boolean.Input("texture", default=True, tooltip="Off makes the shape alone, without colour."),
                as_link(filename_prefix_input()),  # a list of names goes with a list of pictures
                advanced(
                    io.Int.Input(
                        "faces",
                        default=0,
                        min=0,
                        max=20_000_000,
                        step=1000,
                        tooltip="Maximum number of triangles; 0 leaves it to the preset.",
                    )
                ),
                advanced(
                    io.Int.Input(
                        "texture_size",
                        default=0,
                        min=0,
                        max=stages.TEXTURE_SIZES[1],
                        step=64,
                        tooltip="Pixels along a side of each texture; 0 leaves it to the preset.",
                    )
                ),
                mask_marks_input(optional=True),
            ],
            outputs=[
                GLB.Output(
                    display_name="model_3d", is_output_list=True, tooltip="The file, for Preview 3D and others."
                ),
                io.String.Output(
                    display_name="path",
                    is_output_list=True,
                    tooltip="The file below ComfyUI's output folder, for Preview 3D.",
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.dynprompt],
            is_output_node=True,
            enable_expand=True,
        )

    @classmethod
    def validate_inputs(
        cls,
        checkpoint: str | None = folders.SMALL,
        models: list | None = None,
        faces: int | None = 0,
        texture_size: int | None = 0,
    ) -> bool | str:
        # None: linked, and not known yet; execute looks again
        problem = folders.why_not(checkpoint) if models is None and checkpoint is not None else ""
        return problem or explained(_export, "standard", faces or 0, texture_size or 0)

    @classmethod
    def fingerprint_inputs(cls, **_) -> str:
        """Never the same, so that this node is expanded on every request: ComfyUI keeps no record of files for a node
        that expands, and would report nothing if it took it from the cache. The nodes inside come from the cache, and
        the one that writes reports its file again."""
        return uuid4().hex

    @classmethod
    def execute(
        cls,
        image: list,
        checkpoint: str = folders.SMALL,
        preset: str = "standard",
        seed: int = 42,
        texture: bool = True,
        filename_prefix: str | list = output.DEFAULT_PREFIX,
        faces: int = 0,
        texture_size: int = 0,
        mask: list | None = None,
        models: list | None = None,
        mask_marks: str = "automatic",
    ) -> io.NodeOutput:
        # raise now what would otherwise be found after minutes of sampling
        if isinstance(filename_prefix, str) and (problem := output.why_not(output.filled(filename_prefix, cls.hidden))):
            raise SettingsError(problem)
        if models is None and (problem := folders.why_not(checkpoint)):
            raise CheckpointError(problem)
        resolution = stages.PRESETS[preset].resolution or folders.OWN
        export = _export(preset, faces, texture_size, texture)
        opened = folders.open_choice(checkpoint) if models is None else _behind(models, cls.hidden.dynprompt)
        if opened is not None:
            resolution = _possible(opened, resolution, texture)
            chosen = opened.default_pipeline_type if resolution == folders.OWN else PipelineType.named(resolution)
            stages.preflight(opened, chosen, export, texture=texture)
        graph = GraphBuilder()
        add = _Adder(graph)
        models = models or add("T2LoadModels", checkpoint=checkpoint).out(0)
        prepared = add("T2PrepareImage", image=image, mask_marks=mask_marks, **({"mask": mask} if mask else {}))
        sees = {"models": models, "condition": add("T2EncodeImage", models=models, image=prepared.out(0)).out(0)}
        structure = add("T2SampleStructure", **sees, seed=seed)
        shape = add("T2SampleShape", **sees, structure=structure.out(0), resolution=resolution)
        decoded = add("T2DecodeShape", models=models, shape=shape.out(0))
        lods = ", ".join(map(str, export.lods))
        result = add("T2ProcessMesh", mesh=decoded.out(0), faces=export.faces, shells=export.shells, lods=lods)
        if texture:
            latent = add("T2SampleTexture", **sees, shape=shape.out(0))
            voxels = add("T2DecodeTexture", models=models, texture=latent.out(0), subdivision=decoded.out(1))
            result = add(
                "T2BakeTexture",
                mesh=result.out(0),
                voxels=voxels.out(0),
                texture_size=export.texture_size,
                original=decoded.out(0),
                normal_map=export.normal_map,
                seams=export.seams,
            )
        file = add("T2ExportGLB", mesh=result.out(0), filename_prefix=filename_prefix)
        files = add("T2GatherFiles", model_3d=file.out(0), path=file.out(1))
        return io.NodeOutput(files.out(0), files.out(1), expand=add.finalize())


class GatherFiles(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="T2GatherFiles",
            display_name="TRELLIS.2 Gather Files",
            category=CATEGORY,
            **aliases("collect models, join paths, list of glb"),
            description="The last step inside TRELLIS.2 Image to GLB: the files of all objects in one place, in order.",
            inputs=[
                GLB.Input("model_3d", tooltip="From TRELLIS.2 Export GLB."),
                io.String.Input("path", force_input=True, tooltip="From TRELLIS.2 Export GLB."),
            ],
            outputs=[
                GLB.Output(display_name="model_3d", tooltip="All files, as one value."),
                io.String.Output(display_name="path", tooltip="All paths, as one value."),
            ],
            is_input_list=True,
        )

    @classmethod
    def execute(cls, model_3d: list, path: list[str]) -> io.NodeOutput:
        # Not as a list of ComfyUI's: it strings the lists of an expanded node's outputs together, so that with several
        # objects the second output would be the second object's first one.
        return io.NodeOutput(model_3d, path)


def _export(preset: str, faces: int, texture_size: int, texture: bool = True) -> stages.ExportSettings:
    """The node's settings; where an input is 0, the preset's. Raises SettingsError."""
    return stages.PRESETS[preset].settings(faces or None, texture_size or None, texture)


def _more(export: stages.ExportSettings) -> str:
    lods = f" and levels of {', '.join(f'{count:,}' for count in export.lods)}" if export.lods else ""
    return lods + (", with a normal map and fewer seams" if export.normal_map else "")


def _behind(link: list, prompt) -> Checkpoint | None:
    """The checkpoint behind a link, if the link comes directly from a Load Models whose inputs are all values."""
    node = prompt.get_node(link[0])
    if node["class_type"] != "T2LoadModels":
        return None
    stated = {"checkpoint": folders.SMALL, "decoders": folders.AUTOMATIC, "image_encoder": folders.OWN} | node["inputs"]
    chosen = [stated[name] for name in ("checkpoint", "decoders", "image_encoder")]
    if not all(isinstance(each, str) for each in chosen) or folders.why_not(chosen[0]):  # Load Models will report it
        return None
    return folders.open_choice(*chosen)


def _possible(checkpoint: Checkpoint, resolution: str, texture: bool) -> str:
    """The resolution of a preset, or the checkpoint's own if it has no models for that one."""
    if resolution == folders.OWN or checkpoint.has(PipelineType.named(resolution), texture):
        return resolution
    own = checkpoint.default_pipeline_type
    if checkpoint.has(own, texture):
        log.warning(
            "%s has no models for %s; it makes the object with its own, %s.", checkpoint.name, resolution, own.name
        )
    return folders.OWN


class _Adder:
    """Adds nodes to a graph, with the defaults of the widgets that are not named."""

    def __init__(self, graph: GraphBuilder) -> None:
        self._graph, self._titles = graph, {}
        self._schemas = {schema.node_id: schema for schema in (node.define_schema() for node in node_classes())}

    def __call__(self, node_id: str, **inputs):
        widgets = self._schemas[node_id].inputs
        defaults = {each.id: each.default for each in widgets if getattr(each, "default", None) is not None}
        node = self._graph.node(node_id, **{**defaults, **inputs})
        if not self._schemas[node_id].is_output_node:
            # The editor would show on the expanded node the least of its own bar and those of its parts, which each
            # begin at 0. A name that it does not know keeps them apart; what writes the file still counts as the node.
            node.set_override_display_id(f"{self._graph.prefix}parts")
        self._titles[node.id] = self._schemas[node_id].display_name.removeprefix("TRELLIS.2 ")
        return node

    def finalize(self) -> dict:
        """The graph, with what the progress bar shows of each node."""
        nodes = self._graph.finalize()
        for name, node in nodes.items():
            node["_meta"] = {"title": self._titles[name], "share": _SHARES.get(node["class_type"], 0)}
        return nodes
