"""Rows of packages that need not be there: with stand-ins on the CPU, and with the packages where a GPU has them."""

import logging
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import host_modules
import pytest
import torch
from foreign_packages import PACKAGES, TritonError, module
from host_run import Host
from host_stub import PACK
from meshes import needs_warp

from pipeline import foreign, record
from pipeline.backends import Backend, Backends
from pipeline.errors import BackendError, SettingsError
from pipeline.mesh import DUAL_GRID_TO_MESH, MESH_TO_DUAL_GRID, RASTER, SIMPLIFY, Mesh, examples
from pipeline.mesh import OPERATIONS as MESH_OPERATIONS
from pipeline.mesh.bake.raster import rasterise
from pipeline.mesh.grid.dual_grid import dual_grid_tensors
from pipeline.mesh.packages import cumesh, nvdiffrast, o_voxel
from pipeline.mesh.query.farthest import farthest_by_tree
from pipeline.mesh.simplify.bounded import ErrorBound, deviation
from pipeline.mesh.simplify.collapse import collapse
from pipeline.runtime import Runtime
from pipeline.sparse import CHILD_CONV, SUBMANIFOLD_CONV, Voxels, flex_gemm, reference
from pipeline.sparse import OPERATIONS as SPARSE_OPERATIONS
from pipeline.stages.finishing.simplify import simplify_mesh

OPERATIONS = {operation.name: operation for operation in (*SPARSE_OPERATIONS, *MESH_OPERATIONS)}
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """A package's row of an operation, and what it imports."""

    op: str
    package: str
    row: Callable[[], Backend]
    module: str
    member: str

    def table(self, **changes) -> Backends:
        """With the row chosen, on every device, as it is made now."""
        row = replace(self.row(), devices=(), **changes)
        operation = OPERATIONS[self.op]
        if self.package == "flex_gemm":  # in the precision of GPUs, which it is for
            operation = replace(operation, example=lambda device: in_half(OPERATIONS[self.op].example(device)))
        if operation.reference is None:  # another that runs everywhere and needs no kernels
            rows = Backend("other", lambda mesh, *more: mesh, check=lambda function, device: ""), row
        else:
            rows = tuple(row if each.name == row.name else each for each in operation.rows)
        return Backends([replace(operation, rows=rows)], {self.op: row.name})


def has(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def in_half(problem: tuple) -> tuple:
    return tuple(each.half() if isinstance(each, torch.Tensor) else each for each in problem)


CASES = (
    Case(SUBMANIFOLD_CONV, "flex_gemm", flex_gemm.conv_row, "flex_gemm.ops.spconv", "sparse_submanifold_conv3d"),
    Case(CHILD_CONV, "flex_gemm", flex_gemm.child_conv_row, "flex_gemm.ops.spconv", "sparse_submanifold_conv3d"),
    Case(SIMPLIFY, "cumesh", lambda: cumesh.row(collapse), "cumesh", "CuMesh"),
    Case(RASTER, "nvdiffrast", lambda: nvdiffrast.row(examples.check_raster), "nvdiffrast.torch", "rasterize"),
    Case(MESH_TO_DUAL_GRID, "o_voxel", o_voxel.from_mesh_row, "o_voxel.convert", "mesh_to_flexible_dual_grid"),
    Case(DUAL_GRID_TO_MESH, "o_voxel", o_voxel.to_mesh_row, "o_voxel.convert", "flexible_dual_grid_to_mesh"),
)
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.op)


@pytest.fixture
def install(monkeypatch):
    """Puts modules in the place of a package: install(package, {module: members})."""

    def put(package: str, modules: dict[str, dict]) -> None:
        known = foreign.version
        monkeypatch.setattr(foreign, "version", lambda name: "1.0" if name == package else known(name))
        for name, members in modules.items():
            for above in range(name.count(".")):
                parent = ".".join(name.split(".")[: above + 1])
                monkeypatch.setitem(sys.modules, parent, module(parent, __path__=[]))
            monkeypatch.setitem(sys.modules, name, module(name, **members))

    return put


@pytest.fixture
def installed(install):
    """Stand-ins that do what the packages do."""
    for package, modules in PACKAGES.items():
        install(package, modules)


def ball(rows: int = 12) -> Mesh:
    return examples.ball(CPU, rows)


# --- the table


@every_case
def test_a_package_passes_the_trial_of_its_row(installed, case, caplog):
    backends = case.table()
    assert backends.pick(case.op) and backends.used == {case.op: case.package}
    assert not caplog.records


