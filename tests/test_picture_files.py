"""Reading picture files, good, damaged and huge: modes, depths, profiles, orientation, bounds."""

import io
import logging
import os
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
from cut_outs import cut_out
from PIL import Image, ImageCms

from pipeline.errors import ImageError
from pipeline.image import has_transparency, prepare, read_picture
from pipeline.image.read import FORMATS, MAX_BYTES


@pytest.fixture
def save(tmp_path):
    def write(image, name="picture.png", **options):
        image.save(tmp_path / name, **options)
        return tmp_path / name

    return write


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


def orientation(*entries):
    """An EXIF block with these raw entries (tag, type, count, value)."""
    rows = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + rows + struct.pack("<I", 0)


@pytest.mark.parametrize(
    ("exif", "size"),
    [
        (orientation((0x0112, 3, 1, 6), (0x9286, 7, 2**31, 2**31), (0x8769, 4, 1, 2**31)), (40, 60)),
        (orientation((0x0112, 2, 2**30, 2**30)), (60, 40)),
        (orientation((0x0112, 3, 1, 99)), (60, 40)),
        (b"Exif\0\0II*\0\xff\xff\xff\xff", (60, 40)),
        (b"Exif\0\0nonsense", (60, 40)),
    ],
)
def test_damaged_exif_stops_no_photo(save, exif, size):
    assert read_picture(save(cut_out().convert("RGB"), "photo.jpg", exif=exif)).size == size


def test_unusable_pictures(tmp_path, save):
    with pytest.raises(ImageError, match=r"There is no picture .*absent\.png\.$"):
        read_picture(tmp_path / "absent.png")
    with pytest.raises(ImageError, match="there is no folder .*absent"):
        read_picture(tmp_path / "absent" / "x.png")
    (tmp_path / "link.png").symlink_to("gone.png")
    with pytest.raises(ImageError, match=r"There is no picture .*link\.png\.$"):
        read_picture(tmp_path / "link.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ImageError, match="cannot be read as a picture"):
        read_picture(tmp_path / "text.png")
    whole = save(Image.effect_noise((200, 200), 90)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match="cannot be read as a picture"):
        read_picture(tmp_path / "cut.png")
    with pytest.raises(ImageError, match="is a folder"):
        read_picture(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tif", "gif", "avif"])
def test_damaged_files_never_raise_anything_else(save, suffix):
    rng = np.random.default_rng(0)
    path = save(Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)), f"whole.{suffix}")
    whole, refused = path.read_bytes(), 0
    for _ in range(60):
        data = np.frombuffer(whole, np.uint8).copy()
        places = rng.integers(0, rng.choice([64, 400, len(data)]), 8) % len(data)
        data[places] = rng.integers(0, 256, len(places))
        path.write_bytes(data[: rng.integers(len(data) // 2, 2 * len(data))].tobytes())
        try:
            read_picture(path)
        except ImageError:
            refused += 1
    assert refused > 5


def test_a_frame_larger_than_its_picture_is_refused_as_too_large(save):
    path = save(Image.new("RGB", (60, 40)), "frame.gif")
    data = bytearray(path.read_bytes())
    frame = data.index(b",\0\0\0\0" + struct.pack("<HH", 60, 40))
    data[frame + 5 : frame + 9] = struct.pack("<HH", 60000, 60000)
    path.write_bytes(data)
    with pytest.raises(ImageError, match="too many pixels.*Reduce it"):
        read_picture(path)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "avif"])
def test_animations_are_refused_and_stills_are_not(save, suffix):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    with pytest.raises(ImageError, match="is animated"):
        read_picture(save(frames[0], f"two.{suffix}", save_all=True, append_images=frames[1:], duration=80))
    assert read_picture(save(frames[0], f"one.{suffix}")).size == (16, 16)


@pytest.mark.parametrize(("name", "kind"), [("phone.jpg", "MPO"), ("scan.tif", "TIFF")])
def test_of_several_pictures_that_do_not_move_the_first_is_taken(save, name, kind):
    photo, preview = Image.new("RGB", (80, 60), (200, 100, 50)), Image.new("RGB", (20, 15))
    found = read_picture(save(photo, name, format=kind, save_all=True, append_images=[preview]))
    assert found.size == (80, 60) and np.abs(np.asarray(found)[30, 40].astype(int) - (200, 100, 50)).max() <= 2


def test_pages_are_not_counted(tmp_path):
    """A TIFF whose pages point at each other has no last page to count to."""
    Image.new("L", (8, 8), 7).save(tmp_path / "loop.tif")
    data = bytearray((tmp_path / "loop.tif").read_bytes())
    first = struct.unpack("<I", data[4:8])[0]
    end = first + 2 + 12 * struct.unpack("<H", data[first : first + 2])[0]
    page = len(data)
    for number in range(20_000):  # pages without entries
        data += struct.pack("<HI", 0, page + 6 * (number + 1))
    data[end : end + 4] = struct.pack("<I", page)
    (tmp_path / "loop.tif").write_bytes(data)
    seen = []
    thread = threading.Thread(target=lambda: seen.append(read_picture(tmp_path / "loop.tif").size), daemon=True)
    thread.start()
    thread.join(5)
    assert seen == [(8, 8)]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    seen = []

    def read():
        with pytest.raises(ImageError, match="not a regular file"):
            read_picture(tmp_path / "pipe.png")
        seen.append(True)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(5)
    assert seen


@pytest.mark.parametrize(
    ("start", "found"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a PostScript file"),
        (b"8BPS\0\1", "a Photoshop file"),
        (b"version https://git-lfs.github.com/spec/v1", "a git-lfs pointer"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"P6 9 9 255 ", "something else"),
        (b"", "empty"),
    ],
)
def test_only_formats_on_the_list_are_opened(tmp_path, monkeypatch, start, found):
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("all of Pillow's plug-ins are tried"))
    (tmp_path / "x.png").write_bytes(start)
    with pytest.raises(ImageError, match=f"it is {found}.*Expected {FORMATS}"):
        read_picture(tmp_path / "x.png")


