"""Parallel edge collapse: what a decimated surface keeps, exactly where it can be exact, and how near it stays."""

import math
from collections import Counter

import pytest
import torch
from devices import on_device
from grids import cube, grid, plane, sphere
from meshes import collapse

from pipeline.bench import shapes
from pipeline.errors import MeshError, SettingsError
from pipeline.mesh import Mesh
from pipeline.mesh.query.surface import Surface
from pipeline.mesh.simplify.collapse import CollapseConfig
from pipeline.mesh.simplify.collapse import collapse as reduced
from pipeline.mesh.simplify.relax import RelaxConfig

pytest.importorskip("warp")

pytestmark = pytest.mark.usefixtures("device")
reduced, Surface = on_device(reduced), on_device(Surface)


def quiet():
    pass


def torus(rows=60, columns=30):
    u, v = (2 * math.pi * torch.arange(n) / n for n in (rows, columns))
    u, v = torch.meshgrid(u, v, indexing="ij")
    points = [(1 + 0.4 * v.cos()) * u.cos(), (1 + 0.4 * v.cos()) * u.sin(), 0.4 * v.sin()]
    return torch.stack(points, -1).reshape(-1, 3), grid(rows, columns, (True, True))


def edges(faces):
    """Number of faces by undirected edge."""
    pairs = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).long().sort(1).values
    return Counter(map(tuple, pairs.tolist()))


def euler(vertices, faces):
    return len(vertices) - len(edges(faces)) + len(faces)


def normals(vertices, faces):
    """[F, 3] of twice the faces' areas in length."""
    a, b, c = vertices[faces.long()].double().unbind(1)
    return torch.linalg.cross(b - a, c - a)


def volume(vertices, faces):
    return (vertices[faces.long()[:, 0]].double() * normals(vertices, faces)).sum().item() / 6


def check_sound(vertices, faces):
    """No repeated vertex in a face, no repeated face, every vertex used."""
    faces = faces.long()
    assert (faces != faces.roll(1, 1)).all()
    assert len(torch.unique(faces.sort(1).values, dim=0)) == len(faces)
    assert torch.equal(torch.unique(faces), torch.arange(len(vertices)))


def test_the_shapes_used_here_are_closed_and_wound_outward():
    for vertices, faces in (cube(), sphere()):
        assert set(edges(faces).values()) == {2} and euler(vertices, faces) == 2
        assert ((vertices[faces.long()].mean(1) * normals(vertices, faces)).sum(1) > 0).all()


@pytest.mark.parametrize("target", [2000, 501, 100, 20])
def test_a_sphere_stays_closed_and_round(target):
    vertices, faces = collapse(*sphere(), target, quiet)
    assert target - 1 <= len(faces) <= target
    check_sound(vertices, faces)
    assert set(edges(faces).values()) == {2} and euler(vertices, faces) == 2
    centres = vertices[faces.long()].mean(1)
    assert ((centres * normals(vertices, faces)).sum(1) > 0).all()  # none inverted
    # an inscribed polyhedron of F equal faces would lack about 7.3 / F of the volume; quadrics lie half outside
    assert volume(vertices, faces) == pytest.approx(4 / 3 * math.pi, rel=max(0.006, 8 / target))
    assert (vertices.norm(dim=1) - 1).abs().max() < 8 / target + 0.002


def test_the_numbers_of_a_config_count():
    """Stars that may not grow stop the collapse; faces that may hardly turn only delay it, as a count is to be met."""
    mesh = Mesh(*sphere())
    found = reduced(mesh, 20, quiet)
    assert len(reduced(mesh, 20, quiet, config=CollapseConfig(largest_star=10)).faces) > 100 > len(found.faces)
    stiff = reduced(mesh, 20, quiet, config=CollapseConfig(max_normal_change_cos=0.999))
    assert len(stiff.faces) == len(found.faces) and not torch.equal(stiff.vertices, found.vertices)


