"""The backend table: choice, absence, and the comparison with the reference."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from meshes import needs_warp

from pipeline.backends import Backend, Backends, Operation, References
from pipeline.errors import BackendError
from pipeline.mesh import OPERATIONS as MESH_OPERATIONS
from pipeline.mesh import Mesh
from pipeline.mesh.bake.bake import SourceMesh
from pipeline.mesh.grid.dual_grid import dual_grid_tensors
from pipeline.render import OPERATIONS as RENDER_OPERATIONS
from pipeline.render import Frame
from pipeline.sparse import OPERATIONS as SPARSE_OPERATIONS
from pipeline.views.camera import PictureCamera


def double(x):
    return 2 * x


def table(*rows, **options):
    example = {"example": lambda device: (torch.arange(3.0, device=device),), "tolerance": 1e-3}
    return Backends([Operation("double", rows, reference=double, **example)], **options)


def test_the_first_row_that_agrees_is_taken():
    fast = Backend("fast", lambda x: x + x)
    backends = table(Backend("gone", None, "package gone is not installed"), fast)
    assert backends.pick("double") is fast.function
    assert backends.used == {"double": "fast"}
    assert backends.available("double") == {"gone": "package gone is not installed", "fast": "", "torch": ""}


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (lambda x: 2 * x + 0.1, "is off by 0.1"),
        (lambda x: x * torch.nan, "is off by nan"),
        (lambda x: (2 * x)[:1], "is off by inf"),
    ],
)
def test_a_wrong_answer_disables_a_row_with_one_line(caplog, wrong, problem):
    backends = table(Backend("fast", wrong))
    with caplog.at_level(logging.WARNING, "pipeline.backends"):
        assert backends.pick("double") is double
        assert backends.pick("double") is double
    assert len(caplog.records) == 1 and "Backend fast of double is disabled on cpu" in caplog.text
    assert problem in caplog.text
    with pytest.raises(BackendError, match="'fast' of 'double' cannot be used on cpu"):
        backends.pick("double", name="fast")


def test_the_references_alone_hold_no_state():
    """What a default argument is must not be changed by who uses it."""
    references = References([Operation("double", (Backend("fast", lambda x: x + x),), reference=double)])
    before = {name: dict(value) for name, value in vars(references).items()}
    assert references.pick("double") is references.pick("double", "cuda", "torch") is double
    with pytest.raises(BackendError, match="not 'fast' of 'double'"):
        references.pick("double", name="fast")
    assert {name: dict(value) for name, value in vars(references).items()} == before
    for table in (references.used, references.choices, references.operations):
        with pytest.raises(TypeError):
            table["double"] = "fast"


def test_a_kernel_that_fails_is_disabled():
    def failing(x):
        raise RuntimeError("no kernel image is available\nfor execution")

    backends = table(Backend("fast", failing))
    assert backends.pick("double") is double
    with pytest.raises(BackendError, match="it failed: no kernel image is available"):
        backends.pick("double", name="fast")


def test_a_row_is_compared_once():
    calls = []

    def fast(x):
        calls.append(x)
        return 2 * x

    backends = table(Backend("fast", fast))
    for _ in range(3):
        backends.pick("double")
    assert len(calls) == 1


def test_choices():
    rows = Backend("fast", lambda x: x + x), Backend("gpu", lambda x: x + x, devices=("cuda",))
    assert table(*rows, choices={"double": "torch"}).pick("double") is double
    with pytest.raises(BackendError, match="runs on cuda only"):
        table(*rows, choices={"double": "gpu"}).pick("double")
    with pytest.raises(BackendError, match="has no backend 'faster'; it has fast, gpu, torch"):
        table(*rows, choices={"double": "faster"})
    with pytest.raises(BackendError, match="Unknown operation 'triple'"):
        table(*rows, choices={"triple": "torch"})


def test_nothing_left_says_why():
    backends = Backends([Operation("unwrap", (Backend("xatlas", None, "xatlas is not installed"),))])
    message = "No backend for 'unwrap' is available on cpu. xatlas: xatlas is not installed"
    with pytest.raises(BackendError, match=message):
        backends.pick("unwrap")


@pytest.mark.parametrize("operation", SPARSE_OPERATIONS, ids=lambda operation: operation.name)
def test_examples_tell_right_from_wrong(operation):
    """Each example accepts its reference and refuses a row that is off by a hundredth of its result."""
    reference = operation.reference
    rows = Backend("same", lambda *a: reference(*a)), Backend("off", lambda *a: reference(*a).float() * 1.05)
    copy = Operation(operation.name, rows, reference, operation.example, operation.tolerance)
    backends = Backends([copy])
    assert backends.pick(operation.name, name="same")
    with pytest.raises(BackendError, match="is off by"):
        backends.pick(operation.name, name="off")


def test_check_looks_without_using():
    backends = table(Backend("gpu", lambda x: x, devices=("cuda",)))
    backends.check("double")
    assert backends.used == {}
    with pytest.raises(BackendError, match="runs on cuda only"):
        table(Backend("gpu", lambda x: x, devices=("cuda",)), choices={"double": "gpu"}).check("double")


def refused(operation, wrong):
    """What the table says about a row that gives wrong answers."""
    rows = (Backend("wrong", wrong),)
    return Backends([replace(operation, rows=rows)]).reason(operation.name, name="wrong")


def inner_of(mesh, resolution):
    return Mesh(mesh.vertices[8:], mesh.faces[12:] - 8), {}


def overlapping(vertices, faces, *more):
    """Every face the same triangle of the texture."""
    uvs = torch.tensor([[0.1, 0.1], [0.9, 0.1], [0.5, 0.9]]).repeat(len(faces), 1)
    return faces.long().reshape(-1), torch.arange(3 * len(faces)).reshape(-1, 3), uvs, {}


class Elsewhere(SourceMesh):
    def closest_point(self, points, limit):
        return points, None, None


def empty_frames(subject, cameras, size, *given, **more):
    """Frames that show nothing."""
    blank, nothing = np.zeros((size, size, 4), np.uint8), np.full((size, size), np.inf, np.float32)
    return [Frame(blank, PictureCamera(0.0, 0.0), 0.0, 1.0, nothing, blank) for _ in cameras]


def grid_of_half(vertices, faces, resolution):
    return dual_grid_tensors(vertices, faces[::2], resolution)


WRONG = {
    "mesh_to_dual_grid": grid_of_half,
    "clean": lambda mesh, settings: mesh,
    "outer_shell": inner_of,
    "solid": lambda mesh, resolution: (mesh, {}),
    "simplify": lambda mesh, target, tick: Mesh(mesh.vertices, mesh.faces[:target]),
    "farthest": lambda mesh: lambda points, limit: 0.4,  # also of points beyond the limit
    "quads": lambda mesh, target, tick: Mesh(mesh.vertices, mesh.faces[:target]),
    "unwrap": overlapping,
    "closest": Elsewhere,
    "render": empty_frames,
}
CHECKED = [
    pytest.param(operation, marks=needs_warp if operation.name == "closest" else ())
    for operation in (*MESH_OPERATIONS, *RENDER_OPERATIONS)
    if operation.check
]


@pytest.mark.parametrize("operation", CHECKED, ids=lambda operation: operation.name)
def test_checks_tell_right_from_wrong(operation):
    """Each row that can run here passes its operation's check, a wrong one is named and not used."""
    backends = Backends([operation])
    for name, reason in backends.available(operation.name).items():
        row = next(row for row in operation.rows if row.name == name)
        if not reason and (not row.devices or "cpu" in row.devices):
            assert backends.pick(operation.name, name=name)
    assert refused(operation, WRONG[operation.name])


