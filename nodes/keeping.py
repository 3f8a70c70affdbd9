"""Inputs that choose which parts of a mesh are kept: a mask in its UVs, vertex colours, names of nodes."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..pipeline import stages
from ..pipeline.errors import SettingsError
from .sockets import advanced


def keep_inputs(mask: str, done: str) -> list[io.Input]:
    """mask: the name of the mask's input. done: what happens where it is 1, after "is"."""
    return [
        io.Mask.Input(
            mask,
            optional=True,
            tooltip=f"A picture in the mesh's UVs: 1 is {done} Without it all is new.",
        ),
        advanced(
            io.String.Input(
                f"{mask}_materials",
                default="",
                tooltip="The materials that the mask is for, with commas between them; empty: all. Others are new as a "
                "whole.",
            )
        ),
        advanced(
            io.Boolean.Input(
                "keep_vertex_colors",
                default=False,
                tooltip="What has white vertex colours stays. They are then a mask and no colour of the mesh.",
            )
        ),
        advanced(
            io.String.Input(
                "keep_nodes",
                default="",
                tooltip="Names of mesh nodes that stay as they are, with commas between them.",
            )
        ),
    ]


def keep_of(mask: torch.Tensor | None, materials: str, vertex_colors: bool, nodes: str) -> stages.Keep:
    """The parts to keep. Raises SettingsError for a mask that marks nothing."""
    masks = () if mask is None else (_mask(mask, _words(materials)),)
    return stages.Keep(_words(nodes), masks, vertex_colors)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _mask(changed: torch.Tensor, materials: tuple[str, ...]) -> stages.Mask:
    """ComfyUI's mask, in which 1 is changed, inverted to a mask of what is kept."""
    values = changed[None] if changed.ndim == 2 else changed
    if values.ndim != 3 or len(values) != 1:
        raise SettingsError(f"The mask must be a single picture [1, height, width], got {list(changed.shape)}.")
    if not bool((values > 0.5).any()):
        raise SettingsError(
            "The mask marks nothing that is to be repainted. Paint on the base colour in the mask editor; a picture "
            "without transparency has an empty mask."
        )
    return stages.Mask(1 - values[0].float().clamp(0, 1).cpu().numpy(), materials)