def test_reads_are_bounded(tmp_path, monkeypatch):
    with open(tmp_path / "sparse.png", "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(ImageError, match="1,073,741,825 bytes; at most 1,073,741,824 are read"):
        read_picture(tmp_path / "sparse.png")
    monkeypatch.setattr("pipeline.image.read.MAX_READS", 10_000)
    (tmp_path / "junk.jpg").write_bytes(b"\xff\xd8" + b"\xff" * 1_000_000)
    with pytest.raises(ImageError, match="has not ended after 10,000 blocks"):
        read_picture(tmp_path / "junk.jpg")


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth, colour, rows, *chunks):
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_very_large_picture_is_reduced_while_it_is_read(tmp_path, monkeypatch):
    """Neither with Pillow's warning of an attack nor with its refusal, whose limit is set far below the picture."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20_000)
    monkeypatch.setattr("pipeline.image.read.READ_SIDE", 150)
    monkeypatch.setattr("pipeline.image.read._STRIP", 10_000)
    rows = b"".join(b"\0" + (b"\xff" if row < 150 else b"\x40") * 299 for row in range(299))
    (tmp_path / "large.png").write_bytes(png(299, 299, 8, 0, zlib.compress(rows)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_picture(tmp_path / "large.png")
    assert found.size == (150, 150)
    assert found.getpixel((9, 9)) == (255, 255, 255) and found.getpixel((9, 140)) == (64, 64, 64)


def test_a_picture_that_is_too_large_is_to_be_reduced(tmp_path):
    (tmp_path / "huge.png").write_bytes(png(60_000, 60_000, 8, 2, b""))
    with pytest.raises(ImageError, match="60000 x 60000 pixels; at most 268,435,456 are read. Reduce it"):
        read_picture(tmp_path / "huge.png")


def test_a_large_jpeg_is_reduced_by_its_decoder(save, monkeypatch):
    """With the bound lowered: the same picture in a quarter of the pixels, upright."""
    monkeypatch.setattr("pipeline.image.read.READ_SIDE", 100)
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("RGB", (640, 320), (200, 100, 50))
    image.paste((0, 0, 255), (0, 0, 320, 320))
    found = read_picture(save(image, "large.jpg", exif=exif, quality=95))
    assert found.size == (40, 80)
    assert np.abs(np.asarray(found, dtype=int)[[10, 70], 20] - [(0, 0, 255), (200, 100, 50)]).max() <= 3


def test_strips_reduce_like_the_whole(save, monkeypatch):
    image = Image.merge("RGBA", [Image.effect_noise((150, 110), 90) for _ in range(4)])
    path = save(image)
    monkeypatch.setattr("pipeline.image.read.READ_SIDE", 50)
    monkeypatch.setattr("pipeline.image.read._STRIP", 1500)
    assert np.array_equal(np.asarray(read_picture(path)), np.asarray(image.reduce(3)))


def wide_gamut():
    """A Display P3 profile: its primaries, sRGB's curve."""

    def fixed(*values):
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    primaries = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
    tags = {key: b"XYZ \0\0\0\0" + fixed(*xyz) for key, xyz in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries)}
    tags[b"wtpt"] = b"XYZ \0\0\0\0" + fixed(0.9642, 1, 0.8249)
    curve = b"para\0\0\0\0" + struct.pack(">HH", 3, 0) + fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    tags[b"desc"] = b"mluc\0\0\0\0" + struct.pack(">II4sII", 1, 12, b"enUS", 4, 28) + "P3".encode("utf-16-be")
    table, data = struct.pack(">I", len(tags)), b""
    for key, value in tags.items():
        table += key + struct.pack(">II", 132 + 12 * len(tags) + len(data), len(value))
        data += value
    size = 132 + 12 * len(tags) + len(data)
    head = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x04300000, b"mntr", b"RGB ", b"XYZ ") + bytes(12) + b"acsp"
    return (head + bytes(28) + fixed(0.9642, 1, 0.8249)).ljust(128, b"\0") + table + data


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colour_profiles_are_converted(save, mode):
    profile = wide_gamut()
    wide = ImageCms.profileToProfile(
        cut_out(colour=(255, 40, 30)).convert("RGB"), ImageCms.createProfile("sRGB"), io.BytesIO(profile)
    )
    assert wide.getpixel((20, 20)) == (234, 66, 49)
    wide = wide.quantize(16) if mode == "P" else wide.convert(mode)
    found = read_picture(save(wide, icc_profile=profile))
    assert found.mode == "RGB" if mode != "RGBA" else found.mode == "RGBA"
    assert np.abs(np.array(found.getpixel((20, 20))[:3]) - (255, 40, 30)).max() <= 2


