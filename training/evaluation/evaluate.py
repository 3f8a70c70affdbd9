"""Quality of a checkpoint on held-out objects, through pipeline.stages itself, and of its autoencoders alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from statistics import median
from typing import cast

import numpy as np
import torch
from PIL import Image

from pipeline import stages
from pipeline.errors import EmptyResultError
from pipeline.image import prepare
from pipeline.mesh import Mesh
from pipeline.mesh.grid.dual_grid import dual_grid_to_mesh
from pipeline.mesh.query.surface import Surface
from pipeline.mesh.topology.half_edges import components
from pipeline.models import build
from pipeline.models.sparse_unet import FlexiDualGridVaeDecoder
from pipeline.render import Camera, Subject, render
from pipeline.runtime import Runtime
from pipeline.sparse import SparseTensor
from pipeline.spec import SHAPE_DECODER, STRUCTURE_DECODER, TEXTURE_DECODER
from pipeline.weights import Models, open_checkpoint

from .. import objects, pictures, truth
from ..networks import Design, StructureEncoder, new
from ..tasks import SHAPE_VAE, STRUCTURE_VAE, TEXTURE_VAE, Weights
from .goals import Goal

_SIDE = 192  # pixels of the pictures that are compared
_POINTS = 8192  # on each surface, for its distance from another one
_STRAY = 0.01  # share of a mesh's area above which a fragment counts
_FACES = 500_000  # that the command line allows by default
_LEAN = 120_000  # faces that an object of these classes needs at most,
_HANDLES = 4  # and by how much its Euler number may be off


@dataclass(frozen=True)
class Measures:
    """One result against the truth. nan where there is nothing to measure.

    structure_iou: occupancy on the structure grid. silhouette_iou: from the view of the picture. colour_error: mean
    absolute difference of base colours, RGB 0-1 (sRGB), where both show a surface from that view. chamfer: mean of the
    two mean distances between the surfaces, over the diagonal of the bounding box. sound: at least one part, and no
    more parts above 1 % of the area than the object has.

    Of the mesh as the command line finishes it by default: its open edges, how far its Euler number is from the
    truth's, its faces; ready: none, at most 4 and at most 120,000.
    """

    structure_iou: float
    silhouette_iou: float
    colour_error: float
    chamfer: float
    sound: float
    open_edges: float = math.nan
    euler_off: float = math.nan
    faces: float = math.nan
    ready: float = math.nan


# What a checkpoint must reach on held-out objects to be bundled.
GOALS = (
    Goal("structure_iou", 0.55, True),
    Goal("silhouette_iou", 0.85, True),
    Goal("colour_error", 0.12, False),
    Goal("chamfer", 0.03, False),
    Goal("sound", 0.95, True, share=True),
    Goal("ready", 0.9, True, share=True),
)
# What its autoencoders must reach, which bound what flows can.
AUTOENCODER_GOALS = (
    Goal("structure_iou", 0.95, True),
    Goal("colour_error", 0.04, False),
    Goal("chamfer", 0.006, False),
)


@dataclass(frozen=True)
class Row:
    """One object: its class, its measures, and the pictures (shown, result, truth), each [S, S, 3] uint8."""

    number: int
    name: str
    measures: Measures
    shown: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None


@dataclass(frozen=True, eq=False)
class Solid(Mesh):
    """A surface with its material per vertex, pbr [V, 6]."""

    pbr: torch.Tensor

    def picture(self, camera: Camera, mode: str = "base_color") -> np.ndarray:
        """[S, S, 4] float in 0-1."""
        subject = Subject(self.vertices, self.faces, colours=self.pbr.clamp(0, 1))
        return render(subject, camera, _SIDE, mode).astype(np.float32) / 255


def evaluate(
    runtime: Runtime, models: Models, design: Design, count: int, seed: int, report: Callable[[Row], None]
) -> list[Row]:
    """Held-out objects, each from its picture by pipeline.render to voxels and mesh."""
    random = torch.Generator().manual_seed(seed)
    held = objects.sample(count, random, runtime.device, held_out=True)
    rows = []
    for number in range(count):
        one = held.select(slice(number, number + 1))
        grids = truth.dual_grids(one, design.resolution)
        shown, full = pictures.rendered(one, grids, random, design.image_size)
        rows.append(_row(runtime, models, design, one, grids, shown.cameras.camera(0), full[0], number, seed + number))
        report(rows[-1])
    return rows


def _row(runtime, models, design: Design, one, grids, camera: Camera, picture: Image.Image, number: int, seed: int):
    real = Solid(*grids.mesh(0))
    occupied = truth.occupancy(grids.voxels, design.resolution, design.structure)[0, 0]
    image = prepare(picture)
    try:
        structure, raw, result = _generate(runtime, models, image, seed)
    except EmptyResultError:
        return Row(number, one.names[0], Measures(0.0, 0.0, math.nan, math.nan, 0.0, ready=0.0))
    diagonal = 2 * one.half[0].norm().item()
    seen, expected = result.picture(camera), real.picture(camera)
    measures = Measures(
        overlap(structure.occupied.to(occupied.device), occupied),
        silhouette(seen, expected),
        colour_error(seen, expected),
        chamfer(result, real) / diagonal,
        float(is_sound(result, real)),
        *_finished(runtime, raw, real),
    )
    drawn, wanted = (on_grey(each.picture(camera, "pbr")) for each in (result, real))
    stills = np.asarray(image.resize((_SIDE, _SIDE))), drawn, wanted
    return Row(number, one.names[0], measures, stills)


def _finished(runtime: Runtime, raw: stages.Mesh, real: Solid) -> tuple[float, float, float, float]:
    """The last four of the measures."""
    made = stages.process_mesh(runtime, raw, _FACES, shells="auto").facts["mesh"]
    opened, off, faces = made["boundary_edges"], abs(made["euler"] - real.report.euler), made["faces"]
    return opened, off, faces, float(opened == 0 and off <= _HANDLES and faces <= _LEAN)


def _generate(
    runtime: Runtime, models: Models, image: Image.Image, seed: int
) -> tuple[stages.Structure, stages.Mesh, Solid]:
    """The stages up to the raw mesh, which has a vertex for every voxel; that once more with its materials."""
    path = models.checkpoint.default_pipeline_type
    condition = stages.encode_images(runtime, models, [image], path.image_scales())
    structure = stages.sample_structure(runtime, models, condition, seed)
    shape = stages.sample_shape(runtime, models, condition, structure, path)
    texture = stages.sample_texture(runtime, models, condition, shape, path)
    return structure, *_decoded(runtime, models, shape, texture)


def solid_of(runtime: Runtime, models: Models, shape: stages.Latent, texture: stages.Latent) -> Solid:
    """Both latents decoded; raises EmptyResultError for a mesh without faces."""
    return _decoded(runtime, models, shape, texture)[1]


def _decoded(runtime: Runtime, models: Models, shape: stages.Latent, texture: stages.Latent):
    """The raw mesh, and it with its materials: (stages.Mesh, Solid)."""
    mesh, subdivisions = stages.decode_shape(runtime, models, shape)
    voxels = stages.decode_texture(runtime, models, texture, subdivisions)
    if len(mesh.faces) == 0:
        raise EmptyResultError("The mesh has no faces.")
    return mesh, Solid(mesh.vertices, mesh.faces, voxels.sparse.feats)


def autoencode(
    models: Models, design: Design, weights: Weights, device: torch.device, count: int, seed: int
) -> list[Row]:
    """Held-out objects through the autoencoders alone: truth -> latent (its mean) -> the shipped decoders."""
    random = torch.Generator().manual_seed(seed)
    held = objects.sample(count, random, device, held_out=True)
    coder = _Autoencoders(models, design, weights, device)
    return [
        Row(number, held.names[number], coder.measure(held.select(slice(number, number + 1))))
        for number in range(count)
    ]


class _Autoencoders:
    def __init__(self, models: Models, design: Design, weights: Weights, device: torch.device) -> None:
        self.design, self.device = design, device
        self.structure = _encoder(StructureEncoder(**design.structure_encoder), weights(STRUCTURE_VAE), device)
        self.shape = _encoder(new(design.shape_encoder), weights(SHAPE_VAE), device)
        self.texture = _encoder(new(design.texture_encoder), weights(TEXTURE_VAE), device)
        self.decoders = {
            role: models.get(role, device, torch.float32)
            for role in (STRUCTURE_DECODER, SHAPE_DECODER, TEXTURE_DECODER)
        }

    @torch.no_grad()
    def measure(self, one: objects.Objects) -> Measures:
        grids = truth.dual_grids(one, self.design.resolution)
        occupied = truth.occupancy(grids.voxels, self.design.resolution, self.design.structure)
        decoded = self.decoders[STRUCTURE_DECODER](self.structure(occupied.float())[0]) > 0
        decoder = cast(FlexiDualGridVaeDecoder, self.decoders[SHAPE_DECODER])
        raw, subdivisions = decoder(self.shape(grids.voxels, grids.offsets, grids.crossed)[0])
        offsets, crossed, split = decoder.dual_grid(raw.feats)
        mesh = dual_grid_to_mesh(raw.voxels, offsets, crossed, self.design.resolution, split)
        texture, _ = self.texture(SparseTensor(grids.voxels, 2 * grids.pbr - 1))
        pbr = self.decoders[TEXTURE_DECODER](texture, subdivisions)[0].feats * 0.5 + 0.5
        row = raw.voxels.find(grids.voxels.coords)
        both = row >= 0
        error = (pbr[row[both], :3].clamp(0, 1) - grids.pbr[both, :3]).abs().mean().item()
        real, result = Solid(*grids.mesh(0)), Solid(*mesh, pbr)
        distance = chamfer(result, real) / (2 * one.half[0].norm().item())
        return Measures(overlap(decoded, occupied), math.nan, error, distance, float(is_sound(result, real)))


def _encoder(network: torch.nn.Module, made, device: torch.device) -> torch.nn.Module:
    network.load_state_dict({key[8:]: value for key, value in made.items() if key.startswith("encoder.")})
    return network.to(device).eval()


def overlap(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Intersection over union of two bool tensors."""
    return ((found & expected).sum() / (found | expected).sum().clamp_min(1)).item()