def test_a_torus_keeps_its_hole():
    source = torus()
    vertices, faces = collapse(*source, 300, quiet)
    assert 299 <= len(faces) <= 300
    assert set(edges(faces).values()) == {2} and euler(vertices, faces) == 0
    assert volume(vertices, faces) == pytest.approx(volume(*source), rel=0.03)


def test_an_open_plane_keeps_its_border():
    vertices, faces = collapse(*plane(), 40, quiet)
    assert len(faces) <= 40
    assert (vertices[:, 2] == 0).all()
    corners = torch.tensor([[0.0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0]])
    assert torch.cdist(corners, vertices).amin(1).max() < 1e-5
    up = normals(vertices, faces)[:, 2]
    assert (up > 0).all() and up.sum() / 2 == pytest.approx(1, abs=1e-5)
    for (i, j), uses in edges(faces).items():
        if uses == 1:
            assert min((vertices[[i, j], axis] - side).abs().max() for axis in (0, 1) for side in (0, 1)) < 1e-5


def test_a_window_in_a_plane_stays_open():
    vertices, faces = plane()
    centre = vertices[faces.long()].mean(1)[:, :2]
    faces = faces[((centre - 0.5).abs() > 0.25).any(1)]
    vertices, faces = collapse(vertices, faces, 60, quiet)
    assert euler(vertices, faces) == 0  # a ring
    assert normals(vertices, faces)[:, 2].sum() / 2 == pytest.approx(0.75, abs=1e-4)


def test_a_cube_keeps_edges_and_corners():
    vertices, faces = collapse(*cube(), 60, quiet)
    corners = torch.cartesian_prod(*[torch.tensor([-0.5, 0.5])] * 3)
    assert torch.cdist(corners, vertices).amin(1).max() < 3e-4
    assert (vertices.abs().amax(1) - 0.5).abs().max() < 1e-4
    assert volume(vertices, faces) == pytest.approx(1, abs=3e-4)
    off_axis = normals(vertices, faces)
    off_axis = (off_axis / off_axis.norm(dim=1, keepdim=True)).abs().amax(1)
    assert off_axis.min() > 0.999  # every face lies in a side: no edge is cut


def test_a_tetrahedron_is_as_far_as_it_goes():
    vertices, faces = collapse(*sphere(8), 1, quiet)
    assert len(faces) == 4 and len(vertices) == 4
    assert set(edges(faces).values()) == {2}


def test_separate_parts_stay_separate():
    vertices, faces = sphere(10)
    far = vertices * 0.05 + torch.tensor([1.3, 0, 0])
    faces = torch.cat([faces, faces + len(vertices)])
    vertices, faces = collapse(torch.cat([vertices, far]), faces, 60, quiet)
    small = vertices[:, 0] > 1.2
    assert small.any() and (~small).any()
    assert ((small[faces.long()].sum(1) % 3) == 0).all()
    assert euler(vertices, faces) == 4 and set(edges(faces).values()) == {2}


def test_small_holes_close_before_the_shape_suffers():
    """A sheet with 100 holes, which would need 500 faces to stay."""
    vertices, faces = plane(60)
    middle = ((vertices[faces.long()].mean(1)[:, :2] * 10) % 1 - 0.5).abs().amax(1)
    vertices, faces = collapse(vertices, faces[middle > 0.2], 100, quiet)
    assert len(faces) <= 100 and max(edges(faces).values()) == 2
    assert (normals(vertices, faces)[:, 2] > 0).all() and len(vertices) - len(edges(faces)) + len(faces) > -60


def test_tunnels_close_and_rods_are_cut_before_the_shape_suffers():
    """A slab with 25 tunnels, and two slabs with 25 rods between them: closed, and about as large as before."""
    for field in (_pierced_slab, _slabs_on_rods):
        source = shapes.surface_net(field, 64)
        assert euler(*source) <= 2 - 2 * 24
        vertices, faces = collapse(*source, 160, quiet)
        assert len(faces) <= 160 and set(edges(faces).values()) == {2}
        assert volume(vertices, faces) == pytest.approx(volume(*source), rel=0.15)
        far = Surface(*source).closest(vertices[faces.long()].mean(1)).distance.max()
        assert far < 0.1


