"""What damage leaves of a body: specks are dropped and narrow tunnels filled, near holes alone."""

import torch
import trimesh
from meshes import needs_warp, tensors

from pipeline.mesh import Mesh
from pipeline.mesh.remesh import interior, specks
from pipeline.mesh.remesh.lattice_functions import INSIDE, OUTSIDE

pytestmark = needs_warp


def test_narrow_tunnels_are_filled_and_specks_dropped_near_holes_alone():
    """A plate of a lattice with tunnels of 2 and 5 points' width through it, and cubes of 3 and 5 points before it."""
    lattice = interior.outside(Mesh(*tensors(trimesh.creation.box(extents=(1.0, 1.0, 0.3)))), 40, 8)
    nodes = (lattice.states > 0).nonzero().squeeze(1)
    xyz = lattice.coordinates(nodes)
    low = xyz[lattice.states[nodes] == INSIDE].amin(0)
    high = xyz[lattice.states[nodes] == INSIDE].amax(0)

    def block(x, y, z, width, depth):
        corner = torch.tensor([x, y, z])
        return ((xyz >= corner) & (xyz < corner + torch.tensor([width, width, depth]))).all(1)

    x, y = (low[:2] + 4).tolist()
    narrow, wide = block(x, y, low[2], 2, 99), block(x + 8, y, low[2], 5, 99)
    speck, body = block(x, y + 10, high[2] + 2, 3, 3), block(x + 8, y + 10, high[2] + 2, 5, 5)
    lattice.states[nodes[narrow | wide]] = OUTSIDE
    lattice.states[nodes[speck | body]] = INSIDE
    before, everywhere = lattice.states.clone(), torch.ones_like(lattice.states, dtype=torch.bool)
    for near in (~everywhere, everywhere):
        specks.drop_specks(lattice, near)
        specks.fill_tunnels(lattice, near)
        assert torch.equal(lattice.states, before) or near.all()
    through = (xyz[:, 2] > low[2]) & (xyz[:, 2] < high[2])  # but for the mouths
    assert (lattice.states[nodes[narrow & through]] == INSIDE).all()
    assert (lattice.states[nodes[wide & through]] == OUTSIDE).all()
    assert (lattice.states[nodes[speck]] == OUTSIDE).all() and (lattice.states[nodes[body]] == INSIDE).all()
