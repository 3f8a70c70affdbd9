"""Prints the table of simplified meshes of docs/performance.md, beside other packages where they are installed.

    python benchmarks/simplified.py FOLDER [--faces 2000 20000] [--voxels 256] [--each]

FOLDER holds meshes: what trimesh reads, or .npz with v [V, 3] and f [F, 3]; those with no more faces than asked for are
left out. --voxels: raw dual grids of them are simplified, of so many voxels a side. Every mesh is cleaned, simplified
as `--faces` does, and compared with the mesh as it was read, both ways, from 25,000 points of each. Others: `decimate`
of pyvista (VTK, volume kept) and pymeshlab's quadric edge collapse, of the same cleaned mesh.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline import mesh as geometry
from pipeline.mesh import CLEAN, CROSSING
from pipeline.mesh.grid.dual_grid import dual_grid_to_mesh, mesh_to_dual_grid
from pipeline.mesh.query.surface import Surface
from pipeline.mesh.repair.clean import CleanSettings
from pipeline.runtime import Runtime
from pipeline.sparse import Voxels
from pipeline.stages import table
from pipeline.stages.finishing.simplify import simplify_mesh

_POINTS = 25_000
_SLIVER = 5.0  # degrees
_SIDE = 0.96  # of the cube of 1, that meshes are scaled to
_LEAST = 0.02e-4  # of the diagonal: distances below count as that in ratios
_OURS = "ours"
_SETTINGS = CleanSettings(max_hole_perimeter=0.03)
Simplify = Callable[[geometry.Mesh, int], geometry.Mesh]


def main() -> None:
    parser = argparse.ArgumentParser(description="Prints the table of simplified meshes.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--faces", type=int, nargs="+", default=[2000, 20000])
    parser.add_argument("--voxels", type=int, default=0)
    parser.add_argument("--each", action="store_true", help="a line for each mesh, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    runtime = Runtime("cpu", table())
    rows: dict[str, Simplify] = {_OURS: lambda mesh, count: simplify_mesh(runtime, mesh, count, None)[0], **_others()}
    found: dict[tuple[int, str], list[dict[str, float]]] = {}
    for path in sorted(each for each in options.folder.iterdir() if each.is_file()):
        source = _read(path)
        raw = _dual(source, options.voxels) if options.voxels else source
        cleaned = runtime.backends.pick(CLEAN, raw.vertices.device)(raw, _SETTINGS)
        for count in options.faces:
            if count >= len(cleaned.faces):
                continue
            for name, simplify in rows.items():
                start = time.process_time()
                made = simplify(cleaned, count)
                spent = time.process_time() - start
                result = {**_measured(runtime, source, made), "seconds": spent}
                found.setdefault((count, name), []).append(result)
                if options.each:
                    print(path.stem, count, name, {key: round(value, 7) for key, value in result.items()}, flush=True)
    _print(found, list(rows))


def _others() -> dict[str, Simplify]:
    def vtk(mesh: geometry.Mesh, count: int) -> geometry.Mesh:
        faces = mesh.faces.numpy().astype(np.int64)
        given = pyvista.PolyData.from_regular_faces(mesh.vertices.double().numpy(), faces)
        made = given.decimate(1 - count / len(faces), volume_preservation=True)
        return _mesh(made.points, made.regular_faces)

    def meshlab(mesh: geometry.Mesh, count: int) -> geometry.Mesh:
        given = pymeshlab.MeshSet()
        given.add_mesh(pymeshlab.Mesh(mesh.vertices.double().numpy(), mesh.faces.numpy()))
        given.meshing_decimation_quadric_edge_collapse(targetfacenum=count, preserveboundary=True, preservenormal=True)
        made = given.current_mesh()
        return _mesh(made.vertex_matrix(), made.face_matrix())

    rows: dict[str, Simplify] = {}
    try:
        import pyvista

        rows["VTK"] = vtk
    except ImportError:
        pass
    try:
        import pymeshlab

        rows["pymeshlab"] = meshlab
    except ImportError:
        pass
    return rows


def _mesh(vertices, faces) -> geometry.Mesh:
    return geometry.Mesh(torch.tensor(np.asarray(vertices)).float(), torch.tensor(np.asarray(faces)).int())


def _read(path: Path) -> geometry.Mesh:
    """Scaled into the cube, vertices in one place made one."""
    if path.suffix == ".npz":
        data = np.load(path)
        vertices, faces = data["v"], data["f"]
    else:
        import trimesh

        read = trimesh.load(path, process=False)
        whole = read.to_geometry() if isinstance(read, trimesh.Scene) else read
        vertices, faces = np.asarray(whole.vertices), np.asarray(whole.faces)
    used, faces = np.unique(faces, return_inverse=True)
    vertices = vertices[used].astype(np.float64)
    low, high = vertices.min(0), vertices.max(0)
    vertices = ((vertices - (low + high) / 2) / (high - low).max() * _SIDE).astype(np.float32)
    vertices, place = np.unique(vertices, axis=0, return_inverse=True)
    faces = place.reshape(-1)[faces.reshape(-1, 3)]
    real = (faces != np.roll(faces, 1, 1)).all(1)
    return _mesh(vertices, faces[real])


def _dual(mesh: geometry.Mesh, side: int) -> geometry.Mesh:
    grid = mesh_to_dual_grid(mesh.vertices.numpy(), mesh.faces.numpy(), side)
    coords, offsets, crossed = (torch.from_numpy(each) for each in (grid.coords, grid.offsets, grid.crossed))
    return geometry.Mesh(*dual_grid_to_mesh(Voxels.single(coords), offsets, crossed, side))


def _measured(runtime: Runtime, source: geometry.Mesh, made: geometry.Mesh) -> dict[str, float]:
    diagonal = float((source.vertices.amax(0) - source.vertices.amin(0)).norm())
    ways = [
        Surface(to.vertices, to.faces).closest(_points(of)).distance.double() / diagonal
        for of, to in ((made, source), (source, made))
    ]
    crossing = runtime.backends.pick(CROSSING, made.vertices.device)(made.vertices, made.faces)
    return {
        "mean": float(sum(each.mean() for each in ways)) / 2,
        "largest": max(float(each.max()) for each in ways),
        "slivers": float((_least_angles(made) < _SLIVER).double().mean()),
        "crossing": int(crossing.count_nonzero()),
        "faces": len(made.faces),
    }


def _points(mesh: geometry.Mesh) -> torch.Tensor:
    """[N, 3] points of a surface, the same number on every area of the same size."""
    corners, random = mesh.vertices[mesh.faces.long()], torch.Generator().manual_seed(0)
    area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=1).double()
    rising = area.cumsum(0)
    face = torch.searchsorted(rising, torch.rand(_POINTS, generator=random, dtype=torch.float64) * rising[-1])
    one, two = torch.rand(2, _POINTS, 1, generator=random)
    root = one.sqrt()
    weights = torch.cat([1 - root, root * (1 - two), root * two], 1)
    return (corners[face.clamp_max(len(area) - 1)] * weights[:, :, None]).sum(1)


def _least_angles(mesh: geometry.Mesh) -> torch.Tensor:
    corners = mesh.vertices.double()[mesh.faces.long()]
    found = torch.full((len(corners),), 180.0, dtype=torch.float64)
    for i in range(3):
        one, two = (corners[:, (i + k) % 3] - corners[:, i] for k in (1, 2))
        angle = torch.atan2(torch.linalg.cross(one, two).norm(dim=1), (one * two).sum(1))
        found = torch.minimum(found, angle.rad2deg())
    return found


def _print(found: dict[tuple[int, str], list[dict[str, float]]], names: list[str]) -> None:
    print("| | mean distance | ratio to the best other, median / worst | maximum distance | slivers | ", end="")
    print("crossing faces | seconds |\n|---|--:|--:|--:|--:|--:|--:|")
    for (count, name), each in found.items():
        others = [found[count, other] for other in names if other != _OURS]
        ratio = ""
        if others and name == _OURS:
            best = [max(min(row["mean"] for row in rows), _LEAST) for rows in zip(*others)]
            shares = [row["mean"] / least for row, least in zip(each, best)]
            ratio = f"{median(shares):.2f} / {max(shares):.2f}"
        middle = {key: median(row[key] for row in each) for key in each[0]}
        distances = f"{1e4 * middle['mean']:.2f} | {ratio} | {1e4 * middle['largest']:.3g}"
        seconds = f"{sum(row['seconds'] for row in each):.1f}"
        print(f"| {len(each)} meshes to {count:,}, {name} | {distances} | ", end="")
        print(f"{100 * middle['slivers']:.1f} % | {middle['crossing']:.0f} | {seconds} |")


if __name__ == "__main__":
    main()
