"""Latents and voxels of ComfyUI's own nodes: what goes there and back is the same; core reads ours as its own does."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from comfy_server import COMFYUI
from host_stub import pack, stubbed_nodes

OWN_NODES = bool(COMFYUI) and (Path(COMFYUI) / "comfy_extras" / "nodes_trellis2.py").exists()


@pytest.fixture
def room():
    """The module of the bridges, on a host of stubs, and the pack's own stages."""
    stubbed_nodes()
    name = pack().__name__
    return SimpleNamespace(
        bridges=sys.modules[f"{name}.nodes.core_latents"],
        stages=sys.modules[f"{name}.pipeline.stages"],
        sparse=sys.modules[f"{name}.pipeline.sparse"],
        spec=sys.modules[f"{name}.pipeline.spec"],
        sockets=sys.modules[f"{name}.nodes.sockets"],
        errors=sys.modules[f"{name}.pipeline.errors"],
    )


@pytest.fixture
def models(room):
    return SimpleNamespace(checkpoint=SimpleNamespace(spec=room.spec.RELEASED))


def latents(room, resolution=1024):
    random = torch.Generator().manual_seed(0)
    coords = torch.tensor([[3, 1, 2], [0, 0, 1], [2, 63, 2]])
    voxels = room.sparse.Voxels.single(coords)
    made = [room.sparse.SparseTensor(voxels, 5 * torch.randn(3, 32, generator=random)) for _ in range(2)]
    return [room.stages.Latent(one, resolution, random.get_state()) for one in made]


def out(node):
    return node.args if hasattr(node, "args") else node.result


def test_latents_there_and_back(room, models):
    shape, texture = latents(room)
    held = room.sockets.ShapeLatent(shape, room.spec.PIPELINE_TYPES["1024_cascade"])
    core = out(room.bridges.LatentToCore.execute(models, held, texture))
    assert core[0]["samples"].shape == (1, 32, 3, 1) and core[0]["coord_resolution"] == 64
    back, other = out(room.bridges.LatentFromCore.execute(models, *core))
    assert back.pipeline_type.name == "1024_cascade" and back.latent.resolution == other.resolution == 1024
    for ours, made in ((shape, back.latent), (texture, other)):
        assert torch.equal(made.sparse.voxels.coords, ours.sparse.voxels.coords)
        torch.testing.assert_close(made.sparse.feats, ours.sparse.feats)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"model_frame": "y_up"}, "Y up, as Pixal3D"),
        ({"type": "flux"}, "none of ComfyUI's TRELLIS.2 stages"),
        ({"coords": None}, "none of ComfyUI's TRELLIS.2 stages"),
        ({"coord_resolution": 8}, "in a grid of 8"),
        ({"samples": torch.zeros(2, 32, 3, 1)}, "2 objects"),
        ({"samples": torch.zeros(1, 32, 2, 1)}, "2 values for 3 voxels"),
    ],
)
def test_other_latents_are_refused(room, models, change, said):
    core = room.bridges._to_core(latents(room)[0], room.spec.RELEASED.shape_normalisation)
    with pytest.raises(room.errors.SettingsError, match=said):
        room.bridges.LatentFromCore.execute(models, {**core, **change})


def test_voxels_of_core_turn_back(room):
    coords = torch.tensor([[0, 1, 2, 3], [0, 7, 0, 5]])
    x, y, z = coords[:, 1:].unbind(1)
    turned = torch.stack([coords[:, 0], x, z, 7 - y], 1)
    given = SimpleNamespace(data=turned, voxel_colors=torch.rand(2, 6), resolution=8)
    (voxels,) = out(room.bridges.VoxelsFromCore.execute(given))
    assert torch.equal(voxels.sparse.voxels.coords, coords.int()) and torch.equal(
        voxels.sparse.feats, given.voxel_colors
    )
    with pytest.raises(room.errors.SettingsError, match="six channels"):
        room.bridges.VoxelsFromCore.execute(SimpleNamespace(data=turned, voxel_colors=None, resolution=8))


@pytest.mark.skipif(not OWN_NODES, reason="COMFYUI_PATH names no ComfyUI that has TRELLIS.2 nodes of its own")
def test_core_sees_the_numbers_that_our_decoders_see(room, models, tmp_path):
    """Core's own way from a LATENT to what its decoders take, on ours."""
    shape, texture = latents(room)
    core = [
        room.bridges._to_core(one, each)
        for one, each in (
            (shape, room.spec.RELEASED.shape_normalisation),
            (texture, room.spec.RELEASED.texture_normalisation),
        )
    ]
    torch.save(core, tmp_path / "core.pt")
    script = f"""
import sys
sys.argv = ["main.py", "--cpu"]
sys.path.insert(0, {str(Path(COMFYUI).resolve())!r})
import comfy.options
comfy.options.enable_args_parsing()
import torch
from comfy_extras import nodes_trellis2 as core
shape, texture = torch.load({str(tmp_path / "core.pt")!r}, weights_only=True)
feats, coords = core.flatten_batched_sparse_latent(shape["samples"], shape["coords"], shape["coord_counts"])
seen = core.shape_norm(feats, coords)
other, _ = core.flatten_batched_sparse_latent(texture["samples"], texture["coords"], texture["coord_counts"])
torch.save([seen.feats, seen.coords, core.tex_slat_format.process_out(other)], {str(tmp_path / "seen.pt")!r})
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=COMFYUI, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    feats, coords, other = torch.load(tmp_path / "seen.pt", weights_only=True)
    torch.testing.assert_close(feats, shape.sparse.feats, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(other, texture.sparse.feats, atol=1e-4, rtol=1e-4)
    assert torch.equal(coords.int(), shape.sparse.voxels.coords)
