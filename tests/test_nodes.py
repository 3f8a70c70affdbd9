"""The nodes' schemas and the shipped graphs, without ComfyUI."""

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from host_stub import WIDGETS, declared, pack, stubbed_nodes

ROOT = Path(__file__).resolve().parent.parent
INTERFACE = json.loads((ROOT / "tests" / "interface.json").read_text(encoding="utf-8"))
# What the graphs use of ComfyUI's own nodes: input types and output types.
CORE = {
    "LoadImage": ({"image": "COMBO"}, ["IMAGE", "MASK"]),
    "Preview3D": ({"model_file": "STRING,FILE_3D_GLB"}, []),
    "PreviewImage": ({"images": "IMAGE"}, []),
    "FillHoles": (
        {
            "mesh": "MESH",
            "max_perimeter": "FLOAT",
            "weld_epsilon_rel": "FLOAT",
            "max_vertices": "INT",
            "fill_chains": "BOOLEAN",
        },
        ["MESH"],
    ),
    "MarkdownNote": ({"": "STRING"}, []),
}
# What earlier versions shipped: every graph that differs, without places and pictures.
OLD = json.loads((ROOT / "tests" / "old_graphs.json").read_text(encoding="utf-8"))
API = sorted((ROOT / "workflows" / "api").glob("*.json"))
EDITOR = sorted((ROOT / "workflows").glob("*.json"))


def test_the_schemas_are_as_promised():
    """interface.json is what saved graphs rely on: ids, socket types and input names stay as released."""
    assert {node.define_schema().node_id: declared(node) for node in stubbed_nodes()} == INTERFACE


@pytest.mark.parametrize("name", INTERFACE)
def test_every_node_is_usable(name):
    node = INTERFACE[name]
    assert name.startswith("T2") and node["category"] == "TRELLIS.2" and node["description"]
    visible = [key for key, each in node["inputs"].items() if each["type"] in WIDGETS and not each["advanced"]]
    assert len(visible) <= 8
    for key, each in node["inputs"].items():
        assert key == "checkpoint" or each["tooltip"], key
    assert all(each["tooltip"] for each in node["outputs"])
    assert node["output_node"] == (name in ("T2ExportGLB", "T2ImageToGLB"))


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


def types_of(kind):
    """(input types by name, output types) of a node."""
    if kind in INTERFACE:
        node = INTERFACE[kind]
        return {key: each["type"] for key, each in node["inputs"].items()}, [out["type"] for out in node["outputs"]]
    return CORE[kind]


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
                assert source in inputs[key].split(","), (node["class_type"], key, source)
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
    ("T2RenderMesh", {"frames": 360, "size": 4096}, "take 96.6 GB .16 bytes a pixel.; at most 8 GB"),
    ("T2RenderMesh", {"frames": 0, "size": None}, "1 to 1000 frames, got 0"),
    ("T2SamplerSettings", {"interval_start": 0.9, "interval_end": 0.5}, "Guidance cannot count from 0.9 to 0.5"),
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
