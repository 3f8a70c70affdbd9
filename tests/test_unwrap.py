"""UV unwrapping: nothing is lost, mirrored or overlapped; inputs, good and bad."""

import numpy as np
import pytest
import torch
import trimesh
from devices import on_device
from meshes import tensors

from pipeline.bench.shapes import bench_field, surface_net
from pipeline.errors import EmptyResultError, MeshError, SettingsError

pytest.importorskip("warp")

from charts import SHAPES, chart_of_texels, nothing, signed, soup, times_covered

from pipeline.mesh.uv.pack import _outlines, chart_boxes
from pipeline.mesh.uv.parameterise import cut
from pipeline.mesh.uv.unwrap import unwrap

pytestmark = pytest.mark.usefixtures("device")
unwrap = on_device(unwrap)
_outlines = on_device(_outlines)
chart_boxes = on_device(chart_boxes)
cut = on_device(cut)


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


def test_most_of_the_texture_is_used():
    _, _, _, facts = unwrap(*surface_net(bench_field, 48), 1024, 2, nothing)
    assert facts["utilisation"] >= 0.66 and facts["stretch"] <= 1.2 and facts["charts"] < 700


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
    with pytest.raises(SettingsError, match="cannot be placed"):
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
        ({"vertices": torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, torch.nan, 0]])}, MeshError, "1 of 3 vertices is NaN"),
        ({"faces": torch.tensor([[0, 1, 3]])}, MeshError, "0 to 2"),
        ({"faces": torch.tensor([[0, 1, -1]])}, MeshError, "-1"),
        ({"size": 0}, SettingsError, "0 pixels"),
        ({"size": 20000}, SettingsError, "20000 pixels"),
        ({"size": 1}, SettingsError, "^1 chart of|charts of this mesh cannot be placed"),
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
