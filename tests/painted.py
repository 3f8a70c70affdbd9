"""Painted boxes and balls for tests of projection, and pictures of them."""

from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from pipeline import stages
from pipeline.mesh import Mesh
from pipeline.project import Painted, Sheet
from pipeline.views import PictureCamera

SIDE = 96  # texels along a side of a face's square in the atlas, of 3 x 3
FACES = {"-y": 0, "+x": 1, "+y": 2, "-x": 3, "+z": 4, "-z": 5}
COLOURS = [(200, 60, 50), (60, 160, 70), (70, 90, 200), (210, 190, 60), (190, 190, 190), (90, 70, 60)]
CAMERA = PictureCamera(25, 20, 35, 0.8, shift=(0.03, -0.02))


def box(low, high):
    """Vertices [24, 3], faces [12, 3] and uvs [24, 2]: four vertices a side, each side with its square of the atlas."""
    low, high = torch.tensor(low), torch.tensor(high)
    square = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]])  # right and up, as seen from outside
    sides = {"-y": (0, 2, 1, 0, False), "+x": (1, 2, 0, 1, False), "+y": (0, 2, 1, 1, True), "-x": (1, 2, 0, 0, True)}
    sides |= {"+z": (0, 1, 2, 1, False), "-z": (0, 1, 2, 0, True)}
    vertices, faces, uvs = [], [], []
    for name, (right, up, axis, end, flip) in sides.items():
        part = torch.empty(4, 3)
        across = 1 - square[:, 0] if flip else square[:, 0]
        part[:, right] = low[right] + across * (high - low)[right]
        part[:, up] = low[up] + square[:, 1] * (high - low)[up]
        part[:, axis] = (low, high)[end][axis]
        faces.append(torch.tensor([[0, 1, 2], [0, 2, 3]]) + 4 * len(vertices))
        vertices.append(part)
        place = torch.tensor([FACES[name] % 3, FACES[name] // 3])
        inside = torch.stack([square[:, 0], 1 - square[:, 1]], 1) * 0.96 + 0.02
        uvs.append((place + inside) / 3)
    return torch.cat(vertices), torch.cat(faces), torch.cat(uvs)


def atlas(colours):
    maps = np.full((3 * SIDE, 3 * SIDE, 6), 128, np.uint8)
    maps[:, :, 5] = 255
    for number, colour in enumerate(colours):
        row, column = divmod(number, 3)
        maps[SIDE * row : SIDE * (row + 1), SIDE * column : SIDE * (column + 1), :3] = colour
    return maps


def sheet(colours=COLOURS):
    """A box with a smaller one on its left half, which no mirror maps on itself."""
    body, top = box((-0.4, -0.25, -0.3), (0.4, 0.25, 0.1)), box((-0.35, -0.2, 0.1), (-0.05, 0.1, 0.4))
    vertices, uvs = (torch.cat([body[k], top[k]]) for k in (0, 2))
    faces = torch.cat([body[1], top[1] + len(body[0])])
    uvs[24:] = uvs[24:] / 9 + torch.tensor([0.4, 0.8])  # the smaller one in a free square
    maps = atlas(colours)
    small = maps[:, :, :3][::9, ::9][: SIDE // 3, : SIDE // 3]
    at = (round(0.8 * 3 * SIDE), round(0.4 * 3 * SIDE))
    maps[at[0] : at[0] + len(small), at[1] : at[1] + len(small), :3] = small
    return Sheet(vertices, faces, uvs, maps)


def textured(one):
    mesh = Mesh.known(one.vertices, one.faces.int())
    normals = torch.nn.functional.normalize(one.vertices, dim=1)
    return stages.TexturedMesh((stages.Unwrapped(mesh, normals, one.uvs),), one.maps, {})


def drawn(one, camera, side=256):
    """An RGBA picture of a sheet, as its base colours are."""
    seen = Painted([one], torch.device("cpu")).seen(camera, side)
    values = torch.cat([seen.colour, seen.mask[:, :, None].float()], 2)
    return Image.fromarray((values * 255).round().byte().numpy())


def decorated(one, pattern):
    """With a pattern [SIDE, SIDE] bool in black and white on the front."""
    maps = one.maps.copy()
    maps[:SIDE, :SIDE, :3] = np.where(pattern, 240, 20)[:, :, None]
    return replace(one, maps=maps)


def checker():
    rows, columns = np.indices((SIDE, SIDE)) // 24
    return (rows + columns) % 2 == 0


def sphere(maps, rings=24):
    """A ball with uvs by longitude and latitude."""
    u, v = np.meshgrid(np.linspace(0, 1, 2 * rings + 1), np.linspace(0, 1, rings + 1))
    a, p = 2 * np.pi * u, np.pi * v
    points = 0.45 * np.stack([np.sin(p) * np.cos(a), np.sin(p) * np.sin(a), np.cos(p)], -1)
    index = np.arange(u.size).reshape(u.shape)
    corners = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    a, b, c, d = (each.reshape(-1) for each in corners)
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    uvs = torch.from_numpy(np.stack([u, v], -1).reshape(-1, 2)).float()
    return Sheet(torch.from_numpy(points.reshape(-1, 3)).float(), torch.from_numpy(faces), uvs, maps)


def wall_and_block(wall_colour, block_colour):
    """A box in front of a wall. [24:] of its vertices are the block's."""
    wall, block = box((-0.4, 0.2, -0.3), (0.4, 0.25, 0.3)), box((-0.2, -0.2, -0.2), (0.0, 0.0, 0.2))
    vertices, uvs = torch.cat([wall[0], block[0]]), torch.cat([wall[2] / 2, block[2] / 2 + 0.5])
    maps = np.full((256, 256, 6), 128, np.uint8)
    maps[:128, :128, :3], maps[128:, 128:, :3], maps[:, :, 5] = wall_colour, block_colour, 255
    return Sheet(vertices, torch.cat([wall[1], block[1] + len(wall[0])]), uvs, maps)


def block_moved(made, by):
    vertices = made.vertices.clone()
    vertices[24:, 0] += by
    return replace(made, vertices=vertices)
