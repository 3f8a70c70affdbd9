"""Values of different runs and checkpoints do not mix: origins, recipes, fingerprints."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline import stages
from pipeline.bench.shapes import surface_net
from pipeline.errors import (
    SettingsError,
)
from pipeline.image import prepare, read_picture
from pipeline.models import build
from pipeline.runtime import Runtime
from pipeline.spec import IMAGE_ENCODER, PIPELINE_TYPES, SHAPE_DECODER, SamplerSettings
from pipeline.weights import Models, open_checkpoint

GOLDEN = Path(__file__).parent / "golden"
GOLDEN_CHECKPOINT = Path(__file__).parents[1] / "checkpoints" / "random"


def runtime(**options):
    return Runtime("cpu", stages.table(), torch.float32, **options)


class Run:
    """What the stages make of a seed with the random checkpoint, one sampling step each.

    Its structure decoder makes the same of every seed, so there are half of the voxels with an even one.
    """

    def __init__(self, models, condition, seed):
        used, pipeline_type, quick = runtime(keep_models=True), PIPELINE_TYPES["512"], SamplerSettings(1, 1.0)
        self.condition = condition
        self.structure = stages.sample_structure(used, models, condition, seed, quick)
        if seed % 2 == 0:
            self.structure.occupied[: len(self.structure.occupied) // 2] = False
        self.shape = stages.sample_shape(used, models, condition, self.structure, pipeline_type, quick)
        # the random checkpoint has texture networks for 1024 only
        self.texture = stages.sample_texture(used, models, condition, self.shape, PIPELINE_TYPES["1024"], quick)
        self.mesh, self.subdivisions = stages.decode_shape(used, models, self.shape)
        self.voxels = stages.decode_texture(used, models, self.texture, self.subdivisions)


@pytest.fixture(scope="module")
def runs(one_thread):
    """Models, and the runs of two seeds with them."""
    models = Models(open_checkpoint(GOLDEN_CHECKPOINT), build)
    picture = prepare(read_picture(GOLDEN / "image_rgba.png"))
    condition = stages.encode_images(runtime(keep_models=True), models, [picture], (1, 2))
    return models, Run(models, condition, 1), Run(models, condition, 2)


def refused(match, stage, *arguments, **more):
    """A stage that says why it does not run, before its first step."""
    steps = []
    with pytest.raises(SettingsError, match=match):
        stage(runtime(on_step=steps.append), *arguments, **more)
    assert not steps


def test_values_of_different_shapes_do_not_mix(runs):
    models, one, two = runs
    assert len(one.texture.sparse.voxels) != len(two.texture.sparse.voxels)
    different = "different shapes .*seed 1, 512, random.*seed 2, 512, random"
    refused(different, stages.decode_texture, models, one.texture, two.subdivisions)
    refused(different, stages.bake_texture, two.mesh, one.voxels, 64)
    refused(different, stages.bake_texture, one.mesh, one.voxels, 64, original=two.mesh)
    refused(different, stages.color_vertices, two.mesh, one.voxels)
    # also on the way through ComfyUI, which moves values, and for what processing makes of a mesh
    refused(different, stages.decode_texture, models, one.texture.to("meta"), two.subdivisions.to("meta"))
    ball = stages.Mesh(*surface_net(lambda points: points.norm(dim=1) - 0.4, 8), origin=two.mesh.origin)
    processed = stages.process_mesh(runtime(), ball, 100, shells="surface", lods=[50])
    assert len(processed.lods) == 1
    for level in processed.levels:
        refused(different, stages.color_vertices, level.to("cpu"), one.voxels)


def test_the_same_voxels_of_another_run_do_not_mix(runs):
    """One structure sampled with other settings: everything fits in size, and the colours would be another shape's."""
    models, one, _ = runs
    other = stages.sample_shape(
        runtime(keep_models=True), models, one.condition, one.structure, PIPELINE_TYPES["512"], SamplerSettings(1, 1.5)
    )
    assert torch.equal(other.sparse.voxels.coords, one.shape.sparse.voxels.coords)
    texture = replace(one.texture, origin=replace(one.texture.origin, recipe=other.origin.recipe))
    refused("different shapes .*other sampler settings", stages.decode_texture, models, texture, one.subdivisions)


