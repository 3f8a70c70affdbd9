"""The benefit of several views: every mixing strategy, on held-out objects, all sides of which are known."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline import stages
from pipeline.errors import EmptyResultError
from pipeline.image import cut_out
from pipeline.render import Camera, Subject, render
from pipeline.runtime import Runtime
from pipeline.spec import Samplers
from pipeline.views import NAMED_MIXING, STRATEGIES, Mixing, PosedPictures, View, named_views, posed, unposed
from pipeline.weights import Models

from .. import objects, truth
from ..networks import Design
from .evaluate import Solid, chamfer, colour_error, silhouette

ONE = "one view"  # the front alone
UNPOSED = "without directions"  # the mean of the velocities, of pictures that are only known to show one object
DEFAULT = "default"  # of named views: NAMED_MIXING
SETS = {1: ("front",), 2: ("front", "left"), 4: ("front", "left", "back", "right")}
_NEW = tuple(View(22.5 + 45 * k, 20.0) for k in range(8))  # from where results are looked at: none of the pictures
_PICTURE, _FOV = 384, 30.0  # pixels of a picture's side; degrees
_FINER = 2  # pictures show grids so many times finer than the truth

Case = tuple[int, str]  # number of views, name of what is done with them
Posing = Callable[[Sequence[Image.Image], Sequence[View]], PosedPictures]  # of cut-outs and their directions


@dataclass(frozen=True)
class Measured:
    """One result. silhouette_iou, colour_error (of base colour, RGB 0-1): means over eight new views, from cameras that
    frame the true object. chamfer: as in evaluate. seconds: of all stages up to the raw mesh and its voxels, pictures
    encoded."""

    object: int
    name: str
    views: int
    strategy: str
    silhouette_iou: float
    chamfer: float
    colour_error: float
    seconds: float


_MEASURES = ("silhouette_iou", "chamfer", "colour_error")


def cases(counts: Sequence[int] = tuple(SETS), more: Iterable[str] = ()) -> list[Case]:
    """All cases that are compared, the most important first. more: names beside those of the strategies."""
    names = (DEFAULT, UNPOSED, *more, *STRATEGIES)
    return [(1, ONE), *((count, name) for name in names for count in counts if count > 1)]


@dataclass(frozen=True)
class Held:
    """A held-out object: cut-outs by name of the view, itself from the new views' cameras, its surface and size."""

    number: int
    name: str
    cuts: Mapping[str, Image.Image]
    cameras: Sequence[Camera]
    wanted: Sequence[np.ndarray]
    real: Solid
    diagonal: float

    @classmethod
    def of(cls, held: objects.Objects, number: int, resolution: int) -> Held:
        """held: of which it is one. resolution: voxels along a side of the truth."""
        one = held.select(slice(number, number + 1))
        real, finer = (Solid(*truth.dual_grids(one, resolution * times).mesh(0)) for times in (1, _FINER))
        cuts = {name: cut_out(picture(finer, view)) for name in SETS[4] for view in named_views([name], 1)}
        diagonal = 2 * one.half[0].norm().item()
        away = diagonal / 2 / math.sin(math.radians(_FOV / 2))
        cameras = [Camera(view.azimuth, view.elevation, _FOV, away, (0.0, 0.0, 0.0)) for view in _NEW]
        return cls(number, one.names[0], cuts, cameras, [*map(real.picture, cameras)], real, diagonal)

    def compared(self, result: Solid | None) -> tuple[float, float, float]:
        """Silhouettes, surfaces and colours, as in Measured; None: nothing was made."""
        if result is None:
            return 0.0, math.nan, math.nan
        pairs = [(result.picture(camera), wanted) for camera, wanted in zip(self.cameras, self.wanted)]
        colours = [error for pair in pairs if not math.isnan(error := colour_error(*pair))]
        return (
            fmean(silhouette(*pair) for pair in pairs),
            chamfer(result, self.real) / self.diagonal,
            fmean(colours) if colours else math.nan,
        )


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
    more: Mapping[str, Posing] = MappingProxyType({}),
    until: float = math.inf,
) -> list[Measured]:
    """Every case on held-out objects, which are the same whichever numbers are asked for: one case after the other, so
    that those which matter most are there for all objects where time ends.

    Args:
        numbers: of the objects, from 0.
        report: is called with each new result.
        known: results that need not be made again.
        steps: of every sampler, in place of the checkpoint's.
        more: other ways to treat views than the strategies, by name.
        until: time.monotonic() after which nothing is begun.
    """
    found = list(known)
    done = {(row.object, row.views, row.strategy) for row in known}
    numbers = list(numbers)
    drawn = objects.sample(max(numbers) + 1, torch.Generator().manual_seed(seed), held_out=True)
    held: dict[int, Held] = {}
    samplers = _samplers(models, steps)
    for case, number in product(cases(counts, more), numbers):
        if (number, *case) in done or time.monotonic() > until:
            continue
        if number not in held:
            held[number] = Held.of(drawn, number, design.resolution)
        one, (count, name) = held[number], case
        given = _posing(name, more)([one.cuts[side] for side in SETS[count]], named_views(SETS[count], count))
        start = time.perf_counter()
        result = _generate(runtime, models, given, seed + number, samplers)
        seconds = time.perf_counter() - start
        row = Measured(number, one.name, count, name, *one.compared(result), seconds)
        found.append(row)
        report(row)
    return found


