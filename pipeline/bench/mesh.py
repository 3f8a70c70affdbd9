"""Seconds, peak memory and quality of the post-processing, on meshes like those that decoders give."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch

from .. import stages
from ..errors import SettingsError
from ..export.files import check_writable, writing
from ..mesh import SIMPLIFY, SOLID, UNWRAP, Mesh
from ..mesh.query.surface import Surface
from ..mesh.report import MeshReport
from ..runtime import PeakMemory, Runtime, synchronise
from ..sparse import SparseTensor, Voxels
from ..warp import unavailable_reason
from . import history as measurements
from .shapes import STEEPEST, bench_field, spoil, surface_net

SIDES = {"100 k": 92, "1 M": 288, "3 M": 500, "10 M": 909}  # cells along a side that give a mesh about so many faces
_SOLID_CELLS = {"100 k": 64, "10 M": 512}  # along the longest side of what is made solid; 512: what process_mesh takes
_SAMPLES = 300_000  # points of a surface from which its distance to the other is measured


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    work: str
    seconds: float
    peak_bytes: int
    notes: str


def run(
    runtime: Runtime, meshes: list[str], yardsticks: bool, report: Path | None = None, history: Path | None = None
) -> int:
    """Measure and print as Markdown; returns 0.

    Args:
        meshes: keys of SIDES; each adds the lines that its size is for.
        yardsticks: also run fast-simplification, xatlas and, if it is installed, trimesh on the same meshes.
        report: where to write the numbers as JSON.
        history: JSON lines to which they are appended.
    """
    for path in filter(None, (report, history)):
        check_writable(path)
    if unavailable_reason():
        raise SettingsError(f"There is nothing to measure without Warp: {unavailable_reason()}")
    facts = measurements.facts(runtime.device, kind="mesh")
    print(f"Post-processing; {measurements.heading([facts])}\n")
    print("| work | seconds | peak memory | result |\n|---|---|---|---|")
    rows: list[Row] = []
    for name in meshes:
        start = len(rows)
        raw, voxels = _raw(SIDES[name], runtime.device)
        for row in _lines(runtime, name, raw, voxels, yardsticks):
            rows.append(row)
            print(f"| {row.work} | {row.seconds:.2f} | {row.peak_bytes / 1e9:.2f} GB | {row.notes} |", flush=True)
        if history:  # as it becomes known: the larger meshes may not fit
            measurements.append(history, ({**facts, "mesh": name, **asdict(row)} for row in rows[start:]))
    if report:
        with writing(report) as temporary:
            temporary.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    return 0


def _raw(side: int, device: torch.device) -> tuple[stages.Mesh, stages.PBRVoxels]:
    """A spoiled mesh and the voxels on it, whose colour is their place in the cube."""
    vertices, faces = surface_net(bench_field, side, device, STEEPEST)
    cells = torch.unique(((vertices + 0.5) * side).long().clamp(0, side - 1), dim=0)
    place = (cells + 0.5) / side
    attrs = torch.cat([place, place.flip(1)], 1)
    voxels = stages.PBRVoxels(SparseTensor(Voxels.single(cells.int()), attrs), side)
    return stages.Mesh(*spoil(vertices, faces)), voxels


def _lines(runtime: Runtime, name: str, raw: stages.Mesh, voxels: stages.PBRVoxels, yardsticks: bool):
    """The lines of the table for a mesh."""
    target_faces = {"100 k": 20_000, "10 M": 500_000}.get(name, 200_000)
    row, mesh = _measure(
        runtime, f"{name} dirty faces -> clean {target_faces:,}", lambda: _process(runtime, raw, target_faces)
    )
    whole = _process(runtime, raw, len(raw.faces)).to(runtime.device)  # clean, and with all of its faces
    yield replace(row, notes=f"{_mesh_notes(mesh)}; {_distance(whole, mesh)}")
    if yardsticks:
        simplify = runtime.backends.pick(SIMPLIFY, "cpu", "fast-simplification")
        at_first = Mesh(whole.vertices, whole.faces).to("cpu")
        row, found = _measure(
            runtime,
            f"of this the simplifying, by fast-simplification to {len(mesh.faces):,}",
            lambda: simplify(at_first, len(mesh.faces), lambda: None),
        )
        yield replace(row, notes=_distance(whole, stages.Mesh(found.vertices, found.faces)))
        if name == "1 M" and find_spec("trimesh"):
            row, report = _measure(runtime, "of this the repairs, by trimesh", lambda: _trimesh(raw), calls=1)
            yield replace(row, notes=_report_notes(report.as_dict()))
    if cells := _SOLID_CELLS.get(name):
        solid = runtime.backends.pick(SOLID, runtime.device)
        work = f"{name} faces -> solid at {cells} cells"
        row, (closed, _) = _measure(runtime, work, lambda: solid(Mesh(whole.vertices, whole.faces), cells))
        yield replace(row, notes=_report_notes(closed.report.as_dict()))
    if name == "3 M":
        for size in (2048, 4096):
            row, textured = _measure(
                runtime,
                f"unwrap {target_faces:,} faces and bake {size} from {name}",
                lambda size=size: _bake(runtime, mesh, voxels, size, raw),
            )
            bake = runtime.records[-1]
            yield replace(row, notes=_bake_notes(textured))
            yield Row(f"of these baking {size}", bake.seconds, bake.peak_bytes, "")
    for count in {"1 M": (200_000, 500_000), "10 M": (1_000_000,)}.get(name, ()):
        other = mesh if count == target_faces else _process(runtime, raw, count)
        here = other.to(runtime.device)
        choices = {"": runtime.backends.pick(UNWRAP, runtime.device, "warp")}
        if yardsticks and count == 200_000:
            split = runtime.backends.pick(UNWRAP, "cpu", "xatlas")
            choices |= {" by xatlas, split": split, " by xatlas, whole": partial(split, chunk_faces=count)}
        for by, unwrap in choices.items():
            row, found = _measure(
                runtime,
                f"unwrap {len(other.faces):,} faces{by}",
                lambda unwrap=unwrap, here=here: unwrap(here.vertices, here.faces, 2048, 4, lambda: None),
                calls=1 if by else 2,
            )
            yield replace(row, notes=", ".join(f"{key} {value:.4g}" for key, value in found[3].items()))
    if name != "1 M":
        webp = "webp" if name == "10 M" else "png"
        row, size = _measure(
            runtime,
            f"raw {name} dirty faces to GLB, {target_faces:,} faces, 2048, {webp}",
            lambda: _whole(runtime, raw, voxels, target_faces, webp),
        )
        shares = ", ".join(f"{record.stage} {record.seconds:.2f} s" for record in runtime.records)
        yield replace(row, notes=f"{size / 1e6:.1f} MB; {shares}")


def _measure(runtime: Runtime, work: str, call: Callable, calls: int = 2):
    """A line without notes, and what the call returned: of the second call, as kernels are compiled in the first."""

    def once():
        runtime.records.clear()
        with PeakMemory(runtime.device) as memory:
            start = time.perf_counter()
            result = call()
            synchronise(runtime.device)
            seconds = time.perf_counter() - start
        # stages begin their counts anew
        return Row(work, seconds, max([memory.peak, *(record.peak_bytes for record in runtime.records)]), ""), result

    for _ in range(calls - 1):
        once()
    return once()


def _process(runtime: Runtime, raw: stages.Mesh, faces: int) -> stages.Mesh:
    return stages.process_mesh(runtime, raw, faces)


def _bake(runtime: Runtime, mesh: stages.Mesh, voxels: stages.PBRVoxels, size: int, raw: stages.Mesh):
    return stages.bake_texture(runtime, mesh, voxels, size, original=raw)


def _whole(runtime: Runtime, raw: stages.Mesh, voxels: stages.PBRVoxels, faces: int, image_format: str) -> int:
    """From the raw mesh to a file; its size in bytes."""
    textured = _bake(runtime, _process(runtime, raw, faces), voxels, 2048, raw)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "bench.glb")
        stages.export_mesh(runtime, textured, path, stages.ExportSettings(image_format=image_format), textured.facts)
        return path.stat().st_size


def _trimesh(raw: stages.Mesh) -> MeshReport:
    """What trimesh's repairs make of a mesh."""
    import trimesh

    mesh = trimesh.Trimesh(raw.vertices.cpu().numpy(), raw.faces.cpu().numpy(), process=True, validate=True)
    trimesh.repair.fill_holes(mesh)
    trimesh.repair.fix_normals(mesh)
    return Mesh(torch.tensor(mesh.vertices).float(), torch.tensor(mesh.faces).int()).report