def silhouette(seen: np.ndarray, expected: np.ndarray) -> float:
    """Intersection over union of what two RGBA pictures cover."""
    a, b = seen[..., 3] > 0.5, expected[..., 3] > 0.5
    return float((a & b).sum() / max(1, (a | b).sum()))


def colour_error(seen: np.ndarray, expected: np.ndarray) -> float:
    """Mean absolute difference of RGB where both pictures are covered; nan if nowhere."""
    both = (seen[..., 3] > 0.5) & (expected[..., 3] > 0.5)
    return float(np.abs(seen[both, :3] - expected[both, :3]).mean()) if both.any() else math.nan


def chamfer(found: Solid, expected: Solid) -> float:
    """Mean of the two mean distances between surfaces, world units: from points on one, alike in area, to the other;
    nan if one has no faces."""
    if min(len(found.faces), len(expected.faces)) == 0:
        return math.nan
    ends = (found, expected), (expected, found)
    return float(np.mean([_distances(a, b).mean().item() for a, b in ends]))


def f_score(found: Solid, expected: Solid, limit: float) -> float:
    """Harmonic mean of precision and recall: the shares of each surface within `limit`, world units, of the other."""
    if min(len(found.faces), len(expected.faces)) == 0:
        return math.nan
    ends = (found, expected), (expected, found)
    precision, recall = ((_distances(a, b) <= limit).double().mean().item() for a, b in ends)
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def _distances(start: Solid, end: Solid) -> torch.Tensor:
    """[_POINTS] from points on one surface to the other, which may be on another device."""
    return Surface(end.vertices, end.faces).closest(_points(start).to(end.vertices.device)).distance


