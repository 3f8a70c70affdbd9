"""A stub of ComfyUI that has run the graph of all stages, once for all tests."""

import json

import pytest
from comfy_server import graph

SMALL = "small (comes with the pack)"


@pytest.fixture(scope="session")
def host(tmp_path_factory):
    from host_run import Host

    return Host(tmp_path_factory.mktemp("comfyui"))


@pytest.fixture(scope="session")
def ran(host):
    """The shipped graph of all stages, with few steps and small results; the structure as it is."""
    from pipeline.warp import unavailable_reason

    warp = not unavailable_reason()
    small = {
        "n13_faces": 4000,
        "n13_lods": "2000",
        "n13_shell_resolution": 128,
        "n14_texture_size": 256,
        "n14_normal_map": warp,
        "n20_size": 64,
    }
    loaded = graph("all_stages", n9_sampler=["8", 0], n10_sampler=["8", 0], n14_occlusion=warp, n20_frames=2, **small)
    loaded["8"] = {"class_type": "T2SamplerSettings", "inputs": {"steps": 2, "guidance": 1.0}}
    if not warp:
        del loaded["20"], loaded["21"]
    return host.run(loaded, workflow={"nodes": []})


@pytest.fixture(scope="session")
def made(ran):
    """What the graph made, by name."""
    places = {"models": ("2", 0), "condition": ("4", 0), "structure": ("5", 0), "shape": ("9", 0)}
    places |= {"latent": ("10", 0), "raw": ("11", 0), "subdivision": ("11", 1), "voxels": ("12", 0)}
    places |= {"mesh": ("13", 0), "textured": ("14", 0)}
    return {name: ran.values[node][slot][0] for name, (node, slot) in places.items()}


def saved(host, ran, node):
    (file,) = [each for each in ran.ui[node]["3d"] if "LOD" not in each["filename"]]
    return host.base / "output" / file["subfolder"] / file["filename"]


def facts(path):
    data = path.read_bytes()
    length = int.from_bytes(data[12:16], "little")
    return json.loads(data[20 : 20 + length])["asset"]["extras"]
