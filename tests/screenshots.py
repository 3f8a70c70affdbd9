"""Pictures of the graphs, for the README and the template browser.

`COMFYUI_PATH=... python tests/screenshots.py [graph ...]` runs graphs in ComfyUI's editor, with what
tests/test_browser.py needs, and writes the thumbnail of each, workflows/<graph>.jpg: the pictures that go in and the
objects that come out. Of all_stages and image_to_glb it also writes assets/graph.jpg and assets/image_to_glb.jpg: the
graph as it opens in a window of 1600 x 1000 pixels.
"""

import io
import json
import sys
import tempfile
from pathlib import Path

from comfy_server import GRAPHS, ROOT, api
from editor import started
from PIL import Image

SHOWN = {"image_to_glb": "image_to_glb.jpg", "all_stages": "graph.jpg"}  # in the README
TILE, GAP, BACK = 240, 8, (24, 24, 24)  # pixels of the thumbnails
LARGEST = 150_000  # bytes
FARTHER = 400  # of the wheel: the viewer's own view leaves no border
BOX = """
const {left, top} = app.canvas.canvas.getBoundingClientRect(), {scale, offset} = app.canvas.ds;
const boxes = app.graph._groups.map(group => [...group._bounding]);
const place = (side, axis) => Math.round((side + offset[axis]) * scale + (axis ? top : left));
return [
    place(Math.min(...boxes.map(([x]) => x)) - 10, 0),
    place(Math.min(...boxes.map(([, y]) => y)) - 10, 1),
    place(Math.max(...boxes.map(([x, , width]) => x + width)) + 10, 0),
    place(Math.max(...boxes.map(([, y, , height]) => y + height)) + 10, 1),
];
"""
ENLARGE = """
for (const node of app.graph._nodes) if (node.type == "Preview3D") node.setSize([700, 780]);
"""
SHOW = "app.graph.getNodeById(id).onExecuted({result: [path]})"


def main() -> int:
    names = sys.argv[1:] or sorted(path.stem for path in GRAPHS.glob("*.json"))
    with tempfile.TemporaryDirectory() as base, started(Path(base)) as editor:
        for name in names:
            editor.server.forget()  # what is cached is not shown on the way
            editor.open()
            if unknown := editor.load(name):
                print(f"{name}: this ComfyUI has no {', '.join(unknown)}")
                continue
            done = editor.queue()
            outputs = editor.server.get(f"/history/{done['run']}")[done["run"]]["outputs"]
            viewers = editor.nodes("Preview3D")
            editor.models_shown(len(viewers))
            if name in SHOWN:
                save(editor.overview().crop(editor.js(BOX)), ROOT / "assets" / SHOWN[name])
            editor.js(ENLARGE)
            tiles = [*inputs(name), *objects(editor, outputs, viewers)]
            save(row(tiles), ROOT / "workflows" / f"{name}.jpg")
    return 0


def inputs(name: str) -> list[Image.Image]:
    """The pictures and meshes that a graph loads, on the thumbnail's background."""
    graph = json.loads((GRAPHS / f"{name}.json").read_text(encoding="utf-8"))
    names = [node["inputs"]["image"] for node in graph.values() if node["class_type"] == "LoadImage"]
    files = {
        "trellis2_rocket.png": "rocket.png",
        "trellis2_chair.png": "pictures/chair.png",
        "trellis2_repaint.png": "repaint.png",
    }
    found = []
    for each in names:
        picture = Image.open(ROOT / "assets" / files[each]).convert("RGBA")
        found.append(on_background(picture))
    return found + [
        clay(ROOT / "assets" / "rocket.glb") for node in graph.values() if node["class_type"] == "T2LoadMesh"
    ]


def on_background(picture: Image.Image) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", picture.size, (*BACK, 255)), picture).convert("RGB")


def clay(file: Path) -> Image.Image:
    """A mesh file without its materials, from the front."""
    import conftest  # noqa: F401 - which finds the pipeline

    from pipeline import stages
    from pipeline.mesh.io import read_scene
    from pipeline.runtime import Runtime

    scene = read_scene(file)
    mesh = stages.scene_mesh(scene, scene.frame())
    return on_background(Image.fromarray(stages.draw(Runtime("cpu", stages.default_backends()), mesh, frames=1)[0]))


def objects(editor, outputs: dict, viewers: list[int]) -> list[Image.Image]:
    """What the viewers show of each GLB of a run."""
    paths = ["/".join(filter(None, (file["subfolder"], file["filename"]))) for file in api().glb_files(outputs)]
    if len(paths) == len(viewers):
        return [editor.viewer(node, farther=FARTHER) for node in viewers]
    found = []
    for path in paths:  # of a list a viewer shows one
        before = editor.js("return models().length")
        editor.js(SHOW, id=viewers[0], path=path)
        editor.models_shown(before)
        found.append(editor.viewer(viewers[0], farther=FARTHER))
    return found


def row(tiles: list[Image.Image]) -> Image.Image:
    """Squares side by side."""
    made = Image.new("RGB", (len(tiles) * (TILE + GAP) - GAP, TILE), BACK)
    for number, tile in enumerate(tiles):
        side = min(tile.size)
        left, top = (tile.width - side) // 2, (tile.height - side) // 2
        square = tile.crop((left, top, left + side, top + side)).resize((TILE, TILE), Image.Resampling.LANCZOS)
        made.paste(square, (number * (TILE + GAP), 0))
    return made


def save(picture: Image.Image, path: Path) -> None:
    """Write a JPEG, as good as fits."""
    for quality in range(90, 20, -5):
        data = io.BytesIO()
        picture.save(data, "jpeg", quality=quality, optimize=True)
        if len(data.getvalue()) < LARGEST:
            break
    path.write_bytes(data.getvalue())
    print(f"{path.relative_to(ROOT)}: {picture.size[0]} x {picture.size[1]}, {len(data.getvalue()):,} bytes")


if __name__ == "__main__":
    sys.exit(main())
