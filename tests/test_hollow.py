"""Hollowing out: walls as thick as asked, drains that lead out, all of it closed; cavities that stay or are filled."""

import math

import pytest
import torch
from closed_shapes import SHAPES, _box, _sphere, damaged, punched
from meshes import needs_warp

from pipeline import stages
from pipeline.bench.shapes import surface_net
from pipeline.errors import SettingsError
from pipeline.mesh import Mesh, examples
from pipeline.mesh.query.crossing import crossing_by_kernels
from pipeline.mesh.remesh.hollow_settings import Hollow
from pipeline.mesh.repair.clean import CleanSettings, clean
from pipeline.runtime import Runtime
from pipeline.stages import inspect_mesh
from pipeline.stages.finishing import process

pytestmark = needs_warp
CELLS, WALL, DRAIN = 48, 0.06, 0.08


def shape(name, resolution=CELLS):
    return Mesh(*surface_net(SHAPES[name][0], resolution))


def hollowed(mesh, *settings, cells=CELLS):
    from pipeline.mesh.remesh.solid import solid

    made, facts = solid(mesh, cells, hollow=Hollow(*settings))
    assert made.report.watertight and made.report.inconsistent_edges == 0 and made.report.volume > 0
    assert made.report.volume == pytest.approx(facts["hollow"]["volume"], rel=1e-5)
    return made, facts["hollow"], facts["cell"]


def processed(raw, **options):
    return stages.process_mesh(Runtime(torch.device("cpu"), stages.default_backends()), raw, 10**6, **options)


def distance_from(mesh, points):
    from pipeline.mesh.query.surface import Surface

    return Surface(mesh.vertices, mesh.faces).closest(points).distance


@pytest.mark.parametrize(("name", "wall"), [("ball", WALL), ("torus", 0.04), ("cube", WALL), ("snowman", 0.045)])
def test_the_wall_is_as_thick_as_asked_everywhere(name, wall):
    whole = shape(name, 64)
    made, facts, cell = hollowed(whole, wall, cells=64)
    assert made.report.euler == 2 * whole.report.euler and (facts["cavities"], facts["drains"]) == (1, 0)
    away = distance_from(whole, made.vertices)
    inner = away > wall / 2
    assert inner.any() and (away[inner] - wall).abs().max() <= cell
    assert inspect_mesh(made).prints.wall_thin > wall - cell


def test_a_ball_weighs_what_its_wall_does():
    made, facts, _ = hollowed(shape("ball"), WALL)
    whole, inside = (4 / 3 * math.pi * radius**3 for radius in (0.4, 0.4 - WALL))
    assert facts["volume_before"] == pytest.approx(whole, rel=0.01)
    assert made.report.volume == pytest.approx(whole - inside, rel=0.03)


@pytest.mark.parametrize(("name", "euler"), [("ball", 2), ("torus", -2), ("cube", 2)])
def test_a_drain_leads_straight_down_from_the_lowest_place(name, euler):
    wall = 0.04 if name == "torus" else WALL
    made, facts, cell = hollowed(shape(name, 64), wall, DRAIN, cells=64)
    assert (facts["cavities"], facts["drains"], facts["left_solid"]) == (1, 1, 0)
    assert made.report.components == 1 and made.report.euler == euler  # one surface from outside to inside
    flat = made.vertices[made.vertices[:, 2] < made.vertices[:, 2].min() + wall + 2 * cell]
    middle, height = flat[:, :2].mean(0), made.vertices[:, 2].min()
    if name == "torus":  # anywhere on a ring
        return
    near = (made.vertices[:, :2] - middle).norm(dim=1) < 0.85 * DRAIN / 2
    low = made.vertices[:, 2] < height + wall + DRAIN
    assert not (near & low).any()
    from pipeline.mesh.query.surface import Surface

    below = torch.cat([middle, (height - 0.1)[None]])[None]
    up = Surface(made.vertices, made.faces).rays(below, torch.tensor([[0.0, 0.0, 1.0]])).distance
    assert float(up) > 0.5  # to the ceiling of the cavity