def _pierced_slab(p):
    slab = torch.maximum(p[:, :2].abs().amax(1) - 0.4, p[:, 2].abs() - 0.1)
    rods = ((p[:, :2] * 6.25 + 0.5) % 1 - 0.5).norm(dim=1) / 6.25
    return torch.maximum(slab, 0.03 - rods)


def _slabs_on_rods(p):
    slab = torch.maximum(p[:, :2].abs().amax(1) - 0.4, ((p[:, 2].abs() - 0.3).abs() - 0.08))
    rods = torch.maximum(((p[:, :2] * 6.25 + 0.5) % 1 - 0.5).norm(dim=1) / 6.25 - 0.025, p[:, :2].abs().amax(1) - 0.4)
    return torch.minimum(slab, torch.maximum(rods, p[:, 2].abs() - 0.3))


def test_specks_go_before_the_shape_suffers():
    vertices, faces = sphere(10)
    specks = [vertices * 1e-3 + 0.5 * direction for direction in torch.eye(3)] * 10
    all_faces = torch.cat([faces + i * len(vertices) for i in range(31)])
    found, out = collapse(torch.cat([vertices, *specks]), all_faces, 60, quiet)
    assert len(out) <= 60 and set(edges(out).values()) == {2} and euler(found, out) <= 8
    assert volume(found, out) == pytest.approx(4 / 3 * math.pi, rel=0.2)


@pytest.mark.parametrize("cut_cost", [10, 30])
def test_rods_that_show_stay(cut_cost):
    """Cut through, their ends stay where they are: nothing of the field's rods is far from 5 % of the faces."""
    vertices, faces = shapes.surface_net(shapes.bench_field, 48)
    found = reduced(Mesh(vertices, faces), 1500, quiet, config=CollapseConfig(cut_cost=cut_cost))
    far = Surface(found.vertices, found.faces).closest(vertices).distance.max()
    assert far < 0.05 * (vertices.amax(0) - vertices.amin(0)).norm()


def test_a_part_is_worth_its_length():
    """A thin rod beside a sphere: its planes lie along it, and do not know how long it is."""
    vertices, faces = sphere(10)
    rod = cube(10)[0] * torch.tensor([0.012, 0.012, 0.6]) + torch.tensor([1.5, 0, 0])
    found, _ = collapse(torch.cat([vertices, rod]), torch.cat([faces, faces + len(vertices)]), 100, quiet)
    left = found[found[:, 0] > 1.3, 2]
    assert len(left) and left.max() - left.min() > 0.55


def test_boards_become_flat_before_they_are_lost():
    """150 boards, of which 600 faces leave four each: the narrow sides may turn."""
    vertices, faces = cube(3)
    generator = torch.Generator().manual_seed(0)
    sides = torch.stack([torch.randperm(3, generator=generator) for _ in range(150)])
    sizes = torch.tensor([0.12, 0.03, 0.006])[sides][:, None]
    boards = vertices * sizes + torch.rand(150, 1, 3, generator=generator)
    numbers = faces + torch.arange(150).int()[:, None, None] * len(vertices)
    vertices = boards.reshape(-1, 3)
    found = Surface(*collapse(vertices, numbers.reshape(-1, 3), 600, quiet)).closest(vertices)
    assert found.distance.mean() < 3.4e-3


def least_angles(vertices, faces):
    """[F] degrees."""
    corners = vertices[faces.long()].double()
    along = torch.nn.functional.normalize(corners.roll(-1, 1) - corners, dim=2)
    return (along * -along.roll(1, 1)).sum(2).clamp(-1, 1).acos().amin(1).rad2deg()


