"""Held-out objects by number, each with its truth, a picture of it and the camera that took the picture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from PIL import Image

from pipeline.render import Camera

from .. import objects, pictures, truth
from ..networks import Design
from .evaluate import Solid

_Row = TypeVar("_Row")

COUNT, SEED = 128, 1  # those of `evaluate` without options: its rows have the same numbers


@dataclass(frozen=True)
class Example:
    """name: of its class. picture: RGBA, as a user would have it. camera: that of the picture. grids: what
    the truth is of."""

    number: int
    name: str
    truth: Solid
    picture: Image.Image
    camera: Camera
    grids: truth.DualGrids


def examples(design: Design, numbers: Sequence[int], finer: int = 2) -> list[Example]:
    """The same objects and pictures whichever others are asked for.

    Args:
        numbers: 0 .. COUNT - 1.
        finer: the pictures show grids so many times finer than the truth, whose colours would have ragged borders.
    """
    held = objects.sample(COUNT, torch.Generator().manual_seed(SEED), held_out=True)
    found = []
    for number in numbers:
        one = held.select(slice(number, number + 1))
        grids, fine = (truth.dual_grids(one, design.resolution * times) for times in (1, finer))
        random = torch.Generator().manual_seed(number)  # camera and light
        shown, (picture,) = pictures.rendered(one, fine, random, design.image_size)
        found.append(Example(number, one.names[0], Solid(*grids.mesh(0)), picture, shown.cameras.camera(0), grids))
    return found


def each_measured(
    design: Design, numbers: Iterable[int], measure: Callable[[Example], _Row], report: Callable[[_Row], None]
) -> list[_Row]:
    """Measure examples one by one; each is reported before the next is made."""
    rows = []
    for number in numbers:
        [example] = examples(design, [number])
        rows.append(measure(example))
        report(rows[-1])
    return rows
