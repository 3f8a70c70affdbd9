"""Charts of an unwrapping: how they are cut, flattened and stretched, and where they cover themselves."""

import numpy as np
import pytest
import scipy.sparse.csgraph
import torch
import trimesh
from devices import on_device
from meshes import tensors

pytest.importorskip("warp")

from charts import SHAPES, chart_of_texels, nothing, signed, times_covered
from closed_shapes import SHAPES as CLOSED

from pipeline.bench.shapes import surface_net
from pipeline.mesh import Mesh
from pipeline.mesh.simplify.collapse import collapse
from pipeline.mesh.uv import unwrap as room
from pipeline.mesh.uv.charts import ChartConfig, axes_of, cone_angles, dual_graph, merge
from pipeline.mesh.uv.pack import PackConfig, overlapping
from pipeline.mesh.uv.parameterise import cut, flat_shapes, folds, stretches
from pipeline.mesh.uv.unwrap import FEWER_SEAMS, UnwrapConfig, unwrap

pytestmark = pytest.mark.usefixtures("device")
unwrap = on_device(unwrap)
axes_of = on_device(axes_of)
cone_angles = on_device(cone_angles)
dual_graph = on_device(dual_graph)
merge = on_device(merge)
overlapping = on_device(overlapping)
cut = on_device(cut)
flat_shapes = on_device(flat_shapes)
folds = on_device(folds)
stretches = on_device(stretches)


def ribbon(turns, width=0.3):
    """A strip of quads along a path with so much turn at each step: points [2 K, 2], faces, all counter-clockwise."""
    heading = turns.cumsum(0)
    step = torch.stack([heading.cos(), heading.sin()], 1)
    path = torch.cat([torch.zeros(1, 2), step.cumsum(0)]).double()
    across = torch.cat([step[:1], step]).double() @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    i = 2 * torch.arange(len(turns), dtype=torch.int32)
    points = torch.stack([path - width * across, path + width * across], 1).reshape(-1, 2)
    return points, torch.cat([torch.stack([i, i + 2, i + 3], 1), torch.stack([i, i + 3, i + 1], 1)])


def share_area(one, other):
    """Whether two triangles [3, 2] have inner points in common: no side of either parts them."""
    for a, b in ((one, other), (other, one)):
        for k in range(3):
            side = a[(k + 1) % 3] - a[k]
            if (side[0] * (b - a[k])[:, 1] - side[1] * (b - a[k])[:, 0]).max() <= 1e-12:
                return False
    return True


def test_folds_are_those_of_charts_that_cover_themselves():
    """Ribbons that wind at random, against every pair of their triangles; all in one call, all at the same place."""
    random = torch.Generator().manual_seed(3)
    all_points, all_faces, labels, expected, start = [], [], [], [], 0
    while len(expected) < 120:
        count, bend = 8 + int(16 * torch.rand(1, generator=random)), 0.6 * torch.rand(1, generator=random)
        points, faces = ribbon(bend + 0.3 * torch.randn(count, generator=random))
        corners = points[faces.long()].numpy()
        if min(signed(points, faces)) <= 0:
            continue
        pairs = [(i, j) for i in range(len(corners)) for j in range(i)]
        expected.append(any(share_area(corners[i], corners[j]) for i, j in pairs))
        all_points.append(points)
        all_faces.append(faces + start)
        labels += [len(expected) - 1] * len(faces)
        start += len(points)
    points, faces, labels = torch.cat(all_points), torch.cat(all_faces), torch.tensor(labels)
    pieces = cut(faces, labels, len(points), len(expected))
    found = torch.zeros(len(expected), dtype=torch.bool)
    found[labels[folds(points[pieces.source], pieces, labels)]] = True
    assert 15 < sum(expected) < 105
    assert found.tolist() == expected