def test_slivers_are_relaxed_where_the_surface_stays():
    """A sheared plane whose quads are split along their long diagonals, of which two faces are to go."""
    vertices, faces = plane(12)
    vertices[:, 0] += 3 * vertices[:, 1]
    few, many = (
        reduced(Mesh(vertices, faces), len(faces) - 2, quiet, config=CollapseConfig(relax=RelaxConfig(rounds=n)))
        for n in (12, 0)
    )
    least = [least_angles(each.vertices, each.faces).median().item() for each in (few, many)]
    assert least[0] > 1.5 * least[1]
    assert len(few.vertices) == len(many.vertices) and len(few.faces) == len(many.faces)
    assert few.report.euler == 1 and few.report.inconsistent_edges == few.report.non_manifold_edges == 0
    assert (normals(few.vertices, few.faces)[:, 2] > 0).all() and few.vertices[:, 2].abs().max() < 1e-6
    assert few.report.area == pytest.approx(many.report.area, rel=1e-5)


def test_round_corners_of_flat_parts_make_few_slivers():
    """A plate with round corners and holes as a dual grid has it: fans of needles on its flat sides are avoided."""

    def plate(p):
        body = torch.maximum((p[:, :2].abs() - 0.34).clamp_min(0).norm(dim=1) - 0.1, p[:, 2].abs() - 0.05)
        return torch.maximum(body, 0.1 - (p[:, :2].abs() - 0.22).norm(dim=1))

    vertices, faces = shapes.surface_net(plate, 96)
    found, left = collapse(vertices, faces, 600, quiet)
    assert (least_angles(found, left) < 5).float().mean() < 0.08
    assert Surface(found, left).closest(vertices).distance.mean() < 2e-4


@pytest.mark.parametrize(("side", "target"), [(24, 500), (72, 20_000)])
def test_faces_lie_on_the_surface_on_the_average(side, target):
    """Of a sphere, whose inside they would else be in: a tenth less of the distance, and none of the volume lost."""
    given = sphere(side)
    source = Mesh(*given)
    fitted, rough = (reduced(source, target, quiet, config=CollapseConfig(fit_rounds=n)) for n in (2, 0))
    off = [(each.vertices[each.faces.long()].mean(1).norm(dim=1) - 1).abs().mean() for each in (fitted, rough)]
    assert off[0] < 0.9 * off[1]
    lost = [abs(volume(each.vertices, each.faces) / volume(*given) - 1) for each in (fitted, rough)]
    assert lost[0] < 0.5 * lost[1]


def test_collapse_shuns_slivers():
    """Among collapses that cost next to nothing, those that leave good faces come first."""
    mesh = Mesh(*plane(40))
    good, bad = (
        reduced(mesh, 200, quiet, config=CollapseConfig(good_shape=s, relax=RelaxConfig(rounds=0))) for s in (0.15, 0.0)
    )
    share = [(least_angles(each.vertices, each.faces) < 5).float().mean().item() for each in (good, bad)]
    assert share[0] <= share[1] and share[0] < 0.02


