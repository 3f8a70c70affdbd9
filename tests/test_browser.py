"""The graphs in ComfyUI's editor, in a headless Chromium: nodes, colours and what the 3D preview draws."""

import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
from comfy_server import ROOT, api, facts, graph, needs, needs_comfyui
from editor import CHROMIUM, DRIVER, started

pytestmark = [
    needs_comfyui,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="there is no Chromium with a chromedriver on the PATH"),
]
COLOURS = """
const sockets = app.graph._nodes.flatMap(node => [...node.inputs, ...node.outputs]);
const types = sockets.flatMap(socket => String(socket.type).split(",")).filter(type => type.startsWith("T2_"));
const style = getComputedStyle(document.documentElement);
const ours = Object.fromEntries(types.map(type => [type, [
    app.canvas.default_connection_color_byType[type],  // sockets
    app.canvas.constructor.link_type_colors[type],  // links
    style.getPropertyValue(`--color-datatype-${type}`).trim(),  // both with Nodes 2.0
]]));
const known = Object.entries(app.canvas.default_connection_color_byType).filter(([type]) => !type.startsWith("T2_"));
return [ours, Object.fromEntries(known)];
"""
MODELS = "return models().map(({geometry, material}) => [geometry.index.count / 3, !!material.map?.image?.width])"
OUTSIDE = """
const {left, top} = app.canvas.canvas.getBoundingClientRect(), {scale, offset} = app.canvas.ds;
return app.graph._nodes.filter(({pos, size}) => {
    const [x, y] = [0, 1].map(axis => (pos[axis] + offset[axis]) * scale); // below the title
    const beyond = left + x + size[0] * scale > innerWidth || top + y + size[1] * scale > innerHeight;
    return left + x < 70 || top + y < 95 || beyond; // where its bars lie
}).map(node => node.type);
"""
PROMPT = "return (await app.graphToPrompt()).output"
WRITERS = ("T2ExportGLB", "T2ImageToGLB", "T2TextureMesh")
TELL = ("T2ProcessMesh", *WRITERS)  # what they made, as text
TEXT = "return app.graph.getNodeById(id).widgets.find(each => each.name == 'report_text').value"


@pytest.fixture(scope="module")
def editor(tmp_path_factory):
    pytest.importorskip("selenium.webdriver")
    with started(tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "workflows").glob("*.json")))
def test_every_graph_runs_and_shows_its_model(editor, tmp_path, name):
    needs(editor.server, graph(name))
    folder = Path(os.environ.get("SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    editor.server.forget()  # a stage whose result is not needed anew tells nothing
    editor.open()
    assert editor.load(name) == []  # no type is unknown
    outside = editor.js(OUTSIDE)
    assert editor.view["scale"] >= 0.6 and not outside, (editor.view, outside)  # smaller texts are left out

    ours, theirs = editor.js(COLOURS)
    for everywhere in ours.values():
        assert everywhere[0] and len(set(everywhere)) == 1, ours
    known = {name: rgb(color) for name, color in theirs.items() if color}
    others = known | {kind: rgb(color) for kind, (color, *_) in ours.items()}
    for kind, (color, *_) in ours.items():
        assert not [each for each, it in others.items() if each != kind and math.dist(rgb(color), it) < 40], kind

    done = editor.queue()
    if "run" not in done:
        pytest.fail(str(done))
    outputs = editor.server.get(f"/history/{done['run']}")[done["run"]]["outputs"]
    glbs = [editor.server.client.fetch(file) for file in api().glb_files(outputs)]
    previews = editor.nodes("Preview3D")
    try:
        editor.models_shown(len(previews))
    finally:
        editor.overview().save(folder / f"{name}.png")
    made = sorted([facts(glb)["faces"], b'"baseColorTexture"' in glb] for glb in glbs)
    shown = sorted(editor.js(MODELS))
    assert len(shown) == len(previews) and all(each in made for each in shown)
    assert shown == made or name == "many_pictures"  # of a list a viewer shows one
    told = {kind: [editor.js(TEXT, id=node) for node in editor.nodes(kind)] for kind in TELL}
    assert all(re.match(r"[\d,]+ faces", text) for text in told["T2ProcessMesh"]), told
    files = "\n".join(text for kind in WRITERS for text in told[kind])
    assert all(f"{facts(glb)['faces']:,} faces" in files for glb in glbs) and files.count(".glb, ") == len(glbs), told
    queued = editor.js(PROMPT)  # every widget has the value that it should have, and texts on nodes are not among them
    ours = {key: node for key, node in graph(name).items() if node["class_type"].startswith("T2")}
    assert {key: queued[key]["inputs"] for key in ours} == {key: node["inputs"] for key, node in ours.items()}
    for node in previews:
        shown, hidden, again = (editor.viewer(node, visible) for visible in (True, False, True))
        again.save(folder / f"{name}-{node}.png")
        assert again.tobytes() == shown.tobytes()  # else a difference would prove nothing
        share = np.any(np.asarray(shown) != np.asarray(hidden), axis=-1).mean()
        assert share > 0.01  # of the picture is the model


def rgb(color):
    """(red, green, blue) of #rrggbb."""
    return [int(color[place : place + 2], 16) for place in (1, 3, 5)]
