"""What there is to know about a mesh or a mesh file, in words and as numbers: topology, size, and whether it prints."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from ..backends import Backends
from ..errors import MeshError, SettingsError
from ..export import WRITERS, TrueSize
from ..export.images import decoded_size
from ..export.read import read_mesh, weld
from ..mesh import CROSSING, WALL_THICKNESS
from ..mesh import Mesh as TriangleMesh
from ..mesh.query.printability import OVERHANG, Printability, printability
from ..mesh.report import MeshReport
from ..words import counted, figures
from .backend_table import default_backends
from .hollowing import PLA
from .types import TexturedMesh

_NOZZLE = 0.4e-3  # metres: walls thinner than the usual nozzle come out as gaps
_DENSITIES = (1e-3, 30.0)  # g/cm^3: foam to platinum


@dataclass(frozen=True)
class Inspection:
    """A mesh's report, its printability, and what follows for an object of its size.

    metres: of one unit; None where nobody said. density: g/cm^3. file: what is known of the file, if it is from one.
    backends: {operation: row} that measured.
    """

    report: MeshReport
    prints: Printability
    metres: float | None = None
    density: float = PLA
    file: dict = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    backends: dict[str, str] = field(default_factory=dict)

    @property
    def volume_cm3(self) -> float | None:
        """None unless the mesh is closed, consistently oriented, and its size known."""
        if self.report.volume is None or self.metres is None:
            return None
        return self.report.volume * self.metres**3 * 1e6

    def warnings(self) -> list[str]:
        """What may be wrong, one sentence each."""
        found = [*self.problems, *self.report.warnings()]
        if self.prints.crossing_faces:
            found.append(
                f"{counted(self.prints.crossing_faces, 'face goes', 'faces go')} through others: slicers may fill or "
                "empty parts."
            )
        thin = self.prints.wall_thin
        if self.metres is not None and thin is not None and thin * self.metres < _NOZZLE:
            found.append(f"Walls of {thin * self.metres * 1e3:.2f} mm are thinner than a nozzle of 0.4 mm.")
        return found

    def as_dict(self) -> dict:
        """Plain numbers, lists and None, for JSON."""
        volume = self.volume_cm3
        facts = {
            **self.file,
            "mesh": self.report.as_dict(),
            "printability": asdict(self.prints),
            "backends": self.backends,
            "metres_a_unit": self.metres,
            "size_mm": None if self.metres is None else [side * self.metres * 1e3 for side in self._sides()],
            "volume_cm3": volume,
            "density_g_cm3": self.density,
            "weight_g": None if volume is None else volume * self.density,
        }
        return {**facts, "warnings": self.warnings()}

    def text(self) -> str:
        """The same in lines."""
        report, prints, lines = self.report, self.prints, []
        if self.file:
            lines.append(f"{self.file['file']}: {self.file['format']}, {self.file['bytes'] / 1e6:,.1f} MB")
            lines += [f"image {name}: {size[0]} x {size[1]}" for name, size in self.file["images"].items()]
        closed = "watertight" if report.watertight else "not watertight"
        lines.append(
            f"{counted(report.faces, 'face')}, {counted(report.vertices, 'vertex', 'vertices')}, "
            f"{counted(report.components, 'component')}, {closed}"
        )
        lines.append(
            f"boundary edges {report.boundary_edges:,} in {counted(report.boundary_loops, 'loop')}, non-manifold "
            f"{report.non_manifold_edges:,}, inconsistent {report.inconsistent_edges:,}; Euler number {report.euler:,}"
        )
        scale, unit = (1.0, "units") if self.metres is None else (self.metres * 1e3, "mm")
        lines.append("size " + " x ".join(f"{side * scale:.5g}" for side in self._sides()) + f" {unit} (Z up)")
        lines.append(f"crossing faces {prints.crossing_faces:,}")
        if prints.wall_min is not None and prints.wall_thin is not None:
            walls = f"{prints.wall_min * scale:.3g} {unit}, 1 % of the area below {prints.wall_thin * scale:.3g} {unit}"
            lines.append(f"thinnest wall {walls}")
        share = prints.overhang_area / prints.area if prints.area else 0.0
        lines.append(f"overhangs beyond {OVERHANG:.0f} degrees: {share:.1%} of the area")
        if self.volume_cm3 is not None:
            volume, weight = figures(self.volume_cm3), figures(self.volume_cm3 * self.density)
            lines.append(f"volume {volume} cm3, weight {weight} g at {self.density:g} g/cm3, solid")
        return "\n".join([*lines, *(f"! {warning}" for warning in self.warnings())])

    def _sides(self) -> list[float]:
        low, high = self.report.bounds or ((0.0,) * 3, (0.0,) * 3)
        return [upper - lower for lower, upper in zip(low, high)]


def inspect_mesh(
    mesh: TriangleMesh | TexturedMesh,
    size: TrueSize | None = None,
    density: float = PLA,
    backends: Backends | None = None,
) -> Inspection:
    """A mesh, or a textured one with its seams welded.

    Args:
        size: what it is to have in reality. backends: whose rows measure; default: those of default_backends().

    Raises:
        SettingsError: an impossible density. EmptyResultError: no faces. OutputError: no extent to be scaled.
        BackendError: a chosen row cannot run.
    """
    if isinstance(mesh, TexturedMesh):
        level = mesh.levels[0].mesh
        places, faces = weld(level.vertices.double().cpu().numpy(), level.faces.cpu().numpy())
        mesh = TriangleMesh(torch.from_numpy(places).float(), torch.from_numpy(faces))
    mesh.require_faces()
    arrays = mesh.vertices.cpu().numpy(), mesh.faces.cpu().numpy()
    metres = None if size is None else size.metres_a_unit(*arrays)
    return _inspected(TriangleMesh.known(mesh.vertices, mesh.faces), metres, density, backends)


def inspect_file(path: Path, density: float = PLA, backends: Backends | None = None) -> Inspection:
    """A mesh file of any format that is read here. backends: as for inspect_mesh.

    Raises:
        SettingsError: an impossible density. MeshError: it cannot be read, or holds no mesh. BackendError: a chosen row
        cannot run.
    """
    check_density(density)
    found = read_mesh(path)
    images, problems = {}, []
    for name, data in found.images.items():
        try:
            images[name] = list(decoded_size(data))
        except ValueError as error:
            problems.append(f"The image {name} does not decode: {error}.")
    title = WRITERS[path.suffix.lower()].title if path.suffix.lower() in WRITERS else path.suffix
    file = {"file": str(path), "format": title, "bytes": path.stat().st_size, "reader": found.reader}
    file |= {"levels": found.levels, "images": images}
    mesh = TriangleMesh(torch.from_numpy(found.vertices), torch.from_numpy(found.faces))
    return _inspected(mesh, found.metres, density, backends, file, tuple(problems))


def check_density(density: float) -> None:
    least, most = _DENSITIES
    if not least <= density <= most:  # NaN too
        raise SettingsError(f"A density must lie in {least:g} to {most:g} g/cm3, got {density:g}; PLA has {PLA}.")


def _inspected(
    mesh: TriangleMesh,
    metres: float | None,
    density: float,
    backends: Backends | None,
    file: dict | None = None,
    problems: tuple[str, ...] = (),
) -> Inspection:
    check_density(density)
    mesh.require_faces()
    largest = float(mesh.vertices.abs().max())
    if largest > 1e18:  # squares of fp32 lengths overflow
        raise MeshError(f"The mesh reaches to {largest:.3g}; expected coordinates below 1e18. Scale it down.")
    backends = backends or default_backends()
    rows = {op: backends.pick(op, mesh.vertices.device) for op in (CROSSING, WALL_THICKNESS)}
    used = {op: backends.used[op] for op in rows}
    prints = printability(mesh, rows[CROSSING], rows[WALL_THICKNESS])
    return Inspection(mesh.report, prints, metres, density, file or {}, problems, used)
