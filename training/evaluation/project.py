"""Quality of projection: pictures of held-out objects, projected on what a checkpoint made of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from statistics import median

import numpy as np
import torch
from PIL import Image, ImageDraw
from scipy.ndimage import binary_erosion
from scipy.spatial import KDTree

from pipeline import stages
from pipeline.image import prepare
from pipeline.project import Painted, Photo, Picture, Projection, Sheet, angle, fit_camera
from pipeline.render import Camera, Subject, render
from pipeline.runtime import Runtime
from pipeline.views import PictureCamera
from pipeline.weights import Models

from ..networks import Design
from .evaluate import Solid, colour_error, on_grey
from .examples import Example, each_measured
from .goals import Goal, goal_table
from .symmetry import told_angle

_SIDE = 512  # pixels of the pictures that are projected and compared
_FACES, _TEXTURE = 50_000, 2048  # of the made objects
_SQUARE = 32  # pixels of a checker's squares
_RIM = 3  # pixels from an outline; nearer to it a pixel shows background, or the surface at a grazing angle
_ASIDE = 55.0  # degrees beside the picture from which seams are looked for


@dataclass(frozen=True)
class Measures:
    """One object. Colour errors: mean absolute difference of base colours (sRGB, 0-1) from the truth, where both show a
    surface from the picture's view. nan where there is nothing to measure.

    before: as generated. unlit: with a picture of the truth without light projected from its true camera by the default
    settings, and relative to before. lit: with the picture in light by the same settings; lit_ratio: relative to
    before; lit_picture: by colours "picture"; lit_removed: by the default settings with the light removed. checker,
    text: PSNR in dB of the view with such a picture projected, where the object is. angle: degrees by which the
    camera's direction that is fitted to the true object misses the true one, and angle_made that which is fitted to the
    made one, whose shape is another; iou_made: of its silhouettes. surface: of the made surface where that camera sees
    it, against the nearest true one, as generated; fitted: with the unlit picture projected as a user does, its camera
    fitted and its parts moved, so that a part's colour on another part counts.
    """

    before: float
    unlit: float
    ratio: float
    lit: float
    lit_ratio: float
    lit_picture: float
    lit_removed: float
    checker: float
    text: float
    angle: float
    angle_told: float
    angle_made: float
    iou_made: float
    surface: float
    fitted: float


# Goals of projecting: share of the error that remains, PSNR in dB where the picture sees the object.
GOALS = (
    Goal("ratio", 0.5, False),
    Goal("lit_ratio", 1.0, False),
    Goal("checker", 28.0, True),
    Goal("text", 28.0, True),
)
WITHIN = 3.0  # degrees of a fitted camera, for
SHARE = 0.9  # of the objects


@dataclass(frozen=True)
class Row:
    """One object: its class, its measures, and pictures [S, S, 3] uint8: the input, as generated and with the unlit
    picture from its view, the same two from the side, and with the lit picture by default settings from the side."""

    number: int
    name: str
    measures: Measures
    shown: tuple[np.ndarray, ...]


def measure(
    runtime: Runtime, models: Models, design: Design, numbers: Sequence[int], report: Callable[[Row], None]
) -> list[Row]:
    """Held-out objects by number, as `evaluate` counts them."""
    return each_measured(design, numbers, lambda one: _row(runtime, one, _made(runtime, models, one)), report)


def _made(runtime: Runtime, models: Models, example: Example) -> stages.TexturedMesh:
    chosen = models.checkpoint.default_pipeline_type
    made = stages.generate(runtime, models, [prepare(example.picture)], chosen, example.number)
    assert made.voxels is not None
    mesh = stages.process_mesh(runtime, made.mesh, _FACES)
    return stages.bake_texture(runtime, mesh, made.voxels, _TEXTURE, original=made.mesh)


def _row(runtime: Runtime, example: Example, made: stages.TexturedMesh) -> Row:
    camera = picture_camera(example.camera)
    truth = Subject(example.truth.vertices, example.truth.faces, colours=example.truth.pbr.clamp(0, 1))
    wanted = render(truth, example.camera, _SIDE, "base_color").astype(np.float32) / 255
    draw = partial(_drawn, runtime)
    before = draw(made, example.camera)

    def projected(picture: np.ndarray | Image.Image, **settings) -> stages.TexturedMesh:
        image = picture if isinstance(picture, Image.Image) else Image.fromarray((picture * 255).round().astype("u1"))
        return stages.project_texture(runtime, made, [Photo(image, camera)], Projection(min_iou=0, **settings))

    unlit = projected(wanted)
    lit = {
        name: projected(example.picture, **settings)
        for name, settings in (
            ("lit", {}),
            ("lit_picture", {"colours": "picture"}),
            ("lit_removed", {"remove_light": True}),
        )
    }
    errors = {name: colour_error(draw(each, example.camera), wanted) for name, each in lit.items()}
    patterns = {"checker": _checker(), "text": _text()}
    psnrs = {}
    for name, pattern in patterns.items():
        shown = np.concatenate([pattern, before[..., 3:]], 2)
        psnrs[name] = psnr(draw(projected(shown), example.camera), shown)
    picture, true = Picture.of(example.picture), true_sheet(example.truth)
    painted = [Painted([true], true.vertices.device), _painted(made)]
    found = [fit_camera(each, picture) for each in painted]
    missed = [angle(fit.camera, camera) for fit in found]
    image = Image.fromarray((wanted * 255).round().astype("u1"))
    by_user = stages.project_texture(runtime, made, [Photo(image)], Projection(min_iou=0))
    was, now = colour_error(before, wanted), colour_error(draw(unlit, example.camera), wanted)
    measures = Measures(
        was,
        now,
        now / max(was, 1e-9),
        lit_ratio=errors["lit"] / max(was, 1e-9),
        **errors,
        **psnrs,
        angle=missed[0],
        angle_told=told_angle(painted[0], camera, found[0].camera),
        angle_made=missed[1],
        iou_made=found[1].iou,
        surface=surface_error(painted[1], found[1].camera, example.truth),
        fitted=surface_error(_painted(by_user), found[1].camera, example.truth),
    )
    aside = Camera(example.camera.azimuth + _ASIDE, 15.0)
    shown = [np.asarray(example.picture.resize((_SIDE, _SIDE)), dtype=np.float32) / 255, before]
    shown += [draw(unlit, example.camera), draw(made, aside), draw(unlit, aside)]
    shown.append(draw(lit["lit"], aside))
    return Row(example.number, example.name, measures, tuple(map(on_grey, shown)))


def _painted(made: stages.TexturedMesh) -> Painted:
    first = made.levels[0]
    sheet = Sheet(first.mesh.vertices, first.mesh.faces, first.uvs, made.maps)
    return Painted([sheet], sheet.vertices.device)


def surface_error(painted: Painted, camera: PictureCamera, truth: Solid) -> float:
    """Mean absolute difference of base colours (sRGB, 0-1) between what a camera sees and the nearest true vertices;
    nan if it sees nothing."""
    seen = painted.seen(camera, _SIDE // 2)
    origins, directions = camera.rays(_SIDE // 2, painted.device)
    shown = seen.mask.reshape(-1)
    points = (origins + directions * seen.depth.reshape(-1, 1))[shown].cpu()
    if not len(points):
        return math.nan
    _, nearest = KDTree(truth.vertices.cpu().numpy()).query(points.numpy())
    true = truth.pbr[:, :3].clamp(0, 1).cpu()[torch.from_numpy(np.asarray(nearest))]
    return float((seen.colour.reshape(-1, 3)[shown].cpu() - true).abs().mean())


def true_sheet(truth: Solid) -> Sheet:
    """The true object, each face in the colour of its first vertex; its map has a texel for each vertex."""
    side = math.ceil(math.sqrt(len(truth.vertices)))
    maps = np.zeros((side * side, 6), np.uint8)
    maps[: len(truth.pbr)] = (truth.pbr.clamp(0, 1) * 255).round().byte().cpu().numpy()
    faces = truth.faces.long()
    first = faces[:, 0].repeat_interleave(3)
    uvs = torch.stack([first % side, first // side], 1).float().add(0.5) / side
    corners = torch.arange(3 * len(faces), device=faces.device).reshape(-1, 3)
    return Sheet(truth.vertices[faces].reshape(-1, 3), corners, uvs, maps.reshape(side, side, 6))


def picture_camera(camera: Camera) -> PictureCamera:
    """The camera of a training picture, which has a distance and a target."""
    assert camera.distance is not None and camera.target is not None
    return PictureCamera.at(camera.azimuth, camera.elevation, camera.fov, camera.distance, camera.target)


def psnr(seen: np.ndarray, expected: np.ndarray) -> float:
    """dB over the pixels [S, S, 4] that both cover, away from outlines; nan if there are none."""
    covered = (seen[..., 3] > 0.5) & (expected[..., 3] > 0.5)
    both = np.asarray(binary_erosion(covered, iterations=_RIM), dtype=bool)
    if not both.any():
        return math.nan
    return -10 * math.log10(max(1e-10, float(np.square(seen[both, :3] - expected[both, :3]).mean())))


def summary(rows: Sequence[Row]) -> list[str]:
    """A Markdown table of medians against the goals."""

    def middle(measure: str, values: Sequence[float]) -> tuple[str, float]:
        return measure, median(values) if values else math.nan

    measured = {field.name: [getattr(row.measures, field.name) for row in rows] for field in fields(Measures)}
    lines = goal_table("median", measured, GOALS, middle)
    for name, words in (("angle", ""), ("angle_told", ", or of a direction that shows the same")):
        share = float(np.mean([value <= WITHIN for value in measured[name]]))
        columns = Goal(name, SHARE, True).columns(share, "{:.0%}")
        lines.append(f"| cameras within {WITHIN:g} degrees{words} | {columns}")
    return lines


def contact_sheet(rows: Sequence[Row]) -> Image.Image:
    """The pictures of every object, one a line."""
    return Image.fromarray(np.concatenate([np.concatenate(row.shown, 1) for row in rows]))


def _drawn(runtime: Runtime, result: stages.TexturedMesh, camera: Camera) -> np.ndarray:
    """[S, S, 4] float in 0-1, base colour."""
    [picture] = stages.draw(runtime, result, 1, _SIDE, "base_color", camera)
    return picture.astype(np.float32) / 255


def _checker() -> np.ndarray:
    rows, columns = np.indices((_SIDE, _SIDE)) // _SQUARE
    light = ((rows + columns) % 2 == 0)[..., None]
    return np.where(light, [0.9, 0.85, 0.2], [0.1, 0.15, 0.5]).astype(np.float32)


def _text() -> np.ndarray:
    """Lines of black letters on white, of about 20 pixels."""
    small = Image.new("L", (_SIDE // 2, _SIDE // 2), 240)
    draw = ImageDraw.Draw(small)
    for line in range(0, _SIDE // 2, 14):
        draw.text((line % 5 - 4, line), "Projected text 0123456789 " * 3, fill=20)
    grown = np.asarray(small.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    return np.repeat(grown[..., None], 3, 2)