@pytest.mark.parametrize("turns", [0.9, 1.1])
def test_folds_round_a_vertex(turns):
    angle = torch.linspace(0, 2 * torch.pi * turns, 12, dtype=torch.float64)
    points = torch.cat([torch.zeros(1, 2, dtype=torch.float64), torch.stack([angle.cos(), angle.sin()], 1)])
    i = torch.arange(1, 12)
    faces = torch.stack([torch.zeros_like(i), i, i + 1], 1)
    closed = torch.cat([faces, torch.tensor([[0, 12, 1]])]) if turns < 1 else faces
    labels = torch.zeros(len(closed), dtype=torch.int64)
    pieces = cut(closed, labels, len(points), 1)
    assert folds(points[pieces.source], pieces, labels).any() == (turns > 1)
    twice = torch.cat([closed, closed[:1]])  # a face on another
    labels = torch.zeros(len(twice), dtype=torch.int64)
    pieces = cut(twice, labels, len(points), 1)
    assert folds(points[pieces.source], pieces, labels)[[0, -1]].all()


@pytest.mark.parametrize("name", ["dual grid", "dirty", "torus"])
def test_charts_that_overlap_are_found_before_they_are_packed(name, monkeypatch):
    packed = []
    monkeypatch.setattr(room, "pack", lambda *given, inner=room.pack: packed.append(1) or inner(*given))
    unwrap(*SHAPES[name](), 512, 2, nothing)
    assert len(packed) == 1


