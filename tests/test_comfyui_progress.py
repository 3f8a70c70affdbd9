"""Progress, previews and cancelling in a real ComfyUI; two copies of the pack."""

import io
import itertools
import json
import shutil

import numpy as np
import pytest
from comfy_server import ROOT, Server, api, graph, needs_comfyui
from comfyui_graphs import node, quick
from host_stub import served
from PIL import Image

pytestmark = needs_comfyui
INTERFACE = json.loads((ROOT / "tests" / "interface.json").read_text(encoding="utf-8"))


def test_progress_grows_and_ends(server):
    server.forget()
    run = server.run(graph("all_stages"))
    for key in ("5", "9", "10", "11", "12", "13", "14", "15"):
        values = [
            data["value"] / data["max"] for kind, data in run.events if kind == "progress" and data["node"] == key
        ]
        assert values and values == sorted(values) and values[-1] == 1, (key, values)


def test_pictures_are_shown_on_the_way(server):
    import websocket

    server.forget()
    channel = websocket.create_connection(f"ws://{server.client.server}/ws?clientId={server.client.id}")
    body = json.dumps({"prompt": graph("all_stages"), "client_id": server.client.id}).encode()
    server.client._json("/prompt", body)
    pictures, node = {}, None
    while True:
        message = channel.recv()
        if isinstance(message, bytes):
            start = message.find(b"\xff\xd8")  # JPEG
            if start >= 0:
                pictures.setdefault(node, []).append(Image.open(io.BytesIO(message[start:])).convert("RGB"))
            continue
        message = json.loads(message)
        if message["type"] == "executing" and message["data"].get("node"):
            node = message["data"]["node"]
        if message["type"] in ("execution_success", "execution_error"):
            break
    channel.close()
    assert len(pictures["5"]) >= 3 and pictures["11"] and pictures["12"]
    for node in ("5", "11", "12"):
        assert np.asarray(pictures[node][-1]).max() > 60, node


def test_cancel_stops_within_a_step(server):
    client = server.client
    server.forget()
    steps = []

    def stop_early(kind, data):
        if kind == "progress" and data["node"] == "9":
            steps.append(data["value"])
            if len(steps) == 2:
                client.interrupt()

    long = graph("all_stages", n9_sampler=["7", 0])
    long["7"] = node("T2SamplerSettings", steps=200)
    with pytest.raises(api().GraphError, match="interrupted"):
        client.run(long, stop_early)
    assert len(steps) < 30
    assert server.run(graph("all_stages")).glbs  # the server lives on


def test_cancel_stops_within_a_frame(server):
    """Of a turntable that would take minutes, and whose progress counts its frames."""
    loaded = {key: value for key, value in graph("geometry_only").items() if value["class_type"] != "T2ExportGLB"}
    raw = next(key for key, value in loaded.items() if value["class_type"] == "T2DecodeShape")
    kept = {key: value for key, value in loaded.items() if value["class_type"] not in ("Preview3D", "T2ProcessMesh")}
    kept["40"] = node("T2RenderMesh", mesh=[raw, 0], frames=200, size=1024)
    kept["41"] = {"class_type": "PreviewImage", "inputs": {"images": ["40", 0]}}
    shares = []

    def stop_early(kind, data):
        if kind == "progress" and data["node"] == "40":
            shares.append(data["value"] / data["max"])
            if shares[-1] > 0:
                server.client.interrupt()

    with pytest.raises(api().GraphError, match="interrupted"):
        server.client.run(kept, stop_early)
    assert shares == sorted(shares) and shares[-1] <= 2 / 200


