"""Renders of held-out objects of the training set from four sides, and what goes wrong with pictures of views."""

import functools

import numpy as np
import torch
from PIL import Image

from pipeline.render import Camera, Subject, render
from pipeline.views import View
from training import objects, truth

SIDES = (View(0), View(90), View(180), View(270))
NUMBERS = {"chair": 1, "car": 3, "hammer": 11, "teapot": 15, "rings": 13, "table": 6}


@functools.cache
def renders():
    """Name -> RGBA pictures from the front, the object's left, the back, its right; cameras stand differently near."""
    held = objects.sample(30, torch.Generator().manual_seed(5), held_out=True)
    made = {}
    for name, number in NUMBERS.items():
        vertices, faces, pbr = truth.dual_grids(held.select(slice(number, number + 1)), 64).mesh(0)
        subject = Subject(vertices, faces, colours=pbr)
        cameras = [Camera(view.azimuth, 0.0, fov=20 + number) for view in SIDES]
        made[name] = [Image.fromarray(render(subject, camera, 160, "pbr")) for camera in cameras]
    return made


def mirrored(picture):
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def lit(picture, gain):
    """Under another light: gains of red, green and blue, linear."""
    values = np.asarray(picture, np.float32) / 255
    values[..., :3] = ((values[..., :3] ** 2.2) * gain).clip(0, 1) ** (1 / 2.2)
    return Image.fromarray((values * 255).round().astype(np.uint8))


def before(picture, ground):
    """A picture before a background [S, S, 3]."""
    values = np.asarray(picture, np.float32)
    alpha = values[..., 3:] / 255
    return Image.fromarray((values[..., :3] * alpha + ground * (1 - alpha)).astype(np.uint8))


def rough():
    return np.random.default_rng(0).normal(128, 50, (20, 20, 3)).clip(0, 255).repeat(8, 0).repeat(8, 1)
