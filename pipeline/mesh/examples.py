"""Small problems with known answers, on which a row of the backend table is tried before it is trusted."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from ..sparse import Voxels
from .bake.raster import rasterise
from .grid.dual_grid import dual_grid_tensors, mesh_to_dual_grid
from .mesh import Mesh
from .repair.clean import CleanSettings

_CUBE = (
    (0, 2, 3), (0, 3, 1), (4, 5, 7), (4, 7, 6), (0, 1, 5), (0, 5, 4),
    (2, 6, 7), (2, 7, 3), (0, 4, 6), (0, 6, 2), (1, 3, 7), (1, 7, 5),
)  # fmt: skip
_SIDE = 24  # cells along a side in which shells are sought


def cube(device: torch.device, side: float = 1.0) -> Mesh:
    """A cube round the origin; vertex x + 2 y + 4 z, wound outward."""
    bits = torch.arange(8, device=device)[:, None] >> torch.arange(3, device=device) & 1
    return Mesh((bits.float() - 0.5) * side, torch.tensor(_CUBE, dtype=torch.int32, device=device))


def ball(device: torch.device, rows: int = 12) -> Mesh:
    """A ball of radius 1 with a pole at either end and rows of 2 * rows vertices between."""
    around = 2 * rows
    polar = torch.arange(1, rows, device=device) * (torch.pi / rows)
    turn = torch.arange(around, device=device) * (torch.pi / rows)
    ring = torch.stack([turn.cos(), turn.sin(), torch.zeros_like(turn)], 1)
    grid = ring * polar.sin()[:, None, None] + polar.cos()[:, None, None] * ring.new_tensor([0.0, 0.0, 1.0])
    poles = ring.new_tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])
    here = torch.arange(around, device=device)
    there = here.roll(-1)
    north, south = torch.full_like(here, (rows - 1) * around), torch.full_like(here, (rows - 1) * around + 1)
    faces = [torch.stack([north, here, there], 1)]
    for row in range(rows - 2):
        a, b, c, d = row * around + here, row * around + there, (row + 1) * around + here, (row + 1) * around + there
        faces += [torch.stack([a, c, d], 1), torch.stack([a, d, b], 1)]
    last = (rows - 2) * around
    faces.append(torch.stack([south, last + there, last + here], 1))
    return Mesh(torch.cat([grid.reshape(-1, 3), poles]), torch.cat(faces).int())


def together(*meshes: Mesh) -> Mesh:
    counts = torch.tensor([0, *(len(each.vertices) for each in meshes)]).cumsum(0).tolist()
    faces = [each.faces + count for each, count in zip(meshes, counts)]
    return Mesh(torch.cat([each.vertices for each in meshes]), torch.cat(faces))


def overlapping_triangles(device: torch.device) -> tuple:
    """A square of two triangles, inconsistently oriented, and one across its corner."""
    uvs = torch.tensor([[0.1, 0.1], [0.9, 0.15], [0.85, 0.9], [0.1, 0.8], [0.02, 0.05], [0.05, 0.02]], device=device)
    return uvs, torch.tensor([[0, 1, 2], [0, 3, 2], [0, 4, 5]], dtype=torch.int32, device=device), 64


def check_raster(function: Callable, device: torch.device) -> str:
    """overlapping_triangles for a raster that rounds corners, but to less than half a texel: texels with the same face
    all round are that face's, others may be a neighbour's."""
    problem = overlapping_triangles(device)
    size = problem[-1]
    right, right_weights = (each.cpu() for each in rasterise(*problem))
    face, weights = (each.cpu() for each in function(*problem))
    round_it = F.pad(right.reshape(1, 1, size, size).float(), (1, 1, 1, 1), mode="replicate")
    round_it = F.unfold(round_it, 3)[0].T.long()  # [S * S, 9]
    strange = (round_it != face[:, None]).all(1)
    inside = (round_it == right[:, None]).all(1)
    same = (face == right) & (face >= 0)
    off = (weights - right_weights)[same].abs().max().item() if bool(same.any()) else float("inf")
    sums = (weights.sum(1) - (face >= 0).float()).abs().max().item()
    wrong = int((strange | (inside & (face != right))).sum())
    good = wrong == 0 and off < 1e-3 and sums < 1e-3  # NaN too
    return "" if good else f"{wrong} of {len(face)} texels have another face, weights are off by {off:.3g}."


def check_dual_grid(function: Callable, device: torch.device) -> str:
    """An open ball on 16 cells a side: the same voxels and crossed edges as mesh_to_dual_grid finds, and vertices in
    the same places but where two are about as good."""
    mesh = ball(device)
    problem = mesh.vertices * 0.43 + 0.01, mesh.faces[:400], 16
    right, found = dual_grid_tensors(*problem), function(*problem)
    if not (torch.equal(right[0], found[0]) and torch.equal(right[2], found[2])):
        return f"a ball has {len(found[0])} voxels or crosses other edges ({len(right[0])} wanted)."
    off = (right[1] - found[1]).abs().amax(1)
    many = (~(off < 1e-2)).double().mean().item()  # NaN too
    return "" if many < 0.01 else f"{100 * many:.3g} % of a ball's vertices are more than 0.01 voxels off."


def dual_grid_of_a_ball(device: torch.device) -> tuple:
    """With weights that split its quads either way."""
    mesh = ball(torch.device("cpu"))
    grid = mesh_to_dual_grid((mesh.vertices * 0.43 + 0.01).numpy(), mesh.faces.numpy(), 16)
    arrays = (torch.from_numpy(each).to(device) for each in (grid.coords, grid.offsets, grid.crossed))
    coords, offsets, crossed = arrays
    split = torch.rand(len(coords), 1, generator=torch.Generator().manual_seed(0)).to(device) + 0.1
    return Voxels.single(coords), offsets, crossed, grid.resolution, split


def two_texels(device: torch.device) -> tuple:
    """Two covered texels, with no texel as near to one as to the other."""
    covered = torch.zeros(32, 32, dtype=torch.bool, device=device)
    covered[3, 5] = covered[24, 28] = True
    return (covered,)


def points_round_an_open_ball(device: torch.device) -> tuple:
    """A ball without its lower part, and points of a grid in and round it."""
    mesh = ball(device)
    axis = torch.linspace(-1.3, 1.3, 9, device=device)
    return mesh.vertices, mesh.faces[:400], torch.cartesian_prod(axis, axis, axis)


def balls_that_cross(device: torch.device) -> tuple:
    """Two balls, of which a ring of faces each goes through the other."""
    one, offset = ball(device, 6), torch.tensor([0.9, 0.23, 0.11], device=device)
    both = together(one, Mesh(one.vertices + offset, one.faces))
    return both.vertices, both.faces


def walls_of_a_hollow_ball(device: torch.device) -> tuple:
    """A ball with an empty one inside it, nearer to one side; all faces are asked."""
    outer = ball(device, 6)
    inner = Mesh(0.6 * outer.vertices + outer.vertices.new_tensor([0.2, 0.0, 0.1]), outer.faces.flip(1))
    mesh = together(outer, inner)
    return mesh, torch.arange(len(mesh.faces), device=device)


def points_round_voxels(device: torch.device) -> tuple:
    """Six voxels, and points of which none is as near to one as to another."""
    xyz = torch.tensor([[0, 0, 0], [3, 1, 0], [7, 7, 2], [1, 6, 5], [4, 4, 4], [0, 2, 7]], dtype=torch.int32)
    axis = torch.tensor([-3.1, 0.7, 4.3, 9.2])
    return torch.cartesian_prod(axis, axis + 0.13, axis + 0.31).to(device), xyz.to(device)


def check_clean(function: Callable, device: torch.device) -> str:
    """Two cubes that touch in an edge, every third face turned, one repeated, one without area, corners unwelded."""
    one = cube(device)
    corners = torch.cat([one.vertices, one.vertices + one.vertices.new_tensor([1.0, 1.0, 0.0])])
    faces = torch.cat([one.faces, one.faces + 8])
    faces[::3] = faces[::3].flip(1)
    faces = torch.cat([faces, faces[:1], faces[:1, [0, 0, 1]]])
    found = function(Mesh(corners, faces), CleanSettings(min_area_share=0)).report
    right = (found.vertices, found.faces, found.components, found.watertight, found.volume) == (16, 24, 2, True, 2.0)
    return "" if right else f"two cubes that touch came out as {found}."


def check_outer_shell(function: Callable, device: torch.device) -> str:
    """A cube in a cube."""
    outer = cube(device)
    found = function(together(outer, cube(device, 0.4)), _SIDE)[0]
    right = torch.equal(found.faces, outer.faces) and torch.equal(found.vertices, outer.vertices)
    return "" if right else f"a cube in a cube came out with {len(found.faces)} faces instead of 12."


def check_solid(function: Callable, device: torch.device) -> str:
    """A cube in a cube, the outer one wound inward."""
    outer = cube(device)
    inside_out = Mesh(outer.vertices, outer.faces.flip(1))
    found = function(together(inside_out, cube(device, 0.4)), _SIDE)[0].report
    right = found.watertight and found.euler == 2 and found.volume is not None and 0.95 < found.volume < 1.01
    return "" if right else f"a cube in a cube came out as {found}."


def check_simplify(function: Callable, device: torch.device) -> str:
    """Two balls of 528 faces that go through each other, of which 400 are to be left: faces that cross need kernels
    that a ball alone does not."""
    one = ball(device)
    apart = one.vertices.new_tensor([1.0, 0.0, 0.0])
    found = function(together(one, Mesh(one.vertices + apart, one.faces)), 400, lambda: None)
    vertices, apart = found.vertices.cpu(), apart.cpu()  # rows may leave their result there
    off = torch.stack([((vertices - at).norm(dim=1) - 1).abs() for at in (0 * apart, apart)]).amin(0).max().item()
    right = 300 <= len(found.faces) <= 420 and off < 0.1 and found.report.watertight
    return "" if right else f"two balls of 528 faces came out with {len(found.faces)} (400 wanted), {off:.3f} off."


def check_quads(function: Callable, device: torch.device) -> str:
    """A ball of 528 faces, of which about 400 quads are made."""
    found = function(ball(device), 400, lambda: None)
    off = (found.vertices.norm(dim=1) - 1).abs().max().item()
    right = 400 <= len(found.faces) <= 1600 and off < 0.1 and found.report.watertight
    return "" if right else f"a ball came out with {len(found.faces)} triangles of quads (800 wanted), {off:.3f} off."


def check_unwrap(function: Callable, device: torch.device) -> str:
    """A cube in a texture of 96 texels: no texel twice, each face where it was."""
    mesh = cube(device)
    source, faces, uvs, _ = function(mesh.vertices, mesh.faces, 96, 2, lambda: None)
    source, faces, uvs = source.cpu().long(), faces.cpu().long(), uvs.cpu()
    if not torch.equal(source[faces], mesh.faces.cpu().long()):
        return "the faces of a cube came out with other corners."
    if not 0 <= uvs.min() <= uvs.max() <= 1:
        return f"texture coordinates from {uvs.min():.3g} to {uvs.max():.3g} instead of 0 to 1."
    alone = sum((rasterise(uvs, face[None], 96)[0] >= 0).sum().item() for face in faces)
    covered = (rasterise(uvs, faces, 96)[0] >= 0).sum().item()
    return "" if alone == covered > 0 else f"{alone - covered} texels of a cube are covered twice."


def check_closest(function: Callable, device: torch.device) -> str:
    """Points, rays and open sky round a cube."""
    mesh = function(cube(device))
    points = torch.tensor([[1.0, 0.2, 0.1], [0.4, 0.1, 0.0], [0.7, 0.9, 0.1]], device=device)
    right = points.new_tensor([[0.5, 0.2, 0.1], [0.5, 0.1, 0.0], [0.5, 0.5, 0.1]])
    found = (mesh.closest(points).points(mesh.vertices, mesh.faces), mesh.closest_point(points, 2.0)[0])
    off = max((each - right).abs().max().item() for each in found)
    rays = mesh.rays(points[:1], points.new_tensor([[-1.0, 0.0, 0.0]])).distance.item()
    poles = points.new_tensor([[1.0, 0.0, 0.0]] * 2)
    sky = mesh.open_share(points.new_tensor([[0.6, 0.0, 0.0], [0.0, 0.0, 0.0]]), poles, 8, 5.0, 0).tolist()
    good = off < 1e-6 and abs(rays - 0.5) < 1e-6 and sky == [1.0, 0.0]
    return (
        "" if good else f"points of a cube are {off:.3g} off, a ray meets it at {rays:.3g} (0.5), sky {sky} ([1, 0])."
    )


def check_farthest(function: Callable, device: torch.device) -> str:
    """Points off the sides and off a corner of a cube."""
    farthest = function(cube(device))
    points = torch.tensor([[0.9, 0.2, 0.1], [0.4, 0.1, 0.0], [0.6, 0.7, 0.7]], device=device)
    found = farthest(points[:2], 1.0), farthest(points, 1.0), farthest(points, 0.2)
    right = 0.4, 0.4, float("inf")
    good = all(one == other or abs(one - other) < 1e-6 for one, other in zip(found, right))
    return "" if good else f"points round a cube are {found} off; {right} wanted."