def test_every_operation_has_an_oracle():
    for operation in (*SPARSE_OPERATIONS, *MESH_OPERATIONS, *RENDER_OPERATIONS):
        assert operation.check or (operation.reference and operation.example), operation.name


def test_a_row_is_tried_once_in_a_process():
    calls = []

    def fast(x):
        calls.append(x)
        return 2 * x

    operation = Operation("double", (Backend("fast", fast),), double, lambda device: (torch.ones(3),))
    for _ in range(3):
        Backends([operation]).pick("double")
    assert len(calls) == 1


def test_the_reason_why_nothing_can_run():
    rows = Backend("one", None, "no one"), Backend("gpu", double, devices=("cuda",))
    backends = Backends([Operation("double", rows)])
    assert backends.reason("double") == "no one; it runs on cuda only." and backends.reason("double", "cuda") == ""
    assert table(Backend("gone", None, "gone")).reason("double") == ""
    chosen = table(Backend("gone", None, "it is gone"), choices={"double": "gone"})
    assert chosen.reason("double") == "it is gone"
    wrong = table(Backend("fast", lambda x: 2 * x + 0.1))  # one row: absent, or present and wrong
    assert wrong.reason("double") == "" and "is off by 0.1" in wrong.reason("double", name="fast")
    assert chosen.reason("double", name="torch") == ""


@needs_warp
def test_every_operation_can_run_here():
    backends = Backends((*SPARSE_OPERATIONS, *MESH_OPERATIONS, *RENDER_OPERATIONS))
    for op in backends.operations:
        reasons = backends.available(op).values()
        optional = any("pip install -r requirements-" in reason for reason in reasons)
        assert optional or "" in reasons, backends.available(op)
