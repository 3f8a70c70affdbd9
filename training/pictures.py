"""Pictures of objects, made in batches by sphere tracing with the lights and materials of pipeline.render."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from pipeline import image
from pipeline.render import Subject
from pipeline.render import render as render_mesh

from .cameras import Cameras, crops, resample, sample_cameras
from .lights import Lights, camera_axes, sample_lights, shade, to_srgb
from .objects import Objects
from .tracing import box_span, lightness, march, openness
from .truth import DualGrids

_OVERSAMPLED = 1.25  # pixels of a full picture's side for one of the prepared picture's
_LAYERS = 4  # translucent surfaces that a ray passes
_REACH = 0.3  # of ambient occlusion, in radii of the object, as pipeline.render
_STEP_IN = 6e-3  # world units from a translucent surface to where the ray goes on


@dataclass(frozen=True)
class Pictures:
    """Pictures as pipeline.image.prepare leaves them: cropped to the object, on black; row 0 at the top. float32.

    pixels: [B, 3, S, S] sRGB 0-1, not yet normalised for the encoder (see normalised).
    mask: [B, 1, S, S] 0-1 coverage. base_color: [B, 3, S, S] sRGB, position: [B, 3, S, S] world, normal: [B, 3, S, S]
    unit in the world: of the surface seen first; 0 where the mask is 0.
    """

    pixels: torch.Tensor
    mask: torch.Tensor
    base_color: torch.Tensor
    position: torch.Tensor
    normal: torch.Tensor
    cameras: Cameras

    def normalised(self) -> torch.Tensor:
        """[B, 3, S, S] as pipeline.image.to_pixels would give it to the image encoder."""
        mean, std = (self.pixels.new_tensor(each)[:, None, None] for each in (image.MEAN, image.STD))
        return (self.pixels - mean) / std


def render(objects: Objects, random: torch.Generator, size: int) -> Pictures:
    """Pictures of all objects from front views (azimuth within 45 degrees, elevation 0-40) with varied light.

    Args:
        random: a CPU generator: the same cameras and lights on every device.
        size: pixels along a side.
    """
    cameras = sample_cameras(objects, random)
    lights = sample_lights(len(objects), random, objects.device)
    full = trace(objects, cameras, lights, round(size * _OVERSAMPLED))
    return full.prepared(size)


def rendered(
    objects: Objects, grids: DualGrids, random: torch.Generator, size: int, full: int = 512
) -> tuple[Pictures, list[Image.Image]]:
    """The same views and lights as render(), but drawn by pipeline.render from the truth's meshes, one by one.

    Args:
        grids: of these objects, see truth.dual_grids.
        full: pixels of the full pictures' sides.

    Returns:
        The pictures as the pipeline prepares them (the rest of them traced, as by render), and the full ones, RGBA, as
        a user would have them.
    """
    cameras = sample_cameras(objects, random)
    lights = sample_lights(len(objects), random, objects.device)
    traced = trace(objects, cameras, lights, round(size * _OVERSAMPLED)).prepared(size)
    shown = []
    for row in range(len(objects)):
        vertices, faces, pbr = grids.mesh(row)
        subject = Subject(vertices, faces, colours=pbr, alpha_mode="BLEND")
        shown.append(Image.fromarray(render_mesh(subject, cameras.camera(row), full, "pbr", studio=lights.studio(row))))
    small = [image.prepare(each).resize((size, size), Image.Resampling.LANCZOS) for each in shown]
    pixels = torch.from_numpy(np.stack([np.asarray(each) for each in small])).permute(0, 3, 1, 2) / 255
    return replace(traced, pixels=pixels.to(objects.device)), shown


@dataclass(frozen=True)
class Full:
    """Pictures before they are cropped: values [B, 14, F, F], all 0 where no surface is seen.

    Channels: sRGB colour times alpha, and alpha; whether a surface is seen, and of the first one base colour (sRGB),
    position and normal (world).
    """

    values: torch.Tensor
    cameras: Cameras

    def prepared(self, size: int) -> Pictures:
        """Cropped and on black, as pipeline.image.prepare, and resized as pipeline.image.to_pixels."""
        windows = crops(self.values[:, 3])
        pixels = resample(self.values[:, :3], windows, size, sharp=True)
        others = resample(self.values[:, 4:], windows, size, sharp=False)
        mask = others[:, :1]
        base_color, position, normal = (others[:, 1:] / mask.clamp_min(1e-4)).split(3, 1)
        cameras = replace(self.cameras, window=windows / self.values.shape[3])
        return Pictures(pixels, mask, base_color, position, F.normalize(normal, dim=1), cameras)


def trace(objects: Objects, cameras: Cameras, lights: Lights, size: int) -> Full:
    """Full pictures, one ray a pixel."""
    rays = cameras.rays(size).reshape(-1, 3)  # [B * F * F, 3]
    owner = torch.arange(len(objects), device=rays.device).repeat_interleave(size * size)
    eyes = cameras.eyes()
    start, end = box_span(objects, owner, eyes[owner], rays)
    place = (start < end).nonzero()[:, 0]
    owner, rays, start, end = owner[place], rays[place], start[place], end[place]
    values = rays.new_zeros(len(objects) * size * size, 14)
    colour, cover = rays.new_zeros(len(values), 3), rays.new_zeros(len(values), 1)  # linear, times cover
    for layer in range(_LAYERS):
        at, part = march(objects, owner, eyes[owner], rays, start, end)
        seen = at.isfinite().nonzero()[:, 0]
        if len(seen) == 0:
            break
        place, owner, rays, at, end = place[seen], owner[seen], rays[seen], at[seen], end[seen]
        points = eyes[owner] + rays * at[:, None]
        normal = objects.normal_at(points, owner)
        material = objects.materials[owner, part[seen]]
        if layer == 0:
            first = torch.cat([torch.ones_like(at)[:, None], material[:, :3], points, normal], 1)
            values[place, 4:] = first
        normal = torch.where((normal * rays).sum(1, keepdim=True) > 0, -normal, normal)
        open_sky, lit = _visible(objects, cameras, lights, owner, points, normal)
        shaded = shade(lights, owner, cameras.azimuth, material, normal, -rays, open_sky, lit)
        weight = (1 - cover[place]) * material[:, 5:]
        colour[place] += weight * shaded
        cover[place] += weight
        clear = (material[:, 5] < 1).nonzero()[:, 0]
        place, owner, rays, end = place[clear], owner[clear], rays[clear], end[clear]
        start = at[clear] + _STEP_IN
    values[:, :3] = to_srgb(colour / cover.clamp_min(1e-6)) * cover
    values[:, 3:4] = cover
    return Full(values.reshape(len(objects), size, size, 14).permute(0, 3, 1, 2).contiguous(), cameras)


def _visible(objects: Objects, cameras: Cameras, lights: Lights, owner, points, normal):
    """How much of the sky and of the first box points [M, 3] see: [M] each, 0-1."""
    radius = objects.half.norm(dim=1)
    open_sky = openness(objects, owner, points, normal, _REACH * radius[owner])
    angles = lights.angles[:, 0]
    box = camera_axes(cameras.azimuth + angles[:, 0], angles[:, 1])[:, 2]  # [B, 3]
    softness = torch.tan(torch.deg2rad(angles[:, 2:].amin(1)) / 2)
    lit = lightness(objects, owner, points, normal, box[owner], softness[owner])
    away = (1 - 4 * (normal * box[owner]).sum(1)).clamp(0, 1)  # the terminator fades by itself
    return open_sky, away + (1 - away) * lit
