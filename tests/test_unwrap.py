"""UV unwrapping: charts, flattening, packing."""

import numpy as np
import pytest
import scipy.sparse.csgraph
import torch
import trimesh
from devices import on_device
from meshes import tensors

from pipeline.bench_shapes import bench_field, spoil, surface_net
from pipeline.errors import EmptyResultError, MeshError, SettingsError
from pipeline.mesh.bake.raster import rasterise

pytest.importorskip("warp")

from pipeline.mesh.uv import unwrap as room
from pipeline.mesh.uv.charts import ChartConfig, axes_of, cone_angles, dual_graph, merge
from pipeline.mesh.uv.pack import PackConfig, _outlines, chart_boxes, overlapping
from pipeline.mesh.uv.parameterise import cut, flat_shapes, folds, stretches
from pipeline.mesh.uv.unwrap import FEWER_SEAMS, UnwrapConfig, unwrap

pytestmark = pytest.mark.usefixtures("device")
unwrap = on_device(unwrap)
axes_of = on_device(axes_of)
cone_angles = on_device(cone_angles)
dual_graph = on_device(dual_graph)
merge = on_device(merge)
_outlines = on_device(_outlines)
chart_boxes = on_device(chart_boxes)
overlapping = on_device(overlapping)
cut = on_device(cut)
flat_shapes = on_device(flat_shapes)
folds = on_device(folds)
stretches = on_device(stretches)


def nothing():
    pass


def soup(count, seed=0):
    """Triangles that share nothing."""
    random = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 1, 3, generator=random) + 0.1 * torch.rand(count, 3, 3, generator=random)
    return corners.reshape(-1, 3), torch.arange(3 * count, dtype=torch.int32).reshape(-1, 3)


SHAPES = {
    "sphere": lambda: tensors(trimesh.creation.icosphere(4)),
    "box": lambda: tensors(trimesh.creation.box().subdivide().subdivide()),
    "torus": lambda: tensors(trimesh.creation.torus(0.4, 0.15)),
    "cylinder": lambda: tensors(trimesh.creation.cylinder(0.2, 1.0)),
    "dual grid": lambda: surface_net(bench_field, 32),
    "dirty": lambda: spoil(*surface_net(bench_field, 32)),
    "soup": lambda: soup(200),
}


def signed(uvs, faces):
    a, b, c = uvs.double()[faces.long()].unbind(1)
    one, two = b - a, c - a
    return (one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]) / 2


def times_covered(uvs, faces, size):
    """[size, size] how many faces hold each texel's centre strictly inside: brute force, face by face."""
    count = np.zeros((size, size), int)
    for corners in uvs.double().numpy()[faces.numpy()] * size - 0.5:
        low, high = np.floor(corners.min(0)).astype(int), np.ceil(corners.max(0)).astype(int) + 1
        x, y = np.meshgrid(np.arange(low[0], high[0]), np.arange(low[1], high[1]))
        side = [
            (b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0]) for a, b in zip(corners, np.roll(corners, -1, 0))
        ]
        inside = np.all(np.stack(side) > 1e-9, 0) | np.all(np.stack(side) < -1e-9, 0)
        np.add.at(count, (y[inside], x[inside]), 1)
    return count


def chart_of_texels(uvs, faces, size):
    """[size, size] which connected piece of the atlas covers each texel, -1 for none."""
    corners = faces.long().numpy()
    links = scipy.sparse.coo_matrix(
        (np.ones(corners.size), (corners.ravel(), np.roll(corners, 1, 1).ravel())), shape=(len(uvs),) * 2
    )
    piece = scipy.sparse.csgraph.connected_components(links, directed=False)[1][corners[:, 0]]
    face = rasterise(uvs, faces, size)[0].numpy().reshape(size, size)
    return np.where(face >= 0, piece[face], -1)


def smallest_gap(charts, reach):
    """The least squared distance, up to reach * reach, between texels of two charts; inf if there is none."""
    size, found = len(charts), np.inf
    for dy in range(reach + 1):
        for dx in range(-reach, reach + 1):
            here = charts[: size - dy, max(-dx, 0) : size - max(dx, 0)]
            there = charts[dy:, max(dx, 0) : size + min(dx, 0)]
            if ((here >= 0) & (there >= 0) & (here != there)).any():
                found = min(found, dx * dx + dy * dy)
    return found


@pytest.mark.parametrize("name", SHAPES)
def test_no_face_is_lost_mirrored_or_overlapped(name):
    vertices, faces = SHAPES[name]()
    size = 512
    source, new, uvs, facts = unwrap(vertices, faces, size, 2, nothing)
    assert source.dtype == torch.int64 and new.dtype == torch.int32 and uvs.dtype == torch.float32
    assert torch.equal(source[new.long()], faces.long())
    assert uvs.min() >= 0 and uvs.max() <= 1 and len(uvs) == len(source) == len(new[faces[:, 0] >= 0].unique())
    assert times_covered(uvs, new, size).max() == 1
    areas = signed(uvs, new)  # v points down: what is counter-clockwise to the eye has a negative area
    assert areas.max() < 1e-7
    assert facts["utilisation"] == pytest.approx(-areas.sum().item(), rel=1e-4)
    assert 1 <= facts["stretch"] <= 1.5


