"""A mesh as input: from file to file against the stages one by one, on a tiny checkpoint of seeded weights."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
import trimesh
from scenes import furniture

from pipeline import stages
from pipeline.errors import CheckpointError, MeshError, SettingsError
from pipeline.mesh.grid.dual_grid import mesh_to_dual_grid
from pipeline.mesh.io import Gltf, read_scene
from pipeline.models import build
from pipeline.runtime import Runtime
from pipeline.sampling import Start, euler, heun
from pipeline.spec import PIPELINE_TYPES, SamplerSettings
from pipeline.stages.user_mesh.existing import Materials, Places, bilinear
from pipeline.weights import Models, open_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

TYPE = PIPELINE_TYPES["512"]


@pytest.fixture(scope="module")
def models(encoders):
    return Models(open_checkpoint(encoders), build)


@pytest.fixture
def runtime():
    return Runtime("cpu", stages.default_backends(), torch.float32, keep_models=True)


@pytest.fixture(scope="module")
def ball():
    ball = trimesh.creation.icosphere(subdivisions=2, radius=0.45)
    return stages.Mesh(torch.tensor(ball.vertices, dtype=torch.float32), torch.tensor(ball.faces).int())


def test_the_golden_encoder_gives_its_latent_and_the_way_back(golden):
    """Rows of the golden encoder's latent are those that the subdivisions begin with, and lead to the dual grid."""
    from pipeline.sparse import Voxels
    from pipeline.stages.networks.encode_mesh import _divided

    data = golden("shape_enc")
    voxels = Voxels.single(data["in.coords"])
    levels = data.model().levels
    steps = _divided(voxels, levels)
    assert steps[-1].children is voxels and len(steps) == levels
    for coarse, fine in pairwise(steps):
        assert coarse.children is fine.parents
    assert torch.equal(steps[0].parents.xyz, data["out.coords"].int())


def test_an_encoded_mesh_decodes_where_the_mesh_is(runtime, models, ball):
    resolution = stages.texture_resolution(models, TYPE)
    made = stages.encode_mesh(runtime, models, ball, resolution, seed=3)
    grid = mesh_to_dual_grid(ball.vertices.numpy(), ball.faces.numpy(), resolution)
    assert np.array_equal(made.subdivisions[-1].children.xyz.numpy(), grid.coords)
    assert torch.equal(made.shape.sparse.voxels.coords, made.subdivisions[0].parents.coords)
    again = stages.encode_mesh(runtime, models, ball, resolution, seed=3)
    assert torch.equal(again.shape.sparse.feats, made.shape.sparse.feats) and again.shape.origin == made.shape.origin
    other = stages.encode_mesh(runtime, models, ball, resolution, seed=4)
    assert not torch.equal(other.shape.random, made.shape.random) and other.shape.origin != made.shape.origin


def test_what_cannot_be_encoded(runtime, models, ball, checkpoint):
    without = Models(open_checkpoint(checkpoint), build)
    said = "needs shape_slat_encoder, which random lacks.*Get ckpts/shape_enc_next_dc_f16c32_fp16.json"
    with pytest.raises(CheckpointError, match=said):
        stages.encode_mesh(runtime, without, ball, 64)
    with pytest.raises(MeshError, match="reaches 0.9 from the origin"):
        stages.encode_mesh(runtime, models, stages.Mesh(2 * ball.vertices, ball.faces), 64)
    with pytest.raises(MeshError, match="units large"):
        stages.in_unit_cube(stages.Mesh(0 * ball.vertices, ball.faces))
    moved = stages.in_unit_cube(stages.Mesh(1e6 + 3 * ball.vertices, ball.faces))
    assert moved.vertices.abs().max() <= 0.5 and torch.equal(moved.faces, ball.faces)


def test_texture_through_the_command_line_is_the_stages_one_by_one(run, encoders, models, runtime, picture, tmp_path):
    source, out = furniture().save(tmp_path / "furniture.glb"), tmp_path / "out.glb"
    options = ("--checkpoint", encoders, "--type", "512", "--seed", 5, "--texture-size", 64, "--uvs", "fill")
    options += ("--texture-steps", 3, "--report", tmp_path / "report.json")
    code, _, err = run("texture", source, picture, "--output", out, "--device", "cpu", "--dtype", "float32", *options)
    assert code == 0, err
    from pipeline.export.scene_textures import textured_document
    from pipeline.image import prepare, read_picture

    scene = read_scene(source)
    images = [prepare(read_picture(picture))]
    condition = stages.encode_images(runtime, models, images, (1,))
    mesh = stages.scene_mesh(scene, scene.frame())
    encoded = stages.encode_mesh(runtime, models, mesh, stages.texture_resolution(models, TYPE), 5)
    sampler = replace(models.spec.texture_sampler, steps=3)
    latent = stages.sample_texture(runtime, models, condition, encoded.shape, TYPE, sampler)
    voxels = stages.decode_texture(runtime, models, latent, encoded.subdivisions)
    given = {"size": 64, "seed": 5, "uvs": "fill", "settings": sampler}
    whole = stages.texture_scene(runtime, models, condition, scene, TYPE, **given)
    assert torch.equal(whole.voxels.sparse.voxels.coords, voxels.sparse.voxels.coords)
    assert torch.equal(whole.voxels.sparse.feats, voxels.sparse.feats)
    document = textured_document(scene, whole.groups)
    document.json["asset"]["extras"] = extras = Gltf.open(out).json["asset"]["extras"]
    assert document.glb() == out.read_bytes() and extras["trellis2"]["kind"] == "job"
    assert json.loads((tmp_path / "report.json").read_text())["samplers"]["texture"]["steps"] == 3
    assert extras["trellis2"]["counts"] == {"faces": whole.facts["faces"], "vertices": whole.facts["vertices"]} | {
        "texture_size": 64
    }
    bare = Gltf.open(out).json["meshes"][3]["primitives"][0]  # made for it, as it had none
    assert "TEXCOORD_0" in bare["attributes"]
    code, _, err = run("texture", source, picture, "--output", out, *options[:4])
    assert code == 1 and "'bare' has no UVs to bake into" in err and "--uvs fill" in err


