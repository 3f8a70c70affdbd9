"""The light and the shading of pipeline.render, for batches: random studios, and what a surface sends to a viewer.

The formulae are those of pipeline/render/studio_functions.py, where their sources are named.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch

from pipeline.render import Softbox, Studio
from pipeline.views.rig import axes_from

_DEFAULT = 0.25  # part of the pictures that are lit by pipeline.render's own studio
_DIRECTIONS = 1 << 11  # of the integral over all light


@dataclass(frozen=True)
class Lights:
    """Studios of B pictures, as pipeline.render.Studio: they turn with the camera. K boxes each; the first
    casts shadows.

    zenith, nadir: [B, 3] linear radiance. axes: [B, K, 3, 3] rows: a box's right, up and the direction to it.
    angles: [B, K, 4] degrees: azimuth, elevation, width, height. radiance: [B, K, 3].
    harmonics: [B, 18, 3] as Studio.harmonics.
    """

    zenith: torch.Tensor
    nadir: torch.Tensor
    axes: torch.Tensor
    angles: torch.Tensor
    radiance: torch.Tensor
    harmonics: torch.Tensor

    def to(self, device: torch.device | str) -> Lights:
        return Lights(*(getattr(self, each.name).to(device) for each in fields(self)))

    def studio(self, row: int) -> Studio:
        """One of them for pipeline.render."""

        def numbers(values: torch.Tensor) -> tuple[float, float, float]:
            red, green, blue = values[row].tolist()
            return red, green, blue

        boxes = zip(self.angles[row].tolist(), self.radiance[row].tolist())
        return Studio(
            numbers(self.zenith),
            numbers(self.nadir),
            tuple(Softbox(*angles, radiance=tuple(radiance)) for angles, radiance in boxes),
        )


def sample_lights(count: int, random: torch.Generator, device: torch.device | str = "cpu") -> Lights:
    """Studios round pipeline.render's own: brighter and darker, warmer and colder, from other sides."""

    def between(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=random)

    own = Studio()
    plain = (between(0, 1) < _DEFAULT)[:, None]
    level = between(0.75, 1.3, 1)
    warmth = between(-0.12, 0.12, 1) * torch.tensor([1.0, 0.0, -1.0])
    zenith = torch.tensor(own.zenith) * level * between(0.6, 1.6, 1) * (1 - warmth)
    nadir = torch.tensor(own.nadir) * level * between(0.5, 2.5, 1) * (1 + warmth)
    boxes = [(box.azimuth, box.elevation, box.width, box.height) for box in own.boxes]
    angles = torch.tensor(boxes) + between(-1, 1, len(boxes), 4) * torch.tensor(
        [[50.0, 22.0, 8.0, 8.0], [35.0, 20.0, 6.0, 15.0], [35.0, 20.0, 15.0, 8.0]]
    )
    side = torch.where(between(0, 1, 1) < 0.5, 1.0, -1.0)
    angles[:, :, 0] *= side
    power = torch.stack([between(0.5, 1.4), between(0.2, 2.0), between(0.3, 1.6)], 1)[:, :, None]
    radiance = torch.tensor([box.radiance for box in own.boxes]) * power * level[:, None] * (1 + warmth[:, None])
    zenith, nadir = (torch.where(plain, torch.tensor(a), b) for a, b in ((own.zenith, zenith), (own.nadir, nadir)))
    angles = torch.where(plain[:, :, None], torch.tensor(boxes), angles)
    radiance = torch.where(plain[:, :, None], torch.tensor([box.radiance for box in own.boxes]), radiance)
    axes = camera_axes(angles[:, :, 0], angles[:, :, 1])
    empty = torch.zeros(count, 18, 3)
    lights = Lights(zenith, nadir, axes, angles, radiance, empty).to(device)
    return replace(lights, harmonics=_harmonics(lights))


