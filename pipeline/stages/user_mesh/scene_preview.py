"""A scene with new textures -> what the renderer shows of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from ...export.scene_textures import BakedGroup
from ...mesh.io import Scene
from ...render import Subject


def scene_subject(scene: Scene, groups: Sequence[BakedGroup], device: torch.device | str = "cpu") -> Subject:
    """The parts that have new textures, which share one atlas: a tile for each texture, row by row."""
    frame, tiles = scene.frame(), math.ceil(math.sqrt(len(groups)))
    side = max(len(each.maps) for each in groups)
    atlas = np.zeros((tiles * side, tiles * side, 6), np.uint8)
    vertices, faces, uvs, count = [], [], [], 0
    for number, baked in enumerate(groups):
        row, column = divmod(number, tiles)
        size = len(baked.maps)
        atlas[row * side : row * side + size, column * side : column * side + size] = baked.maps
        points, corners, own = baked.group.geometry(scene, frame)
        vertices.append(points)
        faces.append(corners + count)
        uvs.append((own.clamp(0, 1) * (size / side) + torch.tensor([column, row])) / tiles)
        count += len(points)
    place, corner, uv = (torch.cat(each).to(device) for each in (vertices, faces, uvs))
    return Subject.known(place, corner.int(), uvs=uv.float(), maps=atlas)