def test_one_bar_for_all_stages(server):
    server.forget()
    run = server.run(quick(n2_texture=True, n2_texture_size=256))
    values = [data["value"] / data["max"] for kind, data in run.events if kind == "progress"]
    assert len(values) > 50 and values == sorted(values) and values[-1] == 1
    own = [data["value"] / data["max"] for kind, data in run.events if kind == "progress" and data["node"] == "2"]
    assert own == sorted(own) and own[0] < 0.05 and own[-1] == 1
    # what the editor draws: the least of all that run and belong to the node; only the last part begins at 0 in it
    states = [data["nodes"] for kind, data in run.events if kind == "progress_state"]
    shown = [
        min(n["value"] / n["max"] for n in nodes.values() if n["display_node_id"] == "2" and n["state"] == "running")
        for nodes in states
        if any(n["display_node_id"] == "2" and n["state"] == "running" for n in nodes.values())
    ]
    drops = [after for before, after in itertools.pairwise(shown) if after < before]
    assert len(shown) > 50 and len(drops) <= 1
    stages = [data["text"] for kind, data in run.events if kind == "text"]
    assert stages[0] in ("Load Models", "Prepare Image") and stages[-1] == "Export GLB" and "Sample Shape" in stages


@pytest.fixture(scope="module")
def crowded(server, tmp_path_factory):
    """A server with two copies of the pack, an older one's route and no previews, whose user has seen the example."""
    base = tmp_path_factory.mktemp("crowded")
    packs = base / "custom_nodes"
    packs.mkdir()
    for name in ("ComfyUI-TRELLIS2-Stages", "trellis2 (copy)"):
        (packs / name).symlink_to(ROOT, target_is_directory=True)
    (packs / "zzz_older.py").write_text(OLDER_COPY)
    shutil.copytree(server.base / "user", base / "user")
    running = Server(base, "--preview-method", "none")
    yield running
    running.stop()


OLDER_COPY = """
from aiohttp import web
from server import PromptServer


@PromptServer.instance.routes.get("/trellis2/health")
async def answer(request):
    return web.json_response({"version": "older"})


NODE_CLASS_MAPPINGS = {}
"""


def test_two_copies_of_the_pack(crowded):
    """ComfyUI starts, the nodes of the first copy serve, and a line names both."""
    info, said = crowded.get("/object_info"), crowded.said()
    nodes = {name: info[name] for name in info if name.startswith("T2")}
    assert {name: served(nodes[name]) for name in nodes} == INTERFACE
    (module,) = {each["python_module"] for each in nodes.values()}
    (line,) = [line for line in said.splitlines() if "installed twice" in line]
    used, unused = line.split(" are used, ")
    assert module.removeprefix("custom_nodes.") in used
    assert all(name in line for name in ("ComfyUI-TRELLIS2-Stages", "trellis2 (copy)")) and used != unused
    assert "IMPORT FAILED" not in said and "Traceback" not in said
    assert crowded.client.health()["device"] == "cpu"  # the pack's own, not the older one's
    assert crowded.get("/api/trellis2/health")["device"] == "cpu"


def test_the_example_does_not_come_back(server, crowded):
    assert (server.base / "input" / "trellis2_rocket.png").is_file()
    assert not (crowded.base / "input" / "trellis2_rocket.png").exists()


def previews(server, loaded, method="default"):
    """The pictures that a client is sent during a run; method is what the editor's setting says."""
    import websocket

    channel = websocket.create_connection(f"ws://{server.client.server}/ws?clientId={server.client.id}")
    body = {"prompt": loaded, "client_id": server.client.id, "extra_data": {"preview_method": method}}
    server.client._json("/prompt", json.dumps(body).encode())
    pictures = []
    while True:
        message = channel.recv()
        if isinstance(message, bytes):
            start = message.find(b"\xff\xd8")  # JPEG
            pictures += [Image.open(io.BytesIO(message[start:]))] if start >= 0 else []
        elif json.loads(message)["type"] in ("execution_success", "execution_error"):
            channel.close()
            return pictures


def test_no_previews_where_none_are_wanted(server, crowded):
    shutil.copy(ROOT / "assets" / "rocket.png", crowded.base / "input" / "trellis2_rocket.png")
    assert previews(crowded, quick()) == []
    server.forget()
    shown = previews(server, quick())
    assert shown and {picture.size for picture in shown} == {(300, 300)}  # --preview-size
    server.forget()
    assert previews(server, quick(), "none") == []
