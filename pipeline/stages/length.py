"""How far simplifying may move a surface: a length in world units or in voxels."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import SettingsError

CUBE = 1.0  # world units: the side of the cube that objects are made in


@dataclass(frozen=True)
class Length:
    """A length above 0: in world units, or in voxels of the grid of which a mesh is the raw one."""

    value: float
    in_voxels: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.value < math.inf:
            raise SettingsError(f"A length of {self.value:g} is not possible; choose a number above 0.")

    @classmethod
    def parse(cls, text: str) -> Length:
        """Of "0.002" or "0.5vox". Raises SettingsError."""
        number, voxels, rest = text.strip().partition("vox")
        try:
            if rest:
                raise ValueError
            return cls(float(number), bool(voxels))
        except ValueError:
            raise SettingsError(
                f"{text!r} is no length; give a number of output units such as 0.002, or of voxels such as 0.5vox."
            ) from None

    def units(self, resolution: int) -> float:
        """In world units. resolution: voxels along a side of the grid; 0 if there is none.

        Raises:
            SettingsError: voxels are asked for, and there is no grid.
        """
        if self.in_voxels and not resolution:
            raise SettingsError(f"The mesh has no voxels to count {self.value:g}vox in; give it in output units.")
        return self.value / resolution if self.in_voxels else self.value

    def check_error(self, longest: float, resolution: int = 0) -> None:
        """Raises SettingsError for an error of half of an object or more, in which nothing of it is left.

        longest: side of the object, world units. resolution: as for units; without it voxels are not checked.
        """
        unit = 1 / resolution if self.in_voxels and resolution else 1.0
        if (resolution or not self.in_voxels) and 0 < longest <= 2 * self.value * unit:
            name = "vox" if self.in_voxels else ""
            raise SettingsError(
                f"A max error of {self.value:g}{name} leaves nothing of the object; choose below "
                f"{longest / 2 / unit:.4g}{name}, half of its longest side. 0.002 or 0.5vox are usual."
            )
