"""The picture side, good and bad."""

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import ImageError
from pipeline.image import has_transparency, prepare, read_mask, read_picture, rembg_remover, to_pixels


@pytest.fixture
def save(tmp_path):
    def write(image, name="picture.png", **options):
        image.save(tmp_path / name, **options)
        return tmp_path / name

    return write


def cut_out(size=(60, 40), box=(10, 5, 30, 35), colour=(200, 100, 50)):
    image = Image.new("RGBA", size)
    image.paste((*colour, 255), box)
    return image


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


def test_a_large_picture_is_reduced():
    assert prepare(cut_out((4096, 2048), (0, 8, 4096, 2048))).size == (1022, 1022)


def test_alpha_that_says_nothing_is_no_cut_out():
    opaque = Image.new("RGBA", (20, 20), (9, 9, 9, 255))
    assert not has_transparency(opaque)
    with pytest.raises(ImageError, match=r"no transparent background.*pip install 'rembg\[cpu\]'"):
        prepare(opaque)


def test_alpha_goes_before_mask_before_background_removal():
    def remove(image):
        assert image.mode == "RGB"
        image.putalpha(Image.new("L", image.size, 255))
        return image

    mask = Image.new("L", (60, 40))
    mask.paste(255, (0, 0, 20, 20))
    assert prepare(cut_out(), mask, remove).size == (28, 28)
    assert prepare(cut_out().convert("RGB"), mask, remove).size == (18, 18)
    assert prepare(cut_out().convert("RGB"), None, remove).size == (58, 58)


def test_masks(save):
    image = cut_out().convert("RGB")
    mask = Image.new("L", image.size)
    mask.paste(255, (10, 5, 30, 35))
    assert np.array_equal(np.asarray(read_mask(save(mask), image)), np.asarray(mask))
    assert np.array_equal(np.asarray(read_mask(save(cut_out()), image)), np.asarray(mask))  # its alpha
    with pytest.raises(ImageError, match="mask is 8 x 8 pixels, the picture 60 x 40"):
        read_mask(save(Image.new("L", (8, 8))), image)


@pytest.mark.parametrize("mode", ["P", "LA", "1", "L", "RGB", "CMYK", "YCbCr"])
def test_modes_become_rgb(save, mode):
    suffix = {"CMYK": "tif", "YCbCr": "jpg"}.get(mode, "png")
    found = read_picture(save(cut_out().convert(mode), f"picture.{suffix}"))
    assert found.mode == ("RGBA" if mode in ("P", "LA") else "RGB")
    if mode in ("RGB", "CMYK"):
        assert found.getpixel((20, 20)) == (200, 100, 50)


def test_palette_transparency_is_used(save):
    image = cut_out().convert("RGB").quantize(4)
    path = save(image, transparency=image.getpixel((0, 0)))
    assert has_transparency(read_picture(path)) and prepare(read_picture(path)).size == (28, 28)


@pytest.mark.parametrize(("top", "dtype"), [(65535, np.uint16), (65535, np.int32), (1.0, np.float32)])
def test_deep_pictures_are_scaled_not_clipped(save, top, dtype):
    ramp = np.tile(np.linspace(0, top, 256).astype(dtype), (4, 1))
    found = np.asarray(read_picture(save(Image.fromarray(ramp), "ramp.tif")))
    assert np.abs(found[0, :, 0].astype(int) - np.arange(256)).max() <= 1


def test_the_exif_orientation_is_applied(save):
    image = cut_out().convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    assert read_picture(save(image, exif=exif)).size == (40, 60)


def test_unusable_pictures(tmp_path, save):
    with pytest.raises(ImageError, match="There is no picture"):
        read_picture(tmp_path / "absent.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ImageError, match="cannot be read as a picture"):
        read_picture(tmp_path / "text.png")
    whole = save(Image.effect_noise((200, 200), 90)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match="cannot be read as a picture"):
        read_picture(tmp_path / "cut.png")
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    with pytest.raises(ImageError, match="animated"):
        read_picture(save(frames[0], "two.gif", save_all=True, append_images=frames[1:]))


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


def test_rembg_is_never_left_to_its_own_choice_of_weights(monkeypatch):
    """rembg's default weights are not free for commercial use, so a session is always named."""
    import sys
    import types

    used = {}
    fake = types.ModuleType("rembg")
    fake.new_session = lambda name: used.setdefault("model", name)
    fake.remove = lambda image, session: (used.setdefault("session", session), image)[1]
    monkeypatch.setitem(sys.modules, "rembg", fake)
    rembg_remover()(Image.new("RGB", (4, 4)))
    assert used == {"model": "birefnet-general-lite", "session": "birefnet-general-lite"}


@pytest.mark.parametrize("problem", [ImportError("no module"), SystemExit(1)])
def test_without_rembg_the_error_says_what_to_do(monkeypatch, problem):
    import builtins

    real = builtins.__import__

    def importing(name, *rest):
        if name == "rembg":
            raise problem
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", importing)
    with pytest.raises(ImageError, match=r"pip install 'rembg\[cpu\]', or give a mask"):
        rembg_remover()