@pytest.mark.parametrize(("padding", "size"), [(0, 512), (1, 512), (3, 500), (8, 600)])
def test_texels_of_two_charts_keep_the_padding(padding, size):
    vertices, faces = SHAPES["dual grid"]()
    _, new, uvs, facts = unwrap(vertices, faces, size, padding, nothing)
    charts = chart_of_texels(uvs, new, size)
    assert 100 < charts.max() < facts["charts"]
    gap = smallest_gap(charts, 12)
    assert gap > max(padding, 1) ** 2
    assert gap <= (max(padding, 1) + 2) ** 2  # and no texel is wasted
    rim = max(padding, 1) // 2
    edge = np.concatenate([each.ravel() for side in (charts, charts.T) for each in (side[:rim], side[size - rim :])])
    assert (edge < 0).all()


def test_outlines_hold_texels_that_rounding_may_cover():
    corners = torch.tensor([[-4e-6, 6e-6], [1.707, 0.49], [1.822, -0.0016]], dtype=torch.float64)
    labels = torch.zeros(1, dtype=torch.int64)
    pieces = cut(torch.tensor([[0, 1, 2]]), labels, 3, 1)
    for turn in range(4):  # the first corner lies at texel 0, 0, just not on its covered side
        low, sizes = chart_boxes(corners, pieces)
        outlines = _outlines(corners, pieces, labels, low, sizes)
        runs = outlines.runs[: outlines.first[0, 1]] + torch.stack([low[0, 1], low[0, 0], low[0, 0]])
        assert any(row == 0 and start <= 0 < end for row, start, end in runs.tolist()), turn
        corners = torch.stack([-corners[:, 1], corners[:, 0]], 1)


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


def test_most_of_the_texture_is_used():
    _, _, _, facts = unwrap(*surface_net(bench_field, 48), 1024, 2, nothing)
    assert facts["utilisation"] >= 0.66 and facts["stretch"] <= 1.2 and facts["charts"] < 700


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


def test_flat_and_single_faces():
    square = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    for faces in ([[0, 1, 2], [0, 2, 3]], [[0, 1, 2]]):
        _, new, uvs, facts = unwrap(square, torch.tensor(faces), 64, 1, nothing)
        assert facts["charts"] == 1 and facts["stretch"] == pytest.approx(1, abs=1e-4)
        assert times_covered(uvs, new, 64).max() == 1
    assert facts["utilisation"] > 0.4


def test_more_than_two_faces_at_an_edge_and_faces_without_area():
    fan = torch.tensor([[0.0, 0, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0], [-1, -1, 0]])
    faces = torch.tensor([[0, 1, 2], [0, 1, 3], [0, 1, 4], [0, 1, 2], [0, 0, 1], [2, 2, 2]])
    source, new, uvs, _ = unwrap(fan, faces, 128, 2, nothing)
    assert torch.equal(source[new.long()], faces)
    assert times_covered(uvs, new[:4], 128).max() == 1


def test_a_full_turn_round_a_vertex_does_not_overlap():
    """A spiral stair of 1.9 turns: all normals within the cone, its projection covers itself."""
    angle = torch.linspace(0, 1.9 * 2 * torch.pi, 60)
    inner = torch.stack([0.2 * angle.cos(), 0.2 * angle.sin(), 0.03 * angle], 1)
    outer = torch.stack([angle.cos(), angle.sin(), 0.03 * angle], 1)
    vertices = torch.cat([inner, outer])
    i = torch.arange(59)
    faces = torch.cat([torch.stack([i, i + 60, i + 61], 1), torch.stack([i, i + 61, i + 1], 1)])
    _, new, uvs, facts = unwrap(vertices, faces, 512, 2, nothing)
    assert facts["charts"] >= 2
    assert times_covered(uvs, new, 512).max() == 1


def test_the_same_mesh_gives_the_same_bytes():
    vertices, faces = SHAPES["dirty"]()
    one, two = (unwrap(vertices, faces, 256, 1, nothing) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one[:3], two[:3])) and one[3] == two[3]


@pytest.mark.parametrize("scale", [1e-12, 1e6])
def test_units_do_not_matter(scale):
    vertices, faces = SHAPES["sphere"]()
    facts = [unwrap(each, faces, 256, 2, nothing)[3] for each in (vertices, vertices.double() * scale + 3 * scale)]
    assert facts[0] == pytest.approx(facts[1], rel=0.05)


def test_thin_rings_do_not_need_memory_for_their_boxes():
    angle = torch.linspace(0, 6.2, 200)
    circle = torch.stack([angle.cos(), angle.sin(), 0 * angle], 1)
    i = torch.arange(199)
    faces = torch.cat([torch.stack([i, i + 200, i + 201], 1), torch.stack([i, i + 201, i + 1], 1)])
    _, new, uvs, facts = unwrap(torch.cat([circle, 1.0001 * circle]), faces, 256, 2, nothing)
    assert facts["charts"] == 1 and times_covered(uvs, new, 256).max() <= 1


