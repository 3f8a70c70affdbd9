"""Latents and voxels of ComfyUI's own TRELLIS.2 nodes for ours and back: sample there, decode and export here.

Core's LATENT holds what a flow sees, {"samples": [B, C, N, 1] normalised, "coords": [N, 4], "coord_resolution": voxels
along a side, "model_frame": "z_up"}; ours are denormalised. Core's coloured VOXEL has Y up: (x, z, R - 1 - y).
"""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..pipeline import stages
from ..pipeline.errors import SettingsError
from ..pipeline.sparse import SparseTensor, Voxels
from ..pipeline.spec import PIPELINE_TYPES, Normalisation, PipelineType
from ..pipeline.stages.networks.latents import denormalise, normalise
from .host.memory import ManagedModels
from .sockets import CATEGORY, Shape, ShapeLatent, Texture, aliases, models_input, node_schema
from .sockets import Voxels as VoxelsSocket

_UPSCALE = 16  # fine voxels of core's networks for each latent voxel along a side
_LARGEST = 1 << 13  # voxels a side; no type makes more than 1536, so that more is damage


class LatentFromCore(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="T2LatentFromCore",
            display_name="TRELLIS.2 Latent from ComfyUI",
            category=CATEGORY,
            **aliases("latent converter, from core latent, ksampler to trellis"),
            description="Latents that ComfyUI's own TRELLIS.2 nodes sampled, for our decoders: sample there, decode, "
            "clean, bake and export here.",
            inputs=[
                models_input(),
                io.Latent.Input("shape_latent", tooltip="The shape latent of ComfyUI's sampler, of one object."),
                io.Latent.Input(
                    "texture_latent", optional=True, tooltip="The texture latent of the same object, if there is one."
                ),
                io.Int.Input(
                    "seed",
                    default=42,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=True,
                    tooltip="Of the noise, where TRELLIS.2 Sample Texture goes on from here.",
                ),
            ],
            outputs=[
                Shape.Output(display_name="shape", tooltip="For TRELLIS.2 Decode Shape."),
                Texture.Output(display_name="texture", tooltip="For TRELLIS.2 Decode Texture."),
            ],
        )

    @classmethod
    def execute(
        cls, models: ManagedModels, shape_latent: dict, texture_latent: dict | None = None, seed: int = 42
    ) -> io.NodeOutput:
        spec = models.checkpoint.spec
        shape = _from_core(shape_latent, "shape", spec.shape_normalisation, seed)
        texture = None
        if texture_latent is not None:
            texture = _from_core(texture_latent, "texture", spec.texture_normalisation, seed)
            if not torch.equal(texture.sparse.voxels.coords, shape.sparse.voxels.coords):
                raise SettingsError("The texture latent lies on other voxels than the shape latent: another object's.")
        return io.NodeOutput(ShapeLatent(shape, _type_of(shape.resolution)), texture)


class LatentToCore(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="T2LatentToCore",
            display_name="TRELLIS.2 Latent to ComfyUI",
            category=CATEGORY,
            **aliases("latent converter, to core latent, trellis to ksampler"),
            description="Our latents for ComfyUI's own TRELLIS.2 decoders and stages.",
            inputs=[
                models_input(),
                Shape.Input("shape", tooltip="From TRELLIS.2 Sample Shape or Encode Mesh."),
                Texture.Input("texture", optional=True, tooltip="From TRELLIS.2 Sample Texture."),
            ],
            outputs=[
                io.Latent.Output(display_name="shape_latent", tooltip="For ComfyUI's VAE Decode Shape."),
                io.Latent.Output(display_name="texture_latent", tooltip="For ComfyUI's VAE Decode Texture."),
            ],
        )

    @classmethod
    def execute(cls, models: ManagedModels, shape: ShapeLatent, texture: stages.Latent | None = None) -> io.NodeOutput:
        spec = models.checkpoint.spec
        latent = _to_core(shape.latent, spec.shape_normalisation)
        return io.NodeOutput(latent, None if texture is None else _to_core(texture, spec.texture_normalisation))


