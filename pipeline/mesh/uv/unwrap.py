"""UV unwrapping: charts by direction, laid flat as rigidly as possible, packed texel by texel without overlaps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Thread

import torch

from ...errors import EmptyResultError, SettingsError
from ...sums import running_sums
from ..bake.raster import MAX_SIZE
from ..checks import check_mesh
from .charts import ChartConfig, Dual, axes_of, dual_graph, merge, split
from .fewer import fewer
from .pack import PackConfig, chart_boxes, overlapping, pack
from .parameterise import Pieces, align, cut, flat_shapes, flatten, folds, signed_areas, stretches

_FINEST = 4096  # overlaps are sought at twice the texture's size, but not finer than this
_HALVINGS = 10  # charts that still do not lie flat after so many cuts fall apart into single faces
_REPACKS = 3  # attempts to pack beyond that
_NEGLIGIBLE = 1e-12  # of the charts' area: a face turned over by rounding
_FULL = 0.75  # share of the texture that charts will take, about
_ROOM = 4  # times the texture's area, for the boxes of charts


@dataclass(frozen=True)
class UnwrapConfig:
    """How faces are gathered into charts, and how these are packed."""

    charts: ChartConfig = field(default_factory=ChartConfig)
    packing: PackConfig = field(default_factory=PackConfig)
    # L2 stretch (see unwrap) up to which charts are merged for fewer seams; None: they stay as they were found.
    merged_stretch: float | None = None


# Charts of narrower cones first, which stretch little, as merging does not undo what a chart has from the start.
FEWER_SEAMS = UnwrapConfig(charts=ChartConfig(cone=math.radians(60)), merged_stretch=1.15)


def unwrap(
    vertices: torch.Tensor,
    faces: torch.Tensor,
    size: int,
    padding: int,
    tick: Callable[[], None],
    config: UnwrapConfig = UnwrapConfig(),
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict]:
    """Cut a mesh into charts that lie flat and pack them into a square texture.

    Any triangles will do: open, closed, non-manifold, disconnected, without area. No face is mirrored: in the picture
    it looks as it does from the side from which it is counter-clockwise. No texel's centre is covered by two faces. The
    same input gives the same result on one device, with any number of threads. On a CPU torch uses one thread for it,
    the kernels all cores.

    Args:
        vertices: [V, 3] finite. faces: [F, 3] int. On a CPU or CUDA; packing, and what is left when
            few groups or points are, runs on the CPU in either case.
        size: texels along a side, 1 - MAX_SIZE. padding: texels left free between charts, at least one.
        tick: called between steps; may raise to cancel.

    Returns:
        source [V'] int64 (the vertex each new vertex copies), faces [F, 3] int32 in the given order, uvs [V', 2]
        float32 in 0-1, v downwards, all on the device of the vertices, and facts: "charts"; "utilisation", the area of
        the faces in the texture, of 1; "stretch", the 95th percentile, by area on the surface, of the faces' L2 stretch
        (Sander et al. 2001: root mean square of the singular values of the map from the texture to the surface), over
        that of a texture which keeps all areas: 1 is isometric.

    Raises:
        EmptyResultError: no face, or none that has an area. MeshError: see check_mesh.
        SettingsError: a size or padding out of range, charts that do not fit into the texture at any scale.
    """
    mesh = _Mesh.of(vertices, faces, size, padding)
    tick()
    with _one_thread():
        return _unwrap(mesh, size, padding, tick, config)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Torch on one thread for what the calling thread does on the CPU: these thousands of short operations gain
    nothing from a second one but wait for it (6 to 11 times as long on two shared cores, 47 k faces), and sums would
    depend on the number of threads.

    Torch keeps that number for each thread, and one for threads that have not used it yet, which another thread gives
    back at once: nothing else of this process is slower meanwhile, nor stays so.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    giving_back = Thread(target=torch.set_num_threads, args=(before,))
    giving_back.start()
    giving_back.join()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _unwrap(mesh: _Mesh, size: int, padding: int, tick: Callable[[], None], config: UnwrapConfig) -> tuple:
    labels, corners = _lay_flat(mesh, merge(mesh.dual, tick, config.charts), size, 0, tick, config.charts)
    if config.merged_stretch is not None:
        mesh, labels, corners = _merged(mesh, labels, corners, size, config.merged_stretch, tick)
    charts, left = 0, 0
    for attempt in range(_HALVINGS + _REPACKS):
        charts = int(labels.max()) + 1
        pieces = cut(mesh.faces, labels, len(mesh.vertices), charts)
        points = torch.zeros(len(pieces.source), 2, dtype=torch.float64, device=labels.device)
        points[pieces.faces.long()] = corners
        tick()
        area = signed_areas(points, pieces.faces).abs().sum().item()
        uvs = pack(points, pieces, labels, area, size, padding, tick, config.packing).float()
        bad = torch.zeros(charts, dtype=torch.bool, device=labels.device)
        twice = _overlapping(uvs, pieces.faces, size)
        bad[labels[twice]] = True
        if not bad.any():  # charts are checked before they are packed, so this is the rule
            covered = signed_areas(uvs.double(), pieces.faces).abs().sum().item()
            facts = {"charts": charts, "utilisation": covered, "stretch": _stretch(mesh.rest, uvs, pieces.faces)}
            return mesh.source[pieces.source], pieces.faces, uvs, facts
        left = int(bad.sum())
        smaller = split(mesh.dual, labels, charts, bad, twice, config.charts)
        smaller, moved = _lay_flat(mesh, smaller, size, min(attempt, _HALVINGS), tick, config.charts)
        again = smaller >= 0
        corners[again] = moved[again]
        labels = torch.where(again, charts + smaller, labels).unique(return_inverse=True)[1]
    raise SettingsError(
        f"{left} of {charts:,} charts still overlap in a texture of {size} pixels: ask for another size."
    )


@dataclass(frozen=True)
class _Mesh:
    """vertices [V, 3] float64 within a unit cube, faces [F, 3] int32, their dual graph and flat shapes, total area;
    source [V] int64, the given vertex that each of them is."""

    vertices: torch.Tensor
    faces: torch.Tensor
    dual: Dual
    rest: torch.Tensor
    area: float
    source: torch.Tensor

    @staticmethod
    def of(vertices: torch.Tensor, faces: torch.Tensor, size: int, padding: int) -> _Mesh:
        check_mesh(vertices, faces, some_faces=True)
        if not 1 <= size <= MAX_SIZE:
            raise SettingsError(f"A texture of {size} pixels was asked for; 1 to {MAX_SIZE:,} will work.")
        if padding < 0:
            raise SettingsError(f"A padding of {padding} texels was asked for; it must be 0 or more.")
        points, faces = vertices.detach().double(), faces.detach().int().contiguous()
        low, high = points.amin(0), points.amax(0)
        points = (points - low) / (high - low).amax().clamp_min(1e-300)
        rest = flat_shapes(points, faces)
        area = (rest[:, 1, 0] * rest[:, 2, 1]).sum().item() / 2
        if area <= 0:
            raise EmptyResultError(f"None of the mesh's {len(faces):,} faces has an area, so it cannot be unwrapped.")
        return _Mesh(
            points, faces, dual_graph(points, faces), rest, area, torch.arange(len(points), device=points.device)
        )

    def cut_open(self, faces: torch.Tensor) -> _Mesh:
        """With faces [F, 3] int32 of vertices of their own, each a copy of one that there is."""
        source = torch.empty(int(faces.max()) + 1, dtype=torch.int64, device=faces.device)
        source[faces.reshape(-1).long()] = self.faces.reshape(-1).long()
        return replace(self, vertices=self.vertices[source], faces=faces, source=self.source[source])


def _lay_flat(
    mesh: _Mesh, labels: torch.Tensor, size: int, attempts: int, tick: Callable[[], None], config: ChartConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Flatten charts, and cut those which fold or overlap themselves until all lie flat.

    Args:
        labels: [F] int64 charts, -1 for faces that are not concerned. size: of the texture. attempts: cuts so far.

    Returns:
        [F] int64 charts, -1 as before; positions of the faces' corners [F, 3, 2] float64 in the mesh's unit.
    """
    done = torch.full_like(labels, -1)
    corners = torch.zeros(len(labels), 3, 2, dtype=torch.float64, device=labels.device)
    charts, resolution = 0, min(2 * size, _FINEST)
    scale = math.sqrt(_FULL / mesh.area) * resolution
    for attempt in range(attempts, _HALVINGS + 1):
        face = (labels >= 0).nonzero()[:, 0]
        if len(face) == 0:
            break
        single = attempt == _HALVINGS
        chart = torch.arange(len(face), device=face.device) if single else labels[face]
        count = int(chart.max()) + 1
        pieces = cut(mesh.faces[face], chart, len(mesh.vertices), count)
        sums = torch.zeros(count, 3, dtype=torch.int64, device=face.device)
        sums.index_add_(0, chart, mesh.dual.weighted[face])
        points = flatten(mesh.vertices, pieces, axes_of(sums), mesh.rest[face], tick)
        corners[face] = points[pieces.faces.long()]
        folded = torch.zeros_like(labels, dtype=torch.bool)
        bad = torch.zeros(count, dtype=torch.bool, device=face.device)
        if not single:  # one face cannot overlap
            away = folds(points, pieces, chart) | (signed_areas(points, pieces.faces) < -_NEGLIGIBLE * mesh.area)
            bad[chart[away]] = True
            folded[face] = away | _covered_twice(points, pieces, chart, bad, scale, resolution)
        good = ~bad[chart]
        number = (~bad).cumsum(0) - 1 + charts
        done[face[good]] = number[chart[good]]
        charts += int((~bad).sum())
        labels = split(mesh.dual, labels, count, bad, folded, config) if not single else torch.full_like(labels, -1)
    return done, corners