def camera_axes(azimuth: torch.Tensor, elevation: torch.Tensor) -> torch.Tensor:
    """[...] degrees -> [..., 3, 3], rows as pipeline.render.Camera.axes: right, up and towards the viewer."""
    a, e = torch.deg2rad(azimuth), torch.deg2rad(elevation)
    rows = axes_from((a.cos(), a.sin()), (e.cos(), e.sin()), torch.zeros_like(a))
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def shade(
    lights: Lights,
    owner: torch.Tensor,
    azimuth: torch.Tensor,
    material: torch.Tensor,
    normal: torch.Tensor,
    viewer: torch.Tensor,
    open_sky: torch.Tensor,
    lit: torch.Tensor,
) -> torch.Tensor:
    """What surfaces send to the viewer, tone mapped: [M, 3] linear, 0-1.

    Args:
        owner: [M] picture.  azimuth: [B] of the cameras, degrees.  material: [M, 6] base colour sRGB, metallic,
            roughness, alpha.  normal, viewer: [M, 3] unit, world.  open_sky, lit: [M] 0-1, how much of the sky and of
            the first box is seen.
    """
    base, metallic, rough = to_linear(material[:, :3]), material[:, 3:4], material[:, 4].clamp(0.05, 1)
    alpha = rough * rough
    facing = (normal * viewer).sum(1)
    clamped = facing.clamp(0, 1)
    plastic, metal = _reflected(base, rough, clamped)
    reflected = metal * metallic + plastic * (1 - metallic)

    pull = ((1 - alpha) * ((1 - alpha).sqrt() + alpha))[:, None]
    mirror = normal * (2 * facing[:, None]) - viewer
    mirror = torch.nn.functional.normalize(normal * (1 - pull) + mirror * pull, dim=1)
    mirror, normal = _in_studio(mirror, azimuth[owner]), _in_studio(normal, azimuth[owner])
    blur = 2.45 * alpha / (1 + 2.1 * alpha)
    seen = ((clamped + open_sky) ** (2 ** (-16 * rough - 1)) - 1 + open_sky).clamp(0, 1)[:, None]
    sky, key = _surroundings(lights, owner, mirror, blur)
    mirrored = sky * seen + key * torch.minimum(seen, lit[:, None])

    arriving = _diffuse(lights.harmonics[:, :9][owner], normal) * open_sky[:, None]
    arriving = arriving + _diffuse(lights.harmonics[:, 9:][owner], normal) * lit[:, None]
    kept = base * ((1 - plastic) * (1 - metallic))
    return _shown(reflected * mirrored + kept * arriving)


def to_linear(values: torch.Tensor) -> torch.Tensor:
    return torch.where(values <= 0.04045, values / 12.92, ((values.clamp_min(0) + 0.055) / 1.055) ** 2.4)


def to_srgb(values: torch.Tensor) -> torch.Tensor:
    return torch.where(values <= 0.0031308, values * 12.92, 1.055 * values.clamp_min(0.0031308) ** (1 / 2.4) - 0.055)


