"""The nodes' schemas and the shipped graphs, without ComfyUI."""

import inspect
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from editor_graphs import MORE, TEXT, TITLE, editor_graph, types_of
from host_stub import WIDGETS, declared, pack, stubbed_nodes
from meshes import needs_warp

ROOT = Path(__file__).resolve().parent.parent
INTERFACE = json.loads((ROOT / "tests" / "interface.json").read_text(encoding="utf-8"))
# What earlier versions shipped: every graph that differs, without places and pictures.
OLD = json.loads((ROOT / "tests" / "old_graphs.json").read_text(encoding="utf-8"))
# Of ComfyUI's sockets in its default palette: CLIP, CLIP_VISION and its output, CONDITIONING, CONTROL_NET, IMAGE,
# LATENT, MASK, MODEL, STYLE_MODEL, VAE, NOISE, GUIDER, SAMPLER, SIGMAS, TAESD.
CORE_COLORS = (
    *("FFD500", "A8DADC", "AD7452", "FFA931", "6EE7B7", "64B5F6", "FF9CF9", "81C784", "B39DDB", "C2FFAE", "FF6E6E"),
    *("B0B0B0", "66FFFF", "ECB4B4", "CDFFCD", "DCC274"),
)
API = sorted((ROOT / "workflows" / "api").glob("*.json"))
EDITOR = sorted((ROOT / "workflows").glob("*.json"))


def test_the_schemas_are_as_promised():
    """interface.json is what saved graphs rely on: ids, socket types and input names stay as released."""
    assert {node.define_schema().node_id: declared(node) for node in stubbed_nodes()} == INTERFACE


def test_a_class_with_a_schema_in_a_file_of_its_own_is_a_node(tmp_path, monkeypatch):
    known = stubbed_nodes()
    nodes = sys.modules[f"{pack().__name__}.nodes"]
    text = "class Later:\n    @classmethod\n    def define_schema(cls):\n        pass\n\n\nclass Helper:\n    pass\n"
    (tmp_path / "later.py").write_text(text, encoding="utf-8")
    monkeypatch.setattr(nodes, "__path__", [*nodes.__path__, str(tmp_path)])
    later = [each for each in nodes.node_classes() if each not in known]
    monkeypatch.delitem(sys.modules, f"{nodes.__name__}.later")
    assert [each.__name__ for each in later] == ["Later"]


@pytest.mark.parametrize("name", INTERFACE)
def test_every_node_is_usable(name):
    node = INTERFACE[name]
    assert name.startswith("T2") and node["category"] == "TRELLIS.2" and node["description"]
    visible = [key for key, each in node["inputs"].items() if each["type"] in WIDGETS and not each["advanced"]]
    assert len(visible) <= 8
    for key, each in node["inputs"].items():
        assert key == "checkpoint" or each["tooltip"], key
    assert all(each["tooltip"] for each in node["outputs"])
    assert node["output_node"] == (
        name in ("T2ExportGLB", "T2ExportMesh", "T2ImageToGLB", "T2MeshReport", "T2SaveState", "T2TextureMesh")
    )


@pytest.mark.parametrize("node", stubbed_nodes(), ids=lambda node: node.__name__)
def test_an_input_with_a_default_may_be_missing(node):
    """Prompts are kept by clients for long; an input that was added since must not make them invalid."""
    parameters = inspect.signature(node.execute).parameters
    for each in node.define_schema().inputs:
        default = parameters[each.id].default
        assert each.optional == (default is not inspect.Parameter.empty), each.id
        assert default == each.default if each.default is not None else default in (None, inspect.Parameter.empty)


@pytest.mark.parametrize("old", OLD["api"], ids=lambda old: f"{old['name']} {old['commit']}")
def test_prompts_of_earlier_versions_are_complete(old):
    for node in old["graph"].values():
        inputs, _ = types_of(node["class_type"])
        declared_inputs = INTERFACE.get(node["class_type"], {"inputs": {}})["inputs"]
        assert set(node["inputs"]) <= set(inputs)
        assert {key for key, each in declared_inputs.items() if not each["optional"]} <= set(node["inputs"])
        for key, value in node["inputs"].items():
            assert isinstance(value, list) or value in declared_inputs.get(key, {}).get("options", [value])


