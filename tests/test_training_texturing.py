"""What the training room measures of meshes that one has: on one object with networks of random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import stages
from pipeline.models import build
from pipeline.runtime import Runtime
from pipeline.weights import Models, open_checkpoint
from training.evaluation import texturing
from training.networks import TINY

pytestmark = pytest.mark.usefixtures("one_thread")
GOOD = {"colour_error": 0.05, "same": 1.0, "kept": 0.0, "autoencoder": 1.0, "chamfer": 0.01}
GOOD |= {"left_0": 0.3, "left_3": 0.2, "left_6": 0.1, "monotone": 1.0}


def test_what_must_hold_for_any_weights_holds(encoders, monkeypatch):
    monkeypatch.setattr(texturing, "_TEXTURE", 64)
    models = Models(open_checkpoint(encoders), build)
    runtime = Runtime("cpu", stages.default_backends(), torch.float32, keep_models=True)
    seen = []
    (row,) = texturing.measure(runtime, models, TINY, [3], seen.append)
    assert seen == [row] and len({each.shape for each in row.shown}) == 1
    measures = row.measures
    assert (measures.same, measures.kept, measures.autoencoder) == (1, 0, 1)
    assert 0 < measures.colour_error < 1 and measures.left_0 > 0


def test_what_was_lost_is_found(tmp_path):
    from scenes import furniture

    from pipeline.mesh.io import read_scene

    scene = read_scene(furniture().save(tmp_path / "furniture.glb"))
    assert texturing._same(scene, read_scene(tmp_path / "furniture.glb").document)
    for change in ("scale", "translation"):
        other = read_scene(tmp_path / "furniture.glb").document
        other.list("nodes")[0][change] = [1.0, 1.0, 1.001]
        assert not texturing._same(scene, other)
    other = read_scene(tmp_path / "furniture.glb").document
    at = other.list("meshes")[0]["primitives"][0]["attributes"]
    at["POSITION"] = other.add_accessor(other.accessor(at["POSITION"]) + np.float32(1e-6), "VEC3", 34962)
    assert not texturing._same(scene, other)
    maps = np.zeros((8, 8, 6), np.uint8)
    changed = maps.copy()
    changed[:, 4:] = 200
    covered = np.ones((8, 8), bool)
    covered[0] = False
    changed[0] = 255
    assert texturing._kept(maps, changed, covered) == 0
    changed[2, 1, 0] = 3
    assert texturing._kept(maps, changed, covered) == 3


def test_the_table_tells_what_was_reached(tmp_path: Path):
    rows = [texturing.Row(k, "car", texturing.Measures(**GOOD)) for k in range(3)]
    assert [texturing.Row.of(row.line()) for row in rows] == rows
    table = "\n".join(texturing.summary(rows))
    assert "| colour_error, median | 0.05 | <= 0.06 | pass |" in table and "MISS" not in table
    rows.append(texturing.Row(3, "mug", texturing.Measures(**{**GOOD, "kept": 3.0, "same": 0.0})))
    table = "\n".join(texturing.summary(rows))
    assert "| kept, most | 3 | <= 2 | MISS |" in table and "| same, share | 0.75 | >= 1 | MISS |" in table