def _reflected(base: torch.Tensor, rough: torch.Tensor, facing: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Directional albedo of plastic [M, 1] and of metal [M, 3]."""
    fall = 1 - rough
    a004 = torch.minimum(fall * fall, 2 ** (-9.28 * facing)) * fall + 0.0425 - 0.0275 * rough
    scale, bias = -1.04 * a004 + 1.04 - 0.572 * rough, (1.04 * a004 - 0.04 + 0.022 * rough).clamp_min(0)
    more = 1 / (scale + bias).clamp(0.05, 1) - 1
    plastic = ((0.04 * scale + bias) * (1 + 0.04 * more)).clamp_max(1)[:, None]
    metal = (base * scale[:, None] + bias[:, None]) * (1 + base * more[:, None])
    return plastic, metal.clamp_max(1)


def _in_studio(direction: torch.Tensor, azimuth: torch.Tensor) -> torch.Tensor:
    turn = torch.deg2rad(azimuth)
    cos, sin = turn.cos(), turn.sin()
    x, y, z = direction.unbind(1)
    return torch.stack([cos * x + sin * y, cos * y - sin * x, z], 1)


def _surroundings(lights: Lights, owner: torch.Tensor, direction: torch.Tensor, blur: torch.Tensor):
    """Blurred radiance [M, 3] from directions [M, 3] of everything but the first box, and of the first box."""
    studio = Studio()
    soft = torch.hypot(blur, torch.full_like(blur, studio.horizon))
    sky = (0.5 + 0.5 * torch.tanh(torch.asin(direction[:, 2].clamp(-1, 1)) / soft))[:, None]
    rest = lights.nadir[owner] * (1 - sky) + lights.zenith[owner] * sky
    at = torch.einsum("mkij,mj->mki", lights.axes[owner], direction)  # [M, K, 3]
    up = torch.asin(at[:, :, 1].clamp(-1, 1))
    right = torch.atan2(at[:, :, 0], at[:, :, 2]) * up.cos()
    half = torch.deg2rad(lights.angles[:, :, 2:] / 2)[owner]  # [M, K, 2]
    soft = torch.hypot(blur, torch.full_like(blur, studio.edge))[:, None]
    part = _window(right, half[:, :, 0], soft) * _window(up, half[:, :, 1], soft)  # [M, K]
    boxes = lights.radiance[owner] * part[:, :, None]
    return rest + boxes[:, 1:].sum(1), boxes[:, 0]


def _window(x: torch.Tensor, half: torch.Tensor, blur: torch.Tensor) -> torch.Tensor:
    return 0.5 * (torch.tanh((x + half) / blur) - torch.tanh((x - half) / blur))


def _basis(n: torch.Tensor) -> torch.Tensor:
    """[..., 3] -> [..., 9] spherical harmonics of degree 2, not normalised."""
    x, y, z = n.unbind(-1)
    return torch.stack([torch.ones_like(x), y, z, x, x * y, y * z, 3 * z * z - 1, x * z, x * x - y * y], -1)


def _diffuse(harmonics: torch.Tensor, normal: torch.Tensor) -> torch.Tensor:
    return torch.einsum("mk,mkc->mc", _basis(normal), harmonics).clamp_min(0)


def _harmonics(lights: Lights) -> torch.Tensor:
    """As pipeline.render.Studio.harmonics, for all studios: [B, 18, 3]."""
    device, count = lights.zenith.device, len(lights.zenith)
    steps = torch.arange(_DIRECTIONS, device=device) + 0.5
    z, turn = 1 - 2 * steps / _DIRECTIONS, torch.pi * (1 + 5**0.5) * steps
    flat = (1 - z * z).sqrt()
    directions = torch.stack([flat * turn.cos(), flat * turn.sin(), z], 1)
    owner = torch.arange(count, device=device).repeat_interleave(_DIRECTIONS)
    blur = torch.zeros(len(owner), device=device)
    groups = _surroundings(lights, owner, directions.repeat(count, 1), blur)
    scale = torch.tensor([0.282095, *[0.488603] * 3, 1.092548, 1.092548, 0.315392, 1.092548, 0.546274]) ** 2
    scale = (scale * torch.tensor([1, *[2 / 3] * 3, *[1 / 4] * 5]) * 4 * torch.pi / _DIRECTIONS).to(device)
    basis = _basis(directions) * scale
    sums = [torch.einsum("nk,bnc->bkc", basis, light.reshape(count, -1, 3)) for light in groups]
    return torch.cat(sums, 1)


def _shown(colour: torch.Tensor) -> torch.Tensor:
    """Khronos' PBR Neutral tone mapper, [M, 3]."""
    low = colour.amin(1, keepdim=True)
    colour = colour - torch.where(low < 0.08, low - 6.25 * low * low, 0.04)
    peak = colour.amax(1, keepdim=True)
    rest = 0.24
    compressed = 1 - rest * rest / (peak + rest - 0.76)
    grey = 1 - 1 / (0.15 * (peak - compressed) + 1)
    bright = colour * (compressed / peak.clamp_min(1e-6)) * (1 - grey) + compressed * grey
    return torch.where(peak < 0.76, colour, bright)
