"""A picture to project: colours and cut-out on a square, how far each pixel is to be trusted, and samples between."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import distance_transform_edt

from ..errors import ImageError
from ..image import OPAQUE_ENOUGH
from .depth import FAR
from .painted import Seen

_MASK_SIDE = 1024  # pixels; sufficient for distances to outlines
# What pixels give to the mean of bicubic samples (torch's, a = -0.75) over the area of the one in the middle.
_MEANS = (-0.01953125, 0.09375, 0.8515625, 0.09375, -0.01953125)
_CORRECTIONS = 2  # rounds


@dataclass(frozen=True)
class Picture:
    """A cut-out on a square: colour [S, S, 3] float32 sRGB 0-1, alpha [S, S] float32 0-1, row 0 at the top. slack:
    picture sides by which outlines in it may miss the object's."""

    colour: np.ndarray
    alpha: np.ndarray
    slack: float = 0.0

    @classmethod
    def of(cls, image: Image.Image) -> Picture:
        """An RGBA picture in the middle of a square. Raises ImageError if none of it is opaque."""
        side = max(image.size)
        square = Image.new("RGBA", (side, side))
        square.paste(image.convert("RGBA"), ((side - image.width) // 2, (side - image.height) // 2))
        values = np.asarray(square, dtype=np.float32) / 255
        if not (values[:, :, 3] > OPAQUE_ENOUGH).any():
            raise ImageError(
                "The picture to project is empty: no pixel is more than 80 % opaque. Check its alpha channel, or "
                "which side of the mask is the object."
            )
        return cls(np.ascontiguousarray(values[:, :, :3]), np.ascontiguousarray(values[:, :, 3]))

    @property
    def side(self) -> int:
        return len(self.alpha)

    @cached_property
    def solid(self) -> np.ndarray:
        """[S, S] bool: what belongs to the object."""
        return self.alpha > OPAQUE_ENOUGH

    @cached_property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the object, in picture sides."""
        rows, columns = np.nonzero(self.solid.any(1))[0], np.nonzero(self.solid.any(0))[0]
        ends = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        left, top, right, bottom = (float(end) / self.side for end in ends)
        return left, top, right, bottom

    @property
    def cut_off(self) -> tuple[bool, bool, bool, bool]:
        """At which ends of the box (left, top, right, bottom) the object touches the picture's border."""
        left, top, right, bottom = self.box
        return left == 0, top == 0, right == 1, bottom == 1

    def mirrored(self) -> Picture:
        colour, alpha = (np.ascontiguousarray(each[:, ::-1]) for each in (self.colour, self.alpha))
        return Picture(colour, alpha, self.slack)

    def small(self, side: int) -> tuple[np.ndarray, np.ndarray]:
        """Colour [s, s, 3] and the share that is object [s, s] of each of fewer pixels; colour is that of the object
        alone."""
        solid = torch.from_numpy(self.solid).float()[None, None]
        colour = torch.from_numpy(self.colour).permute(2, 0, 1)[None] * solid
        both = _reduced(torch.cat([colour, solid], 1), side)[0]
        share = both[3]
        return (both[:3] / share.clamp_min(1e-6)).permute(1, 2, 0).numpy(), share.numpy()

    def reduced(self, side: int) -> Picture:
        """With fewer pixels, each the mean of those that it stands for; not with so few that none is object."""
        if side >= self.side:
            return self
        alpha = torch.from_numpy(self.alpha)[None, None]
        colour = torch.from_numpy(self.colour).permute(2, 0, 1)[None] * alpha
        both = _reduced(torch.cat([colour, alpha], 1), side)[0]
        colour = both[:3] / both[3].clamp_min(1e-6)
        made = Picture(colour.permute(1, 2, 0).contiguous().numpy(), both[3].numpy(), self.slack)
        return made if made.solid.any() else self.reduced(2 * side)

    def moved(self, moves: np.ndarray, slack: float = 0.0) -> Picture:
        """Each pixel from elsewhere. moves: [2, s, s], smooth, down and right in picture sides; s need not be S. slack:
        of the result."""
        grown = F.interpolate(torch.from_numpy(moves)[None].float(), (self.side,) * 2, mode="bilinear")[0]
        line = (torch.arange(self.side) + 0.5) / self.side
        down, right = torch.meshgrid(line, line, indexing="ij")
        place = torch.stack([right + grown[1], down + grown[0]], 2).reshape(-1, 2)
        square = (self.side, self.side)
        colour = sampled(self.filled(), place, "bicubic").clamp(0, 1).reshape(*square, 3).numpy()
        alpha = sampled(torch.from_numpy(self.alpha)[None], place, "bilinear").reshape(square).numpy()
        return Picture(colour, alpha, slack)

    def filled(self) -> torch.Tensor:
        """[3, S, S] colour, where nothing is object that of the nearest pixel which is: samples near the outline do
        not take the background in."""
        nearest = np.empty((2, *self.solid.shape), np.int32)
        distance_transform_edt(~self.solid, return_distances=False, return_indices=True, indices=nearest)
        rows, columns = nearest
        return torch.from_numpy(self.colour[rows, columns]).permute(2, 0, 1).contiguous()

    def trust(self, seen: Seen, feather: float) -> torch.Tensor:
        """[s, s] float32: 0 at the picture's and the object's outline, 1 from `feather` picture sides on. seen: what
        the picture's camera sees in s x s pixels."""
        side = len(seen.mask)
        inside = (seen.opened < FAR) & (self.small(side)[1] > 0.5)
        distance = np.asarray(distance_transform_edt(np.pad(inside, 1)))[1:-1, 1:-1] - 0.5
        return smooth_step(torch.from_numpy(distance / side).float() / feather)


def trust_side(picture: Picture) -> int:
    """Pixels along a side in which a picture's trust is worked out."""
    return min(picture.side, _MASK_SIDE)


def smooth_step(values: torch.Tensor) -> torch.Tensor:
    """0 below 0, 1 above 1, with no edge between."""
    values = values.clamp(0, 1)
    return values * values * (3 - 2 * values)


def keeping_means(colours: torch.Tensor) -> torch.Tensor:
    """Values [3, S, S] that bicubic samples between them are to be taken of, so that their mean over a pixel's area is
    what the picture [3, S, S] has there: a camera's pixel is such a mean, and so is one of a renderer. Plain
    interpolation takes a pixel's value for that of its middle and blurs every edge by what is averaged twice.

    By repeated correction (Van Cittert, "Zum Einfluss der Spaltbreite auf die Intensitätsverteilung in Spektrallinien
    II", 1931): after two rounds a twentieth of the error is left of the finest detail along an axis.
    """
    found = colours
    row = colours.new_tensor(_MEANS)[None, None, None]
    for _ in range(_CORRECTIONS):
        padded = F.pad(found[:, None], (2, 2, 2, 2), mode="replicate")
        found = found + colours - F.conv2d(F.conv2d(padded, row), row.transpose(2, 3))[:, 0]
    return found


def sampled(grid: torch.Tensor, place: torch.Tensor, mode: str) -> torch.Tensor:
    """[N, C] values of a picture [C, S, S] at places [N, 2] right and down in picture sides; beyond the border as at
    it."""
    at = (place * 2 - 1)[None, :, None]
    return F.grid_sample(grid[None], at, mode, "border", align_corners=False)[0, :, :, 0].T


def _reduced(values: torch.Tensor, side: int) -> torch.Tensor:
    """[1, C, S, S] -> [1, C, side, side], means over areas."""
    return values if side == values.shape[-1] else F.interpolate(values, (side, side), mode="area")
