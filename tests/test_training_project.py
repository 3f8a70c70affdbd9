"""What the training room measures of projected pictures: the comparison, the true object as a sheet, the verdicts."""

import math

import numpy as np
import pytest
import torch

from pipeline.project import Painted
from pipeline.views import PictureCamera
from training.evaluation import project
from training.evaluation.evaluate import Solid
from training.evaluation.symmetry import told_angle


def test_the_true_object_keeps_its_colours():
    corners = torch.tensor([[-0.4, 0.0, -0.4], [0.4, 0, -0.4], [0.4, 0, 0.4], [-0.4, 0, 0.4]])
    faces = torch.tensor([[0, 1, 2], [2, 3, 0]], dtype=torch.int32)
    pbr = torch.tensor([[1.0, 0, 0, 0, 0.5, 1], [0, 0, 0, 0, 0.5, 1], [0, 0, 1, 0, 0.5, 1], [0, 0, 0, 0, 0.5, 1]])
    sheet = project.true_sheet(Solid(corners, faces, pbr))
    seen = Painted([sheet], torch.device("cpu")).seen(PictureCamera(0, 0, 0, 1.0), 16)
    assert seen.colour[11, 11].tolist() == [1, 0, 0] and seen.colour[4, 4].tolist() == [0, 0, 1]


def test_a_part_in_another_parts_colour_counts():
    """A square whose truth is red, and one of another shape, half in blue."""
    corners = torch.tensor([[-0.4, 0.0, -0.4], [0.4, 0, -0.4], [0.4, 0, 0.4], [-0.4, 0, 0.4]])
    faces = torch.tensor([[0, 1, 2], [2, 3, 0]], dtype=torch.int32)
    red, half = torch.tensor([[1.0, 0, 0, 0, 0.5, 1]]).repeat(4, 1), torch.tensor([[1.0, 0, 0, 0, 0.5, 1]]).repeat(4, 1)
    half[2] = torch.tensor([0.0, 0, 1, 0, 0.5, 1])
    truth, camera = Solid(corners, faces, red), PictureCamera(0, 0, 0, 1.0)
    for pbr, error in ((red, 0), (half, 1 / 3)):  # two of three channels, on one of two triangles
        made = Painted([project.true_sheet(Solid(corners * 1.1, faces, pbr))], torch.device("cpu"))
        assert project.surface_error(made, camera, truth) == pytest.approx(error, abs=0.01)


def test_pictures_are_compared_where_both_show_something():
    one = np.zeros((20, 20, 4), np.float32)
    one[4:16, :, 3] = 1
    other = one.copy()
    other[:, :, :3] = 0.1
    other[4:7] += 0.5  # too near to an outline to count
    assert project.psnr(one, other) == pytest.approx(20, abs=1e-3)
    assert math.isnan(project.psnr(one, np.zeros_like(one)))


def test_the_table_tells_what_was_reached():
    good = dict.fromkeys(("before", "lit", "lit_picture", "lit_removed"), 0.1)
    good |= {"unlit": 0.02, "ratio": 0.2, "lit_ratio": 1.0, "checker": 30.0, "text": 29.0}
    good |= {"angle": 1.0, "angle_told": 1.0, "angle_made": 5.0, "iou_made": 0.9}
    good |= {"surface": 0.06, "fitted": 0.02}
    rows = [project.Row(k, "car", project.Measures(**good), ()) for k in range(9)]
    rows.append(project.Row(9, "mug", project.Measures(**{**good, "angle": 90.0}), ()))
    table = "\n".join(project.summary(rows))
    assert (
        "| ratio | 0.2 | <= 0.5 | pass |" in table
        and "| lit_ratio | 1 | <= 1 | pass |" in table
        and "| 90% | >= 90% | pass |" in table
    )
    assert table.count("cameras within 3 degrees") == 2 and "shows the same | 100% |" in table
    poor = [project.Row(0, "car", project.Measures(**{**good, "checker": 20.0, "angle": 4.0}), ())]
    assert "\n".join(project.summary(poor)).count("MISS") == 2


def test_a_direction_that_shows_the_same_is_not_wrong():
    """A square tower has four sides that look alike, with a coloured side it has one; of a round one only the height
    can be told."""
    camera = PictureCamera(20, 10, 30, 0.6)

    def tower(corners, colours):
        turn = torch.arange(corners) * (2 * math.pi / corners)
        flat = 0.3 * torch.stack([turn.cos(), turn.sin()], 1)
        low, high = (torch.cat([flat, torch.full((corners, 1), z)], 1) for z in (-0.4, 0.4))
        n = torch.arange(corners)
        m = (n + 1) % corners
        faces = torch.cat([torch.stack([n, m, m + corners], 1), torch.stack([n, m + corners, n + corners], 1)])
        pbr = torch.full((2 * corners, 6), 0.5)
        pbr[: len(colours), :3] = torch.tensor(colours)
        solid = Solid(torch.cat([low, high]), faces.int(), pbr)
        return Painted([project.true_sheet(solid)], torch.device("cpu"))

    def told(painted, azimuth, elevation=11.0):
        return told_angle(painted, camera, PictureCamera(azimuth, elevation, 30, 0.6))

    square, marked, round_ = tower(4, [[0.5] * 3]), tower(4, [[1.0, 0, 0]]), tower(360, [[0.5] * 3])
    assert told(square, 111) < 2 and told(square, 65) > 40
    assert told(marked, 21) < 2 and told(marked, 111) > 80
    assert told(round_, 77) == pytest.approx(1)