def test_a_flat_base_is_cut_before_so_that_the_floor_has_a_wall():
    whole = shape("snowman", 96)
    made, facts, cell = hollowed(whole, 0.03, 0.05, 0.06, cells=96)
    low, high = whole.vertices[:, 2].min(), whole.vertices[:, 2].max()
    base = float(low + 0.06 * (high - low))
    assert float(made.vertices[:, 2].min()) == pytest.approx(base, abs=1e-4)
    corner = made.vertices[made.faces.long()]
    flat = (corner[:, :, 2] - base).abs().amax(1) < 1e-4
    a, b, c = corner[flat].unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    assert flat.sum() > 100 and (normal[:, 2] < 0).all()
    assert facts["cavities"] == facts["drains"] == 1 and made.report.euler == 2
    floor = (made.vertices[:, 2] > base + 0.03 - cell) & (made.vertices[:, 2] < base + 0.03 + cell)
    inner = distance_from(whole, made.vertices) > 0.03 - cell
    assert (floor & inner).any() and inspect_mesh(made).prints.wall_thin > 0.03 - cell


def test_places_without_room_for_the_drain_stay_solid():
    made, facts, _ = hollowed(shape("table"), 0.025, 0.1, cells=100)
    assert facts["cavities"] == facts["drains"] == 0 and facts["left_solid"] >= 1
    assert made.report.euler == 2 and made.report.volume == pytest.approx(facts["volume_before"], rel=1e-6)


@pytest.mark.parametrize("settings", [(0.5,), (0.001,), (float("nan"),), (WALL, 0.6), (WALL, 0.002), (1e9,)])
def test_walls_and_drains_that_cannot_be_are_named(settings):
    with pytest.raises(SettingsError, match="of a hollow is"):
        hollowed(shape("ball", 24), *settings, cells=24)


def test_true_lengths_reach_the_mesh_and_the_report():
    """A raw mesh of 48 voxels is looked at more finely, as its wall needs that; simplified, the wall still stands."""
    raw, _ = damaged("ball", "voxels", CELLS)
    hollow = stages.Hollowing.parse("4mm", "8mm", "height=80mm", 0.05)
    made = processed(raw, shells="auto", hollow=hollow)
    told = made.facts["shells"]["hollow"]
    assert made.facts["shells"]["chosen"] == "solid" and told["drains"] == 1
    assert made.facts["mesh"]["watertight"] and made.facts["mesh"]["euler"] == 2
    height = float(made.vertices[:, 2].max() - made.vertices[:, 2].min())
    walls = inspect_mesh(made).prints
    assert told["crossing_faces"] == walls.crossing_faces == 0
    assert walls.wall_thin * 80 / height > 4 - 80 / height * made.facts["shells"]["cell"]
    assert told["cm3"] == pytest.approx(made.report.volume * (8 / height) ** 3, rel=0.01)
    assert told["grams"] == pytest.approx(1.24 * told["cm3"]) and told["cm3"] < told["cm3_before"] / 2
    first, second = stages.hollow_lines(told)
    assert f"{told['grams']:.4g} g of {told['grams_before']:.4g}" in first and "drains 1" in first
    assert f"wall is {told['wall_min'] * told['mm_a_unit']:.3g} mm at its thinnest" in second
    assert told["wall"] * told["mm_a_unit"] == pytest.approx(4) and told["wall_min"] > 0.97 * told["wall"]
    assert told["drain"] * told["mm_a_unit"] == pytest.approx(8, rel=1e-6)  # of the result, as the wall
    assert told["drains_open"] == 1 and 6.4 < told["drain_min"] * told["mm_a_unit"] < 8.1


def finned(points):
    """A ball with a fin of a fortieth."""
    return torch.minimum(_sphere(points, 0.3), _box(points, (0.45, 0.0125, 0.1)))


def test_what_a_hollow_promises_is_measured_on_the_simplified_result_and_kept():
    """Where the object itself is thinner than the wall, nothing is hollow, and how thin is said."""
    raw = stages.Mesh(*surface_net(finned, 64), resolution=64)
    made = stages.process_mesh(
        Runtime(torch.device("cpu"), stages.default_backends()),
        raw,
        3000,
        shells="solid",
        hollow=stages.Hollowing.parse("0.06", "0.1"),
    )
    told = made.facts["shells"]["hollow"]
    assert len(made.faces) <= 3000 and told["drains"] == told["drains_open"] == 1
    corners = made.vertices[made.faces.long()]
    middle = corners.mean(1)
    near_drain = (middle[:, :2].norm(dim=1) < 0.08) & (middle[:, 2] < -0.1)
    inner = (middle.norm(dim=1) < 0.27) & ~near_drain
    outer = (middle.norm(dim=1) >= 0.27) & ~near_drain
    points = torch.cat([corners[inner].reshape(-1, 3), middle[inner]])
    points = points[points[:, :2].norm(dim=1) > 0.08]
    wall = float(distance_from(Mesh(made.vertices, made.faces[outer]), points).min())
    assert told["wall_min"] == pytest.approx(wall, rel=0.01) and wall > 0.97 * 0.06
    assert 0.08 < told["drain_min"] <= 0.1
    assert told["thin"] == pytest.approx(0.025, abs=0.006) and 0.02 < told["thin_share"] < 0.2
    assert "are thinner than the wall themselves" in stages.hollow_lines(told)[1]
    assert not any("wall" in each for each in made.facts["warnings"])


