"""Masks: their size, which side of them is the object, and what ComfyUI's masks come to."""

from importlib import import_module

import numpy as np
import pytest
import torch
from host_stub import PACK, stubbed_nodes
from PIL import Image, ImageDraw

from pipeline.image import cut_out, has_transparency, prepare, read_mask, white_is_background

SIZE = (120, 90)


def drawn(*boxes, size=SIZE, shape="ellipse"):
    """White shapes on black."""
    mask = Image.new("L", size)
    for box in boxes:
        getattr(ImageDraw.Draw(mask), shape)(box, fill=255)
    return mask


def inverted(mask):
    return mask.point(lambda level: 255 - level)


def photo(size=SIZE):
    return Image.merge("RGB", [Image.effect_noise(size, 60) for _ in range(3)])


def test_mask_files(tmp_path):
    mask, image = drawn((20, 20, 80, 70)), photo()
    mask.save(tmp_path / "mask.png")
    assert np.array_equal(np.asarray(read_mask(tmp_path / "mask.png", image)), np.asarray(mask))
    cut = image.copy()
    cut.putalpha(mask)
    cut.save(tmp_path / "cut.png")  # its alpha
    assert np.array_equal(np.asarray(read_mask(tmp_path / "cut.png", image)), np.asarray(mask))


def test_a_mask_of_another_size_is_resized(tmp_path, caplog):
    image, mask = photo((240, 180)), drawn((20, 20, 80, 70))
    mask.save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png", image).size == image.size
    assert abs(prepare(image, mask).width - 2 * prepare(photo(), mask).width) <= 3 and not caplog.text
    square = mask.resize((64, 64))  # as a model with a size of its own gives it
    assert abs(prepare(image, square).width - prepare(image, mask).width) <= 4
    assert "64 x 64 pixels, the picture 240 x 180: it is stretched" in caplog.text


def test_a_mask_the_wrong_way_round_is_mentioned(caplog):
    cut_out(photo(), drawn((20, 20, 80, 70)))
    assert not caplog.text
    cut_out(photo(), inverted(drawn((20, 20, 80, 70))))
    assert "most of the picture's border as object" in caplog.text


OBJECTS = {
    "small": (drawn((50, 40, 60, 50)), photo()),
    "in the middle": (drawn((20, 20, 80, 70)), photo()),
    "touching every side": (drawn((0, 0, 119, 89)), photo()),
    "cut off below": (drawn((20, 10, 100, 60), (0, 60, 119, 150)), photo()),
    "in a corner": (drawn((0, 0, 60, 45)), photo()),
    "filling two corners": (drawn((-80, -40, 60, 130)), photo()),
    "soft": (drawn((20, 20, 80, 70)).resize((12, 9)).resize(SIZE), photo()),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_corners_and_border_are_background(name):
    mask, image = OBJECTS[name]
    assert not white_is_background([mask], [image])
    assert white_is_background([inverted(mask)], [image])


def test_one_colour_decides_where_half_the_border_is_object():
    """What a file has under transparent pixels is one colour, most often."""
    mask, image = drawn((0, 0, 59, 89), shape="rectangle"), photo()
    image.paste((0, 0, 0), mask=mask)
    assert white_is_background([mask], [image]) and not white_is_background([inverted(mask)], [image])


def test_masks_of_a_batch_are_decided_together():
    close, far = drawn((-40, -40, 160, 130)), drawn((50, 40, 70, 60))  # by itself the first has all corners
    assert white_is_background([close], [photo()])
    assert not white_is_background([close, far, far], [photo()] * 3)


@pytest.fixture(scope="module")
def masks_to_pil():
    """As ComfyUI calls it: MASK tensors, 1 to 3 pictures."""
    stubbed_nodes()
    convert = import_module(f"{PACK}.nodes.host.pictures").masks_to_pil

    def call(mask, marks="automatic", images=None):
        stack = torch.stack([torch.from_numpy(np.asarray(each, dtype=np.float32) / 255) for each in mask])
        return convert(stack, images or [photo()], marks)

    return call


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("size", [SIZE, (64, 64)])
def test_either_side_of_a_mask_may_be_the_object(masks_to_pil, name, size):
    """Load Image marks the background, Remove Background and segmentation nodes the object."""
    mask, image = OBJECTS[name]
    mask = mask.resize(size)
    for given in (mask, inverted(mask)):
        (found,) = masks_to_pil([given], images=[image])
        assert found.size == image.size
        assert np.abs(np.asarray(found, dtype=int) - np.asarray(mask.resize(SIZE, 2), dtype=int)).max() <= 2


def test_an_explicit_choice_is_kept(masks_to_pil):
    mask = drawn((20, 20, 80, 70))
    assert np.array_equal(np.asarray(masks_to_pil([mask], "object")[0]), np.asarray(mask))
    assert np.array_equal(np.asarray(masks_to_pil([mask], "background")[0]), np.asarray(inverted(mask)))


def round_corners():
    mask = Image.new("L", SIZE, 255)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, 119, 89), 16, fill=0)
    return mask


def one_faint_pixel():
    mask = Image.new("L", SIZE)
    mask.putpixel((0, 0), 1)
    return mask


@pytest.mark.parametrize("marks", ["automatic", "background"])
@pytest.mark.parametrize("mask", [round_corners(), one_faint_pixel(), Image.new("L", (64, 64))])
def test_a_mask_of_load_image_that_leaves_nearly_everything_is_none(masks_to_pil, mask, marks, caplog):
    """What Load Image makes of opaque pictures, screenshots and of alpha 254."""
    assert masks_to_pil([mask], marks) == [None]
    assert ("leaves nearly the whole picture" in caplog.text) == bool(mask.getextrema()[1])
    alpha = photo()
    alpha.putalpha(inverted(mask).resize(SIZE))
    assert not has_transparency(alpha)


def test_masks_that_cannot_be(masks_to_pil):
    errors = import_module(f"{PACK}.pipeline.errors")
    with pytest.raises(errors.ImageError, match="The mask is empty: it marks no object"):
        masks_to_pil([Image.new("L", SIZE)], "object")
    with pytest.raises(errors.ImageError, match="3 images need 1 or 3 masks"):
        masks_to_pil([drawn((20, 20, 80, 70))] * 2, images=[photo()] * 3)