def test_values_without_an_origin_are_compared_by_what_they_hold(runs):
    models, one, two = runs
    levels = list(two.subdivisions)
    texture, unknown = replace(one.texture, origin=stages.Origin()), stages.Origin()
    refused("Level 0 of the subdivision divides .* that are not", stages.decode_texture, models, texture, levels)
    refused("has 3 levels; tex_slat_decoder of random follows 4", stages.decode_texture, models, texture, levels[:3])
    mixed = [*one.subdivisions[:2], *two.subdivisions[2:]]
    refused("Level 2 of the subdivision", stages.decode_texture, models, texture, mixed)
    voxels, mesh = (replace(each, origin=unknown) for each in (one.voxels, one.mesh))
    refused("The original is the raw mesh of", stages.bake_texture, mesh, voxels, 64, original=two.mesh)
    narrow = stages.Condition({1: torch.zeros(1, 5, 7), 2: torch.zeros(1, 5, 7)})
    refused("tokens of 7 channels; sparse_structure_flow_model of random", stages.sample_structure, models, narrow, 1)
    thin = replace(one.shape, sparse=one.shape.sparse.replace(one.shape.sparse.feats[:, :5]), origin=unknown)
    refused("shape latent has 5 channels", stages.decode_shape, models, thin)
    refused("shape latent has 5 channels", stages.sample_texture, models, one.condition, thin, PIPELINE_TYPES["1024"])
    # and what fits runs, as values of a state or of other nodes do
    same = stages.decode_texture(runtime(keep_models=True), models, texture, list(one.subdivisions))
    assert torch.equal(same.sparse.feats, one.voxels.sparse.feats)


@pytest.fixture
def changed(tmp_path):
    """The random checkpoint elsewhere, with one number of one network changed."""

    def change(file):
        folder = tmp_path / "fine-tuned"
        shutil.copytree(GOLDEN_CHECKPOINT, folder)
        path = folder / file
        tensors = load_file(path)
        name = max(tensors, key=lambda key: tensors[key].numel())
        tensors[name] = tensors[name] + 1
        save_file(tensors, path)
        return Models(open_checkpoint(folder), build)

    return change


def test_values_of_another_checkpoint_are_named(runs, changed):
    models, one, _ = runs
    other, pipeline_type = changed("ckpts/shape_slat_decoder.safetensors"), PIPELINE_TYPES["512"]
    text = "shape latent was made with another shape_slat_decoder .of random. than that of fine-tuned"
    refused(text, stages.decode_shape, other, one.shape)
    refused(text, stages.sample_texture, other, one.condition, one.shape, PIPELINE_TYPES["1024"])
    # the encoder and the structure decoder are the same there, so these go on
    shape = stages.sample_shape(runtime(), other, one.condition, one.structure, pipeline_type, SamplerSettings(1, 1.0))
    assert torch.equal(shape.sparse.feats, one.shape.sparse.feats) and shape.origin.recipe != one.shape.origin.recipe
    refused("belongs to tex_slat_decoder", stages.decode_shape, models, one.texture)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("image_encoder/model.safetensors", "condition was made with another image_encoder"),
        ("ckpts/sparse_structure_decoder.safetensors", "structure was made with another sparse_structure_decoder"),
    ],
)
def test_conditions_and_structures_of_another_checkpoint_are_named(runs, changed, file, text):
    _, one, _ = runs
    refused(text, stages.sample_shape, changed(file), one.condition, one.structure, PIPELINE_TYPES["512"])


def test_fingerprints(runs, tmp_path):
    """The same network has one wherever it lies, and every network another; recipes are the same run after run."""
    models, one, two = runs
    shutil.copytree(GOLDEN_CHECKPOINT, tmp_path / "copy")
    copy = Models(open_checkpoint(tmp_path / "copy"), build)
    roles = [IMAGE_ENCODER, *PIPELINE_TYPES["1024_cascade"].roles()]
    assert [copy.fingerprint(role) for role in roles] == [models.fingerprint(role) for role in roles]
    assert len({models.fingerprint(role) for role in roles}) == len(set(roles))
    assert models.fingerprint(SHAPE_DECODER) == one.shape.origin.network
    again = Run(copy, one.condition, 1)
    for name in ("structure", "shape", "texture", "subdivisions", "mesh", "voxels"):
        first, second, third = (getattr(each, name).origin for each in (one, again, two))
        same = replace(second, checkpoint=first.checkpoint, description=first.description)
        assert first.recipe and first == same, name
        assert first.recipe != third.recipe and getattr(one, name).to("cpu").origin == first
