"""Presets: rows of settings that every command and the one-node graph take alike."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import stages
from pipeline.cli.export import export_settings
from pipeline.cli.main import parser


def asked(*options, output="x.glb"):
    return export_settings(parser().parse_args(["finish", "x.safetensors", *options]), Path(output))


def test_without_a_preset_everything_is_as_ever():
    plain = stages.ExportSettings(shells="auto")
    assert asked() == asked("--preset", "standard") == stages.PRESETS["standard"].export == plain


@pytest.mark.parametrize("name", stages.PRESETS)
def test_a_preset_is_its_row(name):
    assert asked("--preset", name) == stages.PRESETS[name].export


def test_the_game_preset_is_what_engines_want():
    game = stages.PRESETS["game"].export
    assert 5_000 <= game.faces <= 20_000 and game.normal_map and game.seams == "fewer" and len(game.lods) == 2


def test_what_is_given_beside_a_preset_counts():
    game = stages.PRESETS["game"].export
    given = ("--faces", "6000", "--texture-size", "512", "--seams", "usual", "--lods", "2000")
    assert asked("--preset", "game", *given) == replace(game, faces=6000, texture_size=512, seams="usual", lods=(2000,))
    assert asked("--preset", "game", "--faces", "3000").lods == (1500,)  # those that are coarser
    assert asked("--preset", "game", "--faces", "1000").lods == ()


@pytest.mark.parametrize("options", [("--vertex-colors",), ("--geometry-only",)])
def test_a_preset_asks_nothing_of_textures_that_there_are_not(options):
    found = asked("--preset", "game", *options)
    assert not found.normal_map and found.seams == "usual" and found.faces == stages.PRESETS["game"].export.faces
    found = asked("--preset", "game", output="x.stl")
    assert not found.normal_map and found.vertex_colors
    stages.check_export(found)


def test_fewer_seams_without_textures_are_named():
    with pytest.raises(stages.checks.SettingsError, match="fewer seams would have no effect"):
        stages.check_export(asked("--vertex-colors", "--seams", "fewer"))
    with pytest.raises(stages.checks.SettingsError, match="Unknown seams"):
        stages.ExportSettings(seams="few")


def test_seams_that_cannot_be_fewer_are_warned_of():
    import torch

    from pipeline.mesh import examples
    from pipeline.runtime import Runtime
    from pipeline.stages.finishing.unwrap import unwrap_levels

    cube = examples.cube(torch.device("cpu"))
    mesh = stages.Mesh(cube.vertices, cube.faces, facts={"warnings": ["one"]})
    for choices, seams, count in (({"unwrap": "triangles"}, "fewer", 2), ({"unwrap": "triangles"}, "usual", 0)):
        runtime = Runtime("cpu", stages.default_backends(choices))
        facts = unwrap_levels(runtime, [mesh], 256, 2, seams)[3]
        assert len(facts.get("warnings", ())) == count
        assert not count or "triangles unwrapped the mesh" in facts["warnings"][-1]
