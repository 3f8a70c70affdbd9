"""The first minute: the small checkpoint makes of a picture the object that it shows, in its colours, on a CPU."""

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from pipeline import stages
from pipeline.__main__ import main
from pipeline.image import prepare
from pipeline.render import render
from pipeline.runtime import Runtime
from pipeline.warp import unavailable_reason
from training.evaluation import evaluate, showcase
from training.evaluation.examples import examples
from training.networks import DESIGNS

pytestmark = [
    pytest.mark.skipif(bool(unavailable_reason()), reason=f"Warp is absent: {unavailable_reason()}"),
    pytest.mark.usefixtures("one_thread"),
]

CHECKPOINT = ROOT / "checkpoints" / "small"
DESIGN = DESIGNS["small"]
NUMBERS = {"rocket": 25, "teapot": 15}  # held-out objects
CARS = {"red car": 41, "purple car": 35}
SILHOUETTE, COLOUR = 0.88, 0.12  # the least overlap and the largest error of a right result
SIDE = 192  # pixels of the pictures that are compared


@pytest.fixture(scope="module")
def shown():
    """Examples by name."""
    numbers = NUMBERS | CARS
    return dict(zip(numbers, examples(DESIGN, [*numbers.values()], finer=1)))


@pytest.fixture(scope="module")
def make(shown, tmp_path_factory):
    """make(name, seed): the GLB that the command line makes of an example's picture, read back; of few faces, which
    are soon unwrapped, and without a search for shells."""
    folder = tmp_path_factory.mktemp("first_minute")

    def run(name, seed):
        picture, output = folder / f"{name}.png", folder / f"{name}_{seed}.glb"
        shown[name].picture.save(picture)
        options = (
            "--checkpoint",
            CHECKPOINT,
            "--seed",
            seed,
            "--device",
            "cpu",
            "--texture-size",
            512,
            "--faces",
            6000,
            "--shells",
            "surface",
        )
        assert main([str(each) for each in ("generate", picture, *options, "--output", output)]) == 0
        return showcase.read_glb(output)

    return run


@pytest.fixture(scope="module")
def made(make):
    """What became of the pictures, by class."""
    return {name: make(name, 42) for name in NUMBERS}


@pytest.fixture(scope="module")
def runtime():
    return Runtime("cpu", stages.table(), torch.float32, keep_models=True)


@pytest.fixture(scope="module")
def models():
    return evaluate.open_models(str(CHECKPOINT))


def judged(subject, example):
    """Overlap of the silhouettes and error of the base colours from the view of an example's picture."""
    seen = render(subject, example.camera, SIDE, "base_color").astype(np.float32) / 255
    expected = example.truth.picture(example.camera)
    return evaluate.silhouette(seen, expected), evaluate.colour_error(seen, expected)


@pytest.mark.parametrize("name", NUMBERS)
def test_a_picture_becomes_its_object(made, shown, name):
    silhouette, colour = judged(made[name], shown[name])
    assert silhouette >= SILHOUETTE and colour <= COLOUR


@pytest.mark.parametrize("name", NUMBERS)
def test_another_pictures_object_would_not_pass(made, shown, name):
    """The bounds above tell a result from a wrong one."""
    for other in NUMBERS.keys() - {name}:
        silhouette, colour = judged(made[other], shown[name])
        assert silhouette < SILHOUETTE or colour > COLOUR, other


def test_another_seed_gives_another_object_of_the_picture(make, made, shown):
    first, second = made["rocket"], make("rocket", 7)
    assert first.vertices.shape != second.vertices.shape or not torch.equal(first.vertices, second.vertices)
    silhouette, colour = judged(second, shown["rocket"])
    assert silhouette >= SILHOUETTE and colour <= COLOUR


def test_another_pictures_texture_changes_colours_and_not_the_shape(runtime, models, shown):
    """The texture latent of each car, on the shape of the first."""
    path = models.checkpoint.default_pipeline_type
    conditions = {
        name: stages.encode_images(runtime, models, [prepare(shown[name].picture)], path.image_scales())
        for name in CARS
    }
    structure = stages.sample_structure(runtime, models, conditions["red car"], 42)
    shape = stages.sample_shape(runtime, models, conditions["red car"], structure, path)
    meshes, means = {}, {}
    for name, condition in conditions.items():
        texture = stages.sample_texture(runtime, models, condition, shape, path)
        meshes[name], subdivisions = stages.decode_shape(runtime, models, shape)
        voxels = stages.decode_texture(runtime, models, texture, subdivisions)
        means[name] = voxels.sparse.feats[:, stages.BASE_COLOR].mean(0)
    red, purple = meshes.values()
    assert torch.equal(red.vertices, purple.vertices) and torch.equal(red.faces, purple.faces)
    for name, mean in means.items():
        error = {car: float((mean - shown[car].truth.pbr[:, :3].mean(0)).abs().mean()) for car in CARS}
        assert min(error, key=error.get) == name and error[name] < 0.15, error


def test_the_goals_on_an_object(runtime, models):
    """`python -m training evaluate` prints the table of the goals for 128 objects; here is one."""
    rows = evaluate.evaluate(runtime, models, DESIGN, 1, 1, lambda row: None)
    reached = {goal.measure: value for goal, value, _ in evaluate.verdicts(rows, evaluate.GOALS)}
    assert reached["structure_iou"] >= 0.55 and reached["silhouette_iou"] >= 0.85, reached
    assert reached["colour_error"] <= 0.12 and reached["chamfer"] <= 0.015 and reached["sound"] >= 0.8, reached


def test_the_readmes_picture(made, shown, tmp_path):
    """A row for each object, in which it turns."""
    rows = [showcase.Made(shown[name], showcase.stills(made[name]), 12.3) for name in NUMBERS]
    showcase.save(rows, tmp_path / "new" / "sheet.jpg")
    with Image.open(tmp_path / "new" / "sheet.jpg") as sheet:
        assert sheet.width / sheet.height == pytest.approx(5.4 / len(rows), rel=0.05)
    assert showcase.line(rows).startswith("rocket 12.3 s, teapot 12.3 s (")
    for row in rows:
        covered = (row.stills[..., 3] > 128).mean((1, 2))
        assert len(covered) == 4 and (covered > 0.05).all()