def test_ten_thousand_fragments():
    _, _, _, facts = unwrap(*soup(10000), 512, 1, nothing)
    assert facts["charts"] == 10000 and facts["utilisation"] > 0.2 and facts["stretch"] == pytest.approx(1, abs=1e-3)


def test_inputs_stay_as_they_are():
    vertices, faces = SHAPES["torus"]()
    before = vertices.clone(), faces.clone()
    unwrap(vertices, faces, 256, 2, nothing)
    assert torch.equal(vertices, before[0]) and torch.equal(faces, before[1])


def test_cancelling():
    class Stop(Exception):
        pass

    vertices, faces = SHAPES["dual grid"]()
    calls = []
    unwrap(vertices, faces, 256, 2, lambda: calls.append(None))
    assert len(calls) > 20
    for stop_at in (1, len(calls) // 2, len(calls)):
        left = [stop_at]

        def tick(left=left):
            left[0] -= 1
            if left[0] == 0:
                raise Stop

        with pytest.raises(Stop):
            unwrap(vertices, faces, 256, 2, tick)


def test_more_faces_than_texels():
    vertices, faces = tensors(trimesh.creation.icosphere(5))  # 20,480 faces, 4,096 texels
    _, new, uvs, facts = unwrap(vertices, faces, 64, 1, nothing)
    assert times_covered(uvs, new, 64).max() == 1 and facts["utilisation"] > 0.3
    with pytest.raises(SettingsError, match="do not fit"):
        unwrap(*soup(2000), 64, 4, nothing)


# of these a face of two corners has an area of 1e-21 in fp64
ROUNDED = torch.tensor(
    [[-0.4397, 0.3495, 0.1639], [-0.4402, 0.3495, 0.1662], [-0.2131, 0.1228, 0.4067], [-0.2138, 0.1232, 0.4082]]
)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"faces": torch.zeros(0, 3, dtype=torch.int32)}, EmptyResultError, "no faces"),
        ({"vertices": torch.zeros(0, 3), "faces": torch.zeros(0, 3, dtype=torch.int32)}, EmptyResultError, "no faces"),
        ({"vertices": torch.full((3, 3), 0.5)}, EmptyResultError, "has an area"),
        ({"faces": torch.tensor([[0, 1, 1]])}, EmptyResultError, "has an area"),
        ({"vertices": ROUNDED, "faces": torch.tensor([[3, 2, 2], [1, 0, 0]])}, EmptyResultError, "has an area"),
        ({"vertices": torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, torch.nan, 0]])}, MeshError, "1 of 3 vertices are NaN"),
        ({"faces": torch.tensor([[0, 1, 3]])}, MeshError, "0 to 2"),
        ({"faces": torch.tensor([[0, 1, -1]])}, MeshError, "-1"),
        ({"size": 0}, SettingsError, "0 pixels"),
        ({"size": 20000}, SettingsError, "20000 pixels"),
        ({"size": 1}, SettingsError, "do not fit"),
        ({"padding": -1}, SettingsError, "padding of -1"),
    ],
)
def test_bad_input(change, error, words):
    good = {"vertices": torch.eye(3), "faces": torch.tensor([[0, 1, 2]]), "size": 64, "padding": 1}
    with pytest.raises(error, match=words):
        unwrap(**{**good, **change}, tick=nothing)


def needles(count):
    """Long triangles that share nothing, some of them thinner than a texel."""
    random = torch.Generator().manual_seed(0)
    at, along, aside = torch.randn(3, count, 3, generator=random)
    width = 10 ** (-1 - 3.5 * torch.rand(count, 1, generator=random))
    corners = torch.stack([at, at + along, at + along / 2 + aside * width], 1).reshape(-1, 3)
    return corners, torch.arange(3 * count, dtype=torch.int32).reshape(-1, 3)


def test_textures_above_4096_are_packed_texel_by_texel():
    """In coarser cells what covers no cell's centre got no place of its own."""
    _, faces, uvs, facts = unwrap(*needles(80), 4097, 2, nothing)
    assert facts["charts"] == 80 and signed(uvs, faces).max() < 1e-9
    assert times_covered(uvs, faces, 4097).max() == 1


def test_what_does_not_fit_is_told_a_size_that_does():
    with pytest.raises(SettingsError, match=r"\(128 pixels should do\)") as told:
        unwrap(*soup(2000), 64, 1, nothing)
    assert "2,000 charts" in str(told.value)
    assert unwrap(*soup(2000), 128, 1, nothing)[3]["charts"] == 2000


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


def test_what_would_stretch_or_fold_too_much_stays_apart():
    vertices, faces = SHAPES["sphere"]()
    tight = UnwrapConfig(charts=FEWER_SEAMS.charts, merged_stretch=1.01)
    assert unwrap(vertices, faces, 512, 2, nothing, tight)[3]["charts"] > 5
    loose = UnwrapConfig(charts=FEWER_SEAMS.charts, merged_stretch=1e6)
    _, new, uvs, facts = unwrap(vertices, faces, 512, 2, nothing, loose)
    assert times_covered(uvs, new, 512).max() == 1 and facts["charts"] >= 1
