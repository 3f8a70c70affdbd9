"""Backgrounds taken away: plain ones by their colour, others by the optional rembg; what is refused."""

import io
import socket
import sys
import threading
import time
import types

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy.ndimage import gaussian_filter

from pipeline.errors import ImageError
from pipeline.image import background_remover, plain_background, prepare, rembg_remover

SIZE = 256
Y, X = np.mgrid[0:SIZE, 0:SIZE] / SIZE


@pytest.fixture
def rocket(root):
    with Image.open(root / "assets" / "rocket.png") as image:
        return image.convert("RGBA").resize((SIZE, SIZE), Image.Resampling.LANCZOS)


@pytest.fixture
def mug(root):
    with Image.open(root / "assets" / "pictures" / "mug.png") as image:
        return image.convert("RGBA").resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def flat(*colour):
    return np.ones((SIZE, SIZE, 1)) * np.array(colour, float)


def noise(amount, smooth=0):
    values = np.random.default_rng(0).normal(0, 1, (SIZE, SIZE, 3))
    values = gaussian_filter(values, (smooth, smooth, 0)) if smooth else values
    return values / values.std() * amount


PLAIN = {
    "white": flat(255, 255, 255),
    "grey": flat(128, 128, 128),
    "black": flat(0, 0, 0),
    "camera noise": flat(190, 205, 180) + noise(4),
    "gradient": np.stack([200 - 60 * Y + 20 * X, 210 - 60 * Y, 225 - 50 * Y - 20 * X], -1),
    "vignette": (230 - 150 * ((X - 0.5) ** 2 + (Y - 0.5) ** 2))[..., None] * np.array([1, 0.97, 0.92]),
}

BUSY = {
    "noise": np.random.default_rng(0).uniform(0, 255, (SIZE, SIZE, 3)),
    "clouds": flat(120, 130, 140) + noise(25, 24),
    "texture": flat(120, 130, 140) + noise(25, 3),
    "wall and table": np.where(Y[..., None] < 0.6, (225, 222, 218), (150, 110, 80)) + noise(2),
    "sky and grass": np.where(Y[..., None] < 0.85, (180, 200, 230), (90, 120, 60)) + noise(3),
    "stripes": np.where((X * 10 % 2 < 1)[..., None], (220, 180, 150), (200, 130, 100)),
    "checks": np.where(((X * 12 // 1 + Y * 12 // 1) % 2 < 1)[..., None], (255, 255, 255), (204, 204, 204)),
}


def before(cut, background, jpeg=None):
    """A cut-out before a background, as a picture without transparency."""
    values = np.asarray(cut, dtype=float)
    alpha = values[..., 3:] / 255
    image = Image.fromarray((values[..., :3] * alpha + background * (1 - alpha)).clip(0, 255).round().astype(np.uint8))
    if jpeg:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=jpeg)
        image = Image.open(file).convert("RGB")
    return image


def alpha_of(image):
    return np.asarray(image.getchannel("A"), dtype=int)


def overlap(found, expected):
    """Intersection over union of what is more than half opaque."""
    found, expected = alpha_of(found) > 127, alpha_of(expected) > 127
    return (found & expected).sum() / (found | expected).sum()


@pytest.mark.parametrize("jpeg", [None, 75])
@pytest.mark.parametrize("name", PLAIN)
def test_plain_backgrounds(rocket, name, jpeg):
    found = plain_background(before(rocket, PLAIN[name], jpeg))
    # 0.95 where a JPEG bleeds red into grey, 0.94 where noise hides a shaded side of the background's colour
    assert overlap(found, rocket) > (0.97 if (name, jpeg) not in (("grey", 75), ("camera noise", None)) else 0.93)


def test_a_removed_background_is_mentioned_once(rocket, caplog):
    small = before(rocket, PLAIN["vignette"]).resize((200, 200))
    photo = Image.new("RGB", (1600, 900), small.getpixel((0, 0)))
    photo.paste(small, (100, 600))
    prepare(photo, None, background_remover())
    assert caplog.text.count("plain background") == caplog.text.count("removed by its colour") == 1


def test_the_matte_is_soft_and_free_of_the_background(rocket):
    """Half-covered pixels get the alpha and the colour that they were made of."""
    found = plain_background(before(rocket, PLAIN["white"]))
    edge = (alpha_of(rocket) > 60) & (alpha_of(rocket) < 200)
    assert edge.sum() > 200
    assert np.abs(alpha_of(found) - alpha_of(rocket))[edge].mean() < 25
    on_black = np.asarray(found)[..., :3] * (alpha_of(found) / 255)[..., None]
    expected = np.asarray(rocket)[..., :3] * (alpha_of(rocket) / 255)[..., None]
    assert np.abs(on_black - expected)[edge].mean() < 25  # white shining through would be 100 more
    assert (alpha_of(found)[alpha_of(rocket) == 0] < 13).mean() > 0.999


def test_what_is_seen_through_a_handle_is_background(mug):
    found = alpha_of(plain_background(before(mug, PLAIN["grey"])))
    clear = alpha_of(mug) == 0
    hole = clear & (X > 0.7) & (X < 0.9) & (Y > 0.35) & (Y < 0.6)  # inside the handle and right of it
    assert hole.sum() > 300 and found[hole].mean() < 10


def test_a_soft_shadow_is_no_part_of_the_object(mug):
    shadow = Image.new("L", (SIZE, SIZE))
    shadow.paste(255, (40, 225, 210, 240))
    dark = 1 - 0.35 * np.asarray(shadow.filter(ImageFilter.GaussianBlur(6)))[..., None] / 255
    image = before(mug, PLAIN["vignette"] * dark, 85)
    assert overlap(plain_background(image), mug) > 0.95


def test_an_object_that_is_cut_off_below(rocket):
    bust = rocket.crop((30, 0, 226, 200))
    background = PLAIN["gradient"][:200, 30:226]
    assert overlap(plain_background(before(bust, background)), bust) > 0.97


@pytest.mark.parametrize("with_object", [False, True])
@pytest.mark.parametrize("name", BUSY)
def test_other_backgrounds_are_refused(rocket, name, with_object):
    cut = rocket if with_object else Image.new("RGBA", rocket.size)
    with pytest.raises(ImageError, match="the background is not plain"):
        plain_background(before(cut, BUSY[name]))


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_picture_without_an_object(rocket, name):
    with pytest.raises(ImageError, match="nothing stands out"):
        plain_background(before(Image.new("RGBA", rocket.size), PLAIN[name]))


@pytest.mark.parametrize("size", [(8, 8), (9, 400), (400, 9)])
def test_very_small_and_narrow_pictures(size):
    with pytest.raises(ImageError, match="nothing stands out"):
        plain_background(Image.new("RGB", size, (9, 99, 199)))
    with pytest.raises(ImageError):
        plain_background(Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), np.uint8)))


