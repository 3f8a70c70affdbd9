"""Hollowing out for printing: walls and drains in true lengths, and what is saved by them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from ..errors import SettingsError
from ..export import TrueSize, check_flat_base, true_length
from ..mesh import Mesh as TriangleMesh
from ..mesh.remesh.hollow_settings import NARROW, THIN, Hollow
from ..words import counted, figures

CAVITIES = ("fill", "keep")  # what "solid" can make of cavities without a way out
PLA = 1.24  # g/cm^3, of the most common filament
_FINEST = 1024  # cells along the longest side: finer ones take more memory than hollowing is worth
_KEPT = 0.9  # of a wall or a drain: what is narrower is warned of
_FINER = 1.5  # times the cells that the object has detail for, from which on the wall's cost is told


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

        if self.size is not None and self.size.along == "longest":
            self.check_in(self.size.metres, metres=True)

    def check_in(self, longest: float, metres: bool = False) -> None:
        """Raises SettingsError for lengths of half of an object's longest side or more. metres: whether that is in
        metres; lengths in the other unit are not looked at."""
        unit, name = (1e3, " mm") if metres else (1.0, "")
        for what, length in (("wall", self.wall), ("drain", self.drain)):
            if length is not None and length.metres == metres and length.value >= longest / 2:
                raise SettingsError(
                    f"The {what} of a hollow is {length.value * unit:.4g}{name}; choose below "
                    f"{longest / 2 * unit:.4g}{name}, half of the longest side."
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
            thinnest = _least(longest, name)
            if metres and length and length.metres and not thinnest <= units(length) < longest / 2:
                found, least, most = (1000 * metres * each for each in (units(length), thinnest, longest / 2))
                raise SettingsError(
                    f"The {name} of a hollow is {found:.4g} mm; choose from {least:.4g} mm to below {most:.4g} mm, "
                    "half of the longest side."
                )
        return Hollow(units(self.wall), units(self.drain), self.flat_base)

    def as_made(self, made: TriangleMesh, asked: Hollow) -> Hollow:
        """The same in world units of a finished object, whose box, and so what a mm is in it, simplifying has moved.
        asked: in_units of the mesh before."""
        if self.size is None:
            return asked
        metres = float(self.size.metres_a_unit(made.vertices.cpu().numpy(), made.faces.cpu().numpy()))
        wall, drain = (
            length.value / metres if length is not None and length.metres else before
            for length, before in ((self.wall, asked.wall), (self.drain, asked.drain))
        )
        return replace(asked, wall=wall, drain=drain)

    def facts(self, found: dict, made: TriangleMesh, asked: Hollow) -> tuple[dict, list[str]]:
        """Facts about a hollow object, and warnings. found: of remesh.solid and Hollowed.measured. asked: in_units."""
        volume, hollow = made.report.volume, self.as_made(made, asked)
        facts = {**found, "wall": hollow.wall, "drain": hollow.drain, "volume": volume}
        if self.size is not None and volume is not None:
            metres = float(self.size.metres_a_unit(made.vertices.cpu().numpy(), made.faces.cpu().numpy()))
            before, after = (each * metres**3 * 1e6 for each in (found["volume_before"], volume))
            facts |= {"cm3_before": before, "cm3": after, "density_g_cm3": PLA}
            facts |= {"grams_before": before * PLA, "grams": after * PLA, "mm_a_unit": 1000 * metres}
        return facts, _hollow_warnings(facts)


def _hollow_warnings(facts: dict) -> list[str]:
    """What was promised of a hollow and did not come out."""
    room = "a drain" if facts["drain"] else "a cavity"
    said, cure = [], "Ask for more faces or a thicker wall."
    if not facts["cavities"]:
        said.append(f"Nothing was hollowed out: behind such a wall there is no room for {room}.")
    elif facts["left_solid"] and facts["drain"]:
        said.append(
            f"Behind the wall {counted(facts['left_solid'], 'place')} stayed solid: there is no room for {room}."
        )
    if facts["crossing_faces"]:
        many = counted(facts["crossing_faces"], "face")
        said.append(
            f"{many} of the hollow object {'goes' if facts['crossing_faces'] == 1 else 'go'} through others, which "
            f"slicers may fill. {cure}"
        )
    if facts["wall_min"] is not None and facts["wall_min"] < _KEPT * facts["wall"]:
        found, asked = _told(facts, "wall_min"), _told(facts, "wall")
        said.append(f"The wall of the cavity is {found} at its thinnest, of {asked} that were asked for. {cure}")
    if facts["drains_open"] < facts["drains"]:
        many = counted(facts["drains"] - facts["drains_open"], "drain")
        said.append(f"{many} of {facts['drains']:,} cannot be seen through. Ask for more faces or a wider drain.")
    elif facts["drain_min"] is not None and facts["drain_min"] < _KEPT * facts["drain"]:
        found, asked = _told(facts, "drain_min"), _told(facts, "drain")
        said.append(f"A drain is {found} wide at its narrowest, of {asked} that were asked for. Ask for more faces.")
    if facts["cells"] > _FINER * facts["own_cells"]:
        said.append(
            f"For a wall or a drain so thin the object was looked at in {facts['cells']:,} cells along its longest "
            f"side; it has detail for {facts['own_cells']:,}. Memory and time grow with the square: "
            f"{(facts['cells'] / facts['own_cells']) ** 2:.0f} times as much."
        )
    return said


def _told(facts: dict, name: str) -> str:
    """A length of the facts, for people."""
    return f"{facts[name] * facts['mm_a_unit']:.3g} mm" if "mm_a_unit" in facts else f"{facts[name]:.3g}"


_CELLS = {"wall": THIN, "drain": NARROW}  # across


def _least(longest: float, name: str) -> float:
    """World units; the thinnest wall or drain that can be made in an object of this longest side."""
    return _CELLS[name] * longest / _FINEST


def cells_for(hollow: Hollow, longest: float) -> int:
    """Cells along the longest side (world units) that a hollow needs at least.

    Raises:
        SettingsError: more than can be had.
    """
    needed = 1
    for name, length in (("wall", hollow.wall), ("drain", hollow.drain or math.inf)):
        cells = math.ceil(_CELLS[name] * longest / length)
        if cells > _FINEST:
            raise SettingsError(
                f"A {name} of {length:.3g} is too thin for an object of {longest:.3g} (sides of the cube of 1 that it "
                f"is made in): choose at least {_least(longest, name):.3g}."
            )
        needed = max(needed, cells)
    return needed


def hollow_lines(facts: dict | None) -> list[str]:
    """What `Hollowing.facts` says, for people; nothing of what is solid."""
    if facts is None or not facts["cavities"]:
        return []
    share = f"{1 - facts['volume'] / facts['volume_before']:.0%} less material" if facts["volume"] else "not closed"
    if "grams" in facts:
        share += (
            f": {figures(facts['cm3'])} cm3 of {figures(facts['cm3_before'])}, {figures(facts['grams'])} g of "
            f"{figures(facts['grams_before'])} at {facts['density_g_cm3']:g} g/cm3"
        )
    lines = [f"Hollow, {share}; cavities {facts['cavities']:,}, drains {facts['drains']:,}."]
    measured = []
    if facts["wall_min"] is not None:
        measured.append(f"the cavity's wall is {_told(facts, 'wall_min')} at its thinnest")
    if facts["drain_min"] is not None:
        measured.append(f"drains are {_told(facts, 'drain_min')} wide at their narrowest")
    if facts["thin"] is not None:
        measured.append(
            f"{_percent(facts['thin_share'])} of the surface belongs to parts of the object that are thinner than the "
            f"wall themselves, to {_told(facts, 'thin')}: they stay solid"
        )
    if measured:
        lines.append(f"Measured: {'; '.join(measured)}.")
    return lines


def _percent(share: float) -> str:
    return "less than 0.1 %" if share < 1e-3 else f"{100 * share:.2g} %"