@every_case
def test_what_is_not_installed_says_so(monkeypatch, case):
    def missing(package):
        raise PackageNotFoundError(package)

    monkeypatch.setattr(foreign, "version", missing)
    with pytest.raises(BackendError, match=f"{case.package} is not installed"):
        case.table().pick(case.op)


@every_case
def test_our_rows_come_first(case):
    names = [row.name for row in OPERATIONS[case.op].rows]
    ours = [name for name in names if name not in PACKAGES]
    if case.package == "flex_gemm":  # before plain torch, which is several times slower
        assert names == ["triton", case.package, "torch"]
    else:
        assert names == [*ours, case.package]


MISFITS = {  # kind: (what becomes of the module, what the log says of it)
    "another build": (None, "undefined symbol"),
    "a placeholder of that name": ({}, "cannot import name"),
    "another interface": ("refuses", "TypeError: got an unexpected"),
    "a kernel that cannot run": ("fails", "no kernel image"),
    "kernels that do not compile": ("uncompiled", "out of resource"),
    "wrong numbers": ("wrong", ""),
}


def misfit(case: Case, kind: str) -> dict[str, dict]:
    """The modules of a package that does not fit."""
    modules = {name: dict(members) for name, members in PACKAGES[case.package].items()}
    right = modules[case.module][case.member]
    what, _ = MISFITS[kind]
    if what is None:
        modules[case.module] = {"__getattr__": _does_not_load}
    elif not what:
        modules[case.module] = {}
    elif what == "wrong":
        modules[case.module][case.member] = _wrong(right)
    else:
        error = {
            "refuses": TypeError("got an unexpected keyword argument"),
            "fails": RuntimeError("no kernel image"),
            "uncompiled": (TritonError if case.package == "flex_gemm" else RuntimeError)("out of resource"),
        }[what]

        def fails(*arguments, **more):
            raise error

        modules[case.module][case.member] = fails
    return modules


def _does_not_load(name: str):
    raise ImportError("undefined symbol: _ZN3c10")


def _wrong(right):
    if isinstance(right, type):  # CuMesh

        class Wrong(right):
            def read(self):
                vertices, faces = super().read()
                return vertices * 0.9, faces[1:]

        return Wrong

    def wrong(*arguments, **more):
        found = right(*arguments, **more)
        if isinstance(found, tuple):
            return (found[0] * 1.05 if found[0].is_floating_point() else found[0] + 1, *found[1:])
        return found * 1.05

    return wrong


@every_case
@pytest.mark.parametrize("kind", MISFITS)
def test_what_does_not_fit_leaves_the_work_to_others_with_one_line(install, case, kind, caplog):
    install(case.package, misfit(case, kind))
    backends = case.table()
    with caplog.at_level(logging.WARNING, "pipeline.backends"):
        for _ in range(2):
            assert backends.pick(case.op)
    assert len(caplog.records) == 1, caplog.text
    assert f"Backend {case.package} of {case.op} is disabled on cpu" in caplog.text
    assert MISFITS[kind][1] in caplog.text
    assert backends.used[case.op] != case.package  # what the report and the file tell
    with pytest.raises(BackendError, match=f"'{case.package}' of '{case.op}' cannot be used"):
        backends.pick(case.op, name=case.package)


def test_a_package_for_another_device_is_no_error_there(installed, caplog):
    """Charts are grouped on the CPU, whichever raster is chosen for the GPU."""
    operation = OPERATIONS[RASTER]
    rows = tuple(CASES[3].row() if row.name == "nvdiffrast" else row for row in operation.rows)
    backends = Backends([replace(operation, rows=rows)], {RASTER: "nvdiffrast"})
    assert backends.pick(RASTER, "cpu") and backends.used[RASTER] != "nvdiffrast" and not caplog.records
    assert backends.offers(RASTER, "cpu") and backends.reason(RASTER, "cpu") == ""


def test_the_report_tells_what_ran(installed):
    backends = CASES[2].table()
    whole = ball()
    clean = next(operation for operation in MESH_OPERATIONS if operation.name == "clean")
    backends.operations = {**backends.operations, "clean": clean}
    runtime = Runtime("cpu", backends)
    mesh, _ = simplify_mesh(runtime, whole, 200, None)
    assert len(mesh.faces) <= 200 and record.circumstances(runtime, 0.0)["backends"]["simplify"] == "cumesh"


