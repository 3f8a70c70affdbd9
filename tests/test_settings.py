"""From options to settings: no field is left to its default by a wrong name, and each maker takes what it is told."""

from dataclasses import fields

import pytest
import torch

from pipeline.batch import Recipe
from pipeline.cli.main import parser
from pipeline.cli.options import mixing_of
from pipeline.cli.settings import FIELDS, settings_of
from pipeline.errors import SettingsError
from pipeline.make import ObjectSettings, PlannedRun, RefineSettings, TextureSettings, finish_object
from pipeline.plan import STATE, Demand, choose
from pipeline.runtime import Runtime
from pipeline.spec import PIPELINE_TYPES
from pipeline.stages import ExportSettings, Mesh, default_backends

SETTINGS = [
    (ExportSettings, ["generate", "x.png"], set()),
    (ObjectSettings, ["generate", "x.png"], {"pipeline_type", "samplers", "export", "projection"}),
    (RefineSettings, ["refine", "x.obj", "x.png", "--output", "y.glb"], {"pipeline_type", "samplers", "export"}),
    (
        TextureSettings,
        ["texture", "x.obj", "x.png", "--output", "y.glb"],
        {"pipeline_type", "keep", "samplers", "projection"},
    ),
    (Recipe, ["batch", "x", "--output", "y"], {"checkpoint", "pipeline_type", "samplers", "export", "pictures"}),
    (PlannedRun, ["generate", "x.png"], {"runtime", "journal", "chosen", "reuse"}),
]


@pytest.mark.parametrize("kind, arguments, known", SETTINGS, ids=lambda value: getattr(value, "__name__", ""))
def test_every_field_of_settings_is_an_option(kind, arguments, known):
    options = set(vars(parser().parse_args(arguments)))
    names = {each.name for each in fields(kind)}
    assert known <= names and names - known - set(FIELDS) <= options


def test_every_row_is_a_field():
    assert set(FIELDS) <= {each.name for kind, *_ in SETTINGS for each in fields(kind)}


def test_options_reach_the_settings():
    given = [
        "generate",
        "x.png",
        "--single-sided",
        "--texture-format",
        "webp",
        "--alpha-mode",
        "blend",
        "--wall",
        "0.1",
    ]
    made = settings_of(ExportSettings, parser().parse_args(given), faces=9, texture_size=64, lods=(), seams="usual")
    assert not made.double_sided and made.image_format == "webp" and made.alpha_mode.name == "BLEND"
    assert made.wall == 0.1 and made.faces == 9


@pytest.mark.parametrize(
    "words", [["--structure-views", "average"], ["--texture-views", "primary"], ["--view-weights", "2"]], ids=" ".join
)
def test_what_mixes_views_has_no_effect_on_one(words):
    with pytest.raises(SettingsError, match=f"{words[0]} would have no effect on one picture"):
        mixing_of(parser().parse_args(["generate", "x.png", *words]))
    mixing_of(parser().parse_args(["generate", "x.png", "y.png", *words, *(["1"] if words[1] == "2" else [])]))


def test_a_command_mixes_views_where_it_samples(capsys):
    """Not a stage that it leaves out, where a strategy would be taken and do nothing."""
    start = ["x.obj", "x.png", "y.png", "--output", "z.glb"]
    assert mixing_of(parser().parse_args(["texture", *start, "--texture-views", "average"])).texture == "average"
    assert mixing_of(parser().parse_args(["refine", *start, "--shape-views", "average"])).shape == "average"
    for words in (["texture", *start, "--shape-views", "average"], ["refine", *start, "--carve"]):
        with pytest.raises(SystemExit):
            parser().parse_args(words)
    assert "unrecognized arguments: --shape-views average" in capsys.readouterr().err


def test_a_plan_without_networks_does_not_speak_of_them():
    demand = Demand(PIPELINE_TYPES["512"], raw_faces=100_000, source=STATE)
    for reuse in (False, True):
        found = choose(None, demand, "cpu", reuse=reuse, free=8 * 10**9).summary()
        assert "network" not in found and "the mesh processed and baked on the device; about" in found


def test_finishing_keeps_the_plan_of_the_networks():
    """What was sampled in tiles stays said to be, wherever it is finished."""
    corners = torch.tensor([[0.0, 0, 0], [0.3, 0, 0], [0, 0.3, 0], [0, 0, 0.3]])
    raw = Mesh(corners, torch.tensor([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]], dtype=torch.int32), resolution=32)
    seen, sampled = [], {"tiles": True, "finish_on_cpu": False, "stream": True, "lower": ""}
    run = PlannedRun(runtime=Runtime("cpu", default_backends()), chosen=seen.append)
    export = ExportSettings(shells="surface")
    made = finish_object(run, raw, None, export, {"seed": 3, "plan": sampled})
    assert made.facts["plan"] == sampled and made.facts["seed"] == 3 and made.facts["faces"] == 4
    assert seen == [made.plan] and run.journal.plan == made.plan.as_dict()
    assert set(finish_object(run, raw, None, export, {"plan": "junk"}).facts["plan"]) == set(sampled)
