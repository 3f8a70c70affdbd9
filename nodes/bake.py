"""T2BakeTexture and T2ColorVertices: the colours of the voxels on a mesh."""

from __future__ import annotations

import numpy as np
import torch
from comfy_api.latest import io

from ..pipeline import stages
from .host.memory import make_room
from .host.progress import Progress
from .host.run import explained, run
from .packages import AUTO, choices, package_input
from .sockets import CATEGORY, Mesh, TexturedMesh, Voxels, advanced, aliases, node_schema

_BYTES_A_TEXEL = 400  # in the bake, rounded up from its peaks in `bench-mesh` on an H200 (voxels and tree included)


class BakeTexture(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="T2BakeTexture",
            display_name="TRELLIS.2 Bake Texture",
            category=CATEGORY,
            **aliases("unwrap, uv, texture bake, pbr, normal map, ambient occlusion"),
            description="Unwraps a mesh and bakes the material voxels into PBR textures.",
            inputs=[
                Mesh.Input("mesh", tooltip="From TRELLIS.2 Process Mesh."),
                Voxels.Input("voxels", tooltip="From TRELLIS.2 Decode Texture."),
                texture_size_input(),
                advanced(
                    io.Int.Input(
                        "padding",
                        default=4,
                        min=0,
                        max=64,
                        tooltip="Pixels between the charts of the texture, so that they do not bleed into each "
                        "other from afar.",
                    )
                ),
                Mesh.Input(
                    "original",
                    optional=True,
                    tooltip="The raw mesh from TRELLIS.2 Decode Shape. Colours are then looked up on it rather than on "
                    "the simplified mesh, and normal map and occlusion show its detail.",
                ),
                advanced(
                    io.Boolean.Input(
                        "normal_map", default=False, tooltip="Bake the detail that simplifying lost into a normal map."
                    )
                ),
                advanced(
                    io.Boolean.Input("occlusion", default=False, tooltip="Bake ambient occlusion: darker crevices.")
                ),
                advanced(
                    io.Boolean.Input(
                        "keep_uvs",
                        default=False,
                        tooltip="Bake into the mesh's own UVs (from TRELLIS.2 Mesh from ComfyUI) instead of new ones.",
                    )
                ),
                advanced(
                    io.Combo.Input(
                        "seams",
                        options=list(stages.SEAMS),
                        default="usual",
                        optional=True,
                        tooltip="fewer: larger charts, about an eighth as many, stretched by up to 15 %; for painting "
                        "and for games. It takes longer.",
                    )
                ),
                package_input(
                    "raster",
                    "nvdiffrast",
                    "nvdiffrast finds the texels of each triangle by NVIDIA's package of that name, where it is "
                    "installed and there is a CUDA GPU; its licence forbids commercial use. auto takes the pack's own.",
                ),
            ],
            outputs=[
                TexturedMesh.Output(display_name="textured_mesh", tooltip="For export."),
                io.Image.Output(display_name="base_color", tooltip="Base colour, sRGB."),
                io.Image.Output(
                    display_name="metallic_roughness",
                    tooltip="glTF's packing: red is occlusion, green is roughness, blue is metallic, linear.",
                ),
                io.Mask.Output(display_name="alpha", tooltip="Opacity; 1: opaque."),
                io.Image.Output(
                    display_name="normal_map", tooltip="Tangent space, green up, linear; flat unless it was asked for."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, normal_map=None, occlusion=None) -> bool | str:
        return explained(stages.check_maps, bool(normal_map), bool(occlusion))

    @classmethod
    def execute(
        cls,
        mesh: stages.Mesh,
        voxels: stages.PBRVoxels,
        texture_size: int = 2048,
        padding: int = 4,
        original: stages.Mesh | None = None,
        normal_map: bool = False,
        occlusion: bool = False,
        keep_uvs: bool = False,
        seams: str = "usual",
        raster: str = AUTO,
    ) -> io.NodeOutput:
        make_room(_BYTES_A_TEXEL * texture_size**2)
        textured = run(
            stages.bake_texture,
            None,
            Progress(2),
            mesh,
            voxels,
            size=texture_size,
            padding=padding,
            original=original,
            normal_map=normal_map,
            occlusion=occlusion,
            keep_uvs=keep_uvs,
            seams=seams,
            choices=choices(raster=raster),
        )
        return io.NodeOutput(textured, *maps(textured))


def maps(textured: stages.TexturedMesh) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Base colour [1, S, S, 3], occlusion-roughness-metallic as glTF packs it [1, S, S, 3], alpha [1, S, S], normal map
    [1, S, S, 3]."""
    attrs, occlusion, normal = textured.maps, textured.occlusion, textured.normal_map
    light = np.full_like(attrs[:, :, 0], 255) if occlusion is None else occlusion
    packed = np.stack([light, attrs[:, :, stages.ROUGHNESS], attrs[:, :, stages.METALLIC]], 2)
    flat = torch.tensor([0.5, 0.5, 1.0]).expand(1, *attrs.shape[:2], 3)
    base_color, packed, alpha = (
        _image(each) for each in (attrs[:, :, stages.BASE_COLOR], packed, attrs[:, :, stages.ALPHA])
    )
    return base_color, packed, alpha, flat if normal is None else _image(normal)


def _image(values: np.ndarray) -> torch.Tensor:
    """uint8 -> IMAGE or MASK: a batch of one, 0-1."""
    return torch.from_numpy(np.ascontiguousarray(values))[None].float() / 255


class ColorVertices(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="T2ColorVertices",
            display_name="TRELLIS.2 Color Vertices",
            category=CATEGORY,
            **aliases("vertex colors, vertex colours, vertex paint"),
            description="Gives a mesh the colours of the material voxels at its vertices, in place of textures: no "
            "unwrapping, a smaller file, and enough for a first look at a mesh of many faces.",
            inputs=[
                Mesh.Input("mesh", tooltip="From TRELLIS.2 Process Mesh."),
                Voxels.Input("voxels", tooltip="From TRELLIS.2 Decode Texture."),
                Mesh.Input(
                    "original",
                    optional=True,
                    tooltip="The raw mesh from TRELLIS.2 Decode Shape. Colours are then looked up on it rather than on "
                    "the simplified mesh.",
                ),
            ],
            outputs=[Mesh.Output(display_name="mesh", tooltip="With vertex colours, for Export GLB or Render Mesh.")],
        )

    @classmethod
    def execute(cls, mesh: stages.Mesh, voxels: stages.PBRVoxels, original: stages.Mesh | None = None) -> io.NodeOutput:
        return io.NodeOutput(run(stages.color_vertices, None, Progress(), mesh, voxels, original=original))


def texture_size_input() -> io.Input:
    """The side of the baked maps."""
    least, most = stages.TEXTURE_SIZES
    return io.Int.Input(
        "texture_size", default=2048, min=least, max=most, step=64, tooltip="Pixels along a side of each texture."
    )
