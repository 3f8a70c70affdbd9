"""Closed shapes with holes punched and voxels missing: solid makes of them what they were."""

import pytest
import torch
from closed_shapes import SHAPES, closed, damaged
from devices import on_device
from manifolds import moebius
from meshes import clean, needs_warp, project, solid

from pipeline import stages
from pipeline.errors import SettingsError
from pipeline.mesh import Mesh
from pipeline.mesh.query.farthest import farthest_by_tree
from pipeline.mesh.query.winding_number import winding_numbers, winding_numbers_by_tree
from pipeline.mesh.remesh.patches import patch_holes
from pipeline.mesh.simplify.bounded import deviation
from pipeline.mesh.topology.minimum_cut import source_side
from pipeline.runtime import Runtime

pytestmark = [needs_warp, pytest.mark.usefixtures("device")]
winding_numbers = on_device(winding_numbers)
winding_numbers_by_tree = on_device(winding_numbers_by_tree)
deviation = on_device(deviation)
patch_holes = on_device(patch_holes)
source_side = on_device(source_side)


@pytest.mark.parametrize("damage", ["holes", "both"])
@pytest.mark.parametrize("name", ["ball", "torus", "flask", "cube"])
def test_holes_are_closed_and_nothing_else(name, damage):
    """A flask is a hollow ball with a neck: its cavity stays open, its walls stay walls."""
    found = closed(name, damage, 64)
    assert found.watertight and found.euler == SHAPES[name][1]
    assert found.volume == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("name", ["thin torus", "ladder", "chain"])
def test_thin_rods_get_no_thinner(name):
    """With its vertices on the surface alone a ladder lost 0.9 % of its volume, at six cells across a rung."""
    assert closed(name, "none", 96).volume == pytest.approx(1, abs=0.001)


@pytest.mark.parametrize(("name", "damage"), [("bowl", "holes"), ("three balls", "both")])
def test_walls_with_holes_on_both_sides_stay_and_what_has_lost_much_is_no_sheet(name, damage):
    """Winding numbers alone see holes opposite each other as one through the wall; holes that ran together on a ball
    (0.12 of it) were taken for the rim of a bowl."""
    found = closed(name, damage, 64)
    assert found.watertight and found.euler == SHAPES[name][1]
    assert found.volume == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(("name", "width"), [("ball", 6), ("torus", 2), ("tube", 2)])
def test_a_body_cut_in_two_is_one_body(name, width):
    """Its halves have rims as open bowls have, but each other's before them; a torus has one more round its hole."""
    raw, whole = damaged(name, "none", 64)
    faces = whole.faces[whole.vertices[whole.faces.long()].mean(1)[:, 2].abs() > width / 128]
    made = processed(stages.Mesh(raw.vertices, faces, resolution=64), shells="solid").facts["mesh"]
    assert made["watertight"] and made["euler"] == SHAPES[name][1]
    assert made["volume"] == pytest.approx(whole.report.volume, rel=0.01)


def test_a_lid_goes_on_as_the_surface_bends():
    raw, whole = damaged("ball", "none", 32)
    faces = whole.faces[raw.vertices[whole.faces.long()].mean(1)[:, 2] < 0.3]
    mesh = Mesh(raw.vertices, faces)
    points, lids = patch_holes(mesh.vertices, mesh.edges, mesh.edges.border())
    assert Mesh(points, torch.cat([mesh.faces.int(), lids])).report.watertight
    assert (points[len(raw.vertices) :].norm(dim=1) - 0.4).abs().max() < 0.012


def test_the_loops_of_a_surface_of_one_side_have_lids_too():
    mesh = Mesh(*moebius())
    assert not mesh.sheets.orientable.all()
    points, lids = patch_holes(mesh.vertices, mesh.edges, mesh.edges.border())
    closed = Mesh(points, torch.cat([mesh.faces.int(), lids])).report
    assert closed.boundary_edges == 0 and closed.euler == mesh.report.euler + 1


@pytest.mark.parametrize(("wall", "thickness"), [(0.0, 2 * 0.8 / 48), (0.1, 0.1)])
def test_an_open_sheet_stays_open_and_becomes_as_thick_as_asked(wall, thickness):
    raw, _ = damaged("ball", "none", 48)
    half = raw.faces[raw.vertices[raw.faces.long()].mean(1)[:, 2] < 0.1]
    cleaned = clean(raw.vertices, half)
    vertices, faces, _ = solid(cleaned.vertices, cleaned.faces, 48, wall)
    assert Mesh(vertices, faces).report.euler == 2
    lower = vertices.norm(dim=1)[vertices[:, 2] < -0.1]
    assert lower.max() - lower.min() == pytest.approx(thickness, rel=0.15)


@pytest.mark.parametrize("wall", [-1.0, float("nan"), 1e9])
def test_walls_out_of_range_are_named(wall):
    raw, _ = damaged("ball", "none", 24)
    with pytest.raises(SettingsError, match="wall"):
        solid(raw.vertices, raw.faces, 24, wall)


