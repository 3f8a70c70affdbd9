"""Quality of texturing and refining a user's meshes: held-out objects, each as a file, from its picture."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from pipeline import stages
from pipeline.export.placed import place_glb
from pipeline.export.scene_textures import textured_document
from pipeline.image import prepare
from pipeline.mesh.bake.raster import rasterise
from pipeline.mesh.io import Frame, Gltf, Scene, read_scene
from pipeline.runtime import Runtime
from pipeline.sparse import SparseTensor
from pipeline.stages.types import UNKNOWN
from pipeline.weights import Models

from ..networks import Design
from .evaluate import Solid, chamfer, colour_error, on_grey
from .examples import Example, each_measured
from .goals import Goal, goal_table

STRENGTHS = (0.0, 0.3, 0.6, 1.0)  # of refine: unchanged, two typical values, sampled anew
_SIDE = 256  # pixels of the pictures that are compared
_TEXTURE = 512  # of the object's own textures and of the new ones
_NOISE = 1.02  # of a distance of two surfaces that is measured from some thousand points
_FACES = 1_000_000  # of the true mesh: as many as it has
_PLACE = Frame((12.0, -3.0, 400.0), 250.0)  # where the object lies in the file


@dataclass(frozen=True)
class Measures:
    """One object; nan where there is nothing to measure.

    colour_error: mean absolute difference of base colours (sRGB, 0-1) from the truth, from the picture's view, of the
    true mesh textured from its picture. same: 1 if vertices, UVs and transforms of the file are what they were, to the
    bit. kept: the most that a texel differs, in 255ths, where a mask keeps half of the texture. autoencoder: 1 if
    refining at strength 0 gives the vertices and faces that encoder and decoder give. chamfer: of that mesh and the
    truth. left_0, left_3, left_6: of refining at strength 0, 0.3, 0.6 and at strength 1, a fresh sample; all in
    diagonals of the object. monotone: 1 if the three fall, or rise by no more than they are measured wrongly.
    """

    colour_error: float
    same: float
    kept: float
    autoencoder: float
    chamfer: float
    left_0: float
    left_3: float
    left_6: float
    monotone: float


GOALS = (
    Goal("colour_error", 0.06, False),
    Goal("same", 1.0, True, share=True),
    Goal("kept", 2.0, False, share=True),
    Goal("autoencoder", 1.0, True, share=True),
    Goal("monotone", 0.95, True, share=True),
)


@dataclass(frozen=True)
class Row:
    """One object: its class, its measures, and pictures [S, S, 3] uint8: the input, textured from its view, the truth
    from there, and the half that was repainted."""

    number: int
    name: str
    measures: Measures
    shown: tuple[np.ndarray, ...] = ()

    def line(self) -> str:
        """As JSON, without the pictures."""
        return json.dumps({"number": self.number, "name": self.name, **asdict(self.measures)})

    @classmethod
    def of(cls, line: str) -> Row:
        values = json.loads(line)
        return cls(values.pop("number"), values.pop("name"), Measures(**values))


def measure(
    runtime: Runtime, models: Models, design: Design, numbers: Iterable[int], report: Callable[[Row], None]
) -> list[Row]:
    """Held-out objects by number, as `evaluate` counts them."""
    return each_measured(design, numbers, lambda one: _row(runtime, models, one), report)


def _row(runtime: Runtime, models: Models, example: Example) -> Row:
    path = models.checkpoint.default_pipeline_type
    condition = stages.encode_images(runtime, models, [prepare(example.picture)], path.image_scales())
    own = _own(runtime, example)
    diagonal = float((own.mesh.vertices.amax(0) - own.mesh.vertices.amin(0)).norm())
    settings: dict = {"size": _TEXTURE, "seed": example.number}
    with TemporaryDirectory() as folder:
        scene = _file(runtime, own.textured, Path(folder) / "object.glb")
    made = stages.texture_scene(runtime, models, condition, scene, path, **settings)
    half = np.zeros((2, 2), np.float32)
    half[:, 0] = 1
    keep = stages.Keep(masks=(stages.Mask(np.kron(half, np.ones((_TEXTURE // 2, _TEXTURE // 2), np.float32))),))
    repainted = stages.texture_scene(runtime, models, condition, scene, path, keep=keep, **settings)
    before, seen, partly = (
        _seen(runtime, replace(own.textured, maps=maps), example)
        for maps in (own.textured.maps, made.groups[0].maps, repainted.groups[0].maps)
    )
    refined = [
        stages.refine_mesh(runtime, models, condition, own.mesh, path, strength, seed=example.number, texture=False)
        for strength in STRENGTHS
    ]
    encoded = stages.encode_mesh(runtime, models, own.mesh, refined[0].shape.resolution, example.number)
    plain, _ = stages.decode_shape(runtime, models, encoded.shape)
    solids = [_solid(each.mesh) for each in refined]
    left = [chamfer(each, solids[-1]) / diagonal for each in solids[:-1]]
    first = refined[0].mesh
    measures = Measures(
        colour_error(seen, before),
        float(_same(scene, textured_document(scene, made.groups))),
        float(_kept(own.textured.maps, repainted.groups[0].maps, _covered(own.textured))),
        float(torch.equal(plain.vertices, first.vertices) and torch.equal(plain.faces, first.faces)),
        chamfer(solids[0], Solid(own.mesh.vertices, own.mesh.faces, own.mesh.vertices)) / diagonal,
        *left,
        monotone=float(all(b <= _NOISE * a for a, b in pairwise(left))),
    )
    picture = np.asarray(example.picture.resize((_SIDE, _SIDE)), dtype=np.float32) / 255
    shown = tuple(on_grey(each) for each in (picture, seen, before, partly))
    return Row(example.number, example.name, measures, shown)


@dataclass(frozen=True)
class _Own:
    """The true object as a user's mesh, in the unit cube."""

    mesh: stages.Mesh
    textured: stages.TexturedMesh


