"""Where pictures are taken from, and how pipeline.image.prepare crops them, for batches."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pipeline import image
from pipeline.render import Camera

from .lights import camera_axes
from .objects import Objects

_AZIMUTH, _ELEVATION, _FOV = 45.0, 40.0, (20.0, 50.0)  # degrees
_FILLED = 0.94  # of the picture's side by the object's box


@dataclass(frozen=True)
class Cameras:
    """Cameras of B pictures as pipeline.render.Camera, and the square that is cropped from each.

    azimuth, elevation, fov, distance: [B] degrees and world units. target: [B, 3] world. All look upright.
    window: [B, 3] left, top and side of the crop in fractions of the full picture; the whole picture before cropping.
    """

    azimuth: torch.Tensor
    elevation: torch.Tensor
    fov: torch.Tensor
    distance: torch.Tensor
    target: torch.Tensor
    window: torch.Tensor

    def camera(self, row: int) -> Camera:
        """One of them for pipeline.render; it makes the full picture."""
        numbers = (float(each[row]) for each in (self.azimuth, self.elevation, self.fov, self.distance))
        return Camera(*numbers, target=tuple(self.target[row].tolist()))

    def axes(self) -> torch.Tensor:
        """[B, 3, 3], rows: right, up and towards the viewer."""
        return camera_axes(self.azimuth, self.elevation)

    def eyes(self) -> torch.Tensor:
        """[B, 3] world."""
        return self.target + self.distance[:, None] * self.axes()[:, 2]

    def rays(self, size: int) -> torch.Tensor:
        """Unit directions through the pixels' centres of the full pictures: [B, size * size, 3] world, row by row."""
        line = (torch.arange(size, device=self.fov.device) + 0.5) / size * 2 - 1
        down, right = torch.meshgrid(line, line, indexing="ij")
        flat = torch.stack([right, -down, torch.zeros_like(down)], -1).reshape(1, -1, 3)
        own = flat * torch.tan(torch.deg2rad(self.fov) / 2)[:, None, None]
        own = own - own.new_tensor([0.0, 0.0, 1.0])
        return torch.nn.functional.normalize(own @ self.axes(), dim=2)

    def project(self, points: torch.Tensor) -> torch.Tensor:
        """World points [B, N, 3] -> [B, N, 2] right and down in the cropped picture, 0-1 inside."""
        seen = (points - self.eyes()[:, None]) @ self.axes().transpose(1, 2)
        on = seen[:, :, :2] / -seen[:, :, 2:] / torch.tan(torch.deg2rad(self.fov) / 2)[:, None, None]
        full = (on * on.new_tensor([1.0, -1.0]) + 1) / 2
        return (full - self.window[:, None, :2]) / self.window[:, None, 2:]


def sample_cameras(objects: Objects, random: torch.Generator) -> Cameras:
    """Front views in which the objects' boxes just fit. random: a CPU generator."""
    count, device = len(objects), objects.device
    draw = torch.rand(3, count, generator=random).to(device)
    azimuth, elevation = (draw[0] * 2 - 1) * _AZIMUTH, draw[1] * _ELEVATION
    fov = _FOV[0] + (_FOV[1] - _FOV[0]) * draw[2]
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], device=device)] * 3)  # [8, 3]
    corners = (signs * objects.half[:, None]) @ camera_axes(azimuth, elevation).transpose(1, 2)  # [B, 8, 3]
    tangent = torch.tan(torch.deg2rad(fov) / 2) * _FILLED
    distance = (corners[:, :, :2].abs().amax(2) / tangent[:, None] + corners[:, :, 2]).amax(1)
    whole = torch.tensor([0.0, 0.0, 1.0], device=device).expand(count, 3)
    return Cameras(azimuth, elevation, fov, distance, torch.zeros(count, 3, device=device), whole)


def crops(alpha: torch.Tensor) -> torch.Tensor:
    """The squares that pipeline.image.cut_out crops from pictures: [B, 3] left, top, side in pixels, whole numbers.

    Args:
        alpha: [B, F, F] 0-1; where none is above 0.8, which the pipeline refuses, the whole picture is kept.
    """
    solid = alpha > image.OPAQUE_ENOUGH
    place = torch.arange(alpha.shape[1], device=alpha.device)

    def ends(line: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first, last = torch.where(line, place, len(place)).amin(1), torch.where(line, place, -1).amax(1)
        return first % len(place), last % len(place)

    (left, right), (top, bottom) = ends(solid.any(1)), ends(solid.any(2))
    half = (torch.maximum(right - left, bottom - top) // 2).clamp_min(1)
    corner = torch.stack([(left + right) / 2 - half, (top + bottom) / 2 - half], 1).round()  # half to even, as Python
    return torch.cat([corner, 2 * half[:, None]], 1)


def resample(pictures: torch.Tensor, windows: torch.Tensor, size: int, sharp: bool) -> torch.Tensor:
    """Cut squares out of pictures and resize them as Pillow does.

    Args:
        pictures: [B, C, F, F]; 0 outside.  windows: [B, 3] left, top, side in pixels.
        sharp: Lanczos with three lobes, kept in 0-1 after each direction as Pillow does with bytes; else a triangle.

    Returns:
        [B, C, size, size].
    """
    columns = _weights(windows[:, 0], windows[:, 2], pictures.shape[3], size, sharp)
    rows = _weights(windows[:, 1], windows[:, 2], pictures.shape[2], size, sharp)
    wide = torch.einsum("bchw,btw->bcht", pictures, columns)
    wide = wide.clamp(0, 1) if sharp else wide
    small = torch.einsum("bsh,bcht->bcst", rows, wide)
    return small.clamp(0, 1) if sharp else small


def _weights(start: torch.Tensor, side: torch.Tensor, width: int, size: int, sharp: bool) -> torch.Tensor:
    """[B, size, width]: what each of width pixels adds to each of size; the filter sees nothing beyond the window."""
    radius = width // 2
    source = torch.arange(-radius, width + radius, device=start.device)
    within = source - start[:, None]  # [B, 2 width]
    scale = side / size
    centre = (torch.arange(size, device=start.device) + 0.5) * scale[:, None]
    x = (within[:, None] + 0.5 - centre[:, :, None]) / scale.clamp_min(1)[:, None, None]
    weight = torch.where(x.abs() < 3, torch.sinc(x) * torch.sinc(x / 3), 0) if sharp else (1 - x.abs()).clamp_min(0)
    inside = (within >= 0) & (within < side[:, None])
    weight = weight * inside[:, None]
    weight = weight / weight.sum(2, keepdim=True)
    return weight[:, :, radius : radius + width]