def test_winding_numbers_by_tree_are_those_of_the_reference():
    raw, whole = damaged("torus", "none", 24)
    faces = whole.faces[: len(whole.faces) * 3 // 4]
    points = torch.rand(300, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    found, expected = winding_numbers_by_tree(raw.vertices, faces, points), winding_numbers(raw.vertices, faces, points)
    assert (found - expected).abs().max() < 0.05 and (found - expected).abs().mean() < 0.01
    inside = winding_numbers(raw.vertices, whole.faces, points)
    assert (inside - inside.round()).abs().max() < 1e-4 and set(inside.round().tolist()) == {0.0, 1.0}
    assert winding_numbers_by_tree(raw.vertices, faces[:0], points).abs().max() == 0


def test_the_cheapest_cut_is_that_of_brute_force():
    random = torch.Generator().manual_seed(0)
    for _ in range(20):
        tail, head = torch.randint(6, (2, 15), generator=random)
        capacity, source, sink = (torch.randint(9, (n,), generator=random) for n in (15, 6, 6))

        def cost(inside, tail=tail, head=head, capacity=capacity, source=source, sink=sink):
            cut = inside[tail] & ~inside[head]
            return int(capacity[cut].sum() + source[~inside].sum() + sink[inside].sum())

        every = [torch.arange(6).new_tensor([n >> i & 1 for i in range(6)]).bool() for n in range(64)]
        assert cost(source_side(tail, head, capacity, source, sink)) == min(map(cost, every))


def processed(raw, faces=10**6, **options):
    return stages.process_mesh(Runtime(torch.device("cpu"), stages.default_backends()), raw, faces, **options)


def test_auto_closes_what_is_meant_to_be_closed_and_says_why():
    made = processed(damaged("torus", "voxels", 48)[0], shells="auto", max_hole_perimeter=0).facts
    assert made["shells"]["chosen"] == "solid" and "meant to be closed" in made["shells"]["because"]
    assert made["mesh"]["watertight"] and made["mesh"]["euler"] == 0


def test_auto_leaves_open_and_closed_meshes_as_they_are():
    raw, whole = damaged("ball", "none", 32)
    half = raw.faces[raw.vertices[raw.faces.long()].mean(1)[:, 2] < 0.1]
    opened = processed(stages.Mesh(raw.vertices, half), shells="auto", resolution=64).facts
    assert opened["shells"]["chosen"] == "outer" and "meant to be open" in opened["shells"]["because"]
    assert opened["mesh"]["faces"] == len(half)
    closed = processed(raw, shells="auto", resolution=64).facts
    assert closed["shells"]["chosen"] == "outer" and closed["mesh"]["faces"] == len(whole.faces)


def test_auto_spends_no_faces_that_nobody_sees():
    raw = damaged("cube", "holes", 96)[0]
    auto, solid = (processed(raw, shells=shells).facts["mesh"] for shells in ("auto", "solid"))
    assert 20_000 >= auto["faces"] < solid["faces"] / 2 and auto["watertight"]
    assert auto["volume"] == pytest.approx(solid["volume"], rel=2e-3)


def test_a_bound_in_voxels_is_kept_beside_the_face_count():
    raw = damaged("ball", "none", 32)[0]
    made = processed(raw, shells="solid", max_error=stages.Length.parse("0.2vox"))
    whole = processed(raw, shells="solid")
    assert len(made.faces) < len(whole.faces) / 2 and made.facts["max_error"] == 0.2 / 32
    assert deviation(whole, made, farthest_by_tree) <= 0.2 / 32
    assert len(processed(raw, 300, shells="solid", max_error=stages.Length.parse("0.2vox")).faces) <= 300


@pytest.mark.parametrize("text", ["", "vox", "1voxel", "-1", "0", "nan", "inf", "0vox", "two"])
def test_lengths_that_are_none_are_named(text):
    with pytest.raises(SettingsError, match="length"):
        stages.Length.parse(text)


@pytest.mark.parametrize(
    ("asked", "cure"),
    [("0.41", "below 0.39"), ("1e9", "below 0.39"), ("20vox", "below 9.\\d+vox"), ("9e9vox", "below 9.\\d+vox")],
)
def test_errors_larger_than_the_object_are_named(asked, cure):
    """Four faces were made of it, without a word."""
    with pytest.raises(SettingsError, match=f"leaves nothing of the object; choose {cure}"):
        processed(damaged("ball", "none", 24)[0], shells="surface", max_error=stages.Length.parse(asked))


def test_an_error_that_leaves_little_of_a_shape_is_told():
    """Four faces were made of an object whose longest side is more than twice the error, without a word."""
    raw = damaged("ball", "none", 24)[0]
    most = processed(raw, shells="surface", max_error=stages.Length(0.38)).facts["warnings"]
    assert any(each.startswith("A max error of 0.38 left ") and "of the surface" in each for each in most)
    for usual in ("0.02", "0.5vox"):
        assert not processed(raw, shells="surface", max_error=stages.Length.parse(usual)).facts["warnings"]


def test_settings_without_effect_are_named():
    raw = damaged("ball", "none", 24)[0]
    with pytest.raises(SettingsError, match="wall would have no effect"):
        processed(raw, shells="outer", wall=0.1)
    with pytest.raises(SettingsError, match="no voxels"):
        processed(stages.Mesh(raw.vertices, raw.faces), max_error=stages.Length(0.5, in_voxels=True))


def test_snapping_sends_no_face_through_another():
    """The damaged bowl.s solid has 10 faces that cross, all by being moved onto the raw mesh."""
    from pipeline.mesh.operations import solid as snapped
    from pipeline.mesh.query.crossing import crossing_by_kernels as crossing

    raw, _ = damaged("bowl", "both", 40)
    cleaned = clean(raw.vertices, raw.faces)
    made, facts = snapped(Mesh(cleaned.vertices, cleaned.faces), 40)
    assert made.report.watertight and not crossing(made.vertices, made.faces).any()
    loose = project(
        *solid(cleaned.vertices, cleaned.faces, 40)[:2], cleaned.vertices, cleaned.faces, 0.5 * facts["cell"]
    )
    found = crossing(loose, made.faces)
    assert found.any()
    some = torch.zeros(len(made.faces), dtype=torch.bool)
    some[::2] = True
    assert torch.equal(crossing(loose, made.faces, some), found & some)