class VoxelsFromCore(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="T2VoxelsFromCore",
            display_name="TRELLIS.2 Voxels from ComfyUI",
            category=CATEGORY,
            **aliases("voxel converter, from core voxel, convert voxels"),
            description="Coloured voxels of ComfyUI's own texture decoder for ours, to bake with Bake Texture.",
            inputs=[io.Voxel.Input("voxel", tooltip="ComfyUI's VOXEL with six channels, Y up, of one object.")],
            outputs=[VoxelsSocket.Output(display_name="voxels", tooltip="For TRELLIS.2 Bake Texture.")],
        )

    @classmethod
    def execute(cls, voxel) -> io.NodeOutput:
        colors, resolution = getattr(voxel, "voxel_colors", None), getattr(voxel, "resolution", None)
        data = torch.as_tensor(voxel.data).as_subclass(torch.Tensor)
        if colors is None or resolution is None or data.ndim != 2 or data.shape[1] != 4 or colors.shape[1] != 6:
            raise SettingsError(
                "These voxels are no coloured ones with six channels (base colour, metallic, roughness, alpha). Take "
                "those of ComfyUI's VAE Decode Texture for TRELLIS.2."
            )
        _check_coords(data, int(resolution), "voxels")
        x, height, depth = data[:, 1:].int().unbind(1)
        coords = torch.stack([x, int(resolution) - 1 - depth, height], 1)
        return io.NodeOutput(stages.PBRVoxels(SparseTensor(Voxels.single(coords), colors.float()), int(resolution)))


def _from_core(latent: dict, what: str, normalisation: Normalisation, seed: int) -> stages.Latent:
    """A latent of core with one object. Raises SettingsError for what is none of TRELLIS.2's."""
    samples, coords, side = latent.get("samples"), latent.get("coords"), latent.get("coord_resolution")
    if samples is None or coords is None or side is None or latent.get("type") != "trellis2":
        raise SettingsError(f"The {what} latent is none of ComfyUI's TRELLIS.2 stages on voxels. Connect one of those.")
    if latent.get("model_frame", "y_up") != "z_up":
        raise SettingsError(
            f"The {what} latent has Y up, as Pixal3D's do; TRELLIS.2's decoders expect Z up. Decode it with ComfyUI's "
            "own nodes, and take mesh and voxels over."
        )
    if len(samples) != 1:
        raise SettingsError(f"The {what} latent holds {len(samples)} objects; give one at a time.")
    _check_coords(coords, int(side), f"{what} latent")
    feats = samples[0, :, :, 0].t()[: len(coords)].float()
    if len(feats) != len(coords):
        raise SettingsError(f"The {what} latent has {len(feats)} values for {len(coords)} voxels.")
    voxels = Voxels(coords.int(), (len(coords),))
    random = torch.Generator().manual_seed(seed).get_state()
    return stages.Latent(SparseTensor(voxels, denormalise(feats, normalisation)), int(side) * _UPSCALE, random)


def _to_core(latent: stages.Latent, normalisation: Normalisation) -> dict:
    feats = normalise(latent.sparse.feats, normalisation)
    coords = latent.sparse.voxels.coords
    return {
        "samples": feats.t()[None, :, :, None].contiguous(),
        "coords": coords,
        "coord_counts": torch.tensor([len(coords)]),
        "coord_resolution": latent.resolution // _UPSCALE,
        "type": "trellis2",
        "model_frame": "z_up",
    }


def _check_coords(coords: torch.Tensor, side: int, what: str) -> None:
    if coords.ndim != 2 or coords.shape[1] != 4 or not 1 <= side <= _LARGEST or len(coords) == 0:
        raise SettingsError(f"The {what} have coordinates {list(coords.shape)} of a grid of {side}; expected [N, 4].")
    low, high = coords[:, 1:].min(), coords[:, 1:].max()
    if bool((coords[:, 0] != 0).any()) or low < 0 or high >= side:
        raise SettingsError(
            f"The {what} reach from {int(low)} to {int(high)} in a grid of {side}, or are several objects'."
        )


def _type_of(resolution: int) -> PipelineType:
    """The pipeline type whose texture goes with a shape of that resolution."""
    name = "512" if resolution <= 512 else "1024_cascade" if resolution <= 1024 else "1536_cascade"
    return PIPELINE_TYPES[name]
