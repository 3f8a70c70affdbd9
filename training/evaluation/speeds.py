"""The quality cost of the speed settings: results of held-out objects against those of the exact setting."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from statistics import mean, median

import torch
from PIL import Image

from pipeline import stages
from pipeline.errors import EmptyResultError
from pipeline.image import prepare
from pipeline.render import Camera
from pipeline.runtime import Runtime
from pipeline.speed import EXACT, SPEEDS, Speed
from pipeline.weights import Models

from .. import objects, pictures, truth
from ..networks import Design
from .evaluate import Solid, chamfer, colour_error, f_score, overlap, solid_of

_SAMPLERS = ("structure", "shape", "texture")


@dataclass(frozen=True)
class Cost:
    """One object at one speed beside the exact setting, with the same seed; nan where there is nothing to measure.

    structure_iou: occupancy. shape_error, texture_error: norm of the latents' difference over the norm of the exact
    one, from the exact structure and the exact shape. chamfer (over the diagonal), f_score (at 1 % of the diagonal)
    and colour_error (RGB 0-1, seen from the picture's view): decoded results of whole runs. f_score_truth: against
    the object itself. seconds: all samplers of the whole run.
    """

    structure_iou: float
    shape_error: float
    texture_error: float
    chamfer: float
    f_score: float
    colour_error: float
    f_score_truth: float
    seconds: float


Report = Callable[[int, str, str, Cost], None]  # number, name of the class, speed


def compare(
    runtime: Runtime, models: Models, design: Design, count: int, seed: int, report: Report
) -> dict[str, list[Cost]]:
    """Speed -> the cost for each of `count` held-out objects."""
    random = torch.Generator().manual_seed(seed)
    held = objects.sample(count, random, runtime.device, held_out=True)
    costs: dict[str, list[Cost]] = {name: [] for name in SPEEDS}
    for number in range(count):
        one = held.select(slice(number, number + 1))
        grids = truth.dual_grids(one, design.resolution)
        shown, full = pictures.rendered(one, grids, random, design.image_size)
        judge = _Judge(Solid(*grids.mesh(0)), shown.cameras.camera(0), 2 * one.half[0].norm().item())
        for name, cost in _costs(runtime, models, prepare(full[0]), seed + number, judge):
            costs[name].append(cost)
            report(number, one.names[0], name, cost)
    return costs


@dataclass(frozen=True)
class _Judge:
    real: Solid
    camera: Camera
    diagonal: float


@dataclass(frozen=True)
class _Made:
    structure: stages.Structure
    shape: stages.Latent
    texture: stages.Latent
    solid: Solid
    seconds: float


def _costs(
    runtime: Runtime, models: Models, picture: Image.Image, seed: int, judge: _Judge
) -> Iterator[tuple[str, Cost]]:
    path = models.checkpoint.default_pipeline_type
    runtime.speed = EXACT
    condition = stages.encode_images(runtime, models, [picture], path.image_scales())
    try:
        exact = _whole(runtime, models, condition, seed, EXACT)
    except EmptyResultError:
        return
    for name, speed in SPEEDS.items():
        made = exact if speed == EXACT else _whole(runtime, models, condition, seed, speed)
        runtime.speed = speed
        shape = stages.sample_shape(runtime, models, condition, exact.structure, path)
        texture = stages.sample_texture(runtime, models, condition, exact.shape, path)
        seen, expected = made.solid.picture(judge.camera), exact.solid.picture(judge.camera)
        yield (
            name,
            Cost(
                overlap(made.structure.occupied, exact.structure.occupied),
                _difference(shape, exact.shape),
                _difference(texture, exact.texture),
                chamfer(made.solid, exact.solid) / judge.diagonal,
                f_score(made.solid, exact.solid, 0.01 * judge.diagonal),
                colour_error(seen, expected),
                f_score(made.solid, judge.real, 0.01 * judge.diagonal),
                made.seconds,
            ),
        )


def _whole(runtime: Runtime, models: Models, condition: stages.Condition, seed: int, speed: Speed) -> _Made:
    path, start = models.checkpoint.default_pipeline_type, time.perf_counter()
    runtime.speed = speed
    structure = stages.sample_structure(runtime, models, condition, seed)
    shape = stages.sample_shape(runtime, models, condition, structure, path)
    texture = stages.sample_texture(runtime, models, condition, shape, path)
    seconds = time.perf_counter() - start
    return _Made(structure, shape, texture, solid_of(runtime, models, shape, texture), seconds)


def _difference(found: stages.Latent, expected: stages.Latent) -> float:
    a, b = found.sparse.feats.float(), expected.sparse.feats.float()
    return ((a - b).norm() / b.norm()).item()


def table(costs: dict[str, list[Cost]]) -> str:
    """Medians of every speed, in Markdown; the F-score against the objects is a mean, with the standard error of its
    difference from exact's."""
    names = [field.name for field in fields(Cost)]
    heads = ["speed", *(name.replace("_", " ") for name in names)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    exact = [cost.f_score_truth for cost in costs[EXACT.name]]
    for speed, found in costs.items():
        cells = [f"{median(getattr(cost, name) for cost in found):.4f}" for name in names]
        change = torch.tensor([cost.f_score_truth - before for cost, before in zip(found, exact)])
        error = f" +- {change.std().item() / len(change) ** 0.5:.4f}" if len(change) > 1 else ""  # of one there is none
        truth_mean = mean(cost.f_score_truth for cost in found)
        cells[names.index("f_score_truth")] = f"{truth_mean:.4f} ({change.mean():+.4f}{error})"
        lines.append(f"| {speed} | {' | '.join(cells)} |")
    return "\n".join(lines)
