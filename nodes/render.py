"""T2RenderMesh: a mesh as a picture, as the frames of a turntable, or from any list of views with depth and normals."""

from __future__ import annotations

import torch
from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from ..pipeline import stages
from ..pipeline.errors import SettingsError
from ..pipeline.export import AlphaMode
from ..pipeline.render import MODES, Camera, Frame, Studio, environment_studio, turntable_cameras
from ..pipeline.srgb import srgb_to_linear
from ..pipeline.views import parse_view
from .host.progress import Progress
from .host.run import explained, run
from .sockets import CATEGORY, Cameras, Mesh, TexturedMesh, advanced, aliases, node_schema

_BYTES_A_PIXEL = 16  # of every frame that is drawn: IMAGE and MASK are float32
_BYTES_WITH_PASSES = 40  # with the two other IMAGEs
_OFF = "Switch depth_and_normals on: this output of TRELLIS.2 Render Mesh is empty without it."


class RenderMesh(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="T2RenderMesh",
            display_name="TRELLIS.2 Render Mesh",
            category=CATEGORY,
            **aliases(
                "turntable, render 3d, mesh to image, wireframe, preview mesh, depth map, normal map, multi view"
            ),
            description="Draws a mesh from one side, from all round as frames of a turntable, or from a list of views; "
            "with depth, normals and cameras for nodes that edit the views.",
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
                    tooltip="Degrees round the object, anticlockwise seen from above; 0: from the front, 90: from the "
                    "object's own left.",
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
                advanced(
                    io.String.Input(
                        "views",
                        default="",
                        tooltip="In place of frames, azimuth and elevation: directions between semicolons, front, left "
                        "(the object's own), back, right, an azimuth, or azimuth and elevation, as front; left; 45,20.",
                    )
                ),
                io.Boolean.Input(
                    "depth_and_normals",
                    default=False,
                    tooltip="Fill the outputs depth and normals too. A frame then takes 40 bytes a pixel.",
                ),
                io.Image.Input(
                    "environment",
                    optional=True,
                    tooltip="An equirectangular picture (twice as wide as high) that lights the object; its middle is "
                    "behind the object. Its brightness is adapted. Without one: a studio.",
                ),
                advanced(
                    io.Float.Input(
                        "environment_rotation",
                        default=0.0,
                        min=-360.0,
                        max=360.0,
                        step=5.0,
                        tooltip="Degrees that the environment is turned to the right. Without one unused.",
                    )
                ),
                advanced(
                    io.Float.Input(
                        "environment_strength",
                        default=1.0,
                        min=0.01,
                        max=100.0,
                        step=0.05,
                        tooltip="How many times as bright as the studio the environment is. Without one unused.",
                    )
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="On black; a batch of frames."),
                io.Mask.Output(display_name="mask", tooltip="1 where the object is."),
                io.Image.Output(
                    display_name="depth",
                    tooltip="With depth_and_normals: 1 at the front of a ball round the object, 0 at its back and "
                    "where nothing is, linear between.",
                ),
                io.Image.Output(
                    display_name="normals",
                    tooltip="With depth_and_normals: right, up and towards the camera, -1 to 1 as 0 to 1; on middle "
                    "blue, a surface that faces the camera.",
                ),
                Cameras.Output(
                    display_name="cameras", tooltip="Of each frame, for nodes that put edited views back on the mesh."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, frames=None, size=None, views=None, depth_and_normals=None) -> bool | str:
        # what comes through a link is None here
        frames, size = (1 if frames is None else frames), (512 if size is None else size)
        return explained(_check, frames, size, views or "", bool(depth_and_normals))

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
        views: str = "",
        depth_and_normals: bool = False,
        environment: torch.Tensor | None = None,
        environment_rotation: float = 0.0,
        environment_strength: float = 1.0,
    ) -> io.NodeOutput:
        cameras = _cameras(views) or turntable_cameras(Camera(azimuth, elevation), frames)
        frames = len(cameras)
        stages.check_pictures(frames, size, _BYTES_WITH_PASSES if depth_and_normals else _BYTES_A_PIXEL)
        image, mask = torch.empty(frames, size, size, 3), torch.empty(frames, size, size)
        passes = [torch.empty(frames, size, size, 3) for _ in range(2 if depth_and_normals else 0)]
        placed = []

        def receive(number: int, frame: Frame) -> None:
            values = torch.from_numpy(frame.picture).float() / 255
            torch.mul(values[..., :3], values[..., 3:], out=image[number])
            mask[number] = values[..., 3]
            placed.append(frame.camera)
            if frame.normals is not None:
                passes[0][number] = torch.from_numpy(frame.nearness())[..., None]
                normals = torch.from_numpy(frame.normals).float() / 255
                facing = normals.new_tensor([0.5, 0.5, 1.0])
                passes[1][number] = normals[..., :3] * normals[..., 3:] + facing * (1 - normals[..., 3:])

        run(
            stages.draw_views,
            None,
            Progress(),
            mesh,
            receive=receive,
            cameras=cameras,
            size=size,
            mode=None if mode == "material" else mode,
            alpha_mode=AlphaMode[alpha_mode.upper()],
            studio=_studio(environment, environment_rotation, environment_strength),
            passes=depth_and_normals,
        )
        depth, normals = passes or (ExecutionBlocker(_OFF),) * 2
        return io.NodeOutput(image, mask, depth, normals, tuple(placed))


def _cameras(views: str) -> list[Camera]:
    """The cameras that a text names; none if it is empty."""
    found = [parse_view(name) for name in views.split(";") if name.strip()]
    return [Camera(view.azimuth, view.elevation) for view in found]


def _check(frames: int, size: int, views: str, passes: bool) -> None:
    stages.check_frames(len(_cameras(views)) or frames, size, _BYTES_WITH_PASSES if passes else _BYTES_A_PIXEL)


def _studio(environment: torch.Tensor | None, rotation: float, strength: float) -> Studio:
    """The light of an IMAGE [B, H, W, C], sRGB, or the bundled one."""
    if environment is None:
        return stages.STUDIO
    if len(environment) != 1:
        raise SettingsError(f"The environment is one picture; this batch holds {len(environment)}.")
    return environment_studio(srgb_to_linear(environment[0, ..., :3].cpu().float().numpy()), rotation, strength)
