"""Nodes of meshes: drawn, exported, saved, handed to ComfyUI and back. With a stub of ComfyUI."""

import sys

import numpy as np
import pytest
import torch
import trimesh
from comfy_server import graph
from conftest import coarse_fits
from host_stub import PACK
from meshes import needs_warp

from pipeline.export import WRITERS
from pipeline.stages import inspect_file
from pipeline.warp import unavailable_reason


@needs_warp
@pytest.mark.parametrize("mode", ["material", "shaded", "normals", "wireframe"])
def test_a_mesh_is_drawn_in_every_mode(host, made, mode):
    image, mask, *passes, cameras = host.call("T2RenderMesh", mesh=made["textured"], mode=mode, size=64)
    assert image.shape == (1, 64, 64, 3) and 0.02 < mask.mean() < 0.9 and image.std() > 0.02
    assert all("depth_and_normals" in each.message for each in passes) and len(cameras) == 1


@needs_warp
def test_a_mesh_is_drawn_from_named_views_with_depth_and_normals(host, made):
    given = {"mesh": made["textured"], "views": "front; left; 45,20", "depth_and_normals": True, "size": 64}
    image, mask, depth, normals, cameras = host.call("T2RenderMesh", **given)
    assert image.shape == depth.shape == normals.shape == (3, 64, 64, 3) and mask.shape == (3, 64, 64)
    assert [(camera.azimuth, camera.elevation) for camera in cameras] == [(0, 0), (90, 0), (45, 20)]
    assert (depth[mask == 0] == 0).all() and 0.05 < depth[mask == 1].min() < depth[mask == 1].max() < 0.95
    assert torch.equal(depth[..., 0], depth[..., 2])
    facing = torch.tensor([0.5, 0.5, 1.0])
    assert (normals[mask == 0] == facing).all() and normals[mask == 1][:, 2].min() > 0.45
    (lone, *_) = host.call("T2RenderMesh", mesh=made["textured"], azimuth=90.0, elevation=0.0, size=64)
    assert torch.equal(lone[0], image[1])
    with pytest.raises(Exception, match="A view is front"):
        host.call("T2RenderMesh", **(given | {"views": "front; behind"}))


@needs_warp
def test_a_picture_lights_the_mesh(host, made):
    sky = torch.zeros(1, 32, 64, 3)
    sky[:, :, 8:24] = 1.0  # on the camera's left
    given = {"mesh": made["mesh"], "mode": "shaded", "size": 64, "environment": sky}
    (left, mask, *_), (right, *_) = (host.call("T2RenderMesh", **given, environment_rotation=x) for x in (0.0, 180.0))
    half = (mask[0] == 1) & (torch.arange(64) < 32)
    assert left[0][half].mean() > right[0][half].mean() + 0.05
    (bright, *_) = host.call("T2RenderMesh", **given, environment_strength=2.0)
    assert bright.mean() > 1.1 * left.mean()
    with pytest.raises(Exception, match="twice as wide"):
        host.call("T2RenderMesh", **(given | {"environment": sky[:, :, :32]}))
    with pytest.raises(Exception, match="this batch holds 2"):
        host.call("T2RenderMesh", **(given | {"environment": sky.repeat(2, 1, 1, 1)}))


def test_vertex_colours_take_the_place_of_a_texture(host, made):
    (mesh,) = host.call("T2ColorVertices", mesh=made["mesh"], voxels=made["voxels"], original=made["raw"])
    assert mesh.attrs.shape == (len(mesh.vertices), 6) and mesh.attrs.std() > 0.01 and made["mesh"].attrs is None
    (core,) = host.call("T2MeshToCore", mesh=mesh)
    assert core.vertex_colors.shape == (1, len(mesh.vertices), 3) and core.texture is None


@pytest.mark.parametrize("suffix", [suffix for suffix in WRITERS if not WRITERS[suffix].unavailable_reason()])
def test_a_mesh_is_exported_in_every_format(host, made, suffix):
    """The node's file, its size in millimetres, and what other nodes are told."""
    name = suffix.removeprefix(".")
    for kind in ("mesh", "textured"):
        file, relative = host.call(
            "T2ExportMesh", mesh=made[kind], filename_prefix=f"formats/{name}_{kind}", format=name, size="height=80mm"
        )
        path = host.base / "output" / relative
        assert path.suffix == suffix and file.get_source() == str(path) and file.format == name
        assert inspect_file(path).as_dict()["size_mm"][2] == pytest.approx(80, abs=0.01)


def test_the_mesh_report_is_that_of_the_mesh(host, made):
    for kind in ("mesh", "textured"):
        (report,) = host.call("T2MeshReport", mesh=made[kind], size="80mm", density=2.0)
        assert "80 " in report and " mm (Z up)" in report and "overhangs" in report
        assert f"{len(made['mesh'].faces):,} faces" in report


