"""State files: a run that is opened again goes on as if it had not been interrupted; hostile files are refused."""

import json
import struct
from dataclasses import replace

import pytest
import torch
from rocket_run import OPTIONS
from safetensors import safe_open
from safetensors.torch import save_file

from pipeline import stages
from pipeline.errors import SettingsError, StateError
from pipeline.sparse import SparseTensor, Voxels, subdivide
from pipeline.stages import Condition, Latent, Mesh, Origin, PBRVoxels, State, Structure, Subdivisions
from pipeline.views import NAMED_MIXING, View

pytestmark = pytest.mark.usefixtures("one_thread")

MIXING = replace(NAMED_MIXING, weights=(2.0, 1.0))
ORIGIN = Origin("shape_slat_decoder", "abc", "small", "def", "seed 3")


def stream(seed):
    return torch.Generator().manual_seed(seed).get_state()


@pytest.fixture(scope="module")
def whole() -> State:
    """A state with every kind of value, on few voxels in an order of their own."""
    random = torch.Generator().manual_seed(0)
    coords = torch.tensor([[3, 1, 2], [0, 0, 1], [2, 2, 2]])
    latent = SparseTensor(Voxels.single(coords), torch.randn(3, 8, generator=random))
    occupied = torch.rand(3, 8, generator=random) < 0.5
    first = subdivide(latent.voxels, occupied)
    second = subdivide(first.children, torch.rand(len(first.children), 8, generator=random) < 0.5)
    fine = second.children
    mesh = Mesh(torch.rand(4, 3, generator=random), torch.tensor([[0, 1, 2], [0, 2, 3]], dtype=torch.int32))
    tokens = {1: torch.randn(2, 5, 6, generator=random), 2: torch.randn(2, 9, 6, generator=random)}
    return State(
        condition=Condition(tokens, ORIGIN, (View(0), View(90, 10)), (torch.rand(3, 4), torch.rand(2, 2)), MIXING),
        structure=Structure(torch.rand(4, 4, 4, generator=random) < 0.3, stream(1), ORIGIN),
        shape=Latent(latent, 16, stream(2), ORIGIN),
        texture=Latent(latent.replace(torch.randn(3, 4, generator=random)), 16, stream(3), ORIGIN),
        subdivisions=Subdivisions((first, second), ORIGIN),
        mesh=mesh.replace(resolution=16, origin=ORIGIN),
        voxels=PBRVoxels(SparseTensor(fine, torch.rand(len(fine), 6, generator=random)), 16, ORIGIN),
        settings={"pipeline_type": "512", "seed": 3},
    )


def same(one, other):
    assert one.origin == other.origin
    if isinstance(one, Condition):
        assert one.tokens.keys() == other.tokens.keys()
        assert all(torch.equal(one.tokens[scale], other.tokens[scale]) for scale in one.tokens)
        assert one.views == other.views and one.mixing == other.mixing
        assert all(torch.equal(*pair) for pair in zip(one.masks, other.masks, strict=True))
    elif isinstance(one, Structure):
        assert torch.equal(one.occupied, other.occupied) and torch.equal(one.random, other.random)
    elif isinstance(one, Subdivisions):
        for a, b in zip(one, other, strict=True):
            assert torch.equal(a.slots, b.slots)
            assert torch.equal(a.parents.coords, b.parents.coords) and torch.equal(a.children.coords, b.children.coords)
    elif isinstance(one, Mesh):
        assert torch.equal(one.vertices, other.vertices) and torch.equal(one.faces, other.faces)
    else:
        assert torch.equal(one.sparse.voxels.coords, other.sparse.voxels.coords)
        assert torch.equal(one.sparse.feats, other.sparse.feats)
    for name in ("resolution", "random"):
        assert torch.equal(*(torch.as_tensor(getattr(each, name, 0)) for each in (one, other)))


def test_every_value_comes_back_to_the_bit(whole, tmp_path):
    stages.write_state(tmp_path / "a.safetensors", whole)
    opened = stages.open_state(tmp_path / "a.safetensors")
    assert opened.held == whole.held and opened.settings == whole.settings and stages.pipeline_type_of(opened) == "512"
    for name in whole.held:
        same(getattr(whole, name), getattr(opened, name))
    stages.write_state(tmp_path / "b.safetensors", opened)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_keys_of_files_stay_when_names_in_code_change(whole, tmp_path):
    stages.write_state(tmp_path / "a.safetensors", State(shape=whole.shape))
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        written = " ".join(file.metadata().values())
    assert '"told": "seed 3"' in written and "description" not in written