def _points(solid: Solid) -> torch.Tensor:
    """[_POINTS, 3] on a surface, the same for the same surface."""
    random = torch.Generator().manual_seed(0)
    corners = solid.vertices[solid.faces.long()].cpu()
    area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=1).double()
    at = (torch.rand(_POINTS, generator=random, dtype=torch.float64) * area.sum()).clamp(max=float(area.sum()))
    face = torch.searchsorted(area.cumsum(0), at).clamp(max=len(area) - 1)
    u, v = torch.rand(2, _POINTS, 1, generator=random)
    flip = u + v > 1
    u, v = torch.where(flip, 1 - u, u), torch.where(flip, 1 - v, v)
    a, b, c = corners[face].unbind(1)
    return (a + u * (b - a) + v * (c - a)).to(solid.vertices.device)


def is_sound(found: Solid, expected: Solid) -> bool:
    """At least one part, and no more of them above 1 % of the area than the truth has."""
    return 1 <= parts(found.vertices, found.faces) <= max(1, parts(expected.vertices, expected.faces))


def parts(vertices: torch.Tensor, faces: torch.Tensor) -> int:
    """Pieces that are connected, be it by a vertex, with more than 1 % of a mesh's area."""
    if len(faces) == 0:
        return 0
    a, b, c = faces.long().unbind(1)
    label, count = components(torch.cat([a, b]), torch.cat([b, c]), len(vertices))
    area = torch.linalg.cross(vertices[b] - vertices[a], vertices[c] - vertices[a]).norm(dim=1)
    total = area.new_zeros(count).index_add_(0, label[a].long(), area)
    return int((total > _STRAY * total.sum()).sum())


