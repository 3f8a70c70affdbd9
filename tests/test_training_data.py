"""Training data: objects, the truth about them and their pictures, each against a second way to get it."""

import numpy as np
import pytest
import torch
from meshes import measure, needs_warp
from PIL import Image

from pipeline import image
from pipeline.mesh.grid.dual_grid import mesh_to_dual_grid
from pipeline.render import Subject
from pipeline.render import render as render_mesh
from pipeline.sparse import Voxels
from training import fields, lights, objects, pictures, tracing_reference, truth
from training.cameras import crops, resample, sample_cameras
from training.recipes import parts


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made(*rows: parts.Part, scale: float = 1.0) -> objects.Objects:
    """One object of given parts, not normalised but for a scale."""
    table = torch.stack([row.rows() for row in rows], 1)
    low, high = fields.bounds(table)
    materials = torch.stack([row.material for row in rows], 1)
    kinds = table[:, :, fields.KIND].long()
    half = torch.maximum(high, -low) * scale
    return objects.Objects(
        table, kinds, torch.zeros(1, 3), torch.full((1,), scale), materials, half, torch.zeros(1), ("made",)
    )


GREY = torch.tensor([[0.5, 0.5, 0.5, 0.0, 0.8, 1.0]])
RED = torch.tensor([[0.9, 0.1, 0.1, 0.0, 0.8, 1.0]])
BALL = parts.ball(0.4, GREY)
BOX = parts.box(0.3, 0.2, 0.4, GREY)
RING = parts.ring(0.3, 0.1, GREY)
HOLLOW = (parts.box(0.4, 0.4, 0.4, GREY), parts.turned(0.2, 0.2, 0.6, RED, cut=True))  # a box with a hole through it


@pytest.fixture(scope="module")
def some() -> objects.Objects:
    """Objects of all classes."""
    drawn = objects.sample(120, seeded())
    rows = [drawn.names.index(name) for name in objects.NAMES]
    chosen = {name: getattr(drawn, name)[rows] for name in TENSORS}
    return objects.Objects(**chosen, names=tuple(drawn.names[row] for row in rows))


TENSORS = ("table", "kinds", "middle", "scale", "materials", "half", "keys")


# Objects


@needs_warp
def test_the_kernel_measures_as_plain_torch_does(some):
    from training import fields_kernels

    points = torch.rand(len(some), 2000, 3, generator=seeded()) * 1.2 - 0.6
    own = (points / some.scale[:, None, None] + some.middle[:, None]).flatten(0, 1)
    owner = torch.arange(len(some)).repeat_interleave(2000)
    plain, part = fields.distances(some.table, some.kinds, own, owner)
    fast, decider = fields_kernels.distances(some.table, own, owner)
    assert (plain - fast).abs().max() < 2e-6  # own units; 4e-7 measured
    assert (part != decider).float().mean() < 1e-4  # ties


def test_distances_of_known_shapes():
    points = torch.tensor([[[0.0, 0.0, 0.0], [0.6, 0.0, 0.0], [0.5, 0.4, 0.0], [0.0, 0.0, -0.7], [0.3, 0.3, 0.5]]])
    assert torch.allclose(made(BALL).distance(points)[0], points.norm(dim=2) - 0.4, atol=2e-5)  # two balls
    outside = ((points.abs() - torch.tensor([0.3, 0.2, 0.4])).clamp_min(0)).norm(dim=2)
    outside[:, 0] = -0.2
    assert torch.allclose(made(BOX).distance(points)[0], outside, atol=1e-6)
    ring = torch.hypot(torch.hypot(points[..., 0], points[..., 1]) - 0.3, points[..., 2]) - 0.1
    assert torch.allclose(made(RING).distance(points)[0], ring, atol=1e-6)
    distance, part = made(*HOLLOW).distance(torch.tensor([[[0.0, 0.0, 0.0], [0.25, 0.0, 0.0], [0.5, 0.0, 0.0]]]))
    assert torch.allclose(distance, torch.tensor([[0.2, -0.05, 0.1]]), atol=1e-6)
    assert part.tolist() == [[1, 1, 0]]


