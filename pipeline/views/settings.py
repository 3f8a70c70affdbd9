"""What is done with several views in each stage, and what pictures of views are."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from PIL import Image

from ..errors import SettingsError
from ..words import counted
from .mixing import STRATEGIES
from .rig import View

_LEAST, _MOST = 1e-3, 1e3  # weights of views


@dataclass(frozen=True)
class Mixing:
    """The strategy (a name of STRATEGIES) of each stage; carve: cut the structure by the pictures' silhouettes.

    proportions: give the structure the pictures' proportions, where there are two or more.

    weights: 0.001 to 1000, how much each view counts against the others in every strategy that mixes; empty: all
    alike.

    Raises:
        SettingsError: there is no such strategy, or a weight is none.
    """

    structure: str = "average_right"
    shape: str = "average_right"
    texture: str = "average_right"
    carve: bool = False
    weights: tuple[float, ...] = ()
    proportions: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", tuple(map(float, self.weights)))
        if not all(_LEAST <= weight <= _MOST for weight in self.weights):
            given = ", ".join(f"{weight:g}" for weight in self.weights)
            raise SettingsError(
                f"The weights of views must lie in {_LEAST:g} to {_MOST:g}, got {given}. Leave out a picture that "
                "is to count nothing."
            )
        for stage in (self.structure, self.shape, self.texture):
            if stage not in STRATEGIES:
                raise SettingsError(f"No strategy is called {stage!r}; there are {', '.join(STRATEGIES)}.")


UNNAMED = Mixing()  # views without directions: the mean of their velocities in every stage
# Views with directions. The networks know no camera: each view by itself is taken for a front, and whatever mixes them
# does harm (measured in docs/views.md). What the other views know for certain is how wide, deep and tall the object is.
NAMED = Mixing(structure="primary", shape="primary", texture="primary", proportions=True)


@dataclass(frozen=True)
class PosedPictures:
    """Prepared pictures of one object and where they were taken from.

    pictures: square RGB, the object on black; the first one is the primary view.
    views: of each; empty where they are not known.
    masks: [H, W] float 0-1 of each, for carving; may be empty.
    remarks: what does not belong together, in words. residuals: by how much extents that views share disagree.
    """

    pictures: tuple[Image.Image, ...]
    views: tuple[View, ...] = ()
    masks: tuple[torch.Tensor, ...] = ()
    mixing: Mixing = UNNAMED
    remarks: tuple[str, ...] = field(default=(), compare=False)
    residuals: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if not self.pictures:
            raise SettingsError("There is no picture.")
        if self.views and len(self.views) != len(self.pictures):
            raise SettingsError(
                f"{counted(len(self.pictures), 'picture has', 'pictures have')} {counted(len(self.views), 'view')}."
            )
        weights = self.mixing.weights
        if weights and len(weights) != len(self.pictures):
            raise SettingsError(
                f"{counted(len(self.pictures), 'picture has', 'pictures have')} {counted(len(weights), 'weight')}; "
                "give each one, or none."
            )
        if self.mixing.carve and not (self.views and len(self.masks) == len(self.pictures)):
            raise SettingsError("Carving needs the direction and the cut-out of every picture.")