def test_a_state_is_saved_and_opened(host, made):
    """All that was made, and a part of it; another graph goes on with it as with the values themselves."""
    given = {"condition": made["condition"], "structure": made["structure"], "shape": made["shape"]}
    given |= {"texture": made["latent"], "subdivision": made["subdivision"], "mesh": made["raw"]}
    (path,) = host.call("T2SaveState", filename_prefix="states/all", voxels=made["voxels"], **given)
    assert path == "states/all_00001_.safetensors" and (host.base / "output" / path).exists()
    opened = host.call("T2OpenState", path=path)
    assert opened[2].pipeline_type == made["shape"].pipeline_type
    (again,) = host.call("T2DecodeTexture", models=made["models"], texture=opened[3], subdivision=opened[4])
    assert torch.equal(again.sparse.feats, made["voxels"].sparse.feats)
    assert torch.equal(opened[6].sparse.feats, made["voxels"].sparse.feats)
    assert torch.equal(opened[5].vertices, made["raw"].vertices) and opened[5].origin == made["raw"].origin
    (path,) = host.call("T2SaveState", filename_prefix="states/mesh", mesh=made["raw"])
    opened = host.call("T2OpenState", path=path)
    assert "holds no voxels; it has mesh" in opened[6].message and torch.equal(opened[5].faces, made["raw"].faces)
    errors = sys.modules[f"{PACK}.pipeline.errors"]
    for bad, said in (
        ("../x.safetensors", "There is no"),
        ("x.ckpt", "ends in .safetensors"),
        ("none.safetensors", "There is no"),
    ):
        with pytest.raises(errors.StateError, match=said):
            host.call("T2OpenState", path=bad)


def test_a_start_takes_the_place_of_noise(host, made):
    """At strength 0 the shape and the texture are the start's; above it they leave it."""
    common = {"models": made["models"], "condition": made["condition"]}
    (kept,) = host.call("T2SampleShape", **common, start=made["shape"], strength=0.0)
    assert torch.equal(kept.latent.sparse.feats, made["shape"].latent.sparse.feats)
    sampler = host.call("T2SamplerSettings", steps=2, guidance=1.0)[0]
    (moved,) = host.call("T2SampleShape", **common, sampler=sampler, start=made["shape"], strength=0.5)
    assert torch.equal(moved.latent.sparse.voxels.coords, made["shape"].latent.sparse.voxels.coords)
    assert not torch.equal(moved.latent.sparse.feats, made["shape"].latent.sparse.feats)
    (texture,) = host.call("T2SampleTexture", **common, shape=made["shape"], start=made["latent"], strength=0.0)
    torch.testing.assert_close(texture.sparse.feats, made["latent"].sparse.feats, atol=1e-5, rtol=1e-5)
    errors = sys.modules[f"{PACK}.pipeline.errors"]
    with pytest.raises(errors.SettingsError, match="needs a structure, or a start"):
        host.call("T2SampleShape", **common)


def test_a_mesh_goes_to_comfyui_and_back(host, made):
    (core,) = host.call("T2MeshToCore", mesh=made["mesh"])
    assert core.vertices.shape[0] == 1 and core.faces.dtype == torch.int64
    assert torch.equal(core.vertices[0, :, 1], made["mesh"].vertices[:, 2])  # Y up
    (back,) = host.call("T2MeshFromCore", core_mesh=core)
    assert torch.equal(back.vertices, made["mesh"].vertices) and torch.equal(back.faces, made["mesh"].faces.int())


def test_uvs_and_textures_go_along(host, made):
    (core,) = host.call("T2MeshToCore", mesh=made["textured"])
    level = made["textured"].levels[0]
    assert torch.equal(core.uvs[0], level.uvs) and core.texture.shape == (1, 256, 256, 3)
    assert core.metallic_roughness.shape == (1, 256, 256, 3) and core.normals.shape == core.vertices.shape
    assert unavailable_reason() or (core.tangents.shape == (1, len(level.uvs), 4) and core.occlusion_in_mr)
    (mesh,) = host.call("T2MeshFromCore", core_mesh=core)
    textured = host.call("T2BakeTexture", mesh=mesh, voxels=made["voxels"], texture_size=256, keep_uvs=True)[0]
    assert torch.equal(textured.levels[0].uvs, level.uvs)


def test_an_older_comfyui_gets_what_it_knows(host, made, monkeypatch):
    types = sys.modules[f"{PACK}.nodes.convert"]._core_type
    monkeypatch.setitem(types.__globals__, "_core_type", lambda name: Old)
    (mesh,) = host.call("T2MeshToCore", mesh=made["textured"])
    assert mesh.given[0].shape[0] == 1 and len(mesh.given) == 2
    (voxels,) = host.call("T2VoxelsToCore", voxels=made["voxels"])
    assert voxels.given[0].ndim == 4 and voxels.given[0].sum() > 100