def test_walls_and_drains_that_did_not_come_out_are_told():
    """Of a hollow ball, cavity pushed against the outside and drain closed; the cavity is moved back."""
    from pipeline.mesh.query.walls import wall_thickness_by_kernels
    from pipeline.mesh.remesh.solid import solid

    made, facts = solid(shape("ball"), CELLS, hollow=Hollow(WALL, DRAIN))
    hollowed = facts["hollowed"]
    sides = hollowed.sides(made)
    good = hollowed.measured(made, sides, wall_thickness_by_kernels)
    assert good["wall_min"] > 0.9 * WALL and good["drains_open"] == 1 and good["thin"] is None
    points = made.vertices.clone()
    cavity = made.faces[sides.inner].long().unique()
    pushed = cavity[points[cavity, 2] > 0.2]
    points[pushed] *= (0.4 - WALL / 3) / points[pushed].norm(dim=1, keepdim=True)
    bad = Mesh(points, made.faces)
    found = hollowed.measured(bad, sides, wall_thickness_by_kernels)
    assert found["wall_min"] < 0.4 * WALL
    mended = hollowed.measured(hollowed.thickened(bad, sides), sides, wall_thickness_by_kernels)
    assert mended["wall_min"] > 0.97 * WALL
    closed = hollowed.measured(hollowed.body, hollowed.sides(hollowed.body), wall_thickness_by_kernels)
    assert closed["drains_open"] == 0 and closed["drain_min"] is closed["wall_min"] is None
    told = {**facts["hollow"], "crossing_faces": 1, "cells": CELLS, "own_cells": CELLS, "volume": made.report.volume}
    asking = stages.Hollowing.parse(str(WALL), str(DRAIN))
    facts, said = asking.facts({**told, **found, "drains_open": 0}, made, Hollow(WALL, DRAIN))
    assert [
        each[: len(start)]
        for each, start in zip(
            said, ("1 face of the hollow object goes", "The wall of the cavity is", "1 drain of 1 cannot be seen")
        )
    ] == ["1 face of the hollow object goes", "The wall of the cavity is", "1 drain of 1 cannot be seen"]


def test_a_wall_that_makes_the_grid_finer_than_the_object_says_what_it_costs():
    made = processed(damaged("ball", "none", 24)[0], shells="solid", hollow=stages.Hollowing.parse("0.03"))
    told = made.facts["shells"]["hollow"]
    assert told["cells"] == made.facts["shells"]["resolution"] == 54 and told["own_cells"] == 19
    assert any("54 cells along its longest side" in each and "8 times" in each for each in made.facts["warnings"])


def test_a_wall_too_thin_for_the_memory_is_refused_before_it_is_made(monkeypatch):
    from pipeline.stages.finishing import shells

    raw, _ = damaged("ball", "none", 24)
    told = r"in 160 cells .* takes about 0\.\d GB; 0\.0 GB are free.* times as thick"
    for free in (5_000_000, 0):
        monkeypatch.setattr(shells, "device_bytes", lambda device, free=free: free)
        with pytest.raises(SettingsError, match=told):
            processed(raw, shells="solid", hollow=stages.Hollowing.parse("0.01"))
    monkeypatch.setattr(shells, "device_bytes", lambda device: 5_000_000)
    processed(raw, shells="solid", hollow=stages.Hollowing.parse("0.1"))


def test_memory_is_counted_by_size_not_by_the_faces_that_an_object_has(monkeypatch):
    """A box of 12 faces takes as much as one of many: 267 cells along a side make about a million."""
    from pipeline.stages.finishing import shells

    monkeypatch.setattr(shells, "device_bytes", lambda device: 100_000_000)
    box = examples.cube(torch.device("cpu"), 0.8)
    with pytest.raises(SettingsError, match=r"in 267 cells .* takes about 0\.9 GB; 0\.1 GB are free"):
        processed(stages.Mesh(box.vertices, box.faces), shells="solid", hollow=stages.Hollowing.parse("0.006"))


def test_a_wall_without_room_behind_it_is_warned_of():
    made = processed(damaged("rod", "none", CELLS)[0], shells="solid", hollow=stages.Hollowing.parse("0.06"))
    assert any("Nothing was hollowed out" in each for each in made.facts["warnings"])