def _own(runtime: Runtime, example: Example) -> _Own:
    """Wound, in the middle of the cube, unwrapped and with its true materials as textures."""
    grids = example.grids
    raw = stages.Mesh(example.truth.vertices, example.truth.faces)
    voxels = stages.PBRVoxels(SparseTensor(grids.voxels, grids.pbr), grids.resolution, UNKNOWN)
    mesh = stages.process_mesh(runtime, raw, _FACES, max_hole_perimeter=0.0, shells="surface")
    textured = stages.bake_texture(runtime, mesh, voxels, _TEXTURE, original=raw)
    return _Own(stages.in_unit_cube(mesh), textured)


def _file(runtime: Runtime, textured: stages.TexturedMesh, path: Path) -> Scene:
    """The object as a GLB at some other place and scale."""
    stages.export_mesh(runtime, textured, path, stages.ExportSettings(), {})
    place_glb(path, _PLACE)
    return read_scene(path)


def _same(scene: Scene, result: Gltf) -> bool:
    """Whether vertices, UVs and nodes of the result are the source's."""
    source = scene.document
    if [_bare(node) for node in result.list("nodes")] != [_bare(node) for node in source.list("nodes")]:
        return False
    for one, two in zip(source.list("meshes"), result.list("meshes"), strict=True):
        for a, b in zip(one["primitives"], two["primitives"], strict=True):
            for name in {"POSITION", "TEXCOORD_0"} & set(a["attributes"]):
                before, after = source.accessor(a["attributes"][name]), result.accessor(b["attributes"][name])
                if before.tobytes() != after.tobytes():
                    return False
            if source.accessor(a["indices"]).tobytes() != result.accessor(b["indices"]).tobytes():
                return False
    return True


def _bare(node: dict) -> dict:
    return {key: node.get(key) for key in ("name", "children", "translation", "rotation", "scale", "matrix")}


def _kept(before: np.ndarray, after: np.ndarray, covered: np.ndarray) -> int:
    """The most that texels of the left half differ that faces cover [S, S]: between charts nothing is to be kept."""
    kept = covered.copy()
    kept[:, before.shape[0] // 2 :] = False
    return int(np.abs(before[kept].astype(int) - after[kept].astype(int)).max(initial=0))


def _covered(textured: stages.TexturedMesh) -> np.ndarray:
    """[S, S] bool: the texels with a face."""
    first, side = textured.levels[0], textured.maps.shape[0]
    face, _ = rasterise(first.uvs, first.mesh.faces, side)
    return (face >= 0).reshape(side, side).numpy()


def _seen(runtime: Runtime, textured: stages.TexturedMesh, example: Example) -> np.ndarray:
    """[S, S, 4] float in 0-1, base colour from the picture's view."""
    [picture] = stages.draw(runtime, textured, 1, _SIDE, "base_color", example.camera)
    return picture.astype(np.float32) / 255


def _solid(mesh: stages.Mesh) -> Solid:
    return Solid(mesh.vertices, mesh.faces, mesh.vertices)


def summary(rows: Sequence[Row]) -> list[str]:
    """A Markdown table against the goals: medians, or means where a share counts."""
    shares = {goal.measure for goal in GOALS if goal.share}

    def over_objects(measure: str, values: Sequence[float]) -> tuple[str, float]:
        if measure == "kept":
            return f"{measure}, most", max(values, default=float("nan"))
        if measure in shares:
            return f"{measure}, share", float(np.mean(values))
        return f"{measure}, median", median(values)

    measured = {field.name: [getattr(row.measures, field.name) for row in rows] for field in fields(Measures)}
    return goal_table("reached", measured, GOALS, over_objects)


def contact_sheet(rows: Sequence[Row]) -> Image.Image:
    """The pictures of every object, one a line."""
    return Image.fromarray(np.concatenate([np.concatenate(row.shown, 1) for row in rows]))
