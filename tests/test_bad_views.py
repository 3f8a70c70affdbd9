"""Pictures of views that do not belong together are told in words, and good ones raise no alarm.

Nodes and the service: test_bad_views_elsewhere.
"""

import io
import logging

import numpy as np
import pytest
from meshes import needs_warp
from PIL import Image
from sides import NUMBERS, SIDES, before, lit, mirrored, renders, rough

from pipeline.errors import ImageError
from pipeline.image import background_remover, cut_out, on_black
from pipeline.project import photo
from pipeline.views import View, posed, unposed

pytestmark = needs_warp


@pytest.fixture
def cuts():
    return {name: [cut_out(picture) for picture in pictures] for name, pictures in renders().items()}


def stored_again(picture):
    """A little smaller and as a JPEG, with the same alpha."""
    size = (int(picture.width * 0.9),) * 2
    file = io.BytesIO()
    on_black(picture).resize(size).save(file, "JPEG", quality=90)
    again = Image.open(file).convert("RGB")
    again.putalpha(picture.getchannel("A").resize(size))
    return again


@pytest.mark.parametrize("name", NUMBERS)
def test_good_sets_raise_no_alarm(cuts, name, caplog):
    """Round and mirror-symmetric objects among them: rings look alike from all sides, a chair's right is its left's
    mirror image."""
    for sides in ((0, 1, 2, 3), (0, 1), (0, 2)):
        found = posed([cuts[name][side] for side in sides], [SIDES[side] for side in sides])
        assert found.remarks == (), sides
    assert unposed(cuts[name]).remarks == () and not caplog.records


def test_one_picture_twice(cuts):
    rings, teapot = cuts["rings"][0], cuts["teapot"]
    assert posed([rings, rings], SIDES[:2]).remarks == ("front and left are the same picture",)
    found = posed([rings] * 4, SIDES).remarks  # a line, not one for each of six pairs
    assert found == ("front, left, back and right are the same picture",)
    again = cut_out(stored_again(renders()["teapot"][0]))  # which is not its own mirror image
    assert "front and back are the same picture" in posed([teapot[0], teapot[1], again], SIDES[:3]).remarks
    assert unposed([teapot[0], again]).remarks == ("picture 1 and picture 2 are the same picture",)


def test_a_mirrored_view(cuts):
    hammer, chair = cuts["hammer"], cuts["chair"]
    assert "left is front mirrored" in posed([hammer[0], mirrored(hammer[0])], SIDES[:2]).remarks
    wrong = posed([hammer[0], hammer[1], mirrored(hammer[2])], SIDES[:3]).remarks
    assert any("front and back" in remark and ("mirror" in remark or "same" in remark) for remark in wrong)
    wrong = posed([*chair[:3], mirrored(chair[3])], SIDES).remarks
    assert any("left and right" in remark for remark in wrong)


@pytest.mark.parametrize(("name", "other"), [("chair", "teapot"), ("rings", "car"), ("teapot", "car")])
def test_another_object(cuts, name, other):
    mine, wrong = cuts[name], cuts[other]
    for sides in ([mine[0], wrong[1], mine[2]], [mine[0], mine[1], wrong[2]]):
        remarks = posed(sides, SIDES[:3]).remarks
        assert any("differ" in remark for remark in remarks), sides
    assert any("differ" in remark for remark in unposed([mine[0], wrong[0]]).remarks)


@pytest.mark.parametrize("name", ["rings", "car", "chair"])
@pytest.mark.parametrize(
    "gain",
    [(0.15, 0.15, 0.15), (0.5, 0.5, 0.5), (4, 4, 4), (1, 0.35, 0.05), (1, 0.6, 0.3)],
    ids=["dim", "half", "bright", "warm", "lamp"],
)
def test_another_light(cuts, name, gain):
    mine = cuts[name]
    remarks = posed([mine[0], lit(mine[1], gain), mine[2]], SIDES[:3]).remarks
    [remark] = remarks  # a strong tint may be another paint, too
    assert remark.startswith("left and front, back differ in ") and "different lights" in remark
    assert "brightness or tint" in remark or gain == (1, 0.35, 0.05)


def test_a_side_that_shows_few_of_the_colours_is_no_other_object():
    """A hammer from its end: metal alone, and shaded; then in a paint that the other sides do not have."""

    def disc(*bands):
        rows, columns = np.indices((96, 96)) - 47.5
        values = np.zeros((96, 96, 4), np.uint8)
        values[..., 3] = 255 * (np.hypot(rows, columns) < 40)
        for number, band in enumerate(bands):
            values[number * 96 // len(bands) :, :, :3] = band
        return Image.fromarray(values)

    metal, wood = (170, 175, 180), (150, 90, 40)
    side = disc(wood, wood, wood, metal)
    assert posed([side, disc((130, 134, 138))], SIDES[:2]).remarks == ()
    assert any("differ" in remark for remark in posed([side, disc((40, 160, 60))], SIDES[:2]).remarks)


def test_a_mask_of_another_view(caplog):
    """Which only a plain background can tell."""
    hammer = renders()["hammer"]
    masks = [each.getchannel("A") for each in hammer]
    for ground in (rough(), np.full((160, 160, 3), (200.0, 205, 210))):
        pictures = [before(each, ground) for each in hammer]
        for picture, mask in zip(pictures, masks):
            assert cut_out(picture, mask).info["remarks"] == () and not caplog.records
    half = np.array(masks[0]) > 127  # a part of the object, and a little of the background
    half[:, np.nonzero(half.any(0))[0].mean().astype(int) :] = False
    side = round((0.026 * half.sum()) ** 0.5)
    half[2 : 2 + side, -2 - side : -2] = True
    assert cut_out(pictures[0], Image.fromarray(half)).info["remarks"]
    wrong = posed([cut_out(pictures[0], masks[1]), cut_out(pictures[1], masks[0])], SIDES[:2]).remarks
    assert [remark for remark in wrong if remark.startswith("front: the mask does not fit")]
    assert [remark for remark in wrong if remark.startswith("left: the mask does not fit")]
    assert "The mask does not fit the picture" in caplog.text
    assert photo(pictures[0], masks[0], name="front").remarks == ()
    [remark] = photo(pictures[0], masks[1], name="front").remarks
    assert remark.startswith("front: the mask does not fit the picture")


def test_many_views(cuts, caplog):
    caplog.set_level(logging.WARNING)
    views = [View(40 * number, 10) for number in range(9)]
    turned = [cuts["rings"][0].resize((48, 48)).rotate(number) for number in range(9)]
    assert any(remark.startswith("9 views: ") for remark in posed(turned, views).remarks)
    assert "9 views" in caplog.text


def test_a_photograph_with_its_background_is_refused():
    with pytest.raises(ImageError, match="background is not plain"):
        cut_out(before(renders()["car"][0], rough()), None, background_remover("plain"))


def test_what_is_wrong_with_one_picture_is_told(caplog):
    car = renders()["car"][0]
    low, high = Image.new("RGBA", (160, 160)), Image.new("RGBA", (320, 160))
    low.paste(car.resize((100, 100)), (30, 90))
    assert "touches the picture's bottom" in cut_out(low).info["remarks"][0]
    high.paste(car, (0, 0))
    high.paste(car, (160, 0))
    assert "2 separate pieces" in cut_out(high).info["remarks"][0]
    assert "may be cut off" in caplog.text and "a run of its own" in caplog.text
