"""The command that measures what views are worth: on results that are known, and its files and tables."""

import math
from types import SimpleNamespace

import pytest
import torch
from meshes import needs_warp

from pipeline.spec import SamplerSettings
from pipeline.views import NAMED_MIXING, STRATEGIES
from training import objects, truth
from training.evaluation import view_strategies
from training.evaluation.evaluate import Solid
from training.evaluation.view_strategies import DEFAULT, ONE, UNPOSED, Measured, cases, line, read, table
from training.networks import DESIGNS

DESIGN = DESIGNS["tiny"]
_SPEC = SimpleNamespace(**dict.fromkeys(("structure_sampler", "shape_sampler", "texture_sampler"), SamplerSettings()))


def test_every_strategy_is_measured_at_every_number_of_views():
    assert cases()[:3] == [(1, ONE), (2, DEFAULT), (4, DEFAULT)] and len(cases()) == 1 + 2 * (len(STRATEGIES) + 2)
    assert {name for count, name in cases() if count == 4} == {DEFAULT, UNPOSED, *STRATEGIES}
    assert {count for count, _ in cases([1, 2])} == {1, 2} and (2, "new") in cases([1, 2], ["new"])


@needs_warp
def test_the_truth_is_perfect_and_its_mirror_image_is_not(monkeypatch):
    """The default gives the truth, the mean its mirror image, primary nothing at all."""
    held = objects.sample(2, torch.Generator().manual_seed(3), held_out=True)
    real = Solid(*truth.dual_grids(held.select(slice(1, 2)), DESIGN.resolution).mesh(0))
    turned = Solid(real.vertices * torch.tensor([1.0, -1.0, 1.0]), real.faces, 1 - real.pbr)
    asked = []

    def made(runtime, models, given, seed, samplers):
        asked.append((len(given.pictures), given.mixing, seed, samplers.shape.steps))
        return real if given.mixing == NAMED_MIXING else None if given.mixing.shape == "primary" else turned

    monkeypatch.setattr(view_strategies, "_generate", made)
    known = [Measured(1, "x", 2, name, 0.5, 0.1, 0.1, 1.0) for name in STRATEGIES if name not in ("average", "primary")]
    told = []
    rows = view_strategies.measure(
        None, SimpleNamespace(spec=_SPEC), DESIGN, [1], 3, told.append, known, counts=(1, 2), steps=4
    )
    found = {(row.views, row.strategy): row for row in rows}
    assert len(rows) == len(found) == len(cases([1, 2])) and len(told) == len(asked) == 5  # what is known is not made
    assert {steps for *_, steps in asked} == {4} and {seed for _, _, seed, _ in asked} == {4}
    perfect, mirrored, nothing = (found[case] for case in ((2, DEFAULT), (2, "average"), (2, "primary")))
    assert perfect.silhouette_iou == 1 and perfect.chamfer < 1e-6 and perfect.colour_error == 0
    assert mirrored.colour_error > 0.1 and mirrored.silhouette_iou < 1
    assert nothing.silhouette_iou == 0 and math.isnan(nothing.chamfer) and math.isnan(nothing.colour_error)


@needs_warp
def test_a_result_that_is_too_large_is_seen(monkeypatch):
    """Cameras frame the true object: a picture that each result fills would tell nothing of its size."""
    held = view_strategies.Held.of(objects.sample(1, torch.Generator().manual_seed(3), held_out=True), 0, 32)
    large = Solid(held.real.vertices * 1.3, held.real.faces, held.real.pbr)
    assert held.compared(held.real)[0] == 1 and held.compared(large)[0] < 0.85


def test_nothing_is_begun_after_the_time():
    assert view_strategies.measure(None, SimpleNamespace(spec=_SPEC), DESIGN, [0], 3, print, until=0.0) == []


def test_results_are_kept_as_lines(tmp_path):
    rows = [
        Measured(0, "mug", 1, ONE, 0.9, 0.01, 0.1, 3.0),
        Measured(0, "mug", 2, UNPOSED, 0.0, math.nan, math.nan, 3.0),
    ]
    (tmp_path / "x.jsonl").write_text("\n".join(map(line, rows)) + "\n")
    again = read(tmp_path / "x.jsonl")
    assert again[0] == rows[0] and math.isnan(again[1].chamfer) and again[1].silhouette_iou == 0
    assert read(tmp_path / "none.jsonl") == []


def test_the_table_tells_paired_differences_with_their_standard_error():
    rows = [Measured(n, "mug", 1, ONE, 0.5 + 0.1 * n, 0.02, 0.1, 2.0) for n in range(3)]
    rows += [Measured(n, "mug", 2, UNPOSED, 0.4 + 0.1 * n, 0.03, 0.1, 4.0) for n in range(3)]
    rows += [Measured(n, "mug", 2, DEFAULT, 0.6 + 0.1 * n + 0.03 * (n - 1), 0.01, math.nan, 4.0) for n in range(3)]
    lines = table(rows).split("\n")
    assert lines[2].startswith("| 1 | one view | 3 | 0.600 | 0.0200 | 0.1000 | 2.0 |")
    default = next(each for each in lines if DEFAULT in each)
    assert "| +0.1000±0.0173 -0.0100±0.0000 | +0.2000±0.0173 -0.0200±0.0000 |" in default and "| nan |" in default
    assert next(each for each in lines[2:] if UNPOSED in each).endswith(
        "| -0.1000±0.0000 +0.0100±0.0000 +0.0000±0.0000 |  |"
    )


@pytest.mark.parametrize("words", [["--views", "3"], ["--objects", "many"]])
def test_what_cannot_be_measured_is_refused(words, capsys):
    from training.__main__ import main

    with pytest.raises(SystemExit):
        main(["views", "--checkpoint", "x", *words])
    assert "python -m training views --help" in capsys.readouterr().err
