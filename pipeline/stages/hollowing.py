"""Hollowing out for printing: walls and drains in true lengths, and what is saved by them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..errors import SettingsError
from ..export import TrueSize, check_flat_base, true_length
from ..mesh import Mesh as TriangleMesh
from ..mesh.remesh.hollow_settings import THIN, Hollow

CAVITIES = ("fill", "keep")  # what "solid" can make of cavities without a way out
PLA = 1.24  # g/cm^3, of the most common filament
_FINEST = 1024  # cells along the longest side: finer ones take more memory than hollowing is worth


@dataclass(frozen=True)
class Thickness:
    """A length above 0: in metres of the object's true size, or in world units."""

    value: float
    metres: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.value < math.inf:
            raise SettingsError(f"A thickness of {self.value:g} is not possible; choose a number above 0.")

    @classmethod
    def parse(cls, text: str) -> Thickness:
        """Of "2mm" or "0.02". Raises SettingsError."""
        metres = true_length(text)
        try:
            value = float(text) if metres is None else metres
        except ValueError:
            raise SettingsError(
                f"{text!r} is no thickness; give a true one such as 2mm, or sides of the cube of 1 that the object is "
                "made in, such as 0.02."
            ) from None
        if not 0 < value < math.inf:
            raise SettingsError(f"A thickness of {text.strip()} is not possible; choose one above 0, such as 2mm.")
        return cls(value, metres is not None)


@dataclass(frozen=True)
class Hollowing:
    """How a solid is hollowed out. True lengths need `size`, that of the object.

    wall, drain: as for mesh.remesh.hollow.Hollow. flat_base: share of the height that is cut off, so that the floor
    has a wall too; the file then needs no flat base of its own.
    """

    wall: Thickness
    drain: Thickness | None = None
    size: TrueSize | None = None
    flat_base: float = 0.0

    def __post_init__(self) -> None:
        check_flat_base(self.flat_base)
        if self.size is None and (self.wall.metres or (self.drain is not None and self.drain.metres)):
            raise SettingsError(
                "A hollow's wall and drain in mm need the true size of the object too (size, for example 80mm); or "
                "give them in sides of the cube of 1 that the object is made in, such as 0.02."
            )

    @classmethod
    def parse(cls, wall: str, drain: str = "", size: str = "", flat_base: float = 0.0) -> Hollowing | None:
        """Of texts as people write them; None if there is no wall. Raises SettingsError, also for what has no effect
        without a wall."""
        texts = {"drain": drain.strip(), "size": size.strip(), "flat_base": flat_base}
        if not wall.strip():
            if unused := [name for name, value in texts.items() if value]:
                raise SettingsError(
                    f"{' and '.join(unused)} would have no effect here without hollow: give its wall, or leave out."
                )
            return None
        return cls(
            Thickness.parse(wall),
            Thickness.parse(drain) if texts["drain"] else None,
            TrueSize.parse(size) if texts["size"] else None,
            flat_base,
        )

    def _metres_a_unit(self, mesh: TriangleMesh) -> float | None:
        """Of a mesh that has not been cut yet; None if nobody said how large it is."""
        if self.size is None:
            return None
        vertices = mesh.vertices.double()
        low, high = vertices[:, 2].amin(), vertices[:, 2].amax()
        heights = vertices[:, 2].clamp_min(float(low + self.flat_base * (high - low)))
        cut = torch.cat([vertices[:, :2], heights[:, None]], 1)
        return self.size.metres_a_unit(cut.cpu().numpy(), mesh.faces.cpu().numpy())

    def in_units(self, mesh: TriangleMesh) -> Hollow:
        """The same in world units, for a mesh that is to be hollowed out.

        Raises SettingsError, in mm, for true lengths that are too small or large for the object.
        """
        metres = self._metres_a_unit(mesh)

        def units(length: Thickness | None) -> float:
            return 0.0 if length is None else length.value / metres if metres and length.metres else length.value

        corners = mesh.vertices[mesh.faces.long().unique()]
        longest = (corners.amax(0) - corners.amin(0)).max().item()
        for name, length in (("wall", self.wall), ("drain", self.drain)):
            if metres and length and length.metres and not _least(longest) <= units(length) < longest / 2:
                found, least, most = (1000 * metres * each for each in (units(length), _least(longest), longest / 2))
                raise SettingsError(
                    f"The {name} of a hollow is {found:.4g} mm; choose from {least:.4g} mm to below {most:.4g} mm, "
                    "half of the longest side."
                )
        return Hollow(units(self.wall), units(self.drain), self.flat_base)

    def facts(self, found: dict, made: TriangleMesh) -> tuple[dict, list[str]]:
        """Facts about a hollow object, and warnings. found: of remesh.solid."""
        volume = made.report.volume
        facts = {**found, "volume": volume}
        if self.size is not None and volume is not None:
            metres = float(self.size.metres_a_unit(made.vertices.cpu().numpy(), made.faces.cpu().numpy()))
            before, after = (each * metres**3 * 1e6 for each in (found["volume_before"], volume))
            facts |= {"cm3_before": before, "cm3": after, "density_g_cm3": PLA}
            facts |= {"grams_before": before * PLA, "grams": after * PLA}
        room = "a drain" if self.drain else "a cavity"
        said = []
        if found["crossing_faces"]:
            said = [
                f"{found['crossing_faces']:,} faces of the hollow object go through others, which slicers may fill: "
                "ask for more faces or a thicker wall."
            ]
        if not found["cavities"]:
            return facts, [f"Nothing was hollowed out: behind such a wall there is no room for {room}.", *said]
        if found["left_solid"] and self.drain:
            places = "1 place" if found["left_solid"] == 1 else f"{found['left_solid']:,} places"
            return facts, [f"Behind the wall {places} stayed solid: there is no room for {room}.", *said]
        return facts, said


def _least(longest: float) -> float:
    """World units; the thinnest wall or drain that can be made in an object of this longest side."""
    return THIN * longest / _FINEST


def cells_for(hollow: Hollow, longest: float) -> int:
    """Cells along the longest side (world units) that a hollow needs at least.

    Raises:
        SettingsError: more than can be had.
    """
    thinnest = min(hollow.wall, hollow.drain or hollow.wall)
    cells = math.ceil(THIN * longest / thinnest)
    if cells > _FINEST:
        raise SettingsError(
            f"A wall or a drain of {thinnest:.3g} is too thin for an object of {longest:.3g} (sides of the cube of 1 "
            f"that it is made in): choose at least {_least(longest):.3g}."
        )
    return cells


def hollow_lines(facts: dict | None) -> list[str]:
    """What `Hollowing.facts` says, for people; nothing of what is solid."""
    if facts is None:
        return []
    share = f"{1 - facts['volume'] / facts['volume_before']:.0%} less material" if facts["volume"] else "not closed"
    if "grams" in facts:
        share += (
            f": {facts['cm3']:.4g} cm3 of {facts['cm3_before']:.4g}, {facts['grams']:.4g} g of "
            f"{facts['grams_before']:.4g} at {facts['density_g_cm3']:g} g/cm3"
        )
    return [f"Hollow, {share}; cavities {facts['cavities']:,}, drains {facts['drains']:,}."]
