"""T2SaveState and T2OpenState: values between the stages to a file and back."""

from __future__ import annotations

from pathlib import Path

from comfy_api.latest import io

from ..pipeline import stages
from ..pipeline.errors import SettingsError, StateError
from ..pipeline.spec import PipelineType
from .host import inputs, output, saving
from .host.saving import filename_prefix_input
from .sockets import (
    CATEGORY,
    Condition,
    Mesh,
    Shape,
    ShapeLatent,
    Structure,
    Subdivision,
    Texture,
    Voxels,
    aliases,
    node_schema,
)

# name of the socket -> (its type, the value's name in a state)
_SOCKETS = {
    "condition": (Condition, "condition"),
    "structure": (Structure, "structure"),
    "shape": (Shape, "shape"),
    "texture": (Texture, "texture"),
    "subdivision": (Subdivision, "subdivisions"),
    "mesh": (Mesh, "mesh"),
    "voxels": (Voxels, "voxels"),
}
_SUFFIX = ".safetensors"
_FILE = (_SUFFIX,), "A state's file", StateError


class SaveState(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="T2SaveState",
            display_name="TRELLIS.2 Save State",
            category=CATEGORY,
            **aliases("save latent, checkpoint run, cache to disk, resume later"),
            description="Writes what stages made into ComfyUI's output folder, for TRELLIS.2 Open State in another "
            "graph or on another day. Nothing is lost.",
            inputs=[
                filename_prefix_input(),
                *(
                    kind.Input(name, optional=True, tooltip=f"The {name} to save; leave out what you do not need.")
                    for name, (kind, _) in _SOCKETS.items()
                ),
            ],
            outputs=[
                io.String.Output(display_name="path", tooltip="The file below ComfyUI's output folder, for Open State.")
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None = None) -> bool | str:
        return saving.why_not(filename_prefix) or True

    @classmethod
    def execute(
        cls,
        filename_prefix: str = output.DEFAULT_PREFIX,
        condition: stages.Condition | None = None,
        structure: stages.Structure | None = None,
        shape: ShapeLatent | None = None,
        texture: stages.Latent | None = None,
        subdivision: stages.Subdivisions | None = None,
        mesh: stages.Mesh | None = None,
        voxels: stages.PBRVoxels | None = None,
    ) -> io.NodeOutput:
        if shape is not None and shape.kept is not None:
            raise SettingsError(
                "This shape latent says what of its mesh is kept, which a state does not hold. Save what Sample Shape "
                "makes of it."
            )
        path, relative = output.new_file(filename_prefix, _SUFFIX, cls.hidden)
        state = stages.State(
            condition=condition,
            structure=structure,
            shape=None if shape is None else shape.latent,
            texture=texture,
            subdivisions=subdivision,
            mesh=mesh,
            voxels=voxels,
            settings={} if shape is None else {"pipeline_type": shape.pipeline_type.name},
        )
        stages.write_state(path, state)
        return io.NodeOutput(relative, ui={"text": [f"{relative}: {', '.join(state.held)}"]})


class OpenState(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="T2OpenState",
            display_name="TRELLIS.2 Open State",
            category=CATEGORY,
            **aliases("load latent, load run, resume, continue run"),
            description="Opens what TRELLIS.2 Save State, or --save-state on the command line, wrote. Outputs that the "
            "file does not hold stop the nodes behind them.",
            inputs=[
                io.String.Input(
                    "path",
                    default="",
                    tooltip="The file below ComfyUI's output or input folder, for example "
                    "3d/trellis2_00001_.safetensors.",
                )
            ],
            outputs=[
                kind.Output(display_name=name, tooltip=f"The saved {name}.") for name, (kind, _) in _SOCKETS.items()
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, path: str = "") -> str:
        return inputs.fingerprint(path, *_FILE)

    @classmethod
    def execute(cls, path: str = "") -> io.NodeOutput:
        from comfy_execution.graph_utils import ExecutionBlocker

        state = stages.open_state(inputs.existing(path, *_FILE))
        values = []
        for name, (_, key) in _SOCKETS.items():
            value = getattr(state, key)
            if name == "shape" and value is not None:
                made_by = stages.pipeline_type_of(state)
                value = ShapeLatent(value, PipelineType.named(made_by)) if made_by else None
            if value is None:
                held = ", ".join(state.held)
                value = ExecutionBlocker(f"{Path(path).name} holds no {name}; it has {held}. Save it with Save State.")
            values.append(value)
        return io.NodeOutput(*values)