def _merged(
    mesh: _Mesh,
    labels: torch.Tensor,
    corners: torch.Tensor,
    size: int,
    limit: float,
    tick: Callable[[], None],
) -> tuple[_Mesh, torch.Tensor, torch.Tensor]:
    """Charts that lie flat, merged: the mesh cut open along seams; labels and corners as from _lay_flat."""
    resolution = min(2 * size, _FINEST)
    scale = math.sqrt(_FULL / mesh.area) * resolution

    def covers_itself(points: torch.Tensor, pieces: Pieces, chart: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
        bad = torch.zeros_like(asked)
        bad[chart[folds(points, pieces, chart)]] = True
        bad[chart[_covered_twice(points, pieces, chart, asked & ~bad, scale, resolution)]] = True
        return bad & asked

    given = mesh.faces, mesh.dual, mesh.rest, labels, corners
    labels, corners, faces = fewer(*given, limit, covers_itself, tick)
    mesh = mesh.cut_open(faces)
    pieces = cut(mesh.faces, labels, len(mesh.vertices), int(labels.max()) + 1)
    points = torch.zeros(len(pieces.source), 2, dtype=torch.float64, device=labels.device)
    points[pieces.faces.long()] = corners
    return mesh, labels, align(points, pieces)[pieces.faces.long()]


def _covered_twice(
    points: torch.Tensor, pieces: Pieces, chart: torch.Tensor, bad: torch.Tensor, scale: float, resolution: int
) -> torch.Tensor:
    """[F] bool: faces of bad charts [C] that share a texel's centre with another of the same chart, at this scale or
    at a smaller one at which the charts' boxes are not much larger than the texture: thin bent charts fill little of
    their box."""
    face = bad[chart].nonzero()[:, 0]
    area = torch.where(bad, chart_boxes(points * scale, pieces)[1].double().prod(1), 0).sum().clamp_min(1)
    texels = points * (scale * (math.sqrt(_ROOM) * resolution / area.sqrt()).clamp_max(1))
    low, sizes = chart_boxes(texels, pieces)
    twice = torch.zeros_like(chart, dtype=torch.bool)
    twice[face] = overlapping(texels, pieces.faces[face], chart[face], low, torch.where(bad[:, None], sizes, 0))
    return twice


def _overlapping(uvs: torch.Tensor, faces: torch.Tensor, size: int) -> torch.Tensor:
    """[F] bool: faces that share a texel's centre with another."""
    low = torch.zeros(1, 2, dtype=torch.int32, device=uvs.device)
    box = torch.zeros(len(faces), dtype=torch.int32, device=uvs.device)
    return overlapping(uvs.double() * size - 0.5, faces, box, low, torch.full_like(low, size))


def _stretch(rest: torch.Tensor, uvs: torch.Tensor, faces: torch.Tensor) -> float:
    """95th percentile by area of the L2 stretch; see unwrap."""
    largest, smallest = stretches(rest, uvs, faces)
    areas = rest[:, 1, 0] * rest[:, 2, 1]
    even = (areas.sum() / (2 * signed_areas(uvs.double(), faces).abs().sum())).sqrt()
    stretch, order = (((largest**2 + smallest**2) / 2).sqrt() / even).sort()
    total = running_sums(areas[order])
    return stretch[torch.searchsorted(total, 0.95 * total[-1]).clamp_max(len(stretch) - 1)].item()