def verdicts(rows: Sequence[Row], goals: Sequence[Goal]) -> list[tuple[Goal, float, bool]]:
    """For each goal what was reached and whether that is enough. Objects without a value count as the worst."""
    found = []
    for goal in goals:
        worst = float("-inf") if goal.at_least else float("inf")
        values = [getattr(row.measures, goal.measure) for row in rows]
        values = [worst if value != value else value for value in values]
        reached = sum(values) / len(values) if goal.share else median(values)
        found.append((goal, reached, goal.reached(reached)))
    return found


def table(rows: Sequence[Row]) -> list[dict]:
    """Rows for a CSV file."""
    names = [field.name for field in fields(Measures)]
    return [
        {"number": row.number, "name": row.name, **{n: round(getattr(row.measures, n), 5) for n in names}}
        for row in rows
    ]


def contact_sheet(rows: Sequence[Row], columns: int = 4) -> Image.Image:
    """Picture, result and truth of every object side by side, the worst silhouettes first."""
    worst = sorted(rows, key=lambda row: row.measures.silhouette_iou)
    strips = [np.concatenate(row.shown, 1) for row in worst if row.shown]
    blank = np.zeros((_SIDE, 3 * _SIDE, 3), np.uint8)
    strips += [blank] * (-len(strips) % columns or (columns if not strips else 0))
    lines = [np.concatenate(strips[first : first + columns], 1) for first in range(0, len(strips), columns)]
    return Image.fromarray(np.concatenate(lines))


def on_grey(picture: np.ndarray) -> np.ndarray:
    """[..., 4] straight alpha, 0-1 -> [..., 3] uint8 on middle grey."""
    alpha = picture[..., 3:]
    return np.round((picture[..., :3] * alpha + 0.5 * (1 - alpha)) * 255).astype(np.uint8)


def open_models(folder: str) -> Models:
    """The models of a checkpoint folder."""
    return Models(open_checkpoint(folder), build)
