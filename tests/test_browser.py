"""The graphs in ComfyUI's editor, in a headless Chromium: nodes, colours and what the 3D preview draws."""

import io
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from comfy_server import ROOT, Server, api, facts, graph, needs, needs_comfyui
from PIL import Image

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = [
    needs_comfyui,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="there is no Chromium with a chromedriver on the PATH"),
]
FLAGS = (
    *("--headless=new", "--no-sandbox", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
    *("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),  # WebGL without a GPU
)
SIZE = 1920, 1200
# The viewer keeps its scene to itself, but three.js tells its developer tools of every scene and renderer. Of what is
# in a scene (grid, axes, handles) only the model has the material of glTF.
WATCH = """
window.frames3d = 0;
const scenes = [];
window.__THREE_DEVTOOLS__ = new EventTarget();
__THREE_DEVTOOLS__.addEventListener("observe", ({detail}) => {
    if (detail.isScene) scenes.push(detail);
    if (!detail.info?.render) return;
    const render = detail.render;
    detail.render = (scene, camera) => {
        frames3d++;
        render.call(detail, scene, camera);
    };
});
window.models = () => scenes.flatMap(scene => {
    const found = [];
    scene.traverse(each => { if (each.isMesh && each.material.isMeshStandardMaterial) found.push(each); });
    return found;
});
"""
LOAD = """
const templates = await (await fetch("/api/workflow_templates")).json();
const pack = Object.keys(templates).find(each => templates[each].includes(name));
const graph = await (await fetch(`/api/workflow_templates/${pack}/${name}.json`)).json();
await app.loadGraphData(graph);
return graph.nodes.map(node => node.type).filter(type => !LiteGraph.registered_node_types[type]);
"""
COLOURS = """
const sockets = app.graph._nodes.flatMap(node => [...node.inputs, ...node.outputs]);
const types = sockets.flatMap(socket => String(socket.type).split(",")).filter(type => type.startsWith("T2_"));
const style = getComputedStyle(document.documentElement);
return Object.fromEntries(types.map(type => [type, [
    app.canvas.default_connection_color_byType[type],  // sockets
    app.canvas.constructor.link_type_colors[type],  // links
    style.getPropertyValue(`--color-datatype-${type}`).trim(),  // both with Nodes 2.0
]]));
"""
QUEUE = """
return await new Promise(async done => {
    app.api.addEventListener("execution_success", ({detail}) => done({run: detail.prompt_id}));
    app.api.addEventListener("execution_error", ({detail}) => done({[detail.node_type]: detail.exception_message}));
    if (!await app.queuePrompt(0, 1)) done({refused: app.lastNodeErrors});
});
"""
MODELS = "return models().map(({geometry, material}) => [geometry.index.count / 3, !!material.map?.image?.width])"
# Shows a node in its own size; returns the box in the window of what lies between the bars of its viewer.
APPROACH = """
const node = app.graph.getNodeById(id), {left, top} = app.canvas.canvas.getBoundingClientRect();
app.canvas.ds.scale = 1;
app.canvas.ds.offset = [200 - node.pos[0], 200 - node.pos[1]];
app.canvas.setDirty(true, true);
return [left + 215, top + 350, left + node.size[0] + 185, top + node.size[1] + 90].map(Math.round);
"""


class Editor:
    """ComfyUI's editor in a browser."""

    def __init__(self, server: Server, browser) -> None:
        self.server, self.browser = server, browser

    def js(self, script: str, **names):
        """Run the body of an async function with these names; returns what it returns."""
        head = f"const [{', '.join((*names, 'answer'))}] = arguments;"
        text = f"{head} (async () => {{{script}}})().then(value => answer([value]), error => answer(String(error)))"
        answer = self.browser.execute_async_script(text, *names.values())
        assert isinstance(answer, list), answer
        return answer[0]

    def until(self, condition: str, what: str, **names) -> None:
        limit = time.monotonic() + 120
        while not self.js(f"return !!({condition})", **names):
            assert time.monotonic() < limit, f"no {what}"
            time.sleep(0.2)

    def open(self) -> None:
        address = f"http://{self.server.client.server}"
        # the editor would open the tabs of the graph before
        self.browser.execute_cdp_cmd("Storage.clearDataForOrigin", {"origin": address, "storageTypes": "all"})
        self.browser.get(address)
        self.until("window.app?.extensionManager && app.canvas?.graph", "editor")
        time.sleep(3)  # it opens an empty graph of its own when it is ready, and tells nobody

    def overview(self) -> Image.Image:
        """The whole graph, in a large window so that its texts can be read."""
        self.browser.set_window_size(3840, 2160)
        time.sleep(2)  # the canvas follows
        self.js("await app.extensionManager.command.execute('Comfy.Canvas.FitView')")
        time.sleep(3)  # it glides
        picture = self.picture()
        self.browser.set_window_size(*SIZE)
        return picture

    def picture(self) -> Image.Image:
        return Image.open(io.BytesIO(self.browser.get_screenshot_as_png())).convert("RGB")

    def viewer(self, node: int, visible: bool) -> Image.Image:
        """What the viewer of a Preview3D node draws, with its model or without."""
        from selenium.webdriver.common.actions.action_builder import ActionBuilder

        left, top, right, bottom = self.js(APPROACH, id=node)
        pointer = ActionBuilder(self.browser)  # a viewer rests unless the pointer is on it
        pointer.pointer_action.move_to_location((left + right) // 2, (top + bottom) // 2)
        pointer.perform()
        before = self.js("for (const each of models()) each.visible = visible; return frames3d", visible=visible)
        self.until("frames3d > before + 9", "frame", before=before)  # a view takes three
        return self.picture().crop((left, top, right, bottom))


@pytest.fixture(scope="module")
def editor(request, tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver")
    base = tmp_path_factory.mktemp("browser")
    (base / "custom_nodes").mkdir()  # no space in the name: aiohttp serves no templates and no JS of such a folder
    (base / "custom_nodes" / "ComfyUI-TRELLIS2-Stages").symlink_to(ROOT, target_is_directory=True)
    server = Server(base, api_nodes=True)  # without them textures, which are blob: URLs, stay white
    request.addfinalizer(server.stop)
    server.client._send("/settings/Comfy.TutorialCompleted", b"true")  # else the templates cover the graph
    server.client._send("/settings/LiteGraph.Canvas.MinFontSizeForLOD", b"0")  # else far nodes have no text
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS:
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    request.addfinalizer(browser.quit)
    browser.set_window_size(*SIZE)
    browser.set_script_timeout(300)
    browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
    return Editor(server, browser)


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "workflows").glob("*.json")))
def test_every_graph_runs_and_shows_its_model(editor, tmp_path, name):
    needs(editor.server, graph(name))
    folder = Path(os.environ.get("SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    editor.open()
    assert editor.js(LOAD, name=name) == []  # no type is unknown

    colours = editor.js(COLOURS)
    for everywhere in colours.values():
        assert everywhere[0] and len(set(everywhere)) == 1, colours
    assert len({socket for socket, *_ in colours.values()}) == len(colours), colours

    done = editor.js(QUEUE)
    if "run" not in done:
        pytest.fail(str(done))
    outputs = editor.server.get(f"/history/{done['run']}")[done["run"]]["outputs"]
    glbs = [editor.server.client.fetch(file) for file in api().glb_files(outputs)]
    previews = editor.js("return app.graph._nodes.filter(node => node.type == 'Preview3D').map(node => node.id)")
    try:
        editor.until("models().length >= count", "model in the preview", count=len(previews))
    finally:
        editor.overview().save(folder / f"{name}.png")
    if previews:
        assert sorted(editor.js(MODELS)) == sorted([facts(glb)["faces"], b'"baseColorTexture"' in glb] for glb in glbs)
    for node in previews:
        shown, hidden, again = (editor.viewer(node, visible) for visible in (True, False, True))
        again.save(folder / f"{name}-{node}.png")
        assert again.tobytes() == shown.tobytes()  # else a difference would prove nothing
        share = np.any(np.asarray(shown) != np.asarray(hidden), axis=-1).mean()
        assert share > 0.01  # of the picture is the model