@pytest.mark.parametrize(
    "profile",
    [ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), b"nonsense"],
    ids=["srgb", "damaged"],  # a profile holds the time at which it was made
)
def test_srgb_and_damaged_profiles_change_nothing(save, profile):
    image = Image.merge("RGB", [Image.effect_noise((64, 64), 90) for _ in range(3)])
    assert np.array_equal(np.asarray(read_picture(save(image, icc_profile=profile))), np.asarray(image))


@pytest.mark.parametrize(("colour", "key"), [(0, b"\0\7"), (2, b"\x12\x34" * 3)])
def test_16_bit_pictures_keep_their_transparent_colour(tmp_path, colour, key):
    values = np.full((40, 40, len(key) // 2), int.from_bytes(key[:2], "big"), ">u2")
    values[10:30, 8:20] = 40_000
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    (tmp_path / "deep.png").write_bytes(png(40, 40, 16, colour, zlib.compress(rows), chunk(b"tRNS", key)))
    found = read_picture(tmp_path / "deep.png")
    assert found.mode == "RGBA" and found.getpixel((0, 0))[3] == 0 and found.getpixel((10, 20)) == (156, 156, 156, 255)


def remarked(path):
    """A TIFF of 2048 samples a pixel instead of 3, on which Pillow's reader remarks in its log."""
    data = io.BytesIO()
    Image.new("RGB", (4, 4)).save(data, "TIFF")
    found = bytearray(data.getvalue())
    at = found.index(struct.pack("<HHI", 277, 3, 1)) + 8
    found[at : at + 2] = struct.pack("<H", 2048)
    path.write_bytes(found)
    return path


@pytest.fixture
def heard():
    """What reaches the log of Pillow's readers, beside the warnings of other threads."""

    class Heard(logging.Handler):
        def emit(self, record):
            texts.append(record.getMessage())

    texts, handler, logger = [], Heard(logging.DEBUG), logging.getLogger("PIL")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield texts
    logger.removeHandler(handler)
    logger.setLevel(before)


def test_remarks_of_pillow_on_damage_stay_beside_our_own_error(tmp_path, heard):
    """Our users see our error alone; what others read with Pillow in the same process is none of our business."""
    path = remarked(tmp_path / "a.tif")
    with pytest.raises(OSError):
        Image.open(path)
    assert any("More samples per pixel than can be decoded: 2048" in each for each in heard)
    heard.clear()
    with pytest.raises(ImageError, match="Invalid value for samples per pixel. Save it again"):
        read_picture(path)
    assert heard == []
    logging.getLogger("PIL.TiffImagePlugin").warning("another's")
    assert heard == ["another's"]