@pytest.mark.parametrize("old", OLD["editor"], ids=lambda old: f"{old['name']} {old['commit']}")
def test_editor_graphs_of_earlier_versions_keep_their_values(old):
    """They hold values by position; the host lists required inputs first, then the optional ones."""
    for kind, values, meant in old["nodes"].values():
        inputs = sorted(INTERFACE[kind]["inputs"].items(), key=lambda item: item[1]["optional"])
        names = [name for name, each in inputs if each["type"] in WIDGETS]
        if "seed" in names:
            names.insert(names.index("seed") + 1, "control after generate")
        found = dict(zip(names, values))
        found.pop("control after generate", None)
        assert found == meant and len(values) <= len(names), kind


def test_every_node_is_found_by_other_words():
    """The search looks at names already, so an alias says something that the name does not."""
    schemas = [node.define_schema() for node in stubbed_nodes()]
    assert all(len(schema.search_aliases) >= 3 for schema in schemas)
    for schema in schemas:
        name = schema.display_name.lower()
        assert not [word for word in schema.search_aliases if not word or word != word.strip().lower() or word in name]
    found = {word: schema.node_id for schema in schemas for word in schema.search_aliases}
    wanted = {"image to 3d": "T2ImageToGLB", "simplify": "T2ProcessMesh", "turntable": "T2RenderMesh"}
    assert wanted.items() <= found.items()


def test_a_host_without_aliases_gets_none(monkeypatch):
    stubbed_nodes()
    sockets = sys.modules[f"{pack().__name__}.nodes.sockets"]
    monkeypatch.setattr(sockets.io, "Schema", type("Old", (), {"__init__": lambda self, *, node_id, **_: None}))
    assert sockets.aliases("a, b") == {}


def test_a_node_tells_what_a_mesh_is_like():
    stubbed_nodes()
    report = sys.modules[f"{pack().__name__}.nodes.host.report"]
    stages = sys.modules[f"{pack().__name__}.pipeline.stages"]
    square = stages.Mesh(torch.zeros(4, 3), torch.zeros(2, 3, dtype=torch.int32))
    assert report.report_lines(square) == "2 faces, 4 vertices"
    measured = {"components": 3, "watertight": False}
    facts = {"mesh": measured, "cleaned": {"filled_holes": 1234, "welded_vertices": 0}, "warnings": ["5 open edges."]}
    processed = replace(square, facts=facts, lods=(square,))
    lines = [
        "2 faces, 4 vertices, 3 components, not watertight",
        "Levels of detail: 2 faces",
        "Repairs: 1,234 holes filled",
        "! 5 open edges.",
    ]
    assert report.report_lines(processed).splitlines() == lines
    unwrapped = stages.Unwrapped(processed, torch.zeros(4, 2), torch.zeros(4, 3))
    textured = stages.TexturedMesh((unwrapped,), np.zeros((64, 64, 6), np.uint8), {**facts, "charts": 9})
    lines[1:] = [lines[2], "Textures of 64 pixels, 9 charts", lines[3]]
    assert report.report_lines(textured).splitlines() == lines


def hue(color):
    return [int(color[place : place + 2], 16) for place in (0, 2, 4)]


def test_no_socket_looks_like_one_of_another_type():
    """Colours of the pack's sockets, in RGB, against each other and against ComfyUI's."""
    text = (ROOT / "web" / "js" / "trellis2.js").read_text(encoding="utf-8")
    ours = dict(re.findall(r'(T2_\w+): "#(\w{6})"', text))
    sockets = {each["type"] for node in INTERFACE.values() for each in (*node["inputs"].values(), *node["outputs"])}
    assert set(ours) == {kind for sockets in sockets for kind in sockets.split(",") if kind.startswith("T2_")}
    for name, color in ours.items():
        others = [*(each for other, each in ours.items() if other != name), *CORE_COLORS]
        assert min(math.dist(hue(color), hue(other)) for other in others) > 40, name