# --- what each hands to its package


@pytest.mark.parametrize("samples", [1, 3])
def test_convolutions_share_what_the_package_knows_of_a_set(installed, rng, samples):
    coords = [
        torch.cat([torch.full((90, 1), b), torch.randperm(512, generator=rng)[:90, None]], 1) for b in range(samples)
    ]
    b, cell = torch.cat(coords).unbind(1)
    voxels = Voxels(torch.stack([b, cell // 64, cell // 8 % 8, cell % 8], 1))
    feats = torch.randn(len(voxels), 12, generator=rng).half()
    weight, bias = (torch.randn(*shape, generator=rng).half() for shape in ((20, 3, 3, 3, 12), (20,)))
    conv = flex_gemm.conv_row().run
    for given in (bias, None):
        found = conv(feats, voxels, weight, given)
        torch.testing.assert_close(found, reference.submanifold_conv(feats, voxels, weight, given), atol=0.05, rtol=0)
        assert found.dtype == torch.float16
    assert voxels.kept("flex_gemm", None).found.coords is voxels.coords


def test_full_precision_gradients_and_nothing_are_left_to_torch(installed, monkeypatch, rng):
    def never(*arguments):
        raise AssertionError("called")

    monkeypatch.setattr(sys.modules["flex_gemm.ops.spconv"], "sparse_submanifold_conv3d", never)
    conv = flex_gemm.conv_row().run
    voxels = Voxels.single(torch.tensor([[0, 0, 0], [0, 0, 1]]))
    weight = torch.randn(4, 3, 3, 3, 4, generator=rng, requires_grad=True)
    with torch.no_grad():
        assert conv(torch.ones(2, 4), voxels, weight, None).shape == (2, 4)
        assert conv(torch.ones(0, 4).half(), Voxels.single(torch.zeros(0, 3)), weight.half(), None).shape == (0, 4)
    conv(torch.ones(2, 4), voxels, weight, None).sum().backward()
    assert weight.grad is not None


def test_simplifying_keeps_size_and_place(installed):
    mesh = Mesh(ball().vertices * 30 + torch.tensor([100.0, 0.0, -7.0]), ball().faces)
    simplify = cumesh.row(collapse).run
    ticks = []
    found = simplify(mesh, 200, lambda: ticks.append(1))
    assert 150 <= len(found.faces) <= 200 and len(ticks) > 3 and found.faces.dtype == torch.int32
    assert (found.vertices - torch.tensor([100.0, 0.0, -7.0])).norm(dim=1).sub(30).abs().max() < 3
    assert simplify(mesh, len(mesh.faces), lambda: None) is mesh
    with pytest.raises(SettingsError, match="at least 1"):
        simplify(mesh, 0, lambda: None)


@needs_warp
def test_simplifying_within_a_bound(installed):
    mesh = ball(24)
    found = cumesh.row(collapse).run(mesh, 4, lambda: None, ErrorBound(0.02, farthest_by_tree))
    assert 100 < len(found.faces) < len(mesh.faces) / 2 and deviation(mesh, found, farthest_by_tree) <= 0.02


def test_simplifying_ends_where_nothing_more_can_go(installed, monkeypatch):
    steps = []

    class Stuck(PACKAGES["cumesh"]["cumesh"]["CuMesh"]):
        def __init__(self):
            super().__init__()
            self.cu_mesh.simplify_step = lambda *a: (
                steps.append(a) or (len(self.cu_mesh.vertices), len(self.cu_mesh.faces))
            )

    monkeypatch.setattr(sys.modules["cumesh"], "CuMesh", Stuck)
    found = cumesh.row(collapse).run(ball(), 100, lambda: None)
    assert len(found.faces) == len(ball().faces) and len(steps) < 20


def test_a_run_can_be_stopped_while_it_simplifies(installed):
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cumesh.row(collapse).run(ball(), 100, stop)


def test_the_raster_keeps_its_rules(installed):
    """The last of overlapping faces wins, what is not finite covers nothing, nothing is an empty texture."""
    raster = CASES[3].row().run
    uvs = torch.tensor([[0.1, 0.1], [0.9, 0.1], [0.5, 0.9], [torch.nan, 0.2], [0.2, torch.inf], [0.3, 0.3]])
    faces = torch.tensor([[0, 1, 2], [3, 4, 5], [2, 1, 0], [0, 1, 3]])
    face, weights = raster(uvs, faces, 32)
    right, right_weights = rasterise(uvs, faces, 32)
    inside = (right >= 0) & (face >= 0)
    assert set(face.tolist()) == {-1, 2} and inside.sum() > 0.95 * (right >= 0).sum()
    torch.testing.assert_close(weights[inside], right_weights[inside], atol=1e-5, rtol=0)
    assert bool((weights[face < 0] == 0).all()) and face.dtype == right.dtype
    nothing = raster(uvs, faces[:0], 8)
    assert bool((nothing[0] == -1).all()) and nothing[1].shape == (64, 3)
    with pytest.raises(SettingsError, match="texels cannot be made"):
        raster(uvs, faces, 0)


def test_dual_grids_of_a_package_are_ours(installed, rng):
    mesh = ball()
    problem = mesh.vertices * 0.4, mesh.faces[:300], 24, 0.5, 0.3, 0.02
    found, right = o_voxel.from_mesh_row().run(*problem), dual_grid_tensors(*problem)
    assert torch.equal(found[0], right[0]) and torch.equal(found[2], right[2])
    assert [each.dtype for each in found] == [torch.int32, torch.float32, torch.bool]
    assert (found[1] - right[1]).abs().max() < 1e-5
    assert [len(each) for each in o_voxel.from_mesh_row().run(problem[0], problem[1][:0], 24)] == [0, 0, 0]
    grid = [each.clone() if isinstance(each, torch.Tensor) else each for each in examples.dual_grid_of_a_ball(CPU)]
    for resolution, split in ((16, grid[4]), (16, None), (4096, None)):  # 4096^3 does not fit 32 bits
        for one, other in zip(*(run(*grid[:3], resolution, split) for run in _both(o_voxel.to_mesh_row()))):
            assert torch.equal(one, other) and one.dtype == other.dtype


def _both(row: Backend) -> tuple[Callable, Callable]:
    return row.run, OPERATIONS[DUAL_GRID_TO_MESH].reference


# --- nodes


@pytest.fixture
def host(tmp_path):
    """A ComfyUI of stubs."""
    before = host_modules.get_output_directory()
    yield Host(tmp_path)
    host_modules.use_folder(Path(before).parent)


@needs_warp
def test_nodes_hand_the_choice_of_a_package_on(host):
    raw = ball()
    mesh = sys.modules[f"{PACK}.pipeline.stages"].Mesh(raw.vertices * 0.4, raw.faces)
    with pytest.raises(Exception, match="cumesh is not installed") if not has("cumesh") else nullcontext():
        host.call("T2ProcessMesh", mesh=mesh, faces=100, shells="surface", simplifier="cumesh")
    assert len(host.call("T2ProcessMesh", mesh=mesh, faces=100, shells="surface")[0].faces) <= 100
    tables = host.part("run").tables()
    assert host.part("run").default_backends({"simplify": "cumesh"}) is tables[("simplify", "cumesh"),]
    (models,) = host.call("T2LoadModels", convolution="flex_gemm", dual_grid="o_voxel")
    chosen = {"submanifold_conv": "flex_gemm", "child_conv": "flex_gemm", "attention": "torch"}
    grids = {"mesh_to_dual_grid": "o_voxel", "dual_grid_to_mesh": "o_voxel"}
    assert models.backends.choices == {**chosen, **grids}


def test_the_texture_bakes_with_the_raster_that_was_chosen(host, monkeypatch):
    given, bake = {}, sys.modules[f"{PACK}.nodes.bake"]
    monkeypatch.setattr(bake, "run", lambda *values, **settings: given.update(settings))
    monkeypatch.setattr(bake, "maps", lambda textured: ())
    for raster, choices in (("nvdiffrast", {"raster": "nvdiffrast"}), ("auto", {})):
        host.call("T2BakeTexture", mesh=None, voxels=None, raster=raster)
        assert given["choices"] == choices


# --- the packages themselves, on a GPU


REAL = [pytest.param(case, id=case.op) for case in CASES if has(case.package) and torch.cuda.is_available()]


@pytest.mark.skipif(not REAL, reason="none of the packages is installed on a machine with a GPU")
@pytest.mark.parametrize("case", REAL or CASES[:1])
def test_the_real_package_passes(case, caplog):
    operation = OPERATIONS[case.op]
    row = next(row for row in operation.rows if row.name == case.package)
    device = torch.device(row.devices[0])
    assert Backends([operation]).reason(case.op, device, case.package) == ""
