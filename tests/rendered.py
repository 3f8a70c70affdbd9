"""What the tests of previews draw: balls, a wall, plain materials, the camera's rays, colours as bytes."""

import math

import numpy as np
import torch

from pipeline.render import Camera, Softbox, Studio

EVEN = Studio((1.0,) * 3, (1.0,) * 3, (Softbox(0, 45, 30, 30, (0.0,) * 3),))  # the same light from everywhere


def sphere(radius=0.4, rows=64):
    """A ball in latitudes and longitudes, wound outward."""
    u, w = np.meshgrid(np.linspace(0, 2 * np.pi, 2 * rows + 1), np.linspace(0, np.pi, rows + 1))
    vertices = radius * np.stack([np.sin(w) * np.cos(u), np.sin(w) * np.sin(u), np.cos(w)], -1).reshape(-1, 3)
    first = (np.arange(rows)[:, None] * (2 * rows + 1) + np.arange(2 * rows)).ravel()
    below = first + 2 * rows + 1
    faces = np.concatenate([np.stack([first, below, first + 1], 1), np.stack([first + 1, below, below + 1], 1)])
    return torch.tensor(vertices, dtype=torch.float32), torch.tensor(faces, dtype=torch.int32)


def wall():
    """A square in the plane y = 0 that faces -Y, with v downwards."""
    vertices = torch.tensor([[-0.5, 0, 0.5], [0.5, 0, 0.5], [0.5, 0, -0.5], [-0.5, 0, -0.5]])
    uvs = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    return vertices, torch.tensor([[0, 2, 1], [0, 3, 2]], dtype=torch.int32), uvs


def flat_maps(colour, side=8, metallic=0.0, roughness=0.5, alpha=1.0):
    return np.full((side, side, 6), (*colour, metallic, roughness, alpha), np.float32)


def painted(vertices, *values):
    return torch.tensor(values, dtype=torch.float32).expand(len(vertices), len(values))


def directions(camera, size):
    """Eye [3] and rays through the centres of pixels [size, size, 3], unit."""
    right, up, back = camera.axes()
    tangent = math.tan(math.radians(camera.fov) / 2)
    at = (np.arange(size) + 0.5) / size * 2 - 1
    rays = tangent * (at[None, :, None] * right - at[:, None, None] * up) - back
    return np.array(camera.target) + camera.distance * back, rays / np.linalg.norm(rays, axis=-1, keepdims=True)


def shown(light):
    """Linear light [..., 3] -> bytes as a picture has them: PBR Neutral and the sRGB curve."""
    low = light.min(-1, keepdims=True)
    light = light - np.where(low < 0.08, low - 6.25 * low * low, 0.04)
    peak = light.max(-1, keepdims=True)
    pressed = 1 - 0.24**2 / (peak + 0.24 - 0.76)
    grey = 1 - 1 / (0.15 * (peak - pressed) + 1)
    light = np.where(peak < 0.76, light, light * pressed / peak * (1 - grey) + pressed * grey)
    return 255 * np.where(light < 0.0031308, 12.92 * light, 1.055 * light.clip(0.0031308) ** (1 / 2.4) - 0.055)


FIXED = Camera(azimuth=35, elevation=25, fov=30, distance=2.0, target=(0.0, 0.0, 0.0))