def test_distances_are_true_near_the_surface(some):
    """A step of the distance along the gradient leads to the surface."""
    points = torch.rand(len(some), 8000, 3, generator=seeded()) - 0.5
    distance, _ = some.distance(points)
    owner, row = (distance.abs() < 0.01).nonzero(as_tuple=True)
    start, away = points[owner, row], distance[owner, row]
    end, _ = some.distance_at(start - away[:, None] * some.normal_at(start, owner), owner)
    assert end.abs().median() < 1e-5 and end.abs().quantile(0.9) < 1e-3  # near edges it is another face's


@pytest.fixture(scope="module")
def grids(some) -> truth.DualGrids:
    return truth.dual_grids(some, 48)


def test_objects_fill_their_boxes(some, grids):
    assert (some.half.amax(1) >= 0.45 - 1e-5).all() and (some.half.amax(1) <= 0.475 + 1e-5).all()
    for row in range(len(some)):
        vertices, _, _ = grids.mesh(row)
        off = torch.stack([vertices.amin(0) + some.half[row], vertices.amax(0) - some.half[row]]).abs() * 48
        assert off.max() < 1.5, (some.names[row], off)


def test_objects_are_seeded_and_differ():
    one, two = objects.sample(40, seeded(1)), objects.sample(40, seeded(1))
    assert all(torch.equal(getattr(one, name), getattr(two, name)) for name in TENSORS) and one.names == two.names
    both = torch.cat([one.table, objects.sample(40, seeded(2)).table]).flatten(1)
    assert len(both.unique(dim=0)) == 80


def test_training_and_held_out_objects_are_disjoint():
    for held_out in (False, True):
        drawn = objects.sample(300, seeded(), held_out=held_out)
        at = drawn.keys * parts.BINS
        assert (at.long() % 2 == int(held_out)).all()
        within = at - at.floor()
        assert within.min() > 0.09 and within.max() < 0.91  # bins do not touch
        assert set(drawn.names) == set(objects.NAMES)


def test_every_class_follows_its_key():
    """The key decides a size of the object, so that objects of different bins cannot be alike."""
    for name, recipe in objects.RECIPES.items():
        drawn = []
        for key in (0.1, 0.9):
            draw = parts.Draw(4, seeded(), False)
            draw.main = torch.full((4,), key)
            drawn.append(torch.stack([part.rows() for part in recipe(draw)], 1)[:, :, fields.SIZE])
        assert ((drawn[0] - drawn[1]).abs().amax((1, 2)) > 0.02).all(), name


# Truth


def brute_force(some: objects.Objects, resolution: int) -> torch.Tensor:
    """Crossed edges (sample, x, y, z of the owning voxel, axis) from the distances at all corners."""
    axis = torch.arange(resolution + 1) / resolution - 0.5
    points = torch.cartesian_prod(axis, axis, axis)
    inside = some.distance(points.expand(len(some), -1, -1))[0].reshape(-1, *(resolution + 1,) * 3) < 0
    found = []
    for a in range(3):
        crossed = (inside.narrow(a + 1, 0, resolution) != inside.narrow(a + 1, 1, resolution)).nonzero()
        crossed[:, 1 + (a + 1) % 3] -= 1
        crossed[:, 1 + (a + 2) % 3] -= 1
        found.append(torch.cat([crossed, torch.full((len(crossed), 1), a)], 1))
    return torch.cat(found).unique(dim=0)


def test_nothing_is_missed_from_coarse_to_fine(some):
    grids = truth.dual_grids(some, 24)
    row, axis = grids.crossed.nonzero(as_tuple=True)
    found = torch.cat([grids.voxels.coords[row].long(), axis[:, None]], 1).unique(dim=0)
    assert torch.equal(found, brute_force(some, 24))
    keys = grids.voxels.coords.long() @ torch.tensor([40**3, 40**2, 40, 1])
    assert (keys.diff() > 0).all()  # sorted, each once
    assert sum(grids.voxels.lengths) == len(grids.voxels) and min(grids.voxels.lengths) > 0


