"""Pictures made ready for the encoder: cut-outs, masks, crops, pixels."""

import numpy as np
import pytest
from cut_outs import cut_out
from PIL import Image, ImageDraw

from pipeline.errors import ImageError
from pipeline.image import has_transparency, prepare, read_picture, to_pixels


def test_golden_preparation(picture):
    found = prepare(read_picture(picture))
    with Image.open(picture.with_name("image_preprocessed.png")) as expected:
        assert found.mode == "RGB" and np.array_equal(np.asarray(found), np.asarray(expected))


def test_the_square_round_the_object():
    found = prepare(cut_out())
    assert found.size == (28, 28)  # the reference leaves out the last row: 29 // 2 * 2
    pixels = np.asarray(found)
    assert (pixels[:, 4:23] == (200, 100, 50)).all() and (pixels[:, 0] == 0).all()


def test_half_transparent_pixels_darken_towards_black():
    image = cut_out()
    image.paste((200, 100, 50, 128), (12, 20, 28, 25))
    assert np.asarray(prepare(image))[16, 14].tolist() == [100, 50, 25]


def test_a_large_picture_is_cropped_and_reduced():
    large = cut_out((4096, 1024), (0, 400, 4096, 1024))
    assert prepare(large).size == (1024, 1024)
    assert prepare(large, reduce_first=True).size == (1022, 1022)  # the reference's order


def test_a_small_object_in_a_large_picture_keeps_its_pixels():
    image = Image.new("RGBA", (2400, 1200))
    image.alpha_composite(Image.effect_noise((120, 120), 90).convert("RGBA"), (2200, 100))
    assert np.array_equal(np.asarray(prepare(image)), np.asarray(image.crop((2200, 100, 2318, 218)).convert("RGB")))
    assert prepare(image, reduce_first=True).size == (50, 50)
    photo = Image.new("RGB", image.size, (90, 160, 70))
    photo.paste(image.crop((2200, 100, 2320, 220)).convert("RGB").point(lambda v: v // 2 + 128), (2200, 100))
    assert abs(prepare(photo).width - 120) <= 4  # found in the reduced picture, cut out from the full one
    assert prepare(photo, reduce_first=True).width < 56


def test_the_reference_order_is_the_same_up_to_1024_pixels(picture):
    image = read_picture(picture)
    assert np.array_equal(np.asarray(prepare(image)), np.asarray(prepare(image, reduce_first=True)))


def test_alpha_that_says_nothing_is_no_cut_out():
    opaque = Image.new("RGBA", (20, 20), (9, 9, 9, 255))
    assert not has_transparency(opaque)
    with pytest.raises(ImageError, match=r"no transparent background.*pip install 'rembg\[cpu\]'"):
        prepare(opaque)


def round_corners(size):
    alpha = Image.new("L", size)
    ImageDraw.Draw(alpha).rounded_rectangle((0, 0, size[0] - 1, size[1] - 1), size[0] // 8, fill=255)
    return alpha


def one_pixel(size):
    alpha = Image.new("L", size, 255)
    alpha.putpixel((0, 0), 254)
    return alpha


@pytest.mark.parametrize("alpha", [round_corners, one_pixel])
def test_alpha_that_leaves_nearly_everything_is_no_cut_out(alpha, caplog):
    photo = Image.new("RGBA", (160, 120), (230, 230, 235, 255))
    photo.alpha_composite(cut_out((160, 120), (50, 30, 110, 90)))
    photo.putalpha(alpha(photo.size))
    assert not has_transparency(photo)
    assert abs(prepare(photo).width - 58) <= 2  # the object before its plain background, not the photo's 118 or 158
    assert "alpha leaves nearly everything" in caplog.text


def test_alpha_of_an_object_that_fills_the_picture_is_a_cut_out():
    assert has_transparency(cut_out((200, 200), (1, 1, 199, 199)))  # 98 %, but with a transparent border
    bust = cut_out((100, 100), (10, 10, 90, 100))  # cut off below
    assert has_transparency(bust) and prepare(bust).size == (88, 88)


def test_mask_goes_before_alpha_before_background_removal():
    def remove(image):
        assert image.mode == "RGB"
        image.putalpha(Image.new("L", image.size, 255))
        return image

    mask = Image.new("L", (60, 40))
    mask.paste(255, (0, 0, 20, 20))
    assert prepare(cut_out(), mask, remove).size == (18, 18)
    assert prepare(cut_out(), None, remove).size == (28, 28)
    assert prepare(cut_out().convert("RGB"), None, remove).size == (58, 58)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("RGBA", (30, 30)), "The picture is empty"),
        (Image.new("RGBA", (30, 30), (255, 0, 0, 200)), "The picture is empty"),
        (cut_out(box=(7, 7, 8, 8)), "only 1 x 1 pixels"),
        (Image.new("RGBA", (1, 1), (255, 0, 0, 0)), "The picture is empty"),
    ],
)
def test_pictures_without_an_object(image, message):
    with pytest.raises(ImageError, match=message):
        prepare(image)


def test_pixels_for_the_encoder():
    pixels = to_pixels([Image.new("RGB", (8, 8), (255, 0, 128)), Image.new("RGB", (5, 5))], 32)
    assert pixels.shape == (2, 3, 32, 32)
    expected = [(1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (128 / 255 - 0.406) / 0.225]
    assert pixels[0, :, 16, 16].tolist() == pytest.approx(expected, abs=1e-5)