def _samplers(models: Models, steps: int | None) -> Samplers:
    spec = models.spec
    own = (spec.structure_sampler, spec.shape_sampler, spec.texture_sampler)
    return Samplers(*(replace(each, steps=steps) for each in own)) if steps else Samplers(*own)


def picture(solid: Solid, view: View) -> Image.Image:
    """RGBA, under the renderer's own studio, which stays with the camera."""
    subject = Subject(solid.vertices, solid.faces, colours=solid.pbr.clamp(0, 1), alpha_mode="BLEND")
    return Image.fromarray(render(subject, Camera(view.azimuth, view.elevation, _FOV), _PICTURE, "pbr"))


def _posing(name: str, more: Mapping[str, Posing]) -> Posing:
    if name in more:
        return more[name]
    if name == UNPOSED:
        return lambda cuts, views: unposed(cuts)
    return partial(posed, mixing=NAMED_MIXING if name in (ONE, DEFAULT) else Mixing(name, name, name))


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


def table(rows: Sequence[Measured]) -> str:
    """Markdown: on how many objects, means of every case, and behind them the mean of the paired differences from one
    view and from as many views without directions, each with its standard error."""
    lines = [
        "| views | strategy | objects | silhouette IoU | Chamfer | colour error | seconds | minus one view "
        "| minus without directions |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for count, strategy in dict.fromkeys((row.views, row.strategy) for row in sorted(rows, key=lambda r: r.views)):
        mine = _of(rows, count, strategy)
        means = [_mean([getattr(row, name) for row in mine.values()]) for name in _MEASURES]
        shown = f"{len(mine)} | {means[0]:.3f} | {means[1]:.4f} | {means[2]:.4f}"
        seconds = fmean(row.seconds for row in mine.values())
        against = [
            "" if (count, strategy) == base else _differences(mine, _of(rows, *base))
            for base in ((1, ONE), (count, UNPOSED))
        ]
        lines.append(f"| {count} | {strategy} | {shown} | {seconds:.1f} | {against[0]} | {against[1]} |")
    return "\n".join(lines)


def _of(rows: Sequence[Measured], count: int, strategy: str) -> dict[int, Measured]:
    return {row.object: row for row in rows if (row.views, row.strategy) == (count, strategy)}


def _differences(mine: dict[int, Measured], base: dict[int, Measured]) -> str:
    """ "+0.0120±0.0040" of each measure over the objects that both have."""
    cells = []
    for name in _MEASURES:
        pairs = [(getattr(mine[n], name), getattr(base[n], name)) for n in mine if n in base]
        values = [a - b for a, b in pairs if not (math.isnan(a) or math.isnan(b))]
        if len(values) > 1:
            cells.append(f"{fmean(values):+.4f}±{stdev(values) / math.sqrt(len(values)):.4f}")
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