def test_twice_the_same():
    first, second = (collapse(*torus(), 500, quiet) for _ in range(2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_scale_does_not_matter(scale):
    vertices, faces = torus()
    scale = 2.0 ** round(math.log2(scale))  # exact in floating point
    expected, expected_faces = collapse(vertices, faces, 500, quiet)
    found, found_faces = collapse(vertices * scale, faces, 500, quiet)
    assert torch.equal(found, expected * scale) and torch.equal(found_faces, expected_faces)


def test_the_volume_stays_and_so_does_the_input():
    vertices, faces = sphere()
    before, given = vertices.clone(), faces.clone()
    same = collapse(vertices, faces, 10**6, quiet)
    assert torch.equal(same[0], vertices) and torch.equal(same[1], faces)
    for target, bound in ((1000, 0.01), (300, 0.03), (50, 0.2)):
        found = collapse(vertices, faces, target, quiet)
        assert len(found[1]) == target and set(edges(found[1]).values()) == {2}
        assert volume(*found) == pytest.approx(4 / 3 * math.pi, rel=bound)
    assert torch.equal(vertices, before) and torch.equal(faces, given)


def test_it_is_as_near_as_fast_simplification():
    pytest.importorskip("fast_simplification")
    from pipeline.mesh.jobs.worker import simplify

    vertices, faces = shapes.surface_net(shapes.bench_field, 56)
    source = Surface(vertices, faces)
    target = len(faces) // 5
    found = collapse(vertices, faces, target, quiet)
    theirs = simplify(vertices.double().numpy(), faces.numpy(), target)
    theirs = torch.from_numpy(theirs["vertices"]), torch.from_numpy(theirs["faces"])

    def distances(mesh):
        there, back = (
            Surface(*mesh).closest(vertices).distance,
            source.closest(mesh[0][mesh[1].long()].mean(1)).distance,
        )
        return torch.cat([there, back])

    ours, theirs = distances(found), distances(theirs)
    assert 0.99 * target <= len(found[1]) <= target
    assert ours.mean() < 1.05 * theirs.mean()
    assert ours.max() < 1.5 * theirs.max()


def test_dirty_meshes_get_no_dirtier():
    vertices, faces = shapes.spoil(*shapes.surface_net(shapes.bench_field, 48))
    before = edges(faces[(faces != faces.roll(1, 1)).all(1)])
    vertices, out = collapse(vertices, faces, len(faces) // 4, quiet)
    assert 0.99 * (len(faces) // 4) <= len(out) <= len(faces) // 4
    assert vertices.isfinite().all() and (out != out.roll(1, 1)).all()
    after = edges(out)
    assert sum(uses > 2 for uses in after.values()) <= sum(uses > 2 for uses in before.values())
    # where a repeated face goes, a non-manifold edge may become an open one
    assert sum(uses != 2 for uses in after.values()) <= sum(uses != 2 for uses in before.values())


def test_a_fan_of_thousands_round_one_vertex_ends():
    count = 5000
    angle = 2 * math.pi * torch.arange(count) / count
    rim = torch.stack([angle.cos(), angle.sin(), torch.zeros(count)], 1)
    i = torch.arange(count)
    faces = torch.stack([torch.full_like(i, count), i, (i + 1) % count], 1).int()
    vertices, faces = collapse(torch.cat([rim, torch.tensor([[0.0, 0, 1]])]), faces, 100, quiet)
    assert len(faces) == 100 and euler(vertices, faces) == 1


@pytest.mark.parametrize("target", [0, -5])
def test_a_target_below_one_is_refused(target):
    with pytest.raises(SettingsError, match="at least 1"):
        collapse(*cube(2), target, quiet)


def test_indices_out_of_range_and_nan_are_refused():
    vertices, faces = cube(2)
    for wrong in (-1, len(vertices)):
        spoilt = faces.clone()
        spoilt[3, 1] = wrong
        with pytest.raises(MeshError, match="Faces name vertices"):
            collapse(vertices, spoilt, 10, quiet)
    with pytest.raises(MeshError, match="NaN"):
        collapse(torch.cat([vertices[1:], vertices[:1] * math.nan]), faces, 10, quiet)


def test_small_and_worthless_meshes():
    triangle = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    one = torch.tensor([[0, 1, 2]], dtype=torch.int32)
    none = one[:0]
    assert collapse(triangle, none, 5, quiet)[1].shape == (0, 3)
    assert torch.equal(collapse(triangle, one, 1, quiet)[1], one)
    vertices, faces = collapse(triangle, torch.tensor([[0, 1, 1]] * 7), 3, quiet)  # repeated vertices
    assert vertices.shape == (0, 3) and faces.shape == (0, 3)
    vertices, faces = collapse(triangle, one.repeat(9, 1), 3, quiet)  # one face, nine times
    assert len(faces) in range(10) and vertices.isfinite().all()
    flat, faces = plane(8)
    for squash in (0.0, 1e-30):  # all faces without area
        vertices, out = collapse(flat * torch.tensor([1.0, squash, 0]), faces, 30, quiet)
        assert len(out) <= 30 and vertices.isfinite().all()
    vertices, out = collapse(torch.zeros(len(flat), 3), faces, 30, quiet)  # all in one point
    assert vertices.isfinite().all() and len(out) <= len(faces)


def test_tick_may_stop_it():
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collapse(*sphere(), 100, stop)
