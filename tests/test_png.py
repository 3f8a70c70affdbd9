"""The PNG files of textures: what other readers find in them, and the same bytes on any number of cores."""

import io
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import OutputError
from pipeline.export import png
from pipeline.export.formats import Contents
from pipeline.export.images import decoded_size
from pipeline.export.scene import Geometry, Scene
from pipeline.export.writers import WRITERS, check_files
from pipeline.mesh.used import used_vertices

SHAPES = [(1, 1), (5, 7), (2, 3, 4), (77, 9, 2), (40, 40, 1), (300, 1001, 3), (700, 257, 4)]


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def texture(side=512):
    """Charts of smooth colours with a little noise and sharp borders, as baking gives."""
    y, x = np.mgrid[:side, :side] / side
    waves = np.stack([np.sin(9 * x + 3 * y), np.cos(7 * y - 2 * x), np.sin(5 * x * y)], 2)
    charts = ((x * 8).astype(int) * 3 + (y * 8).astype(int) * 5) % 7
    random = np.random.default_rng(1).normal(0, 1, waves.shape)
    return (128 + 70 * waves + 8 * charts[..., None] + random).clip(0, 255).astype(np.uint8)


def chunks(data):
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    at, found = 8, []
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", data, at + 8 + length)[0] == zlib.crc32(kind + body)
        found.append((kind, body))
        at += 12 + length
    return found


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_pillow_reads_the_same_pixels(shape, monkeypatch):
    monkeypatch.setattr(png, "_STRIP", 1 << 14)  # so that there are several
    picture = noise(*shape)
    with Image.open(io.BytesIO(png.encode_pngs({"a": picture})["a"])) as image:
        assert image.mode == {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[shape[2] if len(shape) == 3 else 1]
        assert np.array_equal(np.asarray(image).reshape(shape), picture)


@pytest.mark.parametrize(
    "picture",
    [
        np.full((4, 4, 3), 0.5, np.float32),
        np.full((4, 4), 300, np.uint16),
        noise(4, 4, 5),
        noise(4, 4, 3)[None],
        np.zeros((0, 4, 3), np.uint8),
    ],
    ids=lambda each: f"{each.dtype}{each.shape}",
)
def test_what_is_no_such_picture_is_refused(picture):
    """Values above 255 or below 1 were cast to another picture."""
    with pytest.raises(ValueError, match=r"The picture a is .*; expected \[H, W\] or"):
        png.encode_pngs({"a": picture})


def test_it_is_one_zlib_stream_with_its_checksum(monkeypatch):
    """Strips are compressed on their own; zlib compares the Adler-32 of all of them."""
    monkeypatch.setattr(png, "_STRIP", 1 << 14)
    picture = noise(300, 200, 3)
    (head, _), (body, data), (end, _) = chunks(png.encode_pngs({"a": picture})["a"])
    assert (head, body, end) == (b"IHDR", b"IDAT", b"IEND")
    rows = np.frombuffer(zlib.decompress(data), np.uint8).reshape(300, 601)
    assert (rows[:, 0] == 4).all()
    with pytest.raises(zlib.error, match="data check"):
        zlib.decompress(data[:-1] + bytes([data[-1] ^ 1]))


def test_views_of_other_arrays():
    maps = noise(90, 70, 6)
    pictures = {"colour": maps[:, :, :3], "alpha": maps[:, :, 5], "turned": maps[::-1, ::2, :4]}
    for name, data in png.encode_pngs(pictures).items():
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), pictures[name])


def test_the_same_bytes_on_any_number_of_cores(monkeypatch):
    picture, found = texture(), set()
    for cores in (1, 2, 7):
        monkeypatch.setattr(png, "cores", lambda cores=cores: cores)
        found.add(png.encode_pngs({"a": picture, "b": picture[:100]})["a"])
    assert len(found) == 1


def gradient(side=512):
    """Charts of even slopes, in which much comes again."""
    y, x = np.mgrid[:side, :side]
    chart = (x // 64) * 3 + (y // 64) * 5
    slopes = np.random.default_rng(2).uniform(-0.4, 0.4, (2, 3, int(chart.max()) + 1))
    across, down = (each[:, chart].transpose(1, 2, 0) for each in slopes)
    return (128 + across * (x % 64)[..., None] + down * (y % 64)[..., None]).astype(np.uint8)


@pytest.mark.parametrize(("made", "share"), [(texture, 0.98), (gradient, 1.02)])
def test_hardly_ever_larger_than_pillow_makes_it(made, share):
    """Level 4, with which textures were written before. Either way alone is 2 % or 21 % larger on one of the two."""
    picture, buffer = made(), io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=4)
    assert len(png.encode_pngs({"a": picture})["a"]) < share * buffer.tell()