@pytest.mark.parametrize("path", API, ids=lambda path: path.stem)
def test_api_graphs_fit_the_nodes(path):
    graph = json.loads(path.read_text(encoding="utf-8"))
    for node in graph.values():
        inputs, _ = types_of(node["class_type"])
        declared_inputs = INTERFACE.get(node["class_type"], {"inputs": {}})["inputs"]
        assert set(node["inputs"]) <= set(inputs)
        assert {key for key, each in declared_inputs.items() if not each["optional"]} <= set(node["inputs"])
        for key, value in node["inputs"].items():
            if isinstance(value, list):
                source = types_of(graph[value[0]]["class_type"])[1][value[1]]
                fits = source in inputs[key].split(",") or "*" in (source, inputs[key])  # any type
                assert fits, (node["class_type"], key, source)
            elif "options" in declared_inputs.get(key, {}):
                assert value in declared_inputs[key]["options"]


@pytest.mark.parametrize("path", EDITOR, ids=lambda path: path.stem)
def test_editor_graphs_are_the_api_graphs(path):
    """Every editor graph has an API graph of its name with the same nodes, links and values, and a picture."""
    editor = json.loads(path.read_text(encoding="utf-8"))
    api = json.loads((path.parent / "api" / path.name).read_text(encoding="utf-8"))
    links = {link[0]: link for link in editor["links"]}
    found = {}
    for node in editor["nodes"]:
        if node["type"] == "MarkdownNote":
            continue
        inputs = {}
        values = list(node["widgets_values"])
        for socket in node["inputs"]:
            value = values.pop(0) if "widget" in socket else None
            if "widget" in socket and socket["name"] == "seed":
                assert values.pop(0) == "fixed"  # control after generate
            if socket["link"] is not None:
                _, origin, slot, target, _, kind = links[socket["link"]]
                source = next(each for each in editor["nodes"] if each["id"] == origin)
                assert target == node["id"] and source["outputs"][slot]["type"] == kind
                inputs[socket["name"]] = [str(origin), slot]
            elif "widget" in socket:
                inputs[socket["name"]] = value
        found[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    assert found == {key: {"class_type": node["class_type"], "inputs": node["inputs"]} for key, node in api.items()}
    assert path.with_suffix(".jpg").is_file()


@pytest.mark.parametrize("path", EDITOR, ids=lambda path: path.stem)
def test_editor_graphs_are_as_the_layouts_say(path):
    """`python tests/editor_graphs.py` has been run since a graph or an interface changed."""
    api = json.loads((path.parent / "api" / path.name).read_text(encoding="utf-8"))
    assert json.loads(path.read_text(encoding="utf-8")) == editor_graph(path.stem, api)


@pytest.mark.parametrize("path", EDITOR, ids=lambda path: path.stem)
def test_editor_graphs_are_readable(path):
    """Every node lies in one group and on no other node; the whole opens readable at 1600 x 1000."""
    graph = json.loads(path.read_text(encoding="utf-8"))
    boxes = {
        node["id"]: (node["pos"][0], node["pos"][1] - TITLE, node["size"][0], node["size"][1] + TITLE)
        for node in graph["nodes"]
    }
    groups = [group["bounding"] for group in graph["groups"]]
    for key, box in boxes.items():
        assert not [other for other, it in boxes.items() if other != key and overlap(box, it)], key
        assert len([group for group in groups if overlap(box, group)]) == 1, key
    width, height = (max(group[axis] + group[axis + 2] for group in groups) for axis in (0, 1))
    scale, offset = graph["extra"]["ds"]["scale"], graph["extra"]["ds"]["offset"]
    assert scale >= 0.6  # below it the editor draws no texts
    assert (width + offset[0]) * scale <= 1500 and (height + offset[1]) * scale <= 990  # what its bars leave


def test_nodes_of_graphs_that_show_text_have_room_for_it():
    """Without it the text runs under the badge at the node's foot."""
    used = {node["type"] for path in EDITOR for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]}
    texts = {node.define_schema().node_id for node in stubbed_nodes() if '"text": [' in inspect.getsource(node)}
    assert len(texts & used) >= 5 and all(MORE.get(kind, 0) >= TEXT for kind in texts & used)


def overlap(one, two):
    """Whether two boxes (left, top, width, height) have a common area."""
    return all(one[axis] < two[axis] + two[axis + 2] and two[axis] < one[axis] + one[axis + 2] for axis in (0, 1))


def test_the_pack_imports_nothing_before_it_is_asked():
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, host_stub; host_stub.pack(); print([m for m in sys.modules if 'torch' in m])",
        ],
        cwd=ROOT / "tests",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("version", "fits"), [("0.3.63", False), ("0.3.64", True), ("0.33.0", True)])