def _mesh_notes(mesh: stages.Mesh) -> str:
    return _report_notes(mesh.facts["mesh"])


def _report_notes(facts: dict) -> str:
    kinds = ("non_manifold_edges", "inconsistent_edges", "boundary_edges")
    return f"{facts['faces']:,} faces, " + ", ".join(f"{facts[kind]} {kind.replace('_', ' ')}" for kind in kinds)


def _bake_notes(textured: stages.TexturedMesh) -> str:
    facts = textured.facts
    return f"utilisation {facts['utilisation']:.2f}, {facts['charts']} charts, {facts['texels_far']} texels far"


def _distance(whole: stages.Mesh, mesh: stages.Mesh) -> str:
    """Mean and largest distance between two surfaces, both ways, in shares of the bounding box's diagonal."""
    mesh = mesh.to(whole.vertices.device)
    diagonal = (whole.vertices.amax(0) - whole.vertices.amin(0)).norm()
    found = [_samples_to(a, b) / diagonal for a, b in ((whole, mesh), (mesh, whole))]
    mean, largest = sum(each.mean().item() for each in found) / 2, max(each.max().item() for each in found)
    return f"distance {mean:.1e} mean, {largest:.1e} most"


def _samples_to(source: stages.Mesh, target: stages.Mesh) -> torch.Tensor:
    """Distances of random points of one surface to the other."""
    corners = source.vertices[source.faces.long()]
    area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=1)
    random = torch.Generator(area.device).manual_seed(0)
    pick = torch.searchsorted(
        area.double().cumsum(0) / area.double().sum(),
        torch.rand(_SAMPLES, generator=random, device=area.device).double(),
    )
    weights = torch.rand(_SAMPLES, 3, generator=random, device=area.device).clamp_min(1e-9).log()
    weights = (weights / weights.sum(1, keepdim=True))[:, :, None]
    points = (corners[pick.clamp_max(len(corners) - 1)] * weights).sum(1)
    return Surface(target.vertices, target.faces).closest(points).distance
