"""Where UVs make places of a mesh share texels: told by what they would show, however little of the texture it is."""

import numpy as np
import pytest
import torch
from scenes import cube

from pipeline.mesh.bake.bake import Texels
from pipeline.mesh.bake.raster import rasterise
from pipeline.mesh.bake.shared_texels import shared_share, sharing_line


def shared(uvs, size=64) -> float:
    vertices, _, faces = cube()
    vertices, uvs, faces = torch.tensor(vertices).float(), torch.tensor(uvs).float(), torch.tensor(faces)
    return shared_share(vertices, uvs, faces, Texels.of(uvs, faces, size, rasterise))


def test_what_has_a_place_of_its_own_shares_none():
    assert shared(cube()[1]) == 0
    assert shared(cube()[1], 12) == 0  # few texels, but its own


def test_sides_that_lie_on_each_other():
    _, uvs, _ = cube()
    stacked = uvs.copy()
    stacked[4:8] = uvs[:4]
    assert shared(stacked) == pytest.approx(1 / 6, abs=1e-6)  # one of the two shows the other


def test_sides_in_one_dot():
    """Two of six sides: their area in the texture is too small to be seen in its whole."""
    _, uvs, _ = cube()
    dots = uvs.copy()
    dots[:8] = uvs[0] + (uvs[:8] - uvs[:8].mean(0)) * 1e-3
    found = shared(dots)
    assert found >= 1 / 6
    corners = np.asarray(dots)[np.asarray(cube()[2])]
    one, two = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = np.abs(one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]).sum() / 2
    face, _ = rasterise(torch.tensor(dots).float(), torch.tensor(cube()[2]), 64)
    assert area < 1.05 * float((face >= 0).float().mean()) + 1e-3  # by areas nothing overlaps
    assert sharing_line(found, "side").startswith("The UVs of side overlap: ")