def test_used_vertices_keep_their_order():
    points = np.arange(12, dtype=np.float32).reshape(4, 3)
    assert used_vertices(points, np.array([[3, 0, 3], [0, 3, 2]])).tolist() == points[[0, 2, 3]].tolist()
    assert used_vertices(points, np.zeros((0, 3), int)).shape == (0, 3)


def test_a_damaged_picture_is_found_beside_others():
    """Pictures are read back at the same time as the mesh is compared."""
    corners, faces = np.eye(3, dtype=np.float32), np.array([[0, 1, 2]])
    scene = Scene((Geometry(corners, faces, corners),))
    files = png.encode_pngs({name: texture(64) for name in "abc"})
    damaged = bytearray(files["b"])
    damaged[-40] ^= 1  # in the data, or what follows it

    pictures = {**files, "b": bytes(damaged)}
    for vertices, problem in ((corners, "picture b does not decode"), (corners + 1, "reaches from")):
        found = Contents([(vertices, faces)], pictures)
        with pytest.raises(OutputError, match=problem):
            check_files(replace(WRITERS[".glb"], read=lambda given, found=found: found), {"x.glb": b""}, scene)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (1030, 1021)])
def test_pictures_of_others_pass(mode, size):
    """Of fewer bits than a byte, of two bytes, with a palette, and of more than one piece to inflate."""
    buffer = io.BytesIO()
    Image.effect_noise(size, 60).convert("L").convert(mode).save(buffer, "PNG")
    assert decoded_size(buffer.getvalue()) == size


def _with_rows(data, change):
    """The PNG with other rows, and right checksums."""
    rows = bytearray(zlib.decompress(b"".join(body for kind, body in chunks(data) if kind == b"IDAT")))
    return data[:33] + png._chunk(b"IDAT", zlib.compress(bytes(change(rows)))) + data[-12:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:-1], "in place of"),
        (lambda rows: rows + b"\0", "more than its 110 bytes"),
        (lambda rows: rows[:22] + b"\x09" + rows[23:], "filter that PNG lacks"),
    ],
)
def test_rows_that_no_decoder_takes_are_found(change, message):
    data = png.encode_pngs({"x": noise(5, 7, 3)})["x"]
    assert decoded_size(_with_rows(data, lambda rows: rows)) == (7, 5)
    with pytest.raises(ValueError, match=message):
        decoded_size(_with_rows(data, change))
    chunk = next(body for kind, body in chunks(data) if kind == b"IDAT")
    cut = data[:33] + png._chunk(b"IDAT", chunk[:-6]) + data[-12:]
    with pytest.raises(ValueError, match="no end"):
        decoded_size(cut)


def _png(width, height, *between, interlaced=0):
    """An RGB PNG of these chunks between its header and its end."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, interlaced)
    given = (b"IHDR", header), *between, (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(png._chunk(kind, body) for kind, body in given)


def test_pngs_without_rows_or_with_other_first_chunks_are_damaged():
    rows = (b"IDAT", zlib.compress(bytes(13 * 4)))
    assert decoded_size(_png(4, 4, rows)) == (4, 4)
    with pytest.raises(ValueError, match="no rows"):
        decoded_size(_png(4, 4))
    with pytest.raises(ValueError, match="truncated"):  # interlaced, it has other rows than these
        decoded_size(_png(4, 4, rows, interlaced=1))
    whole = _png(4, 4, rows)
    with pytest.raises(ValueError, match="begin with its size"):
        decoded_size(whole[:8] + png._chunk(b"tEXt", b"Title\0" + b"\1" * 6 + b"\0" * 12) + whole[8:])


def test_inflating_stops_where_rows_end_and_copies_little(monkeypatch):
    """A small file that holds far more than its size says; one large chunk, whose rest was copied for each piece."""
    given = []

    def decompressor(original=zlib.decompressobj):
        stream = original()

        class Counted:
            unconsumed_tail = property(lambda self: stream.unconsumed_tail)
            eof = property(lambda self: stream.eof)
            flush = staticmethod(stream.flush)

            def decompress(self, part, most):
                given.append(len(part))
                return stream.decompress(part, most)

        return Counted()

    monkeypatch.setattr(png.zlib, "decompressobj", decompressor)
    with pytest.raises(ValueError, match="more than its 52 bytes"):
        decoded_size(_png(4, 4, (b"IDAT", zlib.compress(bytes(10_000_000)))))
    assert len(given) == 1

    given.clear()
    rows = np.pad(noise(1500, 1500 * 3), ((0, 0), (1, 0))).tobytes()
    stream = zlib.compress(rows, 0)
    assert decoded_size(_png(1500, 1500, (b"IDAT", stream))) == (1500, 1500)
    assert sum(given) < 2 * len(stream)
