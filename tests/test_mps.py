"""Runs on an Apple GPU that is only pretended: the CPU's results, and nothing that such a GPU cannot do."""

from functools import partial

import pytest
import torch
from conftest import GOLDEN
from PIL import ImageOps
from pretended_mps import pretended_mps
from quantised import int8_folder

from pipeline import stages
from pipeline.image import cut_out, read_picture
from pipeline.mesh.io import read_scene
from pipeline.models import build
from pipeline.runtime import Runtime
from pipeline.spec import PIPELINE_TYPES, Samplers, SamplerSettings
from pipeline.views import View, posed
from pipeline.weights import Models, open_checkpoint

QUICK = Samplers(*[SamplerSettings(2, 2.0, 0.5, (0.5, 1.0), 3.0)] * 3)


@pytest.fixture(scope="module")
def views():
    picture = cut_out(read_picture(GOLDEN / "image_rgba.png"))
    return posed([picture, ImageOps.mirror(picture)], [View(0), View(90)])


def on(device, work, folder, **options):
    """What `work` gives on a device in fp32."""
    runtime = Runtime(device, stages.table(), torch.float32, **options)
    return work(runtime, Models(open_checkpoint(folder), build))


def same_on_mps(work, folder, **options):
    """What `work` gives on a CPU and on the pretended device, all of whose operations have kernels."""
    expected = on("cpu", work, folder)
    with pretended_mps() as mps:
        found = on("mps", work, folder, **options)
    assert mps.operations and not mps.without_kernel()
    return expected, found


@pytest.mark.parametrize("packed", [False, True], ids=["fp32", "int8"])
def test_an_object_from_views(views, checkpoint, tmp_path, packed):
    """Directions, visibility and proportions included."""
    folder = int8_folder(checkpoint, tmp_path / "int8") if packed else checkpoint
    make = partial(
        stages.generate, images=views, pipeline_type=PIPELINE_TYPES["512"], seed=42, samplers=QUICK, texture=not packed
    )
    expected, found = same_on_mps(make, folder, stream=packed)
    assert len(found.mesh.vertices) > 1000
    torch.testing.assert_close(found.mesh.vertices.cpu(), expected.mesh.vertices, atol=1e-5, rtol=0)
    if not packed:
        torch.testing.assert_close(found.voxels.sparse.feats.cpu(), expected.voxels.sparse.feats, atol=1e-4, rtol=0)


def test_a_mesh_is_encoded(root):
    part = read_scene(root / "assets" / "rocket.glb").parts[0]
    corners = torch.from_numpy(part.placed()).float()
    mesh = stages.Mesh(0.4 * corners / corners.abs().max(), torch.from_numpy(part.faces).int())
    encode = partial(stages.encode_mesh, mesh=mesh, resolution=64)
    expected, found = same_on_mps(encode, root / "checkpoints" / "small")
    torch.testing.assert_close(found.shape.sparse.feats.cpu(), expected.shape.sparse.feats, atol=1e-4, rtol=0)


def test_the_pretended_device_refuses_what_mps_does():
    with pretended_mps() as mps:
        there = torch.arange(4.0, device="mps")
        assert there.device.type == "mps" and (2 * there + 1).sum().item() == 16
        with pytest.raises(TypeError, match="float64"):
            there.double()
        with pytest.raises(TypeError, match="float64"):
            torch.zeros(3, dtype=torch.float64).to("mps")
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        with pytest.raises(RuntimeError, match="same device"):
            there.add(torch.ones(4))
        assert there.cpu().double().numpy().tolist() == [0, 1, 2, 3] and not mps.without_kernel()
        torch.linalg.eig(there[:, None] * there)
        assert mps.without_kernel() == {"linalg_eig"}