def test_walls_that_go_through_each_other_are_drawn_apart_or_warned_of(monkeypatch):
    """A hollow ball, with vertices of the cavity beyond the outside."""
    from pipeline.mesh.remesh.untangle import untangled

    outer = shape("ball", 24)
    middle = outer.vertices.mean(0)
    inner = middle + 0.85 * (outer.vertices - middle)
    poking = torch.arange(0, len(inner), 97)
    pushed = inner.clone()
    pushed[poking] = middle + 1.2 * (inner[poking] - middle)
    faces = torch.cat([outer.faces, outer.faces.flip(1) + len(inner)])
    tangled = Mesh(torch.cat([outer.vertices, pushed]), faces)
    assert crossing_by_kernels(tangled.vertices, tangled.faces).sum() > 20
    made, left = untangled(tangled, crossing_by_kernels)
    assert left == crossing_by_kernels(made.vertices, made.faces).sum() == 0 and torch.equal(made.faces, faces)
    moved = (made.vertices != tangled.vertices).any(1)
    assert moved[len(inner) + poking].all() and moved.float().mean() < 0.5
    assert made.vertices[:, 2].min() == tangled.vertices[:, 2].min()

    monkeypatch.setattr(process, "untangled", lambda mesh, row: (mesh, 3))
    made = processed(damaged("rod", "none", CELLS)[0], shells="solid", hollow=stages.Hollowing.parse("0.06"))
    assert any("3 faces of the hollow object go through others" in each for each in made.facts["warnings"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("2mm",), "need the true size"),
        (("0.02", "5mm"), "need the true size"),
        (("", "5mm"), "drain would have no effect"),
        (("", "", "80mm", 0.1), "size and flat_base would have no effect"),
        (("two",), "is no thickness"),
        (("0",), "not possible"),
        (("-1mm", "", "80mm"), "thickness of -1mm is not possible"),
        (("nan",), "not possible"),
        (("0.02", "", "80mm", 0.7), "flat base"),
    ],
)
def test_hollows_that_make_no_sense_are_named(settings, message):
    with pytest.raises(SettingsError, match=message):
        stages.Hollowing.parse(*settings)


@pytest.mark.parametrize("wall", ["50mm", "1e9mm", "0.0001mm"])
def test_true_lengths_that_are_no_wall_of_this_object_are_answered_in_mm(wall):
    raw, _ = damaged("ball", "none", 24)
    with pytest.raises(SettingsError, match=r"choose from 0\.15\d+ mm to below 40 mm"):
        processed(raw, shells="solid", hollow=stages.Hollowing.parse(wall, size="height=80mm"))


@pytest.mark.parametrize("asked", [("50mm", "", "80mm"), ("1e9mm", "", "80mm"), ("2mm", "40mm", "80mm")])
def test_true_lengths_beyond_the_size_are_answered_before_there_is_an_object(asked):
    with pytest.raises(SettingsError, match="choose below 40 mm, half of the longest side"):
        stages.Hollowing.parse(*asked)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"wall": 0.6}, "wall is 0.6 thick; choose from 0 to 0.5"),
        ({"wall": 1e9}, "wall is 1e.09 thick"),
        ({"max_error": stages.Length(0.5)}, "max error of 0.5 leaves nothing"),
        ({"hollow": stages.Hollowing.parse("0.5")}, "wall of a hollow is 0.5; choose below 0.5"),
        ({"hollow": stages.Hollowing.parse("0.1", "1e9")}, "drain of a hollow is 1e.09; choose below 0.5"),
    ],
)
def test_lengths_that_no_object_has_are_answered_before_there_is_one(asked, message):
    """They were found after the object was sampled, which takes minutes."""
    with pytest.raises(SettingsError, match=message):
        stages.ExportSettings(shells="solid", **asked)


def test_hollows_too_thin_for_any_lattice_and_shells_that_cannot_be_hollow_are_named():
    raw, _ = damaged("ball", "none", 24)
    with pytest.raises(SettingsError, match="too thin for an object"):
        processed(raw, shells="solid", hollow=stages.Hollowing.parse("0.001"))
    with pytest.raises(SettingsError, match="hollow would have no effect"):
        processed(raw, shells="outer", hollow=stages.Hollowing.parse("0.05"))
    with pytest.raises(SettingsError, match="cavities would have no effect"):
        processed(raw, shells="surface", cavities="keep")
    with pytest.raises(SettingsError, match="Unknown cavities"):
        processed(raw, shells="solid", cavities="none")
    with pytest.raises(SettingsError, match="flat base would thin"):
        stages.ExportSettings(shells="solid", hollow=stages.Hollowing.parse("0.05"), flat_base=0.1)


