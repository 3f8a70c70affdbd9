"""A picture with a transparent background, for tests."""

from PIL import Image


def cut_out(size=(60, 40), box=(10, 5, 30, 35), colour=(200, 100, 50)):
    image = Image.new("RGBA", size)
    image.paste((*colour, 255), box)
    return image