def test_values_alone_and_what_is_missing(whole, tmp_path):
    path = tmp_path / "a.safetensors"
    stages.write_state(path, State(texture=whole.texture))  # whose coordinates no shape holds
    same(stages.open_state(path).texture, whole.texture)
    assert stages.held_in(path) == ("texture",)
    with pytest.raises(StateError, match="holds no mesh, voxels; it has texture"):
        stages.open_state(path, ["mesh", "voxels"])
    with pytest.raises(SettingsError, match="nothing to save"):
        stages.write_state(path, State())
    with pytest.raises(SettingsError, match="A state holds no meshes"):
        stages.open_state(path, ["meshes"])


def test_only_what_is_asked_for_is_read(whole, tmp_path, monkeypatch):
    from pipeline.export import state as files

    path, read = tmp_path / "a.safetensors", []
    stages.write_state(path, whole)
    original = files.StateFile.read
    monkeypatch.setattr(
        files.StateFile, "read", lambda self, name, *more: read.append(name) or original(self, name, *more)
    )
    stages.open_state(path, ["mesh"])
    assert read == ["vertices", "faces"]


@pytest.fixture
def rewritten(whole, tmp_path):
    """Writes the whole state with some tensors and settings replaced."""
    stages.write_state(tmp_path / "good.safetensors", whole)

    def write(tensors=None, settings=None):
        with safe_open(tmp_path / "good.safetensors", "pt") as file:
            own, metadata = {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata())
        for key, value in (tensors or {}).items():
            own[key] = value(own[key]).contiguous() if callable(value) else value
        metadata |= {key: json.dumps(value) for key, value in (settings or {}).items()}
        save_file(own, tmp_path / "bad.safetensors", metadata)
        return tmp_path / "bad.safetensors"

    return write


def changed(row, column, value):
    def change(tensor):
        tensor = tensor.clone()
        tensor[row, column] = value
        return tensor

    return change


@pytest.mark.parametrize(
    "tensors, said",
    [
        ({"voxel.coords": changed(0, 1, 16)}, "expected sample 0 and a grid of 16"),
        ({"voxel.coords": changed(0, 1, -1)}, "expected sample 0 and a grid of 16"),
        ({"voxel.coords": changed(0, 0, 1)}, "expected sample 0"),
        ({"shape_slat.coords": lambda t: t[[0, 1, 1]]}, "1 of its 3 voxels twice"),
        ({"shape_slat.feats": changed(0, 0, float("nan"))}, "NaN"),
        ({"shape_slat.feats": lambda t: t[:2]}, r"is \[2, 8\]; expected \[3, N\] float32"),
        ({"vertices": changed(0, 0, float("inf"))}, "infinity"),
        ({"vertices": lambda t: t.double()}, "float64; expected"),
        ({"faces": changed(0, 0, 4)}, "faces name vertices 0 to 4 of 4"),
        ({"faces": changed(0, 0, -1)}, "faces name vertices -1"),
        ({"subdivision.0.slots": lambda t: t + 1000}, "subdivision 0 names children"),
        ({"subdivision.1.slots": lambda t: t[[0, 0]]}, "names a child twice"),
        ({"voxel.attrs": lambda t: t[:, :5]}, r"expected \[\d+, 6\]"),
    ],
)
def test_hostile_tensors_are_refused(rewritten, tensors, said):
    with pytest.raises(StateError, match=said):
        stages.open_state(rewritten(tensors))


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"state_version": 2}, "version 2; this release reads versions up to 1"),
        ({"state_version": -1}, "version -1"),
        ({"state_version": "1"}, "the version is .1.; expected a whole number"),
        ({"state_version": None, "resolution": 16}, "the version is null; expected a whole number"),
        ({"state_version": True}, "the version is true"),
        ({"state_version": 1.0}, r"the version is 1\.0"),
        ({"state_version": [1]}, r"the version is \[1\]"),
        ({"values": None, "resolution": 16}, "does not say what it holds"),
        ({"values": {"mesh": {"resolution": 1 << 40}}}, "the resolution of the mesh"),
        ({"values": {"mesh": {"resolution": True}}}, "the resolution of the mesh"),
        ({"values": {"mesh": {"resolution": 16, "origin": {"role": 3}}}}, "an origin"),
        ({"values": {"structure": {"resolution": 100_000}}}, "whole number in 1-512"),
        ({"values": {"shape": {"resolution": 16, "random": "AAAA"}}}, "random stream"),
        ({"values": {"shape": {"resolution": 16, "random": "\u00e9"}}}, "random stream"),
        ({"values": {"condition": {"scales": [10**30]}}}, "image scales"),
        (
            {"values": {"condition": {"scales": [1], "views": [{"azimuth": "x", "elevation": 0}]}}},
            "views cannot be used",
        ),
        ({"values": {"condition": {"scales": [1], "masks": 10**9}}}, "the number of masks"),
        ({"values": [1]}, "does not say what it holds"),
        ({"backends": 99}, "'backends' is 99; expected an object"),
        ({"backends": {"attention": 7}}, "'backends'.attention is 7; expected a text"),
        ({"pipeline_type": "2048"}, "'pipeline_type' is '2048'; expected one of '512'"),
        ({"seed": "seven"}, "the setting 'seed' is 'seven'; expected a whole number"),
        ({"seed": -1}, "'seed' is -1; expected a whole number"),
        ({"resolution": 0}, "'resolution' is 0"),
        ({"max_num_tokens": 1.5}, "'max_num_tokens' is 1.5"),
        ({"speed": "warp"}, "'speed' is 'warp'; expected one of 'exact'"),
        ({"checkpoint": ["small"]}, "'checkpoint' is a list of 1 item"),
        ({"version": None}, "'version' is None"),
        ({"plan": {"tiles": "yes"}}, "'plan'.tiles is 'yes'; expected true or false"),
        ({"samplers": {"shape": {"steps": 0}}}, "'samplers'.shape.steps is 0"),
        ({"samplers": {"shape": {"guidance_interval": [0.9, 0.2]}}}, "'samplers'.shape cannot be: Guidance cannot"),
        ({"samplers": {"shape": {"solver": "foo"}}}, "solver"),
        ({"views": [3]}, r"'views'\[0\] is 3; expected a text"),
        ({"view_mixing": {"carve": 1}}, "'view_mixing' lacks structure"),
        ({"warnings": "none"}, "'warnings' is 'none'; expected a list"),
        ({"raw_faces": -4}, "'raw_faces' is -4"),
        # what no file that is made of the state could hold
        ({"seed": float("nan")}, "'seed' cannot be read"),
        ({"note": [float("inf")]}, "'note' cannot be read"),
        ({"note": "\ud800"}, "'note' cannot be read"),
        ({"backends": ["a"]}, "'backends' is"),
    ],
)
def test_hostile_settings_are_refused(rewritten, settings, said):
    with pytest.raises(StateError, match=said):
        stages.open_state(rewritten(settings=settings))


