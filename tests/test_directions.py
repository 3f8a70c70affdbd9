"""Which side of a generated object a picture shows: of objects with other proportions, from behind, and mirrored."""

from dataclasses import replace

import torch
from meshes import needs_warp
from painted import drawn, sheet

from pipeline.project import Fit, Painted, Picture
from pipeline.project.fit import _Matcher as Matcher
from pipeline.project.fit import _mirrored, _rank
from pipeline.views import PictureCamera, View


def fit(azimuth, iou, correlation, stretched=None):
    return Fit(PictureCamera(azimuth), iou, 0.1, correlation, stretched=stretched)


@needs_warp
def test_an_object_that_was_generated_too_deep_still_shows_its_side():
    """Its outline is the picture's once that is stretched, which the same outline elsewhere need not be."""
    one = sheet()
    deep = replace(one, vertices=one.vertices * torch.tensor([1, 1.5, 1]))
    picture = Picture.of(drawn(one, PictureCamera(90, 0, 30, 0.8), 128))
    own, other = (
        Matcher(Painted([each], torch.device("cpu")), picture, 64, 2).framed(View(90)) for each in (one, deep)
    )
    assert abs(own.shape - own.likeness) < 0.03  # half a pixel
    assert other.iou < 0.85 and other.shape > other.likeness + 0.08
    cut = Picture.of(drawn(one, PictureCamera(90, 0, 30, 1.6), 128))
    assert any(cut.cut_off)
    assert Matcher(Painted([deep], torch.device("cpu")), cut, 64, 2).framed(View(90)).stretched is None


def test_a_side_is_not_taken_for_a_front_whose_proportions_fit_by_chance():
    """A held-out house pictured from its side, and a rocket pictured from its front, each with its generated object."""
    house = fit(359, 0.857, 0.683, 1.069), fit(270, 0.739, 0.923, 1.171)
    rocket = fit(99, 0.917, 0.713, 1.113), fit(4, 0.901, 0.652, 1.069)
    for wrong, right in (house, rocket):
        assert _rank(None)(right) > _rank(None)(wrong)
        assert wrong.likeness > right.likeness  # by which it was decided


def test_a_picture_of_the_back_is_not_mirrored():
    """Its mirror image would do for the front, which is the likelier direction; a mirrored front is told."""
    assert _mirrored([fit(180, 0.93, 0.9)], [fit(12, 0.9, 0.88)], None) < 0
    assert _mirrored([fit(192, 0.9, 0.9)], [fit(12, 0.9, 0.91)], None) > 0.03
    assert _mirrored([fit(0, 0.9, 0.9)], [fit(0, 0.8, 0.5)], View(0)) < -0.1
