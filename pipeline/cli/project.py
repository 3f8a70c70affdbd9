"""The options that put the pictures themselves onto a finished texture."""

from __future__ import annotations

import argparse
from dataclasses import replace

from ..errors import BackendError, SettingsError
from ..image import background_remover, read_mask, read_picture
from ..project import COLOURS, DEFAULT_PROJECTION, Photo, Projection, photo
from ..views import named_views
from ..warp import unavailable_reason


def add_projection(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("projection", "the pictures' own pixels on the texture, where they show it")
    group.add_argument(
        "--project",
        action="store_true",
        help="project the pictures onto the baked texture, which becomes as sharp as they are where they see the "
        "object; their cameras are fitted, near --views if given; the texture grows to 8192 where they have the detail",
    )
    group.add_argument(
        "--project-colors",
        choices=COLOURS,
        help="picture: the pictures' colours, to which the texture around them is adjusted; texture: the texture keeps "
        "its tone, pictures add detail; auto: texture for a picture that contains lighting, else picture; "
        f"default: {DEFAULT_PROJECTION.colours}",
    )
    group.add_argument(
        "--project-min-iou",
        type=float,
        metavar="X",
        help="overlap of silhouettes (intersection over union) below which a picture is refused; default: "
        f"{DEFAULT_PROJECTION.min_iou:g}",
    )
    group.add_argument(
        "--project-remove-light",
        action="store_true",
        default=None,
        help="divide an estimate of smooth (low-order) lighting out of pictures that contain lighting",
    )


def projection(options: argparse.Namespace, textured: bool) -> Projection | None:
    """What the options of add_projection say; None without --project.

    textured: whether there will be a texture.

    Raises:
        SettingsError: there is nothing to project on, an option has no effect, or a number is out of range.
        BackendError: Warp is missing.
    """
    given = {
        "colours": options.project_colors,
        "min_iou": options.project_min_iou,
        "remove_light": options.project_remove_light,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if not options.project:
        if given:
            raise SettingsError(
                "The options --project-... have no effect without --project. Add it, or leave them out."
            )
        return None
    if not textured:
        raise SettingsError("--project needs a texture to project on: no vertex colours, and not geometry alone.")
    if reason := unavailable_reason():
        raise BackendError(f"--project needs Warp: {reason}")
    return Projection(**given)


def photos(options: argparse.Namespace) -> list[Photo]:
    """The pictures of `images` with all of their pixels, and their directions if --views names them."""
    views = named_views(options.views, len(options.images)) if options.views else [None] * len(options.images)
    remover = background_remover(options.background, options.background_model)
    found = []
    for number, (path, view) in enumerate(zip(options.images, views)):
        image = read_picture(path)
        mask = read_mask(options.mask[number], image) if options.mask else None
        # what there is to remark on the mask was said when the picture was prepared for the networks
        found.append(replace(photo(image, mask, remover, view=view, name=str(path)), remarks=()))
    return found