def test_overlaps_are_found_by_several_threads():
    """Each face lies on one that another thread draws; they come from both ends and meet. A count would lose some."""
    side = 128
    texel = torch.arange(side**2)
    centre = torch.stack([texel % side, texel // side], 1).double()[:, None]
    half = centre + torch.tensor([[-0.4, -0.4], [0.4, -0.4], [0.0, 0.4]])
    triangles = torch.cat([half, half.flip(0)])
    triangles[-1] += side  # apart from all others
    faces = torch.arange(6 * side**2, dtype=torch.int32).reshape(-1, 3)
    box = torch.tensor([[0, 0]], dtype=torch.int32), torch.tensor([[2 * side, 2 * side]], dtype=torch.int32)
    expected = torch.ones(len(faces), dtype=torch.bool)
    expected[[0, -1]] = False
    for _ in range(100):
        found = overlapping(triangles.reshape(-1, 2), faces, torch.zeros(len(faces), dtype=torch.int32), *box)
        assert torch.equal(found, expected)


def test_what_can_be_unrolled_is_not_stretched():
    angle = torch.linspace(0, 2.4, 40)  # a curved sheet; its projection alone would stretch by 1 / cos(1.2) = 2.8
    points = torch.stack(
        [torch.stack([a.cos().expand(9), a.sin().expand(9), torch.linspace(0, 1, 9)], 1) for a in angle]
    )
    index = torch.arange(40 * 9, dtype=torch.int32).reshape(40, 9)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    faces = torch.cat([torch.stack([a, b, c], 2).reshape(-1, 3), torch.stack([a, c, d], 2).reshape(-1, 3)])
    _, new, uvs, facts = unwrap(points.reshape(-1, 3), faces, 512, 2, nothing)
    assert facts["charts"] == 1 and facts["stretch"] < 1.05
    lengths = (uvs[new.long()] - uvs[new.long()].roll(1, 1)).norm(dim=2)
    true = points.reshape(-1, 3)[faces.long()]
    ratio = lengths / (true - true.roll(1, 1)).norm(dim=2)
    assert ratio.max() / ratio.min() < 1.15


def test_the_numbers_of_a_config_count():
    """Narrower cones make more charts; charts packed for less of the texture take less of it."""
    vertices, faces = tensors(trimesh.creation.icosphere(3))
    usual = unwrap(vertices, faces, 256, 2, lambda: None)[3]
    narrow = UnwrapConfig(charts=ChartConfig(cone=0.3))
    assert unwrap(vertices, faces, 256, 2, lambda: None, narrow)[3]["charts"] > 2 * usual["charts"]
    loose = UnwrapConfig(packing=PackConfig(safety=0.8, finer=0.8, patience=0, first_fill=0.3))
    assert unwrap(vertices, faces, 256, 2, lambda: None, loose)[3]["utilisation"] < 0.9 * usual["utilisation"]


def test_stretch_of_known_maps():
    vertices = torch.tensor([[0.0, 0, 0], [2, 0, 0], [0, 1, 1]])
    faces = torch.tensor([[0, 1, 2]])
    rest = flat_shapes(vertices, faces)
    flat = rest[0].clone()
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    for scale, expected in (((1, 1), (1, 1)), ((0.5, 1), (2, 1)), ((0.25, 0.5), (4, 2)), ((0, 1), (np.inf, np.inf))):
        uvs = flat * torch.tensor(scale) @ turn
        found = [each.item() for each in stretches(rest, uvs, faces)]
        assert found == pytest.approx(expected) or (expected[0] == np.inf and max(found) > 1e6)


def test_stretch_says_what_the_texture_does():
    vertices, faces = SHAPES["sphere"]()
    _, new, uvs, facts = unwrap(vertices, faces, 512, 2, nothing)
    corners, flat = vertices.double()[faces.long()], uvs.double()[new.long()]
    areas = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=1) / 2
    stretch = []
    for three, two in zip(corners.numpy(), flat.numpy()):
        inverse = np.linalg.inv(np.stack([two[1] - two[0], two[2] - two[0]], 1))
        values = np.linalg.svd(np.stack([three[1] - three[0], three[2] - three[0]], 1) @ inverse, compute_uv=False)
        stretch.append(np.sqrt((values**2).mean()))
    stretch = np.array(stretch) * np.sqrt(-signed(uvs, new).sum().item() / areas.sum().item())
    order = stretch.argsort()
    total = areas.numpy()[order].cumsum()
    assert facts["stretch"] == pytest.approx(stretch[order][np.searchsorted(total, 0.95 * total[-1])], rel=1e-3)


def test_charts_are_connected_and_face_one_way():
    vertices, faces = SHAPES["dual grid"]()
    dual = dual_graph(vertices.double(), faces)
    labels = merge(dual, nothing)
    count = int(labels.max()) + 1
    assert torch.equal(labels.unique(), torch.arange(count)) and count < len(faces) / 10
    within = dual.pairs[labels[dual.pairs[:, 0]] == labels[dual.pairs[:, 1]]].numpy()
    links = scipy.sparse.coo_matrix((np.ones(len(within)), within.T), shape=(len(faces),) * 2)
    assert scipy.sparse.csgraph.connected_components(links, directed=False)[0] == count
    sums = torch.zeros(count, 3, dtype=torch.int64).index_add_(0, labels, dual.weighted)
    assert cone_angles(dual, labels, sums).max() <= ChartConfig().cone + 1e-6
    assert (dual.normals * axes_of(sums)[labels]).sum(1)[dual.areas > 0].min() > 0


def test_a_plain_takes_in_many_small_neighbours_at_once():
    """A disk with 600 teeth round it, and a sheet with exactly flat squares: not one merge after another."""
    angle = torch.arange(600) * (2 * torch.pi / 600)
    rim = torch.stack([angle.cos(), angle.sin(), 0 * angle], 1)
    tips = 1.02 * rim + torch.tensor([0, 0, 0.02]) * (3.3 * torch.arange(600)).sin()[:, None]
    i, j = torch.arange(600), torch.arange(600).roll(-1)
    faces = torch.cat([torch.stack([0 * i, i + 1, j + 1], 1), torch.stack([j + 1, i + 1, i + 601], 1)])
    gear = torch.cat([torch.zeros(1, 3), rim, tips]).double(), faces
    side = torch.arange(41)
    x, y = torch.meshgrid(side, side, indexing="ij")
    sheet = torch.stack([x, y, 0.1 * (x - 20).clamp_min(0)], 2).reshape(-1, 3).double()
    a, b, c, d = (
        each.reshape(-1) for each in ((41 * x + y)[k : k + 40, m : m + 40] for k, m in ((0, 0), (1, 0), (1, 1), (0, 1)))
    )
    sheet = sheet, torch.cat([torch.stack([a, b, c], 1), torch.stack([a, c, d], 1)])
    for mesh in (gear, sheet):
        rounds = []
        assert merge(dual_graph(*mesh), lambda rounds=rounds: rounds.append(1)).max() == 0
        assert len(rounds) < 60


@pytest.mark.parametrize(("name", "most"), [("sphere", 3), ("torus", 5), ("box", 3), ("dual grid", 0.4)])
def test_fewer_seams_are_had_by_charts_that_lie_flat_and_hardly_stretch(name, most):
    vertices, faces = SHAPES[name]()
    usual = unwrap(vertices, faces, 512, 2, nothing)[3]
    source, new, uvs, facts = unwrap(vertices, faces, 512, 2, nothing, FEWER_SEAMS)
    assert facts["charts"] <= (most if isinstance(most, int) else most * usual["charts"])
    assert facts["stretch"] <= 1.15
    assert torch.equal(source[new.long()], faces.long()) and signed(uvs, new).max() < 1e-7
    assert times_covered(uvs, new, 512).max() == 1
    pieces = chart_of_texels(uvs, new, 512).max() + 1
    assert pieces <= facts["charts"]


def test_charts_that_would_cover_themselves_by_little_draw_back():
    """Round the saddle where two tori meet; 4 charts stayed."""
    vertices, faces = surface_net(CLOSED["two tori"][0], 48)
    made = collapse(Mesh(vertices, faces), 2000, nothing)
    _, new, uvs, facts = unwrap(made.vertices, made.faces, 1024, 4, nothing, FEWER_SEAMS)
    assert facts["charts"] <= 3 and facts["stretch"] <= 1.15
    assert times_covered(uvs, new, 1024).max() == 1 and signed(uvs, new).max() < 1e-7


def test_what_would_stretch_or_fold_too_much_stays_apart():
    vertices, faces = SHAPES["sphere"]()
    tight = UnwrapConfig(charts=FEWER_SEAMS.charts, merged_stretch=1.01)
    assert unwrap(vertices, faces, 512, 2, nothing, tight)[3]["charts"] >= 5
    loose = UnwrapConfig(charts=FEWER_SEAMS.charts, merged_stretch=1e6)
    _, new, uvs, facts = unwrap(vertices, faces, 512, 2, nothing, loose)
    assert times_covered(uvs, new, 512).max() == 1 and facts["charts"] >= 1


def test_small_charts_are_merged_as_long_as_the_whole_mesh_hardly_stretches(root):
    """The rocket of the examples has fins and a window of few faces each."""
    geometry = trimesh.load(root / "assets/rocket.glb", force="mesh", process=False)
    vertices, number = np.unique(np.asarray(geometry.vertices, np.float32), axis=0, return_inverse=True)
    mesh = torch.from_numpy(vertices), torch.from_numpy(number.reshape(-1)[geometry.faces])
    _, new, uvs, facts = unwrap(*mesh, 1024, 4, nothing, FEWER_SEAMS)
    assert facts["charts"] <= 8 and facts["stretch"] <= 1.15 and facts["utilisation"] > 0.45
    assert times_covered(uvs, new, 1024).max() == 1 and signed(uvs, new).max() < 1e-7


@pytest.mark.parametrize(("name", "most"), [("cup", 4), ("drilled cube", 7)])
def test_charts_hang_together_by_a_part_of_the_border_that_they_share(name, most):
    """6 and 9 charts where only whole borders were joined. The rest of a border is a slit in the chart."""
    vertices, faces = surface_net(CLOSED[name][0], 48)
    made = collapse(Mesh(vertices, faces), 2000, nothing)
    source, new, uvs, facts = unwrap(made.vertices, made.faces, 1024, 4, nothing, FEWER_SEAMS)
    assert facts["charts"] <= most and facts["stretch"] <= 1.15 and facts["utilisation"] > 0.4
    assert times_covered(uvs, new, 1024).max() == 1 and signed(uvs, new).max() < 1e-7
    assert torch.equal(source[new.long()], made.faces.long())