class Fake(types.ModuleType):
    """rembg as far as we use it: it makes everything opaque."""

    def __init__(self):
        super().__init__("rembg")
        self.used = []

    def new_session(self, name):
        self.used.append(name)
        return name

    def remove(self, image, session):
        self.used.append(session)
        return image.convert("RGBA")


@pytest.fixture
def rembg(monkeypatch):
    fake = Fake()
    monkeypatch.setitem(sys.modules, "rembg", fake)
    return fake


def test_rembg_is_never_left_to_its_own_choice_of_weights(rembg):
    """rembg's default weights are not free for commercial use, so a session is always named."""
    rembg_remover()(Image.new("RGB", (4, 4)))
    assert rembg.used == ["birefnet-general-lite", "birefnet-general-lite"]


def test_rembg_is_for_backgrounds_that_are_not_plain(rembg, rocket):
    remover = background_remover("auto", "some-model")
    assert overlap(remover(before(rocket, PLAIN["grey"])), rocket) > 0.97 and not rembg.used
    assert alpha_of(remover(before(rocket, BUSY["texture"]))).min() == 255
    remover(before(rocket, BUSY["noise"]))
    assert rembg.used == ["some-model"] * 3  # one session for all pictures
    background_remover("rembg", "other")(before(rocket, PLAIN["grey"]))
    assert rembg.used[3:] == ["other"] * 2
    with pytest.raises(ImageError, match="is not plain"):
        background_remover("plain")(before(rocket, BUSY["noise"]))
    assert len(rembg.used) == 5


@pytest.mark.parametrize("problem", [ImportError("no module"), SystemExit(1)])
def test_without_rembg_the_error_says_what_to_do(monkeypatch, rocket, problem):
    import builtins

    real = builtins.__import__

    def importing(name, *rest):
        if name == "rembg":
            raise problem
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", importing)
    with pytest.raises(ImageError, match=r"pip install 'rembg\[cpu\]', or give a mask"):
        rembg_remover()
    photo = before(rocket, BUSY["clouds"])
    with pytest.raises(ImageError, match="no transparent background, and the background is not plain.*Use the force"):
        prepare(photo, None, background_remover(cures="Use the force."))


def test_rembg_without_a_connection_fails_within_seconds(monkeypatch, rembg):
    """Its downloader waits 30 s for each address of a server that does not answer."""
    silent = socket.create_server(("127.0.0.1", 0))
    downloaders = types.ModuleType("downloaders")
    downloaders.DEFAULT_TIMEOUT = 30
    pooch = types.ModuleType("pooch")
    pooch.downloaders = downloaders
    monkeypatch.setitem(sys.modules, "pooch", pooch)
    monkeypatch.setattr("pipeline.image.remover.PATIENCE", 0.2)

    def download(name):
        with socket.create_connection(silent.getsockname()) as connection:
            connection.settimeout(downloaders.DEFAULT_TIMEOUT)
            connection.recv(1)

    rembg.new_session = download
    start = time.perf_counter()
    seen = []

    def ask():
        with pytest.raises(ImageError, match="cannot load the model 'birefnet-general-lite'.*timed out"):
            rembg_remover()
        seen.append(downloaders.DEFAULT_TIMEOUT)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(10)
    silent.close()
    assert seen == [30] and time.perf_counter() - start < 10  # and pooch is left as it was
