"""A real ComfyUI with checkpoints in every layout, for all tests of it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from comfy_server import ROOT, Server

SMALL = ROOT / "checkpoints" / "small"
COMPLETE = ROOT / "checkpoints" / "random"  # has every network, as bundles need them


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    base = tmp_path_factory.mktemp("comfyui")
    fill_model_folders(base)
    running = Server(base, "--extra-model-paths-config", str(base / "paths.yaml"), "--preview-size", "300")
    yield running
    running.stop()


def fill_model_folders(base: Path) -> None:
    """Checkpoints in every layout that the loader looks for."""
    from bundles import PREFIXES, bundle
    from quantised import int8_folder
    from safetensors.torch import load_file, save_file

    models, elsewhere = base / "models", base / "elsewhere"
    shutil.copytree(SMALL, models / "trellis2" / "own")
    (elsewhere / "trellis2").mkdir(parents=True)
    (elsewhere / "trellis2" / "linked").symlink_to(SMALL, target_is_directory=True)
    int8_folder(SMALL, models / "trellis2" / "int8")
    damaged = shutil.copytree(SMALL, models / "trellis2" / "damaged")
    broken = damaged / "ckpts" / "sparse_structure_flow_model.safetensors"
    broken.write_bytes(broken.read_bytes()[:2000])
    (base / "paths.yaml").write_text(f"mine:\n  base_path: {elsewhere}\n  trellis2: trellis2\n")

    decoders = [prefix for prefix in PREFIXES if "dec" in prefix]
    for kind in ("diffusion_models", "vae", "clip_vision"):
        (models / kind).mkdir(parents=True)
    flows = [prefix for prefix in PREFIXES if prefix not in decoders]
    bundle(COMPLETE, models / "diffusion_models" / "flows.safetensors", flows)
    bundle(COMPLETE, models / "vae" / "decoders.safetensors", decoders)
    save_file({"unrelated": torch.zeros(3)}, models / "vae" / "unrelated.safetensors")
    (models / "vae" / "text.safetensors").write_text("not a model")
    for kind in ("trellis2", "vae"):
        (models / kind / "gone.safetensors").symlink_to("nothing")
    for name in ("gone", "loop", "loops"):
        (models / "trellis2" / name).symlink_to("nothing" if name == "gone" else ".", target_is_directory=True)
    encoder = json.loads((COMPLETE / "pipeline.json").read_text())["args"]["image_cond_model"]["args"]["model_name"]
    save_file(load_file(COMPLETE / encoder / "model.safetensors"), models / "clip_vision" / "dino.safetensors")


@pytest.fixture
def server_with_hub(hub, tmp_path):
    running = Server(tmp_path / "base", environment=hub[0])
    yield running
    running.stop()