def test_kept_nodes_stay_and_strength_0_keeps_all(runtime, models, picture, tmp_path):
    from pipeline.export.scene_textures import textured_document
    from pipeline.image import prepare, read_picture

    scene = read_scene(furniture().save(tmp_path / "furniture.glb"))
    condition = stages.encode_images(runtime, models, [prepare(read_picture(picture))], (1,))
    given = {"size": 64, "uvs": "fill", "seed": 5}
    made = stages.texture_scene(runtime, models, condition, scene, TYPE, keep=stages.Keep(("seat", "bare")), **given)
    ran = [record.stage for record in runtime.records]
    assert "read UVs" in ran and "unwrap" not in ran  # all that gets textures has UVs, which are kept
    document = textured_document(scene, made.groups).json
    source = scene.document.json
    for name in ("seat", "bare"):
        node = next(each for each in document["nodes"] if each.get("name") == name)
        assert document["meshes"][node["mesh"]] == source["meshes"][node["mesh"]]
    with pytest.raises(SettingsError, match="No mesh node is called sofa; there are bare, cushion"):
        stages.texture_scene(runtime, models, condition, scene, TYPE, keep=stages.Keep(("sofa",)), **given)
    none, other = (
        stages.texture_scene(runtime, models, each, scene, TYPE, strength=0.0, **given)
        for each in (condition, stages.Condition({1: torch.zeros_like(condition.tokens[1])}))
    )
    assert torch.equal(none.voxels.sparse.feats, other.voxels.sparse.feats)  # the picture says nothing then


def test_refine_at_0_is_the_autoencoder_and_rises_from_there(runtime, models, picture, ball):
    from pipeline.image import prepare, read_picture

    condition = stages.encode_images(runtime, models, [prepare(read_picture(picture))], (1,))
    own = stages.encode_mesh(runtime, models, ball, stages.shape_resolution(models, TYPE), 42).shape
    distances = []
    for strength in (0.0, 0.3, 0.6, 1.0):
        latent = stages.refine_shape(runtime, models, condition, ball, TYPE, strength)
        assert torch.equal(latent.sparse.voxels.coords, own.sparse.voxels.coords)
        distances.append(float((latent.sparse.feats - own.sparse.feats).square().mean()))
    assert distances[0] == 0 and distances == sorted(distances) and distances[1] > 0
    with pytest.raises(SettingsError, match="strength must lie in 0-1, got 1.5"):
        stages.refine_shape(runtime, models, condition, ball, TYPE, 1.5)


def test_refine_keeps_the_latent_of_what_is_named(runtime, models, picture, tmp_path):
    from pipeline.image import prepare, read_picture

    scene = read_scene(furniture().save(tmp_path / "furniture.glb"))
    mesh = stages.scene_mesh(scene, scene.frame())
    condition = stages.encode_images(runtime, models, [prepare(read_picture(picture))], (1,))
    made = stages.encode_mesh(runtime, models, mesh, stages.shape_resolution(models, TYPE), 42)
    keep = stages.Keep(("seat", "bare"))
    kept = stages.tokens_to_keep(runtime, scene, keep, made)
    assert kept.any() and not kept.all()
    for strength in (0.5, 1.0):
        found, free = (
            stages.refine_shape(runtime, models, condition, mesh, TYPE, strength, scene=scene, keep=each)
            for each in (keep, stages.Keep())
        )
        assert torch.equal(found.sparse.feats[kept], made.shape.sparse.feats[kept])
        assert not torch.equal(free.sparse.feats[kept], made.shape.sparse.feats[kept])
        assert (found.sparse.feats[~kept] != made.shape.sparse.feats[~kept]).any(1).all()
        assert found.origin.recipe != free.origin.recipe
    with pytest.raises(SettingsError, match="No mesh node is called sofa"):
        stages.refine_shape(runtime, models, condition, mesh, TYPE, 1.0, scene=scene, keep=stages.Keep(("sofa",)))