@pytest.mark.parametrize(("shape", "euler"), [((BALL,), 2), ((BOX,), 2), ((RING,), 0), (HOLLOW, 0)])
def test_meshes_of_known_shapes(shape, euler):
    vertices, faces, _ = truth.dual_grids(made(*shape), 32).mesh(0)
    report = measure(vertices, faces)
    assert (report.components, report.euler, report.boundary_edges, report.non_manifold_edges) == (1, euler, 0, 0)


def test_dual_vertices_find_edges_and_corners():
    vertices, _, _ = truth.dual_grids(made(BOX), 32).mesh(0)
    corner = torch.tensor([0.3, 0.2, 0.4])
    distance = ((vertices.abs() - corner).clamp_min(0)).norm(dim=1) - (corner - vertices.abs()).amin(1).clamp_min(0)
    assert distance.abs().max() * 32 < 0.02  # voxels
    assert (vertices.abs() - corner).abs().amax(1).min() * 32 < 0.05  # a vertex in a corner of the box


def test_the_truth_agrees_with_the_mesh_route(some):
    """mesh_to_dual_grid of its mesh finds the same voxels, edges and vertices."""
    grids = truth.dual_grids(some.select(slice(0, 3)), 32)
    for row in range(3):
        vertices, faces, _ = grids.mesh(row)
        other = mesh_to_dual_grid(vertices.numpy(), faces.numpy(), 32)
        start = sum(grids.voxels.lengths[:row])
        own = slice(start, start + grids.voxels.lengths[row])
        found = Voxels.single(torch.from_numpy(other.coords)).find(
            torch.nn.functional.pad(grids.voxels.xyz[own], (1, 0))
        )
        both = found >= 0
        assert both.float().mean() > 0.98 and both.sum() > 0.98 * len(other.coords)
        crossed = torch.from_numpy(other.crossed)[found[both]]
        assert (crossed == grids.crossed[own][both]).float().mean() > 0.98
        apart = (torch.from_numpy(other.offsets)[found[both]] - grids.offsets[own][both]).norm(dim=1)
        assert apart.median() < 0.15


def test_vertices_lie_on_the_surface_and_know_their_part(some, grids):
    world = (grids.voxels.xyz + grids.offsets) / 48 - 0.5
    owner = grids.voxels.coords[:, 0].long()
    distance, part = some.distance_at(world, owner)
    assert distance.abs().mean() * 48 < 0.03 and distance.abs().max() * 48 < 1.0
    assert torch.equal(grids.part, part.long())
    assert torch.equal(grids.pbr, some.materials[owner, part.long()])
    assert grids.offsets.min() >= 0 and grids.offsets.max() <= 1 and grids.pbr.min() >= 0 and grids.pbr.max() <= 1


def test_repainting_changes_materials_only(grids):
    """Some objects have one new material for each part, others several, all from the palette."""
    palette = torch.rand(1000, 6, generator=seeded())
    painted = truth.repainted(grids, palette, seeded(1))
    assert torch.equal(painted.pbr, truth.repainted(grids, palette, seeded(1)).pbr)
    for name in ("offsets", "crossed", "part"):
        assert getattr(painted, name) is getattr(grids, name)
    row = torch.cdist(painted.pbr, palette).argmin(1)
    assert torch.equal(palette[row], painted.pbr)
    sample = grids.voxels.coords[:, 0].long()
    many = []
    for number in range(len(grids.voxels.lengths)):
        mine = sample == number
        counts = [len(row[mine & (grids.part == part)].unique()) for part in grids.part[mine].unique()]
        assert max(counts) <= 27
        many.append(max(counts) > 1)
        for part in grids.part[mine].unique():  # neighbours differ where a plane passes only
            flat = mine & (grids.part == part)
            xyz = grids.voxels.xyz[flat]
            beside = Voxels.single(xyz).find(torch.nn.functional.pad(xyz + torch.tensor([1, 0, 0]), (1, 0)).int())
            differ = (row[flat][beside] != row[flat]) & (beside >= 0)
            assert len(xyz[differ, 0].unique()) <= 2
    assert any(many) and not all(many)