@pytest.mark.parametrize("cut", [0, 4, 200, -100])
def test_what_is_no_state_is_said_to_be_none(rewritten, tmp_path, cut):
    data, path = rewritten().read_bytes(), tmp_path / "cut.safetensors"
    path.write_bytes(data[:cut])
    with pytest.raises(StateError, match="cannot be read as a state file"):
        stages.open_state(path)
    path.write_bytes(struct.pack("<Q", 1 << 60) + data[8:])
    with pytest.raises(StateError, match="cannot be read as a state file"):
        stages.open_state(path)
    with pytest.raises(StateError, match="does not exist"):
        stages.open_state(tmp_path / "none.safetensors")
    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(StateError, match="names no version, so it is no state file .it has weight"):
        stages.open_state(path)
    with pytest.raises(StateError, match="is a folder"):
        stages.open_state(tmp_path)


def test_finish_gives_the_bytes_of_the_one_go_run(run, rocket, rocket_state, tmp_path):
    state, whole, again = rocket_state, rocket / "rocket.glb", tmp_path / "rocket.glb"  # whose name stands in the file
    code, out, err = run("finish", state, "--output", again, *OPTIONS)
    assert code == 0, err
    assert again.read_bytes() == whole.read_bytes()
    assert "faces" in out and str(again) in out
    report = tmp_path / "x.json"
    other = (
        "--faces",
        500,
        "--shells",
        "surface",
        "--geometry-only",
        "--output",
        again,
        "--device",
        "cpu",
        "--report",
        report,
    )
    code, _, err = run("finish", state, *other)
    assert code == 0, err
    facts = json.loads(report.read_text())
    assert facts["faces"] <= 500 and facts["seed"] == 42 and facts["checkpoint"] == "small"
    code, _, err = run("finish", state, "--output", state)
    assert code == 1 and "must end in one of .glb" in err
    code, _, err = run("finish", whole, "--output", again)
    assert code == 1 and "cannot be read as a state file" in err


def test_a_state_of_an_older_release_is_finished(run, whole, tmp_path):
    """It held tensors and settings, but neither a version nor facts of each value."""
    path, tensors = tmp_path / "old.safetensors", {"vertices": whole.mesh.vertices, "faces": whole.mesh.faces}
    save_file(tensors, path, {"resolution": "16", "seed": "3"})
    same(stages.open_state(path).mesh.replace(origin=ORIGIN), whole.mesh)
