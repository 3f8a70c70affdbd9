"""The pack in the server, and folders of pictures. With a stub of ComfyUI."""

import asyncio
import io
import json
import sys

import host_modules
import host_run
import numpy as np
import pytest
import torch
from host_fixtures import SMALL
from host_stub import PACK, installed
from PIL import Image

import pipeline

# --- the pack in the server


class Server:
    """As much of PromptServer as routes and texts need."""

    client_id = "editor"

    def __init__(self, web):
        self.routes, self.app, self.texts = web.RouteTableDef(), web.Application(), []

    def send_progress_text(self, text, node_id, sid=None):
        self.texts.append((text, node_id))


def test_the_extension_offers_all_nodes_pictures_and_health(host, made, monkeypatch):
    import asyncio
    from importlib import import_module

    from aiohttp import web

    server = Server(web)
    monkeypatch.setattr(host_modules.PromptServer, "instance", server)
    with installed():
        classes = asyncio.run(import_module(f"{PACK}.nodes").load().get_node_list())
        health = import_module(f"{PACK}.nodes.host.health")
        report = asyncio.run(health.report())
        import_module(f"{PACK}.nodes.host.routes").add_once("/trellis2/health", None)  # there already
    assert {each.GET_SCHEMA().node_id for each in classes} == set(host.nodes)
    paths = {resource.canonical for resource in server.app.router.resources()}
    assert paths == {"/trellis2/health", "/api/trellis2/health"}
    assert report["version"] == pipeline.__version__ and report["device"] == "cpu" and SMALL in report["checkpoints"]
    assert "small" in report["loaded"] and json.dumps(report)
    offered = {path.name for path in (host.base / "input").iterdir()}
    assert offered >= set(host.part("pictures").EXAMPLES)  # other tests may have put theirs beside them


def test_a_second_copy_stays_out_of_the_way(host, monkeypatch, caplog):
    other = type("Other", (), {"__module__": "elsewhere.nodes.loading"})
    monkeypatch.setitem(vars(host_modules.by_name()["nodes"])["NODE_CLASS_MAPPINGS"], "T2LoadModels", other)
    with installed():
        from importlib import import_module

        copies = import_module(f"{PACK}.nodes.host.copies")
        assert copies.in_use(PACK, host.base) and "is installed twice" in caplog.text
        classes = list(host.nodes.values())
        assert len(copies.free_ids(classes, PACK)) == len(classes) - 1
        assert "Another pack has nodes of these ids, which it keeps: T2LoadModels." in caplog.text


def test_previews_are_left_out_where_nobody_wants_them(host, monkeypatch):
    progress = host.part("progress")
    with installed():
        monkeypatch.setattr(progress, "_none_on_the_command_line", lambda: True)
        assert not progress.Progress().pictures
        monkeypatch.setattr(host_modules.args, "preview_method", host_modules.LatentPreviewMethod.Auto)
        assert progress.Progress().pictures


def test_a_saved_picture_comes_back_as_it_was(host):
    values = torch.randint(0, 256, (1, 8, 8, 3)).float() / 255
    pictures = host.part("pictures")
    buffer = io.BytesIO()
    pictures.to_pil(values)[0].save(buffer, "PNG")
    assert torch.equal(pictures.to_image([Image.open(buffer)]), values)


# --- a folder of pictures


@pytest.fixture
def folder(host, picture):
    """Pictures in the input folder: two of one name, one in a subfolder, one damaged, one without an object."""
    place = host.base / "input" / "many"
    (place / "sub").mkdir(parents=True, exist_ok=True)
    for name in ("a.png", "a.jpg", "sub/b.png"):
        (place / name).write_bytes(picture.read_bytes())
    (place / "bad.png").write_bytes(picture.read_bytes()[:400])
    Image.new("RGBA", (64, 64)).save(place / "empty.png")
    return place


def test_a_folder_is_a_list_and_bad_pictures_are_told(host, folder, picture):
    images, names, report = host.call("T2LoadPictures", folder="many", prefix="x/")
    assert names == ["x/a", "x/a_png", "x/sub/b"]
    first, *lines = report.splitlines()
    assert first == "3 of 5 pictures" and len(lines) == 2
    assert "bad.png cannot be read" in lines[0] and "The picture is empty" in lines[1]
    # what follows sees the same as if it had the picture itself
    with Image.open(picture) as opened:
        values = torch.from_numpy(np.asarray(opened.convert("RGBA")).astype(np.float32) / 255)[None]
    expected, _ = host.call("T2PrepareImage", image=values)
    for image in images:
        assert torch.equal(host.call("T2PrepareImage", image=image)[0], expected)


def test_a_folder_that_changes_is_loaded_again(host, folder, picture):
    node = host.nodes["T2LoadPictures"]
    with installed():
        before = node.fingerprint_inputs(folder="many")
        assert node.fingerprint_inputs(folder="many") == before
        (folder / "later.png").write_bytes(picture.read_bytes())
        assert node.fingerprint_inputs(folder="many") != before
        (folder / "later.png").unlink()


@pytest.mark.parametrize(
    ("folder_given", "prefix", "message"),
    [
        ("../output", "3d/", "leads out of ComfyUI's input folder"),
        ("/etc", "3d/", "leads out of ComfyUI's input folder"),
        ("absent", "3d/", "There is no folder 'absent'"),
        ("hollow", "3d/", "There is no picture in"),
        ("many", "../../", "leads out of the output folder"),
    ],
)
def test_a_folder_that_cannot_be_loaded(host, folder, folder_given, prefix, message):
    (host.base / "input" / "hollow").mkdir(exist_ok=True)
    with installed():
        answer = host.nodes["T2LoadPictures"].validate_inputs(folder=folder_given, prefix=prefix)
    assert message in answer
    with pytest.raises(Exception, match=message) as raised:
        host.call("T2LoadPictures", folder=folder_given, prefix=prefix)
    assert type(raised.value).__name__ == "SettingsError"


def test_a_list_that_memory_cannot_hold(host, folder, monkeypatch):
    monkeypatch.setattr(sys.modules[f"{PACK}.nodes.load_pictures"], "free_memory", lambda: 100_000_000)
    with pytest.raises(Exception, match=r"5 pictures can take 0.1 GB as a list; 0.1 GB of memory are free") as raised:
        host.call("T2LoadPictures", folder="many")
    assert type(raised.value).__name__ == "SettingsError"


def test_a_list_of_names_reaches_the_node_that_writes(host):
    """As a link, like the list of pictures: resolved, it would make every object once for each name."""
    given = {"image": ["1", 0], "filename_prefix": ["1", 1]}
    prompt = {"2": {"class_type": "T2ImageToGLB", "inputs": {**given, "checkpoint": SMALL}}}
    schema = host.nodes["T2ImageToGLB"].GET_SCHEMA()
    assert {each.id for each in schema.inputs if each.extra_dict.get("rawLink")} >= set(given)
    run = host_run._Run(host, prompt, {})
    with installed():
        made = asyncio.run(run.called("2", host.nodes["T2ImageToGLB"], prompt["2"]["inputs"]))
    (export,) = [node for node in made.expand.values() if node["class_type"] == "T2ExportGLB"]
    assert export["inputs"]["filename_prefix"] == ["1", 1]
