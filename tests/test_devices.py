"""What runs property tests on several devices: values go there and come back, and calls inside of calls stay."""

import pytest
import torch
from devices import CPU, There, on_device, running_on

from pipeline.mesh import Mesh
from pipeline.mesh.query.surface import Surface
from pipeline.render import Subject
from pipeline.sparse import SparseTensor, Voxels

META = torch.device("meta")  # a device that every machine has; its tensors hold nothing


@pytest.fixture(autouse=True)
def moved():
    with running_on(META):
        yield


def devices(value):
    """Of all tensors in a value."""
    if isinstance(value, torch.Tensor):
        return {value.device}
    held = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    held = held or getattr(value, "__dict__", {}).values()
    return set().union(*(devices(each) for each in held))


CORNERS, FACES = torch.rand(3, 3), torch.tensor([[0, 1, 2]])
VALUES = {
    "tensor": CORNERS,
    "voxels": SparseTensor(Voxels.single(FACES), CORNERS[:1]),
    "several": (CORNERS, [FACES, 3], {"key": CORNERS}),
}


@pytest.mark.parametrize("name", VALUES)
def test_values_go_there(name):
    assert devices(VALUES[name]) == {CPU} and on_device(devices)(VALUES[name]) == {META}


@pytest.mark.parametrize("looks", [{}, {"normals": CORNERS, "colours": CORNERS, "alpha_mode": "MASK"}])
def test_meshes_keep_their_looks(looks):
    given, found = Subject(CORNERS, FACES, **looks) if looks else Mesh(CORNERS, FACES), []
    with running_on(CPU):
        on_device(found.append)(given)
    (moved,) = found
    assert moved is not given and type(moved) is type(given)
    for name, value in {"vertices": CORNERS, "faces": FACES, **looks}.items():
        assert getattr(moved, name) is value or torch.equal(getattr(moved, name), value)


def test_values_come_back_and_inner_calls_do_not_move():
    inner = on_device(lambda x: x + 1)

    def outer(x):
        found = inner(x)
        assert found.device == META
        return {"sum": found.sum(), "device": str(found.device)}

    with running_on(CPU):
        assert on_device(lambda: CORNERS.sum())() == CORNERS.sum()
    with pytest.raises(NotImplementedError, match="meta"):  # which has nothing to copy back: it was there
        on_device(outer)(CORNERS)


@pytest.mark.parametrize("way", ["moved", "plain"])
def test_a_surface_stays_and_answers(way):
    pytest.importorskip("warp")
    with running_on(CPU, moves=way == "moved"):
        surface = on_device(Surface)(CORNERS, FACES)
        assert isinstance(surface, There) == (way == "moved")
        assert surface.closest(CORNERS.mean(0, keepdim=True)).face.tolist() == [0]
        assert on_device(lambda given: type(given))(surface) is Surface