def test_occupancy_pools_voxels(some):
    grids = truth.dual_grids(some.select(slice(0, 2)), 32)
    occupied = truth.occupancy(grids.voxels, 32, 8)
    full = truth.occupancy(grids.voxels, 32, 32)
    assert full.sum() == len(grids.voxels)
    assert torch.equal(occupied, torch.nn.functional.max_pool3d(full.float(), 4) > 0)
    with pytest.raises(ValueError, match="divisor of 32"):
        truth.occupancy(grids.voxels, 32, 12)


# Pictures


@pytest.fixture(scope="module")
def traced(some):
    """Full pictures of a few opaque objects and what they were made with."""
    few = some.select(slice(0, 4))
    materials = few.materials.clone()
    materials[:, :, 5] = 1
    few = objects.Objects(**{**{name: getattr(few, name) for name in TENSORS}, "materials": materials}, names=few.names)
    cameras, studios = sample_cameras(few, seeded(3)), lights.sample_lights(4, seeded(4))
    return few, cameras, studios, pictures.trace(few, cameras, studios, 96)


def test_the_kernels_follow_rays_as_plain_torch_does(traced, monkeypatch):
    few, cameras, studios, full = traced
    for name in ("march", "lightness"):
        monkeypatch.setattr(pictures, name, getattr(tracing_reference, name))
    plain = pictures.trace(few, cameras, studios, 96).values
    assert (plain[:, 3] > 0.5).float().mean() > 0.1
    assert ((full.values - plain).abs() > 0.01).float().mean() < 1e-4


def test_crops_are_those_of_the_pipeline(traced):
    values = traced[3].values
    straight = values[:, :3] / values[:, 3:4].clamp_min(1e-6)
    bytes_ = (torch.cat([straight, values[:, 3:4]], 1).permute(0, 2, 3, 1).clamp(0, 1) * 255).round().to(torch.uint8)
    prepared = traced[3].prepared(64)
    for row, rgba in enumerate(bytes_.numpy()):
        wanted = image.to_pixels([image.prepare(Image.fromarray(rgba))], 64)
        found = prepared.normalised()[row]
        assert (found - wanted[0]).abs().max() < 0.05, row  # 3 of 255, from three roundings to bytes
    window = crops(values[:, 3])
    assert torch.equal(prepared.cameras.window, window / 96) and torch.equal(window, window.round())


def test_resampling_is_pillows():
    picture = (torch.rand(40, 40, generator=seeded()) * 255).round().to(torch.uint8)
    for left, top, side in ((3, 5, 30), (-4, -2, 44), (10, 12, 12)):
        crop = Image.fromarray(picture.numpy()).crop((left, top, left + side, top + side))
        window = torch.tensor([[left, top, side]])
        for sharp, kernel in ((True, Image.Resampling.LANCZOS), (False, Image.Resampling.BILINEAR)):
            wanted = np.asarray(crop.resize((20, 20), kernel)) / 255
            found = resample(picture[None, None] / 255, window, 20, sharp)[0, 0]
            assert np.abs(found.numpy() - wanted).max() < 1.6 / 255  # bytes are rounded twice