def test_fewer_tokens_lower_the_grid_before_the_network_runs(models, picture, ball, runtime, monkeypatch):
    """At each resolution that was too fine the encoder ran in vain."""
    from dataclasses import replace

    from pipeline.image import prepare, read_picture
    from pipeline.stages.user_mesh import refine

    monkeypatch.setattr(refine, "CASCADE_STEP", 2)
    finer = replace(TYPE, shape=(replace(TYPE.shape[-1], grid_scale=4.0),))
    condition = stages.encode_images(runtime, models, [prepare(read_picture(picture))], (1,))
    counts = {}
    for side in (4, 3, 2, 1):
        scale = stages.shape_resolution(models, TYPE) * side
        counts[scale] = len(stages.encode_mesh(runtime, models, ball, scale).shape.sparse.voxels)
    whole, *_, last = counts.values()
    runtime.records.clear()
    latent = stages.refine_shape(runtime, models, condition, ball, finer, 0.0, max_tokens=(whole + last) // 2)
    assert last <= len(latent.sparse.voxels) < (whole + last) // 2
    assert [record.stage for record in runtime.records].count("encode mesh") == 1
    assert f"which would take {whole:,} latent voxels" in latent.origin.notes


def test_refine_lies_where_the_source_lay(run, encoders, picture, tmp_path):
    ball = trimesh.creation.icosphere(subdivisions=2, radius=250.0)
    ball.apply_translation([1000.0, -300.0, 70.0])
    ball.export(tmp_path / "ball.glb")
    out = tmp_path / "out.glb"
    options = ("--checkpoint", encoders, "--type", "512", "--strength", 0, "--geometry-only", "--shells", "surface")
    code, _, err = run("refine", tmp_path / "ball.glb", picture, "--output", out, *options)
    assert code == 0, err
    code, _, err = run("refine", tmp_path / "ball.glb", picture, "--output", out, "--keep-nodes", "sofa", *options)
    assert code == 1 and "No mesh node is called sofa" in err
    (node,) = (each for each in Gltf.open(out).json["nodes"] if "mesh" in each)
    assert np.allclose(node["translation"], [1000, -300, 70], rtol=1e-6)
    assert np.allclose(node["scale"], 500 / 0.99999, rtol=1e-6)


def test_the_materials_of_a_scene_are_seen(tmp_path):
    scene = read_scene(furniture().save(tmp_path / "furniture.glb"))
    frame = scene.frame()
    seat = frame.inward(scene.parts[0].placed()).mean(0)
    top = torch.tensor(seat + np.array([0, 0, 1.0]), dtype=torch.float32)[None]
    (place, *_) = Places(scene, frame, torch.device("cpu")).nearest(torch.cat([top - torch.tensor([0, 0, 1.0]), top]))
    assert scene.parts[place.part].name == "seat" and place.rows[0] == 0
    assert np.allclose(Materials(scene).at(place)[0], [1.0, 0, 0, 1, 1, 1])  # wood is red, factors default to 1


def test_bilinear_repeats_and_hits_texels():
    image = np.arange(12, dtype=np.float32).reshape(3, 4, 1)
    centres = np.array([[(x + 0.5) / 4, (y + 0.5) / 3] for y in range(3) for x in range(4)])
    for moved in (centres, centres + np.array([3, -2])):
        seen = bilinear(torch.from_numpy(image), torch.from_numpy(moved))[:, 0]
        assert seen.tolist() == pytest.approx(range(12), abs=1e-5)


@pytest.mark.parametrize("solve", [euler, heun])
def test_a_start_is_noised_and_kept_rows_come_back(solve):
    """A field whose flow is known: from any start all that is free goes to the target, what is kept stays."""
    settings = SamplerSettings(steps=8, guidance_scale=1.0, time_shift=3.0)
    target, data, noise = (torch.randn(6, 4, generator=torch.Generator().manual_seed(k)) for k in range(3))
    seen = []

    def velocity(x, t):
        seen.append(t)
        return (x - target) / t

    keep = torch.tensor([True, False, True, False, False, False])
    *_, last = solve(velocity, noise, settings, Start(data, 0.4, keep))
    assert max(seen) == 0.4 and torch.equal(last.x[keep], data[keep])
    assert torch.allclose(last.x[~keep], target[~keep], atol=1e-5)
    first = Start(data, 0.4).at(0.4, noise, settings.sigma_min)
    assert torch.allclose(first, 0.6 * data + 0.4 * noise, atol=1e-4)
    whole = [sample.x for sample in solve(velocity, noise, settings)]
    same = [sample.x for sample in solve(velocity, noise, settings, Start(data, 1.0))]
    assert all(torch.equal(*pair) for pair in zip(whole, same, strict=True))
    assert not list(solve(velocity, noise, settings, Start(data, 0.0)))


def test_refine_takes_the_levels_of_its_preset():
    """`texture`, which shares options with it, writes one file and has none."""
    from generate_texts import commands

    given = commands()["refine"].parse_args(["a.glb", "a.png", "--output", "b.glb", "--preset", "game"])
    assert given.lods is None and given.preset == "game"