def hollow_ball(outer_holes, inner_holes, core=False):
    """A hollow ball of two closed surfaces, holes punched into either; with a ball in the cavity if asked for."""
    random, parts, count = torch.Generator().manual_seed(0), [], 0
    for radius, holes in ((0.4, outer_holes), (0.28, inner_holes), *(((0.1, 0),) if core else ())):
        vertices, faces = surface_net(lambda p, radius=radius: _sphere(p, radius), 48)
        parts.append((vertices, punched(vertices, faces, random, holes) + count))
        count += len(vertices)
    vertices, faces = (torch.cat(each) for each in zip(*parts))
    turned = torch.rand(len(faces), 1, generator=random) < 0.5
    return stages.Mesh(vertices, torch.where(turned, faces.flip(1), faces), resolution=48)


@pytest.mark.parametrize(("outer", "inner", "core"), [(0, 0, True), (6, 0, False), (0, 6, False), (6, 6, True)])
def test_a_hollow_ball_with_holes_stays_hollow_or_is_filled_as_asked(outer, inner, core):
    raw, balls = hollow_ball(outer, inner, core), [4 / 3 * math.pi * radius**3 for radius in (0.4, 0.28, 0.1)]
    filled = processed(raw, shells="solid").facts["mesh"]
    assert filled["watertight"] and filled["euler"] == 2 and filled["volume"] == pytest.approx(balls[0], rel=0.01)
    kept = processed(raw, shells="auto", cavities="keep").facts
    volume = balls[0] - balls[1] + (balls[2] if core else 0)
    assert kept["mesh"]["watertight"] and kept["mesh"]["euler"] == (6 if core else 4)
    assert kept["mesh"]["volume"] == pytest.approx(volume, rel=0.02)
    assert kept["shells"]["because"] == "cavities are to be kept"


def test_what_is_inside_without_being_a_cavity_stays_filled():
    """Two balls that overlap, and a cup: nothing of them lies in an odd number of others."""
    raw, _ = damaged("cup", "voxels", 48)
    made = processed(raw, shells="solid", cavities="keep").facts["mesh"]
    assert made["watertight"] and made["euler"] == SHAPES["cup"][1]
    balls = [surface_net(lambda p, x=x: _sphere(p, 0.2, (x, 0.0, 0.0)), 48) for x in (-0.1, 0.1)]
    vertices = torch.cat([each[0] for each in balls])
    faces = torch.cat([balls[0][1], balls[1][1] + len(balls[0][0])])
    cleaned = clean(Mesh(vertices, faces), CleanSettings())
    made = processed(stages.Mesh(cleaned.vertices, cleaned.faces, resolution=48), shells="solid", cavities="keep")
    assert made.facts["mesh"]["euler"] == 2


def test_a_hollow_object_is_written_in_its_true_size(run, tmp_path):
    import trimesh
    from safetensors.torch import save_file

    state, path = tmp_path / "ball.safetensors", tmp_path / "x.stl"
    raw, _ = damaged("ball", "none", CELLS)
    save_file({"vertices": raw.vertices, "faces": raw.faces}, state, {"resolution": str(CELLS), "seed": "3"})
    asked = ("--hollow", "5mm", "--drain", "9mm", "--size", "height=80mm", "--flat-base", 0.05)
    code, out, err = run("finish", state, "--output", path, *asked, "--faces", 20_000, "--device", "cpu")
    assert code == 0, err
    made = trimesh.load(path)
    assert made.is_watertight and made.is_winding_consistent and made.euler_number == 2
    assert made.extents[2] == pytest.approx(80, abs=0.01) and len(made.faces) <= 20_000
    assert f"{made.volume / 1000:.4g} cm3 of" in out and "drains 1" in out
    floor = made.vertices[made.vertices[:, 2] > made.bounds[0, 2] + 1e-3, 2].min() - made.bounds[0, 2]
    assert floor > 0  # the base is one plane
    for options, message in (
        (("--hollow", "5mm"), "need the true size"),
        (("--drain", "0.1"), "--drain would have no effect without --hollow"),
        (("--hollow", "0.1", "--shells", "outer"), "hollow would have no effect"),
    ):
        code, _, err = run("finish", state, "--output", tmp_path / "y.stl", "--geometry-only", *options)
        assert code == 1 and message in err and not (tmp_path / "y.stl").exists()