@needs_warp
def test_pictures_look_like_the_renderers(traced):
    few, cameras, studios, full = traced
    grids = truth.dual_grids(few.select(slice(0, 2)), 128)
    for row in range(2):
        vertices, faces, pbr = grids.mesh(row)
        subject = Subject(vertices, faces, colours=pbr)
        shown = (
            render_mesh(subject, cameras.camera(row), 96, "pbr", studio=studios.studio(row)).astype(np.float32) / 255
        )
        seen, solid = full.values[row, 3] > 0.5, torch.from_numpy(shown[:, :, 3] > 0.5)
        assert not (seen & ~_grown(solid)).any() and not (solid & ~_grown(seen)).any()  # within a pixel
        inner = seen.numpy() & (shown[:, :, 3] == 1)
        difference = np.abs(full.values[row, :3].permute(1, 2, 0).numpy() - shown[:, :, :3])[inner]
        assert difference.mean() < 0.03, few.names[row]  # 0.017 measured


def _grown(mask: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.max_pool2d(mask[None].float(), 3, stride=1, padding=1)[0] > 0


def test_harmonics_are_the_studios():
    studios = lights.sample_lights(3, seeded(1))
    for row in range(3):
        assert np.abs(studios.harmonics[row].numpy() - studios.studio(row).harmonics()).max() < 0.02


def test_what_pictures_say_of_the_surface(traced):
    few, shown = traced[0], traced[3].prepared(64)
    solid = shown.mask[:, 0] == 1
    owner, y, x = solid.nonzero(as_tuple=True)
    points = shown.position.permute(0, 2, 3, 1)[solid]
    distance, part = few.distance_at(points, owner)
    assert distance.abs().median() < 2e-3
    normal = shown.normal.permute(0, 2, 3, 1)[solid]
    assert (normal * few.normal_at(points, owner)).sum(1).median() > 0.999
    colour = shown.base_color.permute(0, 2, 3, 1)[solid]
    assert (colour - few.materials[owner, part.long(), :3]).abs().amax(1).median() < 1e-3
    for row in range(len(few)):
        at = shown.cameras.project(points[owner == row].expand(len(few), -1, -1))[row] * 64 - 0.5
        pixel = torch.stack([x, y], 1)[owner == row]
        assert (at - pixel).abs().max() < 1.0  # neighbours are averaged
    assert shown.position[~(shown.mask > 0).expand(-1, 3, -1, -1)].abs().max() == 0


def test_cameras_frame_their_objects(some):
    cameras = sample_cameras(some, seeded(2))
    assert cameras.azimuth.abs().max() <= 45 and cameras.elevation.min() >= 0 and cameras.elevation.max() <= 40
    assert torch.allclose(cameras.axes()[1], torch.from_numpy(cameras.camera(1).axes()).float(), atol=1e-6)
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3) * some.half[:, None]
    seen = cameras.project(corners)
    assert torch.allclose((seen - 0.5).abs().amax((1, 2)), torch.tensor(0.47), atol=1e-4)


def test_translucent_parts_let_through():
    glass = torch.tensor([[0.2, 0.4, 0.9, 0.0, 0.2, 0.7]])
    for inner, weight in ((None, 1 - 0.3**2), (RED, 1.0)):
        shape = (parts.ball(0.4, glass),) if inner is None else (parts.ball(0.2, RED), parts.ball(0.4, glass))
        one = made(*shape)
        full = pictures.trace(one, sample_cameras(one, seeded()), lights.sample_lights(1, seeded()), 48)
        middle = float(full.values[0, 3, 24, 24])
        assert middle == pytest.approx(1 - 0.3**2, abs=1e-4), weight


@needs_warp
def test_pictures_of_the_renderer_come_prepared(some):
    few = some.select(slice(4, 6))
    shown, full = pictures.rendered(few, truth.dual_grids(few, 32), seeded(5), 48, full=128)
    own = pictures.render(few, seeded(5), 48)
    assert [each.size for each in full] == [(128, 128)] * 2 and full[0].mode == "RGBA"
    assert shown.pixels.shape == (2, 3, 48, 48)
    assert torch.equal(shown.cameras.azimuth, own.cameras.azimuth) and torch.equal(shown.mask, own.mask)
    assert (shown.pixels - own.pixels).abs().mean() < 0.05