class Old:
    """MESH of two tensors and VOXEL of one, as before 2026."""

    def __init__(self, *given):
        if len(given) == 3:
            raise TypeError
        self.given = given


def test_voxels_go_to_comfyui_both_as_rows_and_as_a_grid(host, made):
    (voxel,) = host.call("T2VoxelsToCore", voxels=made["voxels"])
    count = len(made["voxels"].sparse.feats)
    assert voxel.data.shape == (count, 4) and voxel.voxel_colors.shape == (count, 6)
    (grid,) = list(voxel.data)
    assert grid.ndim == 3 and 0 < grid.sum() <= count and set(grid.unique().tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("vertices", "faces", "message"),
    [
        (torch.zeros(2, 4, 3), torch.zeros(2, 1, 3, dtype=torch.int64), "holds 2 meshes"),
        (torch.zeros(1, 4, 3), torch.zeros(1, 0, 3, dtype=torch.int64), "has no faces"),
        (torch.zeros(1, 4, 3), torch.full((1, 1, 3), 4), "name vertices 4 to 4; it has 4"),
    ],
)
def test_a_mesh_that_is_none_is_refused(host, vertices, faces, message):
    import host_api

    errors = sys.modules[f"{PACK}.pipeline.errors"]
    with pytest.raises(errors.PipelineError, match=message):
        host.call("T2MeshFromCore", core_mesh=host_api.MESH(vertices, faces))


def test_padded_meshes_are_cut(host):
    import host_api

    counts = {"vertex_counts": torch.tensor([3]), "face_counts": torch.tensor([1])}
    core = host_api.MESH(torch.rand(1, 5, 3), torch.tensor([[[0, 1, 2], [0, 0, 0]]]), **counts)
    (mesh,) = host.call("T2MeshFromCore", core_mesh=core)
    assert len(mesh.vertices) == 3 and len(mesh.faces) == 1


def test_a_mesh_is_written_in_other_formats(host, made):
    for format in ("obj", "ply", "stl"):
        _, relative = host.call("T2ExportMesh", mesh=made["mesh"], format=format, filename_prefix="formats/mesh")
        read = trimesh.load_mesh(host.base / "output" / relative, process=False)
        assert len(read.faces) == len(made["mesh"].faces)


def test_a_report_says_what_the_mesh_is_like(host, made):
    ran = host.call("T2MeshReport", mesh=made["mesh"])
    texts = [each for each in ran if isinstance(each, str)]
    assert any(f"{len(made['mesh'].faces):,} faces" in text for text in texts)


@needs_warp
def test_a_picture_is_projected(host, made, monkeypatch):
    """The shipped graph's node, with a mesh of few steps, which looks like nothing: any silhouette will do."""
    coarse_fits(monkeypatch, sys.modules[f"{PACK}.pipeline.project.fit"])
    inputs = graph("project_texture", n23_min_iou=0.0)["23"]["inputs"]
    picture = torch.rand(1, 300, 200, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(1, 300, 200)
    mask[:, 40:260, 30:170] = 0  # as Load Image marks the background
    inputs |= {"textured_mesh": made["textured"], "image": picture, "mask": mask, "views": "front", "largest": 512}
    found, colour = host.call("T2ProjectTexture", **inputs)
    before = made["textured"].maps
    assert colour.shape == (1, *found.maps.shape[:2], 3) and len(found.maps) in (256, 512)
    assert found.facts["projected"][0]["share"] > 0.02 and "projected" not in made["textured"].facts
    assert len(before) == 256 and not np.array_equal(
        before[:, :, :3], found.maps[:: len(found.maps) // 256, :: len(found.maps) // 256, :3]
    )
    with pytest.raises(host.part("run").PipelineError, match="as many cameras"):
        host.call("T2ProjectTexture", **inputs, cameras=())
    with pytest.raises(host.part("run").PipelineError, match=r"Picture 1 does not fit the object.* 0\.99"):
        known = host.call("T2RenderMesh", mesh=made["textured"], size=64)[-1]  # which takes no search
        host.call("T2ProjectTexture", **{**inputs, "min_iou": 0.99}, cameras=known)


@needs_warp
def test_rendered_views_are_projected_back_from_their_cameras(host, made):
    """Silhouettes overlap almost entirely, so that pictures and cameras are of one convention."""
    image, mask, *_, cameras = host.call("T2RenderMesh", mesh=made["textured"], mode="base_color", frames=2, size=128)
    inputs = {"image": image, "mask": mask, "mask_marks": "object", "cameras": cameras}
    found, _ = host.call("T2ProjectTexture", textured_mesh=made["textured"], **inputs, min_iou=0.5, largest=256)
    assert [each["iou"] > 0.85 and not each["fitted"] for each in found.facts["projected"]] == [True, True]
