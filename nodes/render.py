"""T2RenderMesh: a mesh as a picture, or as the frames of a turntable."""

from __future__ import annotations

import numpy as np
import torch
from comfy_api.latest import io

from ..pipeline import stages
from ..pipeline.export import AlphaMode
from ..pipeline.render import MODES, Camera
from .host.progress import Progress
from .host.run import explained, run
from .sockets import CATEGORY, Mesh, TexturedMesh, aliases, node_schema

_BYTES_A_PIXEL = 16  # of every frame that is drawn: IMAGE and MASK are float32


class RenderMesh(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="T2RenderMesh",
            display_name="TRELLIS.2 Render Mesh",
            category=CATEGORY,
            **aliases("turntable, render 3d, mesh to image, wireframe, preview mesh"),
            description="Draws a mesh from one side, or from all round as frames of a turntable.",
            inputs=[
                io.MultiType.Input(
                    "mesh",
                    types=[Mesh, TexturedMesh],
                    tooltip="Raw, processed, with vertex colours, or textured.",
                ),
                io.Combo.Input(
                    "mode",
                    options=["material", *(mode for mode in MODES if mode != "pbr")],
                    default="material",
                    tooltip="material: colours, metal and roughness under studio light (clay if the mesh has no "
                    "colours); shaded: clay; base_color: colours without light; normals; wireframe.",
                ),
                io.Int.Input(
                    "frames",
                    default=1,
                    min=1,
                    max=360,
                    tooltip="Pictures from a full circle, evenly spaced; 1: only the one from the azimuth.",
                ),
                io.Int.Input(
                    "size",
                    default=512,
                    min=64,
                    max=4096,
                    step=64,
                    tooltip="Pixels along a side. All frames together may take 8 GB at 16 bytes a pixel: 360 frames of "
                    "1024, 29 of 4096.",
                ),
                io.Float.Input(
                    "azimuth",
                    default=30.0,
                    min=-360.0,
                    max=360.0,
                    step=5.0,
                    tooltip="Degrees round the object, anticlockwise seen from above; 0: from the front.",
                ),
                io.Float.Input(
                    "elevation",
                    default=20.0,
                    min=-90.0,
                    max=90.0,
                    step=5.0,
                    tooltip="Degrees above the horizon from which the camera looks.",
                ),
                io.Combo.Input(
                    "alpha_mode",
                    options=[mode.name.lower() for mode in AlphaMode],
                    default="opaque",
                    tooltip="How alpha is drawn: ignore it, cut at one half, or blend.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="On black; a batch of frames."),
                io.Mask.Output(display_name="mask", tooltip="1 where the object is."),
            ],
        )

    @classmethod
    def validate_inputs(cls, frames=None, size=None) -> bool | str:
        # what comes through a link is None here
        frames, size = (1 if frames is None else frames), (512 if size is None else size)
        return explained(stages.check_frames, frames, size, _BYTES_A_PIXEL)

    @classmethod
    def execute(
        cls,
        mesh: stages.Mesh | stages.TexturedMesh,
        mode: str = "material",
        frames: int = 1,
        size: int = 512,
        azimuth: float = 30.0,
        elevation: float = 20.0,
        alpha_mode: str = "opaque",
    ) -> io.NodeOutput:
        stages.check_pictures(frames, size, _BYTES_A_PIXEL)
        image, mask = torch.empty(frames, size, size, 3), torch.empty(frames, size, size)

        def receive(number: int, picture: np.ndarray) -> None:
            values = torch.from_numpy(picture).float() / 255
            torch.mul(values[..., :3], values[..., 3:], out=image[number])
            mask[number] = values[..., 3]

        run(
            stages.draw_each,
            None,
            Progress(),
            mesh,
            receive=receive,
            frames=frames,
            size=size,
            mode=None if mode == "material" else mode,
            camera=Camera(azimuth, elevation),
            alpha_mode=AlphaMode[alpha_mode.upper()],
        )
        return io.NodeOutput(image, mask)
