"""What several views are worth: every strategy that mixes them, on held-out objects whose every side is known."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from PIL import Image

from pipeline import stages
from pipeline.errors import EmptyResultError
from pipeline.image import cut_out
from pipeline.render import Camera, Subject, render
from pipeline.runtime import Runtime
from pipeline.spec import Samplers
from pipeline.views import NAMED_MIXING, STRATEGIES, Mixing, View, named_views, posed
from pipeline.weights import Models

from .. import objects, truth
from ..networks import Design
from .evaluate import Solid, chamfer, colour_error, silhouette

ONE = "one view"  # the front alone
DEFAULT = "default"  # of named views: NAMED_MIXING
SETS = {1: ("front",), 2: ("front", "back"), 4: ("front", "left", "back", "right")}
MEAN = "average_right"  # what is done without directions
_NEW = tuple(View(22.5 + 45 * k, 20.0) for k in range(8))  # from where results are looked at: none of the pictures
_PICTURE, _FOV = 384, 30.0  # pixels of a picture's side; degrees
_FINER = 2  # pictures show grids so many times finer than the truth


@dataclass(frozen=True)
class Measured:
    """One result. silhouette_iou, colour_error (of base colour, RGB 0-1): means over eight new views. chamfer: as in
    evaluate. seconds: of all stages up to the raw mesh and its voxels, pictures encoded."""

    object: int
    name: str
    views: int
    strategy: str
    silhouette_iou: float
    chamfer: float
    colour_error: float
    seconds: float


_MEASURES = ("silhouette_iou", "chamfer", "colour_error")


def cases(counts: Sequence[int] = tuple(SETS)) -> list[tuple[int, str]]:
    """(number of views, strategy) of everything that is compared."""
    several = [(count, name) for count in counts if count > 1 for name in (DEFAULT, *STRATEGIES)]
    return [(1, ONE), *several]


def measure(
    runtime: Runtime,
    models: Models,
    design: Design,
    numbers: Iterable[int],
    seed: int,
    report: Callable[[Measured], None],
    known: Sequence[Measured] = (),
    counts: Sequence[int] = tuple(SETS),
    steps: int | None = None,
) -> list[Measured]:
    """Every case on held-out objects, which are the same whichever numbers are asked for.

    Args:
        numbers: of the objects, from 0.
        report: is called with each new result.
        known: results that need not be made again.
        steps: of every sampler, in place of the checkpoint's.
    """
    found = list(known)
    done = {(row.object, row.views, row.strategy) for row in known}
    numbers = list(numbers)
    held = objects.sample(max(numbers) + 1, torch.Generator().manual_seed(seed), held_out=True)
    spec = models.spec
    own = (spec.structure_sampler, spec.shape_sampler, spec.texture_sampler)
    samplers = Samplers(*(replace(each, steps=steps) for each in own)) if steps else Samplers(*own)
    for number in numbers:
        left = [case for case in cases(counts) if (number, *case) not in done]
        if not left:
            continue
        one = held.select(slice(number, number + 1))
        real, finer = (Solid(*truth.dual_grids(one, design.resolution * times).mesh(0)) for times in (1, _FINER))
        pictures = {name: picture(finer, view) for name in SETS[4] for view in named_views([name], 1)}
        diagonal = 2 * one.half[0].norm().item()
        for count, strategy in left:
            views = named_views(SETS[count], count)
            given = posed([cut_out(pictures[name]) for name in SETS[count]], views, _mixing(strategy))
            start = time.perf_counter()
            result = _generate(runtime, models, given, seed + number, samplers)
            seconds = time.perf_counter() - start
            row = Measured(number, one.names[0], count, strategy, *_compared(result, real, diagonal), seconds)
            found.append(row)
            report(row)
    return found


def picture(solid: Solid, view: View) -> Image.Image:
    """RGBA, under the renderer's own studio, which stays with the camera."""
    subject = Subject(solid.vertices, solid.faces, colours=solid.pbr.clamp(0, 1), alpha_mode="BLEND")
    return Image.fromarray(render(subject, Camera(view.azimuth, view.elevation, _FOV), _PICTURE, "pbr"))


