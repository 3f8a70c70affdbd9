"""Shapes with the faults that clean repairs, and what must hold of its results."""

from collections import Counter, defaultdict

import numpy as np
import torch

from pipeline.mesh.repair.clean import CleanSettings
from pipeline.mesh.topology import sorting

KEEP_ALL = CleanSettings(min_area_share=0, max_hole_perimeter=0)


def turned(faces, seed=0):
    """Half of the faces wound the other way."""
    flip = torch.rand(len(faces), generator=torch.Generator().manual_seed(seed)) < 0.5
    return torch.where(flip[:, None], faces.flip(1), faces)


def same_faces(one, other):
    """The same corners, consistently oriented; in any order."""
    return sorted(one.tolist()) == sorted(other.tolist())


def same_corners(done, vertices, faces):
    """Each face lies where one of the faces lay; in any order."""
    one, other = (
        sorted(sorted(face) for face in points[corners.long()].tolist())
        for points, corners in ((done.vertices, done.faces), (vertices, faces))
    )
    return one == other


def fans(faces):
    """How many fans of faces each vertex has, by brute force."""
    around = defaultdict(list)
    for face in faces.tolist():
        for vertex in face:
            around[vertex].append(set(face) - {vertex})
    found = {}
    for vertex, rims in around.items():
        groups = []
        for rim in rims:
            touching = [group for group in groups if group & rim]
            groups = [group for group in groups if not group & rim] + [set.union(rim, *touching)]
        found[vertex] = len(groups)
    return found


def assert_manifold(vertices, faces, closed=True):
    """Every edge has two faces (one at a border), consistently oriented; every vertex has one fan and is used."""
    directed = Counter((a, b) for face in faces.tolist() for a, b in zip(face, face[1:] + face[:1]))
    assert max(directed.values()) == 1
    if closed:
        assert all((b, a) in directed for a, b in directed)
    assert set(fans(faces)) == set(range(len(vertices))) and set(fans(faces).values()) == {1}


def voxel_mesh(cells):
    """The surface of a set of unit cubes [X, Y, Z] bool, wound outward; cubes share the vertices they touch in."""
    solid = np.pad(cells, 1)
    quads = []
    for axis in range(3):
        u, v = np.eye(3, dtype=int)[(axis + 1) % 3], np.eye(3, dtype=int)[(axis + 2) % 3]
        for side in (0, 1):
            there = np.roll(solid, 1 - 2 * side, axis)
            corner = np.argwhere(solid & ~there) - 1 + side * np.eye(3, dtype=int)[axis]
            ring = np.stack([corner, corner + u, corner + u + v, corner + v], 1)
            quads.append(ring if side else ring[:, ::-1])
    quads = np.concatenate(quads)
    vertices, index = np.unique(quads.reshape(-1, 3), axis=0, return_inverse=True)
    index = index.reshape(-1, 4)
    faces = np.concatenate([index[:, [0, 1, 2]], index[:, [0, 2, 3]]])
    return torch.from_numpy(vertices.astype(np.float32)), torch.from_numpy(faces.astype(np.int32))


def cubes(*places):
    cells = np.zeros(np.max(places, 0) + 1, bool)
    cells[tuple(np.transpose(places))] = True
    return voxel_mesh(cells)


def moebius():
    turns = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    rim = [
        [np.cos(a) * (1 + s * np.cos(a / 2)), np.sin(a) * (1 + s * np.cos(a / 2)), s * np.sin(a / 2)]
        for a in turns
        for s in (-0.2, 0.2)
    ]
    faces = []
    for i in range(24):
        a, b, c, d = 2 * i, 2 * i + 1, 2 * i + 2, 2 * i + 3
        c, d = (c, d) if i < 23 else (1, 0)
        faces += [[a, b, c], [c, b, d]]
    return torch.tensor(rim, dtype=torch.float32), torch.tensor(faces, dtype=torch.int32)


def crossed_cap(ball):
    """A ball of which a corner of five faces is replaced by a Moebius strip of five on the same rim: non-orientable."""
    corner = int(np.flatnonzero(np.bincount(ball.faces.ravel()) == 5)[0])
    around = (ball.faces == corner).any(1)
    following = {face[list(face).index(corner) - 2]: face[list(face).index(corner) - 1] for face in ball.faces[around]}
    rim = [next(iter(following))]
    while len(rim) < 5:
        rim.append(following[rim[-1]])
    a, d, b, e, c = rim  # the strip's border runs a d b e c
    strip = [(a, e, d), (e, d, c), (d, c, b), (c, b, a), (b, a, e)]
    return torch.tensor(ball.vertices).float(), torch.tensor(
        np.concatenate([ball.faces[~around], strip]), dtype=torch.int32
    )


def without_warp(monkeypatch):
    monkeypatch.setattr(sorting, "unavailable_reason", lambda: "not for this test")
