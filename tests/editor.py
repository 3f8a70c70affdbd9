"""ComfyUI's editor in a headless Chromium, for the tests of the graphs and for their pictures (screenshots.py)."""

import io
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

from comfy_server import ROOT, Server, stand_in_matte
from PIL import Image

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
    *("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),  # WebGL without a GPU
)
SIZE = 1600, 1000
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
QUEUE = """
window.finished = null;
const end = value => { window.finished = value; };
app.api.addEventListener("execution_success", ({detail}) => end({run: detail.prompt_id}));
app.api.addEventListener("execution_error", ({detail}) => end({[detail.node_type]: detail.exception_message}));
if (!await app.queuePrompt(0, 1)) end({refused: app.lastNodeErrors});
"""
# Shows a node in its own size; returns the box in the window of what lies between the bars of its viewer.
APPROACH = """
const node = app.graph.getNodeById(id), {left, top} = app.canvas.canvas.getBoundingClientRect();
app.canvas.ds.scale = 1;
app.canvas.ds.offset = [200 - node.pos[0], 200 - node.pos[1]];
app.canvas.setDirty(true, true);
return [left + 215, top + 350, left + node.size[0] + 185, top + node.size[1] + 90].map(Math.round);
"""


VIEW = "app.canvas.ds.scale = scale; app.canvas.ds.offset = offset; app.canvas.setDirty(true, true)"


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

    def until(self, condition: str, what: str, seconds: float = 120, **names) -> None:
        limit = time.monotonic() + seconds
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
        """The graph in the window as it opens."""
        self.js(VIEW, scale=self.view["scale"], offset=self.view["offset"])
        time.sleep(3)
        return self.picture()

    def models_shown(self, count: int) -> None:
        """Wait until the viewers have loaded so many models."""
        self.until("models().length >= count", "model in the preview", count=count)

    def nodes(self, kind: str) -> list[int]:
        """The ids of the graph's nodes of a type."""
        return self.js("return app.graph._nodes.filter(node => node.type == kind).map(node => node.id)", kind=kind)

    def picture(self) -> Image.Image:
        return Image.open(io.BytesIO(self.browser.get_screenshot_as_png())).convert("RGB")

    def viewer(self, node: int, visible: bool = True, farther: int = 0) -> Image.Image:
        """What the viewer of a Preview3D node draws, with its model or without; after turning the wheel so far."""
        from selenium.webdriver.common.actions.action_builder import ActionBuilder

        left, top, right, bottom = self.js(APPROACH, id=node)
        pointer = ActionBuilder(self.browser)  # a viewer rests unless the pointer is on it
        pointer.pointer_action.move_to_location((left + right) // 2, (top + bottom) // 2)
        if farther:
            pointer.wheel_action.scroll((left + right) // 2, (top + bottom) // 2, delta_y=farther)
        pointer.perform()
        before = self.js("for (const each of models()) each.visible = visible; return frames3d", visible=visible)
        self.until("frames3d > before + 9", "frame", before=before)  # a view takes three
        return self.picture().crop((left, top, right, bottom))

    def load(self, name: str) -> list[str]:
        """Open one of the pack's templates; returns the node types that this ComfyUI does not know."""
        unknown = self.js(LOAD, name=name)
        time.sleep(2)  # it may move to another view
        self.view = self.js("return {scale: app.canvas.ds.scale, offset: [...app.canvas.ds.offset]}")
        return unknown

    def queue(self) -> dict:
        """Run the graph; returns {"run": id}, {node type: error} or {"refused": errors}."""
        self.js(QUEUE)
        self.until("window.finished", "end of the run", seconds=600)
        return self.js("return finished")


@contextmanager
def started(base: Path):
    """An editor on a ComfyUI of its own below an empty folder."""
    from selenium import webdriver

    (base / "custom_nodes").mkdir()  # no space in the name: aiohttp serves no templates and no JS of such a folder
    (base / "custom_nodes" / "ComfyUI-TRELLIS2-Stages").symlink_to(ROOT, target_is_directory=True)
    stand_in_matte(base)
    server = Server(base, api_nodes=True)  # without them textures, which are blob: URLs, stay white
    try:
        server.client._send("/settings/Comfy.TutorialCompleted", b"true")  # else the templates cover the graph
        server.client._send("/settings/Comfy.Minimap.Visible", b"false")  # it lies on the graph
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in FLAGS:
            options.add_argument(flag)
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        try:
            metrics = {"width": SIZE[0], "height": SIZE[1], "deviceScaleFactor": 1, "mobile": False}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)  # of the page, without a frame
            browser.set_script_timeout(100)
            browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
            yield Editor(server, browser)
        finally:
            browser.quit()
    finally:
        server.stop()