def _mixing(strategy: str) -> Mixing:
    return NAMED_MIXING if strategy in (ONE, DEFAULT) else Mixing(strategy, strategy, strategy)


def _generate(runtime, models: Models, given, seed: int, samplers: Samplers) -> Solid | None:
    """The raw mesh with the material of its voxels; None where a stage leaves nothing."""
    try:
        made = stages.generate(runtime, models, given, models.checkpoint.default_pipeline_type, seed, samplers=samplers)
    except EmptyResultError:
        return None
    assert made.voxels is not None  # as texture was asked for
    if len(made.mesh.faces) == 0:
        return None
    return Solid(made.mesh.vertices, made.mesh.faces, made.voxels.sparse.feats)


def _compared(result: Solid | None, real: Solid, diagonal: float) -> tuple[float, float, float]:
    if result is None:
        return 0.0, math.nan, math.nan
    pairs = [[each.picture(Camera(view.azimuth, view.elevation)) for each in (result, real)] for view in _NEW]
    colours = [error for pair in pairs if not math.isnan(error := colour_error(*pair))]
    return (
        fmean(silhouette(*pair) for pair in pairs),
        chamfer(result, real) / diagonal,
        fmean(colours) if colours else math.nan,
    )


def table(rows: Sequence[Measured]) -> str:
    """Markdown: means of every case, and behind them the mean of the paired differences from one view and from the mean
    of as many views, each with its standard error."""
    lines = [
        "| views | strategy | silhouette IoU | Chamfer | colour error | seconds | minus one view | minus the mean |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for count, strategy in dict.fromkeys((row.views, row.strategy) for row in sorted(rows, key=lambda r: r.views)):
        mine = _of(rows, count, strategy)
        means = [_mean([getattr(row, name) for row in mine.values()]) for name in _MEASURES]
        shown = f"{means[0]:.3f} | {means[1]:.4f} | {means[2]:.4f}"
        seconds = fmean(row.seconds for row in mine.values())
        against = [
            "" if (count, strategy) == base else _differences(mine, _of(rows, *base))
            for base in ((1, ONE), (count, MEAN))
        ]
        lines.append(f"| {count} | {strategy} | {shown} | {seconds:.1f} | {against[0]} | {against[1]} |")
    return "\n".join(lines)


def _of(rows: Sequence[Measured], count: int, strategy: str) -> dict[int, Measured]:
    return {row.object: row for row in rows if (row.views, row.strategy) == (count, strategy)}


def _differences(mine: dict[int, Measured], base: dict[int, Measured]) -> str:
    """ "+0.012±0.004" of each measure over the objects that both have."""
    cells = []
    for name in _MEASURES:
        pairs = [(getattr(mine[n], name), getattr(base[n], name)) for n in mine if n in base]
        values = [a - b for a, b in pairs if not (math.isnan(a) or math.isnan(b))]
        if len(values) > 1:
            cells.append(f"{fmean(values):+.3f}±{stdev(values) / math.sqrt(len(values)):.3f}")
    return " ".join(cells)


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return fmean(known) if known else math.nan


def read(path: Path) -> list[Measured]:
    """The results in a file of JSON lines, which may not exist yet."""
    if not path.exists():
        return []
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [Measured(**_known(each)) for each in found]


def _known(values: dict[str, Any]) -> dict[str, Any]:
    return {key: math.nan if value is None else value for key, value in values.items()}


def line(row: Measured) -> str:
    """A result as a line of JSON; what cannot be measured is null."""
    values = {
        key: None if isinstance(value, float) and math.isnan(value) else value for key, value in asdict(row).items()
    }
    return json.dumps(values)