def test_an_old_comfyui_is_named(monkeypatch, version, fits):
    stubbed_nodes()
    nodes = sys.modules[f"{pack().__name__}.nodes"]
    monkeypatch.setitem(sys.modules, "comfyui_version", type(sys)("comfyui_version"))
    sys.modules["comfyui_version"].__version__ = version
    if fits:
        nodes.check_version()
    else:
        with pytest.raises(RuntimeError, match="ComfyUI 0.3.63 is too old.*since ComfyUI 0.3.64. Update ComfyUI"):
            nodes.check_version()


WRONG = [
    ("T2ProcessMesh", {"faces": 3, "shells": "outer", "lods": ""}, "at least 4 faces, got 3"),
    ("T2ProcessMesh", {"faces": 5000, "shells": "outer", "lods": "1000, many"}, "lods must be numbers of triangles"),
    ("T2ProcessMesh", {"faces": 5000, "lods": "1000, 2000"}, "Levels of detail must have fewer faces"),
    ("T2ProcessMesh", {"faces": None, "lods": "1000, 2000"}, "Levels of detail must have fewer faces"),
    ("T2ProcessMesh", {"shells": "none"}, "Unknown shells 'none'"),
    pytest.param(
        "T2RenderMesh", {"frames": 360, "size": 4096}, "take 96.6 GB .16 bytes a pix.*most 8 GB", marks=needs_warp
    ),
    pytest.param("T2RenderMesh", {"frames": 0, "size": None}, "1 to 1000 frames, got 0", marks=needs_warp),
    ("T2RenderMesh", {"views": "front; 400"}, "azimuth must lie in -360 to 360 degrees, got 400"),
    ("T2ProjectTexture", {"views": "45,91"}, "elevation must lie in -90 to 90 degrees, got 91"),
    ("T2ProjectTexture", {"views": "left; 90"}, "same view: left, left"),
    ("T2Views", {"other_views": "45,20; -361"}, "azimuth must lie in -360 to 360 degrees, got -361"),
    ("T2Views", {"other_views": "uo"}, "A view is front, left"),
    ("T2Views", {"view_weights": "2; one"}, "takes numbers between semicolons"),
    ("T2Views", {"view_weights": "2; nan"}, "must lie in 0.001 to 1000, got 2, nan"),
    ("T2SamplerSettings", {"interval_start": 0.9, "interval_end": 0.5}, "Guidance cannot count from 0.9 to 0.5"),
    ("T2ExportMesh", {"format": "fbx", "size": ""}, "Unknown format 'fbx'; choose one of .glb, .gltf, .obj"),
    ("T2ExportMesh", {"format": "stl", "size": "80"}, "A size is a number and mm, cm, m or in"),
    ("T2ExportMesh", {"format": "stl", "size": "height=-3mm"}, "A size must lie in 0.1 mm to 1000 m"),
    ("T2MeshReport", {"size": "0mm", "density": 1.24}, "A size must lie in 0.1 mm to 1000 m"),
    ("T2MeshReport", {"size": "", "density": 99.0}, "A density must lie in 0.001 to 30 g/cm3"),
    ("T2ImageToGLB", {"checkpoint": "small (comes with the pack)", "faces": 3}, "at least 4 faces, got 3"),
    ("T2ImageToGLB", {"checkpoint": "small (comes with the pack)", "texture_size": 2}, "texture size must lie in"),
]


@pytest.mark.parametrize(("name", "values", "message"), WRONG)
def test_wrong_settings_are_refused_before_the_queue(name, values, message):
    """ComfyUI asks for these texts before it runs any node of a graph; what comes through a link is None."""
    node = {node.define_schema().node_id: node for node in stubbed_nodes()}[name]
    assert re.search(message, node.validate_inputs(**values))
    linked = dict.fromkeys(set(values) - {"checkpoint"}) | {key: values[key] for key in values if key == "checkpoint"}
    defaults = {key: INTERFACE[name]["inputs"][key]["default"] for key in linked if key != "checkpoint"}
    assert node.validate_inputs(**linked) is True and node.validate_inputs(**{**linked, **defaults}) is True
