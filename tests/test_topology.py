"""Half-edges, corners in order, components and two-colourings, by kernels and in torch and scipy."""

import itertools
from collections import defaultdict

import numpy as np
import pytest
import torch
import trimesh
from devices import on_device
from manifolds import moebius, turned
from meshes import tensors

from pipeline.mesh.topology.half_edges import HalfEdges, Sheets, components, hook, two_colour
from pipeline.mesh.topology.sorting import by_corners, grouped

pytestmark = pytest.mark.usefixtures("device")

by_corners = on_device(by_corners)
components = on_device(components)
grouped = on_device(grouped)
hook = on_device(hook)
two_colour = on_device(two_colour)
edges_of, sheets_of = on_device(HalfEdges.of), on_device(Sheets.of)


@pytest.mark.usefixtures("both_ways")
def test_half_edges_against_a_dictionary():
    faces = torch.randint(30, (400, 3), generator=torch.Generator().manual_seed(1))
    edges, expected = edges_of(faces), defaultdict(list)
    for h, (a, b) in enumerate(torch.stack(edges.ends(torch.arange(1200)), 1).tolist()):
        assert a == faces[h // 3, h % 3] and b == faces[h // 3, (h + 1) % 3]
        expected[min(a, b), max(a, b)].append(h)
    found = [expected[key] for key in sorted(expected)]
    assert edges.count == len(found) and edges.non_manifold_edges == sum(len(part) > 2 for part in found)
    assert [edges.non_manifold[edges.edge == i].tolist() for i in range(edges.non_manifold_edges)] == [
        part for part in found if len(part) > 2
    ]
    assert edges.border().tolist() == sorted(part[0] for part in found if len(part) == 1)
    pairs = sorted(part for part in found if len(part) == 2)
    assert pairs and torch.stack(edges.pairs(), 1).tolist() == pairs
    twins = dict(pairs) | {b: a for a, b in pairs}
    assert edges.twin.tolist() == [twins.get(h, -1) for h in range(1200)]


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("keys", [0, 1, 1000])
def test_grouped(keys):
    key = torch.randint(50, (keys,), generator=torch.Generator().manual_seed(0)).int()
    order, first = grouped(key, 52)
    assert torch.equal(order.long(), key.sort(stable=True).indices)
    assert first.tolist() == torch.searchsorted(key.sort().values, torch.arange(53)).tolist()


@pytest.mark.usefixtures("both_ways")
def test_the_order_of_corners():
    faces = torch.randint(9, (300, 3), generator=torch.Generator().manual_seed(0)).int()
    expected = sorted(range(300), key=lambda f: (sorted(faces[f].tolist()), f))
    order, again = by_corners(faces)
    assert order.tolist() == expected
    corners = [sorted(faces[f].tolist()) for f in expected]
    assert again.tolist() == [False] + [one == other for one, other in itertools.pairwise(corners)]


@pytest.mark.parametrize("links", [0, 30, 120, 1000])
def test_components_by_hooking_equal_scipys(links):
    a, b = torch.randint(200, (2, links), generator=torch.Generator().manual_seed(links))
    root, (label, count) = hook(a, b, 200), components(a, b, 200)
    assert torch.equal(torch.unique(root, return_inverse=True)[1], label) and count == len(root.unique())
    assert all((root[label == i] == (label == i).nonzero().min()).all() for i in range(count))


def test_hooking_on_a_long_path():
    order = torch.randperm(20_000, generator=torch.Generator().manual_seed(0))
    assert (hook(order[1:], order[:-1], 20_000) == 0).all()
    straight = torch.arange(20_000)
    assert (hook(straight[1:], straight[:-1], 20_000) == 0).all()


def test_two_colours():
    """Colours that were chosen at random are found again, and an odd ring is told apart."""
    random = torch.Generator().manual_seed(2)
    colour = torch.rand(300, generator=random) < 0.5
    a, b = torch.randint(300, (2, 250), generator=random)
    label, found, possible = two_colour(a, b, colour[a] != colour[b], 300)
    assert torch.equal(found[a] != found[b], colour[a] != colour[b]) and possible.all()
    assert not any(found[label == i][0] for i in range(len(possible)))
    ring = torch.tensor([0, 1, 2])
    label, found, possible = two_colour(ring, ring.roll(-1), torch.tensor([True, True, True]), 4)
    assert label.tolist() == [0, 0, 0, 1] and possible.tolist() == [False, True] and not found.any()


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("shuffled", [False, True])
def test_sheets_of_a_cpu_equal_those_by_labelling(shuffled):
    """Nine balls (large ones are searched, the rest labelled), three Moebius strips, all with random winding."""
    parts = [tensors(trimesh.creation.icosphere(4 - i // 2, 0.1)) for i in range(9)] + [moebius()] * 3
    shift = np.cumsum([0] + [len(v) for v, _ in parts])
    faces = turned(torch.cat([f + int(s) for (_, f), s in zip(parts, shift)])).int()
    if shuffled:
        faces = faces[torch.randperm(len(faces), generator=torch.Generator().manual_seed(1))]
    edges = edges_of(faces)
    twin = edges.twin
    half = ((twin >= 0) & (twin > torch.arange(len(twin)))).nonzero().squeeze(1)
    same = faces.reshape(-1)[half] == faces.reshape(-1)[twin[half]]
    expected = two_colour(half // 3, twin[half].long() // 3, same, len(faces))
    sheets = sheets_of(edges)
    for found, wanted in zip((sheets.label, sheets.flip, sheets.orientable), expected):
        assert torch.equal(found, wanted)
    assert int(sheets.orientable.sum()) == 9 and len(sheets.orientable) == 12
